"""What modules of this tier share: a browser, and for PRFL an untrained reward, clean latents and a config."""

import browser
import numpy as np
import pytest
import torch
import yaml

from actors.rewards import pavrm
from actors.tiny.training import latents
from actors.training import prfl_config as configs

SIZE = {"height": 16, "width": 16, "num_frames": 5, "max_sequence_length": 16}
SHAPE = (4, 2, 4, 4)


@pytest.fixture(scope="module")
def judge(tiny, tmp_path_factory):
    """An untrained PAVRM over the toy model."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("rewards") / "pavrm"
    pavrm.save(pavrm.of_model(tiny, blocks=1, heads=2, widths=(8,)), folder, half=False)
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Latents of "clips" with captions."""
    folder = tmp_path_factory.mktemp("data") / "clean"
    z = np.random.default_rng(0).standard_normal((40, *SHAPE)).astype(np.float32)
    latents.write(folder, [f"clip {i}" for i in range(40)], z, rows=20)
    return folder


@pytest.fixture
def load(tiny, judge, clean, tmp_path):
    def loaded(**values):
        base = {
            "model": {"path": str(tiny), **SIZE},
            "sampler": {"name": "unipc", "num_steps": 5, "guidance_scale": 2.0},
            "reward": {"folder": str(judge)},
            "prompts": ["a", "bc", "d"],
            "dataset": str(clean),
            "steps": 4,
            "batch": 2,
            "every": 2,
            "run_dir": str(tmp_path / "run"),
        }
        path = tmp_path / "c.yaml"
        path.write_text(yaml.safe_dump(base | values))
        return configs.load(path)

    return loaded


@pytest.fixture(scope="module")
def chromium(runs):
    """A browser. A module's `runs`, its folders, are made before the browser's loop runs in this thread."""
    with browser.chromium() as there:
        yield there


@pytest.fixture
def window(chromium):
    """A window whose page may not fail, nor ask for anything but files."""
    w = browser.Window(chromium, accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    yield w
    assert not w.errors
    assert not w.outside()
    w.context.close()
