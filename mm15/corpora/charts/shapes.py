"""The kinds of charts, each a function that puts its marks into a sketch and notes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from .drawing import Kind, Sketch, add_legend, axis_names, axis_ticks, font, hexed, ink_for, plain
from .tables import written


def draw_bars(sketch: Sketch) -> None:
    """Bars side by side, upright or lying; one colour a series, or one a label where there is one series."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    number, by_label = len(table.series), _by_label(sketch)
    thick = 0.8 / number
    bars: list[Any] = []
    for s, series in enumerate(table.series):
        places = [i - 0.4 + (s + 0.5) * thick for i in range(len(table.labels))]
        colours = [sketch.paint(i if by_label else s) for i in range(len(table.labels))]
        sizes = [float(v) for v in series.values]
        draw = axes.barh if look.lying else axes.bar
        drawn = draw(places, sizes, thick * 0.94, color=colours, **_edge(sketch))
        bars.append(drawn)
        for i, bar in enumerate(drawn):
            if series.values[i]:
                sketch.note("bar", table.labels[i], bar, s, i)
            if look.printed:
                _print_value(sketch, places[i], series.values[i])
    _label_axis(sketch)
    axis_ticks(sketch, table.values, along="x" if look.lying else "y", zero=True)
    sketch.readable = sketch.readable or look.printed
    if number > 1:
        add_legend(sketch, bars, [one.name for one in table.series])


def draw_stack(sketch: Sketch) -> None:
    """Bars of parts on top of each other; printed values stand in the parts."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    base = [Decimal(0)] * len(table.labels)
    bars = []
    for s, series in enumerate(table.series):
        places, sizes = range(len(table.labels)), [float(v) for v in series.values]
        start = [float(v) for v in base]
        if look.lying:
            drawn = axes.barh(places, sizes, 0.7, left=start, color=sketch.paint(s), **_edge(sketch))
        else:
            drawn = axes.bar(places, sizes, 0.7, bottom=start, color=sketch.paint(s), **_edge(sketch))
        bars.append(drawn)
        for i, bar in enumerate(drawn):
            sketch.note("bar", table.labels[i], bar, s, i)
            if look.printed:
                middle = start[i] + sizes[i] / 2
                at = (middle, i) if look.lying else (i, middle)
                ink = ink_for(look.palette.colours[s % len(look.palette.colours)])
                text = axes.text(
                    *at, written(series.values[i]), ha="center", va="center", color=ink, fontproperties=font(look, 0.9)
                )
                sketch.inside.append((text, bar))
        base = [b + v for b, v in zip(base, series.values, strict=True)]
    _label_axis(sketch)
    axis_ticks(sketch, base, along="x" if look.lying else "y", zero=True)
    sketch.readable = look.printed  # parts above others cannot be read off an axis
    add_legend(sketch, bars, [one.name for one in table.series])


def draw_lines(sketch: Sketch) -> None:
    """Lines of marked points, one a series."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    printed = look.printed and len(table.series) == 1
    lines, radius = [], 3.5
    for s, series in enumerate(table.series):
        heights = [float(v) for v in series.values]
        (line,) = axes.plot(
            range(len(heights)),
            heights,
            color=sketch.paint(s),
            marker=look.marker,
            markersize=2 * radius,
            markeredgewidth=0,
            linewidth=2,
        )
        lines.append(line)
        for i, height in enumerate(heights):
            sketch.points.append((table.labels[i], (i, height), radius, s, i))
            if printed:
                _print_beside(sketch, series.values, i)
    _label_axis(sketch)
    axes.set_xlim(-0.5, len(table.labels) - 0.5)
    axis_ticks(
        sketch, table.values, along="y", zero=min(table.values) >= 0 and min(table.values) * 2 < max(table.values)
    )
    sketch.readable = sketch.readable or printed
    if len(table.series) > 1:
        add_legend(sketch, lines, [one.name for one in table.series])


