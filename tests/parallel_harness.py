"""Trains the tiny model in many parallel settings on 1, 2 and 4 gloo processes, forked from one that has imported all.

parallel_harness.py OUT      OUT/PROCESSES.pt: by setting, losses and norms of STEPS steps, first gradients, expert use
                             OUT/lost.txt: what a process says when the other one was killed

Every step has four rows. With two processes one has rows of text only in its share, the other rows of video only.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache, partial
from itertools import count
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from mm15 import recipe
from mm15.data.loader import Batch, make_batch
from mm15.data.packing import Document
from mm15.errors import UserError
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.text.render import Ref
from mm15.train import checkpoint, layers, parallel
from mm15.train.loop import backward, train
from mm15.train.materialise import build_once
from mm15.train.optim import make_optimizer
from mm15.train.run import make_model, stage_processor
from mm15.world import make

HERE = Path(__file__).parent
STEPS = 20
TIED = ["model.decoder.shape.tie_word_embeddings=true"]
MOE = ["model.decoder.family=qwen3_moe", "model.decoder.shape.num_experts=4"]
HSDP, FULL, SELECTIVE, COMPILED, BF16 = (
    "parallel.replicate=2",
    "parallel.activation_checkpointing=full",
    "parallel.activation_checkpointing=selective",
    "parallel.compile=true",
    "precision=bf16",
)
SETTINGS: dict[int, dict[str, list[str]]] = {
    1: {"dense": TIED, "moe": MOE, "dense bf16": [*TIED, BF16]},
    2: {
        "dense": TIED,
        "moe": MOE,
        "dense bf16": [*TIED, BF16],
        "dense copies": [*TIED, HSDP],
        "dense selective": [*TIED, SELECTIVE],
        "moe full": [*MOE, FULL],
        "moe copies scattered": [*MOE, HSDP],
        "moe compiled full": [*MOE, COMPILED, FULL],
    },
    4: {"moe copies scattered": [*MOE, HSDP, FULL]},
}
"""Processes -> name of a setting -> its overrides of the tiny recipe. The first word says what it is to equal."""
KINDS = [["ground", "scene_color"], ["fact_qa", "arithmetic_text"], ["scene_count", "fact_qa"], ["clip_direction"]]
"""What the four rows hold; with two processes rows 0 and 2 go to the first, 1 and 3 to the other."""


def steps(processor: object) -> list[list[Batch]]:
    """Three different steps of four rows. In the second the first process has text only, the other video only."""
    found = []
    for step, order in enumerate([KINDS, [KINDS[1], KINDS[3]] * 2, KINDS[::-1]]):
        rows = []
        for row, names in enumerate(order):
            documents = []
            for index in range(2 + step):
                for name in names:
                    sample = make(name, index + 10 * row + 100 * step, size=64)
                    documents.append(Document(index, sample.id, Ref(name, index), processor.encode(sample)))
            rows.append(make_batch(documents))
        found.append(rows)
    return found


def one(name: str, overrides: list[str], tokenizer: object, out: Path) -> dict:
    """All steps in one setting; on the main process its results."""
    settings = recipe.load(HERE / "tiny.yaml", [f"stages.sft.steps={STEPS}", *overrides])
    parallel.WHOLE_GRADIENTS = 0 if "scattered" in name else 8 * 2**30
    world = parallel.start(settings.parallel)

    def build() -> object:
        torch.manual_seed(0)
        return make_model(settings, tokenizer, tile=32)

    model = build_once(build, world).train()
    bf16 = settings.precision == "bf16"
    parallel.prepare(model, settings.parallel, world, bf16=bf16)
    if name == "dense":
        same_as(build(), model)
    stage = settings.stages["sft"]
    optimizer = make_optimizer(model, stage.optimizer)
    batches = [rows[world.rank :: world.size] for rows in steps(stage_processor(settings, "sft", tokenizer))]
    experts: list[torch.Tensor] = []
    hook = model.register_forward_hook(lambda _m, _i, out: experts.append(out.expert_counts))
    backward(model, batches[1], bf16=bf16, world=world)
    hook.remove()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    optimizer.zero_grad()
    found: dict[str, list] = {"losses": [], "norms": [], "router": []}

    def on_step(step: object) -> None:
        found["losses"].append(step.loss)
        found["norms"].append(step.grad_norm)
        found["router"].append(step.router)

    def stream() -> Iterator[list[Batch]]:
        for i in count():
            yield batches[i % len(batches)]

    train(model, optimizer, stream(), stage=stage, first=1, bf16=bf16, world=world, on_step=on_step)
    weights = {name: whole(p) for name, p in model.named_parameters()}
    if experts[0] is not None:
        use = sum(experts).flatten().tolist()
        found["experts"] = list(world.totals({str(i): value for i, value in enumerate(use)}).values())
    if name == "dense" and world.size == 2:
        checkpoint.save(out / "steps", STEPS, model=model, optimizer=optimizer, state={}, world=world, keep=1)
    return {**found, "gradients": gradients, "weights": weights}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, from all processes."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def same_as(built: torch.nn.Module, model: torch.nn.Module) -> None:
    """Weights, buffers and ties of a model that the main process built are those that `build` gives on any."""
    expected = {**dict(built.named_parameters()), **dict(built.named_buffers())}
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(whole(found[name]), tensor), name
    assert any(name.endswith("inv_freq") for name in found)


def rank(number: int, processes: int, port: int, work: Callable[[], None]) -> None:
    """What a forked process does: `work` with the environment torchrun would give it; it never returns."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(processes), GLOO_SOCKET_IFNAME="lo")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def processes(number: int, work: Callable[[], None]) -> list[int]:
    """Forks so many processes that do `work` together; their ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for i in range(number):
        child = os.fork()
        if child == 0:
            rank(i, number, port, work)
        children.append(child)
    return children


def all_settings(number: int, tokenizer: object, out: Path) -> None:
    """Every setting for this number of processes, one after the other."""
    results = {}
    for name, overrides in SETTINGS[number].items():
        started = time.perf_counter()
        results[name] = one(name, overrides, tokenizer, out)
        results[name]["seconds"] = time.perf_counter() - started
        torch._dynamo.reset()
    if int(os.environ["RANK"]) == 0:
        torch.save(results, out / f"{number}.pt")
    parallel.stop()


def end_in_the_middle(tokenizer: object, out: Path) -> None:
    """Two processes train; the second one is killed in its fifth step. The first says what it makes of that."""
    settings = recipe.load(HERE / "tiny.yaml", ["stages.sft.steps=200"])
    world = parallel.start(settings.parallel)
    model = build_once(lambda: make_model(settings, tokenizer, tile=32), world)
    parallel.prepare(model, settings.parallel, world, bf16=False)
    stage = settings.stages["sft"]
    rows = steps(stage_processor(settings, "sft", tokenizer))[0][world.rank :: 2]

    def stream() -> Iterator[list[Batch]]:
        for i in count():
            if i == 5 and world.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield rows

    started = time.perf_counter()
    try:
        with parallel.together():
            optimizer = make_optimizer(model, stage.optimizer)
            train(model, optimizer, stream(), stage=stage, first=1, bf16=False, world=world, on_step=lambda _: None)
    except UserError as error:
        (out / "lost.txt").write_text(f"{time.perf_counter() - started}\n{error}")
    parallel.stop()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    parallel.PATIENCE = timedelta(seconds=120)  # a fault that makes processes wait for each other must end
    layers._compiled = cache(partial(torch.compile, dynamic=True, backend="eager"))  # no code generator: see test
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    for number in SETTINGS:
        for child in processes(number, partial(all_settings, number, tokenizer, out)):
            if os.waitpid(child, 0)[1]:
                sys.exit(f"a process of {number} failed")
    first, second = processes(2, partial(end_in_the_middle, tokenizer, out))
    statuses = [os.waitpid(child, 0)[1] for child in (second, first)]
    assert statuses == [signal.SIGKILL, 0], statuses


if __name__ == "__main__":
    main(Path(sys.argv[1]))
