"""Train the tiny text-to-video model on top of the trained autoencoder:
`python -m actors.tiny.training.pipeline --work training --out actors/assets/tiny-wan`.

Three stages keep their results in `--work`, so that a run that was killed goes on, and a longer `--steps` continues a
finished run: latents of rendered clips; a `UMT5EncoderModel` over bytes, trained to say at every byte which object the
byte belongs to; and a `WanTransformer3DModel` that learns the flow from noise to latents, given the frozen encoder's
embeddings. The result is a complete `WanPipeline` folder. No stage sees a held-out caption.

With `--steps 1` and an existing checkpoint, the pipeline of that checkpoint is written. Where other processes share the
cores, OMP_NUM_THREADS=1 is the fastest: threads that wait for each other make a step several times slower.

Shapes: n latents of C channels, T frames, H x W; embeddings of TEXT_LENGTH bytes, 128 numbers each.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from actors.models.weights import pretrained
from actors.tiny import world
from actors.tiny.training.clips import clips
from actors.tiny.training.pixel_data import statistics
from actors.training.attention import use_fast_attention
from actors.training.config import Schedule
from actors.training.loop import Loss, Means, train

TEXT_LENGTH = 80  # bytes; `max_sequence_length` of every call of the pipeline
SHIFT = 3.0  # flow shift of the noise levels, in training as in the scheduler
NO_CAPTION = 0.1  # share of clips that train without their caption, for guidance
FIRST = 2.0  # weight in the loss of the first latent frame, a single picture, in which colours go wrong first
# A clip's noise levels: one for all of it; one for each latent frame; 0 for the first latent frames, one for the rest.
LEVELS = ("one", "frames", "prefix")
SHARES = (0.6, 0.2, 0.2)


def build_encoder() -> UMT5EncoderModel:
    """An untrained text encoder of the tiny model."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=384,
            d_model=128,
            d_kv=32,
            num_heads=4,
            d_ff=256,
            num_layers=3,
            dropout_rate=0.0,
            tie_word_embeddings=True,
        )
    )


