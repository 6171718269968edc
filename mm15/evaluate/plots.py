"""Curves for the report, as SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import numpy as np

_INK, _BLUE, _ORANGE = "#010203", "#010204", "#010205"
"""Stand-ins that become the page's text colour, its blue and its orange."""


def loss_curve(steps: Sequence[int], losses: Sequence[float], *, name: str) -> str:
    """Loss over steps: every step thin, a running mean over about a fiftieth of the steps thick.

    `name` keeps the drawing's inner ids apart from those of other drawings on the page. Steps whose loss is not finite
    leave a gap.
    """
    return curves(steps, {"": losses}, name=name, title=f"Loss of stage {name}")


def curves(
    steps: Sequence[int], lines: Mapping[str, Sequence[float]], *, name: str, title: str, level: float | None = None
) -> str:
    """Up to two series over steps as `loss_curve` draws one, the second orange, each named at its end.

    A dashed line stands at `level`. `title` is for those who cannot see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        figure = Figure(figsize=(4.4, 2.7), layout="constrained")
        axes = figure.add_subplot()
        top = 0.0
        for (label, series), color in zip(lines.items(), (_BLUE, _ORANGE), strict=False):
            values = np.where(np.isfinite(series), series, np.nan).astype(float)
            smooth = running_mean(values, len(values) // 50)
            axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.3)
            axes.plot(steps, smooth, color=color, linewidth=2)
            axes.annotate(label, (steps[-1], smooth[-1]), xytext=(4, 0), textcoords="offset points", color=color)
            if np.isfinite(values).any():
                top = max(top, float(np.nanpercentile(values, 99.5)))
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.5)
        if top > 0:
            axes.set_ylim(0, 1.05 * top)
        axes.set_xlabel("step", color=_INK)
        axes.tick_params(colors=_INK)
        axes.grid(color=_INK, alpha=0.12)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_INK)
        out = io.StringIO()
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    return _themed(out.getvalue(), title)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite values within `window` // 2 places of each place; at the ends, of those there are."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    first, after = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    count = counts[after] - counts[first]
    return np.where(count > 0, (sums[after] - sums[first]) / np.maximum(count, 1), np.nan)


def _themed(svg: str, title: str) -> str:
    """The drawing alone: no size (the page gives it), the page's fonts and colours."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r"<g id=\"patch_[12]\">\s*<path[^>]*style=\"fill: #ffffff[^>]*/>\s*</g>", "", rest)
    rest = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", rest)
    rest = rest.replace(_INK, "currentColor").replace(_BLUE, "var(--blue)").replace(_ORANGE, "var(--orange)")
    return f'{head} role="img" aria-label="{title}">{rest}'
