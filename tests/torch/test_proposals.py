"""ScalingNoise on a toy Wan: each kind of proposal as a tensor, what a queue's preview is, what the anchor is."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import PROMPT, embedded, leg_of
from runs import config as tiny_config
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.models import wan
from actors.models.source import Source
from actors.sampling import solvers
from actors.workers import worker
from actors.workers.state import State
from raysearch.config import config as configuration
from raysearch.engine.protocol import QueuePart, Start
from raysearch.recipe.long_video import Queue
from raysearch.recipe.origins import Extend, Neighbour, Slide
from raysearch.session.session import Session

EULER = {"name": "euler", "num_steps": 8, "guidance_scale": 3.0}


def low(latent: np.ndarray, noise: np.ndarray, cutoff: float, axes: tuple[int, ...]) -> np.ndarray:
    """Eq. 8 by numpy: the latent's frequencies times a Gaussian low-pass, the noise's times the rest."""
    d2 = np.zeros(())
    for axis in axes:
        f = np.fft.fftfreq(noise.shape[axis]) / 0.5
        d2 = d2 + (f**2).reshape([-1 if i == axis else 1 for i in range(noise.ndim)])
    h = np.exp(-d2 / (2 * cutoff**2))
    return np.fft.ifftn(np.fft.fftn(latent, axes=axes) * h + np.fft.fftn(noise, axes=axes) * (1 - h), axes=axes).real


@pytest.mark.parametrize("dims", [2, 3])
def test_frequencies_are_mixed_by_a_gaussian(dims):
    x, e = (torch.randn(1, 2, 5, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2))
    mixed = solvers.frequency_mix(x, e, 0.4, dims)
    np.testing.assert_allclose(mixed, low(x.numpy(), e.numpy(), 0.4, tuple(range(5 - dims, 5))), atol=1e-5)


def noise(shape: tuple[int, ...], key: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(key))


@pytest.fixture(scope="module")
def denoiser(tiny):
    c = tiny_config(tiny, sampler=EULER)
    plan = Backend().prepare(c, configuration.arms(c))
    encode = worker.build("encoder", c, plan)
    texts = dict(zip(("text", "negative"), embedded(encode, PROMPT, ""), strict=True))
    built = worker.build("denoiser", c, plan)
    yield built, plan.arms[0].sampler, texts
    built.close()


START, KEY = 3, 11  # keys of the noise that is given, and of the origin's own


@pytest.mark.parametrize(
    ("cutoff", "read", "expected"),
    [
        (0.0, False, lambda last, e, given: e),
        (0.25, False, lambda last, e, given: low(last, e, 0.25, (2, 3, 4))),
        (0.0, True, lambda last, e, given: given),
    ],
    ids=["fresh", "mixed", "given"],
)
def test_the_noise_of_a_chunk(denoiser, cutoff, read, expected):
    worker, sampler, texts = denoiser
    before, given = noise((1, 4, 3, 8, 8), 1), noise((1, 4, 3, 8, 8), START)
    points = {"point 0": State(given.numpy())} if read else {}
    leg = leg_of(sampler, 0, start=Start(Extend(prefix=1, cutoff=cutoff), KEY))
    state = worker.submit(0, leg, texts | points | {"base": State(before.numpy())}).result(timeout=60)[1]
    made = expected(before.numpy(), noise((1, 4, 3, 8, 8), KEY).numpy(), given.numpy())
    np.testing.assert_allclose(state.latent, made, atol=1e-5)


@pytest.mark.parametrize(
    ("cutoff", "read", "expected"),
    [
        (0.0, False, lambda last, e, given: e),
        (0.25, False, lambda last, e, given: low(last, e, 0.25, (2, 3, 4))),
        (0.0, True, lambda last, e, given: given[:, :, -1:]),
    ],
    ids=["fresh", "mixed", "given"],
)
def test_the_noise_that_enters_a_queue(denoiser, cutoff, read, expected):
    """The tail alone differs by it, and its last clean frame is what it is mixed with."""
    worker, sampler, texts = denoiser
    queue = Queue(sampler.sigmas, 4, 1, 3, 1, 3)
    clean, waiting = noise((1, 4, 3, 8, 8), 1), noise((1, 4, 2, 8, 8), 2)
    base = State(clean.numpy(), queue=waiting.numpy(), out=clean[:, :, :0].numpy())
    given = noise((1, 4, 3, 8, 8), START)
    points = {"point 0": State(given.numpy())} if read else {}
    texts = texts | {f"text {i}": texts["text"] for i in range(2)}
    part = QueuePart(3, (1, 2))
    slide = leg_of(sampler.of_queue(queue, 3), 0, start=Start(Slide(cutoff=cutoff), KEY), velocity=True)
    slide = replace(slide, queue=part)
    state = worker.submit(0, slide, texts | points | {"base": base}).result(timeout=60)[1]
    tail = expected(clean[:, :, -1:].numpy(), noise((1, 4, 1, 8, 8), KEY).numpy(), given.numpy())
    assert np.array_equal(state.latent, clean) and np.array_equal(state.queue[:, :, :2], waiting)
    np.testing.assert_allclose(state.queue[:, :, 2:], tail, atol=1e-5)

    # Its x0 prediction: of the tail's window, each frame at its own level.
    levels = torch.tensor([sampler.sigmas[i] for i in (2, 1, 0)]).view(1, 1, 3, 1, 1)
    assert state.levels.tolist() == pytest.approx(levels.flatten().tolist())
    seen = torch.tensor(np.concatenate([waiting, tail.astype(np.float32)], 2))
    torch.testing.assert_close(state.x0(1.0), seen - levels * torch.tensor(state.velocity), atol=1e-5, rtol=0)

    # A neighbour moves that frame alone, to its cosine.
    near = replace(leg_of(sampler.of_queue(queue, 3), 0, start=Start(Neighbour(0.8), 5)), queue=part)
    moved = worker.submit(0, near, texts | {"base": state}).result(timeout=60)[1].queue
    assert np.array_equal(moved[:, :, :2], waiting)
    a, b = moved[:, :, 2].ravel().astype(float), state.queue[:, :, 2].ravel().astype(float)
    assert a @ b / np.sqrt((a @ a) * (b @ b)) == pytest.approx(0.8, abs=1e-5)


class Probe:
    """Notes what it is shown."""

    components = ("any",)
    needs = "frames"
    reads_earlier = True
    views: list = []  # noqa: RUF012

    def __call__(self, views):
        self.views.extend(views)
        return np.zeros((len(views), 1))


@pytest.mark.parametrize("fifo", [None, {"partitions": 4}])
def test_a_reward_sees_the_chunk_before_and_the_first_one(tiny, tmp_path, monkeypatch, fifo):
    monkeypatch.setattr(Probe, "views", [])
    captions = [PROMPT, "a blue square", "a green circle"]
    probe = {"name": "test_proposals:Probe"}
    long = {"chunks": 3, "prefix": 1} | ({"fifo": fifo} if fifo else {})
    c = tiny_config(
        tiny, sampler=EULER, long=long, prompts=[captions], seeds=[5],
        policy={"name": "best_of_n", "n": 1}, rewards={"search": probe, "final": probe},
    )  # fmt: skip
    asyncio.run(Session(c, Backend(), run_dir=tmp_path).run())
    asked, finished = Probe.views[1:-3], Probe.views[-3:]  # the first view is that of the trial
    assert [v.prompt for v in finished] == [v.prompt for v in asked[-3:]] == captions
    shown = [v.frames for v in finished]
    for view, before in zip(finished[1:], shown, strict=False):
        assert np.array_equal(view.before, before) and np.array_equal(view.opening, shown[0])
    assert finished[0].before is None and finished[0].opening is None
    # While searching, chunks are decoded alone.
    (file,) = tmp_path.glob("latents/*.safetensors")
    coder = wan.Autoencoder(Source(tiny))
    alone = [coder.decode(torch.tensor(x)) for _, x in sorted(load_file(file).items())]
    assert len(asked) == 3 and asked[0].before is None
    for view, frames in zip(asked, alone, strict=True):
        assert np.array_equal(view.frames, frames)
        assert view is asked[0] or np.array_equal(view.opening, shown[0])
    if fifo is None:
        assert np.array_equal(asked[1].before, shown[0]) and np.array_equal(asked[2].before, shown[1])
