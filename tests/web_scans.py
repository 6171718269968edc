"""Screens as page.js finds them, written by hand, for tests without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as PILImage

from mm15.corpora.web.screen import Screen, read_screen
from mm15.corpora.web.tasks import Turn, converse
from mm15.regions import Region
from mm15.world.dice import Dice

SIZE = (1000, 800)
NOISE = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
BoxLike = tuple[float, float, float, float]


def raw(box: BoxLike, kind: str = "control", tag: str = "button", role: str = "button", **more: Any) -> dict[str, Any]:
    """An element as page.js writes it: seen, whole, of no parent."""
    known = {"name": "", "type": "", "share": 1.0, "seen": True, "clear": True, "broken": False, "drawn": True}
    known |= {"pointer": False, "handler": False, "disabled": False, "checked": False, "shows": "", "classes": ""}
    return {
        "kind": kind,
        "tag": tag,
        "role": role,
        "box": list(box),
        **known,
        "file": "",
        "hint": "",
        "parent": -1,
        **more,
    }


def link(box: BoxLike, name: str, **more: Any) -> dict[str, Any]:
    return raw(box, tag="a", role="link", name=name, **more)


def icon(box: BoxLike, name: str, **more: Any) -> dict[str, Any]:
    return raw(box, "glyph", "i", "", classes=f"fa fa-{name}", **more)


def run(text: str, x: float, y: float, *, owner: int = -1, high: float = 20, **more: Any) -> dict[str, Any]:
    """A run of words on one line, each letter ten pixels wide."""
    words = []
    for word in text.split():
        words.append([word, [x, y, x + 10 * len(word), y + high], True, owner, False, False])
        x += 10 * len(word) + 10
    return {"heading": False, "exact": True, "whole": True, "words": words, **more}


def scan(elements: Sequence[Any] = (), runs: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    return {"elements": list(elements), "runs": list(runs), "generated": [], "ghosts": 0, "scale": 1, **more}


def screen(*arguments: Any, **more: Any) -> Screen:
    return read_screen(scan(*arguments, **more), NOISE)


def dice(seed: int = 0) -> Dice:
    return Dice([seed, 1, 2, 3, 4, 5, 6, 7])


def asked(shown: Screen, task: str, seeds: int = 40) -> list[Turn]:
    """All turns of one task that any of so many seeds asks."""
    return [turn for seed in range(seeds) for turn in converse(shown, dice(seed), tasks=[task], turns=20)]


def regions(turn: Turn) -> list[Region]:
    return [piece for piece in (*turn.asked, *turn.said) if isinstance(piece, Region)]
