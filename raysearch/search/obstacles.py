"""What videos should keep away from: config blocks to obstacles, and how far a candidate is from each.

    obstacles:
      - {text: a red circle moving left, n: 2}        # videos that the model itself makes of it
      - {image: bad.png, space: features}             # a video that stands still
      - {video: bad.mp4}
      - {reward: {name: pixel}, worst: 0.5}           # what a classifier scores at most so

The keyword-only signature of a kind's function is the schema of its block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from raysearch.config.binding import bind
from raysearch.config.media import check_picture, check_video, is_file
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.digests import digest
from raysearch.recipe.origins import Noise, Obstacle, Recording, Space
from raysearch.recipe.reward import Reward


@dataclass(frozen=True)
class Barrier:
    """An obstacle as a search meets it: `distance` is a reward whose total says how far a candidate is beyond `zero`.

    A classifier has no `obstacle` in latent space, so nothing pushes away from it.
    """

    distance: Reward
    obstacle: Obstacle | None = None
    zero: float = 0.0

    def away(self, components: Sequence[float]) -> float:
        return max(self.distance.total(components) - self.zero, 0.0)


def checked(blocks: Any) -> tuple[dict[str, Any], ...]:
    """Blocks with their defaults filled in. Raises ConfigError."""
    check(blocks is None or isinstance(blocks, list), "obstacles", blocks, "a list")
    return tuple(_checked(b, f"obstacles[{i}]") for i, b in enumerate(blocks or ()))


def barriers(
    blocks: Sequence[dict[str, Any]], sampler: Sampler, classify: Callable[[str, dict[str, Any]], Reward]
) -> tuple[Barrier, ...]:
    """Of checked blocks, for an arm with this sampler; `classify` makes the reward of a key and a block."""
    found = []
    for i, block in enumerate(blocks):
        if "reward" in block:
            found.append(Barrier(classify(f"obstacles[{i}].reward", block["reward"]), zero=block["worst"]))
        else:
            obstacle: Obstacle = KINDS[_kind(block)](sampler, **block)
            identity = digest("distance", obstacle.identity)
            found.append(
                Barrier(Reward("distance", identity, ("distance",), (1.0,), "estimate", (obstacle,)), obstacle)
            )
    return tuple(found)


def _text(sampler: Sampler, *, text: str, n: int = 1, seed: int = 0, space: Space = "latent") -> Obstacle:
    prompt = Prompt(text.strip())
    points = [Candidate(prompt, sampler, Noise(seed, i), sampler.num_steps) for i in range(n)]
    return Obstacle(tuple(points), space)


def _image(sampler: Sampler, *, image: Path, space: Space = "latent") -> Obstacle:
    return Obstacle((_recording(image),), space)


def _video(sampler: Sampler, *, video: Path, space: Space = "latent") -> Obstacle:
    return Obstacle((_recording(video),), space)


def _classifier(sampler: Sampler, *, reward: dict[str, Any], worst: float = 0.0) -> None:
    """It has a reward and no points."""


KINDS: dict[str, Callable[..., Any]] = {"text": _text, "image": _image, "video": _video, "reward": _classifier}


def _kind(block: dict[str, Any]) -> str:
    return next(k for k in KINDS if k in block)


def _checked(block: Any, key: str) -> dict[str, Any]:
    check(
        isinstance(block, dict) and sum(k in block for k in KINDS) == 1,
        key,
        block,
        f"a mapping with one of {', '.join(KINDS)}",
    )
    kind = _kind(block)
    arguments = bind(KINDS[kind], block, "an obstacle", key)
    what = arguments[kind]
    if kind == "text":
        check(bool(what.strip()), f"{key}.text", what, "a text that is not empty")
        check(arguments["n"] >= 1, f"{key}.n", arguments["n"], "at least 1")
        check(0 <= arguments["seed"] < 2**63, f"{key}.seed", arguments["seed"], "in 0..2^63-1")
    elif kind != "reward":
        check(is_file(what), f"{key}.{kind}", str(what), "an existing file")
        if kind == "image":
            check_picture(f"{key}.image", str(what), what)
        else:
            check_video(f"{key}.video", str(what), what)
    return arguments


def _recording(path: Path) -> Recording:
    return Recording(str(path), blake2b(path.read_bytes(), digest_size=16).digest())
