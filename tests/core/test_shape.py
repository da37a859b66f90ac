"""The shape of the house: who imports whom, what is exported, what a policy file must have, what ships and how big."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raysearch.config import binding as signature
from raysearch.config.policies import find_policy, policy_names
from raysearch.errors import RaysearchError
from raysearch.session import dataset

ROOT = Path(__file__).parents[2]
OURS = ("raysearch", "policies", "actors")
HEAVY = ("ray", "torch", "diffusers", "transformers")

# package -> the modules of ours that it may import
ALLOWED = {
    "raysearch": ("raysearch",),
    # raysearch.config, since a policy may wrap another that the user names (draft_commit)
    "policies": ("policies", "raysearch.recipe", "raysearch.search", "raysearch.errors", "raysearch.config"),
    "actors": ("actors", "raysearch"),
}
# The rooms of raysearch, from the ground up: each may import what is below it. Rooms on one floor know nothing of
# each other.
FLOORS = [
    ["errors", "bootstrap", "threads", "virtual"],
    ["recipe"],
    ["files"],
    ["parquet"],
    ["config"],
    ["search", "engine"],
    ["session"],
    ["sweep", "bars", "export", "remote", "testing"],
    ["page", "planner"],
    ["api"],
    ["running"],
    ["__init__"],
    ["__main__"],
]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", OURS)
def test_imports_run_one_way(package):
    for path in files(package):
        if path in (ROOT / "raysearch" / "__main__.py", ROOT / "raysearch" / "api.py"):
            continue  # compose everything
        foreign = {i for i in imports(path) if within(i, OURS) and not within(i, ALLOWED[package])}
        if package == "policies":
            foreign -= {"raysearch"}  # `from raysearch import x` names the module itself
        assert not foreign, f"{path} imports {foreign}"


def room(name: str) -> str | None:
    """The room of a module of raysearch; None of anything else."""
    parts = name.split(".")
    return parts[1] if parts[0] == "raysearch" and len(parts) > 1 else None


def test_rooms_import_only_what_is_below_them():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    up = set()
    for path in files("raysearch"):
        inside = path.relative_to(ROOT / "raysearch").parts[0].removesuffix(".py")
        for other in {r for i in imports(path) if (r := room(i)) in floor}:
            if other != inside and floor[other] >= floor[inside]:
                up.add((inside, other))
    assert not up


def test_what_the_packages_export():
    import actors
    import policies
    import raysearch

    names = ["BudgetExhausted", "Candidate", "Context", "Result", "__version__", "arun", "open", "run"]
    assert raysearch.__all__ == names
    assert [
        n for p in (actors, policies) for n in vars(p) if not n.startswith("_") and not inspect.ismodule(vars(p)[n])
    ] == []


@pytest.mark.parametrize("package", ["raysearch", "policies"])
def test_engine_and_policies_know_no_ray_and_no_torch(package):
    for path in files(package):
        heavy = {i for i in imports(path) if within(i, HEAVY)}
        assert not heavy, f"{path} imports {heavy}"


def test_only_the_cluster_and_trainings_know_ray():
    knowing = {p.parent.name for p in files("actors") if any(within(i, ("ray",)) for i in imports(p))}
    assert knowing == {"cluster", "training"}


def test_a_run_of_the_core_tier_imports_no_torch_and_no_ray():
    """What tests import when they are collected; what they import later, a run of the tier alone refuses."""
    command = [sys.executable, "-m", "pytest", "-m", "core", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "tests/core/test_shape.py" in done.stdout and "tests/torch" not in done.stdout


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_conforms(name):
    search = find_policy(name)
    assert inspect.iscoroutinefunction(search)
    parameters = list(inspect.signature(search).parameters.values())
    assert parameters[0].name == "ctx"
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[1:])
    assert search.__doc__
    module = importlib.import_module(f"policies.{name}")
    assert module.__doc__
    assert len(Path(str(module.__file__)).read_text().splitlines()) <= 75


def test_every_policy_file_is_a_policy_or_the_kernels():
    names = {p.stem for p in (ROOT / "policies").glob("*.py")} - {
        "__init__",
        "checks",
        "feynman_kac",
        "potential_field",
        "resampling",
        "selection",
    }
    assert names == set(policy_names())


def test_what_is_tracked_is_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    sizes = [(ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert sum(sizes) < 65e6


def test_errors_are_one_picklable_tree_that_its_docstring_draws():
    import pickle

    from raysearch import errors

    tree = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, Exception)]
    for c in tree:
        assert issubclass(c, RaysearchError)
        assert c.__name__ in errors.__doc__
        assert str(pickle.loads(pickle.dumps(c("what was wrong")))) == "what was wrong"
        if c is not RaysearchError:
            assert len(c.__mro__) > 4, f"{c} refines no built-in error"


def test_held_out_captions_are_the_worlds_and_no_training_clip_shows_them():

    from actors.tiny import world

    for name, captions in [
        ("held_out_one", world.HELD_OUT_ONE),
        ("held_out_two", world.HELD_OUT_TWO),
        ("held_out_two_100", world.HELD_OUT_TWO[:100]),
        ("held_out_two_60", world.HELD_OUT_TWO[:60]),
    ]:
        assert (ROOT / "configs" / f"{name}.txt").read_text().split("\n")[:-1] == list(captions)
    assert len(set(world.HELD_OUT_TWO)) == 240
    held = {frozenset(world.parse(c)) for c in world.HELD_OUT_TWO}
    ones = {world.parse(c)[0] for c in world.HELD_OUT_ONE}
    rng = np.random.default_rng(0)
    drawn = [world.training_objects(rng) for _ in range(5000)]
    listed = [(ROOT / "configs" / f"{name}_two.txt").read_text().split("\n")[:-1] for name in ("training", "tuning")]
    assert len(set(listed[0])) == 977 and set(listed[1]) < set(listed[0])
    assert all(dataset.split_of(c, 0.9) == "test" for c in listed[1])
    sides = [[c for c in listed[0] if dataset.split_of(c, 0.9) == side] for side in ("train", "test")]
    scenes = [{frozenset(world.parse(c)) for c in side} for side in sides]
    assert not scenes[0] & scenes[1]
    for objects in drawn + [world.parse(c) for c in listed[0]]:
        assert frozenset(objects) not in held
        assert not ones & set(objects)


def test_shipped_files_are_small():
    def size(folder: str) -> int:
        return sum(p.stat().st_size for p in (ROOT / "actors" / "assets" / folder).rglob("*") if p.is_file())

    assert size("tiny-wan") <= 15e6
    assert size("tiny-wan-long") <= 15e6
    assert size("tiny-walls") <= 15e6
    assert size("pixel-reward") <= 5e6
    assert size("pavrm") <= 10e6
    assert size("latent-reward") <= 10e6


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, float, 1.0),
        (3, int | None, 3),
        (None, int | None, None),
        ([1, 2], tuple[int, ...], (1, 2)),
        (True, bool, True),
    ],
)
def test_arguments_are_taken_as_their_annotated_type(value, hint, expected):
    got = signature.coerce("key", value, hint)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint"),
    [("1", int), (1.5, int), (True, int), (True, float), (1, str), (3, list[int]), ([1, "a"], list[int])],
)
def test_nothing_is_guessed(value, hint):
    with pytest.raises(RaysearchError, match="key"):
        signature.coerce("key", value, hint)
