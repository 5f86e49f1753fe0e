"""Running sums, products and extremes: scans with a known step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rangekit.errors import RangeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.reducers import REDUCERS
from rangekit.ir.uop import Storage, UOp, cast, new_fold
from rangekit.lang import trace
from rangekit.lang.creation import full
from rangekit.lang.movement import concat
from rangekit.lang.ranges import as_range_nodes, normal_axes, open_axes
from rangekit.lang.tensor import Tensor, as_dtype, lift, made, stored


def _running(op: str, x: Any, ranges: tuple[Any, ...], axis: int | None, dtype: DType, initial: bool) -> Tensor:
    """The scan of a reducer over one range, which stays open, or along one axis, which stays where it is."""
    name = f"cumulative_{_WORDS[op]}"
    value = lift(x)
    node = cast(stored(value), dtype)
    wide = dt.float32 if dtype.is_half else dtype
    if ranges and axis is not None:
        raise RangeError(f"{name} takes a range or axis=, not both", help="open the axis too: x[i, k], then name k")
    if len(ranges) > 1:
        raise RangeError(f"{name} runs along one range, not {len(ranges)}", help="one after another, or over a reshape")
    if ranges:
        (r,) = as_range_nodes(ranges, name)
        if initial:
            raise RangeError(f"include_initial= of {name} needs axis=: a range has as many values as iterations")
        axes = tuple(range(node.ndim))
        node, opened = open_axes(node, axes)
    else:
        if axis is None and node.ndim != 1:
            raise ShapeError(
                f"{name} of a value with {node.ndim} closed axes needs axis= or a range",
                help="axis=-1 runs along the last one",
            )
        (along,) = normal_axes(axis, node.ndim) if axis is not None else (0,)
        node, opened = open_axes(node, tuple(range(node.ndim)))
        r = opened[along]
    (first,) = REDUCERS[op].identity((wide,))
    number = new_fold()
    state = UOp(Op.STATE, wide, (r, *sorted(node.ranges - {r}, key=lambda a: a.arg.uid)), (number, 0, (), _NAMES[op]))
    (following,) = REDUCERS[op].combine((state,), (cast(node, wide),))
    scan = trace.note(UOp(Op.SCAN, wide, (first, following, following, r), (number, 1, op)))
    element = cast(UOp(Op.INDEX, wide, (scan, r)), dtype)
    if ranges:
        return made(UOp(Op.BUFFERIZE, dtype, (element, *opened), Storage()) if opened else element)
    out = made(UOp(Op.BUFFERIZE, dtype, (element, *opened), Storage()))
    if not initial:
        return out
    shape = tuple(1 if a == along else s for a, s in enumerate(out.shape))
    (neutral,) = REDUCERS[op].identity((dtype,))
    return concat([full(shape, neutral.arg, dtype=dtype), out], axis=along)


_WORDS = {"add": "sum", "mul": "prod", "max": "max", "min": "min"}
_NAMES = {"add": "acc", "mul": "acc", "max": "hi", "min": "lo"}


def _made(op: str, result: Callable[[DType], DType], what: str) -> Callable[..., Tensor]:
    def fn(x: Any, /, *ranges: Any, axis: int | None = None, dtype: Any = None,
           include_initial: bool = False) -> Tensor:  # fmt: skip
        given = result(stored(lift(x)).dtype) if dtype is None else as_dtype(dtype)
        return _running(op, x, ranges, axis, given, include_initial)

    fn.__name__ = fn.__qualname__ = f"cumulative_{_WORDS[op]}"
    fn.__module__ = __name__
    fn.__doc__ = f"""{what}, up to and with each element: along a range, which stays open, or an axis.

    A value with one axis needs none named. ``include_initial`` puts the value of nothing first, along an axis.
    Errors: ``ShapeError`` where an axis must be named, ``RangeError`` for more than one range.
    """
    return fn


def _same(d: DType) -> DType:
    return dt.int64 if d is dt.bool_ else d


cumulative_sum = _made("add", dt.accumulator, "The sum: integers in 64 bits, half types in float32 inside;")
cumulative_prod = _made("mul", dt.accumulator, "The product: integers in 64 bits, half types in float32 inside;")
cumulative_max = _made("max", _same, "The greatest value, NaN from the first one on;")
cumulative_min = _made("min", _same, "The least value, NaN from the first one on;")
