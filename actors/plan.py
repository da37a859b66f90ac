"""The plan of a run with real models: what it asks of the model and the rewards, checked before anything is loaded.

Importing this takes torch and diffusers, which take seconds; `actors.backend` does without them until it needs a plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from actors.models.machine import check_machine, needed
from actors.models.roles import WORKERS, footprint
from actors.models.source import Source, check_lengths, configured, opened
from actors.rewards import RewardSpec
from actors.rewards.planning import gigabytes_of, installed, reward
from actors.sampling import solvers
from raysearch.config import obstacles, prompts
from raysearch.config.config import ODE, SDE, SINGLE, VP, Arm, Config, SamplerConfig
from raysearch.config.fleet import PoolConfig
from raysearch.config.parts import PartConfig, own
from raysearch.errors import ConfigError, check, told
from raysearch.files import files_digest
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.digests import Digest, canonical_json, digest
from raysearch.recipe.long_video import Long
from raysearch.recipe.reward import Reward
from raysearch.search.obstacles import Barrier, barriers
from raysearch.session.plan import ArmPlan, Plan

SHARDED = ("easy", "taylor")  # the step caches that need no more of a model than its guided output


@dataclass(frozen=True)
class Model:
    """The facts about the configured model that are known without its weights."""

    source: Source
    geometry: Any  # the family's `Geometry`: see actors.models
    shape: tuple[int, ...]  # (1, C, T, H, W) of a latent
    content: bytes  # digest of the folder
    looks: bytes = b""  # digest of the decoder for looks, if there is one


def planned(config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
    """The plan of a run, without a look at this machine's devices or at a cluster: see `actors.backend`.

    Raises ConfigError for what the model or the rewards cannot do.
    """
    model, entries = checked_model(config, arms), prompts.load(config)
    if not config.model.truncate:
        check_lengths(model.source, texts_of(entries, arms), config.model.max_sequence_length, "model.")
    specs: dict[str, RewardSpec] = {}
    plans = tuple(plan_arm(arm, config, begun or config, model, specs) for arm in arms)
    caption = entries[0].prompt.caption(0)
    details = {
        "source": model.source,
        "shape": model.shape,
        "rewards": tuple(specs.values()),
        "caption": caption,
        "looks": (model.looks,) if model.looks else (),
    }
    g = model.geometry
    flags = {"last_images": getattr(g, "last_images", False), "still": getattr(g, "still", False)}
    return Plan(plans, details, g.images, g.fps, encoding=encoding(config, model), **flags)


def checked_model(config: Config, arms: Sequence[Arm]) -> Model:
    """The configured model. Raises ConfigError for a size, shards or long videos that do not fit the model."""
    m, source = config.model, opened(configured(config, arms))
    check_machine(source, config.fleet)
    geometry = source.geometry
    geometry.check(num_frames=m.num_frames, height=m.height, width=m.width)
    geometry.check_shards(config.fleet.denoisers, num_frames=m.num_frames, height=m.height, width=m.width)
    if geometry.path != "own":
        shape = geometry.latent_shape(num_frames=m.num_frames, height=m.height, width=m.width)
        check_chunks(config, geometry, shape[2])
    content = source.content()
    if geometry.path == "own":
        for s in (config.sampler, *(a.sampler for a in arms)):
            geometry.check_call(s.call)
        shape = geometry.trajectory(pipeline_sampler(config, config.sampler, source, content)).latent_shape
    return Model(source, geometry, shape, content, source.looks())


def texts_of(entries: Sequence[prompts.Entry], arms: Sequence[Arm]) -> dict[str, str]:
    """All texts that the text encoder reads, with their places in the config."""
    texts: dict[str, str] = {}
    guided = any(arm.sampler.scale > 1 for arm in arms)
    for e in entries:
        texts |= dict.fromkeys((e.prompt.text, *e.prompt.later), e.place)
        if guided and e.negative_prompt is not None:
            texts[e.negative_prompt] = prompts.key(e, "negative_prompt")
    for arm in arms:
        if arm.sampler.scale > 1:
            texts[arm.sampler.negative_prompt] = f"sampler.negative_prompt (arm {arm.name})"
        shown = (b.text for b in arm.obstacles if isinstance(b, obstacles.Text))
        texts |= dict.fromkeys(shown, f"obstacles (arm {arm.name})")
    return texts


def check_chunks(config: Config, geometry: Any, clip: int) -> None:
    """Raises ConfigError if the model cannot continue chunks as asked; `clip` is the latent frames T of a chunk."""
    long = config.long
    if long.chunks == 1:
        return
    tiled = config.parts.get("vae", PartConfig()).tiling
    check(not tiled or long.anew, "parts.vae.tiling", tiled, "false in a long video whose chunks are decoded as one")
    allowed = f"below {clip}, the latent frames of a chunk (model.num_frames={config.model.num_frames})"
    check(long.prefix < clip, "long.prefix", long.prefix, allowed)
    continues = geometry.image_to_video or geometry.per_frame
    check(continues, "long.chunks", long.chunks, "1: this model's two transformers take no noise level for each frame")
    if geometry.image_to_video:
        why = "with an image-to-video model, which continues a chunk's last frame"
        check(long.anew, "long.anew", False, f"true {why}")
        check(long.prefix == 1, "long.prefix", long.prefix, f"1 {why}")


def plan_arm(arm: Arm, config: Config, begun: Config, model: Model, specs: dict[str, RewardSpec]) -> ArmPlan:
    """The plan of one arm: its sampler, rewards, obstacles and course. Raises ConfigError.

    `begun` is the config whose numerics the candidates' identities name. What scorers need to build the rewards is
    added to `specs`.
    """
    at_steps = partial(sampler_at, begun, arm.sampler, model.source, model.content)
    sampler = at_steps(arm.sampler.num_steps)
    obstacles = plan_obstacles(arm, config, sampler, model, specs)
    points = tuple(b.obstacle for b in obstacles if b.obstacle is not None)
    if points:
        specs["distance"] = RewardSpec("distance", "distance", {})

    def judge(name: str, block: dict[str, Any] | None) -> Reward | None:
        if block is None:
            return None
        looks = b"" if name in ("final", "holdout") else model.looks  # which see finished videos alone
        return reward(f"rewards.{name}", block, specs, points, model.shape, model.geometry.text_dim, name, looks)

    found = {name: judge(name, block) for name, block in vars(arm.rewards).items()}
    clip = 0 if sampler.piped else model.shape[2]
    check_queue(config.long, arm, {k: found[k] for k in ("search", "early")}, model.geometry.per_frame, clip)
    course = config.long.course(sampler.sigmas, clip)
    for name, r in found.items():
        check_reach(f"rewards.{name}", r, sampler, config.long, specs)
    judges = found["search"], found["final"], found["holdout"]
    return ArmPlan(arm, sampler, *judges, at_steps, obstacles, course, found["early"], found["compare"])


def check_reach(key: str, r: Reward | None, sampler: Sampler, long: Long, specs: dict[str, RewardSpec]) -> None:
    """Raises ConfigError where a reward reads what this model's scorers cannot give."""
    if r is None:
        return
    part = min((f for k in r.keys if (f := specs[k].first) is not None), default=None)
    own = "left out: a whole pipeline decodes whole videos"
    check(part is None or not sampler.piped, f"{key}.first_latent_frames", part, own)
    more = f"above {long.prefix} (long.prefix): the first frames of a chunk are those of the chunk before"
    check(part is None or long.chunks == 1 or part > long.prefix, f"{key}.first_latent_frames", part, more)
    check(not r.pairwise or long.chunks == 1, "long.chunks", long.chunks, f"1 with a {key} that compares")


