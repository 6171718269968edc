"""Whether a machine is faster in bf16: what ``precision: auto`` of a recipe asks.

That a CPU has instructions for bf16 does not say so. Products of matrices in GFLOP/s, 2 threads:

                                                                     bf16    fp32
    EPYC with avx512_bf16                                             860     184
    Xeon of Sapphire Rapids' kind, with avx512_bf16, without AMX      166     304
    EPYC with AVX2 alone, as many laptops                             0.3     115

On the second bf16 nearly halves the speed; on the third torch has no kernel for it (20 where the second matrix lies
transposed, as in a forward). So without kernels bf16 is never taken, and where there are some a product is timed.
"""

from __future__ import annotations

import time
from functools import cache

import torch

WORTH = 0.8
"""bf16 is taken where it needs less than this share of fp32's time: it rounds, so it has to pay."""
SIDE = 512
"""Rows and columns of the matrices that are multiplied: about a millisecond."""
RUNS = 5


def faster_in_bf16(device: torch.device) -> bool:
    """Whether this machine multiplies bf16 clearly faster than fp32; some milliseconds, once for each kind of device.

    A GPU does where it has bf16 in hardware. A CPU is timed, with the threads that torch has when this is first asked.
    """
    return _faster(device.type)


@cache
def _faster(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not has_bf16(torch.device("cpu")):
        return False
    bf16, fp32 = product_seconds()
    return bf16 < WORTH * fp32


def has_bf16(device: torch.device) -> bool:
    """Whether torch has kernels for products in bf16: on any GPU, on a CPU if oneDNN has. Elsewhere they take 5 to 400
    times as long as in fp32."""
    if device.type != "cpu":
        return True
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def product_seconds() -> tuple[float, float]:
    """Seconds of a product in bf16 and in fp32 on this CPU, the least of some runs after one to warm up.

    The two take turns, so that what else is at work slows both. No random numbers are drawn: a run's are its own.
    """
    a, b = (torch.ones(SIDE, SIDE, dtype=dtype, device="cpu") for dtype in (torch.bfloat16, torch.float32))
    turns = [(_seconds(a), _seconds(b)) for _ in range(1 + RUNS)][1:]
    return min(bf16 for bf16, _ in turns), min(fp32 for _, fp32 in turns)


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - started
