"""Candidates rendered from a run's folder: the winners' own bits, and what a search gave up; the run stays as it is."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import ARMS, SIZE, decoded
from safetensors.numpy import load_file

import raysearch
from raysearch.__main__ import main
from raysearch.errors import ConfigError
from raysearch.export import libraries, render


@pytest.fixture(scope="module")
def run_dir(tiny, tmp_path_factory) -> Path:
    """A finished run of three arms over two prompts."""
    folder = tmp_path_factory.mktemp("runs")
    config = {
        "model": {"path": str(tiny), **SIZE},
        "sampler": {"num_steps": 8, "guidance_scale": 3.0},
        "rewards": {"search": {"name": "tiny:Brightness"}},
        "arms": ARMS,
        "prompts": ["a red circle moving left", "a price of ${5}"],
        "fleet": {"backend": "local"},
        "output": {"latents": True},
        "run_dir": str(folder / "run"),
    }
    (folder / "config.yaml").write_text(json.dumps(config).replace("${5}", "\\\\${5}"))
    assert main(["run", str(folder / "config.yaml")]) == 0
    return folder / "run"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_winner_rendered_again_is_the_runs_own_video_byte_for_byte(run_dir, tmp_path):
    rows = pq.read_table(run_dir / "searches.parquet").to_pylist()
    before = tree(run_dir)
    assert {r["prompt"] for r in rows} == {"a red circle moving left", "a price of ${5}"}
    first = {r["winner"]: r for r in reversed(rows)}  # arms share winners, and a video's comment names the arm
    for winner, r in first.items():
        assert main(["render", str(run_dir), "--candidate", winner, "--to", str(tmp_path), "--latents"]) == 0
        assert (tmp_path / f"{winner}.mp4").read_bytes() == (run_dir / r["video"]).read_bytes()
        own = load_file(run_dir / "latents" / f"{r['search_id']}.safetensors")["latents"]
        assert (load_file(tmp_path / f"{winner}.safetensors")["latents"] == own).all()
    assert tree(run_dir) == before


def test_the_best_and_those_given_up(run_dir, tmp_path, capsys):
    """A noise that rgrp dropped on the way becomes a whole video; the beginning of a name is enough."""
    scored = pq.read_table(run_dir / "candidates.parquet").to_pylist()
    given_up = next(r for r in scored if r["search_id"].endswith("-rgrp") and r["step"] < 8 and not r["kept"])
    assert main(["render", str(run_dir), "--candidate", given_up["candidate"][:16], f"--to={tmp_path}"]) == 0
    video = tmp_path / f"{given_up['candidate']}.mp4"
    assert decoded(video).shape == (9, 32, 32, 3)
    asked = ["--top", "1", "--arm", "bon", "--by", "moves", f"--to={tmp_path}", "output.scale=2"]
    assert main(["render", str(run_dir), *asked]) == 0
    (other,) = set(tmp_path.iterdir()) - {video}
    assert decoded(other).shape == (9, 64, 64, 3)
    finished = [r for r in scored if r["search_id"].endswith("-bon")]
    assert other.stem == max(finished, key=lambda r: r["moves"])["candidate"]
    assert other.stem != max(finished, key=lambda r: r["reward"])["candidate"]
    content = other.read_bytes()
    capsys.readouterr()
    assert main(["render", str(run_dir), *asked[:-1]]) == 0
    assert "already" in capsys.readouterr().out and other.read_bytes() == content


def test_a_run_that_was_cut_short_renders_what_it_has_asked(run_dir, tmp_path):
    """A search without its last answers is replayed as far as they go."""
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    journal = copy / "journal" / "answers.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"kind":"answer"' in line and b"rgrp" in line][:1]
    journal.write_bytes(b"".join(kept))
    rows = pq.read_table(copy / "candidates.parquet").to_pylist()
    first = next(r for r in rows if r["search_id"] == "000000-s0-rgrp")
    assert main(["render", str(copy), "--candidate", first["candidate"]]) == 0
    assert (copy / "rendered" / f"{first['candidate']}.mp4").is_file()
    last = [r for r in rows if r["search_id"] == "000000-s0-rgrp"][-1]
    assert main(["render", str(copy), "--candidate", last["candidate"]]) == 2  # nothing of it can be made again


def test_mistakes_are_one_line(run_dir, tmp_path, capsys):
    few = pq.read_table(run_dir / "candidates.parquet").to_pylist()[0]["candidate"]
    for arguments, said in [
        (["--candidate", "nothing"], "--candidate"),
        (["--candidate", ""], "--candidate"),
        (["--top", "0"], "--top"),
        (["--top", "2", "--by", "beauty"], "--by"),
        (["--top", "2", "--arm", "none"], "--arm"),
        ([], "one of the arguments --candidate --top is required"),
        (["--candidate", few, "sampler.num_steps=9"], "sampler.num_steps"),
        (["--candidate", few, "fleet.backend=cloud"], "fleet.backend"),
        (["--candidate", few, "--to", str(run_dir / "config.yaml")], "--to"),
    ]:
        assert main(["render", str(run_dir), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert main(["render", str(tmp_path), "--top", "1"]) == 2


def test_weights_that_changed_since_are_refused(tiny, run_dir, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace(str(tiny), str(model)))
    assert main(["render", str(copy), "--top", "1"]) == 0
    weights = next((model / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    shutil.rmtree(copy / "rendered")
    assert main(["render", str(copy), "--top", "1"]) == 2
    assert "the model's weights have changed since its run began" in capsys.readouterr().err
    assert not (copy / "rendered").exists()


def test_two_candidates_of_one_beginning_are_asked_apart(run_dir):
    ids = [r["candidate"] for r in pq.read_table(run_dir / "candidates.parquet").to_pylist()]
    common = next(a[0] for a in ids if any(b[0] == a[0] for b in ids if b != a))
    with pytest.raises(ConfigError, match="how one id begins: so do"):
        render.named(run_dir, common)


def test_pairs_for_training_have_videos_and_latents_of_both_sides(run_dir, tmp_path, capsys):
    copy, out = tmp_path / "run", tmp_path / "pairs"
    shutil.copytree(run_dir, copy)
    assert main(["export", str(copy), "--to", "preference", str(out), "--latents", "--margin", "1e-9"]) == 0
    assert f"2 pairs in {out}" in capsys.readouterr().out
    rows = pq.read_table(out / "preference.parquet").to_pylist()
    assert len(rows) == 2
    for r in rows:
        assert r["chosen_bright"] + r["chosen_moves"] == pytest.approx(r["chosen_reward"])
        assert r["margin"] == r["chosen_reward"] - r["rejected_reward"] > 0
        clips = [decoded(out / r[f"{side}_video"]) for side in ("chosen", "rejected")]
        latents = [load_file(out / r[f"{side}_latents"])["latents"] for side in ("chosen", "rejected")]
        assert (clips[0] != clips[1]).any() and (latents[0] != latents[1]).any()
    assert main(["export", str(copy), "--to", "preference", str(out)]) == 2
    assert "overwritten" in capsys.readouterr().err


def test_exports_from_the_command_line(run_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        main(["export", str(run_dir), "--to", "files", str(out), "--pattern", "{arm}/{prompt:.5}-{index}-{seed}.mp4"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"6 videos in {out}" and "searches chose these videos" in lines[1]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.mp4"))[:1] == ["bon/a pri-0-0.mp4"]
    for arguments, said in [
        (["--to", "files", str(tmp_path / "a")], "--pattern"),
        (["--to", "vbench", str(tmp_path / "a")], "tag dimension"),
        (["--to", "vbench"], "--to vbench DIR"),
        (["--to", "vbench", str(tmp_path / "a"), "fleet.backend=local"], "left out but with --to preference"),
        (["--to", "mlflow", "--dir", "x"], "track.dir"),
        (["--to", "preference", str(tmp_path / "a"), "--margin", "much"], "--margin"),
        ([], "--to"),
    ]:
        assert main(["export", str(run_dir), *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_a_run_has_its_tracker_told(tiny, tmp_path, monkeypatch):
    """From the command line and from Python."""
    values = {
        "model": {"path": str(tiny), **SIZE},
        "sampler": {"num_steps": 2},
        "rewards": {"search": {"name": "tiny:Brightness"}},
        "prompts": ["a red circle moving left"],
        "fleet": {"backend": "local"},
        "track": {"to": "tensorboard"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(values))
    assert main(["run", str(tmp_path / "config.yaml"), f"run_dir={tmp_path / 'one'}"]) == 0
    raysearch.run(values | {"run_dir": str(tmp_path / "two")}, report=str)
    for name in ("one", "two"):
        (told,) = (tmp_path / name / "tracked").glob("tensorboard-*.txt")
        assert told.read_text() == "-\n000000-s0-single\n"
        assert b"videos/single" in next((tmp_path / name / "tensorboard").iterdir()).read_bytes()
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    assert main(["run", str(tmp_path / "config.yaml"), f"run_dir={tmp_path / 'three'}"]) == 2
    assert not (tmp_path / "three").exists()
