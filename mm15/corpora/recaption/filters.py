"""What is no caption, said in a few words that many captions can share as their reason.

All of these look at the text alone, cost microseconds, and know no language but for the refusals, which are English.
The paper's own filter (7 million kept of 290 million pictures, by "concepts") is not published.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...errors import UserError

_REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can ?not|can't|won't|do not have|don't have)|as an ai\b|"
    r"as a language model|"
    r"unable to (see|view|process|identify|provide)|(no|not an?) image (was|is|has been)? ?(provided|attached|visible)|"
    r"please (provide|upload|share) (an|the|your) (image|picture|photo))",
    re.IGNORECASE,
)
_HEAD = 200
"""A refusal stands within so many characters of the beginning."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Filters:
    """The limits of what is kept.

    words: fewest and most. repeated: largest share of three-word runs that occurred before. agree: least mean token F1
    between several answers about a picture. agree_old: least token F1 with the caption there was. scripts: the only
    ones whose letters may occur, as Unicode names begin (latin, cyrillic, cjk, ...); none: any. alike: captions whose
    three-word runs overlap by this share (Jaccard) with those of an earlier one are duplicates; 1: only equal ones.
    """

    words: tuple[int, int] = (3, 300)
    repeated: float = 0.2
    agree: float = 0.0
    agree_old: float = 0.0
    scripts: tuple[str, ...] = ()
    alike: float = 0.85

    def __post_init__(self) -> None:
        if not 1 <= self.words[0] <= self.words[1]:
            raise UserError(f"words {self.words[0]} to {self.words[1]} is no range; give 1 <= least <= most")
        for name in ("repeated", "agree", "agree_old", "alike"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}; give a share from 0 to 1")
        if self.alike == 0:
            raise UserError("alike=0 would keep one caption; give a share above 0, or 1 for equal captions only")

    def reason(self, text: str) -> str | None:
        """Why a text is no caption by itself; None when it may be one."""
        words = tokens(text)
        if not words:
            return "says nothing"
        if _REFUSALS.search(text[:_HEAD].replace("\u2019", "'")):
            return "is a refusal"
        if len(words) < self.words[0]:
            return f"has fewer than {self.words[0]} words"
        if len(words) > self.words[1]:
            return f"has more than {self.words[1]} words"
        if repetition(words) > self.repeated:
            return "repeats itself"
        return _characters(text, self.scripts)


def tokens(text: str) -> list[str]:
    """Words in small letters; each Chinese or Japanese character and each Thai-like run is one."""
    found = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if any(0x2E80 <= ord(c) <= 0x9FFF or 0x20000 <= ord(c) <= 0x3FFFF for c in word):
            found += list(word)
        else:
            found.append(word)
    return found


def repetition(words: Sequence[str]) -> float:
    """The larger of two shares: three-word runs that occurred before, and words that equal the one before."""
    if len(words) < 6:
        return float(len(words) > 2 and len(set(words)) == 1)
    runs = list(zip(words, words[1:], words[2:], strict=False))
    again = sum(a == b for a, b in pairwise(words))
    return max(1 - len(set(runs)) / len(runs), again / (len(words) - 1))


def agreement(one: str, other: str) -> float:
    """Token F1, as SQuAD has it but without dropping articles: 2 common / (words of one + words of the other)."""
    a, b = Counter(tokens(one)), Counter(tokens(other))
    total = sum(a.values()) + sum(b.values())
    return 2 * sum((a & b).values()) / total if total else 0.0


def _characters(text: str, scripts: Sequence[str]) -> str | None:
    """Damaged characters, too few letters, or letters of other scripts."""
    kinds = Counter(unicodedata.category(c)[0] for c in text if not c.isspace())
    if "\ufffd" in text or kinds["C"] > sum(unicodedata.category(c) == "Cf" for c in text):
        return "has damaged or control characters"
    if kinds["L"] + kinds["M"] < 0.5 * sum(kinds.values()):
        return "is not mostly letters"
    if scripts:
        letters = [unicodedata.name(c, "?").split()[0].lower() for c in text if c.isalpha()]
        if sum(name not in scripts for name in letters) > 0.02 * len(letters):
            return f"has letters that are not {' or '.join(scripts)}"
    return None
