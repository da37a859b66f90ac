"""FIFO-Diffusion's queue: numbers by hand, recipes and accounts on fakes, frames against a plain loop on a toy Wan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import cut, run, same, session, unequal_fleet, unlucky

from raysearch.engine.protocol import Finish
from raysearch.engine.spill import SPILL, Spill
from raysearch.errors import ConfigError, InputLost, NoReplica, ReplicaDied
from raysearch.files import Folder
from raysearch.recipe.candidate import Candidate, Prompt, denoise, invert
from raysearch.recipe.long_video import Queue, Window, before, caption, captions, kept, opening, parts, shows, unseen
from raysearch.recipe.origins import Derived, Noise, Slide
from raysearch.session import journal
from raysearch.testing import FakeFleet, fake_sampler

FIFO = {"chunks": 3, "prefix": 1, "fifo": {"partitions": 5}}  # fakes: clips of 5, 10 steps; 13 frames, 8 slides
ARMS = [
    {"name": "single", "policy": {"name": "single"}},
    {"name": "bon", "policy": {"name": "best_of_n", "n": 2}},
    {"name": "noise", "policy": {"name": "scaling_noise", "k": 2, "n": 4, "weights": [1, 1, 1, 1]}},
    {"name": "redraw", "policy": {"name": "sequential", "n": 3, "looks": [4], "bars": [0.3], "enough": 0.7}},
]


# -- numbers ---------------------------------------------------------------------------------------------------------

SMALL = Queue(levels=(1.0, 0.7, 0.4, 0.2, 0.0), partitions=2, stride=1, clip=3, prefix=1, chunks=3)
STEPS = [  # of the frames after the clip's 3, after 0, 1, 2, .. iterations: 7 frames, 4 steps
    [0, 0, 0, 0],
    [1, 0, 0, 0],
    [2, 1, 0, 0],
    [3, 2, 1, 0],
    [4, 3, 2, 1],
    [4, 4, 3, 2],
    [4, 4, 4, 3],
    [4, 4, 4, 4],
]
WINDOWS = [  # of each iteration: partitions of 2, the tail's first, each with what is before it, 3 frames in all
    [Window(1, 3, 4, 1)],
    [Window(2, 3, 5, 1)],
    [Window(3, 4, 6, 2), Window(1, 3, 4, 1)],
    [Window(4, 5, 7, 2), Window(2, 3, 5, 1)],
    [Window(4, 6, 7, 2), Window(3, 4, 6, 2)],
    [Window(4, 5, 7, 2)],
    [Window(4, 6, 7, 2)],
]


def test_the_queue_by_hand():
    assert (SMALL.num_steps, SMALL.frames, SMALL.slides, SMALL.drains) == (4, 7, 4, 2)
    for i, steps in enumerate(STEPS):
        assert [SMALL.done(a, i) for a in range(7)] == [4, 4, 4, *steps]
        assert SMALL.clean(i) == 3 + steps.count(4)
    assert [SMALL.entered(i) for i in range(7)] == [4, 5, 6, 7, 7, 7, 7]
    assert [SMALL.windows(i) for i in range(8)] == [*WINDOWS, []]
    assert [SMALL.caption(a) for a in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert [SMALL.iterations(p) for p in range(1, 7)] == [1, 1, 1, 1, 1, 2]  # the last two empty it, chunk by chunk
    assert [SMALL.begins(p) for p in range(1, 7)] == [0, 1, 2, 3, 4, 5]
    assert [SMALL.kept(p) for p in range(1, 7)] == [True, False, True, False, True, True]


@pytest.mark.parametrize(("steps", "partitions", "stride", "chunks"), [(20, 10, 1, 4), (20, 4, 3, 7), (64, 16, 4, 3)])
def test_every_frame_takes_every_step_once_and_in_order(steps, partitions, stride, chunks):
    q = Queue(tuple(1 - i / steps for i in range(steps + 1)), partitions, stride, 5, 1, chunks)
    done = np.array([steps] * 5 + [0] * (q.frames - 5))
    last = q.ends(q.slides + q.drains)
    for i in range(last):
        for w in q.windows(i):
            assert w.last - w.first == 5 and 0 <= w.first <= w.new
            assert w.last <= q.entered(i)
            assert [q.done(a, i) for a in range(w.first, w.last)] == done[w.first : w.last].tolist()
        for a in [a for w in q.windows(i) for a in range(w.new, w.last)]:
            done[a] += 1
        assert [q.done(a, i + 1) for a in range(q.frames)] == done.tolist()
    assert done.tolist() == [steps] * q.frames
    full = [len(q.windows(i)) for i in range(steps - 1, q.frames - 5)]
    assert set(full) <= {partitions}  # in the middle of a long video


# -- recipes ---------------------------------------------------------------------------------------------------------


def slides(n: int, prompt: Prompt = Prompt("a"), ordinal: int = 0) -> list[Candidate]:
    """A finished clip and the slides after it."""
    base = replace(fake_sampler(4), sigmas=SMALL.levels)
    found = [Candidate(prompt, base, Noise(7, 0), 4)]
    for part in range(1, n + 1):
        sampler = base.of_queue(SMALL, part)
        found.append(Candidate(prompt, sampler, Derived(found[-1], ordinal, Slide()), sampler.num_steps))
    return found


def test_a_slide_knows_its_place():
    prompt = Prompt("a", later=("b", "c"))
    clip, *found = slides(6, prompt)
    assert [(x.part, before(x), opening(x)) for x in found[:2]] == [(1, clip, clip), (2, found[0], clip)]
    assert [caption(Candidate(prompt, x.sampler, x.origin)) for x in found] == [
        "b",
        "b",
        "c",
        "c",
        "c",
        "c",
    ]  # the tail's
    assert [caption(x) for x in found] == ["a", "a", "a", "b", "b", "c"]  # the latest clean frames'
    assert [captions(x) for x in found] == [(1,), (1,), (1, 2), (1, 2), (2,), (2,)]
    assert [kept(x) for x in found] == [True, False, True, False, True, True]
    assert [shows(x) for x in found] == [False, False, False, False, True, True]  # frames come out with the fifth
    assert unseen(found[4]) == found[3::-1] and unseen(found[5]) == found[4::-1]
    assert caption(invert(found[4], 1.0)) == "b"
    assert found[3].sampler.whole == clip.sampler
    assert parts(found[5]) == [clip, *found]


def test_slides_differ_by_what_enters_and_share_noise_over_prompts():
    (clip, x), (_, y) = slides(1), slides(1, ordinal=1)
    assert x.identity != y.identity and x.origin.key != y.origin.key
    assert slides(1, Prompt("b"))[1].origin.key == x.origin.key
    mixed = Candidate(x.prompt, x.sampler, Derived(clip, 0, Slide(cutoff=0.25)))
    assert mixed.identity != denoise(x, 1).identity and mixed.origin.key == x.origin.key


def test_a_queue_of_another_shape_is_another_sampler():
    base = fake_sampler(4)
    samplers = [base, base.of_queue(SMALL, 1), base.of_queue(replace(SMALL, partitions=4), 1), base.of_queue(SMALL, 6)]
    assert len({s.identity for s in samplers}) == 4


# -- on fakes --------------------------------------------------------------------------------------------------------


def windows(arguments: dict = FIFO) -> list[int]:
    """How many of each iteration, for fakes."""
    fifo = arguments["fifo"]
    q = Queue(fake_sampler(10).sigmas, fifo["partitions"], fifo.get("stride", 1), 5, 1, arguments["chunks"])
    return [len(q.windows(i)) for i in range(q.frames - 5 + 9)]


def test_what_videos_of_a_queue_cost(tmp_path):
    rows, _ = run(tmp_path / "run", FakeFleet(2, 4), arms=ARMS, prompts=["a"], long=FIFO)
    by_arm = {r["arm"]: r for r in rows}
    assert [r["reason"] for r in rows] == [""] * 4
    assert windows() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 4, 4, 3, 3, 2, 2, 1, 1]
    video = 2 * (10 + sum(windows()))
    assert by_arm["single"]["nfe"] == video
    assert by_arm["bon"]["nfe"] == 2 * video
    # k clips of k n, and 8 times: each of 8 tails once, and of the 2 that go on the other windows; 7 inversions.
    clips, tails, rest = 8 + 2 * 9, 8 * 8, 2 * (sum(windows()) - 8)
    inversions = 2 * 8 * 10
    assert by_arm["noise"]["nfe"] == 2 * (clips + tails + rest) + inversions
    assert [len(by_arm[a]["holdout_quality_chunks"]) for a in by_arm] == [3, 3, 3, 3]
    assert by_arm["single"]["decodes"] == 3


def test_in_a_full_queue_an_iteration_costs_k_times_n_plus_the_other_partitions(tmp_path):
    """k (n + P - 1) windows: 23 chunks more than 22 have 4 iterations more, all with a full queue."""
    arm = [{"name": "noise", "policy": {"name": "scaling_noise", "k": 2, "n": 3, "weights": [1, 0, 0, 0]}}]
    rows = [run(tmp_path / str(c), FakeFleet(2, 4), arms=arm, prompts=["a"], long=FIFO | {"chunks": c}) for c in (5, 6)]
    few, many = (r[0][0]["nfe"] for r in rows)
    assert many - few == 4 * 2 * (2 * (3 + 5 - 1))


def test_replica_seconds_are_those_of_every_slide(tmp_path):
    rows, _ = run(tmp_path / "run", FakeFleet(1, 1), arms=ARMS[:2], prompts=["a"], long=FIFO)
    single, bon = sorted(rows, key=lambda r: r["nfe"])
    assert single["replica_seconds"] == 10 + sum(windows()) + 3
    looks = bon["reward_calls"]
    assert bon["replica_seconds"] == 2 * (10 + sum(windows())) + looks + 3


def test_same_winners_on_any_fleet(tmp_path):
    expected, _ = run(tmp_path / "one", arms=ARMS, long=FIFO)
    rows, _ = run(tmp_path / "many", unequal_fleet(3, 2, 1), arms=ARMS, long=FIFO)
    assert same(rows) == same(expected)


def test_lost_latents_and_dead_replicas_change_nothing(tmp_path):
    expected, _ = run(tmp_path / "whole", arms=ARMS, prompts=["a"], long=FIFO)
    rows, progress = run(tmp_path / "faulty", unlucky(FakeFleet(2, 2)), arms=ARMS, prompts=["a"], long=FIFO)
    assert same(rows) == same(expected)
    assert progress.engine.recomputed > 5


def test_killed_after_any_answer_it_ends_as_if_nothing_had_been(tmp_path):
    few = {"arms": ARMS[1:], "prompts": ["a"], "long": FIFO}
    expected, _ = run(tmp_path / "whole", **few)
    for n in range(len(list(journal.read(tmp_path / "whole" / "journal"))) + 1):
        rows, _ = run(cut(tmp_path / "whole", tmp_path / str(n), n), resume="require", **few)
        assert same(rows) == same(expected)


def test_a_kill_near_the_end_does_not_replay_the_whole_video(tmp_path, monkeypatch):
    """What is on disk is read: of 8 + 9 iterations those since the last part that is kept are made again."""
    arms, long = ARMS[:1], FIFO | {"chunks": 6}
    expected, progress = run(tmp_path / "whole", arms=arms, prompts=["a"], long=long)
    whole = progress.engine.nfe
    assert not (tmp_path / "whole" / "spill").exists()
    fleet = FakeFleet(1, 1)

    def dies(call):
        return ReplicaDied("gone") if isinstance(call.request, Finish) else None

    for r in fleet.replicas:
        r.fault, r.revives_after = dies, None
    with pytest.raises(NoReplica):
        run(tmp_path / "killed", fleet, arms=arms, prompts=["a"], long=long)
    files = sorted((tmp_path / "killed" / "spill").iterdir())
    assert len(files) == 1 + 7  # the clip, and whenever the queue had moved on by a chunk but at the end
    rows, progress = run(tmp_path / "killed", resume="require", arms=arms, prompts=["a"], long=long)
    assert same(rows) == same(expected)
    assert rows[0]["nfe"] == expected[0]["nfe"] == whole
    assert rows[0]["replica_seconds"] == expected[0]["replica_seconds"]
    left = sum(windows(long)[25:])  # of 29 iterations
    assert progress.engine.nfe == 2 * left
    assert not (tmp_path / "killed" / "spill").exists()


def test_what_cannot_be_read_from_disk_is_made_again(tmp_path):
    x = denoise(slides(2)[2], 1)
    spill = Spill(Folder(tmp_path), dict)
    assert x not in spill and spill.claim(x) and not spill.claim(x)
    spill.write(x, {"latent": np.ones(3), "out": np.zeros(0)}, [2.0, 1.0])
    payload, size, seconds = Spill(Folder(tmp_path), dict).read(x)
    assert (payload["latent"].tolist(), size, seconds) == ([1, 1, 1], 24, [2.0, 1.0])
    (file,) = (tmp_path / "spill").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:9], whole[:-9], whole[:99] + bytes([whole[99] ^ 1]) + whole[100:]):
        file.write_bytes(damaged)
        assert x in spill and spill.read(x) is None
        assert x not in spill


def test_what_does_not_fit_on_the_disk_is_done_without(tmp_path, monkeypatch):
    expected, _ = run(tmp_path / "whole", arms=ARMS, prompts=["a"], long=FIFO)

    refused, write = [], Folder.write

    def full(folder, name, content):
        if Path(name).parts[0] == SPILL:
            refused.append(name)
            raise OSError(28, "No space left on device")
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", full)
    rows, _ = run(tmp_path / "run", arms=ARMS, prompts=["a"], long=FIFO)
    assert same(rows) == same(expected) and refused


def test_a_part_that_is_lost_before_it_is_on_disk_is_made_again(tmp_path, monkeypatch):
    expected, _ = run(tmp_path / "whole", arms=ARMS, prompts=["a"], long=FIFO)
    fleet, lost = FakeFleet(2, 2), []
    fetch = fleet.fetch

    async def gone(ref):
        if len(lost) < 3:
            lost.append(ref)
            raise InputLost("the node died")
        return await fetch(ref)

    monkeypatch.setattr(fleet, "fetch", gone)
    rows, progress = run(tmp_path / "run", fleet, arms=ARMS, prompts=["a"], long=FIFO)
    assert same(rows) == same(expected) and progress.engine.recomputed == 3


@pytest.mark.parametrize(("steps", "partitions", "chunks"), [(20, 10, 7), (12, 6, 7), (64, 16, 3)])
def test_a_finished_video_is_rated_by_all_its_frames_each_chunk_under_its_caption(steps, partitions, chunks):
    base = replace(fake_sampler(steps), sigmas=tuple(1 - i / steps for i in range(steps + 1)))
    queue = Queue(base.sigmas, partitions, 1, 5, 1, chunks)
    prompt = Prompt("0", later=tuple(str(i) for i in range(1, chunks)))
    x = Candidate(prompt, base, Noise(7, 0), steps)
    for part in range(1, 1 + queue.slides + queue.drains):
        sampler = base.of_queue(queue, part)
        x = Candidate(prompt, sampler, Derived(x, 0, Slide()), sampler.num_steps)
    shown = [c for c in parts(x) if shows(c)]
    assert [caption(c) for c in shown] == [str(i) for i in range(chunks)]
    clean = [5 if c.sampler.queue is None else queue.clean(queue.begins(c.part) + c.step) for c in shown]
    assert clean == [5 + 4 * i for i in range(chunks)]  # and of each the latest 5


def test_nothing_old_stays_in_the_store(tmp_path):
    """600 slides, and the parts before the last ones go: they are on disk."""
    long = {"chunks": 151, "prefix": 1, "fifo": {"partitions": 5}}
    _, progress = run(tmp_path / "run", arms=ARMS[:1], prompts=["a"], long=long, fleet={"store_gb": 1e-5})
    assert progress.engine.store.most <= 11_000
    assert progress.engine.nfe == pq.read_table(tmp_path / "run" / "searches.parquet")["nfe"][0].as_py()


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("long.fifo: 'given' is not allowed; it must be left out with long.chunks=1", {"long": {"fifo": {}}}),
        (r"policy\.m: 2 is not allowed; it must be at most long\.fifo\.stride=1", {
            "policy": {"name": "scaling_noise", "m": 2}, "long": FIFO,
        }),
        (r"long\.chunks: 'above 1' is not allowed; it must be 1 with a policy that drafts", {
            "policy": {"name": "draft_commit", "draft_steps": 4}, "long": FIFO,
        }),
        (r"one caption, or at least 3: one for each chunk \(long.chunks\)", {"prompts": [["a", "b"]], "long": FIFO}),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, message, values):
    with pytest.raises(ConfigError, match=message):
        session(tmp_path / "run", **values)
