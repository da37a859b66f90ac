"""Data collection is a search like any other: it keeps each winner's latents on its way, and what became of them.

A collection's config is an ordinary one whose `rewards.final` grades the finished videos, with a block `collect`:

    collect: {levels: [0.9, 0.8, 0.6, 0.4, 0.2], train: 0.8}

Every rollout has a noise of its own: prompt i has the seeds of the first prompt moved on by i times their range, since
a reward that is trained on few noises learns these by heart.
"""

from collections.abc import Sequence
from pathlib import Path

from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.errors import check
from raysearch.session import dataset


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The collection of a file with `key=value` overrides. Raises ConfigError."""
    values = configuration.read(path, overrides)
    check("sweep" not in values, "sweep", str(path), "left out of a collection")
    config = configuration.build({"resume": "auto"} | values | {"collect": values.get("collect") or {}})
    assert config.collect is not None
    levels, train = config.collect.levels, config.collect.train
    check(len(levels) > 0, "collect.levels", levels, "a list of at least one noise level")
    check(all(0 < level <= 1 for level in levels), "collect.levels", levels, "above 0 and at most 1")
    check(len(set(levels)) == len(levels), "collect.levels", levels, "without repetition")
    check(0 < train < 1, "collect.train", train, "a share of the captions, between 0 and 1")
    first, *others = configuration.arms(config)
    final = first.rewards.final
    check(final is not None, "rewards.final", None, f"the reward that grades finished videos (arm {first.name})")
    for arm in others:
        same = arm.rewards.final == final
        check(same, "rewards.final", arm.rewards.final, f"the same in all arms: {arm.name}'s is not {first.name}'s")
    return config


def write(config: Config, run_dir: Path, *, complete: bool) -> str:
    """Write the dataset of a run, and say what is in it. Raises ConfigError where no latents were kept."""
    assert config.collect is not None
    rows = dataset.write(run_dir, train=config.collect.train, complete=complete)
    without = dataset.left_out(run_dir)
    kept = sum(rows.values()) > 0 or without == 0
    check(kept, "collect.levels", config.collect.levels, "such that winners pass some of them on their own: none did")
    left_out = f"; {without} winners are left out, which passed none of the levels on their own" if without else ""
    return ", ".join(f"{n} {split}" for split, n in rows.items()) + f" rows in {run_dir / dataset.FOLDER}{left_out}"
