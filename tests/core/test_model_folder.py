"""What of a model's folder counts, and what a run takes from it, without torch."""

import ast
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from mistakes._folders import TRANSFORMER, VAE, edited, holding, model, moved

from actors import models
from actors.models import folder as folders
from actors.models import header, hub
from actors.models.settled import settled
from raysearch.config.config import Config, build
from raysearch.errors import ConfigError
from raysearch.files import content_digest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "actors" / "assets" / "tiny-wan"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def m(tmp_path):
    model()(tmp_path)
    return tmp_path / "m"


def config(folder: Path, **values) -> Config:
    return build({"model": {"path": str(folder)}, "prompts": ["a"], **values})


def test_a_folder_of_what_is_loaded_has_the_digest_that_runs_began_with(m):
    assert folders.content(TINY) == content_digest([TINY]) == folders.content(m)
    mixture = ROOT / "actors" / "assets" / "mixture"
    assert folders.content(mixture) == content_digest([mixture])


@pytest.mark.parametrize(
    "name",
    ["README.md", "LICENSE", ".gitattributes", "vae/README.md", "vae/.index.json", "vae/diffusion_pytorch_model.bin",
     "vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin.index.json", "notes/a.json"],
)  # fmt: skip
def test_a_file_that_is_not_loaded_does_not_count(m, name):
    holding(name, b"anything")(m)
    models.found(str(m))
    assert folders.content(m) == folders.content(TINY)


@pytest.mark.parametrize("name", ["vae/config.json", SCHEDULER, "tokenizer/added_tokens.json", "model_index.json"])
def test_a_file_that_is_loaded_counts(m, name):
    edited(name, more=1)(m)
    assert folders.content(m) != folders.content(TINY)


def test_a_variant_is_taken_where_there_is_one(m):
    holding(VAE.replace(".s", ".fp16.s"), (TINY / VAE).read_bytes())(m)
    vae, transformer = (folders.parts(m)[name] for name in ("vae", "transformer"))
    assert vae.weights("fp16").files == (m / VAE.replace(".s", ".fp16.s"),)
    assert vae.weights("fp16").variant == "fp16"
    assert transformer.weights("fp16").files == (m / TRANSFORMER,)
    assert transformer.weights("fp16").variant is None
    assert models.found(str(m), variant="fp16") == m


def test_pickled_weights_are_taken_where_there_are_no_others(m):
    holding("vae/diffusion_pytorch_model.bin", b"x")(m)
    assert folders.parts(m)["vae"].weights(None).safe
    (m / VAE).unlink()
    assert folders.parts(m)["vae"].weights(None).files == (m / "vae" / "diffusion_pytorch_model.bin",)
    assert not folders.parts(m)["vae"].weights(None).safe


def test_weights_in_several_files_are_those_that_the_index_names(m):
    moved(VAE, "vae/b-00001-of-00001.safetensors")(m)
    holding("vae/c-00001-of-00001.safetensors", b"x")(m)
    holding(f"{VAE}.index.json", json.dumps({"weight_map": {"a": "b-00001-of-00001.safetensors"}}))(m)
    assert [p.name for p in folders.parts(m)["vae"].weights(None).files] == ["b-00001-of-00001.safetensors"]
    models.found(str(m))


def test_home_is_found(m, monkeypatch):
    monkeypatch.setenv("HOME", str(m.parent))
    assert models.found("~/m") == m


# -- numbers ---------------------------------------------------------------------------------------------------------


def saved(file: Path, dtype: str, numbers: np.ndarray) -> Path:
    facts = {"dtype": dtype, "shape": list(numbers.shape), "data_offsets": [0, numbers.nbytes]}
    text = json.dumps({"__metadata__": {}, "x": facts}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + numbers.tobytes())
    return file


