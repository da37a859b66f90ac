"""Small pictures: their sizes, what they show, how many bytes they may have, and that they are always the same."""

import io

import numpy as np
import pytest
from PIL import Image

from actors.workers import thumbnails
from raysearch.session.previews import ROWS


def opened(data: bytes, kind: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == kind
    return np.asarray(picture.convert("RGB")).astype(int)


def clip(*levels: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A clip of grey frames."""
    return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


def levels(picture: np.ndarray, cells: int) -> list[list[int]]:
    """The brightness of each of `cells` side by side, row by row of 48 pixels."""
    rows = [np.split(row, cells, axis=1) for row in np.split(picture, len(picture) // 48)]
    return [[round(float(cell.mean())) for cell in row] for row in rows]


@pytest.mark.parametrize(("shown", "expected"), [
    ((10, 60, 90, 150, 200), [10, 90, 200]), ((10, 60, 90, 200), [10, 90, 200]), ((10, 200), [10, 200, 200]),
    ((70,), [70]),
])  # fmt: skip
def test_a_strip_shows_the_first_the_middle_and_the_last_frame(shown, expected):
    picture = opened(thumbnails.strip(clip(*shown)), "JPEG")
    assert picture.shape == (48, 64 * len(expected), 3)
    assert np.abs(np.subtract(levels(picture, len(expected))[0], expected)).max() <= 2


@pytest.mark.parametrize(("height", "width", "size"), [
    (480, 832, (92, 160)), (832, 480, (160, 92)), (720, 1280, (90, 160)), (1024, 1024, (160, 160)), (32, 32, (32, 32)),
    (161, 160, (160, 159)), (1, 1, (1, 1)), (2, 2000, (1, 160)),
])  # fmt: skip
def test_a_frame_of_a_strip_has_at_most_160_pixels_a_side_and_is_never_enlarged(height, width, size):
    strip = thumbnails.strip(clip(1, 2, 3, height=height, width=width))
    assert opened(strip, "JPEG").shape == (size[0], 3 * size[1], 3)
    assert opened(thumbnails.sprite([strip] * 2, clip(1, 2, height=height, width=width)), "WEBP").shape[:2] == (
        2 * size[0],
        3 * size[1],
    )


def test_a_strip_looks_like_its_frames():
    y, x = np.mgrid[:480, :832]
    frames = np.stack([x // 4, y // 2, (x + y) // 6], 2).clip(0, 255).astype(np.uint8)[None]
    expected = np.asarray(Image.fromarray(frames[0]).resize((160, 92), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(opened(thumbnails.strip(frames), "JPEG") - expected).mean() < 3


def test_a_sprite_has_a_row_for_each_strip_in_their_order():
    strips = [thumbnails.strip(clip(*shown)) for shown in ((0, 50, 100), (200, 150, 250), (30,))]
    found = levels(opened(thumbnails.sprite(strips, clip(0, 0, 0)), "WEBP"), 3)
    assert np.abs(np.subtract(found, [[0, 50, 100], [200, 150, 250], [30, 30, 30]])).max() <= 2


def test_a_sprite_of_pictures_has_one_frame_a_row():
    strips = [thumbnails.strip(clip(level)) for level in (30, 90)]
    assert opened(thumbnails.sprite(strips, clip(60)), "WEBP").shape == (2 * 48, 64, 3)


def test_the_largest_sprite_is_one_that_webp_can_hold():
    strip = thumbnails.strip(clip(1, 2, 3, height=320, width=320))
    sprite = thumbnails.sprite([strip] * ROWS, clip(0, 1, height=320, width=320))
    assert opened(sprite, "WEBP").shape == (160 * ROWS, 480, 3)


def test_the_bytes_of_a_strip_are_bounded_even_of_noise():
    noise = np.random.default_rng(0).integers(0, 256, (3, 160, 160, 3), dtype=np.uint8)
    assert len(thumbnails.strip(noise)) <= thumbnails.MOST
    assert len(thumbnails._encoded(Image.fromarray(noise[0]), format="jpeg", quality=85)) > thumbnails.MOST / 2


@pytest.mark.parametrize(("height", "width", "scale", "size"), [
    (480, 832, 1, (185, 320)), (832, 480, 1, (555, 320)), (32, 32, 1, (32, 32)), (32, 32, 8, (256, 256)),
    (32, 32, 16, (320, 320)), (100, 200, 2, (100, 200)), (2000, 20, 1, (640, 6)), (480, 832, 2, (185, 320)),
    (300, 20, 16, (600, 40)),
])  # fmt: skip
def test_a_poster_is_at_most_320_pixels_wide_and_grows_as_the_mp4_does(height, width, scale, size):
    assert opened(thumbnails.poster(clip(9, height=height, width=width)[0], scale=scale), "WEBP").shape[:2] == size


def test_the_same_frames_are_the_same_bytes():
    frames = np.random.default_rng(0).integers(0, 256, (5, 60, 100, 3), dtype=np.uint8)
    strip = thumbnails.strip(frames)
    assert strip == thumbnails.strip(frames.copy())
    assert thumbnails.sprite([strip, strip], frames) == thumbnails.sprite([strip, strip], frames)
    assert thumbnails.poster(frames[0]) == thumbnails.poster(frames[0])
