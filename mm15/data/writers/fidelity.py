"""What a format makes of a sample: the sample as it would be read back, compared with the one that is written.

    before   the parts that are written          after   the parts a reader makes of them

Texts that follow one another in a turn are one text (they are rendered as one). Contents, their order and who says them
must be the same, places within the steps of the convention they are written in; what a format merely has no field for
(target flags, labels) is reported as lost. So nothing is written that reads back as something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from ...errors import UserError
from ...regions import Region
from ...sample import Content, Image, Part, Video
from ..sources.turns import join

FLAGS = "which answers are trained on (target flags)"
LABELS = "labels of places"
META = "meta"
SYSTEM = "the system's turn"
EXACT = 1e-6
"""Pixels that arithmetic may lose."""

Tolerance = Callable[[Region], tuple[float, float]]


def differences(before: Sequence[Part], after: Sequence[Part], tolerance: Tolerance) -> list[str]:
    """What is lost, by name. UserError when the parts would read back as something else; `tolerance` are the pixels in
    x and y by which a place may move."""
    ours, theirs = _turns(before), _turns(after)
    if [role for role, _ in ours] != [role for role, _ in theirs]:
        raise UserError(f"its turns would read back as {', '.join(role for role, _ in theirs)}")
    lost: dict[str, None] = {}
    for (role, mine), (_, other) in zip(ours, theirs, strict=True):
        if len(mine) != len(other):
            raise UserError(f"what the {role} says would read back in {len(other)} pieces instead of {len(mine)}")
        for a, b in zip(mine, other, strict=True):
            _compare(a, b, tolerance)
            if isinstance(a, Region) and isinstance(b, Region) and a.label and a.label != b.label:
                lost[LABELS] = None
    if _targets(before) != _targets(after):
        lost[FLAGS] = None
    return list(lost)


def _turns(parts: Iterable[Part]) -> list[tuple[str, list[Content]]]:
    turns = [
        (role.value, join(part.content for part in turn)) for role, turn in groupby(parts, key=lambda part: part.role)
    ]
    return [(role, contents) for role, contents in turns if contents]


def _compare(a: Content, b: Content, tolerance: Tolerance) -> None:
    if isinstance(a, Image | Video) and type(a) is type(b):
        return
    if isinstance(a, Region) and isinstance(b, Region):
        if type(a.shape) is not type(b.shape) or a.image != b.image:
            raise UserError(f"{a.shape} of picture {a.image} would read back as {b.shape} of picture {b.image}")
        allowed = tolerance(a) * 2
        if any(abs(v - w) > most + EXACT for v, w, most in zip(a.shape, b.shape, allowed, strict=False)):
            raise UserError(f"{a.shape} would read back as {b.shape}")
    elif not isinstance(a, str) or a != b:
        raise UserError(f"{_shown(a)} would read back as {_shown(b)}")


def _shown(content: Content) -> str:
    return f"{content!r:.60}" if isinstance(content, str | Region) else f"a {type(content).__name__.lower()}"


def _targets(parts: Iterable[Part]) -> list[tuple[bool, int]]:
    """Stretches of target and other contents, a place or picture counted as one and a text by its letters."""
    lengths = [
        (part.target, len(part.content) if isinstance(part.content, str) else 1)
        for part in parts
        if not isinstance(part.content, Image | Video)
    ]
    return [(target, sum(n for _, n in run)) for target, run in groupby(lengths, key=lambda one: one[0])]
