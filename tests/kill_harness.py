"""Runs the tiny recipe once whole and once with lives that are ended at random moments; prints the losses as JSON.

kill_harness.py OUT WORKERS            one process, killed five times
kill_harness.py OUT WORKERS 2          two processes, one of which is killed, ten times; every other life saves
                                       asynchronously. Then a run that gets SIGTERM: both processes, later only one
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from lives import Life

from mm15 import recipe
from mm15.train.run import run

TINY = Path(__file__).parent / "tiny.yaml"
KILLS = {1: 5, 2: 10}
SURVIVAL = 30.0
"""Seconds after which the other process must have ended by itself."""


def start(folder: Path, *settings: str, ranks: int = 1) -> Life:
    """A life of the run in `folder`."""
    return Life(partial(run, recipe.load(TINY, list(settings)), folder), folder, ranks=ranks)


def reaches(life: Life, folder: Path, steps: int, delay: float) -> bool:
    """Whether a life comes to its run's `steps`-th step, and `delay` seconds further, before it ends.

    It has written by then, so its processes have met: what ends one that waits for the others to appear is torchrun.
    """
    while sum(map(len, losses(folder).values())) < steps or not wrote(folder, life.began):
        if life.ended():
            return False
        time.sleep(0.005)
    time.sleep(delay)
    return not life.ended()


def wrote(folder: Path, since: float) -> bool:
    """Whether metrics were written (or rewound) after this time."""
    return any(path.stat().st_mtime > since for path in folder.glob("stages/*/metrics.jsonl"))


def losses(folder: Path) -> dict[str, list]:
    """By stage, the step and loss of each line of its metrics."""
    found = {}
    for path in sorted(folder.glob("stages/*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found[path.parent.name] = [[line["step"], line["loss"], line["grad_norm"]] for line in lines]
    return found


def killed(folder: Path, workers: int, ranks: int) -> dict[str, Any]:
    """A run one process of which is killed again and again: how the others ended, and the losses at the end."""
    rng = random.Random(workers)
    total = sum(stage.steps for stage in recipe.load(TINY).stages.values())
    kills, survivors = 0, []
    for i, moment in enumerate(sorted(rng.sample(range(1, total), KILLS[ranks]))):
        asynchronous = f"checkpoint.asynchronous={ranks > 1 and i % 2 == 1}"
        life = start(folder, f"workers={workers}", asynchronous, ranks=ranks)
        if reaches(life, folder, moment, rng.uniform(0, 0.08)):
            victim = rng.randrange(ranks)
            os.killpg(life.children[victim], signal.SIGKILL)  # it and its loader workers, as when a machine goes down
            kills += 1
            status = life.wait(SURVIVAL)
            survivors += [[status[rank], life.last_lines()[rank]] for rank in range(ranks) if rank != victim]
        else:
            life.succeed()
    start(folder, f"workers={workers}", ranks=ranks).succeed()
    return {"kills": kills, "survivors": survivors, "killed": losses(folder)}


def stopped(folder: Path, ranks: int) -> dict[str, Any]:
    """A run that gets SIGTERM, its loader workers too: all processes, one a moment after the other; later only one."""
    stops = []
    for moment, targets in ((3, range(ranks)), (13, [ranks - 1])):
        life = start(folder, "workers=1", ranks=ranks)
        assert reaches(life, folder, moment, 0), life.last_lines()
        for rank in targets:
            os.killpg(life.children[rank], signal.SIGTERM)
            time.sleep(0.03)
        stops.append([life.wait(SURVIVAL), life.last_lines(), losses(folder)])
    start(folder, ranks=ranks).succeed()
    return {"stops": stops, "stopped": losses(folder)}


def main(out: Path, workers: int, ranks: int) -> None:
    start(out / "whole", f"workers={workers}", ranks=ranks).succeed()
    told = {"whole": losses(out / "whole"), **killed(out / "killed", workers, ranks)}
    if ranks > 1:
        told |= stopped(out / "stopped", ranks)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
