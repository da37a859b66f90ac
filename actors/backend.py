"""What a run needs of models and rewards, found out before anything is loaded: digests, grids, components.

`Backend` is what the command line hands to the engine: `prepare` checks, `fleet` starts the replicas, here in this
process (`local`) or on Ray.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch

from actors.models import family, model_folder
from actors.rewards import RewardSpec, reward
from actors.sampling import solvers
from raysearch.config.config import ODE, SDE, SINGLE, VP, Arm, Config, SamplerConfig
from raysearch.engine.protocol import Fleet
from raysearch.errors import check
from raysearch.files import content_digest
from raysearch.recipe.candidate import Sampler
from raysearch.recipe.long_video import Long
from raysearch.recipe.reward import Reward
from raysearch.search.obstacles import barriers
from raysearch.session.plan import ArmPlan, Plan
from raysearch.session.snapshot import Snapshot


class Backend:
    """Real models; see `raysearch.testing.FakeBackend` for the other kind."""

    def __init__(self) -> None:
        self._publish: Callable[[Snapshot], None] | None = None

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> Plan:
        folder = model_folder(config.model.path)
        m = config.model
        geometry = family(folder).Geometry.of(folder)
        geometry.check(num_frames=m.num_frames, height=m.height, width=m.width)
        geometry.check_shards(config.fleet.denoisers, num_frames=m.num_frames, height=m.height, width=m.width)
        shape = geometry.latent_shape(num_frames=m.num_frames, height=m.height, width=m.width)
        allowed = f"below {shape[2]}, the latent frames of a chunk (model.num_frames={m.num_frames})"
        check(config.long.chunks == 1 or config.long.prefix < shape[2], "long.prefix", config.long.prefix, allowed)
        if config.long.chunks > 1 and geometry.pictured:
            why = "with an image-to-video model, which continues a chunk's last frame"
            check(config.long.anew, "long.anew", False, f"true {why}")
            check(config.long.prefix == 1, "long.prefix", config.long.prefix, f"1 {why}")
        text_dim = geometry.text_dim
        content = content_digest([folder])
        specs: dict[str, RewardSpec] = {}
        plans = []
        for arm in arms:
            at_steps = partial(sampler_at, begun or config, arm.sampler, folder, content)
            full = at_steps(arm.sampler.num_steps)
            met = barriers(arm.obstacles, full, lambda key, block: reward(key, block, specs, (), shape, text_dim))
            texts = [b for b in arm.obstacles if "text" in b]
            check(
                not texts or not geometry.pictured, "obstacles", texts, "without texts: this model needs first frames"
            )
            points = tuple(b.obstacle for b in met if b.obstacle is not None)
            if points:
                specs["distance"] = RewardSpec("distance", "distance", {})
            found = {
                k: reward(f"rewards.{k}", block, specs, points, shape, text_dim) if block is not None else None
                for k, block in vars(arm.rewards).items()
            }
            judges = found["search"], found["final"], found["holdout"]
            check_queue(config.long, arm, found["search"], geometry.per_frame, shape[2])
            plans.append(ArmPlan(arm, full, *judges, at_steps, met, config.long.course(full.sigmas, shape[2])))
        if config.fleet.backend == "ray":
            from actors.cluster.fleet import connect

            connect(config)
        else:
            check_devices(config)
        return Plan(tuple(plans), {"folder": str(folder), "rewards": tuple(specs.values())}, geometry.images)

    def fleet(
        self, config: Config, plan: Plan, report: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Fleet, bool | None]:
        if config.fleet.backend == "local":
            from actors.workers.local import local_fleet

            return local_fleet(config, plan)
        from actors.cluster.fleet import ray_fleet
        from actors.cluster.metrics import Metrics

        self._publish = Metrics().publish
        return ray_fleet(config, plan, report)

    def publish(self, snapshot: Snapshot) -> None:
        """Ray's metrics; a run without Ray has status.json."""
        if self._publish is not None:
            self._publish(snapshot)


def check_queue(long: Long, arm: Arm, search: Reward | None, per_frame: bool, clip: int) -> None:
    """Raises ConfigError where a queue of frames is asked for that this arm cannot have."""
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
    seen = search is None or search.needs_velocity
    name = arm.rewards.search["name"] if arm.rewards.search else ""
    check(seen, "rewards.search.name", name, f"a reward of previews {where}: levels differ")


def check_devices(config: Config) -> None:
    for kind in ("denoisers", "scorers", "encoders"):
        gpus = getattr(config.fleet, kind).num_gpus
        check(not gpus or torch.cuda.is_available(), f"fleet.{kind}.num_gpus", gpus, "0: torch sees no GPU here")


def sampler(config: Config, s: SamplerConfig, folder: Path, content: bytes) -> Sampler:
    """The recipe's sampler, with the grid of the real scheduler."""
    m = config.model
    path = family(folder).Geometry.of(folder).path
    fits = VP if path == "vp" else (*ODE, *SDE)
    check(s.name in fits, "sampler.name", s.name, f"one of {', '.join(fits)} for this model")
    sigmas = solvers.grid(solvers.scheduler_config(folder), s.name, s.flow_shift, s.num_steps)
    falling = all(a > b >= 0 for a, b in pairwise(sigmas))
    check(falling, "sampler.flow_shift", s.flow_shift, "such that the noise levels fall from step to step")
    return Sampler(
        model=content,
        name=s.name,
        num_steps=s.num_steps,
        sigmas=sigmas,
        guidance_scale=s.guidance_scale,
        flow_shift=s.flow_shift,
        negative_prompt=s.negative_prompt,
        height=m.height,
        width=m.width,
        num_frames=m.num_frames,
        max_sequence_length=m.max_sequence_length,
        batched_guidance=s.batched_guidance,
        stochastic=s.name in SDE,
        eta=SDE.get(s.name) if s.eta is None else s.eta,
        interpolant=s.interpolant,
        path=path,
        fingerprint=fingerprint(config, s),
    )


def sampler_at(config: Config, s: SamplerConfig, folder: Path, content: bytes, num_steps: int) -> Sampler:
    """The same with another number of steps."""
    return sampler(config, replace(s, num_steps=num_steps), folder, content)


def fingerprint(config: Config, s: SamplerConfig) -> str:
    """What can change bits: precision, device type, batching, sharding, library versions."""
    pool = config.fleet.denoisers
    versions = [f"{p} {importlib.metadata.version(p)}" for p in ("torch", "diffusers", "transformers")]
    mode = "exact" if pool.slots == 1 and not s.batched_guidance else f"fast, batched guidance {s.batched_guidance}"
    shards = [f"{pool.shards} {pool.shard_mode} shards"] if pool.shards > 1 else []
    return ", ".join([config.model.dtype, pool.device, mode, *shards, *versions])
