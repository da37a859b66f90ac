"""What is written of winners: mp4 files that every player shows rightly, and what they say of themselves."""

import io
import json
from fractions import Fraction

import av
import numpy as np
import pytest
from fakes import ARMS, config, run
from PIL import Image

from actors.workers.video import Mp4
from raysearch.config.media import frame_rate, matrix
from raysearch.engine.protocol import Finish
from raysearch.session.about import config_digest
from raysearch.testing import FakeFleet

COLOURS = [(200, 40, 30), (20, 180, 60), (30, 50, 210), (255, 255, 255), (0, 0, 0)]


def written(height: int, width: int, *, fps: object = 16, scale: int = 1, **more: str) -> bytes:
    """An mp4 with a frame of each colour."""
    file = Mp4(fps=frame_rate(fps), scale=scale, **more)
    for colour in COLOURS:
        file.add(np.full((1, height, width, 3), colour, np.uint8))
    return file.close()


@pytest.mark.parametrize(("height", "width", "scale", "tag", "weights"), [
    (64, 64, 1, 6, (0.299, 0.587, 0.114)),
    (718, 64, 1, 6, (0.299, 0.587, 0.114)),
    (720, 64, 1, 1, (0.2126, 0.7152, 0.0722)),
    (16, 1280, 1, 1, (0.2126, 0.7152, 0.0722)),
    (90, 8, 8, 1, (0.2126, 0.7152, 0.0722)),
])  # fmt: skip
def test_colours_are_tagged_and_converted_as_tagged(height, width, scale, tag, weights):
    """BT.709 for high definition and BT.601 below, in limited range; brightness is weighed as the standard says."""
    with av.open(io.BytesIO(written(height, width, scale=scale))) as file:
        c = file.streams.video[0].codec_context
        assert (c.colorspace, c.color_primaries, c.color_trc, c.color_range) == (tag, tag, tag, 1)
        frames = list(file.decode(video=0))
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        brightness = 16 + 219 * np.dot(weights, colour) / 255
        assert np.abs(frame.to_ndarray(format="yuv420p")[: frame.height] - brightness).max() <= 1.5
        middle = frame.to_ndarray(format="rgb24")[frame.height // 2, frame.width // 2]
        assert np.abs(middle.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("clips", [1, 200])
def test_the_index_comes_before_the_frames(clips):
    """Also that of a long video, whose index alone is larger than a short video."""
    file = Mp4(fps=Fraction(16))
    for _ in range(clips):
        file.add(np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in COLOURS]))
    data, boxes, at = file.close(), dict[bytes, int](), 0
    while at < len(data):
        boxes[data[at + 4 : at + 8]] = size = int.from_bytes(data[at : at + 4], "big")
        at += size
    names = list(boxes)
    assert names.index(b"moov") < names.index(b"mdat") and at == len(data)
    assert (boxes[b"moov"] > len(written(16, 16))) == (clips > 1)
    with av.open(io.BytesIO(data)) as read:
        shown = [frame.to_ndarray(format="rgb24")[8, 8] for frame in read.decode(video=0)]
    assert np.abs(np.subtract(shown, COLOURS * clips, dtype=int)).max() <= 4


def test_the_same_frames_are_the_same_bytes():
    assert written(34, 32, title="a", comment="b") == written(34, 32, title="a", comment="b")


@pytest.mark.parametrize(("given", "rate"), [
    (16, Fraction(16)), (12.5, Fraction(25, 2)), (1, Fraction(1)), (0.5, Fraction(1, 2)), (1000, Fraction(1000)),
    ("24000/1001", Fraction(24000, 1001)), (23.976, Fraction(24000, 1001)), ("23.976", Fraction(24000, 1001)),
    (23.98, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001)),
    ("30", Fraction(30)), (24.5, Fraction(49, 2)), (25 / 3, Fraction(25, 3)), (24000 / 1001, Fraction(24000, 1001)),
    (0.001, Fraction(1, 1000)), ("999/10", Fraction(999, 10)), (9.99, Fraction(999, 100)), (23.9, Fraction(239, 10)),
])  # fmt: skip
def test_a_rate_is_a_fraction_in_the_file(given, rate):
    assert frame_rate(given) == rate
    with av.open(io.BytesIO(written(16, 16, fps=given))) as file:
        assert file.streams.video[0].average_rate == rate
        last = list(file.decode(video=0))[-1]
    assert last.pts * last.time_base == (len(COLOURS) - 1) / rate


