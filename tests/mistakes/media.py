"""Pictures and videos that cannot be read or are not allowed where they stand, and how videos are written."""

import io
import json
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from mistakes import ROOT, Mistake


def picture(kind: str = "png", mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    """A picture of noise."""
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(data, kind)
    return data.getvalue()


def numbers(values: object) -> bytes:
    """A TIFF of floating-point numbers."""
    data = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(data, "tiff")
    return data.getvalue()


def animation(frames: int, kind: str = "gif") -> bytes:
    """An animation of noise."""
    data = io.BytesIO()
    first, *others = [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)) for i in range(frames)
    ]
    first.save(data, kind, save_all=True, append_images=others)
    return data.getvalue()


def clip(frames: int = 10) -> bytes:
    """An mp4 of noise, whose index comes first."""
    data = io.BytesIO()
    more = {"movflags": "+faststart"}
    with av.open(data, "w", format="mp4", options=more, io_open=lambda *_: io.BytesIO(data.getvalue())) as file:
        stream = file.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 32
        stream.options = {"threads": "1", "crf": "10"}
        for i in range(frames):
            pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return data.getvalue()


def sound() -> bytes:
    """A WAV file: a container without a video."""
    data = io.BytesIO()
    with av.open(data, "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return data.getvalue()


def huge(width: int, height: int, frames: int = 1) -> bytes:
    """A PNG, or an APNG, that says it has so many pixels; it holds none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    moving = chunk(b"acTL", frames.to_bytes(4, "big") + bytes(4)) if frames > 1 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes((8, 2, 0, 0, 0))) + moving + chunk(b"IDAT", b"")


def nothing_to_read(folder: Path) -> None:
    """A folder where a picture should be."""
    (folder / "a.png").mkdir()


def dangling(folder: Path) -> None:
    """A link to a file that is gone."""
    (folder / "a.png").symlink_to(folder / "gone.png")


FIRST = ["prompts=null", "prompts_file=p.jsonl"]
ENTRY = json.dumps({"prompt": "a", "image": "a.png"})
LAST = json.dumps({"prompt": "a", "image": "a.png", "last_image": "a.png"})
# A TIFF that says each of its pixels has 2,048 samples, of which Pillow logs a line.
SAMPLES = picture("tiff").replace(b"\x15\1\3\0\1\0\0\0\3", b"\x15\1\3\0\1\0\0\0\0\x08")
PNG, MP4, GIF = picture(), clip(), animation(4)
RATES = "is not allowed; it must be a number of frames a second from 0.001 to 1000, such as 16, 23.976 or 24000/1001"
FITS = "is not allowed; it must be one of crop, pad, stretch"
BIG = "is not allowed; it must be a picture of at most 89,478,485 pixels"


def first_frame(content: str | bytes | None, line: str) -> Mistake:
    """A prompts file whose first frame is a file of this content."""
    files = {"p.jsonl": ENTRY} | ({} if content is None else {"a.png": content})
    return Mistake(FIRST, f"p.jsonl line 1: image: 'a.png' {line}", files=files)


def obstacle(kind: str, content: bytes, line: str) -> Mistake:
    """An obstacle that is a file of this content."""
    return Mistake([f"obstacles=[{{{kind}: bad}}]"], f"obstacles[0].{kind}: 'bad' {line}", files={"bad": content})


TABLE = [
    # First frames.
    first_frame(None, "is not allowed; it must be an existing image file"),
    first_frame(b"", "is no picture that Pillow can read"),
    first_frame("a text", "is no picture that Pillow can read"),
    first_frame(PNG[:20], "is no picture that Pillow can read..."),
    first_frame(PNG[:2000], "is no picture that Pillow can read..."),
    first_frame(picture("jpeg")[:500], "is no picture that Pillow can read: ..."),
    first_frame(SAMPLES, "is no picture that Pillow can read..."),
    first_frame(MP4, "is no picture that Pillow can read"),
    first_frame(sound(), "is no picture that Pillow can read"),
    first_frame(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture that Pillow can read"),
    first_frame(huge(40_000, 40_000), BIG),
    first_frame(huge(10_000, 10_000), BIG),
    first_frame(huge(2**30, 1), BIG),
    first_frame(numbers([0.0, 2.5]), "is not allowed; it must be a picture whose numbers are in 0..1, ..."),
    first_frame(numbers([float("nan")]), "is not allowed; it must be a picture whose numbers are in 0..1, ..."),
    Mistake(FIRST, "p.jsonl line 1: image: 'a.png' ... an existing...", files={"p.jsonl": ENTRY}, make=dangling),
    Mistake(
        FIRST,
        "p.jsonl line 1: image: 'a.png' ... an existing image file",
        files={"p.jsonl": ENTRY},
        make=nothing_to_read,
    ),
    Mistake(["prompts=[{prompt: a, image: null}, {prompt: b, image: 3}]"], "prompts[1].image: 3 is not allowed; ..."),
    Mistake(
        ["prompts=[{prompt: a, image: /}]"], "prompts[0].image: '/' is not allowed; it must be an existing image file"
    ),
    Mistake(["prompts=[{prompt: a, image: [a.png]}]"], "prompts[0].image: ['a.png'] is not allowed; ..."),
    Mistake(["prompts=[{prompt: a, image: config.yaml}]"], "prompts[0].image: 'config.yaml' is no picture ..."),
    Mistake(
        FIRST,
        "p.jsonl line 1: image: 'x/../a.png' is not allowed; ...",
        files={"p.jsonl": json.dumps({"prompt": "a", "image": "x/../a.png"}), "a.png": PNG},
    ),
    Mistake(
        [*FIRST, "model.image_fit=pad", "model.height=1024", "model.width=8"],
        "p.jsonl line 1: image: 'a.png' is not allowed; it must be a picture of at most 89,478,485 pixels",
        files={"p.jsonl": ENTRY, "a.png": picture(size=(4000, 1))},
    ),
    # Obstacles.
    obstacle("image", b"", "is no picture that Pillow can read"),
    obstacle("image", MP4, "is no picture that Pillow can read"),
    obstacle("image", PNG[:2000], "is no picture that Pillow can read..."),
    obstacle("image", huge(20_000, 20_000), BIG),
    obstacle("image", numbers([-1.0]), "is not allowed; it must be a picture whose numbers are in 0..1, ..."),
    obstacle("video", b"", "is no video that PyAV can read..."),
    obstacle("video", b"no video at all", "is no video that PyAV can read..."),
    obstacle("video", MP4[:100], "is no video that PyAV can read..."),
    obstacle("video", MP4[: len(MP4) // 4], "..."),
    obstacle("video", MP4[:-200], "is no video that PyAV can read: Invalid data found when processing input"),
    obstacle("video", GIF[: len(GIF) // 2], "is no video that PyAV can read..."),
    obstacle("video", animation(4, "png")[:6000], "is no video that PyAV can read..."),
    obstacle("video", animation(4, "webp")[:3000], "is no video that PyAV can read..."),
    obstacle("video", sound(), "is no video that PyAV can read"),
    obstacle("video", huge(9_000, 9_000, 1000), "is not allowed; it must be a video of at most 8,589,934,592 ..."),
    obstacle("video", huge(10_000, 10_000, 2), BIG),
    Mistake(["obstacles=[{video: none.mp4}]"], "obstacles[0].video: 'none.mp4' is not allowed; ..."),
    Mistake(["obstacles=[{image: .}]"], "obstacles[0].image: '.' is not allowed; it must be an existing file"),
    Mistake(["obstacles=[{image: config.yaml, video: a.mp4}]"], "obstacles[0]: ... one of text, image, video, reward"),
    Mistake(["obstacles=[{picture: a.png}]"], "obstacles[0]: ... one of text, image, video, reward"),
    Mistake(["obstacles={image: a.png}"], "obstacles: {'image': 'a.png'} is not allowed; it must be a list"),
    Mistake(["obstacles=[{image: 3}]"], "obstacles[0].image: 3 is not allowed; ..."),
    Mistake(["obstacles=[{image: bad, fit: pad}]"], "obstacles[0].fit: unknown key; ...", files={"bad": PNG}),
    Mistake(
        ["obstacles=[{image: bad, space: pixels}]"],
        "obstacles[0].space: 'pixels' is not allowed; it must be one of latent, features",
        files={"bad": PNG},
    ),
    Mistake(
        ["arms=[{name: a, policy: {name: single}, obstacles: [{text: b}, {image: bad}]}]"],
        "arms[0] (a): obstacles[1].image: 'bad' is no picture that Pillow can read",
        files={"bad": "text"},
    ),
    Mistake(
        [*FIRST, f"model.path={ROOT}/actors/assets/mixture", "model.height=1", "model.width=1", "model.num_frames=1"],
        "p.jsonl line 1: image: 'a.png' is not allowed; it must be left out with this model",
        files={"p.jsonl": ENTRY, "a.png": PNG},
        heavy=True,
    ),
    Mistake(
        FIRST,
        "p.jsonl line 1: last_image: 'a.png' is not allowed; it must be left out: pipelines whose call takes a ...",
        files={"p.jsonl": LAST, "a.png": PNG},
        heavy=True,
    ),
    Mistake(
        FIRST,
        "p.jsonl line 1: last_image: 'b.png' is not allowed; it must be an existing image file",
        files={"p.jsonl": LAST.replace('"last_image": "a', '"last_image": "b'), "a.png": PNG},
    ),
    # How fast a video plays.
    Mistake("output.fps=0", f"output.fps: 0 {RATES}"),
    Mistake("output.fps=-8", f"output.fps: -8 {RATES}"),
    Mistake("output.fps=fast", f"output.fps: 'fast' {RATES}"),
    Mistake("output.fps=1/0", f"output.fps: '1/0' {RATES}"),
    Mistake("output.fps=24:1", f"output.fps: ... {RATES}"),
    Mistake("output.fps=[8]", f"output.fps: [8] {RATES}"),
    Mistake(["output.fps={film: 24}"], f"output.fps: {{'film': 24}} {RATES}"),
    Mistake("output.fps=true", f"output.fps: True {RATES}"),
    Mistake("output.fps=.nan", f"output.fps: nan {RATES}"),
    Mistake("output.fps=.inf", f"output.fps: inf {RATES}"),
    Mistake("output.fps=5000", f"output.fps: 5000 {RATES}"),
    Mistake("output.fps=1/2000", f"output.fps: '1/2000' {RATES}"),
    Mistake("output.previews=some", "output.previews: 'some' is not allowed; it must be ...none, kept, all..."),
    Mistake("output.previews=true", "output.previews: ..."),
    Mistake("output.posters=some", "output.posters: ..."),
    Mistake("output.rate=8", "output.rate: unknown key...; allowed here: ...fps..."),
    Mistake("model.fps=8", "model.fps: unknown key (did you mean 'output.fps'?); ..."),
    Mistake("output.scale=0", "output.scale: 0 is not allowed; it must be at least 1"),
    Mistake("output.scale=1.5", "output.scale: 1.5 is not allowed; it must be of type int"),
    # How they are fitted.
    Mistake("model.image_fit=fill", f"model.image_fit: 'fill' {FITS}"),
    Mistake("model.image_fit=Crop", f"model.image_fit: 'Crop' {FITS}"),
    Mistake("model.image_fit=null", f"model.image_fit: None {FITS}"),
    Mistake("model.image_fit=[crop,pad]", f"model.image_fit: ['crop', 'pad'] {FITS}"),
    Mistake("model.fit=crop", "model.fit: unknown key; ...image_fit..."),
    Mistake("image_fit=crop", "image_fit: unknown key (did you mean 'model.image_fit'?); ..."),
    Mistake("model.image_background=nocolour", "model.image_background: 'nocolour' is not allowed; ..."),
    Mistake(["model.image_background='#12345'"], "model.image_background: '#12345' is not allowed; it must be a ..."),
    Mistake(["model.image_background='#11223344'"], "model.image_background: '#11223344' is not allowed; ..."),
    Mistake("model.image_background=0", "model.image_background: '0' is not allowed; ..."),
    Mistake(
        "model.image_background=[0,0,0]", "model.image_background: [0, 0, 0] is not allowed; it must be of type str"
    ),
    Mistake("model.image_background=''", "model.image_background: '' is not allowed; it must be a colour..."),
]
