"""The layouts of benchmark suites, against tables written by hand; and what an export refuses, which leaves nothing."""

import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import run

from raysearch.errors import ConfigError
from raysearch.export import command, suites


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def made(path: Path, rows: list[dict]) -> Path:
    """The folder of a run with these searches, whose videos are texts."""
    (path / "videos").mkdir(parents=True)
    table = []
    for r in rows:
        row = {"arm": "a", "prompt": "p", "seed": 0, "policy": "single", "status": "done"} | r
        row["search_id"] = row.get("search_id", f"{row.pop('i', 0):06d}-s{row['seed']}-{row['arm']}")
        row.setdefault("video", f"videos/{row['search_id']}.mp4")
        if row["video"] and not Path(row["video"]).is_absolute() and ".." not in row["video"]:
            (path / row["video"]).write_bytes(row["search_id"].encode())
        table.append(row)
    pq.write_table(pa.Table.from_pylist(sorted(table, key=lambda r: r["search_id"])), path / "searches.parquet")
    return path


def exported(run_dir: Path, what: str, where: Path, **more) -> tuple[dict[str, bytes], list[str]]:
    said: list[str] = []
    command.to_files(run_dir, what, where, command.Asked([what], **more), said.append)
    return tree(where), said


def samples(n: int, **tags) -> list[dict]:
    return [{"seed": seed, **{f"tag_{k}": v for k, v in tags.items()}} for seed in range(n)]


def test_vbench_has_five_of_each_prompt_and_25_where_flicker_is_measured(tmp_path):
    still = [r | {"prompt": "a still lake", "i": 1} for r in samples(25, dimension='["temporal_flickering"]')]
    cat = [r | {"prompt": "a cat", "i": 0} for r in samples(5, dimension='["color", "scene"]')]
    run_dir = made(tmp_path / "run", cat + still)
    found, said = exported(run_dir, "vbench", tmp_path / "out")
    assert list(found) == sorted(
        [f"a/a cat-{i}.mp4" for i in range(5)] + [f"a/a still lake-{i}.mp4" for i in range(25)]
    )
    assert found["a/a still lake-10.mp4"] == b"000001-s10-a"  # by seed as a number, not as a text
    assert said == [f"30 videos in {tmp_path / 'out'}"]
    source, target = run_dir / "videos" / "000000-s2-a.mp4", tmp_path / "out" / "a" / "a cat-2.mp4"
    assert os.path.samefile(source, target)


LONG = "x" * 200
LAYOUTS = [
    (
        "vbench2",
        [r | {"prompt": LONG, "i": 0} for r in samples(3, dimension="Camera_Motion")]
        + [r | {"prompt": "two", "i": 1} for r in samples(20, dimension="Diversity")],
        [f"Camera_Motion/{'x' * 180}-{i}.mp4" for i in range(3)] + [f"Diversity/two-{i}.mp4" for i in range(20)],
    ),
    (
        "t2v-compbench",
        [r | {"i": i, "prompt": str(i)} for i in range(2) for r in samples(1, category="spatial", number=str(i + 1))],
        ["spatial/0001.mp4", "spatial/0002.mp4"],
    ),
    (
        "evalcrafter",
        [r | {"i": i, "prompt": str(i)} for i in range(2) for r in samples(1, number=str(i))],
        ["0000.mp4", "0001.mp4"],
    ),
    (
        "phygenbench",
        [r | {"i": i, "prompt": str(i)} for i in range(2) for r in samples(1, number=str(i))],
        ["output_video_1.mp4", "output_video_2.mp4"],
    ),
]


@pytest.mark.parametrize(("suite", "rows", "expected"), LAYOUTS, ids=[suite for suite, *_ in LAYOUTS])
def test_the_layout_of_a_suite(tmp_path, suite, rows, expected):
    rows = [r | {"arm": arm} for arm in ("plain", "search") for r in rows]
    found, _ = exported(made(tmp_path / "run", rows), suite, tmp_path / "out")
    assert sorted(found) == sorted(f"{arm}/{name}" for arm in ("plain", "search") for name in expected)
    assert all(content.endswith(name.partition("/")[0].encode()) for name, content in found.items())


