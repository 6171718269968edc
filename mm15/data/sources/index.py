"""Where the rows of a JSON file stand, found without parsing it: start, end and line of each, and a digest of it all.

    index_lines   JSONL: rows are lines                          index_lists   {"images": [{..}, ..], "annotations": ..}
    index_list    a JSON list: rows are its elements             scan          the brackets and commas they are found by

Brackets, commas and quotes are found with numpy, 16 MB at a time: memory is 24 bytes a row, whatever the file's size,
and the time about 1 s a GB for lines (most of it SHA-256) and 3 s for lists. That elements are valid JSON is only seen
when they are read; that brackets, strings and commas make up a whole list is seen here. No row may be longer than
LONGEST, so that no file can fill the memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import UserError
from .stored import Stored

LONGEST = 1 << 28
"""Bytes a row may have."""
SPACE = b" \t\r\n"
BOM = b"\xef\xbb\xbf"

_QUOTE, _ESCAPE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4, 5
_KIND = {'"': _QUOTE, "\\": _ESCAPE, "[": _OPEN, "{": _OPEN, "]": _CLOSE, "}": _CLOSE, ",": _COMMA}
_KINDS = bytes(_KIND.get(chr(byte), 0) for byte in range(256))
"""What each byte is; 0 for those that do not matter."""
_STEP = np.array([0, 0, 0, 1, -1, 0], dtype=np.int64)
"""How each kind changes the depth."""


@dataclass(frozen=True, eq=False)
class Index:
    """Rows of a file: first byte, end and line (from 1) of each, int64 [rows]; `digest`, 16 hex digits of the file."""

    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    digest: str

    def __len__(self) -> int:
        return len(self.starts)


EMPTY = Index(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), "")


@dataclass(frozen=True, eq=False)
class Marks:
    """Brackets and commas outside of strings, in order: place, kind, level and line of each, int64 [marks].

    The level is how deep the bracket is that a mark opens, closes or divides, from 1.
    """

    places: np.ndarray
    kinds: np.ndarray
    levels: np.ndarray
    lines: np.ndarray


def first_byte(file: Stored) -> bytes:
    """The first byte that is no space and no byte order mark; empty for a blank file (as far as can be seen at once).

    UserError for what is no UTF-8 text at all.
    """
    head = file.read(0, min(file.size, 4096)) if file.size else b""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{file.address}: UTF-16 text; save it as UTF-8")
    return head.removeprefix(BOM).lstrip(SPACE)[:1]


def index_lines(file: Stored) -> Index:
    """The lines of a file that are not blank. UserError for zero bytes and lines longer than LONGEST."""
    digest, breaks, offset, last = hashlib.sha256(), [np.zeros(0, np.int64)], 0, 0
    for chunk in file.chunks():
        digest.update(chunk)
        _refuse_zeros(file, chunk, offset)
        found = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + offset
        breaks.append(found)
        offset += len(chunk)
        edges = np.concatenate([[last], found, [offset]])
        if (np.diff(edges) > LONGEST).any():
            line = sum(map(len, breaks[:-1])) + int(np.argmax(np.diff(edges) > LONGEST)) + 1
            raise _too_long(file, line)
        last = int(edges[-2])
    ends = np.concatenate([*breaks, [offset]]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    filled = np.ones(len(starts), dtype=bool)
    for i in np.flatnonzero(ends - starts < 3):
        filled[i] = bool(file.read(int(starts[i]), int(ends[i])).strip(SPACE)) if ends[i] > starts[i] else False
    return Index(starts[filled], ends[filled], np.flatnonzero(filled) + 1, digest.hexdigest()[:16])


def index_list(file: Stored) -> Index:
    """The elements of a file that is one JSON list."""
    digest = hashlib.sha256()
    marks = _join(scan(file, 2, digest))
    starts, ends, lines = _elements(file, marks, 1)
    return Index(starts, ends, lines, digest.hexdigest()[:16])


def index_lists(file: Stored) -> dict[str, Index]:
    """The elements of each list directly in a file that is one JSON object, by its key."""
    digest = hashlib.sha256()
    marks = _join(scan(file, 3, digest))
    outer = np.flatnonzero(marks.levels == 1)
    opened = np.flatnonzero((marks.levels == 2) & (marks.kinds == _OPEN))
    closed = np.flatnonzero((marks.levels == 2) & (marks.kinds == _CLOSE))
    found = {}
    for first, last in zip(opened, closed, strict=True):
        before = int(marks.places[outer[np.searchsorted(outer, first) - 1]])
        at = int(marks.places[first])
        key, colon, _ = file.read(before + 1, at).rpartition(b":")
        if not colon or file.read(at, at + 1) != b"[":
            continue
        inside = slice(first, last + 1)
        part = Marks(marks.places[inside], marks.kinds[inside], marks.levels[inside], marks.lines[inside])
        found[_key(file, key, int(marks.lines[first]))] = Index(*_elements(file, part, 2), digest.hexdigest()[:16])
    return found


def scan(file: Stored, deepest: int, digest: hashlib._Hash) -> Iterator[Marks]:
    """The marks of a file down to level `deepest`, a chunk at a time; commas not at the deepest level itself.

    UserError with the line where brackets do not close, where a string does not end, and for zero bytes; where text
    follows after the end; where an element is longer than LONGEST.
    """
    depth, inside, escaped, offset, line, last, ended = 0, 0, 0, 0, 1, 0, False
    for chunk in file.chunks():
        digest.update(chunk)
        _refuse_zeros(file, chunk, offset)
        breaks = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        kinds_N = np.frombuffer(chunk.translate(_KINDS), np.uint8)
        places = np.flatnonzero(kinds_N != 0)
        kinds = kinds_N[places]
        quotes, escaped = _quotes(places, kinds, len(chunk), escaped)
        quoted = (np.cumsum(quotes) + inside) % 2 == 1
        inside = int(quoted[-1]) if len(quoted) else inside
        structure = (kinds >= _OPEN) & ~quoted
        places, kinds = places[structure], kinds[structure]
        depths = depth + np.cumsum(_STEP[kinds])
        closing = np.flatnonzero(depths <= 0)
        end = 0 if ended else int(places[closing[0]]) + 1 if len(closing) else len(chunk)
        rest = chunk[end:]
        if rest.strip(SPACE):
            at = len(chunk) - len(rest.lstrip(SPACE))
            raise _invalid(file, line + int(np.searchsorted(breaks, at)), "text after the end")
        ended = end < len(chunk) or bool(len(closing))
        depth = int(depths[-1]) if len(depths) else depth
        levels = depths + (kinds == _CLOSE)
        kept = (levels <= deepest) & ((kinds != _COMMA) | (levels < deepest))
        places, kinds, levels = places[kept], kinds[kept], levels[kept]
        marks = Marks(places + offset, kinds, levels, line + np.searchsorted(breaks, places))
        edges = np.concatenate([[last], marks.places, [offset + len(chunk)]])
        if (np.diff(edges) > LONGEST).any():
            raise _too_long(file, int(np.concatenate([[line], marks.lines])[np.argmax(np.diff(edges) > LONGEST)]))
        last = int(edges[-2])
        yield marks
        offset += len(chunk)
        line += len(breaks)
    if depth or inside:
        raise _invalid(file, line, "it ends in the middle, expected ',' or ']'")


def _quotes(places: np.ndarray, kinds: np.ndarray, length: int, escaped: int) -> tuple[np.ndarray, int]:
    """Which places are quotes that no backslash escapes, and whether the next chunk's first character is escaped.

    A character is escaped when an odd number of backslashes stands before it; one of the former chunk counts.
    """
    quotes, slashes = kinds == _QUOTE, places[kinds == _ESCAPE]
    if escaped and len(places) and places[0] == 0:
        quotes[0] = False
    if not len(slashes):
        return quotes, 0
    numbers = np.arange(len(slashes))
    fresh = np.concatenate([[True], np.diff(slashes) > 1])
    runs = numbers - np.maximum.accumulate(np.where(fresh, numbers, 0)) + 1
    if escaped and slashes[0] == 0:  # this run began in the former chunk
        runs[: int(np.argmax(fresh[1:])) + 1 if fresh[1:].any() else None] += 1
    after = np.searchsorted(places, slashes + 1)  # what stands behind each slash
    behind = after < len(places)
    behind[behind] = (places[after[behind]] == slashes[behind] + 1) & (runs[behind] % 2 == 1)
    quotes[after[behind]] = False
    return quotes, int(slashes[-1] == length - 1 and runs[-1] % 2 == 1)


def _elements(file: Stored, marks: Marks, level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Start, end and line of each element of the list whose brackets and commas are of `level`.

    An element starts behind the comma; its line is that of its brace.
    """
    edges = np.flatnonzero(marks.levels == level)
    if not len(edges):
        return (np.zeros(0, np.int64),) * 3
    starts, ends = marks.places[edges[:-1]] + 1, marks.places[edges[1:]]
    opened = (marks.levels == level + 1) & (marks.kinds == _OPEN)
    first = edges[:-1] + 1
    objects = opened[first]
    lines = np.where(objects, marks.lines[first], marks.lines[edges[:-1]])
    if len(ends) and not objects[-1] and not file.read(int(starts[-1]), int(ends[-1])).strip(SPACE):
        if len(ends) > 1:
            raise _invalid(file, int(marks.lines[edges[-1]]), "nothing follows the last comma")
        return (np.zeros(0, np.int64),) * 3
    if file.read(int(ends[-1]), int(ends[-1]) + 1) != b"]":
        raise _invalid(file, int(marks.lines[edges[-1]]), "expected ',' or ']'")
    return starts, ends, lines


def _join(marks: Iterator[Marks]) -> Marks:
    all_marks = list(marks)
    return Marks(
        *(np.concatenate([getattr(one, name) for one in all_marks]) for name in ("places", "kinds", "levels", "lines"))
    )


def _key(file: Stored, text: bytes, line: int) -> str:
    try:
        key = json.loads(text.decode())
    except ValueError:
        key = None
    if not isinstance(key, str):
        raise _invalid(file, line, "a list without a key")
    return key


def _refuse_zeros(file: Stored, chunk: bytes, offset: int) -> None:
    at = chunk.find(b"\0")
    if at >= 0:
        raise UserError(
            f"{file.address}: no text (byte {offset + at} is zero); the file is damaged or was not written whole"
        )


def _invalid(file: Stored, line: int, why: str) -> UserError:
    return UserError(f"{file.address} line {line}: not valid JSON ({why}); mend the file")


def _too_long(file: Stored, line: int) -> UserError:
    return UserError(
        f"{file.address} line {line}: a row of more than {LONGEST >> 20} MiB; rows are read whole, split it"
    )
