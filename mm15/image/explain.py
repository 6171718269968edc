"""What becomes of a picture of a given size, in plain data for programs and in a few lines for people.

Nothing is opened and nothing is resized: the size is enough.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .anyres import Layout, Rule, Tiling, check_size, plan


def explain(width: int, height: int, tiling: Tiling, *, images: int = 1) -> dict[str, Any]:
    """How a picture of this size is cut in a sample of `images` pictures; ready for JSON.

    tiles      number of images the encoder sees, overview included
    scale      canvas pixels per picture pixel; `downscaled` when below 1; `kept` is the share of pixels that survives
    padding    share of the canvas that is not picture
    order      the pieces as the model reads them: kind, row and col from 0, `content` = the part of the piece that is
               picture and `source` = the part of the picture it shows, both as [x1, y1, x2, y2]
    other_rules   what the rules that were not chosen would do with the same range

    Raises UserError for sizes that are refused.
    """
    check_size(width, height, f"{width}x{height}")
    layout = plan(width, height, tiling, images=images)
    others = (rule for rule in Rule if rule is not layout.rule)
    return {
        "width": width,
        "height": height,
        "tile": layout.tile,
        "rule": str(layout.rule),
        "min_tiles": tiling.min_tiles,
        "max_tiles": tiling.max_tiles,
        **_numbers(layout),
        "downscaled": layout.downscaled,
        "kept": round(min(1.0, layout.scale) ** 2, 6),
        "resized": list(layout.resized),
        "canvas": list(layout.canvas),
        "overview": None if layout.overview_piece is None else str(layout.overview),
        "indicators": str(layout.indicators),
        "order": [_piece(layout, number) for number in range(layout.n_tiles)],
        "other_rules": {str(rule): _numbers(plan(width, height, replace(tiling, rule=rule))) for rule in others},
    }


def describe(explanation: dict[str, Any]) -> str:
    """The three lines a person wants of `explain`: what happens, at what loss, and what the other rules would do."""
    e = explanation
    overview = f" + overview {e['overview']} them" if e["overview"] else ", no overview"
    images = "1 image" if e["tiles"] == 1 else f"{e['tiles']} images"
    kept = f", {e['kept']:.0%} of its pixels kept" if e["downscaled"] else ""
    way = "down" if e["downscaled"] else "up"
    scaled = f"scaled {way} to {e['resized'][0]}x{e['resized'][1]} (x {e['scale']:.3g}{kept})"
    if e["resized"] == [e["width"], e["height"]]:
        scaled = "not scaled"
    others = (f"{rule} {other['rows']}x{other['cols']} ({other['tiles']})" for rule, other in e["other_rules"].items())
    tiles = "1 tile" if e["rows"] * e["cols"] == 1 else f"{e['rows']}x{e['cols']} tiles"
    lines = (
        f"{e['width']}x{e['height']} pixels -> {tiles} of {e['tile']}{overview} = {images} (rule {e['rule']})",
        f"{scaled}; {e['padding']:.0%} of the canvas of {e['canvas'][0]}x{e['canvas'][1]} is padding",
        f"other rules, rows x columns (images): {', '.join(others)}",
    )
    return "\n".join(lines)


def _numbers(layout: Layout) -> dict[str, Any]:
    return {
        "rows": layout.grid.rows,
        "cols": layout.grid.cols,
        "tiles": layout.n_tiles,
        "scale": round(layout.scale, 6),
        "padding": round(layout.padding, 6),
    }


def _piece(layout: Layout, number: int) -> dict[str, Any]:
    piece = layout.pieces[number]
    content = [int(side) for side in layout.content_box(number)]
    source = [round(side, 3) for side in layout.source_box(number)]
    return {"kind": piece.kind, "row": piece.row, "col": piece.col, "content": content, "source": source}