def plan_obstacles(
    arm: Arm, config: Config, sampler: Sampler, model: Model, specs: dict[str, RewardSpec]
) -> tuple[Barrier, ...]:
    """The arm's obstacles; what scorers need to build the rewards of obstacles is added to `specs`.

    Raises ConfigError, also for an obstacle that is a text if the model makes videos from first frames only.
    """

    def classify(key: str, block: dict[str, Any]) -> Reward:
        return reward(key, block, specs, (), model.shape, model.geometry.text_dim, looks=model.looks)

    found = barriers(arm.obstacles, sampler, classify, config.model)
    texts = [b.text for b in arm.obstacles if isinstance(b, obstacles.Text)]
    allowed = "without texts: this model needs first frames"
    check(not texts or model.geometry.images != "required", "obstacles", texts, allowed)
    return found


def check_queue(long: Long, arm: Arm, rewards: dict[str, Reward | None], per_frame: bool, clip: int) -> None:
    """Raises ConfigError if long.fifo asks for a queue that this arm cannot have.

    `rewards` are those that the search sees, by their keys in the config; `per_frame` is the model's, `clip` the latent
    frames T of a clip.
    """
    if long.fifo is None:
        return
    n, partitions, stride = arm.sampler.num_steps, long.fifo.partitions, long.fifo.stride
    where = f"with long.fifo (arm {arm.name})"
    check(per_frame, "long.fifo", "given", "left out: this model takes no noise level for each frame")
    single = f"one of {', '.join(s for s in SINGLE if s not in VP)} {where}: frames of a queue have no history of steps"
    check(arm.sampler.name in SINGLE, "sampler.name", arm.sampler.name, single)
    fits = partitions >= 1 and n % partitions == 0 and n // partitions <= clip
    allowed = f"a divisor of sampler.num_steps={n}, the frames of the queue, and at least {-(-n // clip)}: a partition "
    check(fits, "long.fifo.partitions", partitions, allowed + f"is no longer than a clip's {clip} latent frames")
    most = clip - long.prefix
    check(1 <= stride <= most, "long.fifo.stride", stride, f"in 1..{most}, the latent frames that a chunk adds")
    for key, seen_by_search in rewards.items():
        seen = seen_by_search is None or seen_by_search.needs_velocity
        name = getattr(arm.rewards, key)["name"] if seen_by_search else ""
        check(seen, f"rewards.{key}.name", name, f"a reward of previews {where}: levels differ")


