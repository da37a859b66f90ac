"""Graded clips of the world with walls, and how the pixel reward reads its captions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from actors.models.weights import pretrained
from actors.rewards import pixel
from actors.tiny.training.pixel_data import CAPTIONS, read, redrawn
from actors.tiny.walls import pixel_data, pixel_reward, world
from actors.tiny.walls.verifier import measure

LONG = "a red circle moving slowly left then up and a blue square standing still and a cyan triangle moving down"


def test_a_caption_is_spelt_phrase_by_phrase() -> None:
    config = pixel_reward.CONFIG
    words = ["", *config.vocabulary]
    said = [words[i] for i in pixel.spell(LONG, config)]
    assert said[:9] == ["a", "red", "circle", "moving", "slowly", "left", "then", "up", "and"]
    assert said[9:18] == ["a", "blue", "square", "standing", "still", "", "", "", "and"]
    assert said[18:] == ["a", "cyan", "triangle", "moving", "down", "", "", ""]
    assert pixel.spell("a red circle moving left and a wall", config)[9:] == [
        *(words.index(w) for w in ("a", "wall")),
        *[0] * 15,
    ]


@pytest.mark.parametrize(
    "text", ["a", f"{LONG} and a wall", "a purple circle moving left", "a red circle moving left up then up a"]
)
def test_other_captions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"one to 3 phrases of 2 to 8 words"):
        pixel.spell(text, pixel_reward.CONFIG)


def test_wrong_captions_are_wrong_and_never_held_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        own = world.training_caption(rng, wall=0.5)
        wrong = pixel_data.others(rng, own)
        for other in (next(wrong) for _ in range(5)):
            assert other != own and not world.held_out(other) and world.parse(str(other)) == other


def test_grades_are_the_verifiers_and_a_turned_clip_keeps_them() -> None:
    rng = np.random.default_rng(3)
    captions = [world.training_caption(rng, wall=0.4) for _ in range(8)]
    frames = np.stack([world.draw(world.place(c, rng)) for c in captions])
    clips = pixel_data.labelled(rng, frames, captions)
    assert clips.labels.shape == (8, CAPTIONS, 5)
    turns = 0
    for clip, texts, labels in zip(frames, clips.captions.tolist(), clips.labels, strict=True):
        for text, label in zip(texts, labels, strict=True):
            np.testing.assert_allclose(measure(clip, world.parse(text))[:5], label, atol=1e-6)
        for mirror, reverse in ((True, False), (False, True), (True, True)):
            found = pixel_data.turned(clip, texts, mirror=mirror, reverse=reverse)
            if reverse and any("wall" in text for text in texts):
                assert found is None
            if found:
                turned = measure(np.ascontiguousarray(found[0]), world.parse(found[1][0]))
                np.testing.assert_allclose(turned[:5], labels[0], atol=0.05)
                turns += 1
    assert turns >= 8


def test_files_are_made_once_and_a_batch_is_drawn_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_data, "CHUNK", 6)
    pixel_data.make("rendered", 12, work=tmp_path, model=tmp_path, seed=0)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["rendered-0-000.npz", "rendered-0-001.npz"]
    before = [f.stat().st_mtime_ns for f in files]
    pixel_data.make("rendered", 12, work=tmp_path, model=tmp_path, seed=0)
    assert [f.stat().st_mtime_ns for f in files] == before
    clips = read(tmp_path, "rendered")
    assert clips and clips.frames.shape == (12, 17, 48, 48, 3)
    x, words, labels = pixel_reward.batch(np.random.default_rng(0), {"rendered": clips}, 3)
    net = pixel.PixelNet(pixel_reward.CONFIG)
    with torch.no_grad():
        y = net(x, words)
    assert y.shape == labels.shape == (3, CAPTIONS, 5) and y.min() >= 0 and y.max() <= 1


def test_an_autoencoder_keeps_the_number_and_size_of_clips() -> None:
    vae = pretrained(AutoencoderKLWan, Path("actors/assets/tiny-wan/vae")).eval()
    frames = pixel_data.rendered(np.random.default_rng(1), 2)[0]
    after = redrawn(np.random.default_rng(2), frames, vae)
    assert after.shape == frames.shape and after.dtype == np.uint8 and (after != frames).any()
