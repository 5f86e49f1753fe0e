"""Elements that data chooses, packed into buffers whose sizes are known: a running count, then a scatter.

A result's size is part of its type, so what a mask keeps goes into a buffer of ``size`` elements beside the number of
all that it keeps. Where that is greater, the first ones are there, and the number tells.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rangekit.errors import DtypeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.uop import new_range
from rangekit.lang.creation import arange, full, zeros
from rangekit.lang.cumulative import cumulative_sum
from rangekit.lang.elementwise import TABLE, bitcast, where
from rangekit.lang.movement import broadcast_to, reshape
from rangekit.lang.reduce import sum as summed
from rangekit.lang.scatter import scatter
from rangekit.lang.sort import sort
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, broadcast_shapes, converted, lift, made, stored


class Selected(NamedTuple):
    """What ``masked_select`` found: the first of them, and how many there are."""

    values: Tensor
    total: Tensor


class Nonzero(NamedTuple):
    """What ``nonzero`` found: an index array for each axis, and how many elements there are."""

    places: tuple[Tensor, ...]
    total: Tensor


class UniqueCounts(NamedTuple):
    """What ``unique_counts`` found: values in order, how often each is there, and how many are distinct."""

    values: Tensor
    counts: Tensor
    total: Tensor


def masked_select(x: Any, mask: Any, /, *, size: int | None = None, fill_value: Any = 0) -> Selected:
    """The elements of x where ``mask`` is true, in row-major order, and how many there are (int64).

    x and mask broadcast together. ``values`` has ``size`` elements (default: as many as x); those after the last one
    are ``fill_value``. Where more than ``size`` are selected the first ones are kept, and ``total`` is the number of
    all. Errors: ``DtypeError`` for a mask that is not bool, ``ShapeError`` for a size that is not an int from 0 on.

    >>> import rangekit as rk
    >>> x = rk.asarray([3.0, -1.0, 4.0, -5.0])
    >>> values, count = rk.masked_select(x, x > 0, size=3)
    >>> values.numpy(), count.item()
    (array([3., 4., 0.], dtype=float32), 2)
    """
    value, chosen = made(stored(lift(x))), lift(mask)
    if chosen.dtype is not dt.bool_:
        raise DtypeError(f"masked_select takes a bool mask, not {chosen.dtype}", help="compare first: x != 0")
    shape = broadcast_shapes(value.shape, chosen.shape)
    value, chosen = (reshape(broadcast_to(v, shape), (math.prod(shape),)) for v in (value, chosen))
    places = _Places(chosen, _size(size, chosen.size))
    filler = made(converted(lift(fill_value), value.dtype))
    return Selected(places.filled(places.packed(value), filler), places.total)


def nonzero(x: Any, /, *, size: int | None = None, fill_value: int = 0) -> Nonzero:
    """Where x is not zero, in row-major order: an int64 array of indices for each axis, and how many there are.

    The arrays have ``size`` elements (default: as many as x), as those of ``masked_select`` do. Errors: ``ShapeError``
    for a value without axes.

    >>> import rangekit as rk
    >>> (rows, columns), count = rk.nonzero(rk.asarray([[0, 1], [2, 3]]), size=3)
    >>> rows.numpy(), columns.numpy(), count.item()
    (array([0, 1, 1]), array([1, 0, 1]), 3)
    """
    value = made(stored(lift(x)))
    if not value.shape:
        raise ShapeError("nonzero of a value without axes", help="rk.where(x != 0, ...), or give it an axis: x[None]")
    chosen = value if value.dtype is dt.bool_ else TABLE["not_equal"](value, 0)
    places = _Places(reshape(chosen, (value.size,)), _size(size, value.size))
    flat = places.packed(arange(value.size))
    out, step = [], value.size
    for n in value.shape:
        step //= max(n, 1)
        out.append(places.filled(flat // max(step, 1) % max(n, 1), lift(fill_value)))
    return Nonzero(tuple(out), places.total)


def unique_counts(x: Any, /, *, size: int | None = None) -> UniqueCounts:
    """The distinct values of x in ascending order, how often each is there, and how many are distinct (int64).

    ``values`` and ``counts`` have ``size`` elements (default: as many as x), 0 after the last one. Where more than
    ``size`` are distinct the least ones are kept, and ``total`` is the number of all. As in the array API standard no
    NaN equals another: each is a value by itself, last. Of 0.0 and -0.0, which are equal, the first is kept.

    >>> import rangekit as rk
    >>> values, counts, count = rk.unique_counts(rk.asarray([2, 0, 2, 2]), size=3)
    >>> values.numpy(), counts.numpy(), count.item()
    (array([0, 2, 0]), array([1, 3, 0]), 2)
    """
    value = made(stored(lift(x)))
    ordered = sort(reshape(value, (value.size,)))
    i = Range._of(new_range(value.size))
    before = ordered[TABLE["maximum"](i - 1, 0)] if value.size else ordered[i]
    first = (i == 0) | (ordered[i] != before)
    places = _Places(bufferize(first, i), _size(size, value.size))
    counts = scatter(zeros(places.size + 1, dtype=dt.int64), places.groups(), full(value.size, 1, dtype=dt.int64))
    return UniqueCounts(places.packed(ordered), counts[: places.size], places.total)


class _Places:
    """The place of each chosen one of some elements in a row, and one more that takes what does not fit."""

    def __init__(self, chosen: Tensor, size: int) -> None:
        self.size, self.chosen = size, chosen
        self.index = dt.int32 if chosen.size < dt.int32.max else dt.int64
        self.total = summed(chosen, axis=0)
        self._upto = cumulative_sum(chosen, axis=0, dtype=self.index)

    def packed(self, values: Tensor) -> Tensor:
        """The chosen values, zeros after them. Their bits are added up: one lands at each place, and zeros."""
        bits = _bits(values.dtype)
        given = values.astype(bits) if values.dtype is dt.bool_ else bitcast(values, bits)
        before = self._upto - self.chosen.astype(self.index)
        out = scatter(zeros(self.size + 1, dtype=bits), self._inside(before), where(self.chosen, given, 0))[: self.size]
        return out.astype(dt.bool_) if values.dtype is dt.bool_ else bitcast(out, values.dtype)

    def groups(self) -> Tensor:
        """For every element the place of the last chosen one up to it; the first element has to be chosen."""
        return self._inside(self._upto - 1)

    def filled(self, values: Tensor, filler: Tensor) -> Tensor:
        """The values with ``filler`` after those that were chosen."""
        return where(arange(self.size) < self.total[..., None], values, filler)

    def _inside(self, place: Tensor) -> Tensor:
        return TABLE["minimum"](TABLE["maximum"](place, 0), self.size)


def _bits(d: DType) -> DType:
    return {8: dt.uint8, 16: dt.uint16, 32: dt.uint32, 64: dt.uint64}[max(d.bits, 8)]


def _size(size: int | None, most: int) -> int:
    if size is None:
        return most
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ShapeError(
            f"size= is a number of elements, not {size!r}", help="an int from 0 on: shapes are known first"
        )
    return size
