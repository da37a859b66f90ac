"""What a search has asked and was answered, in order: its memory, and what candidates.parquet is written from."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.digests import Digest
from raysearch.recipe.origins import Origin
from raysearch.recipe.reward import Score


@dataclass(frozen=True)
class Moment:
    """When a search asked: the number of the question, its seconds into the search, the NFE charged with it."""

    call: int
    asked: float
    nfe: int


@dataclass(frozen=True)
class Asked:
    """A question and its answer. A row holds the recipe's parts: holding the candidate would pin its latent."""

    id: str
    prompt: Prompt
    sampler: Sampler
    origin: Origin
    step: int
    trajectory: Digest
    part: int
    reward: float
    score: Score
    moment: Moment
    early: bool = False  # it was asked of rewards.early

    @property
    def candidate(self) -> Candidate:
        """The candidate of this row."""
        return Candidate(self.prompt, self.sampler, self.origin, self.step)


@dataclass
class History:
    """The answers of a search in asking order, and the last one about each trajectory.

    `last` holds it with the age of its trajectory, by the trajectory and by whether rewards.early gave it.
    """

    rows: list[Asked] = field(default_factory=list)
    last: dict[tuple[Digest, bool], tuple[int, Asked]] = field(default_factory=dict)
    exhausted: str | None = None
    trials: int = 0  # that the policy has begun: see Context.trials
    pending: int = 0  # questions, of whatever context of the search, that are not answered yet
    _ranks: list[tuple[int, bool, float, int, int, Asked]] = field(default_factory=list)  # a heap, the best row first

    def add(self, x: Candidate, reward: float, score: Score, moment: Moment, *, early: bool = False) -> Asked:
        """Append the answer to a question about `x`; its row."""
        row = Asked(x.id, x.prompt, x.sampler, x.origin, x.step, x.trajectory, x.part, reward, score, moment, early)
        self.rows.append(row)
        key = x.trajectory, early
        age = self.last[key][0] if key in self.last else len(self.last)
        self.last[key] = (age, row)
        heappush(self._ranks, (-x.part, early, -reward, age, len(self.rows), row))
        return row

    @property
    def best(self) -> Asked | None:
        """The highest last reward of a trajectory, ties by age; in a long video among those of the latest part.

        The answers of rewards.early count only where there are no others.
        """
        while self._ranks:
            row = self._ranks[0][-1]
            if self.last[row.trajectory, row.early][1] is row:
                return row
            heappop(self._ranks)  # a later answer of its trajectory took its place
        return None

    def reward_of(self, x: Candidate) -> float | None:
        """The last rewards.search of a candidate's trajectory; of a long video the mean over the parts that show it."""
        found = [
            self.last[c.trajectory, False][1].reward
            for c in long_video.parts(x)
            if long_video.shows(c) and (c.trajectory, False) in self.last
        ]
        return float(np.mean(found)) if found else None
