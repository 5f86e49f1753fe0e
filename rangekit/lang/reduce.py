"""Reductions over ranges or closed axes, and what is written with them: softmax, mean, argmax, matmul.

``f(v, i, j)`` consumes ranges, ``f(v, axis=1)`` a closed axis, ``f(v)`` all closed axes. ``where=`` leaves
iterations out: they contribute the identity and nothing in them is observable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, overload

from rangekit.errors import DtypeError, RangeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import least
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, reducer
from rangekit.ir.uop import UOp, alu, by_uid, cast, const, idx
from rangekit.lang.elements import places, whole
from rangekit.lang.elementwise import TABLE, astype, divide, isfinite, where
from rangekit.lang.monoid import Monoid
from rangekit.lang.movement import expand_dims, matrix_transpose, reshape
from rangekit.lang.ranges import as_range_nodes, normal_axes, open_axes
from rangekit.lang.tensor import (
    Tensor,
    broadcast_node,
    broadcast_shapes,
    converted,
    lift,
    made,
    method,
    result_dtype,
    stored,
    together,
)

Axis = int | tuple[int, ...] | None


class Over:
    """What a reduction runs over: the values with those closed axes opened, and the ranges."""

    def __init__(self, values: Sequence[Any], ranges: tuple[Any, ...], axis: Axis, where: Any, name: str) -> None:
        nodes, condition = [stored(lift(v)) for v in values], None
        shape = broadcast_shapes(*(n.shape for n in nodes))
        if where is not None:
            c = lift(where)
            if c.node.dtype is not dt.bool_:
                raise DtypeError(f"where= of {name} takes a bool condition, not {c.dtype}")
            shape = broadcast_shapes(shape, c.shape)
            condition = broadcast_node(c.node, shape) if c.shape else c.node
        nodes = [broadcast_node(n, shape) if shape else n for n in nodes]
        if ranges and axis is not None:
            raise RangeError(
                f"{name} takes ranges or axis=, not both",
                help="open the axis with a Range k too, v[k], and name k with the other ranges",
            )
        if not ranges and axis is None and not shape:
            around = frozenset[UOp]().union(*(n.ranges for n in nodes))
            opened = ", ".join(r.arg.name or "_" for r in by_uid(around))
            raise RangeError(
                f"{name} of a value without closed axes needs a range" + (f"; open here: {opened}" if opened else ""),
                help=f"name it: rk.{name}(v, {opened.split(', ')[-1]})" if opened else "there is nothing to reduce",
            )
        self.shape = shape
        self.axes: tuple[int, ...] = () if ranges else normal_axes(axis, len(shape))
        if ranges:
            self.ranges = as_range_nodes(ranges, name)
        else:
            nodes[0], self.ranges = open_axes(nodes[0], self.axes)
            nodes[1:] = [open_axes(n, self.axes, self.ranges)[0] for n in nodes[1:]]
            if condition is not None and condition.shape:
                order = (*self.axes, *(a for a in range(condition.ndim) if a not in self.axes))
                condition = UOp(Op.PERMUTE, dt.bool_, (condition,), order)
                condition = UOp(Op.INDEX, dt.bool_, (condition, *self.ranges))
        self.nodes, self.where = nodes, condition

    @property
    def node(self) -> UOp:
        """The value, of one."""
        return self.nodes[0]

    def reduce(self, op: str | Formula, *values: UOp) -> UOp:
        """The REDUCE of the values, excluded iterations replaced by the identity."""
        dtypes = tuple(v.dtype for v in values)
        if self.where is not None:
            neutral = reducer(op).identity(dtypes)
            values = tuple(alu(Op.WHERE, self.where, v, e) for v, e in zip(values, neutral, strict=True))
        if not self.ranges:
            return values[0]
        return UOp(Op.REDUCE, dtypes[0], (*values, *self.ranges), op)

    def back(self, node: UOp, keepdims: bool) -> Tensor:
        """The result, with the reduced axes as size 1 where they are kept."""
        out = made(node)
        if keepdims and self.axes:
            return reshape(out, tuple(1 if a in self.axes else s for a, s in enumerate(self.shape)))
        return out

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(r.length for r in self.ranges)


def _wide(node: UOp) -> UOp:
    """Half types reduce in float32."""
    return cast(node, dt.float32) if node.dtype.is_half else node


def _simple(op: str, result: Callable[[DType], DType]) -> Callable[..., Tensor]:
    def fn(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None) -> Tensor:
        over = Over([v], ranges, axis, where, fn.__name__)
        dtype = result(over.node.dtype)
        wide = _wide(cast(over.node, dtype))
        return over.back(cast(over.reduce(op, wide), dtype), keepdims)

    return fn


def _named(name: str, op: str, result: Callable[[DType], DType], doc: str) -> Callable[..., Tensor]:
    fn = _simple(op, result)
    fn.__name__ = fn.__qualname__ = name
    fn.__module__ = __name__
    fn.__doc__ = doc + " Over ranges, an axis, or all closed axes; ``where=`` leaves iterations out."
    return fn


def _number(d: DType) -> DType:
    return dt.int64 if d is dt.bool_ else d


_SUM_DOC = "integers in 64 bits, half types in float32 inside."
sum = _named("sum", "add", dt.accumulator, f"The sum, of nothing 0: {_SUM_DOC}")  # noqa: A001
prod = _named("prod", "mul", dt.accumulator, f"The product, of nothing 1: {_SUM_DOC}")
max = _named("max", "max", _number, "The greatest value, NaN if any is; of nothing the least value.")  # noqa: A001
min = _named("min", "min", _number, "The least value, NaN if any is; of nothing the greatest value.")  # noqa: A001
any = _named("any", "or", lambda d: dt.bool_, "Whether any value is nonzero; of nothing False.")  # noqa: A001
all = _named("all", "and", lambda d: dt.bool_, "Whether all values are nonzero; of nothing True.")  # noqa: A001

_OPS: dict[str, Callable[..., Tensor]] = {"add": sum, "mul": prod, "max": max, "min": min, "or": any, "and": all}


@overload
def reduce(
    v: Any, /, *ranges: Any, op: str = "add", axis: Axis = None, keepdims: bool = False, where: Any = None
) -> Tensor: ...
@overload
def reduce(
    v: Any, /, *ranges: Any, op: Monoid, axis: Axis = None, keepdims: bool = False, where: Any = None
) -> Any: ...
def reduce(
    v: Any, /, *ranges: Any, op: str | Monoid = "add", axis: Axis = None, keepdims: bool = False, where: Any = None
) -> Any:
    """Reduce with "add", "mul", "max", "min", "and" or "or", or with a ``Monoid``.

    With a monoid over tuples ``v`` is a tuple of as many values, which broadcast together, and so is the result. Over
    several ranges the values come in row-major order, the last range fastest.

    Errors: ``DtypeError`` for an op that is not there, or a tuple of another length than the monoid's.

    >>> import rangekit as rk
    >>> x, k = rk.asarray([3.0, 1.0, 2.0]), rk.Range(3)
    >>> rk.reduce(x[k], k, op="max").item()
    3.0
    >>> most, at = rk.reduce((x[k], k), k, op=rk.monoids.argmax)
    >>> most.item(), at.item()
    (3.0, 0)
    """
    if isinstance(op, Monoid):
        return _by(op, v, ranges, axis, keepdims, where)
    if op not in _OPS:
        known = ", ".join(map(repr, _OPS))
        raise DtypeError(f"there is no reduction {op!r}", help=f"one of {known}, or a rk.Monoid")
    return _OPS[op](v, *ranges, axis=axis, keepdims=keepdims, where=where)


def _by(op: Monoid, v: Any, ranges: tuple[Any, ...], axis: Axis, keepdims: bool, where: Any) -> Any:
    if isinstance(v, tuple) is op.bare or (not op.bare and len(v) != op.arity):
        given = f"a tuple of {len(v)} values is" if isinstance(v, tuple) else "one value is"
        wanted = "single values" if op.bare else f"tuples of {op.arity}"
        raise DtypeError(f"{given} reduced with a monoid over {wanted}", help="give it values of the identity's form")
    values = [lift(x) for x in ((v,) if op.bare else v)]
    how, inside, outside = op.over(values)
    shapes = op.shapes
    if op.shaped:
        if axis is not None or not ranges or keepdims:
            raise RangeError("a monoid over arrays reduces ranges", help="open the axis: v[k], and name k")
        values = [_element(x, at) for x, shape in zip(op.elements(values), shapes, strict=True) for at in places(shape)]
    over = Over([Tensor(converted(x, d)) for x, d in zip(values, inside, strict=True)], ranges, axis, where, "reduce")
    nodes: tuple[UOp, ...] = (over.reduce(how, *over.nodes),)
    if not over.ranges:
        nodes = tuple(over.nodes)
    elif len(inside) > 1 or not op.bare:
        nodes = tuple(UOp(Op.GET, d, nodes, k) for k, d in enumerate(inside))
    results = tuple(over.back(cast(n, d), keepdims) for n, d in zip(nodes, outside, strict=True))
    if op.shaped:
        numbers = (r.node for r in results)
        results = tuple(whole([next(numbers) for _ in places(shape)], shape) for shape in shapes)
    return results[0] if op.bare else results


def _element(x: Tensor, at: tuple[int, ...]) -> Tensor:
    return Tensor(UOp(Op.INDEX, x.node.dtype, (x.node, *map(idx, at))), x.weak) if at else x


def _count(over: Over, dtype: DType) -> UOp:
    """How many iterations take part."""
    if over.where is None:
        return cast(idx(math.prod(over.extents)), dtype)
    return over.reduce("add", const(1, dtype))


def mean(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None) -> Tensor:
    """The mean in the value's float type (float32 of integers); of nothing NaN."""
    over = Over([v], ranges, axis, where, "mean")
    dtype = over.node.dtype if over.node.dtype.is_float else dt.float32
    wide = _wide(cast(over.node, dtype))
    total = over.reduce("add", wide)
    return over.back(cast(alu(Op.DIV, total, _count(over, wide.dtype)), dtype), keepdims)


