"""Looks at candidates on their way: the small decoder, what is remembered, and looks that are answered together."""

from dataclasses import replace
from math import prod

import numpy as np
import pyarrow.parquet as pq
import pytest
import runs
import tiny
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from actors.backend import Backend
from actors.models import taehv, wan
from actors.models.source import Source
from actors.models.wan import Autoencoder, Preview
from actors.tiny import world
from actors.workers import worker
from actors.workers.decoding import Memory
from actors.workers.scorer import Seen
from actors.workers.state import State
from raysearch.config.config import arms
from raysearch.config.parts import PartConfig
from raysearch.engine.protocol import Compare, Look
from raysearch.errors import ConfigError, RewardError

SHIPPED = runs.Path("actors/assets/tiny-wan")
SMALL = SHIPPED.parent / "preview-vae" / "model.safetensors"
SHAPE = (1, 4, 3, 8, 8)  # of a latent of the toy
SEEN, ASKED = [], []
PARTED = {"name": "test_looks:Watcher", "first_latent_frames": 2}


class Watcher:
    """A reward that keeps what it is shown, and cannot bear one caption."""

    components = ("mean",)
    needs = "frames"

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, views):
        SEEN.extend(views)
        ASKED.append(len(views))
        if any(v.prompt == "poison" for v in views):
            raise ValueError("poisoned")
        return [[self.scale * v.frames.mean()] for v in views]

    def compare(self, pairs):
        SEEN.extend(v for pair in pairs for v in pair)
        return [0.5 for _ in pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_pipeline(tmp_path_factory.mktemp("model") / "wan")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A decoder for the toy's latents, with random weights."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("small") / "decoder.safetensors"
    save_file(taehv.blank((8, 8), channels=4, blocks=1, outside=12), file)
    return file


# -- the decoder -------------------------------------------------------------------------------------------------------


def released(widths, channels, patch):
    """Random weights under the names that TAEHV's files have, for widths of its four levels."""
    g, sizes = torch.Generator().manual_seed(0), {}
    a, b, c, d = widths
    sizes["1"] = (a, channels, 3, 3)
    for first, n in ((3, a), (9, b), (15, c)):
        for i in range(first, first + 3):
            sizes |= {f"{i}.conv.0": (n, 2 * n, 3, 3), f"{i}.conv.2": (n, n, 3, 3), f"{i}.conv.4": (n, n, 3, 3)}
    bare = {"7.conv": (a, a, 1, 1), "13.conv": (2 * b, b, 1, 1), "19.conv": (2 * c, c, 1, 1)}
    bare |= {"8": (b, a, 3, 3), "14": (c, b, 3, 3), "20": (d, c, 3, 3)}
    sizes["22"] = (3 * patch**2, d, 3, 3)
    made = {"encoder.0.weight": torch.zeros(1)}  # not read
    for name, size in {**sizes, **bare}.items():
        made[f"decoder.{name}.weight"] = torch.randn(size, generator=g) / prod(size[1:]) ** 0.5
        if name not in bare:
            made[f"decoder.{name}.bias"] = 0.1 * torch.randn(size[0], generator=g)
    return made


def one_by_one(w, latent, patch):
    """The frames (T', 3, H', W') of a latent (C, T, H, W): a twin that makes frame after frame, depth first."""
    past, out = {}, []

    def conv(x, name):
        weight = w[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, w.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    def go(x, i):
        if i == 23:
            out.append(F.pixel_shuffle(x, patch)[0])
        elif i in (1, 8, 14, 20, 22):
            go(conv(x, str(i)), i + 1)
        elif i in (6, 12, 18):
            go(x.repeat_interleave(2, 2).repeat_interleave(2, 3), i + 1)
        elif i in (7, 13, 19):
            for frame in conv(x, f"{i}.conv").split(x.shape[1], 1):
                go(frame, i + 1)
        elif i in (0, 2, 21):
            go(3 * torch.tanh(x / 3) if i == 0 else x.relu(), i + 1)
        else:
            y = torch.cat([x, past.get(i, torch.zeros_like(x))], 1)
            past[i] = x
            for k in (0, 2):
                y = conv(y, f"{i}.conv.{k}").relu()
            go((conv(y, f"{i}.conv.4") + x).relu(), i + 1)

    for x in latent.split(1, 1):
        go(x.transpose(0, 1), 0)
    return torch.stack(out[3:])


@pytest.mark.parametrize(("channels", "patch", "spatial"), [(16, 1, 8), (48, 2, 16)])  # taew2_1 and taew2_2
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_released_files_are_read_as_their_layout_says(tmp_path, channels, patch, spatial, suffix):
    weights = released((12, 8, 6, 6), channels, patch)
    (torch.save if suffix == ".pth" else save_file)(weights, file := tmp_path / f"taew{suffix}")
    net = taehv.loaded(file, "key", channels=channels, temporal=4, spatial=spatial)
    latents = torch.randn(2, channels, 4, 3, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, parts = net(latents), net(latents, 1)
        expected = torch.stack([one_by_one(weights, latent, patch) for latent in latents])
    assert whole.shape == (2, 13, 3, 3 * spatial, 2 * spatial)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)  # however many latent frames go at a time


def test_a_file_that_decodes_other_latents_is_refused(tmp_path, small):
    def refused(weights, why, **other):
        (torch.save if "tensors" in why else save_file)(weights, file := tmp_path / "d.safetensors")
        file = file.rename(file.with_suffix(".pth")) if "tensors" in why else file
        with pytest.raises(ConfigError, match=rf"^key: .*is no decoder of this model's latents: .*{why}"):
            taehv.loaded(file, "key", **({"channels": 4, "temporal": 4, "spatial": 4} | other))

    good = taehv.load_file(small)
    refused(good, "4 channels, each to 4 frames, and not of 8 to 4", channels=8)
    refused(good, "4 frames, and not of 4 to 8", temporal=8)
    refused(good, "at most 8 pixels", spatial=16)
    refused({"a": torch.zeros(1)}, "no weights decoder.0.NAME")
    for name in [k for k in good if k.endswith("bias")]:
        refused({k: v for k, v in good.items() if k != name}, f'Missing key.* "{name.removeprefix("decoder.")}"')
    refused(good | {"decoder.1.weight": good["decoder.1.weight"] * torch.inf}, "NaN or inf in decoder.1.weight")
    first = {k: v[:-2] for k, v in good.items() if k.startswith("decoder.1.")}
    refused(good | first, "channels")  # layers that do not fit each other
    refused({k: list(v) for k, v in good.items()}, "tensors")
    refused({"a": runs.Path()}, "tensors by name, and no code of a file is run")
    file = tmp_path / "cut.safetensors"
    file.write_bytes(small.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="cut off"):
        taehv.loaded(file, "key", channels=4, temporal=4, spatial=4)


def test_the_shipped_decoder_shows_what_the_models_own_shows():
    """Of latents that it was not trained on, also under noise."""
    assert SMALL.stat().st_size <= 1_000_000
    source = replace(Source(SHIPPED), preview=PartConfig(file=str(SMALL)))
    own, little = Autoencoder(source), Preview(source)
    rng = np.random.default_rng(0)
    clips = torch.from_numpy(np.stack([world.render(c, rng) for c in world.HELD_OUT_TWO[:4]]))
    mean, inverse_std = own._statistics()
    with torch.no_grad():
        moments = own.vae.encode(clips.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).latent_dist
    z = (moments.mode() - mean) * inverse_std
    for noise, least in ((0.0, 28), (0.4, 26)):
        x = z + noise * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        true, made = (np.stack(d.decode_rows(x)).astype(float) for d in (own, little))
        psnr = -10 * np.log10(np.square((true - made) / 255).mean())
        assert psnr > least, (noise, psnr)
        alone = [little.decode_rows(row)[0] for row in x.split(1)]
        assert np.abs(np.stack(alone).astype(float) - made).max() <= 1


@pytest.mark.parametrize("together", [1, taehv.TOGETHER])
def test_a_beginning_is_that_of_the_whole(monkeypatch, together):
    """Bit for bit where latents are so large that each of their frames is decoded alone, else but for a rounding."""
    monkeypatch.setattr(taehv, "TOGETHER", together)
    monkeypatch.setattr(wan, "TOGETHER", together)
    source = replace(Source(SHIPPED), preview=PartConfig(file=str(SMALL)))
    x = torch.randn(1, 8, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    for decoder in (wan.Autoencoder(source), wan.Preview(source)):
        (whole,) = decoder.decode_rows(x)
        for n in (1, 2, 4):
            (part,) = decoder.decode_rows(x[:, :, :n])
            assert np.abs(part.astype(int) - whole[: 1 + 4 * (n - 1)]).max() <= (together > 1)


# -- in a run ----------------------------------------------------------------------------------------------------------


def planned(folder, **values):
    plan = Backend().prepare(c := runs.config(folder, **values), arms(c))
    return plan, c


async def midway(ctx):
    """A policy: one candidate, scored on its way and in the end."""
    (x,) = ctx.denoise(ctx.noise(1), until=4)
    await ctx.score([x])
    (x,) = ctx.denoise([x])
    await ctx.score([x])
    return x


def test_it_shows_candidates_on_their_way_alone(folder, small, tmp_path):
    SEEN.clear()
    given = {"policy": {"name": "test_looks:midway"}, "rewards": {"search": {"name": "test_looks:Watcher"}}}
    (row,), _, frames = runs.run(folder, tmp_path / "run", parts={"preview_vae": {"file": str(small)}}, **given)
    source = replace(Source(folder), preview=PartConfig(file=str(small)))
    own, little = Autoencoder(source), Preview(source)
    _, early, late = SEEN  # after the trial
    assert early.sigma > late.sigma == 0
    assert np.array_equal(early.frames, little.decode_rows(early.estimate)[0])
    assert not np.array_equal(early.frames, own.decode(early.estimate))
    assert np.array_equal(late.frames, own.decode(late.estimate))
    assert np.array_equal(late.frames, frames[row["search_id"]])


def test_it_is_in_the_identity_of_what_is_answered_and_not_of_candidates(folder, small, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({k: v + 1e-3 for k, v in taehv.load_file(small).items()}, other)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(small.read_bytes())
    rewards = {k: {"name": "test_looks:Watcher"} for k in ("search", "final", "holdout", "compare")}
    rewards["early"] = [{"name": "test_looks:Watcher"}, {"name": "tiny:Redness"}]

    def identities(**parts):
        (a,) = planned(folder, rewards=rewards, parts=parts)[0].arms
        return [r.identity for r in (a.reward, a.early, a.compare)], [a.final.identity, a.holdout.identity, a.sampler]

    none = identities()
    first, second, third = (identities(preview_vae={"file": str(f)}) for f in (small, other, copy))
    half = identities(preview_vae={"file": str(small), "dtype": "bfloat16"})
    assert none[1] == first[1] == second[1] == half[1]
    looks = [found[0] for found in (none, first, second, half)]
    assert all(len(set(column)) == 4 for column in zip(*looks, strict=True))
    assert third == first  # a file counts by its content


def test_a_run_goes_on_with_the_decoder_it_began_with(folder, small, tmp_path):
    given = {
        "rewards": {"search": {"name": "test_looks:Watcher"}},
        "parts": {"preview_vae": {"file": str(tmp_path / "d.pth")}},
    }
    torch.save(weights := taehv.load_file(small), tmp_path / "d.pth")
    runs.run(folder, tmp_path / "run", **given)
    runs.run(folder, tmp_path / "run", resume="require", **given)
    torch.save({k: v + 1e-3 for k, v in weights.items()}, tmp_path / "d.pth")
    with pytest.raises(ConfigError, match="the rewards have changed"):
        runs.run(folder, tmp_path / "run", resume="require", **given)


# -- one decode --------------------------------------------------------------------------------------------------------


def scorer(folder, *blocks, slots=1, **values):
    """A scorer with these rewards, and their keys."""
    rewards = dict(zip(("search", "early", "compare"), blocks, strict=False))
    fleet = {"backend": "local", "scorers": {"slots": slots}, "denoisers": {"slots": slots}}
    plan, c = planned(folder, rewards=rewards, fleet=fleet, **values)
    (arm,) = plan.arms
    made = worker.build("scorer", c, plan)
    SEEN.clear()
    ASKED.clear()
    return made, [r.keys for r in (arm.reward, arm.early, arm.compare) if r]


def state(seed):
    rng = np.random.default_rng(seed)
    return State(*rng.standard_normal((2, *SHAPE), np.float32))


def look(keys, sigma=0.5, caption=runs.PROMPT):
    return Look(keys, (caption,), (None,), sigma)


def test_a_second_look_at_the_same_point_decodes_nothing(folder):
    watcher = {"name": "test_looks:Watcher"}
    made, (search, early, compare) = scorer(folder, watcher, watcher | {"scale": 2.0}, watcher)
    inputs = {"state 0": state(0)}
    first = made.look(look(search), inputs)
    SEEN[0].frames[:] = 7  # as a reward may do
    again = made.look(
        look(early), {"state 0": State(*(a.copy() for a in (inputs["state 0"].latent, inputs["state 0"].velocity)))}
    )
    assert (first.decodes, again.decodes) == (1, 0)
    assert np.array_equal(SEEN[1].frames, made._autoencoder.decode(inputs["state 0"].x0(0.5)))
    SEEN[1].frames[:] = 8
    assert again.rewards[0][early[0]][0] == 2 * first.rewards[0][search[0]][0]
    assert made.look(look(search, sigma=0.25), inputs).decodes == 1  # another point
    pair = {"state 0": state(0), "state 1": state(1)}
    assert made.compare(Compare(compare, (runs.PROMPT,), (0.5, 0.5)), pair).decodes == 1  # of the second
    assert np.array_equal(SEEN[-2].frames, made._autoencoder.decode(inputs["state 0"].x0(0.5)))
    assert made.compare(Compare(compare, (runs.PROMPT,), (0.5, 0.5)), pair | {"state 1": state(0)}).decodes == 0


def test_a_look_is_not_remembered_as_what_the_models_own_decoder_shows(folder, small):
    """Of one latent: with no velocity, x0 is the same on the way and in the end."""
    watcher = {"name": "test_looks:Watcher"}
    made, (keys,) = scorer(folder, watcher, parts={"preview_vae": {"file": str(small)}})
    still = {"state 0": State(state(0).latent, np.zeros(SHAPE, np.float32))}
    assert [made.look(look(keys, sigma), still).decodes for sigma in (0.5, 0.0)] == [1, 1]
    early, late = SEEN
    assert torch.equal(early.estimate, late.estimate)
    assert np.array_equal(late.frames, made._autoencoder.decode(late.estimate))
    assert not np.array_equal(early.frames, late.frames)


def test_members_of_an_ensemble_share_a_decode_and_a_beginning_is_decoded_alone(folder, monkeypatch):
    watcher = {"name": "test_looks:Watcher"}
    made, (both, part) = scorer(folder, [watcher, PARTED | {"label": "part"}], PARTED)
    sizes = []
    plain = made._autoencoder.decode_rows
    monkeypatch.setattr(made._autoencoder, "decode_rows", lambda z: (sizes.append(z.shape[2]), plain(z))[1])
    inputs = {"state 0": state(0)}
    assert made.look(look(both), inputs).decodes == 1
    assert made.look(look(part), inputs).decodes == 1
    assert sizes == [3, 2]
    assert [len(v.frames) for v in SEEN] == [9, 5, 5]
    assert all(np.array_equal(v.frames, SEEN[0].frames[:5]) for v in SEEN[1:])
    assert {v.num_frames for v in SEEN} == {9}


def test_memory_is_bounded_in_bytes_and_forgets_what_is_longest_out_of_use():
    memory = Memory[str](20)
    clips = {name: np.full(8, i, np.uint8) for i, name in enumerate("abc")}
    memory.keep("a", clips["a"]), memory.keep("b", clips["b"])
    assert memory.recall("a") is clips["a"]
    memory.keep("c", clips["c"])
    assert [memory.recall(name) is not None for name in "abc"] == [True, False, True]
    assert memory.recall(memory.keep("large", np.zeros(99, np.uint8)) is not None and "large") is not None
    assert [memory.recall(name) for name in "abc"] == [None] * 3


# -- looks that wait ---------------------------------------------------------------------------------------------------


def together(made, requests, inputs):
    """The replies, or errors, to looks of which all but the last wait already when the last one comes."""
    waiting = [Seen(r, i) for r, i in zip(requests[:-1], inputs[:-1], strict=True)]
    made._waiting.extend(waiting)
    try:
        last = made.look(requests[-1], inputs[-1])
    except RewardError as error:
        last = error
    assert all(s.reply.done() for s in waiting if s.request.rewards == requests[-1].rewards)
    return [s.reply.exception() or s.reply.result() for s in waiting if s.reply.done()] + [last]


@pytest.mark.parametrize("parted", [False, True])
def test_looks_that_wait_for_the_same_rewards_are_one_batch(folder, small, parted):
    block = PARTED if parted else {"name": "test_looks:Watcher"}
    parts = {"preview_vae": {"file": str(small)}}
    made, (keys, _) = scorer(folder, [block, {"name": "tiny:Redness"}], {"name": "tiny:Redness"}, slots=4, parts=parts)
    inputs = [{"state 0": state(i)} for i in (0, 1, 2, 0)]
    requests = [look(keys, sigma) for sigma in (0.5, 0.5, 0.0, 0.5)]
    other = Seen(look(("Redness",)), {"state 0": state(7)})  # of other rewards: it waits on
    made._waiting.append(other)
    replies = together(made, requests, inputs)
    assert ASKED == [4] and not other.reply.done() and made._waiting == [other]
    assert [r.decodes for r in replies] == [1, 1, 1, 0]  # the last is the first one again
    alone, _ = scorer(folder, [block, {"name": "tiny:Redness"}], {"name": "tiny:Redness"}, parts=parts)
    for request, given, reply in zip(requests, inputs, replies, strict=True):
        expected = alone.look(request, given).rewards[0]
        for key in keys:
            assert np.allclose(reply.rewards[0][key], expected[key], atol=0.5)  # half of one of 255 levels of a pixel


def test_one_that_fails_fails_alone(folder):
    made, (keys,) = scorer(folder, {"name": "test_looks:Watcher"}, slots=4)
    requests = [look(keys, caption=c) for c in (runs.PROMPT, "poison", runs.PROMPT)]
    first, poisoned, last = together(made, requests, [{"state 0": state(i)} for i in range(3)])
    assert ASKED == [3, 1, 1, 1]
    assert isinstance(poisoned, RewardError) and "poisoned" in str(poisoned)
    assert first.rewards[0] != last.rewards[0]


@pytest.mark.parametrize(("denoisers", "scorers", "batched"), [(1, 1, 0), (1, 4, 0), (4, 1, 0), (4, 4, 1)])
def test_in_the_exact_mode_nothing_shares_a_batch(folder, denoisers, scorers, batched):
    fleet = {"backend": "local", "scorers": {"slots": scorers}, "denoisers": {"slots": denoisers}}
    plan, c = planned(folder, rewards={"search": {"name": "test_looks:Watcher"}}, fleet=fleet)
    assert worker.build("scorer", c, plan)._together == batched


def test_a_run_with_slots_finds_the_same_winner(folder, tmp_path):
    bon = {"policy": {"name": "best_of_n", "n": 6}, "rewards": {"search": {"name": "test_looks:Watcher"}}}
    fast = {"scorers": {"slots": 3}, "denoisers": {"slots": 3}}
    (one,), *_ = runs.run(folder, tmp_path / "one", **bon)
    (many,), *_ = runs.run(folder, tmp_path / "many", fleet=fast, **bon)
    assert many["reward_search"] == pytest.approx(one["reward_search"], rel=1e-3)
    assert (many["decodes"], many["reward_calls"]) == (one["decodes"], one["reward_calls"])
    rows = pq.read_table(tmp_path / "many" / "candidates.parquet").to_pylist()
    assert len(rows) == 6
