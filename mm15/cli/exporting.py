"""The command that makes a plain transformers folder of any checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import say


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    stage: Annotated[str | None, typer.Option(help="Of this stage (default: the last that has a checkpoint).")] = None,
    step: Annotated[int | None, typer.Option(help="Of this step (default: the newest kept).")] = None,
) -> None:
    """Write a checkpoint of a run as a plain transformers folder: safetensors, configuration, processor."""
    from ..train.exporting import export_checkpoint

    stage, step = export_checkpoint(run, out, stage=stage, step=step)
    say(f"{out}: step {step} of stage {stage}")
