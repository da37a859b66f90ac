"""Sharded denoisers on CPUs with gloo: equal to the whole model bit for bit, and broken as a whole."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import gangs
import numpy as np
import pytest
import torch
from runs import PROMPT, config, embedded, leg_of

from actors.backend import Backend
from actors.models import wan
from actors.models.source import Source
from actors.workers import gang, worker
from actors.workers.denoiser import Denoiser
from raysearch.config import config as configuration
from raysearch.config.fleet import PoolConfig
from raysearch.errors import ConfigError, ReplicaDied

# diffusers' own, under context parallelism
pytestmark = pytest.mark.filterwarnings("ignore:.*all_gather_tensor:FutureWarning")
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(3, mp_context=SPAWN) as pool:
        yield pool


@pytest.fixture(scope="module")
def work(tiny):
    """A sampler and the inputs of a leg: text, negative text, a first frame."""
    plan = Backend().prepare(c := config(tiny), configuration.arms(c))
    encoder = worker.build("encoder", c, plan)
    text, negative = embedded(encoder, PROMPT, "")
    return plan.arms[0].sampler, text, negative, np.random.default_rng(0).normal(size=(1, 4, 1, 8, 8)).astype("f4")


@contextmanager
def leading(tiny, pool, dtype, start, patience=timedelta(minutes=5)):
    """Rank 0's denoiser in this process; `start` runs a follower."""
    store, port = gang.listen(gang.LOOPBACK)
    places = [gang.Place(rank, gang.LOOPBACK, port, patience=patience) for rank in range(pool.shards)]
    for place in places[1:]:
        start(gangs.follow, Source(tiny, dtype), pool, place)
    led = gang.Gang(Source(tiny, dtype), pool=pool, place=places[0], store=store)
    denoiser = Denoiser(Source(tiny, dtype), slots=1, gang=led)
    try:
        yield denoiser
    finally:
        denoiser.close()


def trajectories(worker, work):
    """Whole trajectories, with an x0 prediction on the way, without and with a first frame."""
    sampler, text, negative, first = work
    found = []
    for picture in (None, first):
        given = {"text": text, "negative": negative, "first": picture}
        half = worker.submit(0, leg_of(sampler, 3, velocity=True), given).result(120)[1]
        onward = leg_of(sampler, 8, start=None, step=3)
        reply, end = worker.submit(1, onward, given | {"base": half}).result(120)
        found += [half.velocity, half.latent, end.latent]
        assert reply.nfe == 8  # 5 steps under guidance, the first of them paid by the x0 prediction
    return found


@pytest.mark.parametrize(
    ("mode", "shards", "dtype"),
    [
        ("context", 2, "float32"),
        ("fsdp", 2, "float32"),
        ("fsdp", 2, "bfloat16"),
        ("guidance", 2, "float32"),
        ("guidance", 2, "bfloat16"),
        ("context+guidance", 4, "float32"),
    ],
)
def test_a_gang_is_the_whole_model_bit_for_bit(tiny, processes, work, mode, shards, dtype):
    whole = Denoiser(Source(tiny, dtype), slots=1)
    every = gangs.parameters(whole._model.model.model)
    if mode == "fsdp":  # gathered weights are aligned in memory; those mapped from a file are not, and 3e-7 off
        for p in whole._model.model.model.parameters():
            p.data = p.data.clone()
    expected = trajectories(whole, work)
    whole.close()
    followers = []

    def start(*call):
        followers.append(processes.submit(*call))

    with leading(tiny, PoolConfig(shards=shards, shard_mode=mode), dtype, start) as denoiser:
        held = gangs.parameters(denoiser._model.model.model)
        got = trajectories(denoiser, work)
    assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    shares = [held, *(f.result(60) for f in followers)]  # they were told to stop, and did
    assert sum(shares) == (every if mode == "fsdp" else shards * every)
    assert mode != "fsdp" or max(shares) < 0.6 * every


