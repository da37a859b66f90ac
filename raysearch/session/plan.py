"""What a run is going to do: its arms as the backend prepared them, its searches, and what they will cost.

`estimate` is the dry run: it runs each arm's policy against made-up rewards, which finds mistakes and gives the cost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any, Protocol, TypeAlias

from raysearch.config.allocation import check_first
from raysearch.config.config import Arm, Config, OutputConfig
from raysearch.config.foreign import judged
from raysearch.config.media import frame_rate
from raysearch.config.policies import seeding
from raysearch.config.prompts import Entry
from raysearch.engine.protocol import Fleet, Outputs
from raysearch.errors import BudgetExhausted, ConfigError, check
from raysearch.files import source
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.digests import Digest, canonical_json, digest
from raysearch.recipe.long_video import ALONE, Course
from raysearch.recipe.origins import Recording
from raysearch.recipe.reward import Question, Reward, Score, seen
from raysearch.recipe.sequels import Sequels
from raysearch.search.budget import Cost, Ledger, Meter
from raysearch.search.context import Context
from raysearch.search.obstacles import Barrier
from raysearch.session.journal import FORMAT
from raysearch.session.snapshot import Snapshot
from raysearch.threads import Lane

Gate: TypeAlias = Callable[[Context, Candidate], Awaitable[bool]]  # see the `turn` of a context

MOST_QUESTIONS = 100_000  # of a search in its dry run: more are a policy that does not end


class Backend(Protocol):
    """Where models and rewards come from."""

    def prepare(self, config: Config, arms: Sequence[Arm], begun: Config | None = None) -> "Plan":
        """The plan of a config. Raises ConfigError for every mistake that can be found without loading a model.

        A resumed run's candidates keep their numerics fingerprint: that of `begun`, the config it began with.
        """
        ...

    def fleet(
        self, config: Config, plan: "Plan", report: Callable[[str], None]
    ) -> AbstractAsyncContextManager[Fleet, bool | None]:
        """Start the replicas and stop them in the end; lines about where they are, come and go, pass to `report`."""
        ...

    def publish(self, snapshot: Snapshot) -> None:
        """Export a snapshot as metrics if the backend can; called every few seconds while its fleet is up."""
        ...


@dataclass(frozen=True)
class ArmPlan:
    """An arm as the backend prepared it. The search sees `reward`, `early` and `compare`; others judge its winner.

    The dry run adds to `sequels` in which order its policy asks.
    """

    arm: Arm
    sampler: Sampler
    reward: Reward | None
    final: Reward | None
    holdout: Reward | None
    at_steps: Callable[[int], Sampler]  # the sampler with another number of steps
    obstacles: tuple[Barrier, ...] = ()
    long: Course = ALONE
    early: Reward | None = None
    compare: Reward | None = None
    sequels: Sequels = field(default_factory=Sequels, compare=False)

    def avoiding(self, negative_prompt: str | None) -> "ArmPlan":
        """The arm for a prompt with a negative prompt of its own; the same arm for None."""
        if negative_prompt is None:
            return self
        own = replace(self.sampler, negative_prompt=negative_prompt)
        return replace(self, sampler=own, at_steps=lambda n: replace(self.at_steps(n), negative_prompt=negative_prompt))

    @property
    def rollout(self) -> int:
        """The NFE of one video."""
        steps = self.sampler.num_steps
        return (steps + self.long.after(0, steps)) * self.sampler.nfe_per_step

    @property
    def components(self) -> tuple[str, ...]:
        """The names of the components of the rewards that the search sees, each once."""
        return tuple(dict.fromkeys(c for r in (self.reward, self.early) if r for c in r.components))

    @property
    def asks(self) -> list[Reward]:
        """The rewards that the search can ask for, the obstacles' distances among them. The order is recorded."""
        own = (r for r in (self.reward, self.early) if r)
        return [*own, *(b.distance for b in self.obstacles), *([self.compare] if self.compare else [])]

    @property
    def judges(self) -> list[tuple[str, Reward]]:
        """The rewards that score winners, by the names of their columns."""
        return [(k, r) for k, r in (("final", self.final), ("holdout", self.holdout)) if r is not None]


@dataclass(frozen=True)
class Plan:
    """All arms of a run."""

    arms: tuple[ArmPlan, ...]
    details: dict[str, Any] = field(default_factory=dict)  # the backend's own: reward specs and the like
    images: str = "allowed"  # whether prompts may, must or must not have first frames
    fps: int = 8  # of the model's videos
    last_images: bool = False  # whether a prompt with a first frame may have a last one, too
    still: bool = False  # the model makes images: videos of one frame
    # Of all that an embedding depends on besides its text: model, precision, device, versions; empty: none is kept.
    encoding: Digest = b""


@dataclass(frozen=True)
class Search:
    """One search to run. `age` is its place in the run's order: the oldest search gets the next free slot."""

    age: int
    id: str
    prompt: Prompt
    seed: int
    plan: ArmPlan


