"""Pixels: open a picture whatever it is stored as, and cut it into uint8 tiles as its layout says.

    sample.Image --open_picture--> RGB Pillow picture --cut--> uint8 [N, 3, tile, tile]

One resize makes the canvas, a second one the overview (from the canvas when that is smaller than the picture, so that a
large photo is read once); the tiles are slices. Bicubic with antialiasing; padding is grey (PADDING), close to the mean
that encoders subtract. Tiles stay uint8: the model normalises on its device.

Cost on one core: a 128x128 picture to five tiles of 64 takes about 0.1 ms; a scanned page of 1700x2200 to ten tiles of
672 about 0.3 times its JPEG decoding (bench/loader.py). Same picture and layout, same bytes.

Everything that can be wrong with a picture raises UserError with one line that names `where` it came from. Colour
profiles are ignored. Only formats in FORMATS are tried: none of them runs another program, as PostScript would.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image as PILImage

from ..errors import UserError
from ..sample import Image
from .anyres import Grid, Layout, check_size
from .resize import resize

PADDING = 127
"""The grey of pixels that are not picture, in all three channels."""
MOST_PIXELS = 178_956_970
"""Larger pictures are refused; it is where Pillow itself refuses by default (twice Image.MAX_IMAGE_PIXELS)."""
MOST_BYTES = 1 << 30
"""Larger files are refused before they are looked at: a header may ask for reading all of them."""
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "AVIF", "JPEG2000")

_DRAFTS = (8, 4, 2)
"""The factors by which a JPEG can be decoded smaller."""
_ORIENTATION = 0x0112
_TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the picture upright; from 5 on the sides change places."""


def open_picture(image: Image, where: str, *, at_least: tuple[int, int] | None = None) -> PILImage.Image:
    """The picture, upright (EXIF) and RGB: transparency on white, 16 bits as their upper 8, the first frame of several.

    With `at_least` (width, height; usually `layout.resized`) a JPEG may come out at exactly 1/2, 1/4 or 1/8 of both
    sides, as long as it is no smaller than that: much quicker for photos, and `cut` takes it. A Pillow picture that
    needs no change comes back itself. Raises UserError naming `where`.
    """
    with _opened(image, where) as picture:
        orientation = _orientation(picture)
        if at_least is not None and not isinstance(image.data, PILImage.Image):
            _draft(picture, at_least[::-1] if orientation >= 5 else at_least)
        upright = _rgb(picture)
        return upright.transpose(_TURNS[orientation]) if orientation in _TURNS else upright


def picture_size(image: Image, where: str) -> tuple[int, int]:
    """Width and height of the upright picture, from its header alone; pixels that are damaged go unnoticed.

    Raises UserError naming `where`.
    """
    with _opened(image, where) as picture:
        width, height = picture.size
        return (height, width) if _orientation(picture) >= 5 else (width, height)


def cut(picture: PILImage.Image, layout: Layout) -> np.ndarray:
    """The pieces of an RGB picture in the layout's order: uint8 [N, 3, tile, tile], contiguous.

    `picture` has the layout's size, or 1/2, 1/4 or 1/8 of it as `open_picture` may return it; else ValueError.
    """
    _check_match(picture, layout)
    return spread(picture, layout)


def spread(picture: PILImage.Image, layout: Layout) -> np.ndarray:
    """What `cut` returns, for an RGB picture of any size: it is stretched to the sizes of the layout."""
    tiles_N3TT = np.full((layout.n_tiles, 3, layout.tile, layout.tile), PADDING, dtype=np.uint8)
    pixels_HW3 = np.asarray(picture)
    resized_HW3 = resize(pixels_HW3, layout.resized)
    first = layout.first_tile
    _place(resized_HW3, layout.grid, tiles_N3TT[first : first + layout.grid.tiles])
    overview = layout.overview_piece
    if overview is not None:
        smaller_HW3 = min(pixels_HW3, resized_HW3, key=lambda one: one.size)
        _place(resize(smaller_HW3, layout.overview_resized), Grid(1, 1), tiles_N3TT[overview : overview + 1])
    return tiles_N3TT


def _place(pixels_HW3: np.ndarray, grid: Grid, tiles_N3TT: np.ndarray) -> None:
    """Copy pixels, top left on their grid, into the grid's tiles; what they do not reach is left as it was."""
    tile = tiles_N3TT.shape[-1]
    for number, target_3TT in enumerate(tiles_N3TT):
        row, col = divmod(number, grid.cols)
        part_HW3 = pixels_HW3[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile]
        target_3TT[:, : part_HW3.shape[0], : part_HW3.shape[1]] = part_HW3.transpose(2, 0, 1)


