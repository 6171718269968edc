"""A plan as text for people and as plain data for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .advice import Advice
from .flops import totals
from .planning import GB, Plan, StagePlan
from .row import DOCUMENT, FILL, TARGETS, TEXT, Row
from .shapes import PARTS

KINDS = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimizer": "optimiser",
    "copies": "weights gathered or in bf16",
    "vision": "activations, vision",
    "connector": "activations, connector",
    "decoder": "activations, decoder",
    "logits": "logits and the head's gradient",
    "passing": "in passing",
    "runtime": "CUDA and NCCL",
}
"""What the kinds of `Memory` are called."""


def describe(plan: Plan) -> str:
    """The plan as a table for each thing, the verdict, and the assumptions it rests on."""
    parts = [_model(plan), _steps(plan), _memory(plan), _time(plan), _verdict(plan)]
    return "\n\n".join("\n".join(lines) for lines in [*parts, _assumptions(plan)])


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as plain data."""
    stages = [{**asdict(stage), "memory_total": stage.memory.total} for stage in plan.stages]
    assumed = {"fill": FILL, "text_tokens_per_tile": TEXT, "document_tokens": DOCUMENT, "target_share_of_text": TARGETS}
    return {**asdict(plan), "stages": stages, "fits": plan.fits, "assumed": assumed}


def _grid(rows: list[list[str]]) -> list[str]:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _count(number: float, billion: str = "B") -> str:
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, billion), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.4g}{letter}"
    return f"{number:,.0f}"


def _gb(size: float) -> str:
    return f"{size / GB:,.1f}" if size >= 0.05 * GB else f"{size / GB:,.3f}"


def _model(plan: Plan) -> list[str]:
    rows = [["parameters", "all", "active per token", *(f"trained in {stage.stage}" for stage in plan.stages)]]
    for part in PARTS:
        trained = [_count(stage.trained[part]) for stage in plan.stages]
        rows.append([part, _count(plan.parameters[part]), _count(plan.active[part]), *trained])
    sums = [_count(sum(stage.trained.values())) for stage in plan.stages]
    rows.append(["sum", _count(sum(plan.parameters.values())), _count(sum(plan.active.values())), *sums])
    how = f"{'bf16' if plan.bf16 else 'fp32'}, activation checkpointing {plan.checkpointing}"
    return [f"{plan.recipe} on {plan.gpus} x {plan.memory_gb:g} GB ({how})", "", *_grid(rows)]


def _steps(plan: Plan) -> list[str]:
    rows = [["one step", *(stage.stage for stage in plan.stages)]]

    def line(name: str, *values: str) -> None:
        rows.append([name, *values])

    line("rows (a GPU)", *(f"{stage.rows:,} ({stage.rows_per_gpu:,})" for stage in plan.stages))
    line("tokens, at most", *(_count(stage.rows * stage.most.tokens) for stage in plan.stages))
    line("tokens, expected", *(_count(stage.rows * stage.expected.tokens) for stage in plan.stages))
    line("visual tokens, expected", *(_count(_visual(stage)) for stage in plan.stages))
    line("tiles, expected (pixels)", *(f"{_count(s.rows * s.expected.tiles)} ({s.tile})" for s in plan.stages))
    for part in (*PARTS, "head"):
        line(f"FLOPs, {part}", *(_count(stage.flops[part].total, "G") for stage in plan.stages))
    for kind in ("forward", "backward", "recompute"):
        line(f"FLOPs, {kind}", *(_count(getattr(totals(stage.flops), kind), "G") for stage in plan.stages))
    return _grid(rows)


def _visual(stage: StagePlan) -> int:
    return stage.rows * stage.expected.tiles * stage.tokens_per_tile


def _memory(plan: Plan) -> list[str]:
    rows = [["GB a GPU, at most", *(stage.stage for stage in plan.stages)]]
    for kind, name in KINDS.items():
        sizes = [getattr(stage.memory, kind) for stage in plan.stages]
        if any(sizes):
            rows.append([name, *(_gb(size) for size in sizes)])
    rows.append(["sum", *(_gb(stage.memory.total) for stage in plan.stages)])
    rows.append(["at its highest in", *(stage.memory.moment for stage in plan.stages)])
    rows.append(["with a row of", *(_row(stage.most) for stage in plan.stages)])
    rows.append([f"fits {plan.memory_gb:g} GB", *("yes" if stage.fits else "NO" for stage in plan.stages)])
    return _grid(rows)


def _row(row: Row) -> str:
    return f"{row.tokens:,} tokens, {row.tiles} tiles"


def _time(plan: Plan) -> list[str]:
    rows = [["time and disk", *(stage.stage for stage in plan.stages)]]
    rows.append(["steps", *(f"{stage.steps:,}" for stage in plan.stages)])
    rows.append(["seconds a step", *(f"{stage.seconds:,.3g}" for stage in plan.stages)])
    rows.append(["hours", *(f"{stage.gpu_hours / plan.gpus:,.1f}" for stage in plan.stages)])
    rows.append(["GPU-hours", *(f"{stage.gpu_hours:,.0f}" for stage in plan.stages)])
    rows.append(["GB of a checkpoint", *(_gb(stage.checkpoint) for stage in plan.stages)])
    rows.append(["GB of host memory, start, main process", *(_gb(stage.host_at_start) for stage in plan.stages)])
    rows.append(["GB of host memory, saving, each process", *(_gb(stage.host_while_saving) for stage in plan.stages)])
    return _grid(rows)


def _verdict(plan: Plan) -> list[str]:
    hours = sum(stage.gpu_hours for stage in plan.stages)
    whole = f"{hours:,.0f} GPU-hours in all, {hours / plan.gpus / 24:,.1f} days on {plan.gpus}"
    if plan.fits:
        return [f"It fits: {_gb(plan.most)} of {plan.memory_gb:g} GB at most. {whole}."]
    short = f"It does not fit: {_gb(plan.most)} GB needed, {plan.memory_gb:g} GB there. {whole}."
    if not plan.advice:
        return [short, "Nothing that was tried makes it smaller."]
    return [short, "What to change (the changes of a line are made together):", *map(_suggestion, plan.advice)]


def _suggestion(advice: Advice) -> str:
    what = " ".join([*advice.changes, f"--gpus {advice.gpus}"])
    return f"  {_gb(advice.most):>8} GB  {'fits' if advice.fits else 'does not fit'}: {what}"


def _assumptions(plan: Plan) -> list[str]:
    return [
        f"Time is of rows filled to {FILL:.0%}, with {TEXT} tokens of text a tile or more, documents of {DOCUMENT:,} "
        f"tokens, {TARGETS:.0%} of the text trained on,",
        f"at {plan.mfu:.0%} of {plan.peak_flops / 1e12:,.4g} TFLOP/s a GPU, what is computed twice included. "
        "Memory is of the fullest row, one document. A GB is 10^9 bytes.",
    ]
