"""The rewards of a planned run: those of an earlier run, or made-up ones.

What a search costs may depend on its rewards: a policy that stops at a good enough video runs less if videos are good.
So made-up rewards are drawn several times, each time from another level, and the plan is a range.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Protocol

from raysearch.errors import ConfigError, check
from raysearch.parquet import run_table
from raysearch.recipe.candidate import Candidate
from raysearch.recipe.digests import Digest, digest
from raysearch.recipe.reward import Pair, Question, Reward, score_key
from raysearch.session import journal
from raysearch.session.directory import JOURNAL
from raysearch.session.plan import Plan, arm_of

NORMAL = NormalDist()
SCORED = ("search_id", "trajectory", "step", "reward")  # columns
LEVELS = 3.0  # the deviation of made-up rewards' means, where that of candidates of one search is 1
INHERITED = 0.7  # the correlation of a candidate's quality with its parent's


class Draws(Protocol):
    """Where rewards come from."""

    def components(self, x: Question, reward: Reward) -> tuple[float, ...]:
        """The components of a reward of a candidate, or of a pair."""
        ...


def normal(*parts: object) -> float:
    """A standard normal number that is drawn from a key."""
    return NORMAL.inv_cdf((int.from_bytes(digest(*parts)[:6], "big") + 0.5) / 2**48)


@dataclass
class MadeUp:
    """Number `draw` of `draws`: the quality of a trajectory, seen through noise that fades as steps are done."""

    draw: int = 0
    draws: int = 1

    @property
    def level(self) -> float:
        """The mean of all rewards; that of the first draw is in the middle."""
        place = (self.draw + self.draws // 2) % self.draws
        return LEVELS * NORMAL.inv_cdf((place + 0.5) / self.draws)

    def quality(self, x: Candidate) -> float:
        """Standard normal, fixed by the trajectory, and correlated with the parent's."""
        own = normal(self.draw, "quality", x.trajectory)
        if x.parent is None:
            return own
        return float(INHERITED * normal(self.draw, "quality", x.parent.trajectory) + (1 - INHERITED**2) ** 0.5 * own)

    def components(self, x: Question, reward: Reward) -> tuple[float, ...]:
        """All components are equal."""
        if isinstance(x, Pair):
            ahead = self.quality(x.first) - self.quality(x.second)
            return (NORMAL.cdf(ahead),)
        seen = 1 - x.sigma / max(x.sampler.sigmas)
        value = seen * self.quality(x) + max(1 - seen**2, 0.0) ** 0.5 * normal(self.draw, "seen", x.identity)
        return (self.level + value,) * len(reward.components)


@dataclass(frozen=True)
class Rollout:
    """The recorded rewards of one trajectory: how far it had come, from 0 to 1, and the components by name."""

    points: tuple[tuple[float, Mapping[str, float]], ...]

    def at(self, seen: float, names: Sequence[str]) -> tuple[float, ...] | None:
        """The components at the nearest point that has them all; None if none has."""
        fits = [p for p in self.points if all(n in p[1] for n in names)]
        if not fits:
            return None
        _, found = min(fits, key=lambda p: abs(p[0] - seen))
        return tuple(found[n] for n in names)


@dataclass
class Recorded:
    """The rewards of an earlier run: a question that it answered has its answer, others those of a trajectory of it.

    That is drawn by chance, of the same caption where the run had it, and it is the same one at all steps.
    """

    answers: Mapping[Digest, tuple[float, ...]]  # by `score_key`
    rollouts: Mapping[str, Sequence[Rollout]]  # by caption
    otherwise: MadeUp
    resampled: int = 0
    asked: int = 0
    _captions: list[str] = field(default_factory=list)

    def components(self, x: Question, reward: Reward) -> tuple[float, ...]:
        """The recorded components, or resampled ones."""
        self.asked += 1
        known = self.answers.get(score_key(x.identity, reward))
        if known is not None:
            return known
        self.resampled += 1
        if isinstance(x, Pair) or not self.rollouts:
            return self.otherwise.components(x, reward)
        self._captions = self._captions or sorted(self.rollouts)
        chance = int.from_bytes(digest(self.otherwise.draw, "caption", x.prompt.identity)[:6], "big")
        own = x.prompt.title if x.prompt.title in self.rollouts else self._captions[chance % len(self._captions)]
        those = self.rollouts[own]
        drawn = int.from_bytes(digest(self.otherwise.draw, "rollout", x.trajectory)[:6], "big")
        found = those[drawn % len(those)].at(x.step / x.sampler.num_steps, reward.components)
        return found or self.otherwise.components(x, reward)


def check_run(run_dir: Path) -> None:
    """Raises ConfigError for a folder without the tables of a run."""
    run_table(run_dir, "searches.parquet", ("search_id", "prompt"))
    table = run_table(run_dir, "candidates.parquet", SCORED)
    check(table.num_rows > 0, "--rewards", str(run_dir), "the folder of a run with scored candidates")


def recorded(run_dir: Path, plan: Plan, draw: int, draws: int) -> Recorded:
    """The rewards of the run in a folder. Raises ConfigError."""
    return Recorded(_answers(run_dir, plan), _rollouts(run_dir), MadeUp(draw, draws))


def _answers(run_dir: Path, plan: Plan) -> dict[Digest, tuple[float, ...]]:
    """The answers of a run's journal; none of arms that the plan has not."""
    rewards = {a.arm.name: a.asks for a in plan.arms}
    found: dict[Digest, tuple[float, ...]] = {}
    try:
        for r in journal.read(run_dir / JOURNAL):
            if r["kind"] != "answer" or (asks := rewards.get(arm_of(r["search"]))) is None or r["place"] >= len(asks):
                continue
            for asked, components in zip(r["asked"], r["components"], strict=True):
                if len(components) == len(asks[r["place"]].components):
                    key = score_key(bytes.fromhex(asked), asks[r["place"]])
                    found.setdefault(key, tuple(map(float, components)))
    except (OSError, *journal.MISREAD) as error:
        raise ConfigError.of("--rewards", str(run_dir), "the folder of a run whose journal can be read") from error
    return found


def _rollouts(run_dir: Path) -> dict[str, list[Rollout]]:
    """The trajectories of candidates.parquet that were scored, by caption."""
    table = run_table(run_dir, "candidates.parquet", SCORED, more=True)
    prompts = dict(
        zip(*run_table(run_dir, "searches.parquet", ("search_id", "prompt")).to_pydict().values(), strict=True)
    )
    known = {"sigma", "nfe", "nfe_after", "making_s", "scoring_s", "asked_s", "reward", "step", "part", "call"}
    names = [f.name for f in table.schema if str(f.type) in ("double", "float") and f.name not in known]
    points: dict[tuple[str, str], list[tuple[int, int | None, dict[str, float]]]] = defaultdict(list)
    for r in table.to_pylist():
        if r["reward"] is not None:
            values = {n: r[n] for n in names if r[n] is not None}
            points[r["search_id"], r["trajectory"]].append((r["step"], r.get("num_steps"), values))
    last = max((step for those in points.values() for step, _, _ in those), default=1)
    found: dict[str, list[Rollout]] = defaultdict(list)
    for (search, _), those in sorted(points.items()):
        made = tuple((step / max(steps or last, 1), values) for step, steps, values in those)
        found[prompts.get(search, "")].append(Rollout(made))
    return dict(found)
