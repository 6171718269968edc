"""Draw numbers to documents, in the order they were asked for, with worker processes.

    Task(draws) --Documents, in a worker--> Document | Outline | Skipped for each

A draw is encoded whole, or only outlined: how large it is, from the headers of its pictures. A page of 1700x2200 is
outlined in a fiftieth of the time it takes to encode, a photo of 640x480 in an eighth; what needs no decoding (text,
and pictures that are pixels already) is encoded at once, because that costs the same. Reading is a function of the
draw number and answers come in the order of the tasks, so it does not matter how many workers there are.

A draw is Skipped when its sample cannot be read or measured (UserError or ValueError), and an Outline with a reason
when it can, but not encoded: a picture whose header is whole and whose pixels are not. Both ways of reading agree on
which. Any other exception stops the run and names the sample.

Workers leave Ctrl-C and SIGTERM to the main process, whoever sends them to all: it may finish a step and save first.
They end when the main process tells them to, or within two seconds when it is gone. One that hangs is reported by the
sample it is at. Documents come as pickles through a pipe (0.8 ms a MB of tiles), not in shared memory, which containers
often lack.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..errors import UserError
from ..sample import Sample
from ..text.render import Encoded, Ref
from .mixture import Mixture
from .packing import Document, Outline, Skipped
from .sources import SourceData

if TYPE_CHECKING:
    from ..processor import Measured

Found = Document | Outline | Skipped

_LOOK_EVERY = 1
"""So often, in seconds, torch's loader looks whether workers are alive while they give nothing: it says `_SILENT`."""
_SILENT, _DEAD = "DataLoader timed out", "DataLoader worker (pid"
"""How its errors begin."""


@dataclass(frozen=True)
class Task:
    """Draws to be read one after the other; `whole`: encoded, else only outlined where that is cheaper."""

    draws: tuple[int, ...]
    whole: bool


class Documents:
    """What draw k of a mixture is. Pure, so it does not matter which process asks, and when."""

    def __init__(
        self,
        mixture: Mixture,
        sources: Mapping[str, SourceData],
        encode: Callable[[Sample], Encoded],
        measure: Callable[[Sample], Measured],
    ) -> None:
        self.mixture = mixture
        self.sources = {name: sources[name] for name in mixture.shares}
        self.encode = encode
        self.measure = measure

    def read(self, draw: int, *, whole: bool) -> Found:
        """One draw. RuntimeError naming the sample for any failure but unusable data."""
        ref = self.mixture.draw(draw)
        sample_id = str(ref.index)
        try:
            sample = self.sources[ref.source][ref.index]
            sample_id = sample.id
            return (
                self._encoded(draw, ref, sample) if whole or _is_decoded(sample) else self._outline(draw, ref, sample)
            )
        except ValueError as error:
            return Skipped(draw, ref.source, ref.index, ref.epoch, sample_id, _reason(error))
        except Exception as error:
            raise RuntimeError(
                f"draw {draw}, sample {sample_id!r} ({ref.source}[{ref.index}]): {type(error).__name__}: {error}"
            ) from error

    def _encoded(self, draw: int, ref: Ref, sample: Sample) -> Document | Outline:
        try:
            encoded = self.encode(sample)
        except ValueError as error:
            return replace(self._outline(draw, ref, sample), why=_reason(error))
        _check_tokens(len(encoded))
        return Document(draw, sample.id, ref, replace(encoded, ref=ref))

    def _outline(self, draw: int, ref: Ref, sample: Sample) -> Outline:
        found = self.measure(sample)
        _check_tokens(found.tokens)
        return Outline(draw, sample.id, ref, found.tokens, found.target_tokens, found.tiles)


def _is_decoded(sample: Sample) -> bool:
    return all(isinstance(image.data, np.ndarray | PILImage.Image) for image in sample.images)


def _check_tokens(tokens: int) -> None:
    if not tokens:
        raise ValueError("the sample has no tokens")


