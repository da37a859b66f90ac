"""The rewards that ship, by name, and what can be known of a config's rewards without torch, which takes seconds."""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raysearch.config.binding import bind
from raysearch.config.config import Arm
from raysearch.config.foreign import blamed, check_signature, imported, refused
from raysearch.config.mistakes import nearest, unknown_key
from raysearch.config.numbers import finite
from raysearch.config.obstacles import Classifier
from raysearch.errors import ConfigError, check, plain
from raysearch.session.tables import CANDIDATES

NEEDS = ("latent", "estimate", "frames")
REWARDS = {
    "verifier": "actors.tiny.verifier:Verifier",
    "pixel": "actors.rewards.pixel:PixelReward",
    "latent": "actors.rewards.latent_reward:LatentReward",
    "pavrm": "actors.rewards.pavrm:Pavrm",
    "consistency": "actors.rewards.consistency:Consistency",
    "videoalign": "actors.rewards.videoalign:VideoAlign",
    "vqa": "actors.rewards.vqa:Vqa",
    "hps3": "actors.rewards.hps3:Hps3",
    "pickscore": "actors.rewards.pickscore:PickScore",
    "clipscore": "actors.rewards.clipscore:ClipScore",
    "hps": "actors.rewards.hps:Hps",
    "imagereward": "actors.rewards.imagereward:ImageReward",
    "aesthetic": "actors.rewards.aesthetic:Aesthetic",
    "flicker": "actors.rewards.motion:Flicker",
    "motion": "actors.rewards.motion:Motion",
    "vbench_consistency": "actors.rewards.vbench:VBenchConsistency",
    "ocr": "actors.rewards.ocr:Ocr",
    "near": "actors.rewards.near:Near",
    "repulsion": "actors.rewards.repulsion:Repulsion",
    "distance": "actors.rewards.repulsion:Distance",
    "judge": "actors.rewards.judge:Judge",
    "ensemble": "actors.rewards.ensemble:Ensemble",
}
OWN = ("name", "weights", "weight", "label", "first_latent_frames")  # keys of a block that no constructor has


def target(name: Any, key: str) -> tuple[str, str]:
    """The module and the class of a reward's name, which is a shipped one or `module:Class`. Raises ConfigError."""
    module, _, attribute = REWARDS.get(name, name).partition(":") if isinstance(name, str) else ("", "", "")
    if not (module and attribute):
        hint = nearest(name, REWARDS) if isinstance(name, str) else ""
        raise ConfigError(f"{key}: no reward {name!r}{hint}; there are {', '.join(REWARDS)}, or module:Class")
    return module, attribute


def find(name: Any, key: str = "reward") -> Callable[..., Any]:
    """The class of a shipped reward, by its name, or of a user's, as `module:Class`. Raises ConfigError."""
    module, attribute = target(name, key)
    if name in REWARDS:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    found = imported(name, key, "MyReward")
    wrong = _wrong(found)
    if wrong:
        raise refused(key, name, found, wrong)
    check_signature(found, key, name, taken=0, form="__init__(self, *, ...)")
    check_signature(found.__call__, key, name, taken=2, form="__call__(self, views)")
    if hasattr(found, "compare"):
        check_signature(found.compare, key, name, taken=2, form="compare(self, pairs)")
    if taken := set(OWN) & set(inspect.signature(found).parameters):
        raise refused(key, name, found, f"without a parameter `{min(taken)}`: that key is the config's own")
    return found  # type: ignore[no-any-return]


def _wrong(found: Any) -> str:
    """What a user's reward must be and is not; empty if it is all right, its signatures aside."""
    if not inspect.isclass(found):
        return f"a class with `components`, `needs` and `__call__`; it is of type {type(found).__name__}"
    if not any("__call__" in vars(c) for c in found.__mro__):
        return "a class with a method __call__(self, views)"
    if inspect.iscoroutinefunction(found.__call__) or inspect.isgeneratorfunction(found.__call__):
        return "a class whose __call__ is a plain def that returns a row for each view"
    if not callable(getattr(found, "compare", found)):
        return "a class whose `compare`, if there is one, is a method compare(self, pairs)"
    if (needs := getattr(found, "needs", None)) not in NEEDS:
        return f"a class whose `needs` is one of {', '.join(NEEDS)}, and not {needs!r}"
    names = getattr(found, "components", None)
    if wrong := wrong_names(names):
        return wrong
    try:
        weights_of("`weights`", getattr(found, "weights", {}), names or ())
    except ConfigError as error:
        return f"a class whose weights are right: {error}"
    return ""


