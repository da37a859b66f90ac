"""The folder of a learned reward: config.json, which names a latent reward's architecture, and model.safetensors.

Reading a folder executes no code from it. A folder without a reward of the architecture is a ConfigError, whose `key`
names the config's key for the folder.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save as dump

from actors.models import hub
from actors.shipped import wrong_names
from raysearch.errors import ConfigError, check

FILES = ("config.json", "model.safetensors")
TYPES = ("F16", "BF16", "F32")
NONE = "no such tensor"
Read: TypeAlias = Callable[[Path, str | None, str], dict[str, Any]]  # `config_of` or `settings`


def save(
    weights: dict[str, torch.Tensor], folder: Path, architecture: str, config: dict[str, Any], *, half: bool = True
) -> None:
    """Write a net's weights, as float16 if `half`, and its config to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in weights.items()}
    (folder / FILES[0]).write_text(json.dumps({"architecture": architecture, **config}, indent=2) + "\n")
    (folder / FILES[1]).write_bytes(dump({k: v.contiguous() for k, v in state.items()}))


def located(folder: str, key: str = "folder", patterns: Sequence[str] = ()) -> Path:
    """The folder of a reward's weights: a local one, or that of a hub id, of which files of `patterns` are fetched.

    Raises ConfigError.
    """
    if not hub.is_id(folder):
        path = Path(folder).expanduser()
        check(path.is_dir(), key, folder, "an existing folder, or a hub id: org/name or org/name@revision")
        return path
    return hub.snapshot(folder, key, patterns)


def config_of(folder: Path, architecture: str | None, key: str = "folder") -> dict[str, Any]:
    """A folder's config, without the architecture. Raises ConfigError unless it holds a reward of that architecture."""
    for name in FILES:
        check((folder / name).is_file(), key, str(folder), f"a folder with {name}")
    config = settings(folder, architecture, key)
    try:
        with safe_open(folder / FILES[1], framework="pt"):
            pass
    except Exception as error:
        raise ConfigError.of(key, str(folder), f"a folder whose {FILES[1]} is a safetensors file") from error
    return config


def settings(folder: Path, architecture: str | None, key: str = "folder") -> dict[str, Any]:
    """The same config without a look at the weights, which may be wrong. Raises ConfigError."""
    check((folder / FILES[0]).is_file(), key, str(folder), f"a folder with {FILES[0]}")
    try:
        config = json.loads((folder / FILES[0]).read_text())
        found = config.pop("architecture", None)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError.of(key, str(folder), f"a folder whose {FILES[0]} is a JSON object") from error
    kind = f"of architecture {architecture!r}" if architecture else "whose config names no architecture"
    check(found == architecture, key, str(folder), f"a reward {kind}, not {found!r}")
    return config  # type: ignore[no-any-return]


def check_names(components: Iterable[str], folder: Path, key: str = "folder") -> None:
    """Raises ConfigError where no reward can have components of the names that a folder's config has."""
    wrong = wrong_names(tuple(components), "a reward")
    check(not wrong, key, str(folder), wrong)


@contextmanager
def described(folder: Path, what: str, key: str = "folder") -> Iterator[None]:
    """Turns any error of building a net from a folder's config into a ConfigError; `what` names the net.

    Libraries raise errors of many types for a wrong config.
    """
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) if isinstance(error, ConfigError) else repr(error).replace("\\n", " ")
        raise ConfigError(f"{key}: {folder / FILES[0]} describes no {what}: {said}") from error


def compare(weights: dict[str, torch.Tensor], folder: Path, key: str = "folder") -> None:
    """Raises ConfigError unless names, shapes and types of a folder's weights fit those of a net; loads no tensor."""
    with safe_open(folder / FILES[1], framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
        types = {name: s.get_dtype() for name, s in slices.items()}
    for name in sorted(weights.keys() | shapes.keys()):
        wanted = tuple(weights[name].shape) if name in weights else NONE
        found = shapes.get(name, NONE)
        fits = f"one whose weights fit its config: {name} must be {wanted}, there is {found}"
        check(wanted == found, key, str(folder), fits)
        check(types[name] in TYPES, key, str(folder), f"one of weights {', '.join(TYPES)}: {name} is {types[name]}")


def fill(weights: dict[str, torch.Tensor], folder: Path, key: str = "folder") -> None:
    """Copies a folder's weights into a net's. Raises ConfigError unless they fit and are finite."""
    compare(weights, folder, key)
    with safe_open(folder / FILES[1], framework="pt") as file, torch.no_grad():
        for name, value in weights.items():
            found = file.get_tensor(name)
            check(bool(found.isfinite().all()), key, str(folder), f"one of finite weights: {name} has NaN or inf")
            value.copy_(found)
