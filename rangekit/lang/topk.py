"""The k greatest or least values of a range, and where they are.

A fold keeps them sorted. Values are compared as integers of the same order, so that NaN and ties need no tests of
their own: the bits of a float, those of a negative one but its sign inverted, NaN above infinity, -0 as 0.
"""

from __future__ import annotations

import math
from typing import Any

from rangekit.errors import DtypeError, RangeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, cast, const, idx, new_range
from rangekit.lang.elementwise import TABLE, clip, where
from rangekit.lang.loops import fold
from rangekit.lang.movement import concat, moveaxis, stack
from rangekit.lang.ranges import as_range_nodes, normal_axes, open_axes
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, lift, made, stored

IN_REGISTERS = 16  # values kept one by one; more of them are an array


def topk(v: Any, k: int, /, *ranges: Any, axis: int | None = None, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The ``k`` greatest values (least with ``largest=False``), best first, and their indices (int64).

    Over ranges, ``k`` is a leading closed axis and the index row-major over them; with ``axis=`` (default the last)
    it takes the axis' place. Of equal values the first index comes first; NaN is greater than any number.
    Errors: ``ShapeError`` where there are fewer than ``k`` values.

    >>> import rangekit as rk
    >>> values, places = rk.topk(rk.asarray([3.0, 1.0, 4.0, 1.0, 5.0]), 2)
    >>> values.numpy(), places.numpy()
    (array([5., 4.], dtype=float32), array([4, 2]))
    """
    x = stored(lift(v))
    if isinstance(k, bool) or not isinstance(k, int) or k < 0:
        raise ShapeError(f"topk takes a number of values, not {k!r}", help="an int from 0 on")
    if ranges and axis is not None:
        raise RangeError("topk takes ranges or axis=, not both", help="open the axis too: v[i, j], then name j")
    closed: tuple[UOp, ...] = ()
    place = 0
    if ranges:
        along = as_range_nodes(ranges, "topk")
        x, closed = open_axes(x, tuple(range(x.ndim)))
    else:
        if not x.shape:
            raise RangeError("topk of a value without closed axes needs a range", help="rk.topk(v, k, j)")
        (place,) = normal_axes(-1 if axis is None else axis, x.ndim)
        x, opened = open_axes(x, tuple(range(x.ndim)))
        along, closed = (opened[place],), tuple(r for a, r in enumerate(opened) if a != place)
    count = math.prod(r.length for r in along)
    if k > count:
        raise ShapeError(f"the top {k} of {count} values", help=f"k is at most {count} here")
    r, x = _one_range(along, x)
    dtype = x.dtype
    if not (dtype.is_float or dtype.is_int or dtype is dt.bool_):
        raise DtypeError(f"topk of {dtype} is not ordered", help="integers, floats and bools are")
    key = ordered(x)
    key = key if largest else alu(Op.NOT, key)
    values, places = kept(key, r, k, count)
    whole = (values if largest else made(alu(Op.NOT, values.node)), places)
    found = (made(_value(whole[0].node, dtype)), made(cast(whole[1].node, dt.int64)))
    if not closed:
        return found
    around = tuple(Range._of(r) for r in closed)
    first, second = (moveaxis(bufferize(f, *around), -1, 0 if ranges else place) for f in found)
    return first, second


def _one_range(along: tuple[UOp, ...], x: UOp) -> tuple[UOp, UOp]:
    """One range in place of several, row-major."""
    if len(along) == 1:
        return along[0], x
    r = new_range(math.prod(a.length for a in along))
    mapping, rest = {}, r
    for a in reversed(along):
        mapping[a] = alu(Op.MOD, rest, idx(a.length))
        rest = alu(Op.IDIV, rest, idx(a.length))
    return r, substitute(x, mapping)


def ordered(x: UOp, descending: bool = False) -> UOp:
    """A signed integer that orders as the value does (the other way round if ``descending``), that of NaN greatest.

    Where the type has room for it, none is the least of the type.
    """
    if x.dtype.is_half:
        x = cast(x, dt.float32)
    if x.dtype.is_float:
        wide = dt.int32 if x.dtype.bits == 32 else dt.int64
        bits = UOp(Op.BITCAST, wide, (alu(Op.ADD, x, const(0.0, x.dtype)),))  # -0 + 0 is 0
        low = const(wide.max, wide)
        key = alu(Op.WHERE, alu(Op.LT, bits, const(0, wide)), alu(Op.XOR, bits, low), bits)
        key = alu(Op.NOT, key) if descending else key
        return alu(Op.WHERE, alu(Op.ISNAN, x), const(wide.max - 1, wide), key)
    if x.dtype is dt.uint64:
        key = UOp(Op.BITCAST, dt.int64, (alu(Op.XOR, x, const(1 << 63, dt.uint64)),))
    else:
        key = cast(x, dt.int32 if x.dtype.bits <= 16 or x.dtype is dt.bool_ else dt.int64)
    return alu(Op.NOT, key) if descending else key


def _value(key: UOp, dtype: DType) -> UOp:
    """The value of a key."""
    if dtype.is_float:
        narrow = dt.float64 if dtype is dt.float64 else dt.float32
        wide = key.dtype
        bits = alu(Op.WHERE, alu(Op.LT, key, const(0, wide)), alu(Op.XOR, key, const(wide.max, wide)), key)
        return cast(UOp(Op.BITCAST, narrow, (bits,)), dtype)
    if dtype is dt.uint64:
        return alu(Op.XOR, UOp(Op.BITCAST, dt.uint64, (key,)), const(1 << 63, dt.uint64))
    return alu(Op.NE, key, const(0, key.dtype)) if dtype is dt.bool_ else cast(key, dtype)


def kept(key: UOp, r: UOp, k: int, count: int) -> tuple[Tensor, Tensor]:
    """The k greatest keys over the range and their indices, as a leading closed axis."""
    small = count < dt.int32.max and key.dtype is dt.int32
    index = cast(r, dt.int32 if small else dt.int64)
    worst, nowhere = const(key.dtype.min, key.dtype), cast(idx(count), index.dtype)  # behind all of them
    tied = key.dtype is dt.int64  # whose least value may be one of the values
    if k == 0:
        zero = UOp(Op.EXPAND, key.dtype, (UOp(Op.RESHAPE, key.dtype, (worst,), (1,)),), (0,))
        return made(zero), made(cast(zero, index.dtype))

    def beats(value: UOp, place: UOp) -> UOp:
        better = alu(Op.LT, value, key)
        return alu(Op.OR, better, alu(Op.AND, alu(Op.EQ, value, key), alu(Op.LT, index, place))) if tied else better

    def inserted(values: list[UOp], places: list[UOp]) -> tuple[list[UOp], list[UOp]]:
        wins = [beats(v, p) for v, p in zip(values, places, strict=True)]
        out: tuple[list[UOp], list[UOp]] = ([], [])
        for n, win in enumerate(wins):
            for kept, old, new in ((out[0], values, key), (out[1], places, index)):
                here = alu(Op.WHERE, win, new, old[n])
                kept.append(here if n == 0 else alu(Op.WHERE, wins[n - 1], old[n - 1], here))
        return out

    if k <= IN_REGISTERS:

        def step(_: Tensor, values: list[Tensor], places: list[Tensor]) -> Any:
            new = inserted([v.node for v in values], [p.node for p in places])
            return [Tensor(v) for v in new[0]], [Tensor(p) for p in new[1]]

        first = [Tensor(worst)] * k, [Tensor(nowhere)] * k
        values, places = fold(Range._of(r), first, step)
        last = made(cast(idx(count - 1), index.dtype))  # no place is behind it, once all are found
        return stack(values), TABLE["minimum"](stack(places), last)

    def shifted(x: Tensor, first: UOp) -> Tensor:
        return concat([made(UOp(Op.RESHAPE, first.dtype, (first,), (1,))), x[:-1]], axis=0)

    def step_all(_: Tensor, values: Tensor, places: Tensor) -> Any:
        win = made(beats(values.node, places.node))
        above = shifted(values, const(key.dtype.max, key.dtype)), shifted(places, const(-1, index.dtype))
        before = made(beats(above[0].node, above[1].node))
        return (
            where(before, shifted(values, worst), where(win, Tensor(key), values)),
            where(before, shifted(places, nowhere), where(win, Tensor(index), places)),
        )

    def filled(value: UOp) -> Tensor:
        return made(UOp(Op.EXPAND, value.dtype, (UOp(Op.RESHAPE, value.dtype, (value,), (1,)),), (k,)))

    values, places = fold(Range._of(r), (filled(worst), filled(nowhere)), step_all)
    return values, clip(places, 0, made(cast(idx(count - 1), index.dtype)))
