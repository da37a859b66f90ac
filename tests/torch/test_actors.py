"""The plain-torch workers against diffusers' own pipeline, on a toy-sized Wan of the real classes."""

import asyncio
import io
import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import (
    WanPipeline,
)
from PIL import Image
from runs import ARMS, KINDS, PROMPT, SCHEDULERS, SIZE, config, embedded, image_to_video, leg_of, run, workers

from actors.backend import Backend
from actors.sampling import solvers
from actors.workers import worker
from actors.workers.clips import Clips
from actors.workers.denoiser import Denoiser
from actors.workers.state import State
from raysearch.config import config as configuration
from raysearch.engine.protocol import File, Start
from raysearch.recipe.origins import Noise, Perturb, Recording
from raysearch.session.session import Session


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_single_is_the_pipeline_bit_for_bit(tiny, tmp_path, name):
    pipeline = WanPipeline.from_pretrained(tiny, dtype=torch.float32)
    pipeline.scheduler = SCHEDULERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": PROMPT, "negative_prompt": "dull", "num_inference_steps": 8, "guidance_scale": 3.0, **SIZE}
    expected = pipeline(**call, output_type="latent", generator=torch.Generator().manual_seed(5)).frames
    video = pipeline(**call, output_type="np", generator=torch.Generator().manual_seed(5)).frames[0]
    sampler = {"name": name, "negative_prompt": "dull"}
    _, latents, frames = run(tiny, tmp_path / "run", seeds=[5], sampler=sampler)
    (got,), (shown,) = latents.values(), frames.values()
    assert got.dtype == np.float32
    assert np.array_equal(got, expected.numpy())
    off = np.abs(shown - np.rint(video * 255))  # decoded by other convolutions: to rounding
    assert shown.dtype == np.uint8
    assert off.max() <= 1
    assert off.mean() < 1e-3


def test_a_first_frame_is_the_image_to_video_pipeline_bit_for_bit(tiny, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "first.png")
    (tmp_path / "prompts.jsonl").write_text(f'{{"prompt": "{PROMPT}", "image": "first.png"}}\n')
    pipeline = image_to_video(tiny)
    expected = pipeline(
        image=image, prompt=PROMPT, num_inference_steps=8, guidance_scale=3.0, **SIZE, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).frames  # fmt: skip
    _, latents, _ = run(tiny, tmp_path / "run", seeds=[5], prompts=None, prompts_file=str(tmp_path / "prompts.jsonl"))
    assert np.array_equal(next(iter(latents.values())), expected.numpy())


@pytest.mark.parametrize("name", [*SCHEDULERS, *configuration.SDE])
def test_fork_is_the_straight_run_bit_for_bit(tiny, tmp_path, name):
    """To 3, to 6 and to the end through separate items, on two denoisers in turn, with and without previews."""
    plan = Backend().prepare(c := config(tiny, sampler={"name": name}), configuration.arms(config(tiny)))
    sampler = Backend().prepare(c, configuration.arms(c)).arms[0].sampler
    encoder = worker.build("encoder", c, plan)
    text, negative = embedded(encoder, PROMPT, "")
    workers = [worker.build("denoiser", c, plan) for _ in range(2)]

    def leg(worker: Denoiser, base, step, until, velocity):
        start = Start(Noise(5, 0), key=5) if base is None else None
        request = leg_of(sampler, until, start=start, step=step, velocity=velocity)
        given = {"text": text, "negative": negative} | ({"base": base} if base else {})
        return worker.submit(0, request, given).result(timeout=60)

    straight = leg(workers[0], None, 0, 8, False)
    for previews in (False, True):
        evaluations, base = 0, None
        for i, (step, until) in enumerate([(0, 3), (3, 6), (6, 8)]):
            reply, base = leg(workers[i % 2], base, step, until, previews and until < 8)
            evaluations += reply.nfe
        assert np.array_equal(base.latent, straight[1].latent)
        assert evaluations == straight[0].nfe == 16  # a preview's evaluation is the next step's: paid once
    for w in workers:
        w.close()


def test_a_latent_that_is_not_finite_fails_its_search_alone(tiny, tmp_path, monkeypatch):
    plain, calls = Clips._velocities, itertools.count()

    def velocities(self, group):
        found = plain(self, group)
        return [(v * torch.nan, c) for v, c in found] if next(calls) == 3 else found

    monkeypatch.setattr(Clips, "_velocities", velocities)
    c = config(tiny, seeds=[0, 1], max_searches=1, rewards={"search": None})
    asyncio.run(Session(c, Backend(), run_dir=tmp_path).run())
    first, second = pq.read_table(tmp_path / "searches.parquet").to_pylist()
    assert first["status"] == "failed" and "the latent is not finite after step 8 of 8" in first["reason"]
    assert second["status"] == "done"


