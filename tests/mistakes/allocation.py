"""Allocations of a total budget: keys, allocators of the user's, and totals that are too small."""

from mistakes import Mistake

TOTAL = "budget.total_nfe=1000"  # a video takes 16 NFE
SEEN = "rewards.search.name=verifier"
NAMES = "there are expected_improvement, lowest_best, threshold, uniform, or module:function"
ONE = "one of total_nfe and total_replica_seconds, which the allocation shares out"
MINE = "allocation.name=mine:allocate"


def formed(code: str, line: str) -> Mistake:
    """An allocator of another form than `def allocate(standing, *, ...)`, which is defined in the first line."""
    where = "allocation.name: 'mine:allocate' (mine.py:1) is not allowed; it must be "
    return Mistake([MINE, TOTAL], where + line, files={"mine.py": code})


def dry(body: str, line: str) -> Mistake:
    """An allocator with a body, from line 2 on, that fails in the dry run."""
    code = f"def allocate(standing):\n    {body}\n"
    said = f"allocation mine:allocate (arm single): {line}"
    return Mistake([MINE, TOTAL, SEEN], said, files={"mine.py": code}, heavy=True)


TABLE = [
    Mistake(
        "allocation=uniform", "allocation: 'uniform' is not allowed; it must be a mapping, such as {name: uniform}"
    ),
    Mistake(["allocation={cap: 3}", TOTAL], f"allocation.name: no allocator None; {NAMES}"),
    Mistake(
        ["allocation.name=unifrom", TOTAL],
        f"allocation.name: no allocator 'unifrom' (did you mean 'uniform'?); {NAMES}",
    ),
    Mistake(["allocation.name=best_of_n", TOTAL], f"allocation.name: no allocator 'best_of_n'; {NAMES}"),
    Mistake(
        ["allocation={name: lowest_best, share: 2}", TOTAL],
        "allocation.share: 2 is not allowed; it must be at most 1",
    ),
    Mistake(
        ["allocation={name: lowest_best, cap: 0}", TOTAL], "allocation.cap: 0 is not allowed; it must be at least 1"
    ),
    Mistake(["allocation={name: threshold}", TOTAL], "allocation.enough is missing: it must be of type float"),
    Mistake(["allocation={name: uniform, cap: 3}", TOTAL], "allocation.cap: unknown key; allowed here: none"),
    Mistake("allocation.name=uniform", f"budget: {{}} is not allowed; it must be {ONE}"),
    Mistake(
        "allocation.name=uniform budget.total_nfe=9 budget.total_replica_seconds=5",
        f"budget: {{'total_nfe': 9, 'total_replica_seconds': 5.0}} is not allowed; it must be {ONE}",
    ),
    Mistake("budget.total_nfe=0", "budget.total_nfe: 0 is not allowed; it must be above 0"),
    Mistake(
        "budget.total_nfe=99",
        "budget.total_nfe: 99 is not allowed; it must be left out where no allocation shares it out",
    ),
    Mistake(
        "budget.total_replica_seconds=9",
        "budget.total_replica_seconds: 9.0 is not allowed; it must be left out where no allocation shares it out",
    ),
    Mistake(
        ["arms=[{name: a, allocation: {name: nobody}}]", TOTAL],
        "arms[0] (a): allocation.name: no allocator 'nobody'; ...",
    ),
    Mistake(
        ["allocation.name=uniform", TOTAL, "budget.wall_seconds=9"],
        "budget.wall_seconds: 9.0 is not allowed; it must be left out with an allocation",
    ),
    Mistake(
        ["allocation.name=uniform", TOTAL, "resume=extend"],
        "resume: 'extend' is not allowed; it must be never, auto or require with an allocation",
    ),
    Mistake(
        ["allocation.name=uniform", "budget.total_nfe=47", "seeds=[0,1,2]", SEEN],
        "budget.total_nfe: 47 is not allowed; it must be at least 48, the NFE of a video for each of 3 searches ...",
        heavy=True,
    ),
    Mistake(
        ["allocation.name=uniform", TOTAL],
        "rewards.search: None is not allowed; it must be given with an allocation (arm single)",
        heavy=True,
    ),
    Mistake(
        "allocation.name=nonesuch:allocate",
        "allocation.name: 'nonesuch:allocate' cannot be imported: ModuleNotFoundError: No module named 'nonesuch'",
    ),
    formed("async def allocate(standing): ...", "a plain def, def allocate(standing, *, ...); it is a coroutine"),
    formed("def allocate(standing):\n    yield 0", "a plain def, ...; it is a generator, since it has a yield"),
    formed("class allocate: ...", "a plain def, def allocate(standing, *, ...); it is of type type"),
    formed("def allocate(): ...", "def allocate(standing, *, ...): it takes 0 by position, and not 1"),
    formed("def allocate(standing, cap=3): ...", "...: its parameter 'cap' stands before the *"),
    formed(
        "def allocate(standing, *, name=''): ...", "without a parameter `name`: that key names the allocator itself"
    ),
    dry("1 / 0", "mine.py:2: ZeroDivisionError: division by zero"),
    dry("return standing.costs", "mine.py:2: AttributeError: 'Standing' object has no attribute 'costs'"),
    dry("pass", "mine.py:1: TypeError: 'NoneType' object is not iterable"),
    dry("return [0.5]", "mine.py:1: TypeError: 'float' object cannot be interpreted as an integer"),
    dry("return [0, 0]", "what it returned: [0, 0] is not allowed; it must be without repetition"),
    dry("return [1]", "an index that it returned: 1 is not allowed; it must be in 0..0"),
    Mistake(
        ["sweep", "config.yaml", "sweep.curves=[{policy: {name: best_of_n}, along: {budget.total_nfe: [64, 128]}}]"],
        "sweep.curves[0] (best_of_n-total64): budget.total_nfe: 64 is not allowed; it must be left out where no ...",
    ),
]
