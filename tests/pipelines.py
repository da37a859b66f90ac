"""Pipelines of diffusers' real classes at toy size with random weights, of which each test makes the folders it needs.

`KINDS` has a `Kind` for each: how the pipeline is made, and the `model` and `sampler` blocks with which it runs.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers as d
import numpy as np
import torch
import transformers as t
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

UNIPC = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
MROPE = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
QWEN = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 400,
}


@dataclass(frozen=True)
class Kind:
    """A pipeline: `make` returns it; the rest are values of the config's blocks."""

    make: Callable[[], Any]
    num_frames: int = 1
    size: int = 32
    guidance_scale: float = 1.0
    call: dict[str, Any] = field(default_factory=dict)
    pictured: tuple[str, ...] = ()  # the arguments that take frames
    max_sequence_length: int = 16
    scale_2: float | None = None
    stochastic: bool = False

    def save(self, folder: Path) -> Path:
        """The folder, in which the pipeline is saved."""
        self.make().save_pretrained(folder)
        return folder

    @property
    def pictures(self) -> dict[str, Image.Image]:
        """Frames of the model's size, by the arguments that take them."""
        size = (self.size, self.size)
        return {name: picture(seed=i).resize(size) for i, name in enumerate(self.pictured)}

    @property
    def blocks(self) -> dict[str, Any]:
        """The blocks `model` and `sampler` of a config, but for the path."""
        size = {"height": self.size, "width": self.size, "num_frames": self.num_frames}
        guidance = {"guidance_scale": self.guidance_scale, "guidance_scale_2": self.scale_2}
        return {
            "model": {**size, "max_sequence_length": self.max_sequence_length},
            "sampler": {"name": "own", "num_steps": 6, **guidance, "call": self.call},
        }


def picture(size: int = 16, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def made(kind: Any, **config: Any) -> Any:
    """A part with the same random weights each time."""
    torch.manual_seed(0)
    return kind(**config).eval()


def t5(width: int = 16, kind: str = "T5") -> Any:
    size = {"d_model": width, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1}
    torch.manual_seed(0)
    return getattr(t, f"{kind}EncoderModel")(getattr(t, f"{kind}Config")(vocab_size=384, **size)).eval()


def clip(width: int = 16, *, projected: bool = False) -> Any:
    size = {"hidden_size": width, "intermediate_size": 16, "projection_dim": width, "num_hidden_layers": 2}
    config = t.CLIPTextConfig(vocab_size=1000, **size, num_attention_heads=2, bos_token_id=0, eos_token_id=2)
    torch.manual_seed(0)
    return (t.CLIPTextModelWithProjection if projected else t.CLIPTextModel)(config).eval()


def clip_tokenizer() -> Any:
    folder = Path(tempfile.mkdtemp())
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + i) for i in range(256 - len(letters))]
    words = ["<|startoftext|>", "!", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return t.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def byte_tokenizer() -> Any:
    special = ["<pad>", "<eos>", "<bos>", "<|im_start|>", "<|im_end|>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = (
        "{% for m in messages %}{{ m['content'] if m['content'] is string else m['content'][0]['text'] }}{% endfor %}"
    )
    given = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "chat_template": text}
    return t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given)


def image_vae(channels: int = 4, **config: Any) -> Any:
    config = {"block_out_channels": (4, 8), "norm_num_groups": 2} | config
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return made(d.AutoencoderKL, **blocks, layers_per_block=1, latent_channels=channels, sample_size=32, **config)


def wan_vae() -> Any:
    size = {"base_dim": 4, "dim_mult": [1, 1, 1], "z_dim": 4, "num_res_blocks": 1, "temperal_downsample": [True, True]}
    statistics = {"latents_mean": [0.1, -0.2, 0.0, 0.3], "latents_std": [1.0, 2.0, 0.5, 1.5]}
    return made(d.AutoencoderKLWan, **size, **statistics, scale_factor_spatial=4)


