"""Where a model's parts come from, and how one worker loads them."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from actors import models
from actors.models import folder as folders
from raysearch.config.config import Arm, Config, run_own
from raysearch.config.parts import PREVIEW, PartConfig
from raysearch.config.parts import own as parts_of_model
from raysearch.errors import check, plain
from raysearch.files import files_digest
from raysearch.recipe.digests import canonical_json, digest

SHOWN = 60  # letters of a text in a line about it


@dataclass(frozen=True)
class Source:
    """A model's folder, and how a worker loads parts of it.

    `dtype` is a key of `weights.DTYPES`, `device` "cpu" or "cuda". `variant` names the weights' variant, or is None.
    `parts` says what is special about single parts, by the names of their folders. With `own` the folder's pipeline is
    run as it is, also where its class has a family. `preview` is a decoder for looks, if one is given.
    """

    folder: Path
    dtype: str = "float32"
    device: str = "cpu"
    variant: str | None = None
    parts: Mapping[str, PartConfig] = field(default_factory=dict)
    own: bool = False
    preview: PartConfig | None = None

    @property
    def family(self) -> Any:
        """The module of the model's family, as `actors.models` describes it; importing it takes torch."""
        return importlib.import_module(f"actors.models.{models.family_name(self.folder, own=self.own)}")

    @property
    def runs_pipeline(self) -> bool:
        """True if the folder's pipeline is run as it is."""
        return models.family_name(self.folder, own=self.own) == "pipelines"

    @property
    def geometry(self) -> Any:
        """The family's `Geometry` of the model."""
        return self.family.Geometry.of(self.folder)

    def part(self, name: str) -> PartConfig:
        """What is special about a part."""
        return self.parts.get(name, PartConfig())

    @property
    def bare(self) -> set[str]:
        """The names of the parts whose weights are not the folder's."""
        return {name for name, p in self.parts.items() if p.file is not None}

    def content(self, key: str = "model.path") -> bytes:
        """A digest of all files from which the model is loaded. Raises ConfigError for weights that are not finite."""
        more = {f"parts.{name}.{k}": path for name, p in self.parts.items() for k, path in p.files.items()}
        return folders.content(self.folder, key, self.variant, self.bare, more)

    def looks(self) -> bytes:
        """A digest of the decoder for looks and of its dtype; empty without one."""
        if self.preview is None:
            return b""
        return digest(files_digest(self.preview.files.items()), canonical_json(self.preview.numerics))

    def dtype_of(self, name: str) -> str:
        """The key of `weights.DTYPES` in which a part computes."""
        return self.part(name).dtype or self.dtype

    def net(self, name: str) -> Any:
        """The net of a part, loaded, in evaluation mode, on the device."""
        from actors.models import weights

        return weights.loaded(self, name)


def located(
    path: str,
    key: str = "model.path",
    *,
    dtype: str = "float32",
    variant: str | None = None,
    parts: Mapping[str, PartConfig] | None = None,
    own: bool = False,
) -> Source:
    """The source of a model, checked as far as that takes no torch. Raises ConfigError, which names `key`.

    `path` is a folder or a hub id; the other arguments are the fields of a `Source`.
    """
    given = parts or {}
    source = Source(Path(), dtype, variant=variant, parts=parts_of_model(given), own=own, preview=given.get(PREVIEW))
    return replace(source, folder=models.found(path, key, variant, source.bare, own=own))


def configured(config: Config, ways: Sequence[Arm]) -> Source:
    """The source of a config's model, which these arms are to search; as `located`."""
    m = config.model
    return located(m.path, dtype=m.dtype, variant=m.variant, parts=config.parts, own=run_own(ways))


def opened(source: Source, key: str = "model.path") -> Source:
    """The same source of a model that can be run: its weights fit their classes, too. Raises ConfigError."""
    from actors.models import weights

    weights.check_fit(source, key)
    source.family.check_folder(source.folder, key)
    if source.preview is not None:
        kind = folders.index(source.folder, key)["_class_name"]
        whose = "a pipeline that runs as it is" if source.runs_pipeline else f"a model of class {kind}"
        allowed = f"left out: {whose} has no decoder for looks"
        check(hasattr(source.family, "Preview"), f"parts.{PREVIEW}", source.preview.file, allowed)
        source.family.Preview(source)  # it is small
    return source


def check_lengths(source: Source, texts: Mapping[str, str], most: int, block: str = "") -> None:
    """Raises ConfigError for a text with more than `most` tokens, of which the text encoder would not see the end.

    `texts` maps texts to their places in the config. `block` is the config's that holds the key `truncate`, if any.
    """
    count = source.family.token_counter(source.folder)
    otherwise = f", and {block}truncate=true cuts them" if block else ""
    for text, place in texts.items():
        n = count(text)
        allowed = f"at most {most} tokens ({block}max_sequence_length): these are {n}{otherwise}"
        check(n <= most, place, plain(text, SHOWN), allowed)
