"""Checkpoints: torch's distributed checkpoint (DCP) plus a small JSON, complete only with its marker.

    stages/sft/step-000200/        *.distcp, .metadata    model and optimiser, loadable by any number of processes
                           state.json            step, loader state, recipe fingerprint
                           COMPLETE              written last; a folder without it never existed

A save goes to a fresh folder, so a crash at any moment leaves the former checkpoint whole. One that fails (a full disk)
leaves nothing, and fails on all processes. Asynchronous saves copy the state to host memory and write it in a thread,
over a process group of their own; at most one is being written, and its failure is told at the next save or the end.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from .. import recipe
from ..errors import UserError
from ..files import write_atomically
from .parallel import World
from .stopping import uninterrupted

log = logging.getLogger(__name__)

MARKER = "COMPLETE"
_NAME = re.compile(r"step-(\d+)")


class Saver:
    """Writes a stage's checkpoints and drops those that are not to be kept. All processes make one and use it alike.

    As a `with` block it waits at the end for what is being written.
    """

    def __init__(self, folder: Path, settings: recipe.Checkpoint, world: World) -> None:
        self.folder, self.settings, self.world = folder, settings, world
        self._writing: tuple[Path, Callable[[], BaseException | None]] | None = None
        self._group: dist.ProcessGroup | None = None
        if settings.asynchronous:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            if world.size > 1:  # collectives of the thread must not meet those of the training
                self._group = dist.new_group(backend="gloo")

    def due(self, step: int) -> bool:
        """Whether the recipe asks for a checkpoint of this step."""
        forever = self.settings.keep_every
        return step % self.settings.every == 0 or (forever is not None and step % forever == 0)

    @uninterrupted()
    def save(
        self, step: int, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> Path:
        """Writes ``folder/step-N``, or begins to. Raises UserError when this or the former save failed."""
        self.wait()
        path = self.folder / f"step-{step:06d}"
        self._together(path, self._attempt(lambda: self._begin(path, {"step": step, **state})))
        tensors, optimizer_state = get_state_dict(model, optimizer)
        both = {"model": tensors, "optimizer": optimizer_state}
        options: dict[str, Any] = {"checkpoint_id": path, "no_dist": self.world.size == 1}
        _alone_is_fine()
        if self.settings.asynchronous:
            written: Any = dcp.async_save(both, process_group=self._group, **options)
            self._writing = path, self._thread.submit(self._attempt, lambda: self._end(path, written.result)).result
        else:
            error = self._attempt(lambda: self._end(path, lambda: dcp.save(both, **options)))
            self._writing = path, lambda: error
            self.wait()
        return path

    def wait(self) -> None:
        """Until what is being written is whole. Raises UserError when it could not be."""
        if self._writing is not None:
            path, outcome = self._writing
            self._writing = None
            self._together(path, outcome())

    def _begin(self, path: Path, state: dict[str, Any]) -> None:
        """An empty folder with the state; what was begun and never finished goes, and gives its room back."""
        if self.world.is_main:
            for left in self.folder.glob("step-*"):
                if not (left / MARKER).exists():
                    shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            write_atomically(path / "state.json", json.dumps(state))

    def _end(self, path: Path, write: Callable[[], Any]) -> None:
        """The tensors, on all processes; then the marker, and what is not to be kept goes."""
        write()
        if self.world.is_main:
            write_atomically(path / MARKER, "")
            _retain(self.folder, self.settings)

    @staticmethod
    def _attempt(work: Callable[[], None]) -> BaseException | None:
        """What went wrong on the disk, if anything did."""
        try:
            work()
        except (OSError, CheckpointException) as error:
            return error
        return None

    def _together(self, path: Path, error: BaseException | None) -> None:
        """UserError on all processes where one has an error."""
        cause = None if error is None else _cause(error)
        if self.world.total(error is not None):
            if self.world.is_main:
                shutil.rmtree(path, ignore_errors=True)
            why = "another process could not" if cause is None else _line(cause)
            mend = "make room" if cause is None or isinstance(cause, OSError) else "mend that"
            raise UserError(
                f"{path}: the checkpoint cannot be saved ({why}); {mend} and run again, the former checkpoint is whole"
            ) from error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._writing is not None:  # the run has failed, perhaps on one process only: nothing can be agreed on
            path, outcome = self._writing
            try:
                failed = outcome()
            except Exception as lost:
                failed = lost
            if failed is not None:
                log.warning("%s: the checkpoint could not be saved (%s)", path, _line(_cause(failed)))
        if self.settings.asynchronous:
            self._thread.shutdown()


def save(
    folder: Path,
    step: int,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    world: World,
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """One checkpoint, written before this returns; the newest `keep` stay, and each of a step `keep_every` divides."""
    saver = Saver(folder, recipe.Checkpoint(keep=keep, keep_every=keep_every), world)
    return saver.save(step, model=model, optimizer=optimizer, state=state)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a stage, or None."""
    return max(complete(folder), default=None, key=step_of)


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a stage, oldest first."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / MARKER).exists()]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step that a checkpoint's folder is of."""
    return int(path.name.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """The JSON beside the tensors; raises UserError when it cannot be read."""
    try:
        return json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: unreadable checkpoint ({error}); delete this folder to resume from the former one"
        ) from None


