"""Weights that do not fit their classes or are no numbers, and configs that describe no model."""

from mistakes import Mistake
from mistakes._folders import (
    TEXT,
    TRANSFORMER,
    VAE,
    Damage,
    cut,
    edited,
    holding,
    model,
    moved,
    pointer,
    renamed,
    retyped,
    valued,
    without,
)

BAD = "is not allowed; it must be"
NAN32, INF16 = bytes.fromhex("0000c07f"), bytes.fromhex("007c")
NORM = "decoder.mid_block.attentions.0.norm.gamma"


def broken(line: str, *damages: Damage, more: str = "") -> Mistake:
    """A run with a damaged copy of the tiny model, which takes torch to see."""
    return Mistake(f"model.path=m {more}".strip(), line, make=model(*damages), heavy=True)


def reward(name: str, line: str, damage: Damage) -> Mistake:
    """A run with a damaged copy of a learned reward that ships."""
    of = {"pixel": "pixel-reward", "latent": "latent-reward"}.get(name, name)
    words = [f"rewards.search={{name: {name}, folder: m}}", "policy={name: best_of_n, n: 2}"]
    more = ["model.num_frames=17", "model.max_sequence_length=80"]
    return Mistake([*words, *more], f"rewards.search...: {line}", make=model(damage, of=of), heavy=True)


def whole(part: str, kind: str, tensor: str) -> str:
    return f"model.path: 'm' {BAD} one whose {part} has all weights of a {kind}: {tensor} is missing"


