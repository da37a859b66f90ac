"""`raysearch sweep` on the toy model: mistakes in one line, and what it writes."""

import pyarrow.parquet as pq
import pytest
import yaml
from sweeps import BASE, BEST, RGRP

from actors.backend import Backend
from raysearch.__main__ import CHECKING, main


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (None, "sweep: None is not allowed; it must be a mapping with curves"),
        ({"curve": []}, "sweep.curve: unknown key (did you mean 'curves'?)"),
        ({"curves": []}, "sweep.curves: [] is not allowed; it must be a list of at least one curve"),
        ({"curves": [5]}, "sweep.curves[0]: 5 is not allowed"),
        ({"curves": [{"polcy": {}}]}, "sweep.curves[0].polcy: unknown key (did you mean 'policy'?)"),
        ({"curves": [{"policy": "single"}]}, "sweep.curves[0].policy: 'single' is not allowed; it must be a mapping"),
        ({"curves": [{"name": 3}]}, "sweep.curves[0].name: 3 is not allowed; it must be a text"),
        ({"curves": [BEST | {"along": [1, 2]}]}, "sweep.curves[0].along: [1, 2] is not allowed; it must be a mapping"),
        ({"curves": [BEST | {"along": {"policy.n": []}}]}, "sweep.curves[0].along.policy.n: [] is not allowed"),
        ({"curves": [BEST | {"along": {"policy.n": 4}}]}, "sweep.curves[0].along.policy.n: 4 is not allowed"),
        ({"curves": [BEST | {"along": {"polcy.n": [1]}}]}, "sweep.curves[0].along.polcy.n: unknown key"),
        ({"curves": [BEST | {"along": {"seeds": [1]}}]}, "allowed here: policy.…, sampler.…, budget.…, rewards.…"),
        (
            {"curves": [BEST | {"along": {"obstacles.0": [1]}}]},
            "allowed here: policy.…, sampler.…, budget.…, rewards.…",
        ),
        ({"curves": [BEST | {"obstacles": [{"txt": "b"}]}]}, "obstacles[0]: {'txt': 'b'} is not allowed"),
        (
            {"curves": [BEST | {"along": {"policy.m": [1]}}]},
            "sweep.curves[0] (best_of_n-m1): policy.m: unknown key; allowed here: n",
        ),
        (
            {"curves": [BEST | {"along": {"policy.n": [1, 0]}}]},
            "policy.n: 0 is not allowed; it must be at least 1",
        ),
        (
            {"curves": [BEST | {"along": {"policy.n": ["two"]}}]},
            "sweep.curves[0] (best_of_n-n-two): policy.n: 'two' is not allowed; it must be of type int",
        ),
        (
            {"curves": [BEST | {"across": {"sampler.num_step": [2]}}]},
            "sampler.num_step: unknown key (did you mean 'num_steps'?)",
        ),
        (
            {"curves": [BEST | {"along": {"policy.n": [1, 1]}}]},
            "sweep.curves[0]: 'best_of_n-n1' is not allowed; it must be another arm than best_of_n-n1",
        ),
        ({"curves": [BEST, BEST | {"name": "again"}]}, "'again-n1' is not allowed; it must be another arm than best"),
        (
            {"curves": [BEST, BEST | {"sampler": {"name": "euler"}}]},
            "sweep.curves[1]: 'best_of_n' is not allowed; it must be given a `name`: another curve has this",
        ),
        ({"curves": [{"along": {"policy.name": ["single", "smc"]}}]}, "sweep.curves[0].name: None is not allowed"),
        ({"curves": [BEST | {"across": {"sampler.eta": [0.5, 0.5]}}]}, "across.sampler.eta: [0.5, 0.5] is not allowed"),
        (
            {"curves": [BEST | {"along": {"policy.n": [1, 2], "budget.nfe": [20]}}]},
            "it must be of equally long lists: they move together",
        ),
        ({"curves": [BEST | {"across": {"policy.n": [1]}}]}, "sweep.curves[0].along: 'policy.n' is not allowed"),
        (
            {"curves": [BEST | {"across": {"budget.nfe": [100]}}], "across": {"budget.nfe": [100]}},
            "sweep.curves[0].across: 'budget.nfe' is not allowed; it must be left out: it is in sweep.across",
        ),
        (
            {"curves": [BEST | {"along": {"policy.n": list(range(1, 1002))}}]},
            "sweep: '1001 arms' is not allowed; it must be of at most 1000",
        ),
        ({"curves": [{"policy": {"name": "best_of_m"}}]}, "did you mean 'best_of_n'?"),
        ({"curves": [BEST | {"along": {"policy.n.deep": [1]}}]}, "policy.n: {'deep': 1} is not allowed"),
        (
            {"curves": [BEST | {"along": {"sampler.name.deep": ["x"]}}]},
            "{'deep': 'x'} is not allowed",
        ),
        ({"curves": [BEST | {"across": {"sampler.num_steps": ["many"]}}]}, "sampler.num_steps: 'many' is not allowed"),
        ({"curves": [RGRP | {"along": {"policy.schedule": [[2, 12]]}}]}, "policy.schedule: 12 is not allowed"),
        ({"curves": [BEST | {"along": {"policy.n": [float("nan")]}}]}, "policy.n: nan is not allowed"),
    ],
)
def test_one_clear_line(tiny, tmp_path, capsys, block, line):
    path = tmp_path / "sweep.yaml"
    model = {"path": str(tiny), "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 40}
    rewards = {"search": {"name": "tiny:Brightness"}}
    values = {"model": model, "rewards": rewards, "fleet": {"backend": "local"}, "run_dir": str(tmp_path / "run")}
    path.write_text(yaml.safe_dump(BASE | values | {"sweep": block}))
    assert main(["sweep", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out.removeprefix(f"{CHECKING}\n"), err.count("\n")) == ("", 1)
    assert err.startswith("raysearch: ")
    assert line in err
    assert not (tmp_path / "run").exists()


def test_the_command_sweeps_and_when_given_again_has_nothing_to_do(tiny, tmp_path, capsys, monkeypatch):
    path = tmp_path / "sweep.yaml"
    values = {
        "model": {"path": str(tiny), "height": 32, "width": 32, "num_frames": 9, "max_sequence_length": 40},
        "sampler": {"num_steps": 4},
        "rewards": {"search": {"name": "tiny:Brightness"}, "holdout": {"name": "tiny:Brightness"}},
        "prompts": ["a red circle moving left", "a blue square moving up"],
        "sweep": {"curves": [{"policy": {"name": "best_of_n"}, "along": {"policy.n": [1, 2]}}]},
        "fleet": {"backend": "local"},
        "output": {"videos": False},
        "run_dir": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(values))
    assert main(["sweep", str(path)]) == 0
    files = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    assert set(files) == {
        *("config.yaml", "status.json", "searches.parquet", "candidates.parquet", "timeline.parquet", "trace.parquet"),
        *("sweep.parquet", "curves.parquet", "fits.parquet", "curves.png", "success.png", "summary.md"),
    }
    rows = pq.read_table(tmp_path / "run" / "sweep.parquet").to_pylist()
    assert [(r["arm"], r["nfe_alone"]) for r in rows] == [("best_of_n-n1", 8), ("best_of_n-n2", 16)] * 2
    assert sum(r["nfe_spent"] for r in rows) == 2 * 16
    monkeypatch.setattr(Backend, "fleet", None)
    capsys.readouterr()
    assert main(["sweep", str(path)]) == 0
    assert "4 searches (4 are done already)" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == files
    assert main(["sweep", str(path), "seeds=[1]"]) == 2
    assert "this run has seeds=[0], and the config seeds=[1]" in capsys.readouterr().err
