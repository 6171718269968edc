"""Trains the tiny mixture of experts on 1, 2 and 4 gloo processes whose experts are spread over pairs of them.

expert_harness.py OUT   OUT/PROCESSES.pt: by setting, its steps (losses, norms, router losses, expert use) and weights
                        OUT/PROCESSES: DCP checkpoint of the first setting      OUT/model: its export from two
"""

from __future__ import annotations

import os
import sys
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
import torch.distributed as dist
from parallel_harness import processes, same_as, steps, whole
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mm15 import recipe
from mm15.errors import UserError
from mm15.model.moe import gates
from mm15.model.routing import multiply
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.train import checkpoint, expert_parallel, parallel
from mm15.train.loop import backward, train
from mm15.train.materialise import build_once
from mm15.train.models import export, make_model
from mm15.train.optim import make_optimizer
from mm15.train.run import stage_processor

HERE = Path(__file__).parent
EXPERTS = 4
MOE = [
    "model.decoder.family=qwen3_moe",
    f"model.decoder.shape.num_experts={EXPERTS}",
    "model.decoder.shape.decoder_sparse_step=1",
]
FULL, SELECTIVE = "parallel.activation_checkpointing=full", "parallel.activation_checkpointing=selective"
SETTINGS = {"plain": (20, []), "capacity": (3, ["model.router.capacity=1.0", FULL]), "lopsided": (3, [SELECTIVE])}
"""Name -> steps, and overrides of the recipe. Lopsided: every token goes to experts 2 and 3, so the first process of a
pair has nothing to do."""
WRONG = {
    "dense": ["parallel.experts=2"],
    "indivisible": [*MOE, "model.decoder.shape.num_experts=5", "parallel.experts=2"],
    "processes": [*MOE, "parallel.experts=4"],
    "copies": [*MOE, "parallel.experts=2", "parallel.replicate=2"],
}


class Exchanges(TorchDispatchMode):
    """Counts the exchanges of rows and of their numbers."""

    count = 0

    def __torch_dispatch__(self, operation: object, _types: object, args: tuple = (), kwargs: dict | None = None):
        self.count += operation is torch.ops._c10d_functional.all_to_all_single.default
        return operation(*args, **(kwargs or {}))


