"""What an evaluation found: scores with intervals, every prediction, and the files they are kept in.

    evaluation/sft.json                    {"stage", "groups", "blank", "gain", "samples", "seconds"}
               sft.predictions.jsonl       one line a reply, with blank pictures too
               examples/sft/*.png          a few pictures with places drawn, and examples.json with their words

A group's score is the plain mean of its tasks (the paper's way); its interval is that of all its samples together.
`gain` is the paired difference to the same samples with blank pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .intervals import Difference, paired_difference, wilson


@dataclass(frozen=True)
class Prediction:
    """One reply. `malformed`: coordinates were asked for, and what was written as such could not be read."""

    group: str
    task: str
    id: str
    question: str
    answer: str
    reply: str
    score: float
    malformed: bool


@dataclass(frozen=True)
class Score:
    """Mean score (0 to 1) of `n` samples with its 95 % Wilson interval, and how many replies were malformed."""

    score: float
    n: int
    low: float
    high: float
    malformed: int

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Score:
        """The score of some predictions; 0 with the widest interval for none."""
        n, total = len(predictions), sum(p.score for p in predictions)
        interval = wilson(total, n)
        return cls(total / n if n else 0.0, n, interval.low, interval.high, sum(p.malformed for p in predictions))


@dataclass(frozen=True)
class GroupScore(Score):
    """A group: `score` is the plain mean of its tasks' scores, the rest is of all its samples."""

    tasks: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """All predictions of one model on one evaluation, in the order of groups, tasks and samples."""

    predictions: list[Prediction]

    @property
    def groups(self) -> dict[str, GroupScore]:
        """Scores by group, and in them by task."""
        found = {}
        for group in dict.fromkeys(p.group for p in self.predictions):
            own = [p for p in self.predictions if p.group == group]
            names = dict.fromkeys(p.task for p in own)
            tasks = {name: Score.of([p for p in own if p.task == name]) for name in names}
            pooled = Score.of(own)
            mean = sum(task.score for task in tasks.values()) / len(tasks)
            found[group] = GroupScore(mean, pooled.n, pooled.low, pooled.high, pooled.malformed, tasks)
        return found


@dataclass(frozen=True)
class Comparison:
    """The same model on the same samples, with their pictures and (where measured) with blank ones."""

    real: Results
    blank: Results | None = None
    seconds: float = 0.0

    @property
    def gain(self) -> dict[str, Difference]:
        """By group: how much better with pictures than with blank ones, paired by sample."""
        if self.blank is None:
            return {}
        return {
            group: paired_difference(_scores(self.real, group), _scores(self.blank, group))
            for group in self.real.groups
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: groups, blank, gain, samples, seconds."""
        return {
            "groups": {name: asdict(score) for name, score in self.real.groups.items()},
            "blank": self.blank and {name: asdict(score) for name, score in self.blank.groups.items()},
            "gain": {name: asdict(difference) for name, difference in self.gain.items()},
            "samples": len(self.real.predictions),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> str:
        """The scores in percent as lines of text: groups, their tasks below them."""
        blank = self.blank.groups if self.blank else {}
        lines = [f"{'':28}{'score':>7}{'95 %':>13}{'blank':>8}{'n':>7}{'malformed':>11}"]
        for name, group in self.real.groups.items():
            lines.append(_line(name, group, blank.get(name)))
            for task, score in group.tasks.items():
                lines.append(_line(f"  {task}", score, blank[name].tasks.get(task) if name in blank else None))
        return "\n".join(lines)

    def save(self, folder: Path, stage: str) -> Path:
        """Writes ``folder/STAGE.predictions.jsonl``, then ``folder/STAGE.json``; returns the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"pictures": "real", **asdict(p)}) for p in self.real.predictions]
        if self.blank is not None:
            lines += [json.dumps({"pictures": "blank", **asdict(p)}) for p in self.blank.predictions]
        write_atomically(folder / f"{stage}.predictions.jsonl", "".join(line + "\n" for line in lines))
        path = folder / f"{stage}.json"
        write_atomically(path, json.dumps({"stage": stage, **self.as_dict()}, indent=1) + "\n")
        return path


def summary(path: Path) -> str:
    """One line a group of a saved evaluation: score, interval, and the same with blank pictures."""
    saved = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for name, group in saved["groups"].items():
        line = f"{name:14}{_percent(group)}"
        lines.append(line + (f"   blank pictures {_percent(saved['blank'][name])}" if saved["blank"] else ""))
    return "\n".join(lines)


def _percent(group: dict[str, Any]) -> str:
    return f"{100 * group['score']:5.1f} % ({100 * group['low']:.0f} to {100 * group['high']:.0f})"


def _scores(results: Results, group: str) -> list[float]:
    return [p.score for p in results.predictions if p.group == group]


def _line(name: str, score: Score, blank: Score | None) -> str:
    interval = f"{100 * score.low:.0f}-{100 * score.high:.0f}"
    against = "" if blank is None else f"{100 * blank.score:.1f}"
    return f"{name:28}{100 * score.score:7.1f}{interval:>13}{against:>8}{score.n:7d}{score.malformed:11d}"
