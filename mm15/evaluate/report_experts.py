"""The report's page of experts: which tokens went to which, layer by layer, and how evenly over time.

A heat map has experts across and kinds of tokens down; a cell is the expert's share of that kind's assignments as a
multiple of an even share, blue above and orange below, each colour full at `FULL` times (or one `FULL`-th). It is an
SVG of a few paths, one for each shade, so that 64 experts in 12 layers stay under 200 kB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from .. import page
from .plots import curves
from .run_record import StageRecord

FULL = 4.0
"""The multiple of an even share from which a cell has its full colour."""
SHADES = 6
LAST = 0.25
"""The share of a stage's steps, from its end, that the heat maps count."""
_LABELS, _WIDTH, _ROW, _GAP = 150, 440, 19, 5
"""Units of the drawing: width of the names, of a heat map with them, height of a row, and space between categories."""


def expert_use(stages: Sequence[StageRecord]) -> list[str]:
    """For each stage that has experts.jsonl: the spread over steps, and a heat map for each sparse layer."""
    shown = [stage for stage in stages if stage.experts]
    if not shown:
        return []
    about = (
        "Across: experts; down: kinds of tokens. A cell is the expert's share of that kind's assignments, counted over "
        f"the last {page.percent(LAST)} of the steps."
    )
    lines = ["<h2>Use of experts</h2>", f'<p class="soft">{about}</p>', _legend()]
    for stage in shown:
        lines += [f"<h3>{escape(stage.name)}</h3>", *_stage(stage)]
    return lines


def _stage(stage: StageRecord) -> list[str]:
    last = stage.experts[-1]["step"]
    counted = [line for line in stage.experts if line["step"] > (1 - LAST) * last] or stage.experts[-1:]
    kinds, counts = _added(counted)
    figures = []
    for layer, counts_GE in zip(last_layers(stage), counts, strict=True):
        title = f"Use of experts in layer {layer + 1}, stage {stage.name}"
        caption = f"layer {layer + 1} · steps {counted[0]['since']:,} to {last:,}"
        figures.append(_figure(caption, heat_map(kinds, counts_GE, title=title)))
    return [_grid(_spread(stage)), _grid(figures), _dropped(counted, counts)]


def _grid(figures: Sequence[str]) -> str:
    columns = "margin-bottom:1.25rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))"
    return f'<div class="curves" style="{columns}">{"".join(figures)}</div>' if figures else ""


def last_layers(stage: StageRecord) -> list[int]:
    """Numbers of the sparse layers, from 0."""
    return list(stage.experts[-1]["layers"])


def _spread(stage: StageRecord) -> list[str]:
    """Curves of the most and the least used expert of any layer, and of what was dropped."""
    lines = [line for line in stage.metrics if "expert_most" in line]
    if not lines:
        return []
    steps = [line["step"] for line in lines]
    series = {name: [line[f"expert_{name}"] for line in lines] for name in ("most", "least")}
    drawing = curves(steps, series, name=f"{stage.name}-experts", title="Most and least used expert", level=1.0)
    figures = [_figure("most and least used expert · even: 1", drawing)]
    if "dropped" in lines[0]:
        share = {"": [100 * line["dropped"] for line in lines]}
        drawing = curves(steps, share, name=f"{stage.name}-dropped", title="Share of assignments dropped")
        figures.append(_figure("dropped for lack of capacity, %", drawing))
    return figures


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _dropped(lines: Sequence[Mapping[str, Any]], counts: np.ndarray) -> str:
    dropped = sum(sum(line["dropped"]) for line in lines)
    if not dropped:
        return ""
    share = page.percent(dropped / max(counts.sum(), 1), 1)
    return f'<p class="soft small">Of the assignments in these maps {share} were dropped.</p>'


def _added(lines: Sequence[Mapping[str, Any]]) -> tuple[list[str], np.ndarray]:
    """(kinds in order of the mixture's categories, counts [layers, kinds, experts] of all lines)."""
    kinds = sorted({kind for line in lines for kind in line["kinds"]}, key=_order(lines))
    first = np.array(lines[0]["counts"])
    counts = np.zeros((first.shape[0], len(kinds), first.shape[2]))
    for line in lines:
        counts[:, [kinds.index(kind) for kind in line["kinds"]]] += np.array(line["counts"])
    return kinds, counts


