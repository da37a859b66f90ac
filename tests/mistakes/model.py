"""Model folders that are broken or unusual, and sizes and texts that a model cannot take."""

import json

from mistakes import ROOT, Mistake
from mistakes._folders import (
    TEXT,
    TRANSFORMER,
    VAE,
    Damage,
    cut,
    edited,
    holding,
    linked,
    model,
    moved,
    pointer,
    reheaded,
    retyped,
    without,
)

SCHEDULER = "scheduler/scheduler_config.json"
DEEP = "[" * 100_000
BAD = "is not allowed; it must be"


def broken(line: str, *damages: Damage, more: str = "") -> Mistake:
    """A run with a damaged copy of the tiny model."""
    return Mistake(f"model.path=m {more}".strip(), line, make=model(*damages))


def mixture(line: str, **values: object) -> Mistake:
    """A run with a mixture of Gaussians, whose folder takes torch to check."""
    index = {"_class_name": "GaussianMixture", "weights": [0.5, 0.5], "means": [[0, 1], [1, 0]], "stds": [1, 1]}
    size = "model.height=1 model.width=1 model.num_frames=1"
    files = {"m/model_index.json": json.dumps(index | values)}
    return Mistake(f"model.path=m {size}", line, files=files, heavy=True)


TABLE = [
    # -- the path
    Mistake("model.path=/nonexistent", f"model.path: '/nonexistent' {BAD} an existing folder in diffusers' layout"),
    *(
        Mistake(
            f"{command} {ROOT}/configs/{config}.yaml model.path=/nonexistent run_dir=run {more}".split(),
            f"model.path: '/nonexistent' {BAD} an existing folder in diffusers' layout",
            heavy=command == "prfl",
        )
        for command, config, more in (
            ("sweep", "sweep_quick", ""),
            ("collect", "collect", "prompts_file=null prompts=[x]"),
            ("prfl", "prfl", f"prompts_file={ROOT}/configs/training_two.txt dataset=null flow_steps=0"),
        )
    ),
    Mistake("model.path=~/no-model", "model.path: '~/no-model' is not allowed; it must be an existing folder ..."),
    Mistake("model.path=./no/model", f"model.path: './no/model' {BAD} an existing folder in diffusers' layout"),
    Mistake("model.path=here", "model.path: 'here' is not allowed; it must be an existing folder in diffusers' layout"),
    Mistake("model.path=config.yaml", f"model.path: 'config.yaml' {BAD} an existing folder in diffusers' layout"),
    Mistake("model.path=.", f"model.path: '.' {BAD} a folder with a model_index.json"),
    Mistake("model.path=m/vae", f"model.path: 'm/vae' {BAD} a folder with a model_index.json", make=model()),
    # -- the index
    broken(f"model.path: 'm' {BAD} a folder with a model_index.json", without("model_index.json")),
    broken("model.path: 'm/model_index.json' is empty", holding("model_index.json", "")),
    broken("model.path: 'm/model_index.json' is no JSON: ... line 1 column 2 ...", holding("model_index.json", "{")),
    broken("model.path: 'm/model_index.json' is no JSON: ...", holding("model_index.json", b"\xff\xfe\xfd")),
    broken("model.path: 'm/model_index.json' is no JSON: ...", holding("model_index.json", DEEP)),
    broken("model.path: 'm/model_index.json' holds no JSON object", holding("model_index.json", "[1, 2]")),
    broken("model.path: 'm/model_index.json' is a pointer of Git LFS, ...", pointer("model_index.json")),
    broken(f"model.path: 'm' {BAD} a folder with a model_index.json", linked("model_index.json")),
    broken(f"model.path: 'm' {BAD} a model of class ..., not None", edited("model_index.json", _class_name=None)),
    broken(
        f"sampler.name (arm single): 'unipc' {BAD} own with FluxPipeline, which is run as it is",
        edited("model_index.json", _class_name="FluxPipeline"),
    ),
    broken(
        f"model.path: 'm' {BAD} a model of class ..., not ['pipeline', 'MyPipeline']",
        edited("model_index.json", _class_name=["pipeline", "MyPipeline"]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose model_index.json names the class of vae", edited("model_index.json", vae=None)
    ),
    broken(
        f"model.path: 'm' {BAD} one whose model_index.json names the class of transformer",
        edited("model_index.json", transformer=[None, None]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose model_index.json names the class of scheduler",
        edited("model_index.json", scheduler="UniPCMultistepScheduler"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose vae is of diffusers or transformers, not of my_code",
        edited("model_index.json", vae=["my_code", "AutoencoderKLWan"]),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose parts are folders in it, not ../vae",
        edited("model_index.json", **{"../vae": ["diffusers", "AutoencoderKLWan"]}),
    ),
    broken(
        f"model.path: 'm' {BAD} a folder with image_encoder/ in it",
        edited("model_index.json", image_encoder=["transformers", "CLIPVisionModel"]),
    ),
    broken(
        f"model.path: 'm' {BAD} a folder with transformer_2/ in it",
        edited("model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"]),
    ),
    # -- parts and their JSON
    *(
        broken(f"model.path: 'm' {BAD} a folder with {part}/ in it", without(part))
        for part in ("transformer", "text_encoder", "tokenizer", "vae", "scheduler")
    ),
    broken(f"model.path: 'm' {BAD} a folder with vae/ in it", moved("vae", "vae_"), holding("vae", "a file")),
    *(
        broken(f"model.path: 'm/{name}' is missing", without(name))
        for name in (
            "transformer/config.json",
            "text_encoder/config.json",
            "vae/config.json",
            "tokenizer/tokenizer_config.json",
            SCHEDULER,
        )
    ),
    *(
        broken(f"model.path: 'm/{name}' is no JSON: ...", holding(name, '{"a": 1,}'))
        for name in (
            "transformer/config.json",
            "text_encoder/config.json",
            "vae/config.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/added_tokens.json",
            SCHEDULER,
        )
    ),
    broken("model.path: 'm/vae/config.json' is a link to nothing", linked("vae/config.json")),
    broken(
        f"model.path: 'm' {BAD} one whose parts are folders in it, not ..",
        edited("model_index.json", **{"..": ["diffusers", "AutoencoderKLWan"]}),
    ),
    broken("model.path: 'm/vae/config.json' holds no JSON object", holding("vae/config.json", "5")),
    broken(
        "model.path: 'm/vae/config.json' is no JSON: NaN is no number", edited("vae/config.json", z_dim=float("nan"))
    ),
    broken("model.path: 'm/transformer/config.json' is empty", holding("transformer/config.json", "")),
    broken(
        "model.path: 'm/tokenizer/added_tokens.json' is a pointer of Git LFS, not the file itself: ...",
        pointer("tokenizer/added_tokens.json"),
    ),
    broken(
        "model.path: 'm/tokenizer/spiece.model' is a pointer of Git LFS, not the file itself: ...",
        pointer("tokenizer/added_tokens.json"),
        moved("tokenizer/added_tokens.json", "tokenizer/spiece.model"),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose vae is a AutoencoderKLWan, as model_index.json says, not AutoencoderKL",
        edited("vae/config.json", _class_name="AutoencoderKL"),
    ),
    # -- code of the folder's own
    *(
        broken(
            f"model.path: 'm/{name}' {BAD} a file without auto_map: code of a model's folder is not run",
            edited(name, auto_map={"AutoTokenizer": ["my_code.MyTokenizer", None]}),
        )
        for name in ("tokenizer/tokenizer_config.json", "text_encoder/config.json", "transformer/config.json")
    ),
    # -- the scheduler
    broken(
        f"model.path: 'm/{SCHEDULER}' {BAD} a file whose num_train_timesteps is a whole number above 0, not 'many'",
        edited(SCHEDULER, num_train_timesteps="many"),
    ),
    broken(
        f"model.path: 'm/{SCHEDULER}' {BAD} a file whose num_train_timesteps is ..., not 0",
        edited(SCHEDULER, num_train_timesteps=0),
    ),
    broken(
        f"model.path: 'm/{SCHEDULER}' {BAD} a file whose shift is a number above 0, not -3",
        edited(SCHEDULER, flow_shift=-3),
    ),
    broken(
        f"model.path: 'm/{SCHEDULER}' {BAD} a file whose shift is a number above 0, not 'big'",
        edited(SCHEDULER, flow_shift=None, shift="big"),
    ),
    broken(
        f"sampler.flow_shift: None {BAD} given: this model's scheduler computes it from a video's size ...",
        edited(SCHEDULER, use_dynamic_shifting=True),
    ),
    # -- quantised weights
    broken(
        f"model.path: 'm' {BAD} one whose transformer is not quantised with bitsandbytes, for which no package ...",
        edited("transformer/config.json", quantization_config={"quant_method": "bitsandbytes"}),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose text_encoder is not quantised with gptq, for which no package ...",
        edited("text_encoder/config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
    ),
    broken(
        f"model.path: 'm' {BAD} one whose vae is not quantised with 8, for which no package is installed",
        edited("vae/config.json", quantization_config=8),
    ),
    # -- files of weights
    *(broken(f"model.path: 'm' {BAD} a folder with {name}", without(name)) for name in (VAE, TRANSFORMER, TEXT)),
    *(broken(f"model.path: 'm/{name}' is a link to nothing", linked(name)) for name in (VAE, TRANSFORMER, TEXT)),
    *(
        broken(
            f"model.path: 'm/{name}' is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder",
            pointer(name),
        )
        for name in (VAE, TRANSFORMER, TEXT)
    ),
    *(
        broken(
            f"model.path: 'm/{name}' is cut off: it has 2000000 bytes, and its header describes ...",
            cut(name, 2_000_000),
        )
        for name in (VAE, TRANSFORMER, TEXT)
    ),
    broken(f"model.path: 'm/{VAE}' is cut off: it has 100 bytes, and its header alone has ...", cut(VAE, 100)),
    broken(f"model.path: 'm/{VAE}' is no safetensors file", cut(VAE, 5)),
    broken(f"model.path: 'm/{VAE}' is empty", cut(VAE, 0)),
    broken(f"model.path: 'm/{VAE}' is no safetensors file", holding(VAE, b"<html>404 Not Found</html>")),
    broken(f"model.path: 'm/{VAE}' is no safetensors file", holding(VAE, b"\x02" + bytes(7) + b"[]")),
    broken(f"model.path: 'm/{VAE}' is no safetensors file", holding(VAE, b"\x04" + bytes(7) + b"null")),
    broken(
        f"model.path: 'm/{VAE}' is damaged: its header gives decoder.conv_in.bias a wrong place",
        retyped(VAE, "decoder.conv_in.bias", shape=[31]),
    ),
    broken(
        f"model.path: 'm/{VAE}' is damaged: its header gives ... a wrong place",
        retyped(VAE, "decoder.conv_in.bias", data_offsets=[8, 136]),
    ),
    broken(
        f"model.path: 'm/{TRANSFORMER}' is no safetensors file",
        reheaded(TRANSFORMER, lambda header: header.update(proj={"dtype": "F32"})),
    ),
    broken(
        f"model.path: 'm/{TRANSFORMER}' cannot be read: Is a directory",
        without(TRANSFORMER),
        lambda m: (m / TRANSFORMER).mkdir(),
    ),
    broken(f"model.path: 'm' {BAD} a folder with {TRANSFORMER}", moved(TRANSFORMER, "transformer/wan.gguf")),
    broken(f"model.path: 'm' {BAD} a folder with {TRANSFORMER}", moved(TRANSFORMER, "transformer/model.safetensors")),
    broken(
        f"model.path: 'm' {BAD} a folder with {TRANSFORMER}",
        moved(TRANSFORMER, "transformer/diffusion_pytorch_model.pt"),
    ),
    broken(
        f"model.path: 'm/{VAE}' is no safetensors file",  # a sound .bin beside it is no way out
        cut(VAE, 5),
        holding("vae/diffusion_pytorch_model.bin", b"PK"),
    ),
    # -- an index of several files
    broken(
        f"model.path: 'm/{VAE}.index.json' {BAD} an index whose weight_map names files beside it",
        holding(f"{VAE}.index.json", "{}"),
    ),
    broken(
        f"model.path: 'm/{VAE}.index.json' {BAD} an index whose weight_map names files beside it",
        holding(f"{VAE}.index.json", '{"weight_map": {"a": "../../secret.safetensors"}}'),
    ),
    broken(f"model.path: 'm/{VAE}.index.json' is no JSON: ...", holding(f"{VAE}.index.json", "{")),
    broken(
        "model.path: 'm/vae/a-00001-of-00002.safetensors' is missing",
        holding(f"{VAE}.index.json", '{"weight_map": {"a": "a-00001-of-00002.safetensors"}}'),
    ),
    broken(
        "model.path: 'm/text_encoder/model-00002-of-00002.safetensors' is missing",
        moved(TEXT, "text_encoder/model-00001-of-00002.safetensors"),
        holding(
            f"{TEXT}.index.json",
            json.dumps(
                {
                    "weight_map": {
                        "shared.weight": "model-00001-of-00002.safetensors",
                        "final_layer_norm.weight": "model-00002-of-00002.safetensors",
                    }
                }
            ),
        ),
    ),
    # -- variants
    broken(
        f"model.variant: None {BAD} fp16: 'm/transformer' has no other weights",
        moved(TRANSFORMER, TRANSFORMER.replace(".s", ".fp16.s")),
    ),
    broken(
        f"model.variant: 'fp8' {BAD} bf16 or fp16: 'm/vae' has no other weights",
        holding(VAE.replace(".s", ".bf16.s"), b"x"),
        moved(VAE, VAE.replace(".s", ".fp16.s")),
        more="model.variant=fp8",
    ),
    broken(f"model.variant: 'fp16' {BAD} left out, with 'm'", more="model.variant=fp16"),
    broken(
        f"model.variant: 'fp8' {BAD} one of fp16, or left out, with 'm'",
        holding(VAE.replace(".s", ".fp16.s"), b"x"),
        more="model.variant=fp8",
    ),
    Mistake("model.variant=[fp16]", "model.variant: ['fp16'] is not allowed; it must be of type str..."),
    Mistake("model.truncate=maybe", "model.truncate: 'maybe' is not allowed; it must be of type bool..."),
    # -- mixtures
    mixture("model.path: 'm' holds no Gaussian mixture: ... weights ...", weights=[0.5, -0.1]),
    mixture("model.path: 'm' holds no Gaussian mixture: ... weights ...", weights=[0, 0]),
    mixture("model.path: 'm' holds no Gaussian mixture: ...", weights=["a", 1]),
    mixture("model.path: 'm' holds no Gaussian mixture: ...", weights=[[1], [2]]),
    mixture("model.path: 'm' holds no Gaussian mixture: ...", weights=[1, 1, 1]),
    mixture("model.path: 'm' holds no Gaussian mixture: ... stds ...", stds=[1, 0]),
    mixture("model.path: 'm' holds no Gaussian mixture: ... stds ...", stds=[1, -1]),
    mixture("model.path: 'm' holds no Gaussian mixture: means must be finite ...", means=[[0, 1], [1, float("inf")]]),
    mixture("model.path: 'm' holds no Gaussian mixture: ...", means=[[], []]),
    mixture("model.path: 'm' holds no Gaussian mixture: path is flow or vp, not ode", path="ode"),
    mixture(
        "model.path: 'm' holds no Gaussian mixture: captions is no mapping from texts to weights", captions=["left"]
    ),
    mixture("model.path: 'm' holds no Gaussian mixture: ... left ...", captions={"left": [1, 0, 0]}),
    mixture("model.path: 'm' holds no Gaussian mixture: ... left ...", captions={"left": [1, -1]}),
    # -- sizes and shards that a model cannot make
    Mistake("model.height=33", f"model.height: 33 {BAD} a multiple of 8 for this model", heavy=True),
    Mistake("model.width=36", f"model.width: 36 {BAD} a multiple of 8 for this model", heavy=True),
    Mistake("model.num_frames=8", f"model.num_frames: 8 {BAD} 1 plus a multiple of 4", heavy=True),
    Mistake("model.height=0", f"model.height: 0 {BAD} at least 1"),
    Mistake("model.dtype=int8", f"model.dtype: 'int8' {BAD} one of float32, bfloat16, float16"),
    Mistake(["long={chunks: 2, prefix: 3}"], f"long.prefix: 3 {BAD} below 3, ...", heavy=True),
    # -- texts that the encoder would cut
    Mistake(
        ["prompts=['a', 'a red circle moving left and a blue square']"],
        f"prompts[1]: 'a red circle moving left and a blue square' {BAD} at most 40 tokens"
        " (model.max_sequence_length): these are 43, and model.truncate=true cuts them",
        heavy=True,
    ),
    Mistake(
        ["prompts=[[a, " + "b" * 99 + "]]", "long.chunks=2"],
        f"prompts[0]: '{'b' * 45} [39 characters left out] {'b' * 15}' {BAD} at most 40 tokens ...: these are 100, ...",
        heavy=True,
    ),
    Mistake(
        ["sampler.negative_prompt=" + "x" * 50],
        f"sampler.negative_prompt (arm single): '{'x' * 50}' {BAD} at most 40 tokens ...",
        heavy=True,
    ),
    Mistake(
        ["obstacles=[{text: a red circle moving left and a blue square}]"],
        f"obstacles (arm single): 'a red circle moving left and a blue square' {BAD} ...",
        heavy=True,
    ),
    Mistake(
        f"prfl {ROOT}/configs/prfl.yaml model.path={ROOT}/actors/assets/tiny-wan"
        f" reward.folder={ROOT}/actors/assets/pavrm prompts_file={ROOT}/configs/training_two.txt"
        " dataset=null flow_steps=0 model.max_sequence_length=20 run_dir=run",
        f"prompts: '...' {BAD} at most 20 tokens (model.max_sequence_length): these are ...",
        heavy=True,
    ),
    Mistake(
        ["model.max_sequence_length=4"],
        f"prompts[0]: 'a red circle moving left' {BAD} at most 4 tokens ...",
        heavy=True,
    ),
]
