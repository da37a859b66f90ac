"""The schema of a config file, as frozen dataclasses; reading a file; and the arms of a run. No model is loaded."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Len
from omegaconf import OmegaConf

from raysearch.config import obstacles
from raysearch.config.binding import Such, structured
from raysearch.config.fleet import FleetConfig, check_fleet, check_guidance
from raysearch.config.media import RATES, SIDE, VIDEO, frame_rate, is_colour
from raysearch.config.mistakes import nearest
from raysearch.config.numbers import Count, Dtype, Positive, Seed
from raysearch.config.parts import PartConfig, check_parts
from raysearch.config.policies import load_allocator, load_policy
from raysearch.config.reading import read
from raysearch.config.track import TrackConfig, check_track
from raysearch.errors import ConfigError, check
from raysearch.recipe.long_video import Long
from raysearch.recipe.origins import Fit

Ode = Literal["unipc", "euler", "dpm++"]
Sde = Literal["flow-sde", "score-sde", "sde-dpm++"]
Vp = Literal["ddim"]  # for models of noise on a variance-preserving path
Own = Literal["own"]  # a whole pipeline's own scheduler
Resume = Literal["never", "auto", "require", "extend"]
DTYPES, ODE, VP = get_args(Dtype), get_args(Ode), get_args(Vp)
SDE = {"flow-sde": 0.7, "score-sde": 3.0, "sde-dpm++": None}  # with the paper's eta, where there is one
SINGLE = ("euler", "flow-sde", "score-sde", *VP)  # solvers whose steps need no history
PLAIN = {"name": "single"}  # the policy of a config that names none
MOST_STEPS = 10_000
MOST_NAMES = 20  # of arms in a line about them

Seeds = Annotated[list[Seed], Len(1), Such("without repetition", lambda seeds: len(set(seeds)) == len(seeds))]
Colour = Annotated[str, Such("a colour such as black or '#1a2b3c'", is_colour)]
# Of any type: of a union pydantic would name but one member as what is allowed.
Rate = Annotated[Any, Such(RATES, frame_rate)]
Name = Annotated[str, Such("a name of 1 to 64 letters, digits and . _ + -", re.compile(r"[\w.+-]{1,64}").fullmatch)]


@dataclass(frozen=True)
class ModelConfig:
    """The model, and the videos that it makes: pixels, frames of one clip, and tokens of a caption."""

    path: str  # a folder in diffusers' layout, or a hub id: org/name or org/name@revision
    dtype: Dtype = "float32"
    height: Count = 480
    width: Count = 832
    num_frames: Count = 81
    max_sequence_length: Count = 512
    image_fit: Fit = "crop"  # what happens to a picture or recorded video of another aspect ratio
    image_background: Colour = "black"  # behind transparent pixels, and beside a padded picture
    truncate: bool = False  # cut longer captions instead of refusing them
    variant: str | None = None  # of the weights, such as fp16; None: those without a variant
    unchecked: bool = False  # run a pipeline of which nobody knows whether it can be searched


@dataclass(frozen=True)
class SamplerConfig:
    """The solver that denoises a latent, its steps, and guidance."""

    name: Literal[Ode, Sde, Vp, Own] = "unipc"
    num_steps: Annotated[int, Ge(1), Le(MOST_STEPS)] = 50
    guidance_scale: float | None = None  # None: 5, or with name: own the pipeline's own
    flow_shift: Positive | None = None  # None: the model's own
    eta: Positive | None = None  # strength of the noise of a stochastic solver; None: its paper's
    interpolant: Literal["linear", "vp"] = "linear"  # the path along which score-sde steps
    negative_prompt: str = ""
    guidance_scale_2: float | None = None  # of the second of two experts; None: guidance_scale
    call: dict[str, Any] = field(default_factory=dict)  # more arguments of a whole pipeline's call
    batched_guidance: bool = False  # both halves of guidance in one forward: faster on a GPU, not bit-exact

    @property
    def scale(self) -> float:
        """The guidance scale of a model of latents."""
        return 5.0 if self.guidance_scale is None else self.guidance_scale

    @property
    def settled(self) -> "SamplerConfig":
        """The same sampler, with the guidance scale that a model of latents has."""
        return self if self.name == "own" else replace(self, guidance_scale=self.scale)


@dataclass(frozen=True)
class Budget:
    """The most a search may spend, and what all searches of an arm may together; None is no bound."""

    nfe: Annotated[int, Gt(0)] | None = None
    replica_seconds: Positive | None = None
    wall_seconds: Positive | None = None
    total_nfe: Annotated[int, Gt(0)] | None = None  # of all searches of an arm together, which an allocator shares out
    total_replica_seconds: Positive | None = None


def _rewards(block: Any) -> bool:
    return block is None or isinstance(block, dict) or (isinstance(block, list) and all(map(_rewards, block)))


RewardBlock = Annotated[Any, Such("a mapping such as {name: pixel}, or a list of such mappings", _rewards)]


@dataclass(frozen=True)
class RewardsConfig:
    """Each a mapping: name, the reward's arguments, and `weights` of its components; or a list of such mappings."""

    search: RewardBlock = None
    early: RewardBlock = None  # for a policy's looks on the way
    compare: RewardBlock = None  # for a policy that compares candidates
    final: RewardBlock = None
    holdout: RewardBlock = None

    @property
    def named(self) -> "RewardsConfig":
        """The same rewards, where a list is an ensemble by name."""
        lists = {k: {"name": "ensemble", "of": v} for k, v in vars(self).items() if isinstance(v, list)}
        return replace(self, **lists)