@pytest.mark.parametrize("mode", ["context", "guidance"])
def test_every_rank_sees_what_a_row_is_given(pictured, processes, mode):
    """The condition and the embedding of an image-to-video model."""
    g = torch.Generator().manual_seed(0)
    latents, timesteps = torch.randn(2, 4, 4, 8, 8, generator=g), torch.tensor([900.0, 300.0])
    texts = [torch.randn(2, 8, 16, generator=g) for _ in range(2)]
    seen = [(torch.randn(1, 8, 4, 8, 8, generator=g), torch.randn(1, 6, 16, generator=g)) for _ in range(2)]
    whole = wan.Transformer(Source(pictured))
    expected = [whole(latents, timesteps, text, seen) for text in texts]
    pool = PoolConfig(shards=2, shard_mode=mode)
    with leading(pictured, pool, "float32", processes.submit) as denoiser:
        got = denoiser._gang.velocities(latents, timesteps, texts, seen)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_or_hung_follower_breaks_the_gang_and_hangs_nobody(tiny, work, blow):
    sampler, text, negative, _ = work
    followers = []

    def start(function, *arguments):
        here = SPAWN.Event()
        followers.append(SPAWN.Process(target=gangs.announced, args=(here, function, *arguments), daemon=True))
        followers[-1].start()
        assert here.wait(600)  # the gang's patience is for a follower that hangs, not for one that imports torch

    pool = PoolConfig(shards=2, shard_mode="guidance")
    patience = timedelta(seconds=60 if blow == signal.SIGKILL else 15)
    try:
        with leading(tiny, pool, "float32", start, patience) as denoiser:
            leg = leg_of(sampler, 1)
            given = {"text": text, "negative": negative}
            assert denoiser.submit(0, leg, given).result(120)[0].nfe == 2
            os.kill(followers[0].pid, blow)
            for item in (1, 2):  # it stays broken
                with pytest.raises(ReplicaDied, match="a gang of 2 shards is broken"):
                    denoiser.submit(item, leg, given).result(120)
    finally:
        followers[0].kill()
        followers[0].join()


def test_the_meeting_point_is_not_open_to_the_world():
    store, port = gang.listen(gang.LOOPBACK)
    with open("/proc/net/tcp") as v4, open("/proc/net/tcp6") as v6:
        ends = [line.split()[1].split(":") for line in [*v4, *v6][1:] if " 0A " in line]  # 0A: listening
    assert [address for address, p in ends if int(p, 16) == port] == ["0100007F"]
    assert gang._interface(gang.LOOPBACK) == "lo"
    del store


def sharded(shards=2, mode="context", **pool):
    return {"backend": "ray", "denoisers": {"shards": shards, "shard_mode": mode, **pool}}


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"fleet": sharded(0)}, "fleet.denoisers.shards: 0 is not allowed; it must be at least 1"),
        ({"fleet": sharded(mode="ring")}, "shard_mode: 'ring' is not allowed; it must be one of context, fsdp"),
        ({"fleet": sharded(1, "fsdp")}, "shard_mode: 'fsdp' is not allowed; it must be left out"),
        ({"fleet": sharded(3, "guidance")}, "shards: 3 is not allowed; it must be 2 with shard_mode=guidance"),
        ({"fleet": sharded(2, "context+guidance")}, "shards: 2 is not allowed; it must be even and at least 4"),
        (
            {"fleet": sharded(num_gpus=0.5)},
            "num_gpus: 0.5 is not allowed; it must be 0, or above 0.5 and at most 1 with",
        ),
        ({"fleet": {"backend": "ray", "scorers": {"shards": 2}}}, "fleet.scorers.shards: 2 is not allowed"),
        (
            {"fleet": sharded() | {"backend": "local"}},
            "shards: 2 .* must be 1 with fleet.backend=local",
        ),
        ({"fleet": sharded(2, "guidance"), "sampler": {"guidance_scale": 1.0}}, "sampler.guidance_scale: 1.0 is not"),
        (
            {"fleet": sharded(2, "guidance"), "sampler": {"batched_guidance": True}},
            "sampler.batched_guidance: True is not allowed; it must be false with fleet.denoisers.shard_mode=guidance",
        ),
        (
            {"fleet": sharded(2, "guidance"), "arms": [{"name": "plain", "sampler": {"guidance_scale": 1.0}}]},
            r"sampler.guidance_scale: 1.0 .* \(arm plain\)",
        ),
    ],
)
def test_what_cannot_be_sharded_is_said_in_one_line(tiny, values, line):
    with pytest.raises(ConfigError, match=line):
        config(tiny, **values)


def test_a_model_says_what_shards_it_takes(tiny, tmp_path):
    c = config(tiny, fleet=sharded(3))
    with pytest.raises(ConfigError, match=r"shards: 3 .* 3 context shards divide the model's 2 heads and .* 48"):
        Backend().prepare(c, configuration.arms(c))
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "GaussianMixture", "means": [[0.0]], "stds": [1.0], "weights": [1.0]}'
    )
    size = {"path": str(tmp_path), "height": 1, "width": 1, "num_frames": 1}
    c = config(tiny, model=size, fleet=sharded(2, "guidance"), rewards={"search": {"name": "tiny:LatentNorm"}})
    with pytest.raises(ConfigError, match="shards: 2 is not allowed; it must be 1 for a Gaussian mixture"):
        Backend().prepare(c, configuration.arms(c))


def test_sharding_is_in_the_numerics_fingerprint(tiny):
    from actors.plan import fingerprint

    seen = set()
    for fleet in (None, sharded(2), sharded(4), sharded(2, "guidance"), sharded(2, "fsdp")):
        c = config(tiny, **({"fleet": fleet} if fleet else {}))
        seen.add(fingerprint(c, c.sampler))
    assert len(seen) == 5


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
