"""Pictures on their way to a model, and frames on theirs to rewards and files: on real workers."""

import asyncio
import io
import json
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import config

from actors.backend import Backend
from actors.models import wan
from actors.models.source import Source
from actors.workers import worker
from raysearch.config import config as configuration
from raysearch.engine.protocol import File
from raysearch.recipe.origins import Recording
from raysearch.session.session import Session


class Rate:
    """A reward that says how many frames a second a view has."""

    components = ("rate",)
    needs = "frames"

    def __call__(self, views):
        return np.array([[view.fps] for view in views])


def encoder(folder):
    c = config(folder)
    return worker.build("encoder", c, Backend().prepare(c, configuration.arms(c)))


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(*pictures: Image.Image) -> bytes:
    data = io.BytesIO()
    pictures[0].save(data, "png", save_all=True, append_images=pictures[1:])
    return data.getvalue()


def test_a_first_frame_reaches_the_model_cut_padded_or_stretched(tiny):
    wide, coder = noise(32, 64), encoder(tiny)
    padded = Image.new("RGB", (64, 64), "#102030")
    padded.paste(wide, (0, 16))
    expected = {
        "crop": wide.crop((16, 0, 48, 32)),
        "pad": padded.resize((32, 32), Image.Resampling.LANCZOS),
        "stretch": wide.resize((32, 32), Image.Resampling.LANCZOS),
    }
    for fit, picture in expected.items():
        got = coder.encode(File("image", Recording("", b"", True, fit, "#102030"), (9, 32, 32), png(wide)), {})
        plain = coder.encode(File("image", Recording("", b""), (9, 32, 32), png(picture)), {})
        assert np.array_equal(got, plain)


def test_an_obstacle_that_moves_is_encoded_frame_by_frame_and_a_picture_stands_still(tiny):
    coder, frames = encoder(tiny), [noise(32, 32).rotate(90 * i) for i in range(3)]
    plain = wan.Autoencoder(Source(tiny))

    def encoded(data: bytes, *, still: bool) -> np.ndarray:
        return coder.encode(File("video", Recording("", b"", still), (5, 32, 32), data), {})

    moving = encoded(png(*frames), still=False)
    assert np.array_equal(moving, plain.encode_video([frames[i] for i in (0, 0, 1, 2, 2)], 32, 32))
    still = encoded(png(*frames), still=True)
    assert np.array_equal(still, plain.encode_video([frames[0]] * 5, 32, 32)) and not np.array_equal(still, moving)


def test_videos_say_what_they_are_and_rewards_see_the_models_own_rate(tmp_path):
    model = {"path": "actors/assets/mixture", "height": 1, "width": 1, "num_frames": 1}
    c = config(
        "actors/assets/mixture", model=model, policy={"name": "best_of_n", "n": 2}, output={"fps": 23.976},
        rewards={"search": {"name": "test_pictures:Rate"}, "holdout": {"name": "test_pictures:Rate"}},
    )  # fmt: skip
    files = []
    for name in ("one", "two"):
        asyncio.run(Session(c, Backend(), run_dir=tmp_path / name).run())
        (row,) = pq.read_table(tmp_path / name / "searches.parquet").to_pylist()
        assert (row["reward_search"], row["reward_holdout"]) == (8, 8)
        files.append((tmp_path / name / row["video"]).read_bytes())
    assert files[0] == files[1]
    with av.open(io.BytesIO(files[0])) as file:
        assert file.streams.video[0].average_rate == Fraction(24000, 1001)
        assert file.metadata["title"] == row["prompt"]
        comment = json.loads(file.metadata["comment"])
    assert comment["recipe"]["candidate"] == row["winner"]
    assert {k: v for k, v in comment["recipe"]["origins"][0].items() if k != "step"} == json.loads(row["origin"])


@pytest.mark.parametrize(("channels", "rate"), [(16, 16), (48, 24), (8, 8), (None, 16)])
def test_a_wan_models_rate_is_known_by_its_latents(tmp_path, channels, rate):
    (tmp_path / "model_index.json").write_text("{}")
    for part, values in {
        "vae": {} if channels is None else {"z_dim": channels},
        "transformer": {"in_channels": channels or 16, "patch_size": [1, 2, 2]},
    }.items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(values))
    assert wan.Geometry.of(tmp_path).fps == rate
