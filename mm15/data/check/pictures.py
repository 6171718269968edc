"""What a picture's file tells without decoding it: its size, whether it is all there, and keys to compare it by.

    probe(image)          header and last bytes -> size in pixels, or what is wrong; 64-bit keys
    digest(image)         the whole content, for those that the keys cannot tell apart
    look_alike(image)     64 bits of what it looks like (reads pixels, a JPEG at 1/8), for leakage only

A file costs one open, one stat and two reads (about 60 microseconds for a JPEG); its middle is not read. Stored means
a file or bytes: arrays and Pillow pictures are generated, they have no file to be wrong and no keys.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import dataclass, replace
from os import PathLike
from typing import BinaryIO, cast

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

from ...errors import UserError
from ...image import open_picture, picture_size
from ...sample import Image
from .endings import shortfall
from .findings import Kind

HEAD = 1 << 15
"""So much of a file is read for its header; where that is not enough it is opened whole."""
ENDS = 1024
"""So many bytes of a file's start and end go into its key."""
THUMBNAIL = 32
"""Side in pixels at which two look-alikes are compared."""
_FLATTEST = 3.0
"""Standard deviation of a thumbnail's greys below which a picture looks like every other plain one."""


@dataclass(frozen=True)
class Probe:
    """What is known of a picture. `fault` and `why` say what is wrong; then `size` may be None.

    `name` is the same for the same stored picture (a path, or a place in a row); `key` for pictures of equal content,
    and almost only for those; `whole` for pictures of equal content alone, where the content was at hand (else 0). All
    are 0 for generated pictures. `bytes` is the file's length.
    """

    size: tuple[int, int] | None = None
    bytes: int = 0
    name: int = 0
    key: int = 0
    whole: int = 0
    fault: Kind | None = None
    why: str = ""


def is_stored(image: Image) -> bool:
    """Whether a picture is a file or the bytes of one."""
    return isinstance(image.data, str | PathLike | bytes)


def probe(image: Image, name: str) -> Probe:
    """Looks at a picture; `name` names it where it has no path of its own."""
    if isinstance(image.data, bytes):
        found = _probe(io.BytesIO(image.data), len(image.data), image, word64(name.encode()))
        return replace(found, whole=digest(image))
    if not isinstance(image.data, str | PathLike):
        return _sized(image, 0, 0, 0)
    path = os.fspath(image.data)
    named = word64(str(path).encode("utf-8", "surrogateescape"))
    try:
        with open(path, "rb", buffering=0) as file:
            return _probe(cast(BinaryIO, file), os.fstat(file.fileno()).st_size, image, named)
    except (OSError, ValueError):  # ValueError: a zero byte in the path
        found = _sized(image, 0, named, 0)
        return found if found.fault is None else replace(found, fault=Kind.MISSING)


def _probe(file: BinaryIO, length: int, image: Image, name: int) -> Probe:
    if not length:
        return replace(_sized(image, 0, name, 0), fault=Kind.EMPTY_PICTURE)
    head = file.read(HEAD)
    file.seek(max(length - ENDS, 0))
    tail = file.read(ENDS)
    key = word64(length.to_bytes(8, "little") + head[:ENDS] + tail)
    found = _sized(Image(head), length, name, key)
    if found.fault is not None:
        found = _sized(image, length, name, key)
    why = shortfall(file, head, tail, length)
    if why is None:
        return found
    return replace(found, fault=Kind.TRUNCATED, why=f"{_place(image)}the picture is cut short: {why}")


def _sized(image: Image, length: int, name: int, key: int) -> Probe:
    try:
        return Probe(picture_size(image, where="picture"), length, name, key)
    except UserError as error:
        why = str(error).removeprefix("picture: ").removeprefix(_place(image))
        return Probe(None, length, name, key, fault=Kind.UNREADABLE, why=_place(image) + why)


def _place(image: Image) -> str:
    return f"{os.fspath(image.data)!s}: " if isinstance(image.data, str | PathLike) else ""


def word64(content: bytes) -> int:
    """A 64-bit number that stands for some bytes; never 0."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


def digest(image: Image) -> int:
    """A 64-bit number that stands for the whole content of a stored picture; OSError when it cannot be read."""
    if isinstance(image.data, bytes):
        return word64(image.data)
    with open(os.fspath(cast("str | PathLike[str]", image.data)), "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
    return int.from_bytes(found, "little") or 1


# -------------------------------------------------------------------------------------------------------- what it looks


def look_alike(image: Image) -> tuple[int, bool]:
    """(64 bits of a stored picture's looks, whether it is too plain for them to mean anything).

    Bit (row, column) says whether, at 9 x 8 pixels of grey, the pixel is lighter than the next in its row ("dHash",
    Neal Krawetz 2013). Raises UserError when the pixels cannot be decoded.
    """
    with _grey(image, 72) as grey:
        small = np.asarray(grey.resize((9, 8), PILImage.Resampling.BOX), dtype=np.int16)
    bits = np.packbits(small[:, :-1] > small[:, 1:])
    return int.from_bytes(bits.tobytes(), "big"), bool(small.std() < _FLATTEST)


def likeness(one: Image, other: Image) -> float:
    """How alike two stored pictures look: the correlation of their greys at THUMBNAIL pixels, -1 to 1.

    Raises UserError when one cannot be decoded.
    """
    greys = [_standard(image) for image in (one, other)]
    return float((greys[0] * greys[1]).mean())


def _standard(image: Image) -> np.ndarray:
    with _grey(image, 2 * THUMBNAIL) as grey:
        small = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), PILImage.Resampling.BOX), dtype=np.float64)
    return (small - small.mean()) / max(small.std(), 1e-6)


def _grey(image: Image, at_least: int) -> PILImage.Image:
    """The upright picture in grey, at least so many pixels a side where it has them; for pictures that `probe` passed.

    JPEGs are decoded at up to 1/8, which `open_picture` does only where both sides divide evenly.
    """
    source = io.BytesIO(image.data) if isinstance(image.data, bytes) else os.fspath(cast("str", image.data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            with PILImage.open(source, formats=("JPEG",)) as picture:
                picture.draft("L", (at_least, at_least))
                return ImageOps.exif_transpose(picture).convert("L")
    except PILImage.UnidentifiedImageError:
        return open_picture(image, where="picture").convert("L")
    except Exception as error:  # decoders raise anything on damaged files
        why = " ".join(str(error).split())
        raise UserError(f"{_place(image)}its pixels cannot be decoded ({why})") from None
