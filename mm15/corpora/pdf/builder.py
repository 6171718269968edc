"""A folder of PDFs as a builder: looks through the files once, then makes samples of 16 pages at a time.

    look_through(folder) --> files with digest and pages --> PdfBuilder --> build(...)

Files are looked at in processes of their own, as damaged ones may crash pdfium: such a file is left out with that
reason, and a page that crashes it later costs the 16 pages of its item. Two files of the same content are one. What is
held out is decided by a file's content, so no page of it is ever in the other part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import PIL

from ...errors import UserError
from ...progress import Bar
from ...regions import Box
from ..build import Made, Skip, is_heldout
from ..engines import Failed, in_order
from .document import load_page, open_pdf, pdfium, read_page
from .figures import find_figures
from .tasks import Choice, View, dice_of, interleaved_samples, page_samples

PAGES = 16
"""Pages of an item."""
SMALLEST, LONGEST = 64, 8192
"""Pixels that the longer side of a page may have."""


@dataclass(frozen=True)
class File:
    """A PDF of the folder: its path below it, a digest of its content, its pages, or why there is nothing in it."""

    name: str
    digest: str
    pages: int
    reason: str = ""


def look_through(folder: Path, *, workers: int = 2) -> tuple[File, ...]:
    """All PDFs below `folder` by name (or the one file that it is). UserError when there are none.

    Links to files are followed, links to folders are not.
    """
    pdfium()
    if not folder.exists():
        raise UserError(f"{folder}: no such folder")
    root, paths = folder, [folder]
    if folder.is_dir():
        paths = [path for path in folder.rglob("*") if path.suffix.lower() == ".pdf" and path.is_file()]
    else:
        root = folder.parent
    if not paths:
        raise UserError(f"{folder}: holds no .pdf files")
    named = sorted((path.relative_to(root).as_posix(), path) for path in paths)
    files, seen = [], set[str]()
    with Bar("files", total=len(named), unit="files") as bar:
        looks = in_order(_look, [path for _, path in named], workers=workers)
        for (name, _), look in zip(named, looks, strict=True):
            digest, pages, reason = ("", 0, look.reason) if isinstance(look, Failed) else look
            if digest and digest in seen:
                reason = "has the content of another file"
            seen.add(digest)
            files.append(File(name, digest, pages, reason))
            bar.update(len(files))
    return tuple(files)


def _look(path: Path) -> tuple[str, int, str]:
    """Digest, pages and what is wrong with a file."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return "", 0, f"cannot be read ({error.strerror})"
    try:
        return digest, len(open_pdf(path)), ""
    except UserError as error:
        return digest, 0, str(error)


@dataclass(frozen=True)
class PdfBuilder:
    """Pages of PDFs to samples; a `corpora.build.Builder`. `long_side` is that of the page's picture in pixels.

    `pages_per_file` takes that many pages that follow each other, from a place by lot, of files that have more.
    """

    folder: Path
    files: tuple[File, ...]
    choice: Choice = field(default_factory=Choice)
    long_side: int = 1344
    pages_per_file: int | None = None
    heldout: float = 0.0
    split: Literal["train", "heldout"] = "train"
    name: str = "pdf"

    def __post_init__(self) -> None:
        if not SMALLEST <= self.long_side <= LONGEST:
            raise UserError(f"a longer side of {self.long_side} pixels; use {SMALLEST} to {LONGEST}")

    def settings(self) -> dict[str, Any]:
        files = "\n".join(f"{file.name} {file.digest} {file.pages}" for file in self.files)
        return {
            **asdict(self.choice),
            "tasks": list(self.choice.tasks),
            "long_side": self.long_side,
            "pages_per_file": self.pages_per_file,
            "heldout": self.heldout,
            "split": self.split,
            "files": len(self.files),
            "files_digest": hashlib.sha256(files.encode()).hexdigest()[:16],
            "pdfium": str(pdfium().PDFIUM_INFO),
            "pillow": PIL.__version__,
        }

    def items(self) -> Sequence[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        for file in self.files:
            if is_heldout(file.digest, self.heldout) != (self.split == "heldout"):
                continue
            if file.reason:
                items.append({"file": file.name, "skip": file.reason})
                continue
            first, last = self._pages(file)
            for page in range(first, last + 1, PAGES):
                end = min(page + PAGES - 1, last)
                items.append({"file": file.name, "digest": file.digest, "pages": [page, end]})
        return items

    def _pages(self, file: File) -> tuple[int, int]:
        """The first and the last page that are taken, from 1."""
        if self.pages_per_file is None or file.pages <= self.pages_per_file:
            return 1, file.pages
        first = 1 + dice_of(self.choice.seed, file.digest).below(file.pages - self.pages_per_file + 1)
        return first, first + self.pages_per_file - 1

    def make(self, item: dict[str, Any]) -> Made:
        if "skip" in item:
            return Made([], [Skip(item["file"], item["skip"])])
        root = self.folder if self.folder.is_dir() else self.folder.parent
        document = open_pdf(root / item["file"])
        first, last = item["pages"]
        made, views = Made([]), []
        for number in range(first, last + 1):
            view = self._view(document, item, number, made.skipped)
            if view is None:
                continue
            made.samples.extend(page_samples(view, self.choice))
            if view.readable:
                views.append(view)
        if "interleaved" in self.choice.tasks and views:
            made.samples.extend(interleaved_samples(views, self.choice))
        return made

    def _view(self, document: Any, item: dict[str, Any], number: int, skipped: list[Skip]) -> View | None:
        """A page, or None and the reason in `skipped`."""
        what = f"{item['file']} page {number}"
        try:
            page = load_page(document, number - 1)
            try:
                read = read_page(page, long_side=self.long_side)
                _check(read.words, read.hidden, blank=int(read.pixels.max()) - int(read.pixels.min()) < 8)
                wanted = "interleaved" in self.choice.tasks
                figures: tuple[Box, ...] = tuple(find_figures(page, read.size)) if wanted else ()
            finally:
                page.close()
        except UserError as error:
            skipped.append(Skip(what, str(error)))
            return None
        view = View(read, item["file"], item["digest"], number, figures)
        whole = {"ocr", "read", "interleaved"} & set(self.choice.tasks)
        if whole and not view.readable:
            skipped.append(Skip(what, "not read as a whole: over 1 word in 50 is too small or has unknown letters"))
        return view


def _check(words: list[Any], hidden: int, *, blank: bool) -> None:
    """UserError why a page is of no use."""
    if not words and not hidden:
        raise UserError("an empty page" if blank else "no text layer (a picture or a scan)")
    if 4 * hidden > len(words):
        raise UserError("text that is not seen")
    if 2 * sum(word.upright for word in words) < len(words):
        raise UserError("text that runs sideways")
    if 2 * sum(word.readable for word in words) < len(words):
        raise UserError("text that is too small or has unknown letters")
