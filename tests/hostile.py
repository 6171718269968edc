"""For tests: pictures of every awkward kind with the pixels they must give, and those that must be refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image as PILImage

WIDTH, HEIGHT = 40, 24


def ramp() -> np.ndarray:
    """A smooth picture without any symmetry, uint8 [24, 40, 3]."""
    across, down = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return np.stack([40 + 180 * across, 30 + 200 * down, 200 - 120 * across * down], -1).astype(np.uint8)


def encoded(picture: PILImage.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: np.ndarray, *, depth: int, colour: int, before: bytes = b"") -> bytes:
    """A PNG by hand, of rows of bytes [height, bytes]; `before` are chunks before its pixels."""
    width = rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1}[colour])
    head = struct.pack(">IIBBBBB", width, rows.shape[0], depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def empty_png(width: int, height: int) -> bytes:
    """One that claims a size and has no pixels to it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """Half a megabyte that becomes half a gigabyte of comment."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    return png(np.zeros((4, 12), np.uint8), depth=8, colour=2, before=chunk(b"zTXt", b"Comment\0\0" + packed))


def turned(kind: str, **settings: Any) -> bytes:
    """Stored lying on its side, with the EXIF orientation that says so."""
    exif = PILImage.Exif()
    exif[0x0112] = 6
    return encoded(PILImage.fromarray(np.ascontiguousarray(np.rot90(ramp()))), kind, exif=exif, **settings)


def animated(kind: str, **settings: Any) -> bytes:
    frames = [PILImage.fromarray(ramp()), *(PILImage.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue"))]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)


def sixteen() -> np.ndarray:
    """The ramp in 16 bits, its lower bytes all ones: big-endian bytes [24, 40, 3, 2]."""
    return np.stack([ramp(), np.full_like(ramp(), 255)], -1)


def grey() -> np.ndarray:
    return np.repeat(ramp()[..., :1], 3, -1)


def black_and_white() -> np.ndarray:
    return np.where(grey() > 130, np.uint8(255), np.uint8(0))


def palette() -> np.ndarray:
    """Red, blue, and what is transparent: white."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:30], pixels[:, 30:] = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    return pixels


def palette_file(kind: str) -> bytes:
    picture = PILImage.fromarray(np.repeat(np.array([0] * 10 + [1] * 20 + [2] * 10, np.uint8)[None], HEIGHT, 0))
    picture = picture.convert("P") if picture.mode != "L" else PILImage.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    return encoded(picture, kind, transparency=2)


def cmyk() -> PILImage.Image:
    """Cyan, magenta and yellow are what red, green and blue lack; no black."""
    inks = np.concatenate([255 - ramp(), np.zeros((HEIGHT, WIDTH, 1), np.uint8)], -1)
    return PILImage.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())


def lab() -> tuple[bytes, np.ndarray]:
    """(a TIFF in CIE L*a*b*, its pixels in sRGB): greys by the formula of CIE and sRGB, and red as tables have it."""
    pixels = grey()
    linear = np.where(pixels <= 10, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear[..., 0]) - 16
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # L in 255ths, a and b signed, so that grey is 0
    stored[..., 0] = np.round(lightness * 2.55)
    stored[:, :10] = np.round([54.29 * 2.55, 80.80, 69.89])
    pixels[:, :10] = (255, 0, 0)
    return encoded(PILImage.frombytes("LAB", (WIDTH, HEIGHT), stored.tobytes()), "TIFF"), pixels


Made = Callable[[], bytes]
GOOD: dict[str, tuple[str, Made, Callable[[], np.ndarray], float]] = {
    # name: (ending, its bytes, the pixels it must give, mean difference that its format may cost)
    "CMYK JPEG": ("jpg", lambda: encoded(cmyk(), "JPEG", quality=98), ramp, 2),
    "CMYK TIFF": ("tif", lambda: encoded(cmyk(), "TIFF"), ramp, 1),
    "16 bit grey PNG": ("png", lambda: png(sixteen()[:, :, 0].reshape(HEIGHT, -1), depth=16, colour=0), grey, 0),
    "16 bit colour PNG": ("png", lambda: png(sixteen().reshape(HEIGHT, -1), depth=16, colour=2), ramp, 0),
    "1 bit PNG": (
        "png", lambda: png(np.packbits(black_and_white()[..., 0] > 0, axis=1), depth=1, colour=0), black_and_white, 0
    ),
    "1 bit TIFF": (
        "tif", lambda: encoded(PILImage.fromarray(black_and_white()[..., 0] > 0), "TIFF", compression="group4"),
        black_and_white, 0,
    ),
    "palette with transparency, PNG": ("png", lambda: palette_file("PNG"), palette, 0),
    "palette with transparency, GIF": ("gif", lambda: palette_file("GIF"), palette, 0),
    "animated GIF": ("gif", lambda: animated("GIF"), ramp, 12),
    "animated WebP": ("webp", lambda: animated("WEBP", lossless=True), ramp, 0),
    "EXIF-rotated JPEG": ("jpg", lambda: turned("JPEG", quality=98, subsampling=0), ramp, 2),
    "EXIF-rotated PNG": ("png", lambda: turned("PNG"), ramp, 0),
    "EXIF-rotated WebP": ("webp", lambda: turned("WEBP", lossless=True), ramp, 0),
    "JPEG called png": ("png", lambda: encoded(PILImage.fromarray(ramp()), "JPEG", quality=98), ramp, 2),
    "PNG called jpg": ("jpg", lambda: encoded(PILImage.fromarray(ramp()), "PNG"), ramp, 0),
    "LAB TIFF": ("tif", lambda: lab()[0], lambda: lab()[1], 2),
    "grey JPEG": ("jpg", lambda: encoded(PILImage.fromarray(grey()[..., 0]), "JPEG", quality=98), grey, 2),
}  # fmt: skip


BAD: dict[str, tuple[str, Made, str]] = {
    # name: (ending, its bytes, words of the line that refuses it)
    "bomb PNG": ("png", lambda: empty_png(60_000, 60_000), "too many pixels"),
    "bomb GIF": ("gif", lambda: b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2", "too many pixels"),
    "bomb in a comment": ("png", text_bomb, "cannot be read"),
    "strip": ("png", lambda: empty_png(100_000, 1), "100000x1"),
    "float TIFF": ("tif", lambda: encoded(PILImage.new("F", (WIDTH, HEIGHT), 0.5), "TIFF"), "floats"),
    "truncated JPEG": ("jpg", lambda: encoded(PILImage.fromarray(ramp()), "JPEG", quality=98)[:-99], "truncated"),
    "JPEG cut in its head": ("jpg", lambda: encoded(PILImage.fromarray(ramp()), "JPEG")[:200], "cannot be read"),
    "truncated PNG": ("png", lambda: encoded(PILImage.fromarray(ramp()), "PNG")[:-99], "cannot be read"),
    "SVG": ("png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not a picture"),
    "SVG bomb": ("jpg", lambda: b'<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>', "not a picture"),
    "PostScript": ("jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "PDF": ("png", lambda: b"%PDF-1.7\n1 0 obj <<>> endobj\n", "not a picture"),
    "HTML of an error": ("jpg", lambda: b"<html><body>404 Not Found</body></html>", "not a picture"),
    "empty": ("png", lambda: b"", "empty (0 bytes)"),
    "zeros": ("png", lambda: bytes(5000), "not a picture"),
}  # fmt: skip
