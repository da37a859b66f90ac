"""The family of all other diffusers pipelines: the unmodified pipeline, fast-forwarded to where a candidate stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

from PIL import Image

from actors.models import folder as folders
from actors.models.pipelines.call import FRAMES, accepted, arguments, class_of
from actors.models.pipelines.probe import Trajectory, trajectory
from actors.models.pipelines.runs import Runs as Runs
from actors.models.pipelines.workers import Conditioner as Conditioner
from actors.models.pipelines.workers import Decoder as Decoder
from raysearch.config.fleet import PoolConfig
from raysearch.config.mistakes import nearest
from raysearch.errors import ConfigError, check
from raysearch.recipe.candidate import Sampler

HOOKS = ("prepare_latents", "encode_prompt", "progress_bar")  # what a run must be able to answer


def check_folder(folder: Path, key: str) -> None:
    """Raises ConfigError, which names `key`, unless the folder holds a pipeline that can be run."""
    name = str(folders.index(folder, key).get("_class_name"))
    kind = class_of(name)
    lacking = [h for h in HOOKS if not hasattr(kind, h)]
    check(not lacking, key, str(folder), f"a pipeline with {', '.join(HOOKS)}: {name} has no {', '.join(lacking)}")


def token_counter(folder: Path) -> Callable[[str], int]:
    """A function that counts no tokens: each pipeline reads captions in its own way."""
    return lambda text: 0


@dataclass(frozen=True)
class Geometry:
    """The facts about a pipeline that `actors.models` lists."""

    folder: Path
    name: str

    path = "own"
    text_dim = None
    per_frame = image_to_video = sees_image = False
    fps = 8
    caches = ("taylor",)  # guidance and the nets' insides are the pipeline's own

    @classmethod
    def of(cls, folder: Path) -> "Geometry":
        """The facts about the pipeline in a folder."""
        return cls(folder, str(folders.index(folder)["_class_name"]))

    @cached_property
    def takes(self) -> set[str]:
        """The arguments of the pipeline's call."""
        return accepted(class_of(self.name))

    @property
    def experts(self) -> int:
        """2 where a second net has a guidance scale of its own."""
        return 2 if "guidance_scale_2" in self.takes else 1

    @property
    def guidance_scale(self) -> float:
        """The pipeline's own guidance scale: that of its guider, or the one that its call has by default."""
        if guider := folders.parts(self.folder).get("guider"):
            return float(guider.config["guidance_scale"])
        found = signature(class_of(self.name).__call__).parameters.get("guidance_scale")
        return float(found.default) if found and isinstance(found.default, int | float) else 1.0

    @property
    def still(self) -> bool:
        """True for a pipeline that makes images, which are videos of one frame."""
        return not self.takes & set(FRAMES)

    @property
    def images(self) -> str:
        """Whether a prompt may have a first frame."""
        return "required" if "image" in self.takes else "refused"

    @property
    def last_images(self) -> bool:
        """True if a prompt with a first frame may have a last one, too."""
        return {"image", "last_image"} <= self.takes

    def blank(self, sampler: Sampler) -> dict[str, Image.Image]:
        """A picture of nothing for each argument that needs one."""
        return {"image": Image.new("RGB", (sampler.width, sampler.height))} if self.images == "required" else {}

    def check(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError for a number of frames that the pipeline cannot make."""
        check(not self.still or num_frames == 1, "model.num_frames", num_frames, f"1: {self.name} makes images")

    def check_shards(self, pool: PoolConfig, *, num_frames: int, height: int, width: int) -> None:
        """Raises ConfigError if denoisers are to be sharded."""
        check(pool.shards == 1, "fleet.denoisers.shards", pool.shards, f"1 with {self.name}")

    def video_shape(self, *, num_frames: int, height: int, width: int) -> tuple[int, ...]:
        """The shape (T, H, W, 3) of the frames of a video of this size."""
        return num_frames, height, width, 3

    def frames(self, latent_frames: int) -> int:
        """The same number: pipelines have no long videos."""
        return latent_frames

    def check_call(self, call: Mapping[str, Any]) -> None:
        """Raises ConfigError for an argument that the pipeline's call does not take."""
        for name in call:
            hint = nearest(name, self.takes)
            check(name in self.takes, f"sampler.call.{name}", call[name], f"left out: {self.name} has no {name}{hint}")

    def trajectory(self, sampler: Sampler) -> Trajectory:
        """The grid of a sampler, of which only the numbers of the config are known. Raises ConfigError."""
        found = probed(self, sampler)
        check(found.num_steps == sampler.num_steps, "sampler.num_steps", sampler.num_steps, f"{found.num_steps} steps")
        return found

    def planned(self, sampler: Sampler) -> Sampler:
        """The sampler with what is known of its grid. Raises ConfigError."""
        t = self.trajectory(sampler)
        return replace(sampler, sigmas=t.sigmas, stochastic=t.stochastic, path=t.path, nfe=t.nfe_per_step)


@lru_cache(maxsize=64)  # a real model's probe takes seconds, and many arms have one sampler
def probed(geometry: Geometry, sampler: Sampler) -> Trajectory:
    """The grid of a sampler. Raises ConfigError for arguments that the pipeline refuses."""
    kind, blank = class_of(geometry.name), geometry.blank(sampler)
    try:
        call = arguments(kind, sampler, "", blank, decoded=False)
        return trajectory(geometry.folder, call, sampler.guidance_scale)
    except Exception as error:
        raise ConfigError(f"model.path: {geometry.name} cannot be called like this: {error}") from error
