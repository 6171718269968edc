"""The report of a run: one HTML page that stands alone, readable on a phone, in light and dark.

`write_report` reads a run folder, whatever of it exists, and says what is missing. Pictures and curves are inside the
page; nothing is fetched. Costs about a second.
"""

from __future__ import annotations

import time
from html import escape
from pathlib import Path

from .. import page
from .. import recipe as recipes
from ..files import write_atomically
from .report_experts import expert_use
from .report_scores import example_cards, score_plot, score_tables
from .report_training import curves, mixture, settings, skipped
from .run_record import RunRecord, read_run


def write_report(run_dir: str | Path) -> Path:
    """Writes ``run_dir/report.html`` and returns its path; raises UserError where `run_dir` holds no run."""
    run = read_run(Path(run_dir))
    body = [
        *_headline(run),
        *_scores(run),
        *_examples(run),
        "<h2>Training</h2>",
        *curves(run.stages),
        *expert_use(run.stages),
        "<h2>Mixture: asked and realised</h2>",
        *mixture(run.stages),
        *skipped(run.stages),
        "<h2>Settings</h2>",
        *settings(run.recipe, run.precision),
        page.folded("The whole recipe", f"<pre>{escape(recipes.dump(run.recipe))}</pre>"),
    ]
    path = run.folder / "report.html"
    write_atomically(path, page.document(f"{run.recipe.name}: mm15 report", body))
    return path


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
