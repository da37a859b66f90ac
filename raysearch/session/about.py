"""What the file of a winner says of itself: enough to make the video again, and no path, address or the like."""

from dataclasses import asdict, fields
from typing import Any

from raysearch.config.config import Config
from raysearch.recipe.candidate import Candidate, Sampler
from raysearch.recipe.digests import canonical_json, digest
from raysearch.session.directory import FREE
from raysearch.session.plan import Search


def config_digest(config: Config) -> str:
    """The digest of a config but for the keys that may differ when a run is resumed, in hexadecimal."""
    own = {k: v for k, v in asdict(config).items() if k not in FREE}
    return digest(canonical_json(own)).hex()


def comment(s: Search, winner: Candidate, config: str) -> str:
    """The caption, seed and arm of a search, its config's digest, and the winner's recipe, as JSON.

    `origins` begin with the winner's own and go on to those of its ancestors, each with the step that was reached.
    """
    made = [{"step": c.step, **c.origin.describe()} for c in (winner, *winner.ancestors())]
    recipe = {"candidate": winner.id, "sampler": _numbers(winner.sampler.whole), "origins": made}
    shown = {"image": winner.prompt.image, "last_image": winner.prompt.last}
    image = {name: given.content.hex() for name, given in shown.items() if given}
    captions = [winner.prompt.text, *winner.prompt.later]
    said = {"captions": captions, **image, "seed": s.seed, "arm": s.plan.arm.name, "config": config, "recipe": recipe}
    return canonical_json(said)


def _numbers(sampler: Sampler) -> dict[str, Any]:
    """What a sampler is made of, but for the noise levels, which follow from it."""
    own = {f.name: getattr(sampler, f.name) for f in fields(sampler) if f.name not in ("sigmas", "queue")}
    return own | {"model": sampler.model.hex()}
