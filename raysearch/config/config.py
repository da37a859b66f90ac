"""YAML and command-line overrides -> frozen dataclasses, or one clear line about what is wrong.

A policy's keyword-only signature is the schema of its block, so there is nothing to declare twice. Nothing here loads
a model; `load_policy` is the one place where the engine imports a policy, by name.
"""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NewType

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from raysearch.config.binding import bind, unknown_key
from raysearch.errors import ConfigError, check
from raysearch.recipe.long_video import Long
from raysearch.search import obstacles
from raysearch.search.budget import Budget

ODE = ("unipc", "euler", "dpm++")
VP = ("ddim",)  # for models of noise on a variance-preserving path
SDE = {"flow-sde": 0.7, "score-sde": 3.0, "sde-dpm++": None}  # with the paper's eta, where there is one
SINGLE = ("euler", "flow-sde", "score-sde", *VP)  # whose steps need no history
SAMPLERS = (*ODE, *SDE, *VP)
INTERPOLANTS = ("linear", "vp")
PLAIN = {"name": "single"}  # the policy of a config that names none
DTYPES = ("float32", "bfloat16", "float16")
MOST_STEPS = 10_000
MOST_CHUNKS = 1000  # a dry run asks each one's questions
BACKENDS = ("ray", "local")
RESUME = ("never", "auto", "require")
SHARD_MODES = ("context", "fsdp", "guidance", "context+guidance")


@dataclass(frozen=True)
class ModelConfig:
    path: str = MISSING  # a folder in diffusers' layout, or a hub id
    dtype: str = "float32"
    height: int = 480
    width: int = 832
    num_frames: int = 81
    max_sequence_length: int = 512


@dataclass(frozen=True)
class SamplerConfig:
    name: str = "unipc"
    num_steps: int = 50
    guidance_scale: float = 5.0
    flow_shift: float | None = None  # None: the model's own
    eta: float | None = None  # strength of the noise of a stochastic solver; None: its paper's
    interpolant: str = "linear"  # the path along which score-sde steps: linear or vp
    negative_prompt: str = ""
    batched_guidance: bool = False  # both halves of guidance in one forward: faster on a GPU, not bit-exact


@dataclass(frozen=True)
class PoolConfig:
    """Replicas of one kind. `num_gpus` 0 means CPU; fractions share a device. A replica's shards have as much each."""

    replicas: Any = 1  # a number, or {min: 1, max: 64}: those beyond min join when the cluster has room for them
    num_gpus: float = 0
    num_cpus: float = 1
    slots: int = 1
    shards: int = 1
    shard_mode: str = "context"  # what a denoiser's shards share out: tokens, weights (fsdp), halves of guidance
    accelerator: str | None = None  # Ray's name of a type of GPU, such as H100
    labels: dict[str, str] = field(default_factory=dict)  # that a node must have; Ray's label selectors

    @property
    def device(self) -> str:
        return "cuda" if self.num_gpus else "cpu"

    @property
    def fewest(self) -> int:
        return int(self.replicas["min"] if isinstance(self.replicas, dict) else self.replicas)

    @property
    def most(self) -> int:
        return int(self.replicas["max"] if isinstance(self.replicas, dict) else self.replicas)

    @property
    def guidance_shards(self) -> int:
        return 2 if "guidance" in self.shard_mode else 1

    @property
    def context_shards(self) -> int:
        return self.shards // self.guidance_shards if "context" in self.shard_mode else 1


@dataclass(frozen=True)
class ScorerPoolConfig(PoolConfig):
    num_cpus: float = 0.5
    share_gpus: bool = False  # each scorer lives with a denoiser: on its node, and on its GPU where both fit


@dataclass(frozen=True)
class FleetConfig:
    backend: str = "ray"
    address: str | None = None  # of a running Ray cluster; None: RAY_ADDRESS if set, else a local one
    store_gb: float = 1.0
    wait_s: float = 0  # how long the cluster may take to have room for the fleet (an autoscaler)
    timeout_s: float = 600  # of a step or call until its replica counts as hung, and of a kind with no replica left
    denoisers: PoolConfig = field(default_factory=PoolConfig)
    scorers: ScorerPoolConfig = field(default_factory=ScorerPoolConfig)
    encoders: PoolConfig = field(default_factory=lambda: PoolConfig(num_cpus=0.1))  # all three fit on two CPUs


