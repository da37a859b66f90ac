"""Going on with a run on other real workers than it began on."""

import asyncio
from pathlib import Path

import pyarrow.parquet as pq
from fakes import answers, cut, same

from actors.backend import Backend
from raysearch.config import config as configuration
from raysearch.session.session import Session

ROOT = Path(__file__).parents[2]


def test_a_run_is_gone_on_with_on_another_fleet(tmp_path):
    """One slot is exact and eight are not: candidates keep the names that they began with, so answers are found."""
    model = {"path": str(ROOT / "actors" / "assets" / "mixture"), "height": 1, "width": 1, "num_frames": 1}
    values = {
        "model": model,
        "sampler": {"name": "euler", "num_steps": 10, "guidance_scale": 1.0},
        "rewards": {"search": {"name": "near", "point": [1.0, 0.5]}},
        "prompts": ["anywhere"],
        "policy": {"name": "rgrp", "schedule": [2, 4, 6]},
        "output": {"videos": False},
    }

    def go(path, slots, **more):
        fleet = {"backend": "local", "denoisers": {"slots": slots}}
        s = Session(configuration.build(values | {"fleet": fleet} | more), Backend(), run_dir=path)
        asyncio.run(s.run())
        return pq.read_table(path / "searches.parquet").to_pylist()

    expected = go(tmp_path / "whole", 1)
    path = cut(tmp_path / "whole", tmp_path / "run", 2)
    rows = go(path, 8, resume="auto")
    assert same(rows) == same(expected)
    assert len(answers(path)) == len(answers(tmp_path / "whole"))
    assert go(cut(tmp_path / "whole", tmp_path / "again", 2), 8, resume="auto")[0]["winner"] == expected[0]["winner"]
