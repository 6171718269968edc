"""What the compiled decoder says in LLVM's own terms: products whose sums stay in registers, exp, shared numbers.

numba hands loops to LLVM, which turns some into vector instructions, and only after looking whether arrays overlap: at
64 numbers a loop the looking costs half the time. Here the vectors are written down; LLVM splits them into registers of
whatever width the machine has.

Arrays are whole and contiguous, and a place in one is an offset in elements, because views are counted references that
cost more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .weights import BLOCK, LARGEST_HALF, PANEL

_SOURCES = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:16]
"""Of all that compiled functions are made of."""
_FASTMATH = {"reassoc", "contract", "nsz", "nnan"}
"""Sums may be taken in any order; infinities stay what they are, no number is NaN."""


def compiled(function: Callable[..., Any]) -> Any:
    """`function` as numba compiles it, kept on disk for these very sources.

    numba compiles anew when a function's own file has changed, and does not look at the files whose functions it uses;
    but it keeps code by name, so the name tells.
    """
    function.__qualname__ += f"_{_SOURCES}"
    return njit(function, cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)


GROUP = 8
"""Rows that `add_group` adds at one time."""
_FLOAT = ir.FloatType()
_FUSED = ("contract",)
"""A product and a sum may become one instruction."""


def _block(tokens: int) -> Callable[..., None]:
    """add(codes, scales, lows, at, x, rounded, x_scales, x_sums, x_at, out, out_at): out += (codes * scale + low) @ x.

    Of one block of a panel, for so many rows of x (as long as its last axis), which follow each other in `out`. `at` is
    a place in the scales, `x_at` one in x. The kind of the codes says how they are multiplied (`weights`).
    """

    @intrinsic
    def add(
        _typing: Any,
        codes: Any,
        scales: Any,
        lows: Any,
        at: Any,
        x: Any,
        rounded: Any,
        x_scales: Any,
        x_sums: Any,
        x_at: Any,
        out: Any,
        out_at: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            def start(i: int, offset: Any) -> Any:
                return _start(context, builder, signature.args[i], given[i], offset)

            def rows(i: int, offset: Any) -> list[Any]:
                shape = make_array(signature.args[i])(context, builder, given[i]).shape
                length = cgutils.unpack_tuple(builder, shape)[-1]
                return [builder.gep(start(i, offset), [builder.mul(length, _index(m))]) for m in range(tokens)]

            at, x_at, out_MJ = given[3], given[8], start(9, given[10])
            codes_K = start(0, builder.mul(at, _index(BLOCK // COLUMNS[codes.dtype])))
            scale = _load(builder, start(1, at), 0, PANEL, scales.dtype)
            if codes.dtype == types.float32:
                sums = _of_floats(builder, codes_K, rows(4, x_at))
                factors = [scale] * tokens
            else:
                part = builder.udiv(x_at, _index(BLOCK))
                sums = _of_words(builder, codes_K, rows(5, x_at), four_bits=codes.dtype == types.uint32)
                factors = [builder.fmul(scale, _spread(builder, builder.load(s))) for s in rows(6, part)]
                x_totals = [builder.load(total) for total in rows(7, part)]
            for m in range(tokens):
                found = _plus_product(builder, _load(builder, out_MJ, m * PANEL, PANEL), sums[m], factors[m])
                if codes.dtype == types.uint32:
                    low = _load(builder, start(2, at), 0, PANEL, lows.dtype)
                    found = _plus_product(builder, found, low, _spread(builder, x_totals[m]))
                _store(builder, found, out_MJ, m * PANEL)
            return context.get_dummy_value()

        arrays = (codes, scales, lows, types.intp, x, rounded, x_scales, x_sums, types.intp, out, types.intp)
        return types.void(*arrays), generate

    return add


COLUMNS = {types.float32: 1, types.int32: 4, types.uint32: 8}
"""Columns whose codes stand in one element: floats, words of four int8, words of eight times 4 bits."""


def _of_floats(builder: Any, codes_K: Any, x_M: Sequence[Any]) -> list[Any]:
    """Sums over a block of code times x, for each row of x."""
    sums = [_zeros(PANEL)] * len(x_M)
    for k in range(BLOCK):
        row = _load(builder, codes_K, k * PANEL, PANEL)
        numbers = [builder.load(builder.gep(x_K, [_index(k)])) for x_K in x_M]
        sums = [_plus_product(builder, s, row, _spread(builder, n)) for s, n in zip(sums, numbers, strict=True)]
    return sums


def _of_words(builder: Any, codes_K: Any, x_M: Sequence[Any], *, four_bits: bool) -> list[Any]:
    """The same of words of codes and x rounded to int16: two columns at a time, added up in int32, then in fp32."""
    words, halves = ir.VectorType(ir.IntType(32), PANEL), ir.VectorType(ir.IntType(16), 2 * PANEL)
    sums, k = [ir.Constant(words, [0] * PANEL)] * len(x_M), 0
    for word in range(BLOCK // (8 if four_bits else 4)):
        address = builder.bitcast(builder.gep(codes_K, [_index(word * PANEL)]), ir.PointerType(words))
        both = builder.bitcast(builder.load(address, align=4), halves)
        for codes in _nibbles(builder, both) if four_bits else _bytes(builder, both):
            for m, x_K in enumerate(x_M):
                start = builder.bitcast(builder.gep(x_K, [_index(k)]), ir.PointerType(ir.IntType(32)))
                pair = builder.bitcast(_spread(builder, builder.load(start, align=2)), halves)
                sums[m] = builder.add(sums[m], _pairwise(builder, codes, pair))
            k += 2
    return [builder.sitofp(s, ir.VectorType(_FLOAT, PANEL)) for s in sums]


def _nibbles(builder: Any, both: Any) -> Iterator[Any]:
    """Codes of 4 bits out of halves of words, from the lowest on."""
    for shift in range(0, 16, 4):
        moved = builder.lshr(both, _same(both, shift)) if shift else both
        yield moved if shift == 12 else builder.and_(moved, _same(both, 15))


def _bytes(builder: Any, both: Any) -> Iterator[Any]:
    """Codes of 8 bits out of halves of words, signs kept."""
    yield builder.ashr(builder.shl(both, _same(both, 8)), _same(both, 8))
    yield builder.ashr(both, _same(both, 8))


def _pairwise(builder: Any, a: Any, b: Any) -> Any:
    """Products of int16, neighbours added up in int32; one instruction where the machine has it."""
    wide = ir.VectorType(ir.IntType(32), 2 * PANEL)
    product = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    undefined = ir.Constant(wide, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(
            product, undefined, ir.Constant(ir.VectorType(ir.IntType(32), PANEL), list(range(first, 2 * PANEL, 2)))
        )
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _same(like: Any, number: int) -> Any:
    return ir.Constant(like.type, [number] * like.type.count)


def _group(width: int) -> Callable[..., None]:
    """add(rows, at, stride, x, x_at, out, out_at): out[:width] += x[:GROUP] @ rows[:GROUP, :width].

    Rows are `stride` apart, fp32 or half.
    """

    @intrinsic
    def add(_typing: Any, rows: Any, rows_at: Any, stride: Any, x: Any, x_at: Any, out: Any, out_at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            kinds, places = signature.args, ((0, 1), (3, 4), (5, 6))
            rows_K, x_K, out_J = (_start(context, builder, kinds[i], given[i], given[j]) for i, j in places)
            found = _load(builder, out_J, 0, width)
            for k in range(GROUP):
                start = builder.gep(rows_K, [builder.mul(given[2], _index(k))])
                row, number = _load(builder, start, 0, width, rows.dtype), builder.load(builder.gep(x_K, [_index(k)]))
                found = _plus_product(builder, found, row, _spread(builder, number, width))
            _store(builder, found, out_J, 0)
            return context.get_dummy_value()

        places = (rows, types.intp, types.intp, x, types.intp, out, types.intp)
        return types.void(*places), generate

    return add


add_block, add_block_4 = _block(1), _block(4)
add_group_16, add_group_64 = _group(16), _group(64)


@intrinsic
def round_block(_typing: Any, exact: Any, rounded: Any, scales: Any, sums: Any, at: Any) -> Any:
    """Rounds a block of numbers from `at` on to int16, and keeps its scale and the sum of what was rounded."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        def start(i: int, offset: Any) -> Any:
            return _start(context, builder, signature.args[i], given[i], offset)

        def call(name: str, result: Any, *arguments: Any) -> Any:
            kind = ir.FunctionType(result, [argument.type for argument in arguments])
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

        vector, part = ir.VectorType(_FLOAT, BLOCK), builder.udiv(given[4], _index(BLOCK))
        x = _load(builder, start(0, given[4]), 0, BLOCK)
        most = call(f"llvm.vector.reduce.fmax.v{BLOCK}f32", _FLOAT, call(f"llvm.fabs.v{BLOCK}f32", vector, x))
        some = builder.fcmp_ordered(">", most, ir.Constant(_FLOAT, 0.0))
        factor = builder.fdiv(ir.Constant(_FLOAT, 32767.0), builder.select(some, most, ir.Constant(_FLOAT, 1.0)))
        whole = call(f"llvm.rint.v{BLOCK}f32", vector, builder.fmul(x, _spread(builder, factor, BLOCK)))
        _store(builder, builder.fptosi(whole, ir.VectorType(ir.IntType(16), BLOCK)), start(1, given[4]), 0)
        scale, total = builder.fdiv(most, ir.Constant(_FLOAT, 32767.0)), ir.Constant(_FLOAT, 0.0)
        for k in range(BLOCK):
            number = builder.extract_element(whole, ir.Constant(ir.IntType(32), k))
            total = builder.fadd(total, number, flags=("reassoc",))
        builder.store(scale, start(2, part))
        builder.store(builder.fmul(total, scale), start(3, part))
        return context.get_dummy_value()

    return types.void(exact, rounded, scales, sums, types.intp), generate