def outputs(o: OutputConfig, plan: Plan) -> Outputs:
    """Which files are made of a finished video, without what they say of themselves."""
    fps = frame_rate(plan.fps if o.fps is None else o.fps)
    still = plan.still
    kinds = o.videos and not still, o.videos and still, o.latents, o.frames
    return Outputs(*kinds, fps, o.scale, poster=o.posters and o.videos)


def content_of(plan: Plan, entries: Sequence[Entry | Prompt]) -> bytes:
    """Digests of what a config only names: prompts, weights, rewards, policies, obstacles; and the journal's format."""
    content = {
        "the journal's records": str(FORMAT),
        "prompts": digest(*(e.identity for e in entries)).hex(),
        "the model's weights": digest(*(replace(a.sampler, fingerprint="").identity for a in plan.arms)).hex(),
        "the rewards": digest(
            *(_reward_content(r) if r else None for a in plan.arms for r in (a.reward, a.early, a.final, a.holdout)),
            *(_reward_content(a.compare) for a in plan.arms if a.compare),
            *plan.details.get("looks", ()),  # by which they see candidates on their way
        ).hex(),
        "the policies": digest(*(source(f) for a in plan.arms for f in (a.arm.search, a.arm.allocate) if f)).hex(),
        "the obstacles": digest(*(c for a in plan.arms for b in a.obstacles for c in _obstacle_content(b))).hex(),
    }
    if any(r.tags for a in plan.arms for r in (*a.asks, *(r for _, r in a.judges))):
        content["the prompts' tags"] = digest(*(tuple(sorted(e.tags.items())) for e in entries)).hex()
    return canonical_json(content).encode()


def _reward_content(r: Reward) -> object:
    # A reward with obstacles has no weights, and its identity would include how their videos are made.
    own = r.key if r.obstacles else r.identity
    return digest(own, *(s for scale in r.blend.scales for s in scale)) if r.blend else own


def _obstacle_content(b: Barrier) -> list[object]:
    if b.obstacle is None:
        return [b.distance.identity]
    return [p.content if isinstance(p, Recording) else p.prompt.identity for p in b.obstacle.points]


def searches(plan: Plan, entries: Sequence[Entry], seeds: Sequence[int], *, apart: bool = False) -> Iterator[Search]:
    """The searches in the order in which they run: all arms of a prompt and seed together, as they share candidates.

    `seeds` are those of prompts without their own. With `apart` no two prompts share a seed: those of prompt i are
    moved on by i times the range of all.
    """
    stride = 1 + max((max(e.seeds(seeds)) for e in entries), default=0) if apart else 0
    ages = count()
    for i, e in enumerate(entries):
        arms = [arm.avoiding(e.negative_prompt) for arm in plan.arms]
        for seed, arm in product((s + i * stride for s in e.seeds(seeds)), arms):
            yield Search(next(ages), f"{i:06d}-s{seed}-{arm.arm.name}", e.prompt, seed, arm)


def check_kept(so_far: Iterable[Search], wanted: Iterable[Search], seeds: Sequence[int]) -> None:
    """Raises ConfigError where a search that a run has so far is not among those that `seeds` ask of it."""
    ids = {group_of(s.id) for s in wanted}
    lost = next((s for s in so_far if group_of(s.id) not in ids), None)
    if lost is not None:
        allowed = f"such that the run keeps its searches, of seed {lost.seed} too; with seeds_apart the largest stays"
        raise ConfigError.of("seeds", list(seeds), allowed)


def group_of(search_id: str) -> str:
    """The part of a search's id that the searches of the other arms share: its prompt and its seed."""
    return "-".join(search_id.split("-", 2)[:2])


def arm_of(search_id: str) -> str:
    """The name of a search's arm, from the search's id."""
    return search_id.split("-", 2)[2]


def context(
    s: Search,
    answer: Callable[[Sequence[Question], Reward], Awaitable[list[Score]]],
    clock: Callable[[], float],
    walls: Sequence[float] = (),
    gate: Gate | None = None,
) -> Context:
    """The context of a search, with nothing charged yet; `walls` are the `Past.walls` of a resumed search."""
    reward, arm = s.plan.reward, s.plan.arm
    ledger = Ledger(
        needs_velocity=reward is not None and reward.needs_velocity,
        decodes=reward is not None and reward.decodes,
        obstacles=reward.obstacles if reward else (),
        course=s.plan.long,
    )
    ctx = Context(
        s.prompt,
        s.plan.sampler,
        s.seed,
        reward=reward,
        early=s.plan.early,
        judge=s.plan.compare,
        meter=Meter(arm.budget, ledger, clock, walls),
        answer=answer,
        rng_key=(s.prompt.identity, arm.policy, canonical_json(seeding(arm.search, arm.arguments))),
        at_steps=s.plan.at_steps,
        obstacles=s.plan.obstacles,
        long=s.plan.long,
        turn=None if gate is None else lambda x: gate(ctx, x),
    )
    return ctx


