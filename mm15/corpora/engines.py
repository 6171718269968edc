"""Who does the work: this process, a pool of local ones, or Ray; results always come in the order of the items.

Only so many items are handed out ahead of the one whose turn it is, so that memory stays bounded. A result is what the
function returned, or Failed: it raised UserError, or native code crashed its process on it twice. Any other exception
stops everything with a RuntimeError that names the item and shows where it happened.

The local pool starts fresh interpreters (spawn), which is safe with threads and open libraries and takes half a second
a worker. It is not concurrent.futures, because that cannot say which item a dead process was at. Workers leave Ctrl-C
to the main process, and end by themselves when that is killed.

Ray: the cluster of the RAY_ADDRESS variable, where mm15 is installed and the files are under the same paths on all
machines; without it, one of `workers` processors is started here.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from ..errors import UserError

Engine = Literal["local", "ray"]

_AHEAD = 4
"""Results a worker that may wait for their turn."""
_AT_ONCE = 2
"""Items a worker has been handed: the one it is at, and the next, so that it never waits for us."""
_CRASHES = 2
"""How often a process may crash on an item before that is skipped."""
_PATIENCE = 3.0
"""Seconds that a worker has to end by itself when it is told to."""
_CRASH = {getattr(signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGTRAP")}
CRASHED = "its process crashed while making it (a fault in native code)"


@dataclass(frozen=True)
class Failed:
    """An item that could not be made, and why."""

    reason: str


@dataclass(frozen=True)
class _Fault:
    """An exception that is our fault, as text, because not every exception survives the way to another process."""

    kind: str
    trace: str


def in_order(
    function: Callable[[Any], Any], items: Sequence[Any], *, start: int = 0, workers: int, engine: Engine = "local"
) -> Generator[Any, None, None]:
    """`function` of each of ``items[start:]``, in order: its result, or Failed. See the module docstring.

    `function` is pickled once a worker. `workers` 0 calls it here. UserError when a worker is killed from outside.
    """
    if workers < 0:
        raise UserError(f"workers={workers}; use 0 or more")
    if engine == "ray":
        results = _ray(function, items, start, workers)
    elif workers == 0:
        results = (_attempt(function, item) for item in items[start:])
    else:
        results = _Pool(function, items, start, workers).results()
    with contextlib.closing(results):
        for number, result in enumerate(results, start):
            if isinstance(result, _Fault):
                raise RuntimeError(f"item {number} ({items[number]!r:.200}): {result.kind}\n{result.trace}")
            yield result


def _attempt(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except UserError as error:
        return Failed(" ".join(str(error).split()))
    except Exception as error:
        return _Fault(f"{type(error).__name__}: {error}", traceback.format_exc())


# ---------------------------------------------------------------------------------------------------------------- local


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    handed: deque[int]
    """The items it has, the one it is at first."""


class _Pool:
    """Local processes, each with a pipe of its own, so that a dead one is known with the item it was at."""

    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any], start: int, workers: int) -> None:
        self.function, self.items, self.start = function, items, start
        self.workers = min(workers, max(1, len(items) - start))
        self.crew: list[_Worker] = []
        self.again: list[int] = []
        """Items handed to a process that died, lowest first; they are handed out before new ones."""
        self.next = start
        self.crashes: Counter[int] = Counter()
        self.done: dict[int, Any] = {}

    def results(self) -> Generator[Any, None, None]:
        try:
            for turn in range(self.start, len(self.items)):
                while turn not in self.done:
                    self._hand_out(turn + _AHEAD * self.workers)
                    for pipe in wait([worker.pipe for worker in self.crew]):
                        self._receive(next(worker for worker in self.crew if worker.pipe is pipe))
                yield self.done.pop(turn)
        finally:
            self._end()

    def _hand_out(self, limit: int) -> None:
        """Give items below `limit` to the workers that have the fewest."""
        limit = min(limit, len(self.items))
        while self.again or self.next < limit:
            if len(self.crew) < self.workers:
                self._hire()
            worker = min(self.crew, key=lambda one: len(one.handed))
            if len(worker.handed) >= _AT_ONCE:
                return
            number = heapq.heappop(self.again) if self.again else self.next
            self.next = max(self.next, number + 1)
            worker.handed.append(number)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: `wait` will say so
                worker.pipe.send(self.items[number])

    def _hire(self) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.function), daemon=True)
        with _ctrl_c_waits():
            process.start()
        theirs.close()
        self.crew.append(_Worker(process, ours, deque()))

    def _receive(self, worker: _Worker) -> None:
        try:
            result = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker)
        else:
            self.done[worker.handed.popleft()] = result

    def _bury(self, worker: _Worker) -> None:
        """A worker is dead: what it was at is tried again or given up, and what it had besides goes to others."""
        self.crew.remove(worker)
        worker.process.join()
        status = worker.process.exitcode or 0
        current = worker.handed.popleft() if worker.handed else None
        for number in worker.handed:
            heapq.heappush(self.again, number)
        if current is None or -status not in _CRASH:
            raise UserError(_killed(status, current, self.items))
        self.crashes[current] += 1
        if self.crashes[current] < _CRASHES:
            heapq.heappush(self.again, current)
        else:
            self.done[current] = Failed(CRASHED)

    def _end(self) -> None:
        """Idle workers end when their pipe closes; one in the middle of an item is stopped after a while."""
        for worker in self.crew:
            worker.pipe.close()
        for worker in self.crew:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()


def _killed(status: int, current: int | None, items: Sequence[Any]) -> str:
    how = f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"
    where = "" if current is None else f" at item {current} ({items[current]!r:.200})"
    return (
        f"a worker process {how}{where}; if memory ran out, use fewer --workers; finished shards are kept and the same "
        "command continues"
    )


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C is held back meanwhile; a process that is started inherits that and never sees it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """A worker's life: items in, results out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            pipe.send(_attempt(function, pipe.recv()))


# ------------------------------------------------------------------------------------------------------------------ Ray


def _ray(function: Callable[[Any], Any], items: Sequence[Any], start: int, workers: int) -> Generator[Any, None, None]:
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs Ray; pip install 'mm15[ray]'") from None
    ours, former = not ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    if ours:
        _start_ray(workers)
    waiting: deque[Any] = deque()
    try:
        remote = ray.remote(num_cpus=1, max_retries=_CRASHES - 1)(_attempt)
        shared = ray.put(function)
        limit = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        following = iter(items[start:])
        for turn in range(start, len(items)):
            for _, item in zip(range(limit - len(waiting)), following, strict=False):
                waiting.append(remote.remote(shared, item))
            try:
                yield ray.get(waiting.popleft())
            except ray.exceptions.WorkerCrashedError:
                yield Failed(CRASHED)
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[-1]
                raise UserError(
                    f"Ray could not make item {turn} ({items[turn]!r:.200}): {why}; finished shards are kept and the "
                    "same command continues"
                ) from None
    finally:
        for task in waiting:
            ray.cancel(task)
        if ours:
            ray.shutdown()
            if former is not None:  # None: not Python's
                with contextlib.suppress(ValueError):  # not in the main thread, where Ray took nothing
                    signal.signal(signal.SIGTERM, former)  # which Ray keeps, and processes forked later would inherit


def _start_ray(workers: int) -> None:
    import logging

    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if not os.environ.get("RAY_ADDRESS"):
        quiet |= {"num_cpus": max(1, workers), "include_dashboard": False}
    try:
        ray.init(**quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"Ray cannot be reached or started ({error}); check RAY_ADDRESS") from None
