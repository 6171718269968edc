"""examples/slurm.sbatch with a stand-in for Slurm: how a run starts, is told of SIGTERM, and is queued again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "slurm.sbatch"
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
case $RUN in
    fine) exit 0 ;;
    fails) exit 1 ;;
    trains) trap 'sleep 0.3; echo saved >> "$CALLS"; exit 1' TERM; echo training >> "$CALLS"; sleep 20 & wait $! ;;
esac
"""
SCONTROL = """#!/bin/bash
[ "$1" = show ] && printf 'node7\\nnode8\\n' || echo "scontrol $*" >> "$CALLS"
"""


def job(folder: Path, run: str, *, restarts: int = 0, term: bool = False) -> tuple[int, list[str]]:
    """Exit status of the script, and what it called, in order."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "RUN": run,
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "96",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    command = ["bash", str(SCRIPT), "pico", "/shared/out", "workers=4"]
    script = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    if term:
        until = time.monotonic() + 20
        while "training" not in calls.read_text() and time.monotonic() < until:
            time.sleep(0.02)
        script.send_signal(signal.SIGTERM)
    return script.wait(timeout=30), calls.read_text().splitlines()


def test_a_run_starts_on_all_nodes(tmp_path: Path) -> None:
    status, calls = job(tmp_path, "fine")
    assert status == 0 and len(calls) == 1
    assert "torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=node7:23456" in calls[0]
    assert calls[0].endswith("-m mm15 run pico --out /shared/out workers=4")


def test_sigterm_waits_for_the_checkpoint_and_requeues(tmp_path: Path) -> None:
    """However often the job was restarted before: a time limit is no failure."""
    _, calls = job(tmp_path, "trains", restarts=9, term=True)
    assert calls[1:] == ["training", "saved", "scontrol requeue 123456"]


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (2, True), (3, False)])
def test_a_failure_requeues_three_times(tmp_path: Path, restarts: int, again: bool) -> None:
    status, calls = job(tmp_path, "fails", restarts=restarts)
    assert status == 1
    assert ("scontrol requeue 123456" in calls) is again
