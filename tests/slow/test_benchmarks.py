"""Benchmarks print figures and assert nothing; here each runs once, small, so that none falls behind the code."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

import raysearch
from actors.tiny import world
from actors.tiny.training import long

HERE = Path(__file__).parents[1]


def printed(script: str, arguments: str) -> str:
    """What a script under tests/ prints in a process of its own: for those that start Ray, or measure memory."""
    paths = os.pathsep.join((str(HERE.parent), str(HERE)))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": paths}
    command = [sys.executable, str(HERE / script), *arguments.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def printed_here(monkeypatch, capsys):
    """What one prints in this process, which has imported torch already."""

    def run(script: str, arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(HERE / script), *arguments.split()])
        monkeypatch.syspath_prepend((HERE / script).parent)
        runpy.run_path(str(HERE / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_what_one_step_foretells(tmp_path, printed_here):
    """Of two early rewards, one that knows the end and one that says the opposite."""
    ends = np.random.default_rng(0).random((3, 10))
    rows = [
        {"search_id": f"{i:06d}-s0-{arm}", "origin": f'{{"index":{j},"kind":"noise"}}', "sigma": sigma}
        | {"reward": i + s * end}
        for i, caption in enumerate(ends)
        for j, end in enumerate(caption)
        for arm, sigma, s in (("knows", 1.0, 2.0), ("errs", 1.0, -1.0), ("full", 0.0, 1.0), ("full", 0.5, 0.3))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    lines = printed_here("benchmarks/correlation.py", f"{tmp_path} --early knows errs --late full").splitlines()
    assert lines[0] == "3 captions, 30 noises"
    found = {(k, line.split()[0]): line.split(maxsplit=1)[1] for k in (0, 1) for line in lines[2 + 3 * k : 4 + 3 * k]}
    assert found[0, "knows"] == found[1, "knows"] == "1.00 (1.00 to 1.00)"
    assert found[0, "errs"] == "-1.00 (-1.00 to -1.00)"
    least = ((ends.min(1) - ends.mean(1)).sum() / (ends.max(1) - ends.mean(1)).sum()).round(2)
    assert found[1, "errs"].split()[0] == f"{least:.2f}"


def test_how_long_videos_keep(tmp_path, printed_here):
    """A true video, and one that stands still and is no video of its captions at all."""
    rng = np.random.default_rng(0)
    captions, frames = long.to_and_fro(long.objects(rng), rng, 3)
    (tmp_path / "frames").mkdir()
    rows = []
    for arm, shown, success in (("base", frames, 1.0), ("still", frames[:1].repeat(49, 0), 0.0)):
        for seed in (0, 1):
            name = f"{arm}-{seed}"
            np.save(tmp_path / "frames" / f"{name}.npy", shown)
            row = {
                "search_id": name,
                "arm": arm,
                "prompt": captions[0],
                "seed": seed,
                "nfe": 60 + 60 * (arm == "still"),
            }
            row |= {"replica_seconds": 2.0, "holdout_VQ": 0.5, "holdout_success_chunks": [1.0, 1.0, success]}
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "searches.parquet")
    lines = (
        printed_here("benchmarks/long_videos.py", f"{tmp_path} --features world").replace(" ± 0.000", "").splitlines()
    )
    base, still = (line.split()[1:] for line in lines[2:4])
    assert lines[-1].split() == ["still", "-0.333", "(-0.333", "to", "-0.333)"]
    assert base[:5] == ["1.000", "1.000", "1.000", "1.000", "0.500"] and base[-2:] == ["1.00", "1.00"]
    assert still == ["0.667", "1.000", "0.000", "0.000", "0.500", *["1.000"] * 4, "2.00", "1.00"]
    assert 0.9 < float(base[5]) < 1 and 0.9 < float(base[8]) < 1


def test_what_a_look_costs_and_says(printed_here):
    lines = printed_here("benchmarks/looks.py", "--captions 2 --noises 3 --at 15 --repeats 1").splitlines()
    (last,) = (line.split() for line in lines if line.startswith("all "))
    assert float(last[1]) > 0.8 and len(lines) == 5 + 4 + 3


def test_a_long_video_goes_on_in_the_same_memory():
    lines = printed("benchmarks/long_memory.py", "--frames 33 --more 49 --steps 4 --partitions 2").splitlines()
    assert lines[-1].split()[-1] == "True"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dispatch_rate", "--n 500 --ray-n 50 --repeats 1"),
        ("overhead", "--n 2 --steps 2 --heads 1 --repeats 1"),
        ("two_replicas", "--n 2 --steps 2 --repeats 1"),
        ("particles", "--n 30 --mb 0.2 --steps 2 --store-gb 0.002 --object-store-gb 0.2"),
    ],
)
def test_on_ray(name, arguments):
    assert printed(f"benchmarks/{name}.py", arguments)


def test_the_record_of_a_run():
    lines = printed("benchmarks/recording.py", "seeds=[0] --config configs/mixture.yaml").splitlines()
    rows = {line.split()[0]: int(line.split()[1]) for line in lines if ".parquet" in line}
    assert rows["trace.parquet"] > rows["timeline.parquet"] > 0 and lines[-1].split()[-1].endswith("%")


def test_a_folder_in_a_store_against_one_on_disk():
    assert printed("benchmarks/remote.py", "--searches 2 --n 2 --pairs 1")


def test_a_large_page_in_chromium():
    if shutil.which("chromium") is None:
        pytest.skip("chromium is missing")
    assert printed("benchmarks/page.py", "--searches 30 --candidates 300 --rounds 1").splitlines()


def test_on_a_gpu_where_there_is_one():
    sizes = "--layers 1 --heads 1 --ffn 64 --text-width 32 --vae-width 8 --height 32 --width 32 --frames 5 --tokens 40"
    ltx = "--ltx-layers 1 --ltx-heads 1 --ltx-size 64 64 9"
    parts = "--parts speed same decode generic --slots 1 2 --steps 3 --repeats 1"  # compiling takes a minute
    lines = printed("benchmarks/gpu.py", f"{parts} {sizes} {ltx}").splitlines()
    assert all(" True " in line for line in lines if " the same bits " in line)
    assert sum("of the pipeline's" in line or line.startswith("a ") for line in lines) == 9


def test_a_pipeline_as_it_is_against_its_own_call():
    lines = printed("benchmarks/own_pipelines.py", "--kinds LTX FLUX --steps 4 --wan-steps 4 --repeats 1").splitlines()
    held = [line.split() for line in lines if "Pipeline`" in line]
    assert len(held) == 2 and all(words.count("yes") == 3 for words in held)
    assert [line.split()[1:3] for line in lines if line.startswith(("best_of_n", "rgrp"))] == [["yes", "yes"]] * 2


def test_in_virtual_time(printed_here):
    assert "100.0%" in printed_here("benchmarks/occupancy.py", "--replicas 4 --waves 2")
    assert "\n60  " in printed_here("benchmarks/many_searches.py", "--searches 30 60")


def test_the_folder_of_a_run_that_never_was(tmp_path, printed_here):
    assert str(tmp_path) in printed_here("benchmarks/page_data.py", f"{tmp_path / 'run'} --searches 20 --candidates 60")
    assert pq.read_metadata(tmp_path / "run" / "candidates.parquet").num_rows == 60


def test_prfl_decodes_nothing_and_pixels_do():
    lines = printed("benchmarks/prfl.py", "--batch 1 --num-steps 4 --steps 1 --repeats 1").splitlines()
    assert lines[-1].startswith("decodes: 0 and ") and not lines[-1].endswith(" 0")


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    return tiny.collected(tmp_path_factory.mktemp("latents"), world.HELD_OUT_TWO[:8], seeds=2, shape=(8, 5, 8, 8))


def test_what_latent_rewards_say(latents, printed_here):
    table = printed_here("benchmarks/latent_rewards.py", f"--dataset {latents} --levels 0.5 --times 1")
    assert all(name in table for name in ("PAVRM", "verifier on x0 prediction", "chance", "guided steps"))


def test_what_features_know(latents, printed_here):
    lines = printed_here("benchmarks/probe.py", f"--dataset {latents}").splitlines()
    assert [sum(line.startswith(kind) for line in lines) for kind in ("frozen", "fine-tuned")] == [8, 6]


def test_what_arms_gain(tmp_path, printed_here):
    """Two runs of the same captions and seeds, worked out by hand; the second has a plain arm of its own."""

    def row(arm, prompt, seed, judged, cost, success):
        found = {"arm": arm, "prompt": prompt, "seed": seed, "replica_seconds": cost}
        return found | dict.fromkeys(("holdout_VQ", "holdout_MQ", "holdout_TA"), judged) | {"holdout_success": success}

    runs = {
        "first": [
            row(arm, prompt, 0, None if (arm, prompt) == ("best-of-4", "c") else start + gain, cost, success)
            for arm, gain, cost, success in (("single", 0.0, 1.0, 0.0), ("best-of-4", 0.1, 4.0, 1.0))
            for prompt, start in (("a", 0.2), ("b", 0.5), ("c", 0.9))
        ],
        "second": [
            row(arm, prompt, seed, start + gain, cost, success)
            for arm, gain, cost, success in (
                ("single", 0.7, 9.0, 1.0),
                ("evolution", 0.2, 8, 1.0),
                ("rgrp", 0.05, 2, 0),
            )
            for prompt, start, seed in (("b", 0.5, 0), ("a", 0.2, 0), ("a", 0.2, 1))
        ],
    }
    for name, rows in runs.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "searches.parquet")

    def table(arguments):
        lines = printed_here("benchmarks/gains.py", arguments).splitlines()
        return lines, {tuple(line.split()) for line in lines}

    both = f"{tmp_path / 'first'} {tmp_path / 'second'}"
    lines, found = table(both)
    assert lines[:2] == [
        f"single is that of an earlier run, and not that of {tmp_path / 'second'}",
        "2 captions, 2 pairs of caption and seed; gains are over single",
    ]
    for line in (
        "single +0.000 1.00 -0.300 0.00 0.25 -0.600 0.00 0.12",
        "best-of-4 +0.300 4.00 +0.000 1.00 1.00 -0.300 0.50 0.50",
        "evolution +0.600 8.00 +0.300 2.00 2.00 +0.000 1.00 1.00",
        "rgrp +0.150 2.00 -0.150 0.50 0.50 -0.450 0.25 0.25",
        "rgrp 0.000 +0.000 -1.000 -1.000",
    ):
        assert tuple(line.split()) in found
    lines, found = table(f"{both} --arms rgrp --against evolution")
    assert not any(line[0] == "best-of-4" for line in found if line)
    assert ("rgrp", "+0.150", "2.00", "-0.450", "0.25", "0.25") in found


def test_gains_have_intervals_and_say_what_they_lack(tmp_path, printed_here, capsys):
    rows = [
        {"arm": arm, "prompt": p, "seed": 0, "replica_seconds": 1.0, "holdout_VQ": k * 0.1 * (1 + (p in "ab"))}
        for k, arm in enumerate(("single", "one", "two"))
        for p in "abcdefgh"
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "searches.parquet")
    one = next(
        line.split()
        for line in printed_here(
            "benchmarks/gains.py", f"{tmp_path} --components holdout_VQ --against two --json {tmp_path / 'a.json'}"
        ).splitlines()
        if line.startswith("one")
    )
    low, high = float(one[2].strip("[,")), float(one[3].strip("]"))
    assert one[1] == "+0.125" and 0.1 <= low < 0.125 < high < 0.2 and one[8:] == ["0.50", "1.00"]
    assert list(json.loads((tmp_path / "a.json").read_text())["tables"]) == ["gains"]  # nobody judged success
    for arguments, line in (
        ("--components holdout_VQ", "the arms with judged searches are single, one, two, and not best-of-4"),
        ("--components VQ", "no run has a column VQ; there are holdout_VQ"),
    ):
        with pytest.raises(SystemExit):
            printed_here("benchmarks/gains.py", f"{tmp_path} {arguments}")
        assert line in capsys.readouterr().err
    pq.write_table(pa.Table.from_pylist(rows[:1] + rows), tmp_path / "searches.parquet")  # of two negative prompts
    with pytest.raises(SystemExit, match="'a' has two searches of seed 0"):
        printed_here("benchmarks/gains.py", f"{tmp_path} --components holdout_VQ")


def test_what_drafts_keep_of_the_gain(tmp_path, printed_here):
    """Of runs that are there already, so that none is made: means by hand."""
    captions = (HERE.parent / "configs" / "held_out_two.txt").read_text().splitlines()[:2]
    of = {"single": (0.1, 60, 60, 2.0), "best-of-8": (0.5, 480, 480, 8.0), "6-steps,-easy": (0.4, 156, 120, 4.0)}
    for first, caption in enumerate(captions):
        for arm, (grade, nfe, spent, seconds) in of.items():
            run = tmp_path / f"{first:04d}-1-{arm}"
            run.mkdir()
            row = {"search_id": "000000-s0-a", "prompt": caption, "status": "done", "holdout_success": grade}
            row |= {f"holdout_{c}": grade + first for c in ("VQ", "MQ", "TA")}
            row |= {"nfe": nfe, "nfe_spent": spent, "replica_seconds": seconds * (1 + first)}
            pq.write_table(pa.Table.from_pylist([row]), run / "searches.parquet")
    arguments = f"{tmp_path} --captions 2 --block 1 --steps 6 --caches easy"
    lines = printed_here("benchmarks/drafts.py", arguments).splitlines()
    assert sum("captions" in line for line in lines) == 6 and not any("about 1 more" in line for line in lines)
    found = {tuple(line.split()) for line in lines}
    assert ("best-of-8", "0.50", "+1.200", "–", "480", "480", "1.00", "1.00") in found
    assert ("6", "steps,", "easy", "0.40", "+0.900", "0.75", "156", "120", "0.25", "0.50") in found


def test_drafts_are_run_and_a_second_time_they_are_there(tmp_path, printed_here):
    arguments = f"{tmp_path} --captions 1 --block 1 --steps 2 --full 3 --caches taylor"
    first, second = (printed_here("benchmarks/drafts.py", arguments).splitlines() for _ in range(2))
    assert first[3:] == second[3:] and len(first) == 3 + 4
    assert first[-1].split()[:2] == ["2", "steps,"] and second[2].endswith("0.0 min, about 0 more")


def test_what_winners_gain_and_lose_in_each_grade(tmp_path, printed_here, capsys):
    grades = {"single": (0.5, 0.4, 0.3, 0), "harms": (0.4, 0.5, 0.1, 0), "helps": (0.6, 0.6, 0.6, 1)}
    rows = [
        {"arm": arm, "prompt": p, "seed": s, "replica_seconds": 1.0}
        | {f"holdout_{c}": v + 0.1 * s for c, v in zip(("VQ", "MQ", "TA"), values[:3], strict=True)}
        | {"holdout_success": float(values[3])}
        for arm, values in grades.items()
        for s, p in enumerate("abc")
        if (arm, p) != ("helps", "c")  # so that this caption does not count
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "searches.parquet")
    lines = printed_here("benchmarks/hacking.py", f"{tmp_path} --json {tmp_path / 'a.json'}").splitlines()
    assert lines[0] == "2 captions, 2 pairs of caption and seed; differences are from single"
    assert [tuple(line.split()) for line in lines[2:]] == [
        ("helps", "1.00", "+0.600", "+0.100", "+0.200", "+0.300", "+1.000"),
        ("single", "0.00", "+0.000", "+0.000", "+0.000", "+0.000", "+0.000"),
        ("harms", "0.00", "-0.200", "-0.100", "+0.100", "-0.200", "+0.000"),
    ]
    assert list(json.loads((tmp_path / "a.json").read_text())["tables"]) == ["arms"]
    for arguments, line in (
        (tmp_path / "none", "holds no searches.parquet"),
        (f"{tmp_path} --single one", "and not one"),
    ):
        with pytest.raises(SystemExit):
            printed_here("benchmarks/hacking.py", str(arguments))
        assert line in capsys.readouterr().err


def test_what_the_arms_of_a_sweep_gain(tmp_path, printed_here):
    rows = [
        {"curve": arm[:3], "arm": arm, "measure": m, "budget": 30.0 * k, "replica_seconds": 1.0 * k, "mean": 0.25 * k}
        | {"difference": d, "difference_low": d - half, "difference_high": d + half, "pairs": 9}
        for arm, k, d, half in (("one-n1", 1, 0.0, 0.0), ("one-n2", 2, 0.5, 0.1), ("two-n2", 2, 0.25, 0.25))
        for m in ("reward_search", "reward_holdout", "holdout_success")
    ]
    lone = {"arm": "one-n4", "pairs": 0} | {f"difference{end}": float("nan") for end in ("", "_low", "_high")}
    rows += [rows[4] | lone, rows[5] | lone]  # of the judged reward and of success
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "curves.parquet")
    lines = [" ".join(x.split()) for x in printed_here("benchmarks/sweeps.py", f"{tmp_path} --curves one").splitlines()]
    assert lines == [
        "arm pairs NFE replica-seconds gain success gain in success",
        "one-n1 9 30 1.00 +0.000 0.250 +0.000",
        "one-n2 9 60 2.00 +0.500 [+0.400, +0.600] 0.500 +0.500 [+0.400, +0.600]",
        "one-n4 0 60 2.00 – 0.500 –",
    ]


def test_a_seeded_hand_that_kills_changes_no_winner():
    lines = printed("chaos.py", "--minutes 0 --prompts 1 --seeds 1 --seed 1 --every 0.5 --most 4").splitlines()
    found = {what.strip(): int(number) for what, _, number in (line.rpartition("  ") for line in lines[2:])}
    assert found["searches"] == 4 and found["winners or latents that changed"] == 0
    assert found["strikes at what was at work"] > 0


def test_arms_of_a_run_are_written_for_a_guide(tmp_path, printed_here):
    run = raysearch.run("configs/mixture.yaml", [f"run_dir={tmp_path / 'run'}"], report=lambda line: None)
    file = tmp_path / "arms.json"
    lines = printed_here("benchmarks/arms.py", f"{run.path} --json {file}").splitlines()
    written = json.loads(file.read_text())
    assert written["command"] == f"python tests/benchmarks/arms.py {run.path}"
    (row,) = written["tables"]["arms"]["rows"]
    assert row[:2] == ["best_of_n", "4"] and row[3:] == ["160", "640"]
    assert lines[1].split("  ")[0] == "best_of_n"


@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_judged_run_is_ended_and_goes_on(backend):
    """After SIGTERM nothing was answered twice; after SIGKILL at most what was on its way in two slots."""
    few = f"--scores 12 --n 3 --slots 2 --latency 0.3 --refused 0.1 --backend {backend}"
    stops = ("SIGKILL", "SIGTERM") if backend == "local" else ("SIGTERM",)
    lines = printed("benchmarks/judge.py", f"{few} --stops {' '.join(stops)}").splitlines()
    cells = [re.split(r" {2,}", line) for line in lines[-len(stops) :]]
    assert [(c[0], c[1], c[-2]) for c in cells] == [(stop, "12 of 12", "12") for stop in stops]
    again = {c[0]: int(c[-3]) for c in cells}
    assert again["SIGTERM"] == 0 and again.get("SIGKILL", 0) <= 2


def test_what_small_pictures_cost(printed_here):
    """Those of all candidates have more bytes than those of kept ones, and no run without them has any."""
    lines = printed_here("benchmarks/previews.py", "--pairs 1 --captions 1 --steps 2 --repeats 2").splitlines()
    assert [line.split("  ")[0] for line in lines[1:9]] == ["32 x 32, 17 frames"] * 4 + ["480 x 832, 81 frames"] * 4
    cells = {line.split()[0]: line.split() for line in lines[-4:]}
    assert cells["none"][-4:] == ["0.00%"] * 3 + ["0"]
    sizes = [int(cells[k][-1].replace(",", "")) for k in ("posters", "kept", "all")]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_the_world_with_walls(printed_here):
    lines = printed_here("benchmarks/walls.py", "--n 3 --captions 1 --noises 2 --steps 2").splitlines()
    rows = [line.split() for line in lines]
    assert [r[3] for r in rows if r[1:3] == ["17", "3"]] == ["100.0%"] * 4  # true clips succeed
    assert [r[-1] for r in rows if r[-2:-1] == ["3"] and r[-1].endswith("%")] == ["0.0%"] * 7  # wrong ones do not
    one, either = ([r for r in rows if r[0] == "three" and len(r) == n][-1] for n in (12, 3))
    assert one[3] == either[1]  # one sample's success, and any of one


def test_plans_beside_runs():
    small = (
        "--set fleet.backend=local sampler.num_steps=6 seeds=[0] rewards.search.name=pixel arms=null policy.name=rgrp"
    )
    lines = printed(
        "benchmarks/planning.py", f"--kinds quickstart --denoisers 1 {small} policy.schedule=[2,4]"
    ).splitlines()
    (row,) = [line for line in lines if line.startswith("quickstart ") and " | " not in line]
    alone, shared = re.findall(r"(\d+) / (\d+)", row)[:2]
    assert alone[0] == alone[1] and shared[0] == shared[1]


def test_plans_of_large_fleets():
    lines = printed("benchmarks/planning.py", "--large --searches 20").splitlines()
    assert [line.split()[:4] for line in lines if " + " in line] == [["20", "64", "+", "16"], ["20", "512", "+", "64"]]


def test_a_duel_on_one_core_has_the_winners_of_the_plain_loop():
    small = "--prompts 1 --n 3 --steps 4 --schedule 0 1 --repeats 1"
    lines = printed("benchmarks/duel.py", f"--only one-core {small}").splitlines()
    assert re.search(r"^one-core .* 1 of 1 +\d+$", lines[-1])


def test_phases_of_a_start():
    lines = printed("benchmarks/startup.py", "--repeats 1 --config configs/mixture.yaml").splitlines()
    ends = {phase: float(times.split()[0]) for phase, times in (re.split(r" {2,}", line)[:2] for line in lines[1:])}
    assert 0 < ends["the clone is there"] < ends["a candidate is denoised"] < ends["the command has ended"]
