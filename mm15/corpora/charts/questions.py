"""Questions about a chart whose answers follow from its data and can be told from its picture.

A value is asked for only where it can be read: printed, in a cell, or on a grid line. Where it cannot, two values are
compared only when they are visibly apart (2 % of the axis). Ties are never asked about, nor are marks that others hide.

A turn's `facts` say what was asked and what of (task, series, labels, answer), so that the answer can be worked out
again from the table alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

from ...regions import Box, Region
from ...sample import Content
from ...world.dice import Dice
from .drawing import Drawn, Kind, Mark
from .tables import Series, Table, written

_SMALLEST = 4.0
"""Pixels of the shorter side of a mark that is asked about."""
_VISIBLE = Decimal("0.02")
"""Share of the axis by which values have to differ to be compared by eye."""


@dataclass(frozen=True)
class Turn:
    """A question, its answer, and what was asked."""

    question: tuple[Content, ...]
    answer: tuple[Content, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A chart that is asked about."""

    table: Table
    kind: Kind
    drawn: Drawn

    @property
    def by_label(self) -> bool:
        """Whether each label, not each series, has a colour of its own."""
        return self.kind is Kind.PIE or (
            self.kind is Kind.BAR and len(self.table.series) == 1 < len(self.drawn.colours)
        )

    @cached_property
    def marks(self) -> dict[tuple[int, int], Mark]:
        """The bar, point, slice or cell of (series, label), where it can be seen whole."""
        shapes = [m for m in self.drawn.marks if m.role in ("bar", "point", "slice", "cell")]
        found = {}
        for mark in shapes:
            assert mark.series is not None and mark.label is not None
            hidden = mark.role == "point" and any(_touch(mark.box, m.box) for m in shapes if m is not mark)
            if not hidden and min(mark.box.x2 - mark.box.x1, mark.box.y2 - mark.box.y1) >= _SMALLEST:
                found[mark.series, mark.label] = mark
        return found

    def far(self, one: Decimal, other: Decimal) -> bool:
        """Whether two values can be told apart by eye."""
        values = [*self.table.values, Decimal(0)]
        return one != other if self.drawn.readable else abs(one - other) >= _VISIBLE * (max(values) - min(values))

    def of(self, series: Series) -> str:
        """ " of NAME" where there are several series."""
        return f" of {series.name}" if len(self.table.series) > 1 else ""


def ask_table(chart: Asked, dice: Dice) -> Turn | None:
    """All of the data."""
    if not chart.drawn.readable:
        return None
    table = chart.table
    rows = [[table.axis, *(one.name for one in table.series)]]
    rows += [[label, *(written(one.values[i]) for one in table.series)] for i, label in enumerate(table.labels)]
    text = "\n".join(" | ".join(row) for row in rows)
    asked = dice.pick(("Give the data as a table.", "Write down the data of the picture.", "Turn this into a table."))
    return Turn((asked,), (text,), {"task": "table", "answer": text})


def ask_value(chart: Asked, dice: Dice) -> Turn | None:
    """One value by its names."""
    if not chart.drawn.readable:
        return None
    series, label = _one(chart, dice)
    answer = written(series.values[label])
    name = chart.table.labels[label]
    form = dice.pick(("What is the value{1} for {0}?", "How much is {0}{1}?", "Read the value{1} for {0}."))
    return Turn((form.format(name, chart.of(series)),), (answer,), _facts("value", chart, series, [label], answer))


def ask_extreme(chart: Asked, dice: Dice) -> Turn | None:
    """Which label has the largest or the smallest value."""
    series = dice.pick(chart.table.series)
    largest = dice.chance()
    ranked = sorted(range(len(series.values)), key=lambda i: series.values[i], reverse=largest)
    if not chart.far(series.values[ranked[0]], series.values[ranked[1]]):
        return None
    answer = chart.table.labels[ranked[0]]
    word = dice.pick(("largest", "highest")) if largest else dice.pick(("smallest", "lowest"))
    form = dice.pick(("Which {2} has the {0} value{1}?", "Where is the value{1} {0}?"))
    facts = _facts("extreme", chart, series, [], answer) | {"largest": largest}
    return Turn((form.format(word, chart.of(series), _kind_of_label(chart)),), (answer,), facts)


