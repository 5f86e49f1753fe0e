"""The scalar table: what each elementwise op means in each dtype, over NumPy.

Every operation is total: no input raises or traps, and every result is in the op's own dtype. The choices, where
IEEE 754 and wrapping integers leave any:

- ints wrap. ``x // 0`` and ``x % 0`` are 0; ``INT_MIN // -1`` wraps, ``x % -1`` is 0; both round down otherwise.
- float ``//`` and ``%`` are Python's ``divmod`` (so ``inf // 1`` is NaN); by zero they are ``x / 0`` and NaN.
- a shift count outside ``0 <= n < bits`` counts as past the width: 0, or the sign of ``x`` for a signed ``>>``.
- ``max`` and ``min`` are IEEE 754-2019 maximum and minimum: NaN wins, and -0 < +0.
- an integer ``x ** n`` wraps; for ``n < 0`` it is 0, except for ``x`` of 1 and -1.
- float to int truncates and saturates, NaN gives 0; to bool it is ``x != 0``; int to a narrower int wraps.
- a half type is computed in float32 and rounded to its own type; float64 to a half type rounds once, an integer to
  one by way of float32. A bitcast to bool is true where the byte is not 0.
- ``index`` is int64 here. Where a caller keeps indices as Python ints, ``EXACT`` is the same table without a width.

The functions of ``meaning`` take arrays of any shape, or scalars, of exactly their source dtypes. They may raise
NumPy's floating point warnings, which ``quiet`` keeps silent; ``apply`` is the same thing wrapped.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.fma import fma
from rangekit.ir.ops import FLOAT_BINARY, MATH, ROUNDING, TERNARY, TESTS, Op

Array = np.ndarray[Any, np.dtype[Any]]
Meaning = Callable[..., Any]  # of arrays or NumPy scalars, to one


def quiet() -> np.errstate:
    """The context in which the functions of ``meaning`` run: NumPy's warnings are values here, not events."""
    return np.errstate(all="ignore")


def apply(op: Op, dtype: DType, args: Sequence[Any], *, src_dtypes: Sequence[DType] | None = None) -> Array:
    """``op`` to ``dtype`` on arrays, NumPy scalars or Python numbers, which broadcast together.

    ``src_dtypes`` says what the arguments are; without it their own NumPy dtypes do. Never raises or warns.

    >>> from rangekit.ir.dtype import int32
    >>> apply(Op.IDIV, int32, (np.int32(7), np.int32(0)))
    array(0, dtype=int32)
    """
    if src_dtypes is None:
        found = [dt.from_numpy(np.asarray(a).dtype) for a in args]
        src_dtypes = [d for d in found if d is not None]
    typed = [np.asarray(a, d.numpy) for a, d in zip(args, src_dtypes, strict=True)]
    with quiet():
        return np.asarray(meaning(op, dtype, tuple(src_dtypes))(*typed))


@cache
def meaning(op: Op, dtype: DType, src: tuple[DType, ...]) -> Meaning:
    """The function that ``op`` from ``src`` to ``dtype`` is; ``KeyError`` where its row in the spec allows none."""
    if op is Op.CAST:
        return _cast(src[0], dtype)
    if op is Op.BITCAST:
        return _bitcast(dtype)
    if op in (Op.WHERE, Op.IN_RANGE):
        return _SAME[op]
    if src[0].is_half:
        wide, half = meaning(op, dt.float32, (dt.float32,) * len(src)), dtype.numpy
        return lambda *args: np.asarray(wide(*(np.asarray(a, np.float32) for a in args))).astype(half)
    if op in _SHIFT:
        return _SHIFT[op](src[0].bits)
    return _SAME[op] if op in _SAME else (_FLOAT if src[0].is_float else _INT)[op]


# Ints


def _int_floordiv(x: Any, y: Any) -> Any:
    zero, minus = y == 0, y == -1
    quotient = np.floor_divide(x, np.where(zero | minus, np.ones_like(y), y))
    return np.where(zero, np.zeros_like(x), np.where(minus, -x, quotient))


def _int_mod(x: Any, y: Any) -> Any:
    trivial = (y == 0) | (y == -1)
    return np.where(trivial, np.zeros_like(x), np.remainder(x, np.where(trivial, np.ones_like(y), y)))


def _int_pow(x: Any, n: Any) -> Any:
    power = np.power(x, np.maximum(n, np.zeros_like(n)))
    unit = np.where(n % 2 == 0, x * x, x)  # x ** n for an x of 1 or -1
    return np.where(n >= 0, power, np.where((x == 1) | (x == -1), unit, np.zeros_like(x)))


def _shl(bits: int) -> Meaning:
    def shl(x: Any, n: Any) -> Any:
        past = (n < 0) | (n >= bits)
        return np.where(past, np.zeros_like(x), np.left_shift(x, np.where(past, np.zeros_like(n), n)))

    return shl


def _shr(bits: int) -> Meaning:
    def shr(x: Any, n: Any) -> Any:
        past = (n < 0) | (n >= bits)
        sign = np.where(x < 0, ~np.zeros_like(x), np.zeros_like(x))
        return np.where(past, sign, np.right_shift(x, np.where(past, np.zeros_like(n), n)))

    return shr


# Floats


def _float_max(x: Any, y: Any) -> Any:
    return np.where(x == y, np.where(np.signbit(x), y, x), np.maximum(x, y))


def _float_min(x: Any, y: Any) -> Any:
    return np.where(x == y, np.where(np.signbit(x), x, y), np.minimum(x, y))


