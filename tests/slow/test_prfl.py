"""PRFL: the gradient of one solver step, the frozen reward, adapters, first frames, resume, and the command itself."""

import copy
from pathlib import Path

import halting
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

from actors.models import wan
from actors.rewards import pavrm
from actors.training import distributed, prfl
from actors.training.loop import Means
from raysearch.__main__ import main

CPU = torch.device("cpu")
SIZE = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
SHAPE = (4, 2, 4, 4)


def batch(n=2, seed=0):
    rng = np.random.default_rng(seed)
    return {"prompt": np.array([f"clip {i}" for i in range(n)]), "latent": rng.standard_normal((n, *SHAPE))}


def gradients(net):
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("batched", [False, True])
def test_gradient_is_that_of_exactly_one_solver_step(load, batched):
    c = load(
        sampler={"name": "euler", "num_steps": 5, "guidance_scale": 2.0, "batched_guidance": batched},
        target=100.0,
        reward={"folder": load().reward.folder, "weights": {"MQ": 0.5}},
    )
    p = prfl.Prfl(c, CPU)
    m, given, noise = 2, p.draw_conditions(batch(), np.random.default_rng(0)), torch.randn(2, *SHAPE)
    x, state = prfl.rollout(p.model, p.solver, noise, m, given, c.sampler)
    assert not x.requires_grad
    prfl.hinge(p.rewards(x, state, m, given), target=c.target, weight=c.weight).backward()
    found = gradients(p.net)

    net = WanTransformer3DModel.from_pretrained(Path(c.model.path) / "transformer")  # by hand, Euler's formula
    sigmas = p.solver.sigmas

    def stepped(x, i):
        u, v = (net(x, 1000 * sigmas[i].expand(2), t, return_dict=False)[0] for t in (given.negative, given.text))
        return x + (sigmas[i + 1] - sigmas[i]) * (u + 2.0 * (v - u))

    with torch.no_grad():
        y = stepped(stepped(noise, 0), 1)
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    scores = pavrm.load(Path(c.reward.folder))(stepped(y, 2), sigmas[3].expand(2), given.text)
    r = scores[:, 0] + 0.5 * scores[:, 1] + scores[:, 2]
    (0.1 * (100.0 - r)).mean().backward()
    wanted = gradients(net)
    assert found.keys() == wanted.keys() == dict(net.named_parameters()).keys()
    for k, g in wanted.items():
        torch.testing.assert_close(found[k], g, rtol=1e-3, atol=1e-6, msg=k)


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_what_came_before_the_step_has_no_gradient(load, name):
    """A multistep solver's history is of the steps before."""
    c = load(sampler={"name": name, "num_steps": 5, "guidance_scale": 1.0}, target=100.0)
    p = prfl.Prfl(c, CPU)
    calls = []
    evaluate = p.model.velocity
    p.model.velocity = lambda *a: calls.append(torch.is_grad_enabled()) or evaluate(*a)
    p.trained.velocity = p.model.velocity
    given = p.draw_conditions(None, np.random.default_rng(0))
    x, state = prfl.rollout(p.model, p.solver, torch.randn(2, *SHAPE), 3, given, c.sampler)
    p.rewards(x, state, 3, given).sum().backward()
    assert calls == [False] * 3 + [True]
    assert gradients(p.net)


def test_the_reward_stays_frozen_and_nothing_is_decoded(load):
    p = prfl.Prfl(load(target=100.0), CPU)
    before = copy.deepcopy(p.reward.state_dict())
    with prfl.Decodes() as decodes:
        optimizer = torch.optim.SGD(p.net.parameters(), lr=0.1)
        for step in range(4):
            p.loss(step, batch(), Means()).backward()
            optimizer.step()
        assert decodes.n == 0
        vae = AutoencoderKLWan.from_pretrained(p.folder / "vae")
        vae.decode(torch.zeros(1, *SHAPE))
        assert decodes.n > 0  # it does count
    assert not any(q.requires_grad or q.grad is not None for q in p.reward.parameters())
    assert all(torch.equal(v, before[k]) for k, v in p.reward.state_dict().items())


