"""The most memory a training step takes on one process, by kind: a walk through the step on paper.

    forward           what each unit keeps piles up; so do bf16 copies of weights, which autocast makes once a forward
    loss              logits of up to 4096 targets, the gradient of the output table
    backward          unit after unit, last first: what it kept goes, its gradients come; a unit that dropped its
                      activations has them again for a while
    optimiser         all gradients, and what AdaFactor computes in passing

At each of these moments everything that exists is added up; the moment with the largest sum is the answer, and its
parts are what is reported. Under FSDP2 weights, gradients and optimiser state are divided by the processes that shard;
in their place come a unit's whole weights, those of the next, and its gradient on the way to its shards. Nothing here
is fitted to measurements but `RUNTIME`, which names what it stands for; `bench/plan.py` compares with what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..recipe import Part
from .activations import (
    NOTHING,
    Arithmetic,
    Kept,
    connector_kept,
    decoder_ends,
    decoder_layer,
    encoder_ends,
    encoder_layer,
    logits,
)
from .flops import Learns, Training
from .row import Row
from .shapes import Shapes, Unit

WHOLE_GRADIENTS = 8 * 2**30
"""Bytes of whole gradients that a process keeps over a step's rows, as `mm15.train.parallel` has it."""
RUNTIME = {"cpu": 47e6, "cpu bf16": 30e6, "cuda": 1.0e9, "nccl": 1.0e9}
"""What no model accounts for. On a CPU: libraries' code and scratch memory that building and the first steps bring in,
and what oneDNN adds for bf16 (both measured on pico by bench/plan.py; the same within 2 MB for small and large rows).
On a GPU: the CUDA context with its kernels and cuBLAS workspaces, and NCCL's buffers where there are several (not
measured: estimates of what is usual on an H100)."""


@dataclass(frozen=True)
class Process:
    """Where and how one process of a run computes. `shards` processes hold a model between them; `rows` are its own."""

    device: str = "cuda"
    bf16: bool = True
    shards: int = 1
    several: bool = False
    """Whether the run has more than one process, which makes it FSDP."""
    rows: int = 1
    experts: int = 1
    optimizer: str = "adamw"


@dataclass(frozen=True)
class Memory:
    """Bytes by kind at the moment a step needs most, and that moment."""

    moment: str
    weights: float
    gradients: float
    optimizer: float
    copies: float
    vision: float
    connector: float
    decoder: float
    logits: float
    passing: float
    runtime: float

    @property
    def total(self) -> float:
        """All kinds."""
        return sum(self.kinds().values())

    def kinds(self) -> dict[str, float]:
        """Kind -> bytes."""
        return {key: value for key, value in vars(self).items() if key != "moment"}


@dataclass(frozen=True)
class _Stop:
    """A unit on the walk: what it keeps, bytes of weight copies, trained numbers; whether gradients come by."""

    unit: Unit
    kept: Kept
    copies: float
    trained: int
    reached: bool
    layer: bool

    @property
    def part(self) -> Part:
        return self.unit.part


def peak(shapes: Shapes, row: Row, training: Training, process: Process) -> Memory:
    """The most memory of a step whose rows are all like this one."""
    walk = _Walk(shapes, row, training, process)
    return max(walk.moments(), key=lambda memory: memory.total)


def trained_numbers(unit: Unit, training: Training) -> int:
    """Parameters of a unit that learn: all, its adapters', or none."""
    learns = training.of(unit.part)
    if learns is Learns.ADAPTERS:
        return training.rank * sum(a + b for a, b in unit.linear)
    return unit.numbers if learns is Learns.ALL else 0


def state_numbers(unit: Unit, training: Training, optimizer: str) -> int:
    """Numbers that the optimiser keeps of a unit."""
    if optimizer == "adamw":
        return 2 * trained_numbers(unit, training)
    if training.of(unit.part) is Learns.ADAPTERS:
        return sum(a + b + 2 * training.rank for a, b in unit.linear)
    return unit.factored if training.of(unit.part) is Learns.ALL else 0


def all_numbers(unit: Unit, training: Training) -> int:
    """A unit's parameters and those of its adapters."""
    return unit.numbers + (trained_numbers(unit, training) if training.of(unit.part) is Learns.ADAPTERS else 0)