def test_samples_are_in_the_order_of_seeds_and_no_more_than_wanted(tmp_path):
    rows = [{"seed": s, "tag_dimension": "Camera_Motion"} for s in (40, 7, 9, 100)]
    found, said = exported(made(tmp_path / "run", rows), "vbench2", tmp_path / "out")
    assert [found[f"a/Camera_Motion/p-{i}.mp4"] for i in range(3)] == [f"000000-s{s}-a".encode() for s in (7, 9, 40)]
    assert said == [f"3 videos in {tmp_path / 'out'}; 1 more than are wanted are left out"]


def test_a_pattern_of_ones_own_and_what_searches_are_said_to_have_done(tmp_path):
    run(tmp_path / "run", arms=[{"name": "bon", "policy": {"name": "best_of_n", "n": 2}}], seeds=[3, 4])
    found, said = exported(
        tmp_path / "run", "files", tmp_path / "out", pattern="{arm}/{prompt:.60}-{seed}-{index:02}.mp4"
    )
    assert list(found) == [f"bon/{p}-{s}-0{s - 3}.mp4" for p in "ab" for s in (3, 4)]
    assert found["bon/a-3-00.mp4"] == (tmp_path / "run" / "videos" / "000000-s3-bon.mp4").read_bytes()
    assert "searches chose these videos" in said[-1]


