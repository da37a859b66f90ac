"""Mistakes in blocks of real rewards, and in the command that converts their weights."""

from mistakes import Mistake

NAME = "NAME: {} is not allowed; it must be a reward with a converter: ..."
TABLE = [
    Mistake("reward", "the following arguments are required: ...; usage: raysearch reward ..."),
    Mistake(
        "reward invert videoalign in out",
        "argument action: invalid choice: 'invert' (choose from 'convert'); usage: raysearch reward ...",
    ),
    Mistake("reward convert near in out", NAME.format("'near'"), heavy=True),
    Mistake("reward convert videoaling in out", "NAME: no reward 'videoaling'...'videoalign'...", heavy=True),
    Mistake(
        "reward convert hps3 in out", "SOURCE: 'in' is not allowed; it must be an existing file or folder", heavy=True
    ),
    Mistake(
        "reward convert hps3 config.yaml config.yaml",
        "OUT: 'config.yaml' is not allowed; it must be a folder that does not exist yet",
        heavy=True,
    ),
    Mistake(
        "reward convert videoalign config.yaml out",
        "--base: None is not allowed; it must be the folder of Qwen2-VL-2B-Instruct",
        heavy=True,
    ),
    *(
        Mistake(
            f"rewards.search.name={name} rewards.search.folder=./none",
            "rewards.search.folder: './none' is not allowed; it must be an existing folder, or a hub id: ...",
            heavy=True,
        )
        for name in ("videoalign", "hps3", "vqa")
    ),
    Mistake("rewards.search.name=vqa", "rewards.search.folder...", heavy=True),
    Mistake(
        "rewards.search.name=videoalign rewards.search.folder=. rewards.search.fps=0",
        "rewards.search.fps: 0 is not allowed; it must be ...",
        heavy=True,
    ),
]
