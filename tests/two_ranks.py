"""One training step of the tiny model on one or two gloo processes; rank 0 saves gradients. Started by torchrun.

two_ranks.py OUT pictures|text     the second rank's row has pictures, or none at all
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor

from mm15 import recipe
from mm15.data.loader import make_batch
from mm15.data.packing import Document
from mm15.errors import UserError
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.text.render import Ref
from mm15.train import checkpoint, parallel
from mm15.train.loop import backward
from mm15.train.optim import make_optimizer
from mm15.train.run import make_model, stage_processor
from mm15.world import make


def rows(processor, second: str) -> list:
    """Two rows: one with pictures, the other of text only or with pictures too."""
    kinds = [
        ["ground", "scene_color"],
        ["fact_qa", "arithmetic_text"] if second == "text" else ["scene_count", "fact_qa"],
    ]
    found = []
    for row, names in enumerate(kinds):
        documents = []
        for index in range(3):
            for name in names:
                sample = make(name, index + 10 * row, size=64)
                documents.append(Document(index, sample.id, Ref(name, index), processor.encode(sample)))
        found.append(make_batch(documents))
    return found


def main(out: Path, second: str, decoder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    world = parallel.start()
    settings = recipe.load(Path(__file__).parent / "tiny.yaml", overrides(decoder))
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    torch.manual_seed(0)
    model = make_model(settings, tokenizer, tile=32).train()
    parallel.shard(model, world, bf16=False)
    optimizer = make_optimizer(model.parameters(), settings.stages["sft"].optimizer)
    batches = rows(stage_processor(settings, "sft", tokenizer), second)
    own = batches if world.size == 1 else batches[world.rank :: world.size]
    losses = []
    for _ in range(3):
        loss, _router = backward(model, own, bf16=False, world=world)
        gradients = {
            name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad.clone()
            for name, p in model.named_parameters()
        }
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        if len(losses) == 1:
            first = {"loss": loss, "norm": norm, "gradients": gradients}
    checkpoint.save(out / "steps", 3, model=model, optimizer=optimizer, state={}, world=world, keep=1)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if world.is_main:
        torch.save({**first, "losses": losses, "weights": weights}, out / "rank0.pt")
    parallel.stop()


def overrides(decoder: str) -> list[str]:
    """A dense decoder, or a mixture of four experts in its second layer."""
    if decoder == "dense":
        return []
    return ["model.decoder.family=qwen3_moe", "model.decoder.shape.num_experts=4"]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    except UserError as error:
        sys.exit(str(error))