def _reason(error: ValueError) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ------------------------------------------------------------------------------------------------------------- workers


def serve(
    documents: Documents, tasks: Iterator[Task], *, workers: int, ahead: int, timeout: int
) -> Generator[list[Found], None, None]:
    """What each task asks for, in their order; the workers live as long as the iteration.

    Each worker has `ahead` tasks at a time: `tasks` is read that far before the first answer, and then one for each.
    Raises UserError naming the sample when workers have given nothing for `timeout` seconds.
    """
    if not workers:
        for task in tasks:
            yield [documents.read(draw, whole=task.whole) for draw in task.draws]
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or tokenizers warns at each fork
    fork = "fork" in multiprocessing.get_all_start_methods()
    context: BaseContext = multiprocessing.get_context("fork" if fork else "spawn")
    board = _Board(context, workers)
    loader = DataLoader(
        _Served(documents, board),
        batch_size=None,
        sampler=tasks,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=ahead,
        timeout=min(timeout, _LOOK_EVERY),
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # or the loader draws from the global one, and dropout depends on workers
        multiprocessing_context=context,
    )
    with _signals_kept():
        answers = iter(loader)
    since = time.monotonic()
    while True:
        try:
            with board.deaths_told():
                found = next(answers, None)
        except RuntimeError as error:
            if str(error).startswith(_SILENT) and time.monotonic() - since < timeout:
                continue
            failure = _explained(error, documents, board, timeout)
            break
        if found is None:
            return
        yield found
        since = time.monotonic()
    del answers  # the workers end here, as no traceback holds them
    raise failure


class _Board:
    """In memory that all processes share: each worker's process, the draw it is at (-1: none) and since when."""

    def __init__(self, context: BaseContext, workers: int) -> None:
        self._pids = context.RawArray("q", workers)
        self._draws = context.RawArray("q", [-1] * workers)
        self._since = context.RawArray("d", workers)

    def enter(self, worker: int) -> None:
        """By a worker, before anything else."""
        self._pids[worker] = os.getpid()

    def note(self, worker: int, draw: int) -> None:
        """By a worker, before each draw, and with -1 when it has done its task."""
        self._since[worker] = time.monotonic()
        self._draws[worker] = draw

    def slowest(self) -> tuple[int, float] | None:
        """The draw that a worker has been at for longest, and how many seconds; None when all are idle."""
        busy = [(since, draw) for since, draw in zip(self._since, self._draws, strict=True) if draw >= 0]
        since, draw = min(busy, default=(0.0, -1))
        return None if draw < 0 else (draw, time.monotonic() - since)

    def draw_of(self, told: str) -> int:
        """The draw that the worker whose process a message tells of was at; else the first that any is at."""
        at = [draw for pid, draw in zip(self._pids, self._draws, strict=True) if str(pid) in told.split("pid", 1)[-1]]
        return at[0] if at else min(self._draws)

    @contextmanager
    def deaths_told(self) -> Iterator[None]:
        """Within the block the death of a worker is an error at once: one that dies while it hands over leaves half a
        message in the pipe, for whose rest torch's loader would wait for ever. Only the main thread
        has signals in Python; elsewhere it waits."""
        if threading.current_thread() is not threading.main_thread() or not hasattr(os, "waitid"):
            yield
            return
        former = signal.signal(signal.SIGCHLD, self._tell_deaths)
        try:
            self._tell_deaths()
            yield
        finally:
            signal.signal(signal.SIGCHLD, former or signal.SIG_DFL)

    def _tell_deaths(self, *_: object) -> None:
        for pid in self._pids:
            if pid and _has_died(pid):
                raise RuntimeError(f"{_DEAD} {pid}) died")

    def end_busy(self) -> None:
        """Ends the workers that are at a draw; the others may hold locks, and end when they are told."""
        busy = {pid for pid, draw in zip(self._pids, self._draws, strict=True) if draw >= 0}
        for process in multiprocessing.active_children():
            if process.pid in busy:
                process.terminate()