@dataclass(frozen=True)
class OutputConfig:
    """Which files are written of each winner, and how its mp4 looks."""

    videos: bool = True
    latents: bool = False
    frames: bool = False
    fps: Rate | None = None  # frames a second of the mp4; None: the model's own
    scale: Count = 1  # each pixel becomes scale x scale in the mp4


@dataclass(frozen=True)
class CollectConfig:
    """What `collect` keeps of each winner's way: its latents at these noise levels (at the nearest steps)."""

    levels: list[float] = field(default_factory=lambda: [0.9, 0.8, 0.6, 0.4, 0.2])
    train: float = 0.8  # share of the captions; the others are the test split


@dataclass(frozen=True)
class LongConfig(Long):
    """A long video within bounds: a dry run asks the questions of each chunk."""

    chunks: Annotated[int, Such("in 1..1000", lambda n: 1 <= n <= 1000)] = 1
    prefix: Count = 1


@dataclass(frozen=True)
class ArmBlock:
    """One of a config's arms: a name, and what differs from the config's own blocks."""

    name: Name
    policy: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)
    rewards: dict[str, Any] = field(default_factory=dict)
    obstacles: list[Any] | None = None
    allocation: dict[str, Any] | None = None


ARM_KEYS = tuple(f.name for f in fields(ArmBlock) if f.name != "name")