def test_what_is_missing_is_named_and_may_be_left_out(tmp_path):
    rows = [r | {"arm": arm} for arm in "ab" for r in samples(3, dimension="Camera_Motion")]
    rows[4] |= {"status": "failed", "video": None}
    run_dir = made(tmp_path / "run", rows)
    with pytest.raises(ConfigError, match="arm b has 2 of 3 videos of 'p'; --partial"):
        exported(run_dir, "vbench2", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found, _ = exported(run_dir, "vbench2", tmp_path / "out", partial=True)
    assert len(found) == 5
    assert len(exported(run_dir, "vbench2", tmp_path / "one", arm="a")[0]) == 3


def test_a_prompt_that_an_arm_has_not_reached_is_missing(tmp_path):
    rows = [{"arm": "a"}, {"arm": "b"}, {"arm": "a", "i": 1, "prompt": "q"}]
    rows = [r | {"tag_number": "0" if "i" not in r else "1"} for r in rows]
    with pytest.raises(ConfigError, match="arm b has 0 of 1 videos of 'q'"):
        exported(made(tmp_path / "run", rows), "evalcrafter", tmp_path / "out")


HOSTILE = [
    ("a/b", "without slashes"),
    ("..", None),  # with the rest of the name it is a name
    ("nul\0", "without slashes"),
    ("é" * 130, "1 to 255 bytes"),
]


@pytest.mark.parametrize(("prompt", "allowed"), HOSTILE, ids=["slash", "dots", "nul", "long"])
def test_hostile_prompts_are_one_line(tmp_path, prompt, allowed):
    rows = [r | {"prompt": prompt} for r in samples(5, dimension="[]")]
    run_dir = made(tmp_path / "run", rows)
    if allowed is None:
        assert "a/..-0.mp4" in exported(run_dir, "vbench", tmp_path / "out")[0]
        return
    with pytest.raises(ConfigError, match=allowed) as error:
        exported(run_dir, "vbench", tmp_path / "out")
    assert "\n" not in str(error.value) and not list(tmp_path.glob("out*"))


def test_dots_do_not_lead_out_of_the_folder(tmp_path):
    rows = [r | {"prompt": ".."} for r in samples(1)]
    with pytest.raises(ConfigError, match="below a folder"):
        exported(made(tmp_path / "run", rows), "files", tmp_path / "out", pattern="{prompt}/{seed}.mp4")
    with pytest.raises(ConfigError, match="below a folder"):
        exported(tmp_path / "run", "files", tmp_path / "out", pattern="/tmp/{seed}.mp4")


def test_two_prompts_of_one_name_are_one_line(tmp_path):
    rows = [
        r | {"prompt": "x" * 180 + end, "i": i}
        for i, end in enumerate("ab")
        for r in samples(3, dimension="Camera_Motion")
    ]
    with pytest.raises(ConfigError, match=r"that of two videos: 000000-s0-a .* and 000001-s0-a"):
        exported(made(tmp_path / "run", rows), "vbench2", tmp_path / "out")


PATTERNS = ["{arm.__class__}", "{prompt!r}", "{seed:{index}}", "{prompt:1000000}", "{", "{0}x{}"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_holds_fields_and_nothing_else(pattern):
    with pytest.raises(ConfigError, match="--pattern"):
        suites.of_pattern(pattern + ".mp4")


def test_mistakes_of_the_call_are_one_line(tmp_path):
    run_dir = made(tmp_path / "run", [{}])
    for what, more, said in [
        ("vbench", {}, "tag dimension"),
        ("files", {}, "--pattern"),
        ("vbench", {"pattern": "x.mp4"}, "--pattern"),
        ("files", {"pattern": "x.mp4", "arm": "b"}, "--arm"),
        ("files", {"pattern": "x.gif"}, "ends in .mp4"),
        ("files", {"pattern": "{number:x}.mp4"}, "--pattern"),
        ("files", {"pattern": "{kind}.mp4"}, "tag kind"),
    ]:
        with pytest.raises(ConfigError, match=said):
            exported(run_dir, what, tmp_path / "out", **more)
    for to, said in [(["vbnch"], "one of vbench"), (["vbench"], "followed by"), (["vbench", "d", "x"], "left out")]:
        with pytest.raises(ConfigError, match=said):
            command.split(to)
    assert command.split(["files", "a=b", "fleet.backend=local"]) == ("files", Path("a=b"), ["fleet.backend=local"])
    with pytest.raises(ConfigError, match="RUN_DIR"):
        exported(tmp_path / "none", "files", tmp_path / "out", pattern="x.mp4")


def test_nothing_is_overwritten(tmp_path):
    run_dir = made(tmp_path / "run", [{}])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="overwritten"):
        exported(run_dir, "files", tmp_path / "out", pattern="x.mp4")
    assert tree(tmp_path / "out") == {"mine": b"precious"}
    (tmp_path / "other.partial").mkdir()
    with pytest.raises(ConfigError, match="killed export"):
        exported(run_dir, "files", tmp_path / "other", pattern="x.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="new or empty"):
        exported(run_dir, "files", tmp_path / "link", pattern="x.mp4")
    (tmp_path / "empty").mkdir()
    assert list(exported(run_dir, "files", tmp_path / "empty", pattern="x.mp4")[0]) == ["x.mp4"]


def test_no_link_in_the_run_and_no_path_out_of_it_is_followed(tmp_path):
    (tmp_path / "secret.mp4").write_text("secret")
    for i, video in enumerate(["../secret.mp4", str(tmp_path / "secret.mp4"), "videos/../../secret.mp4"]):
        run_dir = made(tmp_path / str(i), [{"video": video}])
        with pytest.raises(ConfigError, match="a file of the run"):
            exported(run_dir, "files", tmp_path / "out", pattern="x.mp4")
    run_dir = made(tmp_path / "run", [{}])
    (run_dir / "videos" / "000000-s0-a.mp4").unlink()
    (run_dir / "videos" / "000000-s0-a.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(ConfigError, match="is a link"):
        exported(run_dir, "files", tmp_path / "out", pattern="x.mp4")
    assert not list(tmp_path.glob("out*"))


def test_a_failure_on_the_way_leaves_nothing(tmp_path):
    run_dir = made(tmp_path / "run", [{"seed": 0}, {"seed": 1}])
    (run_dir / "videos" / "000000-s1-a.mp4").unlink()
    with pytest.raises(ConfigError, match="000000-s1-a"):
        exported(run_dir, "files", tmp_path / "out", pattern="{seed}.mp4")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSPC])
def test_across_file_systems_videos_are_copied_and_a_full_disk_is_one_line(tmp_path, monkeypatch, code):
    run_dir = made(tmp_path / "run", [{}])

    def refuse(source, target, *, follow_symlinks):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    if code == errno.ENOSPC:
        with pytest.raises(ConfigError, match="No space left"):
            exported(run_dir, "files", tmp_path / "out", pattern="x.mp4")
        assert not list(tmp_path.glob("out*"))
        return
    found, said = exported(run_dir, "files", tmp_path / "out", pattern="x.mp4")
    assert found == {"x.mp4": b"000000-s0-a"}
    assert said[1].startswith("1 of them are copies")
    assert not os.path.samefile(run_dir / "videos" / "000000-s0-a.mp4", tmp_path / "out" / "x.mp4")
