"""What commands print and write: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def say(text: str) -> None:
    """A line (or document) of result."""
    sys.stdout.write(text + "\n")


def note(text: str, end: str = "\n") -> None:
    """A line that is no result."""
    sys.stderr.write(text + end)
    sys.stderr.flush()


def save(picture: Any, path: Path) -> None:
    """Write a picture; UserError when that cannot be, and nothing is left."""
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error}") from None
