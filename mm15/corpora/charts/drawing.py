"""From a table and a look to a picture and the exact box of everything in it.

    Figure (no pyplot, no state) --Agg--> pixels;  the same renderer --window extents, y turned--> boxes

matplotlib's defaults are used, whatever the user's matplotlibrc says. Formulas are not read: a dollar sign is a dollar
sign. A chart in which texts overlap, stand outside, or do not fit their slice or cell is refused (`CrowdedError`); the
caller tries a calmer look. About 0.1-0.2 s a chart.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import combinations
from typing import Any

from PIL import Image as PILImage

from ...regions import Box
from .looks import Colour, Look, Trouble, ink_on
from .tables import Table, written

DPI = 100


class Kind(StrEnum):
    """Kinds of charts."""

    BAR = "bar"
    LINE = "line"
    SCATTER = "scatter"
    PIE = "pie"
    STACKED = "stacked"
    HISTOGRAM = "histogram"
    TABLE = "table"


class CrowdedError(Exception):
    """The texts of a chart do not fit; `trouble` is what would have to change."""

    def __init__(self, why: str, trouble: Trouble = "room") -> None:
        super().__init__(why)
        self.trouble: Trouble = trouble


@dataclass(frozen=True)
class Mark:
    """Something in the picture: its role (bar, point, slice, cell, title, axis, legend, label), what it says or stands
    for, its box in pixels, and its series and label by number (None: of no one in particular)."""

    role: str
    name: str
    box: Box
    series: int | None = None
    label: int | None = None


@dataclass(frozen=True)
class Drawn:
    """A chart as a picture: PNG, (width, height), what is in it, whether values can be read off it, and the colours'
    names by series (or by label, where each label has its own); "" where a colour has none."""

    picture: bytes
    size: tuple[int, int]
    marks: tuple[Mark, ...]
    readable: bool
    colours: tuple[str, ...]
    legend: bool


@dataclass
class Sketch:
    """A chart being drawn: its figure and axes, and what was put there, to be measured when all is in place."""

    table: Table
    look: Look
    figure: Any
    axes: Any
    found: list[tuple[str, str, Any, int | None, int | None]] = field(default_factory=list)
    """(role, name, artist, series, label)."""
    points: list[tuple[str, tuple[float, float], float, int, int]] = field(default_factory=list)
    """(name, place in data, radius in points, series, label)."""
    values: list[Any] = field(default_factory=list)
    """Texts of values that stand beside their marks."""
    inside: list[tuple[Any, Any]] = field(default_factory=list)
    """(text, patch): texts that have to fit a patch."""
    legend: Any = None
    readable: bool = False

    def note(self, role: str, name: str, artist: Any, series: int | None = None, label: int | None = None) -> None:
        """Remember an artist."""
        self.found.append((role, name, artist, series, label))

    def paint(self, number: int) -> str:
        """The colour of a series or label."""
        return hexed(self.look.palette.colours[number % len(self.look.palette.colours)])


def hexed(colour: Colour) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def draw_chart(table: Table, kind: Kind, look: Look) -> Drawn:
    """The chart; raises CrowdedError when its texts do not fit."""
    import matplotlib

    from . import shapes

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"axes.unicode_minus": False, "text.parse_math": False, "text.color": hexed(look.ink)}
        )
        sketch = _figure(table, look)
        shapes.DRAW[kind](sketch)
        return _finish(sketch)


def _figure(table: Table, look: Look) -> Sketch:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (look.width / DPI, look.height / DPI)
    figure = Figure(figsize=size, dpi=DPI, facecolor=hexed(look.paper), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=hexed(look.panel))
    sketch = Sketch(table, look, figure, axes)
    title = axes.set_title(table.title, fontproperties=font(look, 1.25), color=hexed(look.ink))
    sketch.note("title", table.title, title)
    for side, spine in axes.spines.items():
        spine.set_color(hexed(look.ink))
        spine.set_visible(look.frame or side in ("left", "bottom"))
    axes.set_axisbelow(True)
    return sketch


def font(look: Look, by: float = 1.0) -> Any:
    """The look's font, `by` times as large."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(fname=look.face.path, size=look.text * by)  # type: ignore[arg-type]