@intrinsic
def put(_typing: Any, array: Any, at: Any, value: Any) -> Any:
    """Writes a number into an array of fp32 or halves, rounded; what no half can hold becomes the nearest one."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        number = given[2]
        if array.dtype == types.uint16:
            for beyond, most in ((">", LARGEST_HALF), ("<", -LARGEST_HALF)):
                limit = ir.Constant(_FLOAT, most)
                number = builder.select(builder.fcmp_ordered(beyond, number, limit), limit, number)
            number = builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))
        builder.store(number, _start(context, builder, signature.args[0], given[0], given[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


@intrinsic
def _two_to_the(_typing: Any, exponent: Any) -> Any:
    """2 to a whole power between -126 and 127, put together from its bits."""

    def generate(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:
        biased = builder.add(given[0], ir.Constant(ir.IntType(32), 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(ir.IntType(32), 23)), _FLOAT)

    return types.float32(types.int32), generate


@compiled
def exp(x: np.float32) -> np.float32:
    """e to the x in fp32, between e^-87 and e^88, in vectors where a loop calls it. Off by a millionth where |x| < 16,
    by five of them beyond."""
    power = min(max(x, np.float32(-87)), np.float32(88)) * np.float32(1.4426950408889634)
    whole = np.floor(power + np.float32(0.5))
    rest = (power - whole) * np.float32(0.6931471805599453)
    series = np.float32(1 / 720)
    for factor in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):  # Taylor's, from its end; |rest| < 0.35
        series = series * rest + np.float32(factor)
    return series * _two_to_the(np.int32(whole))


@intrinsic
def load(_typing: Any, array: Any, at: Any) -> Any:
    """A number that threads share (int64)."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start = _start(context, builder, signature.args[0], given[0], given[1])
        return builder.load_atomic(start, ordering="acquire", align=8)

    return types.int64(array, types.intp), generate


