"""Charts: answers worked out again from the data, boxes found again in the pixels."""

from __future__ import annotations

import ast
import io
import json
import pickle
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageFont

import mm15.corpora.charts as room
from mm15.corpora.build import build
from mm15.corpora.charts import TASKS, ChartBuilder, ChartSettings, Kind
from mm15.corpora.charts.drawing import CrowdedError, Drawn, Mark, draw_chart, ticks_of
from mm15.corpora.charts.looks import Look, Palette, choose_palette
from mm15.corpora.charts.questions import Asked
from mm15.corpora.charts.tables import Series, Table, invent
from mm15.corpora.fonts import find_fonts
from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Sample
from mm15.world.dice import Dice, entropy

FACE = next(face for face in find_fonts(system=False).faces if face.name == "DejaVuSans.ttf")
RED, GREEN, BLUE = (220, 30, 30), (30, 150, 40), (30, 60, 220)


def dice(number: int = 0) -> Dice:
    return Dice(entropy("test", number, seed=0, level=0, split="train"))


def look(**changes: Any) -> Look:
    plain: dict[str, Any] = {
        "width": 600,
        "height": 400,
        "face": FACE,
        "text": 10.0,
        "paper": (255, 255, 255),
        "panel": (255, 255, 255),
        "ink": (0, 0, 0),
        "palette": Palette((RED, GREEN, BLUE), ("red", "green", "blue")),
        "grid": False,
        "frame": False,
        "legend": "right",
        "lying": False,
        "printed": False,
        "turned": 0,
        "marker": "s",
        "edge": False,
    }
    return Look(**{**plain, **changes})


def table(*columns: Sequence[int], **changes: Any) -> Table:
    labels = tuple("ABCDEFGHIJKL"[: len(columns[0])])
    series = tuple(Series(f"S{i}", tuple(map(Decimal, values))) for i, values in enumerate(columns))
    return Table(
        **{"title": "A title", "axis": "Axis", "quantity": "How much", "labels": labels, "series": series, **changes}
    )


def pixels(drawn: Drawn) -> np.ndarray:
    return np.asarray(PILImage.open(io.BytesIO(drawn.picture))).astype(int)


