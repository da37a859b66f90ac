"""What a plan prints: a table of fleets, sentences about them, and what the run needs; or the same as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raysearch.config.config import Config
from raysearch.planner.facts import Facts
from raysearch.planner.forecast import Forecast
from raysearch.planner.rehearsal import Rehearsed
from raysearch.planner.timings import Timings
from raysearch.session.plan import Plan
from raysearch.session.recording import KINDS

ANSWER, ROW = 330, 1500  # bytes of journal and tables together: of a candidate's reward, and of a search


@dataclass(frozen=True)
class Bounds:
    """A user's price of an hour, and the most that a run may take and cost; None is no bound."""

    price: float | None = None
    deadline: float | None = None
    budget: float | None = None


def duration(seconds: float) -> str:
    """Seconds as a number with the unit that suits it."""
    for unit, size in (("d", 86400 * 2), ("h", 3600), ("min", 60)):
        if seconds >= size * (1.5 if unit == "min" else 1):
            each = {"d": 86400, "h": 3600, "min": 60}[unit]
            return f"{seconds / each:.3g} {unit}" if seconds / each < 100 else f"{seconds / each:.0f} {unit}"
    return f"{seconds:.3g} s"


def size(n: float) -> str:
    """Bytes in words."""
    for unit, each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= 0.9995 * each:  # else it could read 1e+03 of the smaller unit
            return f"{n / each:.3g} {unit}"
    return f"{n:.0f} B"


def amount(n: float) -> str:
    """Hours or money with about three digits, never as a power of ten."""
    return f"{n:.3g}" if n < 100 else f"{n:,.0f}"


def ranged(f: Forecast, of: Callable[[Rehearsed], float], text: Callable[[float], str]) -> str:
    """The median in words, and p10 and p90 where they differ."""
    spans = f.spans(of)
    return text(f.mid(of)) + (f" ({text(spans[0])} .. {text(spans[1])})" if spans else "")


def hours_unit(f: Forecast) -> str:
    """GPU-h, or replica-h of a fleet without GPUs."""
    return "GPU-h" if any(u.gpus for u in f.runs[0].use.values()) else "replica-h"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, all columns but the first and the last right-aligned."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            c.ljust(w) if i in (0, last) else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        ).rstrip()
        for r in rows
    ]


def table(forecasts: Sequence[Forecast], bounds: Bounds) -> list[str]:
    """A line for each fleet, under one of heads."""
    unit = hours_unit(forecasts[0])
    kinds = [k for k in KINDS if any(f.busy(k) >= 0.005 for f in forecasts)]
    money = [f"${bounds.price:g}/{unit}"] if bounds.price is not None else []
    rows = [["fleet", "wall", unit, *(f"{k}s" for k in kinds), "NFE", *money, ""]]
    cheapest = min(forecasts, key=lambda f: f.mid(lambda r: r.hours))
    fastest = min(forecasts, key=lambda f: f.mid(lambda r: r.total))
    for f in forecasts:
        marks = [m for m, who in (("cheapest", cheapest), ("fastest", fastest)) if len(forecasts) > 1 and who is f]
        busy = [f"{f.busy(k):.0%}" + (" <" if k == f.bottleneck else "  ") for k in kinds]
        cost = [ranged(f, lambda r: r.hours * (bounds.price or 0), lambda v: f"${amount(v)}")]
        rows.append(
            [
                f.label,
                ranged(f, lambda r: r.total, duration),
                ranged(f, lambda r: r.hours, amount),
                *busy,
                ranged(f, lambda r: r.nfe, lambda v: f"{v:,.0f}"),
                *(cost if money else []),
                ", ".join(marks),
            ]
        )
    return aligned(rows)


def fitting(forecasts: Sequence[Forecast], bounds: Bounds) -> list[str]:
    """Which fleets keep a deadline and a budget, also at p90."""
    lines = []
    if bounds.deadline is not None:
        fits = [f.name for f in forecasts if f.mid(lambda r: r.total, 0.9) <= bounds.deadline]
        lines.append(f"fits deadline {duration(bounds.deadline)}: {'; '.join(fits) or 'none of these fleets'}")
    if bounds.budget is not None:
        price = bounds.price or 0.0
        fits = [f.name for f in forecasts if f.mid(lambda r: r.hours * price, 0.9) <= bounds.budget]
        lines.append(f"fits budget ${bounds.budget:g}: {'; '.join(fits) or 'none of these fleets'}")
    return lines


