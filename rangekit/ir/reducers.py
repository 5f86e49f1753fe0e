"""The reductions: for each an identity and a combine, both written in the IR.

A reducer over tuples (``argmax``) has one identity and one combined value per component. All of them are
associative and commutative up to rounding, so any order and any split is legal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, const

Values = tuple[UOp, ...]


@dataclass(frozen=True)
class Reducer:
    """``identity(dtypes)`` is neutral for ``combine(a, b)``; ``arity`` values travel together."""

    name: str
    arity: int
    identity: Callable[[tuple[DType, ...]], Values]
    combine: Callable[[Values, Values], Values]
    symbol: str | None = None  # how an update prints: "+" in acc += v; None: a call


def _one(name: str, op: Op, identity: Callable[[DType], object], symbol: str | None = None) -> Reducer:
    return Reducer(
        name,
        1,
        lambda dtypes: (const(identity(dtypes[0]), dtypes[0]),),
        lambda a, b: (alu(op, a[0], b[0]),),
        symbol,
    )


def _arg_extreme(name: str, best: Op, worst: Callable[[DType], object]) -> Reducer:
    """(value, index) compared lexicographically: the better value, NaN best of all, then the smaller index."""

    def identity(dtypes: tuple[DType, ...]) -> Values:
        # The largest index, so that an element equal to the identity value (-inf) still wins.
        return const(worst(dtypes[0]), dtypes[0]), const(dt.int64.max, dt.int64)

    def combine(a: Values, b: Values) -> Values:
        x, i, y, j = a[0], a[1], b[0], b[1]
        better = alu(Op.LT, y, x) if best is Op.MAX else alu(Op.LT, x, y)  # a beats b by value
        tie = alu(Op.EQ, x, y)
        if x.dtype.is_float:
            x_nan, y_nan = alu(Op.ISNAN, x), alu(Op.ISNAN, y)
            better = alu(Op.OR, better, alu(Op.AND, x_nan, alu(Op.NOT, y_nan)))
            tie = alu(Op.OR, tie, alu(Op.AND, x_nan, y_nan))
        take_a = alu(Op.OR, better, alu(Op.AND, tie, alu(Op.LT, i, j)))
        return alu(Op.WHERE, take_a, x, y), alu(Op.WHERE, take_a, i, j)

    return Reducer(name, 2, identity, combine)


REDUCERS: dict[str, Reducer] = {
    r.name: r
    for r in (
        _one("add", Op.ADD, lambda d: 0, "+"),
        _one("mul", Op.MUL, lambda d: 1, "*"),
        _one("max", Op.MAX, lambda d: d.min),
        _one("min", Op.MIN, lambda d: d.max),
        _one("and", Op.AND, lambda d: -1 if d.kind == "i" else d.max, "&"),
        _one("or", Op.OR, lambda d: 0, "|"),
        _arg_extreme("argmax", Op.MAX, lambda d: d.min),
        _arg_extreme("argmin", Op.MIN, lambda d: d.max),
    )
}
