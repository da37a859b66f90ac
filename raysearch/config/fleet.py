"""The block `fleet`: how many replicas there are of each kind, and which share of a machine each has."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from raysearch.config.binding import Such
from raysearch.config.numbers import Amount, Count, Positive
from raysearch.errors import check

MOST = 1000  # replicas of a kind; each asks Ray for room, also while the cluster has none for it
WHOLE = "a whole number, or below 1"
SMALLEST = 1e-4  # Ray counts resources in multiples of this
LABEL = "[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
SELECTOR = rf"!?({LABEL}|in\( *{LABEL} *(, *{LABEL} *)*\))"


def _counted(replicas: Any) -> bool:
    if isinstance(replicas, dict) and set(replicas) == {"min", "max"}:
        return _counted(replicas["min"]) and _counted(replicas["max"]) and replicas["min"] <= replicas["max"]
    return type(replicas) is int and 1 <= replicas <= MOST


def _placed(cache: Any) -> bool:
    return cache is None or isinstance(cache, bool) or (isinstance(cache, str) and bool(cache.strip()))


@dataclass(frozen=True)
class PoolConfig:
    """Replicas of one kind. With `num_gpus` 0 they run on CPUs; fractions share a device. Each shard has as much."""

    # A number, or {min: 1, max: 64}: replicas beyond min join when the cluster has room for them.
    replicas: Annotated[Any, Such(f"in 1..{MOST}, or {{min: 1, max: 64}} within these", _counted)] = 1
    num_gpus: Amount = 0.0
    num_cpus: Amount = 1.0
    slots: Count = 1  # items at once; a scorer's are calls of rewards that wait, or looks in a batch
    shards: Count = 1
    shard_mode: Literal["context", "fsdp", "guidance", "context+guidance"] = "context"  # tokens, weights, or halves
    accelerator: str | None = None  # Ray's name of a type of GPU, such as H100
    labels: dict[str, str] = field(default_factory=dict)  # that a node must have; Ray's label selectors

    @property
    def device(self) -> str:
        """torch's name of the kind of device."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def fewest(self) -> int:
        """The replicas without which a run does not start."""
        return int(self.replicas["min"] if isinstance(self.replicas, dict) else self.replicas)

    @property
    def most(self) -> int:
        """The replicas that there are where the cluster has room for all."""
        return int(self.replicas["max"] if isinstance(self.replicas, dict) else self.replicas)

    @property
    def guidance_shards(self) -> int:
        """2 if the two halves of guidance are shared out, else 1."""
        return 2 if "guidance" in self.shard_mode else 1

    @property
    def context_shards(self) -> int:
        """Into how many parts a latent's tokens are divided."""
        return self.shards // self.guidance_shards if "context" in self.shard_mode else 1


@dataclass(frozen=True)
class ScorerPoolConfig(PoolConfig):
    """Scorers, which need less of a CPU than denoisers."""

    num_cpus: Amount = 0.5
    share_gpus: bool = False  # each scorer lives with a denoiser: on its node, and on its GPU where both fit


@dataclass(frozen=True)
class EncoderPoolConfig(PoolConfig):
    """Text encoders, with so little of a CPU that one replica of each kind fits on two CPUs."""

    num_cpus: Amount = 0.1
    # Where embeddings of texts are kept: a folder, true (below the user's cache) or false.
    cache: Annotated[Any, Such("true, false or a folder", _placed)] = True
    release: bool = False  # end the encoders when every text is encoded, which gives their room to other replicas


@dataclass(frozen=True)
class FleetConfig:
    """All replicas, and how long to wait for them; `backend: local` runs them in this process."""

    backend: Literal["ray", "local"] = "ray"
    address: str | None = None  # of a running Ray cluster; None: RAY_ADDRESS if set, else a local one
    metrics: bool = False  # exported by Ray's nodes to Prometheus
    store_gb: Positive = 1.0
    speculate: bool = False  # denoisers that are idle make what searches that wait for rewards may ask for next
    wait_s: Amount = 0.0  # how long the cluster may take to have room for the fleet (an autoscaler)
    timeout_s: Positive = (
        600.0  # of a step or call until its replica counts as hung, and of a kind with no replica left
    )
    denoisers: PoolConfig = field(default_factory=PoolConfig)
    scorers: ScorerPoolConfig = field(default_factory=ScorerPoolConfig)
    encoders: EncoderPoolConfig = field(default_factory=EncoderPoolConfig)