def test_batched_slots_agree_with_one_by_one_to_a_tolerance(tiny, tmp_path):
    policy = {"name": "best_of_n", "n": 6}
    rewards = {"search": {"name": "tiny:LatentNorm"}}
    _, exact, _ = run(tiny, tmp_path / "exact", policy=policy, rewards=rewards)
    _, fast, _ = run(tiny, tmp_path / "fast", policy=policy, rewards=rewards, fleet={"denoisers": {"slots": 4}})
    (a,), (b,) = exact.values(), fast.values()
    assert np.allclose(a, b, atol=1e-4)
    _, guided, _ = run(tiny, tmp_path / "guided", policy=policy, rewards=rewards, sampler={"batched_guidance": True})
    assert np.allclose(a, next(iter(guided.values())), atol=1e-4)


def test_each_candidate_is_scored_with_its_own_prompt(tiny, tmp_path):
    prompts = ["a", "bb", "ccc", "dddd"]
    rewards = {"search": {"name": "tiny:PromptLength"}, "holdout": {"name": "tiny:PromptLength"}}
    fleet = {"denoisers": {"slots": 4}, "scorers": {"replicas": 2}}
    policy = {"name": "best_of_n", "n": 2}
    rows, _, _ = run(tiny, tmp_path / "run", prompts=prompts, rewards=rewards, policy=policy, fleet=fleet)
    assert [(r["reward_search"], r["reward_holdout"]) for r in rows] == [(n, n) for n in (1, 2, 3, 4)]


def test_a_still_clip_is_encoded_as_its_first_frame_and_then_some(tiny):
    """The autoencoder is causal, so the first latent frame of a clip is that of the picture alone."""
    c = config(tiny)
    encoder = worker.build("encoder", c, Backend().prepare(c, configuration.arms(c)))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "png")
    png = data.getvalue()
    still = Recording("p.png", b"", still=True)
    clip = encoder.encode(File("video", still, (9, 32, 32), png), {})
    first = encoder.encode(File("image", still, (9, 32, 32), png), {})
    assert clip.shape == (1, 4, 3, 8, 8)
    np.testing.assert_allclose(clip[:, :, :1], first, atol=1e-4)
    smaller = encoder.encode(File("video", still, (5, 16, 32), png), {})
    assert smaller.shape == (1, 4, 2, 4, 8)


@pytest.mark.parametrize("arms", [ARMS, KINDS])
def test_two_denoisers_give_the_winners_of_one_bit_for_bit(tiny, tmp_path, arms):
    ends = []
    for n in (1, 2):
        fleet = {"denoisers": {"replicas": n}, "scorers": {"replicas": n}}
        ends.append(run(tiny, tmp_path / str(n), arms=arms, seeds=[1, 2], fleet=fleet))
    (rows, latents, _), (other_rows, other_latents, _) = ends
    assert [r["winner"] for r in rows] == [r["winner"] for r in other_rows]
    assert all(np.array_equal(latents[k], other_latents[k]) for k in latents)


def test_an_arm_alone_is_the_arm_beside_others_bit_for_bit(tiny, tmp_path):
    together = run(tiny, tmp_path / "together", arms=ARMS)
    rows, latents, _ = run(tiny, tmp_path / "alone", arms=ARMS[2:])
    assert np.array_equal(latents["000000-s0-rgrp"], together[1]["000000-s0-rgrp"])
    assert rows[0]["nfe"] == next(r["nfe"] for r in together[0] if r["arm"] == "rgrp")


def test_best_of_n_finds_the_best_of_the_finished_videos_scored_outside(tiny, tmp_path):
    """The noises drawn by hand as design says, the pipeline itself, the reward called by hand."""
    from tiny import Brightness

    from actors.rewards import View

    pipeline = WanPipeline.from_pretrained(tiny, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    totals = []
    for i in range(3):
        noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(Noise(7, i).key))
        video = pipeline(PROMPT, num_inference_steps=8, guidance_scale=3.0, latents=noise, **SIZE).frames[0]
        frames = np.rint(video * 255).astype(np.uint8)
        totals.append(Brightness()([View(PROMPT, 0.0, frames=frames)]).sum())
    rows, _, _ = run(tiny, tmp_path / "run", seeds=[7], policy={"name": "best_of_n", "n": 3})
    assert rows[0]["reward_search"] == pytest.approx(max(totals), abs=1e-5)  # frames are equal to rounding


def test_preview_is_the_estimate_at_the_candidates_own_point(tiny, tmp_path):
    """Siblings perturbed from one latent differ in their previews, and each preview is x - sigma v(x)."""
    sampler, encoder, worker = workers(tiny)
    text, none = embedded(encoder, PROMPT, "")
    given = {"text": text, "negative": none}
    parent = worker.submit(0, leg_of(sampler, 4), given).result(60)[1]
    previews = []
    for key in (2, 3):
        child = leg_of(sampler, 4, start=Start(Perturb(0.3), key, 4), step=4, velocity=True)
        state = worker.submit(key, child, given | {"base": parent}).result(60)[1]
        noise = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(key))
        x = (1 - 0.09) ** 0.5 * torch.tensor(parent.latent) + 0.3 * noise
        assert np.allclose(state.latent, x.numpy(), atol=1e-6)
        model, t = worker._model.model.model, torch.tensor([worker._model._solver(sampler).timesteps[4]])
        with torch.no_grad():
            c_, u_ = (model(x, t, torch.tensor(e), return_dict=False)[0] for e in (text, none))
        previews.append(state.x0(sampler.sigmas[4]))
        assert torch.allclose(previews[-1], x - sampler.sigmas[4] * (u_ + 3.0 * (c_ - u_)), atol=1e-5)
    worker.close()
    assert not torch.allclose(*previews, atol=1e-2)


