"""Expressions of floats written as formulas, and the two formats they are written for.

A ``Value`` is a node with operators; Python numbers beside it become constants of its type. Nothing is folded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rangekit.ir import dtype as dt
from rangekit.ir.approx_tables import PARTS
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, cast, const


@dataclass(frozen=True)
class Value:
    """A node in a formula."""

    node: UOp

    def _with(self, other: Operand) -> UOp:
        return other.node if isinstance(other, Value) else const(other, self.node.dtype)

    def _op(self, op: Op, other: Operand) -> Value:
        return Value(alu(op, self.node, self._with(other)))

    def _flipped(self, op: Op, other: Operand) -> Value:
        return Value(alu(op, self._with(other), self.node))

    def __add__(self, other: Operand) -> Value:
        return self._op(Op.ADD, other)

    def __sub__(self, other: Operand) -> Value:
        return self._op(Op.SUB, other)

    def __rsub__(self, other: Operand) -> Value:
        return self._flipped(Op.SUB, other)

    def __mul__(self, other: Operand) -> Value:
        return self._op(Op.MUL, other)

    def __truediv__(self, other: Operand) -> Value:
        return self._op(Op.DIV, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self._flipped(Op.DIV, other)

    def __and__(self, other: Operand) -> Value:
        return self._op(Op.AND, other)

    def __or__(self, other: Operand) -> Value:
        return self._op(Op.OR, other)

    def __xor__(self, other: Operand) -> Value:
        return self._op(Op.XOR, other)

    def __lshift__(self, other: Operand) -> Value:
        return self._op(Op.SHL, other)

    def __rshift__(self, other: Operand) -> Value:
        return self._op(Op.SHR, other)

    def __neg__(self) -> Value:
        return Value(alu(Op.NEG, self.node))

    def __abs__(self) -> Value:
        return Value(alu(Op.ABS, self.node))

    def __lt__(self, other: Operand) -> Value:
        return self._op(Op.LT, other)

    def __le__(self, other: Operand) -> Value:
        return self._op(Op.LE, other)

    def eq(self, other: Operand) -> Value:
        """Equal, by IEEE."""
        return self._op(Op.EQ, other)

    def ne(self, other: Operand) -> Value:
        """Not equal, by IEEE."""
        return self._op(Op.NE, other)

    def round(self) -> Value:
        """To the nearest whole number, halves to even."""
        return Value(alu(Op.ROUND, self.node))

    def to(self, dtype: DType) -> Value:
        """In another type."""
        return Value(cast(self.node, dtype))

    def bits(self, dtype: DType) -> Value:
        """The same bits in another type."""
        return Value(UOp(Op.BITCAST, dtype, (self.node,)))


Operand = Value | float


def fma(a: Value, b: Operand, c: Operand) -> Value:
    """a * b + c, rounded once."""
    return Value(alu(Op.FMA, a.node, a._with(b), a._with(c)))


def constant(value: float, dtype: DType) -> Value:
    """A constant."""
    return Value(const(value, dtype))


def where(condition: Value, yes: Operand, no: Operand) -> Value:
    """One of two values, of which one at least is no number."""
    side = yes if isinstance(yes, Value) else no
    assert isinstance(side, Value)
    return Value(alu(Op.WHERE, condition.node, side._with(yes), side._with(no)))


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule; lowest power first."""
    value: Operand = coefficients[-1]
    for c in coefficients[-2::-1]:
        value = fma(x, value, c)
    assert isinstance(value, Value)
    return value


def at_most(x: Value, limit: float) -> Value:
    """The lesser, or x where it is NaN: one instruction, unlike MIN."""
    return where(Value(alu(Op.LT, const(limit, x.node.dtype), x.node)), limit, x)


def at_least(x: Value, limit: float) -> Value:
    """The greater, or x where it is NaN."""
    return where(x < limit, limit, x)


@dataclass(frozen=True)
class Format:
    """A float type as formulas need it: its fraction bits, exponent bias, and an integer as wide (unsigned: machines
    lack arithmetic shifts of 64 bits).
    """

    dtype: DType
    integer: DType
    fraction: int
    bias: int

    @property
    def magic(self) -> float:
        """Added to a float below 2**(fraction - 1), it leaves the nearest integer in the lowest bits."""
        return 1.5 * 2.0**self.fraction

    @property
    def one(self) -> int:
        """The bits of 1.0."""
        return self.bias << self.fraction

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.dtype.bits - 1)

    @property
    def tiny(self) -> float:
        """The least normal number."""
        return 2.0 ** (1 - self.bias)

    def pick(self, single: float, double: float) -> float:
        """One of two constants."""
        return single if self.dtype is dt.float32 else double

    def signed(self, value: Value, like: Value) -> Value:
        """A value whose sign bit is 0, with the sign of another."""
        sign = like.bits(self.integer) & self.sign
        return (value.bits(self.integer) | sign).bits(self.dtype)

    def parts(self, name: str, count: int) -> tuple[float, ...]:
        """A constant as a sum of floats, each what those before it leave."""
        return PARTS[self.dtype][name][:count]


SINGLE = Format(dt.float32, dt.uint32, 23, 127)
DOUBLE = Format(dt.float64, dt.uint64, 52, 1023)
FORMATS = {dt.float32: SINGLE, dt.float64: DOUBLE}