def check_address(address: str, key: str) -> None:
    """Raises ConfigError, which names `key`, for what is not the address of a Ray cluster."""
    place = re.fullmatch(r"(ray://)?[^\s/:]+:(\d{1,5})|(ray://)?\[[\da-f:.]+\]:(\d{1,5})", address)
    port = int(place[2] or place[4]) if place else 0
    allowed = "host:port of a Ray head, as in 10.0.0.1:6379, or auto, or local"
    check(address in ("auto", "local") or 0 < port < 2**16, key, address, allowed)


def can_be(gpus: float) -> bool:
    """True if Ray can give a process so many GPUs: a fraction is of one GPU."""
    return gpus == int(gpus) or gpus < 1


def check_pool(key: str, pool: PoolConfig) -> None:
    """Raises ConfigError for resources or labels that Ray refuses; `key` names the pool."""
    check(can_be(pool.num_gpus), f"{key}.num_gpus", pool.num_gpus, WHOLE)
    for name, amount in (("num_gpus", pool.num_gpus), ("num_cpus", pool.num_cpus)):
        check(round(amount, 4) == amount, f"{key}.{name}", amount, f"a multiple of {SMALLEST:g}")
    for label, wanted in pool.labels.items():
        known = isinstance(wanted, str) and re.fullmatch(SELECTOR, wanted)
        check(bool(known), f"{key}.labels.{label}", wanted, "of the form a, !a, in(a, b) or !in(a, b)")
        check(bool(re.fullmatch(rf"([a-zA-Z0-9.-]+/)?{LABEL}", label)), f"{key}.labels", label, "a label's name")


def check_shared(d: PoolConfig, s: PoolConfig) -> None:
    """Raises ConfigError if scorers that live with denoisers have fractions of a GPU that do not fit on theirs."""
    for guests, hosts in ((s.fewest, d.fewest), (s.most - s.fewest, d.most - d.fewest)):
        for each in {guests // hosts, -(-guests // hosts)} if hosts else ():
            gpus = round(d.num_gpus + each * s.num_gpus, 4)
            allowed = f"such that it and its denoiser's add up to {WHOLE}, but they make {gpus:g}"
            check(can_be(gpus), "fleet.scorers.num_gpus", s.num_gpus, allowed)


def check_fleet(f: FleetConfig) -> None:
    """Raises ConfigError for what Ray refuses, and where the values of several keys do not go together."""
    if f.address is not None:
        check_address(f.address, "fleet.address")
    for kind in ("denoisers", "scorers", "encoders"):
        check_pool(f"fleet.{kind}", getattr(f, kind))
    d, s = f.denoisers, f.scorers
    if s.share_gpus:
        bound = s.accelerator is None and not s.labels
        check(bound, "fleet.scorers.share_gpus", True, "false where scorers have an accelerator or labels of their own")
        allowed = "elastic only where denoisers are: with share_gpus, scorers beyond min live with denoisers beyond min"
        check(s.most == s.fewest or d.most > d.fewest, "fleet.scorers.replicas", s.replicas, allowed)
        check_shared(d, s)
    check(s.shards == 1, "fleet.scorers.shards", s.shards, "1")
    check(f.encoders.shards == 1, "fleet.encoders.shards", f.encoders.shards, "1")
    kept = f.encoders.cache not in (None, False)
    allowed = "false with fleet.encoders.cache=false: what is lost could not be encoded again"
    check(kept or not f.encoders.release, "fleet.encoders.release", True, allowed)
    key, n, mode = "fleet.denoisers", d.shards, d.shard_mode
    if n == 1:
        check(mode == PoolConfig.shard_mode, f"{key}.shard_mode", mode, f"left out with {key}.shards=1")
        return
    check(f.backend == "ray", f"{key}.shards", n, "1 with fleet.backend=local: each shard is a process")
    own = d.num_gpus == 0 or 0.5 < d.num_gpus <= 1
    check(own, f"{key}.num_gpus", d.num_gpus, "0, or above 0.5 and at most 1 with shards: each has a GPU of its own")
    check(mode != "guidance" or n == 2, f"{key}.shards", n, "2 with shard_mode=guidance: guidance has two halves")
    even = n % 2 == 0 and n >= 4
    check(mode != "context+guidance" or even, f"{key}.shards", n, f"even and at least 4 with shard_mode={mode}")


def check_guidance(pool: PoolConfig, arm: str, scale: float, batched: bool) -> None:
    """Raises ConfigError where an arm's guidance cannot be shared out between shards as the denoisers' pool says."""
    if "guidance" in pool.shard_mode:
        with_this = f"with fleet.denoisers.shard_mode={pool.shard_mode} (arm {arm})"
        check(scale > 1, "sampler.guidance_scale", scale, f"above 1 {with_this}: its halves are what is shared out")
        check(not batched, "sampler.batched_guidance", True, f"false {with_this}")
