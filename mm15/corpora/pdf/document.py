"""One PDF page as a picture and the words on it, each with its box in pixels of that picture.

pdfium draws the page and gives its characters; both go through one map from the page to the picture, so a box is where
the letters were drawn, also on rotated and cropped pages. Characters become words at white space, and where the next
one is on another line or further away than a letter is high.

Text is what is printed: a hyphen at the end of a line stays (`Word.hyphenated`); pdfium writes ligatures in letters.
Nothing is drawn that the text does not know: no annotations, no form fields. Words outside the page, and words that
leave no ink (the hidden text of a scan), are no words of the picture.

Cost on one core: 16 ms a page for its 320 words and 16 ms to draw it at 1344 pixels. Pictures are those of this pdfium,
and pages without embedded fonts those of this machine's fonts.
"""

from __future__ import annotations

import ctypes
import io
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as PILImage

from ...errors import UserError
from ...regions import Box

SMALL = 7.0
"""Letters of a line lower than this many pixels, from the deepest to the highest, cannot be read."""
INK = 24
"""A word is seen when the brightest and the darkest place of its box differ by this much, of 255, in
one of its colours."""
_VIRTUAL = 256
"""pdfium maps places to whole pixels; of a picture so many times as large."""
_UPRIGHT = 0.966
"""The cosine of 15 degrees: by as much a line may run up or down."""
_HYPHENS = {0x02, 0xAD}
"""pdfium's mark for a hyphen at the end of a line, and the soft hyphen, which pdfium only keeps where it is seen."""


@dataclass(frozen=True)
class Word:
    """Letters without space between them."""

    text: str
    box: Box
    """Around the ink, in pixels of the picture, to a tenth."""
    line: tuple[float, float, float, float]
    """Its part of the line: from the descenders to the ascenders of its font, with the space around its letters."""
    upright: bool
    readable: bool
    """Large enough, and all of its characters are known, with their accents, and run from left to right."""
    hyphenated: bool = False
    """Its last character is a hyphen that the end of a line put there."""

    @property
    def height(self) -> float:
        """Height of its line in pixels."""
        return self.line[3] - self.line[1]


@dataclass(frozen=True, eq=False)
class Page:
    """A page: uint8 pixels [height, width, 3], its words in the order of the file, and how many are not seen."""

    pixels: np.ndarray
    words: list[Word]
    hidden: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def encoded(self, box: tuple[int, int, int, int] | None = None, *, format: str, quality: int) -> bytes:
        """The picture, or the part of it in `box`, as a JPEG or PNG file."""
        x1, y1, x2, y2 = box or (0, 0, *self.size)
        buffer = io.BytesIO()
        PILImage.fromarray(self.pixels[y1:y2, x1:x2]).save(buffer, format.upper(), quality=quality)
        return buffer.getvalue()


def pdfium() -> Any:
    """pypdfium2; UserError how to get it."""
    try:
        import pypdfium2
    except ImportError:
        raise UserError("PDFs need pypdfium2; pip install 'mm15[pdf]'") from None
    return pypdfium2


@lru_cache(maxsize=1)
def open_pdf(path: Path) -> Any:
    """The document at `path`, kept open for the next call. UserError says in general words why there is none."""
    library = pdfium()
    try:
        document = library.PdfDocument(path)
    except library.PdfiumError as error:  # for a file without pages it repeats its last complaint, about another file
        locked = "password" in str(error).lower() and b"/Encrypt" in path.read_bytes()
        raise UserError("needs a password" if locked else "not a PDF that can be read, or without pages") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None
    return document


def load_page(document: Any, number: int) -> Any:
    """Page `number`, from 0. UserError when it is damaged or has no extent."""
    try:
        page = document[number]
    except pdfium().PdfiumError:
        raise UserError("a page that cannot be loaded") from None
    if min(page.get_size()) <= 0:
        raise UserError("a page without extent")
    return page


def read_page(page: Any, *, long_side: int) -> Page:
    """A loaded page at a longer side of `long_side` pixels. UserError when it is a strip or too large to draw."""
    width, height = page.get_size()
    if min(width, height) * long_side < 32 * max(width, height):
        raise UserError("a page that is a strip (more than 40 times as long as wide)")
    scale = (long_side - 1e-3) / max(width, height)
    bitmap = page.render(scale=scale, draw_annots=False, may_draw_forms=False, rev_byteorder=True)
    pixels = np.array(bitmap.to_numpy()[:, :, :3])
    bitmap.close()
    words, hidden = [], 0
    for word in _words(page, (pixels.shape[1], pixels.shape[0])):
        if _seen(word, pixels):
            words.append(word)
        else:
            hidden += 1
    return Page(pixels, words, hidden)


def _seen(word: Word, pixels_HW3: np.ndarray) -> bool:
    """Whether there is anything in its box and a pixel around it; a dash fills its box."""
    x1, y1, x2, y2 = word.box
    ink_N3 = pixels_HW3[max(int(y1) - 1, 0) : math.ceil(y2) + 1, max(int(x1) - 1, 0) : math.ceil(x2) + 1].reshape(-1, 3)
    return bool((ink_N3.max(axis=0) - ink_N3.min(axis=0)).max() >= INK)


# ---------------------------------------------------------------------------------------------------------------- words


class _Character(NamedTuple):
    """A character of a page: how it is written, and where in the picture."""

    text: str
    ink: tuple[float, float, float, float]
    line: tuple[float, float, float, float]
    upright: bool
    level: bool
    """Its line runs more to the side than up or down."""
    known: bool
    hyphen: bool


