"""Charts of the user's tables: what is read of a CSV, and what is left out with which reason."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from mm15.corpora.charts import ChartBuilder, ChartSettings
from mm15.corpora.charts.csvs import pick_table, read_sheet, read_sheets
from mm15.corpora.charts.tables import histogram
from mm15.errors import UserError
from mm15.world.dice import Dice, entropy


def dice(number: int) -> Dice:
    return Dice(entropy("test", number, seed=0, level=0, split="train"))


def sheet(text: str, left: list[tuple[str, str]] | None = None) -> Any:
    return read_sheet(text.encode(), "t.csv", [] if left is None else left)


def test_csv_as_it_should_be() -> None:
    one = sheet('City,Sales,"Cost ($)",Share\nRome,"1,200",$5.50,45%\nOslo,300,$12.25,5%\nBern,-7,$0,50%\n')
    assert one.axis == "City" and one.labels == ("Rome", "Oslo", "Bern")
    names = {name: [str(v) for v in values] for name, values in one.columns}
    assert names == {"Sales": ["1200", "300", "-7"], "Cost ($)": ["5.50", "12.25", "0"], "Share (%)": ["45", "5", "50"]}
    years = sheet("year;a\n2001;1,5\n2002;2,25\n")
    assert years.labels == ("2001", "2002") and years.columns[0][1] == (Decimal("1.5"), Decimal("2.25"))
    tabs = sheet("\ufeffx\ty\nfoo\t1\n\nbar\tn/a\nbaz\t3")
    assert tabs.columns[0][1] == (1, None, 3)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (",,\n,,\n", "is empty"),
        ("just one\ncolumn\n", "only one column"),
        ("a,b\n", "fewer than two rows"),
        ("a,b\nx,1\ny\n", "fewer than two rows"),
        ("a,b\nx,y\nz,w\n", "no column of numbers"),
        ("a,b\n1.5,2\n3.5,4\n", "texts or years"),
        ('a,b\n"x,1\ny,2\n', "no valid CSV"),
        ("a,b\0\nx,1\ny,2\n", "zero bytes"),
        ("المدينة,b\nx,1\ny,2\n", "script that matplotlib cannot shape"),
    ],
)
def test_csv_that_cannot_be_charted(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        sheet(text)


def test_csv_that_is_messy() -> None:
    left: list[tuple[str, str]] = []
    one = sheet(
        "name,good,good,mixed,words,,long,ok\n"
        "a,1,2,$3,x,1,1,1\nb,1,2,4%,y,2,2,2\na,1,2,5,z,3,3,3\nc,1\n,1,2,3,w,4,4,4\nx|y,1,1,1,w,1,1,4\n"
        f"{'l' * 30},1,1,1,w,1,1,1\n\u05d0,1,1,1,w,1,1,1\n",
        left,
    )
    assert one.labels == ("a", "b") and [name for name, _ in one.columns] == ["long", "ok"]
    reasons = dict(left)
    assert "shares its name" in reasons["t.csv column 2"] and "mixes units" in reasons["t.csv column 4"]
    assert "not all numbers" in reasons["t.csv column 5"] and "no name" in reasons["t.csv column 6"]
    assert "as many cells" in reasons["t.csv line 5"] and "repeats the label" in reasons["t.csv row 3 of its data"]
    assert {reasons[f"t.csv row {n} of its data"] for n in (4, 5, 6, 7)} == {
        "has no name",
        "has a bar or a line break in its name",
        "has a name of more than 24 characters",
        "has a name in a script that matplotlib cannot shape",
    }


def test_folders_of_tables(tmp_path: Path) -> None:
    rows = "\n".join(f"Item {i},{i * 3 + 1},{100 - i}" for i in range(12))
    (tmp_path / "sales_per_item.csv").write_text("Item,Sold,Left\n" + rows)
    (tmp_path / "bad.csv").write_bytes(b"a,b\n\xff,1\n")
    sheets, left = read_sheets(tmp_path)
    assert [one.name for one in sheets] == ["sales_per_item.csv"] and left == [
        ("bad.csv", "is not UTF-8 text; save it as UTF-8")
    ]
    settings = ChartSettings(samples=12, tables=tmp_path, system_fonts=False, size=400)
    builder = ChartBuilder(settings)
    everything = [builder.make(item) for item in builder.items()]
    assert everything[0].skipped[0].what == "bad.csv"
    found = [sample.meta for one in everything for sample in one.samples]
    assert len(found) >= 10
    for meta in found:
        chart = meta["chart"]
        assert chart["title"] == "Sales per item" and meta["from"] == "sales_per_item.csv"
        for one in chart["series"] if meta["task"] not in ("histogram",) else ():
            for label, value in zip(chart["labels"], one["values"], strict=True):
                i = int(label.split()[1])
                assert int(value) == {"Sold": i * 3 + 1, "Left": 100 - i}[one["name"]]
    for place, why in ((tmp_path / "none", "no such folder"), (tmp_path / "bad.csv", "no table that can be charted")):
        with pytest.raises(UserError, match=why):
            read_sheets(place)
    assert ChartBuilder(ChartSettings(samples=1, tables=tmp_path, split="heldout", heldout=0.01)).items() == []
    with pytest.raises(UserError, match="are held out"):
        ChartBuilder(ChartSettings(samples=1, tables=tmp_path, heldout=0.9999))


def test_parts_of_sheets_suit_their_kind() -> None:
    text = "day,a,b\n" + "\n".join(f"2020-01-{d:02d},{d},{d * 100}" for d in range(1, 30))
    dated, loose = sheet(text), sheet("x,a,b\nq,1,-2\nr,2,3\ns,0,1\n")
    for seed in range(30):
        line = pick_table(dice(seed), dated, kind="line")
        assert line is None or (line.ordered and list(line.labels) == sorted(line.labels))
        assert pick_table(dice(seed), loose, kind="line") is None
        stacked = pick_table(dice(seed), loose, kind="stacked")
        assert stacked is None or min(stacked.values) > 0
        bar = pick_table(dice(seed), dated, kind="bar")
        assert bar is None or len({one.name for one in bar.series}) == 1  # 1..29 and 100..2900 on one axis say nothing
    counted = histogram("t", "q", [Decimal(v) for v in ("0", "1", "1.5", "2", "3.99")], [0, 1, 2, 4])
    assert [int(v) for v in counted.series[0].values] == [1, 2, 2] and counted.labels == ("0 to 1", "1 to 2", "2 to 4")
