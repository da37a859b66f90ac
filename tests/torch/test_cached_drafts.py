"""Step caches on the toy-sized models: their formulas by hand, against diffusers' own, and slots that share a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig, WanTransformer3DModel
from pipelines import KINDS
from runs import CACHED, CACHES, PROMPT, config, embedded, leg_of, run, workers

import raysearch
from actors.models.pipelines.parts import pipeline
from actors.models.source import Source
from actors.plan import planned
from actors.sampling import caches
from actors.workers.denoiser import Denoiser
from raysearch.config import config as configuration
from raysearch.config import step_cache
from raysearch.config.step_cache import cached
from raysearch.engine.protocol import Start
from raysearch.errors import ConfigError
from raysearch.recipe.origins import Noise

STEPS = 8
# With these nothing is left out.
NOTHING = [
    {"name": "first_block", "threshold": 0.0},
    {"name": "easy", "threshold": 0.0},
    {"name": "taylor", "interval": 1},
    {"name": "guidance", "low": 0.0, "high": 1.0},
]


def drafts(folder, blocks, *, slots: int = 1, noises: int = 1, **changes):
    """Of each block the reply and the latent of each noise, from a denoiser whose slots all are filled together."""
    sampler, encoder, denoiser = workers(folder)
    if slots > 1:
        denoiser.close()
        denoiser = Denoiser(Source(folder), slots=slots)
    text, negative = embedded(encoder, PROMPT, "")
    given = {"text": text, "negative": negative}
    sampler = replace(sampler, **changes)
    asked = []
    for block in blocks:
        s = sampler if block is None else cached(sampler, block)
        legs = [leg_of(s, STEPS, start=Start(Noise(1, i), key=i)) for i in range(noises)]
        asked.append([denoiser.submit(i, leg, given) for i, leg in enumerate(legs)])
    found = [[(f.result(60)[0].nfe, f.result(60)[1].latent) for f in of] for of in asked]
    denoiser.close()
    return found


# -- the formulas ------------------------------------------------------------------------------------------------------


def test_easycache_by_hand():
    """A model whose output is 2 x under the caption, of inputs that are numbers; guidance adds 1."""
    m = caches.Easy(step_cache.Easy(threshold=0.5, warmup=0.2), num_steps=8)
    inputs, told = [10.0, 9.0, 8.5, 8.0, 7.9, 7.0, 6.9, 6.8], []
    for step, number in enumerate(inputs):
        x = torch.full((2, 3), number)
        if (known := m.known(step, x)) is None:
            assert m.known(step, x) is None  # asked again, it has not counted twice
            m.see(step, x, 2 * x, 2 * x + 1)
            told.append(None)
        else:
            told.append(float(known[0, 0]))
    # Steps 0 and 1 are the share 0.2 of 8, rounded up, and k = |18 - 20| / |9 - 10| = 2. Step 2 changes by
    # 2 * 0.5 / 18 = 0.056, step 3 by as much, step 4 by 2 * 0.1 / 18, step 5 by 2 * 0.9 / 18: 0.222 so far. What the
    # model added to its input at step 1 is 19 - 9 = 10. Step 7 is the last one.
    assert told == pytest.approx([None, None, 18.5, 18.0, 17.9, 17.0, 16.9, None])
    tight = caches.Easy(step_cache.Easy(threshold=0.11, warmup=0.2), num_steps=8)
    ran = []
    for step, number in enumerate(inputs):
        x = torch.full((1,), number)
        if tight.known(step, x) is None:
            tight.see(step, x, 2 * x, 2 * x)
            ran.append(step)
    # 0.0556 at step 2; 0.1111 at step 3 is too much; k = 2 again, so 2 * 0.1 / 16 = 0.0125 at step 4, 0.125 at step 5.
    # After it 2 * 0.1 / 14 = 0.0143 at step 6.
    assert ran == [0, 1, 3, 5, 7]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_taylorseer_by_hand(order):
    """Outputs 1 + 2 t + t^2 at steps t = 0, 1, 2, 4 and predictions of what is between."""
    m, made = caches.Taylor(step_cache.Taylor(interval=3, order=order)), {}
    for t in range(9):
        known = m.known(t)
        if known is None:
            m.see(t, [torch.tensor([1.0 + 2 * t + t * t])])
        else:
            made[t] = float(known[0])
    # From step 2: 9, a difference of 5 since step 1, and (5 - 3) / 1 of those. From step 4: 25, (25 - 9) / 2 = 8 and
    # (8 - 5) / 2 = 1.5. From step 7: 64, (64 - 25) / 3 = 13 and (13 - 8) / 3.
    at = {0: [9, 25, 25, 64], 1: [9 + 5, 25 + 8, 25 + 16, 64 + 13]}
    at[2] = [9 + 5 + 2 / 2, 25 + 8 + 1.5 / 2, 25 + 16 + 1.5 * 4 / 2, 64 + 13 + 5 / 3 / 2]
    assert list(made) == [3, 5, 6, 8]
    assert list(made.values()) == pytest.approx(at[order])


def test_guidance_in_an_interval_is_guidance_there_and_none_elsewhere(tiny):
    """Of a solver without memory: at the first step alone, and at no step."""
    euler = {"name": "euler"}
    first = {"name": "guidance", "low": 0.999, "high": 1.0}
    ((nfe, latent),), ((none, without),), ((bare, plain),) = drafts(
        tiny, [first, {"name": "guidance", "low": 1.0, "high": 1.0}, None], **euler
    )
    assert (nfe, none, bare) == (STEPS + 1, STEPS, 2 * STEPS)
    sampler, encoder, denoiser = workers(tiny)
    text, negative = embedded(encoder, PROMPT, "")
    bared = replace(sampler, **euler, guidance_scale=1.0)
    own = denoiser.submit(0, leg_of(bared, STEPS, start=Start(Noise(1, 0), key=0)), {"text": text}).result(60)
    assert np.array_equal(own[1].latent, without)
    start = leg_of(replace(sampler, **euler), 1, start=Start(Noise(1, 0), key=0))
    begun = denoiser.submit(1, start, {"text": text, "negative": negative}).result(60)[1]
    rest = denoiser.submit(2, leg_of(bared, STEPS, start=None, step=1), {"text": text, "base": begun}).result(60)[1]
    denoiser.close()
    assert np.array_equal(rest.latent, latent) and not np.array_equal(latent, plain)


# -- against diffusers -------------------------------------------------------------------------------------------------


def uninterrupted(folder, monkeypatch, cache):
    """The latent of one draft whose transformer has diffusers' own cache, one context for each half of guidance."""
    plain, calls = WanTransformer3DModel.forward, iter(range(10**6))

    def forward(self, *args, **kwargs):
        if not self.is_cache_enabled:
            self.enable_cache(cache)
        with self.cache_context(("conditional", "unconditional")[next(calls) % 2]):
            return plain(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(WanTransformer3DModel, "forward", forward)
        ((found,),) = drafts(folder, [None])
    return found[1]


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3])
def test_first_block_cache_is_that_of_diffusers_bit_for_bit(tiny, monkeypatch, threshold):
    expected = uninterrupted(tiny, monkeypatch, FirstBlockCacheConfig(threshold=threshold))
    ((nfe, latent),), ((_, plain),) = drafts(tiny, [{"name": "first_block", "threshold": threshold}, None])
    assert np.array_equal(latent, expected)
    assert np.array_equal(latent, plain) == (nfe == 2 * STEPS)
    assert threshold < 0.3 or nfe < 2 * STEPS


