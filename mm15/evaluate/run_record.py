"""A run folder as it is read for its report: whatever of it exists, stage by stage.

recipe.yaml, precision.json        stages/NAME/metrics.jsonl, mixture.json, skipped.jsonl, experts.jsonl
model/*.safetensors                evaluation/NAME.json, examples/NAME/examples.json and its pictures
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..errors import UserError
from ..train.metrics import read as read_lines
from ..train.precision import told

_JSON = dict[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """What a run folder holds of one stage; empty where it is not there yet."""

    name: str
    settings: recipes.Stage
    metrics: list[_JSON] = field(default_factory=list)
    mixture: _JSON | None = None
    skipped: list[_JSON] = field(default_factory=list)
    experts: list[_JSON] = field(default_factory=list)
    evaluation: _JSON | None = None
    examples: list[_JSON] = field(default_factory=list)
    pictures: Path = Path()

    @property
    def done(self) -> bool:
        """Whether all steps were trained."""
        return bool(self.metrics) and self.metrics[-1]["step"] >= self.settings.steps

    @property
    def seconds(self) -> float:
        """Time spent in training steps."""
        return sum(line.get("seconds", 0.0) for line in self.metrics)


@dataclass(frozen=True)
class RunRecord:
    """A run folder read."""

    folder: Path
    recipe: recipes.Recipe
    stages: list[StageRecord]

    @property
    def evaluations(self) -> dict[str, _JSON]:
        """The evaluations there are, by stage."""
        return {stage.name: stage.evaluation for stage in self.stages if stage.evaluation}

    @property
    def precision(self) -> str:
        """As the recipe has it, and what the run took where that is auto."""
        return told(self.recipe, self.folder)

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Parameters of the exported model by part (vision, connector, decoder); empty without one."""
        counts: dict[str, int] = {}
        for path in sorted((self.folder / "model").glob("*.safetensors")):
            for name, shape in _tensor_shapes(path).items():
                part = name.removeprefix("model.").split(".")[0]
                size = 1
                for side in shape:
                    size *= side
                counts[part] = counts.get(part, 0) + size
        order = [part for part in ("vision", "connector", "decoder") if part in counts]
        return {part: counts[part] for part in dict.fromkeys([*order, *counts])}


def read_run(folder: Path) -> RunRecord:
    """What a run folder holds; raises UserError where it is none."""
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}: not a run folder (no recipe.yaml)")
    recipe = recipes.load(folder / "recipe.yaml")
    return RunRecord(folder, recipe, [_read_stage(folder, name, stage) for name, stage in recipe.stages.items()])


def _read_stage(folder: Path, name: str, stage: recipes.Stage) -> StageRecord:
    own, pictures = folder / "stages" / name, folder / "evaluation" / "examples" / name
    return StageRecord(
        name,
        stage,
        metrics=_lines(own / "metrics.jsonl"),
        mixture=_json(own / "mixture.json"),
        skipped=_lines(own / "skipped.jsonl"),
        experts=_lines(own / "experts.jsonl"),
        evaluation=_json(folder / "evaluation" / f"{name}.json"),
        examples=_json(pictures / "examples.json") or [],
        pictures=pictures,
    )


def _json(path: Path) -> Any:
    """The file's content, or None where there is none; raises UserError for a damaged one."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run the stage's evaluation again") from None


def _lines(path: Path) -> list[_JSON]:
    return read_lines(path) if path.is_file() else []


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file (8 bytes of length, then JSON); no weight is read."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