def allowing(trials: int) -> Gate:
    """A gate that lets a search make so many trials."""

    async def begins(ctx: Context, x: Candidate) -> bool:
        return ctx.history.trials < trials

    return begins


async def run_policy(s: Search, ctx: Context) -> tuple[Candidate, bool]:
    """The winner, denoised to the end, and whether the budget ended the search."""
    exhausted = False
    try:
        winner = await _answer(s, ctx)
        if not ctx.affords(winner):  # it was never scored, so its cost was not reserved
            winner = ctx.best
    except BudgetExhausted:
        winner, exhausted = ctx.best, True
    return ctx.complete([winner])[0], exhausted or ctx.history.exhausted is not None


async def _answer(s: Search, ctx: Context) -> Candidate:
    """The policy's answer. Under an allocator, a policy that asks for no trials starts anew for each further one.

    Then it is the best of its answers, the earliest of equals; one without a reward by rewards.search is scored.
    """
    within, best, reward = ctx, list[Candidate](), ctx.history.reward_of
    while True:
        x = await s.plan.arm.search(within, **s.plan.arm.arguments)
        if not isinstance(x, Candidate):
            raise TypeError(f"it returned {type(x).__name__}, not a Candidate")
        if ctx.turn is None or (within is ctx and ctx.history.trials):
            return x
        if reward(x) is None:
            (x,) = ctx.complete([x])
            await ctx.rate([x])
        best = [max([*best, x], key=reward)]  # type: ignore[arg-type]  # each has a reward
        ctx.history.trials = max(ctx.history.trials, 1)
        if not await ctx.turn(best[0]):
            return best[0]
        within = ctx.child(f"start {ctx.history.trials}")
        ctx.history.trials += 1


def estimate(
    plan: Plan,
    texts: Sequence[Prompt],
    seeds: Sequence[int],
    n: int = 1,
    report: Callable[[str], None] = lambda line: None,
    patience: float = 2.0,
) -> dict[str, Cost]:
    """The cost of one of the `n` searches of each arm, by its name, as its policy asks for it. Raises ConfigError.

    Where a total of NFE is shared out, it is a search's share of it.

    Policies run in another thread, so that one that does not end can be left behind: after `patience` seconds a line
    for the user passes to `report`.
    """
    costs: dict[str, Cost] = {}

    def dry_runs() -> None:
        for arm in plan.arms:
            costs[arm.arm.name] = _dry_run(Search(0, "dry-run", texts[0], seeds[0], arm), n)

    done = Lane("dry run").submit(dry_runs)
    if not wait([done], patience).done:
        now = plan.arms[min(len(costs), len(plan.arms) - 1)].arm
        report(f"the dry run of arm {now.name} ({now.policy}) goes on; Ctrl-C ends it")
    done.result()
    return costs


def _dry_run(s: Search, n: int) -> Cost:
    """The cost of a search whose rewards are made up."""
    arm, asked, budget = s.plan, count(1), s.plan.arm.budget
    most = dict[str, int]()  # candidates of one question to a reward
    asks = list[list[tuple[Candidate, bool]]]()
    if budget.nfe is not None and budget.nfe < arm.rollout:
        raise ConfigError.of("budget.nfe", budget.nfe, f"at least {arm.rollout}, the NFE of one video")
    if arm.arm.allocate is not None:
        check(arm.reward is not None, "rewards.search", None, f"given with an allocation (arm {arm.arm.name})")
        check_first(arm.arm, n, arm.rollout)

    async def answer(xs: Sequence[Question], reward: Reward) -> list[Score]:
        most[reward.key] = max(most.get(reward.key, 0), len(xs))
        asks.append([(c, reward.needs_velocity) for x in xs for c in seen(x)])
        if next(asked) > MOST_QUESTIONS:
            raise ConfigError(f"it asks more than {MOST_QUESTIONS} questions, and a search must end")
        return [Score(tuple(x.identity[i % 16] / 256 for i in range(len(reward.components)))) for x in xs]

    async def dry() -> Cost:
        gate = allowing(2) if arm.arm.allocate else None
        ctx = context(s, answer, lambda: 0.0, gate=gate)
        winner, _ = await run_policy(s, ctx)
        arm.sequels.learn([*asks, [(winner, False)]])
        return ctx.charged + ctx.meter.ledger.finish(winner)

    cost = judged(f"policy {arm.arm.policy} (arm {arm.arm.name})", arm.arm.search, lambda: asyncio.run(dry()))
    for name, r in (("search", arm.reward), ("early", arm.early)):
        if r and r.blend and r.blend.ranks:
            allowed = f"none or zscore: {arm.arm.policy} scores its candidates one at a time, and one alone has no rank"
            check(most.get(r.key) != 1, f"rewards.{name}.normalise", "rank", allowed)
    nfe = cost.nfe if budget.total_nfe is None else budget.total_nfe // n
    return Cost(nfe, cost.decodes * nfe // cost.nfe, cost.reward_calls * nfe // cost.nfe)
