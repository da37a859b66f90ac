"""What must hold in each precision and on each device. Those of a GPU are skipped where torch sees none."""

import asyncio
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from diffusers.video_processor import VideoProcessor
from runs import ARMS, FIRST, KINDS, PROMPT, SCHEDULERS, SIZE, config, embedded, leg_of, run

import raysearch
from actors.backend import Backend
from actors.models import wan
from actors.models.folder import index
from actors.models.source import Source
from actors.models.weights import DTYPES
from actors.workers import gang, worker
from actors.workers.denoiser import Denoiser
from raysearch.config import config as configuration
from raysearch.config.fleet import PoolConfig
from raysearch.errors import OutOfMemory
from raysearch.session.session import Session

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
POOLS = ("denoisers", "scorers", "encoders")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def fleet(device: str, **denoisers) -> dict:
    """The block `fleet` with all replicas on one device."""
    own = {"num_gpus": int(device == "cuda")}
    return {"backend": "local"} | {kind: own | (denoisers if kind == "denoisers" else {}) for kind in POOLS}


MIXTURE = Path(__file__).parents[2] / "actors" / "assets" / "mixture"
FILES = {"videos": False}  # beside latents and frames


def on_gpu(path: str, run_dir, *overrides: str):
    """The rows of a run of a shipped config with all replicas on the GPU of this process."""
    here = ["output.videos=false"] + [f"fleet.{kind}.num_gpus=1" for kind in POOLS]
    made = raysearch.run(path, ["fleet.backend=local", f"run_dir={run_dir}", *here, *overrides], report=lambda _: None)
    rows = made.searches.to_pylist()
    assert [r["status"] for r in rows] == ["done"] * len(rows)
    return rows


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=GPU)])  # on CPUs: test_actors.py
@pytest.mark.parametrize("name", SCHEDULERS)
def test_single_is_the_pipeline_bit_for_bit(tiny, tmp_path, name, dtype, device):
    pipeline = WanPipeline.from_pretrained(tiny, dtype=DTYPES[dtype]).to(device)
    pipeline.scheduler = SCHEDULERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt=PROMPT, negative_prompt="dull", num_inference_steps=8, guidance_scale=3.0, **SIZE, output_type="latent",
        generator=torch.Generator().manual_seed(5),
    ).frames  # fmt: skip
    sampler = {"name": name, "negative_prompt": "dull"}
    model = {"dtype": dtype}
    _, latents, _ = run(
        tiny, tmp_path / "run", seeds=[5], sampler=sampler, model=model, fleet=fleet(device), output=FILES
    )
    (got,) = latents.values()
    assert np.array_equal(got, expected.float().cpu().numpy())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=GPU)])
@pytest.mark.parametrize("name", [*SCHEDULERS, *configuration.SDE])
def test_legs_are_the_straight_run_bit_for_bit(tiny, name, dtype, device):
    c = config(tiny, sampler={"name": name}, model={"dtype": dtype}, fleet=fleet(device))
    plan = Backend().prepare(c, configuration.arms(c))
    sampler = plan.arms[0].sampler
    denoiser = worker.build("denoiser", c, plan)
    text, negative = embedded(worker.build("encoder", c, plan), PROMPT, "")
    given = {"text": text, "negative": negative}
    straight = denoiser.submit(0, leg_of(sampler, 8), given).result(60)[1]
    for previews in (False, True):
        base = None
        for step, until in itertools.pairwise((0, 3, 6, 8)):
            start, on = (None, {"base": base}) if base else (FIRST, {})
            leg = leg_of(sampler, until, start=start, step=step, velocity=previews and until < 8)
            base = denoiser.submit(1, leg, given | on).result(60)[1]
            assert base.latent.dtype == np.float32
        assert np.array_equal(base.latent, straight.latent)
    denoiser.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frames_are_what_the_pipelines_floats_round_to(tiny, monkeypatch, dtype, device):
    """With the pipeline's own convolutions, and one latent frame after the other, which a large video gets anyway."""
    monkeypatch.setattr(wan, "hasten", lambda decoder: None)
    monkeypatch.setattr(wan, "TOGETHER", 1)
    latent = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    coder = wan.Autoencoder(Source(tiny, dtype, device))
    mean, inverse_std = coder._statistics()
    with torch.no_grad():
        pixels = coder.vae.decode(latent.to(device, DTYPES[dtype]) / inverse_std + mean, return_dict=False)[0]
    expected = VideoProcessor().postprocess_video(pixels, output_type="np")[0]
    got = coder.decode(latent)
    assert got.dtype == np.uint8
    assert np.array_equal(got, np.rint(expected * 255))