def check_devices(config: Config) -> None:
    """Raises ConfigError if a local fleet asks for GPUs and torch sees none."""
    for kind in ("denoisers", "scorers", "encoders"):
        gpus = getattr(config.fleet, kind).num_gpus
        check(not gpus or torch.cuda.is_available(), f"fleet.{kind}.num_gpus", gpus, "0: torch sees no GPU here")


def warn_of_memory(config: Config, source: Source, specs: Sequence[RewardSpec], report: Callable[[str], None]) -> None:
    """Say where the weights of a kind of worker, of its rewards too, do not fit its share of this machine's GPU."""
    if not torch.cuda.is_available():
        return
    whole = torch.cuda.get_device_properties(0).total_memory / 1e9
    for kind, role in WORKERS.items():
        pool: PoolConfig = getattr(config.fleet, f"{kind}s")
        has, needs = whole * pool.num_gpus * pool.shards, footprint(source, role, offloaded=False).gigabytes
        needs += gigabytes_of(specs) if kind == "scorer" else 0.0
        if 0 < has < needs:
            report(f"a {kind} has {needs:.3g} GB of weights, and {has:.3g} GB where GPUs are such as the one here")


def recipe_sampler(config: Config, s: SamplerConfig, source: Source, content: bytes) -> Sampler:
    """The recipe's sampler for a config block, with the noise levels of the real scheduler.

    `content` is the digest of the model's files. Raises ConfigError for a sampler or shift that does not fit.
    """
    geometry, folder = source.geometry, source.folder
    path = geometry.path
    fits = {"vp": VP, "own": ("own",)}.get(path, (*ODE, *SDE))
    check(s.name in fits, "sampler.name", s.name, f"one of {', '.join(fits)} for this model")
    one = "left out: this model has one guidance scale"
    check(s.guidance_scale_2 is None or geometry.experts == 2, "sampler.guidance_scale_2", s.guidance_scale_2, one)
    if path == "own":
        return geometry.planned(pipeline_sampler(config, s, source, content))
    try:
        sigmas = solvers.grid(solvers.scheduler_config(folder), s.name, s.flow_shift, s.num_steps)
    except Exception as error:  # diffusers' errors for a wrong config have no common type
        raise ConfigError(f"model.path: the scheduler in {str(folder)!r} cannot be used: {told(error)}") from error
    falling = all(a > b >= 0 for a, b in pairwise(sigmas))
    check(falling, "sampler.flow_shift", s.flow_shift, "such that the noise levels fall from step to step")
    return replace(
        plain_sampler(config, s, source, content),
        sigmas=sigmas,
        flow_shift=s.flow_shift,
        batched_guidance=s.batched_guidance,
        stochastic=s.name in SDE,
        eta=SDE.get(s.name) if s.eta is None else s.eta,
        interpolant=s.interpolant,
        path=path,
    )


