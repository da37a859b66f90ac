"""Reads report pages as a browser does, and makes folders of runs by hand: what tests of pages share."""

import base64
import gzip
import json
import re
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysearch.session.snapshot import Snapshot

__all__ = ["Shown", "base64", "columns", "folder", "gzip", "search", "sha256", "shlex", "stopped"]
NUMBERS = {"f64": "<f8", "f32": "<f4", "i32": "<i4", "u8": "<u1", "u16": "<u2"}
CONFIG = "arms: [{name: single}, {name: best}]\nseeds_apart: false\n"


class Shown:
    """A page out of its bytes: the manifest, and the tables' columns as lists, with None for null."""

    def __init__(self, page: bytes) -> None:
        self.manifest = json.loads(self._script(page, "manifest"))
        self.block = gzip.decompress(base64.b64decode(self._script(page, "columns"), validate=True))

    @staticmethod
    def _script(page: bytes, name: str) -> str:
        (found,) = re.findall(rf'<script type="[a-z/]+" id="{name}">([^<]*)</script>', page.decode())
        return found

    def table(self, name: str) -> dict[str, list[Any]]:
        """A table of the page itself."""
        return columns(self.manifest["tables"][name], self.block)


def columns(table: dict[str, Any], block: bytes) -> dict[str, list[Any]]:
    """The columns of a table, as README.md of raysearch/page says that they lie in the block."""
    found = {}
    for name, c in table["columns"].items():
        assert c["offset"] % 8 == 0
        width = c.get("width", 1)
        assert c["length"] == table["n"] * width, name
        found[name] = _column(c, block, width)
    return found


def _column(c: dict[str, Any], block: bytes, width: int) -> list[Any]:
    kind = c["codes"] if c["type"] == "dict" else c["type"]
    if kind == "hex":
        raw = block[c["offset"] : c["offset"] + c["length"]]
        return [raw[i : i + width].hex() if any(raw[i : i + width]) else None for i in range(0, len(raw), width)]
    values = np.frombuffer(block, NUMBERS[kind], c["length"], c["offset"]).tolist()
    if c["type"] == "dict":
        at = c["strings"]
        texts = json.loads(block[at["offset"] : at["offset"] + at["bytes"]])
        assert all(v < len(texts) or v == {"u8": 255, "u16": 65535}.get(kind) for v in values)
        return [texts[v] if 0 <= v < len(texts) else None for v in values]
    none = [None if v != v or (kind == "i32" and v == -1) else v for v in values]
    return none if width == 1 else [none[i : i + width] for i in range(0, len(none), width)]


def search(prompt: int, seed: int, arm: str, judged: float | None, **more: Any) -> dict[str, Any]:
    """A row of searches.parquet."""
    row = {"search_id": f"{prompt:06d}-s{seed}-{arm}", "arm": arm, "prompt": f"caption {prompt}", "seed": seed}
    row |= {"policy": arm, "policy_args": "{}", "status": "done" if judged is not None else "failed", "reason": ""}
    row |= {"winner": None, "reward_search": judged, "reward_holdout": judged, "nfe": 20, "nfe_spent": 10}
    return row | {"replica_seconds": 2.0, "wall_seconds": 3.0, "decodes": 1, "reward_calls": 1, "video": None} | more


def folder(path: Path, config: str = CONFIG, **tables: list[dict[str, Any]]) -> Path:
    """The folder of a run with these tables, each a list of rows."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config)
    for name, rows in tables.items():
        names = dict.fromkeys(k for r in rows for k in r)
        columns = {k: pa.array([r.get(k) for r in rows]) for k in names}
        pq.write_table(pa.table(columns), path / f"{name}.parquet")
    return path


def stopped(path: Path) -> Path:
    """The folder of a run that was interrupted before its first search."""
    folder(path)
    (path / "status.json").write_bytes(Snapshot("run", "interrupted", "", 1.8e9, 0.0, None, None, 0, {}, None).json())
    return path