class _Served(Dataset):
    """Documents as a worker makes them, a task at a time: handing one over costs as much as making a small one."""

    def __init__(self, documents: Documents, board: _Board) -> None:
        self.documents, self.board = documents, board

    def __getitem__(self, task: Task) -> list[Found]:
        worker = get_worker_info().id  # type: ignore[union-attr]
        found = []
        for draw in task.draws:
            self.board.note(worker, draw)
            found.append(self.documents.read(draw, whole=task.whole))
        self.board.note(worker, -1)
        return found


def _has_died(pid: int) -> bool:
    """Whether a child ended otherwise than by coming to its end; leaves it to be waited for."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # has been waited for, by whoever told of it
        return False
    return ended is not None and (ended.si_code != os.CLD_EXITED or ended.si_status != 0)


def _as_it_is(found: Any) -> Any:
    return found


def _explained(error: RuntimeError, documents: Documents, board: _Board, timeout: int) -> Exception:
    """What to raise for an error of torch's loader: the same, without its frames, when it came out of a document."""
    if str(error).startswith(_SILENT):
        told = _hung(documents, board, timeout)
        board.end_busy()  # or the loader waits for each before it does
        return UserError(told)
    if str(error).startswith(_DEAD):
        return RuntimeError(_died(documents, board, str(error)))
    return error.with_traceback(None)


def _hung(documents: Documents, board: _Board, timeout: int) -> str:
    slowest = board.slowest()
    if slowest is None:
        return f"the loader's workers have handed over nothing for {timeout} s (worker_timeout); run again to resume"
    draw, seconds = slowest
    ref = documents.mixture.draw(draw)
    return (
        f"a loader worker has been at sample {ref.index} of source {ref.source!r} (draw {draw}) for {seconds:.0f} s "
        f"(worker_timeout={timeout}); see whether its file can be read (mm15 data show --source {ref.source} --sample "
        f"{ref.index}), then run again to resume, with a larger worker_timeout if it is only slow"
    )


def _died(documents: Documents, board: _Board, told: str) -> str:
    draw = board.draw_of(told)
    ref = None if draw < 0 else documents.mixture.draw(draw)
    place = "" if ref is None else f" at draw {draw}, {ref.source}[{ref.index}]"
    return (
        f"a loader worker died{place} (killed, or out of memory); run again to resume, with fewer workers if it was "
        "memory"
    )


# ------------------------------------------------------------------------------------------------------------- signals

_WAITS = hasattr(signal, "sigtimedwait")
"""Whether a thread can wait for a signal and be told who sent it; not on a Mac."""


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Holds SIGTERM back in this thread and in the processes that are made meanwhile, which keep it so.

    And undoes the handler by which torch's loader raises, wherever the main process is, when a worker dies: in the
    middle of a step or of a checkpoint. Asking for the next documents says it as well (`deaths_told`).
    """
    main = threading.current_thread() is threading.main_thread()
    child = signal.getsignal(signal.SIGCHLD)
    held: set[int | signal.Signals] = set()
    if _WAITS:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGCHLD, child or signal.SIG_DFL)
        if _WAITS:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _start_worker(worker: int) -> None:
    """Ctrl-C and SIGTERM go to every process of a terminal or a job; only the main one shall act on them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    board: _Board = get_worker_info().dataset.board  # type: ignore[union-attr]
    board.enter(worker)
    main = multiprocessing.parent_process().pid  # type: ignore[union-attr]
    threading.Thread(target=_obey, args=(main,), daemon=True).start()


def _obey(main: int) -> None:
    """Ends this worker when the main process asks for it by SIGTERM or is gone; also one that hangs, or writes into a
    pipe nobody reads from any more, where torch's own watch does not look."""
    while os.getppid() == main:
        if not _WAITS:
            time.sleep(1)
            continue
        told = signal.sigtimedwait({signal.SIGTERM}, 1)
        if told is not None and told.si_pid == main:
            break
    os._exit(0)
