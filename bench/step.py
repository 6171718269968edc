"""A training step beside transformers' SmolVLM classes with the same shapes, and beside the machine's matrix product.

    python -m bench.step [--rounds 3] [--json]

Workload: 2 rows of 512 positions, in each 5 tiles of 224 pixels (patch 14, 64 tokens a tile) and 192 tokens of text
that are trained on. Encoder 384 wide, 12 layers, 6 heads; decoder of SmolLM2-135M's shape with 49,152 tokens. A step
is forward, backward, clipping and AdamW. SmolVLM gets its rows as a batch and its tiles as normalised floats, and runs
the ways that people train it: fp32 parameters under bf16 autocast (Trainer's ``bf16=True``), everything in bf16 (which
rounds the updates of AdamW away), and everything in fp32. Ours has fp32 parameters and computes as ``precision: auto``
does: in bf16 autocast, or in fp32 where bf16 is not clearly faster; then it is measured in bf16 too. Each contender
runs in processes of its own, as its users start it, in turns; the median step of the best turn counts. The limit is
what the step needs, in floating-point operations, at the rate of the machine's own matrix product in the precision
that `auto` took (2048 x 2048, measured right before and after). On a CPU without kernels for bf16, where a step
in bf16 takes minutes, both run in fp32 alone and nothing is promised beside SmolVLM.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from bench.table import Line, report

ROWS, LENGTH, TILES, SIDE, PATCH, TILE_TOKENS, TEXT = 2, 512, 5, 224, 14, 64, 192
VOCABULARY, PICTURE = 49152, 5
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "patch_size": PATCH,
}
DECODER = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
    "tie_word_embeddings": True,
}
TIMES_SMOLVLM, OF_GEMM = 2.0, 0.6


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids and shifted labels [rows, positions], tiles uint8 [rows, 5, 3, 224, 224]."""
    torch.manual_seed(0)
    ids = torch.randint(6, VOCABULARY, (ROWS, LENGTH))
    ids[:, : LENGTH - TEXT] = PICTURE
    labels = torch.full_like(ids, -100)
    labels[:, LENGTH - TEXT - 1 : -1] = ids[:, LENGTH - TEXT :]
    return ids, labels, torch.randint(0, 256, (ROWS, TILES, 3, SIDE, SIDE), dtype=torch.uint8)


