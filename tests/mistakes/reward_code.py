"""Rewards of the user's that cannot be imported, are no rewards, or fail when they are tried."""

from mistakes import Mistake

GOOD = {
    "components": '("sharp",)',
    "needs": '"frames"',
    "__init__": "def __init__(self, *, scale: float = 1.0): self.scale = scale",
    "__call__": "def __call__(self, views): return [[float(v.frames.std())] for v in views]",
}
KEY = "rewards.search.name"


def written(**changes: str) -> str:
    """The module `mine` with a reward in its line 1, whose constructor is in line 4 and whose call is in line 5."""
    parts = GOOD | {k.replace("call", "__call__").replace("init", "__init__"): v for k, v in changes.items()}
    lines = [f"{k} = {v}" if not k.startswith("__") else v for k, v in parts.items()]
    return "class R:\n" + "".join(f"    {line}\n" for line in lines)


def code(text: str, line: str, *overrides: str, name: str = "mine:R", heavy: bool = False) -> Mistake:
    """A mistake in the module `mine`."""
    return Mistake([f"{KEY}={name}", *overrides], line, files={"mine.py": text}, heavy=heavy)


def imported(text: str, line: str, name: str = "mine:R") -> Mistake:
    """A mistake that shows when the module `mine` is imported."""
    return code(text, f"{KEY}: '{name}' cannot be imported: {line}", name=name)


def formed(line: str, at: int = 1, **changes: str) -> Mistake:
    """A reward whose class shows that it is none."""
    return code(written(**changes), f"{KEY}: 'mine:R' (mine.py:{at}) is not allowed; it must be {line}")


