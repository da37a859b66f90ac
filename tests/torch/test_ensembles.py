"""Runs with ensembles, comparisons, parts of videos, and rewards that wait, on the toy-sized Wan pipeline."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs
import tiny

from actors.backend import Backend
from actors.rewards import Answer, View, answers
from actors.workers import worker
from actors.workers.scorer import Scorer
from raysearch.config.config import arms
from raysearch.errors import ConfigError, RewardError

SEEN: list[View] = []  # by Watcher, in this process


class Watcher:
    """A reward that keeps its views."""

    components = ("length",)
    needs = "frames"
    reads_tags = True

    def __call__(self, views):
        SEEN.extend(views)
        return [[len(v.frames)] for v in views]


class Together:
    """A reward that answers when two threads have called it, and pays three tokens a view; it compares, too."""

    components = ("met",)
    needs = "frames"
    waits = True
    met = threading.Barrier(2)

    def __call__(self, views):
        self.met.wait(60)
        return Answer([[v.frames.mean()] for v in views], [3] * len(views))

    def compare(self, pairs):
        return Answer([float(x.frames.mean() > y.frames.mean()) for x, y in pairs], [5] * len(pairs))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_pipeline(tmp_path_factory.mktemp("model") / "wan")


BON = {"policy": {"name": "best_of_n", "n": 4}}
MEMBERS = [{"name": "tiny:Brightness", "weights": {"moves": 0}}, {"name": "tiny:Redness", "label": "red", "weight": 2}]


def candidates(run_dir):
    return pq.read_table(run_dir / "candidates.parquet").to_pylist()


def test_an_ensemble_is_a_sum_with_a_column_for_each_component(folder, tmp_path):
    rows, *_ = runs.run(folder, tmp_path / "run", rewards={"search": MEMBERS, "holdout": MEMBERS}, **BON)
    found = candidates(tmp_path / "run")
    assert len(found) == 4
    for c in found:
        assert c["reward"] == pytest.approx(c["Brightness_bright"] + 2 * c["red"])
    (row,) = rows
    assert (row["decodes"], row["reward_calls"]) == (5, 4)  # both members read the same frames
    assert row["reward_holdout"] == pytest.approx(row["holdout_Brightness_bright"] + 2 * row["holdout_red"])
    assert row["reward_search"] == pytest.approx(max(c["reward"] for c in found))
    assert row["tokens"] == row["winner_tokens"] == 0


def test_a_calibration_run_gives_means_and_deviations(folder, tmp_path):
    many = {"policy": {"name": "best_of_n", "n": 8}}
    runs.run(folder, tmp_path / "first", rewards={"search": MEMBERS}, **many)
    block = {"name": "ensemble", "of": MEMBERS, "normalise": "zscore", "calibration": str(tmp_path / "first")}
    runs.run(folder, tmp_path / "second", rewards={"search": block}, **many)
    before, after = candidates(tmp_path / "first"), candidates(tmp_path / "second")
    bright, red = (np.array([c[k] for c in before]) for k in ("Brightness_bright", "red"))
    expected = (bright - bright.mean()) / bright.std() + 2 * (red - red.mean()) / red.std()
    assert np.allclose([c["reward"] for c in after], expected)
    least = block | {"combine": "min", "of": [{k: v for k, v in m.items() if k != "weight"} for m in MEMBERS]}
    runs.run(folder, tmp_path / "third", rewards={"search": least}, **many)
    expected = np.minimum((bright - bright.mean()) / bright.std(), (red - red.mean()) / red.std())
    assert np.allclose([c["reward"] for c in candidates(tmp_path / "third")], expected)
    wrong = [{"name": "tiny:Redness", "label": "other"}, *MEMBERS]
    first = pq.read_table(tmp_path / "first" / "candidates.parquet")
    early = first.set_column(first.column_names.index("sigma"), "sigma", pa.array([0.5] * len(first)))
    other = first.set_column(first.column_names.index("red"), "red", pa.nulls(len(first), pa.float64()))
    more = pa.concat_tables([first, early.slice(0, 5), other])  # looks on the way, and arms of another reward
    pq.write_table(more, tmp_path / "first" / "candidates.parquet")
    runs.run(folder, tmp_path / "fourth", rewards={"search": least}, **many)
    assert [c["reward"] for c in candidates(tmp_path / "fourth")] == [
        c["reward"] for c in candidates(tmp_path / "third")
    ]
    with pytest.raises(ConfigError, match=r"a run with a column other_red"):
        runs.run(folder, tmp_path / "no", rewards={"search": block | {"of": wrong}}, **many)


def test_ranks_choose_by_order_alone(folder, tmp_path):
    block = {"name": "ensemble", "of": MEMBERS, "normalise": "rank"}
    (row,), *_ = runs.run(folder, tmp_path / "run", rewards={"search": block}, **BON)
    found = candidates(tmp_path / "run")
    ranks = [np.argsort(np.argsort([c[k] for c in found])) / 3 for k in ("Brightness_bright", "red")]
    assert np.allclose([c["reward"] for c in found], ranks[0] + 2 * ranks[1])
    assert row["winner"] == found[int(np.argmax(ranks[0] + 2 * ranks[1]))]["candidate"]


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_part_of_a_video_is_the_beginning_of_the_whole(folder, tmp_path, first):
    def seen(name, **block):
        SEEN.clear()
        search = {"name": "test_ensembles:Watcher", **block}
        given = {"policy": {"name": "halving", "n": 2, "schedule": [4]}, "rewards": {"search": search}}
        (file := tmp_path / "prompts.csv").write_text("prompt,kind\na red circle,simple\n")
        given |= {"prompts": None, "prompts_file": str(file)}
        runs.run(folder, tmp_path / name, **given)
        file.write_text("prompt,kind\na red circle,hard\n")  # which the reward reads
        with pytest.raises(ConfigError, match="the prompts' tags have changed"):
            runs.run(folder, tmp_path / name, resume="require", **given)
        return SEEN[1:]  # after the trial

    whole, part = seen("whole"), seen("part", first_latent_frames=first)
    assert len(whole) == len(part) > 0
    assert len(SEEN[0].frames) == 1 + 4 * (first - 1)  # in the trial, too
    for a, b in zip(whole, part, strict=True):
        assert len(b.frames) == 1 + 4 * (first - 1) and b.num_frames == len(a.frames) == 9
        assert np.array_equal(b.frames, a.frames[: len(b.frames)])  # bit for bit: the decoder is causal
        assert b.tags == {"tag_kind": "simple"}


def test_a_reward_that_waits_is_called_by_several_threads_and_pays(folder, tmp_path):
    together = {"name": "test_ensembles:Together"}
    fleet = {"scorers": {"slots": 2}}
    (row,), *_ = runs.run(folder, tmp_path / "run", rewards={"search": together}, fleet=fleet, **BON)
    assert (row["tokens"], row["winner_tokens"]) == (12, 0)
    assert row["winner"] == max(candidates(tmp_path / "run"), key=lambda c: c["met"])["candidate"]


def test_a_turn_begins_when_nobody_else_computes(folder, monkeypatch):
    """A wait for it is neither in the pulse, by which hanging is told, nor in the seconds that are charged."""
    plan = Backend().prepare(c := runs.config(folder, rewards={"search": {"name": "test_ensembles:Together"}}), arms(c))
    scorer, order = worker.build("scorer", c, plan), []

    @contextmanager
    def noted(what):
        order.append(what)
        yield

    monkeypatch.setattr(scorer, "_alone", noted("lock"))
    monkeypatch.setattr(scorer, "pulse", SimpleNamespace(beat=lambda: noted("pulse")))
    watch = SimpleNamespace(running=lambda: noted("watch"))
    with scorer._turn(watch):
        order.append("decodes")
    (waits,) = scorer._rewards
    with scorer._turn(watch, waits):
        order.append("asks")
    assert order == ["lock", "pulse", "watch", "decodes", "pulse", "watch", "asks"]


def test_looks_and_videos_are_decoded_and_scored_alone(folder, tmp_path, monkeypatch):
    """The decoder has a memory, and networks are not for two threads: only a reward that waits is called beside."""
    held = []
    for name in ("_views", "_next"):
        plain = getattr(Scorer, name)

        def watched(self, *given, plain=plain):
            held.append(self._alone._is_owned())
            return plain(self, *given)

        monkeypatch.setattr(Scorer, name, watched)
    scores = answers.scores

    def watching(name, reward, views):
        held.extend(scorer._alone._is_owned() for scorer in turns[-1:])  # none in the trial
        return scores(name, reward, views)

    turns = []
    turn = Scorer._turn
    monkeypatch.setattr(Scorer, "_turn", lambda self, *given: (turns.append(self), turn(self, *given))[1])
    monkeypatch.setattr(answers, "scores", watching)
    runs.run(folder, tmp_path / "run", fleet={"scorers": {"slots": 4}}, **BON)
    assert len(held) > 8 and all(held)


async def duel(ctx):
    """A policy: the better of two videos."""
    x, y = ctx.denoise(ctx.noise(2))
    (p,) = await ctx.compare([x], [y])
    return x if p > 0.5 else y


def test_a_comparison_reads_the_frames_of_both(folder, tmp_path):
    policy, together = {"name": "test_ensembles:duel"}, {"name": "test_ensembles:Together"}
    search = {"name": "tiny:Brightness", "weights": {"moves": 0}}
    (row,), *_ = runs.run(folder, tmp_path / "run", policy=policy, rewards={"compare": together, "search": None})
    (best,), *_ = runs.run(folder, tmp_path / "best", policy={"name": "best_of_n", "n": 2}, rewards={"search": search})
    assert row["winner"] == best["winner"]
    assert (row["reward_calls"], row["decodes"], row["tokens"]) == (1, 3, 5)


@pytest.mark.parametrize(
    ("tokens", "line"),
    [
        ([1, 2], "for each of 1 rows"),
        ([-1], "its tokens"),
        ([2.5], "its tokens"),
        ([2**80], "its tokens"),
        ("7", "its"),
    ],
)
def test_wrong_tokens_are_an_error(tokens, line):
    class Pays(Watcher):
        def __call__(self, views):
            return Answer([[1.0]], tokens)

    with pytest.raises(RewardError, match=line):
        answers.scores("pays", Pays(), [View("a", 0.0)])


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ([1.5], r"it prefers the first of a pair by 1\.5, and not by a number in \[0, 1\]"),
        ([float("nan")], "it prefers the first of a pair by nan"),
        ([], "and not 1 x 1"),
        (["a"], "'<=' not supported"),
        (None, "'NoneType'"),
    ],
)
def test_a_wrong_preference_is_an_error(answer, line):
    class Wrong(Watcher):
        def compare(self, pairs):
            return answer

    with pytest.raises(RewardError, match=line):
        answers.preferences("wrong", Wrong(), [(View("a", 0.0), View("a", 0.0))])
