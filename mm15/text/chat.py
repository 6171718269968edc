"""From a sample's parts to one string in segments: the chat template (ChatML), pictures and regions in their places.

    user(Image(a), "Where is it?") + assistant(Region(box))   ->

    <|im_start|>user\\n <image> Where is it? <|im_end|>\\n <|im_start|>assistant\\n [12, 40, 300, 512] <|im_end|>\\n
                                                                                  '--------- target ---------'

`segments` writes a sample, for training and for use; `CHAT_TEMPLATE` writes the same string from Hugging Face messages
(a test holds the two equal). The template of MM1.5 is not known (docs/paper_map.md); ChatML is what SmolLM2 and Qwen
speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..errors import UserError
from ..regions import Coordinates, Region
from ..sample import Image, Part, Role, Video

IMAGE = "<image>"
"""Placeholder of one visual token; before expansion, of one picture."""
START, END = "<|im_start|>", "<|im_end|>"
END_OF_DOCUMENT = "<|endoftext|>"
SPECIAL_TOKENS = (END_OF_DOCUMENT, START, END, IMAGE)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Segment:
    """A piece of the string: plain text, one special token (`special`), or the picture numbered `image`."""

    text: str
    target: bool = False
    special: bool = False
    image: int | None = None


def segments(parts: Sequence[Part], *, coordinates: Coordinates, sizes: Sequence[tuple[int, int]]) -> list[Segment]:
    """The segments of a whole sample; `sizes` are its pictures' (width, height) in pixels.

    A document ends with END_OF_DOCUMENT, a turn with END; both are targets where what they end is one.
    Raises UserError for videos, and ValueError for a region outside its picture.
    """
    written: list[Segment] = []
    seen = 0
    for role, group in groupby(parts, key=lambda part: part.role):
        turn = list(group)
        if role is not Role.DOCUMENT:
            written += [Segment(START, special=True), Segment(f"{role.value}\n")]
        for part in turn:
            written.append(_segment(part, seen, coordinates, sizes))
            seen += isinstance(part.content, Image)
        ends = END_OF_DOCUMENT if role is Role.DOCUMENT else END
        written.append(Segment(ends, any(part.target for part in turn), special=True))
        if role is not Role.DOCUMENT:
            written.append(Segment("\n"))
    return written


def prompt_segments(
    parts: Sequence[Part], *, coordinates: Coordinates, sizes: Sequence[tuple[int, int]]
) -> list[Segment]:
    """The segments before the last run of targets, ready for the model to continue.

    In a conversation this ends with the assistant's header; in a document, with whatever stands before the last target.
    """
    last = max((i for i, part in enumerate(parts) if part.target), default=len(parts))
    while last > 0 and last < len(parts) and parts[last - 1].target and parts[last - 1].role is parts[last].role:
        last -= 1
    before = segments(parts[:last], coordinates=coordinates, sizes=sizes)
    if last < len(parts) and parts[last].role is Role.DOCUMENT:
        return before[:-1] if before and before[-1].text == END_OF_DOCUMENT else before
    return [*before, Segment(START, special=True), Segment(f"{Role.ASSISTANT.value}\n")]


def _segment(part: Part, seen: int, coordinates: Coordinates, sizes: Sequence[tuple[int, int]]) -> Segment:
    content = part.content
    if isinstance(content, Image):
        return Segment("", image=seen)
    if isinstance(content, Region):
        if not 0 <= content.image < len(sizes):
            raise UserError(
                f"a region refers to picture {content.image}, but the sample has {len(sizes)}; count from 0"
            )
        return Segment(coordinates.encode(content.shape, sizes[content.image]), part.target)
    if isinstance(content, Video):
        raise UserError(f"video {content.path}: videos must be given as their frames (a list of pictures)")
    return Segment(content, part.target)