@GPU
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("arms", [ARMS, KINDS])
def test_a_gpu_finds_the_winners_of_a_cpu(tiny, tmp_path, monkeypatch, arms, slots):
    """Every kind of origin and of stochastic step, with the GPU's convolutions in full precision."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    _, latents, frames = run(tiny, tmp_path / "cpu", arms=arms, output=FILES)
    found = run(tiny, tmp_path / "cuda", arms=arms, fleet=fleet("cuda", slots=slots), output=FILES)
    for key, latent in latents.items():
        np.testing.assert_allclose(found[1][key], latent, atol=2e-3)
        assert np.abs(found[2][key].astype(int) - frames[key]).max() <= 2


@GPU
def test_in_exact_mode_a_gpu_gives_the_same_bits_again(tiny, tmp_path):
    first, again = (
        run(tiny, tmp_path / n, arms=ARMS, fleet=fleet("cuda"), output=FILES)[1] for n in ("first", "again")
    )
    assert all(np.array_equal(first[key], again[key]) for key in first)


@GPU
@pytest.mark.parametrize("fifo", [None, {"partitions": 4}])
def test_a_long_video_on_a_gpu_is_that_of_a_cpu(tiny, tmp_path, monkeypatch, fifo):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    more = {"output": FILES, "policy": {"name": "best_of_n", "n": 2}, "sampler": {"name": "euler"}}
    more["long"] = {"chunks": 2, "prefix": 1, "fifo": fifo}
    cpu, cuda = [], []
    for device, found in (("cpu", cpu), ("cuda", cuda)):
        session = Session(config(tiny, fleet=fleet(device), **more), Backend(), run_dir=tmp_path / device)
        asyncio.run(session.run())
        found += [np.load(file).astype(int) for file in sorted((tmp_path / device / "frames").iterdir())]
    (a,), (b,) = cpu, cuda
    assert a.shape == b.shape == (17, 32, 32, 3)
    assert np.abs(a - b).max() <= 2


@GPU
def test_a_full_gpu_is_an_error_of_the_leg_alone(tiny):
    c = config(tiny, fleet=fleet("cuda"))
    plan = Backend().prepare(c, configuration.arms(c))
    sampler, denoiser = plan.arms[0].sampler, worker.build("denoiser", c, plan)
    text, negative = embedded(worker.build("encoder", c, plan), PROMPT, "")
    given = {"text": text, "negative": negative}
    large = {"text": np.zeros((1, 10**6, 16), "f4"), "negative": negative}
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 2e8  # for the text, but not for what the forward makes of it
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(OutOfMemory):
            denoiser.submit(0, leg_of(sampler, 1), large).result(300)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert denoiser.submit(1, leg_of(sampler, 8), given).result(60)[0].nfe == 16
    denoiser.close()


@GPU
@pytest.mark.parametrize("mode", ["context", "fsdp"])
def test_a_gang_of_one_gpu_is_the_whole_model(tiny, mode):
    """NCCL allows one rank a GPU, so that this shows that a forward's inputs go through NCCL, and FSDP's moves."""
    c = config(tiny, fleet=fleet("cuda"))
    plan = Backend().prepare(c, configuration.arms(c))
    text, negative = embedded(worker.build("encoder", c, plan), PROMPT, "")
    given, leg = {"text": text, "negative": negative}, leg_of(plan.arms[0].sampler, 8)
    store, port = gang.listen(gang.LOOPBACK)
    place = gang.Place(0, gang.LOOPBACK, port, patience=gang.LOADING)
    pool = PoolConfig(num_gpus=1, shard_mode=mode)
    led = gang.Gang(Source(tiny, device="cuda"), pool=pool, place=place, store=store)
    ends = []
    for model in (None, led):
        denoiser = Denoiser(Source(tiny, device="cuda"), slots=1, gang=model)
        ends.append(denoiser.submit(0, leg, given).result(120)[1].latent)
        denoiser.close()
    np.testing.assert_allclose(*ends, atol=1e-5)


@GPU
@pytest.mark.parametrize("name", ["pixel", "pavrm", "latent"])
def test_a_reward_that_ships_scores_on_a_gpu(tmp_path, name):
    cheap = ["seeds=[0]", "arms=null", "policy={name: best_of_n, n: 2}", "sampler.num_steps=6"]
    cheap += [f"rewards.search={{name: {name}}}", "prompts=[a red circle moving left and a blue square moving up]"]
    (row,) = on_gpu("configs/quickstart.yaml", tmp_path, *cheap)
    assert np.isfinite(row["reward_search"])


@GPU
@pytest.mark.parametrize(("path", "sampler"), [("flow", "flow-sde"), ("vp", "ddim")])
def test_a_mixture_on_a_gpu_is_that_on_a_cpu(tmp_path, path, sampler):
    """Its model is a formula, for which the weights are the caption's."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index(MIXTURE) | {"path": path}))
    more = {"policy": {"name": "paths", "n": 1, "m": 2}, "sampler": {"name": sampler, "guidance_scale": 1.0}}
    more |= {"rewards": {"search": {"name": "near"}}, "output": FILES}
    more["model"] = {"height": 1, "width": 1, "num_frames": 1}
    ends = [run(tmp_path / "model", tmp_path / d, fleet=fleet(d), **more)[1] for d in ("cpu", "cuda")]
    (a,), (b,) = (list(latents.values()) for latents in ends)
    np.testing.assert_allclose(a, b, atol=1e-4)
