"""The texts to write: from files of the user in any language, or made up of the generated world's words.

Text of files is taken as it is, but for what cannot be seen: NFC, one space for any run of white space, no soft
hyphens. It is cut into passages of at most 400 characters, and those into words: the pieces between which a line may be
broken. Chinese and Japanese may be broken between almost any two characters; scripts without spaces that only a
dictionary can break (Thai, Khmer, Lao) are broken where the author put a space.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...world import make
from ...world.dice import Dice
from ...world.lexicon import FORM_CITIES, FORM_NAMES, WORDS

LONGEST = 400
"""Characters of a passage."""
TEXT_FILES = (".txt", ".text", ".md")
_BROKEN_ANYWHERE = ((0x2E80, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))


@dataclass(frozen=True)
class Word:
    """A piece that is never broken, and whether a space stands before it (unless it begins a line)."""

    text: str
    spaced: bool


@dataclass(frozen=True)
class Passage:
    """A text of a file and where it stands there."""

    text: str
    where: str


def words(text: str) -> list[Word]:
    """The pieces of a text between which a line may be broken."""
    found: list[Word] = []
    for chunk in text.split():
        piece = ""
        first = True
        for character in chunk:
            if piece and _may_break(piece[-1], character):
                found.append(Word(piece, first))
                piece, first = "", False
            piece += character
        found.append(Word(piece, first))
    return found


def join(pieces: Sequence[Word]) -> str:
    """The text of one line."""
    return "".join((" " if piece.spaced and i else "") + piece.text for i, piece in enumerate(pieces))


def clean(text: str) -> str:
    """What of a text can be seen, in one line."""
    return " ".join(unicodedata.normalize("NFC", text).replace("\u00ad", "").replace("\ufeff", "").split())


def read_passages(place: Path) -> tuple[list[Passage], list[tuple[str, str]], list[str]]:
    """(passages, (file, reason) of files that cannot be read, hashes of those read) of a file or folder of texts.

    Everything is kept in memory. UserError when there is no text at all.
    """
    if place.is_dir():
        paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in TEXT_FILES and path.is_file())
    elif place.is_file():
        paths = [place]
    else:
        raise UserError(f"{place}: no such file or folder of texts")
    passages: list[Passage] = []
    left_out: list[tuple[str, str]] = []
    digests: list[str] = []
    for path in paths:
        name = path.relative_to(place).as_posix() if path != place else path.name
        try:
            raw = path.read_bytes()
            passages += _passages(raw.decode("utf-8-sig"), name)
        except OSError as error:
            left_out.append((name, f"the file cannot be read ({error.strerror})"))
        except UnicodeDecodeError:
            left_out.append((name, "the file is not UTF-8 text"))
        else:
            digests.append(hashlib.sha256(raw).hexdigest()[:16])
    if not passages:
        why = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise UserError(f"{place}: holds no text{why}; give a UTF-8 file, or a folder of {', '.join(TEXT_FILES)} files")
    return passages, left_out, digests


def _passages(text: str, name: str) -> Iterator[Passage]:
    """Paragraphs (blank lines between them), cut where they are long."""
    start, lines = 1, list[str]()
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            for piece in _cut(clean(" ".join(lines))):
                yield Passage(piece, f"{name} line {start}")
            lines = []


def _cut(text: str) -> Iterator[str]:
    pieces: list[Word] = []
    length = 0
    for word in words(text):
        if pieces and length + len(word.text) + 1 > LONGEST:
            yield join(pieces)
            pieces, length = [], 0
        pieces.append(word)
        length += len(word.text) + 1
    if pieces:
        yield join(pieces)


def _may_break(before: str, after: str) -> bool:
    """Next to a Chinese or Japanese character, but for marks, closing and opening punctuation, and small kana."""
    kind = unicodedata.category(after)
    if kind.startswith("M") or kind in ("Pe", "Pf", "Po", "Lm") or unicodedata.category(before) in ("Ps", "Pi"):
        return False
    if "A LETTER SMALL" in unicodedata.name(after, ""):  # HIRAGANA and KATAKANA
        return False
    return any(first <= ord(c) <= last for c in (before, after) for first, last in _BROKEN_ANYWHERE)


# ------------------------------------------------------------------------------------------------------------ made up


def invent(dice: Dice) -> str:
    """A text of 1 to 8 sentences: facts and sums of the generated world, lists of words, numbers, dates, codes."""
    return " ".join(_sentence(dice) for _ in range(dice.between(1, 8)))


def _sentence(dice: Dice) -> str:
    kind = dice.below(10)
    if kind < 4:
        fact = make("text_facts", dice.below(1 << 32), level=3).parts[0].content
        assert isinstance(fact, str)
        return f"{fact[0].upper()}{fact[1:]}"
    if kind < 6:
        text = " ".join(dice.sample(WORDS, dice.between(2, 9)))
        return dice.pick((text.capitalize() + ".", text.title(), text.upper(), text + "?"))
    if kind == 6:
        first, second = dice.pick(FORM_NAMES), dice.pick(WORDS)
        return dice.pick((f"{first}.{second}@{dice.pick(WORDS)}.com", f"{first} {second}".title()))
    if kind == 7:
        day = f"{dice.between(1, 28):02d}", f"{dice.between(1, 12):02d}", str(dice.between(1950, 2049))
        return f"{dice.pick(FORM_CITIES).title()}, {dice.pick(('.', '/', '-')).join(day)}"
    if kind == 8:
        amount = f"{dice.between(0, 9999):,}.{dice.below(100):02d}"
        return dice.pick((f"${amount}", f"{amount} EUR", f"No. {dice.below(100000)}", f"{dice.below(101)}%"))
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
    return "-".join("".join(dice.pick(letters) for _ in range(dice.between(3, 5))) for _ in range(dice.between(1, 3)))
