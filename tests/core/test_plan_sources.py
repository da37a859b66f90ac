"""Where plans have rewards and timings from, and what runs did: each number is worked out by hand."""

import json
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import config, session

from raysearch.config import config as configuration
from raysearch.errors import ConfigError
from raysearch.planner import against, rewards, timings, traced
from raysearch.planner.rewards import MadeUp, Recorded, Rollout
from raysearch.planner.timings import KEY, NUMBERS, Timings
from raysearch.recipe.candidate import Candidate, Prompt
from raysearch.recipe.origins import Derived, Noise, Renoise
from raysearch.recipe.reward import Pair
from raysearch.testing import FakeBackend, fake_reward, fake_sampler, run_virtual

# -- rewards -----------------------------------------------------------------------------------------------------------


def candidate(index=0, step=10, parent=None):
    origin = Noise(0, index) if parent is None else Derived(parent, index, Renoise(2))
    return Candidate(Prompt("a"), fake_sampler(10), origin, step)


def test_levels_of_made_up_rewards_begin_in_the_middle():
    """Three times the quantiles 1/2, 5/6 and 1/6 of a standard normal number."""
    assert [MadeUp(i, 3).level for i in range(3)] == pytest.approx([0, 2.9023, -2.9023], abs=1e-3)


def test_made_up_rewards_show_quality_as_noise_fades():
    made, n = MadeUp(), 500
    quality = np.array([made.quality(candidate(i)) for i in range(n)])

    def seen(step):
        return np.array([made.components(candidate(i, step), fake_reward())[0] for i in range(n)])

    assert seen(10) == pytest.approx(quality)
    assert [np.corrcoef(seen(step), quality)[0, 1] for step in (0, 3, 8)] == pytest.approx([0, 0.3, 0.8], abs=0.1)
    assert seen(3).std() == pytest.approx(1, abs=0.06)


def test_children_inherit_some_of_their_parents_quality():
    made = MadeUp()
    pairs = [(made.quality(candidate(i, 5)), made.quality(candidate(0, 10, candidate(i, 5)))) for i in range(500)]
    parents, children = np.array(pairs).T
    assert np.corrcoef(parents, children)[0, 1] == pytest.approx(0.7, abs=0.07)
    assert children.std() == pytest.approx(1, abs=0.06)


def test_the_better_one_of_a_pair_is_preferred():
    made, pair = MadeUp(), Pair(candidate(0), candidate(1))
    ahead = made.quality(pair.first) - made.quality(pair.second)
    assert made.components(pair, fake_reward()) == (pytest.approx(NormalDist().cdf(ahead)),)


def test_a_rollout_has_the_rewards_of_the_nearest_point_that_has_them_all():
    rollout = Rollout(((0.2, {"a": 1.0, "b": 2.0}), (0.5, {"a": 3.0}), (1.0, {"a": 4.0, "b": 5.0})))
    assert rollout.at(0.45, ["a"]) == (3.0,)
    assert rollout.at(0.45, ["b", "a"]) == (2.0, 1.0)
    assert rollout.at(0.7, ["a", "b"]) == (4.0, 5.0)
    assert rollout.at(0.7, ["c"]) is None


def test_recorded_rewards_are_those_of_the_same_caption():
    """Several trajectories of it are drawn from, and as far as the candidate has come."""

    def rollouts(*values):
        return [Rollout(((0.5, {"quality": v}), (1.0, {"quality": v + 100}))) for v in values]

    draws = Recorded({}, {"a": rollouts(1.0, 2.0, 3.0), "b": rollouts(9.0)}, MadeUp())
    found = {draws.components(candidate(i, 5), fake_reward()) for i in range(40)}
    assert found == {(1.0,), (2.0,), (3.0,)}
    first, last = (draws.components(candidate(0, step), fake_reward())[0] for step in (6, 9))
    assert last == first + 100


