"""Sorting of short arrays: runs kept sorted as they are read, then merged two by two.

Every merge is a scan over pieces of its result: where a piece begins in both runs is found by bisection along a
diagonal of the merge, then two places go forward, the lesser key first (Odeh, Green, Mwassi, Shmueli and Birk, "Merge
Path", 2012). Keys are integers of the values' order; places travel with them, so that ties stay in order.
"""

from __future__ import annotations

from typing import Any

from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, cast, const, new_range
from rangekit.lang.elementwise import TABLE, clip, where
from rangekit.lang.loops import fold, scan
from rangekit.lang.movement import reshape
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, made, stored
from rangekit.lang.topk import kept, ordered

RUN = 16  # elements sorted while they are read
PIECE = 4096  # of a merge's result: what one thread writes in order


def _ranges(shape: tuple[int, ...]) -> tuple[UOp, ...]:
    return tuple(new_range(s) for s in shape)


def places_merged(value: Tensor, descending: bool) -> Tensor:
    """The permutation that sorts the last axis, which is not empty."""
    n = value.shape[-1]
    length = RUN
    while length < n:
        length *= 2
    batch = _ranges(value.shape[:-1])
    run, t = _ranges((length // RUN, RUN))
    around = tuple(Range._of(r) for r in batch)
    index = dt.int32 if n < dt.int32.max else dt.int64
    place = Range._of(run) * RUN + Range._of(t)
    key = ordered(stored(value[(*around, TABLE["minimum"](place, n - 1))]), descending)
    worst = const(key.dtype.max, key.dtype)
    key = alu(Op.WHERE, (place < n).node, key, worst)
    keys, places = kept(alu(Op.NOT, key), t, RUN, RUN)
    keys = made(alu(Op.NOT, keys.node))
    first = made(cast((Range._of(run) * RUN).node, index))
    places = places.astype(index) + first
    shape = (*value.shape[:-1], length)
    whole = [reshape(bufferize(v, *around, Range._of(run), memory="global"), shape) for v in (keys, places)]
    width = RUN
    while width < length:
        whole = _merged(whole, width, value.shape[:-1])
        width *= 2
    return whole[1][..., :n].astype(dt.int64)


def _merged(whole: list[Tensor], width: int, shape: tuple[int, ...]) -> list[Tensor]:
    """Runs of ``width`` joined two by two."""
    keys, places = whole
    length = keys.shape[-1]
    piece = min(PIECE, 2 * width)
    batch = tuple(Range._of(r) for r in _ranges(shape))
    p, t = (Range._of(r) for r in _ranges((length // piece, piece)))
    base = p * piece // (2 * width) * (2 * width)
    diagonal = p * piece - base

    def key(place: Tensor) -> Tensor:
        return keys[(*batch, base + clip(place, 0, 2 * width - 1))]

    lo: Any = 0
    if piece < 2 * width:
        steps = Range._of(_ranges((width.bit_length(),))[0])

        def bisect(_: Tensor, lo: Tensor, hi: Tensor) -> Any:
            middle = (lo + hi) // 2
            more = (lo < hi) & (key(middle) <= key(diagonal - 1 - middle + width))
            return where(more, middle + 1, lo), where(more | (lo >= hi), hi, middle)

        low = TABLE["maximum"](diagonal - width, 0).astype(dt.int64)
        lo, _ = fold(steps, (low, TABLE["minimum"](diagonal, width).astype(dt.int64)), bisect)

    def step(_: Tensor, i: Tensor, j: Tensor) -> Any:
        a, b = key(i), key(j + width)
        left = (j >= width) | ((i < width) & (a <= b))
        at = base + clip(where(left, i, j + width), 0, 2 * width - 1)
        moved = where(left, i + 1, i), where(left, j, j + 1)
        return moved, (where(left, a, b), places[(*batch, at)])

    start = (lo, diagonal.astype(dt.int64) - lo)
    _, out = scan(t, start, step)
    return [reshape(bufferize(v, *batch, p, t, memory="global"), (*shape, length)) for v in out]
