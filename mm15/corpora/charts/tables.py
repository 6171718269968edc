"""The data of a chart: labels, series of values, names; made up, or read from CSV files (`csvs`).

Values are `Decimal`, because what is printed in the picture and said in the answer is the same text. A histogram is a
table of its bins with the `raw` values they count; a scatter plot is a table whose first two columns are its axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from ...world.dice import Dice
from ...world.lexicon import FORM_CITIES, FORM_NAMES, WORDS

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_CITIES = tuple(city.title() for city in FORM_CITIES)
_NAMES = tuple(name.title() for name in FORM_NAMES)
_THINGS = tuple(word.capitalize() for word in WORDS if 3 <= len(word) <= 6 and word not in ("city", "name", "item"))
_QUANTITIES = (
    ("Sales", "thousand USD"),
    ("Visitors", "thousands"),
    ("Rainfall", "mm"),
    ("Temperature", "°C"),
    ("Output", "tons"),
    ("Population", "millions"),
    ("Price", "EUR"),
    ("Score", "points"),
    ("Energy use", "kWh"),
    ("Humidity", "g"),
    ("Orders", ""),
    ("Distance", "km"),
)


@dataclass(frozen=True)
class Series:
    """A column of values under a name."""

    name: str
    values: tuple[Decimal, ...]


@dataclass(frozen=True)
class Table:
    """What a chart shows. `axis` names the labels, `quantity` the values; `ordered` labels follow one another in time.

    `step`: every value is a whole multiple of it (None: of nothing in particular). `raw`: what a histogram counts.
    """

    title: str
    axis: str
    quantity: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    ordered: bool = False
    step: Decimal | None = None
    raw: tuple[Decimal, ...] = ()

    @property
    def values(self) -> list[Decimal]:
        """All of them."""
        return [value for one in self.series for value in one.values]

    def texts(self) -> str:
        """Every character that may be written."""
        names = [self.title, self.axis, self.quantity, *self.labels, *(one.name for one in self.series)]
        return "".join(names)

    def known(self) -> dict[str, Any]:
        """As JSON data, values as they are printed."""
        known: dict[str, Any] = {
            "title": self.title,
            "axis": self.axis,
            "quantity": self.quantity,
            "labels": list(self.labels),
            "series": [{"name": one.name, "values": [written(v) for v in one.values]} for one in self.series],
        }
        return {**known, "raw": [written(v) for v in self.raw]} if self.raw else known


def written(value: Decimal) -> str:
    """A value as it stands in pictures and answers: digits, never an exponent."""
    return format(value, "f")


def invent(dice: Dice, *, kind: str) -> Table:
    """A made-up table that suits a kind of chart (`drawing.Kind`)."""
    if kind == "histogram":
        return _histogram(dice)
    if kind == "scatter":
        return _scatter(dice)
    axis, labels, ordered = _labels(dice, ordered=kind == "line")
    many = {"pie": 1, "stacked": dice.between(2, 4), "table": dice.between(1, 4)}.get(kind, dice.pick((1, 1, 2, 3)))
    name, unit = dice.pick(_QUANTITIES)
    names = _series_names(dice, many, axis) if many > 1 or kind == "table" else [name]
    quantity = f"{name} ({unit})" if unit else name
    places = dice.pick((0, 0, 1))
    smallest = 0 if kind not in ("pie", "stacked") and dice.chance(0.15) else 1
    if dice.chance() and kind not in ("pie", "table"):
        step = dice.pick([Decimal(s) for s in ("1", "2", "5", "10", "20", "50", "100")])
        columns = [_walk(dice, len(labels), smallest, 9, steady=kind == "line") for _ in range(many)]
        values = [tuple(step * v for v in column) for column in columns]
    else:
        step = None
        top = dice.pick((30, 100, 100, 500, 2000))
        columns = [_walk(dice, len(labels), max(1, top // 12), top, steady=kind == "line") for _ in range(many)]
        values = [tuple(Decimal(v).scaleb(-places) for v in column) for column in columns]
    where = dice.pick(_CITIES)
    by = axis.lower()
    title = dice.pick(
        (f"{name} by {by}", f"{name} in {where}", f"{name} in {where} by {by}", f"{where}: {name.lower()}")
    )
    return Table(title, axis, quantity, labels, _named(names, values), ordered, step)


def _labels(dice: Dice, *, ordered: bool) -> tuple[str, tuple[str, ...], bool]:
    kind = dice.below(3) if ordered else dice.below(6)
    if kind == 0:
        number = dice.between(4, 12)
        start = dice.below(len(MONTHS) - number + 1)
        return "Month", MONTHS[start : start + number], True
    if kind == 1:
        first, number, by = dice.between(1960, 2015), dice.between(4, 10), dice.pick((1, 1, 2, 5))
        return "Year", tuple(str(first + i * by) for i in range(number)), True
    if kind == 2:
        return "Day", _DAYS[: dice.between(5, 7)], True
    axis, pool = dice.pick((("City", _CITIES), ("Name", _NAMES), ("Product", _THINGS), ("Item", _THINGS)))
    return axis, tuple(dice.sample(pool, dice.between(3, 8))), False


def _series_names(dice: Dice, number: int, axis: str) -> list[str]:
    pools = [pool for name, pool in (("City", _CITIES), ("Name", _NAMES), ("Product", _THINGS)) if name != axis]
    return dice.sample(dice.pick(pools), number)


def _walk(dice: Dice, number: int, low: int, high: int, *, steady: bool) -> list[int]:
    """Values from low to high; with `steady` each is near the one before."""
    values = [dice.between(low, high)]
    drift = dice.uniform(-0.25, 0.25)
    while len(values) < number:
        near = values[-1] + (dice.uniform(-0.3, 0.3) + drift) * (high - low)
        back = 2 * low - near if near < low else 2 * high - near if near > high else near
        values.append(min(high, max(low, round(back))) if steady else dice.between(low, high))
    return values


def _named(names: Sequence[str], values: Sequence[tuple[Decimal, ...]]) -> tuple[Series, ...]:
    return tuple(Series(name, column) for name, column in zip(names, values, strict=True))


def _histogram(dice: Dice) -> Table:
    """Forty to four hundred values round one or two middles, counted in five to ten bins."""
    bins, width = dice.between(5, 10), dice.pick((1, 2, 5, 10, 20))
    start = width * dice.between(0, 5)
    middles = [dice.uniform(0.2, 0.8) * bins * width for _ in range(dice.between(1, 2))]
    spread = dice.uniform(0.8, 1.8) * width
    raw = []
    for _ in range(dice.between(40, 400)):
        sway = sum(dice.uniform(-1, 1) for _ in range(3)) * spread
        value = min(max(dice.pick(middles) + sway, 0.0), bins * width - 0.01)
        raw.append(Decimal(start) + Decimal(f"{value:.2f}"))
    name, unit = dice.pick(
        (("Age", "years"), ("Height", "cm"), ("Weight", "kg"), ("Delay", "min"), ("Score", "points"))
    )
    return histogram(
        f"{name} of {dice.pick(('guests', 'members', 'parcels', 'players'))}",
        f"{name} ({unit})",
        raw,
        [start + width * i for i in range(bins + 1)],
    )


def histogram(title: str, quantity: str, raw: Sequence[Decimal], edges: Sequence[int | Decimal]) -> Table:
    """The table of counts of values in bins; a value on an edge belongs to the bin above it."""
    labels = tuple(f"{written(Decimal(low))} to {written(Decimal(high))}" for low, high in pairwise(edges))
    counts = [sum(low <= v < high for v in raw) for low, high in pairwise(edges)]
    series = (Series("Count", tuple(Decimal(count) for count in counts)),)
    return Table(title, quantity, "Count", labels, series, True, None, tuple(raw))


def _scatter(dice: Dice) -> Table:
    """One to three groups of points that rise, fall, or do neither; each point is a label of its own."""
    x_name, y_name = (f"{n} ({u})" if u else n for n, u in dice.sample(_QUANTITIES, 2))
    slope = dice.pick((1.0, -1.0, 0.0))
    xs, ys = [], []
    for _ in range(dice.between(8, 30)):
        x = dice.uniform(5, 95)
        y = min(95.0, max(5.0, 50 + slope * (x - 50) * 0.8 + dice.uniform(-1, 1) * (14 if slope else 45)))
        xs.append(Decimal(f"{x:.1f}"))
        ys.append(Decimal(f"{y:.1f}"))
    title = f"{y_name.split(' (')[0]} and {x_name.split(' (')[0].lower()}"
    labels = tuple(str(i + 1) for i in range(len(xs)))
    return Table(title, x_name, y_name, labels, (Series(x_name, tuple(xs)), Series(y_name, tuple(ys))))
