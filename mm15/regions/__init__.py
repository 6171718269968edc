"""Points and boxes: shapes and the model's contract (`coordinates`), every other convention (`conventions`)."""

from .conventions import CONVENTIONS, Convention, Reading, convention
from .coordinates import Box, Coordinates, Malformed, Parsed, Point, Region, Shape, parse

__all__ = [
    "Box",
    "CONVENTIONS",
    "Convention",
    "Coordinates",
    "Malformed",
    "Parsed",
    "Point",
    "Reading",
    "Region",
    "Shape",
    "convention",
    "parse",
]
