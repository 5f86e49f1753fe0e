"""Sorting of long arrays by the digits of their keys, the last digit first: a pass keeps the order of those before it.

A pass counts the digits of each block of the array, adds the counts up, digits before blocks, and so knows where the
first element of each digit of a block goes; then each block sends its elements there in order, a scan whose state is
where the next ones go (Zagha and Blelloch, "Radix sort for vector multiprocessors", 1991). Blocks run on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, const, new_range
from rangekit.lang.creation import arange, zeros
from rangekit.lang.cumulative import cumulative_sum
from rangekit.lang.elementwise import TABLE, clip, where
from rangekit.lang.loops import scan
from rangekit.lang.movement import broadcast_to, moveaxis, reshape
from rangekit.lang.scatter import scatter, sent
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, made
from rangekit.lang.topk import ordered

BLOCKS = 16
LONG = 1 << 16  # elements that are worth digits of 11 bits, and blocks
Key = Callable[[Tensor], Tensor]


def values_by_digits(value: Tensor, descending: bool) -> Tensor:
    """The values of the last axis in order."""
    for shift, bits in _digits(value):
        (value,) = _pass({"values": value}, lambda v: _key(v, descending), shift, bits)
    return value


def places_by_digits(value: Tensor, descending: bool) -> Tensor:
    """The permutation that sorts the last axis."""
    digits = _digits(value)
    keys = _key(value, descending)
    places = broadcast_to(arange(value.shape[-1], dtype=_index(value)), value.shape)
    for shift, bits in digits[:-1]:
        keys, places = _pass({"keys": keys, "places": places}, lambda key: key, shift, bits)
    return _pass({"keys": keys, "places": places}, lambda key: key, *digits[-1], last=True)[0].astype(dt.int64)


def _pass(arrays: Mapping[str, Tensor], key: Key, shift: int, bits: int, last: bool = False) -> list[Tensor]:
    """The arrays with their elements in the order of one digit of the key of the first, which the last pass drops."""
    first = next(iter(arrays.values()))
    *outer, n = first.shape
    index, count = _index(first), 1 << bits
    blocks = [BLOCKS] if n >= LONG else []
    width = -(-n // math.prod(blocks))

    def loops() -> tuple[tuple[Range, ...], Range, Tensor, Tensor, tuple[Tensor, ...]]:
        """The loops around, the one over elements; its digit, whether there is one, and where it is."""
        around, t = tuple(map(_range, (*outer, *blocks))), _range(width)
        at = around[-1] * width + t if blocks else t
        place = (*around[: len(outer)], TABLE["minimum"](at, n - 1))  # past the end is the last one again
        digit = (key(first[place]) >> shift & count - 1).astype(dt.int32)
        return around, t, digit, at < n, place

    around, t, mine, real, _ = loops()
    counts = bufferize(scatter(zeros(count, dtype=index), mine, real.astype(index), t), *around)
    flat = reshape(moveaxis(counts, -1, len(outer)), (*outer, count * math.prod(blocks)))
    before = cumulative_sum(flat, axis=-1, dtype=index) - flat
    starts = moveaxis(reshape(before, (*outer, count, *blocks)), len(outer), -1)

    around, t, mine, real, place = loops()

    def step(_: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return where((arange(count, dtype=dt.int32) == mine) & real, start + 1, start), start[mine]

    _, to = scan(t, starts[around], step)
    to = clip(to - where(real, 0, 1), 0, n - 1)
    moved = {f"{name}{shift}": v[place] for name, v in arrays.items() if not (last and v is first)}
    return sent(moved, (*around[: len(outer)], to), (*outer, n), *around, t)


def _digits(value: Tensor) -> list[tuple[int, int]]:
    """The lowest bit and the number of bits of each digit of the keys, the last digit first."""
    low, high = _bits(value.dtype)
    most = 11 if value.shape[-1] >= LONG else 8
    passes = -(-(high - low) // most)
    ends = [low + (high - low) * p // passes for p in range(passes + 1)]
    return [(a, b - a) for a, b in pairwise(ends)]


def _bits(d: DType) -> tuple[int, int]:
    """The bits of a key that tell values of a dtype apart: from the first up to the second."""
    if d.is_half:
        return (16, 32) if d is dt.bfloat16 else (13, 32)
    return (0, 1) if d is dt.bool_ else (0, d.bits)


def _key(value: Tensor, descending: bool) -> Tensor:
    """An unsigned integer that orders as the value does."""
    signed = ordered(value.node, descending)
    wide = dt.uint32 if signed.dtype.bits == 32 else dt.uint64
    bits = UOp(Op.BITCAST, wide, (signed,))
    if value.dtype is dt.bool_ or (value.dtype.kind == "u" and value.dtype is not dt.uint64):
        return made(bits)  # none is negative; upside down they are, but not in the bits that tell them apart
    return made(alu(Op.XOR, bits, const(1 << (_bits(value.dtype)[1] - 1), wide)))


def _index(value: Tensor) -> DType:
    return dt.int32 if value.shape[-1] < dt.int32.max else dt.int64


def _range(size: int) -> Range:
    return Range._of(new_range(size))
