"""One Chromium a process, driven by Playwright on a thread of its own, replaced when it dies or hangs.

    Chromium(folder=..).run(job, timeout=20)    job(browser) is awaited; what it returns is returned

Whose Chromium: $MM15_CHROMIUM, or `chromium`, `chromium-browser`, `google-chrome` on the PATH, or the one that
``playwright install chromium`` brings. It runs in its own sandbox, except for root, for whom Chromium has none.

With a `folder` the browser is shut in: pages come from that folder over a loopback server under a fixed address, every
other name leads nowhere, so that nothing a page wants from outside can change its picture. Without, it is on the
network as any browser.

A browser costs half a second to start and 200 MB. It is closed when the process ends, however that ends: Playwright's
driver goes when its pipe breaks and takes the browser along.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import UserError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

T = TypeVar("T")
VARIABLE = "MM15_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
HOST = "pages.localhost"
"""The name under which a folder is served; `localhost` makes it a secure origin, as modern pages expect."""
_FLAGS = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-blink-features=ComputedAccessibilityInfo",  # Element.computedRole and .computedName, which ...
    "--force-renderer-accessibility",  # ... this makes a hundred times faster
    # Moving pictures show their first frame; the rest is what Playwright would set itself (a mouse, headless or not).
    "--blink-settings=imageAnimationPolicy=2,primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,"
    "availablePointerTypes=4",
)
_PATIENCE = 5.0
"""Seconds that a browser has to close by itself."""
_RECYCLE = 500
"""Jobs after which a browser is replaced, because its memory only grows."""


class BrowserDiedError(Exception):
    """The browser died under a job."""


class TooSlowError(Exception):
    """A job took longer than it may; the browser it hung in is gone."""


class Chromium:
    """A browser that is there when it is needed; see the module docstring. Not for use by several threads at once."""

    def __init__(self, *, folder: Path | None = None) -> None:
        self._server = _serve(folder) if folder is not None else None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chromium", daemon=True)
        self._thread.start()
        self._playwright: Playwright | None = None
        self._browser: Browser | None = None
        self._jobs = 0

    def run(self, job: Callable[[Browser], Awaitable[T]], *, timeout: float) -> T:
        """What ``await job(browser)`` gives.

        Raises TooSlowError after `timeout` seconds (the start of a browser not counted) and BrowserDiedError when the
        browser went away meanwhile; after both the next run has a fresh one. UserError when none can be started.
        """
        return self._wait(self._run(job, timeout))

    def version(self) -> str:
        """The version of the browser, as 150.0.7871.100."""
        return self._wait(self._version())

    def close(self) -> None:
        """End the browser, the driver and the server. Harmless when repeated."""
        if self._loop.is_closed():
            return
        self._wait(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _wait(self, coroutine: Any) -> Any:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    async def _version(self) -> str:
        return (await self._ready()).version

    async def _run(self, job: Callable[[Browser], Awaitable[T]], timeout: float) -> T:
        from playwright.async_api import Error

        browser = await self._ready()
        self._jobs += 1
        try:
            return await asyncio.wait_for(job(browser), timeout)
        except TimeoutError:
            await self._stop()
            raise TooSlowError from None
        except Error as error:
            if browser.is_connected() and "crashed" not in str(error):
                raise
            await self._stop()
            raise BrowserDiedError(str(error).splitlines()[0]) from None

    async def _ready(self) -> Browser:
        if self._browser is not None and (not self._browser.is_connected() or self._jobs >= _RECYCLE):
            await self._stop()
        if self._browser is None:
            self._browser, self._jobs = await self._start(), 0
        return self._browser

    async def _start(self) -> Browser:
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise UserError("pages need Playwright; pip install 'mm15[web]'") from None
        found = executable()
        self._playwright = await async_playwright().start()
        try:
            return await self._playwright.chromium.launch(
                executable_path=found,
                args=[*_FLAGS, *self._fences()],
                chromium_sandbox=not _root(),
                handle_sigint=False,
                handle_sigterm=False,
                handle_sighup=False,
            )
        except Error as error:
            await self._stop()
            raise UserError(_why_not(found, str(error))) from None

    def _fences(self) -> list[str]:
        if self._server is None:
            return []
        place = f"127.0.0.1:{self._server.server_address[1]}"
        return [f"--host-resolver-rules=MAP {HOST} {place}, MAP * ~NOTFOUND", "--no-proxy-server"]

    async def _stop(self) -> None:
        browser, playwright, self._browser, self._playwright = self._browser, self._playwright, None, None
        for end in (browser and browser.close, playwright and playwright.stop):
            if end:
                try:
                    await asyncio.wait_for(end(), _PATIENCE)
                except Exception:  # it is on its way out, whatever it says
                    continue


def executable() -> str | None:
    """The path of the Chromium to use; None: Playwright's own. UserError when $MM15_CHROMIUM names none."""
    named = os.environ.get(VARIABLE)
    if named:
        if not shutil.which(named):
            raise UserError(f"{VARIABLE}={named} is no program; give the path of Chromium or unset it")
        return shutil.which(named)
    return next((path for path in map(shutil.which, NAMES) if path), None)


_OPEN: dict[Path | None, Chromium] = {}
"""The browser of this process, by its folder: one at most."""


def chromium(folder: Path | None) -> Chromium:
    """The browser of this process for a folder (None: for the network), opened when first asked for."""
    if folder not in _OPEN:
        close()
        _OPEN[folder] = Chromium(folder=folder)
        atexit.register(close)
    return _OPEN[folder]


def close() -> None:
    """End the browser of this process, if there is one."""
    while _OPEN:
        _OPEN.popitem()[1].close()


def _root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _why_not(found: str | None, error: str) -> str:
    if found is None:
        return (
            f"no Chromium on the PATH ({', '.join(NAMES)}); install one, set {VARIABLE}=PATH, or run: "
            "playwright install chromium"
        )
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    sandbox = next((line for line in lines if "sandbox" in line.lower() and "FATAL" in line), None)
    if sandbox:
        return f"{found} cannot set up its sandbox here; allow user namespaces, or run as root in a container"
    return f"{found} does not start ({lines[0] if lines else 'no reason given'}); set {VARIABLE} to another Chromium"


# -------------------------------------------------------------------------------------------------------------- server


class _Files(SimpleHTTPRequestHandler):
    """Files of a folder; no listings, no words."""

    protocol_version = "HTTP/1.1"

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up in the middle is no news."""


def _serve(folder: Path) -> ThreadingHTTPServer:
    server = _Server(("127.0.0.1", 0), functools.partial(_Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, name="pages", daemon=True).start()
    return server
