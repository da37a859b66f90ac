"""The resources that a fleet needs of a cluster, and whether the cluster can ever hold it. Knows no Ray.

A home is a placement group: a bundle of resources for each shard of a replica. The first bundle also holds the scorers
that share the replica's GPU. The homes of the fewest replicas that a config allows are needed; the others are elastic:
their replicas join when the cluster has room.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raysearch.config.config import Config
from raysearch.config.fleet import WHOLE, PoolConfig, can_be
from raysearch.errors import ConfigError, check

if TYPE_CHECKING:
    from actors.training.config import WorkersConfig

ROOM = 0.8  # of the object store may hold latents; the rest is for results on their way


@dataclass(frozen=True)
class Node:
    """All that a node offers: resources by Ray's names ("CPU", "GPU", "object_store_memory" in bytes), and labels."""

    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tenant:
    """One replica in a home."""

    kind: str  # "denoiser", "scorer" or "encoder"
    id: str  # kind and number, "denoiser-0"
    pool: PoolConfig


@dataclass(frozen=True)
class Home:
    """A placement group: `tenants[0]` owns it, and the other tenants are scorers that share its GPU."""

    tenants: tuple[Tenant, ...]
    needed: bool  # the run does not start without it

    @property
    def owner(self) -> Tenant:
        """The replica that the home is sized for."""
        return self.tenants[0]

    @property
    def choosy(self) -> bool:
        """True if only some nodes will do; a choosy home is placed before homes that fit anywhere."""
        return bool(self.owner.pool.labels or self.owner.pool.accelerator)

    @property
    def labels(self) -> dict[str, str]:
        """The label selectors of the owner's pool without spaces: Ray takes the one in `in(a, b)` for a part of b."""
        return {k: v.replace(" ", "") for k, v in self.owner.pool.labels.items()}

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The resources of each shard of the owner; each bundle may be on any node."""
        pool = self.owner.pool
        return [_bundle([t.pool for t in self.tenants]), *[_bundle([pool])] * (pool.shards - 1)]

    def __str__(self) -> str:
        pool = self.owner.pool
        on = f" on {pool.accelerator}" if pool.accelerator else ""
        labelled = f" with labels {_text(pool.labels)}" if pool.labels else ""
        shards, each = (f"{pool.shards} shards of ", " each") if pool.shards > 1 else ("", "")
        shared = f", {len(self.tenants) - 1} scorers with each," if len(self.tenants) > 1 else ""
        return f"{shards}{pool.num_gpus:g} GPU and {pool.num_cpus:g} CPU{each}{on}{labelled}{shared}"


def homes(config: Config) -> list[Home]:
    """The homes of all replicas: needed before elastic, then choosy before others."""
    fleet = config.fleet
    owners = [
        (Tenant(kind, f"{kind}-{i}", pool), i < pool.fewest)
        for kind, pool in (("denoiser", fleet.denoisers), ("scorer", fleet.scorers), ("encoder", fleet.encoders))
        if kind != "scorer" or not fleet.scorers.share_gpus
        for i in range(pool.most)
    ]
    guests: dict[str, list[Tenant]] = {}
    if fleet.scorers.share_gpus:
        d, s = fleet.denoisers, fleet.scorers
        for i in range(s.most):  # elastic scorers share with elastic denoisers: only elastic homes may be missing
            host = i % d.fewest if i < s.fewest else d.fewest + (i - s.fewest) % (d.most - d.fewest)
            guests.setdefault(f"denoiser-{host}", []).append(Tenant("scorer", f"scorer-{i}", s))
    found = [Home((owner, *guests.get(owner.id, ())), needed) for owner, needed in owners]
    return sorted(found, key=lambda h: (not h.needed, not h.choosy))


def _bundle(pools: Sequence[PoolConfig]) -> dict[str, float]:
    amounts = {
        "GPU": round(sum(p.num_gpus for p in pools), 4),
        "CPU": round(sum(p.num_cpus for p in pools), 4),
        **({f"accelerator_type:{pools[0].accelerator}": 0.001} if pools[0].accelerator else {}),
    }
    return {k: v for k, v in amounts.items() if v} or {"memory": 1}  # Ray refuses empty bundles: one byte


def check_cluster(config: Config, nodes: Sequence[Node]) -> None:
    """Raise ConfigError unless the nodes can hold the needed homes (choosy and large ones first) and their latents."""
    free = [_Free(n) for n in nodes]
    needed = [h for h in homes(config) if h.needed]
    for home in sorted(needed, key=lambda h: [not h.choosy, *(-h.bundles[0].get(k, 0) for k in ("GPU", "CPU"))]):
        for bundle in home.bundles:
            if not any(f.take(bundle, home.labels) for f in free):
                raise ConfigError(no_room(home, nodes))
    check_store(config, nodes)


def check_workers(w: "WorkersConfig", nodes: Sequence[Node]) -> None:
    """Raise ConfigError unless the nodes can hold the workers of a training."""
    check(can_be(w.num_gpus), "workers.num_gpus", w.num_gpus, WHOLE)
    free, bundle = [_Free(n) for n in nodes], _bundle([PoolConfig(num_gpus=w.num_gpus, num_cpus=w.num_cpus)])
    held = ", ".join(_offer(n) for n in nodes)
    fits = f"such that all workers, of {w.num_gpus:g} GPU and {w.num_cpus:g} CPU each, fit on the nodes: {held}"
    for _ in range(w.number):
        check(any(f.take(bundle, {}) for f in free), "workers.number", w.number, fits)


def check_store(config: Config, nodes: Sequence[Node]) -> None:
    """Raise ConfigError if a run's latents could fill the object stores of the nodes that can hold denoisers."""
    home = next(h for h in homes(config) if h.owner.kind == "denoiser")
    makers = [n for n in nodes if _Free(n).take(home.bundles[0], home.labels)]
    largest = sorted((n.resources.get("object_store_memory", 0) for n in makers), reverse=True)
    memory = sum(largest[: home.owner.pool.most]) / 1e9
    most = int(ROOM * memory * 1000) / 1000
    check(
        config.fleet.store_gb <= most or not makers,
        "fleet.store_gb",
        config.fleet.store_gb,
        f"at most {most:g}: Ray's object store has {memory:.3g} GB on the nodes of denoisers (a share of what was free "
        "when it started), and what is on its way needs room too",
    )