def test_a_runs_rollouts_are_read_by_how_far_they_had_come(tmp_path):
    """A trajectory of 8 steps, and one of a run that did not say how many."""
    rows = [
        {"search_id": "0", "trajectory": "t", "step": 4, "num_steps": 8, "reward": 1.0, "quality": 1.0},
        {"search_id": "0", "trajectory": "t", "step": 8, "num_steps": 8, "reward": 2.0, "quality": 2.0},
        {"search_id": "0", "trajectory": "u", "step": 2, "num_steps": None, "reward": 3.0, "quality": 3.0},
        {"search_id": "0", "trajectory": "v", "step": 2, "num_steps": 8, "reward": None, "quality": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet")
    pq.write_table(pa.table({"search_id": ["0"], "prompt": ["a"]}), tmp_path / "searches.parquet")
    assert rewards._rollouts(tmp_path) == {
        "a": [Rollout(((0.5, {"quality": 1.0}), (1.0, {"quality": 2.0}))), Rollout(((0.25, {"quality": 3.0}),))]
    }


# -- timings -----------------------------------------------------------------------------------------------------------


def test_fewer_candidates_than_were_measured_take_their_share():
    assert Timings({4: 2.0, 8: 3.0}).evaluation(2) == pytest.approx(1.5)  # on the line through both
    assert Timings({4: 2.0, 8: 6.0}).evaluation(1) == pytest.approx(0.5)  # that line goes below zero
    assert Timings({2: 1.0, 4: 0.9}).evaluation(6) == 1.0  # noise: more candidates never take less


def test_a_file_has_entries_of_several_devices(tmp_path):
    """Each number comes back where it was; the latest entry of this machine's device counts; rewards are kept."""
    file = tmp_path / "a.json"

    def add(device, slots=1, first=1.0, rewards=()):
        numbers = {k: first + i for i, k in enumerate(NUMBERS)}
        seconds = numbers | {"forward": {"1": 1.0}, "load": {}, "rewards": dict.fromkeys(rewards, 1.0)}
        key = dict.fromkeys(KEY, "x") | {"device": device, "slots": slots}
        timings.merged(file, key | {"seconds": seconds, "state": {}, "peak": {}, "video": None, "date": ""})

    add("here", rewards=["a"])
    add("here", rewards=["b"])
    assert len(timings.entries(file)) == 1
    t = timings.read(file, {"model": "x"}, "here")
    assert [getattr(t, k) for k in NUMBERS] == [1, 2, 3, 4, 5, 6, 7, 8] and set(t.rewards) == {"a", "b"}
    add("here", slots=2, first=11.0)
    add("there", first=21.0)
    assert timings.read(file, {"model": "x"}, "here").preview == 11
    with pytest.raises(ConfigError, match="a file with one device, or with this machine's, third; it has here, there"):
        timings.read(file, {"model": "x"}, "third")


ITEM = {"session": 0, "waited": 0.0, "node": "n", "search": 0, "nbytes": 1, "ended": "done", "slots": 1, "nfe": 0}
ITEM |= {"evaluations": 0, "decodes": 0}


def item(kind, what, start, end, seconds=None, replica="r", **more):
    seconds = end - start if seconds is None else seconds
    return (
        ITEM | {"kind": kind, "what": what, "start": start, "end": end, "seconds": seconds, "replica": replica} | more
    )


def test_timings_of_all_that_a_trace_has(tmp_path):
    """Twenty legs of 8 and 12 s, whose durations are drawn from then on; of all else there is too little for that."""
    rows = [item("denoiser", "denoise", 20.0 * i, 20.0 * i + 8 + 4 * (i % 2), nfe=20) for i in range(20)]
    rows += [item("encoder", "encode", 0.0, 2.0, 0.0, "e"), item("encoder", "encode", 2.0, 6.0, 0.0, "e")]
    rows += [item("scorer", "look", 0.0, 3.0, 2.5, "s", decodes=1), item("scorer", "look", 3.0, 4.0, 0.75, "s")]
    rows += [item("scorer", "compare", 4.0, 13.0, 8.0, "s", decodes=2)]
    rows += [item("scorer", "finish", 20.0, 30.0, 9.0, "s", decodes=3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "trace.parquet")
    c = config()
    t = traced.read(tmp_path, FakeBackend().prepare(c, configuration.arms(c)))
    assert (t.encode, t.decode, t.compare, t.finish) == (3, 2.5, 8 - 2 * 2.5, 10 - 3 * 2.5)
    assert t.reward("quality") == 0.0  # it is decoded for: its seconds are in those of the decoding
    assert set(t.spread) == {"denoise"} and (t.spread["denoise"][0], t.spread["denoise"][-1]) == pytest.approx(
        (0.8, 1.2)
    )
    bare = traced.read(tmp_path, FakeBackend(needs="estimate").prepare(c, configuration.arms(c)))
    assert bare.reward("quality") == 0.75


def test_quantiles_have_the_mean_one():
    assert traced.quantiles(np.array([1.0, 2.0, 6.0])) == pytest.approx(
        [(1 + i / 10) / 2.75 for i in range(10)] + [(2 + 4 * i / 10) / 2.75 for i in range(11)]
    )


def test_what_a_run_of_two_sessions_did(tmp_path):
    """Seconds and NFE are summed over the sessions, and busy is a share of all replicas' time."""
    run = tmp_path / "run"
    run_virtual(session(run, prompts=["a"]).run([]))
    rows = [(0, 10.0, 100), (0, 30.0, 300), (1, 5.0, 50), (1, None, None)]
    columns = dict(zip(("session", "elapsed", "nfe_run"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), run / "timeline.parquet")
    legs = [("a", 0.0, 10.0, 0), ("a", 5.0, 20.0, 0), ("b", 0.0, 10.0, 0), ("c", 0.0, 5.0, 1)]
    items = [item("denoiser", "denoise", start, end, replica=r, session=s) for r, start, end, s in legs]
    pq.write_table(pa.Table.from_pylist(items), run / "trace.parquet")
    done = against.actual(run)
    assert (done.wall, done.nfe, done.charged) == (35, 350, 20)
    assert done.busy == {"denoiser": (20 + 10 + 5) / (35 * 2)}
    status = json.loads((run / "status.json").read_bytes())
    (run / "status.json").write_text(json.dumps(status | {"state": "interrupted"}))
    with pytest.raises(ConfigError, match="a run that has finished: this one is interrupted"):
        against.actual(run)
