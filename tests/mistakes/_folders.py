"""Copies of the tiny model that ships, with something broken in each; files that stay whole are links."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistakes import ROOT

ASSETS = ROOT / "actors" / "assets"
VAE, TRANSFORMER = (f"{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "transformer"))
TEXT = "text_encoder/model.safetensors"
Damage = Callable[[Path], None]


def model(*damages: Damage, of: str = "tiny-wan") -> Damage:
    """Make the folder `m`, a model that ships, and damage it."""

    def make(folder: Path) -> None:
        for file in (ASSETS / of).rglob("*"):
            if file.is_file():
                place = folder / "m" / file.relative_to(ASSETS / of)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(file)
        for damage in damages:
            damage(folder / "m")

    return make


def without(name: str) -> Damage:
    """Remove a file or a part."""
    return lambda m: shutil.rmtree(m / name) if (m / name).is_dir() else (m / name).unlink()


def holding(name: str, content: str | bytes) -> Damage:
    """Replace a file, or add one."""

    def damage(m: Path) -> None:
        (m / name).unlink(missing_ok=True)
        (m / name).parent.mkdir(exist_ok=True)
        (m / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def pointer(name: str) -> Damage:
    """Replace a file by what Git leaves without LFS."""
    return holding(name, "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 8725656\n")


def moved(name: str, to: str) -> Damage:
    """Rename a file or a part."""
    return lambda m: os.rename(m / name, m / to)


def linked(name: str) -> Damage:
    """Replace a file by a link to nothing."""

    def damage(m: Path) -> None:
        (m / name).unlink()
        (m / name).symlink_to(m / "blobs" / "0123")

    return damage


def cut(name: str, at: int) -> Damage:
    """Keep the first bytes of a file."""
    return lambda m: holding(name, (m / name).read_bytes()[:at])(m)


def edited(name: str, **values: Any) -> Damage:
    """Set keys of a JSON file, or with None remove them."""

    def damage(m: Path) -> None:
        given = json.loads((m / name).read_bytes()) | values
        kept = {k: v for k, v in given.items() if k not in values or v is not None}
        holding(name, json.dumps(kept))(m)

    return damage


def reheaded(name: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    """Change the header of a safetensors file; its tensors' bytes stay."""

    def damage(m: Path) -> None:
        data = (m / name).read_bytes()
        n = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + n])
        change(header)
        text = json.dumps(header).encode()
        holding(name, len(text).to_bytes(8, "little") + text + data[8 + n :])(m)

    return damage


def renamed(name: str, old: str, new: str) -> Damage:
    """Rename a tensor."""
    return reheaded(name, lambda header: header.update({new: header.pop(old)}))


def retyped(name: str, tensor: str, **facts: Any) -> Damage:
    """Give a tensor another type or shape in the header."""
    return reheaded(name, lambda header: header[tensor].update(facts))


def valued(name: str, tensor: str, value: bytes) -> Damage:
    """Set the first number of a tensor; bytes as in the file."""

    def damage(m: Path) -> None:
        data = (m / name).read_bytes()
        n = int.from_bytes(data[:8], "little")
        at = 8 + n + json.loads(data[8 : 8 + n])[tensor]["data_offsets"][0]
        holding(name, data[:at] + value + data[at + len(value) :])(m)

    return damage