def no_room(home: Home, nodes: Sequence[Node], why: str = "do not fit beside the rest of the fleet") -> str:
    """The message that a home has no room, with what the nodes offer."""
    kind, pool = home.owner.kind, home.owner.pool
    seen = ", ".join(_node_text(n, home) for n in nodes) or "no nodes"
    return f"fleet.{kind}s: {pool.fewest} replicas of {home} {why}; the cluster's nodes have {seen}"


def _node_text(node: Node, home: Home) -> str:
    kinds = [k.partition(":")[2] for k in node.resources if k.startswith("accelerator_type:")]
    on = f" on {', '.join(kinds)}" if kinds and home.owner.pool.accelerator else ""
    labels = {k: v for k, v in node.labels.items() if k in home.labels}
    labelled = f" with labels {_text(labels)}" if labels else ""
    return f"{_offer(node)}{on}{labelled}"


def _offer(node: Node) -> str:
    return f"{node.resources.get('CPU', 0):g} CPU and {node.resources.get('GPU', 0):g} GPU"


def _text(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in labels.items()) + "}"


class _Free:
    """The resources of a node that are not taken; a GPU counts 1, or the fraction of it that is left."""

    def __init__(self, node: Node) -> None:
        self._labels = node.labels
        self._amounts = {k: v for k, v in node.resources.items() if k != "GPU"}
        self._gpus = int(node.resources.get("GPU", 0)) * [1.0]

    def take(self, bundle: dict[str, float], labels: dict[str, str]) -> bool:
        """Take a bundle's resources; False, and none is taken, unless the node has them all and fits the labels."""
        gpus = _without(self._gpus, bundle.get("GPU", 0))
        plain = {k: v for k, v in bundle.items() if k not in ("GPU", "memory")}
        enough = all(self._amounts.get(k, 0) >= v - 1e-9 for k, v in plain.items())
        if gpus is None or not enough or not matches(self._labels, labels):
            return False
        self._gpus = gpus
        for k, v in plain.items():
            self._amounts[k] -= v
        return True


def _without(gpus: list[float], amount: float) -> list[float] | None:
    """The GPUs left after taking `amount`, or None if they cannot give it; a fraction must come from one GPU."""
    if amount >= 1:
        idle = [g for g in gpus if g == 1]
        rest = [g for g in gpus if g < 1]
        return rest + idle[int(amount) :] if len(idle) >= amount else None
    for i, g in enumerate(gpus):
        if g >= amount - 1e-9:
            return [*gpus[:i], g - amount, *gpus[i + 1 :]]
    return None if amount else gpus


def matches(labels: dict[str, str], selector: dict[str, str]) -> bool:
    """True if a node's labels fit Ray's selectors: a value, `!value`, `in(a, b)` or `!in(a, b)` for each label."""
    for key, wanted in selector.items():
        several = re.fullmatch(r"!?in\((.*)\)", wanted)
        values = several[1].split(",") if several else [wanted.removeprefix("!")]
        if (labels.get(key) in values) == wanted.startswith("!"):
            return False
    return True
