"""Two training steps of the tiny model whose processes see different kinds of rows; rank 0 saves the gradients.

rank_kinds.py OUT     all of CASES, one after the other, in the processes that torchrun started; of the last
                      one its checkpoint and its export too
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from mm15 import recipe
from mm15.data.loader import Batch, make_batch
from mm15.data.packing import Document
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.text.render import Ref
from mm15.train import checkpoint, parallel, stage
from mm15.train.loop import backward
from mm15.train.materialise import build_once
from mm15.train.run import make_model, stage_processor
from mm15.world import make

KINDS = {
    "text": ("fact_qa", "arithmetic_text", "text_facts"),
    "video": ("clip_caption", "clip_direction"),
    "documents": ("ocr_page", "table_read"),
}
"""Kinds of rows: no picture at all; many frames of one tile each; pages only."""


@dataclass(frozen=True)
class Case:
    """What the rows of the first and of the second process hold, and settings of the recipe."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    settings: tuple[str, ...] = ()


FULL, SELECTIVE = (f"parallel.activation_checkpointing={how}" for how in ("full", "selective"))
MOE = ("model.decoder.family=qwen3_moe", "model.decoder.shape.num_experts=4")
CASES = {
    "text and video": Case(("text", "text"), ("video", "documents")),
    "text only": Case(("text",), ("text",)),
    "frozen encoder": Case(("text",), ("documents",), ("stages.sft.freeze=[vision]", FULL)),
    "frozen but the decoder": Case(("text",), ("video",), ("stages.sft.freeze=[vision, connector]", SELECTIVE)),
    "adapters everywhere": Case(
        ("text",),
        ("video",),
        ("stages.sft.lora={rank: 2, dropout: 0.2, parts: [vision, connector, decoder]}", FULL),
    ),
    "adapters, the rest frozen": Case(
        ("text",), ("text",), ("stages.sft.lora={rank: 2}", "stages.sft.freeze=[vision, connector]", FULL)
    ),
    "adapters by experts": Case(
        ("documents",),
        ("text",),
        ("stages.sft.lora={rank: 3}", "stages.sft.optimizer.rates={connector: 0.1}", SELECTIVE, *MOE),
    ),
}

KEPT = "adapters by experts"
"""The case whose checkpoint and export are kept."""


def rows(processor, kinds: tuple[str, ...], seed: int) -> list[Batch]:
    """One row of each kind: four documents."""
    found = []
    for number, kind in enumerate(kinds):
        documents = []
        for index in range(4):
            name = KINDS[kind][index % len(KINDS[kind])]
            sample = make(name, seed + 10 * number + index, size=64)
            documents.append(Document(index, sample.id, Ref(name, index), processor.encode(sample)))
        found.append(make_batch(documents))
    return found


def start(case: Case, world: parallel.World):
    """(recipe, processor, untrained model) of a case, as a run makes them: only the main process has weights."""
    settings = recipe.load(Path(__file__).parent / "tiny.yaml", list(case.settings))
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    torch.manual_seed(0)
    model = build_once(lambda: make_model(settings, tokenizer, tile=32), world)
    return settings, stage_processor(settings, "sft", tokenizer), model.train()


def two_steps(case: Case, world: parallel.World, out: Path | None = None) -> dict:
    """Losses, and the gradients of both steps by name, whole on every process; in `out` what a stage leaves behind."""
    settings, processor, model = start(case, world)
    run = stage.Run(settings, out or Path(), {}, world)
    optimizer = stage._prepare(run, "sft", model, bf16=False)
    batches = rows(processor, case.first, 0), rows(processor, case.second, 50)
    own = batches[world.rank] if world.size > 1 else [row for pair in zip(*batches, strict=True) for row in pair]
    found: dict = {"losses": [], "gradients": [], "tiles": [sum(len(row.tiles) for row in rank) for rank in batches]}
    for _ in range(2):
        loss, _counts = backward(model, own, bf16=False, world=world)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        whole = {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in gradients.items()}
        found["losses"].append(loss)
        found["gradients"].append(whole)
        optimizer.step()
        optimizer.zero_grad()
    if out is not None:
        checkpoint.save(run.folder("sft"), 2, model=model, optimizer=optimizer, state={}, world=world, keep=1)
        stage._hand_on(run, "sft", model, processor)
    return found


def main(out: Path) -> None:
    torch.set_num_threads(1)
    world = parallel.start()
    results = {name: two_steps(case, world, out if name == KEPT else None) for name, case in CASES.items()}
    if world.is_main:
        torch.save(results, out / "rank0.pt")
    parallel.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
