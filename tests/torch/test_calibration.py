"""Calibrate the tiny model, plan with what was measured, run, and plan the run again: every NFE is the same."""

import json
from pathlib import Path

import pytest
from states import sizes

from actors.facts import facts
from raysearch.__main__ import main
from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.planner import timings

ROOT = Path(__file__).parents[2]
CONFIG = f"""\
model: {{path: {ROOT}/actors/assets/tiny-wan, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}
sampler: {{num_steps: 8, guidance_scale: 2.0}}
rewards: {{search: {{name: pixel}}, holdout: {{name: verifier}}}}
prompts: [a red circle moving left, a green square moving up]
arms:
  - {{name: single, policy: {{name: single}}}}
  - {{name: best, policy: {{name: best_of_n, n: 3}}}}
  - {{name: sequential, policy: {{name: sequential, n: 4, looks: [3], bars: [1.5], enough: 2.0}}}}
  - {{name: rgrp, policy: {{name: rgrp, n: 3, schedule: [2, 4, 5]}}}}
  - name: shared
    policy: {{name: best_of_n, n: 4}}
    allocation: {{name: lowest_best}}
    budget: {{total_nfe: 80}}
fleet: {{backend: local, denoisers: {{slots: 2}}}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config, its timings beside it, and a run."""
    found = tmp_path_factory.mktemp("plan")
    (found / "small.yaml").write_text(CONFIG)
    assert main(["calibrate", str(found / "small.yaml")]) == 0
    assert main(["run", str(found / "small.yaml"), f"run_dir={found / 'run'}"]) == 0
    return found


def planned(capsys, *words):
    capsys.readouterr()
    assert main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_calibration_measures_everything(folder):
    (entry,) = timings.entries(folder / "small.timings.json")
    s = entry["seconds"]
    assert set(s["forward"]) == {"1", "2"} and min(s["forward"].values()) > 0
    assert set(s["load"]) == {"denoiser", "scorer", "encoder"} and min(s["load"].values()) > 0
    assert {k.partition("-")[0] for k in s["rewards"]} == {"pixel", "verifier"}
    assert s["encode"] > 0 and s["decode"] > 0 and s["finish"] >= 0
    assert entry["video"] > 1000 and entry["state"]["velocity"] == 6144
    assert entry["shape"] == [9, 32, 32] and entry["dtype"] == "float32"


def test_a_second_calibration_keeps_other_entries_and_other_rewards(folder, tmp_path):
    (entry,) = timings.entries(folder / "small.timings.json")
    file = tmp_path / "shared.json"
    timings.merged(file, entry | {"device": "another"})
    timings.merged(file, json.loads(json.dumps(entry)))
    again = json.loads(json.dumps(entry))
    again["seconds"]["rewards"] = {"mine": 1.0}
    timings.merged(file, again)
    kept = timings.entries(file)
    assert [e["device"] for e in kept] == ["another", entry["device"]]
    assert set(kept[1]["seconds"]["rewards"]) == {*entry["seconds"]["rewards"], "mine"}
    wanted = {k: entry[k] for k in ("model", "shape", "dtype")}
    assert timings.read(file, wanted, "another").source.startswith("shared.json: another")
    with pytest.raises(ConfigError, match="a file with one device, or with this machine's, third"):
        timings.read(file, wanted, "third")


def test_nfe_of_a_run_are_foretold_with_its_rewards(folder, capsys):
    found = planned(capsys, "--against", folder / "run", "--timings", folder / "small.timings.json")
    rows = {r["what"]: r for r in found["rows"]}
    assert rows["NFE alone"]["off"] == 0 and rows["NFE shared"]["off"] == 0
    assert rows["wall"]["plan"] > 0 and rows["wall"]["run"] > 0
    main(["plan", "--against", str(folder / "run"), "--timings", str(folder / "small.timings.json")])
    out = capsys.readouterr().out
    assert "exact" in out and "NFE shared" in out


def test_sizes_of_states_are_the_real_ones(folder):
    """What a denoiser's states weigh after each step, without and with the velocity there, but for a few numbers."""
    config = configuration.load(folder / "small.yaml")
    plan, measured = sizes(config)
    state = facts(config, plan).state
    told = {(step, v): state(plan.arms[0].sampler, step, v) for step, v in measured}
    assert len({told[step, False] for step in range(9)}) == 3  # the history grows, and a finished video has none
    assert all(0 <= measured[at] - told[at] <= 32 for at in measured)


def test_fleets_are_compared_and_nothing_is_left(folder, capsys, tmp_path):
    before = sorted(p.name for p in folder.iterdir())
    tries = "--try", "denoisers=1,2", "--price", "3", "--deadline", "1d", "--rewards", folder / "run"
    found = planned(capsys, folder / "small.yaml", *tries)
    one, two = found["fleets"]
    assert one["nfe"] == two["nfe"] and one["fits_deadline"]  # closed forms say which is faster: load is measured here
    assert two["money"][1] == pytest.approx(3 * two["hours"][1])
    assert found["needs"]["denoiser"]["weights"] > 1e6 and found["needs"]["disk"]["videos"] > 0
    assert sorted(p.name for p in folder.iterdir()) == before
    assert main(["plan", str(folder / "small.yaml"), *map(str, tries), "--arms"]) == 0
    out = capsys.readouterr().out
    assert "fits deadline 24 h: 1 + 1; 2 + 1" in out and "NFE per search: single 16, best 48" in out
    assert "adds NFE" in out and "fastest" in out


def test_a_run_says_its_plan_first_and_waits_for_a_yes(folder, capsys, monkeypatch, tmp_path):
    """No run folder is left where the user does not want the run."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "n")
    words = ["run", str(folder / "small.yaml"), f"run_dir={tmp_path / 'run'}", "--ask"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "plan: " in out and "on 1 + 1" in out and "go on? [y/N]" in out
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("builtins.input", lambda: "y")
    assert main([*words, "arms=null", "policy.name=single"]) == 0
    assert (tmp_path / "run" / "searches.parquet").exists()