def wrong_names(names: Any, of: str = "a class") -> str:
    """What is wrong with the names of the components of a class, or of what `of` says; empty if nothing is."""
    if not isinstance(names, tuple) or not names:
        example = f"({names!r},)" if isinstance(names, str) else '("sharp",)'
        return f"{of} whose `components` is a tuple of names such as {example}, and not {plain(repr(names))}"
    for c in names:
        if not isinstance(c, str) or not c or c != plain(c) or len(c) > 64:
            return f"{of} whose `components` are texts of 1 to 64 characters, and {plain(repr(c))} is none"
        if names.count(c) > 1:
            return f"{of} with no two components called {c!r}"
        if c in CANDIDATES or f"{c}_chunks" in names:
            column = c if c in CANDIDATES else f"{c}_chunks"
            return f"{of} with no component called {column!r}, which is a column of its own"
    return ""


@contextmanager
def under(key: str, build: Callable[..., Any]) -> Iterator[None]:
    """What is raised within this context by the code of a reward's class is a ConfigError that names `key`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{key}.{error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ConfigError(f"{key}: {blamed(error, build)}") from error


def components_of(build: Any, arguments: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The components and the default weights of a reward with these arguments. Raises ConfigError about its block."""
    names = build.named(**arguments) if hasattr(build, "named") else build.components
    if wrong := wrong_names(names):
        raise refused("name", build.__qualname__, build, wrong)
    weights = build.weighed(**arguments) if hasattr(build, "weighed") else getattr(build, "weights", {})
    return names, weights_of("weights", dict(weights), names)


def first_of(block: dict[str, Any], shape: Sequence[int], needs: str, key: str) -> int | None:
    """The first latent frames whose frames a reward reads, as its block says; None: all. Raises ConfigError.

    `shape` is that of a latent, (1, C, T, H, W), and `needs` what the reward reads.
    """
    first = block.get("first_latent_frames")
    if first is None:
        return None
    at = f"{key}.first_latent_frames"
    check(needs == "frames", at, first, "left out: this reward reads no frames")
    fits = isinstance(first, int) and not isinstance(first, bool) and 1 <= first <= shape[2]
    check(fits, at, first, f"a whole number in 1..{shape[2]}, the latent frames of a clip")
    return int(first)


def label(key: str, block: dict[str, Any]) -> str:
    """The label of a member of an ensemble: its own, or its name. Raises ConfigError."""
    own = block.get("label")
    found = str(block.get("name", "")).rpartition(":")[2] if own is None else own
    fits = isinstance(found, str) and re.fullmatch(r"\w{1,40}", found) is not None
    check(fits, f"{key}.label", found, "a name of 1 to 40 letters, digits and _")
    return str(found)


def weights_of(key: str, given: Any, components: Sequence[str]) -> dict[str, float]:
    """The weights that a config gives to components, checked. Raises ConfigError."""
    check(isinstance(given, dict), key, given, f"a mapping of {', '.join(components)} to numbers")
    for component, weight in given.items():
        check(component in components, key, component, f"one of {', '.join(components)}")
        check(finite(weight), f"{key}.{component}", weight, "a finite number")
    return {component: float(weight) for component, weight in given.items()}


def arguments_of(build: Callable[..., Any], block: dict[str, Any], key: str) -> dict[str, Any]:
    """The arguments of a reward's constructor, complete, from a block of the config at `key`. Raises ConfigError."""
    known = (*inspect.signature(build).parameters, *OWN)
    for name in block:
        if name not in known:
            raise ConfigError(unknown_key(f"{key}.{name}", name, known))
    return bind(build, {k: v for k, v in block.items() if k not in OWN}, key)


def _members(blocks: dict[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each block of a reward with its place in the config, and those of ensembles' members."""
    for key, block in blocks.items():
        yield key, block
        of = block.get("of") if block.get("name") == "ensemble" else None
        if of is not None:
            fits = isinstance(of, list) and all(isinstance(member, dict) for member in of)
            check(fits, f"{key}.of", of, "a list of rewards, each a mapping with a name")
            for i, member in enumerate(of):
                for own in ("label", "weight"):
                    check(block.get(own) is None, f"{key}.{own}", block.get(own), "a key of the ensemble's members")
                yield f"{key}.of[{i}]", member


def check_rewards(arms: Sequence[Arm]) -> None:
    """Raises ConfigError where a reward of an arm, or of its obstacles, cannot be a reward.

    Those of the user's are imported: they know whether they need torch.
    """
    for arm in arms:
        blocks = {f"rewards.{name}": block for name, block in vars(arm.rewards).items() if block is not None}
        for i, obstacle in enumerate(arm.obstacles):
            if isinstance(obstacle, Classifier):
                blocks[f"obstacles[{i}].reward"] = obstacle.reward
        for key, block in _members(blocks):
            name = block.get("name")
            target(name, f"{key}.name")
            if name not in REWARDS:
                build = find(name, f"{key}.name")
                arguments = arguments_of(build, block, key)
                with under(key, build):
                    components, _ = components_of(build, arguments)
                if block.get("weights") is not None:
                    weights_of(f"{key}.weights", block["weights"], components)
