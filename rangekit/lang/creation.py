"""Tensors from nothing, and from other libraries' arrays. Names and defaults of the Python array API standard."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rangekit.errors import ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import alu, cast, const, idx
from rangekit.lang.movement import Shape, as_shape, broadcast_to, expand_dims, iota, reshape
from rangekit.lang.tensor import Tensor, as_dtype, broadcast_node, from_array, lift, made


def asarray(x: Any, /, *, dtype: Any = None, copy: bool | None = None) -> Tensor:
    """A Tensor of an array, a number or nested sequences; shares an array's memory where it can.

    Python floats become float32, ints int64; NumPy arrays keep their dtype. Errors: ``DtypeError``.
    """
    if isinstance(x, Tensor):
        return x if dtype is None else made(cast(x.node, as_dtype(dtype)))
    if not isinstance(x, (np.ndarray, np.generic)) and not hasattr(x, "__dlpack__"):
        array = np.asarray(x)
        if not hasattr(x, "__array_interface__") and array.dtype == np.float64:
            array = array.astype(np.float32)
    else:
        array = x if isinstance(x, np.ndarray) else np.asarray(x)
    if dtype is not None:
        array = array.astype(as_dtype(dtype).numpy, copy=False)
    return from_array(array.copy() if copy else array)


def from_dlpack(x: Any, /) -> Tensor:
    """A Tensor over the memory of an object with ``__dlpack__``."""
    return from_array(np.from_dlpack(x))


def full(shape: Shape, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """``fill_value`` everywhere; dtype from the value by default."""
    value = lift(fill_value)
    wanted = as_dtype(dtype) if dtype is not None else value.dtype
    node = const(value.node.arg, wanted) if value.node.op is Op.CONST else cast(value.node, wanted)
    return made(broadcast_node(node, as_shape(shape)))


def zeros(shape: Shape, *, dtype: Any = None) -> Tensor:
    """0 everywhere; float32 by default."""
    return full(shape, 0, dtype=dtype or dt.float32)


def ones(shape: Shape, *, dtype: Any = None) -> Tensor:
    """1 everywhere; float32 by default."""
    return full(shape, 1, dtype=dtype or dt.float32)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """``fill_value`` everywhere, in the shape and dtype of x."""
    x = lift(x)
    return full(x.shape, fill_value, dtype=dtype or x.dtype)


def zeros_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """0 everywhere, in the shape and dtype of x."""
    return full_like(x, 0, dtype=dtype)


def ones_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """1 everywhere, in the shape and dtype of x."""
    return full_like(x, 1, dtype=dtype)


def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop; int64 of ints, float32 of floats."""
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ShapeError("arange with step 0")
    ints = all(isinstance(v, (int, Dim)) for v in (start, stop, step))
    default = dt.int64 if ints else dt.float32
    wanted: DType = as_dtype(dtype) if dtype is not None else default
    if any(isinstance(v, Dim) for v in (start, stop)):
        if not ints or step < 0:
            raise ShapeError(f"arange({start}, {stop}, {step}) has a size that is known only at the call",
                             help="with a Dim start, stop and step are ints, the step positive")  # fmt: skip
        count = iota((stop - start + step - 1) // step)  # type: ignore[arg-type]
        first = cast(idx(start), dt.int64)  # type: ignore[arg-type]
        value = alu(Op.ADD, alu(Op.MUL, cast(count, dt.int64), const(step, dt.int64)), first)
        return made(cast(value, wanted))
    count = iota(max(0, math.ceil((stop - start) / step)))
    work = dt.float64 if wanted.is_float else dt.int64
    value = alu(Op.ADD, alu(Op.MUL, cast(count, work), const(step, work)), const(start, work))
    return made(cast(value, wanted))


def linspace(start: float, stop: float, /, num: int, *, dtype: Any = None, endpoint: bool = True) -> Tensor:
    """``num`` evenly spaced values from start to stop (without it if not ``endpoint``); float32."""
    gaps = max(1, num - 1 if endpoint else num)
    count = cast(iota(num), dt.float64)
    share = alu(Op.DIV, count, const(gaps, dt.float64))
    value = alu(Op.ADD, const(start, dt.float64), alu(Op.MUL, share, const(stop - start, dt.float64)))
    if endpoint and num > 1:
        value = alu(Op.WHERE, alu(Op.LT, count, const(gaps, dt.float64)), value, const(stop, dt.float64))
    return made(cast(value, as_dtype(dtype or dt.float32)))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None) -> Tensor:
    """1 where column = row + k, else 0; float32 by default."""
    columns = n_rows if n_cols is None else n_cols
    shape = (n_rows, columns)
    row = broadcast_node(expand_dims(Tensor(iota(n_rows)), axis=1).node, shape)
    col = broadcast_node(iota(columns), shape)
    on = alu(Op.EQ, alu(Op.ADD, row, const(k, dt.int64)), col)
    wanted = as_dtype(dtype or dt.float32)
    return made(alu(Op.WHERE, on, const(1, wanted), const(0, wanted)))


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Tensor]:
    """Coordinate arrays of 1-D coordinates; ``indexing`` "xy" swaps the first two axes, "ij" does not."""
    values = [lift(a) for a in arrays]
    axes = list(range(len(values)))
    if indexing == "xy" and len(values) > 1:
        axes[0], axes[1] = 1, 0
    shape = [0] * len(values)
    for v, a in zip(values, axes, strict=True):
        shape[a] = v.size
    out = []
    for v, a in zip(values, axes, strict=True):
        sizes = [1] * len(values)
        sizes[a] = v.size
        out.append(broadcast_to(reshape(v, tuple(sizes)), tuple(shape)))
    return out
