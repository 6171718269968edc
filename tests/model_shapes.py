"""What a shipped recipe's model is made of, as tests/golden/shapes keeps it: every parameter and the totals by part.

After a change of a recipe: ``python tests/model_shapes.py NAME ...`` (all without names) writes the files anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from mm15 import recipe
from mm15.model import MM15ForConditionalGeneration
from mm15.model.assemble import skeleton, vocabulary
from mm15.recipe import Recipe

GOLDEN = Path(__file__).parent / "golden" / "shapes"
PARTS = ("vision", "connector", "decoder")
LAYER = re.compile(r"\.layers\.(\d+)\.")


def last_model(settings: Recipe) -> MM15ForConditionalGeneration:
    """The model of a recipe's last stage, without memory."""
    tile = settings.stage_picture(list(settings.stages)[-1]).tile
    return skeleton(settings, tile=tile, vocab_size=vocabulary(settings))


def listing(model: MM15ForConditionalGeneration) -> str:
    """One line for each parameter, those of equal layers together; then how many parameters there are, and work."""
    found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, parameter in model.named_parameters():
        layer = LAYER.search(name)
        key = (LAYER.sub(".layers.{}.", name), tuple(parameter.shape))
        found.setdefault(key, []).extend([int(layer[1])] if layer else [])
    lines = [f"{name.replace('{}', numbers(at)) if at else name} {list(shape)}" for (name, shape), at in found.items()]
    totals = [f"{part}: {count(model, part):,}" for part in PARTS]
    if active(model) != count(model):
        totals[-1] += f", {active(model, 'decoder'):,} of them active"
    return "\n".join([*lines, "", *totals, f"all: {count(model):,}, {active(model):,} of them active", ""])


def numbers(at: Iterable[int]) -> str:
    """Layer numbers at equal distances as a shell writes them: {0..23}, {1..31..2}."""
    first, *rest = at
    if not rest:
        return str(first)
    step = rest[0] - first
    assert [first, *rest] == list(range(first, rest[-1] + 1, step)), at
    return f"{{{first}..{rest[-1]}}}" if step == 1 else f"{{{first}..{rest[-1]}..{step}}}"


def count(model: MM15ForConditionalGeneration, part: str = "") -> int:
    """Parameters of a part (or all)."""
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(part))


def active(model: MM15ForConditionalGeneration, part: str = "") -> int:
    """Parameters of a part (or all) that one token meets: of the experts only the chosen ones'."""
    experts = [p for name, p in model.named_parameters() if ".experts." in name and name.startswith(part)]
    chosen = getattr(model.config.text_config, "num_experts_per_tok", 0)
    return count(model, part) - sum(p.numel() // len(p) * (len(p) - chosen) for p in experts)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for shipped in sys.argv[1:] or recipe.shipped():
        (GOLDEN / f"{shipped}.txt").write_text(listing(last_model(recipe.load(shipped))))
