"""``x[...]`` and ``x[...] = v``: opening axes with ranges, gathers, slices, and writing in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from rangekit.errors import BoundsError, DtypeError, RangekitError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, by_uid, cast, idx, toposort
from rangekit.lang import trace
from rangekit.lang.movement import broadcast_to, flip, permute_dims, reshape, slice_axis
from rangekit.lang.storage import materialized
from rangekit.lang.tensor import (
    Tensor,
    broadcast_node,
    broadcast_shapes,
    converted,
    home_of,
    lift,
    made,
    method,
    rebind,
)


def _items(x: Tensor, key: Any) -> list[Any]:
    """One entry per axis of x, plus None for new axes: the key with ``...`` filled in."""
    given = list(key) if isinstance(key, tuple) else [key]
    count = sum(item is not None and item is not Ellipsis for item in given)
    if sum(item is Ellipsis for item in given) > 1:
        raise ShapeError("an index holds at most one `...`")
    if count > x.ndim:
        raise ShapeError(
            f"{count} indices for a value of shape {x.shape}, closed axes: {x.ndim}",
            help="ranges that are open already need no index",
        )
    fill: list[Any] = [slice(None)] * (x.ndim - count)
    at = next((n for n, item in enumerate(given) if item is Ellipsis), None)
    return given + fill if at is None else given[:at] + fill + given[at + 1 :]


def _sliced(x: Tensor, axis: int, cut: slice) -> Tensor:
    if any(isinstance(part, Tensor) for part in (cut.start, cut.stop, cut.step)):
        raise DtypeError(
            "a slice needs ints: its length is part of the shape",
            help="index with a sum of ranges: for x[i : i + 4] write x[i + k] with k = rk.Range(4)",
        )
    if cut == slice(None):
        return x
    if isinstance(x.shape[axis], Dim):
        return _cut(x, axis, cut)
    try:
        start, stop, step = cut.indices(x.shape[axis])
    except (TypeError, ValueError) as err:
        raise DtypeError(f"bad slice: {err}") from None
    size = len(range(start, stop, step))
    if step < 0 and size:
        x, start, step = flip(x, axis=axis), x.shape[axis] - 1 - start, -step
    return slice_axis(x, axis, start if size else 0, size, step if size else 1)


def _cut(x: Tensor, axis: int, cut: slice) -> Tensor:
    """A slice of an axis whose size is known only at the call: its ends are where the bounds decide."""
    size = x.shape[axis]
    if cut == slice(None, None, -1):
        return flip(x, axis=axis)
    if cut.step not in (None, 1):
        raise ShapeError(
            f"a step of {cut.step} along {size}, which is known only at the call", help="index with a Range: x[i * 2]"
        )
    ends = []
    for end, missing in ((cut.start, 0), (cut.stop, size)):
        end = missing if end is None else end if end >= 0 else size + end
        ends.append(0 if end < 0 else end if end <= size else size)
    start, stop = ends
    return slice_axis(x, axis, start, stop - start if start <= stop else 0)


def as_index(item: Any, axis: int, size: int) -> UOp:
    """One index as a node of dtype index."""
    if isinstance(item, (int, np.integer, Dim)) and not isinstance(item, bool):
        n = item if isinstance(item, Dim) else operator.index(item)
        if not -size <= n < size:
            raise BoundsError(
                f"index {n} of axis {axis}, which has {size} elements",
                help=f"write an index from {-size} to {size - 1}" if size else "the axis is empty",
            )
        return idx(n if n >= 0 else size + n)
    if isinstance(item, (float, np.floating)) or (isinstance(item, Tensor) and item.dtype.is_float):
        raise DtypeError(
            f"axis {axis} is indexed with {f'a {item.dtype} value' if isinstance(item, Tensor) else item}",
            help="indices are integers: use // instead of /, or convert the index with .astype(rk.int64)",
        )
    value = lift(item)
    if value.dtype is dt.bool_:
        raise DtypeError(
            "a boolean mask as an index: the result's size would depend on data",
            help="rk.masked_select(x, mask) packs and counts them; for a sum write rk.where(mask, x, 0), or where=mask",
        )
    return cast(value.node, dt.index)


@method("__getitem__")
def getitem(x: Tensor, key: Any) -> Tensor:
    """``x[key]``: ranges and integers drop their axis, integer tensors gather, slices and None as in NumPy.

    Shapes: the axes of integer tensors (broadcast together) stand where the first of them stood. Errors:
    ``ShapeError`` for too many indices, ``DtypeError`` for floats, bools and lists, ``BoundsError`` for a constant
    out of range; what depends on ranges or data is checked when the kernel is lowered, or guarded.
    """
    axis = kept = 0
    new_axes: list[int] = []  # places of None among the axes that stay
    picked: list[tuple[int, UOp]] = []
    first: int | None = None
    for item in _items(x, key):
        if item is None:
            new_axes.append(kept + len(new_axes))
            continue
        if isinstance(item, slice):
            x = _sliced(x, axis, item)
            kept += 1
        else:
            node = as_index(item, axis, x.shape[axis])
            if node.shape and first is None:
                first = kept + len(new_axes)
            picked.append((axis, node))
        axis += 1
    value, weak = x.node, x.weak
    gathered: tuple[int, ...] = ()
    if picked:
        axes = tuple(a for a, _ in picked)
        order = (*axes, *(a for a in range(x.ndim) if a not in axes))
        moved = permute_dims(x, order).node
        gathered = broadcast_shapes(*(n.shape for _, n in picked))
        nodes = [n if not n.shape else broadcast_node(n, gathered) for _, n in picked]
        value = UOp(Op.INDEX, moved.dtype, (moved, *nodes))
    out = made(value, weak)
    if new_axes:
        rest = list(out.shape[len(gathered) :])
        for place in new_axes:
            rest.insert(place, 1)
        out = reshape(out, (*gathered, *rest))
    if gathered and first:
        n = len(gathered)
        order = (*range(n, n + first), *range(n), *range(n + first, out.ndim))
        out = permute_dims(out, order)
    return out


def base_of(view: UOp) -> UOp:
    """The storage that a view's elements live in; raises ``RangekitError`` if they are computed."""
    node = view
    while node.op not in (Op.PARAM, Op.BUFFER, Op.BUFFERIZE, Op.ASSIGN):
        if node.op not in (Op.INDEX, Op.PERMUTE, Op.RESHAPE, Op.SHRINK, Op.FLIP):
            raise RangekitError(
                "assign needs a place: this value is computed, it has no storage",
                help="index an argument or a bufferized value: rk.assign(x[i], v)",
            )
        node = node.src[0]
    return node


