"""Embeddings on disk, of real encoders: written, read back bit for bit, and runs without a text encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pipelines import KINDS
from runs import ARMS, PROMPT, config, run

from actors import plan
from actors.backend import Backend
from actors.models.pipelines.state import Conditions, Packed
from actors.models.pipelines.workers import Conditioner
from actors.models.source import Source
from actors.workers import worker
from actors.workers.conditions import condition, plain
from raysearch.config import config as configuration
from raysearch.engine.embeddings import Embeddings
from raysearch.engine.protocol import Text, Whole
from raysearch.files import sealed, unsealed


def through(what, made):
    """A condition written to a file and read from it."""
    return condition(what, unsealed(b"key", sealed(b"key", plain(made), compressed=True)))


def equal(a, b) -> bool:
    """True if two trees are of the same types, and the same bit for bit."""
    if type(a) is not type(b):
        return False
    match a:
        case np.ndarray():
            return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        case Packed():
            return a.dtype == b.dtype and equal(a.array, b.array)
        case dict():
            return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
        case list() | tuple():
            return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_what_a_tree_holds_comes_back():
    half = Packed(np.array([1, -2], np.int16), "bfloat16")
    tree = {"encode_prompt": [(np.zeros((1, 2), np.float32), None, half)], "a": [1, 2.5, True, "é", float("inf"), {}]}
    assert equal(through(Text("a", 8), tree["encode_prompt"]), tree["encode_prompt"])
    whole = Whole("a", sampler := "a sampler")
    assert through(whole, Conditions("another sampler", "a", tree)).sampler == sampler
    assert equal(through(whole, Conditions("another sampler", "a", tree)).encoded, tree)
    assert equal(through(Text("a", 8), np.arange(3)), np.arange(3))


@pytest.mark.parametrize("held", [torch.float32, object(), {1: "a"}, np.array([None]), (torch.zeros(1),)])
def test_what_a_file_cannot_hold_is_not_written(held):
    assert plain([held]) == {}
    assert plain(Conditions("a sampler", "a", {"encode_prompt": [held]})) == {}


def test_a_picture_is_not_written():
    assert plain(Conditions("a sampler", "a", {}, {"image": object()})) == {}


def test_a_second_run_loads_no_text_encoder_and_makes_the_same(tiny, tmp_path, monkeypatch):
    built = []
    plain_build = worker.build

    def build(kind, *given):
        built.append(kind)
        return plain_build(kind, *given)

    monkeypatch.setattr(worker, "build", build)
    expected, latents, frames = run(tiny, tmp_path / "first", arms=ARMS)
    assert built.count("encoder") == 1
    rows, again, shown = run(tiny, tmp_path / "second", arms=ARMS)
    assert built.count("encoder") == 1
    assert [(r["winner"], r["reward_search"]) for r in rows] == [(r["winner"], r["reward_search"]) for r in expected]
    assert all(np.array_equal(again[k], latents[k]) and np.array_equal(shown[k], frames[k]) for k in latents)
    run(tiny, tmp_path / "without", arms=ARMS, fleet={"encoders": {"cache": False}})
    assert built.count("encoder") == 2


def test_a_released_worker_is_ended_and_the_run_goes_on(tiny, tmp_path, monkeypatch):
    ended = []
    close = worker.Worker.close

    def closed(self, patience=None):
        ended.append(type(self._worker).__name__)
        close(self, patience)

    monkeypatch.setattr(worker.Worker, "close", closed)
    expected, latents, _ = run(tiny, tmp_path / "plain", arms=ARMS, fleet={"encoders": {"cache": False}})
    del ended[:]
    fleet = {"encoders": {"release": True}}
    rows, got, _ = run(tiny, tmp_path / "run", arms=ARMS, fleet=fleet, prompts=[PROMPT, "a blue dog"], max_searches=1)
    assert ended[0] == "Encoder" and ended.count("Encoder") == 1
    assert [r["winner"] for r in rows][: len(expected)] == [r["winner"] for r in expected]
    assert all(np.array_equal(got[k], latents[k]) for k in latents)


UNKEPT = ("Wan VACE",)  # its encoder returns a distribution


@pytest.mark.parametrize("name", KINDS)
def test_pipelines_conditions_do_not_depend_on_the_steps_and_come_back_if_they_are_kept(name, tmp_path):
    """A file is shared by samplers of any number of steps, so what a pipeline's encoders return must be the same."""
    kind = KINDS[name]
    if kind.pictured:
        pytest.skip("what shows a picture is not kept")
    folder = kind.save(tmp_path / "pipeline")
    c = config(folder, **kind.blocks)
    plan = Backend().prepare(c, configuration.arms(c)).arms[0]
    encoder = Conditioner(Source(folder))
    made = {n: encoder(plan.at_steps(n), PROMPT) for n in (3, 6)}
    few, many = (made[n].encoded for n in (3, 6))
    kept = Embeddings(tmp_path, b"encoding")
    assert kept.key(Whole(PROMPT, plan.at_steps(3))) == kept.key(Whole(PROMPT, plan.at_steps(6)))
    assert bool(plain(made[3])) is (name not in UNKEPT)
    if name in UNKEPT:
        return
    assert equal(few, many)
    assert equal(through(Whole(PROMPT, plan.at_steps(6)), made[3]).encoded, many)


def test_a_pipelines_second_run_loads_no_encoder_even_for_drafts(tmp_path, monkeypatch):
    kind = KINDS["LTX"]
    folder = kind.save(tmp_path / "pipeline")
    arms = [
        {"name": "single", "policy": {"name": "single"}},
        {
            "name": "draft",
            "policy": {"name": "draft_commit", "draft_steps": 3, "explore": {"name": "best_of_n", "n": 2}},
        },
    ]
    expected, latents, _ = run(folder, tmp_path / "first", arms=arms[:1], **kind.blocks)
    together, drafted, _ = run(
        folder, tmp_path / "plain", arms=arms, fleet={"encoders": {"cache": False}}, **kind.blocks
    )

    def build(kind, *given):
        assert kind != "encoder"
        return plain_build(kind, *given)

    plain_build = worker.build
    monkeypatch.setattr(worker, "build", build)
    rows, got, _ = run(folder, tmp_path / "second", arms=arms, **kind.blocks)
    assert [r["winner"] for r in rows] == [r["winner"] for r in together]
    assert all(np.array_equal(got[k], drafted[k]) for k in drafted)
    assert all(np.array_equal(got[k], latents[k]) for k in latents) and len(expected) == 1


def test_the_key_covers_model_precision_device_versions_and_code(tiny, monkeypatch):
    c = config(tiny)
    model = plan.checked_model(c, configuration.arms(c))
    found = {plan.encoding(c, model)}
    found.add(plan.encoding(config(tiny, model={"dtype": "bfloat16"}), model))
    found.add(plan.encoding(config(tiny, fleet={"encoders": {"num_gpus": 0.5}}), model))
    found.add(plan.encoding(config(tiny, parts={"text_encoder": {"dtype": "bfloat16"}}), model))
    found.add(plan.encoding(c, replace(model, content=b"other weights")))
    assert plan.encoding(config(tiny, fleet={"denoisers": {"num_gpus": 1}}), model) in found
    installed = plan.installed
    for package in ("torch", "diffusers", "transformers", "tokenizers", "ftfy"):
        monkeypatch.setattr(plan, "installed", lambda p, of=package: "0" if p == of else installed(p))
        found.add(plan.encoding(c, model))
    monkeypatch.setattr(plan, "files_digest", lambda files: b"other code")
    found.add(plan.encoding(c, model))
    assert len(found) == 11