def var(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None,
        correction: float = 0.0) -> Tensor:  # fmt: skip
    """The variance about the mean (two passes), divided by the count less ``correction``."""
    over = Over([v], ranges, axis, where, "var")
    dtype = over.node.dtype if over.node.dtype.is_float else dt.float32
    wide = _wide(cast(over.node, dtype))
    count = _count(over, wide.dtype)
    centre = alu(Op.DIV, over.reduce("add", wide), count)
    gap = alu(Op.SUB, wide, centre)
    total = over.reduce("add", alu(Op.MUL, gap, gap))
    return over.back(cast(alu(Op.DIV, total, alu(Op.SUB, count, const(correction, wide.dtype))), dtype), keepdims)


def std(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None,
        correction: float = 0.0) -> Tensor:  # fmt: skip
    """The square root of ``var``."""
    return TABLE["sqrt"](var(v, *ranges, axis=axis, keepdims=keepdims, where=where, correction=correction))


def _arg(op: str, v: Any, ranges: tuple[Any, ...], axis: Axis, keepdims: bool, where: Any) -> Tensor:
    over = Over([v], ranges, axis, where, op)
    if 0 in map(least, over.extents):
        raise ShapeError(f"{op} of an empty range: there is no index", help="an axis of size 1 or more")
    flat: UOp = idx(0)
    for r in over.ranges:
        flat = alu(Op.ADD, alu(Op.MUL, flat, idx(r.length)), r)
    value = cast(over.node, dt.uint8) if over.node.dtype is dt.bool_ else over.node
    index = cast(flat, dt.int64)
    index = index if not value.shape else broadcast_node(index, value.shape)
    if not over.ranges:
        return over.back(index, keepdims)
    pair = over.reduce(op, value, index)
    return over.back(UOp(Op.GET, dt.int64, (pair,), 1), keepdims)


