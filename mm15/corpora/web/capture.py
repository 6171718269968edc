"""One page at one size to screenshots, each with what Chromium knows to be on it.

    open - wait until it stands still - scan - screenshot - scan again - (scroll, and so on)

A screenshot counts only when the scans before and after it are equal, so that the boxes are those of the picture.
Language, time zone, chance, motion and the first frames of moving pictures are fixed, dialogs are dismissed, downloads
and further windows refused; the clock runs, because pages wait by it. Fonts are those of the machine. So a page of
files gives the same bytes each time on one machine (unless it draws the time, or moves on by itself on a canvas).

About 0.25 s a page and size on a core, most of it Chromium's.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urlsplit

if TYPE_CHECKING:
    from playwright.async_api import Browser, Dialog, Page

_START = Path(__file__).with_name("start.js").read_text(encoding="utf-8")
_SCAN = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_QUIET, _MOST = 100, 3000
"""A page stands still when nothing has changed for so many ms; after so many we stop waiting for that."""
_LOOKS = 3
"""Screenshots that a page may spoil by moving, and as many more as fit into `_MOST`."""
_PAINTED = ("canvas", "video", "object", "embed", "iframe", "frame")
"""What can change its picture without the page knowing; where there is such a thing, two screenshots must be equal."""
_LEAST = 0.25
"""A further screen must show at least this share of new content."""


class UnusableError(Exception):
    """A page that gives no screenshot; the message is the reason, in words that many pages can share."""


@dataclass(frozen=True)
class Viewport:
    """A size of window in CSS pixels, pixels a CSS pixel, and whether it is a touch device with a mobile layout."""

    width: int
    height: int
    scale: int = 1
    mobile: bool = False


VIEWPORTS = {
    "phone": Viewport(390, 844, 2, True),
    "tablet": Viewport(820, 1180, 1, True),
    "desktop": Viewport(1280, 800),
}


@dataclass(frozen=True)
class Shot:
    """A screenshot (PNG) and the scan of page.js that goes with it."""

    png: bytes
    scan: dict[str, Any]


async def capture(browser: Browser, address: str, viewport: Viewport, *, screens: int, fixed: bool) -> list[Shot]:
    """Up to `screens` screenshots of a page from its top down. With `fixed` it must stay at its address.

    Raises UnusableError with the reason when there is nothing to see; Playwright's errors when the browser fails.
    """
    context = await browser.new_context(
        viewport={"width": viewport.width, "height": viewport.height},
        device_scale_factor=viewport.scale,
        is_mobile=viewport.mobile,
        has_touch=viewport.mobile,
        locale="en-US",
        timezone_id="UTC",
        color_scheme="light",
        reduced_motion="reduce",
        accept_downloads=False,
        service_workers="block",
        bypass_csp=True,
    )
    try:
        await context.add_init_script(_START)
        page = await context.new_page()
        page.on("dialog", _dismiss)
        with _reasons():
            await _open(page, address)
            shots = await _screens(page, screens)
        if fixed and urldefrag(page.url).url.partition("?")[0] != address:
            raise UnusableError("it leads to another page")
    except UnusableError:
        await context.close()
        raise
    await context.close()  # not in a `finally`: where a page hangs, this would too
    return shots


async def _dismiss(dialog: Dialog) -> None:
    from playwright.async_api import Error

    with contextlib.suppress(Error):  # the page is gone already
        await dialog.dismiss()


@contextlib.contextmanager
def _reasons() -> Any:
    """What Playwright says of a page that does not work, as reasons; what it says of the browser goes on."""
    from playwright.async_api import Error

    try:
        yield
    except Error as error:
        message = str(error)
        code = re.search(r"net::(ERR_\w+)", message)
        if "Download is starting" in message:
            raise UnusableError("it is a download") from None
        if code:
            raise UnusableError(f"it does not open ({code[1]})") from None
        if "Execution context was destroyed" in message or "interrupted by another navigation" in message:
            raise UnusableError("it leads to another page") from None
        if "__mm15" in message:
            raise UnusableError("it is not an HTML page") from None
        raise


async def _open(page: Page, address: str) -> None:
    response = await page.goto(address, wait_until="load", timeout=0)
    if response is None:
        raise UnusableError("it does not open")
    if response.status >= 400:
        raise UnusableError(f"it does not open (HTTP {response.status})")
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    if kind not in ("text/html", "application/xhtml+xml"):
        raise UnusableError(f"it is not an HTML page ({kind or urlsplit(address).scheme})")


async def _screens(page: Page, screens: int) -> list[Shot]:
    shots: list[Shot] = []
    reached, height = -math.inf, 0.0
    for number in range(screens):
        if number:
            await page.evaluate("window.scrollBy(0, window.visualViewport.height)")
        shot = await _shot(page)
        if shot.scan["top"] - reached < _LEAST * height:
            break
        if shot.scan["elements"] or shot.scan["runs"]:
            shots.append(shot)
        reached, height = shot.scan["top"], shot.scan["height"]
    if not shots:
        raise UnusableError("it is empty")
    return shots


async def _shot(page: Page) -> Shot:
    await page.evaluate("([quiet, most]) => window.__mm15.settle(quiet, most)", [_QUIET, _MOST])
    before, looks, end = await page.evaluate(_SCAN), 0, time.monotonic() + _MOST / 1000
    while True:
        png = await page.screenshot(type="png", timeout=0)
        after = await page.evaluate(_SCAN)
        painted = any(element["tag"] in _PAINTED for element in after["elements"])
        if after == before and (not painted or await page.screenshot(type="png", timeout=0) == png):
            break
        before, looks = after, looks + 1
        if looks >= _LOOKS and time.monotonic() > end:
            raise UnusableError("it keeps moving")
    return Shot(png, after)
