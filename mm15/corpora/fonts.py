"""Which fonts there are, and which of them can write a text right.

    found = find_fonts([Path("my-fonts")])        system folders, the given ones, matplotlib's DejaVu as a floor
    why_not(found.faces[0], "naïve שלום")         None, or the reason why this face would write it wrong

A face can write a text when its character map has every character with ink, and, for scripts whose letters join, stack
or change places, when it has the rules for that script and Pillow has raqm to apply them. Nothing here draws.

Faces are known by the hash of their file and stand in the order of their hashes, so that the same fonts in other
folders give the same corpus. Reading a face takes 5-50 ms, once in a process.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont, features

from ..errors import UserError

FONT_FILES = (".ttf", ".otf", ".ttc", ".otc")
_NO_LETTERS = re.compile(r"barcode|dingbat|wingdings|webdings|symbol|emoji|blank|redact|lastresort|braille", re.I)
"""Names of fonts whose letters are not drawn as letters."""
_LATIN_SYMBOL = 5
"""OS/2 panose family of fonts that draw symbols in the places of letters."""

_JOINED: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0x0590, 0x05FF, ()),
    (0x0600, 0x06FF, ("arab",)),
    (0x0700, 0x074F, ("syrc",)),
    (0x0750, 0x077F, ("arab",)),
    (0x0780, 0x07BF, ("thaa",)),
    (0x07C0, 0x07FF, ("nko ",)),
    (0x08A0, 0x08FF, ("arab",)),
    (0x0900, 0x097F, ("dev2", "deva")),
    (0x0980, 0x09FF, ("bng2", "beng")),
    (0x0A00, 0x0A7F, ("gur2", "guru")),
    (0x0A80, 0x0AFF, ("gjr2", "gujr")),
    (0x0B00, 0x0B7F, ("ory2", "orya")),
    (0x0B80, 0x0BFF, ("tml2", "taml")),
    (0x0C00, 0x0C7F, ("tel2", "telu")),
    (0x0C80, 0x0CFF, ("knd2", "knda")),
    (0x0D00, 0x0D7F, ("mlm2", "mlym")),
    (0x0D80, 0x0DFF, ("sinh",)),
    (0x0E00, 0x0E7F, ("thai",)),
    (0x0E80, 0x0EFF, ("lao ",)),
    (0x0F00, 0x0FFF, ("tibt",)),
    (0x1000, 0x109F, ("mym2", "mymr")),
    (0x1100, 0x11FF, ("hang",)),
    (0x1780, 0x17FF, ("khmr",)),
    (0xFB1D, 0xFB4F, ()),
    (0xFB50, 0xFDFF, ("arab",)),
    (0xFE70, 0xFEFF, ("arab",)),
)
"""First and last character of scripts that need shaping, and the OpenType tags of which the face needs one."""
_JOINERS = "\u200c\u200d"
"""Invisible, and right inside such scripts."""


@dataclass(frozen=True, order=True)
class Face:
    """One face of a font file: the file's hash (16 hex digits), the face's number in it, and where it lies."""

    digest: str
    number: int
    path: str

    @property
    def name(self) -> str:
        """File name, with the face's number where it is not the first."""
        return Path(self.path).name + (f"#{self.number}" if self.number else "")


@dataclass(frozen=True)
class Found:
    """Faces that can be used, in the order of their hashes, and what was left out: (file, reason)."""

    faces: tuple[Face, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Glyphs:
    """What a face can write: its characters, the scripts it has rules for, whether it places accents."""

    characters: frozenset[int]
    scripts: frozenset[str]
    marks: bool


def has_raqm() -> bool:
    """Whether Pillow can shape scripts whose letters join or change places."""
    return bool(features.check("raqm"))


def find_fonts(folders: Sequence[Path] = (), *, system: bool = True) -> Found:
    """The faces of the font files below `folders`, of the system, and of matplotlib's DejaVu.

    Raises UserError for a folder that is not there or has no font.
    """
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    paths = [path for folder in folders for path in _files(folder)]
    paths += sorted(map(Path, findSystemFonts())) if system else []
    paths += sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))
    faces: dict[tuple[str, int], Face] = {}
    left_out: dict[str, str] = {}
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            left_out[path.name] = f"the font cannot be read ({error.strerror})"
            continue
        for number in range(_faces_in(path)):
            face = Face(digest, number, str(path))
            if (digest, number) in faces:
                continue
            reason = _unusable(face)
            if reason:
                left_out[face.name] = reason
            else:
                faces[digest, number] = face
    return Found(tuple(sorted(faces.values())), tuple(sorted(left_out.items())))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of fonts")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FONT_FILES)
    if not found:
        raise UserError(f"{folder}: no font in it; put {', '.join(FONT_FILES)} files there")
    return found


def _faces_in(path: Path) -> int:
    if path.suffix.lower() not in (".ttc", ".otc"):
        return 1
    from fontTools.ttLib import TTCollection

    try:
        with TTCollection(str(path), lazy=True) as collection:
            return len(collection.fonts)
    except Exception:  # fontTools raises anything on damaged files; `glyphs` says what is wrong with the first face
        return 1


