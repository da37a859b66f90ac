"""A run's numbers as Ray metrics, which every node exports to Prometheus; docs/cluster.md has the table.

Each metric has the tag `run`, the run folder's name; some have `kind` (denoiser, scorer, encoder) or `arm`. Ray takes
ASCII alone in tags, so other characters are percent-encoded, and so is the percent sign itself.
"""

import string
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ray.util.metrics import Counter, Gauge

from raysearch.session.snapshot import FleetStatus, Snapshot

# Name, description, tag, and how to read the value: a number (None: not known yet), or one for each value of the tag.
GAUGES: list[tuple[str, str, str | None, Callable[[Snapshot, FleetStatus], Any]]] = [
    ("queue_depth", "Items that wait for a slot", "kind", lambda s, f: f.waiting),
    ("slots", "Slots in service", "kind", lambda s, f: f.slots),
    ("slots_busy", "Slots that run an item", "kind", lambda s, f: f.busy),
    ("nfe_per_second", "Model evaluations per second, over five minutes", None, lambda s, f: f.nfe_per_second),
    ("decodes_per_second", "Decodes per second, over five minutes", None, lambda s, f: f.decodes_per_second),
    ("rewards_per_second", "Rewards per second, over five minutes", None, lambda s, f: f.rewards_per_second),
    ("step_seconds", "Mean replica-seconds of a solver step", None, lambda s, f: f.seconds_per_step),
    ("score_seconds", "Mean replica-seconds of a score, decoding included", None, lambda s, f: f.seconds_per_score),
    ("store_bytes", "Bytes of the latents kept", None, lambda s, f: f.store_bytes),
    ("store_latents", "Latents kept", None, lambda s, f: f.store_latents),
    ("best_reward", "Best search reward of a winner", None, lambda s, f: s.best),
    ("searches", "Searches to be run", "arm", lambda s, f: {k: a.total for k, a in s.arms.items()}),
    ("searches_done", "Searches that have ended", "arm", lambda s, f: {k: a.done for k, a in s.arms.items()}),
    ("searches_failed", "Of these, those that failed", "arm", lambda s, f: {k: a.failed for k, a in s.arms.items()}),
    ("left_seconds", "Estimated time left", None, lambda s, f: s.left if s.going else 0.0),
]
COUNTERS: list[tuple[str, str, Callable[[FleetStatus], int]]] = [
    ("nfe", "Model evaluations; guidance counts twice", lambda f: f.nfe),
    ("decodes", "Latents decoded", lambda f: f.decodes),
    ("rewards", "Rewards computed, of candidates and of winners", lambda f: f.rewards),
    ("evictions", "Latents dropped to keep the store within its bound", lambda f: f.evicted),
    ("recomputations", "Items done again since a latent was lost", lambda f: f.recomputed),
    ("replica_restarts", "Replicas that died", lambda f: f.restarts),
]
PLAIN = string.digits + string.ascii_letters + string.punctuation.replace("%", "") + " "


def tag(name: str) -> str:
    """A name as a tag's value, in ASCII; names that differ have values that differ."""
    return quote(name, safe=PLAIN, errors="surrogatepass")


class Metrics:
    """The metrics of one run, set by its driver."""

    def __init__(self) -> None:
        self._gauges = [
            (Gauge(f"raysearch_{name}", text, tag_keys=("run", key) if key else ("run",)), key, value)
            for name, text, key, value in GAUGES
        ]
        self._counters = [
            (Counter(f"raysearch_{name}", text, tag_keys=("run",)), value) for name, text, value in COUNTERS
        ]
        self._counted = [0] * len(self._counters)

    def publish(self, s: Snapshot) -> None:
        """Set all metrics from a snapshot; a snapshot without a fleet sets none."""
        if s.fleet is None:
            return
        run = {"run": tag(s.run)}
        for gauge, key, value in self._gauges:
            numbers = value(s, s.fleet)
            for name, number in numbers.items() if key else [("", numbers)]:
                gauge.set(number, run | ({key: tag(name)} if key else {}))  # None leaves the gauge as it is
        for i, (counter, total) in enumerate(self._counters):
            if total(s.fleet) > self._counted[i]:  # Ray refuses an increment of 0
                counter.inc(total(s.fleet) - self._counted[i], run)
                self._counted[i] = total(s.fleet)
