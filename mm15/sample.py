"""What every kind of data is: a `Sample`, parts in reading order.

    caption          document(Image(..), "a red circle")
    question         user(Image(..), "Where is the button?") + assistant(Region(Box(..)))
    few-shot         user(Image(a), "?") + assistant("3") + user(Image(b), "?") + assistant("5")
    plain text       document("Stars cost seven coins.")

Consecutive parts of one role are one turn. Parts of role DOCUMENT are raw text with no chat template around them.
A part says whether it is a target (trained on); pictures never are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from os import PathLike
from typing import TYPE_CHECKING, Any

from .regions import Region

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage


class Role(StrEnum):
    """Who speaks a part."""

    DOCUMENT = "document"
    """Nobody: raw text and pictures, no chat template."""
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, eq=False)
class Image:
    """A picture: a path, encoded bytes, an RGB array [height, width, 3] of uint8, or a Pillow picture."""

    data: str | PathLike[str] | bytes | np.ndarray | PILImage.Image


@dataclass(frozen=True)
class Video:
    """A video file."""

    path: str | PathLike[str]


Content = str | Image | Video | Region


@dataclass(frozen=True)
class Part:
    """One piece of a sample: what it is, who speaks it, and whether the model is trained to write it."""

    content: Content
    role: Role = Role.DOCUMENT
    target: bool = False


@dataclass(frozen=True)
class Sample:
    """One example. `id` is unique within `source`; `meta` holds what is known besides (true answer, category)."""

    id: str
    source: str
    parts: tuple[Part, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> list[Image]:
        """The pictures in reading order; `Region.image` counts in this list."""
        return [part.content for part in self.parts if isinstance(part.content, Image)]


def _parts(contents: tuple[Content, ...], role: Role, target: bool) -> tuple[Part, ...]:
    return tuple(Part(c, role, target and not isinstance(c, Image | Video)) for c in contents)


def document(*contents: Content, target: bool = True) -> tuple[Part, ...]:
    """Raw text and pictures; by default all of its text is a target."""
    return _parts(contents, Role.DOCUMENT, target)


def system(*contents: Content) -> tuple[Part, ...]:
    """What the model is told before the conversation."""
    return _parts(contents, Role.SYSTEM, False)


def user(*contents: Content) -> tuple[Part, ...]:
    """What the user shows and says."""
    return _parts(contents, Role.USER, False)


def assistant(*contents: Content, target: bool = True) -> tuple[Part, ...]:
    """What the model says; a target unless told otherwise (the shots of an episode may be context only)."""
    return _parts(contents, Role.ASSISTANT, target)
