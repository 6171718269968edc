"""The sizes on one NVIDIA GPU: what is right there, tokens a second, share of its product rate, memory beside the plan.

    python -m bench.gpu                                          1B dense, 1B-MoE, 3B dense, 30 steps each
    python -m bench.gpu --sizes mm15-1b --attention sdpa --rows 2
    python -m bench.gpu --device cpu --sizes tests/tiny.yaml --steps 2      the same code without a GPU

First: logits of a packed row equal those of its documents one by one with every attention that is at hand, and experts
multiplied together equal experts one by one. Then each size trains on rows of its pre-training stage (4096 tokens, up
to 16 tiles of 378 pixels, what `mm15.plan` takes for typical), bf16 autocast over fp32 parameters, fused AdamW, as
`mm15 run` trains on one GPU. MFU counts what the step needs (no recomputation) and is a share of the rate of a product
of two 8192 x 8192 bf16 matrices, measured here. One GPU cannot hold the parameters of 64 experts; the MoE gets
`--experts`, which changes nothing in what a token costs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from planned_rows import IMAGE, inputs
from torch import nn

from bench.table import Line, report
from mm15 import recipe
from mm15.model import MM15ForConditionalGeneration, build
from mm15.model.assemble import vocabulary
from mm15.model.routing import multiply
from mm15.plan.flops import Training, row_flops, totals
from mm15.plan.memory import Process, peak
from mm15.plan.row import Row, typical
from mm15.plan.shapes import Shapes
from mm15.train.layers import set_up_layers
from mm15.train.optim import make_optimizer

GOAL = {"dense": 0.50, "moe": 0.35}
OF_THE_PLAN = 0.10
ATTENTIONS = ("sdpa", "packed_sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")


def make(settings: recipe.Model, *, tile: int, words: int, device: torch.device) -> MM15ForConditionalGeneration:
    """A model with fresh weights, made on the device."""
    torch.manual_seed(0)
    with device:
        return build(settings, tile=tile, image_token_id=IMAGE, vocab_size=words).train()


# ---------------------------------------------------------------------------------------------------------------- right


def small(device: torch.device) -> MM15ForConditionalGeneration:
    """A model of the real layout with few parameters, heads of 64."""
    shape = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 512,
    }
    vision = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "patch_size": 14,
    }
    settings = recipe.Model(
        vision=recipe.Backbone(family="siglip", shape=vision),
        connector=recipe.Connector(tokens=16, depth=1, hidden_size=128),
        decoder=recipe.Backbone(family="qwen3", shape=shape),
    )
    return make(settings, tile=112, words=1000, device=device).eval()


@torch.no_grad()
def packed_lines(device: torch.device) -> list[Line]:
    """For each attention, how far a packed row's logits are from its documents' own, beside what bf16 rounds."""
    model, made = small(device), []
    row = Row((37, 300, 5, 640, 42), 0, 0)
    ids = inputs(model, row, str(device))["input_ids"]
    positions = torch.cat([torch.arange(n) for n in row.documents])[None].to(device)
    pieces = ids.split(row.documents, 1)
    exact = torch.cat([model(input_ids=piece, use_cache=False).logits for piece in pieces], 1)
    for name in ATTENTIONS:
        try:
            model.set_attn_implementation(name)
            with torch.autocast(device.type, torch.bfloat16):
                packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
                apart = torch.cat([model(input_ids=piece, use_cache=False).logits.float() for piece in pieces], 1)
        except (ImportError, ValueError, RuntimeError) as error:
            print(f"{name}: not here ({' '.join(str(error).split())[:100]})", file=sys.stderr)
            continue
        far, rounding = (packed - apart).abs().max().item(), (apart - exact).abs().max().item()
        what = f"packed = separate, {name}"
        made.append(Line(what, "logit", far, "bf16's own error", rounding, rounding / max(far, 1e-9), 1.0))
    return made


@torch.no_grad()
def grouped_line(device: torch.device) -> Line:
    """Experts multiplied together beside one by one, in bf16, with an expert that gets nothing."""
    torch.manual_seed(0)
    counts = [700, 0, 33, 1315]
    rows, wide = torch.randn(sum(counts), 256, device=device, dtype=torch.bfloat16), 512
    up = torch.randn(4, 2 * wide, 256, device=device, dtype=torch.bfloat16) / 16
    down = torch.randn(4, 256, wide, device=device, dtype=torch.bfloat16) / 22
    ends = torch.tensor(counts, device=device).cumsum(0).to(torch.int32)
    together = multiply(rows, up, down, ends, nn.SiLU()).double()
    one_by_one = []
    for e, piece in enumerate(rows.split(counts)):
        gate, value = (piece.double() @ up[e].double().T).chunk(2, -1)
        one_by_one.append(nn.functional.silu(gate) * value @ down[e].double().T)
    right = torch.cat(one_by_one)
    error = ((together - right).norm() / right.norm()).item()
    return Line("grouped experts = loop", "error", error, "bf16", 2**-7, 2**-7 / max(error, 1e-12), 1.0)


# --------------------------------------------------------------------------------------------------------------- fast


def product(device: torch.device, side: int) -> float:
    """Operations a second of a bf16 matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / min(_seconds(lambda: a @ b, device) for _ in range(8))


