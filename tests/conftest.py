"""What every test gets: its tier's marker, which is its folder's name, and the group that it runs in.

`-m core` (or any one tier's name) collects that tier's folder alone; the core tier must do without torch and Ray, so
a run of it alone refuses to import them. Two processes share a whole run's tests; tests of a group share a process.
"""

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes share the cores: threads of one would wait for each other

import sys
import tempfile
from pathlib import Path

import pytest

CACHE = tempfile.TemporaryDirectory(prefix="raysearch-cache-")
os.environ["RAYSEARCH_CACHE"] = CACHE.name  # no test reads or writes the user's own

HERE = Path(__file__).parent
TIERS = ("ray", "slow", "torch", "core")  # in the order in which two processes take them: the longest first
HEAVY = ("torch", "ray", "diffusers", "transformers")


def tier_of(path: Path) -> str | None:
    """The tier whose folder a path lies in."""
    parts = path.relative_to(HERE).parts if path.is_relative_to(HERE) else ()
    return parts[0] if parts and parts[0] in TIERS else None


def given(config: pytest.Config) -> list[Path]:
    """The folders and files that a run is of."""
    return [Path(argument.partition("::")[0]).resolve() for argument in config.args]


def core_alone(config: pytest.Config) -> bool:
    return config.option.markexpr == "core" or {tier_of(path) for path in given(config)} == {"core"}


class Light:
    """A finder of modules for which torch and Ray are not there: the traceback shows who wants them."""

    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            raise ImportError(f"{name} is imported in a run of the core tier, which must do without it")


def pytest_configure(config):
    if core_alone(config):
        sys.meta_path.insert(0, Light())


def pytest_ignore_collect(collection_path, config):
    """Of a run of one tier the others' modules are not even imported."""
    tier, only = tier_of(collection_path), config.option.markexpr
    return True if tier and only in TIERS and tier != only else None


def pytest_xdist_auto_num_workers(config):
    """Two processes for folders; none for files that are named."""
    return 2 if all(path.is_dir() for path in given(config)) else 0


def pytest_collection_modifyitems(config, items):
    for item in items:
        tier = tier_of(item.path)
        item.add_marker(tier)
        item.add_marker(pytest.mark.xdist_group("ray" if tier == "ray" else item.path.stem))
    if hasattr(config, "workerinput"):  # one of several processes: the longest first, so that they end together
        items.sort(key=lambda item: TIERS.index(tier_of(item.path)))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """A cache that no other test has filled."""
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy-sized Wan pipeline of the real classes, random weights."""
    from tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "tiny-wan")


@pytest.fixture(scope="session")
def pictured(tmp_path_factory):
    from tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "tiny-i2v", pictured=True)
