"""Checkpoints: torch's distributed checkpoint (DCP) plus a small JSON, complete only with its marker.

    stages/sft/step-000200/        *.distcp, .metadata    model and optimiser, loadable by any number of processes
                           state.json            step, loader state, recipe fingerprint
                           COMPLETE              written last; a folder without it never existed

A save goes to a fresh folder, so a crash at any moment leaves the former checkpoint whole.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from ..errors import UserError
from ..files import write_atomically
from .parallel import World

MARKER = "COMPLETE"
_NAME = re.compile(r"step-(\d+)")


def save(
    folder: Path,
    step: int,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    world: World,
    keep: int,
) -> Path:
    """Writes ``folder/step-N`` and drops all but the newest `keep` complete ones (and any incomplete)."""
    path = folder / f"step-{step:06d}"
    if world.is_main:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    world.barrier()
    tensors, optimizer_state = get_state_dict(model, optimizer)
    try:
        with _alone_is_fine():
            dcp.save({"model": tensors, "optimizer": optimizer_state}, checkpoint_id=path, no_dist=world.size == 1)
    except (OSError, CheckpointException) as error:
        raise UserError(
            f"{path}: the checkpoint cannot be saved ({_cause(error)}); make room and run again, "
            "the former checkpoint is whole"
        ) from error
    if world.is_main:
        write_atomically(path / "state.json", json.dumps({"step": step, **state}))
        write_atomically(path / MARKER, "")
        _retain(folder, keep)
    world.barrier()
    return path


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage, or None."""
    return max(_complete(folder), default=None, key=_step)


def read_state(path: Path) -> dict[str, Any]:
    """The JSON beside the tensors; raises UserError when it cannot be read."""
    try:
        return json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: unreadable checkpoint ({error}); delete this folder to resume from the former one"
        ) from None


def load(path: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, world: World) -> None:
    """Loads model (and optimiser) in place, whatever number of processes saved them.

    Raises UserError naming the folder when files are missing, damaged, or of another model.
    """
    options = StateDictOptions(strict=True)
    try:
        if optimizer is None:
            tensors: dict[str, Any] = {"model": get_state_dict(model, [])[0]}
            with _alone_is_fine():
                dcp.load(tensors, checkpoint_id=path, no_dist=world.size == 1)
            set_model_state_dict(model, tensors["model"], options=options)
            return
        tensors, optimizer_state = get_state_dict(model, optimizer)
        both: dict[str, Any] = {"model": tensors, "optimizer": optimizer_state}
        with _alone_is_fine():
            dcp.load(both, checkpoint_id=path, no_dist=world.size == 1)
        set_state_dict(
            model, optimizer, model_state_dict=both["model"], optim_state_dict=both["optimizer"], options=options
        )
    except (Exception, CheckpointException) as error:  # DCP's own is not an Exception
        raise UserError(
            f"{path}: unreadable checkpoint ({_cause(error)}); delete this folder to resume from the former one"
        ) from error


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """DCP warns that one process is all there is, which is what it was told."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield


def _complete(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / MARKER).exists()]


def _cause(error: BaseException) -> str:
    """The innermost reason in one short line; an interrupt is raised again."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, KeyboardInterrupt):  # DCP wraps Ctrl-C too; it is no fault of the files
        raise error
    return " ".join(str(error).split())[:160] or type(error).__name__


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _retain(folder: Path, keep: int) -> None:
    whole = sorted(_complete(folder), key=_step)
    for path in folder.glob("step-*"):
        if path not in whole[-keep:]:
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