def test_a_reward_of_other_components_judges(load, tiny, tmp_path):
    net = pavrm.of_model(tiny, blocks=1, heads=2, widths=(8,), components=("VQ", "LAW"))
    pavrm.save(net, tmp_path / "law", half=False)
    c = load(reward={"folder": str(tmp_path / "law"), "weights": {"LAW": 3.0}})
    prfl.check_parts(c)
    p = prfl.Prfl(c, CPU)
    given, x = p.draw_conditions(None, np.random.default_rng(0)), torch.randn(2, *SHAPE)
    scores = []
    hook = p.reward.register_forward_hook(lambda module, inputs, output: scores.append(output))
    found = p.rewards(x, p.solver.start(0), 0, given)
    hook.remove()
    torch.testing.assert_close(found, scores[0][:, 0] + 3 * scores[0][:, 1])
    found.sum().backward()
    assert gradients(p.net)


def test_hinge_is_0_above_the_target():
    assert prfl.hinge(torch.tensor([2.0, 3.0])) == 0
    assert prfl.hinge(torch.tensor([1.0, 3.0])) == pytest.approx(0.05)
    r = torch.tensor([5.0], requires_grad=True)
    prfl.hinge(r).backward()
    assert r.grad == 0


def test_m_is_uniform_and_steps_alternate(load, monkeypatch):
    p, seen = prfl.Prfl(load(flow_steps=2), CPU), []
    monkeypatch.setattr(prfl, "rollout", lambda model, solver, x, m, *_: (seen.append(m) or x, None))
    monkeypatch.setattr(p, "rewards", lambda x, *_: x.mean((1, 2, 3, 4)))
    monkeypatch.setattr(p, "flow_loss", lambda *_: seen.append("flow"))
    for step in range(1200):
        p.loss(step, batch(), Means())
    assert seen[1::3] == seen[2::3] == ["flow"] * 400
    counts = np.bincount(seen[::3])
    assert len(counts) == 4  # T - 2 is the last, of T = 5
    assert counts == pytest.approx(100, abs=35)


def test_workers_see_different_noise_steps_and_captions(load, monkeypatch):
    seen = []
    monkeypatch.setattr(prfl, "rollout", lambda model, solver, x, m, given, _: (seen.append((m, x, given)) or x, None))
    for rank in (0, 1, 0):
        p = prfl.Prfl(load(), CPU, rank=rank)
        monkeypatch.setattr(p, "rewards", lambda x, *_: x.mean((1, 2, 3, 4)))
        torch.manual_seed(rank)
        for step in (0, 2, 4, 6):
            p.loss(step, batch(), Means())
    ms = [[m for m, _, _ in seen[i : i + 4]] for i in (0, 4, 8)]
    assert ms[0] == ms[2] != ms[1]
    assert torch.equal(seen[0][1], seen[8][1])


def test_a_given_first_frame_is_kept_and_its_captions_go_with_it(load):
    c = load(image_share=0.5, target=100.0, batch=8)
    p, data = prfl.Prfl(c, CPU), batch(8)
    given = p.draw_conditions(data, np.random.default_rng(0))
    with_first = given.has_first.tolist()
    assert 0 < sum(with_first) < 8
    for i, f in enumerate(given.first):
        if f is not None:
            assert torch.equal(f, torch.tensor(data["latent"][i : i + 1, :, :1], dtype=torch.float32))
            assert torch.equal(given.text[i], p.embed([f"clip {i}"])[0])
    seen, score = {}, p.reward.forward
    p.reward.forward = lambda x, *rest: seen.update(x=x, first=rest[-1]) or score(x, *rest)
    x, state = prfl.rollout(p.model, p.solver, torch.randn(8, *SHAPE), 2, given, c.sampler)
    p.rewards(x, state, 2, given).sum().backward()
    assert seen["first"].tolist() == with_first
    for i, f in enumerate(given.first):
        assert (f is not None) == (f is not None and torch.equal(seen["x"][i : i + 1, :, :1], f))


