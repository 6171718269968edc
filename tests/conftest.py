"""What several tests share: one finished tiny run, and the command line as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Jobs that a shell starts in the background ignore Ctrl-C, and so would all that the tests start and interrupt."""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def mm15_command() -> Command:
    """Runs ``mm15 ...`` in a process of its own, or another `start` of it; keywords are those of subprocess.run."""

    def command(
        *arguments: str | Path, start: Sequence[str] = ("-m", "mm15"), **options: object
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *start, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
            **options,
        )

    return command


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run: three stages, evaluation after each, report."""
    from mm15 import recipe
    from mm15.evaluate.report import write_report
    from mm15.evaluate.stage import evaluate_stage
    from mm15.train.run import run

    out = tmp_path_factory.mktemp("run") / "tiny"
    run(recipe.load(TINY), out, evaluate=evaluate_stage)
    write_report(out)
    return out
