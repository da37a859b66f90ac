"""Make latents of true clips with their captions, for the flow-matching steps of PRFL:
`python -m actors.tiny.training.latents --out runs/clean`.

Clips of the world are rendered and encoded by the shipped autoencoder. They are written as shards train-*.parquet with
the columns `prompt` and `latent`, tensors (C, T, H, W) of C channels, T frames, H x W. No clip has a held-out caption.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from diffusers import AutoencoderKLWan

from actors.models.weights import pretrained
from actors.tiny.training.pipeline import encode_clips
from raysearch.session.dataset import tensors

SHARD = 1000  # rows


def write(out: Path, captions: Sequence[str], latents: np.ndarray, *, rows: int = SHARD) -> None:
    """Write n captions and latents (n, C, T, H, W) to shards of `rows` rows each."""
    out.mkdir(parents=True, exist_ok=True)
    for number, i in enumerate(range(0, len(captions), rows)):
        table = pa.table({"prompt": list(captions[i : i + rows]), "latent": tensors(latents[i : i + rows])})
        pq.write_table(table, out / f"train-{number:05d}.parquet", row_group_size=rows // 10)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("actors/assets/tiny-wan"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vae = pretrained(AutoencoderKLWan, args.model / "vae").eval()
    captions, latents = encode_clips(vae, args.clips, args.seed)
    write(args.out, captions[: args.clips], latents[: args.clips].numpy())
    print(f"{min(len(captions), args.clips)} clips in {args.out}")


if __name__ == "__main__":
    main()
