"""Greedy decoding on a CPU, batch 1, after a prompt of 512 tokens: mm15 against transformers and llama.cpp.

    OMP_NUM_THREADS=2 python -m bench.decode [--json]
    OMP_NUM_THREADS=2 python -m bench.decode --llama-python PATH       llama_cpp in another environment

SmolLM2-135M behind a tiny picture tower, the same number of threads for all, side by side. Four passages of Python's
documentation, spread evenly over it, are continued by 64 tokens each. Every round measures every contender on every
passage; a contender's least time on each counts. llama.cpp reads the GGUF that the weights come from (Q4_1, head Q8_0),
its own sampling left out. These weights fit into 4 bits, where `Weights.INT8` keeps them; the line "all int8" is what
weights that have been trained since get. Exits with 1 when a promise is broken: the speeds, int8's perplexity within
1 % of fp32's, and fp32's tokens those of `generate` in fp32.
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
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench.table import Line, report

PROMPT, PASSAGES, TOKENS = 512, 4, 64
TIMES_GENERATE, PERPLEXITY = 6.0, 0.99
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


def of_generate(decoder: Any, ids: list[int]) -> tuple[float, float, list[int]]:
    """Seconds to the first token, seconds of those that follow, and the tokens."""
    given, clock = torch.tensor([ids]), Clock()
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "suppress_tokens": [1]}
    start = time.perf_counter()
    with torch.inference_mode():
        mask = torch.ones_like(given)
        out = decoder.generate(given, attention_mask=mask, max_new_tokens=1 + TOKENS, streamer=clock, **options)
    _prompt, first, *rest = clock.times
    return first - start, rest[-1] - first, out[0, len(ids) :].tolist()


def of_fast(fast: Any, ids: list[int]) -> tuple[float, float, list[int]]:
    """The same of a FastDecoder that remembers nothing."""
    fast.forget()
    start = time.perf_counter()
    stream = fast.tokens(encoded(ids), most=1 + TOKENS)
    written = [next(stream)]
    first = time.perf_counter()
    written += list(stream)
    return first - start, time.perf_counter() - first, written


@contextmanager
def llama(python: str | None) -> Iterator[Callable[[list[int]], tuple[float, float, list[int]]] | None]:
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

        def ask(ids: list[int]) -> tuple[float, float, list[int]]:
            child.stdin.write(json.dumps([ids, TOKENS]) + "\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            read, wrote = json.loads(child.stdout.readline())  # type: ignore[union-attr]
            return read, wrote, []

        yield ask


@dataclass
class Found:
    """Of a contender, over all passages: seconds of the prompts, seconds of what follows, and the tokens written."""

    prompts: float
    tokens: float
    written: list[list[int]]


def worse(weight_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """4 bits that fit nothing."""
    from mm15.generate.fast.weights import BLOCK

    none = np.zeros((len(weight_NK), weight_NK.shape[1] // BLOCK), np.float16)
    return np.zeros(weight_NK.shape, np.uint8), none, none


def measure(rounds: int, llama_python: str | None) -> tuple[dict[str, Found], tuple[float, float]]:
    """Every contender, side by side; and the perplexities of fp32 and int8."""
    from mm15.generate import FastDecoder, Weights
    from mm15.model.precision import faster_in_bf16

    half, full = make_model(torch.bfloat16), make_model(torch.float32)
    peers = [make_model(dtype).decoder for dtype in (torch.bfloat16, torch.float32)]
    for peer in peers:
        peer.set_attn_implementation("sdpa")  # transformers' own choice
    read = half if faster_in_bf16(torch.device("cpu")) else full  # as `mm15.load` reads weights in bf16
    int8 = FastDecoder(read, weights=Weights.INT8)
    with patch("mm15.generate.fast.weights.quantise_to_4_bits", worse):
        wide = FastDecoder(read, weights=Weights.INT8)
    contenders: dict[str, Callable[[list[int]], tuple[float, float, list[int]]]] = {
        "generate bf16": partial(of_generate, peers[0]),
        "generate fp32": partial(of_generate, peers[1]),
        "int8": partial(of_fast, int8),
        "all int8": partial(of_fast, wide),
        "fp32": partial(of_fast, FastDecoder(full)),
    }
    text = documentation()
    passages = [text[i * len(text) // PASSAGES :][:PROMPT] for i in range(PASSAGES)]
    with llama(llama_python) as ask:
        if ask is not None:
            contenders["llama.cpp Q4_1"] = ask
        runs: dict[str, list[list[tuple[float, float, list[int]]]]] = {name: [] for name in contenders}
        for _ in range(1 + rounds):  # the first warms up
            for name, contender in contenders.items():
                runs[name].append([contender(ids) for ids in passages])
    found = {}
    for name, rows in runs.items():
        least = [[min(run[i] for run in passage) for passage in zip(*rows, strict=True)] for i in (0, 1)]
        found[name] = Found(sum(least[0]), sum(least[1]), [run[2] for run in rows[-1]])
    return found, perplexities(peers[1], int8, text[: 8 * PROMPT])


def lines(found: dict[str, Found], perplexity: tuple[float, float]) -> list[Line]:
    """What is promised, and what it was measured beside."""

    def decode(ours: str, theirs: str, goal: float | None) -> Line:
        rates = [PASSAGES * TOKENS / found[name].tokens for name in (ours, theirs)]
        return Line(f"decode after {PROMPT}, {ours}", "tokens/s", rates[0], theirs, rates[1], rates[0] / rates[1], goal)

    def read(ours: str, theirs: str, goal: float | None) -> Line:
        rates = [PASSAGES * PROMPT / found[name].prompts for name in (ours, theirs)]
        return Line(f"prompt of {PROMPT}, {ours}", "tokens/s", rates[0], theirs, rates[1], rates[0] / rates[1], goal)

    made = [
        decode("int8", "generate bf16", TIMES_GENERATE),
        decode("all int8", "generate bf16", None),
        decode("fp32", "generate fp32", None),
        read("int8", "generate bf16", 1),
    ]
    if "llama.cpp Q4_1" in found:
        made += [decode("int8", "llama.cpp Q4_1", 1), read("int8", "llama.cpp Q4_1", None)]
    else:
        print("llama.cpp was not compared: give --llama-python an interpreter that has llama_cpp", file=sys.stderr)
    ours, theirs = ([t for written in found[name].written for t in written] for name in ("fp32", "generate fp32"))
    pairs = list(zip(ours, theirs, strict=True))
    same = sum(one == other for one, other in pairs)
    made.append(Line("greedy tokens, fp32", "the same", same, "generate fp32", len(pairs), same / len(pairs), 1))
    exact, rounded = perplexity
    ratio = min(exact / rounded, rounded / exact)
    made.append(Line("perplexity, int8", "", rounded, "fp32", exact, ratio, PERPLEXITY))
    return made


def main() -> int:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--llama-python",
        default=os.environ.get("LLAMA_PYTHON"),
        help="an interpreter that has llama_cpp ($LLAMA_PYTHON)",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    return report(lines(*measure(given.rounds, given.llama_python)), json_wanted=given.json)


if __name__ == "__main__":
    sys.exit(main())
