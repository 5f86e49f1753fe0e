"""``sort`` and ``argsort``: long arrays by the digits of their keys, short ones by merging.

Keys are integers of the values' order (``topk.ordered``). Both ways are stable.
"""

from __future__ import annotations

from typing import Any

from rangekit.errors import ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim
from rangekit.ir.uop import new_range
from rangekit.lang.creation import full
from rangekit.lang.digits import places_by_digits, values_by_digits
from rangekit.lang.merges import places_merged
from rangekit.lang.movement import moveaxis
from rangekit.lang.storage import bufferize
from rangekit.lang.tensor import Range, Tensor, lift

SHORT = 256  # elements along the axis: fewer are merged


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The values along an axis in ascending order, NaN last; equal ones stay in theirs.

    >>> import rangekit as rk
    >>> rk.sort(rk.asarray([3.0, 1.0, 2.0])).numpy()
    array([1., 2., 3.], dtype=float32)
    """
    value = _along(x, axis)
    if not value.size:
        return lift(x)
    if value.shape[-1] > SHORT:
        return moveaxis(values_by_digits(value, descending), -1, axis)
    places = places_merged(value, descending)
    batch = tuple(Range._of(new_range(size)) for size in value.shape[:-1])
    i = Range._of(new_range(value.shape[-1]))
    out = bufferize(value[(*batch, places[(*batch, i)])], *batch, i)
    return moveaxis(out, -1, axis)


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """Where the values of ``sort`` are, int64.

    >>> import rangekit as rk
    >>> rk.argsort(rk.asarray([3.0, 1.0, 2.0])).numpy()
    array([1, 2, 0])
    """
    value = _along(x, axis)
    if not value.size:
        return moveaxis(full(value.shape, 0, dtype=dt.int64), -1, axis)
    by = places_by_digits if value.shape[-1] > SHORT else places_merged
    return moveaxis(by(value, descending), -1, axis)


def _along(x: Any, axis: int) -> Tensor:
    """The value with the axis that is sorted last."""
    value = lift(x)
    if not value.shape:
        raise ShapeError("a value without axes is not sorted", help="sort an array, along one of its axes")
    value = moveaxis(value, axis, -1)
    if isinstance(value.shape[-1], Dim):
        raise ShapeError(
            f"the axis to be sorted has {value.shape[-1]} elements, which is known only at the call",
            help="leave the Dim out of the annotation: then the kernel is compiled for each size",
        )
    return value
