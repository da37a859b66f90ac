"""Policies of the user's that cannot be imported, have another form, or fail in the dry run."""

from mistakes import Mistake

SCORED = "rewards.search.name=verifier"


def policy(code: str, line: str, *overrides: str, name: str = "mine:search", heavy: bool = True) -> Mistake:
    """A mistake in the module `mine`; most show in the dry run, for which the model's folder is read."""
    return Mistake([f"policy.name={name}", *overrides], line, files={"mine.py": code}, heavy=heavy)


def imported(code: str, line: str, *, name: str = "mine:search") -> Mistake:
    """A mistake that shows when the module `mine` is imported."""
    return policy(code, f"policy.name: '{name}' cannot be imported: {line}", name=name, heavy=False)


def formed(code: str, line: str) -> Mistake:
    """A policy of another form than `async def search(ctx, *, ...)`, which is defined in the first line."""
    return policy(code, f"policy.name: 'mine:search' (mine.py:1) is not allowed; it must be {line}", heavy=False)


def dry(body: str, line: str, *overrides: str) -> Mistake:
    """A policy with a body, from line 5 on, that fails in the dry run."""
    code = "import asyncio\n\n\nasync def search(ctx):\n" + "".join(f"    {b}\n" for b in body.splitlines())
    return policy(code, f"policy mine:search (arm mine-search): {line}", SCORED, *overrides)