def mm15_step(*, bf16: bool) -> Callable[[], object]:
    """Our step: the loop's own `backward` and `clip` on one packed pass of both rows."""
    from mm15 import recipe
    from mm15.data.loader import Batch
    from mm15.model import build
    from mm15.train.allocator import keep_freed_memory
    from mm15.train.loop import backward
    from mm15.train.optim import make_optimizer
    from mm15.train.parallel import World, clip

    keep_freed_memory()
    settings = recipe.Model(
        vision=recipe.Backbone(family="siglip", shape=VISION),
        connector=recipe.Connector(tokens=TILE_TOKENS, depth=1, hidden_size=384),
        decoder=recipe.Backbone(family="llama", shape=DECODER),
    )
    torch.manual_seed(0)
    model = build(settings, tile=SIDE, image_token_id=PICTURE, vocab_size=VOCABULARY).train()
    optimizer = make_optimizer(model, recipe.Optimizer())
    ids, labels, tiles = example()
    row = Batch(
        input_ids=ids.view(1, -1),
        position_ids=torch.arange(LENGTH).repeat(ROWS)[None],
        labels=labels.view(1, -1),
        tiles=tiles.flatten(0, 1),
        spans=torch.cat([torch.arange(TILES) * TILE_TOKENS + row * LENGTH for row in range(ROWS)]),
        overviews=torch.zeros(ROWS * TILES, dtype=torch.bool),
        refs=[],
    )

    def step() -> None:
        backward(model, [row], bf16=bf16, world=World())
        clip(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def smolvlm_step(dtype: torch.dtype, *, autocast: bool = False) -> Callable[[], object]:
    """The peer's step: a batch of the same rows through its own forward and loss."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    torch.manual_seed(0)
    config = SmolVLMConfig(
        image_token_id=PICTURE,
        scale_factor=2,
        pad_token_id=0,
        vision_config={**VISION, "image_size": SIDE},
        text_config={"model_type": "llama", **DECODER, "vocab_size": VOCABULARY, "pad_token_id": 0},
        tie_word_embeddings=True,
    )
    model = SmolVLMForConditionalGeneration(config).train()
    ids, labels, tiles = example()
    pixels = (tiles.float() / 255 - 0.5) / 0.5
    model, pixels = model.to(dtype), pixels.to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    unshifted = torch.full_like(labels, -100)
    unshifted[:, 1:] = labels[:, :-1]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, pixel_values=pixels, labels=unshifted, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


CONTENDERS: dict[str, Callable[[], Callable[[], object]]] = {
    "mm15 in bf16": partial(mm15_step, bf16=True),
    "mm15 in fp32": partial(mm15_step, bf16=False),
    "SmolVLM, autocast": partial(smolvlm_step, torch.float32, autocast=True),
    "SmolVLM, all bf16": partial(smolvlm_step, torch.bfloat16),
    "SmolVLM, all fp32": partial(smolvlm_step, torch.float32),
}


def needed() -> float:
    """Floating-point operations that a step needs: every product of the forward, and twice that in the backward.

    Causal attention counts the keys a query sees; logits count at targets; nothing is counted for the encoder's pixels
    (they need no gradient), norms, activations and AdamW.
    """
    patches, tiles, positions = (SIDE // PATCH) ** 2, ROWS * TILES, ROWS * LENGTH
    width, wide = VISION["hidden_size"], VISION["intermediate_size"]
    vision = VISION["num_hidden_layers"] * (4 * width**2 + 2 * width * wide + 2 * patches * width)
    hidden, ffn, heads, keys = (DECODER[k] for k in list(DECODER)[:2] + list(DECODER)[3:5])
    layer = 2 * hidden**2 + 2 * hidden * hidden // heads * keys + 3 * hidden * ffn + (LENGTH + 1) * hidden
    embed = 3 * PATCH**2 * width
    hid = 384
    connector = patches * (width * hid + 2 * hid**2 + 9 * hid) + TILE_TOKENS * (
        2 * hid**2 + 9 * hid + hid * hidden + hidden**2
    )
    products = (
        tiles * patches * (vision + embed * 2 / 3)
        + tiles * connector
        + positions * DECODER["num_hidden_layers"] * layer
        + ROWS * TEXT * hidden * VOCABULARY
    )
    return 3 * 2 * products


def gemm(dtype: torch.dtype) -> float:
    """The machine's matrix product at this moment, in operations a second."""
    side, best = 2048, 0.0
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


def child(name: str, steps: int) -> None:
    """One contender in this process: prints seconds of each step and the rate of the matrix product around it."""
    step, dtype = CONTENDERS[name](), torch.bfloat16 if "bf16" in name else torch.float32
    for _ in range(3):
        step()
    found = []
    for _ in range(steps):
        before = gemm(dtype)
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        found.append((seconds, max(before, gemm(dtype))))
    print(json.dumps(found))


def lines(rounds: int, steps: int) -> list[Line]:
    """The contenders in turns."""
    from mm15.model.precision import faster_in_bf16, has_bf16

    precision = "bf16" if faster_in_bf16(torch.device("cpu")) else "fp32"
    ours = f"mm15 in {precision}"
    beside: list[tuple[str, str, float | None]] = [
        (ours, "SmolVLM, autocast", TIMES_SMOLVLM),
        (ours, "SmolVLM, all bf16", None),
        (ours, "SmolVLM, all fp32", None),
    ]
    if not has_bf16(torch.device("cpu")):
        beside = beside[2:]
    elif ours != "mm15 in bf16":
        beside.append(("mm15 in bf16", "SmolVLM, autocast", None))
    measured = {name for one, other, _ in beside for name in (one, other)}
    turns: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in CONTENDERS if name in measured}
    for _ in range(rounds):
        for name, found in turns.items():
            command = [sys.executable, "-m", "bench.step", "--child", name, "--steps", str(steps)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(output.stdout.splitlines()[-1]))
    positions = ROWS * LENGTH
    rates = {
        name: positions / min(statistics.median(s for s, _ in turn) for turn in found) for name, found in turns.items()
    }
    made = []
    for one, other, goal in beside:
        what = f"training step, {one}"
        made.append(Line(what, "positions/s", rates[one], other, rates[other], rates[one] / rates[other], goal))
    pairs = [pair for turn in turns[ours] for pair in turn]
    rate = statistics.median(rate for _, rate in pairs)
    reached = statistics.median(needed() / seconds / rate for seconds, rate in pairs)
    limit = f"{precision} matrix product"
    return [
        *made,
        Line(f"training step, {ours}", "GFLOP/s", reached * rate / 1e9, limit, rate / 1e9, reached, OF_GEMM),
    ]


def main() -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a turn")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.steps)
        return 0
    return report(lines(given.rounds, given.steps), json_wanted=given.json)


if __name__ == "__main__":
    sys.exit(main())