def _float_pow(x: Any, y: Any) -> Any:
    # NumPy turns a 0-d exponent of 0.5 into a square root, which is NaN at -inf where the power is inf.
    wide = np.broadcast_arrays(np.atleast_1d(x), np.atleast_1d(y))
    return np.power(*wide).reshape(np.broadcast_shapes(np.shape(x), np.shape(y)))


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


# fmt: off
_SAME: dict[Op, Meaning] = {           # one function for every dtype
    Op.WHERE: np.where,                Op.IN_RANGE: lambda x, lo, hi: x,
    Op.ADD: operator.add,              Op.SUB: operator.sub,              Op.MUL: operator.mul,
    Op.NEG: operator.neg,              Op.ABS: operator.abs,              Op.NOT: np.invert,
    Op.AND: operator.and_,             Op.OR: operator.or_,               Op.XOR: operator.xor,
    Op.LT: operator.lt,                Op.LE: operator.le,
    Op.EQ: operator.eq,                Op.NE: operator.ne,
}
_INT: dict[Op, Meaning] = {
    Op.IDIV: _int_floordiv,            Op.MOD: _int_mod,                  Op.POW: _int_pow,
    Op.MAX: np.maximum,                Op.MIN: np.minimum,
}
_SHIFT: dict[Op, Callable[[int], Meaning]] = {Op.SHL: _shl, Op.SHR: _shr}
_FLOAT: dict[Op, Meaning] = {
    Op.IDIV: np.floor_divide,          Op.MOD: np.remainder,              Op.POW: _float_pow,
    Op.MAX: _float_max,                Op.MIN: _float_min,
    Op.DIV: operator.truediv,          Op.ATAN2: np.arctan2,
    Op.FMA: fma,
    Op.ISNAN: np.isnan,                Op.ISFINITE: np.isfinite,
    Op.FLOOR: np.floor,  Op.CEIL: np.ceil,  Op.TRUNC: np.trunc,  Op.ROUND: np.rint,
    Op.SQRT: np.sqrt,    Op.EXP: np.exp,    Op.EXPM1: np.expm1,  Op.ERF: _erf,
    Op.LOG: np.log,      Op.LOG1P: np.log1p,  Op.LOG2: np.log2,  Op.LOG10: np.log10,
    Op.SIN: np.sin,      Op.COS: np.cos,      Op.TAN: np.tan,
    Op.ASIN: np.arcsin,  Op.ACOS: np.arccos,  Op.ATAN: np.arctan,
    Op.SINH: np.sinh,    Op.COSH: np.cosh,    Op.TANH: np.tanh,
    Op.ASINH: np.arcsinh, Op.ACOSH: np.arccosh, Op.ATANH: np.arctanh,
}
# fmt: on
assert _FLOAT.keys() >= MATH | ROUNDING | TESTS | FLOAT_BINARY | TERNARY


# Conversions


def _cast(src: DType, dst: DType) -> Meaning:
    to = dst.numpy
    if dst.kind == "b":
        return lambda x: np.asarray(x) != 0
    if src.is_float and dst.is_int:
        return _float_to_int(dst)
    if src is dt.float64 and dst is dt.bfloat16:
        return lambda x: _round_to_odd(np.asarray(x)).astype(to)
    if dst.is_half:
        return lambda x: np.asarray(x).astype(np.float64 if src is dt.float64 else np.float32).astype(to)
    return lambda x: np.asarray(x).astype(to)


def _float_to_int(dst: DType) -> Meaning:
    to = dst.numpy
    info = np.iinfo(to)
    least, past = float(info.min), 2.0 * float(info.max // 2 + 1)  # both are exact; info.max need not be

    def cast(x: Any) -> Array:
        whole = np.trunc(np.asarray(x).astype(np.float64))
        inside = (whole >= least) & (whole < past)  # false for NaN
        fits = np.where(inside, whole, 0.0).astype(to)
        return np.where(whole >= past, to.type(info.max), np.where(whole < least, to.type(info.min), fits))

    return cast


def _round_to_odd(x: Array) -> Array:
    """float64 to float32 such that a second rounding, to nearest in fewer bits, is as if there were only one.

    Source: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding
    to odd", IEEE Transactions on Computers 57(4), 2008.
    """
    near = x.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    toward_zero = bits - (np.abs(back) > np.abs(x)).astype(np.uint32)
    odd = np.asarray(np.where((back == x) | np.isnan(x), bits, toward_zero | np.uint32(1)))
    return odd.view(np.float32)


def _bitcast(dst: DType) -> Meaning:
    if dst.kind == "b":
        return lambda x: np.asarray(x).view(np.uint8) != 0
    to = dst.numpy
    return lambda x: np.asarray(x).view(to)


# Indices as Python ints


def _exact_floordiv(x: int, y: int) -> int:
    return x // y if y else 0


def _exact_mod(x: int, y: int) -> int:
    return x % y if y else 0


# fmt: off
EXACT: dict[Op, Callable[..., int]] = {   # the index dtype, unbounded: Python ints to a Python int or bool
    Op.ADD: operator.add, Op.SUB: operator.sub, Op.MUL: operator.mul, Op.NEG: operator.neg, Op.ABS: operator.abs,
    Op.IDIV: _exact_floordiv, Op.MOD: _exact_mod, Op.MAX: max, Op.MIN: min, Op.IN_RANGE: lambda x, lo, hi: x,
    Op.AND: operator.and_, Op.OR: operator.or_, Op.XOR: operator.xor, Op.NOT: operator.invert,
    Op.LT: operator.lt, Op.LE: operator.le, Op.EQ: operator.eq, Op.NE: operator.ne,
}
# fmt: on