@intrinsic
def store(_typing: Any, array: Any, at: Any, value: Any) -> Any:
    """Sets a number that threads share, after all that was written before it."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start = _start(context, builder, signature.args[0], given[0], given[1])
        builder.store_atomic(given[2], start, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


@intrinsic
def fetch_add(_typing: Any, array: Any, at: Any) -> Any:
    """Adds one to a number that threads share; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        start = _start(context, builder, signature.args[0], given[0], given[1])
        return builder.atomic_rmw("add", start, _index(1), "acq_rel")

    return types.int64(array, types.intp), generate


@intrinsic
def yield_thread(_typing: Any) -> Any:
    """Lets other threads of the machine run."""

    def generate(context: Any, builder: Any, _signature: Any, _given: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


# -------------------------------------------------------------------------------------------------------- LLVM's terms


def _start(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    """The address of an element of an array."""
    return builder.gep(make_array(kind)(context, builder, array).data, [offset])


def _index(number: int) -> Any:
    return ir.Constant(ir.IntType(64), number)


def _zeros(width: int) -> Any:
    return ir.Constant(ir.VectorType(_FLOAT, width), [0.0] * width)


def _load(builder: Any, start: Any, offset: int, width: int, kind: Any = types.float32) -> Any:
    """`width` numbers that follow each other, in fp32; they are fp32 or halves (as uint16)."""
    number = _FLOAT if kind == types.float32 else ir.HalfType()
    address = builder.bitcast(builder.gep(start, [_index(offset)]), ir.PointerType(ir.VectorType(number, width)))
    loaded = builder.load(address, align=kind.bitwidth // 8)
    return loaded if number is _FLOAT else builder.fpext(loaded, ir.VectorType(_FLOAT, width))


def _store(builder: Any, vector: Any, start: Any, offset: int) -> None:
    address = builder.bitcast(builder.gep(start, [_index(offset)]), ir.PointerType(vector.type))
    builder.store(vector, address, align=2 if vector.type.element == ir.IntType(16) else 4)


def _spread(builder: Any, number: Any, width: int = PANEL) -> Any:
    """One number in all places of a vector."""
    undefined = ir.Constant(ir.VectorType(number.type, width), ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))


def _plus_product(builder: Any, total: Any, a: Any, b: Any) -> Any:
    return builder.fadd(total, builder.fmul(a, b, flags=_FUSED), flags=_FUSED)
