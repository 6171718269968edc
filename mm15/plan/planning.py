"""From a recipe and a number of GPUs to its plan, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..model.assemble import skeleton, vocabulary
from ..recipe import Recipe
from .advice import Advice, advise
from .flops import Flops, Learns, Training, row_flops, totals
from .memory import Memory, Process, all_numbers, peak, state_numbers, trained_numbers
from .row import Row, fullest, text_only, typical
from .shapes import PARTS, Decoder, Shapes

GB = 1e9
"""A GB is 10^9 bytes here. A GPU sold as one of 80 GB has 85 of these, and what is over pays for fragmentation."""


@dataclass(frozen=True)
class StagePlan:
    """A stage on its GPUs. Numbers of a step are over all its rows; memory is of one GPU, in bytes."""

    stage: str
    steps: int
    rows: int
    rows_per_gpu: int
    tile: int
    tokens_per_tile: int
    trained: dict[str, int]
    most: Row
    expected: Row
    flops: dict[str, Flops]
    memory: Memory
    fits: bool
    host_at_start: float
    host_while_saving: float
    checkpoint: float
    seconds: float
    gpu_hours: float


@dataclass(frozen=True)
class Plan:
    """A recipe on `gpus` GPUs of `memory_gb` GB each, at a share `mfu` of their `peak_flops` operations a second."""

    recipe: str
    gpus: int
    memory_gb: float
    mfu: float
    peak_flops: float
    bf16: bool
    checkpointing: str
    parameters: dict[str, int]
    active: dict[str, int]
    stages: tuple[StagePlan, ...]
    advice: tuple[Advice, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return all(stage.fits for stage in self.stages)

    @property
    def most(self) -> float:
        """Bytes of the stage that needs most."""
        return max(stage.memory.total for stage in self.stages)


def plan(recipe: Recipe, *, gpus: int = 8, memory_gb: float = 80, mfu: float = 0.4, peak_flops: float = 989e12) -> Plan:
    """What each stage of a recipe takes on so many GPUs, and if that is too much, what to change.

    `mfu` is the share of `peak_flops` (an H100's in bf16: 989e12) that is reached, recomputation counted as work.
    Raises UserError for numbers that make no sense, rows that the GPUs cannot share, and models of unknown shape.
    """
    _check(recipe, gpus, memory_gb, mfu, peak_flops)
    tiles = {recipe.stage_picture(name).tile for name in recipe.stages}
    shapes = {tile: Shapes.of(skeleton(recipe, tile=tile, vocab_size=vocabulary(recipe))) for tile in tiles}
    decoder = next(iter(shapes.values())).decoder
    if recipe.parallel.experts > 1 and (not decoder.experts or decoder.experts % recipe.parallel.experts):
        raise UserError(
            f"parallel.experts is {recipe.parallel.experts}, which does not divide the decoder's {decoder.experts} "
            "experts a layer; set it to a number that does, or to 1"
        )
    found = _planned(recipe, shapes, gpus, memory_gb, mfu, peak_flops)
    if found.fits:
        return found

    def again(changed: Recipe, more: int) -> tuple[float, bool]:
        _check(changed, more, memory_gb, mfu, peak_flops)
        other = _planned(changed, shapes, more, memory_gb, mfu, peak_flops)
        return other.most, other.fits

    tight = [stage.stage for stage in found.stages if not stage.fits]
    spread = _groups(decoder, gpus) if recipe.parallel.experts == 1 else 1
    return Plan(**{**vars(found), "advice": tuple(advise(recipe, gpus, found.most, tight, again, spread=spread))})


def _groups(decoder: Decoder, gpus: int) -> int:
    """Over how many processes of a machine the experts can be spread, 1 for none; each share is cut over the rest."""
    for groups in (8, 4, 2):
        if decoder.experts and gpus % groups == decoder.experts % groups == 0:
            parts = gpus // groups
            if decoder.width % parts == 2 * decoder.expert_inner % parts == 0:
                return groups
    return 1


def _planned(
    recipe: Recipe, shapes: dict[int, Shapes], gpus: int, memory_gb: float, mfu: float, peak_flops: float
) -> Plan:
    """The plan without advice; `shapes` are the model's by tile."""
    of_stage = {name: shapes[recipe.stage_picture(name).tile] for name in recipe.stages}
    room, speed = memory_gb * GB, gpus * mfu * peak_flops
    stages = [_stage(recipe, name, of, gpus, room, speed) for name, of in of_stage.items()]
    last = of_stage[stages[-1].stage]
    return Plan(
        recipe=recipe.name,
        gpus=gpus,
        memory_gb=memory_gb,
        mfu=mfu,
        peak_flops=peak_flops,
        bf16=_in_bf16(recipe),
        checkpointing=recipe.parallel.activation_checkpointing,
        parameters={part: last.numbers(part) for part in PARTS},
        active={part: last.active(part) for part in PARTS},
        stages=tuple(stages),
    )


def _in_bf16(recipe: Recipe) -> bool:
    """Whether the GPUs compute in bf16. `auto` comes to that on those planned for, whatever this machine would take."""
    return recipe.precision != "fp32"


def _check(recipe: Recipe, gpus: int, memory_gb: float, mfu: float, peak_flops: float) -> None:
    if gpus < 1:
        raise UserError(f"--gpus is {gpus}; give at least 1")
    if not memory_gb > 0:
        raise UserError(f"--memory is {memory_gb:g}; give the GB of one GPU, such as 80")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu is {mfu:g}; give a share above 0 and up to 1, such as 0.4")
    if not peak_flops > 0:
        raise UserError(f"--tflops is {peak_flops / 1e12:g}; give what one GPU does at most, such as 989")
    if gpus % recipe.parallel.replicate:
        raise UserError(
            f"parallel.replicate is {recipe.parallel.replicate}, and {gpus} GPUs cannot be split into so many equal "
            "copies; change one of them"
        )
    experts = recipe.parallel.experts
    if gpus % experts:
        raise UserError(
            f"parallel.experts is {experts}, and {gpus} GPUs cannot be split into groups of {experts}; change one of "
            "them"
        )
    if experts > 1 and recipe.parallel.replicate > 1:
        raise UserError("parallel.replicate and parallel.experts cannot be had together; set one of them to 1")
    for name, stage in recipe.stages.items():
        if stage.batch.rows % gpus:
            raise UserError(
                f"stages.{name}.batch.rows is {stage.batch.rows}, which {gpus} GPUs cannot share evenly; "
                f"give --gpus {_divisor(stage.batch.rows, gpus)}, or a multiple of {gpus} rows"
            )


def _divisor(rows: int, gpus: int) -> int:
    """The largest number of GPUs, up to `gpus`, that share the rows evenly."""
    return next((n for n in range(min(gpus, rows), 0, -1) if rows % n == 0), 1)


def _stage(recipe: Recipe, name: str, shapes: Shapes, gpus: int, room: float, speed: float) -> StagePlan:
    stage = recipe.stages[name]
    training, each = training_of(recipe, name), shapes.connector.tokens
    process = Process(
        bf16=_in_bf16(recipe),
        shards=gpus // recipe.parallel.replicate,
        several=gpus > 1,
        rows=stage.batch.rows // gpus,
        experts=recipe.parallel.experts,
        optimizer=stage.optimizer.name,
    )
    largest = {
        row: peak(shapes, row, training, process) for row in (fullest(stage.batch, each), text_only(stage.batch))
    }
    most = max(largest, key=lambda row: largest[row].total)
    expected = typical(stage.batch, each)
    flops = {part: row * stage.batch.rows for part, row in row_flops(shapes, expected, training).items()}
    seconds = totals(flops).total / speed
    weights = 4 * sum(all_numbers(unit, training) for unit in shapes.units)
    state = 4 * sum(state_numbers(unit, training, process.optimizer) for unit in shapes.units)
    return StagePlan(
        stage=name,
        steps=stage.steps,
        rows=stage.batch.rows,
        rows_per_gpu=process.rows,
        tile=shapes.encoder.side,
        tokens_per_tile=each,
        trained={p: sum(trained_numbers(u, training) for u in shapes.units if u.part == p) for p in PARTS},
        most=most,
        expected=expected,
        flops=flops,
        memory=largest[most],
        fits=largest[most].total <= room,
        host_at_start=weights,
        host_while_saving=(weights + state) / process.shards * recipe.checkpoint.asynchronous,
        checkpoint=weights + state,
        seconds=seconds,
        gpu_hours=seconds * stage.steps * gpus / 3600,
    )


def training_of(recipe: Recipe, stage: str) -> Training:
    """What a stage trains, and how."""
    settings = recipe.stages[stage]
    learns: dict[str, Any] = {}
    for part in PARTS:
        adapted = settings.lora is not None and part in settings.lora.parts
        learns[part] = Learns.ADAPTERS if adapted else Learns.NOTHING if part in settings.freeze else Learns.ALL
    return Training(
        **learns,
        rank=settings.lora.rank if settings.lora else 0,
        checkpointing=recipe.parallel.activation_checkpointing,
    )
