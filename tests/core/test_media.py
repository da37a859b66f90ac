"""Pictures and videos are seen as their files show them, and cut or padded to the shape of the model's videos."""

import io
import json
import struct
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import session
from PIL import Image

from raysearch.config import media
from raysearch.config.config import ModelConfig
from raysearch.config.prompts import read
from raysearch.recipe.origins import Recording
from raysearch.testing import run_virtual

RED, GREEN, BLUE = (200, 40, 30), (20, 180, 60), (30, 50, 210)


def saved(picture: Image.Image, kind: str = "png", **more) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **more)
    return data.getvalue()


def filmed(frames, codec="libx264", form="yuv420p", container="mp4", matrix=None, **options) -> bytes:
    """A video of RGB or RGBA frames, whose matrix is tagged if it is given."""
    data = io.BytesIO()
    with av.open(data, "w", format=container) as file:
        stream = file.add_stream(codec, rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], form
        stream.options = {"threads": "1", **options}
        if matrix is not None:
            stream.codec_context.colorspace = int(matrix)
        for frame in frames:
            shown = av.VideoFrame.from_ndarray(frame, format="rgba" if frame.shape[2] == 4 else "rgb24")
            file.mux(stream.encode(shown.reformat(format=form, dst_colorspace=matrix)))
        file.mux(stream.encode())
    return data.getvalue()


def seen(data: bytes, n: int = 1, height: int = 2, width: int = 2, **how) -> list[np.ndarray]:
    how = {"still": n == 1, "fit": "stretch"} | how
    return [np.asarray(p) for p in media.shown(Recording("", b"", **how), data, n, height, width)]


