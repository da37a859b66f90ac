"""Several rewards that together say which candidate is better: weighted sums, ranks, or the worst of them.

A search that maximises one reward finds that reward's mistakes (reward hacking, Coste et al. 2023, arXiv 2310.02743);
the minimum of several is harder to fool than their sum, and ranks need no common scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.shipped import label
from raysearch.config.numbers import finite
from raysearch.errors import ConfigError, check
from raysearch.files import Folder
from raysearch.parquet import run_table
from raysearch.recipe.digests import digest
from raysearch.recipe.reward import Blend, Reward, met
from raysearch.session.tables import CANDIDATES

FEWEST = 8  # finished candidates that say a mean and a deviation
ORDER = ("latent", "estimate", "frames")  # of what a reward needs: the later includes the earlier
OWN = ("label", "weight")  # of a member's keys, the ensemble's
Plan: TypeAlias = Callable[[str, dict[str, Any]], Reward]


class Ensemble:
    """The block of an ensemble, whose members are rewards; each component is a column, called label_component.

    `of` are the members' blocks, each with a `label` (by default its name) and a `weight` (by default 1). `normalise`
    says what is done to each member's own weighted sum: nothing; its distance from the mean of a calibration run in
    that run's standard deviations (zscore); or its rank among the candidates of one question, from 0 to 1 (rank).
    `combine` says whether members are summed with their weights, or the lowest one counts (min). `calibration` is the
    folder of a run that searched by the same members, however they were put together.
    """

    components: tuple[str, ...] = ()
    needs = "frames"

    def __init__(
        self,
        *,
        of: list[dict[str, Any]],
        normalise: Literal["none", "zscore", "rank"] = "none",
        combine: Literal["sum", "min"] = "sum",
        calibration: Path | None = None,
    ) -> None:
        self.of, self.normalise, self.combine, self.calibration = of, normalise, combine, calibration


def ensemble(key: str, made: Ensemble, plan: Plan, *, alone: bool) -> Reward:
    """The reward of an ensemble at `key` of the config; `plan` makes a member's of its key and block.

    `alone` is True if the reward scores winners one by one, which then have no ranks. Raises ConfigError.
    """
    check(len(made.of) > 1, f"{key}.of", list(made.of), "a list of at least two rewards")
    ranks, least = made.normalise == "rank", made.combine == "min"
    check(not (ranks and alone), f"{key}.normalise", "rank", "none or zscore: winners are judged one by one")
    given, needed = made.calibration, made.normalise == "zscore"
    wanted = "the folder of a run" if needed else "left out unless normalise is zscore"
    check((given is not None) == needed, f"{key}.calibration", given and str(given), wanted)
    members, shares = list[Reward](), list[float]()
    for i, block in enumerate(made.of):
        at = f"{key}.of[{i}]"
        check(block.get("name") != "ensemble", f"{at}.name", "ensemble", "a reward: ensembles have no ensembles")
        shares.append(_share(f"{at}.weight", block.get("weight", 1.0), least))
        member = plan(at, {k: v for k, v in block.items() if k not in OWN})
        members.append(replace(member, components=_columns(at, label(at, block), member.components)))
    components = tuple(c for m in members for c in m.components)
    for c in components:
        check(components.count(c) == 1, f"{key}.of", c, "columns of different names: give each member a label")
    scales = (
        _scales(f"{key}.calibration", made.calibration, members) if made.calibration else [(0.0, 1.0)] * len(shares)
    )
    identity = digest("ensemble", *(m.identity for m in members))
    return Reward(
        key=f"ensemble-{identity.hex()[:8]}",
        identity=identity,
        components=components,
        weights=(),
        needs=max((m.needs for m in members), key=ORDER.index),
        obstacles=met(members),
        text=any(m.text for m in members),
        earlier=any(m.earlier for m in members),
        tags=any(m.tags for m in members),
        blend=Blend(tuple(members), tuple(shares), tuple(scales), ranks, least),
    )


def _share(key: str, weight: Any, least: bool) -> float:
    check(finite(weight), key, weight, "a finite number")
    check(not least or weight == 1, key, weight, "left out with combine: min")
    return float(weight)


def _columns(key: str, name: str, components: Sequence[str]) -> tuple[str, ...]:
    """The columns of a member, named after its label, which a member's only component may have itself."""
    found = (name,) if list(components) == [name] else tuple(f"{name}_{c}" for c in components)
    for c in found:
        check(c not in CANDIDATES, f"{key}.label", name, f"another label: {c} is a column of its own")
    return found


def _scales(key: str, run_dir: Path, members: Sequence[Reward]) -> list[tuple[float, float]]:
    """The mean and the standard deviation of each member's weighted sum over a run's finished candidates."""
    columns = [c for m in members for c in m.components]
    try:
        Folder(run_dir).check(["candidates.parquet"])
        table = run_table(run_dir, "candidates.parquet", (), more=True)
    except ConfigError as error:
        raise ConfigError.of(key, str(run_dir), "the folder of a run, with its candidates.parquet") from error
    for c in (*columns, "sigma", "by"):
        allowed = f"a run with a column {c}: one that searched by an ensemble of the same members"
        kind = pa.string() if c == "by" else pa.float64()
        check(c in table.column_names and table[c].type == kind, key, str(run_dir), allowed)
    done = pc.and_(pc.equal(table["sigma"], 0.0), pc.equal(table["by"], "search"))
    # Arms that search by another reward have nulls here.
    rows = table.filter(done).select(columns).drop_null().to_pylist()
    check(len(rows) >= FEWEST, key, str(run_dir), f"a run of at least {FEWEST} finished candidates, not {len(rows)}")
    found = []
    for m in members:
        totals = np.array(m.totals([[row[c] for c in m.components] for row in rows]))
        mean, deviation = float(totals.mean()), float(totals.std())
        differ = deviation > 1e-9 * float(np.abs(totals).max())  # and not by rounding alone
        check(differ, key, str(run_dir), f"a run whose candidates differ in {', '.join(m.components)}")
        found.append((mean, deviation))
    return found
