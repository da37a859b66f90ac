"""Searches from the command line with VideoReward, HPSv3 and VQAScore of toy size, as their converters write them."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import toy_rewards as toys

from actors.rewards import hps3, videoalign
from raysearch.__main__ import main

ROOT = Path(__file__).parents[2]


def converted(folder: Path, name: str) -> str:
    """The folder of a reward of toy size."""
    if name == "vqa":
        toys.qwen(folder / "out", "qwen2_5_vl")
        return str(folder / "out")
    (toys.videoreward if name == "videoalign" else toys.hps3)(folder / "source")
    module, digest = (videoalign, toys.SHA256) if name == "videoalign" else (hps3, toys.HPS_SHA256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TEMPLATE_SHA256", digest)
        base = toys.base(folder / "base")
        assert main(["reward", "convert", name, *map(str, (folder / "source", folder / "out", "--base", base))]) == 0
    return str(folder / "out")


@pytest.mark.parametrize(
    ("name", "components"),
    [("videoalign", ("VQ", "MQ", "TA")), ("hps3", ("hps3",)), ("vqa", ("vqa",))],
)
def test_best_of_n_picks_by_the_reward(tmp_path, name, components):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{path: {ROOT}/actors/assets/tiny-wan, height: 32, width: 32, num_frames: 9}}\n"
        "sampler: {num_steps: 3}\n"
        f"rewards: {{search: {{name: {name}, folder: {converted(tmp_path, name)}, dtype: float32}}}}\n"
        "prompts: [a red circle moving left]\n"
        "policy: {name: best_of_n, n: 3}\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / 'run'}\n"
    )
    assert main(["run", str(config)]) == 0
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert row["reason"] == ""
    seen = pq.read_table(tmp_path / "run" / "candidates.parquet").to_pylist()
    totals = [sum(c[k] for k in components) for c in seen]
    assert len(set(totals)) == 3
    assert row["reward_search"] == pytest.approx(max(totals))
