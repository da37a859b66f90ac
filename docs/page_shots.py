"""Takes the pictures of the report page that the guides show, of a run whose report.html is written.

    python docs/page_shots.py runs/mine --search 000000-s0-rgrp

It needs chromium, Playwright and a run with videos. Each picture is a WebP below 150 kB, docs/page-SCREEN.webp.
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import browser  # noqa: E402

MOST = 150_000  # bytes
SCREENS = {"overview": (), "gallery": ("ArrowDown", " "), "tree": (), "costs": ()}  # and the keys pressed first


def main() -> None:
    """Take the pictures and print how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--search", default="", metavar="ID", help="the search whose tree is shown")
    parser.add_argument("--to", type=Path, default=HERE, metavar="FOLDER")
    args = parser.parse_args()
    with browser.chromium() as there:
        for screen, keys in SCREENS.items():
            window = browser.Window(there, viewport={"width": 1280, "height": 800})
            view = {"search": args.search} if screen == "tree" and args.search else {}
            page = window.open(args.run_dir.resolve(), screen, **view)
            page.wait_for_timeout(500)  # posters and previews come by themselves
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_timeout(1000)
            file = args.to / f"page-{screen}.webp"
            file.write_bytes(small(page.screenshot()))
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB")
            window.context.close()


def small(png: bytes) -> bytes:
    """The picture as WebP, in the best quality that stays below MOST."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (90, 80, 70, 60, 50):
        out = io.BytesIO()
        picture.save(out, "webp", quality=quality, method=6)
        if out.tell() < MOST:
            break
    return out.getvalue()


if __name__ == "__main__":
    main()
