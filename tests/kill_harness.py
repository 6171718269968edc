"""Runs the tiny recipe once whole and once killed five times at random moments; prints both runs' losses as JSON.

A process of its own, because it forks: each life of the run is a child that is killed with SIGKILL and started again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from mm15 import recipe
from mm15.train.run import run

KILLS = 5


def live(folder: Path, workers: int, steps: int | None = None, delay: float = 0.0) -> bool:
    """One life of the run in `folder`, killed `delay` seconds after its `steps`-th step; whether it came to its end."""
    child = os.fork()
    if child == 0:
        os.setsid()
        run(recipe.load(Path(__file__).parent / "tiny.yaml", [f"workers={workers}"]), folder)
        os._exit(0)
    while steps is None or sum(map(len, losses(folder).values())) < steps:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the run failed with status {status}"
            return True
        time.sleep(0.005)
    time.sleep(delay)
    os.killpg(child, signal.SIGKILL)  # the run and its loader workers, as when a machine goes down
    os.waitpid(child, 0)
    return False


def losses(folder: Path) -> dict[str, list]:
    """By stage, the step and loss of each line of its metrics."""
    found = {}
    for path in sorted(folder.glob("stages/*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found[path.parent.name] = [[line["step"], line["loss"], line["grad_norm"]] for line in lines]
    return found


def main(out: Path, workers: int) -> None:
    rng = random.Random(workers)
    total = sum(stage.steps for stage in recipe.load(Path(__file__).parent / "tiny.yaml").stages.values())
    assert live(out / "whole", workers)
    moments = sorted(rng.sample(range(1, total), KILLS))
    kills = sum(not live(out / "killed", workers, step, rng.uniform(0, 0.08)) for step in moments)
    assert live(out / "killed", workers)
    told = {"kills": kills, "whole": losses(out / "whole"), "killed": losses(out / "killed")}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
