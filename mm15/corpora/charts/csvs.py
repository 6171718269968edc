"""Tables of the user: CSV files, messy as they are.

A file is read with the standard library: UTF-8, separated by commas, semicolons, tabs or bars. The first row names the
columns; the first column of texts (or of years) names the rows; columns of numbers are the values. What cannot be
charted is left out with its reason: whole files, single columns, single rows. Numbers may have a unit that the whole
column shares ($1,200 or 45%), and a decimal comma where semicolons separate.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from ...errors import UserError
from ...world.dice import Dice
from ..fonts import needs_shaping, unwritable
from .tables import MONTHS, Series, Table

LONGEST_LABEL = 24
LONGEST_NAME = 40
MOST_ROWS, MOST_COLUMNS = 100_000, 200
_NUMBER = re.compile(
    r"(?P<before>[$€£¥]?)\s*(?P<sign>[-\u2212]?)(?P<digits>\d{1,3}(,\d{3})+|\d+)(?P<rest>\.\d+)?\s*(?P<after>%?)"
)
_EMPTY = frozenset({"", "-", "n/a", "na", "nan", "null", "none", "..."})
_YEAR = re.compile(r"(1[5-9]|20)\d\d")


@dataclass(frozen=True)
class Sheet:
    """What of a file can be charted: labels of the rows, and columns of values with gaps where a cell is empty."""

    name: str
    digest: str
    axis: str
    labels: tuple[str, ...]
    columns: tuple[tuple[str, tuple[Decimal | None, ...]], ...]


Left = list[tuple[str, str]]
"""(file, or file and column or line; reason)."""


def read_sheets(folder: Path) -> tuple[list[Sheet], Left]:
    """The sheets of all CSV files of a folder (or of one file), and what was left out of them and why.

    UserError when there is no CSV file at all, or nothing in them can be charted.
    """
    if folder.is_file():
        paths = [folder]
    elif folder.is_dir():
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".csv", ".tsv") and path.is_file())
    else:
        raise UserError(f"{folder}: no such folder of CSV files")
    if not paths:
        raise UserError(f"{folder}: no CSV file in it; put .csv or .tsv files there")
    sheets: list[Sheet] = []
    left: Left = []
    for path in paths:
        name = path.relative_to(folder).as_posix() if path != folder else path.name
        try:
            sheets.append(read_sheet(path.read_bytes(), name, left))
        except OSError as error:
            left.append((name, f"the file cannot be read ({error.strerror})"))
        except UserError as error:
            left.append((name, str(error)))
    if not sheets:
        raise UserError(f"{folder}: no table that can be charted ({left[0][0]}: {left[0][1]})")
    return sheets, left


def read_sheet(raw: bytes, name: str, left: Left) -> Sheet:
    """The sheet of a file's bytes; columns and rows that cannot be used are added to `left`. UserError says why the
    whole of it cannot be charted."""
    rows, separator = _rows(raw)
    header, body = [cell.strip() for cell in rows[0][1]], rows[1:]
    kept = []
    for line, row in body:
        if len(row) != len(header):
            left.append((f"{name} line {line}", "the row has not as many cells as the first"))
        else:
            kept.append([cell.strip() for cell in row])
    if len(kept) < 2:
        raise UserError("has fewer than two rows of data below its header")
    columns = list(zip(*kept, strict=True))
    repeated = {one for one in header if header.count(one) > 1}
    values: dict[int, tuple[Decimal | None, ...]] = {}
    reasons: dict[int, str] = {}
    for number, cells in enumerate(columns):
        found, unit_or_reason = _numbers(cells, comma=separator == ";")
        if found is None:
            reasons[number] = unit_or_reason
        else:
            values[number] = found
            header[number] += f" ({unit_or_reason})" if unit_or_reason and unit_or_reason not in header[number] else ""
    labels_at = _labels_column(header, columns, values)
    for number in range(len(header)):
        reason = reasons.get(number) or _bad_name(header[number], LONGEST_NAME)
        reason = reason or ("shares its name with another column" if header[number] in repeated else None)
        if number != labels_at and reason:
            left.append((f"{name} column {number + 1}", reason))
            values.pop(number, None)
    values.pop(labels_at, None)
    axis_reason = _bad_name(header[labels_at], LONGEST_NAME)
    if axis_reason:
        raise UserError(f"the column of its labels {axis_reason}")
    if not values:
        raise UserError("has no column of numbers besides its labels")
    good = _good_rows(columns[labels_at], name, left)
    if len(good) < 2:
        raise UserError("has fewer than two rows with a label of their own")
    picked = tuple((header[n], tuple(column[row] for row in good)) for n, column in sorted(values.items()))
    labels = tuple(columns[labels_at][row] for row in good)
    return Sheet(name, hashlib.sha256(raw).hexdigest()[:16], header[labels_at], labels, picked)


def _rows(raw: bytes) -> tuple[list[tuple[int, list[str]]], str]:
    """((line, cells) of rows that are not empty, the separator)."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text; save it as UTF-8") from None
    if "\0" in text:
        raise UserError("holds zero bytes, so it is no CSV file")
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise UserError("is empty")
    separator = max(",;\t|", key=first.count)
    if separator not in first:
        raise UserError("has only one column; a chart needs labels and values")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"is no valid CSV at line {reader.line_num} ({error})") from None
    if not rows:
        raise UserError("is empty")
    if len(rows) > MOST_ROWS or len(rows[0][1]) > MOST_COLUMNS:
        raise UserError(f"is larger than {MOST_ROWS} rows or {MOST_COLUMNS} columns")
    return rows, separator