IMPORTS = [
    imported("1 / 0", "mine.py:1: ZeroDivisionError: division by zero"),
    imported("\n\nraise ValueError('bad\\nlines \\x1b[2J \\ud800')", "mine.py:3: ValueError: bad lines ?[2J ?"),
    imported("import sys\nsys.exit(0)", "mine.py:2: SystemExit: 0"),
    imported("raise SystemExit", "mine.py:1: SystemExit"),
    imported("raise BaseException('mine')", "mine.py:1: BaseException: mine"),
    imported("import asyncio\nraise asyncio.CancelledError", "mine.py:2: CancelledError"),
    imported("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "mine.py:3: E: (the text of E cannot ..."),
    imported("raise ValueError('x' * 10**6)", "mine.py:1: ValueError: xxx... characters left out] ...x"),
    imported("async def search(ctx)\n    pass", "mine.py:1: SyntaxError: expected ':' (mine.py, line 1)"),
    imported("async def search(ctx):\npass", "mine.py:2: IndentationError: expected an indented block ..."),
    imported("async def search(ctx):\n\tif 1:\n        pass", "mine.py:3: TabError: ..."),
    imported("x = 'unclosed", "mine.py:1: SyntaxError: unterminated string literal ..."),
    imported("import no_such_module", "mine.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    imported("from math import no_such_name", "mine.py:1: ImportError: cannot import name 'no_such_name' ..."),
    imported("import raysearch\nraysearch.no_such", "mine.py:2: AttributeError: module 'raysearch' has no ..."),
    imported("def f():\n    return f()\nf()", "mine.py:2: RecursionError: maximum recursion depth exceeded..."),
    imported("async def serach(ctx): ...", "mine.py has no 'search' (did you mean 'serach'?)"),
    imported("def __getattr__(name):\n    raise OSError('gone')", "mine.py:2: OSError: gone"),
    imported("import asyncio\nasyncio.get_running_loop()", "mine.py:2: RuntimeError: no running event loop"),
    imported("x = 1", "ModuleNotFoundError: No module named 'nonesuch'", name="nonesuch:search"),
    imported("x = 1", "ModuleNotFoundError: No module named 'mine.a'; 'mine' is not a package", name="mine.a:b"),
    Mistake(
        "policy.name=mine:search",
        "policy.name: 'mine:search' cannot be imported: other.py:2: ZeroDivisionError: division by zero",
        files={"mine.py": "import other", "other.py": "def f():\n    1 / 0\nf()"},
    ),
    Mistake(
        "policy.name=package.mine:search",
        "policy.name: 'package.mine:search' cannot be imported: package/mine.py:2: KeyError: 'x'",
        files={"package/__init__.py": "", "package/mine.py": "\n{}['x']"},
    ),
    Mistake(
        "policy.name=mine:search",
        "policy.name: 'mine:search' cannot be imported: mine.py:1: SyntaxError: (unicode error) ...",
        files={"mine.py": b"\xff\xfe broken"},
    ),
    Mistake("policy.name=os:sep", "policy.name: 'os:sep' is not allowed; it must be a coroutine, ... is of type str"),
    Mistake("policy.name=os:path", "policy.name: 'os:path' (...) is not allowed; it must be a coroutine, ..."),
    *(
        Mistake(
            [f"policy.name='{name}'"], f"policy.name: '{name}' cannot be imported: it must be of the form module:search"
        )
        for name in (".x:y", "x:", ":y", ":", "a:b:c", "a b:c", "x.:y", "mine.py:search", "/tmp/mine:search", "..:x")
    ),
]

FORMS = [
    formed("def search(ctx):\n    return ctx.best", "a coroutine, async def search(ctx, *, ...); it is a plain def"),
    formed("async def search(ctx):\n    yield 1", "a coroutine, ...; it is a generator, since it has a yield"),
    formed("class search:\n    pass", "a coroutine, async def search(ctx, *, ...); it is of type type"),
    formed("async def search(): ...", "async def search(ctx, *, ...): it takes 0 by position, and not 1"),
    formed("async def search(*, ctx): ...", "async def search(ctx, *, ...): it takes 0 by position, and not 1"),
    formed("async def search(ctx, n=4): ...", "...search(ctx, *, ...): its parameter 'n' stands before the *"),
    formed("async def search(self, ctx): ...", "async def search(...: its parameter 'ctx' stands before the *"),
    formed("async def search(ctx, *, name='x'): ...", "without a parameter `name`: that key names the policy itself"),
    formed("async def search(ctx, *, n: 'Nope' = 1): ...", "annotated with types ... (NameError: name 'Nope' ..."),
    formed("async def search(ctx, *, n: 'a b' = 1): ...", "annotated with types that are known (SyntaxError: ..."),
    formed("async def search(ctx, *, n: 5 = 1): ...", "annotated with types that are known (..."),
    formed("async def search(ctx) -> 'Candidate': ...", "annotated with types ... (NameError: name 'Candidate' ..."),
    policy(
        "search = lambda ctx: 1", "policy.name: 'mine:search' (mine.py:1) is not allowed; ... plain def", heavy=False
    ),
    policy(
        "async def search(ctx, *, n): ...",
        "policy.n is missing...",
        heavy=False,
    ),
    policy(
        "import re\nasync def search(ctx, *, n=re.compile('x')): ...",
        "policy.n: re.compile('x') is not allowed; it must be by default what a config can give",
        heavy=False,
    ),
    policy(
        "async def search(ctx, *, n=float('nan')): ...",
        "policy.n: nan is not allowed; it must be by default what a config can give",
        heavy=False,
    ),
    policy(
        "async def search(ctx, *, n: int = 1): ...",
        "policy.n: 'three' is not allowed; it must be of type int",
        "policy.n=three",
        heavy=False,
    ),
    policy(
        "async def search(ctx, *, steps: int = 1): ...",
        "policy.step: unknown key (did you mean 'steps'?); allowed here: steps",
        "policy.step=2",
        heavy=False,
    ),
    policy("async def search(ctx): ...", "policy.n: unknown key; allowed here: none", "policy.n=2", heavy=False),
    policy("async def search(ctx, **kw): ...", "policy.n: unknown key; allowed here: none", "policy.n=2", heavy=False),
]

AWAIT = "(is an `await` missing, as in `await ctx.score(xs)`?)"
LIST = "(it takes a list of candidates: [x])"
DRY = [
    dry("1 / 0", "mine.py:5: ZeroDivisionError: division by zero"),
    dry("raise SystemExit(4)", "mine.py:5: SystemExit: 4"),
    dry("exit()", "mine.py:5: SystemExit: None"),
    dry("raise KeyboardInterrupt", "mine.py:5: KeyboardInterrupt"),
    dry("raise asyncio.CancelledError", "mine.py:5: CancelledError"),
    dry("asyncio.current_task().cancel()\nawait asyncio.sleep(0)", "mine.py:6: CancelledError"),
    dry("raise BaseException", "mine.py:5: BaseException"),
    dry("raise StopIteration", "mine.py:4: RuntimeError: coroutine raised StopIteration"),
    dry("assert ctx.num_steps > 8, ctx.num_steps", "mine.py:5: AssertionError: 8"),
    dry("class E(Exception):\n    __str__ = 5\nraise E", "mine.py:7: E: (the text of E cannot be read: TypeError)"),
    dry("raise ValueError('\\x1b[31m \\ud800 ' * 10**5)", "mine.py:5: ValueError: ?[31m ? ...left out]..."),
    dry("return undefined", "mine.py:5: NameError: name 'undefined' is not defined"),
    dry("def inner():\n    {}['lost']\ninner()", "mine.py:6: KeyError: 'lost'"),
    dry("async with asyncio.TaskGroup() as g:\n    g.create_task(ctx.nope())", "mine.py:6: AttributeError: ...'nope'"),
    dry("x = ctx.noise()\nr = ctx.score(x)\nreturn x[r.argmax()]", f"mine.py:7: AttributeError: ... {AWAIT}"),
    dry("x = ctx.noise()\nreturn x[ctx.score(x)]", f"mine.py:6: TypeError: list indices must be ... coroutine {AWAIT}"),
    dry("x = ctx.noise()\nreturn max(ctx.score(x))", f"mine.py:6: TypeError: 'coroutine' ... {AWAIT}"),
    dry("return x if ctx.score(x := ctx.noise()) > 1 else x", f"mine.py:5: TypeError: '>' not ... {AWAIT}"),
    dry("ctx.score(ctx.noise())\nreturn ctx.best", f"mine.py:5: coroutine 'Context.score' was never awaited {AWAIT}"),
    dry("r = ctx.score(ctx.noise())\nreturn ctx.best", f"mine.py:5: coroutine 'Context.score' was ... {AWAIT}"),
    dry("asyncio.sleep(1)\nreturn ctx.best", f"mine.py:5: coroutine 'sleep' was never awaited {AWAIT}"),
    dry(
        "return ctx.score(ctx.noise())",
        f"mine.py:4: TypeError: it returned coroutine, not ... {AWAIT}",
    ),
    dry("return await ctx.score(ctx.noise()[0])", f"mine.py:5: TypeError: 'Candidate' object is not iterable {LIST}"),
    dry("return ctx.denoise(ctx.noise()[0])", f"mine.py:5: TypeError: 'Candidate' object is not iterable {LIST}"),
    dry("return ctx.noise()[0][0]", f"mine.py:5: TypeError: 'Candidate' object is not subscriptable {LIST}"),
    dry(
        "return ctx.perturb(ctx.noise(), 2, 0.1)[0]",
        "mine.py:5: AttributeError: 'list' object ... (a list of candidates stands where one of them is meant: xs[0])",
    ),
    dry(
        "return await ctx.score(['a'])",
        "mine.py:5: AttributeError: 'str' ... (it takes candidates, ...",
    ),
    dry(
        "xs = ctx.noise(4)\nr = await ctx.score(xs)\nreturn xs[r.argsort()]",
        "mine.py:7: TypeError: only integer scalar arrays ... (a list has no index of many numbers: ...",
    ),
    dry("pass", "mine.py:4: TypeError: it returned NoneType, not a Candidate (does it end in `return x`?)"),
    dry("return ctx.noise()", "mine.py:4: TypeError: it returned list, not a Candidate (return one of them)"),
    dry("return 0", "mine.py:4: TypeError: it returned int, not a Candidate"),
    dry("return ctx.perturb(ctx.best, 1, 2.0)[0]", "mine.py:5: beta: 2.0 is not allowed; it must be in [0, 1]"),
    dry("return ctx.denoise(ctx.noise(), 9)[0]", "mine.py:5: a scheduled step: 9 is not allowed; ... in 0..8 ..."),
    dry("return ctx.noise(-1)[0]", "mine.py:5: the number of noise: -1 is not allowed; it must be in 0..100000"),
    dry("return ctx.noise(10**9)[0]", "mine.py:5: the number of noise: 1000000000 is not allowed; ..."),
    dry("return ctx.branch(ctx.best, 2)[0]", "mine.py:5: sampler.name: 'unipc' is deterministic, ..."),
    dry("return ctx.extend(ctx.best, 1)[0]", "mine.py:5: a part to continue: 0 is not allowed; it must be finished"),
    dry("return ctx.child('a/b').best", "mine.py:5: the label of a child: 'a/b' is not allowed; ..."),
    dry("return await ctx.rate([ctx.best, 3])", "mine.py:5: AttributeError: 'int' object ..."),
    policy(
        "async def search(ctx):\n    return (await ctx.score(ctx.noise()))[0]",
        "policy mine:search (arm mine-search): mine.py:2: rewards.search is missing: the policy asks for it; ...",
    ),
    policy(
        "async def search(ctx): 1 / 0",
        "policy mine:search (arm b): mine.py:1: ZeroDivisionError: division by zero",
        "arms=[{name: a, policy: {name: single}}, {name: b, policy: {name: 'mine:search'}}]",
        "policy.name=single",
        name="single",
    ),
]

TABLE = [*IMPORTS, *FORMS, *DRY]
