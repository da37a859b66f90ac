import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy-sized Wan pipeline of the real classes, random weights."""
    from tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "tiny-wan")


@pytest.fixture(scope="session")
def pictured(tmp_path_factory):
    from tiny import save_pipeline

    return save_pipeline(tmp_path_factory.mktemp("models") / "tiny-i2v", pictured=True)