def build_transformer() -> WanTransformer3DModel:
    """An untrained transformer of the tiny model."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=8,
        out_channels=8,
        text_dim=128,
        freq_dim=256,
        ffn_dim=512,
        num_layers=8,
        rope_max_seq_len=256,
    )


def encode_clips(vae: AutoencoderKLWan, n: int, seed: int) -> tuple[list[str], Tensor]:
    """Render and encode at least `n` clips; returns captions and normalised latents (n, C, T, H, W)."""
    mean, std = statistics(vae)
    captions, latents = [], []
    with torch.no_grad():
        for i in range(0, n, 32):
            text, x = clips(np.random.default_rng([seed, 2, i]), 32, two=0.75)
            captions += text
            latents.append((vae.encode(x).latent_dist.mode() - mean) / std)
            if i % 3200 == 0:
                print(f"latents {i}/{n}", flush=True)
    return captions, torch.cat(latents)


class Reader(nn.Module):
    """The text encoder, with heads that say at each byte of a phrase its colour, shape, motion, and which object."""

    WORDS = (tuple(world.COLOURS), world.SHAPES, tuple(world.MOTIONS), (0, 1))

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.heads = nn.ModuleList(nn.Linear(128, len(words)) for words in self.WORDS)
        self.tokenizer = ByT5Tokenizer()

    def embed(self, captions: Sequence[str]) -> Tensor:
        """Embeddings as `WanPipeline` makes them: float32 (n, TEXT_LENGTH, 128), zero beyond each caption's end."""
        tokens = self.tokenizer(list(captions), padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt")
        mask = tokens.attention_mask
        return self.encoder(tokens.input_ids, mask).last_hidden_state * mask.unsqueeze(-1)

    def loss(self, captions: Sequence[str]) -> tuple[Tensor, float]:
        """The cross-entropy of the heads, and the share of captions of which they say every byte rightly."""
        truth = torch.full((len(self.heads), len(captions), TEXT_LENGTH), -100)
        for i, text in enumerate(captions):
            start = 0
            for which, o in enumerate(world.parse(text)):
                words = (o.colour, o.shape, o.motion, which)
                for j, word in enumerate(words):
                    truth[j, i, start : start + len(str(o))] = self.WORDS[j].index(word)
                start += len(f"{o} and ")
        states = self.embed(captions)
        said = [head(states).transpose(1, 2) for head in self.heads]
        right = torch.stack([((s.argmax(1) == t) | (t < 0)).all(1) for s, t in zip(said, truth, strict=True)])
        losses = [F.cross_entropy(s, t) for s, t in zip(said, truth, strict=True)]
        return torch.stack(losses).sum(), right.all(0).float().mean().item()


def noise_levels(rng: np.random.Generator, kind: str, n: int, frames: int) -> Tensor:
    """Draw a level in [0, 1] for each latent frame: float32 (n, frames). `kind` is one of LEVELS.

    Levels are stratified over the batch and shifted as in sampling.
    """
    columns = frames if kind == "frames" else 1
    u = rng.permuted(np.tile(np.arange(n)[:, None], columns), axis=0) + rng.random((n, columns))
    sigma = np.broadcast_to(SHIFT * (u / n) / (1 + (SHIFT - 1) * (u / n)), (n, frames)).copy()
    if kind == "prefix":
        sigma[np.arange(frames) < rng.integers(1, 4, size=(n, 1))] = 0
    return torch.from_numpy(sigma).float()


def flow_loss(
    transformer: WanTransformer3DModel,
    z: Tensor,
    text: Tensor,
    sigma: Tensor,
    *,
    uniform: bool,
    first: float = FIRST,
) -> Tensor:
    """The mean squared error of the predicted flow, noise - z, over the frames with noise.

    z are clean latents (n, C, T, H, W), `text` embeddings, `sigma` levels (n, T). `uniform` says that the levels of a
    latent are all the same; `first` is the weight of the first latent frame.
    """
    noise = torch.randn_like(z)
    level = sigma[:, None, :, None, None]
    tokens = z.shape[3] * z.shape[4] // 4  # of a latent frame, in patches of 2x2
    timestep = 1000 * (sigma[:, 0] if uniform else sigma.repeat_interleave(tokens, 1))
    with torch.autocast("cpu", torch.bfloat16):
        flow = transformer(torch.lerp(z, noise, level), timestep, text, return_dict=False)[0]
    error = (flow.float() - (noise - z)).square().mean((1, 3, 4))
    weight = torch.ones_like(sigma)
    weight[:, 0] = first
    return (weight * error)[sigma > 0].sum() / weight[sigma > 0].sum()


def flow(transformer: WanTransformer3DModel, latents: Tensor, embeddings: Tensor, rows: np.ndarray, batch: int) -> Loss:
    """The loss of batches of clips: latents (n, C, T, H, W), and of each the row in `embeddings` of its caption.

    Row 0 is that of no caption, which a share `NO_CAPTION` gets.
    """

    def loss(step: int, rng: np.random.Generator, means: Means) -> Tensor:
        kind = str(rng.choice(LEVELS, p=SHARES))
        pick = rng.integers(len(latents), size=batch)
        row = np.where(rng.random(batch) < NO_CAPTION, 0, rows[pick])
        sigma = noise_levels(rng, kind, batch, latents.shape[2])
        value = flow_loss(transformer, latents[pick].float(), embeddings[row], sigma, uniform=kind == "one")
        means.add({"loss": value.item()})
        return value

    return loss


def embedded(embed: Callable[[Sequence[str]], Tensor], captions: Sequence[str]) -> tuple[Tensor, np.ndarray]:
    """The embeddings (k, L, D) of the different captions, after that of no caption, and each caption's row."""
    vocabulary = {text: i for i, text in enumerate(["", *sorted(set(captions))])}
    texts = list(vocabulary)
    with torch.no_grad():
        table = torch.cat([embed(texts[i : i + 128]) for i in range(0, len(texts), 128)])
    return table, np.array([vocabulary[text] for text in captions])


def learn(transformer: WanTransformer3DModel, loss: Loss, args: argparse.Namespace) -> None:
    """Train a transformer by a command's arguments, from the checkpoint in `args.work` if there is one."""
    use_fast_attention(transformer)
    if args.compile:
        for block in transformer.blocks:
            block.compile(dynamic=False)
    schedule = Schedule(steps=args.steps, learning_rate=args.peak, warm_up=200, seed=args.seed + 2, every=200)
    train(transformer, loss, schedule, checkpoint=args.work / "transformer.pt")


def save(
    out: Path,
    vae: AutoencoderKLWan,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: UMT5EncoderModel,
    transformer: WanTransformer3DModel,
) -> None:
    """Write a `WanPipeline`, the transformer's weights as float16: half the size, and exact enough for float32."""
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT)
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=transformer.half(),
    ).save_pretrained(out)
    forget_paths(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"wrote {out}: {size / 1e6:.2f} MB")


def forget_paths(folder: Path) -> None:
    """Remove from a pipeline's configs the paths that its parts were loaded from."""
    for file in folder.rglob("config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("training"), help="latents and checkpoints")
    parser.add_argument(
        "--out", type=Path, default=Path("actors/assets/tiny-wan"), help="the pipeline's folder, with its vae"
    )
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--peak", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="needs a C++ compiler")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = pretrained(AutoencoderKLWan, args.out / "vae").eval()

    cache = args.work / "latents.pt"
    if not cache.exists():
        torch.save(encode_clips(vae, args.clips, args.seed), cache)
    captions, latents = torch.load(cache, weights_only=True)

    reader = Reader()

    def text_loss(step: int, rng: np.random.Generator, means: Means) -> Tensor:
        texts = [world.caption(world.training_objects(rng)) for _ in range(64)]
        value, right = reader.loss(texts)
        means.add({"loss": value.item(), "right": right})
        return value

    schedule = Schedule(
        steps=args.text_steps,
        learning_rate=2e-3,
        warm_up=200,
        weight_decay=0.0,
        ema=0.99,
        seed=args.seed + 1,
        every=200,
    )
    train(reader, text_loss, schedule, checkpoint=args.work / "text.pt")
    with torch.no_grad():
        for held_out in (world.HELD_OUT_ONE, world.HELD_OUT_TWO):
            print(f"reads {reader.loss(held_out)[1]:.4f} of {len(held_out)} held-out captions")
    embeddings, rows = embedded(reader.embed, captions)

    torch.manual_seed(args.seed)  # the same start whatever was made before and what was kept
    transformer = build_transformer()
    learn(transformer, flow(transformer, latents, embeddings, rows, args.batch), args)
    save(args.out, vae, reader.tokenizer, reader.encoder, transformer)


if __name__ == "__main__":
    main()