def _words(page: Any, size: tuple[int, int]) -> Iterator[Word]:
    run: list[_Character] = []
    for character in _characters(page, size):
        if run and (character is None or _apart(run[-1], character)):
            yield from _word(run, size)
            run = []
        if character is not None:
            run.append(character)
    if run:
        yield from _word(run, size)


def _word(run: list[_Character], size: tuple[int, int]) -> Iterator[Word]:
    """The word of a run of characters, unless it lies more outside the picture than in it, or has no extent."""
    text = "".join(character.text for character in run)
    inked = [c.ink for c in run if c.ink[0] < c.ink[2] and c.ink[1] < c.ink[3]]
    if not text or not inked:
        return
    x1, y1, x2, y2 = _union(inked)
    box = Box(*(round(min(max(v, 0.0), float(s)), 1) for v, s in zip((x1, y1, x2, y2), (*size, *size), strict=True)))
    if box.area < (x2 - x1) * (y2 - y1) / 2 or box.area == 0:
        return
    line = _union([character.line for character in run])
    upright = all(character.upright for character in run)
    known = all(character.known for character in run)
    readable = known and (line[3] - line[1] if run[0].level else line[2] - line[0]) >= SMALL
    yield Word(unicodedata.normalize("NFC", text), box, line, upright, readable, run[-1].hyphen)


def _union(boxes: list[tuple[float, float, float, float]]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _apart(one: _Character, other: _Character) -> bool:
    """Whether two characters that follow each other without a space are not of one word."""
    if (one.upright, one.level) != (other.upright, other.level):
        return True
    low, high = (1, 3) if one.level else (0, 2)
    height = max(min(one.line[high] - one.line[low], other.line[high] - other.line[low]), 1e-3)
    if min(one.line[high], other.line[high]) - max(one.line[low], other.line[low]) <= 0.1 * height:
        return True
    low, high = (0, 2) if one.level else (1, 3)
    gap = max(one.line[low], other.line[low]) - min(one.line[high], other.line[high])
    return gap > height


def _characters(page: Any, size: tuple[int, int]) -> Iterator[_Character | None]:
    """The characters of a page in the order of the file; None for white space."""
    raw = pdfium().raw
    text = page.get_textpage()
    try:
        place = Placer(page, size)
        left, bottom, right, top = (ctypes.c_double() for _ in range(4))
        loose, high = raw.FS_RECTF(), 0
        for i in range(text.count_chars()):
            code = raw.FPDFText_GetUnicode(text, i)
            if 0xD800 <= code < 0xDC00:
                high = code
                continue
            if 0xDC00 <= code < 0xE000 and high:
                code = 0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)
            high = 0
            if code not in _HYPHENS and (not code or chr(code).isspace()):
                yield None
                continue
            raw.FPDFText_GetCharBox(text, i, left, right, bottom, top)
            raw.FPDFText_GetLooseCharBox(text, i, loose)
            x, y = place.direction(raw.FPDFText_GetCharAngle(text, i))
            written, known = _written(code)
            yield _Character(
                written,
                place(left.value, bottom.value, right.value, top.value),
                place(loose.left, loose.bottom, loose.right, loose.top),
                x > _UPRIGHT * math.hypot(x, y),
                abs(x) >= abs(y),
                known and raw.FPDFText_HasUnicodeMapError(text, i) != 1,
                code in _HYPHENS,
            )
    finally:
        text.close()


def _written(code: int) -> tuple[str, bool]:
    """How a character is written, and whether that is all of what is seen."""
    if code in _HYPHENS:
        return "-", True
    character = chr(code)
    category = unicodedata.category(character)
    if category in ("Cc", "Cn", "Co", "Cs") or code == 0xFFFD:
        return "", False
    if category == "Cf":
        return "", True
    accent = category == "Sk" and code > 0x7F
    return character, not accent and unicodedata.bidirectional(character) not in ("R", "AL")


class Placer:
    """The map from the page's own units to pixels of its picture, with its rotation and crop box."""

    def __init__(self, page: Any, size: tuple[int, int]) -> None:
        raw = pdfium().raw
        x, y = ctypes.c_int(), ctypes.c_int()

        def at(px: float, py: float) -> tuple[float, float]:
            raw.FPDF_PageToDevice(page, 0, 0, size[0] * _VIRTUAL, size[1] * _VIRTUAL, 0, px, py, x, y)
            return x.value / _VIRTUAL, y.value / _VIRTUAL

        far = 1000.0
        self.x0, self.y0 = at(0, 0)
        (ax, ay), (bx, by) = at(far, 0), at(0, far)
        self.xx, self.yx = (ax - self.x0) / far, (ay - self.y0) / far
        self.xy, self.yy = (bx - self.x0) / far, (by - self.y0) / far

    def __call__(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels of a box on the page."""
        ax, ay = self.x0 + self.xx * x1 + self.xy * y1, self.y0 + self.yx * x1 + self.yy * y1
        bx, by = self.x0 + self.xx * x2 + self.xy * y2, self.y0 + self.yx * x2 + self.yy * y2
        return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)

    def direction(self, angle: float) -> tuple[float, float]:
        """Where letters at this angle (radians clockwise, on the page) run to in the picture."""
        right, up = math.cos(angle), -math.sin(angle)
        return self.xx * right + self.xy * up, self.yx * right + self.yy * up
