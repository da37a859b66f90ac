"""Every model family has the names and signatures that the docstring of `actors.models` lists."""

import importlib
import inspect
import re

import pytest

from actors import models

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
    parts = {"TextEncoder", "Transformer", "Autoencoder", "ImageEncoder"}
    assert {path[0] for path in expected} == {"check_folder", "token_counter", "Geometry"} | parts
    if name == "mixture":  # its videos have no first frame
        for needless in [k for k in expected if k[0] == "ImageEncoder"]:
            del expected[needless]
        del expected["Autoencoder", "encode_image"], expected["Autoencoder", "image_channels"]
    for path, names in expected.items():
        found = module
        for part in path:
            found = getattr(found, part)
        assert parameters(found) == names, path


@pytest.mark.parametrize("name", sorted(set(models.FAMILIES.values())))
def test_a_geometry_has_the_facts_that_are_listed(name):
    geometry = importlib.import_module(f"actors.models.{name}").Geometry
    facts = set(re.findall(r"^    (\w+): ", models.__doc__, re.M))
    assert "path" in facts
    if name == "mixture":
        facts.remove("sees_image")
    assert not [f for f in facts if f not in geometry.__annotations__ and not hasattr(geometry, f)]
