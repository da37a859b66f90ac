"""Files of winners: made again from recipes where they lack, and laid out so that no folder grows without bound."""

import sys
from pathlib import Path

import pytest
from fakes import ARMS, cut, run, session

from raysearch.engine.protocol import Outputs
from raysearch.session.directory import FOLDERS, MOST_FILES, RunDirectory, block, found
from raysearch.testing import FakeFleet, run_virtual

BEAM = {"name": "beam", "policy": {"name": "beam", "every": 3, "k": 2, "n": 2}}
ALL = {"videos": True, "latents": True, "frames": True}


def files(path: Path) -> dict[str, bytes]:
    """What a run's folder holds, but for what only watches it."""
    whole = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    return {k: v for k, v in whole.items() if k != "status.json"}


@pytest.mark.parametrize("values", [{}, {"budget": {"wall_seconds": 60}}, {"long": {"chunks": 2}}])
def test_files_that_a_finished_run_lacks_are_made_again_without_a_search(tmp_path, values):
    """Latents are asked for later, and a video was deleted; nothing else changes, and no reward is computed."""
    values = values | {"arms": [*ARMS[:3], BEAM], "max_searches": 2}
    run(tmp_path / "run", output=ALL, **values)
    whole = files(tmp_path / "run")
    lost = [k for k in whole if k.endswith(("safetensors", "single.mp4")) or "000001-s0-beam" in k]
    for name in lost:
        (tmp_path / "run" / name).unlink()
    assert len(lost) == 8 + 2 + 2
    fleet = FakeFleet(2, 2)
    _, progress = run(tmp_path / "run", fleet, output=ALL, **values, resume="require")
    assert files(tmp_path / "run") == whole
    calls = [c for r in fleet.replicas for c in r.calls]
    assert sum(c.name == "finish" for c in calls) == 8 and not any(c.name == "look" for c in calls)
    assert all(not c.request.rewards for c in calls if c.name == "finish")
    assert progress.done == progress.kept == progress.total == 8


def test_files_of_a_run_that_was_stopped_are_made_while_it_goes_on(tmp_path):
    """Of the searches that were finished; the others write theirs as they end."""
    values = {"arms": ARMS[1:3], "prompts": list("abc")}
    run(tmp_path / "whole", output=ALL, **values)
    path = cut(tmp_path / "whole", tmp_path / "run", 7)
    for folder in ("videos", "latents", "frames"):
        for file in (path / folder).iterdir():
            file.unlink()
    fleet = FakeFleet()
    _, progress = run(path, fleet, output=ALL, **values, resume="require")
    assert 0 < progress.kept < progress.total
    ours, theirs = files(path), files(tmp_path / "whole")
    assert {k: v for k, v in ours.items() if k.split("/")[0] in FOLDERS.values()} == {
        k: v for k, v in theirs.items() if k.split("/")[0] in FOLDERS.values()
    }


def test_nothing_starts_where_no_file_lacks(tmp_path):
    run(tmp_path / "run", arms=ARMS)
    fleet = FakeFleet()
    run(tmp_path / "run", fleet, arms=ARMS, resume="require")
    run(tmp_path / "run", fleet, arms=ARMS, resume="require", output={"videos": False})
    assert not any(r.calls for r in fleet.replicas)


shift = 0


async def shifting(ctx):
    """A policy whose choice depends on more than its seed."""
    return ctx.noise(2)[shift]


def test_a_policy_that_now_chooses_another_winner_is_reported_and_writes_nothing(tmp_path, monkeypatch):
    values = {"policy": {"name": "test_outputs:shifting"}, "prompts": ["a"]}
    run(tmp_path / "run", **values)
    before = files(tmp_path / "run")
    monkeypatch.setattr(sys.modules[__name__], "shift", 1)
    said: list[str] = []
    s = session(tmp_path / "run", **values, resume="require", output={"latents": True})
    s._report = said.append
    assert run_virtual(s.run()).unmade.total == 1
    assert said == [
        "files of 1 finished search are made again",
        "000000-s0-test_outputs-shifting: its files cannot be made again: "
        "LookupError: the policy now chooses another winner",
    ]
    assert files(tmp_path / "run") == before


# -- the layout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "each", "expected"),
    [
        *[(10_000, 1, None), (1, 10_000, None), (5000, 2, None), (10_001, 1, 1000), (1001, 10, 1000), (5001, 2, 1000)],
        *[(1000, 11, 100), (200, 100, 100), (101, 100, 100), (100, 101, 10), (12, 1000, 10), (2, 10_000, 1)],
    ],
)
def test_no_folder_holds_more_files_than_it_may(prompts, each, expected):
    assert block(prompts, each) == expected
    assert (prompts if expected is None else expected) * each <= MOST_FILES


def test_files_of_a_large_run_lie_in_sub_folders_and_are_found_in_any_layout(tmp_path):
    (tmp_path / "config.yaml").touch()
    ids = [f"{i:06d}-s0-a" for i in (0, 7, 999, 1000, 12_345, 1_234_567)]
    layouts = {"": (1, 1), "000000 000000 000000 001000 012000 1234000": (20_000, 1)}
    layouts["000000 000000 000990 001000 012340 1234560"] = (20_000, 1000)
    for n, (folders, (prompts, each)) in enumerate(layouts.items()):
        directory = RunDirectory(tmp_path, "x", [], [], prompts=prompts, searches_per_prompt=each)
        for i, folder in zip(ids, folders.split() or [""] * len(ids), strict=True):
            video = directory.save(i, {"mp4": b"%d" % n, "npy": b"%d" % n})
            expected = tmp_path / "videos" / folder / f"{i}.mp4"
            assert tmp_path / video == expected and expected.read_bytes() == b"%d" % n
            assert found(tmp_path, "npy", i).read_bytes() == b"0"  # the oldest
            lacking = directory.lacking(i, Outputs(mp4=True, safetensors=True, npy=True))
            assert lacking == Outputs(safetensors=True)
    assert found(tmp_path, "mp4", "000008-s0-a") is None
