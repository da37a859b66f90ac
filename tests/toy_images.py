"""Image rewards of the real classes at toy size with random weights, and what upstream publishes, at toy size."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
)

from actors.rewards import View, aesthetic, imagereward

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, PATCH, WIDTH = 28, 14, 24
PROMPT = "a red circle moving left"
ODD = [(31, 47), (480, 832), (28, 28), (3, 200), (200, 3), (27, 29)]


def clip_tokenizer(folder: Path) -> int:
    """CLIP's own kind of tokenizer over letters and two merges, and how many tokens it has."""
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    CLIPTokenizer(vocab=vocab, merges=[("r", "e"), ("re", "d</w>")]).save_pretrained(folder)
    return len(vocab)


def bert_tokenizer(folder: Path) -> int:
    """BERT's own kind of tokenizer over the world's words, and how many tokens it has."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##s", *PROMPT.split(), "blue", "square", "and", "up"]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return len(words)


def clip_config(tokens: int, *, length: int = 12) -> CLIPConfig:
    text = {**SIZE, "vocab_size": tokens, "max_position_embeddings": length, "hidden_act": "gelu"}
    text |= {"bos_token_id": tokens - 2, "eos_token_id": tokens - 1, "pad_token_id": tokens - 1}
    vision = {**SIZE, "hidden_size": 40, "image_size": SIDE, "patch_size": PATCH, "hidden_act": "gelu"}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH, architectures=["CLIPModel"])


def lively(net: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The net with weights so large that each of them moves what it computes, and CLIP's own scale of cosines."""
    net.load_state_dict(randoms({k: tuple(v.shape) for k, v in net.state_dict().items()}, seed))
    if hasattr(net, "logit_scale"):
        net.logit_scale.data.fill_(2.6592)
    return net.eval()


def clip_folder(folder: Path, *, seed: int = 0) -> Path:
    """A CLIPModel with its tokenizer, as the hub has them."""
    model = CLIPModel(clip_config(clip_tokenizer(folder)))
    lively(model, seed).save_pretrained(folder)
    return folder


def siglip_folder(folder: Path) -> Path:
    """A SiglipModel, as the hub has them: with a text model, which no reward reads."""
    text = {**SIZE, "vocab_size": 20, "max_position_embeddings": 8, "projection_size": 32}
    vision = {**SIZE, "image_size": SIDE, "patch_size": PATCH}
    lively(SiglipModel(SiglipConfig(text_config=text, vision_config=vision))).save_pretrained(folder)
    return folder