def wan_net(kind: Any = d.WanTransformer3DModel, **config: Any) -> Any:
    size = {"num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4, "num_layers": 2}
    size |= {"text_dim": 16, "freq_dim": 16, "ffn_dim": 32, "rope_max_seq_len": 32, "patch_size": (1, 2, 2)}
    return made(kind, **size | config)


def wan_parts(shift: float = 3.0) -> dict[str, Any]:
    scheduler = d.UniPCMultistepScheduler(**UNIPC, flow_shift=shift)
    return {"tokenizer": t.ByT5Tokenizer(), "text_encoder": t5(kind="UMT5"), "vae": wan_vae(), "scheduler": scheduler}


def wan_two(**config: Any) -> Any:
    second = wan_net(**config)
    with torch.no_grad():
        second.proj_out.weight.mul_(0.5)
    return d.WanPipeline(**wan_parts(), transformer=wan_net(**config), transformer_2=second, boundary_ratio=0.875)


def wan_two_pictured() -> Any:
    nets = {"transformer": wan_net(in_channels=12), "transformer_2": wan_net(in_channels=12)}
    rest = {"image_encoder": None, "image_processor": None, "boundary_ratio": 0.875}
    return d.WanImageToVideoPipeline(**wan_parts(), **nets, **rest)


def wan_vace() -> Any:
    net = wan_net(d.WanVACETransformer3DModel, vace_layers=[0, 1], vace_in_channels=24)
    return d.WanVACEPipeline(**wan_parts(), transformer=net)


def skyreels(kind: Any) -> Any:
    return kind(**wan_parts(8.0), transformer=wan_net(d.SkyReelsV2Transformer3DModel))


def ltx(kind: Any = d.LTXPipeline, **config: Any) -> Any:
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "num_layers": 1}
    size |= {"in_channels": 8, "out_channels": 8, "caption_channels": 16}
    net = made(d.LTXVideoTransformer3DModel, **size | config)
    vae = made(
        d.AutoencoderKLLTXVideo, latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5, decoder_inject_noise=(False,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, patch_size=1, patch_size_t=1, decoder_causal=False,
    )  # fmt: skip
    parts = {"text_encoder": t5(), "tokenizer": t.ByT5Tokenizer(), "scheduler": d.FlowMatchEulerDiscreteScheduler()}
    return kind(transformer=net, vae=vae, **parts)


def ltx2() -> Any:
    words = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = t.Gemma3TextConfig(**words, num_key_value_heads=1, head_dim=4, vocab_size=400)
    eyes = t.SiglipVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
    )
    rope = {"rope_double_precision": False, "rope_type": "split"}
    net = made(
        d.LTX2VideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, num_layers=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, caption_channels=8, **rope,
    )  # fmt: skip
    heads = {f"{k}_connector_num_attention_heads": 4 for k in ("video", "audio")}
    heads |= {f"{k}_connector_attention_head_dim": 2 for k in ("video", "audio")}
    heads |= {f"{k}_connector_num_layers": 1 for k in ("video", "audio")}
    heads |= {f"{k}_connector_num_learnable_registers": None for k in ("video", "audio")}
    connectors = made(
        LTX2TextConnectors, caption_channels=8, text_proj_in_factor=2, connector_rope_base_seq_len=32, **heads, **rope
    )
    vae = made(
        d.AutoencoderKLLTX2Video, latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False), downsample_type=("spatial",),
        upsample_residual=(False,), upsample_factor=(1,), patch_size=1, decoder_causal=False,
        down_block_types=("LTX2VideoDownBlock3D",), upsample_type=("spatiotemporal",),
    )  # fmt: skip
    ears = made(
        d.AutoencoderKLLTX2Audio, base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2,
        mel_bins=8,
    )  # fmt: skip
    voice = made(
        LTX2Vocoder, in_channels=16, hidden_channels=32, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    torch.manual_seed(0)
    config = t.Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=1)
    parts = {"text_encoder": t.Gemma3ForConditionalGeneration(config).eval(), "tokenizer": byte_tokenizer()}
    parts |= {"connectors": connectors, "audio_vae": ears, "vocoder": voice, "vae": vae, "transformer": net}
    return d.LTX2Pipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler())


def cogvideox(scheduler: Any) -> Any:
    net = made(
        d.CogVideoXTransformer3DModel, num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4,
        time_embed_dim=2, text_embed_dim=16, num_layers=1, sample_width=2, sample_height=2, sample_frames=9,
        max_text_seq_length=16,
    )  # fmt: skip
    vae = made(
        d.AutoencoderKLCogVideoX, down_block_types=("CogVideoXDownBlock3D",) * 4, latent_channels=4,
        up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    trained = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    parts = {"tokenizer": t.ByT5Tokenizer(), "text_encoder": t5(), "vae": vae, "transformer": net}
    return d.CogVideoXPipeline(**parts, scheduler=scheduler(**trained, snr_shift_scale=1.0))


def hunyuan() -> Any:
    net = made(
        d.HunyuanVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10,
        num_layers=1, num_single_layers=1, num_refiner_layers=1, text_embed_dim=16, pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    vae = made(
        d.AutoencoderKLHunyuanVideo, latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4, layers_per_block=1,
        norm_num_groups=4,
    )  # fmt: skip
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    torch.manual_seed(0)
    words = t.LlamaModel(t.LlamaConfig(**size, vocab_size=400, max_position_embeddings=1000)).eval()
    parts = {"text_encoder": words, "tokenizer": byte_tokenizer(), "transformer": net, "vae": vae}
    parts |= {"text_encoder_2": clip(), "tokenizer_2": clip_tokenizer()}
    return d.HunyuanVideoPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0))


