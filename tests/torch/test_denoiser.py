"""A worker's thread when items are cancelled, fail, or find no memory."""

import itertools
import threading
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import PROMPT, embedded, leg_of, run, workers

from actors.models import wan
from actors.models.source import Source
from actors.sampling import solvers
from actors.workers import slot
from actors.workers.denoiser import Denoiser
from raysearch.engine.protocol import Start
from raysearch.errors import OutOfMemory
from raysearch.recipe.origins import Renoise


def test_a_cancelled_item_frees_its_slot_between_steps(tiny):
    sampler, encoder, worker = workers(tiny)
    sampler = replace(sampler, num_steps=999, sigmas=(1.0,) * 1000)
    (text,) = embedded(encoder, PROMPT)
    given = {"text": text, "negative": text}
    start = leg_of(sampler, 999)
    long = worker.submit(0, start, given)
    waiting = worker.submit(1, start, given)
    worker.cancel(1)
    worker.cancel(0)
    short = worker.submit(2, replace(start, until=1), given)
    assert short.result(60)[0].nfe == 2
    for item in (long, waiting):  # cancelled before it was admitted, or between two steps
        assert item.cancelled() or isinstance(item.exception(60), CancelledError)
    worker.close()


def test_a_cancellation_from_outside_never_ends_the_compute_thread(tiny):
    """As asyncio does it: the future itself is cancelled, at any moment, by another thread."""
    sampler, encoder, worker = workers(tiny)
    (text,) = embedded(encoder, PROMPT)
    given = {"text": text, "negative": text}
    start = leg_of(sampler, 2)
    for i in range(40):
        worker.submit(i, start, given).cancel()
        worker.submit(100 + i, start, given)
        worker.cancel(100 + i)
    assert worker.submit(999, start, given).result(60)[0].nfe == 4
    worker.close()


def test_an_error_reaches_its_waiter_and_the_worker_goes_on(tiny):
    sampler, encoder, worker = workers(tiny)
    (text,) = embedded(encoder, PROMPT)
    given = {"text": text, "negative": text}
    bad = leg_of(sampler, 1, start=Start(Renoise(0), 1))
    with pytest.raises(AssertionError):  # a renoising needs its parent
        worker.submit(0, bad, given).result(60)
    good = leg_of(sampler, 1)
    with pytest.raises(RuntimeError):
        worker.submit(1, good, given | {"text": text[:, :, :3]}).result(60)
    assert worker.submit(2, good, given).result(60)[0].nfe == 2
    worker.close()


def test_a_result_that_cannot_be_handed_over_is_its_waiters_error_and_the_worker_goes_on(tiny, monkeypatch):
    sampler, encoder, denoiser = workers(tiny)
    (text,) = embedded(encoder, PROMPT)
    given = {"text": text, "negative": text}
    pack, errors = solvers.pack, [RuntimeError("a copy failed"), torch.OutOfMemoryError("CUDA out of memory")]
    monkeypatch.setattr(solvers, "pack", lambda state: pack(state) if not errors else fail(errors.pop(0)))
    leg = leg_of(sampler, 2)
    with pytest.raises(RuntimeError, match="a copy failed"):
        denoiser.submit(1, leg, given).result(60)
    with pytest.raises(OutOfMemory):
        denoiser.submit(2, leg, given).result(60)
    assert denoiser.submit(3, leg, given).result(60)[0].nfe == 4
    denoiser.close()


def fail(error):
    raise error


def test_a_last_step_that_finds_no_memory_midway_is_done_again_whole(tiny, monkeypatch):
    """The older of two candidates fails where its first frame is put back; the younger one leaves."""
    sampler, encoder, alone = workers(tiny)
    (text,) = embedded(encoder, PROMPT)
    given = {"text": text, "negative": text}
    first = np.random.default_rng(0).normal(size=(1, 4, 1, 8, 8)).astype("f4")
    inputs = given | {"first": first}
    expected = alone.submit(1, leg_of(sampler, 8), inputs).result(60)[1].latent
    alone.close()
    plain, failed, started = slot.with_clean_frames, [], threading.Event()

    def with_clean_frames(latent, frame):
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return plain(latent, frame)

    monkeypatch.setattr(slot, "with_clean_frames", with_clean_frames)
    gate = Denoiser._admit

    def admit(self, item):
        started.wait(60)  # so that both are there before the first step
        return gate(self, item)

    monkeypatch.setattr(Denoiser, "_admit", admit)
    both = Denoiser(Source(tiny), slots=2)
    older, younger = (both.submit(i, leg_of(sampler, 8), inputs) for i in (1, 2))
    started.set()
    with pytest.raises(OutOfMemory):
        younger.result(60)
    np.testing.assert_allclose(older.result(60)[1].latent, expected, atol=1e-4)
    both.close()


def runs_out(monkeypatch, when):
    """The transformer's forwards for which `when(batch)` holds find no memory. Returns how many did, as a list."""
    plain, seen = wan.Transformer.__call__, []

    def forward(self, latents, *rest):
        if when(len(latents)):
            seen.append(len(latents))
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return plain(self, latents, *rest)

    monkeypatch.setattr(wan.Transformer, "__call__", forward)
    return seen


def test_in_fast_mode_what_finds_no_memory_goes_back_and_fewer_run(tiny, tmp_path, monkeypatch):
    policy = {"name": "best_of_n", "n": 6}
    _, exact, _ = run(tiny, tmp_path / "exact", policy=policy)
    seen = runs_out(monkeypatch, lambda batch: batch > 2)
    _, fast, _ = run(tiny, tmp_path / "fast", policy=policy, fleet={"denoisers": {"slots": 4}})
    assert seen == [4, 3]
    assert all(np.allclose(fast[k], exact[k], atol=1e-4) for k in exact)


def test_in_exact_mode_it_is_tried_alone_and_gives_the_same_bits(tiny, tmp_path, monkeypatch):
    policy = {"name": "best_of_n", "n": 3}
    rows, exact, _ = run(tiny, tmp_path / "exact", policy=policy)
    calls = itertools.count()
    seen = runs_out(monkeypatch, lambda batch: next(calls) in (3, 40, 41))
    again, latents, _ = run(tiny, tmp_path / "again", policy=policy)
    assert len(seen) == 3
    assert [r["winner"] for r in again] == [r["winner"] for r in rows]
    assert all(np.array_equal(latents[k], exact[k]) for k in exact)


def test_a_scorer_without_memory_is_asked_again(tiny, tmp_path, monkeypatch):
    rows, _, _ = run(tiny, tmp_path / "plain")
    plain, calls = wan.Autoencoder.decode, itertools.count()

    def decode(self, *arguments):
        if next(calls) < 2:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return plain(self, *arguments)

    monkeypatch.setattr(wan.Autoencoder, "decode", decode)
    again, _, _ = run(tiny, tmp_path / "again")
    assert [r["winner"] for r in again] == [r["winner"] for r in rows]