def frames(n: int = 5, height: int = 31, width: int = 47, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def view(pictures: np.ndarray, prompt: str = PROMPT) -> View:
    return View(prompt, 0.0, frames=pictures)


def damaged(folder: Path, name: str, change) -> Path:
    """The folder, of which the tensor `name` is changed; without what `change` returns None for."""
    state = load_file(folder / "model.safetensors")
    if (value := change(state.pop(name))) is not None:
        state[name] = value.contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edited(folder: Path, **values) -> Path:
    """The folder with other values in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def randoms(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of these shapes; the scales of norms are near 1."""
    generator = torch.Generator().manual_seed(seed)
    norms = tuple(f"{norm}.weight" for norm in ("ln_1", "ln_2", "ln_pre", "ln_post", "ln_final", "norm", "LayerNorm"))
    norms += ("norm1.weight", "norm2.weight")
    return {k: float(k.endswith(norms)) + 0.3 * torch.randn(s, generator=generator) for k, s in shapes.items()}


def affine(name: str, out: int, *into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}


def open_clip_state(config: CLIPConfig) -> dict[str, torch.Tensor]:
    """What OpenCLIP saves of a model of these sizes, with the query, key and value of a block in one tensor."""
    v, t = config.vision_config, config.text_config
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": (), "visual.conv1.weight": (v.hidden_size, 3, PATCH, PATCH)}
    places = (SIDE // PATCH) ** 2 + 1
    shapes |= {"visual.class_embedding": (v.hidden_size,), "visual.positional_embedding": (places, v.hidden_size)}
    shapes |= {"visual.proj": (v.hidden_size, WIDTH), "text_projection": (t.hidden_size, WIDTH)}
    shapes |= {"positional_embedding": (t.max_position_embeddings, t.hidden_size)}
    shapes |= {"token_embedding.weight": (t.vocab_size, t.hidden_size), **affine("ln_final", t.hidden_size)}
    shapes |= affine("visual.ln_pre", v.hidden_size) | affine("visual.ln_post", v.hidden_size)
    for tower, sizes in (("visual.", v), ("", t)):
        d, wide = sizes.hidden_size, sizes.intermediate_size
        for i in range(sizes.num_hidden_layers):
            block = f"{tower}transformer.resblocks.{i}"
            shapes |= affine(f"{block}.ln_1", d) | affine(f"{block}.ln_2", d) | affine(f"{block}.attn.out_proj", d, d)
            shapes |= {f"{block}.attn.in_proj_weight": (3 * d, d), f"{block}.attn.in_proj_bias": (3 * d,)}
            shapes |= affine(f"{block}.mlp.c_fc", wide, d) | affine(f"{block}.mlp.c_proj", d, wide)
    return randoms(shapes)


def head_shapes(stem: str, numbers: list[int], widths: list[int]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for number, a, b in zip(numbers, widths[:-1], widths[1:], strict=True):
        found |= affine(f"{stem}.{number}", b, a)
    return found


def image_reward_state(tokens: int, *, wide: int = 32, narrow: int = 24) -> dict[str, torch.Tensor]:
    """What ImageReward saves: BLIP's towers by timm's and BERT's names, projections without use, and the head."""
    see, read = "blip.visual_encoder", "blip.text_encoder"
    shapes: dict[str, tuple[int, ...]] = {f"{see}.cls_token": (1, 1, wide), f"{see}.pos_embed": (1, 5, wide)}
    shapes |= affine(f"{see}.patch_embed.proj", wide, 3, PATCH, PATCH) | affine(f"{see}.norm", wide)
    for i in range(2):
        block = f"{see}.blocks.{i}"
        shapes |= affine(f"{block}.norm1", wide) | affine(f"{block}.norm2", wide)
        shapes |= affine(f"{block}.attn.qkv", 3 * wide, wide) | affine(f"{block}.attn.proj", wide, wide)
        shapes |= affine(f"{block}.mlp.fc1", 48, wide) | affine(f"{block}.mlp.fc2", wide, 48)
    shapes |= {f"{read}.embeddings.word_embeddings.weight": (tokens, narrow)}
    shapes |= {f"{read}.embeddings.position_embeddings.weight": (40, narrow)}
    shapes |= affine(f"{read}.embeddings.LayerNorm", narrow)
    for i in range(2):
        layer = f"{read}.encoder.layer.{i}"
        for kind, given in (("attention", narrow), ("crossattention", wide)):
            shapes |= affine(f"{layer}.{kind}.self.query", narrow, narrow)
            shapes |= affine(f"{layer}.{kind}.self.key", narrow, given)
            shapes |= affine(f"{layer}.{kind}.self.value", narrow, given)
            shapes |= affine(f"{layer}.{kind}.output.dense", narrow, narrow)
            shapes |= affine(f"{layer}.{kind}.output.LayerNorm", narrow)
        shapes |= affine(f"{layer}.intermediate.dense", 48, narrow) | affine(f"{layer}.output.dense", narrow, 48)
        shapes |= affine(f"{layer}.output.LayerNorm", narrow)
    shapes |= affine("blip.vision_proj", 8, wide) | affine("blip.text_proj", 8, narrow)
    shapes |= head_shapes("mlp.layers", [0, 2, 4, 6, 7], [narrow, 20, 12, 8, 4, 1])
    return randoms(shapes) | {f"{read}.embeddings.position_ids": torch.arange(40)[None]}


def image_reward_folder(folder: Path) -> Path:
    """What `raysearch reward convert imagereward` writes, of a toy; below `folder`."""
    base = folder / "bert"
    torch.save(image_reward_state(bert_tokenizer(base)), folder / "ImageReward.pt")
    imagereward.convert(folder / "ImageReward.pt", folder / "imagereward", base=base)
    return folder / "imagereward"


def aesthetic_head(folder: Path, widths: list[int]) -> Path:
    """What `raysearch reward convert aesthetic` writes of a head by V2.5's names; below `folder`."""
    numbers = list(range(0, 2 * len(widths) - 2, 2))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(randoms(head_shapes("scoring_head", numbers, widths)), folder / "head.pth")
    aesthetic.convert(folder / "head.pth", folder / "head")
    return folder / "head"
