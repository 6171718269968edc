"""Points and boxes: shapes and the model's contract (`coordinates`), every other convention (`conventions`)."""

from .coordinates import Box, Coordinates, Malformed, Parsed, Point, Region, Shape, parse

__all__ = ["Box", "Coordinates", "Malformed", "Parsed", "Point", "Region", "Shape", "parse"]