def _order(lines: Sequence[Mapping[str, Any]]) -> Any:
    """Each line has its kinds in order; categories keep the order in which they are first seen."""
    categories = list(dict.fromkeys(kind.rpartition(" ")[0] for line in lines for kind in line["kinds"]))
    forms = ("text", "tile", "overview")
    return lambda kind: (categories.index(kind.rpartition(" ")[0]), forms.index(kind.rpartition(" ")[2]))


def heat_map(kinds: Sequence[str], counts_GE: np.ndarray, *, title: str) -> str:
    """Experts across, kinds down, all kinds together first; SVG in the page's colours."""
    rows = np.concatenate([counts_GE.sum(0, keepdims=True), counts_GE])
    shares = rows * rows.shape[1] / np.maximum(rows.sum(1, keepdims=True), 1)
    experts = shares.shape[1]
    cell = (_WIDTH - _LABELS) / experts
    gap = min(1.0, cell / 8)
    tops = _tops(kinds)
    paths: dict[int, list[str]] = {}
    for top, row in zip(tops, shares, strict=True):
        for expert, share in enumerate(row):
            where = f"M{_LABELS + expert * cell:.4g} {top}h{cell - gap:.3g}v{_ROW - 1}h-{cell - gap:.3g}z"
            paths.setdefault(shade(float(share)), []).append(where)
    drawn = "".join(
        f'<path fill="var(--{"blue" if level > 0 else "orange"})" fill-opacity="{abs(level) / SHADES:.2g}" '
        f'd="{"".join(cells)}"/>'
        for level, cells in sorted(paths.items())
        if level
    )
    even = "".join(paths.get(0, []))
    height = tops[-1] + _ROW
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height + 18}" role="img" aria-label="{escape(title)}" font-size="14" '
        f'fill="currentColor">{_names(kinds, tops)}<path fill="var(--card)" d="{even}"/>{drawn}'
        f'<text x="{_LABELS}" y="{height + 14}" opacity=".65">expert 1</text>'
        f'<text x="{_WIDTH}" y="{height + 14}" text-anchor="end" opacity=".65">{experts}</text></svg>'
    )


def _tops(kinds: Sequence[str]) -> list[int]:
    """Where each row begins: all tokens first, a space before each category."""
    tops, before = [0], None
    for kind in kinds:
        category = kind.rpartition(" ")[0]
        tops.append(tops[-1] + _ROW + _GAP * (category != before))
        before = category
    return tops


def shade(share: float) -> int:
    """From -`SHADES` (a `FULL`-th of an even share, or less) over 0 (even) to `SHADES` (`FULL` times, or more)."""
    if share <= 1 / FULL:
        return -SHADES
    return max(-SHADES, min(SHADES, round(SHADES * math.log(share) / math.log(FULL))))


def _names(kinds: Sequence[str], tops: Sequence[int]) -> str:
    """Names of the rows: the category where it begins, what the token is on every row."""
    texts = [_text(0, tops[0], "all tokens")]
    before = None
    for kind, top in zip(kinds, tops[1:], strict=True):
        category, _, form = kind.rpartition(" ")
        if category != before:
            texts.append(_text(0, top, category if len(category) < 14 else f"{category[:12]}…"))
        texts.append(_text(_LABELS - 8, top, form, " text-anchor='end' opacity='.65'"))
        before = category
    return "".join(texts)


def _text(x: int, top: int, text: str, more: str = "") -> str:
    return f'<text x="{x}" y="{top + 14}"{more}>{escape(text)}</text>'


def _legend() -> str:
    """What the colours mean."""
    steps = [1 / FULL, 1 / math.sqrt(FULL), 1.0, math.sqrt(FULL), FULL]
    words = [f"1/{FULL:g} or less", "half", "an even share", "twice", f"{FULL:g} times or more"]
    items = []
    for share, word in zip(steps, words, strict=True):
        level = shade(share)
        color = "var(--blue)" if level > 0 else "var(--orange)"
        look = f"background:{color};opacity:{abs(level) / SHADES:.2g}" if level else "background:var(--line)"
        items.append(f'<span><i style="border-radius:2px;{look}"></i>{word}</span>')
    return f'<div class="legend">{"".join(items)}</div>'