def one(name: str, tokenizer: object, out: Path) -> dict:
    """All steps in one setting; on the main process its results."""
    number, overrides = SETTINGS[name]
    size = int(os.environ["WORLD_SIZE"])
    overrides = [*MOE, *overrides, f"stages.sft.steps={number}", f"parallel.experts={min(size, 2)}"]
    settings = recipe.load(HERE / "tiny.yaml", overrides)
    world = parallel.start(settings.parallel)
    model, optimizer = trained_model(settings, tokenizer, world)
    if name == "lopsided":
        for gate in gates(model.decoder):
            gate.register_forward_hook(lambda _m, _i, out: (*out[:2], torch.tensor([2, 3]).expand_as(out[2])))
    processor = stage_processor(settings, "sft", tokenizer)
    batches = [rows[world.rank :: world.size] for rows in steps(processor)]
    with Exchanges() as exchanges:
        backward(model, batches[1], bf16=False, world=world)
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    optimizer.zero_grad()
    counts: list[torch.Tensor] = []
    model.register_forward_hook(lambda _m, _i, out: counts.append(out.expert_counts))
    found: dict[str, list] = {"losses": [], "norms": [], "router": []}

    def on_step(step: object) -> None:
        found["losses"].append(step.loss)
        found["norms"].append(step.grad_norm)
        found["router"].append(step.router)

    stage = settings.stages["sft"]
    train(model, optimizer, cycle(batches), stage=stage, first=1, bf16=False, world=world, on_step=on_step)
    experts = torch.stack(counts).unflatten(0, (number, -1)).sum(1)
    if world.mesh is not None:
        dist.all_reduce(experts)
    state = {
        "weights": {name: whole(p) for name, p in model.named_parameters()},
        "moments": {name: whole(optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters()},
    }
    if name == "plain":
        checkpoint.save(out / str(size), number, model=model, optimizer=optimizer, state={}, world=world, keep=1)
        if size == 2:
            export(model, processor, out / "model", world, receipt={})
    return {
        **found,
        "experts": experts,
        "exchanges": exchanges.count / len(batches[1]),
        "gradients": gradients,
        **state,
    }


def trained_model(
    settings: recipe.Recipe, tokenizer: object, world: parallel.World, seed: int = 0
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model in training, spread as set, which is what the main process built; and its optimiser."""

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return make_model(settings, tokenizer, tile=32)

    model = build_once(build, world).train()
    parallel.prepare(model, settings.parallel, world, bf16=False)
    same_as(build(), model)
    return model, make_optimizer(model, settings.stages["sft"].optimizer)


def load_what_one_saved(tokenizer: object, out: Path) -> dict:
    """Weights and moments of a checkpoint that a single process wrote, as these processes load it."""
    settings = recipe.load(HERE / "tiny.yaml", [*MOE, "parallel.experts=2"])
    world = parallel.start(settings.parallel)
    model, optimizer = trained_model(settings, tokenizer, world, seed=1)
    checkpoint.load(checkpoint.latest(out / "1"), model=model, optimizer=optimizer, world=world)
    return {
        "weights": {name: whole(p) for name, p in model.named_parameters()},
        "moments": {name: whole(optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters()},
    }


def rows_travel(mesh: DeviceMesh) -> None:
    """Outputs and gradients of rows sent to two processes are those of all experts on one, however they are spread."""
    for shares in ([[3, 0, 2, 5], [1, 4, 0, 2]], [[0, 0, 7, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]):
        torch.manual_seed(0)
        up, down, *given = (
            torch.randn(shape, dtype=torch.float64)
            for shape in ((EXPERTS, 12, 8), (EXPERTS, 8, 6), *((sum(share), 8) for share in shares))
        )
        outs, asked, sums = [], [], [torch.zeros_like(up), torch.zeros_like(down)]
        for rows, share in zip(given, shares, strict=True):  # alone
            leaves = [tensor.clone().requires_grad_() for tensor in (rows, up, down)]
            out = multiply(*leaves, torch.tensor(share).cumsum(0).int(), nn.SiLU())
            out.square().sum().backward()
            outs.append(out)
            asked.append(leaves[0].grad)
            sums = [total + leaf.grad for total, leaf in zip(sums, leaves[1:], strict=True)]
        mine = mesh.get_local_rank("expert")
        rows = given[mine].clone().requires_grad_()
        spread = [distribute_tensor(w, mesh["expert"], [Shard(0)]).requires_grad_() for w in (up, down)]
        ends = torch.tensor(shares[mine]).cumsum(0).int()
        out = expert_parallel.exchanged(mesh.get_group("expert"), rows, *spread, ends, nn.SiLU())
        out.square().sum().backward()
        torch.testing.assert_close(out, outs[mine])
        torch.testing.assert_close(rows.grad, asked[mine])
        for weights, total in zip(spread, sums, strict=True):
            torch.testing.assert_close(weights.grad.full_tensor(), total)


def weights_in_bf16(tokenizer: object, experts: int) -> dict[str, tuple[torch.dtype, bool]]:
    """What routers, attention and experts multiply with when parameters are gathered in bf16, as on GPUs: its dtype,
    and whether it is the whole model's, bit for bit. Their gradients come to be fp32."""
    settings = recipe.load(HERE / "tiny.yaml", [*MOE, f"parallel.experts={experts}"])
    world = parallel.start(settings.parallel)
    torch.manual_seed(0)
    model = make_model(settings, tokenizer, tile=32).train()
    expected = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    parallel.shard(model, world, bf16=True)
    found = {}
    for place in ("mlp.gate", "self_attn.q_proj"):
        name = f"decoder.model.layers.1.{place}"

        def note(module: nn.Module, _inputs: object, name: str = name, place: str = place) -> None:
            found[place] = module.weight.dtype, torch.equal(module.weight, expected[f"{name}.weight"])

        model.get_submodule(name).register_forward_pre_hook(note)
    rows = steps(stage_processor(settings, "sft", tokenizer))[1][world.rank :: world.size]
    backward(model, rows, bf16=False, world=world)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(whole(gate.weight.grad).abs().sum() > 0 for gate in gates(model.decoder))
    return found


def refusals(tokenizer: object) -> dict[str, str]:
    """What is said of each wrong setting."""
    said = {}
    for name, overrides in WRONG.items():
        settings = recipe.load(HERE / "tiny.yaml", overrides)
        try:
            trained_model(settings, tokenizer, parallel.start(settings.parallel))
        except UserError as error:
            said[name] = str(error)
    return said


def everything(tokenizer: object, out: Path) -> None:
    """All settings of one process or of several, one after the other."""
    size = int(os.environ["WORLD_SIZE"])
    results = {name: one(name, tokenizer, out) for name in SETTINGS}
    if size > 1:
        results["loaded"] = load_what_one_saved(tokenizer, out)
    if size == 2:
        rows_travel(parallel.start(recipe.Parallel(experts=2)).grid)
        results["refusals"] = refusals(tokenizer)
        results["in bf16"] = [weights_in_bf16(tokenizer, experts) for experts in (1, 2)]
    if int(os.environ["RANK"]) == 0:
        torch.save(results, out / f"{size}.pt")
    parallel.stop()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    for number in (1, 2, 4):
        for child in processes(number, partial(everything, tokenizer, out)):
            if os.waitpid(child, 0)[1]:
                sys.exit(f"a process of {number} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
