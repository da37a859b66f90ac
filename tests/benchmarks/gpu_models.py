"""Models for gpu.py: the real classes at real sizes with random weights, so that nothing is downloaded."""

import argparse
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from actors.models.weights import DTYPES

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def saved(folder: Path, args: argparse.Namespace) -> Path:
    """A folder with a Wan pipeline of these sizes and random weights."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        transformer = WanTransformer3DModel(
            num_attention_heads=args.heads, ffn_dim=args.ffn, num_layers=args.layers, text_dim=args.text_width
        )
        size = {"d_model": args.text_width, "d_kv": 64, "num_heads": 2, "d_ff": 64, "num_layers": 1}
        text = UMT5EncoderModel(UMT5Config(vocab_size=384, **size))
        vae = AutoencoderKLWan(base_dim=args.vae_width)
    transformer.to(DTYPES[args.dtype])
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    parts = {"tokenizer": ByT5Tokenizer(), "text_encoder": text, "vae": vae, "transformer": transformer}
    WanPipeline(**parts, scheduler=UniPCMultistepScheduler(**flow)).save_pretrained(folder)
    return folder


def saved_ltx(folder: Path, args: argparse.Namespace) -> Path:
    """A folder with an LTX pipeline of these sizes and random weights; its latents have the real sizes."""
    torch.manual_seed(0)
    heads, channels = args.ltx_heads, (8,) * 4
    size = {"num_attention_heads": heads, "cross_attention_dim": 64 * heads, "num_layers": args.ltx_layers}
    with torch.device(DEVICE):
        transformer = LTXVideoTransformer3DModel(**size, caption_channels=args.text_width)
        text = T5EncoderModel(
            T5Config(vocab_size=384, d_model=args.text_width, d_kv=64, num_heads=2, d_ff=64, num_layers=1)
        )
        vae = AutoencoderKLLTXVideo(
            block_out_channels=channels, decoder_block_out_channels=channels,
            layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        )  # fmt: skip
    transformer.to(DTYPES[args.dtype])
    parts = {"tokenizer": ByT5Tokenizer(), "text_encoder": text, "vae": vae, "transformer": transformer}
    LTXPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler()).save_pretrained(folder)
    return folder
