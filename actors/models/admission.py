"""Which pipelines are searched: those of tested classes, and those that `raysearch check` has found to hold.

What a check finds depends on the configs in a folder and on the libraries, and not on weights: their digest stands for
it.
"""

from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from actors.models import folder as folders
from raysearch.config.cache import users
from raysearch.errors import check
from raysearch.files import files_digest
from raysearch.recipe.digests import digest

TESTED = frozenset(  # by tests/torch/test_pipelines.py, each as a toy of the real class
    f"{name}Pipeline"
    for name in (
        *("Wan", "WanImageToVideo", "WanVACE", "LTX", "LTXImageToVideo", "LTX2", "CogVideoX", "HunyuanVideo"),
        *("HunyuanVideo15", "Mochi", "SkyReelsV2", "SkyReelsV2DiffusionForcing", "SanaVideo", "Flux"),
        *("StableDiffusion3", "StableDiffusionXL", "QwenImage", "ZImage"),
    )
)


def check_admitted(folder: Path, key: str = "model.path", *, unchecked: bool) -> None:
    """Raises ConfigError, which names `key`, for a pipeline of which nobody knows whether it can be searched."""
    name = str(folders.index(folder, key).get("_class_name"))
    known = unchecked or name in TESTED or _remembered(folder, key)
    allowed = f"a pipeline that was tested, and {name} was not: `raysearch check` measures it, or model.unchecked=true"
    check(known, key, str(folder), allowed)


def admit(folder: Path, key: str) -> None:
    """Remember that a folder's pipeline was found to hold. Where nothing can be written, nothing is remembered."""
    with suppress(OSError, RuntimeError):  # the latter of a home that nobody knows
        mark = _mark(folder, key)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _remembered(folder: Path, key: str) -> bool:
    with suppress(OSError, RuntimeError):
        return _mark(folder, key).is_file()
    return False


def _mark(folder: Path, key: str) -> Path:
    files = [folder / folders.INDEX, *(p.config_file for p in folders.parts(folder, key).values())]
    found = files_digest((str(f.relative_to(folder)), f) for f in sorted(files))
    versions = (f"{package} {version(package)}" for package in ("raysearch", "diffusers", "transformers", "torch"))
    return users("checked") / digest(found, *versions).hex()