@pytest.mark.parametrize(("dtype", "kind"), [("F64", np.float64), ("F32", np.float32), ("F16", np.float16)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_every_number_that_is_none_is_found(tmp_path, dtype, kind, bad, monkeypatch):
    monkeypatch.setattr(header, "CHUNK", 64)  # chunks end within the tensor
    numbers = np.linspace(-9, 9, 99).astype(kind)
    numbers[1:3] = np.finfo(kind).max, -np.finfo(kind).tiny
    file = saved(tmp_path / "a.safetensors", dtype, numbers)
    assert b"".join(header.finite_chunks(file)) == file.read_bytes()
    for at in (0, 57, 98):
        changed = numbers.copy()
        changed[at] = bad
        with pytest.raises(ValueError, match="NaN or inf in x"):
            list(header.finite_chunks(saved(tmp_path / "b.safetensors", dtype, changed)))


def test_bfloat16_and_whole_numbers(tmp_path):
    bits = np.array([0x3F80, 0x7F7F, 0xFF7F], np.uint16)  # 1, and the largest in either direction
    assert list(header.finite_chunks(saved(tmp_path / "a", "BF16", bits)))
    for bad in (0x7F80, 0xFF80, 0x7FC0, 0x7F81):
        with pytest.raises(ValueError, match="NaN"):
            list(header.finite_chunks(saved(tmp_path / "b", "BF16", np.array([0, bad], np.uint16))))
    assert list(header.finite_chunks(saved(tmp_path / "c", "I64", np.array([-1, 0x7FFF << 48]))))


# -- what a run takes from the folder --------------------------------------------------------------------------------


def test_a_shift_that_the_folder_does_not_give_is_said_and_held(m):
    said = []
    given = config(m)
    assert settled(given, said.append) == given
    assert said == []
    edited(SCHEDULER, flow_shift=None)(m)
    assert settled(given, said.append).sampler.flow_shift == 1.0
    assert said == [
        "sampler.flow_shift: the model's scheduler has no shift, so 1 is used: its noise levels are not shifted"
    ]
    assert settled(config(m, sampler={"flow_shift": 5.0}), said.append).sampler.flow_shift == 5.0
    edited(SCHEDULER, shift=7.0)(m)
    assert settled(given, said.append) == given
    edited(SCHEDULER, use_dynamic_shifting=True)(m)
    assert settled(config(m, sampler={"flow_shift": 5.0}), said.append).sampler.flow_shift == 5.0
    assert len(said) == 1


def test_a_mixture_has_no_scheduler_that_could_shift():
    said = []
    given = config(ROOT / "actors" / "assets" / "mixture")
    assert settled(given, said.append) == given
    assert said == []


def test_a_negative_prompt_without_guidance_is_said():
    said = []
    arms = [{"name": "a", "sampler": {"guidance_scale": 1.0}}, {"name": "b", "sampler": {"guidance_scale": 3.0}}]
    settled(config(TINY, sampler={"negative_prompt": "dull"}, arms=arms), said.append)
    assert said == [
        "sampler.negative_prompt has no effect with sampler.guidance_scale=1 (arm a): only a scale above 1 is guidance"
    ]


# -- the hub ---------------------------------------------------------------------------------------------------------


def refusal(kind: type[Exception]) -> Exception:
    return kind("no", response=SimpleNamespace(headers={}, request=None, status_code=404))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            refusal(errors.GatedRepoError),
            "org/name is gated: accept its terms at https://huggingface.co/org/name, then ",
        ),
        (refusal(errors.RepositoryNotFoundError), "the hub has no org/name: it is misspelt, or private"),
        (refusal(errors.RevisionNotFoundError), "org/name has no revision 'v2' on the hub"),
        (errors.LocalEntryNotFoundError("no"), "it is not in the cache, and the hub cannot be reached"),
        (ConnectionError("no"), "it is not in the cache, and the hub cannot be reached"),
        (OSError(28, "No space left on device"), "the hub cannot give it: OSError: [Errno 28] No space left on device"),
    ],
)
def test_the_hubs_refusals_are_told_apart(monkeypatch, error, line):
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ConfigError) as raised:
        hub.fetched("org/name@v2", "model.path")
    assert str(raised.value).startswith(f"model.path: 'org/name@v2' is no folder here, and {line}")


def test_a_revision_is_fetched_with_the_parts_that_its_index_names(monkeypatch):
    asked = []

    def give(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, sorted(allow_patterns)))
        return str(TINY)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert models.found("org/name@v2") == TINY
    wanted = ["model_index.json", "scheduler/*", "text_encoder/*", "tokenizer/*", "transformer/*", "vae/*"]
    assert asked == [("org/name", "v2", ["model_index.json"]), ("org/name", "v2", wanted)]
    assert models.found("org/name") == TINY
    assert asked[2][1] is None


# -- code of others --------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_but_by_the_function_that_trusts_no_code():
    loading = {}
    for path in sorted((ROOT / "actors").rglob("*.py")):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        for call in (c for c in calls if isinstance(c.func, ast.Attribute)):
            if call.func.attr == "from_pretrained":
                loading[path.name] = {k.arg: ast.unparse(k.value) for k in call.keywords}
            if call.func.attr == "load" and ast.unparse(call.func.value) == "torch":
                assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True", path
    assert list(loading) == ["weights.py"]
    assert loading["weights.py"]["trust_remote_code"] == "False"