def _numbers(cells: Sequence[str], *, comma: bool) -> tuple[tuple[Decimal | None, ...] | None, str]:
    """(values, their common unit), or (None, why it is no column of numbers)."""
    values: list[Decimal | None] = []
    units = set()
    for cell in cells:
        if cell.lower() in _EMPTY:
            values.append(None)
            continue
        match = _NUMBER.fullmatch(cell.replace(",", ".") if comma and cell.count(",") == 1 else cell)
        if match is None:
            return None, "is not all numbers"
        digits = match["digits"].replace(",", "") + (match["rest"] or "")
        if len(digits) > 12:
            return None, "has numbers of more than 12 digits"
        values.append(Decimal(("-" if match["sign"] else "") + digits))
        units.add(match["before"] + match["after"])
    if all(value is None for value in values):
        return None, "is empty"
    if len(units) > 1:
        return None, "mixes units"
    return tuple(values), units.pop()


def _labels_column(header: Sequence[str], columns: Sequence[Sequence[str]], numbers: object) -> int:
    """The first column of texts; else one of years; UserError when there is neither."""
    assert isinstance(numbers, dict)
    for number, cells in enumerate(columns):
        if number not in numbers and any(cells):
            return number
    for number, cells in enumerate(columns):
        if all(_YEAR.fullmatch(cell) for cell in cells) and len(columns) > 1:
            return number
    raise UserError("has no column of texts or years to name its rows")


def _good_rows(labels: Sequence[str], name: str, left: Left) -> list[int]:
    """Rows whose label can be written and is the only one of its kind."""
    good: list[int] = []
    seen: set[str] = set()
    for row, label in enumerate(labels):
        reason = _bad_name(label, LONGEST_LABEL) or ("repeats the label of another row" if label in seen else None)
        if reason:
            left.append((f"{name} row {row + 1} of its data", reason))
        else:
            seen.add(label)
            good.append(row)
    return good


def _bad_name(text: str, longest: int) -> str | None:
    """Why a name cannot stand in a chart; None when it can."""
    if not text:
        return "has no name"
    if len(text) > longest:
        return f"has a name of more than {longest} characters"
    if "|" in text or "\n" in text:
        return "has a bar or a line break in its name"
    if needs_shaping(text):
        return "has a name in a script that matplotlib cannot shape"
    return unwritable(text)


