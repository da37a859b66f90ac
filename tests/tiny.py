"""A Wan pipeline of the real classes at toy size with random weights, a dataset, and rewards that need no world."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from actors.rewards import View
from raysearch.session import dataset


def save_pipeline(folder: Path, *, pictured: bool = False) -> Path:
    """`pictured`: one that makes videos of a first frame, as Wan 2.1's I2V does."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, dim_mult=[1, 1, 1], z_dim=4, num_res_blocks=1, temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[1.0, 2.0, 0.5, 1.5], scale_factor_spatial=4,
    )  # fmt: skip
    sees = {"image_dim": 16, "added_kv_proj_dim": 24} if pictured else {}
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=12 if pictured else 4,
        out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, **sees,
    )  # fmt: skip
    text = UMT5EncoderModel(UMT5Config(vocab_size=384, d_model=16, d_kv=8, num_heads=2, d_ff=16, num_layers=1))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    parts = {
        "tokenizer": ByT5Tokenizer(),
        "text_encoder": text.eval(),
        "vae": vae.eval(),
        "transformer": transformer.eval(),
        "scheduler": scheduler,
    }
    if pictured:
        size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        eyes = CLIPVisionModel(CLIPVisionConfig(**size, image_size=32, patch_size=16)).eval()
        shrink = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
        WanImageToVideoPipeline(**parts, image_encoder=eyes, image_processor=shrink).save_pretrained(folder)
    else:
        WanPipeline(**parts).save_pretrained(folder)
    return folder


def collected(
    folder: Path,
    captions: Sequence[str],
    *,
    seeds: int = 4,
    shape: tuple[int, int, int, int] = (4, 2, 4, 4),
    components: Sequence[str] = ("VQ", "MQ", "TA"),
) -> Path:
    """A dataset of latents (C, T, H, W) whose mean is what they are graded by; LAW is half of its negative."""
    rng = np.random.default_rng(0)
    run = folder / "collected"
    (run / "rollouts").mkdir(parents=True)
    rows = []
    for i, caption in enumerate(captions):
        for seed in range(seeds):
            end = rng.standard_normal(shape) + rng.normal()
            way = np.stack([0.5 * end + 0.5 * rng.standard_normal(shape), end])
            name = f"{i:06d}-s{seed}-single"
            data = dataset.rollout(way, end, [(2, 0.5), (3, 0.2)], first=False)
            (run / "rollouts" / f"{name}.arrow").write_bytes(data)
            grades = {f"final_{c}": float(end.mean()) * (-0.5 if c == "LAW" else 1.0) for c in components}
            rows.append({"search_id": name, "prompt": caption, "seed": seed, "status": "done", **grades})
    pq.write_table(pa.Table.from_pylist(rows), run / "searches.parquet")
    dataset.write(run, train=0.7, complete=True)
    return run / "dataset"


class Brightness:
    """A reward over frames: how bright they are, and how much they move."""

    components = ("bright", "moves")
    needs = "frames"

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        clips = [v.frames.astype(float) for v in views]
        return np.array([[self.scale * c.mean() / 255, np.abs(np.diff(c, axis=0)).mean() / 255] for c in clips])


class Redness:
    """A reward over frames, or over one: how red they are."""

    components = ("red",)
    needs = "frames"

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        return np.array([[v.frames[..., 0].mean() / 255] for v in views])


class LatentNorm:
    """A reward over noisy latents."""

    components = ("norm",)
    needs = "latent"

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        return np.array([[-float(v.latent.square().mean())] for v in views])


class PromptLength:
    """A reward of the prompt alone."""

    components = ("length",)
    needs = "latent"

    def __call__(self, views: Sequence[View]) -> np.ndarray:
        return np.array([[float(len(v.prompt))] for v in views])