def ask_comparison(chart: Asked, dice: Dice) -> Turn | None:
    """Which of two labels has more, or whether the first has."""
    series = dice.pick(chart.table.series)
    a, b = dice.sample(range(len(series.values)), 2)
    if not chart.far(series.values[a], series.values[b]):
        return None
    one, other = chart.table.labels[a], chart.table.labels[b]
    if dice.chance():
        answer = one if series.values[a] > series.values[b] else other
        asked = f"Which has the larger value{chart.of(series)}, {one} or {other}?"
        return Turn((asked,), (answer,), _facts("larger", chart, series, [a, b], answer))
    answer = "Yes" if series.values[a] > series.values[b] else "No"
    asked = f"Is the value{chart.of(series)} for {one} larger than for {other}?"
    return Turn((asked,), (answer,), _facts("is-larger", chart, series, [a, b], answer))


def ask_difference(chart: Asked, dice: Dice) -> Turn | None:
    """By how much two values differ, exactly."""
    if not chart.drawn.readable:
        return None
    series = dice.pick(chart.table.series)
    a, b = dice.sample(range(len(series.values)), 2)
    answer = written(abs(series.values[a] - series.values[b]))
    one, other = chart.table.labels[a], chart.table.labels[b]
    form = dice.pick(("How large is the difference{2} between {0} and {1}?", "By how much do {0} and {1} differ{2}?"))
    facts = _facts("difference", chart, series, [a, b], answer)
    return Turn((form.format(one, other, chart.of(series)),), (answer,), facts)


def ask_trend(chart: Asked, dice: Dice) -> Turn | None:
    """Whether values rise or fall from one label to a later one; in a scatter plot, whether they do together."""
    table = chart.table
    if chart.kind is Kind.SCATTER:
        r = correlation(table.series[0].values, table.series[1].values)
        if abs(r) < 0.6 and abs(r) > 0.2:
            return None
        answer = "It rises." if r >= 0.6 else "It falls." if r <= -0.6 else "Neither."
        asked = f"As {table.axis} grows, does {table.quantity} rise, fall, or neither?"
        return Turn((asked,), (answer,), {"task": "together", "answer": answer})
    if not table.ordered or chart.kind in (Kind.HISTOGRAM, Kind.STACKED):
        return None
    series = dice.pick(table.series)
    a, b = sorted(dice.sample(range(len(series.values)), 2))
    if not chart.far(series.values[a], series.values[b]):
        return None
    answer = "It rises." if series.values[b] > series.values[a] else "It falls."
    asked = f"Does the value{chart.of(series)} rise or fall from {table.labels[a]} to {table.labels[b]}?"
    return Turn((asked,), (answer,), _facts("trend", chart, series, [a, b], answer))


def ask_count(chart: Asked, dice: Dice) -> Turn | None:
    """How many marks there are, or how many values lie above another one."""
    table, kind = chart.table, chart.kind
    if kind is not Kind.SCATTER and dice.chance():
        series = dice.pick(table.series)
        at = dice.below(len(table.labels))
        rest = [v for i, v in enumerate(series.values) if i != at]
        if all(chart.far(v, series.values[at]) for v in rest):
            answer = str(sum(v > series.values[at] for v in rest))
            asked = f"How many have a larger value{chart.of(series)} than {table.labels[at]}?"
            return Turn((asked,), (answer,), _facts("count-above", chart, series, [at], answer))
    if kind is Kind.TABLE:
        answer = str(len(table.labels))
        asked = "How many rows of data does the table have?"
    elif kind is Kind.LINE:
        answer, asked = str(len(table.series)), "How many lines are there?"
    else:
        number = len(table.labels) * (1 if kind is Kind.SCATTER else len(table.series))
        if len(chart.marks) != number:
            return None  # some are hidden, or too small to count
        names = {Kind.SCATTER: "points", Kind.PIE: "slices", Kind.STACKED: "parts of bars"}
        answer, asked = str(number), f"How many {names.get(kind, 'bars')} are there?"
    return Turn((asked,), (answer,), {"task": "count", "answer": answer})


def ask_colour(chart: Asked, dice: Dice) -> Turn | None:
    """The colour of a name, or the name of a colour."""
    table = chart.table
    named = table.labels if chart.by_label else tuple(one.name for one in table.series)
    told = chart.drawn.legend or chart.by_label
    if not told or chart.kind is Kind.TABLE or not all(chart.drawn.colours) or len(chart.drawn.colours) != len(named):
        return None
    at = dice.below(len(named))
    name, colour = named[at], chart.drawn.colours[at]
    facts = {"task": "colour", "name": name, "colour": colour}
    if dice.chance():
        return Turn((f"Which color is {name}?",), (colour,), {**facts, "answer": colour})
    return Turn((f"What is shown in {colour}?",), (name,), {**facts, "answer": name})


