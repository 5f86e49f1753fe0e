"""Functions that only move closed axes: no element is computed, the lowering turns them into index arithmetic."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from rangekit.errors import ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim
from rangekit.ir.ops import Op
from rangekit.ir.uop import Storage, UOp, alu, cast, const, idx, new_range
from rangekit.lang.ranges import normal_axes
from rangekit.lang.tensor import (
    Tensor,
    broadcast_node,
    broadcast_shapes,
    converted,
    lift,
    made,
    method,
    result_dtype,
)

Shape = int | Sequence[int]


def as_shape(shape: Any) -> tuple[int, ...]:
    """Sizes as a tuple of ints >= 0 (-1 kept for reshape); ``ShapeError`` otherwise."""
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    try:
        return tuple(s if isinstance(s, Dim) else operator.index(s) for s in sizes)
    except TypeError:
        raise ShapeError(f"a shape holds ints, not {shape!r}") from None


def _moved(op: Op, x: Tensor, arg: Any, same: bool) -> Tensor:
    return x if same else made(UOp(op, x.node.dtype, (x.node,), arg), x.weak)


def reshape(x: Any, shape: Shape, /, *, copy: bool | None = None) -> Tensor:
    """The elements in row-major order under other axes; one size may be -1. ``ShapeError`` if the counts differ."""
    x, wanted = lift(x), as_shape(shape)
    if wanted.count(-1) == 1:
        known = math.prod(s for s in wanted if s != -1)
        wanted = tuple((_rest(x, wanted) if known else 0) if s == -1 else s for s in wanted)
    if any(s < 0 for s in wanted) or math.prod(wanted) != x.size:
        raise ShapeError(
            f"cannot reshape {x.shape}, {x.size} elements, to {as_shape(shape)}",
            help=f"write sizes whose product is {x.size}; one of them may be -1",
        )
    return _moved(Op.RESHAPE, x, wanted, wanted == x.shape)


def _rest(x: Tensor, wanted: tuple[int, ...]) -> int:
    """What is left of the elements for the axis of size -1: sizes that both shapes have are left out of it."""
    have = list(x.shape)
    for s in wanted:
        if s in have:
            have.remove(s)
    missing = math.prod(s for s in wanted if s != -1 and s not in x.shape)
    return math.prod(have) // missing


def permute_dims(x: Any, /, axes: Sequence[int]) -> Tensor:
    """The axes in another order: axis ``n`` of the result is axis ``axes[n]`` of x."""
    x = lift(x)
    order = normal_axes(tuple(axes), x.ndim)
    if len(order) != x.ndim:
        raise ShapeError(f"permute_dims needs all {x.ndim} axes, got {tuple(axes)}")
    return _moved(Op.PERMUTE, x, order, order == tuple(range(x.ndim)))


def matrix_transpose(x: Any, /) -> Tensor:
    """The last two axes swapped; ``ShapeError`` with fewer than two."""
    x = lift(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose needs two axes, shape is {x.shape}")
    return permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def moveaxis(x: Any, source: int | tuple[int, ...], destination: int | tuple[int, ...], /) -> Tensor:
    """Axes moved to other places, the rest in order."""
    x = lift(x)
    source, destination = normal_axes(source, x.ndim), normal_axes(destination, x.ndim)
    if len(source) != len(destination):
        raise ShapeError(f"moveaxis of {len(source)} axes to {len(destination)} places")
    order = [a for a in range(x.ndim) if a not in source]
    for place, axis in sorted(zip(destination, source, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, order)


def expand_dims(x: Any, /, *, axis: int | tuple[int, ...] = 0) -> Tensor:
    """New axes of size 1 at those places of the result."""
    x = lift(x)
    places = normal_axes(axis, x.ndim + (len(axis) if isinstance(axis, tuple) else 1))
    rest = iter(x.shape)
    return reshape(x, tuple(1 if n in places else next(rest) for n in range(x.ndim + len(places))))


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    """Axes of size 1 dropped; ``ShapeError`` if one has another size."""
    x = lift(x)
    gone = normal_axes(axis, x.ndim)
    if any(x.shape[a] != 1 for a in gone):
        raise ShapeError(f"squeeze of axis {axis}: shape {x.shape} has another size there than 1")
    return reshape(x, tuple(s for a, s in enumerate(x.shape) if a not in gone))


def broadcast_to(x: Any, /, shape: Shape) -> Tensor:
    """x expanded to ``shape`` by NumPy's rule; ``ShapeError`` if it does not fit."""
    x, wanted = lift(x), as_shape(shape)
    if broadcast_shapes(x.shape, wanted) != wanted:
        raise ShapeError(f"shape {x.shape} does not broadcast to {wanted}")
    return x if x.shape == wanted else made(broadcast_node(x.node, wanted), x.weak)