def draw_scatter(sketch: Sketch) -> None:
    """Points by two columns of values."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    xs, ys = table.series[0].values, table.series[1].values
    radius = 3.5
    axes.plot(
        [float(v) for v in xs],
        [float(v) for v in ys],
        linestyle="none",
        color=sketch.paint(0),
        marker=look.marker,
        markersize=2 * radius,
        markeredgewidth=0,
    )
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        sketch.points.append((table.labels[i], (float(x), float(y)), radius, 0, i))
    axis_names(sketch, table.axis, table.quantity)
    axis_ticks(sketch, xs, along="x", zero=False)
    axis_ticks(sketch, ys, along="y", zero=False)
    sketch.readable = False


def draw_pie(sketch: Sketch) -> None:
    """Slices with their names beside them or in a legend; printed values stand in the slices."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    values = table.series[0].values
    beside = look.legend == "right"
    colours = [sketch.paint(i) for i in range(len(values))]
    wedges, texts = axes.pie(
        [float(v) for v in values],
        colors=colours,
        labels=table.labels if beside else None,
        startangle=90,
        counterclock=look.lying,
        textprops={"fontproperties": font(look), "color": hexed(look.ink)},
        wedgeprops={"edgecolor": hexed(look.paper), "linewidth": 1.0 if look.edge else 0.5},
    )[:2]
    for i, wedge in enumerate(wedges):
        sketch.note("slice", table.labels[i], wedge, 0, i)
        if beside:
            sketch.note("label", table.labels[i], texts[i], None, i)
        if look.printed:
            _print_slice(sketch, wedge, i)
    sketch.readable = look.printed
    if not beside:
        add_legend(sketch, wedges, table.labels)


def draw_histogram(sketch: Sketch) -> None:
    """Bars without gaps between the edges of their bins."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    edges = [Decimal(label.split(" to ")[0]) for label in table.labels] + [Decimal(table.labels[-1].split(" to ")[1])]
    left, wide = [float(e) for e in edges[:-1]], float(edges[1] - edges[0])
    counts = table.series[0].values
    bars = axes.bar(
        left,
        [float(c) for c in counts],
        wide,
        align="edge",
        color=sketch.paint(0),
        edgecolor=hexed(look.panel),
        linewidth=1,
    )
    for i, bar in enumerate(bars):
        if counts[i]:
            sketch.note("bar", table.labels[i], bar, 0, i)
        if look.printed:
            _print_value(sketch, left[i] + wide / 2, counts[i])
    axis_names(sketch, table.axis, table.quantity)
    ticks = [written(plain(edge)) for edge in edges]
    axes.set_xticks([float(e) for e in edges], ticks, **_slanted(sketch))
    axis_ticks(sketch, counts, along="y", zero=True)
    sketch.readable = sketch.readable or look.printed


def draw_table(sketch: Sketch) -> None:
    """Rows of cells: labels on the left, the names of the columns above."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    axes.set_axis_off()
    axes.set_xticks([])
    axes.set_yticks([])
    rows = [[table.axis, *(one.name for one in table.series)]]
    rows += [[label, *(written(one.values[i]) for one in table.series)] for i, label in enumerate(table.labels)]
    widths = [max(len(row[c]) for row in rows) + 3 for c in range(len(rows[0]))]
    total, high = sum(widths), 1 / len(rows)
    from matplotlib.patches import Rectangle

    for r, row in enumerate(rows):
        x = 0.0
        for c, said in enumerate(row):
            wide = widths[c] / total
            fill = look.palette.colours[0] if r == 0 else look.panel if r % 2 else look.paper
            cell = Rectangle(
                (x, 1 - (r + 1) * high),
                wide,
                high,
                facecolor=hexed(fill),
                edgecolor=hexed(look.ink),
                linewidth=0.8 if look.grid else 0.0,
                transform=axes.transAxes,
                clip_on=False,
            )
            axes.add_patch(cell)
            text = axes.text(
                x + wide / 2,
                1 - (r + 0.5) * high,
                said,
                ha="center",
                va="center",
                transform=axes.transAxes,
                fontproperties=font(look),
                color=ink_for(fill) if r == 0 else hexed(look.ink),
            )
            sketch.inside.append((text, cell))
            role = "column" if r == 0 else "label" if c == 0 else "cell"
            sketch.note(role, said, cell, c - 1 if c else None, r - 1 if r else None)
            x += wide
    sketch.readable = True


DRAW: dict[Kind, Callable[[Sketch], None]] = {
    Kind.BAR: draw_bars,
    Kind.LINE: draw_lines,
    Kind.SCATTER: draw_scatter,
    Kind.PIE: draw_pie,
    Kind.STACKED: draw_stack,
    Kind.HISTOGRAM: draw_histogram,
    Kind.TABLE: draw_table,
}