def axis_ticks(sketch: Sketch, values: Sequence[Decimal], *, along: str, zero: bool) -> None:
    """Round numbers on an axis ("x" or "y"), grid lines at them; readable when every value lies on one."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, Decimal(0)), max(high, Decimal(0))
    step = sketch.table.step if sketch.table.step is not None and (high - low) / sketch.table.step <= 12 else None
    ticks = ticks_of(low, high, step)
    axes, look = sketch.axes, sketch.look
    set_ticks = axes.set_xticks if along == "x" else axes.set_yticks
    set_ticks([float(t) for t in ticks], [written(t) for t in ticks], fontproperties=font(look), color=hexed(look.ink))
    room = (ticks[1] - ticks[0]) * Decimal("0.35")
    start = ticks[0] if zero and ticks[0] == 0 else ticks[0] - room
    (axes.set_xlim if along == "x" else axes.set_ylim)(float(start), float(ticks[-1] + room))
    on_lines = step is not None and all(value in ticks for value in values)
    if look.grid or on_lines:
        axes.grid(True, axis=along, color=hexed(look.ink), alpha=0.25, linewidth=0.7)
    sketch.readable = sketch.readable or on_lines
    axes.tick_params(axis=along, color=hexed(look.ink))


def ticks_of(low: Decimal, high: Decimal, step: Decimal | None) -> list[Decimal]:
    """Multiples of a round step (or the one given) from at most `low` to at least `high`: four to thirteen of them."""
    if step is None:
        span = high - low if high > low else abs(high) or Decimal(1)
        unit = Decimal(1).scaleb((span / 6).adjusted())
        step = next(m * unit for m in (Decimal(1), Decimal(2), Decimal(5), Decimal(10)) if span / (m * unit) <= 8)
    first, last = (
        int((low / step).to_integral_value("ROUND_FLOOR")),
        int((high / step).to_integral_value("ROUND_CEILING")),
    )
    last = max(last, first + 1)
    return [plain(step * i) for i in range(first, last + 1)]


def plain(value: Decimal) -> Decimal:
    """Without zeros at the end and without an exponent."""
    value = value.normalize()
    return value.quantize(Decimal(1)) if value == value.to_integral_value() else value


def axis_names(sketch: Sketch, x: str, y: str) -> None:
    """The names of both axes."""
    for name, put in ((x, sketch.axes.set_xlabel), (y, sketch.axes.set_ylabel)):
        sketch.note("axis", name, put(name, fontproperties=font(sketch.look), color=hexed(sketch.look.ink)))


def add_legend(sketch: Sketch, handles: Sequence[Any], names: Sequence[str]) -> None:
    """The names of the colours, outside the axes."""
    look = sketch.look
    where = {"right": "outside right upper", "below": "outside lower center", "above": "outside upper center"}
    columns = 1 if look.legend == "right" else len(names)
    legend = sketch.figure.legend(
        handles,
        names,
        loc=where[look.legend],
        ncols=columns,
        prop=font(look),
        labelcolor=hexed(look.ink),
        facecolor=hexed(look.panel),
        edgecolor=hexed(look.ink),
        framealpha=1.0,
        frameon=look.frame,
    )
    sketch.legend = legend


def _finish(sketch: Sketch) -> Drawn:
    """Draw, then measure."""
    import numpy as np

    canvas = sketch.figure.canvas
    canvas.draw()
    renderer = canvas.get_renderer()
    look = sketch.look
    marks = []
    for role, name, artist, series, label in sketch.found:
        marks.append(Mark(role, name, _box(artist.get_window_extent(renderer), look), series, label))
    for name, place, radius, series, label in sketch.points:
        x, y = sketch.axes.transData.transform(place)
        reach = radius * DPI / 72
        box = Box(x - reach, look.height - y - reach, x + reach, look.height - y + reach)
        marks.append(Mark("point", name, box, series, label))
    if sketch.legend is not None:
        for number, (handle, text) in enumerate(
            zip(sketch.legend.legend_handles, sketch.legend.get_texts(), strict=True)
        ):
            both = [_box(artist.get_window_extent(renderer), look) for artist in (handle, text)]
            marks.append(Mark("legend", text.get_text(), around(both), number))
    _check(sketch, marks, renderer)
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    buffer = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    size = (pixels.shape[1], pixels.shape[0])
    rounded = [Mark(m.role, m.name, _rounded(m.box), m.series, m.label) for m in marks]
    return Drawn(
        buffer.getvalue(), size, tuple(rounded), sketch.readable, look.palette.names, sketch.legend is not None
    )


def _box(extent: Any, look: Look) -> Box:
    """matplotlib's extent (y up) as a box (y down)."""
    return Box(extent.x0, look.height - extent.y1, extent.x1, look.height - extent.y0)