def plain_sampler(config: Config, s: SamplerConfig, source: Source, content: bytes) -> Sampler:
    """The recipe's sampler with what the config says of every model, and levels that are none."""
    m = config.model
    return Sampler(
        model=content,
        name=s.name,
        num_steps=s.num_steps,
        sigmas=(1.0,) * s.num_steps + (0.0,),
        guidance_scale=s.scale,
        negative_prompt=s.negative_prompt,
        height=m.height,
        width=m.width,
        num_frames=m.num_frames,
        max_sequence_length=m.max_sequence_length,
        fingerprint=fingerprint(config, s),
        guidance_scale_2=s.guidance_scale_2,
        caches=tuple(k for k in source.geometry.caches if config.fleet.denoisers.shards == 1 or k in SHARDED),
    )


def pipeline_sampler(config: Config, s: SamplerConfig, source: Source, content: bytes) -> Sampler:
    """The recipe's sampler of a whole pipeline, but for what is known of its grid."""
    scale = source.geometry.guidance_scale if s.guidance_scale is None else s.guidance_scale
    return replace(plain_sampler(config, s, source, content), call=canonical_json(s.call), guidance_scale=scale)


def sampler_at(config: Config, s: SamplerConfig, source: Source, content: bytes, num_steps: int) -> Sampler:
    """The recipe's sampler for a config block, but with another number of steps. Raises ConfigError."""
    return recipe_sampler(config, replace(s, num_steps=num_steps), source, content)


def encoding(config: Config, model: Model) -> Digest:
    """The digest of all that an embedding depends on besides its text: see `Plan`.

    It is of this process's libraries and code, also where a resumed run's candidates keep an earlier fingerprint.
    """
    code = Path(__file__).parent
    files = [code / "workers" / "encoder.py", code / "workers" / "conditions.py", *(code / "models").rglob("*.py")]
    own = files_digest((str(f.relative_to(code)), f) for f in sorted(files))
    versions = (f"{p} {installed(p)}" for p in ("torch", "diffusers", "transformers", "tokenizers", "ftfy"))
    return digest(
        model.content, config.model.dtype, config.fleet.encoders.device, ", ".join(special(config)), own, *versions
    )


def fingerprint(config: Config, s: SamplerConfig) -> str:
    """All that may change the bits of a latent, in words: precision, device, batching, shards, library versions."""
    pool = config.fleet.denoisers
    versions = [f"{p} {installed(p)}" for p in ("torch", "diffusers", "transformers")]
    mode = "exact" if pool.slots == 1 and not s.batched_guidance else f"fast, batched guidance {s.batched_guidance}"
    shards = [f"{pool.shards} {pool.shard_mode} shards"] if pool.shards > 1 else []
    return ", ".join([config.model.dtype, pool.device, mode, *shards, *special(config), *versions])


def special(config: Config) -> list[str]:
    """What single parts of the model are asked for that may change bits, and the libraries that do it, in words."""
    parts = own(config.parts)
    asked = {name: numerics for name, p in parts.items() if (numerics := p.numerics)}
    packages = sorted({package for p in parts.values() for _, _, package in needed(p)})
    return [canonical_json(asked), *(f"{p} {installed(p)}" for p in packages)] if asked else []
