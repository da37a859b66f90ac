"""`raysearch reward convert`: a reward's published weights, written once as the folder that the reward loads.

A reward's module has a converter if it has a function `convert(source, out, *, base=None)`. The folder becomes the
reward's argument `folder`, or the argument that the class names as `converted`. Published weights are mostly pickles.
They are read as tensors alone, so no code in them is run, and written as safetensors.
"""

import ast
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from actors.rewards import checkpoint
from actors.shipped import REWARDS, find
from raysearch.errors import ConfigError, check, told

TYPES = (torch.float16, torch.bfloat16, torch.float32)  # of weights, as checkpoint.TYPES


def convert(name: str, source: Path, out: Path, base: Path | None = None) -> str:
    """Convert the weights of the reward `name` and return a line about the folder `out`. Raises ConfigError.

    `source` is what upstream publishes, a file or a folder. `base` is the folder of the model that upstream started
    from, for the rewards whose publication lacks its config.
    """
    if (converter := _converter(find(name, "NAME"))) is None:
        names = [n for n in REWARDS if _converter(find(n)) is not None]
        raise ConfigError.of("NAME", name, f"a reward with a converter: {', '.join(names)}")
    check(source.exists(), "SOURCE", str(source), "an existing file or folder")
    check(not os.path.lexists(out), "OUT", str(out), "a folder that does not exist yet")
    check(base is None or base.is_dir(), "--base", str(base), "an existing folder")
    converter(source, out, base=base)
    argument = getattr(find(name), "converted", "folder")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return f"wrote {out}, {size / 1e6:,.1f} MB; in a config: {{name: {name}, {argument}: {out}}}"


def _converter(build: Callable[..., Any]) -> Callable[..., None] | None:
    """The function `convert` of the module that defines a reward's class."""
    found = getattr(inspect.getmodule(build), "convert", None)
    return found if inspect.isfunction(found) and found.__module__ == build.__module__ else None


def part(folder: Path, name: str, key: str = "SOURCE") -> Path:
    """The file or folder `name` in a folder. Raises ConfigError if it is missing."""
    check((folder / name).exists(), key, str(folder), f"a folder with {name}")
    return folder / name


def pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickled state dict by name, on the CPU and in the types that they have in the file.

    A file whose one key `state_dict` holds the tensors is read, too. Raises ConfigError for anything but dense tensors
    of float16, bfloat16, float32 or, as some positions are, int64.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of pickle, of zip files and of torch
        raise ConfigError(f"SOURCE: {path} cannot be read as tensors alone: {told(error)[:200]}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    plain = isinstance(state, Mapping) and all(isinstance(v, torch.Tensor) for v in state.values())
    check(plain and bool(state), "SOURCE", str(path), "a file with a dictionary of tensors")
    for name, value in state.items():
        named = isinstance(name, str) and name.isascii() and name.isprintable() and len(name) < 256
        check(named, "SOURCE", str(path), f"a file whose tensors have short names in ASCII, not {ascii(name)[:80]}")
        fits = f"a file of dense tensors: {name} is one of {value.dtype} on {value.device}, or not whole"
        check(_dense(value), "SOURCE", str(path), fits)
    return dict(state)


def _dense(value: torch.Tensor) -> bool:
    """Whether a tensor has known numbers, each in its own place: a pickle of bytes can stand for terabytes."""
    known = value.layout == torch.strided and value.device.type == "cpu" and value.dtype in (*TYPES, torch.int64)
    return known and value.numel() * value.itemsize <= value.untyped_storage().nbytes()


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name. Raises ConfigError."""
    try:
        return load_file(path)
    except Exception as error:
        raise ConfigError.of("SOURCE", str(path), f"a safetensors file: {told(error)[:200]}") from error


def same_shapes(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], source: Path, what: str) -> None:
    """Raises ConfigError unless names and shapes of the tensors of `source` are those `wanted`, the net's `what`."""
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [tuple(state[name].shape) if name in state else checkpoint.NONE for state in (wanted, found)]
        allowed = f"{what}: {name} must be {shapes[0]}, there is {shapes[1]}"
        check(shapes[0] == shapes[1], "SOURCE", str(source), allowed)


def json_of(path: Path, key: str = "--base") -> dict[str, Any]:
    """The object of a JSON file. Raises ConfigError."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError.of(key, str(path), "a JSON file") from error
    check(isinstance(found, dict), key, str(path), "a JSON file with an object")
    return found


def literals(path: Path, *names: str, sha256: str) -> str:
    """The texts that a Python file gives to `names`, joined; no code of the file is run.

    Raises ConfigError unless the text has this sha256: a model gives other scores to a prompt that differs by a space.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:  # the parser's for deep nesting
        raise ConfigError.of("SOURCE", str(path), "a Python file") from error
    given = {
        target.id: statement.value.value  # type: ignore[attr-defined]
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(getattr(statement.value, "value", None), str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for name in names:
        check(name in given, "SOURCE", str(path), f"a file that gives a text to {name}")
    text = "".join(given[name] for name in names)
    found = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    allowed = f"the file whose {' + '.join(names)} has sha256 {sha256}, and not {found}"
    check(found == sha256, "SOURCE", str(path), allowed)
    return text


def _apart(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each with memory of its own, as safetensors wants them. Only those that share theirs are copied."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        plain = value.contiguous()
        found[name] = plain.clone() if (at := plain.untyped_storage().data_ptr()) in seen else plain
        seen.add(at)
    return found


def written(
    out: Path,
    architecture: str,
    config: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    files: Mapping[str, Path] | None = None,
) -> None:
    """Write the folder `out` of a converted reward, whole or not at all. Raises ConfigError.

    The folder holds config.json, model.safetensors, and copies of `files`: a name in `out`, and the file or folder with
    the content. `state` must be finite, and of float16, bfloat16 or float32. Each of its tensors keeps its type.
    """
    for name, value in state.items():
        check(value.dtype in TYPES, "SOURCE", name, f"a tensor of {', '.join(checkpoint.TYPES)}, not {value.dtype}")
        check(bool(value.isfinite().all()), "SOURCE", name, "a tensor of finite numbers: there is a NaN or inf")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            whole = Path(beside) / out.name
            whole.mkdir()
            about = json.dumps({"architecture": architecture, **config}, indent=2)
            (whole / checkpoint.FILES[0]).write_text(about + "\n")
            save_file(_apart(state), whole / checkpoint.FILES[1])
            for name, file in (files or {}).items():
                if file.is_dir():
                    shutil.copytree(file, whole / name)
                else:
                    (whole / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, whole / name)
            whole.rename(out)
    except (OSError, ValueError, SafetensorError) as error:  # such as a full disk, or a name with a null
        raise ConfigError(f"OUT: {out} cannot be written: {told(error)}") from error