def hunyuan15() -> Any:
    net = made(
        d.HunyuanVideo15Transformer3DModel, in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        num_layers=2, num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=16, text_embed_2_dim=32, image_embed_dim=12,
        rope_axes_dim=(2, 2, 4), target_size=16, task_type="t2v",
    )  # fmt: skip
    vae = made(
        d.AutoencoderKLHunyuanVideo15, latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, downsample_match_channel=False, upsample_match_channel=False,
    )  # fmt: skip
    torch.manual_seed(0)
    words = t.Qwen2_5_VLTextModel(t.Qwen2_5_VLTextConfig(**QWEN, num_hidden_layers=4, rope_scaling=MROPE)).eval()
    parts = {"text_encoder": words, "tokenizer": byte_tokenizer(), "transformer": net, "vae": vae}
    parts |= {"text_encoder_2": t5(32), "tokenizer_2": t.ByT5Tokenizer()}
    guider = d.ClassifierFreeGuidance(guidance_scale=7.0)
    return d.HunyuanVideo15Pipeline(**parts, guider=guider, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0))


def mochi() -> Any:
    net = made(
        d.MochiTransformer3DModel, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        text_embed_dim=16, time_embed_dim=4, max_sequence_length=16,
    )  # fmt: skip
    torch.nn.init.normal_(net.pos_frequencies)  # they are not initialised, as a rule they are loaded
    wide = {"encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4}
    vae = made(d.AutoencoderKLMochi, **wide, layers_per_block=(1,) * 5)
    parts = {"transformer": net, "vae": vae, "text_encoder": t5(), "tokenizer": t.ByT5Tokenizer()}
    return d.MochiPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))


def sana_video() -> Any:
    net = made(
        d.SanaVideoTransformer3DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
        num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
        caption_channels=8, sample_size=4,
    )  # fmt: skip
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    words = t.Gemma2Model(t.Gemma2Config(head_dim=8, num_key_value_heads=2, vocab_size=400, **size)).eval()
    parts = {"tokenizer": byte_tokenizer(), "text_encoder": words, "vae": wan_vae(), "transformer": net}
    return d.SanaVideoPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=7.0))


def flux() -> Any:
    net = made(
        d.FluxTransformer2DModel, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )  # fmt: skip
    vae = image_vae(1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    parts = {"text_encoder": clip(), "text_encoder_2": t5(), "tokenizer": clip_tokenizer(), "transformer": net}
    parts |= {"tokenizer_2": t.ByT5Tokenizer(), "vae": vae}
    return d.FluxPipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def sd3() -> Any:
    net = made(
        d.SD3Transformer2DModel, sample_size=16, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64,
        out_channels=4,
    )  # fmt: skip
    vae = image_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5)
    parts = {"transformer": net, "vae": vae, "text_encoder": clip(32, projected=True), "tokenizer": clip_tokenizer()}
    parts |= {"text_encoder_2": clip(32, projected=True), "tokenizer_2": clip_tokenizer()}
    parts |= {"text_encoder_3": t5(32), "tokenizer_3": t.ByT5Tokenizer()}
    return d.StableDiffusion3Pipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(shift=3.0))


def sdxl(scheduler: Any) -> Any:
    net = made(
        d.UNet2DConditionModel, block_out_channels=(32, 64), layers_per_block=1, sample_size=16,
        attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8, cross_attention_dim=32,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=6 * 8 + 16, norm_num_groups=2,
    )  # fmt: skip
    parts = {"vae": image_vae(), "text_encoder": clip(), "text_encoder_2": clip(projected=True), "unet": net}
    parts |= {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer()}
    trained = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return d.StableDiffusionXLPipeline(**parts, scheduler=scheduler(**trained, timestep_spacing="leading"))