def broadcast_arrays(*arrays: Any) -> list[Tensor]:
    """All of them expanded to their common shape."""
    values = [lift(a) for a in arrays]
    shape = broadcast_shapes(*(v.shape for v in values))
    return [broadcast_to(v, shape) for v in values]


def flip(x: Any, /, *, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Elements in reverse order along the axes (None: all)."""
    x = lift(x)
    axes = tuple(sorted(normal_axes(axis, x.ndim)))
    return _moved(Op.FLIP, x, axes, not axes)


def pad(x: Any, width: int | Sequence[Any], /, value: Any = 0) -> Tensor:
    """``value`` added around the axes: ``width`` is one int, (before, after), or one pair an axis, as NumPy's."""
    t = lift(x)
    pairs: Any = width
    if isinstance(width, int):
        pairs = ((width, width),) * t.ndim
    elif len(width) == 2 and all(isinstance(w, int) for w in width):
        pairs = (tuple(width),) * t.ndim
    widths = tuple(as_shape(tuple(p)) for p in pairs)
    if len(widths) != t.ndim or any(len(w) != 2 or min(w) < 0 for w in widths):
        raise ShapeError(f"pad widths {width!r} do not fit shape {t.shape}: one (before, after) >= 0 an axis")
    if all(w == (0, 0) for w in widths):
        return t
    padded = UOp(Op.PAD, t.node.dtype, (t.node,), widths)
    fill = lift(value)
    if fill.node.op is Op.CONST and repr(fill.node.arg) in ("0", "0.0", "False"):
        return made(padded, t.weak)
    mask = UOp(Op.PAD, dt.bool_, (broadcast_node(const(True, dt.bool_), t.shape),), widths)
    return made(alu(Op.WHERE, mask, padded, converted(fill, t.node.dtype)), t.weak)


def roll(x: Any, /, shift: int | tuple[int, ...], *, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Elements moved along axes, those that leave one end entering at the other."""
    t = lift(x)
    if axis is None:
        return reshape(roll(reshape(t, (t.size,)), shift, axis=0), t.shape)
    axes = normal_axes(axis, t.ndim)
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(axes)
    for a, by in zip(axes, shifts, strict=True):
        cut = -by % t.shape[a] if t.shape[a] else 0
        if cut:
            head, tail = (slice_axis(t, a, lo, hi - lo) for lo, hi in ((cut, t.shape[a]), (0, cut)))
            t = concat((head, tail), axis=a)
    return t


def slice_axis(x: Tensor, axis: int, start: int, size: int, step: int = 1) -> Tensor:
    """Elements ``start, start + step, ...`` of one axis, ``size`` of them."""
    cuts = tuple((start, size, step) if a == axis else (0, s, 1) for a, s in enumerate(x.shape))
    return _moved(Op.SHRINK, x, cuts, (start, size, step) == (0, x.shape[axis], 1))


def iota(size: int) -> UOp:
    """0 .. size-1 along one closed axis, int64."""
    r = new_range(size)
    return UOp(Op.BUFFERIZE, dt.int64, (cast(r, dt.int64), r), Storage())


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Tensor:
    """The arrays one after another along an axis (None: all flattened first); ``ShapeError`` if the rest differs."""
    values = [lift(a) for a in arrays]
    if not values:
        raise ShapeError("concat needs at least one array")
    if axis is None:
        values, axis = [reshape(v, (v.size,)) for v in values], 0
    (axis,) = normal_axes(axis, values[0].ndim)
    rest = {v.shape[:axis] + v.shape[axis + 1 :] for v in values}
    if len(rest) > 1 or len({v.ndim for v in values}) > 1:
        raise ShapeError(
            f"concat along axis {axis} of shapes {', '.join(str(v.shape) for v in values)}",
            help="all sizes but that axis' must be equal; rk.stack makes a new axis",
        )
    dtype, weak = result_dtype(values)
    total = sum(v.shape[axis] for v in values)
    place = [1] * values[0].ndim
    place[axis] = total
    at = UOp(Op.RESHAPE, dt.int64, (iota(total),), tuple(place))
    out: UOp | None = None
    end = total
    for v in reversed(values):
        start = end - v.shape[axis]
        widths = tuple((start, total - end) if a == axis else (0, 0) for a in range(v.ndim))
        piece = UOp(Op.PAD, dtype, (converted(v, dtype),), widths)
        here = broadcast_node(alu(Op.LT, at, cast(idx(end), dt.int64)), piece.shape)
        out = piece if out is None else alu(Op.WHERE, here, piece, out)
        end = start
    assert out is not None
    return made(out, weak)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    """The arrays, of one shape, along a new axis."""
    return concat(
        [expand_dims(lift(a), axis=axis) for a in arrays], axis=normal_axes(axis, lift(arrays[0]).ndim + 1)[0]
    )


def repeat(x: Any, repeats: int, /, *, axis: int | None = None) -> Tensor:
    """Each element ``repeats`` times along an axis (None: of the flattened array)."""
    t = lift(x)
    if axis is None:
        t, axis = reshape(t, (t.size,)), 0
    (axis,) = normal_axes(axis, t.ndim)
    wide = expand_dims(t, axis=axis + 1)
    wide = broadcast_to(wide, (*t.shape[: axis + 1], repeats, *t.shape[axis + 1 :]))
    return reshape(wide, (*t.shape[:axis], t.shape[axis] * repeats, *t.shape[axis + 1 :]))


def tile(x: Any, repetitions: tuple[int, ...], /) -> Tensor:
    """The whole array repeated along each axis."""
    t = lift(x)
    times = (1,) * (t.ndim - len(repetitions)) + tuple(repetitions)
    t = reshape(t, (1,) * (len(times) - t.ndim) + t.shape)
    for axis, n in enumerate(times):
        wide = broadcast_to(expand_dims(t, axis=axis), (*t.shape[:axis], n, *t.shape[axis:]))
        t = reshape(wide, (*t.shape[:axis], n * t.shape[axis], *t.shape[axis + 1 :]))
    return t


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """One Tensor per element of an axis."""
    x = lift(x)
    (axis,) = normal_axes(axis, x.ndim)
    return tuple(squeeze(slice_axis(x, axis, n, 1), axis) for n in range(x.shape[axis]))


def triangle(x: Any, k: int, lower: bool) -> Tensor:
    """The elements on one side of a diagonal of the last two axes, the rest 0."""
    x = lift(x)
    if x.ndim < 2:
        raise ShapeError(f"a triangle needs two axes, shape is {x.shape}")
    row = UOp(Op.RESHAPE, dt.int64, (iota(x.shape[-2]),), (x.shape[-2], 1))
    col = UOp(Op.RESHAPE, dt.int64, (iota(x.shape[-1]),), (1, x.shape[-1]))
    shape = x.shape[-2:]
    edge = broadcast_node(alu(Op.ADD, row, const(k, dt.int64)), shape)
    wide = broadcast_node(col, shape)
    keep = alu(Op.LE, wide, edge) if lower else alu(Op.LE, edge, wide)
    return made(alu(Op.WHERE, broadcast_node(keep, x.shape), x.node, const(0, x.node.dtype)), x.weak)


def tril(x: Any, /, *, k: int = 0) -> Tensor:
    """The lower triangle: elements with column <= row + k, the rest 0."""
    return triangle(x, k, lower=True)


def triu(x: Any, /, *, k: int = 0) -> Tensor:
    """The upper triangle: elements with column >= row + k, the rest 0."""
    return triangle(x, k, lower=False)


def _reshape_method(self: Tensor, *shape: Any) -> Tensor:
    return reshape(self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)


def _permute_method(self: Tensor, *axes: Any) -> Tensor:
    return permute_dims(self, axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes)


method("reshape")(_reshape_method)
method("permute_dims")(_permute_method)
method("T")(
    property(lambda self: matrix_transpose(self) if self.ndim == 2 else permute_dims(self, range(self.ndim)[::-1]))
)
method("mT")(property(matrix_transpose))
for _fn in (flip, squeeze, expand_dims, pad, broadcast_to):
    method(_fn.__name__)(_fn)
