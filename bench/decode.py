"""Greedy decoding on a CPU, batch 1, after a prompt of 512 tokens: mm15 against transformers and llama.cpp.

    OMP_NUM_THREADS=2 python -m bench.decode
    OMP_NUM_THREADS=2 python -m bench.decode --llama-python PATH       llama_cpp in another environment
    ... --rounds 3 --tokens 32 --json

SmolLM2-135M behind a tiny picture tower, real text as the prompt, the same number of threads for all, side by side:
each round measures every contender once, the least time counts. llama.cpp reads the GGUF that the weights come from
(Q4_1, head Q8_0), its own sampling left out. Exits with 1 when a promise is broken: int8 decodes at least 6 times as
fast as `generate` in bf16 and no slower than llama.cpp, reads the prompt no slower than `generate` in bf16 and keeps
the perplexity of fp32 within 1 %, and fp32 writes the tokens of `generate` in fp32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.table import Line, report

PROMPT = 512
TIMES_GENERATE = 6.0
NAME = "smollm2-135m"

LLAMA = """
import json, sys, time, llama_cpp
path, threads = sys.argv[1], int(sys.argv[2])
model = llama_cpp.Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
for line in sys.stdin:
    ids, tokens = json.loads(line)
    model.reset()
    start = time.perf_counter()
    model.eval(ids)
    read = time.perf_counter()
    for i in range(tokens):
        model.eval([ids[i]])
    print(json.dumps([read - start, time.perf_counter() - read]), flush=True)
"""


@dataclass
class Times:
    """Least seconds of reading the prompt, and of one token after it."""

    prefill: float = float("inf")
    token: float = float("inf")

    def take(self, prefill: float, token: float) -> None:
        self.prefill, self.token = min(self.prefill, prefill), min(self.token, token)


def make_model(dtype: torch.dtype) -> Any:
    """SmolLM2 with a tower of 32 pixels in front of it, which a prompt without pictures never calls."""
    from mm15.model.assemble import build
    from mm15.recipe import Model

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "patch_size": 8,
    }
    settings = Model.model_validate(
        {
            "vision": {"family": "siglip", "shape": vision},
            "connector": {"tokens": 4, "depth": 1, "hidden_size": 32},
            "decoder": {"family": "llama", "weights": NAME},
        }
    )
    options: dict[str, Any] = {
        "tile": 32,
        "image_token_id": 1,
        "vocab_size": 49152,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return build(settings, **options, dtype=dtype).eval()


def documentation() -> list[int]:
    """Python's own documentation of its language, as tokens."""
    from pydoc_data import topics

    from transformers import AutoTokenizer

    from mm15.pretrained import resolve

    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))[:60_000]
    return [int(i) for i in AutoTokenizer.from_pretrained(resolve(NAME))(text)["input_ids"]]


def encoded(ids: list[int]) -> Any:
    """The tokens as a prompt without pictures."""
    from mm15.text.render import Encoded

    none = np.zeros((0, 3, 32, 32), np.uint8)
    return Encoded(np.array(ids), np.full(len(ids), -100), none, np.zeros(0, np.int64))


def perplexities(decoder: Any, fast: Any, ids: list[int]) -> tuple[float, float]:
    """(transformers' decoder, fast decoder) over the tokens, in windows of the prompt's length."""
    sums, windows = np.zeros(2), [ids[i : i + PROMPT] for i in range(0, len(ids) - PROMPT + 1, PROMPT)]
    for window in windows:
        with torch.inference_mode():
            both = decoder(torch.tensor([window])).logits[0], fast.logits(encoded(window))
        targets = torch.tensor(window[1:])
        sums += [float(torch.nn.functional.cross_entropy(found[:-1].float(), targets)) for found in both]
    exact, rounded = np.exp(sums / len(windows))
    return float(exact), float(rounded)


class Clock:
    """A streamer of transformers: notes when the prompt and each token pass by, so that no two runs are subtracted."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to be shown."""


def of_generate(decoder: Any, ids: list[int], tokens: int) -> tuple[float, float, list[int]]:
    """Seconds to the first token, seconds of each that follows, and the tokens."""
    given, clock = torch.tensor([ids]), Clock()
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "suppress_tokens": [1]}
    start = time.perf_counter()
    with torch.inference_mode():
        mask = torch.ones_like(given)
        out = decoder.generate(given, attention_mask=mask, max_new_tokens=1 + tokens, streamer=clock, **options)
    _prompt, first, *rest = clock.times
    assert len(rest) == tokens
    return first - start, (rest[-1] - first) / tokens, out[0, len(ids) :].tolist()


def of_fast(fast: Any, ids: list[int], tokens: int) -> tuple[float, float, list[int]]:
    """The same of a FastDecoder that remembers nothing."""
    fast.forget()
    start = time.perf_counter()
    stream = fast.tokens(encoded(ids), most=1 + tokens)
    written = [next(stream)]
    first = time.perf_counter()
    written += list(stream)
    return first - start, (time.perf_counter() - first) / tokens, written