@uninterrupted()
def load(path: Path, *, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None, world: World) -> None:
    """Loads model (and optimiser) in place, whatever number of processes saved them.

    Raises UserError naming the folder when files are missing, damaged, or of another model.
    """
    options = StateDictOptions(strict=True)
    _alone_is_fine()
    try:
        tensors, optimizer_state = get_state_dict(model, [] if optimizer is None else optimizer)
        _of_this_model(path, tensors)
        found: dict[str, Any] = {"model": tensors}
        if optimizer is None:
            dcp.load(found, checkpoint_id=path, no_dist=world.size == 1)
            set_model_state_dict(model, found["model"], options=options)
            return
        found["optimizer"] = optimizer_state
        dcp.load(found, checkpoint_id=path, no_dist=world.size == 1)
        set_state_dict(
            model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"], options=options
        )
    except UserError:
        raise
    except (Exception, CheckpointException) as error:  # DCP's own is not an Exception
        raise UserError(
            f"{path}: unreadable checkpoint ({_line(_cause(error))}); delete this folder to resume from the former one"
        ) from error


def _of_this_model(path: Path, tensors: dict[str, Any]) -> None:
    """UserError for the first weight of another name or shape; DCP itself would take what fits of a larger model.

    Also reads the metadata before DCP does, which would log two tracebacks where it is damaged.
    """
    metadata = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    there = {name.removeprefix("model."): item for name, item in metadata.items() if name.startswith("model.")}
    for name in [*tensors, *there]:
        sizes = [None if item is None else tuple(item) for item in (_size(there.get(name)), _size(tensors.get(name)))]
        if sizes[0] != sizes[1]:
            raise UserError(
                f"{path}: a checkpoint of another model ({name}: {sizes[0] or 'not'} there, {sizes[1] or 'not'} here); "
                "restore the model's settings or choose another --out"
            )


def _size(of: Any) -> torch.Size | None:
    """The shape of a tensor, or of one in a checkpoint's metadata."""
    return None if of is None else of.shape if isinstance(of, torch.Tensor) else of.size


def _alone_is_fine() -> None:
    """DCP warns, in whatever thread, that one process is all there is, which is what it was told."""
    warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")


def _cause(error: BaseException) -> BaseException:
    """The innermost reason; Ctrl-C and SIGTERM are raised again."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    chain = [error]
    while (before := chain[-1].__context__) is not None:
        chain.append(before)
    for under in chain:  # DCP wraps these too, and torch's C++ hides them; they are no fault of the files
        if not isinstance(under, (Exception, CheckpointException)):
            raise under
    return next((under for under in chain if isinstance(under, OSError)), error)  # a full disk has words of its own


def _line(error: BaseException) -> str:
    """An error in one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__


def _retain(folder: Path, settings: recipe.Checkpoint) -> None:
    for path in complete(folder)[: -settings.keep]:
        if settings.keep_every is None or step_of(path) % settings.keep_every:
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)
