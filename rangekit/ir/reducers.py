"""The reductions: for each an identity and a combine, both written in the IR.

A reducer over tuples (``argmax``) has one identity and one combined value per component. Those in ``REDUCERS`` are
known by name and take values of any dtype. A ``Formula`` is one that a program wrote, for values of certain dtypes: a
REDUCE holds it as a whole, so equal ones are equal, nothing keeps a list of them, and every text and key that is made
of a graph has all of it.

All are associative up to rounding, so blocks may be combined in order; whether they may be combined in any order is
said by ``commutative``. A formula that is associative for finite numbers only says so, and nothing regroups it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import BITS, COMPARE, TESTS, Op
from rangekit.ir.uop import UOp, alu, const, toposort

Values = tuple[UOp, ...]


@dataclass(frozen=True)
class Reducer:
    """``identity(dtypes)`` is neutral for ``combine(a, b)``; ``arity`` values travel together."""

    name: str
    arity: int
    identity: Callable[[tuple[DType, ...]], Values]
    combine: Callable[[Values, Values], Values]
    symbol: str | None = None  # how an update prints: "+" in acc += v; None: a call
    commutative: bool = True
    associative: bool = True

    def exact(self, dtypes: tuple[DType, ...]) -> bool:
        """Whether no grouping of these dtypes shows: integers, extremes and logic."""
        return self.name not in ("add", "mul") or not any(d.is_float for d in dtypes)


@dataclass(frozen=True)
class Formula:
    """A reducer that a program wrote: ``neutral`` are constants, ``combined`` expressions of the variables ``states``.

    ``name`` is for people.
    """

    name: str
    neutral: Values
    combined: Values
    commutative: bool = False
    associative: bool = True

    @property
    def arity(self) -> int:
        """How many values travel together."""
        return len(self.neutral)

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The dtypes of the state."""
        return tuple(n.dtype for n in self.neutral)

    def identity(self, dtypes: tuple[DType, ...]) -> Values:
        """The neutral state. ``ValueError`` for other dtypes than its own."""
        if dtypes != self.dtypes:
            raise ValueError(f"{self.name} combines {self.dtypes}, not {dtypes}")
        return self.neutral

    def combine(self, a: Values, b: Values) -> Values:
        """The state of ``a`` followed by ``b``."""
        left, right = states(self.dtypes)
        memo = dict(zip((*left, *right), (*a, *b), strict=True))
        for n in self.order:
            if n not in memo:
                src = tuple(memo[s] for s in n.src)
                memo[n] = n if src == n.src else n.replace(src=src)
        return tuple(memo[n] for n in self.combined)

    @cached_property
    def order(self) -> tuple[UOp, ...]:
        """The nodes of the combined values, sources first."""
        return tuple(toposort(*self.combined))

    def exact(self, dtypes: tuple[DType, ...]) -> bool:
        """Whether nothing in it rounds: floats are compared and chosen from only."""
        return not any(
            n.op not in _CHOICES and (n.dtype.is_float or any(s.dtype.is_float for s in n.src)) for n in self.order
        )


_CHOICES = COMPARE | TESTS | BITS | {Op.WHERE, Op.MAX, Op.MIN, Op.NEG, Op.ABS, Op.NOT, Op.VAR, Op.CONST}


def states(dtypes: tuple[DType, ...]) -> tuple[Values, Values]:
    """The variables that stand for two states in a formula: the earlier one and the later one."""
    earlier, later = (tuple(UOp(Op.VAR, d, (), (side, k, f"{side}{k}")) for k, d in enumerate(dtypes)) for side in "ab")
    return earlier, later


def formula(name: str, dtypes: tuple[DType, ...]) -> Formula:
    """A named reducer as it is for these dtypes."""
    known = REDUCERS[name]
    return Formula(name, known.identity(dtypes), known.combine(*states(dtypes)), known.commutative)


def reducer(arg: str | Formula) -> Reducer | Formula:
    """What the arg of a REDUCE, or the ``update`` of a Store, means."""
    return REDUCERS[arg] if isinstance(arg, str) else arg


def _one(name: str, op: Op, identity: Callable[[DType], object], symbol: str | None = None) -> Reducer:
    return Reducer(
        name,
        1,
        lambda dtypes: (const(identity(dtypes[0]), dtypes[0]),),
        lambda a, b: (alu(op, a[0], b[0]),),
        symbol,
    )


def beats(a: Values, b: Values, best: Op = Op.MAX) -> UOp:
    """Whether ``a`` comes before ``b``, both (value, index)."""
    x, i, y, j = a[0], a[1], b[0], b[1]
    better = alu(Op.LT, y, x) if best is Op.MAX else alu(Op.LT, x, y)
    tie = alu(Op.EQ, x, y)
    if x.dtype.is_float:
        x_nan, y_nan = alu(Op.ISNAN, x), alu(Op.ISNAN, y)
        better = alu(Op.OR, better, alu(Op.AND, x_nan, alu(Op.NOT, y_nan)))
        tie = alu(Op.OR, tie, alu(Op.AND, x_nan, y_nan))
    return alu(Op.OR, better, alu(Op.AND, tie, alu(Op.LT, i, j)))


def _arg_extreme(name: str, best: Op, worst: Callable[[DType], object]) -> Reducer:
    """(value, index) compared lexicographically: the better value, NaN best of all, then the smaller index."""

    def identity(dtypes: tuple[DType, ...]) -> Values:
        # The largest index, so that an element equal to the identity value (-inf) still wins.
        return const(worst(dtypes[0]), dtypes[0]), const(dt.int64.max, dt.int64)

    def combine(a: Values, b: Values) -> Values:
        take_a = beats(a, b, best)
        return alu(Op.WHERE, take_a, a[0], b[0]), alu(Op.WHERE, take_a, a[1], b[1])

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