def corners(orientation: int) -> bytes:
    """A JPEG that is stored in this orientation, and shows red at the top left, green right of it, blue below."""
    upright = Image.new("RGB", (32, 48), "black")
    for colour, at in ((RED, (0, 0)), (GREEN, (16, 0)), (BLUE, (0, 32))):
        upright.paste(colour, (*at, at[0] + 16, at[1] + 16))
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = upright.transpose(Image.Transpose[back[orientation]]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(stored, "jpeg", exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(orientation):
    (picture,) = seen(corners(orientation))
    assert picture.shape == (48, 32, 3)
    for colour, (y, x) in ((RED, (8, 8)), (GREEN, (8, 24)), (BLUE, (40, 8))):
        assert np.abs(picture[y, x].astype(int) - colour).max() <= 6


def test_damaged_exif_data_turn_nothing():
    (picture,) = seen(saved(Image.new("RGB", (4, 2), RED), "jpeg", exif=b"Exif\0\0garbage", quality=100))
    assert picture.shape == (2, 4, 3)


HALF = Image.new("RGBA", (2, 1))
HALF.putdata([(255, 0, 0, 0), (255, 0, 0, 128)])


@pytest.mark.parametrize(("background", "left", "right"), [
    ("black", (0, 0, 0), (128, 0, 0)),
    ("white", (255, 255, 255), (255, 127, 127)),
    ("#0000ff", (0, 0, 255), (128, 0, 127)),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "LA", "P"])
def test_what_is_transparent_lies_on_the_background(kind, background, left, right):
    picture = HALF
    if kind == "LA":
        picture = Image.new("LA", (2, 1))
        picture.putdata([(255, 0), (255, 128)])
        right = tuple(max(right[0], c + 128 * (i > 0)) for i, c in enumerate(right))
    if kind == "P":
        picture = Image.new("P", (2, 1))
        picture.putpalette([255, 0, 0, 255, 0, 0])
        picture.putdata([0, 1])
    more = {"lossless": True, "exact": True} if kind == "webp" else {"transparency": b"\0\x80"} if kind == "P" else {}
    (got,) = seen(saved(picture, kind if kind in ("webp", "tiff") else "png", **more), background=background)
    if kind == "LA":
        grey = {"black": (128,) * 3, "white": (255,) * 3, "#0000ff": (128, 128, 255)}[background]
        assert np.abs(got[0].astype(int) - [left, grey]).max() <= 1
    else:
        assert np.abs(got[0].astype(int) - [left, right]).max() <= 1


@pytest.mark.parametrize(("values", "kind"), [
    (np.array([[0, 32768, 65535]], np.uint16), "png"),
    (np.array([[0, 32768, 65535]], np.uint16), "tiff"),
    (np.array([[0, 32768, 65535]], np.int32), "tiff"),
    (np.array([[0, 0.5, 1]], np.float32), "tiff"),
    (np.array([[0, 128, 255]], np.uint8), "png"),
])  # fmt: skip
def test_numbers_of_more_bits_are_scaled_to_eight(values, kind):
    (picture,) = seen(saved(Image.fromarray(values), kind))
    assert picture[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("bad", [[[0, 1.5]], [[-0.1, 0]], [[float("nan"), 0]]])
def test_numbers_that_are_no_brightness_are_refused(bad):
    with pytest.raises(media.NotShown, match=r"numbers are in 0\.\.1"):
        seen(saved(Image.fromarray(np.array(bad, np.float32)), "tiff"))


@pytest.mark.parametrize(("picture", "kind", "near"), [
    (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", (255, 0, 0)),
    (Image.new("CMYK", (8, 8), (255, 0, 0, 128)), "tiff", (0, 127, 127)),
    (Image.new("RGB", (8, 8), GREEN).convert("P", palette=Image.Palette.ADAPTIVE), "png", GREEN),
    (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
    (Image.new("L", (8, 8), 77), "png", (77, 77, 77)),
])  # fmt: skip
def test_pictures_of_every_mode_are_rgb(picture, kind, near):
    (got,) = seen(saved(picture, kind))
    assert np.abs(got[4, 4].astype(int) - near).max() <= 3


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_is_all_its_frames_as_a_video_and_the_first_as_a_picture(kind):
    first, *others = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    more = {"lossless": True} if kind == "webp" else {}
    data = saved(first, kind, save_all=True, append_images=others, duration=100, **more)
    assert [tuple(f[4, 4]) for f in seen(data, 3)] == [RED, GREEN, BLUE]
    assert [tuple(f[4, 4]) for f in seen(data, 5)] == [RED, RED, GREEN, BLUE, BLUE]
    assert [tuple(f[4, 4]) for f in seen(data, 3, still=True)] == [RED] * 3


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_frame_counts_for_as_long_as_it_is_shown(kind):
    first, *others = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    more = {"lossless": True} if kind == "webp" else {}
    data = saved(first, kind, save_all=True, append_images=others, duration=[150, 800, 250], **more)
    assert [tuple(f[4, 4]) for f in seen(data, 6)] == [RED, GREEN, GREEN, GREEN, GREEN, BLUE]


@pytest.mark.parametrize(("times", "n", "chosen"), [
    ([(i, 1) for i in range(9)], 5, [0, 2, 4, 6, 8]),
    ([(i, 1) for i in range(4)], 4, [0, 1, 2, 3]),
    ([(3000 + 1001 * i, 0) for i in range(3)], 6, [0, 0, 1, 1, 2, 2]),
    ([(0, 0)], 3, [0, 0, 0]),
    ([(0, 10), (10, 10), (20, 980)], 2, [2, 2]),
    ([(5, 0), (3, 0), (7, 0)], 3, [1, 1, 2]),
])  # fmt: skip
def test_frames_are_chosen_evenly_in_time(times, n, chosen):
    assert media._evenly(times, n) == chosen


def test_a_picture_that_is_no_part_of_its_animation_is_a_picture_only():
    first, *others = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    data = saved(first, save_all=True, append_images=others, default_image=True)
    assert [tuple(f[4, 4]) for f in seen(data, 2)] == [GREEN, BLUE]
    assert [tuple(f[4, 4]) for f in seen(data)] == [RED]


def test_a_transparent_animation_lies_on_the_background():
    frames = [Image.new("RGBA", (8, 8), (*c, 0)) for c in (RED, GREEN)]
    for frame, c in zip(frames, (RED, GREEN), strict=True):
        frame.paste((*c, 255), (0, 0, 4, 8))
    data = saved(frames[0], save_all=True, append_images=frames[1:], disposal=1)
    got = seen(data, 2, background="white")
    assert [[tuple(f[4, 1]), tuple(f[4, 6])] for f in got] == [[RED, (255,) * 3], [GREEN, (255,) * 3]]


def test_a_video_is_seen_in_the_colours_that_its_file_names():
    frames = [np.full((64, 64, 3), c, np.uint8) for c in (RED, GREEN, BLUE)]
    for matrix in (media.Colorspace.ITU709, media.Colorspace.ITU601):
        for got, colour in zip(seen(filmed(frames, matrix=matrix, crf="4"), 3), (RED, GREEN, BLUE), strict=True):
            assert np.abs(got.astype(int) - colour).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(720, 64), (64, 1280), (64, 64)])
def test_a_video_that_names_no_matrix_has_that_of_its_size(height, width):
    matrix = media.matrix(width, height)
    assert (matrix == media.Colorspace.ITU709) == (height == 720 or width == 1280)
    frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), GREEN, np.uint8), format="rgb24")
    yuv = frame.reformat(format="yuv444p", dst_colorspace=matrix).to_ndarray()
    plain = av.VideoFrame.from_ndarray(yuv, format="yuv444p")
    assert plain.colorspace == media.UNTAGGED
    got = np.asarray(media._of_video(plain, "black"))
    assert np.abs(got.astype(int) - GREEN).max() <= 3


