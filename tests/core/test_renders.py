"""Candidates made again on fakes: of every kind of search, beside a run that goes on, and where replicas die."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import ARMS, GLIMPSES, config, run, session, unlucky

from raysearch.errors import ConfigError
from raysearch.export import render
from raysearch.session import journal
from raysearch.testing import FakeBackend, FakeFleet, run_virtual

SHARED = {"allocation": {"name": "lowest_best"}, "budget": {"total_nfe": 400}}


def rows(run_dir: Path, name: str = "searches.parquet") -> list[dict]:
    return pq.read_table(run_dir / name).to_pylist()


def rendered(run_dir: Path, picks, fleet: FakeFleet | None = None, **more) -> tuple[dict[str, bytes], list[str]]:
    """The files by candidate, and the lines that were said."""
    backend, said = FakeBackend(fleet or FakeFleet(2, 2)), []
    recipes = render.recipes(run_dir, picks, backend, say=said.append)
    where = run_dir / render.FOLDER
    failed = run_virtual(render.render(recipes, backend, where, say=said.append, **more))
    assert failed == sum(": " in line for line in said)
    return {p.stem: p.read_bytes() for p in where.iterdir()}, said


KINDS = {
    "arms": {"arms": [*ARMS, *GLIMPSES], "seeds": [0, 1]},
    "apart": {"arms": ARMS, "seeds_apart": True},
    "long": {"arms": ARMS[1:2], "long": {"chunks": 3}},
    "shared": {"arms": [ARMS[1]], **SHARED},
    "bounded": {"arms": [{"name": "s", "policy": {"name": "sequential", "n": 5, "looks": [3]}, "budget": {"nfe": 50}}]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_winners_are_made_again_as_they_were(tmp_path, kind):
    run(tmp_path / "run", **KINDS[kind])
    assert kind != "bounded" or {r["status"] for r in rows(tmp_path / "run")} == {"budget"}
    won = {r["winner"]: r for r in rows(tmp_path / "run")}
    found, _ = rendered(tmp_path / "run", [render.Pick(w, r["search_id"]) for w, r in won.items()])
    assert found == {w: (tmp_path / "run" / r["video"]).read_bytes() for w, r in won.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_scored_candidate_can_be_made_again(tmp_path, kind):
    run(tmp_path / "run", **KINDS[kind])
    scored = {r["candidate"]: r["search_id"] for r in rows(tmp_path / "run", "candidates.parquet")}
    found, _ = rendered(tmp_path / "run", [render.Pick(*item) for item in scored.items()], unlucky(FakeFleet(2, 1)))
    assert found.keys() == scored.keys()
    assert len(set(found.values())) > 1


def test_the_trajectories_with_the_highest_last_rewards(tmp_path):
    run(tmp_path / "run", arms=[*ARMS, *GLIMPSES])
    scored = rows(tmp_path / "run", "candidates.parquet")
    for arm in ("bon8", "halving"):
        own = [r for r in scored if r["search_id"].endswith(f"-{arm}")]
        last = {(r["search_id"], r["trajectory"]): r for r in own if r["by"] == "early"}
        last |= {(r["search_id"], r["trajectory"]): r for r in own if r["by"] == "search"}
        ranked = sorted(last.values(), key=lambda r: (r["by"] == "search", r["reward"]), reverse=True)
        picks = render.highest(tmp_path / "run", len(ranked), arm=arm)
        assert [p.candidate for p in picks] == [r["candidate"] for r in ranked]
        assert render.highest(tmp_path / "run", 2, arm=arm) == picks[:2]
    assert arm == "halving" and len({r["by"] for r in last.values()}) == 2  # early ones are ten times as large


def test_a_run_that_goes_on_can_be_read_and_is_not_written(tmp_path):
    run(tmp_path / "run", arms=ARMS)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    writing = journal.Journal(tmp_path / "run" / "journal")
    try:
        (winner,) = {r["winner"] for r in rows(tmp_path / "run") if r["search_id"] == "000000-s0-bon"}
        rendered(tmp_path / "run", [render.named(tmp_path / "run", winner)])
    finally:
        writing.close()
    assert {p: p.read_bytes() for p in before} == before


def test_a_candidate_that_fails_is_a_line_and_the_others_are_made(tmp_path):
    run(tmp_path / "run", arms=[ARMS[1]])
    picks = render.highest(tmp_path / "run", 8)
    fleet, calls = FakeFleet(2, 2), []

    def fault(call):
        calls.append(call)
        return ValueError("no video") if len(calls) == 3 else None

    fleet.replicas[2].fault = fault
    found, said = rendered(tmp_path / "run", picks, fleet)
    assert len(found) == 7 and sum("ValueError: no video" in line for line in said) == 1
    again, _ = rendered(tmp_path / "run", picks)
    assert again.items() > found.items() and len(again) == 8


def test_no_reward_and_only_needed_encoders_are_asked_for(tmp_path):
    class Watching(FakeBackend):
        def fleet(self, config, plan, report):
            assert plan.details["rewards"] == ()
            return super().fleet(config, plan, report)

    run(tmp_path / "run", arms=[ARMS[1]])
    backend = Watching(FakeFleet(1, 1))
    recipes = render.recipes(tmp_path / "run", render.highest(tmp_path / "run", 1), backend)
    assert run_virtual(render.render(recipes, backend, tmp_path / "out", say=lambda line: None)) == 0
    assert not [c for r in backend.fake.replicas for c in r.calls if c.name == "look"]


def test_mistakes_are_one_line(tmp_path):
    run(tmp_path / "run", arms=[ARMS[1]])
    pick = render.highest(tmp_path / "run", 1)
    for key in ("prompts=[x]", "run_dir=x", "seeds=[4]", "track.to=wandb", "resume=auto"):
        with pytest.raises(ConfigError, match=key.partition("=")[0]):
            render.recipes(tmp_path / "run", pick, FakeBackend(), [key])
    with pytest.raises(ConfigError, match="can be made again"):
        render.recipes(tmp_path / "run", [render.Pick("0" * 32, pick[0].search_id)], FakeBackend(), say=str)
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is a link"):
        render.recipes(tmp_path / "run", pick, FakeBackend())
    unfinished = session(tmp_path / "other", arms=[ARMS[1]])
    unfinished.journal.close()
    assert config(arms=[ARMS[1]]).arms == unfinished.config.arms
    with pytest.raises(ConfigError, match="scored candidates"):
        render.highest(tmp_path / "other", 1)
