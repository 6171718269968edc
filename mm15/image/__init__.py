"""From a picture's size to its layout (`anyres`), from its pixels to tiles (`tiles`), and both explained (`explain`).

The geometry is imported at once; what needs numpy and Pillow only when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .anyres import (
    Grid,
    Indicators,
    Layout,
    Overview,
    Piece,
    Rule,
    Tiling,
    check_size,
    choose_grid,
    grids_between,
    indicator_text,
    plan,
)
from .explain import describe, explain

if TYPE_CHECKING:
    from .drawing import draw_grid
    from .tiles import cut, open_picture, picture_size

_LATER = {"cut": "tiles", "open_picture": "tiles", "picture_size": "tiles", "draw_grid": "drawing"}

__all__ = [
    "Grid",
    "Indicators",
    "Layout",
    "Overview",
    "Piece",
    "Rule",
    "Tiling",
    "check_size",
    "choose_grid",
    "cut",
    "describe",
    "draw_grid",
    "explain",
    "grids_between",
    "indicator_text",
    "open_picture",
    "picture_size",
    "plan",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
