"""Work ahead of a search on real models: its winner has the same bits."""

import asyncio

import pyarrow.parquet as pq
import pytest
from runs import config
from safetensors.numpy import load_file

from actors.backend import Backend
from raysearch.engine.speculation import Speculation
from raysearch.session.session import Session


@pytest.mark.parametrize(
    ("policy", "solver"),
    [
        ({"name": "rgrp", "n": 5, "schedule": [1, 3, 5]}, "unipc"),
        ({"name": "beam", "k": 2, "n": 2, "every": 2}, "flow-sde"),
    ],
)
def test_the_winner_has_the_same_bits(tiny, tmp_path, monkeypatch, policy, solver):
    guessed, claimed = [], []
    ran, claim = Speculation.ran, Speculation.claim
    monkeypatch.setattr(Speculation, "ran", lambda self, *args: (guessed.append(args), ran(self, *args))[1])
    monkeypatch.setattr(Speculation, "claim", lambda self, x: (claimed.append(claim(self, x)), claimed[-1])[1])

    def winner(name, speculate):
        fleet = {"backend": "local", "speculate": speculate, "denoisers": {"replicas": 2}}
        c = config(tiny, policy=policy, sampler={"name": solver}, fleet=fleet)
        asyncio.run(Session(c, Backend(), run_dir=tmp_path / name).run())
        (row,) = pq.read_table(tmp_path / name / "searches.parquet").to_pylist()
        (latents,) = (tmp_path / name).glob("latents/*.safetensors")
        return row, load_file(latents)["latents"]

    expected, bits = winner("off", False)
    assert not guessed
    row, same = winner("on", True)
    assert (row["status"], row["winner"], row["reward_search"]) == (
        "done",
        expected["winner"],
        expected["reward_search"],
    )
    assert (same == bits).all()
    assert guessed and any(claimed)