def argmax(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None) -> Tensor:
    """Where the greatest value is, int64: the first on ties, NaN counts as greatest. Over several, the flat index.

    Errors: ``ShapeError`` over nothing.
    """
    return _arg("argmax", v, ranges, axis, keepdims, where)


def argmin(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None) -> Tensor:
    """Where the least value is, int64: the first on ties, NaN counts as least. Over several, the flat index.

    Errors: ``ShapeError`` over nothing.
    """
    return _arg("argmin", v, ranges, axis, keepdims, where)


def logsumexp(v: Any, /, *ranges: Any, axis: Axis = None, keepdims: bool = False, where: Any = None) -> Tensor:
    """log of the sum of exp, without overflow on the way; of nothing, or all -inf, -inf."""
    x = _float(v)
    top = max(x, *ranges, axis=axis, keepdims=True, where=where)
    safe = _select(isfinite(top), top, 0.0)
    total = sum(TABLE["exp"](TABLE["subtract"](x, safe)), *ranges, axis=axis, keepdims=True, where=where)
    out = TABLE["add"](TABLE["log"](total), safe)
    if ranges or keepdims:
        return out
    gone = normal_axes(axis, out.ndim)
    return reshape(out, tuple(s for a, s in enumerate(out.shape) if a not in gone))


