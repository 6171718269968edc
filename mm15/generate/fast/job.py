"""A job of the compiled decoder: some tokens to read, and all that the threads that read them share.

Legend: M tokens at once, R of them asked about, D width, K width of an input, B blocks of it, L layers, G key heads, E
head width, C capacity of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .weights import BLOCK, Layers, Matrix

TICKET, DONE, SHARED = 0, 8, 16
"""Where the numbers stand that threads share, a cache line apart: the next ticket, and how many items are done."""


class Input(NamedTuple):
    """What is multiplied: x [M, K], and the same rounded to int16, with a scale and a sum of each block [M, B]."""

    exact: np.ndarray
    rounded: np.ndarray
    scales: np.ndarray
    sums: np.ndarray


class Job(NamedTuple):
    """One reading of M tokens: what is given, what threads share, and the numbers on their way.

    `keys` are [L, G, C/64, E, 64] and `values` [L, G, C, E], fp32 or halves, `cos` and `sin` [C, E/2]. Widths of inputs
    are filled up to whole blocks with zeros, widths of results to whole panels.
    """

    layers: Layers
    head: Matrix
    keys: np.ndarray
    values: np.ndarray
    cos: np.ndarray
    sin: np.ndarray
    before: int
    shared: np.ndarray
    stream: np.ndarray
    normed: Input
    qkv: np.ndarray
    attended: Input
    gated: Input
    added: np.ndarray
    logits: np.ndarray


def make_input(tokens: int, matrix: Matrix) -> Input:
    """Room for what a matrix is multiplied with."""
    blocks = matrix.scales.shape[2]
    exact, rounded = (np.zeros((tokens, blocks * BLOCK), kind) for kind in (np.float32, np.int16))
    return Input(exact, rounded, *(np.zeros((tokens, blocks), np.float32) for _ in range(2)))


def make_job(
    x_MD: np.ndarray,
    before: int,
    wanted: int,
    layers: Layers,
    head: Matrix,
    cache: Sequence[np.ndarray],
) -> Job:
    """A job of M embeddings that stand after `before` tokens in the cache (keys, values, cos, sin), of which the last
    `wanted` have logits."""

    def zeros(width: int, rows: int = len(x_MD)) -> np.ndarray:
        return np.zeros((rows, width), np.float32)

    return Job(
        layers=layers,
        head=head,
        keys=cache[0],
        values=cache[1],
        cos=cache[2],
        sin=cache[3],
        before=before,
        shared=np.zeros(SHARED, np.int64),
        stream=x_MD.copy(),
        normed=make_input(len(x_MD), layers.qkv),
        qkv=zeros(layers.qkv.bias.shape[1]),
        attended=make_input(len(x_MD), layers.out),
        gated=make_input(len(x_MD), layers.down),
        added=zeros(layers.out.bias.shape[1]),
        logits=zeros(head.bias.shape[1], wanted),
    )
