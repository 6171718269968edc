"""Processes of a test that are forked, joined by gloo if there are several, and ended by force: what harnesses share.

A process that has imported torch forks in milliseconds; starting one anew takes seconds. The parent has no process
group and no threads of its own, so its children may have both.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from mm15.errors import Stopped, UserError


class Life:
    """`ranks` processes doing `work`; what process r says goes to ``LOGS.r.log``."""

    def __init__(self, work: Callable[[], object], logs: Path, *, ranks: int = 1) -> None:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        self.began = time.time()
        self.logs = [logs.with_name(f"{logs.name}.{rank}.log") for rank in range(ranks)]
        self.children: list[int] = []
        self._status: dict[int, int] = {}
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                os.setsid()
                if ranks > 1:
                    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
                with open(self.logs[rank], "w") as log:
                    os.dup2(log.fileno(), 2)
                os._exit(outcome(work))
            self.children.append(child)

    def ended(self) -> bool:
        """Whether all processes have."""
        for child in self.children:
            if child not in self._status and (found := os.waitpid(child, os.WNOHANG))[0]:
                self._status[child] = os.waitstatus_to_exitcode(found[1])
        return len(self._status) == len(self.children)

    def wait(self, seconds: float = 300.0) -> list[int]:
        """How each process ended; they are given so many seconds."""
        until = time.monotonic() + seconds
        while not self.ended():
            assert time.monotonic() < until, f"still running after {seconds} s: {self.last_lines()}"
            time.sleep(0.01)
        return [self._status[child] for child in self.children]

    def last_lines(self) -> list[str]:
        """What each process said last."""
        return [(log.read_text().splitlines() or [""])[-1] for log in self.logs]

    def succeed(self) -> None:
        """Waits, and fails with what the processes said if one of them did."""
        status = self.wait()
        assert not any(status), (status, [log.read_text()[-2000:] for log in self.logs])


def outcome(work: Callable[[], object]) -> int:
    """The exit status of work and what it says on stderr, as the command line has them."""
    try:
        work()
    except UserError as error:
        return said(f"mm15: {error}", 2)
    except Stopped as stopped:
        return said(f"mm15: {stopped}", 143)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return said("", 1)
    return 0


def said(text: str, status: int) -> int:
    """The status, after the text has gone to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return status


def free_port() -> int:
    """A port that nobody listens at."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
