"""What a search has asked and was answered, in order: its memory, and what candidates.parquet is written from."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from raysearch.recipe import long_video
from raysearch.recipe.candidate import Candidate, Prompt, Sampler
from raysearch.recipe.digests import Digest
from raysearch.recipe.origins import Origin


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
    components: tuple[float, ...]

    @property
    def candidate(self) -> Candidate:
        """The candidate of this row."""
        return Candidate(self.prompt, self.sampler, self.origin, self.step)


@dataclass
class History:
    """The answers of a search in asking order, and the last answer of each trajectory with the trajectory's age."""

    rows: list[Asked] = field(default_factory=list)
    last: dict[Digest, tuple[int, Asked]] = field(default_factory=dict)
    exhausted: str | None = None
    _ranks: list[tuple[int, float, int, int, Asked]] = field(default_factory=list)  # a heap, the best row first

    def add(self, x: Candidate, reward: float, components: tuple[float, ...]) -> Asked:
        """Append the answer to a question about `x`; its row."""
        row = Asked(x.id, x.prompt, x.sampler, x.origin, x.step, x.trajectory, x.part, reward, components)
        self.rows.append(row)
        age = self.last[x.trajectory][0] if x.trajectory in self.last else len(self.last)
        self.last[x.trajectory] = (age, row)
        heappush(self._ranks, (-x.part, -reward, age, len(self.rows), row))
        return row

    @property
    def best(self) -> Asked | None:
        """The highest last reward of a trajectory, ties by age; in a long video among those of the latest part."""
        while self._ranks:
            row = self._ranks[0][-1]
            if self.last[row.trajectory][1] is row:
                return row
            heappop(self._ranks)  # a later answer of its trajectory took its place
        return None

    def reward_of(self, x: Candidate) -> float | None:
        """The last reward of a candidate's trajectory; of a long video the mean over the parts that show it."""
        found = [
            self.last[c.trajectory][1].reward
            for c in long_video.parts(x)
            if long_video.shows(c) and c.trajectory in self.last
        ]
        return float(np.mean(found)) if found else None