@pytest.mark.parametrize(
    "given",
    [
        0,
        -1,
        "fast",
        "1/0",
        [1],
        True,
        None,
        float("nan"),
        1e9,
        "1/10000000",
        "1e999999999",
        "9" * 9999,
        "+8",
        "8_0",
        "1.2.3",
        "",
        {},
    ],
)
def test_other_rates_mean_nothing(given):
    with pytest.raises(ValueError, match=r"frames a second from 0\.001 to 1000"):
        frame_rate(given)


def test_a_file_says_what_it_was_told():
    with av.open(io.BytesIO(written(16, 16, title="a red círculo", comment=json.dumps({"a": "\n" * 9000})))) as file:
        assert file.metadata["title"] == "a red círculo"
        assert json.loads(file.metadata["comment"]) == {"a": "\n" * 9000}


# -- what a winner's file is told --------------------------------------------------------------------------------------


def told(path, **values) -> dict[str, dict]:
    """The outputs that scorers were asked for, by their comment's arm."""
    fleet = FakeFleet()
    rows, _ = run(path, fleet, **{"seeds": [7], "prompts": ["a"]} | values)
    assert {r["status"] for r in rows} == {"done"}
    asked = [c.request.outputs for r in fleet.replicas for c in r.calls if isinstance(c.request, Finish)]
    return {json.loads(o.comment)["arm"]: (o, json.loads(o.comment)) for o in asked}


def test_a_winner_says_its_caption_seed_arm_config_and_recipe(tmp_path):
    found = told(tmp_path / "run", arms=ARMS)
    assert set(found) == {a["name"] for a in ARMS}
    (outputs, comment) = found["rgrp"]
    assert outputs.title == "a"
    assert (comment["captions"], comment["seed"]) == (["a"], 7)
    assert comment["config"] == config_digest(config(arms=ARMS, seeds=[7], prompts=["a"]))
    recipe = comment["recipe"]
    steps = [o["step"] for o in recipe["origins"]]
    assert steps[0] == recipe["sampler"]["num_steps"] == 10 and steps == sorted(steps, reverse=True)
    for child, parent in zip(recipe["origins"], recipe["origins"][1:], strict=False):
        assert child["parent"] and parent["step"] <= child["step"]
    assert recipe["origins"][-1]["kind"] == "noise" and recipe["origins"][-1]["seed"] == 7
    assert "sigmas" not in recipe["sampler"]


def test_it_says_nothing_of_where_it_was_made(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    prompts = [{"prompt": "a", "image": str(tmp_path / "secret.png")}]
    (one, comment), (two, _) = (told(tmp_path / name, prompts=prompts)["single"] for name in ("secret", "elsewhere"))
    assert one == two and "image" in comment
    assert not [text for text in ("secret", str(tmp_path)) if text in one.title + one.comment]


def test_a_digest_is_of_what_a_resumed_run_must_share():
    plain = config_digest(config())
    free = {"fleet": {"address": "ray://a:1"}, "output": {"fps": 30}, "run_dir": "x", "resume": "auto"}
    assert config_digest(config(**free)) == plain
    assert len({plain, config_digest(config(seeds=[1])), config_digest(config(prompts=["c"]))}) == 3


def test_the_rate_is_the_models_unless_the_config_says_another(tmp_path):
    rates = {
        name: told(tmp_path / name, output=output)["single"][0].fps
        for name, output in (("own", {}), ("film", {"fps": "24000/1001"}), ("old", {"fps": 30}))
    }
    assert rates == {"own": 8, "film": Fraction(24000, 1001), "old": 30}


def test_a_matrix_follows_from_the_size():
    assert [int(matrix(*size)) for size in ((1280, 16), (16, 720), (1279, 719))] == [1, 1, 5]
