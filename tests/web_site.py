"""A folder of pages made for a test, and how they look in Chromium."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from mm15.corpora.web import WebBuilder, WebSettings, browser
from mm15.corpora.web.screen import Element, Screen, read_screen

needs_chromium = pytest.mark.skipif(
    browser.executable() is None, reason="no Chromium on the PATH (chromium, google-chrome) or in $MM15_CHROMIUM"
)
PLAIN = "<style>* { margin: 0 } body { font: 16px sans-serif }</style>"


class Site:
    """Writes pages into the folder and looks at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def page(self, html: str, name: str | None = None) -> str:
        name = name or f"{self.written}.html"
        self.written += 1
        (self.folder / name).write_text(f"<!doctype html><meta charset=utf-8><title>t</title>{html}", encoding="utf-8")
        return name

    def builder(self, **settings: Any) -> WebBuilder:
        return WebBuilder(WebSettings(self.folder, **{"timeout": 20, **settings}))

    def look(self, html: str, viewport: str = "desktop") -> tuple[Screen, np.ndarray]:
        """The screen of a page, and its screenshot [height, width, 3]."""
        page = self.page(html)
        [shot] = self.builder()._shots(page, viewport)
        picture = PILImage.open(io.BytesIO(shot.png)).convert("RGB")
        return read_screen(shot.scan, picture), np.asarray(picture).astype(int)


def blob(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box of all pixels of a colour."""
    ys, xs = np.nonzero((np.abs(picture - colour) < 12).all(axis=2))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def named(screen: Screen) -> dict[str, Element]:
    return {element.name: element for element in screen.elements}
