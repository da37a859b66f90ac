"""Runs that a judge scores: winners, tokens, failures of single searches, and where the API key is not."""

import asyncio
import itertools
import json
import pickle
from types import SimpleNamespace

import judge_server
import numpy as np
import pyarrow.parquet as pq
import pytest
import runs
from judge_server import TOKENS, completion, serving

from actors.backend import Backend
from actors.rewards import endpoint
from raysearch import __main__ as command_line
from raysearch.session.session import Session

SECRET = "sk-proj-Z9aZ9aZ9aZ9aZ9aZ9aZ9a"
N = 3


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setattr(endpoint, "LONGEST_S", 0.0)  # nobody waits


GONE = SimpleNamespace(url="http://localhost:1/v1")


def judge(server, **arguments):
    return {"name": "judge", "url": server.url, "model": "m", "key": "JUDGE_KEY", "attempts": 2, **arguments}


def values(**more):
    base = {"sampler": {"num_steps": 2}, "policy": {"name": "best_of_n", "n": N}, "seeds": [0, 1]}
    return base | {"fleet": {"backend": "local", "scorers": {"slots": 4}}} | more


def finished(folder, run_dir, **given):
    """The rows of searches and of candidates of a run."""
    asyncio.run(Session(runs.config(folder, **values(**given)), Backend(), run_dir=run_dir).run())
    return [pq.read_table(run_dir / f"{name}.parquet").to_pylist() for name in ("searches", "candidates")]


def test_workers_are_sent_no_key(tiny, tmp_path):
    session = Session(runs.config(tiny, **values(rewards={"search": judge(GONE)})), Backend(), run_dir=tmp_path / "run")
    sent = pickle.dumps((session.plan.details["rewards"], session.config))
    assert b"JUDGE_KEY" in sent and SECRET.encode() not in sent
    session.journal.close()


def holding(folder):
    """The files below a folder, and their names, in which the API key is."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [p for p in files if SECRET.encode() in p.read_bytes() or SECRET in str(p)]


def test_winners_tokens_and_the_key(tiny, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        searches, candidates = finished(tiny, tmp_path / "run", rewards={"search": judge(server)})
    assert [r["status"] for r in searches] == ["done"] * 2
    assert [r["tokens"] for r in searches] == [N * TOKENS] * 2
    for r in searches:
        shares = {c["candidate"]: c["alignment"] for c in candidates if c["search_id"] == r["search_id"]}
        assert len(shares) == N and shares[r["winner"]] == max(shares.values()) > min(shares.values())
    assert server.keys == [f"Bearer {SECRET}"] * 2 * N and set(server.answered.values()) == {1}
    assert len(list((tmp_path / "cache" / "judgements").iterdir())) == 2 * N
    assert holding(tmp_path) == [] and SECRET not in "".join(capfd.readouterr())
    assert "JUDGE_KEY" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_next_run_asks_nothing(tiny, tmp_path):
    with serving() as server:
        first, _ = finished(tiny, tmp_path / "first", rewards={"search": judge(server)})
        again, _ = finished(tiny, tmp_path / "again", rewards={"search": judge(server)})
    assert len(server.bodies) == 2 * N and [r["tokens"] for r in again] == [N * TOKENS] * 2
    assert [(r["winner"], r["reward_search"]) for r in again] == [(r["winner"], r["reward_search"]) for r in first]


def test_answers_that_are_none_fail_their_own_search(tiny, tmp_path):
    def answer(body):
        wrong = "the caption of this video is: a blue" in judge_server.text(body).lower()
        return completion(f"I like it, {SECRET}") if wrong else judge_server.computed(body)

    given = {"prompts": [runs.PROMPT, "a blue square moving up"], "seeds": [0]}
    with serving(answer=answer) as server:
        searches, _ = finished(tiny, tmp_path / "run", rewards={"search": judge(server, cache=False)}, **given)
    fine, failed = searches
    assert fine["status"] == "done" and failed["status"] == "failed"
    assert failed["reason"].startswith("RewardError: the reward judge failed: ") and "in 2 attempts" in failed["reason"]
    assert "is not a JSON object with the keys alignment, quality, motion: I like it, ***" in failed["reason"]
    assert holding(tmp_path) == []


@pytest.mark.parametrize("status", [401, 429])
def test_a_refusal_is_told_in_the_searchs_row(tiny, tmp_path, status):
    with serving(faults=[status] * 99) as server:
        searches, _ = finished(tiny, tmp_path / "run", rewards={"search": judge(server)}, seeds=[0])
    assert f"status {status}: no, Bearer ***, not now" in searches[0]["reason"] and holding(tmp_path) == []


def test_components_of_the_config(tiny, tmp_path):
    given = {"mode": "yes", "questions": {"bright": "Is it bright?"}, "weights": {"bright": 2.0}}
    with serving() as server:
        searches, candidates = finished(tiny, tmp_path / "run", rewards={"search": judge(server, **given)}, seeds=[0])
    assert searches[0]["reward_search"] == pytest.approx(2 * max(c["bright"] for c in candidates))


async def all_against_all(ctx, *, n: int = N):
    """The candidate that the judge prefers to all others."""
    xs = ctx.denoise(ctx.noise(n))
    pairs = list(itertools.combinations(range(n), 2))
    preferred = await ctx.compare([xs[i] for i, _ in pairs], [xs[j] for _, j in pairs])
    wins = np.zeros(n)
    for (i, j), p in zip(pairs, preferred, strict=True):
        wins[i] += p
        wins[j] += 1 - p
    return xs[wins.argmax()]


def test_a_policy_compares_by_a_judge(tiny, tmp_path):
    rewards = {"search": {"name": "tiny:Brightness"}}
    policy = {"name": "test_judge_runs:all_against_all"}
    with serving() as server:
        compared = rewards | {"compare": judge(server)}
        searches, _ = finished(tiny, tmp_path / "run", rewards=compared, policy=policy)
    brightest, _ = finished(tiny, tmp_path / "plain", rewards=rewards)
    assert [r["winner"] for r in searches] == [r["winner"] for r in brightest]
    assert len(server.bodies) == 2 * 2 * N and [r["tokens"] for r in searches] == [2 * N * TOKENS] * 2


@pytest.mark.parametrize("given", [{"key": SECRET}, {"url": f"http://u:{SECRET}@localhost/v1"}])
def test_a_key_in_a_config_is_refused_and_stays_nowhere(tiny, tmp_path, monkeypatch, capfd, given):
    monkeypatch.chdir(tmp_path)
    block = {"name": "judge", "url": "http://localhost:1/v1", "model": "m", **given}
    size = " ".join(f"model.{k}={v}" for k, v in runs.SIZE.items()).split()
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"path": str(tiny)}, "prompts": [runs.PROMPT]}))
    command = ["run", "config.yaml", *size, f"rewards.search={json.dumps(block)}", "fleet.backend=local", "run_dir=run"]
    assert command_line.main(command) == 2
    said = "".join(capfd.readouterr())
    assert f"rewards.search.{next(iter(given))}: the value, which is not shown, is not allowed" in said
    assert SECRET not in said and holding(tmp_path) == [] and not (tmp_path / "run").exists()
