"""Arithmetic on integer and bool constants: what an op of constants is, total and wrapped to its type.

Floats are not folded here: their rounding belongs to ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import COMPARE, Op
from rangekit.ir.uop import UOp, const

_MAX_SHIFT = 4096  # an index is unbounded; a shift beyond this is no program's index

_INT: dict[Op, Callable[..., int | bool]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.IDIV: lambda a, b: a // b if b else 0,
    Op.MOD: lambda a, b: a % b if b else 0,
    Op.MAX: max,
    Op.MIN: min,
    Op.AND: lambda a, b: a & b,
    Op.OR: lambda a, b: a | b,
    Op.XOR: lambda a, b: a ^ b,
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.EQ: lambda a, b: a == b,
    Op.NE: lambda a, b: a != b,
    Op.NEG: lambda a: -a,
    Op.ABS: abs,
}


def fold(op: Op, *args: UOp) -> UOp | None:
    """The constant that ``op`` of integer or bool constants is; None where it is not folded."""
    x = args[0].dtype
    if x.kind not in "biux" or any(a.op is not Op.CONST for a in args):
        return None
    values = [a.arg for a in args]
    if op is Op.NOT:
        return const(not values[0] if x is dt.bool_ else ~values[0], x)
    if op in (Op.SHL, Op.SHR):
        shifted = _shift(op, values[0], values[1], x)
        return None if shifted is None else const(shifted, x)
    how = _INT.get(op)
    return None if how is None else const(how(*values), dt.bool_ if op in COMPARE else x)


def fold_cast(x: UOp, dtype: DType) -> UOp | None:
    """An integer or bool constant in another type; None where the new type would have to round it."""
    value: Any = x.arg
    if dtype.kind == "f":
        there = const(value, dtype)
        return there if there.arg == value else None
    return const(value, dtype) if dtype.kind in "biux" else None


def _shift(op: Op, value: int, by: int, dtype: DType) -> int | None:
    if by < 0 or (dtype is dt.index and by > _MAX_SHIFT):
        return None
    if dtype is not dt.index and by >= dtype.bits:
        return 0 if op is Op.SHL or value >= 0 else -1
    return value << by if op is Op.SHL else value >> by
