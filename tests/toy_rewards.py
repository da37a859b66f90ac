"""Reward models at toy size: what upstream publishes of VideoReward and HPSv3, and whole Qwen-VL folders.

Weights are random, and the tokenizer knows bytes, a few words, and the special tokens of Qwen-VL.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from actors.rewards import View, qwen_vl

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MARKS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
TEMPLATE = "\nQuality: <|VQ_reward|>\nEND\nMotion: <|MQ_reward|>  \nPrompt - {text_prompt}\nText: <|TA_reward|>\nEND\n"
INSTRUCTION, ASKED = "\nRate the image.\nTextual prompt - {text_prompt}\n", "\nRating: <|Reward|>\n\nEND\n"
SHA256, HPS_SHA256 = (sha256(text.encode()).hexdigest() for text in (TEMPLATE, INSTRUCTION + ASKED))
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
ANSWERS = ("Yes", "yes", "ĠYes"), ("No", "no", "ĠNo")  # Ġ is a space
WORDS = (*ANSWERS[0], *ANSWERS[1])


def tokenizer(folder: Path, *marks: str, words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Saves a byte-level tokenizer in which each of `words` is one token, and returns it."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1]) if word[0] != "Ġ" else ("Ġ", word[1:])
            if "".join(pair) not in vocabulary:
                vocabulary["".join(pair)] = len(vocabulary)
                merges.append(pair)
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True) for t in (*SPECIAL, *marks)])
    saved = PreTrainedTokenizerFast(tokenizer_object=made)
    saved.save_pretrained(folder)
    return saved


def config(vocabulary: int) -> Qwen2VLConfig:
    text = {**TEXT, "rope_parameters": ROPE, "vocab_size": vocabulary}
    return Qwen2VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=False)


def old_names(net: Qwen2VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """A net's weights by the names of transformers 4.45."""
    old = {k.replace("model.visual.", "visual.").replace("model.language_model.", "model."): v for k, v in
           net.state_dict().items()}  # fmt: skip
    return {k: v.clone() for k, v in old.items()}


def net(vocabulary: int, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(seed)
    return lively(Qwen2VLForConditionalGeneration(config(vocabulary)).eval())


def lively(made: nn.Module) -> nn.Module:
    for value in made.parameters():  # transformers' own are so small that no score would depend on them
        nn.init.normal_(value, std=0.2) if value.ndim > 1 else nn.init.normal_(value, mean=0.5, std=0.2)
    return made


def base(folder: Path) -> Path:
    """The folder of a Qwen2-VL, whose vocabulary has no marks: a tokenizer, and a config as flat as the hub's is."""
    size = len(tokenizer(folder))
    rope = {"rope_theta": 10000.0, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    flat = {"model_type": "qwen2_vl", **TEXT, **rope, "vocab_size": size, "vision_config": VISION}
    (folder / "config.json").write_text(json.dumps(flat))
    return folder


def videoreward(source: Path, *, tokens: Sequence[str] = MARKS) -> dict[str, torch.Tensor]:
    """Saves what upstream publishes of VideoReward, and returns the state dict: wrapped by PEFT, of rank 3."""
    checkpoint = source / "checkpoint-11352"
    words = tokenizer(checkpoint / "tokenizer", *tokens)
    state = {}
    generator = torch.Generator().manual_seed(1)
    for name, value in old_names(net(len(words))).items():
        layer = name.rpartition(".")[0]
        if name.startswith("model.layers") and layer.endswith("_proj"):
            state[f"base_model.model.{layer}.base_layer.{name.rpartition('.')[2]}"] = value
            if name.endswith(".weight"):
                for side, shape in (("A", (3, value.shape[1])), ("B", (len(value), 3))):
                    key = f"base_model.model.{layer}.lora_{side}.default.weight"
                    state[key] = 0.2 * torch.randn(shape, generator=generator)
        else:
            state[f"base_model.model.{name}"] = value
    state["base_model.model.rm_head.weight"] = torch.randn(1, 32, generator=generator)
    torch.save(state, checkpoint / "model.pth")
    (source / "model_config.json").write_text(json.dumps({"peft_lora_config": {"lora_r": 3, "lora_alpha": 6}}))
    (source / "prompt_template.py").write_text(
        f"raise SystemExit\nOTHER = 3\nDETAILED_PROMPT_WITH_SPECIAL_TOKEN = {TEMPLATE!r}\n"
    )
    return state


def view(prompt: str = "a red circle", *, frames: int = 17, size: tuple[int, int] = (37, 53), seed: int = 0, fps=24):
    """A view of noise."""
    shown = np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), np.uint8)
    return View(prompt, 0.0, frames=shown, fps=fps)


def resized(view: View, height: int, width: int) -> View:
    """The view with frames of another size."""
    frames = qwen_vl.resized(view.frames, height, width).permute(0, 2, 3, 1).numpy()
    return replace(view, frames=frames)


def hps3(source: Path) -> dict[str, torch.Tensor]:
    """Saves what upstream publishes of HPSv3, and returns its weights."""
    source.mkdir(parents=True, exist_ok=True)
    size = len(tokenizer(source / "unread", "<|Reward|>"))
    state = old_names(net(size, seed=2))
    generator = torch.Generator().manual_seed(3)
    for i, (wide, narrow) in {0: (32, 1024), 3: (1024, 16), 5: (16, 2)}.items():
        state[f"rm_head.{i}.weight"] = torch.randn(narrow, wide, generator=generator) / wide**0.5
        state[f"rm_head.{i}.bias"] = torch.randn(narrow, generator=generator)
    save_file(state, source / "HPSv3.safetensors")
    texts = f"INSTRUCTION = {INSTRUCTION!r}\nprompt_with_special_token = {ASKED!r}\nraise SystemExit\n"
    (source / "data_collator_qwen.py").write_text(texts)
    return state


def qwen(folder: Path, kind: str) -> nn.Module:
    """Saves a whole Qwen-VL folder, of the model_type `kind`, and returns the model."""
    size = len(tokenizer(folder))
    words = dict(zip(("image_token_id", "video_token_id"), range(size - 2, size), strict=True))
    words |= dict(zip(("vision_start_token_id", "vision_end_token_id"), range(size - 4, size - 2), strict=True))
    text = {**TEXT, "rope_parameters": ROPE, "vocab_size": size}
    shape, build = {
        "qwen2_vl": (Qwen2VLConfig(text_config=text, vision_config=VISION, **words), Qwen2VLForConditionalGeneration),
        "qwen2_5_vl": (
            Qwen2_5_VLConfig(
                text_config=text,
                vision_config={
                    "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
                    "fullatt_block_indexes": [1], "tokens_per_second": 2,
                },
                **words,
            ),
            Qwen2_5_VLForConditionalGeneration,
        ),
        "qwen3_vl": (
            Qwen3VLConfig(
                text_config={**text, "head_dim": 8},
                vision_config={
                    "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 48,
                    "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16,
                },
                **words,
            ),
            Qwen3VLForConditionalGeneration,
        ),
    }[kind]  # fmt: skip
    torch.manual_seed(4)
    made = lively(build(shape).eval())
    made.save_pretrained(folder)
    return made
