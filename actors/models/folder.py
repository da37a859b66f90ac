"""A model's folder in diffusers' layout, checked without torch: its index, its parts, their JSON and weights.

model_index.json names the parts and their classes. A part is a folder with a config and, but for schedulers,
tokenizers and processors, weights: safetensors files, one or several with an index, maybe of a variant such as fp16.
Pickled weights (.bin) are taken only from a part that has no others. No code in a folder is ever run.
"""

import importlib.util
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from actors.models import header
from raysearch.errors import ConfigError, check
from raysearch.files import chunks, files_digest
from raysearch.recipe.digests import digest

INDEX = "model_index.json"
CONFIGS = {  # how the name of a class without weights ends, and which file describes such a part
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "TokenizerFast": "tokenizer_config.json",
    "TokenizersBackend": "tokenizer_config.json",
    "Processor": "preprocessor_config.json",
    "ProcessorFast": "preprocessor_config.json",
    "ProcessorPil": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
    "Guidance": "guider_config.json",
}
STEMS = {  # library -> how the names of its weights begin, by their suffix
    "diffusers": {"safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model"},
    "transformers": {"safetensors": "model", "bin": "pytorch_model"},
}
WITHIN = ("ltx2", "stable_diffusion")  # packages of diffusers' pipelines that have classes of parts
PACKAGES = {"quanto": "optimum", "gptq": "gptqmodel", "awq": "gptqmodel"}  # of a quantisation, where named otherwise
READ = (".json", ".txt", ".model")  # the suffixes of what is read beside weights
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Weights:
    """The files from which a part is loaded: one, or several and their index; all of a `variant`, or of none."""

    files: tuple[Path, ...]
    index: Path | None
    variant: str | None

    @property
    def safe(self) -> bool:
        """False for pickled weights."""
        return self.files[0].suffix == ".safetensors"


@dataclass(frozen=True)
class Part:
    """The part of a model in the folder `path`, of class `kind` of a `library`; `key` is the config's for the model.

    The weights of a part that is `bare` are in no file of the folder. All methods raise ConfigError for what is missing
    or broken.
    """

    path: Path
    library: str
    kind: str
    key: str
    bare: bool = False

    @property
    def config_file(self) -> Path:
        """The JSON file that describes the part."""
        return self.path / next((name for end, name in CONFIGS.items() if self.kind.endswith(end)), "config.json")

    @property
    def config(self) -> dict[str, Any]:
        """The content of that file."""
        return read(self.config_file, self.key)

    @property
    def module(self) -> str:
        """The name of the module that has the part's class."""
        return f"diffusers.pipelines.{self.library}" if self.library in WITHIN else self.library

    @property
    def stems(self) -> dict[str, str]:
        """How the names of the part's weights begin, by their suffix."""
        return STEMS[self.module.split(".")[0]]

    @property
    def weighs(self) -> bool:
        """True for a part that has weights."""
        return self.config_file.name == "config.json"

    @property
    def quantised(self) -> bool:
        """True if the config says that the weights are packed by a library of their own."""
        return self.config.get("quantization_config") is not None

    def weights(self, variant: str | None) -> Weights:
        """The weights of a variant, or those of none where the part has none of this variant."""
        for v in dict.fromkeys((variant, None)):
            dot = f".{v}" if v else ""
            for suffix, stem in self.stems.items():
                index = self.path / f"{stem}.{suffix}.index{dot}.json"
                if index.is_file():
                    return Weights(self._shards(index), index, v)
                if os.path.lexists(one := self.path / f"{stem}{dot}.{suffix}"):
                    return Weights((one,), None, v)
        variants = self.variants()
        name = f"{self.path.name}/{self.stems['safetensors']}.safetensors"
        check(bool(variants), self.key, str(self.path.parent), f"a folder with {name}")
        key = ".".join([*self.key.split(".")[:-1], "variant"])
        raise ConfigError.of(key, variant, f"{' or '.join(variants)}: {str(self.path)!r} has no other weights")

    def variants(self) -> list[str]:
        """The variants of which there are weights."""
        stem = self.stems["safetensors"]
        pattern = re.compile(rf"{stem}\.([\w-]+?)(-\d+-of-\d+)?\.safetensors")
        return sorted({m[1] for p in self.path.iterdir() if (m := pattern.fullmatch(p.name))})

    def _shards(self, index: Path) -> tuple[Path, ...]:
        held = read(index, self.key).get("weight_map")
        names = set(map(str, held.values())) if isinstance(held, dict) else set()
        beside = bool(names) and all(n == Path(n).name for n in names)
        check(beside, self.key, str(index), "an index whose weight_map names files beside it")
        return tuple(self.path / n for n in sorted(names))

    def loaded(self, variant: str | None) -> list[Path]:
        """The files that loading the part reads."""
        found = {p for p in self.path.iterdir() if p.suffix in READ and p.name[0] != "." and ".index." not in p.name}
        if self.weighs and not self.bare:
            weights = self.weights(variant)
            found |= {*weights.files, *([weights.index] if weights.index else [])}
        return sorted(found)

    def check(self, variant: str | None) -> None:
        """Check that the part's files are there and whole, and that loading them runs no code of the folder's."""
        folder, name = str(self.path.parent), self.path.name
        libraries = " or ".join(STEMS)
        check(
            self.library in (*STEMS, *WITHIN),
            self.key,
            folder,
            f"one whose {name} is of {libraries}, not of {self.library}",
        )
        readable = self.path.is_dir() and os.access(self.path, os.R_OK | os.X_OK)
        check(readable, self.key, folder, f"a folder with {name}/ in it")
        config = self.config
        kind = config.get("_class_name", self.kind) if self.weighs else self.kind  # schedulers share their configs
        check(kind == self.kind, self.key, folder, f"one whose {name} is a {self.kind}, as {INDEX} says, not {kind}")
        if self.quantised:
            how = config["quantization_config"]
            method = str(how.get("quant_method") if isinstance(how, dict) else how)
            package = PACKAGES.get(method, method)
            there = package.isidentifier() and importlib.util.find_spec(package) is not None
            needs = f"one whose {name} is not quantised with {method}, for which no package is installed"
            check(there, self.key, folder, needs)
        for file in self.loaded(variant):
            with whole(file, self.key):
                if file.suffix == ".safetensors":
                    header.tensors(file)
                elif file.suffix == ".json":
                    code = isinstance(found := parse(file), dict) and "auto_map" in found
                    check(not code, self.key, str(file), "a file without auto_map: code of a model's folder is not run")