def where(picture: np.ndarray, colour: Sequence[int], inside: Box | None = None) -> Box:
    """The box of the pixels of a colour, in a part of the picture."""
    found = np.abs(picture - colour).max(axis=2) < 40
    if inside is not None:
        mask = np.zeros_like(found)
        mask[int(inside.y1) : int(inside.y2) + 1, int(inside.x1) : int(inside.x2) + 1] = True
        found &= mask
    ys, xs = np.nonzero(found)
    return Box(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def of(drawn: Drawn, role: str) -> list[Mark]:
    return [mark for mark in drawn.marks if mark.role == role]


@pytest.fixture(scope="module")
def made() -> list[Sample]:
    builder = ChartBuilder(ChartSettings(samples=60, system_fonts=False, size=420, turns=8))
    return [sample for item in builder.items() for sample in builder.make(item).samples]


# ------------------------------------------------------------------------------------------------------------- answers


def worked_out(chart: dict[str, Any], facts: dict[str, Any], meta: dict[str, Any]) -> str:
    """The answer to a question, from the data alone."""
    task, labels = facts["task"], chart["labels"]
    columns = [dict(zip(labels, map(Decimal, one["values"]), strict=True)) for one in chart["series"]]
    if task == "table":
        rows = [[chart["axis"]] + [one["name"] for one in chart["series"]]]
        rows += [[label] + [one["values"][i] for one in chart["series"]] for i, label in enumerate(labels)]
        return "\n".join(" | ".join(row) for row in rows)
    if task == "together":
        x, y = ([float(v) for v in one["values"]] for one in chart["series"])
        r = np.corrcoef(x, y)[0, 1]
        assert abs(r) >= 0.6 or abs(r) <= 0.2
        return "It rises." if r > 0.5 else "It falls." if r < -0.5 else "Neither."
    if task == "title":
        return str(chart["title"])
    if task == "axis":
        lying = next(m["box"] for m in meta["marks"] if m["role"] == "axis" and m["name"] == facts["answer"])
        assert facts["vertical"] == (lying[3] - lying[1] > lying[2] - lying[0])
        return str(facts["answer"] if facts["answer"] in (chart["axis"], chart["quantity"]) else "not an axis")
    if task == "colour":
        names = (
            labels
            if len(meta["colours"]) == len(labels) and len(columns) == 1
            else [s["name"] for s in chart["series"]]
        )
        pair = (facts["name"], facts["colour"])
        assert pair in list(zip(names, meta["colours"], strict=True))
        return str(facts["answer"] if facts["answer"] in pair else "neither")
    if task == "count":
        shapes = [m for m in meta["marks"] if m["role"] in ("bar", "slice", "point")]
        rows = {"table": len(labels), "line": len(columns)}
        return str(rows.get(meta["task"], len(shapes)))
    values, of_labels = columns[facts["series"]], facts["labels"]
    if task == "extreme":
        best = (max if facts["largest"] else min)(values.values())
        assert list(values.values()).count(best) == 1
        return next(label for label, value in values.items() if value == best)
    if task in ("value", "value-at"):
        return format(values[of_labels[0]], "f")
    if task == "name-at":
        return of_labels[0] + (f", {chart['series'][facts['series']]['name']}" if len(columns) > 1 else "")
    if task == "count-above":
        return str(sum(value > values[of_labels[0]] for value in values.values()))
    a, b = (values[label] for label in of_labels)
    assert a != b or task == "difference"
    return {
        "larger": of_labels[0] if a > b else of_labels[1],
        "is-larger": "Yes" if a > b else "No",
        "difference": format(abs(a - b), "f"),
        "trend": "It rises." if b > a else "It falls.",
    }[task]


def test_answers_follow_from_the_data(made: list[Sample]) -> None:
    seen, kinds = set(), set()
    for sample in made:
        meta = sample.meta
        answers = [part.content for part in sample.parts if part.target]
        assert len(answers) == len(meta["turns"])
        for said, facts in zip(answers, meta["turns"], strict=True):
            seen.add(facts["task"])
            kinds.add(meta["task"])
            if facts["task"] == "place":
                mark = next(
                    m
                    for m in meta["marks"]
                    if (m["role"], m["series"], m["label"]) == (facts["role"], facts["series"], facts["label"])
                    and m["name"] == facts["name"]
                )
                assert isinstance(said, Region) and list(said.shape) == mark["box"]
            else:
                assert said == facts["answer"] == worked_out(meta["chart"], facts, meta)
    assert kinds == set(map(str, Kind))
    assert seen == {
        *TASKS,
        "larger",
        "is-larger",
        "together",
        "axis",
        "title",
        "count-above",
        "value-at",
        "name-at",
    } - {
        "comparison",
        "name",
        "at",
    }


def test_what_is_asked_can_be_seen(made: list[Sample]) -> None:
    """No value is asked for where none can be read, and none compared that looks the same."""
    unreadable = 0
    for sample in made:
        meta, chart = sample.meta, sample.meta["chart"]
        everything = [Decimal(v) for one in chart["series"] for v in one["values"]] + [Decimal(0)]
        for facts in meta["turns"]:
            if meta["readable"]:
                continue
            unreadable += 1
            assert facts["task"] not in ("table", "value", "difference", "value-at")
            if facts["task"] in ("larger", "is-larger", "trend"):
                values = dict(
                    zip(chart["labels"], map(Decimal, chart["series"][facts["series"]]["values"]), strict=True)
                )
                a, b = (values[label] for label in facts["labels"])
                assert abs(a - b) >= (max(everything) - min(everything)) * Decimal("0.0199")
    assert unreadable > 20


def test_histogram_counts_its_raw_values(made: list[Sample]) -> None:
    checked = 0
    for chart in (sample.meta["chart"] for sample in made if sample.meta["task"] == "histogram"):
        edges = sorted({float(edge) for label in chart["labels"] for edge in label.split(" to ")})
        counts, _ = np.histogram([float(v) for v in chart["raw"]], bins=edges)
        assert [int(v) for v in chart["series"][0]["values"]] == counts.tolist()
        checked += 1
    assert checked > 3


# --------------------------------------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize("lying", [False, True])
def test_bars_fill_their_boxes(lying: bool) -> None:
    drawn = draw_chart(table((3, 7, 5), (8, 2, 6)), Kind.BAR, look(lying=lying))
    picture, bars = pixels(drawn), of(drawn, "bar")
    assert len(bars) == 6
    for bar in bars:
        colour = (RED, GREEN)[bar.series or 0]
        around_it = Box(bar.box.x1 - 3, bar.box.y1 - 3, bar.box.x2 + 3, bar.box.y2 + 3)
        assert tuple(where(picture, colour, around_it)) == pytest.approx(tuple(bar.box), abs=1.5)
        x1, y1, x2, y2 = (round(v) for v in bar.box)
        assert (np.abs(picture[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] - colour).max(axis=2) < 3).all()
    long = [b.box.x2 - b.box.x1 if lying else b.box.y2 - b.box.y1 for b in bars]
    assert [side / long[0] * 3 for side in long] == pytest.approx([3, 7, 5, 8, 2, 6], rel=0.02)
    places = [b.box.y1 if lying else b.box.x1 for b in bars[:3]]
    assert places == sorted(places)  # in the order of the table, from the top or the left


def test_stacked_parts_and_slices_and_points() -> None:
    drawn = draw_chart(table((3, 7), (4, 2)), Kind.STACKED, look())
    for part in of(drawn, "bar"):
        assert tuple(where(pixels(drawn), (RED, GREEN)[part.series or 0], part.box)) == pytest.approx(
            tuple(part.box), abs=1.01
        )
    drawn = draw_chart(table((3, 7, 4)), Kind.PIE, look())
    assert [mark.name for mark in of(drawn, "slice")] == ["A", "B", "C"]
    for mark, colour in zip(of(drawn, "slice"), (RED, GREEN, BLUE), strict=True):
        assert tuple(where(pixels(drawn), colour)) == pytest.approx(tuple(mark.box), abs=2)
    drawn = draw_chart(table((3, 7, 4), (8, 1, 9)), Kind.LINE, look(marker="s"))
    for mark in of(drawn, "point"):
        x1, y1, x2, y2 = (round(v) for v in mark.box)
        inside = pixels(drawn)[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
        assert (np.abs(inside - (RED, GREEN)[mark.series or 0]).max(axis=2) < 3).all() and inside.shape[0] > 5
    heights = [mark.box.y1 for mark in of(drawn, "point")[:3]]
    assert heights[1] < heights[2] < heights[0]


def test_hidden_and_tiny_marks_are_not_asked_about() -> None:
    crossing = table((3, 7, 4), (3, 1, 9))
    assert set(Asked(crossing, Kind.LINE, draw_chart(crossing, Kind.LINE, look())).marks) == {
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    }
    tiny = table((1, 1000, 0))
    drawn = draw_chart(tiny, Kind.BAR, look())
    assert set(Asked(tiny, Kind.BAR, drawn).marks) == {(0, 1)} and len(of(drawn, "bar")) == 2


def test_texts_and_legend_have_their_boxes() -> None:
    drawn = draw_chart(table((3, 7), (4, 2)), Kind.BAR, look(legend="below"))
    picture = pixels(drawn)
    title, (x, y) = of(drawn, "title")[0], of(drawn, "axis")
    for mark in (title, x, y, *of(drawn, "label")):
        b = mark.box
        ink = where(picture, (0, 0, 0), Box(b.x1 - 2, b.y1 - 2, b.x2 + 2, b.y2 + 2))
        assert ink.x1 >= b.x1 - 1 and ink.x2 <= b.x2 + 1 and ink.y1 >= b.y1 - 1 and ink.y2 <= b.y2 + 1
        assert ink.area > 0.3 * b.area
    for mark, colour in zip(of(drawn, "legend"), (RED, GREEN), strict=True):
        swatch = where(picture, colour, mark.box)
        assert swatch.x1 - mark.box.x1 < 2 and mark.box.x2 > swatch.x2 + 8
        assert mark.name == ("S0", "S1")[mark.series or 0]


def test_table_cells() -> None:
    drawn = draw_chart(table((3, 777), (4, 2)), Kind.TABLE, look(grid=True))
    cells = {(m.label, m.series): m for m in of(drawn, "cell")}
    assert {key: mark.name for key, mark in cells.items()} == {(0, 0): "3", (1, 0): "777", (0, 1): "4", (1, 1): "2"}
    b = cells[1, 0].box
    ink = where(pixels(drawn), (0, 0, 0), Box(b.x1 + 3, b.y1 + 3, b.x2 - 3, b.y2 - 3))
    assert ink.x2 - ink.x1 > 15  # three digits; none touch the cell's edges
    assert (ink.x1 + ink.x2) / 2 == pytest.approx((b.x1 + b.x2) / 2, abs=2)


def test_texts_never_overlap_and_nothing_is_cut(made: list[Sample]) -> None:
    for sample in made:
        width, height = PILImage.open(io.BytesIO(sample.images[0].data)).size
        for mark in sample.meta["marks"]:
            x1, y1, x2, y2 = mark["box"]
            assert -0.6 <= x1 <= x2 <= width + 0.6 and -0.6 <= y1 <= y2 <= height + 0.6
        texts = [m["box"] for m in sample.meta["marks"] if m["role"] in ("title", "axis", "label", "legend")]
        if sample.meta["task"] != "table":
            for i, a in enumerate(texts):
                assert not any(
                    min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 1 for b in texts[:i]
                )
    with pytest.raises(CrowdedError, match="overlap"):
        draw_chart(table((1, 2, 3), labels=tuple(f"a long label {i}" * 2 for i in range(3))), Kind.BAR, look(width=330))
    with pytest.raises(CrowdedError, match="does not fit its place"):
        draw_chart(table((1, 200), (200, 200)), Kind.STACKED, look(printed=True))


# --------------------------------------------------------------------------------------------------------------- looks


def test_the_users_settings_of_matplotlib_do_not_matter() -> None:
    before = draw_chart(table((3, 7, 5)), Kind.BAR, look()).picture
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "xtick.direction": "in"}):
        assert draw_chart(table((3, 7, 5)), Kind.BAR, look()).picture == before
        assert matplotlib.rcParams["font.size"] == 30
    for path in Path(room.__path__[0]).glob("*.py"):
        names = [
            n
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom | ast.Import)
            for n in [getattr(node, "module", "") or "", *(a.name for a in node.names)]
        ]
        assert not any("pyplot" in name for name in names)