def needs(f: Forecast, plan: Plan, facts: Facts, timings: Timings, config: Config) -> dict[str, dict[str, float]]:
    """Bytes that the first fleet's replicas, its disk and its object store need, by what they hold."""
    first, searches = f.runs[0], sum(a.searches for a in f.runs[0].arms.values())
    memory = {
        kind: {"weights": facts.weights.get(kind, 0.0), "activations": float(timings.peak.get(kind, 0))}
        for kind in first.use
    }
    frames, s = config.model.num_frames * config.long.chunks, plan.arms[0].sampler
    latent = facts.state(s, s.num_steps, False) * config.long.chunks
    disk: dict[str, float] = {"tables": first.candidates * ANSWER + searches * ROW}
    if config.output.videos and not plan.still and timings.video is not None:
        disk["videos"] = searches * timings.video * config.long.chunks
    if config.output.latents:
        disk["latents"] = searches * latent
    if config.output.frames:
        disk["frames"] = searches * frames * facts.frame
    return {**memory, "disk": disk, "store": {"states": max(r.store_most for r in f.runs)}}


def needed(found: dict[str, dict[str, float]], unknown_videos: bool) -> list[str]:
    """What `needs` found, in words."""
    lines = []
    for kind in KINDS:
        parts = found.get(kind)
        if parts and sum(parts.values()):
            whole = size(sum(parts.values())) if parts["activations"] else f"above {size(parts['weights'])}"
            measured = f", activations {size(parts['activations'])}" if parts["activations"] else ""
            lines.append(f"a {kind} needs {whole} (weights {size(parts['weights'])}{measured})")
    files = ", ".join(f"{name} {size(n)}" for name, n in found["disk"].items())
    more = ", and videos, whose size is not known before a calibration" if unknown_videos else ""
    lines.append(f"disk {size(sum(found['disk'].values()))} ({files}){more}")
    lines.append(f"latents in the object store {size(found['store']['states'])}")
    return lines


def headline(f: Forecast) -> str:
    """One line about one fleet."""
    busy = f"{f.bottleneck}s run for {f.busy(f.bottleneck):.0%} of it"
    spent = f"{ranged(f, lambda r: r.hours, amount)} {hours_unit(f)}"
    nfe = ranged(f, lambda r: r.nfe, lambda v: f"{v:,.0f}")
    return f"plan: {ranged(f, lambda r: r.total, duration)} on {f.name}, {spent}, {nfe} NFE; {busy}"


def counts(f: Forecast) -> str:
    """How many searches there are, and their NFE alone and shared."""
    searches = sum(a.searches for a in f.runs[0].arms.values())
    alone, shared = (ranged(f, of, lambda v: f"{v:,.0f}") for of in (lambda r: r.charged, lambda r: r.nfe))
    return f"{searches:,} searches - NFE {alone} alone, {shared} shared"


def arm_lines(f: Forecast) -> list[str]:
    """The NFE of one search of each arm."""
    lines = []
    for name in f.runs[0].arms:

        def each(r: Rehearsed, name: str = name) -> float:
            return float(r.arms[name].nfe / max(r.arms[name].searches, 1))

        lines.append(f"{name} {ranged(f, each, lambda v: f'{v:,.0f}')}")
    return lines


def as_json(
    forecasts: Sequence[Forecast], bounds: Bounds, said: Sequence[str], found: Any, more: Any
) -> dict[str, Any]:
    """All that is printed, as plain values; seconds, hours and money at p10, p50 and p90."""

    def three(f: Forecast, of: Callable[[Rehearsed], float]) -> list[float]:
        return [f.mid(of, q) for q in (0.1, 0.5, 0.9)]

    fleets = []
    for f in forecasts:
        values = {
            "fleet": f.name,
            "denoisers": f.config.fleet.denoisers.most,
            "scorers": f.config.fleet.scorers.most,
            "slots": f.config.fleet.denoisers.slots,
            "store_gb": f.config.fleet.store_gb,
            "draws": len(f.runs),
            "startup_s": f.mid(lambda r: r.startup),
            "wall_s": three(f, lambda r: r.total),
            "hours": three(f, lambda r: r.hours),
            "hours_of": hours_unit(f).removesuffix("-h"),
            "nfe": three(f, lambda r: r.nfe),
            "nfe_alone": three(f, lambda r: r.charged),
            "nfe_again": f.mid(lambda r: r.again),
            "evicted": f.mid(lambda r: r.evicted),
            "store_bytes": f.mid(lambda r: r.store_most),
            "busy": {k: f.busy(k) for k in f.runs[0].use},
            "bottleneck": f.bottleneck,
            "last_5_percent": f.mid(lambda r: r.straggling),
            "arms": {name: asdict(a) for name, a in f.runs[0].arms.items()},
        }
        if bounds.price is not None:
            values["money"] = [v * bounds.price for v in three(f, lambda r: r.hours)]
        if bounds.deadline is not None:
            values["fits_deadline"] = f.mid(lambda r: r.total, 0.9) <= bounds.deadline
        if bounds.budget is not None and bounds.price is not None:
            values["fits_budget"] = f.mid(lambda r: r.hours, 0.9) * bounds.price <= bounds.budget
        fleets.append(values)
    return {"fleets": fleets, "bounds": asdict(bounds), "needs": found, "warnings": list(said), **more}