@dataclass(frozen=True)
class RewardsConfig:
    """Each a mapping: name, the reward's arguments, and `weights` of its components."""

    search: dict[str, Any] | None = None
    final: dict[str, Any] | None = None
    holdout: dict[str, Any] | None = None


@dataclass(frozen=True)
class OutputConfig:
    videos: bool = True
    latents: bool = False
    frames: bool = False
    fps: int = 8
    scale: int = 1  # each pixel becomes scale x scale in the mp4


@dataclass(frozen=True)
class CollectConfig:
    """What `collect` keeps of each winner's way: its latents at these noise levels (at the nearest steps)."""

    levels: list[float] = field(default_factory=lambda: [0.9, 0.8, 0.6, 0.4, 0.2])
    train: float = 0.8  # share of the captions; the others are the test split


@dataclass(frozen=True)
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    policy: dict[str, Any] = field(default_factory=lambda: dict(PLAIN))
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    prompts: list[Any] | None = None
    prompts_file: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    seeds_apart: bool = False  # no two prompts share a seed, hence its noise: prompt i's are moved on by i times range
    obstacles: list[Any] | None = None  # what videos should keep away from
    arms: list[dict[str, Any]] | None = None
    collect: CollectConfig | None = None
    long: Long = field(default_factory=Long)
    budget: Budget = field(default_factory=Budget)
    fleet: FleetConfig = field(default_factory=FleetConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    max_searches: int | None = None  # alive at a time; None: twice the denoisers' slots
    run_dir: str | None = None
    resume: str = "never"  # go on with what run_dir holds: never, auto (if it holds a run) or require


ARM_KEYS = ("policy", "sampler", "budget", "rewards", "obstacles")


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
    obstacles: tuple[dict[str, Any], ...]


# -- files and overrides ---------------------------------------------------------------------------------------------


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a file with `key=value` overrides. Raises ConfigError."""
    values = read(path, overrides)
    for other in ("sweep", "collect"):
        allowed = f"run by `python -m raysearch {other}`: it is no key of a plain run"
        check(values.get(other) is None, other, str(path), allowed)
    return build(values)


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A file with `key=value` overrides as a plain mapping, not checked any further. Raises ConfigError."""
    check(path.is_file(), "the config file", str(path), "an existing YAML file")
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # yaml's own errors span several lines
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    check(isinstance(loaded, DictConfig), "the config file", str(path), "a YAML mapping")
    for o in overrides:
        check("=" in o and not o.startswith("="), "an override", o, "of the form key=value")
    try:
        given = OmegaConf.from_dotlist(list(overrides))
        name = OmegaConf.select(given, "policy.name")
        if isinstance(loaded, DictConfig) and name is not None and name != OmegaConf.select(loaded, "policy.name"):
            loaded.pop("policy", None)  # another policy does not take the first one's arguments
        merged = OmegaConf.merge(loaded, given)
        values: dict[str, Any] = OmegaConf.to_container(merged, resolve=True)  # type: ignore[assignment]
    except Exception as error:
        raise ConfigError(f"the overrides {list(overrides)} cannot be read: {' '.join(str(error).split())}") from error
    return values


def build(values: Any) -> Config:
    """A checked config of a mapping. Raises ConfigError."""
    config: Config = structured(Config, values)
    _check_values(config)
    _check_shards(config, arms(config))
    return config


def with_policy(config: Config, policy: dict[str, Any]) -> Config:
    """The config with another policy block, checked."""
    changed = replace(config, policy=policy)
    arms(changed)
    return changed


def structured(schema: type[Any], values: Any) -> Any:
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        return OmegaConf.to_object(merged)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(_one_line(schema, error)) from error


def _one_line(schema: type[Any], error: Exception) -> str:
    key = getattr(error, "full_key", None) or "the config"
    if isinstance(error, ConfigKeyError):
        parent, _, leaf = key.rpartition(".")
        block = schema
        for part in parent.split(".") if parent else []:
            found = next(f.type for f in fields(block) if f.name == part)
            block = next(t for t in (*typing.get_args(found), found) if isinstance(t, type) and is_dataclass(t))
        return unknown_key(key, leaf, [f.name for f in fields(block)])
    if "Missing mandatory value" in str(error):
        return f"{key} is missing"
    return f"{key}: {str(error).splitlines()[0]}"


def _check_values(c: Config) -> None:
    check(c.model.dtype in DTYPES, "model.dtype", c.model.dtype, f"one of {', '.join(DTYPES)}")
    for key in ("height", "width", "num_frames", "max_sequence_length"):
        check(getattr(c.model, key) >= 1, f"model.{key}", getattr(c.model, key), "at least 1")
    check(c.fleet.backend in BACKENDS, "fleet.backend", c.fleet.backend, f"one of {', '.join(BACKENDS)}")
    check(0 < c.fleet.store_gb < float("inf"), "fleet.store_gb", c.fleet.store_gb, "above 0 and finite")
    check(0 <= c.fleet.wait_s < float("inf"), "fleet.wait_s", c.fleet.wait_s, "at least 0 and finite")
    check(0 < c.fleet.timeout_s < float("inf"), "fleet.timeout_s", c.fleet.timeout_s, "above 0 and finite")
    for kind in ("denoisers", "scorers", "encoders"):
        pool: PoolConfig = getattr(c.fleet, kind)
        check(_counts(pool.replicas), f"fleet.{kind}.replicas", pool.replicas, "at least 1, or {min: 1, max: 64}")
        check(pool.slots >= 1, f"fleet.{kind}.slots", pool.slots, "at least 1")
        check(pool.shards >= 1, f"fleet.{kind}.shards", pool.shards, "at least 1")
        for key, share in (("num_gpus", pool.num_gpus), ("num_cpus", pool.num_cpus)):
            check(0 <= share < float("inf"), f"fleet.{kind}.{key}", share, "at least 0 and finite")
    if c.fleet.scorers.share_gpus:
        d, s = c.fleet.denoisers, c.fleet.scorers
        bound = s.accelerator is None and not s.labels
        check(bound, "fleet.scorers.share_gpus", True, "false where scorers have an accelerator or labels of their own")
        allowed = "elastic only where denoisers are: with share_gpus, scorers beyond min live with denoisers beyond min"
        check(s.most == s.fewest or d.most > d.fewest, "fleet.scorers.replicas", s.replicas, allowed)
    check(len(c.seeds) > 0, "seeds", c.seeds, "a list of at least one integer")
    check(len(set(c.seeds)) == len(c.seeds), "seeds", c.seeds, "without repetition")
    check(all(0 <= s < 2**63 for s in c.seeds), "seeds", c.seeds, "in 0..2^63-1")
    check(1 <= c.long.chunks <= MOST_CHUNKS, "long.chunks", c.long.chunks, f"in 1..{MOST_CHUNKS}")
    check(c.long.prefix >= 1, "long.prefix", c.long.prefix, "at least 1")
    check(c.long.fifo is None or c.long.chunks > 1, "long.fifo", "given", "left out with long.chunks=1")
    check(c.collect is None or c.long.chunks == 1, "long.chunks", c.long.chunks, "1 with collect")
    check(c.max_searches is None or c.max_searches >= 1, "max_searches", c.max_searches, "at least 1")
    check(c.output.fps >= 1, "output.fps", c.output.fps, "at least 1")
    check(c.resume in RESUME, "resume", c.resume, f"one of {', '.join(RESUME)}")
    check(c.output.scale >= 1, "output.scale", c.output.scale, "at least 1")


def _counts(replicas: Any) -> bool:
    """A number of replicas, or how few and how many."""
    if isinstance(replicas, dict):
        numbers = set(replicas) == {"min", "max"} and all(type(n) is int for n in replicas.values())
        return numbers and 1 <= replicas["min"] <= replicas["max"]
    return type(replicas) is int and replicas >= 1


def _check_shards(c: Config, found: "Sequence[Arm]") -> None:
    for kind in ("scorers", "encoders"):
        check(getattr(c.fleet, kind).shards == 1, f"fleet.{kind}.shards", getattr(c.fleet, kind).shards, "1")
    key, pool = "fleet.denoisers", c.fleet.denoisers
    n, mode = pool.shards, pool.shard_mode
    check(mode in SHARD_MODES, f"{key}.shard_mode", mode, f"one of {', '.join(SHARD_MODES)}")
    if n == 1:
        check(mode == PoolConfig.shard_mode, f"{key}.shard_mode", mode, f"left out with {key}.shards=1")
        return
    check(c.fleet.backend == "ray", f"{key}.shards", n, "1 with fleet.backend=local: each shard is a process")
    own = pool.num_gpus == 0 or 0.5 < pool.num_gpus <= 1
    check(own, f"{key}.num_gpus", pool.num_gpus, "0, or above 0.5 and at most 1 with shards: each has a GPU of its own")
    check(mode != "guidance" or n == 2, f"{key}.shards", n, "2 with shard_mode=guidance: guidance has two halves")
    even = n % 2 == 0 and n >= 4
    check(mode != "context+guidance" or even, f"{key}.shards", n, f"even and at least 4 with shard_mode={mode}")
    for arm in found if "guidance" in mode else ():
        with_this = f"with fleet.denoisers.shard_mode={mode} (arm {arm.name})"
        scale = arm.sampler.guidance_scale
        check(scale > 1, "sampler.guidance_scale", scale, f"above 1 {with_this}: its halves are what is shared out")
        check(not arm.sampler.batched_guidance, "sampler.batched_guidance", True, f"false {with_this}")


# -- arms ------------------------------------------------------------------------------------------------------------


def arms(config: Config) -> list[Arm]:
    """The arms of a run, each checked; without `arms`, one named after the policy."""
    if config.arms is None:
        return [_arm(config, str(config.policy.get("name", "")), {})]
    check(isinstance(config.arms, list) and len(config.arms) > 0, "arms", config.arms, "a list of at least one arm")
    found = []
    for i, block in enumerate(config.arms):
        check(isinstance(block, dict), f"arms[{i}]", block, "a mapping with a name")
        overrides = dict(block)
        name = overrides.pop("name", None)
        check(isinstance(name, str) and 0 < len(name) <= 64, f"arms[{i}].name", name, "a name of at most 64 letters")
        check(
            all(ch.isalnum() or ch in "._+-" for ch in name), f"arms[{i}].name", name, "of letters, digits and . _ + -"
        )
        for key in overrides:
            if key not in ARM_KEYS:
                raise ConfigError(unknown_key(f"arms[{i}].{key}", key, ("name", *ARM_KEYS)))
        try:
            found.append(_arm(config, name, overrides))
        except ConfigError as error:
            raise ConfigError(f"arms[{i}] ({name}): {error}") from error
    if all("name" in dict(block.get("policy") or {}) for block in config.arms):
        load_policy(config.policy)  # no arm starts from it, so no arm has checked it
        check(
            config.policy == PLAIN,
            "policy",
            config.policy,
            "left out: every arm names its own (arms=null runs without the arms)",
        )
    names = [a.name for a in found]
    check(len(set(names)) == len(names), "arms", names, "differently named")
    return found


def label(name: str) -> str:
    """An arm's name as it stands in ids and file names."""
    return "".join(ch if ch.isalnum() or ch in "._+-" else "-" for ch in name)


def _arm(config: Config, name: str, overrides: dict[str, Any]) -> Arm:
    def block(key: str) -> Any:
        base = getattr(config, key)
        if key not in overrides:
            return base
        merged = _merged(base, overrides[key], key)
        try:
            return structured(type(base), merged)
        except ConfigError as error:
            raise ConfigError(f"{key}.{error}") from error

    policy = overrides.get("policy", config.policy)
    check(isinstance(policy, dict), "policy", policy, "a mapping with a name")
    if policy is not config.policy and "name" not in policy:
        policy = {**config.policy, **policy}
    sampler: SamplerConfig = block("sampler")
    check(isfinite(sampler.guidance_scale), "sampler.guidance_scale", sampler.guidance_scale, "a finite number")
    check(sampler.name in SAMPLERS, "sampler.name", sampler.name, f"one of {', '.join(SAMPLERS)}")
    if sampler.eta is not None:
        noisy = [k for k, eta in SDE.items() if eta is not None]
        check(sampler.name in noisy, "sampler.eta", sampler.eta, f"left out, or sampler.name one of {', '.join(noisy)}")
        check(0 < sampler.eta < float("inf"), "sampler.eta", sampler.eta, "above 0 and finite")
    allowed = INTERPOLANTS if sampler.name == "score-sde" else INTERPOLANTS[:1]
    check(
        sampler.interpolant in allowed,
        "sampler.interpolant",
        sampler.interpolant,
        f"one of {', '.join(allowed)} with sampler.name={sampler.name}",
    )
    check(sampler.num_steps >= 1, "sampler.num_steps", sampler.num_steps, "at least 1")
    check(sampler.num_steps <= MOST_STEPS, "sampler.num_steps", sampler.num_steps, f"at most {MOST_STEPS}")
    check(sampler.flow_shift is None or sampler.flow_shift > 0, "sampler.flow_shift", sampler.flow_shift, "above 0")
    budget: Budget = block("budget")
    for f in fields(budget):
        value = getattr(budget, f.name)
        check(value is None or 0 < value < float("inf"), f"budget.{f.name}", value, "above 0 and finite")
    search, arguments = load_policy(policy)
    avoided = obstacles.checked(overrides.get("obstacles", config.obstacles))
    return Arm(label(name), str(policy["name"]), arguments, search, sampler, budget, block("rewards"), avoided)


def _merged(base: Any, values: Any, key: str) -> Any:
    check(isinstance(values, dict), key, values, "a mapping")
    merged = {f.name: getattr(base, f.name) for f in fields(base)}
    for k, v in values.items():
        if k not in merged:
            raise ConfigError(unknown_key(f"{key}.{k}", k, list(merged)))
        merged[k] = v
    return merged


# -- policies --------------------------------------------------------------------------------------------------------

PolicyBlock = NewType("PolicyBlock", dict[str, Any])  # an argument that is the block of another policy


def policy_names() -> list[str]:
    """The policies that ship, by name."""
    package = importlib.import_module("policies")
    names = [m.name for m in pkgutil.iter_modules(package.__path__)]
    return sorted(n for n in names if hasattr(importlib.import_module(f"policies.{n}"), "search"))


def find_policy(name: str, key: str = "policy") -> Callable[..., Any]:
    """The coroutine of a shipped policy's name, or of `module:function`. Raises ConfigError."""
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            search = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{key}.name: {name!r} cannot be imported: {error}") from error
        check(inspect.iscoroutinefunction(search), f"{key}.name", name, "a coroutine, async def search(ctx, *, ...)")
        return search  # type: ignore[no-any-return]
    known = policy_names()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{key}.name: no policy {name!r}{hint}; there are {', '.join(known)}, or module:function")
    return importlib.import_module(f"policies.{name}").search  # type: ignore[no-any-return]


def load_policy(block: dict[str, Any], key: str = "policy") -> tuple[Callable[..., Any], dict[str, Any]]:
    """A policy and its checked arguments, defaults filled in, those of the policies in its arguments too."""
    name = block.get("name")
    check(isinstance(name, str) and bool(name), f"{key}.name", name, "a policy's name")
    search = find_policy(str(name), key)
    given = {k: v for k, v in block.items() if k != "name"}
    arguments = bind(search, given, f"policy {name}", key)
    hints = typing.get_type_hints(search)
    for k, inner in arguments.items():
        if hints.get(k) is PolicyBlock:
            arguments[k] = {"name": inner.get("name"), **load_policy(inner, f"{key}.{k}")[1]}
    return search, arguments
