"""The rewards of a config as recipes see them, checked before anything is loaded."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from actors.models.folder import finite_chunks
from actors.rewards import RewardSpec, files
from actors.rewards.ensemble import Ensemble, ensemble
from actors.shipped import arguments_of, components_of, find, first_of, under, weights_of
from raysearch.errors import check
from raysearch.files import content_digest, source
from raysearch.recipe import reward as recipes
from raysearch.recipe.digests import canonical_json, digest
from raysearch.recipe.origins import Obstacle


@cache
def installed(package: str) -> str:
    """The version of an installed package, which takes milliseconds to read."""
    return importlib.metadata.version(package)


def gigabytes_of(specs: Sequence[RewardSpec]) -> float:
    """The size of the rewards' files of weights, in units of 10^9 bytes; a file that several read counts once."""
    read = {f for s in specs for f in s.files if f.suffix == ".safetensors"}
    return sum(f.stat().st_size for f in read) / 1e9


def specified(
    key: str, name: str, build: Callable[..., Any], arguments: dict[str, Any], first: int | None
) -> RewardSpec:
    """How a scorer builds a reward of these arguments. Reads the files that it depends on. Raises ConfigError."""
    with under(key, build):
        content = files(build, arguments)
    for file in content:
        check(file.exists(), key, str(file), "an existing file")
    found = content_digest(content, partial(finite_chunks, key=key))
    # A file counts by its content, not by its path: every job has the checkout in another folder.
    by_content = {k: content_digest([v]).hex() if isinstance(v, Path) else v for k, v in arguments.items()}
    folders = [k for k, v in arguments.items() if isinstance(v, str) and any(Path(v) in f.parents for f in content)]
    by_content |= dict.fromkeys(folders, found.hex())
    part = {} if first is None else {"first_latent_frames": first}
    spec_key = f"{name}-{digest(canonical_json(by_content | part)).hex()[:8]}"
    return RewardSpec(spec_key, name, arguments, key, first, found, tuple(content))


def reward(
    key: str,
    block: dict[str, Any],
    specs: dict[str, RewardSpec],
    obstacles: tuple[Obstacle, ...],
    shape: tuple[int, ...],
    text_dim: int | None = None,
    role: str = "",
    looks: bytes = b"",
) -> recipes.Reward:
    """The reward of a config block, checked, as recipes see it; `role` is its key in `rewards`. Raises ConfigError.

    `key` is the block's place in the config; `obstacles` are those of the arm; `shape` is a latent's, (1, C, T, H, W);
    `text_dim` is the width D of captions' embeddings. `looks` is a digest of the decoder for looks, by which the reward
    sees candidates that are on their way. What a scorer needs to build the reward is added to `specs`.
    """
    name = block.get("name")
    if name == "ensemble":
        made = Ensemble(**arguments_of(Ensemble, block, key))
        check(block.get("weights") is None, f"{key}.weights", block.get("weights"), "a key of the ensemble's members")
        check(role != "compare", f"{key}.name", name, "a reward that compares, or one reward")
        part = block.get("first_latent_frames")
        check(part is None, f"{key}.first_latent_frames", part, "a key of the ensemble's members")
        alone = role in ("final", "holdout", "")
        return ensemble(
            key, made, lambda at, of: reward(at, of, specs, obstacles, shape, text_dim, looks=looks), alone=alone
        )
    for own in ("label", "weight"):
        check(own not in block, f"{key}.{own}", block.get(own), "a key of an ensemble's members")
    build = find(name, f"{key}.name")
    arguments = arguments_of(build, block, key)
    with under(key, build):
        components, default = components_of(build, arguments)
    weights = dict.fromkeys(components, 1.0) | default
    if block.get("weights") is not None:
        weights |= weights_of(f"{key}.weights", block["weights"], components)
    needs = build.needs  # type: ignore[attr-defined]
    first = first_of(block, shape, needs, key)
    alike = (s for s in specs.values() if s.content and (s.name, s.arguments, s.first) == (name, arguments, first))
    spec = next(alike, None)  # of another arm: its files, which may be gigabytes, are read and checked once
    if spec is None:
        spec = specified(key, str(name), build, arguments, first)
        if (fits := getattr(build, "fits", None)) is not None:
            with under(key, build):
                fits(shape if first is None else (*shape[:2], first, *shape[3:]), text_dim, **arguments)
    specs[spec.key] = replace(spec, where=key)
    seen_by = (looks,) if looks and needs == "frames" else ()
    identity = digest(spec.key, spec.content, source(build), installed("torch"), *seen_by)
    if not getattr(build, "meets_obstacles", False):
        obstacles = ()
    else:
        check(bool(obstacles), f"{key}.name", name, "given together with obstacles: a text, an image or a video")
        with under(key, build):
            build(**arguments)  # cheap to build, and its constructor checks the arguments
        identity = digest(identity, *(o.identity for o in obstacles))
    totals = tuple(weights[c] for c in components)
    text, earlier, tags = (bool(getattr(build, f"reads_{k}", False)) for k in ("text", "earlier", "tags"))
    if role == "compare" and hasattr(build, "compare"):
        check(not (text or earlier or obstacles), f"{key}.name", name, "a reward that compares frames or latents alone")
        whole = digest("compare", identity)
        return recipes.Reward(spec.key, whole, ("preferred",), (1.0,), needs, tags=tags, pairwise=True)
    return recipes.Reward(spec.key, identity, components, totals, needs, obstacles, text, earlier, tags)
