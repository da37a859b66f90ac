"""FIFO-Diffusion's queue on a toy Wan: frames against a plain loop, no seams, keyed noise."""

import asyncio
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from runs import PROMPT, decoded
from runs import config as tiny_config
from safetensors.numpy import load_file

from actors.backend import Backend
from actors.models import wan
from actors.models.source import Source
from actors.sampling import solvers
from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate, Prompt, denoise
from raysearch.recipe.digests import digest, noise_key
from raysearch.recipe.long_video import Queue
from raysearch.recipe.origins import Derived, Noise, Slide
from raysearch.session.session import Session
from raysearch.testing import fake_sampler

EULER = {"name": "euler", "num_steps": 8, "guidance_scale": 3.0}
LONG = {"chunks": 3, "prefix": 1, "fifo": {"partitions": 4}}  # 3 latent frames a clip: 7 in all, a queue of 8
CAPTIONS = [PROMPT, "a blue square", "a green circle"]


def made(path, tiny, **values):
    """The latents of a run's video, all frames in a row, its frames, and its row."""
    values = {"sampler": EULER, "long": LONG, "prompts": [CAPTIONS], "seeds": [5]} | values
    asyncio.run(Session(tiny_config(tiny, **values), Backend(), run_dir=path).run())
    (row,) = pq.read_table(path / "searches.parquet").to_pylist()
    assert row["reason"] == ""
    (file,) = path.glob("latents/*.safetensors")
    first, *others = [torch.tensor(x) for _, x in sorted(load_file(file).items())]
    (frames,) = path.glob("frames/*.npy")
    return torch.cat([first, *(x[:, :, 1:] for x in others)], 2), np.load(frames), row


