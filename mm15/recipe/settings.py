"""What every block of a recipe is made of."""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every block of a recipe: unknown keys are errors and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def closest(word: str, known: list[str]) -> str:
    """A hint at the known name nearest to `word`, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
