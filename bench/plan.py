"""What `mm15 plan` predicts against what training takes: floating-point operations and memory, one line a case.

    python -m bench.plan                     on the CPU: pico and a 159M model, each case in its own process: minutes
    python -m bench.plan --device cuda       the same on a GPU (torch.cuda.max_memory_allocated), and larger rows

Operations are compared with torch.utils.flop_counter over a forward and backward. Memory on a CPU is the growth of the
process: from before the model is built to the highest of three training steps (VmHWM), with parameters in fp32. The
process gives freed memory back at once (`MALLOC`); training on a CPU keeps it, and its heap has holes (--keep).
On a CPU without kernels for bf16 only cases in fp32 are run. Exits with 1 where a promised case is off by more
than 5 % (operations) or 15 % (memory; on a GPU 10 %).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from counted_flops import counted
from planned_rows import as_json, from_json, inputs, network

from mm15 import recipe
from mm15.model.precision import has_bf16
from mm15.plan.activations import CPU_BLOCK
from mm15.plan.flops import Training, row_flops, totals
from mm15.plan.memory import Process, peak
from mm15.plan.row import Row, block_pairs, whole_pairs
from mm15.plan.shapes import Shapes
from mm15.train.allocator import keep_freed_memory
from mm15.train.layers import set_up_layers
from mm15.train.optim import make_optimizer

ROWS = {
    "pico": [Row((100, 200, 150), 11, 120), Row((512,), 0, 512), Row((50,) * 10, 24, 50), Row((512,) * 8, 48, 1000)],
    "smollm2": [Row((600, 424), 5, 200), Row((1024,), 0, 1000), Row((1500,), 20, 150), Row((256,), 3, 40)],
}
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Every tensor in pages of its own. By default glibc, once it has seen large blocks freed, cuts blocks of up to 32 MB
from a heap that shrinks only at its end."""
MOST_FLOPS, MOST_MEMORY, MOST_GPU = 0.05, 0.15, 0.10


def train(name: str, row: Row, *, bf16: bool, checkpointing: str, device: str, optimizer: str) -> int:
    """Bytes that a process grows by, from before the model is built to the highest of three steps."""
    torch.set_num_threads(1)
    if not os.environ.get("MALLOC_TRIM_THRESHOLD_"):
        keep_freed_memory()
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    model = network(name).to(device)
    set_up_layers(model, recipe.Parallel(activation_checkpointing=checkpointing), torch.device(device))
    updates = make_optimizer(model, recipe.Optimizer(name=optimizer))
    batch = inputs(model, row, device)
    for _ in range(3):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        updates.step()
        updates.zero_grad(set_to_none=True)
        del loss
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM") - before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def memory(
    name: str, row: Row, *, bf16: bool, checkpointing: str, device: str, keep: bool, optimizer: str = "adamw"
) -> bool:
    """One line: predicted and measured growth; whether they agree."""
    settings = {"bf16": bf16, "checkpointing": checkpointing, "device": device, "optimizer": optimizer}
    command = [sys.executable, __file__, "--one", json.dumps([name, as_json(row), settings])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({} if keep else MALLOC)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    measured = int(done.stdout.split()[-1])
    with torch.device("meta"):
        shapes = Shapes.of(network(name))
    found = peak(shapes, row, Training(checkpointing=checkpointing), Process(device, bf16, optimizer=optimizer))
    expected = found.total - (found.runtime if device == "cuda" else 0)  # which torch's own count does not see
    off = expected / measured - 1
    print(
        f"memory {_named(name, row)} {'bf16' if bf16 else 'fp32'} {checkpointing:9} {optimizer:9}  "
        f"predicted {expected / 1e6:8,.1f} MB  measured {measured / 1e6:8,.1f} MB  {off:+6.1%}  at {found.moment}",
        flush=True,
    )
    return abs(off) <= (MOST_GPU if device == "cuda" else MOST_MEMORY)


def flops(name: str, row: Row, *, bf16: bool, device: str) -> bool:
    """One line: predicted and counted operations of a forward and backward."""
    model = network(name).to(device)
    shapes = Shapes.of(model)
    blocks = bf16 and device == "cpu"
    how: dict[str, Any] = {
        "pairs": partial(block_pairs, block=CPU_BLOCK) if blocks else whole_pairs,
        "fused": not blocks,
    }
    with counted() as counter:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = model(**inputs(model, row, device)).loss
        loss.backward()
    expected, causal = (totals(row_flops(shapes, row, Training(), **way)).total for way in (how, {"fused": False}))
    off = expected / counter.get_total_flops() - 1
    print(
        f"flops  {_named(name, row)} {'bf16' if bf16 else 'fp32'}  predicted {expected / 1e9:9,.2f} G  counted "
        f"{counter.get_total_flops() / 1e9:9,.2f} G  {off:+6.1%}  (causal attention only: {causal / 1e9:9,.2f} G)",
        flush=True,
    )
    return abs(off) <= MOST_FLOPS


def _named(name: str, row: Row) -> str:
    documents = f"{row.tokens} tokens in {len(row.documents)}"
    return f"{name:7} {documents:17} {row.tiles:2} tiles {row.targets:4} targets"


def main() -> int:
    """Prints a line for each case."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options.add_argument("--model", default=",".join(ROWS), help="of which models, separated by commas")
    options.add_argument("--only", choices=["flops", "memory"])
    options.add_argument("--keep", action="store_true", help="let the process keep what it freed, as training does")
    options.add_argument("--one", help="(for itself) one case, as JSON")
    chosen = options.parse_args()
    if chosen.one:
        name, row, settings = json.loads(chosen.one)
        print(train(name, from_json(row), **settings))
        return 0
    names, good = chosen.model.split(","), True
    if chosen.only != "memory":
        good &= all([_all_flops(name, chosen.device) for name in names])
    if chosen.only != "flops":
        good &= all([_all_memory(name, chosen.device, keep=chosen.keep) for name in names])
    return 0 if good else 1


def _all_flops(name: str, device: str) -> bool:
    return all([flops(name, row, bf16=bf16, device=device) for row in ROWS[name][:2] for bf16 in _precisions(device)])


def _precisions(device: str) -> tuple[bool, ...]:
    """Whether in bf16, in fp32: what this machine can do."""
    return (True, False) if has_bf16(torch.device(device)) else (False,)


def _all_memory(name: str, device: str, *, keep: bool) -> bool:
    good = True
    where: dict[str, Any] = {"device": device, "keep": keep}
    precisions = _precisions(device)
    for i, row in enumerate(ROWS[name] if device == "cpu" else [*ROWS[name], Row((2048, 2048), 20, 2000)]):
        for bf16 in precisions:
            for checkpointing in ("none", "full", "selective")[: 3 if i == 0 else 1]:
                good &= memory(name, row, bf16=bf16, checkpointing=checkpointing, **where)
    return (
        memory(name, ROWS[name][0], bf16=precisions[0], checkpointing="none", optimizer="adafactor", **where) and good
    )


if __name__ == "__main__":
    sys.exit(main())