@dataclass(frozen=True)
class Config:
    """All that a run is told."""

    model: ModelConfig
    parts: dict[str, PartConfig] = field(default_factory=dict)  # of the model, by the names of their folders
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    policy: dict[str, Any] = field(default_factory=lambda: dict(PLAIN))
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    prompts: list[Any] | dict[str, Any] | None = None  # a mapping is a benchmark's: see raysearch.config.suites
    prompts_file: str | None = None
    prompts_column: str | None = None  # the column of a prompts_file that holds the prompts; None: prompt
    seeds: Seeds = field(default_factory=lambda: [0])
    seeds_apart: bool = False  # no two prompts share a seed, hence its noise: prompt i's are moved on by i times range
    obstacles: list[Any] | None = None  # what videos should keep away from
    arms: list[dict[str, Any]] | None = None
    baseline: str | None = None  # the arm that others are compared with; None: see `baseline`
    collect: CollectConfig | None = None
    long: LongConfig = field(default_factory=LongConfig)
    budget: Budget = field(default_factory=Budget)
    allocation: dict[str, Any] | None = None  # an allocator of each arm's total budget, and its arguments
    fleet: FleetConfig = field(default_factory=FleetConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    track: TrackConfig | None = None  # an experiment tracker that is told of finished searches
    max_searches: Count | None = None  # alive at a time; None: twice the denoisers' slots
    run_dir: str | None = None  # a path, or the URL of a folder in an object store
    stage: str | None = None  # where the folders of URLs are worked on; None: the user's cache
    resume: Resume = "never"  # go on with what run_dir holds: if it holds a run, or else refuse; extend may add to it

    @property
    def noises_apart(self) -> bool:
        """True if no two prompts share a noise: as `seeds_apart` says, and always when latents are collected."""
        return self.seeds_apart or self.collect is not None


@dataclass(frozen=True)
class Arm:
    """One way in which every prompt and seed is run."""

    name: str
    policy: str
    arguments: dict[str, Any]
    search: Callable[..., Any]
    sampler: SamplerConfig
    budget: Budget
    rewards: RewardsConfig
    obstacles: tuple[obstacles.Block, ...]
    allocate: Callable[..., Any] | None = None
    allocation: dict[str, Any] | None = None  # the name and the arguments of `allocate`


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a file with `key=value` overrides. Raises ConfigError."""
    values = read(path, overrides, Config)
    for other in ("sweep", "collect"):
        allowed = f"left out of a plain run, or the file run by `python -m raysearch {other}`"
        check(values.get(other) is None, other, values.get(other), allowed)
    return build(values)


def build(values: Any) -> Config:
    """A checked config of a mapping. Raises ConfigError."""
    config = structured(Config, values)
    check_fleet(config.fleet)
    check_parts(config.parts)
    check_track(config.track)
    long, m, scale = config.long, config.model, config.output.scale
    size = f"{m.num_frames} frames of {m.height} x {m.width}"
    allowed = f"a video of at most {VIDEO:,} pixels in all its frames together"
    check(m.num_frames * m.height * m.width <= VIDEO, "model", size, allowed)
    fits = not config.output.videos or max(m.height, m.width) * scale <= SIDE
    check(fits, "output.scale", scale, f"such that no side of an mp4 has more than {SIDE:,} pixels")
    check(long.fifo is None or long.chunks > 1, "long.fifo", "given", "left out with long.chunks=1")
    check(config.collect is None or long.chunks == 1, "long.chunks", long.chunks, "1 with collect")
    found = arms(config)
    if not run_own(found):
        config = replace(config, sampler=config.sampler.settled)
    names = [a.name for a in found]
    if config.baseline is not None and config.baseline not in names:
        shown = ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else "")
        hint = nearest(config.baseline, names)
        raise ConfigError(f"baseline: no arm {config.baseline!r}{hint}; there are {shown}")
    for arm in found:
        sampler = arm.sampler
        check_guidance(config.fleet.denoisers, arm.name, scale=sampler.scale, batched=sampler.batched_guidance)
    return config


def resolved(config: Any) -> str:
    """A config's YAML, defaults included."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def arms(config: Config) -> list[Arm]:
    """The arms of a run, each checked; without `arms`, one named after the policy."""
    if config.arms is None:
        return [_arm(config, {"name": str(config.policy.get("name", ""))})]
    check(len(config.arms) > 0, "arms", config.arms, "a list of at least one arm")
    found = []
    for i, block in enumerate(config.arms):
        structured(ArmBlock, block, f"arms[{i}]")
        try:
            found.append(_arm(config, block))
        except ConfigError as error:
            raise ConfigError(f"arms[{i}] ({block['name']}): {error}") from error
    if all("name" in block.get("policy", {}) for block in config.arms):
        load_policy(config.policy)  # no arm starts from it, so no arm has checked it
        allowed = "left out: every arm names its own (arms=null runs without the arms)"
        check(config.policy == PLAIN, "policy", config.policy, allowed)
    names = [a.name for a in found]
    check(len(set(names)) == len(names), "arms", names, "differently named")
    return found


def run_own(found: Sequence[Arm]) -> bool:
    """True if arms run a whole pipeline as it is: then all of them must."""
    return any(arm.sampler.name == "own" for arm in found)


def baseline(config: Config, found: Sequence[Arm]) -> Arm:
    """Of a config's arms the one over which others gain: by default `single`, or the first if none is named so."""
    return next((a for a in found if a.name == (config.baseline or "single")), found[0])


def unlike(found: Sequence[Arm], over: Arm) -> set[tuple[str, str]]:
    """Each (arm, reward), such as ("rgrp", "search"), where an arm has another reward than the baseline `over`.

    Such an arm gains nothing that can be told in that reward: the two are on different scales.
    """
    kinds = [f.name for f in fields(RewardsConfig)]
    return {(a.name, k) for a in found for k in kinds if getattr(a.rewards, k) != getattr(over.rewards, k)}


def label(name: str) -> str:
    """An arm's name as it stands in ids and file names."""
    return re.sub(r"[^\w.+-]", "-", name)


def _arm(config: Config, block: dict[str, Any]) -> Arm:
    policy = block.get("policy", config.policy)
    if "name" not in policy:
        policy = config.policy | policy
    sampler = structured(SamplerConfig, vars(config.sampler) | block.get("sampler", {}), "sampler").settled
    if sampler.eta is not None:
        noisy = [k for k, eta in SDE.items() if eta is not None]
        check(sampler.name in noisy, "sampler.eta", sampler.eta, f"left out, or sampler.name one of {', '.join(noisy)}")
    fits = sampler.interpolant == "linear" or sampler.name == "score-sde"
    check(fits, "sampler.interpolant", sampler.interpolant, f"linear with sampler.name={sampler.name}")
    budget = structured(Budget, vars(config.budget) | block.get("budget", {}), "budget")
    rewards = structured(RewardsConfig, vars(config.rewards) | block.get("rewards", {}), "rewards").named
    avoided = obstacles.checked(block.get("obstacles", config.obstacles), config.model)
    search, arguments = load_policy(policy)
    found = str(policy["name"]), arguments, search
    return Arm(label(block["name"]), *found, sampler, budget, rewards, avoided, *_allocation(config, block, budget))


def _allocation(config: Config, block: dict[str, Any], budget: Budget) -> tuple[Any, dict[str, Any] | None]:
    """The allocator of an arm's total budget, and its name and arguments; (None, None) without one."""
    totals = {k: v for k in ("total_nfe", "total_replica_seconds") if (v := getattr(budget, k)) is not None}
    given = block.get("allocation", config.allocation)
    if given is None:
        for key, value in totals.items():
            check(False, f"budget.{key}", value, "left out where no allocation shares it out")
        return None, None
    if "name" not in given:
        given = (config.allocation or {}) | given
    allocate, arguments = load_allocator(given)
    allowed = "one of total_nfe and total_replica_seconds, which the allocation shares out"
    check(len(totals) == 1, "budget", totals, allowed)
    check(budget.wall_seconds is None, "budget.wall_seconds", budget.wall_seconds, "left out with an allocation")
    check(config.resume != "extend", "resume", "extend", "never, auto or require with an allocation")
    return allocate, {"name": given["name"], **arguments}