def colours_of(kind: Kind, series: int, labels: int, *, by_label: bool) -> int:
    """How many colours a chart needs."""
    if kind is Kind.PIE or (kind is Kind.BAR and series == 1 and by_label):
        return labels
    return 1 if kind in (Kind.SCATTER, Kind.HISTOGRAM, Kind.TABLE) else series


def _by_label(sketch: Sketch) -> bool:
    """Each label has its own colour: one series, and as many colours."""
    return len(sketch.table.series) == 1 and len(sketch.look.palette.colours) == len(sketch.table.labels)


def _label_axis(sketch: Sketch) -> None:
    """The labels on their axis, and the names of both axes."""
    table, look, axes = sketch.table, sketch.look, sketch.axes
    places = range(len(table.labels))
    if look.lying:
        axes.set_yticks(places, table.labels, **_tick_text(sketch))
        axes.invert_yaxis()
        axis_names(sketch, table.quantity, table.axis)
    else:
        axes.set_xticks(places, table.labels, **_slanted(sketch))
        axis_names(sketch, table.axis, table.quantity)
    axis = axes.yaxis if look.lying else axes.xaxis
    for i, text in enumerate(axis.get_ticklabels()):
        sketch.note("label", table.labels[i], text, None, i)
    axes.tick_params(axis="y" if look.lying else "x", color=hexed(look.ink))


def _tick_text(sketch: Sketch) -> dict[str, Any]:
    return {"fontproperties": font(sketch.look), "color": hexed(sketch.look.ink)}


def _slanted(sketch: Sketch) -> dict[str, Any]:
    """How the labels of the lower axis stand."""
    turned = sketch.look.turned
    slant = {"ha": "right", "rotation_mode": "anchor"} if 0 < turned < 90 else {}
    return {"rotation": turned, **slant, **_tick_text(sketch)}


def _print_value(sketch: Sketch, place: float, value: Decimal) -> None:
    """The value at the end of a bar or above a point."""
    lying, below = sketch.look.lying, value < 0
    at = (float(value), place) if lying else (place, float(value))
    aligned = (("right" if below else "left"), "center") if lying else ("center", "top" if below else "bottom")
    gap = 3
    move = (-gap if below else gap) if lying else 0, 0 if lying else (-gap if below else gap)
    text = sketch.axes.annotate(
        written(value),
        at,
        xytext=move,
        textcoords="offset points",
        ha=aligned[0],
        va=aligned[1],
        fontproperties=font(sketch.look, 0.9),
        color=hexed(sketch.look.ink),
        annotation_clip=False,
    )
    sketch.values.append(text)


def _print_beside(sketch: Sketch, values: tuple[Decimal, ...], i: int) -> None:
    """The value of a point of a line where the line does not run: above a peak, below a valley, beside a slope."""
    before, after = values[max(0, i - 1)] - values[i], values[min(len(values) - 1, i + 1)] - values[i]
    valley, left = min(before, after) >= 0 and before != after, before < 0 < after
    x = 0 if valley or max(before, after) <= 0 else -4 if left else 4
    text = sketch.axes.annotate(
        written(values[i]),
        (i, float(values[i])),
        xytext=(x, -6 if valley else 6 if not x else 2),
        textcoords="offset points",
        ha="center" if not x else "right" if left else "left",
        va="top" if valley else "bottom",
        fontproperties=font(sketch.look, 0.9),
        color=hexed(sketch.look.ink),
        annotation_clip=False,
    )
    sketch.values.append(text)


def _print_slice(sketch: Sketch, wedge: Any, number: int) -> None:
    middle = math.radians((wedge.theta1 + wedge.theta2) / 2)
    text = sketch.axes.text(
        0.68 * math.cos(middle),
        0.68 * math.sin(middle),
        written(sketch.table.series[0].values[number]),
        ha="center",
        va="center",
        fontproperties=font(sketch.look, 0.9),
        color=ink_for(sketch.look.palette.colours[number]),
    )
    sketch.inside.append((text, wedge))


def _edge(sketch: Sketch) -> dict[str, Any]:
    return {"edgecolor": hexed(sketch.look.ink), "linewidth": 0.8} if sketch.look.edge else {"linewidth": 0}
