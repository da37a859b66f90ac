"""The model of the world with walls: its tokenizer and reader, and its training, which goes on where it was killed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline

from actors.models.weights import pretrained
from actors.tiny.training.pipeline import LEVELS, noise_levels
from actors.tiny.walls import pipeline, reader, world
from actors.tiny.walls.clips import clips

ASSETS = Path("actors/assets/tiny-wan")


def test_every_caption_is_words_that_the_tokenizer_knows_and_fits() -> None:
    tokens = reader.tokenizer()
    for texts in vars(world.HELD_OUT).values():
        for text in texts:
            ids = tokens(text)["input_ids"]
            assert tokens.unk_token_id not in ids
            assert len(ids) == len(text.split()) + 1 <= reader.LENGTH
            assert tokens.decode(ids, skip_special_tokens=True) == text
    assert tokens("").input_ids == [tokens.eos_token_id]
    assert tokens("a RED circle").input_ids[1] == tokens("a red circle").input_ids[1] != tokens.unk_token_id
    assert tokens("a purple circle").input_ids[1] == tokens.unk_token_id


def test_what_each_word_tells_is_its_phrases() -> None:
    rows = reader.told("a red circle moving slowly left then up and a blue square standing still")
    words = [[a[i] if i >= 0 else None for a, i in zip(reader.ANSWERS, row, strict=True)] for row in rows]
    assert words[0] == words[7] == ["red", "circle", "left", "up", "slowly", "0"]
    assert words[8] == [None] * 6
    assert words[9] == words[-1] == ["blue", "square", "", "", "", "1"]
    assert len(words) == 14
    beside = reader.told("a cyan triangle moving fast down and a wall")
    assert [reader.ANSWERS[-1][row[-1]] for row in beside[-2:]] == ["wall", "wall"]
    assert beside[-1][:-1] == (-100,) * 5


def test_levels_of_the_flow_are_within_0_and_1_for_any_number_of_frames() -> None:
    for kind in LEVELS:
        sigma = noise_levels(np.random.default_rng(0), kind, 8, 7)
        assert sigma.shape == (8, 7) and sigma.min() >= 0 and sigma.max() <= 1


@pytest.mark.parametrize("frames", [17, 25])
def test_clips_are_of_training_captions_and_of_the_length_asked_for(frames: int) -> None:
    captions, x = clips(np.random.default_rng(1), 6, frames=frames)
    assert x.shape == (6, 3, frames, world.SIZE, world.SIZE) and x.min() >= -1 and x.max() <= 1
    assert not set(captions) & {text for texts in vars(world.HELD_OUT).values() for text in texts}


def test_training_writes_a_pipeline_that_diffusers_runs_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "model"
    pretrained(AutoencoderKLWan, ASSETS / "vae").save_pretrained(out / "vae")

    def train(steps: int) -> str:
        sizes = f"--clips 32 --text-steps 2 --steps {steps} --batch 2 --no-compile"
        monkeypatch.setattr("sys.argv", ["x", "--work", str(tmp_path), "--out", str(out), *sizes.split()])
        pipeline.main()
        return capsys.readouterr().out

    assert "latents 0/32" in train(1)
    again = train(2)
    assert "goes on from step 1 of 2" in again and "latents" not in again
    pipe = WanPipeline.from_pretrained(out)
    text = world.HELD_OUT.wall[0]
    (video,) = pipe(
        text, height=48, width=48, num_frames=17, num_inference_steps=2, guidance_scale=2.0, output_type="np",
        max_sequence_length=reader.LENGTH, generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    assert video.shape == (17, 48, 48, 3)
    ours = reader.Reader()
    ours.encoder = pipe.text_encoder
    theirs, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=reader.LENGTH)
    torch.testing.assert_close(ours.embed([text]), theirs)