def qwen_image() -> Any:
    net = made(
        d.QwenImageTransformer2DModel, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
        num_attention_heads=3, joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = made(
        d.AutoencoderKLQwenImage, base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1,
        temperal_downsample=[False, True], latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    torch.manual_seed(0)
    config = t.Qwen2_5_VLConfig(
        text_config={**QWEN, "num_hidden_layers": 2, "rope_scaling": MROPE, "rope_theta": 1e6},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    words = t.Qwen2_5_VLForConditionalGeneration(config).eval()
    parts = {"vae": vae, "text_encoder": words, "tokenizer": byte_tokenizer(), "transformer": net}
    return d.QwenImagePipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def z_image() -> Any:
    net = made(
        d.ZImageTransformer2DModel, in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    for name, weight in net.named_parameters():
        if "pad_token" in name:  # they are not initialised, as a rule they are loaded
            torch.nn.init.normal_(weight)
    torch.manual_seed(0)
    words = t.Qwen3Model(t.Qwen3Config(**QWEN, num_hidden_layers=2, head_dim=8)).eval()
    wide = {"block_out_channels": (32, 64), "norm_num_groups": 32, "scaling_factor": 0.36, "shift_factor": 0.12}
    parts = {"vae": image_vae(16, **wide), "text_encoder": words, "tokenizer": byte_tokenizer(), "transformer": net}
    return d.ZImagePipeline(**parts, scheduler=d.FlowMatchEulerDiscreteScheduler())


PLAIN = {"complex_human_instruction": None, "use_resolution_binning": False}
TEMPLATE = {"true_cfg_scale": 2.0, "prompt_template": {"template": "a video of {}", "crop_start": 0}}

KINDS = {
    "Wan 2.2, two experts": Kind(wan_two, 9, 16, 4.0, scale_2=3.0),
    "Wan 2.2 from an image": Kind(wan_two_pictured, 9, 16, 4.0, pictured=("image",), scale_2=3.0),
    "Wan 2.2 between two images": Kind(wan_two_pictured, 9, 16, 4.0, pictured=("image", "last_image"), scale_2=3.0),
    "Wan VACE": Kind(wan_vace, 9, 16, 4.0),
    "LTX": Kind(ltx, 9, 32, 3.0),
    "LTX from an image": Kind(lambda: ltx(d.LTXImageToVideoPipeline), 9, 32, 3.0, pictured=("image",)),
    "LTX-2, with sound": Kind(ltx2, 5, 32, 4.0, {"frame_rate": 25.0}),
    "CogVideoX, DDIM": Kind(lambda: cogvideox(d.CogVideoXDDIMScheduler), 8, 16, 6.0, {"use_dynamic_cfg": True}),
    "CogVideoX, DPM": Kind(
        lambda: cogvideox(d.CogVideoXDPMScheduler), 8, 16, 6.0, {"use_dynamic_cfg": True}, stochastic=True
    ),
    "HunyuanVideo": Kind(hunyuan, 9, 16, 4.5, TEMPLATE),
    "HunyuanVideo 1.5": Kind(hunyuan15, 9, 16, 4.0),
    "Mochi": Kind(mochi, 7, 16, 4.5),
    "SkyReels-V2": Kind(lambda: skyreels(d.SkyReelsV2Pipeline), 9, 16, 6.0),
    "SkyReels-V2, diffusion forcing": Kind(
        lambda: skyreels(d.SkyReelsV2DiffusionForcingPipeline), 9, 16, 6.0, {"ar_step": 0, "base_num_frames": 9}
    ),
    "Sana Video": Kind(sana_video, 9, 32, 6.0, PLAIN),
    "FLUX": Kind(flux, 1, 16, 3.5),
    "Stable Diffusion 3": Kind(sd3, 1, 32, 5.0),
    "SDXL, Euler": Kind(lambda: sdxl(d.EulerDiscreteScheduler), 1, 32, 5.0),
    "SDXL, DPM++": Kind(lambda: sdxl(d.DPMSolverMultistepScheduler), 1, 32, 5.0),
    "SDXL, Euler ancestral": Kind(lambda: sdxl(d.EulerAncestralDiscreteScheduler), 1, 32, 5.0, stochastic=True),
    "Qwen-Image": Kind(qwen_image, 1, 32, call={"true_cfg_scale": 3.0}),
    "Z-Image": Kind(z_image, 1, 32, 3.0, {"cfg_normalization": False}),
}
