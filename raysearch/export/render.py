"""Candidates of a run made again from their recipes, and their videos written; the run itself is only read.

A candidate's recipe is found by running the policy of its search against the journal's answers, as a resumed run does:
what the policy asks for again has the recorded names. So a winner's video comes out as the run wrote it, bit for bit in
the exact mode, and a candidate that the search had given up shows what it would have become.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from raysearch.config import config as configuration
from raysearch.config import prompts
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.engine import Engine
from raysearch.engine.protocol import Fleet, Outputs
from raysearch.engine.sharing import Spent, gather
from raysearch.engine.store import Store
from raysearch.errors import ConfigError, FolderError, NoReplica, check, plain, told
from raysearch.files import Folder
from raysearch.parquet import run_table
from raysearch.recipe.candidate import Candidate
from raysearch.session import about, encoders, replay
from raysearch.session.directory import CONFIG, JOURNAL, check_content
from raysearch.session.journal import MISREAD
from raysearch.session.plan import Backend, Plan, Search, content_of, outputs, run_policy, searches

FREE = ("fleet", "output")  # the keys that a render may have otherwise than its run
FOLDER = "rendered"
SEARCHED = ("search_id", "arm", "winner", "trials", "status")
CANDIDATES = ("search_id", "candidate", "part", "step", "sigma", "trajectory", "by", "reward")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pick:
    """A candidate to render, by its id in the tables, and a search that asked for it."""

    candidate: str
    search_id: str


def named(run_dir: Path, prefix: str) -> Pick:
    """The candidate whose id begins so: a winner's, or one of candidates.parquet. Raises ConfigError."""
    found: dict[str, str] = {}
    for name, column in (("searches.parquet", "winner"), ("candidates.parquet", "candidate")):
        for row in run_table(run_dir, name, ("search_id", column)).to_pylist():
            if row[column] is not None and row[column].startswith(prefix.lower()):
                found.setdefault(row[column], row["search_id"])
    check(bool(prefix and found), "--candidate", prefix, "the id of a candidate of this run, or how it begins")
    some = ", ".join(sorted(found)[:3])
    check(len(found) == 1, "--candidate", prefix, f"how one id begins: so do {len(found)}, such as {some}")
    return Pick(*next(iter(found.items())))


def highest(run_dir: Path, k: int, *, arm: str | None = None, by: str = "reward") -> list[Pick]:
    """The k trajectories with the highest last value in a column of candidates.parquet, each by its last candidate.

    The scores of rewards.early count only where a trajectory has no others. In a long video those of the last part that
    a search reached count. Of equals the earlier row comes first. Raises ConfigError.
    """
    check(k >= 1, "--top", k, "at least 1")
    arms = {r["search_id"]: r["arm"] for r in run_table(run_dir, "searches.parquet", SEARCHED).to_pylist()}
    names = dict.fromkeys(arms.values())
    check(arm is None or arm in names, "--arm", arm, f"one of {', '.join(names)}")
    last: dict[tuple[str, str], dict[str, Any]] = {}
    parts: dict[str, int] = {}
    for r in scored(run_dir, by):
        if arm in (None, arms.get(r["search_id"])) and r[by] is not None:
            parts[r["search_id"]] = max(parts.get(r["search_id"], 0), r["part"])
            before = last.get((r["search_id"], r["trajectory"]))
            if before is None or r["by"] == "search" or before["by"] == "early":
                last[r["search_id"], r["trajectory"]] = r
    shown = [r for r in last.values() if r["part"] == parts[r["search_id"]]]
    ranked = sorted(shown, key=lambda r: (r["by"] == "early", -r[by]))
    found: dict[str, Pick] = {}
    for r in ranked:
        found.setdefault(r["candidate"], Pick(r["candidate"], r["search_id"]))
    check(len(found) > 0, "RUN_DIR", str(run_dir), f"the folder of a run with scored candidates ({by})")
    return list(found.values())[:k]


def scored(run_dir: Path, by: str) -> list[dict[str, Any]]:
    """The rows of candidates.parquet with a score, where `by` is a column of finite numbers. Raises ConfigError."""
    table = run_table(run_dir, "candidates.parquet", CANDIDATES, more=True)
    numbers = [f.name for f in table.schema if str(f.type) == "double"]
    check(by in numbers, "--by", by, f"one of {', '.join(numbers)}")
    values = np.array(table[by].drop_null())
    check(bool(np.isfinite(values).all()), "--by", by, "a column of finite numbers")
    return table.filter(pc.is_valid(table["by"])).to_pylist()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Recipes:
    """Candidates of a run that can be made again: each by its id, with its search; and the run's config and plan."""

    config: Config
    plan: Plan
    digest: str  # of the config with which the run began
    found: dict[str, tuple[Search, Candidate]]


def config_of(run_dir: Path, overrides: Sequence[str]) -> tuple[Config, Config]:
    """The config with which a run began, and that with overrides of keys that are free. Raises ConfigError."""
    for o in overrides:
        key = o.partition("=")[0]
        allowed = f"left out: a render has its run's config, but for {' and '.join(f'{k}.*' for k in FREE)}"
        check(key.partition(".")[0] in FREE, key, o.partition("=")[2], allowed)
    run_dir = run_dir.expanduser()
    check((run_dir / CONFIG).is_file(), "RUN_DIR", str(run_dir), f"the folder of a run, with {CONFIG}")
    values = [read(run_dir / CONFIG, given, Config, resolve=False) for given in ((), overrides)]
    return configuration.build(values[0]), configuration.build(values[1])


