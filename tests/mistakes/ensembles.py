"""Ensembles of rewards, and rewards that read a part of a video."""

from mistakes import Mistake
from mistakes.arms import REWARDS


def ensemble(more: str, line: str, of: str = "{name: pixel}, {name: verifier}") -> Mistake:
    """A config that searches by an ensemble of members `of`; `more` is what else its block says."""
    block = f"{{name: ensemble, of: [{of}]{f', {more}' if more else ''}}}"
    return Mistake([f"rewards.search={block}"], f"rewards.search.{line}", heavy=True)


TABLE = [
    Mistake(
        "rewards.search=[3]", "rewards.search: [3] is not allowed; it must be a mapping such as {name: pixel}, ..."
    ),
    Mistake(
        ["rewards.search=[{name: pixel}, {name: pixl}]"],
        f"rewards.search.of[1].name: no reward 'pixl' (did you mean 'pixel'?); {REWARDS}",
    ),
    Mistake(
        ["rewards.search={name: ensemble, of: pixel}"],
        "rewards.search.of: 'pixel' is not allowed; it must be a list of rewards, each a mapping with a name",
    ),
    Mistake(
        ["rewards.search={name: ensemble, of: [{name: pixel}, {name: verifier}], weight: 2}"],
        "rewards.search.weight: 2 is not allowed; it must be a key of the ensemble's members",
    ),
    ensemble(
        "", "of: [{'name': 'pixel'}] is not allowed; it must be a list of at least two rewards", of="{name: pixel}"
    ),
    ensemble("normalise: mean", "normalise: 'mean' is not allowed; it must be one of none, zscore, rank"),
    ensemble("normalise: zscore", "calibration: None is not allowed; it must be the folder of a run"),
    ensemble("calibration: run", "calibration: 'run' is not allowed; it must be left out unless normalise is zscore"),
    ensemble(
        "normalise: zscore, calibration: nowhere",
        "calibration: 'nowhere' is not allowed; it must be the folder of a run, with its candidates.parquet",
    ),
    ensemble("weights: {a: 1}", "weights: {'a': 1} is not allowed; it must be a key of the ensemble's members"),
    ensemble(
        "",
        "of: 'pixel_VQ' is not allowed; it must be columns of different names: ...",
        of="{name: pixel}, {name: pixel}",
    ),
    ensemble(
        "",
        "of[1].label: 'a b' is not allowed; it must be a name of 1 to 40 letters, digits and _",
        of="{name: pixel}, {name: pixel, label: a b}",
    ),
    ensemble(
        "",
        "of[0].weight: '2' is not allowed; it must be a finite number",
        of="{name: pixel, weight: '2'}, {name: verifier}",
    ),
    ensemble(
        "combine: min",
        "of[0].weight: 2 is not allowed; it must be left out with combine: min",
        of="{name: pixel, weight: 2}, {name: verifier}",
    ),
    ensemble(
        "",
        "of[0].name: 'ensemble' is not allowed; it must be a reward: ensembles have no ensembles",
        of="{name: ensemble, of: [{name: pixel}]}, {name: pixel}",
    ),
    Mistake(
        ["rewards.final={name: ensemble, of: [{name: pixel}, {name: verifier}], normalise: rank}"],
        "rewards.final.normalise: 'rank' is not allowed; it must be none or zscore: winners are judged one by one",
        heavy=True,
    ),
    Mistake(
        [
            "rewards.search={name: ensemble, of: [{name: pixel}, {name: verifier}], normalise: rank}",
            "policy={name: sequential, looks: [2], bars: [0.5]}",
        ],
        "rewards.search.normalise: 'rank' is not allowed; it must be none or zscore: sequential scores its candidates "
        "one at a time, and one alone has no rank",
        heavy=True,
    ),
    Mistake(
        ["rewards.compare=[{name: pixel}, {name: verifier}]"],
        "rewards.compare.name: 'ensemble' is not allowed; it must be a reward that compares, or one reward",
        heavy=True,
    ),
    Mistake(
        ["rewards.search={name: pixel, label: a}"],
        "rewards.search.label: 'a' is not allowed; it must be a key of an ensemble's members",
        heavy=True,
    ),
    # parts of videos
    Mistake(
        ["rewards.search={name: pixel, first_latent_frames: 4}"],
        "rewards.search.first_latent_frames: 4 is not allowed; it must be a whole number in 1..3, the latent ...",
        heavy=True,
    ),
    Mistake(
        ["rewards.search={name: pavrm, first_latent_frames: 1}"],
        "rewards.search.first_latent_frames: 1 is not allowed; it must be left out: this reward reads no frames",
        heavy=True,
    ),
    Mistake(
        ["rewards.search={name: motion, first_latent_frames: 1}"],
        "rewards.search.model.num_frames: 1 is not allowed; it must be at least 2 for this reward, ...",
        heavy=True,
    ),
    ensemble(
        "first_latent_frames: 1", "first_latent_frames: 1 is not allowed; it must be a key of the ensemble's members"
    ),
]
