"""Networks of transformers in folders, checked and loaded; several rewards of a scorer share one in memory."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from torch import nn

from actors.models import header
from actors.models.folder import read
from actors.models.weights import DTYPES, at_most, pretrained, quiet
from actors.rewards.checkpoint import FILES
from raysearch.config.numbers import Dtype
from raysearch.errors import ConfigError, check, told

T = TypeVar("T")

_SHARED: WeakValueDictionary[Hashable, object] = WeakValueDictionary()  # a network lives as long as a reward has it
_BUILDING = Lock()


def shared(key: Hashable, build: Callable[[], T]) -> T:
    """The network that another reward of this process has built under this key, or else a new one.

    The key says all that the network depends on, such as its class, its folder and its precision. Nobody may change the
    network but by moving it to a device, which is the same for all rewards of a scorer.
    """
    with _BUILDING:
        found = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = build()
        return found  # type: ignore[return-value]


def kind_of(folder: Path, kinds: Sequence[str], key: str = "folder") -> str:
    """The model type of a folder's config.json. Raises ConfigError unless it is one of `kinds`."""
    for name in FILES:
        check((folder / name).is_file(), key, str(folder), f"a folder with {name}")
    found = read(folder / FILES[0], key).get("model_type")
    check(found in kinds, key, str(folder), f"a model of type {' or '.join(kinds)}, not {found}")
    return str(found)


def fitting(kind: Any, folder: Path, *kinds: str, key: str = "folder") -> Any:
    """A net of class `kind` without weights. Raises ConfigError unless a folder has all weights of such a net."""
    kind_of(folder, kinds, key)
    try:
        held = header.tensors(folder / FILES[1])
    except (OSError, ValueError) as error:
        raise ConfigError.of(key, str(folder), f"a folder whose {FILES[1]} can be read: the file {error}") from error
    with at_most(10 * len(held) + 1000):
        return _loaded(kind, folder, key, device_map="meta")


def backbone(kind: Any, folder: Path, dtype: Dtype, key: str = "folder") -> Any:
    """The net of class `kind` in a folder, without gradients, which all rewards of this process share.

    Raises ConfigError for weights that do not fit or are not finite.
    """

    def build() -> nn.Module:
        net = _loaded(kind, folder, key, dtype=DTYPES[dtype])
        for name, value in net.named_parameters():
            check(bool(value.isfinite().all()), key, str(folder), f"one of finite weights: {name} has NaN or inf")
        return net.eval().requires_grad_(False)

    return shared((kind.__name__, str(folder.resolve()), dtype), build)


def _loaded(kind: Any, folder: Path, key: str, **options: Any) -> nn.Module:
    quiet()
    options |= {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        net, info = pretrained(kind, folder, **options)
    except Exception as error:  # libraries raise errors of many types for a wrong config
        raise ConfigError(f"{key}: {str(folder)!r} is no {kind.__name__}: {told(error)}") from error
    for name in sorted(info["missing_keys"]):
        check(False, key, str(folder), f"one with all weights of a {kind.__name__}: {name} is missing")
    for name, found, wanted in sorted(info["mismatched_keys"]):
        fits = f"one whose weights fit its config: {name} must be {tuple(wanted)}, there is {tuple(found)}"
        check(False, key, str(folder), fits)
    return net  # type: ignore[no-any-return]
