"""A training step of a mixture-of-experts decoder beside a dense one with the same active parameters.

    python -m bench.moe                           8 experts, top-2, every second of 12 layers of 384; 1024 tokens
    python -m bench.moe --every 1 --rounds 9 --threads 2
    python -m bench.moe --device cuda --hidden 2048 --layers 4 --expert 4096 --experts 64 --tokens 8192

An expert is as wide as the dense model's feed-forward divided by k, so both multiply as many numbers a token. A step is
forward, backward and AdamW on one packed row, as in training (bf16 autocast, or fp32 on a CPU without kernels for
bf16; fp32 parameters, the mm15 model with a vanishing encoder). The models take turns; of all rounds the median counts,
and the ratio is the median of the rounds' ratios. AdamW has to update all experts, 2.1 times the parameters (every
layer: 3.3). Beside our way to multiply experts stands transformers' own. Exits with 1 when the step takes more than 1.3
times the dense one's (on a CPU).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.table import Line, report
from mm15 import recipe
from mm15.model import MM15ForConditionalGeneration, build
from mm15.model.precision import has_bf16
from mm15.model.routing import GROUPED
from mm15.train.allocator import keep_freed_memory
from mm15.train.optim import make_optimizer

PROMISE = 1.3
WARM_UP = 5
"""Steps of each model before the first round: products are compiled for each new shape, and shapes come back."""
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16, "patch_size": 8}
VOCABULARY = 2048


def make(options: argparse.Namespace, *, sparse: bool) -> MM15ForConditionalGeneration:
    """The dense or the sparse model; both have 2 x `expert` wide feed-forwards, or as many experts a token."""
    shape: dict[str, Any] = {
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.hidden // 64,
        "num_key_value_heads": max(options.hidden // 128, 1),
        "head_dim": 64,
        "intermediate_size": options.expert * options.top_k,
    }
    if sparse:
        shape |= {
            "num_experts": options.experts,
            "num_experts_per_tok": options.top_k,
            "moe_intermediate_size": options.expert,
            "decoder_sparse_step": options.every,
        }
    settings = recipe.Model(
        vision=recipe.Backbone(family="siglip", shape=VISION),
        connector=recipe.Connector(tokens=1, depth=1, hidden_size=16),
        decoder=recipe.Backbone(family="qwen3_moe" if sparse else "qwen3", shape=shape),
    )
    torch.manual_seed(0)
    model = build(settings, tile=16, image_token_id=VOCABULARY - 1, vocab_size=VOCABULARY)
    return model.to(options.device).train()


def stepper(model: MM15ForConditionalGeneration, options: argparse.Namespace) -> Callable[[], tuple[float, float]]:
    """One training step on a row of four documents; returns its seconds without and with AdamW."""
    optimizer = make_optimizer(model.parameters(), recipe.Optimizer(lr=1e-4))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY - 1, (1, options.tokens), generator=generator).to(options.device)
    positions = torch.arange(options.tokens // 4).repeat(4)[None].to(options.device)
    labels = ids.roll(-1, 1)
    bf16 = has_bf16(torch.device(options.device))

    def now() -> float:
        if options.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step() -> tuple[float, float]:
        started = now()
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=bf16):
            out: Any = model(input_ids=ids, position_ids=positions, shift_labels=labels, use_cache=False)
        out.loss.backward()
        middle = now()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return middle - started, now() - started

    return step


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians in milliseconds by model, and the median of the rounds' ratios of the dense step to its own."""
    models = {"dense": make(options, sparse=False), GROUPED: make(options, sparse=True)}
    models["grouped_mm"] = make(options, sparse=True)  # transformers' default
    models["grouped_mm"].set_experts_implementation("grouped_mm")
    steps = {name: stepper(model, options) for name, model in models.items()}
    for step in [*steps.values()] * WARM_UP:
        step()
    rounds = [{name: step() for name, step in steps.items()} for _ in range(options.rounds)]
    found = {}
    for name in models:
        passes, whole = zip(*(one[name] for one in rounds), strict=True)
        found[name] = {
            "passes": 1e3 * statistics.median(passes),
            "step": 1e3 * statistics.median(whole),
            "ratio": statistics.median(one["dense"][1] / one[name][1] for one in rounds),
        }
    return found


def lines(found: dict[str, dict[str, float]], options: argparse.Namespace) -> list[Line]:
    """Each sparse model's step beside the dense one's."""
    dense, made = found["dense"], []
    every = "every layer" if options.every == 1 else f"one of {options.every} layers"
    for name, one in found.items():
        if name == "dense":
            continue
        what = f"MoE step, {options.experts} experts top-{options.top_k}, {every}, {options.tokens} tokens, {name}"
        goal = 1 / PROMISE if name == GROUPED and options.device == "cpu" else None
        made.append(Line(what, "ms", one["step"], "dense, same active", dense["step"], one["ratio"], goal))
        passes = dense["passes"] / one["passes"]
        made.append(Line("  its forward and backward", "ms", one["passes"], "dense", dense["passes"], passes))
    return made


def main() -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "experts": 8,
        "top-k": 2,
        "every": 2,
        "layers": 12,
        "hidden": 384,
        "expert": 768,
        "tokens": 1024,
        "rounds": 7,
        "threads": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cpu":
        keep_freed_memory()
    return report(lines(measure(options), options), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