TABLE = [
    # -- missing and unknown tensors
    broken(
        whole("vae", "AutoencoderKLWan", "decoder.conv_in.bias"),
        renamed(VAE, "decoder.conv_in.bias", "decoder.conv_in.offset"),
    ),
    broken(
        whole("transformer", "WanTransformer3DModel", "proj_out.weight"),
        renamed(TRANSFORMER, "proj_out.weight", "module.proj_out.weight"),
    ),
    broken(
        whole("text_encoder", "UMT5EncoderModel", "encoder.final_layer_norm.weight"),
        renamed(TEXT, "encoder.final_layer_norm.weight", "final_layer_norm.weight"),
    ),
    broken(
        whole("text_encoder", "UMT5EncoderModel", "encoder.embed_tokens.weight"),
        renamed(TEXT, "shared.weight", "embed"),
    ),
    broken(
        whole("transformer", "WanTransformer3DModel", "blocks.8.attn1.norm_k.weight"),
        edited("transformer/config.json", num_layers=9),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: WanTransformer3DModel has no blocks.7...",
        edited("transformer/config.json", num_layers=7),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: WanTransformer3DModel has no blocks.0...",
        edited("transformer/config.json", num_layers=-1),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: WanTransformer3DModel has no blocks.0...",
        edited("transformer/config.json", num_layers=0),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder fits its config: UMT5EncoderModel has no encoder.block.2...",
        edited("text_encoder/config.json", num_layers=2),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder fits its config: UMT5EncoderModel has no encoder.block...",
        edited("text_encoder/config.json", num_layers=-1),
    ),
    broken(whole("vae", "AutoencoderKLWan", "..."), edited("vae/config.json", num_res_blocks=2)),
    broken(
        "model.path: 'm/transformer' is no WanTransformer3DModel: ... its config describes more than ... weights",
        edited("transformer/config.json", num_layers=10**7),
    ),
    broken(
        "model.path: 'm/text_encoder' is no UMT5EncoderModel: ... its config describes more than ... weights",
        edited("text_encoder/config.json", num_layers=10**7),
    ),
    broken(
        whole("vae", "AutoencoderKLWan", "..."),  # an index that does not list all tensors
        moved(VAE, "vae/a.safetensors"),
        renamed("vae/a.safetensors", "quant_conv.bias", "quant_conv.b"),
        holding(f"{VAE}.index.json", '{"metadata": {}, "weight_map": {"quant_conv.weight": "a.safetensors"}}'),
    ),
    # -- shapes
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: blocks.0.ffn.net.0.proj.bias must be (256,),"
        " there is (512,)",
        edited("transformer/config.json", ffn_dim=256),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: patch_embedding.weight must be ...",
        edited("transformer/config.json", in_channels=4),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder fits its config: encoder.block.0...",
        edited("text_encoder/config.json", d_ff=128),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder fits its config: shared.weight must be (99, 128), there ...",
        edited("text_encoder/config.json", vocab_size=99),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose vae fits its config: ... must be ..., there is ...",
        edited("vae/config.json", z_dim=4),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose vae fits its config: {NORM} must be (32, 1, 1), there is (32,)",
        retyped(VAE, NORM, shape=[32]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: proj_out.weight must be ..., there is ...",
        retyped(TRANSFORMER, "proj_out.weight", shape=[192, 32]),
    ),
    # -- types
    broken(
        f"model.path: 'm' {BAD} one whose vae has weights F64, F32, F16, BF16: decoder.conv_in.bias is I32",
        retyped(VAE, "decoder.conv_in.bias", dtype="I32"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer has weights F64, F32, F16, BF16: proj_out.weight is I16",
        retyped(TRANSFORMER, "proj_out.weight", dtype="I16"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder has weights F64, F32, F16, BF16: shared.weight is I32",
        retyped(TEXT, "shared.weight", dtype="I32"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer has weights F64, F32, F16, BF16: scale_shift_table is U16",
        retyped(TRANSFORMER, "scale_shift_table", dtype="U16"),
    ),
    # -- numbers
    broken(f"model.path: 'm/{VAE}' has NaN or inf in decoder.conv_in.bias", valued(VAE, "decoder.conv_in.bias", NAN32)),
    broken(f"model.path: 'm/{TEXT}' has NaN or inf in shared.weight", valued(TEXT, "shared.weight", NAN32)),
    broken(
        f"model.path: 'm/{TRANSFORMER}' has NaN or inf in proj_out.bias", valued(TRANSFORMER, "proj_out.bias", INF16)
    ),
    # -- configs that describe no model
    broken(
        "model.path: 'm/transformer' is no WanTransformer3DModel: ...",
        edited("transformer/config.json", num_attention_heads="six"),
    ),
    broken(
        "model.path: 'm/transformer' is no WanTransformer3DModel: ...", edited("transformer/config.json", ffn_dim=-5)
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer fits its config: patch_embedding.weight must be ...",
        edited("transformer/config.json", patch_size=[2, 2]),
    ),
    broken("model.path: 'm/vae' is no AutoencoderKLWan: ...", edited("vae/config.json", dim_mult="wide")),
    broken(
        "model.path: 'm/text_encoder' is no UMT5EncoderModel: ...", edited("text_encoder/config.json", d_model="wide")
    ),
    broken(
        f"model.path: 'm/vae/config.json' {BAD} a file with z_dim=8 finite latents_mean and latents_std, ...",
        edited("vae/config.json", latents_std=[10**400] * 8),
    ),
    *(
        broken(
            f"model.path: 'm/vae/config.json' {BAD} a file whose scale_factor_temporal and scale_factor_spatial are "
            f"what its layers make, {made}",
            edited("vae/config.json", **values),
        )
        for made, values in (
            ("(4, 4)", {"scale_factor_spatial": 8}),
            ("(4, 4)", {"scale_factor_temporal": 2}),
            ("(4, 8)", {"patch_size": 2}),
        )
    ),
    broken(
        f"model.path: 'm/vae/config.json' {BAD} a file with z_dim=8 finite latents_mean and latents_std, ...",
        edited("vae/config.json", latents_mean=[0.0]),
    ),
    broken(
        f"model.path: 'm/vae/config.json' {BAD} a file with z_dim=8 finite latents_mean and latents_std, ...",
        edited("vae/config.json", latents_std=[0.0] * 8),
    ),
    broken(
        f"model.path: 'm/vae/config.json' {BAD} a file with z_dim=8 finite latents_mean and latents_std, ...",
        edited("vae/config.json", latents_mean=["a"] * 8),
    ),
    broken(
        "model.path: the configs in 'm' describe no Wan model: ...",
        edited("vae/config.json", scale_factor_spatial="four"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose transformer is of a model's class of diffusers, not WanTransformer",
        edited("transformer/config.json", _class_name="WanTransformer"),
        edited("model_index.json", transformer=["diffusers", "WanTransformer"]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder is of a model's class of transformers, not Trainer",
        edited("model_index.json", text_encoder=["transformers", "Trainer"]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose boundary_ratio is a number in 0..1, and which has a transformer_2, or ...",
        edited("model_index.json", boundary_ratio=0.875),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose tokenizer knows words, as numbers below the text encoder's vocab_size=384",
        edited("model_index.json", tokenizer=["transformers", "T5TokenizerFast"]),
        edited("tokenizer/tokenizer_config.json", tokenizer_class="T5TokenizerFast"),
    ),
    broken(
        "model.path: the scheduler in 'm' cannot be used: ...",
        edited("scheduler/scheduler_config.json", solver_type="runge"),
    ),
    # -- learned rewards
    reward(
        "pixel",
        "'m/model.safetensors' has NaN or inf in blocks.0.each_other.in_proj_bias",
        valued("model.safetensors", "blocks.0.each_other.in_proj_bias", NAN32),
    ),
    reward(
        "pavrm", "'m/model.safetensors' has NaN or inf in mlp.0.bias", valued("model.safetensors", "mlp.0.bias", INF16)
    ),
    reward(
        "latent", "'m/model.safetensors' has NaN or inf in head.bias", valued("model.safetensors", "head.bias", INF16)
    ),
    reward(
        "pixel",
        "'m/model.safetensors' is cut off: it has 9999 bytes, and its header describes 2874224",
        cut("model.safetensors", 9999),
    ),
    reward("pixel", "'m/model.safetensors' is a pointer of Git LFS, ...", pointer("model.safetensors")),
    reward("pixel", "'m/model.safetensors' is empty", cut("model.safetensors", 0)),
    reward("pixel", "'m/model.safetensors' is no safetensors file", cut("model.safetensors", 5)),
    reward("pixel", "'m/model.safetensors' is not allowed; it must be an existing file", without("model.safetensors")),
    reward("pixel", f"'m' {BAD} a folder whose config.json is a JSON object", cut("config.json", 20)),
    reward(
        "pixel",
        f"'m' {BAD} a reward whose config names no architecture, not 'pavrm'",
        edited("config.json", architecture="pavrm"),
    ),
    reward(
        "pixel",
        "m/config.json describes no pixel reward: config.vocabulary: 3 is not allowed; it must be a list, such as [3]",
        edited("config.json", vocabulary=3),
    ),
    reward(
        "pixel", "m/config.json describes no pixel reward: config.depth: unknown key...", edited("config.json", depth=3)
    ),
    reward("pixel", "m/config.json describes no pixel reward: RuntimeError(...)", edited("config.json", width=-96)),
    reward(
        "pixel",
        f"'m' {BAD} one whose weights fit its config: blocks.0.each_other.in_proj_bias must be (144,), there is (288,)",
        edited("config.json", width=48),
    ),
    reward(
        "pixel",
        f"'m' {BAD} one whose weights fit its config: weight must be no such tensor, there is (17, 96)",
        renamed("model.safetensors", "words.weight", "weight"),
    ),
    reward(
        "pixel",
        f"'m' {BAD} one of weights F16, BF16, F32: words.weight is I32",
        retyped("model.safetensors", "words.weight", dtype="I32"),
    ),
    reward(
        "latent", f"'m' {BAD} a folder whose model.safetensors is a safetensors file", cut("model.safetensors", 99999)
    ),
    # -- components that a learned reward's config names
    reward("pavrm", f"'m' {BAD} a folder with config.json", without("config.json")),
    *(
        reward(
            name,
            f"'m' {BAD} a reward with no component called 'step', which is a column of its own",
            edited("config.json", components=components),
        )
        for name, components in (
            ("pixel", [["VQ", "clip"], ["step", "phrases"], ["TA", "both"]]),
            ("latent", ["VQ", "step", "TA"]),
            ("pavrm", ["VQ", "step", "TA"]),
        )
    ),
    reward(
        "pavrm",
        f"'m' {BAD} a reward with no two components called 'VQ'",
        edited("config.json", components=["VQ", "VQ", "TA"]),
    ),
    reward(
        "latent",
        f"'m' {BAD} a reward whose `components` is a tuple of names ...",
        edited("config.json", components=[]),
    ),
    reward(
        "pavrm", "m/config.json describes no PAVRM: config.components: ...", edited("config.json", components="LAW")
    ),
    reward(
        "pavrm",
        f"'m' {BAD} one whose weights fit its config: mlp.4.bias must be (2,), there is (3,)",
        edited("config.json", components=["VQ", "LAW"]),
    ),
    reward(
        "pixel",
        f"'m' {BAD} one whose weights fit its config: of_phrase.bias must be (1,), there is (2,)",
        edited("config.json", components=[["VQ", "clip"], ["MQ", "phrases"], ["LAW", "clip"]]),
    ),
    reward(
        "pixel",
        "m/config.json describes no pixel reward: config.components[0][1]: 'frames' is not allowed; it must be one of "
        "clip, phrases, both...",
        edited("config.json", components=[["LAW", "frames"]]),
    ),
    # -- pickled weights
    broken(
        "model.path: 'm/vae' is no AutoencoderKLWan: ...",
        moved(VAE, "vae/diffusion_pytorch_model.bin"),
        holding("vae/diffusion_pytorch_model.bin", b"PK\x03\x04"),
    ),
    broken("model.path: 'm/text_encoder' is no UMT5EncoderModel: ...", moved(TEXT, "text_encoder/pytorch_model.bin")),
]
