"""Fast greedy generation on a CPU: a decoder with small weights, compiled.

decoder.py   what is asked for: prompts, their cache over turns, tokens
weights.py   the decoder's matrices in panels and few bits
job.py       what the threads that read some tokens share
kernels.py   the arithmetic, and how threads share it out      vectors.py   the same in LLVM's own terms
"""

from __future__ import annotations

from .decoder import FastDecoder
from .weights import Weights

__all__ = ["FastDecoder", "Weights"]
