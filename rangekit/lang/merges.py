"""Sorting of short arrays: runs kept sorted as they are read, then merged two by two.

Every merge is a scan over its result. Keys are integers of the values' order; places travel with them, so that ties
stay in order.
"""

from __future__ import annotations

from typing import Any

from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, cast, const, new_range
from rangekit.lang.creation import zeros
from rangekit.lang.elementwise import TABLE, clip, where
from rangekit.lang.loops import scan
from rangekit.lang.movement import reshape
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, made, stored
from rangekit.lang.topk import kept, ordered

RUN = 16  # elements sorted while they are read


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
    places = TABLE["minimum"](places.astype(index) + first, n - 1)  # of what fills up the last run, any that is there
    shape = (*value.shape[:-1], length)
    whole = [reshape(bufferize(v, *around, Range._of(run), memory="global"), shape) for v in (keys, places)]
    width = RUN
    while width < length:
        whole = _merged(whole, width, value.shape[:-1])
        width *= 2
    return whole[1][..., :n].astype(dt.int64)


def _merged(whole: list[Tensor], width: int, shape: tuple[int, ...]) -> list[Tensor]:
    """Runs of ``width`` joined two by two: two places go forward, the lesser key first."""
    keys, places = whole
    length = keys.shape[-1]
    batch = tuple(Range._of(r) for r in _ranges(shape))
    pair, t = (Range._of(r) for r in _ranges((length // (2 * width), 2 * width)))
    base = pair * (2 * width)

    def place(at: Tensor) -> tuple[Tensor, ...]:
        return (*batch, base + clip(at, 0, 2 * width - 1))

    def step(_: Tensor, i: Tensor, j: Tensor) -> Any:
        a, b = keys[place(i)], keys[place(j + width)]
        left = (j >= width) | ((i < width) & (a <= b))
        moved = where(left, i + 1, i), where(left, j, j + 1)
        return moved, (where(left, a, b), places[place(where(left, i, j + width))])

    _, out = scan(t, (zeros((), dtype=dt.int64), zeros((), dtype=dt.int64)), step)
    return [reshape(bufferize(v, *batch, pair, t, memory="global"), (*shape, length)) for v in out]
