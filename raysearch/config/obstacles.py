"""The blocks of `obstacles`, which say what videos should keep away from:

obstacles:
  - {text: a red circle moving left, n: 2}        # videos that the model itself makes of a caption
  - {image: bad.png, space: features}             # a video that stands still
  - {video: bad.mp4}
  - {reward: {name: pixel}, worst: 0.5}           # videos that a classifier scores above `worst`
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from raysearch.config.binding import Such, structured
from raysearch.config.media import is_file, recording
from raysearch.config.numbers import Count, Seed
from raysearch.errors import check
from raysearch.recipe.origins import Recording, Space

if TYPE_CHECKING:
    from raysearch.config.config import ModelConfig

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
    """A picture, or the first one of an animation, as a video that stands still."""

    image: File
    space: Space = "latent"


@dataclass(frozen=True)
class Video:
    """A recorded video, or an animation such as a GIF."""

    video: File
    space: Space = "latent"


@dataclass(frozen=True)
class Classifier:
    """A reward, which no video should score above `worst`; it has no place in latent space."""

    reward: dict[str, Any]
    worst: float = 0.0


Block = Text | Image | Video | Classifier
KINDS: dict[str, type[Block]] = {"text": Text, "image": Image, "video": Video, "reward": Classifier}


def checked(blocks: Any, model: "ModelConfig") -> tuple[Block, ...]:
    """A config's blocks with their defaults filled in; their pictures and videos can be read. Raises ConfigError."""
    check(blocks is None or isinstance(blocks, list), "obstacles", blocks, "a list")
    return tuple(_checked(b, f"obstacles[{i}]", model) for i, b in enumerate(blocks or ()))


def recorded(block: Image | Video, key: str, model: "ModelConfig") -> Recording:
    """The recording of a block, whose place in the config is `key`. Raises ConfigError."""
    if isinstance(block, Image):
        return recording(f"{key}.image", str(block.image), block.image, model, still=True)
    return recording(f"{key}.video", str(block.video), block.video, model, still=False)


def _checked(values: Any, key: str, model: "ModelConfig") -> Block:
    kinds = [k for k in KINDS if isinstance(values, dict) and k in values]
    check(len(kinds) == 1, key, values, f"a mapping with one of {', '.join(KINDS)}")
    block = structured(KINDS[kinds[0]], values, key)
    if isinstance(block, Image | Video):
        recorded(block, key, model)
    return block
