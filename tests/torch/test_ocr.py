"""The reward of quoted text: what counts as a quote, the distance, and drawn text that the real weights read."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

from actors.rewards import View
from actors.rewards.ocr import WEIGHTS, Ocr, likeness, quoted
from actors.rewards.planning import reward
from raysearch.__main__ import main
from raysearch.errors import ConfigError

SHAPE = (1, 4, 3, 8, 8)


def drawn(*lines: tuple[int, int, str], size: int = 26) -> np.ndarray:
    """A light frame, 144 x 240, with dark texts at places (x, y)."""
    image = Image.new("RGB", (240, 144), (250, 250, 250))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    for x, y, text in lines:
        pen.text((x, y), text, fill=(20, 20, 60), font=font)
    return np.array(image)


def view(caption: str, *frames: np.ndarray) -> View:
    return View(caption, 0.0, frames=np.stack(frames))


BLANK = drawn()


@pytest.fixture(scope="module")
def ocr() -> Ocr:
    return Ocr()


@pytest.mark.parametrize(
    ("caption", "texts"),
    [
        ('a sign that says "Open Daily"', ["opendaily"]),
        ("a sign that says “Open Daily”", ["opendaily"]),
        ("ein Schild „Heute zu“ und eins „STRASSE”", ["heutezu", "strasse"]),
        ("une affiche «Ça va»", ["çava"]),
        ('"one" beside "two  words"', ["one", "twowords"]),
        ("a dog's ball and a cat's", []),
        ('an empty "" and a blank " "', []),
        ('an open "quote', []),
    ],
)
def test_what_a_caption_quotes(caption, texts):
    assert quoted(caption) == texts


def edits(a: str, b: str) -> int:
    """The edit distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


@pytest.mark.parametrize("text", ["a", "ab", "aba", "bbc"])
def test_likeness_is_to_the_nearest_part_of_what_was_read(text):
    for read in map("".join, itertools.product("abx", repeat=4)):
        parts = {read[i:j] for i in range(5) for j in range(i, 5)}
        assert likeness(text, read) == pytest.approx(1 - min(edits(text, p) for p in parts) / len(text))
    assert likeness(text, "") == 0


def test_drawn_text_is_read_in_any_case_and_whatever_stands_beside_it(ocr):
    (right, part, wrong, none) = ocr(
        [
            view('a shop, "open daily"', drawn((20, 50, "OPEN DAILY"))),
            view('a shop, "open daily"', drawn((20, 50, "OPEN"))),
            view('a shop, "open daily"', drawn((20, 50, "ZZZZ"))),
            view('a shop, "open daily"', BLANK),
        ]
    )[:, 0]
    assert right == 1
    assert part == pytest.approx(4 / 9)
    assert wrong <= 1 / 9
    assert none == 0


def test_lines_are_read_in_order(ocr):
    frame = drawn((8, 4, "GRAND"), (130, 4, "HOTEL"), (8, 80, "BUDAPEST"))
    assert ocr.read(frame) == "grandhotelbudapest"


def test_each_text_counts_where_it_shows_best(ocr):
    first, last = drawn((20, 50, "HELLO")), drawn((20, 50, "WORLD"))
    assert ocr([view('"hello", then "world"', first, last)])[0, 0] == 1
    assert ocr([view('"hello", then "world"', first, first)])[0, 0] == pytest.approx(
        (1 + likeness("world", "hello")) / 2
    )


def test_a_caption_without_quotes_scores_0_and_rows_are_apart(ocr):
    hello = drawn((20, 50, "HELLO"))
    views = [view('"hello"', hello), view("hello", hello), view('"hello"', BLANK)]
    assert ocr(views)[:, 0].tolist() == [1, 0, 0]
    assert ocr(views[::-1])[:, 0].tolist() == [0, 0, 1]
    assert ocr([]).shape == (0, 1)


def test_some_frames_are_read_once_each_and_as_bgr(ocr):
    seen = []

    def reader(image):
        seen.append(image)
        return SimpleNamespace(txts=None)

    few = Ocr(frames=3)
    few._reader = reader
    frames = np.arange(9 * 2 * 2 * 3, dtype=np.uint8).reshape(9, 2, 2, 3)
    assert few([view('"x"', *frames)])[0, 0] == 0
    assert len(seen) == 3
    for image, i in zip(seen, (0, 4, 8), strict=True):
        np.testing.assert_array_equal(image, frames[i, :, :, [2, 1, 0]].transpose(1, 2, 0))
    few([view('"x"', *frames[:2])])
    assert len(seen) == 5


def block(**more):
    return reward("rewards.search", {"name": "ocr", **more}, {}, (), SHAPE)


def test_mistakes_are_one_line(monkeypatch):
    with pytest.raises(ConfigError, match=r"^rewards.search.frames: 0 is not allowed; it must be at least 1$"):
        block(frames=0)
    monkeypatch.setitem(WEIGHTS, "Rec", "elsewhere.onnx")
    with pytest.raises(ConfigError, match=r"^rewards.search.name: 'ocr' .* rapidocr that ships elsewhere.onnx"):
        block()
    monkeypatch.undo()
    for missing in ("rapidocr", "onnxruntime"):
        with monkeypatch.context() as m:
            m.setitem(sys.modules, missing, None)
            with pytest.raises(ConfigError, match=r"^rewards.search.name: .* pip install -e '.\[ocr\]'$"):
                block()


def test_a_search_by_quoted_text_runs_from_the_command_line(tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"model: {{path: {tiny}, height: 32, width: 32, num_frames: 9, max_sequence_length: 40}}\n"
        "sampler: {num_steps: 2}\n"
        "policy: {name: best_of_n, n: 2}\n"
        "rewards: {search: {name: ocr, frames: 1}}\n"
        "prompts: ['a sign \"GO\"']\n"
        "fleet: {backend: local}\n"
        f"run_dir: {tmp_path / 'run'}\n"
    )
    assert main(["run", str(tmp_path / "config.yaml")]) == 0
    (row,) = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert 0 <= row["reward_search"] <= 1 and row["reason"] == ""
