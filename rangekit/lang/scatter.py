"""``scatter``: values joined to what is at places that data names.

The inverse of a gather: where ``x[ids]`` reads elements that may repeat, this writes them. It is an ASSIGN into a copy
of ``x`` that says how values meet: combined by a reducer, which may happen in any order, or not at all, which the
program promises. Ranges that are not named stay open: every one of their iterations has a result of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rangekit.errors import DtypeError, RaceError, RangeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.reducers import REDUCERS
from rangekit.ir.uop import Storage, UOp, alu, by_uid, cast, idx, new_buffer, toposort
from rangekit.lang.indexing import as_index
from rangekit.lang.movement import broadcast_to
from rangekit.lang.ranges import as_range_nodes, hidden_range
from rangekit.lang.tensor import Tensor, broadcast_node, broadcast_shapes, converted, lift, made, stored

DATA = frozenset({Op.PARAM, Op.BUFFER, Op.BUFFERIZE, Op.ASSIGN, Op.REDUCE})
OPS = ("add", "max", "min")
_BOOL = {"add": "or", "max": "or", "min": "and"}


def scatter(x: Any, index: Any, v: Any, /, *ranges: Tensor, op: str | None = "add", unique: bool = False) -> Tensor:
    """``x`` with ``v`` joined to its elements at ``index``; x itself does not change. Binds ``ranges``.

    ``index`` is an integer or integer Tensor for the first axis of x, or a tuple, one for each leading axis. Its closed
    axes (broadcast together) and the remaining axes of x are the shape that v broadcasts to. Values that meet at one
    element are combined by ``op`` "add" (of bools: or; of half types in float32), "max" or "min". With ``op=None`` and
    ``unique=True`` they replace what is there, and no two may meet.

    Ranges of x, index and v that are not named stay open. Sums of floats are taken in one order for one number of
    threads, with ``strict=True`` in the order of the ranges as named, then closed axes.

    Errors: ``BoundsError`` after the launch for an index outside x, where nothing is written; ``RaceError`` for two
    values that meet in spite of ``unique``, or without ``op`` and ``unique``; ``RangeError`` for a range that is open
    in x and named; ``ShapeError``, ``DtypeError``.

    >>> import rangekit as rk, numpy as np
    >>> @rk.kernel
    ... def histogram(ids, w):
    ...     i = rk.Range(ids.shape[0])
    ...     return rk.scatter(rk.zeros(4), ids[i], w[i], i)
    >>> histogram(np.array([2, 0, 2]), np.array([1.0, 2.0, 3.0], np.float32))
    array([2., 0., 4., 0.], dtype=float32)
    """
    old = lift(x)
    how = _how(old.dtype, op, unique)
    bound = as_range_nodes(ranges, "scatter")
    dtype = dt.float32 if old.dtype.is_half and how == "add" and not unique else old.dtype
    value = cast(stored(old), dtype)
    picks, rows, gathered = _picks(old, index)
    new = lift(v)
    taken = [r for r in bound if r in value.ranges]
    if taken:
        name = taken[0].arg.name or "the Range"
        raise RangeError(
            f"scatter binds {name}, which is open in x too",
            help=f"leave {name} out for a result in each of its iterations, or open another Range in the index",
        )
    shape = (*gathered, *old.shape[len(picks) :])
    if broadcast_shapes(shape, new.shape) != shape:
        raise ShapeError(
            f"a value of shape {new.shape} does not fit places of shape {shape}",
            help="the places have the axes of the index, then those of x that are not indexed",
        )
    given = broadcast_to(Tensor(converted(new, dtype)), shape).node
    given = UOp(Op.INDEX, dtype, (given, *rows)) if rows else given
    own = by_uid(value.ranges.union(given.ranges, *(p.ranges for p in picks)) - {*bound, *rows})
    store = UOp(Op.BUFFERIZE, dtype, (value, *own), Storage())
    place = made(UOp(Op.INDEX, dtype, (store, *own, *picks))).node
    over = (*own, *bound, *rows)
    claim: tuple[UOp, ...] = ()
    if unique:
        if how is not None:
            (given,) = REDUCERS[how].combine((place,), (given,))
        promised = any(n.op in DATA for n in toposort(*picks))  # else it is proved or refused
        how = "unique" if promised else None
        claim = (_claimed((*own, *picks), store.shape, over),) if promised else ()
    written = made(UOp(Op.ASSIGN, dtype, (store, place, given, *claim, *over), how)).node
    out = UOp(Op.INDEX, dtype, (written, *own)) if own else written
    return made(cast(out, old.dtype))


def sent(
    values: Mapping[str, Tensor], place: tuple[Tensor, ...], shape: tuple[int, ...], *ranges: Tensor
) -> list[Tensor]:
    """New arrays, by their names, that hold the values at places which the caller knows to be all of them, each named
    once or, where it is named again, with the same value.
    """
    over, picks = tuple(r.node for r in ranges), tuple(cast(p.node, dt.index) for p in place)
    out = []
    for name, v in values.items():
        store = new_buffer(v.node.dtype, shape, name)
        at = made(UOp(Op.INDEX, v.node.dtype, (store, *picks))).node
        out.append(made(UOp(Op.ASSIGN, v.node.dtype, (store, at, v.node, *over), "any")))
    return out


def _picks(x: Tensor, index: Any) -> tuple[tuple[UOp, ...], tuple[UOp, ...], tuple[int, ...]]:
    """An index for each leading axis of x, without closed axes; the ranges these now have, and their sizes."""
    given = index if isinstance(index, tuple) else (index,)
    if len(given) > x.ndim or not given:
        raise ShapeError(
            f"scatter indexes {len(given)} axes of a value of shape {x.shape}", help="an index for each leading axis"
        )
    nodes = [as_index(item, axis, x.shape[axis]) for axis, item in enumerate(given)]
    shape = broadcast_shapes(*(n.shape for n in nodes))
    whole = [broadcast_node(n, shape) if n.shape else n for n in nodes]
    first = next((n for n in whole if n.shape), None)
    rows = tuple(hidden_range(first, axis) for axis in range(len(shape))) if first is not None else ()
    return tuple(UOp(Op.INDEX, n.dtype, (n, *rows)) if n.shape else n for n in whole), rows, shape


def _claimed(picks: tuple[UOp, ...], shape: tuple[int, ...], over: tuple[UOp, ...]) -> UOp:
    """That no two iterations name one element. Each writes its number there, whichever stays; all look whether theirs
    did. A range that is an index by itself tells its iterations apart, and needs no numbers.
    """
    plain = {p for p in picks if p.op is Op.RANGE and p in over and sum(p in q.ranges for q in picks) == 1}
    kept = [axis for axis, p in enumerate(picks) if p not in plain]
    ranges = tuple(r for r in over if r not in plain)
    count = math.prod(r.extent for r in ranges)
    number: UOp = idx(0)
    for r in ranges:
        number = alu(Op.ADD, alu(Op.MUL, number, idx(r.extent)), r)
    number = cast(number, dt.int32 if count <= dt.int32.max else dt.int64)
    owner = new_buffer(number.dtype, tuple(shape[axis] for axis in kept), "owner")
    place = UOp(Op.INDEX, number.dtype, (owner, *(picks[axis] for axis in kept)))
    told = UOp(Op.ASSIGN, number.dtype, (owner, place, number, *ranges), "any")
    return UOp(Op.CLAIM, dt.bool_, (place.replace(src=(told, *place.src[1:])), number))


def _how(dtype: DType, op: str | None, unique: bool) -> str | None:
    """The reducer that ``op`` is for a dtype; None for stores that are promised to be unique."""
    if op is None and unique:
        return None
    if op is None:
        raise RaceError(
            "scatter with op=None stores, and two iterations may store to one element",
            help='unique=True promises that none do; or combine what meets: op="add", "max" or "min"',
        )
    if op not in OPS:
        raise DtypeError(f"scatter has no op {op!r}", help="one of " + ", ".join(map(repr, OPS)) + ", or None")
    return _BOOL[op] if dtype is dt.bool_ else op