def softmax(v: Any, /, *ranges: Any, axis: Axis = None, where: Any = None) -> Tensor:
    """exp(v) over its sum, stable; keeps its ranges or axis (the last if none is named). A row of -inf is NaN.

    With ``where=`` the excluded are 0.
    """
    x = _float(v)
    if not ranges and axis is None and x.shape:
        axis = -1
    top = max(x, *ranges, axis=axis, keepdims=True, where=where)
    e = TABLE["exp"](TABLE["subtract"](x, top))
    out = divide(e, sum(e, *ranges, axis=axis, keepdims=True, where=where))
    return out if where is None else _select(where, out, 0.0)


def _float(v: Any) -> Tensor:
    x = lift(v)
    return x if x.dtype.is_float else astype(x, dt.float32)


_select = where  # the name is taken by the parameter inside


def matmul(a: Any, b: Any, /) -> Tensor:
    """The matrix product over the last two axes, the others broadcast; a 1-D operand is a row (left) or column.

    Shapes: (…, M, K) @ (…, K, N) -> (…, M, N). Half types accumulate in float32. Errors: ``ShapeError``.
    """
    x, y = lift(a), lift(b)
    if not x.shape or not y.shape:
        raise ShapeError(
            "matmul needs closed axes on both sides", help="with ranges write rk.sum(a[i, k] * b[k, j], k)"
        )
    row, column = x.ndim == 1, y.ndim == 1
    x = expand_dims(x, axis=0) if row else x
    y = expand_dims(y, axis=1) if column else y
    if x.shape[-1] != y.shape[-2]:
        raise ShapeError(
            f"matmul of {lift(a).shape} and {lift(b).shape}: the inner axes are {x.shape[-1]} and {y.shape[-2]}",
            help="transpose one with x.mT if that is what is meant",
        )
    dtype, _ = result_dtype((x, y))
    nodes, _ = together(expand_dims(x, axis=-2), expand_dims(matrix_transpose(y), axis=-3), dtype=dtype)
    product = alu(Op.AND if dtype is dt.bool_ else Op.MUL, *map(_wide, nodes))
    opened, ranges = open_axes(product, (product.ndim - 1,))
    op = "or" if dtype is dt.bool_ else "add"
    out = made(cast(UOp(Op.REDUCE, opened.dtype, (opened, *ranges), op), dtype))
    if row:
        out = reshape(out, (*out.shape[:-2], out.shape[-1]))
    return reshape(out, out.shape[:-1]) if column else out


def vecdot(a: Any, b: Any, /, *, axis: int = -1) -> Tensor:
    """The sum of products along an axis, the others broadcast."""
    return sum(TABLE["multiply"](a, b), axis=axis)


def outer(a: Any, b: Any, /) -> Tensor:
    """All products of the elements of two 1-D values."""
    return TABLE["multiply"](expand_dims(lift(a), axis=1), expand_dims(lift(b), axis=0))


def tensordot(a: Any, b: Any, /, *, axes: int | tuple[tuple[int, ...], tuple[int, ...]] = 2) -> Tensor:
    """The sum of products over pairs of axes: the last ``axes`` of a with the first of b, or named pairs."""
    x, y = lift(a), lift(b)
    if isinstance(axes, int):
        axes = (tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes)))
    left, right = normal_axes(tuple(axes[0]), x.ndim), normal_axes(tuple(axes[1]), y.ndim)
    if [x.shape[m] for m in left] != [y.shape[n] for n in right]:
        raise ShapeError(f"tensordot of {x.shape} and {y.shape} over axes {axes}: the sizes differ")
    from rangekit.lang.movement import permute_dims

    keep_x = [n for n in range(x.ndim) if n not in left]
    keep_y = [n for n in range(y.ndim) if n not in right]
    rows = reshape(permute_dims(x, (*keep_x, *left)), (math.prod(x.shape[n] for n in keep_x), -1))
    columns = reshape(permute_dims(y, (*right, *keep_y)), (rows.shape[1], math.prod(y.shape[n] for n in keep_y)))
    return reshape(matmul(rows, columns), (*(x.shape[n] for n in keep_x), *(y.shape[n] for n in keep_y)))


method("__matmul__")(lambda self, other: matmul(self, other))
method("__rmatmul__")(lambda self, other: matmul(other, self))
for _fn in (sum, prod, max, min, any, all, mean, argmax, argmin, softmax, logsumexp):
    method(_fn.__name__)(_fn)