@contextmanager
def whole(file: Path, key: str) -> Iterator[None]:
    """A context in which a file is read: what is missing or broken becomes a ConfigError that names the file."""
    try:
        with open(file, "rb") as f:
            if not (start := f.read(len(POINTER))):
                raise ValueError("is empty")
            if start == POINTER:
                raise ValueError("is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder")
        yield
    except ConfigError:
        raise
    except FileNotFoundError as error:
        why = "is a link to nothing" if file.is_symlink() else "is missing"
        raise ConfigError(f"{key}: {str(file)!r} {why}") from error
    except OSError as error:
        raise ConfigError(f"{key}: {str(file)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {str(file)!r} {error}") from error


def parse(file: Path) -> Any:
    """What a JSON file holds. Raises ValueError; OSError."""
    try:
        return json.loads(file.read_bytes(), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from error


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)


def read(file: Path, key: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ConfigError, which names `key`."""
    with whole(file, key):
        found = parse(file)
        if not isinstance(found, dict):
            raise ValueError("holds no JSON object")
        return found


def index(folder: Path, key: str = "model.path") -> dict[str, Any]:
    """The content of a model's index. Raises ConfigError, which names `key`."""
    check((folder / INDEX).exists(), key, str(folder), f"a folder with a {INDEX}")
    return read(folder / INDEX, key)


def parts(folder: Path, key: str = "model.path", bare: Collection[str] = ()) -> dict[str, Part]:
    """The parts of a model, by the names of their folders, as its index says. Raises ConfigError.

    The weights of those that are `bare` are not the folder's.
    """
    found = {}
    for name, value in index(folder, key).items():
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value):
            inside = name == Path(name).name and name != ".."
            check(inside, key, str(folder), f"one whose parts are folders in it, not {name}")
            library, kind = value
            found[name] = Part(folder / name, library, kind, key, name in bare)
    return found


def check_folder(
    folder: Path, key: str, variant: str | None, required: tuple[str, ...], bare: Collection[str] = ()
) -> None:
    """Raises ConfigError unless a folder has the `required` parts, and all its parts are whole, `bare` or not."""
    found = parts(folder, key, bare)
    for name in required:
        check(name in found, key, str(folder), f"one whose {INDEX} names the class of {name}")
    for part in found.values():
        part.check(variant)
    weighty = [p for p in found.values() if p.weighs and not p.bare]
    if variant is not None and weighty and all(p.weights(variant).variant is None for p in weighty):
        there = sorted({v for p in weighty for v in p.variants()})
        allowed = f"one of {', '.join(there)}, or left out" if there else "left out"
        raise ConfigError.of(".".join([*key.split(".")[:-1], "variant"]), variant, f"{allowed}, with {str(folder)!r}")


def content(
    folder: Path,
    key: str = "model.path",
    variant: str | None = None,
    bare: Collection[str] = (),
    more: Mapping[str, Path] | None = None,
) -> bytes:
    """A digest of the files from which a model is loaded, of which `more` are elsewhere, under names of their own.

    Raises ConfigError for weights that are NaN or infinite.
    """
    files = [folder / INDEX, *(f for p in parts(folder, key, bare).values() for f in p.loaded(variant))]
    own = files_digest(((str(f.relative_to(folder)), f) for f in sorted(files)), partial(finite_chunks, key=key))
    others = [files_digest([(name, f)], partial(finite_chunks, key=name)) for name, f in sorted((more or {}).items())]
    return digest(own, *others) if others else own


def finite_chunks(file: Path, key: str) -> Iterator[bytes]:
    """The content of a file, piece by piece. Raises ConfigError for safetensors with NaN or inf, or cut ones."""
    if file.suffix != ".safetensors":
        yield from chunks(file)
        return
    with whole(file, key):
        yield from header.finite_chunks(file)
