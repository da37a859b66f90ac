"""What the encoders of a run will be asked for, which is known before it starts: so whether it needs any, and how long.

Whatever shows a picture, and the frames that a chunk of a long video goes on from, are encoded while searches run. All
else are texts, and their embeddings are kept on disk.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from raysearch.config.cache import embeddings_folder
from raysearch.config.config import Config
from raysearch.engine import requests
from raysearch.engine.dispatcher import Dispatcher
from raysearch.engine.embeddings import Embeddings
from raysearch.engine.engine import IN_FLIGHT, Engine
from raysearch.engine.protocol import Encode, Fleet, What
from raysearch.engine.sharing import Spent, gather
from raysearch.errors import check
from raysearch.recipe.candidate import Candidate
from raysearch.session.plan import Plan, Search


def foreseen(searches: Iterable[Search], kept: Embeddings) -> tuple[list[What], str]:
    """The texts that searches will ask encoders for, the oldest search's first; and in words what else, or nothing."""
    texts: dict[bytes, What] = {}
    more: dict[str, None] = {}
    for s in searches:
        points = [p for b in s.plan.obstacles if b.obstacle for p in b.obstacle.points]
        made = [(p.prompt, p.sampler) for p in points if isinstance(p, Candidate)]
        more |= {"obstacles that are pictures or videos": None} if len(made) < len(points) else {}
        more |= {"long.anew=true": None} if s.plan.long.parts > 1 and s.plan.long.anew else {}
        for what in [w for x in ((s.prompt, s.plan.sampler), *made) for w in requests.conditions(*x)]:
            if (key := kept.key(what)) is None:
                more["first frames"] = None
            else:
                texts.setdefault(key, what)
    return list(texts.values()), " and ".join(more)


def embeddings(config: Config, plan: Plan, searches: Iterable[Search]) -> Embeddings | None:
    """Where embeddings of texts are kept; None where they are not.

    Raises ConfigError where the folder cannot be written, and if encoders are to be released that are asked for more.
    """
    folder, releases = embeddings_folder(config.fleet.encoders), config.fleet.encoders.release
    kept = Embeddings(folder, plan.encoding) if folder and plan.encoding else None
    more = foreseen(searches, kept)[1] if kept and releases else ""
    check(not more, "fleet.encoders.release", True, f"false with {more}, which are encoded while searches run")
    return kept


def needed(
    config: Config, kept: Embeddings | None, searches: Iterable[Search], report: Callable[[str], None]
) -> tuple[Config, list[What]]:
    """The config of the fleet, without encoders if these searches need none; and the texts to encode for a release.

    Every file is read, so that a damaged one is found while there is an encoder.
    """
    texts, more = foreseen(searches, kept) if kept else ([], "all")
    missing = [what for what in texts if kept and not kept.arrays(what)]
    if missing or more:
        return config, missing if config.fleet.encoders.release else []
    report(f"no encoder is started: the embeddings of all texts ({len(texts)}) are there")
    return replace(config, fleet=replace(config.fleet, encoders=replace(config.fleet.encoders, replicas=0))), []


async def release(
    texts: Sequence[What], engine: Engine, dispatcher: Dispatcher, fleet: Fleet, report: Callable[[str], None]
) -> None:
    """Encode texts, if there are any, and end the encoders. They stay if a text cannot be encoded, or not be kept."""
    if not texts:
        return
    with suppress(Exception):  # the search that asks for such a text fails, and no other
        await gather((engine.encoded(what, Spent()) for what in texts), IN_FLIGHT * dispatcher.tally.slots[Encode.kind])
    kept = engine.embeddings
    if all(kept and kept.arrays(what) for what in texts) and dispatcher.retire(Encode.kind):
        await fleet.release(Encode.kind)
        report("encoders are released: every text is encoded")
    else:
        report("encoders are not released: not every text could be encoded, and its embedding be kept")
