"""The blocks of `obstacles`, which say what videos should keep away from:

obstacles:
  - {text: a red circle moving left, n: 2}        # videos that the model itself makes of a caption
  - {image: bad.png, space: features}             # a video that stands still
  - {video: bad.mp4}
  - {reward: {name: pixel}, worst: 0.5}           # videos that a classifier scores above `worst`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from raysearch.config.binding import Such, structured
from raysearch.config.media import check_picture, check_video, is_file
from raysearch.config.numbers import Count, Seed
from raysearch.errors import check
from raysearch.recipe.origins import Space

File = Annotated[Path, Such("an existing file", is_file)]


@dataclass(frozen=True)
class Text:
    """`n` videos that the model makes of a caption, from the noises of a seed."""

    text: Annotated[str, Such("a text that is not empty", lambda text: bool(text.strip()))]
    n: Count = 1
    seed: Seed = 0
    space: Space = "latent"


@dataclass(frozen=True)
class Image:
    """A picture, as a video that stands still."""

    image: File
    space: Space = "latent"


@dataclass(frozen=True)
class Video:
    """A recorded video."""

    video: File
    space: Space = "latent"


@dataclass(frozen=True)
class Classifier:
    """A reward, which no video should score above `worst`; it has no place in latent space."""

    reward: dict[str, Any]
    worst: float = 0.0


Block = Text | Image | Video | Classifier
KINDS: dict[str, type[Block]] = {"text": Text, "image": Image, "video": Video, "reward": Classifier}


def checked(blocks: Any) -> tuple[Block, ...]:
    """A config's blocks with their defaults filled in; their pictures and videos can be read. Raises ConfigError."""
    check(blocks is None or isinstance(blocks, list), "obstacles", blocks, "a list")
    return tuple(_checked(b, f"obstacles[{i}]") for i, b in enumerate(blocks or ()))


def _checked(values: Any, key: str) -> Block:
    kinds = [k for k in KINDS if isinstance(values, dict) and k in values]
    check(len(kinds) == 1, key, values, f"a mapping with one of {', '.join(KINDS)}")
    block = structured(KINDS[kinds[0]], values, key)
    match block:
        case Image(path):
            check_picture(f"{key}.image", str(path), path)
        case Video(path):
            check_video(f"{key}.video", str(path), path)
    return block
