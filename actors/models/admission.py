"""Which pipelines are searched: those of tested classes, and those that `raysearch check` has found to hold.

What a check finds depends on the configs in a folder and not on its weights, so a digest of the configs stands for it.
"""

import os
from pathlib import Path

from actors.models import folder as folders
from raysearch.errors import check
from raysearch.files import files_digest

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
    known = unchecked or name in TESTED or _mark(folder, key).is_file()
    allowed = f"a pipeline that was tested, and {name} was not: `raysearch check` measures it, or model.unchecked=true"
    check(known, key, str(folder), allowed)


def admit(folder: Path, key: str) -> None:
    """Remember that a folder's pipeline was found to hold. Where nothing can be written, nothing is remembered."""
    mark = _mark(folder, key)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        return


def _mark(folder: Path, key: str) -> Path:
    files = [folder / folders.INDEX, *(p.config_file for p in folders.parts(folder, key).values())]
    digest = files_digest((str(f.relative_to(folder)), f) for f in sorted(files))
    given = os.environ.get("RAYSEARCH_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "raysearch"
    return cache / "checked" / digest.hex()
