"""Every model family has the names and signatures that the docstring of `actors.models` lists."""

import asyncio
import importlib
import inspect
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from runs import config
from safetensors.numpy import load_file, save_file

from actors import models
from actors.backend import Backend
from actors.models.frames import eight_bits
from raysearch.session.session import Session

CLASS, METHOD = r"^(\w+)(?:\.of)?\((.*?)\)", r"^    (\w+)\((.*?)\) ->"


def listed() -> dict[tuple[str, ...], list[str]]:
    """The parameters of each function or class, and of each method, as the docstring writes them."""
    found, inside = {}, ""
    for line in models.__doc__.splitlines():
        if match := re.match(CLASS, line):
            inside = match[1]
            name = (inside, "of") if ".of(" in line else (inside,)
            found[name] = match[2].split(", ")
        elif match := re.match(METHOD, line):
            found[inside, match[1]] = match[2].split(", ")
    return found


def parameters(function) -> list[str]:
    found, keyword_only = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            found.append("*")
        found += [] if p.name == "self" else [p.name]
    return found


@pytest.mark.parametrize("name", sorted(set(models.FAMILIES.values())))
def test_a_family_has_the_names_that_are_listed(name):
    module = importlib.import_module(f"actors.models.{name}")
    expected = listed()
    parts = {"TextEncoder", "Transformer", "Autoencoder", "ImageEncoder", "Preview"}
    assert {path[0] for path in expected} == {"check_folder", "token_counter", "Geometry"} | parts
    if name == "mixture":  # its videos have no first frame, and it decodes at once
        for needless in [k for k in expected if k[0] in ("ImageEncoder", "Preview")]:
            del expected[needless]
        del expected["Transformer", "remembering"]  # a formula has no blocks
        del expected["Autoencoder", "encode_image"], expected["Autoencoder", "image_channels"]
    for path, names in expected.items():
        found = module
        for part in path:
            found = getattr(found, part)
        assert parameters(found) == names, path


def test_bytes_are_made_of_finite_numbers_alone():
    given = torch.tensor([-0.5, 0, 0.25, 0.5, 1, 1.5])
    assert eight_bits(given).tolist() == [0, 0, 64, 128, 255, 255]
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(FloatingPointError, match="the decoded frames are not finite"):
            eight_bits(torch.tensor([0.5, bad]))


def test_what_decodes_to_numbers_that_are_not_finite_fails_its_search(tiny, tmp_path):
    """The weights are finite, and overflow."""
    folder = shutil.copytree(tiny, tmp_path / "model")
    weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    weights |= {k: np.full_like(v, 3e38) for k, v in weights.items() if k.startswith("decoder.conv_out")}
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors")
    session = Session(config(folder, rewards={"search": None}), Backend(), run_dir=tmp_path / "run")
    asyncio.run(session.run())
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert (row["status"], row["video"]) == ("failed", None)
    assert row["reason"] == "FloatingPointError: the decoded frames are not finite"


@pytest.mark.parametrize("name", sorted(set(models.FAMILIES.values())))
def test_a_geometry_has_the_facts_that_are_listed(name):
    geometry = importlib.import_module(f"actors.models.{name}").Geometry
    facts = set(re.findall(r"^    (\w+): ", models.__doc__, re.M))
    assert "path" in facts
    if name == "mixture":
        facts.remove("sees_image")
    assert not [f for f in facts if f not in geometry.__annotations__ and not hasattr(geometry, f)]
