"""The report of a run: one HTML page that stands alone, readable on a phone, in light and dark.

`write_report` reads a run folder, whatever of it exists, and says what is missing:

    recipe.yaml                        stages/NAME/metrics.jsonl, mixture.json, skipped.jsonl
    model/*.safetensors                evaluation/NAME.json, examples/NAME/examples.json and its pictures

Pictures and curves are inside the page; nothing is fetched. Costs about a second.
"""

from __future__ import annotations

import json
import os
import struct
import time
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..errors import UserError
from . import page
from .report_scores import example_cards, score_plot, score_tables
from .report_training import curves, mixture, settings, skipped

_JSON = dict[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """What a run folder holds of one stage; empty where it is not there yet."""

    name: str
    settings: recipes.Stage
    metrics: list[_JSON] = field(default_factory=list)
    mixture: _JSON | None = None
    skipped: list[_JSON] = field(default_factory=list)
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


def write_report(run_dir: str | Path) -> Path:
    """Writes ``run_dir/report.html`` and returns its path; raises UserError where `run_dir` holds no run."""
    run = read_run(Path(run_dir))
    body = [
        *_headline(run),
        *_scores(run),
        *_examples(run),
        "<h2>Training</h2>",
        *curves(run.stages),
        "<h2>Mixture: asked and realised</h2>",
        *mixture(run.stages),
        *skipped(run.stages),
        "<h2>Settings</h2>",
        *settings(run.recipe),
        page.folded("The whole recipe", f"<pre>{escape(recipes.dump(run.recipe))}</pre>"),
    ]
    path = run.folder / "report.html"
    fresh = path.with_name(".report.html.tmp")
    fresh.write_text(page.document(f"{run.recipe.name}: mm15 report", body), encoding="utf-8")
    os.replace(fresh, path)
    return path


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
    """The whole lines of a JSONL file; a last one that a crash cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by name from the header of a safetensors file (8 bytes of length, then JSON); no weight is read."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


# ------------------------------------------------------------------------------------------------------------- sections


def _headline(run: RunRecord) -> list[str]:
    names = " → ".join(run.recipe.stages)
    started = (run.folder / "recipe.yaml").stat().st_mtime
    items = []
    if run.parameters:
        items.append((page.amount(sum(run.parameters.values())), "parameters"))
    items += [
        (page.duration(sum(stage.seconds for stage in run.stages)), "time training"),
        (page.amount(_total(run, "samples")), "samples seen"),
        (page.amount(_total(run, "tokens")), "tokens seen"),
    ]
    if run.evaluations:
        items.append(
            (page.duration(sum(found.get("seconds", 0) for found in run.evaluations.values())), "time evaluating")
        )
    lines = [
        f"<h1>{escape(run.recipe.name)}</h1>",
        f'<p class="soft">{escape(names)} · started {time.strftime("%d %B %Y, %H:%M", time.localtime(started))}'
        f" · recipe {recipes.fingerprint(run.recipe)}</p>",
        page.facts(items),
    ]
    if run.parameters:
        parts = ", ".join(f"{page.amount(count)} {escape(part)}" for part, count in run.parameters.items())
        lines.append(f'<p class="soft small">Parameters: {parts}.</p>')
    missing = _missing(run)
    return [*lines, page.note(*missing)] if missing else lines


def _total(run: RunRecord, key: str) -> float:
    return sum(line.get(key, 0) for stage in run.stages for line in stage.metrics)


def _missing(run: RunRecord) -> list[str]:
    """One sentence for each thing a finished run would have."""
    told = []
    for stage in run.stages:
        last = stage.metrics[-1]["step"] if stage.metrics else 0
        if not stage.metrics:
            told.append(f"Stage {stage.name} has not started.")
        elif not stage.done:
            told.append(f"Stage {stage.name} is at step {last} of {stage.settings.steps}.")
        elif stage.evaluation is None and run.recipe.evaluation.groups:
            told.append(f"Stage {stage.name} has no evaluation yet.")
    if not run.recipe.evaluation.groups:
        told.append("The recipe names no evaluation, so there are no scores.")
    return told


def _scores(run: RunRecord) -> list[str]:
    if not run.evaluations:
        return []
    return ["<h2>Scores on held-out samples</h2>", *score_plot(run.evaluations), *score_tables(run.evaluations)]


def _examples(run: RunRecord) -> list[str]:
    shown = [stage for stage in run.stages if stage.examples]
    if not shown:
        return []
    return ["<h2>Examples</h2>", *example_cards({stage.name: stage.examples for stage in shown}, shown[-1].pictures)]
