"""Models of the Hugging Face hub, by their id: fetched once, then found in the local cache."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from actors.models import folder as folders
from raysearch.errors import ConfigError, told

ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")  # org/name, or org/name@revision


def is_id(path: str) -> bool:
    """True if a model's path can be a hub id: it begins with no folder that is here."""
    first = path.split("/")[0]
    return bool(ID.fullmatch(path)) and not first.startswith(".") and not Path(first).exists()


def fetched(path: str, key: str, bare: Collection[str] = ()) -> Path:
    """The folder of the hub's model, in the cache, with the parts that its index names. Raises ConfigError.

    Of the parts that are `bare` only the configs are fetched.
    """
    folder = snapshot(path, key, [folders.INDEX])
    wanted = [f"{name}/*{'.json' if part.bare else ''}" for name, part in folders.parts(folder, key, bare).items()]
    return snapshot(path, key, [folders.INDEX, *wanted])


def snapshot(path: str, key: str, patterns: Sequence[str]) -> Path:
    """The folder, in the cache, of those files of a hub id that fit one of the patterns. Raises ConfigError."""
    import huggingface_hub

    name, _, revision = path.partition("@")
    try:
        found = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(patterns))
    except Exception as error:  # of the hub's own types, of httpx and of the system
        raise ConfigError(f"{key}: {path!r} is no folder here, and {reason(name, revision, error)}") from error
    return Path(found)


def reason(name: str, revision: str, error: Exception) -> str:
    """Why the hub gives no model, and what to do."""
    from huggingface_hub import constants, errors

    match error:
        case errors.GatedRepoError():
            return f"{name} is gated: accept its terms at https://huggingface.co/{name}, then `hf auth login`"
        case errors.RepositoryNotFoundError():
            return f"the hub has no {name}: it is misspelt, or private (then `hf auth login`)"
        case errors.RevisionNotFoundError():
            return f"{name} has no revision {revision!r} on the hub"
        case errors.HFValidationError():
            return f"it is no hub id: {error}"
        case errors.LocalEntryNotFoundError() | ConnectionError() if constants.is_offline_mode():
            return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub"
        case errors.LocalEntryNotFoundError() | ConnectionError():
            return "it is not in the cache, and the hub cannot be reached: this machine is offline, or the hub is down"
    return f"the hub cannot give it: {told(error)}"