def test_the_preview_of_a_first_frame_candidate_keeps_the_frame(tiny):
    g = torch.Generator().manual_seed(0)
    latent, velocity = (torch.randn(1, 4, 3, 8, 8, generator=g).numpy() for _ in range(2))
    first = torch.randn(1, 4, 1, 8, 8, generator=g).numpy()
    shown = State(latent, velocity, condition=first).x0(0.5).numpy()
    assert np.array_equal(shown[:, :, :1], first)
    assert np.allclose(shown[:, :, 1:], (latent - 0.5 * velocity)[:, :, 1:])


def test_a_finished_state_comes_back_from_its_arrays():
    latent, first = np.zeros((1, 4, 3, 8, 8), "f4"), np.ones((1, 4, 2, 8, 8), "f4")
    arrays = State(latent, condition=first).plain()
    assert set(arrays) == {"latent", "condition"}
    found = State(**arrays)
    assert found.clean_frames == 2
    assert np.array_equal(found.condition, first)


# -- solvers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_interleaved_candidates_on_one_scheduler_equal_their_own(name):
    g = torch.Generator().manual_seed(0)
    velocities = [[torch.randn(1, 2, 2, 2, generator=g) for _ in range(6)] for _ in range(2)]
    starts = [torch.randn(1, 2, 2, 2, generator=g) for _ in range(2)]

    def alone(x, vs):
        scheduler = SCHEDULERS[name]()
        scheduler.set_timesteps(6)
        for t, v in zip(scheduler.timesteps, vs, strict=True):
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return x

    solver = solvers.Solver(SCHEDULERS[name](), 6)
    xs, states = list(starts), [solver.start(0), solver.start(0)]
    for i in range(6):
        for j in (0, 1) if i % 2 else (1, 0):
            states[j] = solvers.unpack(solvers.pack(states[j]), "cpu")  # through the object store
            xs[j], states[j] = solver.step(states[j], velocities[j][i], xs[j])
    for j in (0, 1):
        assert torch.equal(xs[j], alone(starts[j], velocities[j]))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_fresh_state_equals_a_scheduler_that_begins_there(name):
    g = torch.Generator().manual_seed(0)
    vs = [torch.randn(1, 2, 2, 2, generator=g) for _ in range(4)]
    x = y = torch.randn(1, 2, 2, 2, generator=g)
    scheduler = SCHEDULERS[name]()
    scheduler.set_timesteps(8)
    scheduler.set_begin_index(4)
    solver = solvers.Solver(SCHEDULERS[name](), 8)
    state = solver.start(4)
    for t, v in zip(scheduler.timesteps[4:], vs, strict=True):
        x = scheduler.step(v, t, x, return_dict=False)[0]
        y, state = solver.step(state, v, y)
    assert torch.equal(x, y)


def test_the_forward_kernel_has_the_marginals_of_the_higher_level():
    """x_s = (1-s) x0 + s eps renoised to s' has mean (1-s') x0 and standard deviation s'."""
    solver = solvers.Solver(SCHEDULERS["unipc"](), 10)
    g = torch.Generator().manual_seed(0)
    n, x0 = 200_000, 1.5
    for step, to_step in [(9, 1), (6, 5), (10, 4), (3, 3)]:
        s, s_to = float(solver.sigmas[step]), float(solver.sigmas[to_step])
        x = (1 - s) * x0 + s * torch.randn(n, generator=g)
        y = solver.renoise(x, step, to_step, torch.randn(n, generator=g))
        assert float(y.mean()) == pytest.approx((1 - s_to) * x0, abs=5 * s_to / n**0.5 + 1e-4)
        assert float(y.std()) == pytest.approx(s_to, rel=0.01)


def test_perturbation_starts_with_fresh_history_and_is_not_undone(tiny):
    """With kept UniPC history a perturbation is gone after one step (0.2 rms becomes 0.0004); ours stays."""
    sampler, encoder, worker = workers(tiny)
    text, none = embedded(encoder, PROMPT, "")
    given = {"text": text, "negative": none}
    given["base"] = worker.submit(0, leg_of(sampler, 4), given).result(60)[1]
    plain = worker.submit(1, leg_of(sampler, 5, start=None, step=4), given).result(60)[1].latent
    moved = leg_of(sampler, 5, start=Start(Perturb(0.2), 9, 4), step=4)
    other = worker.submit(2, moved, given).result(60)[1].latent
    worker.close()
    assert np.sqrt(np.mean((plain - other) ** 2)) > 0.05