CALL = "def __call__(self, views): "
WANTED = "and not 1 x 1: a row for each view, a column for each component"
LISTED = "and not a list with a row for each view, such as [[0.5]]"
TRIED = [  # what shows on the made-up view
    ({"call": CALL + "1 / 0"}, "failed: mine.py:5: ZeroDivisionError: division by zero"),
    ({"call": CALL + "raise SystemExit(1)"}, "failed: mine.py:5: SystemExit: 1"),
    ({"call": CALL + "raise KeyboardInterrupt"}, "failed: mine.py:5: KeyboardInterrupt"),
    ({"call": CALL + "return [v.nope for v in views]"}, "failed: mine.py:5: AttributeError: 'View' object ...'nope'"),
    ({"call": CALL + "return [[views[1].sigma]]"}, "failed: mine.py:5: IndexError: list index out of range"),
    ({"call": CALL + "return [[float(views[0].frames)]]"}, "failed: mine.py:5: TypeError: only ..."),
    ({"call": CALL + "return [[v.frames.mean((9, 9))] for v in views]"}, "failed: mine.py:5: AxisError: ..."),
    ({"call": CALL + "return [0.5]"}, f"failed: mine.py:1: TypeError: it answered [0.5], {LISTED}"),
    ({"call": CALL + "return 0.5"}, f"failed: mine.py:1: TypeError: it answered 0.5, {LISTED}"),
    ({"call": CALL + "pass"}, f"failed: mine.py:1: TypeError: it answered None, {LISTED}"),
    ({"call": CALL + "return {'sharp': [1.0]}"}, f"failed: ... it answered {{'sharp': [1.0]}}, {LISTED}"),
    ({"call": CALL + "return [{'sharp': 1.0}]"}, f"failed: ... it answered [{{'sharp': 1.0}}], {LISTED}"),
    ({"call": CALL + "return [['high']]"}, "failed: mine.py:1: TypeError: it answered 'high' where a number belongs"),
    ({"call": CALL + "return [[None]]"}, "failed: mine.py:1: TypeError: it answered None where a number belongs"),
    ({"call": CALL + "return views[0].frames.mean(axis=0)[:1]"}, "failed: ... ndarray of shape ... where a number ..."),
    ({"call": CALL + "return []"}, f"(mine.py:1) answered [], {WANTED}"),
    ({"call": CALL + "return [[1.0], [2.0]]"}, f"(mine.py:1) answered [[1.0], [2.0]], {WANTED}"),
    ({"call": CALL + "return [[1.0, 2.0]]"}, f"(mine.py:1) answered [[1.0, 2.0]], {WANTED}"),
    (
        {"call": CALL + "return views[0].frames[0, :1, :, 0]"},
        f"(mine.py:1) answered ndarray of ... (1, 32), {WANTED}",
    ),
    ({"call": CALL + "return [[1.0]]", "components": '("a", "b")'}, "(mine.py:1) answered [[1.0]], and not 1 x 2: ..."),
    (
        {"needs": '"latent"'},
        "failed: mine.py:5: AttributeError: 'NoneType' object has no attribute 'std' (needs is ...)",
    ),
    (
        {"needs": '"estimate"'},
        "failed: mine.py:5: AttributeError: 'NoneType' object has no attribute 'std' (needs is ...)",
    ),
]
INIT = "def __init__(self, *, scale: float = 1.0): "
BUILT = [  # what shows when it is constructed
    ({"init": INIT + "1 / 0"}, ": mine.py:4: ZeroDivisionError: division by zero"),
    ({"init": INIT + "raise SystemExit('no GPU')"}, ": mine.py:4: SystemExit: no GPU"),
    ({"init": INIT + "open('weights.pt')"}, ": mine.py:4: FileNotFoundError: ...'weights.pt'"),
    ({"init": INIT + "import no_such_module"}, ": mine.py:4: ModuleNotFoundError: No module named 'no_such_module'"),
    ({"to": "lambda self, device: device.nope"}, ": mine.py:6: AttributeError: 'str' object has no attribute 'nope'"),
    ({"to": "None"}, ": mine.py:1: TypeError: 'NoneType' object is not callable"),
]
TABLE = [
    imported("1 / 0", "mine.py:1: ZeroDivisionError: division by zero"),
    imported("import sys\nsys.exit('no GPU')", "mine.py:2: SystemExit: no GPU"),
    imported("class R(:", "mine.py:1: SyntaxError: invalid syntax (mine.py, line 1)"),
    imported("import no_such_module", "mine.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
    imported("from math import nope", "mine.py:1: ImportError: cannot import name 'nope' from 'math' ..."),
    imported("class Reward: ...", "mine.py has no 'R'"),
    imported("class Sharpnes: ...", "mine.py has no 'Sharpness' (did you mean 'Sharpnes'?)", "mine:Sharpness"),
    imported("class R(object, object): ...", "mine.py:1: TypeError: duplicate base class object"),
    imported("class R:\n    def __init__(self, *, n: Nope): ...", "mine.py:2: NameError: name 'Nope' is not defined"),
    imported("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "mine.py:3: E: (the text of E cannot ..."),
    imported("", "it must be of the form module:MyReward", "a b:R"),
    imported("", "it must be of the form module:MyReward", "mine:R.inner"),
    imported("", "it must be of the form module:MyReward", "mine.py:R"),
    imported("", "ModuleNotFoundError: No module named 'nonesuch'", "nonesuch:R"),
    code("R = 3", f"{KEY}: 'mine:R' is not allowed; it must be a class with ...; it is of type int"),
    code("def R(views): ...", f"{KEY}: 'mine:R' (mine.py:1) is not allowed; ... it is of type function"),
    code(written() + "R = R()", f"{KEY}: 'mine:R' is not allowed; it must be a class with ...; it is of type R"),
    code("class R: ...", f"{KEY}: 'mine:R' (mine.py:1) is not allowed; it must be a class with a method __call__..."),
    formed("...is a tuple of names such as ('sharp',), and not 'sharp'", components='("sharp")'),
    formed("...is a tuple of names such as (\"sharp\",), and not ['sharp']", components='["sharp"]'),
    formed('...is a tuple of names such as ("sharp",), and not ()', components="()"),
    formed('...is a tuple of names such as ("sharp",), and not None', components="None"),
    formed("a class whose `components` are texts of 1 to 64 characters, and '' is none", components='("a", "")'),
    formed("...1 to 64 characters, and 3 is none", components="(3,)"),
    formed("...1 to 64 characters, and 'a b ' is none", components='("a b ",)'),
    formed("...1 to 64 characters, and ... is none", components='("a\\x1b",)'),
    formed("...1 to 64 characters, and ... is none", components='("\\ud800",)'),
    formed("...1 to 64 characters, and 'xx... is none", components='("x" * 65,)'),
    formed("a class with no two components called 'a'", components='("a", "b", "a")'),
    formed("a class with no component called 'reward', which is a column of its own", components='("reward",)'),
    formed("a class with no component called 'search_id', which is ...", components='("a", "search_id")'),
    formed("a class with no component called 'a_chunks', which is ...", components='("a", "a_chunks")'),
    formed("a class whose `needs` is one of latent, estimate, frames, and not 'frame'", needs='"frame"'),
    formed("a class whose `needs` is one of latent, estimate, frames, and not None", needs="None"),
    formed("a class whose `needs` is one of latent, ..., and not ('frames',)", needs='("frames",)'),
    formed("...weights are right: `weights`: [1] is not allowed; it must be a mapping of ...", weights="[1]"),
    formed("...weights are right: `weights`: 'dull' is not allowed; it must be one of sharp", weights='{"dull": 1}'),
    formed("...weights are right: `weights`.sharp: nan is not ...", weights='{"sharp": float("nan")}'),
    formed("...weights are right: `weights`.sharp: '1' is not ...", weights='{"sharp": "1"}'),
    formed("...weights are right: `weights`.sharp: 1000... is not ...", weights='{"sharp": 10**400}'),
    formed("a class whose __call__ is a plain def ...", call="async def __call__(self, views): return [[1.0]]"),
    formed("a class whose __call__ is a plain def ...", call="def __call__(self, views): yield [1.0]"),
    formed("__call__(self, views): it takes 1 by position, and not 2", 5, call="def __call__(self): return [[1.0]]"),
    formed("__call__(self, views): its parameter 'x' ...", 5, call="def __call__(self, views, x): return [[1.0]]"),
    formed("__init__(self, *, ...): its parameter 'scale' stands before the *", init="def __init__(self, scale): ..."),
    formed("__init__(self, *, ...): its parameter 'n' stands ...", init="def __init__(self, n=1): ..."),
    formed("without a parameter `weights`: ...", init="def __init__(self, *, weights=None): ..."),
    formed("without a parameter `name`: ...", init="def __init__(self, *, name='x'): ..."),
    formed("annotated with types ... (NameError: name 'Nope' ...", init="def __init__(self, *, n: 'Nope'): ..."),
    code(written(init="def __init__(self, *, n): ..."), "rewards.search.n is missing..."),
    code(
        written(init="def __init__(self, *, n=object): ..."),
        "rewards.search.n: <class 'object'> is not allowed; it must be by default what a config can give",
    ),
    code(written(), "rewards.search.scale: 'big' is not allowed; ... float...", "rewards.search.scale=big"),
    code(written(), "rewards.search.scal: unknown key (did you mean 'scale'?)...", "rewards.search.scal=2"),
    code(written(), "rewards.search.weights: 'dull' is not allowed; ...", "rewards.search.weights={dull: 1}"),
    code(written(), "rewards.search.weights: 3 is not allowed; it must be a mapping ...", "rewards.search.weights=3"),
    Mistake(
        ["obstacles=[{reward: {name: 'mine:R'}}]"],
        "obstacles[0].reward.name: 'mine:R' cannot be imported: mine.py:1: ZeroDivisionError: division by zero",
        files={"mine.py": "1 / 0"},
    ),
    Mistake(
        ["arms=[{name: a, rewards: {holdout: {name: 'mine:R'}}}]"],
        "rewards.holdout.name: 'mine:R' (mine.py:1) is not allowed; it must be a class whose `needs` is one of ...",
        files={"mine.py": written(needs='"pixels"')},
    ),
    Mistake(
        ["collect", "config.yaml", "rewards.final.name=mine:R", "collect.levels=[0.5]"],
        "rewards.final: 'prompt' is not allowed; it must be a component called other than prompt, seed, search_id, ...",
        {"mine.py": written(components='("prompt",)')},
        heavy=True,
    ),
    code(
        written(files="staticmethod(lambda *, scale: 1 / 0)"),
        "rewards.search: mine.py:6: ZeroDivisionError: division by zero",
        heavy=True,
    ),
    code(
        written(files="staticmethod(lambda *, scale: ['weights.pt'])"),
        "rewards.search: 'weights.pt' is not allowed; it must be an existing file",
        heavy=True,
    ),
    code(
        written(files="staticmethod(lambda *, scale: [7])"),
        "rewards.search: mine.py:1: TypeError: ...not int",
        heavy=True,
    ),
    code(
        written(fits="staticmethod(lambda shape, text_dim, *, scale: shape[9])"),
        "rewards.search: mine.py:6: IndexError: tuple index out of range",
        heavy=True,
    ),
    *(
        Mistake(f"{KEY}=mine:R", f"{KEY}: the reward mine:R {line}", {"mine.py": written(**how)}, heavy=True, late=True)
        for how, line in TRIED
    ),
    *(
        Mistake(f"{KEY}=mine:R", f"rewards.search{line}", {"mine.py": written(**how)}, heavy=True, late=True)
        for how, line in BUILT
    ),
    Mistake(
        "rewards.holdout.name=mine:R",
        "rewards.holdout.name: the reward mine:R failed: mine.py:5: AssertionError: late",
        {"mine.py": written(call="def __call__(self, views): raise AssertionError('late')")},
        heavy=True,
        late=True,
    ),
    Mistake(
        "rewards.search.name=near",
        "rewards.search.name: the reward near failed: ...near.py:...: ValueError: near.point has 2 ...",
        heavy=True,
        late=True,
    ),
]