def test_flow_matching_leaves_given_frames_out(load, monkeypatch):
    p, z = prfl.Prfl(load(), CPU), torch.randn(3, *SHAPE)
    first = [None, z[1:2, :, :1], None]
    given = prfl.Conditions(p.embed(["a", "b", "c"]), None, first)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    torch.manual_seed(0)
    found = prfl.flow_loss(p.model, z, given, sigma)
    torch.manual_seed(0)
    noise = torch.randn_like(z)
    x = torch.lerp(z, noise, sigma.view(-1, 1, 1, 1, 1))
    x[1, :, 0] = z[1, :, 0]
    t = 1000 * sigma[:, None].expand(3, 8).clone()  # 2 frames of 2x2 tokens
    t[1, :4] = 0
    flow = p.net(x, t, given.text, return_dict=False)[0]
    error = (flow - (noise - z)).square().mean((1, 3, 4))
    assert found.item() == pytest.approx((error.sum() - error[1, 0]).item() / 5, rel=1e-5)


def test_levels_are_shifted_as_in_sampling():
    sigma = prfl.levels(np.random.default_rng(0), 1000, 3.0)
    assert sigma.min() >= 0 and sigma.max() <= 1
    assert sigma.median().item() == pytest.approx(0.75, abs=0.01)  # 3 u / (1 + 2 u) at a half