def around(boxes: Sequence[Box]) -> Box:
    """The box round boxes."""
    return Box(min(b.x1 for b in boxes), min(b.y1 for b in boxes), max(b.x2 for b in boxes), max(b.y2 for b in boxes))


def _rounded(box: Box) -> Box:
    return Box(*(round(float(v), 1) for v in box))


def _check(sketch: Sketch, marks: Sequence[Mark], renderer: Any) -> None:
    """CrowdedError when a text stands on another or on a mark, or leaves the picture or its place."""
    from matplotlib.text import Text

    look = sketch.look
    texts = [
        (artist, _box(artist.get_window_extent(renderer), look))
        for artist in sketch.figure.findobj(Text)
        if artist.get_visible() and artist.get_text().strip()
    ]
    values = {id(text) for text in sketch.values}
    _check_texts(sketch, texts, values)
    _check_values(sketch, [(text, box) for text, box in texts if id(text) in values], marks)
    for text, patch in sketch.inside:
        a, b = (_box(artist.get_window_extent(renderer), look) for artist in (text, patch))
        if a.x1 < b.x1 or a.x2 > b.x2 or a.y1 < b.y1 or a.y2 > b.y2:
            raise CrowdedError(f"{text.get_text()!r} does not fit its place", "values")
    panel = _box(sketch.axes.get_window_extent(renderer), look)
    if panel.x2 - panel.x1 < 0.35 * look.width or panel.y2 - panel.y1 < 0.3 * look.height:
        raise CrowdedError("the texts leave too little room for the chart")
    if sketch.legend is not None:
        frame = _box(sketch.legend.get_window_extent(renderer), look)
        if not _within(frame, look):
            raise CrowdedError("the legend leaves the picture")
        own = {id(text) for text in sketch.legend.get_texts()}
        for text, box in texts:
            if id(text) not in own and _overlap(box, frame):
                raise CrowdedError(f"{text.get_text()!r} overlaps the legend")


def _check_texts(sketch: Sketch, texts: Sequence[tuple[Any, Box]], values: set[int]) -> None:
    """Texts among each other and in the picture."""
    ticks = {id(text) for axis in (sketch.axes.xaxis, sketch.axes.yaxis) for text in axis.get_ticklabels()}
    for text, box in texts:
        if not _within(box, sketch.look):
            raise CrowdedError(f"{text.get_text()!r} leaves the picture", "values" if id(text) in values else "room")
    for (one, a), (other, b) in combinations(texts, 2):
        if _overlap(a, b):
            both = {id(one), id(other)}
            trouble: Trouble = "values" if both & values else "labels" if both <= ticks else "room"
            raise CrowdedError(f"{one.get_text()!r} and {other.get_text()!r} overlap", trouble)


def _check_values(sketch: Sketch, values: Sequence[tuple[Any, Box]], marks: Sequence[Mark]) -> None:
    """Printed values against bars, points and lines."""
    from matplotlib.transforms import Bbox

    shapes = [mark.box for mark in marks if mark.role in ("bar", "point")]
    lines = [line.get_path().transformed(line.get_transform()) for line in sketch.axes.get_lines()]
    for text, box in values:
        extent = Bbox([[box.x1, sketch.look.height - box.y2], [box.x2, sketch.look.height - box.y1]])
        crossed = any(line.intersects_bbox(extent, filled=False) for line in lines)
        if crossed or any(_overlap(box, shape) for shape in shapes):
            raise CrowdedError(f"the value {text.get_text()} stands on a mark or a line", "values")


def _within(box: Box, look: Look) -> bool:
    """In the picture, but for half a pixel."""
    return box.x1 >= -0.5 and box.y1 >= -0.5 and box.x2 <= look.width + 0.5 and box.y2 <= look.height + 0.5


def _overlap(a: Box, b: Box) -> bool:
    """By more than half a pixel both ways."""
    return min(a.x2, b.x2) - max(a.x1, b.x1) > 0.5 and min(a.y2, b.y2) - max(a.y1, b.y1) > 0.5


def ink_for(colour: Colour) -> str:
    """Black or white on a colour."""
    return hexed(ink_on(colour))
