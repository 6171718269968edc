"""Whether the file of a picture is whole, from its structure alone: no pixel is decoded.

    JPEG   an end marker behind the first scan           PNG    an IEND chunk that the chain of chunks leads to
    GIF    the blocks of the first frame, to their end   TIFF   every strip or tile inside the file
    WebP, BMP, PPM, AVIF, JPEG 2000                      the lengths that their headers give

What lies behind the end of a picture (a second frame, a phone's trailer) is nobody's loss and is not looked at. A whole
JPEG or PNG is known by its last bytes; the others cost a walk over their blocks.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image as PILImage

_END_OF_JPEG = b"\xff\xd9"
_END_OF_PNG = b"\0\0\0\0IEND\xaeB`\x82"
_TRAILER = 1 << 16


def shortfall(file: BinaryIO, head: bytes, tail: bytes, length: int) -> str | None:
    """What is missing of a picture file of `length` bytes that begins with `head` and ends with `tail` (12 bytes or
    more, or all); None when it is whole, and for formats that do not say. `file` is left anywhere."""
    if (head.startswith(b"\xff\xd8") and tail.endswith(_END_OF_JPEG)) or tail.endswith(_END_OF_PNG):
        return None
    for magic, look in _FORMATS:
        if all(head[at : at + len(part)] == part for at, part in magic):
            try:
                return look(file, head, length)
            except (struct.error, IndexError, ValueError):
                return "its blocks run past the end of the file"
    return None


def _jpeg(file: BinaryIO, head: bytes, length: int) -> str | None:
    start = max(length - _TRAILER, 0)
    scan = _first_scan(file, length)
    if scan is None:
        return "it ends before its first scan"
    for begin in (start, 0):  # the end marker of a whole file is near its end; one before the scan is a thumbnail's
        found = _read(file, begin, length - begin).rfind(_END_OF_JPEG)
        if found >= 0 and begin + found > scan:
            return None
    return "it has no end marker (FF D9)"


def _first_scan(file: BinaryIO, length: int) -> int | None:
    at = 2
    while at + 4 <= length:
        mark, kind, size = struct.unpack(">BBH", _read(file, at, 4))
        if mark != 0xFF:
            return None
        if kind == 0xDA:
            return at
        at += 1 if kind == 0xFF else 2 + size
    return None


def _png(file: BinaryIO, head: bytes, length: int) -> str | None:
    at = 8
    while at + 12 <= length:
        size, kind = struct.unpack(">I4s", _read(file, at, 8))
        at += 12 + size
        if at > length:
            return f"its chunk {kind.decode('ascii', 'replace')!r} runs past the end of the file"
        if kind == b"IEND":
            return None
    return "it has no end chunk (IEND)"


def _gif(file: BinaryIO, head: bytes, length: int) -> str | None:
    file.seek(0)
    data = file.read()
    at = 13 + _table(data[10])
    while data[at] == 0x21:  # extensions before the first frame
        at = _blocks(data, at + 2)
    if data[at] != 0x2C:
        return "it has no frame"
    _blocks(data, at + 10 + _table(data[at + 9]) + 1)
    return None


def _table(flags: int) -> int:
    """Bytes of the colour table that GIF flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _blocks(data: bytes, at: int) -> int:
    """Where a chain of GIF sub-blocks ends; IndexError when the file ends before it."""
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(file: BinaryIO, head: bytes, length: int) -> str | None:
    return _fits(struct.unpack_from("<I", head, 4)[0] + 8, length)


def _bmp(file: BinaryIO, head: bytes, length: int) -> str | None:
    pixels, header = struct.unpack_from("<II", head, 10)
    if header < 40:
        return None
    width, height, _, bits, packing, stored = struct.unpack_from("<iiHHII", head, 18)
    rows = abs(height) * ((abs(width) * bits + 31) // 32 * 4)
    return _fits(pixels + (rows if packing in (0, 3) else stored), length)


def _ppm(file: BinaryIO, head: bytes, length: int) -> str | None:
    numbers: list[int] = []
    at = 2
    while len(numbers) < 3:
        end = at + 1
        if head[at] == ord("#"):
            end = head.index(b"\n", at)
        elif head[at : at + 1].isdigit():
            while head[end : end + 1].isdigit():
                end += 1
            numbers.append(int(head[at:end]))
        at = end
    width, height, largest = numbers
    return _fits(at + 1 + width * height * (3 if head[1:2] == b"6" else 1) * (2 if largest > 255 else 1), length)


def _boxes(file: BinaryIO, head: bytes, length: int) -> str | None:
    """The boxes of AVIF and JPEG 2000 files, one after the other, up to the one that holds the pixels."""
    at = 0
    while at + 8 <= length:
        size, kind = struct.unpack(">I4s", _read(file, at, 8))
        if size == 1:
            size = struct.unpack(">Q", _read(file, at + 8, 8))[0]
        at += max(size, 8) if size else length
        if kind in (b"mdat", b"jp2c"):
            return _fits(at, length) if size else None
    return _fits(at, length) or "it has no pixels"


def _tiff(file: BinaryIO, head: bytes, length: int) -> str | None:
    directory = struct.unpack_from("<I" if head[:1] == b"I" else ">I", head, 4)[0]
    if directory >= length:
        return _fits(directory + 2, length)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags = dict(PILImage.open(file, formats=("TIFF",)).tag_v2)  # type: ignore[attr-defined]
    except Exception:  # its directory is damaged: whoever opens it says how
        return None
    ends = [
        start + size
        for starts, sizes in ((273, 279), (324, 325))
        for start, size in zip(tags.get(starts, ()), tags.get(sizes, ()), strict=False)
    ]
    return _fits(max(ends, default=0), length)


def _fits(needed: int, length: int) -> str | None:
    return None if needed <= length else f"it has {length:,} bytes of {needed:,}"


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


_FORMATS: tuple[tuple[tuple[tuple[int, bytes], ...], Callable[[BinaryIO, bytes, int], str | None]], ...] = (
    (((0, b"\xff\xd8\xff"),), _jpeg),
    (((0, b"\x89PNG\r\n\x1a\n"),), _png),
    (((0, b"GIF8"),), _gif),
    (((0, b"RIFF"), (8, b"WEBP")), _webp),
    (((0, b"BM"),), _bmp),
    (((0, b"II*\0"),), _tiff),
    (((0, b"MM\0*"),), _tiff),
    (((0, b"P5"),), _ppm),
    (((0, b"P6"),), _ppm),
    (((4, b"ftyp"),), _boxes),
    (((4, b"jP  "),), _boxes),
)
"""(place and bytes of the format's mark, how to look)."""
