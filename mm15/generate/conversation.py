"""A conversation with a model about pictures: text, pictures and places in, text and places out.

    chat = Conversation(model, processor)
    reply = chat.ask("Where is the red button?", images=["screen.png"])
    reply.text, reply.regions                        "[412, 90, 520, 140]", [Region(Box(...), image=0)]
    chat.ask("And what is <region>?", regions=[Point(30, 40)])

Places are in pixels of the original picture (x right, y down), both ways. Every turn is written by the processor that
wrote the training data; earlier turns and their pictures stay in the prompt, so a turn costs the whole conversation,
or only what it adds where a `FastDecoder` keeps the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UserError
from ..image import open_picture
from ..regions import Coordinates, Malformed, Region, Shape, parse
from ..sample import Content, Image, Part, Sample, assistant, system, user
from .greedy import continue_prompts

if TYPE_CHECKING:
    from os import PathLike

    import numpy as np
    from PIL import Image as PILImage
    from transformers import PreTrainedModel

    from ..processor import MM15Processor
    from .fast import FastDecoder

    Picture = Image | str | PathLike[str] | bytes | np.ndarray | PILImage.Image

REGION = "<region>"
"""In the text of a question: here goes the next of `regions`. Those without a place follow the text."""


@dataclass(frozen=True)
class Reply:
    """What the model said: its words, the places in them in original pixels, and what looked like one and is none."""

    text: str
    regions: list[Region]
    malformed: list[Malformed]


def read_reply(text: str, *, size: tuple[int, int] | None, coordinates: Coordinates, image: int = 0) -> Reply:
    """A model's text with its places read in a picture of `size` (width, height); without a picture nothing is read."""
    if size is None:
        return Reply(text, [], [])
    found = parse(text, size, coordinates=coordinates, image=image)
    return Reply(text, list(found), found.malformed)


class Conversation:
    """Turns of a user and a model. `instruction` is the system text; `max_new_tokens` bounds each reply.

    `fast`, a FastDecoder of this model, gives the replies in its place.
    `parts` holds everything said, `sizes` the (width, height) of the pictures shown, in their order.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: MM15Processor,
        *,
        max_new_tokens: int = 256,
        instruction: str = "",
        fast: FastDecoder | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.fast = fast
        self.instruction = instruction
        self.reset()

    def reset(self) -> None:
        """Forgets all turns and pictures."""
        self.parts: tuple[Part, ...] = system(self.instruction) if self.instruction else ()
        self.pictures: list[Image] = []
        self.sizes: list[tuple[int, int]] = []

    def ask(
        self,
        text: str,
        *,
        images: Sequence[Picture] = (),
        regions: Sequence[Shape | Region] = (),
        about: int | None = None,
    ) -> Reply:
        """One turn: shows `images` (paths, bytes, arrays, Pillow pictures), says `text`, and returns the reply.

        `regions` are boxes and points to ask about; each takes the place of a ``<region>`` in the text, or follows it.
        They and the reply's places lie in picture `about` (counted from 0 over the conversation), by default the last
        one; a `Region` names its own picture. Raises UserError for what cannot be asked, and changes nothing then.
        """
        shown = [image if isinstance(image, Image) else Image(image) for image in images]
        opened = [open_picture(image, where=_name(image, len(self.pictures) + i)) for i, image in enumerate(shown)]
        pictures = [*self.pictures, *(Image(picture) for picture in opened)]
        sizes = [*self.sizes, *(picture.size for picture in opened)]
        if not text.strip() and not shown:
            raise UserError("there is nothing to ask: give a text or a picture")
        about = _subject(about, len(sizes))
        places = [self._place(region, about, sizes) for region in regions]
        parts = self.parts + user(*pictures[len(self.pictures) :], *_interleave(text, places))
        prompt = self.processor.prompt(Sample(f"turn {len(self.parts)}", "conversation", parts))
        most = self.max_new_tokens
        said = continue_prompts(self.model, self.processor, [prompt], max_new_tokens=most, fast=self.fast)[0]
        self.parts = parts + assistant(said, target=False)
        self.pictures, self.sizes = pictures, sizes
        size = sizes[about] if about is not None else None
        return read_reply(said, size=size, coordinates=self.processor.coordinates, image=about or 0)

    def _place(self, region: Shape | Region, about: int | None, sizes: Sequence[tuple[int, int]]) -> Region:
        if about is None:
            raise UserError(f"{region} needs a picture: show one with it or before it")
        place = region if isinstance(region, Region) else Region(region, about)
        if not 0 <= place.image < len(sizes):
            raise UserError(f"{place.shape} is in picture {place.image}, but {len(sizes)} are shown; count from 0")
        try:
            self.processor.coordinates.quantise(place.shape, sizes[place.image])
        except ValueError as error:
            raise UserError(f"{error}; give pixels of the original picture") from None
        return place


def _subject(about: int | None, shown: int) -> int | None:
    """The picture that is spoken of; None where there is none."""
    if about is not None and not 0 <= about < shown:
        raise UserError(f"about={about}, but {shown} pictures are shown; count from 0")
    return about if about is not None or not shown else shown - 1


def _interleave(text: str, places: Sequence[Region]) -> list[Content]:
    """The text with its ``<region>`` marks replaced in order; places without a mark follow, a space before each."""
    pieces = text.split(REGION)
    if len(pieces) - 1 > len(places):
        raise UserError(f"the text has {len(pieces) - 1} {REGION} marks and there are {len(places)} regions")
    contents: list[Content] = [pieces[0]]
    for piece, place in zip(pieces[1:], places, strict=False):
        contents += [place, piece]
    for place in places[len(pieces) - 1 :]:
        contents += [" ", place]
    return [content for content in contents if content != ""]


def _name(image: Image, index: int) -> str:
    return str(image.data) if isinstance(image.data, str) or hasattr(image.data, "__fspath__") else f"picture {index}"