def recipes(
    run_dir: Path, picks: Iterable[Pick], backend: Backend, overrides: Sequence[str] = (), *, say: Say = print
) -> Recipes:
    """The recipes of candidates, as the policies of their searches ask for them again. No model is loaded.

    Raises ConfigError if the model, the rewards or the like have changed since the run began, or nothing is found.
    """
    run_dir = run_dir.expanduser()
    Folder(run_dir).check()
    begun, config = config_of(run_dir, overrides)
    entries = prompts.load(config)
    plan = backend.prepare(config, configuration.arms(config), begun)
    check_content(run_dir, content_of(plan, entries))
    asked: dict[str, list[str]] = defaultdict(list)
    for pick in picks:
        asked[pick.search_id].append(pick.candidate)
    trials = {r["search_id"]: r["trials"] for r in run_table(run_dir, "searches.parquet", SEARCHED).to_pylist()}
    try:
        past = replay.read(run_dir / JOURNAL, plan, lambda search_id: Outputs(mp4=search_id in asked))
    except MISREAD as error:
        raise ConfigError.of("RUN_DIR", str(run_dir), f"a folder whose journal can be read ({told(error)})") from error
    found: dict[str, tuple[Search, Candidate]] = {}
    for s in searches(plan, entries, config.seeds, apart=config.noises_apart):
        if s.id in asked and s.id in trials:
            made = asyncio.run(_asked_again(s, past, trials[s.id]))
            found |= {i: (s, made[i]) for i in asked[s.id] if i in made}
    for search_id, ids in asked.items():
        for i in (i for i in ids if i not in found):
            say(f"{i} cannot be made again: the policy of {plain(search_id)} does not ask for it any more")
    check(len(found) > 0, "RUN_DIR", str(run_dir), "the folder of a run whose candidates can be made again")
    return Recipes(config, plan, about.config_digest(begun), found)


async def _asked_again(s: Search, past: replay.Past, trials: int) -> dict[str, Candidate]:
    """The videos that a search's winner, the candidates that it scored, and their ancestors become, by their ids."""
    ctx = replay.answered(s, past, time.monotonic, trials)
    made: dict[str, Candidate] = {}
    with suppress(Exception):  # of a search that failed or was cut short: what it asked until then counts
        winner, _ = await run_policy(s, ctx)
        made[winner.id] = winner
    scored = [row.candidate for row in ctx.history.rows]
    asked = {c.id: c for x in scored for c in (x, *x.ancestors())}
    return {i: ctx.complete([x])[0] for i, x in asked.items()} | made


async def render(r: Recipes, backend: Backend, where: Path, *, latents: bool = False, say: Say = print) -> int:
    """Write the videos of candidates to a folder, named by the candidates' ids; the number of those that failed.

    Files that are there are kept. With `latents` a safetensors file is beside each video. Raises ConfigError where the
    folder cannot be written, and NoReplica if the fleet is gone.
    """
    whole = outputs(replace(r.config.output, videos=True, posters=False, latents=latents, frames=False), r.plan)
    left = {i: _lacking(where, i, whole) for i in r.found}
    todo = {i: o for i, o in left.items() if o.asked}
    if len(todo) < len(left):
        say(f"{len(left) - len(todo)} of {len(left)} candidates are in {where} already")
    if not todo:
        return 0
    with _writing(where):
        where.mkdir(parents=True, exist_ok=True)
    of = [r.found[i][0] for i in todo]
    kept = encoders.embeddings(r.config, r.plan, of)
    config, _ = encoders.needed(r.config, kept, of, say)
    plan = replace(r.plan, details=r.plan.details | {"rewards": ()})  # nothing is judged: scorers load no reward
    failed = 0

    async def one(age: int, candidate: str, wanted: Outputs) -> None:
        nonlocal failed
        s, x = r.found[candidate]
        spent = Spent(age)
        said = replace(wanted, title=s.prompt.title, comment=about.comment(s, x, r.digest))
        try:
            finished = await engine.finish(x, [], said, spent)
        except NoReplica:
            raise
        except Exception as error:
            failed += 1
            say(f"{candidate}: {told(error)}")
        else:
            with _writing(where):
                for extension, content in finished.files.items():
                    Folder(where).write(f"{candidate}.{extension}", content)
                    say(str(where / f"{candidate}.{extension}"))
        engine.forget(spent)

    async with (
        backend.fleet(config, plan, say) as fleet,
        Dispatcher.open(fleet.replicas) as dispatcher,
        asyncio.TaskGroup() as tasks,
    ):
        kept = kept and replace(kept, put=fleet.condition)
        engine = Engine(dispatcher, Store(int(config.fleet.store_gb * 1e9)), fleet.fetch, tasks, embeddings=kept)
        joining = tasks.create_task(_welcome(fleet, dispatcher))
        await gather((one(i, *item) for i, item in enumerate(todo.items())), 2 * dispatcher.tally.slots["denoiser"])
        joining.cancel()
    return failed


def file_of(where: Path, candidate: str, *extensions: str) -> Path | None:
    """The file of a candidate in a folder of rendered ones, of the first extension that there is."""
    return next((p for e in extensions if (p := where / f"{candidate}.{e}").is_file()), None)


def _lacking(where: Path, candidate: str, whole: Outputs) -> Outputs:
    there: dict[str, Any] = {k: False for k in whole.asked if file_of(where, candidate, k)}
    return replace(whole, **there)


async def _welcome(fleet: Fleet, dispatcher: Dispatcher) -> None:
    async for replica in fleet.arrivals():
        dispatcher.join(replica)


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """Raise ConfigError in place of an OSError: the folder cannot be written."""
    try:
        yield
    except OSError as error:
        cause = error.__cause__ if isinstance(error, FolderError) else error
        raise ConfigError.of("--to", str(where), f"a folder that can be written ({cause})") from error