class _Walk:
    """The moments of a step. `stops` are in the order of the forward."""

    def __init__(self, shapes: Shapes, row: Row, training: Training, process: Process) -> None:
        self.shapes, self.row, self.training, self.process = shapes, row, training, process
        sharded_bf16 = process.several and process.bf16 and process.device == "cuda"
        self.a = Arithmetic.of(process.device, bf16=process.bf16, sharded=process.several)
        self.whole = 2 if sharded_bf16 else 4  # bytes of a gathered weight and of its gradient
        self.stops = [self._stop(unit) for unit in shapes.units]
        self.trained = sum(stop.trained for stop in self.stops)
        state = sum(state_numbers(unit, training, process.optimizer) for unit in shapes.units)
        self.fixed = {
            "weights": 4 * sum(all_numbers(unit, training) for unit in shapes.units) / process.shards,
            "optimizer": 4 * state / process.shards,
            "runtime": self._runtime(),
        }
        self.pictures = self._pictures()

    def _runtime(self) -> float:
        process = self.process
        if process.device == "cpu":
            return RUNTIME["cpu"] + RUNTIME["cpu bf16"] * process.bf16
        return RUNTIME["cuda"] + RUNTIME["nccl"] * process.several

    def _pictures(self) -> float:
        """Tiles as they come (uint8) and token ids, labels and positions."""
        return self.row.tiles * 3 * self.shapes.encoder.side**2 + 32 * self.row.tokens

    def _stop(self, unit: Unit) -> _Stop:
        part, a = unit.part, self.a
        learns, reached = self.training.of(part), self.training.reached(part)
        kept = self._kept(unit, learns) if reached else NOTHING
        own = unit.cast + (unit.experts if self.process.device == "cuda" else 0)
        copies = a.compute * own if a.casts and reached and unit.name != "decoder.after" else 0
        name = unit.name.rpartition(".")[2]
        return _Stop(unit, kept, copies, trained_numbers(unit, self.training), reached, name.isdigit())

    def _kept(self, unit: Unit, learns: Learns) -> Kept:
        shapes, row, tiles, a = self.shapes, self.row, max(self.row.tiles, 1), self.a
        if unit.part == "connector":
            return connector_kept(shapes.connector, tiles, a, learns)
        where = unit.name.rpartition(".")[2]
        if where.isdigit():
            if unit.part == "vision":
                return encoder_layer(shapes.encoder, tiles, a, learns)
            return decoder_layer(shapes.decoder, row, a, learns, sparse=shapes.decoder.sparse[int(where)])
        if unit.name == "vision.before":
            return Kept(encoder_ends(shapes.encoder, tiles, a, learns), 0, 0, 0)
        if unit.name == "decoder.after":
            return Kept(decoder_ends(shapes.decoder, row, a, learns), 0, 0, 0)
        return NOTHING

    def after(self, stop: _Stop) -> float:
        """What a unit's forward leaves."""
        return stop.kept.after(self.training.checkpointing) if stop.layer else stop.kept.everything

    # -------------------------------------------------------------------------------------------------------- moments

    def moments(self) -> list[Memory]:
        """Every moment that may be the largest."""
        found = [self._forward_of_frozen(), self._loss()]
        back = [stop for stop in reversed(self.stops) if stop.reached]
        back.sort(key=lambda stop: stop.unit.name == "decoder.before")  # its gradient comes last
        found += [self._backward(back[: i + 1], back[i:]) for i in range(len(back))]
        return [*found, self._optimizer()]

    def _memory(
        self, moment: str, kept: list[_Stop], *, gradients: float = 0, copies: float = 0, **more: float
    ) -> Memory:
        parts: dict[str, float] = {part: 0 for part in ("vision", "connector", "decoder")}
        for stop in kept:
            parts[stop.part] += self.after(stop)
        kinds = {"gradients": gradients, "copies": copies, "logits": 0.0, "passing": 0.0, **parts, **self.fixed, **more}
        kinds["passing"] += self.pictures
        return Memory(moment, **kinds)

    def _earlier_rows(self) -> float:
        """Gradients that rows before this one left."""
        if self.process.rows == 1:
            return 0
        return self._gradients(self.trained) + self._whole_gradients(self.trained)

    def _gradients(self, numbers: int) -> float:
        """Gradients at rest: shards, unless they wait whole for a step's last row."""
        return 0 if self._whole_gradients(numbers) else 4 * numbers / self.process.shards

    def _whole_gradients(self, numbers: int) -> float:
        waits = self.process.several and self.process.rows > 1 and 4 * self.trained <= WHOLE_GRADIENTS
        return 4 * numbers if waits else 0

    def _copies(self, stops: list[_Stop], *, cached: bool) -> float:
        """bf16 copies of weights: kept for the backward, or in the forward by autocast's cache all the same."""
        drops = self.training.checkpointing != "none"
        return sum(stop.copies for stop in stops if cached or not (drops and stop.layer))

    def _gathered(self, at: _Stop | None, *, backward: bool) -> float:
        """FSDP's whole weights: those of the root all the time, of the unit at work and of the next, the latter also in
        the buffer they arrive in; in the backward the unit's gradient, and that in fp32 on its way to the shards."""
        if not self.process.several:
            return 0
        roots = sum(all_numbers(stop.unit, self.training) for stop in self.stops if not self._is_unit(stop))
        units = [stop for stop in self.stops if self._is_unit(stop)]
        now = units if at is None else [at] if self._is_unit(at) else []
        work = max((self._numbers(stop) for stop in now), default=0)
        following = max(self._numbers(stop) for stop in units)
        total = self.whole * (roots + work + 2 * following)
        if self.process.experts > 1:  # cut within matrices, a gathered share is put together in a copy
            total += self.whole * max((stop.unit.experts / self.process.experts for stop in now), default=0)
        if backward and at is not None:
            trained_roots = sum(stop.trained for stop in self.stops if not self._is_unit(stop))
            own = at.trained - self._elsewhere(at) * (at.trained > 0) if self._is_unit(at) else 0
            total += (self.whole + 4) * own + self.whole * trained_roots
        return total

    def _numbers(self, stop: _Stop) -> float:
        """What a process gathers of a unit."""
        return all_numbers(stop.unit, self.training) - self._elsewhere(stop)

    def _elsewhere(self, stop: _Stop) -> float:
        """Of a unit's parameters those of experts that other processes compute."""
        return stop.unit.experts * (1 - 1 / self.process.experts)

    @staticmethod
    def _is_unit(stop: _Stop) -> bool:
        return stop.layer or stop.part == "connector"

    def _forward_of_frozen(self) -> Memory:
        """The widest layer of the encoder at work when nothing is kept of it."""
        encoder, tiles = self.shapes.encoder, max(self.row.tiles, 1)
        layer = encoder_layer(encoder, tiles, self.a, Learns.NOTHING)
        pixels = 2 * 4 * tiles * 3 * encoder.side**2
        return self._memory(
            "forward of the encoder",
            [],
            gradients=self._earlier_rows(),
            copies=self._gathered(None, backward=False),
            passing=layer.passing + layer.entry + pixels,
        )

    def _loss(self) -> Memory:
        return self._memory(
            "loss",
            self.stops,
            gradients=self._earlier_rows(),
            copies=self._copies(self.stops, cached=True) + self._gathered(None, backward=False),
            logits=logits(self.shapes.decoder, self.row.targets, self.a),
            passing=self.row.tokens * self.shapes.decoder.width * self.a.stream,
        )

    def _backward(self, done: list[_Stop], left: list[_Stop]) -> Memory:
        """While the last of `done`, the first of `left`, is at work."""
        now, decoder = done[-1], self.shapes.decoder
        numbers = self.trained if self.process.rows > 1 else sum(stop.trained for stop in done)
        gradients = self._gradients(numbers) + self._whole_gradients(numbers)
        passing = float(now.kept.during(self.training.checkpointing) if now.layer else now.kept.passing)
        if self.a.casts and self._is_unit(now) and now.trained:
            passing += self.a.compute * now.unit.largest  # a gradient before it is fp32
        table = 4 * decoder.vocabulary * decoder.width
        learns = self.training.decoder is Learns.ALL
        if now.unit.name == "decoder.after" or (decoder.tied and now.unit.name == "decoder.before"):
            passing += table * learns
        if decoder.tied and now.unit.name != "decoder.before" and not self.process.several and self.process.rows == 1:
            passing += table * learns  # the head's gradient waits for the embedding's
        again = now.copies if now.layer and self.training.checkpointing != "none" else 0
        copies = self._copies(left, cached=False) + again + self._gathered(now, backward=True)
        return self._memory(f"backward of {now.unit.name}", left, gradients=gradients, copies=copies, passing=passing)

    def _optimizer(self) -> Memory:
        largest = max((stop.unit.largest for stop in self.stops if stop.trained), default=0)
        factored = self.process.optimizer == "adafactor"
        return self._memory(
            "optimizer step",
            [],
            gradients=4 * self.trained / self.process.shards,
            passing=4 * 2 * largest / self.process.shards * factored,
        )