def ask_name(chart: Asked, dice: Dice) -> Turn | None:
    """The title, or what an axis shows."""
    axes = [mark.name for mark in chart.drawn.marks if mark.role == "axis"]
    if axes and dice.chance(0.6):
        which = dice.below(2)
        asked = f"What does the {('horizontal', 'vertical')[which]} axis show?"
        return Turn((asked,), (axes[which],), {"task": "axis", "vertical": bool(which), "answer": axes[which]})
    asked = dice.pick(("What is the title?", "Read the title."))
    return Turn((asked,), (chart.table.title,), {"task": "title", "answer": chart.table.title})


def ask_place(chart: Asked, dice: Dice) -> Turn | None:
    """Where something is: a mark, the title, the name of an axis, an entry of the legend."""
    options: list[tuple[str, Mark]] = []
    for (s, _), mark in chart.marks.items():
        if chart.kind in (Kind.SCATTER,):
            continue  # its points have no names
        of = chart.of(chart.table.series[s])
        options.append((f"the {mark.role}{of} for {mark.name}", mark))
    options = dice.shuffle(options)[:3]  # so that the rest has its share
    says = {"title": "the title", "axis": 'the axis name "{}"', "legend": "{} in the legend"}
    for mark in chart.drawn.marks:
        if mark.role in says:
            options.append((says[mark.role].format(mark.name), mark))
    what, mark = dice.pick(options)
    form = dice.pick(("Where is {}?", "Find {}.", "Show me {}."))
    region = Region(mark.box, 0, mark.name)
    return Turn(
        (form.format(what),),
        (region,),
        {"task": "place", "role": mark.role, "name": mark.name, "series": mark.series, "label": mark.label},
    )


def ask_at(chart: Asked, dice: Dice) -> Turn | None:
    """What is at a place: the name or the value of a mark."""
    if chart.kind is Kind.SCATTER or not chart.marks:
        return None
    s, i = dice.pick(list(chart.marks))
    series, region = chart.table.series[s], Region(chart.marks[s, i].box)
    if chart.drawn.readable and dice.chance(0.6):
        answer = written(series.values[i])
        question = ("What is the value at ", region, "?")
        return Turn(question, (answer,), _facts("value-at", chart, series, [i], answer))
    answer = chart.table.labels[i] + (f", {series.name}" if len(chart.table.series) > 1 else "")
    question = ("Which " + chart.marks[s, i].role + " is at ", region, "?")
    return Turn(question, (answer,), _facts("name-at", chart, series, [i], answer))


TASKS: dict[str, Callable[[Asked, Dice], Turn | None]] = {
    "table": ask_table,
    "value": ask_value,
    "extreme": ask_extreme,
    "comparison": ask_comparison,
    "difference": ask_difference,
    "trend": ask_trend,
    "count": ask_count,
    "colour": ask_colour,
    "name": ask_name,
    "place": ask_place,
    "at": ask_at,
}
"""Kinds of questions; each function returns None where the chart has nothing to ask of that kind."""
_NOT_OF_POINTS = ("table", "value", "extreme", "comparison", "difference")


def ask_about(chart: Asked, dice: Dice, *, tasks: Sequence[str], turns: int) -> list[Turn]:
    """Up to `turns` questions of different kinds; none where nothing can be asked."""
    asked: list[Turn] = []
    for task in dice.shuffle(tasks):
        if chart.kind is Kind.SCATTER and task in _NOT_OF_POINTS:
            continue
        turn = TASKS[task](chart, dice)
        if turn is not None:
            asked.append(turn)
        if len(asked) == turns:
            break
    return asked


def correlation(xs: Sequence[Decimal], ys: Sequence[Decimal]) -> float:
    """Pearson's r; 0 where one side does not vary."""
    mx, my = (sum(values, Decimal(0)) / len(values) for values in (xs, ys))
    dx, dy = [float(x - mx) for x in xs], [float(y - my) for y in ys]
    below = (sum(d * d for d in dx) * sum(d * d for d in dy)) ** 0.5
    return sum(a * b for a, b in zip(dx, dy, strict=True)) / below if below else 0.0


def _facts(task: str, chart: Asked, series: Series, labels: Sequence[int], answer: str) -> dict[str, Any]:
    names = [chart.table.labels[i] for i in labels]
    return {"task": task, "series": chart.table.series.index(series), "labels": names, "answer": answer}


def _one(chart: Asked, dice: Dice) -> tuple[Series, int]:
    return dice.pick(chart.table.series), dice.below(len(chart.table.labels))


def _kind_of_label(chart: Asked) -> str:
    return (
        "range" if chart.kind is Kind.HISTOGRAM else chart.table.axis.lower() if chart.table.axis.isalpha() else "entry"
    )


def _touch(a: Box, b: Box) -> bool:
    return min(a.x2, b.x2) > max(a.x1, b.x1) and min(a.y2, b.y2) > max(a.y1, b.y1)
