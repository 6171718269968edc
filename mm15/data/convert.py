"""A dataset in another format: every sample of a source written by a writer, and a report of what could not be carried.

    convert(open_source(...), settings_of_the_output)  ->  Report

The output appears whole or not at all, and beside it NAME.source.yaml, the block of a recipe that reads it back: its
format, path, and the convention of its places. Memory is flat. One core writes about 3,000 samples a second where no
pictures are copied, 1,000 where places go into texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from ..files import write_atomically
from ..recipe import Source, WorldSource
from ..recipe.settings import closest
from ..regions import CONVENTIONS
from .sources import SourceData
from .writers import UndecidedError, open_writer

EXAMPLES = 3
"""How many samples a reason is shown with."""
MOST_REASONS = 100
"""How many reasons are told apart; the rest is counted as `OTHER`."""
OTHER = "other reasons"
BESIDE = ".source.yaml"
_PLACE = re.compile(r"^.*? (?:line \d+|row \d+|sample '[^']*')(?: \(id .*?\))?: ", re.DOTALL)
"""The place that a reader's error begins with."""


_DETAIL = re.compile(r"'[^']*'|\"[^\"]*\"|[\d.]+")
"""What differs between errors of one kind: what is quoted, and numbers."""


@dataclass
class Reason:
    """How many samples something happened to, and the first of them; `what` is as it was said of the very first."""

    what: str
    samples: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What became of the samples: read = written + skipped. `lost` happened to samples that were written."""

    out: str
    read: int = 0
    written: int = 0
    skipped: list[Reason] = field(default_factory=list)
    lost: list[Reason] = field(default_factory=list)
    unusable: dict[str, int] = field(default_factory=dict)
    """What the source itself left out (COCO: annotations), by reason."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return json.loads(json.dumps(self, default=vars))

    def table(self) -> str:
        """For people."""
        lines = [f"{self.read:,} samples read, {self.written:,} written to {self.out}"]
        for title, reasons in (("not written", self.skipped), ("written without", self.lost)):
            for reason in sorted(reasons, key=lambda reason: -reason.samples):
                lines.append(f"  {title}, {reason.samples:,}: {reason.what} (first: {', '.join(reason.examples)})")
        lines += [f"  left out by the source, {count:,}: {reason}" for reason, count in self.unusable.items()]
        return "\n".join([*lines, f"to read it: {self.out}{BESIDE}"])


def convert(
    source: SourceData,
    settings: Source,
    *,
    copy_pictures: bool = False,
    bar: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> Report:
    """Write every sample of `source` to the file that `settings` describes; `bar` sees the numbers of samples go by.

    Raises UserError when the output cannot be made, when there are places in the samples and nothing says how they are
    written, and when not one sample could be written; then no file is left.
    """
    if isinstance(settings, WorldSource):
        raise UserError("the world is generated, not written; choose another format")
    report = Report(settings.path, unusable=dict(getattr(source, "unusable", {})))
    with open_writer(settings, copy_pictures=copy_pictures) as writer:
        for index in bar(range(len(source))):
            report.read += 1
            try:
                sample = source[index]
                sample = replace(sample, id=sample.id.removeprefix(f"{index}:"))
                lost = writer.add(sample)
            except UndecidedError as error:
                names = ", ".join(CONVENTIONS)
                raise UserError(f"sample {sample.id!r}: {error}; say how with --regions (one of {names})") from None
            except UserError as error:
                _count(report.skipped, _PLACE.sub("", str(error)), f"{index}")
            else:
                for what in lost:
                    _count(report.lost, what, sample.id)
        report.written = writer.samples
        if not report.written:
            reason = max(report.skipped, key=lambda reason: reason.samples, default=Reason("it is empty"))
            raise UserError(
                f"none of {report.read} samples can be written as {settings.format}: {reason.what} "
                f"({reason.samples} of them)"
            )
    write_atomically(Path(f"{settings.path}{BESIDE}"), _yaml(settings))
    return report


def read_block(path: Path) -> Source:
    """The source block that `convert` left beside a dataset. UserError when it is none."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        (block,) = tree["sources"].values()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a file that names one source ({' '.join(str(error).split())})") from None
    return source_block(block, str(path))


def source_block(tree: dict[str, Any], where: str) -> Source:
    """A source block out of plain data; UserError with its first mistake."""
    try:
        return TypeAdapter(Source).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        steps = [str(step) for step in first["loc"] if step != tree.get("format")]
        if first["type"] == "union_tag_invalid":
            known = first["ctx"]["expected_tags"].replace("'", "").split(", ")
            raise UserError(f"{where}: no format {tree['format']!r}{closest(str(tree['format']), known)}") from None
        message = (
            "unknown setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        )
        raise UserError(f"{where}: {'.'.join(steps) or 'source'}: {message}") from None


def described(path: str, form: str, options: Mapping[str, Any], sets: Iterable[str], where: str) -> Source:
    """The block of a path, a format, options of which some may be None, and settings as KEY=VALUE, dots in the keys.

    The path of a `world` is the task's name. UserError names `where` for what is no setting of the format.
    """
    tree: dict[str, Any] = {"format": form, "kind" if form == "world" else "path": path}
    tree |= {key: value for key, value in options.items() if value is not None}
    for text in sets:
        key, equals, value = text.partition("=")
        *steps, last = key.split(".")
        inner = tree
        for step in steps:
            inner = inner.setdefault(step, {})
        if not equals or not isinstance(inner, dict):
            raise UserError(f"{where}: {text!r}; settings are written KEY=VALUE, columns.images=pictures for example")
        try:
            inner[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{where}: {text!r}: {value!r} is not a YAML value") from None
    return source_block(tree, where)


def _count(reasons: list[Reason], what: str, example: str) -> None:
    kind = _DETAIL.sub("", what)
    found = next((reason for reason in reasons if _DETAIL.sub("", reason.what) == kind), None)
    if found is None and len(reasons) >= MOST_REASONS:
        found = next((reason for reason in reasons if reason.what == OTHER), None)
        what = OTHER
    if found is None:
        found = Reason(what)
        reasons.append(found)
    found.samples += 1
    if len(found.examples) < EXAMPLES:
        found.examples.append(example)


def _yaml(settings: Any) -> str:
    block = settings.model_dump(mode="json", exclude_defaults=True)
    block = {"format": settings.format, **block, "path": str(Path(settings.path).absolute())}
    name = re.sub(r"\W+", "_", Path(settings.path).name.partition(".")[0]) or "converted"
    return (
        "# The source block of a recipe. Without `regions`, places are pixels of the original picture in fields.\n"
        + yaml.safe_dump({"sources": {name: block}}, sort_keys=False, width=120)
    )
