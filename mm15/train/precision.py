"""What a run computes in: its recipe's precision, or what ``auto`` came to when the run first trained.

RUN/precision.json      {"precision": "fp32"}; only of a run whose recipe says auto

It is kept because a run that went on in another precision would be another run, and a machine asked again, or another
one, may answer otherwise. Reading it needs no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import UserError
from ..recipe import Recipe

KEPT = "precision.json"


def taken(recipe: Recipe, out: Path) -> str:
    """bf16 or fp32, as the run in folder `out` has it; UserError where auto came to nothing that can be read."""
    if recipe.precision != "auto":
        return recipe.precision
    kept = out / KEPT
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found not in ({"precision": "bf16"}, {"precision": "fp32"}):
        raise UserError(
            f'{kept}: missing or damaged; write {{"precision": "fp32"}} there, or "bf16", as the run had it'
        )
    return found["precision"]


def told(recipe: Recipe, out: Path) -> str:
    """The same for a reader: ``bf16``, or ``auto: fp32``; ``auto`` alone before the run has trained."""
    if recipe.precision != "auto" or not (out / KEPT).exists():
        return recipe.precision
    return f"auto: {taken(recipe, out)}"
