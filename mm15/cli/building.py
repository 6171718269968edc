"""What the ``mm15 data build`` commands share: their options, the training and the held-out part, the report."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..corpora.build import Builder, BuildReport


class To(StrEnum):
    """Forms of shards."""

    WEBDATASET = "webdataset"
    PARQUET = "parquet"


class EngineName(StrEnum):
    """Who does the work."""

    LOCAL = "local"
    RAY = "ray"


class PictureForm(StrEnum):
    """Forms of pictures."""

    JPEG = "jpeg"
    PNG = "png"


class Split(StrEnum):
    """The parts of a dataset; what is held out is never in the other."""

    TRAIN = "train"
    HELDOUT = "heldout"


ToOption = Annotated[To, typer.Option(help="Form of the shards.")]
Workers = Annotated[int, typer.Option(help="Processes; 0 works in this one.", min=0)]
EngineOption = Annotated[EngineName, typer.Option(help="local: processes here; ray: the cluster of RAY_ADDRESS.")]
Heldout = Annotated[float, typer.Option(help="Share kept for evaluation, in OUT/heldout.", min=0, max=0.9)]
Seed = Annotated[int, typer.Option(help="Seed of all choices.")]


def one_of_each(text: str, known: Sequence[str], option: str) -> tuple[str, ...]:
    """Names separated by commas, in the order of `known`. UserError for others, with the closest known one."""
    from ..recipe.settings import closest

    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in known:
            raise UserError(f"{option} has {name!r}{closest(name, list(known))}; use {', '.join(known)}")
    if not named:
        raise UserError(f"{option} is empty; use {', '.join(known)}")
    return tuple(name for name in known if name in named)


def run_builds(
    builder_of: Callable[[Split], Builder],
    out: Path,
    *,
    source: str,
    heldout: float,
    to: To,
    workers: int,
    engine: EngineName,
    json: bool,
) -> None:
    """Build OUT/train and, with a `heldout` share, OUT/heldout; then the report and the block to paste on stdout.

    `builder_of` gives the builder of a part; `source` is the dataset's name in the recipe block. UserError when there
    are no samples at all.
    """
    from ..corpora.build import build

    reports: dict[str, BuildReport] = {}
    for split in Split if heldout else (Split.TRAIN,):
        part = build(builder_of(split), out / split.value, to=to.value, workers=workers, engine=engine.value)
        reports[split.value] = part
    if not any(report.samples for report in reports.values()):
        reasons = {reason for report in reports.values() for reason in report.skipped}
        raise UserError(f"{out}: no samples came of it ({'; '.join(sorted(reasons)[:3]) or 'nothing to make them of'})")
    if json:
        sys.stdout.write(jsonlib.dumps({"out": str(out), "parts": {k: asdict(v) for k, v in reports.items()}}) + "\n")
    else:
        sys.stdout.write(_readable(reports, out, source))


def share_of(samples: int, heldout: float, split: Split) -> int:
    """How many of `samples` a part of a generated dataset has: at least one."""
    kept = round(samples * heldout)
    return max(1, kept if split is Split.HELDOUT else samples - kept)


def _readable(reports: dict[str, Any], out: Path, source: str) -> str:
    lines = []
    for split, report in reports.items():
        lines.append(
            f"{split}: {report.samples:,} samples in {len(report.shards)} shards ({report.bytes / 1e6:,.1f} MB) "
            f"below {out / split}"
        )
        if report.tasks:
            lines.append("  " + ", ".join(f"{count:,} {task}" for task, count in sorted(report.tasks.items())))
        if report.skipped:
            lines.append(f"  skipped {sum(report.skipped.values()):,} ({out / split / 'skipped.jsonl'}):")
            most = sorted(report.skipped.items(), key=lambda pair: -pair[1])
            lines += [f"    {count:,} {reason}" for reason, count in most[:8]]
    block = ", ".join(f"{key}: {jsonlib.dumps(value)}" for key, value in reports["train"].source.items())
    lines += ["To train on it:", "sources:", f"  {source}: {{{block}}}"]
    return "\n".join(lines) + "\n"