def _check_match(picture: PILImage.Image, layout: Layout) -> None:
    if picture.mode != "RGB":
        raise ValueError(f"cut needs an RGB picture, as open_picture returns it; this one is {picture.mode}")
    if not any((picture.width * by, picture.height * by) == (layout.width, layout.height) for by in (1, *_DRAFTS)):
        raise ValueError(
            f"picture of {picture.width}x{picture.height} pixels, but its layout is for {layout.width}x{layout.height}"
        )


# ------------------------------------------------------------------------------------------------------------- opening


@contextmanager
def _opened(image: Image, where: str) -> Iterator[PILImage.Image]:
    """The picture as stored, sizes checked, pixels not yet read; what fails inside the block becomes a UserError."""
    source = _source(image.data, where)
    try:
        if isinstance(source, PILImage.Image):
            _check(source, where)
            yield source
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
            with PILImage.open(source, formats=_formats()) as picture:
                _check(picture, where)
                yield picture
    except UserError:
        raise
    except PILImage.DecompressionBombError:
        raise UserError(
            f"{where}: the picture has too many pixels for Pillow to open it safely; scale it down"
        ) from None
    except PILImage.UnidentifiedImageError:
        raise UserError(f"{where}: not a picture that can be read; use one of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders raise anything on damaged files: OSError, SyntaxError, struct.error, ...
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: the picture cannot be read ({why}); save it again or leave it out") from error


def _source(data: object, where: str) -> PILImage.Image | io.BytesIO | str:
    """What Pillow can open: a picture, a buffer, or the path of a file that is there and holds something."""
    if isinstance(data, PILImage.Image):
        return data
    if isinstance(data, np.ndarray):
        return _from_array(data, where)
    if isinstance(data, bytes | bytearray | memoryview):
        if not len(data):
            raise UserError(f"{where}: the picture is empty (0 bytes)")
        _check_bytes(len(data), where)
        return io.BytesIO(data)
    if isinstance(data, str | PathLike):
        return _file(fspath(cast("str | PathLike[str]", data)), where)
    raise UserError(
        f"{where}: {type(data).__name__} is not a picture; give a path, bytes, an array or a Pillow picture"
    )


def _from_array(array: np.ndarray, where: str) -> PILImage.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        shape = "x".join(str(side) for side in array.shape)
        raise UserError(f"{where}: an array of {array.dtype} [{shape}]; pictures are uint8 [height x width x 3], RGB")
    check_size(array.shape[1], array.shape[0], where)
    return PILImage.fromarray(array)


def _file(path: str, where: str) -> str:
    if path.startswith(("http://", "https://", "data:")):
        raise UserError(f"{where}: pictures are opened from files; download {path[:60]!r} first")
    if path not in where:
        shown = path if path.isprintable() else repr(path)
        where = f"{where}: {shown if len(shown) <= 200 else shown[:80] + '...' + shown[-80:]}"
    try:
        if Path(path).is_dir():
            raise UserError(f"{where}: this is a folder; name a picture in it")
        if not Path(path).is_file():
            raise UserError(f"{where}: no such file")
        size = Path(path).stat().st_size
        if not size:
            raise UserError(f"{where}: the file is empty (0 bytes)")
        _check_bytes(size, where)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    return path


def _check_bytes(size: int, where: str) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{where}: the picture has {size:,} bytes, more than {MOST_BYTES:,}; save it smaller")


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows."""
    PILImage.init()
    return tuple(name for name in FORMATS if name in PILImage.OPEN)


def _check(picture: PILImage.Image, where: str) -> None:
    check_size(*picture.size, where)
    if picture.width * picture.height > MOST_PIXELS:
        size = f"{picture.width}x{picture.height}"
        raise UserError(f"{where}: the picture is {size}, more than {MOST_PIXELS} pixels; scale it down")


def _orientation(picture: PILImage.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the block is damaged.

    Never reads pixels, so that sizes stay cheap; Pillow turns TIFFs itself, and for a PNG whose block stands behind its
    pixels it would have to read them, so such a block is not looked for.
    """
    if picture.format == "TIFF" or (picture.format == "PNG" and "exif" not in picture.info):
        return 1
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1
    return value if value in _TURNS else 1


def _draft(picture: PILImage.Image, at_least: tuple[int, int]) -> None:
    """Have a JPEG decoded smaller where both sides divide evenly and neither falls below `at_least`."""
    width, height = picture.size
    for by in _DRAFTS:
        if width % by == height % by == 0 and width // by >= at_least[0] and height // by >= at_least[1]:
            picture.draft(None, (width // by, height // by))
            return


def _rgb(picture: PILImage.Image) -> PILImage.Image:
    """Eight bits, three channels; transparent parts on white."""
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floats, which have no agreed white; it needs 8 or 16 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = PILImage.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        picture = white
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()
    return picture


def _eight_bits(picture: PILImage.Image) -> PILImage.Image:
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(f"its pixels run from {values.min()} to {values.max()}; it needs 8 or 16 bits")
    return PILImage.fromarray((values >> 8).astype(np.uint8))
