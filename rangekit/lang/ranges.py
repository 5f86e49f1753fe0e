"""Making Ranges, and reading them back from what users pass."""

from __future__ import annotations

import operator
from typing import Any
from weakref import WeakKeyDictionary

from rangekit.errors import RangeError, ShapeError
from rangekit.ir.dim import Dim
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, new_range
from rangekit.lang.tensor import Range, Tensor
from rangekit.source import assigned_names


def make_range(n: Any, name: str | None) -> UOp:
    """A new RANGE over 0 .. n-1; ``RangeError`` if ``n`` is not an int >= 0."""
    if isinstance(n, Tensor):
        what = f"the Range {n.name}" if isinstance(n, Range) else "a traced value"
        raise RangeError(
            f"{what} is not a size: sizes are known before loops run",
            help="give the largest size and leave iterations out: rk.sum(v, j, where=j <= i)",
        )
    if isinstance(n, Dim):
        if n.least < 0:
            raise RangeError(f"a Range of size {n}, which may be {n.least}: sizes are 0 or more")
        return new_range(n, name)
    try:
        size = operator.index(n)
    except TypeError:
        raise RangeError(f"a Range needs an int size, not {n!r}", help="rk.Range(x.shape[0])") from None
    if size < 0:
        raise RangeError(f"a Range of size {size}: sizes are 0 or more")
    return new_range(size, name)


def ranges(*sizes: int) -> tuple[Range, ...]:
    """One Range per size, named after the variables they are assigned to.

    >>> import rangekit as rk
    >>> i, j = rk.ranges(2, 3)
    >>> i.name, j.extent
    ('i', 3)
    """
    names = assigned_names(1)
    if names is None or len(names) != len(sizes):
        names = [None] * len(sizes)  # type: ignore[list-item]
    return tuple(Range._of(make_range(n, name)) for n, name in zip(sizes, names, strict=True))


def as_range_nodes(given: tuple[Any, ...], what: str) -> tuple[UOp, ...]:
    """The RANGE nodes of arguments that must be distinct Ranges; ``RangeError`` otherwise."""
    nodes = []
    for r in given:
        if not (isinstance(r, Tensor) and r.node.op is Op.RANGE):
            shown = "an expression of ranges" if isinstance(r, Tensor) else repr(r)
            raise RangeError(
                f"{what} takes Ranges, not {shown}",
                help="closed axes go by axis=: rk.sum(x, axis=0)" if isinstance(r, int) else "pass the Range itself",
            )
        if r.node in nodes:
            raise RangeError(f"{what} names the Range {r.node.arg.name} twice", help="make a second Range of its size")
        nodes.append(r.node)
    return tuple(nodes)


def normal_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """Axes as distinct ints >= 0 in the order given, all for None; ``ShapeError`` if one is not there."""
    if axis is None:
        return tuple(range(ndim))
    out = []
    for a in axis if isinstance(axis, tuple) else (axis,):
        try:
            a = operator.index(a)
        except TypeError:
            raise ShapeError(f"an axis is an int, not {a!r}") from None
        if not -ndim <= a < ndim:
            have = f"axes -{ndim} to {ndim - 1}" if ndim else "no closed axes"
            raise ShapeError(
                f"axis {a} is not there: the value has {have}",
                help="ranges are closed with rk.bufferize(v, i) or reduced by name: rk.sum(v, i)"
                if not ndim else f"write an axis from -{ndim} to {ndim - 1}",
            )  # fmt: skip
        out.append(a % ndim)
    if len(set(out)) != len(out):
        raise ShapeError(f"axis {axis} names an axis twice")
    return tuple(out)


_hidden: WeakKeyDictionary[UOp, dict[int, UOp]] = WeakKeyDictionary()


def hidden_range(value: UOp, axis: int) -> UOp:
    """The unnamed RANGE that runs over a closed axis: the same one whenever the same axis is opened."""
    made = _hidden.setdefault(value, {})
    if axis not in made:
        made[axis] = new_range(value.shape[axis])
    return made[axis]


def open_axes(value: UOp, axes: tuple[int, ...], ranges: tuple[UOp, ...] | None = None) -> tuple[UOp, tuple[UOp, ...]]:
    """``value`` with those closed axes opened, by their hidden ranges if none are given, and the ranges."""
    if not axes:
        return value, ()
    opened = tuple(hidden_range(value, a) for a in axes) if ranges is None else ranges
    order = (*axes, *(a for a in range(value.ndim) if a not in axes))
    if order != tuple(range(value.ndim)):
        value = UOp(Op.PERMUTE, value.dtype, (value,), order)
    return UOp(Op.INDEX, value.dtype, (value, *opened)), opened