def test_dollars_are_no_formulas() -> None:
    text = "Costs $x^2$ and so on"
    drawn = draw_chart(table((3, 7), title=text), Kind.BAR, look())
    size = 10.0 * 1.25 * 100 / 72
    expected = ImageFont.truetype(FACE.path, size).getlength(text)
    box = of(drawn, "title")[0].box
    assert box.x2 - box.x1 == pytest.approx(expected, rel=0.05)


def test_values_can_be_read_where_they_lie_on_grid_lines() -> None:
    on_lines = table((10, 30, 20), step=Decimal(10))
    assert draw_chart(on_lines, Kind.BAR, look()).readable
    assert not draw_chart(table((10, 30, 20)), Kind.BAR, look()).readable
    assert draw_chart(table((10, 30, 20)), Kind.BAR, look(printed=True)).readable
    assert not draw_chart(table((10, 30), (5, 5), step=Decimal(5)), Kind.STACKED, look()).readable
    for low, high in ((0, 7), (-3, 12), (990, 1010), (0, 3), (5, 5)):
        ticks = ticks_of(Decimal(low), Decimal(high), None)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 13
        assert len({b - a for a, b in pairwise(ticks)}) == 1


def test_colours_can_be_told_apart() -> None:
    for number in (1, 3, 8):
        for seed in range(20):
            palette = choose_palette(dice(seed), number, (255, 255, 255))
            pairs = [(a, b) for i, a in enumerate(palette.colours) for b in palette.colours[:i]]
            assert all(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 >= 60 for a, b in pairs)
            assert len(palette.names) == len(palette.colours) == number


# --------------------------------------------------------------------------------------------------------------- whole


def test_same_whatever_the_process_and_every_option_counts(tmp_path: Path) -> None:
    full: dict[str, Any] = {"samples": 5, "system_fonts": False, "size": 360}
    first = ChartBuilder(ChartSettings(**full))
    for workers, name in ((0, "a"), (2, "b")):
        build(pickle.loads(pickle.dumps(first)), tmp_path / name, workers=workers, shard_samples=2)
    files = sorted(p.name for p in (tmp_path / "a").glob("shard-*"))
    assert len(files) >= 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    told = json.dumps(first.settings())
    for change in (
        {"seed": 1},
        {"turns": 2},
        {"tasks": ("table",)},
        {"size": 400},
        {"heldout": 0.5},
        {"kinds": (Kind.BAR,)},
    ):
        assert json.dumps(ChartBuilder(ChartSettings(**{**full, **change})).settings()) != told
    assert invent(dice(1), kind="bar") == invent(dice(1), kind="bar")
    for bad in ({"samples": 0}, {"size": 10}, {"tasks": ("sing",)}, {"kinds": ()}):
        with pytest.raises(UserError):
            ChartSettings(**{**full, **bad})
