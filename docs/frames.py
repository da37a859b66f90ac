"""Draw the README's row of frames: one plain sample beside the best of 16, with the tiny model that ships.

    python docs/frames.py

The caption is the first of configs/quickstart.yaml and the seed is 0, so nobody chose the picture. The search sees the
learned pixel reward; the words under each half are the exact verifier's verdict. It takes
half a minute on 2 cores.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

import raysearch

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quickstart.yaml"
ARMS = {"one plain sample": "{name: single}", "the best of 16": "{name: best_of_n, n: 16}"}
SHOWN, SCALE, GAP, LINE = 5, 3, 4, 24  # frames of each video, pixels for each of its pixels, pixels between, of a text


def strip(frames: np.ndarray) -> Image.Image:
    """SHOWN frames of a video, uint8 (T, H, W, 3), from its first to its last, side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    _, height, width, _ = chosen.shape
    row = Image.new("RGB", (SHOWN * (SCALE * width + GAP) - GAP, SCALE * height), "white")
    for i, frame in enumerate(chosen):
        shown = Image.fromarray(frame).resize((SCALE * width, SCALE * height), Image.Resampling.NEAREST)
        row.paste(shown, (i * (SCALE * width + GAP), 0))
    return row


def main() -> None:
    """Run the two arms and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "frames.png", help="the picture's file")
    args = parser.parse_args()
    caption = OmegaConf.load(CONFIG).prompts[0]
    arms = ", ".join(f"{{name: arm{i}, policy: {policy}}}" for i, policy in enumerate(ARMS.values()))
    overrides = [f"prompts=[{caption}]", "seeds=[0]", f"arms=[{arms}]", "output.frames=true"]
    with tempfile.TemporaryDirectory() as scratch:
        result = raysearch.run(CONFIG, [*overrides, "fleet.backend=local", f"run_dir={scratch}/run"])
        rows = {r["arm"]: r for r in result.searches.to_pylist()}
        strips = [strip(np.load(result.path / "frames" / f"{rows[a]['search_id']}.npy")) for a in ("arm0", "arm1")]
    width, height = strips[0].size
    picture = Image.new("RGB", (2 * width + 8 * GAP, height + 2 * LINE), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=15)
    for i, (name, shown) in enumerate(zip(ARMS, strips, strict=True)):
        left, row = i * (width + 8 * GAP), rows[f"arm{i}"]
        verdict = "shows the caption" if row["holdout_success"] else "does not show the caption"
        draw.text((left, 2), name, "black", font)
        picture.paste(shown, (left, LINE))
        draw.text((left, LINE + height + 2), f"verifier: {verdict}; {row['nfe']} evaluations", "black", font)
    picture.save(args.out, optimize=True)
    print(f"{args.out}: {caption}")


if __name__ == "__main__":
    main()