def test_bfloat16_is_near(load):
    found = []
    for dtype in ("float32", "bfloat16"):
        c = load()
        p = prfl.Prfl(load(model={"path": c.model.path, **SIZE, "dtype": dtype}, target=100.0), CPU)
        for step in range(2):
            torch.manual_seed(step)
            p.loss(step, batch(), Means()).backward()
        found.append(torch.cat([g.flatten() for g in gradients(p.net).values()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


def test_gradient_checkpointing_changes_no_gradient(load):
    found = []
    for on in (False, True):
        p = prfl.Prfl(load(gradient_checkpointing=on, target=100.0), CPU)
        for step in range(2):
            torch.manual_seed(step)
            p.loss(step, batch(), Means()).backward()
        found.append(gradients(p.net))
    for k, g in found[0].items():
        torch.testing.assert_close(found[1][k], g, rtol=1e-4, atol=1e-7, msg=k)


# -- the loop, without Ray -------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """The loop of a worker in this process; what it reports is in the list."""
    kept: list[dict] = []

    def report(metrics, checkpoint=None):
        with checkpoint.as_directory() as folder:
            kept.append(torch.load(Path(folder) / "state.pt", weights_only=True))

    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(distributed, "begin", lambda c: (torch.manual_seed(c.seed), CPU)[1])
    monkeypatch.setattr(distributed, "batches", lambda c, n, start: (batch(n, k) for k in range(start, 10**6)))
    monkeypatch.setattr(ray.train.torch, "prepare_model", lambda net: net)
    monkeypatch.setattr(ray.train, "report", report)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    return kept


def resumed(monkeypatch, tmp_path, state):
    folder = tmp_path / "checkpoint"
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "state.pt")
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: ray.train.Checkpoint.from_directory(folder))


@pytest.mark.parametrize("lora", [{}, {"rank": 2}])
def test_a_resumed_training_equals_an_uninterrupted_one(load, here, monkeypatch, tmp_path, lora):
    def trained(name):
        c = load(run_dir=str(tmp_path / name), image_share=0.5, lora=lora, learning_rate=1e-2, ema=0.9, warm_up=1)
        (tmp_path / name).mkdir(exist_ok=True)
        prfl.work(c)
        return WanTransformer3DModel.from_pretrained(tmp_path / name / "model" / "transformer").state_dict()

    whole, half = trained("whole"), here[0]
    assert half["step"] == 2
    resumed(monkeypatch, tmp_path, half)
    again = trained("again")
    assert here[-1]["step"] == here[1]["step"] == 4
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    start = WanTransformer3DModel.from_pretrained(Path(load().model.path) / "transformer").state_dict()
    assert any(not torch.equal(v, whole[k]) for k, v in start.items())
    metrics = {r["metric"] for r in pq.read_table(tmp_path / "whole" / "metrics.parquet").to_pylist()}
    norms = {"gradient norm reward", "gradient norm flow"}
    assert metrics == {"reward loss", "flow loss", "reward", "decodes"} | norms
    assert (tmp_path / "whole" / "curves.png").stat().st_size > 0


def test_no_decode_is_recorded(load, here, tmp_path):
    (tmp_path / "run").mkdir()
    prfl.work(load())
    rows = pq.read_table(tmp_path / "run" / "metrics.parquet").to_pylist()
    assert [r["value"] for r in rows if r["metric"] == "decodes"] == [0, 0]


def test_lora_trains_adapters_alone_and_is_merged(load, here, tmp_path):
    c = load(lora={"rank": 2, "alpha": 4.0}, learning_rate=0.1, warm_up=1, target=100.0)
    (tmp_path / "run").mkdir()
    prfl.work(c)
    assert here[-1]["net"] and all("lora_" in k for k in here[-1]["net"])
    merged = WanPipeline.from_pretrained(tmp_path / "run" / "model")
    adapted = WanPipeline.from_pretrained(c.model.path)
    x, t, text = torch.randn(1, *SHAPE), torch.tensor([500.0]), torch.randn(1, 16, 16)
    with torch.no_grad():
        plain = adapted.transformer(x, t, text, return_dict=False)[0]
        adapted.load_lora_weights(tmp_path / "run" / "lora")
        wanted = adapted.transformer(x, t, text, return_dict=False)[0]
        found = merged.transformer(x, t, text, return_dict=False)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (plain - wanted).abs().max() > 1e-3
    assert {f.suffix for f in (tmp_path / "run" / "lora").iterdir()} == {".safetensors"}
    wan.check_folder(tmp_path / "run" / "model", "model.path")


# -- on Ray ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # Ray Train of its own
def test_a_training_whose_driver_was_killed_ends_as_if_it_had_not_been(load, tmp_path):
    """Killed in its second epoch of three steps each, a step after its checkpoint, in a step of flow matching."""
    with halting.cluster() as address:
        for name in ("whole", "halves"):
            settings = {"batch": 12, "learning_rate": 1e-2, "workers": {"num_cpus": 0.5}}
            load(image_share=0.5, run_dir=str(tmp_path / name), **settings)
            (tmp_path / "c.yaml").rename(tmp_path / f"{name}.yaml")
        halves = tmp_path / "halves.yaml"
        with halting.hanging("prfl", halves, halt=3, address=address) as driver:
            assert main(["prfl", str(tmp_path / "whole.yaml")]) == 0
            halting.kill_after_checkpoint(driver, tmp_path / "halves")
        assert not (tmp_path / "halves" / "model").exists()
        assert halting.run("prfl", halves, halt=1, hangs=False) == 0  # it would fail if it began anew
    one, two = (WanPipeline.from_pretrained(tmp_path / k / "model") for k in ("whole", "halves"))
    weights = two.transformer.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in one.transformer.state_dict().items())
    rows = pq.read_table(tmp_path / "halves" / "metrics.parquet").to_pylist()
    assert rows == pq.read_table(tmp_path / "whole" / "metrics.parquet").to_pylist()
    assert [r["value"] for r in rows if r["metric"] == "decodes"] == [0, 0]
    call = {"num_inference_steps": 2, "output_type": "latent", **SIZE}
    assert two("a", **call).frames.isfinite().all()