def _unusable(face: Face) -> str | None:
    if _NO_LETTERS.search(face.name):
        return "a font of symbols, not of letters"
    try:
        glyphs(face)
        load(face, 16)
    except UserError as error:
        return str(error)
    return None


@cache
def glyphs(face: Face) -> Glyphs:
    """What the face can write. UserError for a file that is damaged or no font of letters."""
    from fontTools.ttLib import TTFont

    try:
        with TTFont(face.path, fontNumber=face.number, lazy=True) as font:
            if not any(table in font for table in ("glyf", "CFF ", "CFF2")):
                raise UserError("a font without outlines")
            if "OS/2" in font and getattr(font["OS/2"].panose, "bFamilyType", 0) == _LATIN_SYMBOL:
                raise UserError("a font of symbols, not of letters")
            names = font.getBestCmap()
            if not names:
                raise UserError("a font without a Unicode character map")
            characters = frozenset(code for code, name in names.items() if name != ".notdef")
            rules, places = (font[table].table if table in font else None for table in ("GSUB", "GPOS"))
            scripts = {r.ScriptTag for t in (rules, places) if t and t.ScriptList for r in t.ScriptList.ScriptRecord}
            kinds = {r.FeatureTag for r in places.FeatureList.FeatureRecord} if places and places.FeatureList else set()
    except UserError:
        raise
    except Exception as error:  # fontTools raises anything on damaged files
        raise UserError(
            f"a font that cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None
    return Glyphs(characters, frozenset(scripts), "mark" in kinds)


@lru_cache(maxsize=512)
def load(face: Face, size: int) -> ImageFont.FreeTypeFont:
    """The face at `size` pixels, for Pillow. UserError when FreeType refuses it."""
    try:
        return ImageFont.truetype(face.path, size, index=face.number)
    except (OSError, ValueError) as error:
        raise UserError(f"a font that cannot be drawn ({error})") from None


def why_not(face: Face, text: str) -> str | None:
    """Why the face would write `text` wrong; None when it writes it right."""
    has = glyphs(face)
    for character in sorted(set(text)):
        if character.isspace() or character in _JOINERS:
            continue
        if ord(character) not in has.characters or not _has_ink(face, character):
            return f"no glyph for {character!r} (U+{ord(character):04X})"
        tags = _tags(character)
        if tags and not has.scripts & set(tags):
            return f"no rules to join {character!r} (U+{ord(character):04X}) with its neighbours"
        if tags is None and unicodedata.category(character).startswith("M") and not has.marks:
            return f"no rules to place the mark U+{ord(character):04X}"
    return None


@lru_cache(maxsize=1 << 16)
def _has_ink(face: Face, character: str) -> bool:
    if unicodedata.category(character).startswith("M"):  # alone, an accent may stand outside its own box
        return True
    return load(face, 32).getmask(character).getbbox() is not None


def unwritable(text: str) -> str | None:
    """Why no font at all may write `text` here; None when a font with the glyphs may.

    Scripts that need shaping are refused where Pillow has no raqm; control characters, and marks of scripts not in
    the table above, always.
    """
    for character in sorted(set(text)):
        code, kind = ord(character), unicodedata.category(character)
        if character in _JOINERS and any(_tags(other) for other in text):
            continue
        if kind in ("Cc", "Cf", "Co", "Cs", "Cn") and not character.isspace():
            return f"has the invisible or private character U+{code:04X}"
        if 0x1800 <= code <= 0x18AF:
            return "is written downwards, which is not there yet"
        shaped = needs_shaping(character)
        if shaped and _tags(character) is None and not _accent(code):
            return f"has U+{code:04X} of a script that mm15 does not know how to shape"
        if shaped and not has_raqm():
            return "needs raqm in Pillow to be written right; install a Pillow with it (python -m PIL says)"
    return None


def needs_shaping(text: str) -> bool:
    """Whether letters of `text` join, stack, carry marks or run from right to left."""
    return any(
        _tags(c) is not None or unicodedata.category(c).startswith("M") or unicodedata.bidirectional(c) in ("R", "AL")
        for c in text
    )


def runs_left(text: str) -> bool:
    """Whether a line of `text` is set from right to left: its first letter with a direction says."""
    strong = (unicodedata.bidirectional(c) for c in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"


@lru_cache(maxsize=1 << 16)
def _tags(character: str) -> tuple[str, ...] | None:
    """The tags of a script that needs shaping; None for any other character."""
    code = ord(character)
    return next((tags for first, last, tags in _JOINED if first <= code <= last), None)


def _accent(code: int) -> bool:
    """Marks that go with letters of many scripts."""
    return 0x0300 <= code <= 0x036F or 0x1AB0 <= code <= 0x1AFF or 0x1DC0 <= code <= 0x1DFF
