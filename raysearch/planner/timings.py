"""How long one replica takes for each thing that it does, in seconds; and the files that calibrations write.

A file holds an entry for each device, model, shape, dtype and set of versions that was measured, so that calibrations
of several machines can share one file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from raysearch.errors import ConfigError, check
from raysearch.files import replace_file

FORMAT = 1  # of a file of timings
NUMBERS = ("preview", "leg", "encode", "decode", "compare", "finish", "item", "picture")  # of an entry's seconds
KEY = ("device", "model", "shape", "dtype", "slots", "versions")  # an entry's fields that say what was measured
HOW = "give --timings FILE, which `raysearch calibrate CONFIG` writes, or of an earlier run RUN_DIR; or --step SECONDS"


@dataclass(frozen=True)
class Timings:
    """Seconds on one replica. Absent means that it takes no time.

    `forward` is what one evaluation of the model takes for so many candidates together, all of them; both halves of
    guidance are two evaluations. `rewards` are by their keys, `other_rewards` holds for the others. `finish` is what a
    winner's files take beside decoding and its judges. `spread` are quantiles, evenly spaced, of durations over their
    mean.
    """

    forward: Mapping[int, float]
    preview: float = 1.0  # an evaluation at a candidate's own point, over one that a solver step follows
    leg: float = 0.0  # of an item of a denoiser beside its evaluations: to begin it, and to hand its state over
    load: Mapping[str, float] = field(default_factory=dict)  # by kind of replica
    encode: float = 0.0
    decode: float = 0.0
    rewards: Mapping[str, float] = field(default_factory=dict)
    other_rewards: float = 0.0
    compare: float = 0.0  # beside the decodes and the rewards
    finish: float = 0.0
    picture: float = 0.0  # of a decoded candidate, small, for the preview that a look leaves
    item: float = 0.0  # until an item's answer is back, beside what its replica does
    state: Mapping[str, int] = field(default_factory=dict)  # measured bytes: whole, velocity
    peak: Mapping[str, int] = field(default_factory=dict)  # bytes beside the weights, by kind of replica
    video: int | None = None  # bytes of an mp4
    cores: int | None = None  # of a machine, which its replicas share; None where each has a device of its own
    spread: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by what is done: denoise, look, finish ...
    source: str = "by hand"

    def evaluation(self, candidates: int) -> float:
        """Seconds of one evaluation for so many candidates together; between measured numbers a straight line.

        Beyond the most that was measured each candidate adds as much as between the last two, and from a single number
        on each takes as long as one alone does.
        """
        known = sorted(self.forward)
        if candidates in self.forward:
            return self.forward[candidates]
        if len(known) == 1:
            return self.forward[known[0]] * candidates / known[0]
        upper = next((i for i, n in enumerate(known) if n > candidates), len(known) - 1)
        low, high = known[max(upper, 1) - 1], known[max(upper, 1)]
        a, b = self.forward[low], self.forward[high]
        return max(a + (b - a) * (candidates - low) / (high - low), a * candidates / low if candidates < low else a)

    def reward(self, key: str) -> float:
        """Seconds of a reward of one candidate, without decoding it."""
        return self.rewards.get(key, self.other_rewards)


def check_hand(step: float | None, decode: float | None, score: float | None) -> None:
    """Raises ConfigError for what are no seconds."""
    for name, value in (("--step", step), ("--decode", decode), ("--score", score)):
        check(value is None or (isfinite(value) and value >= 0), name, value, "seconds, such as 2.4")
    check(step != 0, "--step", step, "seconds above 0, such as 2.4")


def by_hand(
    base: Timings | None, nfe_per_step: int, step: float | None, decode: float | None, score: float | None
) -> Timings:
    """Timings as a user gives them, over `base` where there are others. Raises ConfigError without any.

    A step is of one candidate that has its replica for itself, both halves of guidance together. Slots share a
    replica, so that two candidates take twice as long.
    """
    if base is None:
        if step is None:
            raise ConfigError(f"--timings: no timings are known; {HOW}")
        base = Timings({1: step / nfe_per_step})
    elif step is not None:
        base = replace(base, forward={1: step / nfe_per_step}, source=f"{base.source}, and by hand")
    if decode is not None:
        base = replace(base, decode=decode)
    if score is not None:
        base = replace(base, rewards={}, other_rewards=score)
    return base


# -- files -----------------------------------------------------------------------------------------------------------


def merged(file: Path, entry: dict[str, Any]) -> None:
    """Write an entry to a file of timings, in place of one of the same key; other entries stay. Raises ConfigError."""
    others = entries(file, "--to") if file.exists() else []
    same = [e for e in others if all(e.get(k) == entry[k] for k in KEY)]
    kept = [e for e in others if e not in same]
    for e in same:  # of another config's rewards
        entry["seconds"]["rewards"] = e["seconds"]["rewards"] | entry["seconds"]["rewards"]
    text = json.dumps({"timings": FORMAT, "entries": [*kept, entry]}, indent=1) + "\n"
    check(replace_file(file, text.encode()), "--to", str(file), "a file that can be written")


def read(file: Path, wanted: Mapping[str, Any], here: str) -> Timings:
    """The timings of a file's entry that fits `wanted`, the fields of its key that must be equal. Raises ConfigError.

    Of several devices, that of this machine, `here`, counts; of several entries the latest.
    """
    fits = [e for e in entries(file) if all(e.get(k) == v for k, v in wanted.items())]
    if not fits:
        said = ", ".join(f"{k} {v}" for k, v in wanted.items())
        raise ConfigError(f"--timings: {str(file)!r} has no entry of {said}; `raysearch calibrate CONFIG` makes one")
    devices = {str(e["device"]) for e in fits}
    own = [e for e in fits if e["device"] == here] or fits
    allowed = f"a file with one device, or with this machine's, {here}; it has {', '.join(sorted(devices))}"
    check(len({e["device"] for e in own}) == 1, "--timings", str(file), allowed)
    return _timings(file, own[-1])


def entries(file: Path, key: str = "--timings") -> list[dict[str, Any]]:
    """The entries of a file of timings. Raises ConfigError, which names `key`."""
    try:
        found = json.loads(file.read_bytes())
        held = found["entries"]
        whole = found["timings"] == FORMAT and all(_is_entry(e) for e in held)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        held, whole = [], False
    allowed = "a file that `raysearch calibrate` has written"
    check(whole, key, str(file), allowed + (", or the folder of a run" if key == "--timings" else ""))
    return list(held)


def _is_entry(found: Any) -> bool:
    keyed = isinstance(found, dict) and all(k in found for k in (*KEY, "seconds"))
    return keyed and isinstance(found["device"], str)


def _timings(file: Path, entry: dict[str, Any]) -> Timings:
    """The timings of an entry. Raises ConfigError for one that is damaged."""
    try:
        s = entry["seconds"]
        forward = {int(k): float(v) for k, v in s["forward"].items()}
        numbers = {k: float(s[k]) for k in NUMBERS}
        preview, leg, encode, decode, compare, finish, item, picture = numbers.values()
        made = Timings(
            forward,
            preview,
            leg,
            encode=encode,
            decode=decode,
            compare=compare,
            finish=finish,
            item=item,
            picture=picture,
            load={k: float(v) for k, v in s["load"].items()},
            rewards={k: float(v) for k, v in s["rewards"].items()},
            state={k: int(v) for k, v in entry["state"].items()},
            peak={k: int(v) for k, v in entry["peak"].items()},
            video=None if entry["video"] is None else int(entry["video"]),
            cores=None if entry.get("cores") is None else int(entry["cores"]),
            source=f"{file.name}: {entry['device']}, {entry['date']}",
        )
        values = [*forward.values(), *numbers.values(), *made.load.values(), *made.rewards.values()]
        values += [
            *made.state.values(),
            *made.peak.values(),
            made.video or 0,
            1 if made.cores is None else made.cores - 1,
        ]
        whole = min(forward) > 0 and min(forward.values()) > 0 and all(isfinite(v) and v >= 0 for v in values)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):  # the last of a number such as 1e999
        whole = False
    check(whole, "--timings", str(file), "a file whose entries are whole")
    return made
