"""Small pictures of findings for the page: places drawn, also where they leave the picture; two pictures side by side.

A picture that cannot be opened has none: the empty string stands for it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

from PIL import Image as PILImage

from ...errors import UserError
from ...image import open_picture
from ...image.marking import draw_regions, strip
from ...regions import Box, Point, Region
from ..sources import SourceData
from .findings import Finding, Kind
from .report import PictureRef

SIDE = 360
"""Longer side of a thumbnail in pixels."""
_HIGH = 220
"""Height of two pictures side by side."""
_GROUND = "#8c959f"
_FURTHEST = 0.6
"""So much of a picture's side is shown beyond its edge, for places that lie there."""


class Thumbnails:
    """Thumbnails as data: addresses."""

    def __init__(self, sources: Mapping[str, SourceData]) -> None:
        self.sources = sources

    def of(self, finding: Finding) -> str:
        """The picture that explains a finding."""
        try:
            picture = self._open(finding.source, finding.index, finding.picture or 0)
            if finding.kind in (Kind.REGION_OUTSIDE, Kind.REGION_EMPTY):
                return address(_around(picture, finding.more["places"]))
            other = finding.more.get("same_as")
            if other is not None:
                return address(_beside(picture, self._open(other["source"], other["index"], other["picture"])))
            return address(picture)
        except (UserError, OSError, IndexError):
            return ""

    def whole(self, ref: PictureRef) -> str:
        """A picture by its place."""
        try:
            return address(self._open(ref.source, ref.index, ref.number))
        except (UserError, OSError, IndexError):
            return ""

    def _open(self, source: str, index: int, number: int) -> PILImage.Image:
        image = self.sources[source][index].images[number]
        return open_picture(image, where="picture", at_least=(SIDE, SIDE))


def address(picture: PILImage.Image) -> str:
    """A picture of at most SIDE pixels as a JPEG in a data: address."""
    small = picture.copy()
    small.thumbnail((2 * SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _beside(one: PILImage.Image, other: PILImage.Image) -> PILImage.Image:
    high = min(max(one.height, other.height), _HIGH)
    pair = [p.resize((max(round(p.width * high / p.height), 1), high)) for p in (one, other)]
    return strip(pair, ground=_GROUND)


def _around(picture: PILImage.Image, places: Sequence[Sequence[float]]) -> PILImage.Image:
    """The picture with places drawn, on a ground that reaches as far as they do (but not too far)."""
    width, height = picture.size
    far_x, far_y = round(_FURTHEST * width), round(_FURTHEST * height)
    xs, ys = [x for place in places for x in place[::2]], [y for place in places for y in place[1::2]]
    left, top = (min(max(round(-min(values)) + 4, 0), far) for values, far in ((xs, far_x), (ys, far_y)))
    right, bottom = (
        min(max(round(max(values)) - side + 4, 0), far)
        for values, side, far in ((xs, width, far_x), (ys, height, far_y))
    )
    ground = PILImage.new("RGB", (left + width + right, top + height + bottom), _GROUND)
    ground.paste(picture, (left, top))
    moved = [[value + (left, top)[i % 2] for i, value in enumerate(place)] for place in places]
    return draw_regions(ground, [Region(Point(*p) if len(p) == 2 else Box(*p)) for p in moved])
