"""Pictures of every kind are opened alike, or refused in one line that names where they came from."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageOps

from mm15.errors import UserError
from mm15.image import Tiling, cut, open_picture, picture_size, plan
from mm15.image.tiles import FORMATS, PADDING
from mm15.sample import Image

BICUBIC = PILImage.Resampling.BICUBIC


def scene(width: int, height: int) -> PILImage.Image:
    """A smooth picture without any symmetry: gradients, a circle and a box."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = PILImage.fromarray(np.stack([200 * across, 200 * down, 120 + 80 * across * down], -1).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((width * 0.1, height * 0.1, width * 0.4, height * 0.3), fill=(250, 30, 30))
    draw.rectangle((width * 0.6, height * 0.7, width * 0.8, height * 0.95), fill=(20, 220, 60))
    return picture


def encoded(picture: PILImage.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def opened(data: object) -> PILImage.Image:
    picture = open_picture(Image(data), where="here")  # type: ignore[arg-type]
    assert picture.mode == "RGB"
    return picture


def distance(one: PILImage.Image, other: PILImage.Image) -> float:
    """Mean absolute difference of two pictures of one size."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_orientation_agrees_with_pillow() -> None:
    for orientation in range(1, 9):
        exif = PILImage.Exif()
        exif[0x0112] = orientation
        data = encoded(scene(30, 20), "PNG", exif=exif)
        with PILImage.open(io.BytesIO(data)) as picture:
            assert distance(opened(data), ImageOps.exif_transpose(picture)) == 0


def test_every_way_to_give_a_picture(tmp_path: Path) -> None:
    picture = scene(40, 30)
    file = tmp_path / "a picture.png"
    picture.save(file)
    array = np.asarray(picture)
    ways = [file, str(file), file.read_bytes(), bytearray(file.read_bytes()), array, array[::-1][::-1], picture]
    for way in ways:
        assert np.array_equal(np.asarray(opened(way)), array)
        assert picture_size(Image(way), where="here") == (40, 30)  # type: ignore[arg-type]
    assert opened(picture) is picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    upright = scene(48, 80)
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    undo = {6: PILImage.Transpose.ROTATE_90, 8: PILImage.Transpose.ROTATE_270}
    turns = {
        2: PILImage.Transpose.FLIP_LEFT_RIGHT,
        3: PILImage.Transpose.ROTATE_180,
        4: PILImage.Transpose.FLIP_TOP_BOTTOM,
        5: PILImage.Transpose.TRANSPOSE,
        7: PILImage.Transpose.TRANSVERSE,
    } | undo
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    settings = {"lossless": True} if kind == "WEBP" else {"quality": 98} if kind == "JPEG" else {}
    data = encoded(stored, kind, exif=exif, **settings)
    assert picture_size(Image(data), where="here") == (48, 80)
    found = opened(data)
    assert distance(found, upright) <= (3 if kind == "JPEG" else 0)
    with PILImage.open(io.BytesIO(data)) as handed:
        assert picture_size(Image(handed), where="here") == (48, 80)
        assert distance(opened(handed), upright) <= (3 if kind == "JPEG" else 0)


def palette_with_a_hole() -> PILImage.Image:
    picture = PILImage.new("P", (20, 20), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(0, (0, 0, 10, 20))
    picture.info["transparency"] = 0
    return picture


def grey16() -> PILImage.Image:
    return PILImage.fromarray(np.full((20, 20), 0x80FF, dtype=np.uint16))


BLUE, WHITE = (0, 0, 255), (255, 255, 255)
KINDS = {  # name: (what is given, colour of the left half, colour of the right half)
    "palette": (lambda: encoded(scene(20, 20).quantize(256), "GIF"), None, None),
    "palette, transparent": (lambda: encoded(palette_with_a_hole(), "PNG", transparency=0), WHITE, BLUE),
    "palette, transparent GIF": (lambda: encoded(palette_with_a_hole(), "GIF", transparency=0), WHITE, BLUE),
    "alpha": (lambda: PILImage.new("RGBA", (20, 20), (0, 0, 255, 0)), WHITE, WHITE),
    "half alpha": (lambda: PILImage.new("RGBA", (20, 20), (0, 0, 255, 51)), (204, 204, 255), (204, 204, 255)),
    "grey with alpha": (lambda: encoded(PILImage.new("LA", (20, 20), (0, 0)), "PNG"), WHITE, WHITE),
    "colour key": (lambda: encoded(PILImage.new("RGB", (20, 20), BLUE), "PNG", transparency=BLUE), WHITE, WHITE),
    "black and white": (lambda: encoded(PILImage.new("1", (20, 20), 1), "PNG"), WHITE, WHITE),
    "grey": (lambda: encoded(PILImage.new("L", (20, 20), 77), "JPEG"), (77,) * 3, (77,) * 3),
    "CMYK": (lambda: encoded(PILImage.new("CMYK", (20, 20), (255, 255, 0, 0)), "JPEG"), BLUE, BLUE),
    "CMYK TIFF": (lambda: encoded(PILImage.new("CMYK", (20, 20), (255, 255, 0, 0)), "TIFF"), BLUE, BLUE),
    "16 bit PNG": (lambda: encoded(grey16(), "PNG"), (128,) * 3, (128,) * 3),
    "16 bit TIFF": (lambda: encoded(grey16(), "TIFF"), (128,) * 3, (128,) * 3),
    "16 bit PGM": (lambda: b"P5 20 20 65535\n" + b"\x80\xff" * 400, (128,) * 3, (128,) * 3),
    "16 bit RGB PNG": (
        lambda: png(20, 20, depth=16, colour=2, row=b"\x80\xff\x00\x00\xff\xff" * 20),
        (128, 0, 255),
        None,
    ),
    "32 bit": (lambda: PILImage.fromarray(np.full((20, 20), 0x80FF, dtype=np.int32)), (128,) * 3, (128,) * 3),
    "bitmap": (lambda: encoded(PILImage.new("RGB", (20, 20), BLUE), "BMP"), BLUE, BLUE),
}


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, row: bytes = b"") -> bytes:
    """A PNG written by hand; without a row it claims a size and has no pixels to it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\x00" + row) * (height if row else 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_pixel_becomes_rgb(name: str) -> None:
    given, left, right = KINDS[name]
    picture = opened(given())
    assert picture.size == (20, 20)
    for colour, x in ((left, 4), (right, 15)):
        if colour is not None:
            assert np.abs(np.subtract(picture.getpixel((x, 10)), colour)).max() <= 2
    if left is None:
        assert distance(picture, scene(20, 20)) < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    frames = [PILImage.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    found = opened(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert distance(found, frames[0]) < 3


def test_pictures_at_the_limits() -> None:
    assert opened(np.zeros((1, 1, 3), np.uint8)).size == (1, 1)
    layout = plan(4000, 20, Tiling(tile=64))
    tiles = cut(opened(np.full((20, 4000, 3), 255, np.uint8)), layout)
    assert (tiles.shape[0], tiles[0].max(), tiles[0].min()) == (10, 255, PADDING)


def test_a_jpeg_is_decoded_smaller_when_less_is_enough() -> None:
    whole = scene(1600, 1200)
    data = encoded(whole, "JPEG", quality=95)
    for at_least, size in [
        ((1600, 1), (1600, 1200)),
        ((800, 600), (800, 600)),
        ((801, 600), (1600, 1200)),
        ((9, 9), (200, 150)),
    ]:
        assert open_picture(Image(data), where="here", at_least=at_least).size == size
    odd = encoded(scene(1602, 1202), "JPEG", quality=95)
    assert open_picture(Image(odd), where="here", at_least=(9, 9)).size == (801, 601)
    layout = plan(1600, 1200, Tiling(tile=64))
    small = open_picture(Image(data), where="here", at_least=layout.resized)
    assert small.size == (200, 150)
    assert np.abs(cut(small, layout).astype(float) - cut(whole, layout)).mean() < 2


def test_a_turned_jpeg_is_decoded_smaller_too() -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    upright = scene(400, 1600)
    data = encoded(upright.transpose(PILImage.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    found = open_picture(Image(data), where="here", at_least=(100, 400))
    assert found.size == (100, 400)
    assert distance(found, upright.resize((100, 400), BICUBIC)) < 3
    with PILImage.open(io.BytesIO(data)) as handed:
        assert open_picture(Image(handed), where="here", at_least=(100, 400)).size == (400, 1600)


def test_a_photo_above_pillows_warning_opens_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PILImage, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(encoded(scene(40, 40), "PNG")).size == (40, 40)
    with pytest.raises(UserError, match="too many pixels"):
        opened(encoded(scene(60, 60), "PNG"))


def test_exif_that_is_damaged_is_no_reason_to_refuse() -> None:
    data = encoded(scene(32, 20), "JPEG", exif=b"Exif\x00\x00not a TIFF header at all")
    assert opened(data).size == (32, 20) == picture_size(Image(data), where="here")


# ------------------------------------------------------------------------------------------------------------ refusing


def refusal(data: object) -> str:
    """The one line with which a picture is refused, the same for its size where the header shows it."""
    with pytest.raises(UserError) as caught:
        open_picture(Image(data), where="sample 7")  # type: ignore[arg-type]
    line = str(caught.value)
    assert line.startswith("sample 7: ") and "\n" not in line and len(line) < 300, line
    return line


JPEG = encoded(scene(200, 100), "JPEG")
BAD = {
    "empty": (b"", "empty (0 bytes)"),
    "text": (b"hello, I am not a picture", "not a picture"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "cannot be read"),
    "half a PNG": (encoded(scene(200, 100), "PNG")[:-900], "cannot be read"),
    "only a header": (JPEG[:30], ""),
    "bomb": (png(60_000, 60_000), "too many pixels"),
    "bomb in a strip": (png(2_000_000, 20_000), "too many pixels"),
    "strip file": (png(100_000, 1), "100000x1"),
    "strip array": (np.zeros((100_000, 1, 3), np.uint8), "1x100000 pixels; its longer side may be at most 200 times"),
    "0x0 array": (np.zeros((0, 0, 3), np.uint8), "0x0"),
    "0x0 Pillow": (PILImage.new("RGB", (0, 0)), "0x0"),
    "wide 0": (np.zeros((0, 10, 3), np.uint8), "10x0"),
    "grey array": (np.zeros((10, 10), np.uint8), "uint8 [10x10]"),
    "planes first": (np.zeros((3, 10, 10), np.uint8), "[3x10x10]"),
    "with alpha": (np.zeros((10, 10, 4), np.uint8), "[10x10x4]"),
    "floats": (np.zeros((10, 10, 3), np.float32), "float32"),
    "float picture": (PILImage.new("F", (10, 10)), "floats"),
    "beyond 16 bits": (PILImage.new("I", (10, 10), 70_000), "70000"),
    "web address": ("https://example.org/a.png", "download"),
    "data address": ("data:image/png;base64,AAAA", "download"),
    "nothing": (None, "NoneType is not a picture"),
    "list": ([[1, 2, 3]], "list is not a picture"),
    "path with a zero": ("a\0b.png", "no such file"),
    "endless path": ("x" * 5000, "cannot be read (File name too long)"),
    "two lines": ("a\nb.png", "'a\\nb.png': no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused_in_one_line(name: str) -> None:
    data, words = BAD[name]
    assert words in refusal(data)


def test_files_that_cannot_be_pictures(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    truncated = tmp_path / "truncated.jpg"
    truncated.write_bytes(JPEG[:-1500])
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, words in [
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "folder"),
        (empty, "empty (0 bytes)"),
        (pipe, "no such file"),
    ]:
        line = refusal(path)
        assert words in line and str(path) in line
        with pytest.raises(UserError, match="sample 7"):
            picture_size(Image(path), where="sample 7")
    assert "truncated" in refusal(truncated)
    assert picture_size(Image(truncated), where="sample 7") == (200, 100), "sizes come from headers"
    with pytest.raises(UserError) as caught:
        open_picture(Image(empty), where=str(empty))
    assert str(caught.value).count(str(empty)) == 1, "a path is named once"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.png"
    path.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"])
def test_damaged_files_give_a_picture_or_one_line(kind: str) -> None:
    rng = random.Random(kind)
    good = encoded(scene(48, 32), kind)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(120):
            data = bytearray(good)
            for _ in range(rng.choice((1, 3, 20))):
                data[rng.randrange(min(len(data), rng.choice((64, len(data)))))] = rng.randrange(256)
            if rng.random() < 0.3:
                del data[rng.randrange(1, len(data)) :]
            try:
                assert opened(bytes(data)).mode == "RGB"
            except UserError as error:
                refused += 1
                assert str(error).startswith("here: ") and "\n" not in str(error)
    assert refused, "no damage was ever noticed"


def test_no_format_runs_another_program() -> None:
    assert not {"EPS", "PDF", "WMF", "PSD"} & set(FORMATS)