def _seconds(job: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    job()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(name: str, given: argparse.Namespace, device: torch.device, rate: float) -> list[Line]:
    """One size: its steps, and the lines of the table."""
    changes = [
        "parallel.activation_checkpointing=" + given.checkpointing,
        f"parallel.compile={str(given.compile).lower()}",
    ]
    settings = recipe.load(name, changes)
    sparse = settings.model.decoder.family == "qwen3_moe"
    if sparse and given.experts:
        settings = recipe.load(name, [*changes, f"model.decoder.shape.num_experts={given.experts}"])
    stage = next(iter(settings.stages))
    tile, words = settings.stage_picture(stage).tile, vocabulary(settings)
    row = typical(settings.stages[stage].batch, settings.model.connector.tokens)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    model = make(settings.model, tile=tile, words=words, device=device)
    model.set_attn_implementation(given.attention)
    set_up_layers(model, settings.parallel, device)
    optimizer = make_optimizer(model, recipe.Optimizer())
    batch = inputs(model, row, str(device))

    def step() -> None:
        for _ in range(given.rows):
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(**batch, num_items_in_batch=given.rows * row.targets).loss
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = [_seconds(step, device) for _ in range(given.steps)]
    seconds = statistics.median(times[len(times) // 3 :])
    with torch.device("meta"):
        shapes = Shapes.of(build(settings.model, tile=tile, image_token_id=IMAGE, vocab_size=words))
    flops = row_flops(shapes, row, Training())
    needed = totals(flops).total * given.rows
    label = f"{name}, {given.experts} experts" if sparse and given.experts else name
    goal = GOAL["moe" if sparse else "dense"] if device.type == "cuda" else None
    tokens = given.rows * row.tokens / seconds
    lines = [
        Line(f"{label}: step", "tokens/s", tokens, "MFU of matrix product", rate / 1e12, needed / seconds / rate, goal)
    ]
    if device.type == "cuda":
        training = Training(checkpointing=given.checkpointing)
        found = peak(shapes, row, training, Process("cuda", True, rows=given.rows))
        planned, measured = found.total - found.runtime, torch.cuda.max_memory_allocated()
        near = min(planned, measured) / max(planned, measured)
        lines.append(Line(f"{label}: memory", "GB", measured / 1e9, "plan", planned / 1e9, near, 1 - OF_THE_PLAN))
    return lines


def main() -> int:
    """Checks, then trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["mm15-1b", "mm15-1b-moe", "mm15-3b"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1, help="rows of a step")
    parser.add_argument("--experts", type=int, default=8, help="instead of the recipe's; 0: the recipe's")
    parser.add_argument("--attention", default="packed_sdpa")
    parser.add_argument("--checkpointing", default="none", choices=["none", "selective", "full"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench.gpu: no NVIDIA GPU here; try --device cpu --sizes tests/tiny.yaml --steps 2", file=sys.stderr)
        return 2
    rate = product(device, 8192 if device.type == "cuda" else 1024)
    lines = [*packed_lines(device), grouped_line(device)]
    for name in given.sizes:
        lines += train(name, given, device, rate)
    return report(lines, json_wanted=given.json)


if __name__ == "__main__":
    sys.exit(main())
