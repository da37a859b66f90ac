"""What a plan says of each fleet: rehearsals of it, and sentences about what they show."""

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from math import ceil

import numpy as np

from raysearch.config import prompts
from raysearch.config.config import Config
from raysearch.planner.facts import Facts, alone
from raysearch.planner.fleets import one_more
from raysearch.planner.rehearsal import Rehearsed, rehearse
from raysearch.planner.rewards import Draws
from raysearch.planner.timings import Timings
from raysearch.recipe.reward import Question, Reward, Score
from raysearch.session.plan import Plan, Search, context, run_policy
from raysearch.session.recording import KINDS

HALF, IDLE = 0.5, 0.25  # shares of busy time that are worth a look, and a sentence
SAVED = 0.05  # the same, of the time that one replica more saves
LATE = 0.15  # the same, of the time in which the last 5% of the searches end
MUCH = 0.005  # of NFE
SOME = 3  # searches of an arm that tell whether rewards change what it costs


@dataclass(frozen=True)
class Forecast:
    """A fleet, and how its rehearsals went: one for each draw of rewards."""

    label: str
    config: Config
    runs: tuple[Rehearsed, ...]

    def mid(self, of: Callable[[Rehearsed], float], q: float = 0.5) -> float:
        """A quantile over the draws, by default the median."""
        return float(np.quantile([of(r) for r in self.runs], q))

    def spans(self, of: Callable[[Rehearsed], float]) -> tuple[float, float] | None:
        """p10 and p90 over the draws; None where all are nearly equal."""
        low, high = self.mid(of, 0.1), self.mid(of, 0.9)
        return (low, high) if high - low > 0.005 * max(high, 1e-9) else None

    def busy(self, kind: str) -> float:
        """The share of their time in which replicas of a kind run something; 0 without any."""
        return self.mid(lambda r: r.use[kind].busy if kind in r.use else 0.0)

    @property
    def bottleneck(self) -> str:
        """The kind of the busiest replicas."""
        return max(KINDS, key=self.busy)

    @property
    def name(self) -> str:
        """The label as it stands in a sentence."""
        return " ".join(self.label.split())


@dataclass(frozen=True)
class Stage:
    """All that rehearsals of one config share. `draws` makes the rewards of draw number i."""

    plan: Plan
    facts: Facts
    timings: Timings
    draws: Callable[[int], Draws]
    most: int  # draws
    arrival: float = 0.0

    def forecast(self, label: str, config: Config, most: int | None = None) -> Forecast:
        """The rehearsals of a fleet: as many as there are draws, or one if rewards change nothing."""
        n = (most or self.most) if self.timings.spread or not self.steady(config) else 1
        with rarely_collected():
            runs = [
                rehearse(config, self.plan, self.facts, self.timings, self.draws(i), arrival=self.arrival, seed=i)
                for i in range(n)
            ]
        return Forecast(label, config, tuple(runs))

    def steady(self, config: Config) -> bool:
        """True if some searches of every arm cost the same in all draws: then one rehearsal tells as much as many."""
        entry = prompts.load(config)[0]
        if any(a.arm.allocate for a in self.plan.arms):
            return False
        for arm, seed in product(self.plan.arms, entry.seeds(config.seeds)[:SOME]):
            s = Search(0, "dry-run", entry.prompt, seed, arm)
            if len({asyncio.run(_cost(s, self.draws(i))) for i in range(self.most)}) > 1:
                return False
        return True


async def _cost(s: Search, draws: Draws) -> int | None:
    """The NFE that a search is charged; None if its policy fails, of which the rehearsals tell."""

    async def answer(xs: Sequence[Question], reward: Reward) -> list[Score]:
        return [Score(draws.components(x, reward)) for x in xs]

    ctx = context(s, answer, lambda: 0.0)
    try:
        winner, _ = await run_policy(s, ctx)
    except Exception:  # of a user's code
        return None
    return (ctx.charged + ctx.meter.ledger.finish(winner)).nfe


@contextmanager
def rarely_collected() -> Iterator[None]:
    """Python looks for garbage in cycles less often: a rehearsal makes next to none, and many objects that live."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def without(stage: Stage, config: Config, arm: str) -> Rehearsed:
    """The first rehearsal of a run that lacks an arm: what the others cost, who then share nothing with it."""
    plan = replace(stage.plan, arms=tuple(a for a in stage.plan.arms if a.arm.name != arm))
    kept = [b for b in config.arms or [] if b["name"] != arm]
    names = {a.arm.name for a in plan.arms}
    fewer = replace(config, arms=kept, baseline=config.baseline if config.baseline in names else None)
    return replace(stage, plan=plan).forecast("", fewer, 1).runs[0]


def sentences(stage: Stage, forecasts: Sequence[Forecast], made_up: bool) -> list[str]:
    """What a reader of the table should know besides, each as one sentence without its full stop."""
    found = [line for f in forecasts for line in (*_starving(stage, f, forecasts), *_waste(f))]
    if made_up and any(f.spans(lambda r: r.nfe) for f in forecasts):
        found.append("the NFE depend on rewards, which are made up here: --rewards RUN_DIR takes those of a run")
    rewards = {m.key for m in alone(stage.plan)}
    unknown = sorted(k for k in rewards if k not in stage.timings.rewards) if stage.timings.rewards else []
    if unknown:
        take, they = ("takes", "it takes") if len(unknown) == 1 else ("take", "they take")
        found.append(f"nobody has measured how long {' and '.join(unknown)} {take}: here {they} no time")
    return found


def _starving(stage: Stage, f: Forecast, others: Sequence[Forecast]) -> Iterator[str]:
    kind = f.bottleneck
    fed = "scorer" if kind == "denoiser" else "denoiser"
    if kind == "denoiser" or f.busy(kind) < HALF or f.busy(fed) > f.busy(kind) - 0.1:
        return
    config = one_more(f.config, kind)
    known = next((o for o in others if o.config.fleet == config.fleet), None)
    # Both are judged by the medians that the table shows, or by the first draw where the table has no such fleet.
    more = known or stage.forecast("", config, 1)
    less = f if known else replace(f, runs=f.runs[:1])
    time = 1 - more.mid(lambda r: r.total) / less.mid(lambda r: r.total)
    money = 1 - more.mid(lambda r: r.hours) / less.mid(lambda r: r.hours)
    if time < SAVED:
        return
    costs = f"{money:.0%} of money" if money > 0 else f"and costs {-money:.0%} more money"
    yield f"{kind}s starve {fed}s at {f.name}: one more saves {time:.0%} of time, {costs}"


def _waste(f: Forecast) -> Iterator[str]:
    first = f.runs[0]
    full = first.store_most > 0.85 * f.config.fleet.store_gb * 1e9
    if full and first.again > MUCH * first.nfe:
        share = first.again / first.nfe
        yield f"{f.name} reaches store_gb={f.config.fleet.store_gb:g} and remakes {share:.0%} of its NFE"
    for kind in ("denoiser", "scorer"):
        n = first.use[kind].replicas
        if n > 1 and f.busy(kind) < IDLE and f.bottleneck != kind:
            enough = max(ceil(n * f.busy(kind) / 0.8), 1)
            yield f"{kind}s run something for {f.busy(kind):.0%} of the time at {f.name}: {enough} would do"
    if first.straggling > LATE and sum(a.searches for a in first.arms.values()) >= 40:
        yield f"the last 5% of the searches take {first.straggling:.0%} of the time at {f.name}"
    for reason, n in first.failed.items():
        yield f"{n} searches fail at {f.name}: {reason}"