def pick_table(dice: Dice, sheet: Sheet, *, kind: str) -> Table | None:
    """A part of a sheet that suits a kind of chart: neighbouring rows, one column or several; None where none does."""
    most_rows = {"line": 24, "table": 10, "pie": 8, "scatter": 40, "histogram": 10**6}.get(kind, 12)
    wanted = {"pie": 1, "histogram": 1, "scatter": 2}.get(kind)
    names = dice.shuffle(range(len(sheet.columns)))[: wanted or dice.pick((1, 1, 2, 3))]
    if (wanted and len(names) < wanted) or (kind == "stacked" and len(names) < 2):
        return None
    columns = [sheet.columns[i] for i in (names if kind == "scatter" else sorted(names))]
    rows = [r for r in range(len(sheet.labels)) if all(values[r] is not None for _, values in columns)]
    number = min(len(rows), most_rows, dice.between(3, most_rows) if most_rows < 10**6 else len(rows))
    start = dice.below(len(rows) - number + 1) if rows else 0
    rows = rows[start : start + number]
    if len(rows) < (5 if kind in ("scatter", "histogram") else 2):
        return None
    series = tuple(Series(name, tuple(v for r in rows if (v := values[r]) is not None)) for name, values in columns)
    everything = [value for one in series for value in one.values]
    if kind in ("pie", "stacked") and min(everything) <= 0:
        return None
    labels = tuple(sheet.labels[r] for r in rows)
    ordered = _in_time(labels)
    if kind == "line" and not ordered:
        return None
    if kind == "histogram":
        return _counted(sheet, series[0])
    if kind == "scatter":
        return Table(_title(sheet), series[0].name, series[1].name, labels, series)
    if kind not in ("table", "scatter") and _spread(series) > 50:
        return None  # one axis cannot show columns of such different sizes
    quantity = series[0].name if len(series) == 1 else "Value"
    return Table(_title(sheet), sheet.axis, quantity, labels, series, ordered)


def _counted(sheet: Sheet, column: Series) -> Table | None:
    """The histogram of a column, in five to ten bins with round edges."""
    from .tables import histogram

    low, high = min(column.values), max(column.values)
    if low == high:
        return None
    width = Decimal(1).scaleb(((high - low) / 5).adjusted())
    width = next(w for w in (width, 2 * width, 5 * width, 10 * width) if (high - low) / w <= 9)
    start = (low // width - (1 if low < 0 and low % width else 0)) * width
    edges = [start + width * i for i in range(int((high - start) // width) + 2)]
    return histogram(_title(sheet), column.name, column.values, edges)


def _spread(series: Sequence[Series]) -> Decimal:
    """How many times larger the largest value of one column is than that of another."""
    tops = [max(abs(value) for value in one.values) for one in series]
    return max(tops) / min(tops) if min(tops) else Decimal("inf")


def _in_time(labels: Sequence[str]) -> bool:
    """Whether labels are rising years, months in their order, or ISO dates."""
    months = [MONTHS.index(label[:3].title()) if label[:3].title() in MONTHS else -1 for label in labels]
    if -1 not in months and all(a < b for a, b in pairwise(months)):
        return True
    dates = all(_YEAR.fullmatch(label) or re.fullmatch(r"\d{4}-\d\d(-\d\d)?", label) for label in labels)
    return dates and all(a < b for a, b in pairwise(labels))


def _title(sheet: Sheet) -> str:
    """The file's name as words."""
    words = re.sub(r"[_\-.]+", " ", Path(sheet.name).stem).strip()
    title = words[:1].upper() + words[1:LONGEST_NAME]
    return title if title and _bad_name(title, LONGEST_NAME) is None else "Data"
