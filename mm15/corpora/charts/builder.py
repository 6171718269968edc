"""Charts and tables with their data, questions with exact answers, and the box of everything in the picture.

    table (made up, or a part of a CSV) -> look -> picture and boxes -> questions

`meta` of a sample: task (the kind of chart), chart (its data, values as printed), readable, colours, marks [{role,
name, series, label, box}], turns [{task, ..., answer}], from. About 0.15 s a picture on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import UserError
from ...sample import Image, Part, Sample, assistant, user
from ...world.dice import Dice, entropy
from ..build import Made, Skip, is_heldout
from ..fonts import Face, find_fonts, why_not
from .csvs import Sheet, pick_table, read_sheets
from .drawing import CrowdedError, Drawn, Kind, draw_chart
from .looks import choose_look
from .questions import TASKS, Asked, Turn, ask_about
from .shapes import colours_of
from .tables import Table, invent

_TRIES = 4
"""Parts of a sheet, with a look each, that are tried before a sample is given up."""


@dataclass(frozen=True)
class ChartSettings:
    """What to make.

    tables: a folder of CSV files (or one file); None makes tables up. fonts: folders besides the system's
    (`system_fonts`). size: longest side in pixels. turns: most questions about one chart. heldout: share of the files
    that only the held-out part has; made-up tables have draws of their own there.
    """

    samples: int
    tables: Path | None = None
    fonts: tuple[Path, ...] = ()
    system_fonts: bool = True
    size: int = 800
    seed: int = 0
    kinds: tuple[Kind, ...] = tuple(Kind)
    tasks: tuple[str, ...] = tuple(TASKS)
    turns: int = 3
    split: Literal["train", "heldout"] = "train"
    heldout: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("samples", 1, 10**9), ("size", 320, 4096), ("turns", 1, len(TASKS))):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}; give a value from {low} to {high}")
        if not self.kinds or not self.tasks:
            raise UserError("kinds or tasks is empty; name at least one")
        for task in self.tasks:
            if task not in TASKS:
                raise UserError(f"there is no task {task!r} of charts; tasks: {', '.join(TASKS)}")


class ChartBuilder:
    """A `corpora.build.Builder`: one item, one chart. UserError when tables or fonts cannot be used."""

    name = "charts"

    def __init__(self, settings: ChartSettings) -> None:
        self.options = settings
        found = find_fonts(settings.fonts, system=settings.system_fonts)
        self.left_out = list(found.left_out)
        self.faces: list[Face] = []
        for face in found.faces:
            reason = _unreadable(face)
            if reason:
                self.left_out.append((face.name, reason))
            else:
                self.faces.append(face)
        self.sheets: list[Sheet] = []
        if settings.tables is not None:
            sheets, bad = read_sheets(settings.tables)
            self.left_out += bad
            ours = settings.split == "heldout"
            self.sheets = [sheet for sheet in sheets if is_heldout(sheet.digest, settings.heldout) == ours]
            if not self.sheets and not ours:
                raise UserError(f"{settings.tables}: all of its {len(sheets)} tables are held out; lower --heldout")

    def settings(self) -> dict[str, Any]:
        """Options, and the hashes of the fonts and tables used."""
        o = self.options
        return {
            "samples": o.samples,
            "size": o.size,
            "seed": o.seed,
            "kinds": list(o.kinds),
            "tasks": list(o.tasks),
            "turns": o.turns,
            "split": o.split,
            "heldout": o.heldout,
            "fonts": {face.digest: face.name for face in self.faces},
            "tables": {sheet.name: sheet.digest for sheet in self.sheets} if o.tables is not None else "made up",
        }

    def items(self) -> list[dict[str, Any]]:
        """First what cannot be used and why, then a number for each sample."""
        unused = [{"skip": what, "reason": reason} for what, reason in self.left_out if self.options.split == "train"]
        number = self.options.samples if self.sheets or self.options.tables is None else 0
        return [*unused, *({"number": n} for n in range(number))]

    def make(self, item: dict[str, Any]) -> Made:
        """The sample of an item."""
        if "skip" in item:
            return Made([], [Skip(item["skip"], item["reason"])])
        number, split = item["number"], self.options.split
        dice = Dice(entropy("corpora/charts", number, seed=self.options.seed, level=0, split=split))
        reason = ""
        for _ in range(_TRIES):
            kind = dice.pick(self.options.kinds)
            source, table = self._table(dice, kind)
            if table is None:
                reason = "no part of it suits the kinds of charts asked for"
                continue
            try:
                drawn = self._draw(dice, table, kind)
            except CrowdedError:
                reason = "its texts do not fit a chart of this size"
                continue
            turns = ask_about(Asked(table, kind, drawn), dice, tasks=self.options.tasks, turns=self.options.turns)
            if turns:
                return Made([_sample(f"{split}-{number:07d}", kind, table, drawn, turns, source)])
            reason = "there is nothing to ask of the kinds asked for"
        return Made([], [Skip(f"sample {number} ({source})", reason)])

    def _table(self, dice: Dice, kind: Kind) -> tuple[str, Table | None]:
        if not self.sheets:
            return "made up", invent(dice, kind=kind)
        sheet = dice.pick(self.sheets)
        return sheet.name, pick_table(dice, sheet, kind=kind)

    def _draw(self, dice: Dice, table: Table, kind: Kind) -> Drawn:
        """The chart in a look of its own, calmer until its texts fit. Raises CrowdedError when they never do."""
        able = [face for face in self.faces if why_not(face, table.texts() + "0123456789.-") is None]
        if not able:
            raise CrowdedError("no font here can write all of it")
        colours = colours_of(kind, len(table.series), len(table.labels), by_label=dice.chance(0.4))
        labels = "  ".join(label.split(" to ")[0] for label in table.labels)
        look = choose_look(dice, dice.pick(able), self.options.size, colours=colours, labels=labels, kind=kind)
        while True:
            try:
                return draw_chart(table, kind, look)
            except CrowdedError as error:
                calmer = look.calmer(error.trouble)
                if calmer is None:
                    raise
                look = calmer


def _sample(name: str, kind: Kind, table: Table, drawn: Drawn, turns: Sequence[Turn], source: str) -> Sample:
    parts: tuple[Part, ...] = ()
    for turn in turns:
        shown = () if parts else (Image(drawn.picture),)
        parts += user(*shown, *turn.question) + assistant(*turn.answer)
    marks = [{**asdict(mark), "box": list(mark.box)} for mark in drawn.marks]
    known = {
        "task": kind.value,
        "chart": table.known(),
        "readable": drawn.readable,
        "colours": list(drawn.colours),
        "marks": marks,
        "turns": [turn.facts for turn in turns],
        "from": source,
    }
    return Sample(name, "charts", parts, known)


def _unreadable(face: Face) -> str | None:
    """Why matplotlib cannot use a face; None when it can."""
    from matplotlib.ft2font import FT2Font

    if face.number:
        return "matplotlib reads only the first face of a collection"
    try:
        FT2Font(face.path).set_size(10, 100)
    except (RuntimeError, OSError, ValueError) as error:
        return f"a font that matplotlib cannot read ({' '.join(str(error).split())})"
    return None
