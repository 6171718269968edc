"""What every block of a recipe is made of."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Settings(BaseModel):
    """Base of every block of a recipe: unknown keys are errors and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_nulls(entries: Any) -> Any:
    if not isinstance(entries, dict):
        return entries
    return {name: value for name, value in entries.items() if value is not None}


Entry = TypeVar("Entry")
Named = Annotated[dict[str, Entry], BeforeValidator(_without_nulls)]
"""Entries by name (stages, groups, sources). One that is null is not there: so a recipe leaves out what it extends."""


def closest(word: str, known: list[str]) -> str:
    """A hint at the known name nearest to `word`, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
