"""Every convention that models and datasets write points and boxes in, read and written through one table.

A convention is a space (`spaces`: numbers <-> pixels of the original picture) and a syntax (`syntaxes`, `objects`:
numbers and label <-> text). `CONVENTIONS` is the table; `convention(name)` is one of it.

    reading = convention("internvl").read("Look: <ref>a cat</ref><box>[[10, 20, 500, 600]]</box>.", [(640, 480)], 0)
    reading.contents == ["Look: a cat ", Region(Box(6.4, 9.6, 320, 288), 0, "a cat"), "."]

Reading keeps all text as it is, and the words of a label stay in it, directly before their region, wherever the
syntax put them: tags go, what is said stays (as Qwen-VL's and Kosmos-2's own clean-up do). Writing moves words that
are the label back into the tags. So text in a convention's own spelling is read and written back unchanged, and what is
read in one can be written in another. What looks like a place and is none is listed, with the reason, and stays text;
words where numbers belong (`[[x1, y1, x2, y2]]`, `<box>None</box>`) are just text. Time is linear in the text: some
100 us for a sentence with two places, one to three seconds for a megabyte of nothing but places.

Where it is from (public code and papers), and what is our decision (*):

    ferret       ml-ferret: int(v * 1000 / side), a point is [x, y]. *Read at the bin's centre, as mm15's own contract.
    internvl     ms-swift's template, InternVL's eval (/ 1000): the list's spelling, 0-1000. *Rounded.
    qwen-vl      README and arXiv 2308.12966: [0, 1000), one <box> a box. Its eval divides by 999, its tokenizer by
                 1000: *truncated and read at the cell's centre, which lies between. *1000 is read as the edge.
    qwen2-vl     arXiv 2409.12191: the same numbers in its own tokens; a point is one pair (ms-swift).
    qwen2.5-vl   cookbook: bbox_2d, point_2d, label; pixels after smart_resize (28, 3136..12845056). *Rounded.
                 The `<points x1=..>` that its cookbook also shows are not read.
    qwen3-vl     cookbook: the same JSON, / 1000. *Rounded.
    deepseek-vl2 README and parse_ref_bbox: / 999. *Rounded.
    molmo        data_formatter: percent, round(v, 1), x1 y1 x2 y2 .. before alt, nothing escaped. Points only.
    paligemma    big_vision: y1 x1 y2 x2 in 1024 bins, label after, " ; " between. *Truncated, read at the centre.
    gemini       docs: box_2d [ymin, xmin, ymax, xmax] and point [y, x], / 1000; bare brackets, too. *Rounded; *JSON.
    kosmos-2     transformers' processor, in numbers and spelling (the space before a phrase stands inside its tag).
    llava        LLaVA-1.5: 0-1 of the square that expand2square pads to. *Two decimals.
    shikra       PlainBoxFormatter: [x1,y1,x2,y2;..] with three decimals of the original picture, a point is [x,y].
    coco         [x, y, w, h] in pixels. *Two decimals, as its annotation files have.

Not in any of these texts: which picture a region is of (`read` is told, `write` takes each region's own size).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .coordinates import Box, Malformed, Region, Shape
from .marks import Mark, Piece, Syntax, number_of
from .objects import Objects
from .spaces import Grid, Number, PaddedSquare, Patches, Pixels, Relative, Resized, Size, Space
from .syntaxes import Brackets, Lists, Locations, Pairs, PatchTokens, PointTags, Tagged

LONGEST_SHOWN = 200
"""Characters of a malformed piece that are shown."""


@dataclass(frozen=True)
class Reading:
    """A text cut into text and regions, in order; `malformed` lists what looked like a region and stayed text."""

    contents: list[str | Region]
    malformed: list[Malformed]


@dataclass(frozen=True)
class Convention:
    """One way of writing places: what its numbers mean, how they stand in text, and which shapes it has."""

    name: str
    space: Space
    syntax: Syntax
    boxes: bool = True
    points: bool = True

    def read(self, text: str, sizes: Sequence[Size], image: int) -> Reading:
        """`text` cut into text and regions of picture number `image`, in pixels of the original.

        `sizes` holds the (width, height) of the pictures; it is asked only for `image`, and only when the text holds
        something like a region (then ValueError when there is no such picture). Nothing in `text` raises.
        """
        contents: list[str | Region] = []
        malformed: list[Malformed] = []
        last = 0
        for found in self.syntax.find(text):
            why = found.why
            if found.pieces:
                size = _size(sizes, image)
                try:
                    cut = [p if isinstance(p, str) else self._region(p, size, image) for p in found.pieces]
                except ValueError as error:
                    why = str(error)
                else:
                    contents += [text[last : found.start], *cut]
                    last = found.end
            if why:
                piece = text[found.start : min(found.end, found.start + LONGEST_SHOWN + 1)]
                shown = piece if len(piece) <= LONGEST_SHOWN else piece[:LONGEST_SHOWN] + "…"
                malformed.append(Malformed(shown, why))
        return Reading(_joined([*contents, text[last:]]), malformed)

    def write(self, contents: Sequence[str | Region], sizes: Sequence[Size]) -> str:
        """The text of texts and regions; each region's picture has the size that `sizes` gives its number.

        ValueError for a shape that the convention does not have or that lies outside its picture, and when the text
        would not be read back as it was (a label or a text that holds the convention's own signs).
        """
        pieces: list[Piece] = [c if isinstance(c, str) else self._mark(c, sizes) for c in contents]
        written = self.syntax.write(pieces)
        found = self.syntax.find(written)
        again = [piece for one in found for piece in one.pieces if isinstance(piece, Mark)]
        given = [piece for piece in pieces if isinstance(piece, Mark)]
        if any(one.why for one in found) or len(again) != len(given) or not all(map(self._same, again, given)):
            raise ValueError(f"{self.name} cannot write this so that it is read back as it was: {written!r:.200}")
        return written

    def to_numbers(self, shape: Shape, size: Size) -> tuple[Number, ...]:
        """The numbers of a shape in a picture of `size` (width, height), for formats that keep them in fields."""
        has, kind = (self.boxes, "boxes") if isinstance(shape, Box) else (self.points, "points")
        if not has:
            raise ValueError(f"{self.name} has no {kind}: {shape} in a picture of {size[0]}x{size[1]} pixels")
        return self.space.to_numbers(shape, size)

    def from_numbers(self, numbers: Sequence[Number], size: Size) -> Shape:
        """The shape of numbers, in pixels of a picture of `size` (width, height). ValueError for what is no shape."""
        shape = self.space.from_numbers(numbers, size)
        has, kind = (self.boxes, "boxes") if isinstance(shape, Box) else (self.points, "points")
        if not has:
            raise ValueError(
                f"{self.name} has no {kind}: {len(numbers)} numbers in a picture of {size[0]}x{size[1]} pixels"
            )
        return shape

    def resolution(self, size: Size) -> tuple[float, float]:
        """The furthest that an x and a y move in pixels, written and read back: half a step (kosmos-2: a patch)."""
        return self.space.resolution(size)

    def _region(self, mark: Mark, size: Size, image: int) -> Region:
        return Region(self.from_numbers([number_of(n) for n in mark.numbers], size), image, mark.label)

    def _mark(self, region: Region, sizes: Sequence[Size]) -> Mark:
        numbers = self.to_numbers(region.shape, _size(sizes, region.image))
        return Mark(tuple(f"{number:.{self.space.decimals}f}" for number in numbers), region.label)

    def _same(self, again: Mark, given: Mark) -> bool:
        """Whether two marks are the same place of the same label. Brackets hold no label."""
        if isinstance(self.syntax, Brackets):
            return again.numbers == given.numbers
        return [number_of(n) for n in again.numbers] == [number_of(n) for n in given.numbers] and (
            again.label.strip() == given.label.strip()
        )


def _size(sizes: Sequence[Size], image: int) -> Size:
    if not 0 <= image < len(sizes):
        raise ValueError(f"a region refers to picture {image}, but there are {len(sizes)}; count from 0")
    return sizes[image]


def _joined(contents: Sequence[str | Region]) -> list[str | Region]:
    """Neighbouring texts as one, empty ones dropped."""
    joined: list[str | Region] = []
    texts: list[str] = []
    for content in [*contents, None]:
        if isinstance(content, str):
            texts.append(content)
            continue
        if whole := "".join(texts):
            joined.append(whole)
        texts = []
        if content is not None:
            joined.append(content)
    return joined


_THOUSAND = Relative(1000)
_REF, _BOX = ("<ref>", "</ref>"), ("<box>", "</box>")
_QWEN2_REF, _QWEN2_BOX = ("<|object_ref_start|>", "<|object_ref_end|>"), ("<|box_start|>", "<|box_end|>")
_DEEPSEEK_REF, _DEEPSEEK_BOX = ("<|ref|>", "<|/ref|>"), ("<|det|>", "<|/det|>")
_KOSMOS_REF, _KOSMOS_BOX = ("<phrase>", "</phrase>"), ("<object>", "</object>")
_KOSMOS_TOKENS = r"<patch_index_[0-9]*>|</delimiter_of_multi_objects/>"
_QWEN_RELEASE = Resized(min_pixels=56 * 56, max_pixels=16384 * 28 * 28)

CONVENTIONS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention("ferret", Grid(_THOUSAND, cells=1000), Brackets()),
        Convention("internvl", Grid(_THOUSAND), Tagged(_REF, _BOX, Lists()), points=False),
        Convention("qwen-vl", Grid(_THOUSAND, cells=999), Tagged(_REF, _BOX, Pairs()), points=False),
        Convention("qwen2-vl", Grid(_THOUSAND, cells=999), Tagged(_QWEN2_REF, _QWEN2_BOX, Pairs())),
        Convention("qwen2.5-vl", Grid(_QWEN_RELEASE), Objects("bbox_2d", "point_2d")),
        Convention("qwen3-vl", Grid(_THOUSAND), Objects("bbox_2d", "point_2d")),
        Convention("deepseek-vl2", Grid(Relative(999)), Tagged(_DEEPSEEK_REF, _DEEPSEEK_BOX, Lists()), points=False),
        Convention("molmo", Grid(Relative(100), decimals=1), PointTags(), boxes=False),
        Convention("paligemma", Grid(Relative(1024), "yxyx", cells=1023), Locations(), points=False),
        Convention("gemini", Grid(_THOUSAND, "yxyx"), Objects("box_2d", "point", Brackets())),
        Convention(
            "kosmos-2",
            Patches(),
            Tagged(_KOSMOS_REF, _KOSMOS_BOX, PatchTokens(), space_inside=True, tokens=_KOSMOS_TOKENS),
            points=False,
        ),
        Convention("llava", Grid(PaddedSquare(), decimals=2), Brackets(), points=False),
        Convention("shikra", Grid(Relative(1), decimals=3), Brackets(",", several=True)),
        Convention("coco", Grid(Pixels(), "xywh", decimals=2), Brackets(), points=False),
    )
}
"""The table: name -> convention."""


def convention(name: str, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Convention:
    """The convention of a name; ValueError with the closest name for an unknown one.

    `min_pixels`, `max_pixels`: the areas that pictures were resized to first, where numbers are pixels of the resized
    picture (qwen2.5-vl); None: those of the model's release. ValueError for conventions that have no such thing.
    """
    if name not in CONVENTIONS:
        close = difflib.get_close_matches(name, CONVENTIONS, 1, 0.0)
        raise ValueError(f"unknown convention {name!r}; did you mean {close[0]!r}? There are {', '.join(CONVENTIONS)}")
    found = CONVENTIONS[name]
    if min_pixels is None and max_pixels is None:
        return found
    if not isinstance(found.space, Grid) or not isinstance(found.space.frame, Resized):
        raise ValueError(f"{name} does not depend on how pictures are resized: it has no min_pixels and max_pixels")
    frame = found.space.frame
    resized = Resized(
        frame.min_pixels if min_pixels is None else min_pixels, frame.max_pixels if max_pixels is None else max_pixels
    )
    return replace(found, space=replace(found.space, frame=resized))