@pytest.mark.parametrize("more", [{}, {"interval": 2}, {"interval": 3, "warmup": 2, "order": 2}])
def test_taylorseer_is_that_of_diffusers_in_its_lite_mode(tiny, monkeypatch, more):
    names = {"interval": "cache_interval", "warmup": "disable_cache_before_step", "order": "max_order"}
    own = TaylorSeerCacheConfig(
        use_lite_mode=True, taylor_factors_dtype=torch.float32, **{names[k]: v for k, v in more.items()}
    )
    expected = uninterrupted(tiny, monkeypatch, own)
    ((nfe, latent),), ((_, plain),) = drafts(tiny, [{"name": "taylor", **more}, None])
    np.testing.assert_allclose(latent, expected, atol=1e-4)
    assert nfe < 2 * STEPS and np.abs(latent - plain).max() > 1e-3


# -- slots and fleets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
def test_a_cache_that_leaves_nothing_out_changes_no_bit(tiny, batched):
    (plain,), *others = drafts(tiny, [None, *NOTHING], batched_guidance=batched)
    for (found,) in others:
        assert found[0] == plain[0] == 2 * STEPS
        assert np.array_equal(found[1], plain[1])


@pytest.mark.parametrize("batched", [False, True])
def test_a_slot_decides_alone_what_it_decides_in_a_batch(tiny, batched):
    """Rows of all caches and of none, beside each other at different steps."""
    blocks = [None, *CACHES]
    alone = drafts(tiny, blocks, noises=3, batched_guidance=batched)
    together = drafts(tiny, blocks, slots=4, noises=3, batched_guidance=batched)
    for block, one, other in zip(blocks, alone, together, strict=True):
        assert [nfe for nfe, _ in one] == [nfe for nfe, _ in other]
        assert all((nfe < 2 * STEPS) == (block is not None) for nfe, _ in one)
        for (_, latent), (_, same) in zip(one, other, strict=True):
            np.testing.assert_allclose(latent, same, atol=1e-3)


def test_memory_that_runs_out_midway_counts_no_step_twice(tiny, monkeypatch):
    expected = drafts(tiny, CACHES)
    plain, calls = WanTransformer3DModel.forward, iter(range(10**6))

    def forward(self, *args, **kwargs):
        if next(calls) % 5 == 4:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "forward", forward)
    monkeypatch.setattr(Denoiser, "_loop", patient(Denoiser._loop))
    found = drafts(tiny, CACHES[1:3])
    for (one,), (other,) in zip(found, expected[1:3], strict=True):
        assert np.array_equal(one[1], other[1])


