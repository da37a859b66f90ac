"""Every config that ships is one that its command takes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.tiny.training import latents
from actors.training import config as train
from actors.training import prfl_config as prfl
from raysearch.config import config as configuration
from raysearch.config.config import Config
from raysearch.config.reading import read
from raysearch.session import dataset
from raysearch.sweep import grid as sweep

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(set((ROOT / "configs").glob("*.yaml")) - {ROOT / "configs" / "rayjob.yaml"})  # Kubernetes' own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_valid(path, tmp_path):
    values = read(path, [], Config)
    if "sweep" in values:
        sweep.load(path)
    elif "collect" in values:
        dataset.load(path)
    elif "reward" in values and "model" not in values:
        columns = {"prompt": ["a"], "first": [False], "latent": dataset.tensors(np.zeros((1, 8, 5, 8, 8)))}
        numbers = {k: [0.0] for k in ("sigma", "similarity", "VQ", "MQ", "TA")}
        pq.write_table(pa.table(columns | numbers), tmp_path / "train-00000.parquet")
        train.load(path, [f"dataset={tmp_path}"])
    elif "reward" in values:
        latents.write(tmp_path, ["a"], np.zeros((1, 8, 5, 8, 8)))
        prfl.load(path, [f"dataset={tmp_path}"])
    else:
        configuration.load(path)