def assigned(base: UOp, place: Tensor, value: Any) -> UOp:
    """The ASSIGN node that writes ``value`` at ``place`` of ``base``, binding every open range of both."""
    v = lift(value)
    if broadcast_shapes(place.shape, v.shape) != place.shape:
        raise ShapeError(f"a value of shape {v.shape} does not fit a place of shape {place.shape}")
    node = converted(v, base.dtype)
    node = broadcast_to(Tensor(node), place.shape).node
    ranges = by_uid((place.node.ranges | node.ranges) - base.ranges)
    return UOp(Op.ASSIGN, base.dtype, (base, place.node, node, *ranges))


def _effect(node: UOp) -> None:
    running = trace.current()
    if running is not None:
        running.effects.append(node)


def assign(place: Tensor, value: Any, /) -> Tensor:
    """Write ``value`` at ``place``, which is ``x[...]``; binds every range open in either. Returns x, written.

    Every value read from x before keeps the old contents. That no two iterations write one element is proved; an index
    that data decides is known to be such if it counts what comes before (compaction, counting sort, ranks), of others
    ``scatter`` takes a promise. Errors: ``RaceError`` if two iterations may write one element; ``ShapeError`` if the
    value does not fit.

    >>> import rangekit as rk, numpy as np
    >>> x, i = np.zeros(4, dtype="f4"), rk.Range(2)
    >>> rk.kernel(lambda x: rk.assign(x[2 * i], i + 1))(x)
    array([1., 0., 2., 0.], dtype=float32)
    """
    if not isinstance(place, Tensor):
        raise DtypeError("assign writes to a Tensor's place: rk.assign(x[i], v)")
    base = base_of(place.node)
    if trace.current() is None:
        return _outside(Tensor(base), _over(place.node, base), value)
    node = trace.note(assigned(base, place, value))
    _effect(node)
    return Tensor(node)


def _outside(x: Tensor, place: Callable[[UOp], UOp], value: Any) -> Tensor:
    """A write outside kernels: a new value, which goes to the memory of ``x`` when it is realized."""
    copy = materialized(x)
    out = Tensor(trace.note(assigned(copy.node, Tensor(place(copy.node)), value)))
    rebind(out, out.node, home_of(x))
    return out


def _over(view: UOp, base: UOp) -> Callable[[UOp], UOp]:
    """The view as a function of its base."""

    def of(new: UOp) -> UOp:
        memo: dict[UOp, UOp] = {base: new}
        for n in toposort(view, into=lambda n: n is not base):
            memo.setdefault(n, n if n is base else n.replace(src=tuple(memo.get(s, s) for s in n.src)))
        return memo[view]

    return of


@method("__setitem__")
def setitem(x: Tensor, key: Any, value: Any) -> None:
    """``x[key] = v``: the name x now stands for the new contents; Tensors read from it before keep the old."""
    if trace.current() is None:
        written = _outside(x, lambda base: getitem(Tensor(base), key).node, value)
        rebind(x, written.node, home_of(written))
        return
    base = x.node if x.node.op in (Op.PARAM, Op.BUFFER, Op.BUFFERIZE, Op.ASSIGN) else materialized(x).node
    node = trace.note(assigned(base, getitem(Tensor(base), key), value))
    _effect(node)
    rebind(x, node)