def patient(loop):
    """A denoiser that tries a step again where it would have freed the slot."""

    def looped(self):
        plain = self._advance

        def advance(occupied):
            while True:
                try:
                    return plain(occupied)
                except torch.OutOfMemoryError:
                    continue

        self._advance = advance
        loop(self)

    return looped


def test_what_is_charged_is_an_upper_bound_of_what_is_run(tiny, tmp_path):
    rows, _, _ = run(tiny, tmp_path / "run", arms=CACHED, sampler={"num_steps": 10})
    by = {r["arm"]: r for r in rows}
    assert by["taylor"]["nfe"] == 2 * 5 * 2 + 20  # steps 0, 1, 2, 4, 6
    assert {by["first_block"]["nfe"], by["easy"]["nfe"]} == {2 * 8 * 2 + 20}
    spent = {k: r["nfe_spent"] for k, r in by.items()}  # the same noise may be rendered by several arms, and once
    assert all(spent[k] < by[k]["nfe"] for k in ("first_block", "easy"))
    assert spent["taylor"] in (by["taylor"]["nfe"], by["taylor"]["nfe"] - 20)


# -- other models ------------------------------------------------------------------------------------------------------


async def drafted(ctx):
    """A policy: one cached draft, which is not rendered in full."""
    draft = ctx.draft(8, {"name": "taylor", "interval": 2})
    return draft.denoise(draft.noise(1))[0]


def test_a_whole_pipeline_has_taylorseer_as_diffusers_own_cache_has_it(tmp_path):
    kind = KINDS["LTX"]
    folder = kind.save(tmp_path / "model")
    blocks = kind.blocks
    given = {
        **blocks,
        "model": {**blocks["model"], "path": str(folder)},
        "sampler": {**blocks["sampler"], "num_steps": 12},
        "prompts": [PROMPT],
        "seeds": [5],
        "fleet": {"backend": "local", "denoisers": {"slots": 3}},
        "output": {"frames": True},
    }
    arms = [{"name": "draft", "policy": {"name": "test_cached_drafts:drafted"}}]
    explored = {"name": "draft_commit", "draft_steps": 8, "explore": {"name": "best_of_n", "n": 3}}
    for name, cache in (("plain", None), ("all", {"name": "taylor", "interval": 1}), ("some", {"name": "taylor"})):
        arms.append({"name": name, "policy": explored | {"cache": cache}})
    redness = {"search": {"name": "tiny:Redness"}}
    made = raysearch.run(
        given | {"arms": arms, "rewards": redness, "run_dir": str(tmp_path / "run")}, report=lambda line: None
    )
    rows = {r["arm"]: r for r in made.searches.to_pylist()}
    per_step = rows["plain"]["nfe"] // (3 * 8 + 12)
    assert rows["all"]["nfe"] == rows["plain"]["nfe"] and rows["all"]["winner"] == rows["plain"]["winner"]
    assert rows["some"]["nfe"] == (3 * 4 + 12) * per_step  # steps 0, 1, 2 and 4
    assert rows["draft"]["nfe"] == rows["draft"]["nfe_spent"] == 5 * per_step  # and 6
    own = pipeline(Source(folder), "whole")
    lite = {"use_lite_mode": True, "taylor_factors_dtype": torch.float32}
    own.transformer.enable_cache(TaylorSeerCacheConfig(cache_interval=2, **lite))
    size = {"height": kind.size, "width": kind.size, "num_frames": kind.num_frames, "num_inference_steps": 8}
    call = {
        "guidance_scale": kind.guidance_scale,
        "negative_prompt": "",
        "max_sequence_length": 16,
        "output_type": "np",
    }
    generator = torch.Generator().manual_seed(Noise(5, 0).key)
    expected = own(PROMPT, generator=generator, **size, **call, **blocks["sampler"]["call"]).frames[0]
    (file,) = (tmp_path / "run" / "frames").glob("*draft.npy")
    np.testing.assert_allclose(np.load(file) / 255, expected, atol=1 / 255)


def test_what_a_model_cannot_have_is_one_line(tmp_path, tiny):
    kind = KINDS["LTX"]
    own = {**kind.blocks, "model": {**kind.blocks["model"], "path": str(kind.save(tmp_path / "model"))}}
    base = {"prompts": [PROMPT], "rewards": {"search": {"name": "tiny:Redness"}}, "fleet": {"backend": "local"}}
    for name in ("first_block", "easy", "guidance"):
        policy = {"name": "draft_commit", "draft_steps": 4, "cache": {"name": name}}
        with pytest.raises(ConfigError, match=f"policy.cache.name: '{name}' is not allowed; it must be one of taylor "):
            raysearch.run(base | own | {"policy": policy, "run_dir": str(tmp_path / name)}, report=lambda line: None)
    pool = {"backend": "ray", "denoisers": {"shards": 2, "shard_mode": "context"}}
    c = config(tiny, fleet=pool)
    assert planned(c, configuration.arms(c)).arms[0].sampler.caches == ("easy", "taylor")
