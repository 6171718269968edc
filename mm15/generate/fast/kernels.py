"""The decoder's arithmetic on a CPU, compiled by numba: embeddings in, logits out, keys and values into the cache.

    x [M,D] -- norm - qkv - rotary - attention - o - norm - silu(gate) * up - down --  (each layer)  -- norm - head

A decoder that writes one token multiplies every weight once, so what counts is how fast weights come from memory.
Matrices lie in panels of 64 rows (`weights`): 64 weights that stand next to each other are multiplied by one number
of x and added to 64 sums that stay in registers (`vectors`). No sum runs across a register. Weights of few bits are
multiplied as whole numbers, by x rounded to int16, and added up in int32 over a block. Keys lie in panels of 64
positions. Of a prompt, four tokens are multiplied by a weight at one time.

Work is cut into items (a panel, a head) that threads take one after the other (`_lead`, `_help_out`): nobody waits for
a thread that the system has put aside, as long as it holds no item. Cost: compiled at the first use, some 15 s for each
kind of weights, and kept on disk by numba.
Legend: M tokens at once, R of them asked about, D width, N rows of a matrix, K its columns, P panels, J rows of a
panel, B blocks of columns, L layers, G key heads, E head width, C capacity of the cache, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .job import DONE, TICKET, Input, Job
from .vectors import (
    GROUP,
    add_block,
    add_block_4,
    add_group_16,
    add_group_64,
    compiled,
    exp,
    fetch_add,
    load,
    put,
    round_block,
    store,
    yield_thread,
)
from .weights import BLOCK, PANEL, Matrix

_QKV, _HEADS, _OUT, _GATED, _DOWN, _LOGITS, _KINDS = 1, 2, 3, 4, 5, 6, 8
"""Kinds of items: panels of products, and heads of attention. A phase is a layer times `_KINDS` plus one of these; 0,
which a job starts with, is none."""
_FINISHED = 2**30
"""The phase of tickets when there is no work any more."""
_PATIENCE = 4000
"""Looks at a number before a thread lets others run."""


def decode(job: Job, helpers: Sequence[Callable[..., Any]]) -> None:
    """Does a job with the help of as many other threads: each of `helpers` starts a function and returns how to await
    its end."""
    ends = []
    try:
        for start in helpers:
            ends.append(start(_help_out, job))
        _lead(job)
    finally:
        job.shared[TICKET] = _FINISHED << 32  # also where the user has interrupted before it was led
        for end in ends:
            end()


@compiled
def _lead(job: Job) -> None:
    """All layers; keys and values go into the cache, logits into the job."""
    layers, shared, width = job.layers, job.shared, job.stream.shape[1]
    normed, added = job.normed, job.added
    for i in range(len(layers.norm1)):
        phase = i * _KINDS
        _norm(job.stream, layers.norm1[i], layers.eps, normed.exact)
        _round(normed)
        _products(shared, _open(shared, phase + _QKV), layers.qkv, i, normed, 0, job.qkv)
        _await(shared, layers.qkv.codes.shape[1])
        _place(job, i)
        _heads(shared, _open(shared, phase + _HEADS), job, i)
        _await(shared, layers.heads)
        _round(job.attended)
        _products(shared, _open(shared, phase + _OUT), layers.out, i, job.attended, 0, added)
        _await(shared, layers.out.codes.shape[1])
        job.stream[:] += added[:, :width]
        _norm(job.stream, layers.norm2[i], layers.eps, normed.exact)
        _round(normed)
        _gated(shared, _open(shared, phase + _GATED), layers.gate, layers.up, i, normed, job.gated.exact)
        _await(shared, layers.gate.codes.shape[1])
        _round(job.gated)
        _products(shared, _open(shared, phase + _DOWN), layers.down, i, job.gated, 0, added)
        _await(shared, layers.down.codes.shape[1])
        job.stream[:] += added[:, :width]
    _norm(job.stream, layers.final[0], layers.eps, normed.exact)
    _round(normed)
    ticket, asked = _open(shared, len(layers.norm1) * _KINDS + _LOGITS), len(job.stream) - len(job.logits)
    _products(shared, ticket, job.head, 0, normed, asked, job.logits)
    _await(shared, job.head.codes.shape[1])


# ------------------------------------------------------------------------------------------------------------ threads


@compiled
def _open(shared: np.ndarray, phase: int) -> int:
    """Begins a phase, when all items of the former are done; its first ticket that nobody has taken.

    A ticket is the phase and the number of an item. It is good whenever it is drawn: while a phase has items that are
    not done, no other begins. Beyond a phase's last item it is good for nothing.
    """
    store(shared, DONE, 0)
    store(shared, TICKET, phase << 32)
    return fetch_add(shared, TICKET)


@compiled
def _await(shared: np.ndarray, count: int) -> None:
    """Waits until so many items of this phase are done."""
    looks = 0
    while load(shared, DONE) < count:
        looks += 1
        if looks % _PATIENCE == 0:
            yield_thread()


@compiled
def _help_out(job: Job) -> None:
    """Takes items as long as there are phases, as `_lead` opens them.

    The calls stand in both: one function for them, given the whole job each time, was slower in five of six pairs of
    runs, by 7 to 14 %.
    """
    layers, shared, asked = job.layers, job.shared, len(job.stream) - len(job.logits)
    ticket = _later(shared, 0)
    while ticket >> 32 != _FINISHED:
        phase = ticket >> 32
        kind, i = phase % _KINDS, phase // _KINDS
        if kind == _QKV:
            ticket = _products(shared, ticket, layers.qkv, i, job.normed, 0, job.qkv)
        elif kind == _HEADS:
            ticket = _heads(shared, ticket, job, i)
        elif kind == _OUT:
            ticket = _products(shared, ticket, layers.out, i, job.attended, 0, job.added)
        elif kind == _GATED:
            ticket = _gated(shared, ticket, layers.gate, layers.up, i, job.normed, job.gated.exact)
        elif kind == _DOWN:
            ticket = _products(shared, ticket, layers.down, i, job.gated, 0, job.added)
        else:
            ticket = _products(shared, ticket, job.head, 0, job.normed, asked, job.logits)
        if ticket >> 32 == phase:
            ticket = _later(shared, phase)


@compiled
def _later(shared: np.ndarray, phase: int) -> int:
    """The first ticket of a later phase, as soon as there is one."""
    looks = 0
    while load(shared, TICKET) >> 32 == phase:
        looks += 1
        if looks % _PATIENCE == 0:
            yield_thread()
    return fetch_add(shared, TICKET)


@compiled
def _is_for(ticket: int, phase: int, count: int) -> bool:
    """Whether a ticket is for an item of a phase that has so many."""
    return ticket >> 32 == phase and ticket & 0xFFFFFFFF < count


@compiled
def _done(shared: np.ndarray) -> int:
    """Tells that an item is done; the next ticket."""
    fetch_add(shared, DONE)
    return fetch_add(shared, TICKET)


# ----------------------------------------------------------------------------------------------------------- products


@compiled
def _products(shared: np.ndarray, ticket: int, matrix: Matrix, i: int, x: Input, first: int, out_RN: np.ndarray) -> int:
    """Items of a phase: panels of the i-th matrix times each row of x from `first` on, plus the bias. Returns the first
    ticket that is for something else."""
    phase, count = ticket >> 32, matrix.codes.shape[1]
    sums_RJ = np.empty((len(out_RN), PANEL), np.float32)
    while _is_for(ticket, phase, count):
        p = ticket & 0xFFFFFFFF
        _multiply(matrix, i, p, x, first, sums_RJ)
        out_RN[:, p * PANEL : (p + 1) * PANEL] = sums_RJ
        ticket = _done(shared)
    return ticket


@compiled
def _gated(shared: np.ndarray, ticket: int, gate: Matrix, up: Matrix, i: int, x: Input, out_MN: np.ndarray) -> int:
    """The same of silu(gate x) * (up x), without the rows that only fill the last panel."""
    phase, count = ticket >> 32, gate.codes.shape[1]
    gate_MJ, up_MJ = np.empty((len(out_MN), PANEL), np.float32), np.empty((len(out_MN), PANEL), np.float32)
    while _is_for(ticket, phase, count):
        p = ticket & 0xFFFFFFFF
        _multiply(gate, i, p, x, 0, gate_MJ)
        _multiply(up, i, p, x, 0, up_MJ)
        for m in range(len(gate_MJ)):
            for j in range(PANEL):
                up_MJ[m, j] *= gate_MJ[m, j] / (np.float32(1) + exp(-gate_MJ[m, j]))
        last = min((p + 1) * PANEL, out_MN.shape[1])
        out_MN[:, p * PANEL : last] = up_MJ[:, : last - p * PANEL]
        ticket = _done(shared)
    return ticket


@compiled
def _multiply(matrix: Matrix, i: int, p: int, x: Input, first: int, out_RJ: np.ndarray) -> None:
    """out = panel p of the i-th matrix times each row of x from `first` on, plus the bias."""
    codes, scales, lows, bias = matrix
    exact, rounded, x_scales, x_sums = x
    panels, blocks, tokens = scales.shape[1], scales.shape[2], len(out_RJ)
    columns = blocks * BLOCK
    for r in range(tokens):
        for j in range(PANEL):
            out_RJ[r, j] = bias[i, p * PANEL + j]
    for b in range(blocks):
        at, x_at, r = ((i * panels + p) * blocks + b) * PANEL, first * columns + b * BLOCK, 0
        while r < tokens:
            places = x_at + r * columns
            if r + 4 <= tokens:
                add_block_4(codes, scales, lows, at, exact, rounded, x_scales, x_sums, places, out_RJ, r * PANEL)
                r += 4
            else:
                add_block(codes, scales, lows, at, exact, rounded, x_scales, x_sums, places, out_RJ, r * PANEL)
                r += 1


@compiled
def _round(x: Input) -> None:
    """Rounds what is to be multiplied to int16, block by block."""
    for at in range(0, x.exact.size, BLOCK):
        round_block(x.exact, x.rounded, x.scales, x.sums, at)


# ---------------------------------------------------------------------------------------------------------- attention


@compiled
def _place(job: Job, i: int) -> None:
    """Norms of heads where there are any, rotary positions on queries and keys, keys and values into the cache."""
    layers, qkv_MN = job.layers, job.qkv
    groups, capacity, width = job.values.shape[1:]
    heads, half = layers.heads, width // 2
    for m in range(len(qkv_MN)):
        at = job.before + m
        for h in range(heads + groups):
            x = qkv_MN[m, h * width : (h + 1) * width]
            if len(layers.query_norm):
                _norm_row(x, layers.query_norm[i] if h < heads else layers.key_norm[i], layers.eps, x)
            for e in range(half):
                low, high = x[e], x[e + half]
                x[e] = low * job.cos[at, e] - high * job.sin[at, e]
                x[e + half] = high * job.cos[at, e] + low * job.sin[at, e]
        for g in range(groups):
            first = (i * groups + g) * capacity * width
            for e in range(width):
                key = first + at // PANEL * PANEL * width + e * PANEL + at % PANEL
                put(job.keys, key, qkv_MN[m, (heads + g) * width + e])
                put(job.values, first + at * width + e, qkv_MN[m, (heads + groups + g) * width + e])


@compiled
def _heads(shared: np.ndarray, ticket: int, job: Job, i: int) -> int:
    """Items of a phase: heads of attention, M tokens over the cache."""
    phase, layers = ticket >> 32, job.layers
    share = layers.heads // job.values.shape[1]
    probs = np.empty(job.values.shape[2], np.float32)
    query, sums = np.empty((2, job.values.shape[3]), np.float32)
    while _is_for(ticket, phase, layers.heads):
        h = ticket & 0xFFFFFFFF
        for m in range(len(job.qkv)):
            for e in range(len(query)):
                query[e] = job.qkv[m, h * len(query) + e] * layers.scale
            end = job.before + m + 1
            start = max(end - layers.windows[i], 0)
            _attend(query, job.keys, job.values, i, h // share, start, end, probs, sums)
            for e in range(len(query)):
                job.attended.exact[m, h * len(query) + e] = sums[e]
        ticket = _done(shared)
    return ticket


@compiled
def _attend(
    query_E: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    i: int,
    group: int,
    start: int,
    end: int,
    probs_C: np.ndarray,
    out_E: np.ndarray,
) -> None:
    """What one query of a head attends to, from position `start` to `end` of layer i; `probs` is room to work in."""
    groups, capacity, width = values.shape[1], values.shape[2], len(query_E)
    first, last, at = start // PANEL * PANEL, -(-end // PANEL) * PANEL, i * groups + group
    probs_C[first:last] = 0
    for c in range(first, last, PANEL):
        for e in range(0, width, GROUP):
            add_group_64(keys, (at * capacity + c) * width + e * PANEL, PANEL, query_E, e, probs_C, c)
    _softmax(probs_C, start, end)
    probs_C[first:start] = 0
    probs_C[end:last] = 0
    out_E[:] = 0
    for c in range(start // GROUP * GROUP, end, GROUP):
        row = (at * capacity + c) * width
        if width % 64 == 0:
            for e in range(0, width, 64):
                add_group_64(values, row + e, width, probs_C, c, out_E, e)
        else:
            for e in range(0, width, 16):
                add_group_16(values, row + e, width, probs_C, c, out_E, e)


@compiled
def _softmax(scores_C: np.ndarray, start: int, end: int) -> None:
    """Softmax in place over `start` to `end`."""
    scores = scores_C[start:end]
    most, total = scores[0], np.float32(0)
    for c in range(len(scores)):
        most = max(most, scores[c])
    for c in range(len(scores)):
        scores[c] = exp(scores[c] - most)
        total += scores[c]
    for c in range(len(scores)):
        scores[c] /= total


# -------------------------------------------------------------------------------------------------------------- norms


@compiled
def _norm(x_MD: np.ndarray, weight_D: np.ndarray, eps: float, out_MK: np.ndarray) -> None:
    """RMS norm of each row; what fills `out` up to whole blocks stays as it is."""
    for m in range(len(x_MD)):
        _norm_row(x_MD[m], weight_D, eps, out_MK[m])


@compiled
def _norm_row(x_D: np.ndarray, weight_D: np.ndarray, eps: float, out_K: np.ndarray) -> None:
    total = np.float32(0)
    for d in range(len(x_D)):
        total += x_D[d] * x_D[d]
    factor = np.float32(1 / math.sqrt(total / len(x_D) + eps))
    for d in range(len(x_D)):
        out_K[d] = x_D[d] * factor * weight_D[d]