def by_hand(tiny, *, partitions: int = 4, stride: int = 1, seed: int = 5) -> torch.Tensor:
    """FIFO-Diffusion in a plain loop, Euler steps by their formula; of raysearch only the names of noises."""
    model, encode = (c(Source(tiny)) for c in (wan.Transformer, wan.TextEncoder))
    texts = {c: torch.tensor(encode(c, 40)) for c in [*CAPTIONS, ""]}
    sigmas = solvers.grid(solvers.scheduler_config(tiny), "euler", None, 8)
    s = torch.tensor(sigmas)

    def velocity(x, levels, caption):
        t = (1000 * levels).repeat_interleave(x.shape[3] * x.shape[4] // 4)[None]
        with torch.no_grad():
            c, u = (
                model.model(hidden_states=x, timestep=t, encoder_hidden_states=texts[k], return_dict=False)[0]
                for k in (caption, "")
            )
        return u + 3.0 * (c - u)

    x = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    for i in range(8):
        x = x + (s[i + 1] - s[i]) * velocity(x, s[i].expand(3), PROMPT)
    base = replace(fake_sampler(8), sigmas=sigmas)
    queue = Queue(sigmas, partitions, stride, 3, 1, 3)
    c = Candidate(Prompt("any"), base, Noise(seed, 0), 8)
    frames, steps, size = list(x.split(1, 2)), [8, 8, 8], 8 // partitions
    for part in range(1, queue.slides + queue.drains + 1):
        c = Candidate(c.prompt, base.of_queue(queue, part), Derived(c, 0, Slide()))
        for i in range(c.sampler.num_steps):
            if len(frames) < 7:
                key = c.origin.key if i == 0 else noise_key(digest(c.origin.lineage, i), "tail")
                frames.append(torch.randn(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(key)))
                steps.append(0)
            now, before = torch.cat(frames, 2), list(steps)
            iteration = queue.begins(part) + i
            for end in range(3 + iteration + 1, 3 + iteration + 1 - 8, -size):  # where a partition ends
                last = min(end, 7)
                mine = [a for a in range(max(end - size, 0), last) if before[a] < 8]
                if mine:
                    levels = s[[before[a] for a in range(last - 3, last)]]
                    v = velocity(now[:, :, last - 3 : last], levels, CAPTIONS[0 if last <= 3 else 1 + (last - 4) // 2])
                    for a in mine:
                        h = s[before[a] + 1] - s[before[a]]
                        frames[a] = frames[a] + h * v[:, :, a - last + 3 : a - last + 4]
                        steps[a] += 1
        c = denoise(c, c.sampler.num_steps)
    assert steps == [8] * 7
    return torch.cat(frames, 2)


@pytest.mark.parametrize(("partitions", "stride"), [(4, 1), (8, 2)])
def test_a_video_is_what_the_plain_loop_makes(tiny, tmp_path, partitions, stride):
    long = LONG | {"fifo": {"partitions": partitions, "stride": stride}}
    latents, frames, row = made(tmp_path, tiny, long=long)
    expected = by_hand(tiny, partitions=partitions, stride=stride)
    torch.testing.assert_close(latents, expected, atol=2e-4, rtol=1e-4)
    assert len(frames) == 9 + 2 * 8
    queue = Queue((1.0, *[0.5] * 7, 0.0), partitions, stride, 3, 1, 3)
    last = queue.ends(queue.slides + queue.drains)
    assert row["nfe"] == 2 * (8 + sum(len(queue.windows(i)) for i in range(last)))


def test_there_is_no_seam(tiny, tmp_path):
    latents, frames, _ = made(tmp_path, tiny)
    expected = wan.Autoencoder(Source(tiny)).decode(latents)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).max() <= 1
    (clip,) = tmp_path.glob("videos/*.mp4")
    assert len(decoded(clip)) == len(frames)


@pytest.mark.parametrize("name", ["flow-sde", "score-sde"])
def test_stochastic_steps_are_keyed_by_recipe(tiny, tmp_path, name):
    sampler = EULER | {"name": name}
    one, _, _ = made(tmp_path / "one", tiny, sampler=sampler)
    again, _, _ = made(tmp_path / "again", tiny, sampler=sampler)
    assert torch.equal(one, again)
    assert not torch.allclose(one, made(tmp_path / "ode", tiny)[0])


def test_slots_change_nothing_but_rounding(tiny, tmp_path):
    policy = {"name": "scaling_noise", "k": 2, "n": 4}
    rewards = {"search": {"name": "consistency", "features": "world"}}
    one, _, row = made(tmp_path / "one", tiny, policy=policy, rewards=rewards)
    many, _, other = made(
        tmp_path / "many", tiny, policy=policy, rewards=rewards, fleet={"backend": "local", "denoisers": {"slots": 4}}
    )
    assert row["nfe"] == other["nfe"]
    torch.testing.assert_close(one, many, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (r"long\.fifo\.partitions: 16 is not allowed; it must be a divisor of sampler\.num_steps=8", {
            "long": LONG | {"fifo": {"partitions": 16}},
        }),
        (r"long\.fifo\.partitions: 2 is not allowed; .* and at least 3: a partition is no longer than a clip's 3", {
            "long": LONG | {"fifo": {"partitions": 2}},
        }),
        (r"long\.fifo\.stride: 3 is not allowed; it must be in 1\.\.2", {
            "long": LONG | {"fifo": {"partitions": 4, "stride": 3}},
        }),
        (r"sampler\.name: 'unipc' is not allowed; it must be one of euler, flow-sde, score-sde with long\.fifo", {
            "sampler": {"name": "unipc"},
        }),
        (r"rewards\.early\.name: 'tiny:LatentNorm' is not allowed; it must be a reward of previews .*: levels differ", {
            "rewards": {"search": {"name": "tiny:Brightness"}, "early": {"name": "tiny:LatentNorm"}},
        }),
    ],
)  # fmt: skip
def test_queues_that_cannot_be(tiny, tmp_path, message, values):
    with pytest.raises(ConfigError, match=message):
        Session(tiny_config(tiny, **({"sampler": EULER, "long": LONG} | values)), Backend(), run_dir=tmp_path / "run")
