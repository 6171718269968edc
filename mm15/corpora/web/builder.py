"""Pages to screenshots and conversations about them: the builder behind ``mm15 data build web``.

    folder or list of addresses -> (page, viewport) -> Chromium -> screenshot + scan -> turns -> one sample a screen

`meta` of a sample: task "screen", page, viewport, title, elements (how many are listed), top (how far it was scrolled,
in CSS pixels), turns [{task, answer}]. Each process has one browser, opened for its first page. What a page does is cut
off after `timeout` seconds; a page that took the browser down is tried once more in a fresh one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from PIL import Image as PILImage

from ...errors import UserError
from ...sample import Image, Sample
from ...world.dice import Dice
from ..build import Made, Skip, is_heldout
from .browser import HOST, BrowserDiedError, Chromium, TooSlowError, chromium
from .capture import VIEWPORTS, Shot, UnusableError, capture
from .screen import read_screen
from .tasks import TASKS, converse, parts

ENDINGS = (".html", ".htm", ".xhtml")
"""Files of a folder that are pages."""


@dataclass(frozen=True)
class WebSettings:
    """What to make.

    pages: a folder, searched through and through, or a text file with one address a line (`#` starts a comment).
    viewports: names of `VIEWPORTS`. turns: most questions about one screen. screens: most screens of a page, from its
    top down. timeout: seconds for a page at one viewport.
    """

    pages: Path
    viewports: tuple[str, ...] = tuple(VIEWPORTS)
    tasks: tuple[str, ...] = tuple(TASKS)
    turns: int = 8
    screens: int = 1
    timeout: float = 30.0
    seed: int = 0
    split: Literal["train", "heldout"] = "train"
    heldout: float = 0.0
    """Share of the pages that only the held-out part has."""

    def __post_init__(self) -> None:
        for name, low, high in (("turns", 1, 50), ("screens", 1, 100), ("timeout", 1, 3600)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}; give a value from {low} to {high}")
        for option, known in (("viewports", VIEWPORTS), ("tasks", TASKS)):
            for name in getattr(self, option) or ("",):
                if name not in known:
                    raise UserError(f"{option}: there is no {name!r}; there are {', '.join(known)}")


class WebBuilder:
    """A `corpora.build.Builder`: one item is one page at one viewport."""

    name = "web"

    def __init__(self, settings: WebSettings) -> None:
        self.options = settings
        self.folder = settings.pages.resolve() if settings.pages.is_dir() else None
        keys = _files(self.folder) if self.folder else _addresses(settings.pages)
        heldout = settings.split == "heldout"
        ours = {page: key for page, key in keys.items() if is_heldout(key, settings.heldout) == heldout}
        self.pages = list(ours)
        self.digest = hashlib.sha256(repr(ours).encode()).hexdigest()[:16]

    def settings(self) -> dict[str, Any]:
        """Options and the version of the browser, whose pictures these are. UserError when there is none."""
        options = self.options
        return {
            "pages": "files" if self.folder else "addresses",
            "pages_digest": self.digest,
            "viewports": {name: asdict(VIEWPORTS[name]) for name in options.viewports},
            "tasks": list(options.tasks),
            "turns": options.turns,
            "screens": options.screens,
            "timeout": options.timeout,
            "seed": options.seed,
            "split": options.split,
            "heldout": options.heldout,
            "chromium": self.version,
        }

    @cached_property
    def version(self) -> str:
        """That of the browser on this machine."""
        browser = Chromium(folder=self.folder)
        try:
            return browser.version()
        finally:
            browser.close()

    def items(self) -> list[list[str]]:
        """[page, viewport] for each; pages in the order of their names, or of the list of addresses."""
        return [[page, viewport] for page in self.pages for viewport in self.options.viewports]

    def make(self, item: Sequence[str]) -> Made:
        """A sample for each screen of a page."""
        page, viewport = item
        what = f"{page}@{viewport}"
        try:
            shots = self._shots(page, viewport)
        except UnusableError as reason:
            return Made([], [Skip(what, str(reason))])
        samples, skipped = [], []
        for number, shot in enumerate(shots):
            sample = self._sample(page, viewport, number, shot)
            if sample is None:
                skipped.append(Skip(f"{what}#{number}", "there is nothing on it to ask about"))
            else:
                samples.append(sample)
        return Made(samples, skipped)

    def _shots(self, page: str, viewport: str) -> list[Shot]:
        options = self.options
        address = f"http://{HOST}/{quote(page)}" if self.folder else page
        job = partial(
            capture,
            address=address,
            viewport=VIEWPORTS[viewport],
            screens=options.screens,
            fixed=self.folder is not None,
        )
        for _ in range(2):
            try:
                return chromium(self.folder).run(job, timeout=options.timeout)
            except TooSlowError:
                raise UnusableError(f"it took longer than {options.timeout:g} s") from None
            except BrowserDiedError:
                continue
        raise UnusableError("the browser died on it, twice")

    def _sample(self, page: str, viewport: str, number: int, shot: Shot) -> Sample | None:
        options = self.options
        name = f"{page}@{viewport}" + (f"#{number}" if number else "")
        screen = read_screen(shot.scan, PILImage.open(io.BytesIO(shot.png)))
        turns = converse(screen, _dice(options.seed, name), tasks=options.tasks, turns=options.turns)
        if not turns:
            return None
        meta = {
            "task": "screen",
            "page": page,
            "viewport": viewport,
            "title": shot.scan["title"],
            "elements": sum(element.listed for element in screen.elements),
            "top": round(shot.scan["top"]),
            "turns": [turn.record() for turn in turns],
        }
        return Sample(name, self.name, parts(turns, Image(shot.png)), meta)


def _files(folder: Path) -> dict[str, str]:
    """The pages of a folder by their paths in it, in order, and the digest of each."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if not found:
        raise UserError(f"{folder}: holds no pages ({', '.join(ENDINGS)})")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _addresses(path: Path) -> dict[str, str]:
    """The addresses of a list, each once, and themselves. UserError names the line of what is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file; give a folder of pages or a list of addresses") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a folder of pages or a list of addresses"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        address = line.split(" #")[0].strip()
        if not address or address.startswith("#"):
            continue
        parsed = urlsplit(address)
        if parsed.scheme not in ("http", "https") or not parsed.netloc:
            raise UserError(f"{path} line {number}: {address!r:.80} is no address; write https://...")
        found[address] = address
    if not found:
        raise UserError(f"{path}: holds no addresses; write one a line")
    return found


def _dice(seed: int, name: str) -> Dice:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return Dice([int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)])
