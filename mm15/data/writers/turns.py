"""A sample as turns of a conversation, with its places written into the texts: what the writers of chats start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ...errors import UserError
from ...regions import Convention, Region
from ...sample import Content, Image, Role, Sample, Video
from ..sources.turns import join


@dataclass(frozen=True)
class Said:
    """What one role says in a row: texts, pictures and places; `target`: whether any of it is trained on."""

    role: Role
    contents: list[Content]
    target: bool


def said(sample: Sample) -> list[Said]:
    """The turns of a sample. UserError when it is no conversation, and for videos."""
    turns = []
    for role, parts in groupby(sample.parts, key=lambda part: part.role):
        turn = list(parts)
        if role is Role.DOCUMENT:
            raise UserError("a document, not a conversation; webdataset, text and mm15 hold those")
        if any(isinstance(part.content, Video) for part in turn):
            raise UserError("it shows a video; mm15 and webdataset hold those")
        contents = join(part.content for part in turn)
        if contents:
            turns.append(Said(role, contents, any(part.target for part in turn)))
    return turns


class UndecidedError(UserError):
    """Places have to be written into texts, and nothing says in which convention."""


def spell(
    contents: Sequence[Content], convention: Convention | None, sizes: Sequence[tuple[int, int]], shown: int
) -> list[str | Image]:
    """Contents with their places written into the texts; `shown` pictures have been shown before them.

    UserError for places that the convention does not have, or whose picture is not the last one shown before them;
    UndecidedError where there are places and no convention.
    """
    spelled: list[str | Image] = []
    run: list[str | Region] = []

    def flush() -> None:
        if any(isinstance(content, Region) for content in run):
            if convention is None:
                raise UndecidedError("it holds places, which this format writes into its texts")
            try:
                spelled.append(_write(run, convention, sizes))
            except ValueError as error:
                raise UserError(str(error)) from None
        elif run:
            spelled.append("".join(map(str, run)))
        run.clear()

    for content in contents:
        if isinstance(content, Image):
            flush()
            spelled.append(content)
            shown += 1
        elif isinstance(content, Region) and content.image != shown - 1:
            raise UserError(
                f"a place in picture {content.image} is said after {shown} were shown; in texts it has to be the last"
            )
        elif isinstance(content, str | Region):
            run.append(content)
    flush()
    return spelled


def _write(run: list[str | Region], convention: Convention, sizes: Sequence[tuple[int, int]]) -> str:
    """The run in the convention. Where its labels would add words to what is said, the labels that are not said
    directly before their place are left out; where they still do, all are."""
    said = [replace(content, label="") if unsaid else content for content, unsaid in _unsaid(run)]
    bare = [replace(content, label="") if isinstance(content, Region) else content for content in run]
    words = "".join(content for content in run if isinstance(content, str))
    for contents in (run, said):
        try:
            text = convention.write(contents, sizes)
        except ValueError:
            continue
        again = convention.read(text, sizes, next(c.image for c in run if isinstance(c, Region)))
        if "".join(content for content in again.contents if isinstance(content, str)) == words:
            return text
    return convention.write(bare, sizes)


def _unsaid(run: list[str | Region]) -> Iterator[tuple[Any, bool]]:
    """Each content, and whether it is a region whose label is neither said directly before it nor the former's."""
    text, label = "", ""
    for content in run:
        if isinstance(content, str):
            text += content
            yield content, False
            continue
        again = label == content.label and not text.strip(" \t\n,;")
        is_said = again or text.rstrip().endswith(content.label)
        yield content, not is_said
        text, label = "", content.label if is_said else ""