def test_a_video_with_transparent_pixels_lies_on_the_background():
    frame = np.zeros((16, 16, 4), np.uint8)
    frame[:, :8] = (*RED, 255)
    (got, _) = seen(filmed([frame] * 2, "qtrle", "argb", "mov"), 2, background="white")
    assert tuple(got[8, 2]) == RED and tuple(got[8, 12]) == (255, 255, 255)


@pytest.mark.parametrize(("matrix", "shape", "at"), [
    ((0, 1, -1, 0), (64, 32), (8, 24)),  # shown a quarter turn to the right: what is stored top left is top right
    ((-1, 0, 0, -1), (32, 64), (24, 56)),
    ((0, -1, 1, 0), (64, 32), (56, 8)),
])  # fmt: skip
def test_a_video_is_turned_as_its_file_says(matrix, shape, at):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:16, :16] = (255, 255, 255)
    data = bytearray(filmed([frame] * 2, crf="4"))
    where = data.index(b"tkhd") + 4 + 40  # the matrix a, b, u, c, d, v .. of the track's header
    a, b, c, d = (v * 65536 for v in matrix)
    data[where : where + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (got, _) = seen(bytes(data), 2)
    assert got.shape == (*shape, 3)
    assert got[at].min() > 240 and got.mean() < 60


@pytest.mark.parametrize("kind", ["mp4", "gif", "png", "webp"])
def test_a_video_of_too_many_pixels_is_refused(kind, monkeypatch):
    frames = [np.full((64, 64, 3), 12 * i, np.uint8) for i in range(20)]
    pictures = [Image.fromarray(f) for f in frames]
    data = filmed(frames) if kind == "mp4" else saved(pictures[0], kind, save_all=True, append_images=pictures[1:])
    assert len(seen(data, 20)) == 20
    monkeypatch.setattr(media, "VIDEO", 64 * 64 * 19)
    with pytest.raises(media.NotShown, match="a video of at most 77,824 pixels in all its frames together"):
        seen(data, 20)
    (first,) = seen(data, still=True) if kind != "mp4" else [None]
    assert first is None or first.shape == (64, 64, 3)  # where a picture is meant, the others do not count
    monkeypatch.setattr(media, "PICTURE", 64 * 64 - 1)
    with pytest.raises(media.NotShown, match="a picture of at most 4,095 pixels"):
        seen(data, 20)


# -- the shape of the model's videos ---------------------------------------------------------------------------------


STRIPES = Image.new("RGB", (8, 4))
for i in range(8):
    STRIPES.paste((30 * i, 0, 0), (i, 0, i + 1, 4))


@pytest.mark.parametrize(("fit", "height", "width", "columns"), [
    ("crop", 4, 4, [60, 90, 120, 150]),
    ("crop", 480, 480, [60, 90, 120, 150]),
    ("stretch", 4, 4, [0, 30, 60, 90, 120, 150, 180, 210]),
    ("pad", 4, 12, [9, 9, 0, 30, 60, 90, 120, 150, 180, 210, 9, 9]),
    ("crop", 2, 4, [0, 30, 60, 90, 120, 150, 180, 210]),
    ("pad", 2, 4, [0, 30, 60, 90, 120, 150, 180, 210]),
])  # fmt: skip
def test_a_picture_of_another_shape_is_cut_padded_or_stretched(fit, height, width, columns):
    (got,) = seen(saved(STRIPES), height=height, width=width, fit=fit, background="#090909")
    assert got[0, :, 0].tolist() == columns


def test_a_tall_picture_is_cut_above_and_below():
    (got,) = seen(saved(STRIPES.rotate(90, expand=True)), fit="crop")
    assert got[:, 0, 0].tolist() == [150, 120, 90, 60]


def test_a_picture_of_the_right_shape_keeps_its_resolution():
    (got,) = seen(saved(Image.new("RGB", (1664, 960))), height=480, width=832, fit="crop")
    assert got.shape == (960, 1664, 3)


# -- what identifies a recording -------------------------------------------------------------------------------------


def test_a_first_frame_is_identified_by_its_content_and_by_how_it_is_fitted(tmp_path):
    def prompt(**how):
        Image.new("RGB", (8, 4), how.pop("colour", RED)).save(tmp_path / "a.png")
        lines = json.dumps({"prompt": "a", "image": "a.png"})
        (tmp_path / "p.jsonl").write_text(lines)
        (found,) = read(None, str(tmp_path / "p.jsonl"), model=ModelConfig(path="", **how))
        return found.prompt

    plain = prompt()
    others = [prompt(image_fit="pad"), prompt(image_background="white"), prompt(colour=BLUE)]
    assert len({p.identity for p in [plain, *others]}) == 4
    assert prompt(height=99).identity == plain.identity  # a sampler's identity has the size
    assert plain.image == Recording(str(tmp_path / "a.png"), plain.image.content, True, "crop", "black")


def test_a_first_frame_that_changes_after_a_run_began_fails_its_search(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "a.png")
    s = session(tmp_path / "run", prompts=[{"prompt": "a", "image": str(tmp_path / "a.png")}, "b"])
    Image.new("RGB", (8, 8), BLUE).save(tmp_path / "a.png")
    run_virtual(s.run())
    changed, other = pq.read_table(tmp_path / "run" / "searches.parquet").to_pylist()
    assert (changed["status"], other["status"]) == ("failed", "done")
    assert changed["reason"] == f"ValueError: {tmp_path / 'a.png'} has changed since the run began"


def test_a_file_that_arms_share_is_decoded_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path, looks = tmp_path / "a.png", []
    plain = media.shown
    monkeypatch.setattr(media, "shown", lambda *given: looks.append(1) or plain(*given))
    for colour, expected in ((RED, 1), (RED, 1), (BLUE, 2)):
        if colour != RED or not path.exists():
            Image.new("RGB", (8, 4 + len(looks)), colour).save(path)
        media.recording("k", "a.png", path, ModelConfig(path=""), still=True)
        assert len(looks) == expected