@contextmanager
def llama(python: str | None) -> Iterator[Callable[[list[int], int], tuple[float, float]] | None]:
    """llama.cpp in a process of its own; None where `python` has no llama_cpp."""
    from mm15.pretrained import SHIPPED

    python = python or sys.executable
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False).returncode:
        yield None
        return
    shipped = SHIPPED[NAME]
    found = importlib.util.find_spec(shipped.file.partition("/")[0])
    assert found is not None and found.submodule_search_locations
    gguf = Path(found.submodule_search_locations[0]).parent / shipped.file
    command = [python, "-c", LLAMA, str(gguf), str(torch.get_num_threads())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None

        def ask(ids: list[int], tokens: int) -> tuple[float, float]:
            child.stdin.write(json.dumps([ids, tokens]) + "\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            read, wrote = json.loads(child.stdout.readline())  # type: ignore[union-attr]
            return read, wrote / tokens

        yield ask


@dataclass
class Found:
    """Times of every contender and the tokens it wrote; perplexity of fp32 and of int8, and over how many tokens."""

    times: dict[str, Times]
    written: dict[str, list[int]]
    perplexity: tuple[float, float]
    tokens: int


def measure(rounds: int, tokens: int, llama_python: str | None) -> Found:
    """Everything, side by side."""
    from mm15.generate import FastDecoder, Weights

    half, full = make_model(torch.bfloat16), make_model(torch.float32)
    peers = {"generate bf16": half.decoder, "generate fp32": full.decoder}
    ours = {"mm15 int8": FastDecoder(half, weights=Weights.INT8), "mm15 fp32": FastDecoder(full)}
    text = documentation()
    ids = text[:PROMPT]
    times = {name: Times() for name in (*peers, *ours)}
    written: dict[str, list[int]] = {}
    with llama(llama_python) as ask:
        for _ in range(1 + rounds):  # the first warms up
            for name, decoder in peers.items():
                decoder.set_attn_implementation("sdpa")  # transformers' own choice
                first, each, written[name] = of_generate(decoder, ids, tokens)
                times[name].take(first, each)
                decoder.set_attn_implementation("packed_sdpa")  # ours, which FastDecoder reads a prompt with
            for name, fast in ours.items():
                first, each, written[name] = of_fast(fast, ids, tokens)
                times[name].take(first, each)
            if ask is not None:
                times.setdefault("llama.cpp Q4_1", Times()).take(*ask(ids, tokens))
    return Found(times, written, perplexities(full.decoder, ours["mm15 int8"], text[: 8 * PROMPT]), 8 * PROMPT)


def lines(found: Found) -> list[Line]:
    """int8 beside transformers and llama.cpp; fp32 beside transformers'."""
    ours, base, other = (found.times.get(name) for name in ("mm15 int8", "generate bf16", "llama.cpp Q4_1"))
    whole, theirs = found.times["mm15 fp32"], found.times["generate fp32"]
    read, wrote = "prompt of 512, int8", "decode after 512, int8"
    made = [
        Line(
            wrote, "tokens/s", 1 / ours.token, "generate bf16", 1 / base.token, base.token / ours.token, TIMES_GENERATE
        ),
        Line(
            read,
            "tokens/s",
            PROMPT / ours.prefill,
            "generate bf16",
            PROMPT / base.prefill,
            base.prefill / ours.prefill,
            1,
        ),
        Line(
            "decode, fp32", "tokens/s", 1 / whole.token, "generate fp32", 1 / theirs.token, theirs.token / whole.token
        ),
    ]
    if other is not None:
        made.append(
            Line(wrote, "tokens/s", 1 / ours.token, "llama.cpp Q4_1", 1 / other.token, other.token / ours.token, 1)
        )
    return made


def main() -> int:
    """Measure, print, and say whether the promises hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument(
        "--llama-python",
        default=os.environ.get("LLAMA_PYTHON"),
        help="an interpreter that has llama_cpp ($LLAMA_PYTHON)",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds, options.tokens, options.llama_python)
    times, written, (exact, rounded) = found.times, found.written, found.perplexity
    base, fast, other = times["generate bf16"], times["mm15 int8"], times.get("llama.cpp Q4_1")
    promises = {
        f"int8 decodes {TIMES_GENERATE:g} times as fast as generate bf16": base.token / fast.token >= TIMES_GENERATE,
        "int8 reads the prompt no slower than generate bf16": fast.prefill <= base.prefill,
        "fp32 writes the tokens of generate fp32": written["mm15 fp32"] == written["generate fp32"],
        "int8 keeps the perplexity of fp32 within 1 %": abs(rounded / exact - 1) <= 0.01,
    }
    if other is not None:
        promises["int8 decodes no slower than llama.cpp"] = fast.token <= other.token
    if options.json:
        return report(lines(found), json_wanted=True)
    print(f"{torch.get_num_threads()} threads, tokens/s      prefill   decode   (times generate bf16)")
    for name, t in times.items():
        ratios = f"{base.prefill / t.prefill:5.2f}  {base.token / t.token:5.2f}"
        print(f"{name:28} {PROMPT / t.prefill:8.0f} {1 / t.token:8.1f}   {ratios}")
    print(f"perplexity over {found.tokens} tokens: fp32 {exact:.3f}, int8 {rounded:.3f} ({rounded / exact - 1:+.2%})")
    if other is None:
        print("llama.cpp was not compared: give --llama-python an interpreter that has llama_cpp")
    for promise, held in promises.items():
        print(f"{'held  ' if held else 'BROKEN'} {promise}")
    return int(not all(promises.values()))


if __name__ == "__main__":
    sys.exit(main())
