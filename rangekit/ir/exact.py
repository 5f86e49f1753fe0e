"""A formula over unbounded integers and real numbers, as Z3 sees it.

A float is a kind and a value: finite, an infinity or NaN as IEEE 754 has them, and where finite a real number, so
that nothing rounds, overflows or has a signed zero. Where the kinds are known they are Python numbers and what Z3 gets
is plain arithmetic. Dividing by zero is left out: every divisor is assumed not to be 0.

Z3 works under a limit of steps, never of time, in a context of its own: the same question gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rangekit.ir.dtype import DType
from rangekit.ir.dtype import float64 as _F
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, toposort

if TYPE_CHECKING:
    import z3

LIMIT = 100_000  # Z3's own count of steps, for one question
FINITE, NAN = 0, 2  # kinds; 1 and -1 are the infinities

Number = bool | int | float
Term = Any  # a Z3 term, or a Float


class Untranslatable(Exception):
    """An op that integers and reals have no counterpart of."""


@dataclass(frozen=True)
class Float:
    """``kind`` is an int where it is known, else a term; ``value`` means something where the kind is finite."""

    kind: Any
    value: Any


class World:
    """Terms of one context, and what is assumed about them."""

    def __init__(self) -> None:
        import z3  # a tenth of a second, and only for who writes reducers

        self.z3, self.context = z3, z3.Context()
        self.assumed: list[z3.BoolRef] = []
        self.variables: list[tuple[Any, DType]] = []

    # ---- terms -----------------------------------------------------------------------------------------------------

    def variable(self, name: str, dtype: DType) -> Term:
        """Any finite value; of an integer, any that its dtype holds."""
        if dtype.kind == "b":
            made: Any = self.z3.Bool(name, self.context)
        elif dtype.is_float:
            made = self.z3.Real(name, self.context)
        else:
            made = self.z3.Int(name, self.context)
            self.assumed += [made >= int(dtype.min), made <= int(dtype.max)]
        self.variables.append((made, dtype))
        return Float(FINITE, made) if dtype.is_float else made

    def constant(self, value: Number, dtype: DType) -> Term:
        """A number."""
        if dtype.kind == "b":
            return self.z3.BoolVal(bool(value), self.context)
        if not dtype.is_float:
            return self.z3.IntVal(int(value), self.context)
        if value != value:
            return Float(NAN, self._real(0))
        if value in (float("inf"), float("-inf")):
            return Float(1 if value > 0 else -1, self._real(0))
        return Float(FINITE, self._real(float(value)))

    def _real(self, value: float) -> Any:
        over, under = float(value).as_integer_ratio()
        return self.z3.RealVal(f"{over}/{under}", self.context)

    def values(self, roots: Sequence[UOp], known: dict[UOp, Term]) -> list[Term]:
        """The terms of expressions over variables that are known. ``Untranslatable`` where there is none."""
        memo = dict(known)
        for n in toposort(*roots):
            if n not in memo:
                memo[n] = self._node(n, [memo[s] for s in n.src])
        return [memo[r] for r in roots]

    def _node(self, n: UOp, args: list[Term]) -> Term:
        if n.op is Op.CONST:
            return self.constant(n.arg, n.dtype)
        if n.op is Op.CAST:
            return self._cast(args[0], n.src[0].dtype, n.dtype)
        if n.op is Op.WHERE:
            return self._choose(*args)
        kind = n.src[0].dtype.kind if n.src else ""
        table = _BOOL if kind == "b" else _FLOAT if kind == "f" else _INT
        rule = table.get(n.op)
        if rule is None:
            raise Untranslatable(n.op.value)
        return rule(self, *args)

    def _cast(self, x: Term, src: DType, dst: DType) -> Term:
        z3 = self.z3
        if src.is_float and dst.is_float:
            return x
        if src.is_float:
            if dst.kind == "b":
                return self._not(self._equal(x, self.constant(0.0, src)))
            raise Untranslatable("a float as an integer")
        if dst.kind == "b":
            return x if src.kind == "b" else x != 0
        whole = z3.If(x, z3.IntVal(1, self.context), z3.IntVal(0, self.context)) if src.kind == "b" else x
        return Float(FINITE, z3.ToReal(whole)) if dst.is_float else whole

    # ---- logic, with what is known worked out at once ----------------------------------------------------------------

    def _if(self, c: Any, a: Any, b: Any) -> Any:
        if isinstance(c, bool):
            return a if c else b
        if self.z3.is_true(c) or self.z3.is_false(c):
            return a if self.z3.is_true(c) else b
        if isinstance(a, int) and isinstance(b, int):
            if a == b:
                return a
            a, b = self.z3.IntVal(a, self.context), self.z3.IntVal(b, self.context)
        return self.z3.If(c, a, b)

    def _choose(self, c: Any, a: Term, b: Term) -> Term:
        if isinstance(a, Float):
            return Float(self._if(c, a.kind, b.kind), self._if(c, a.value, b.value))
        return self._if(c, a, b)

    def _all(self, *parts: Any) -> Any:
        if any(p is False for p in parts):
            return False
        rest = [p for p in parts if p is not True]
        return True if not rest else rest[0] if len(rest) == 1 else self.z3.And(*rest)

    def _any(self, *parts: Any) -> Any:
        return self._not(self._all(*map(self._not, parts)))

    def _not(self, c: Any) -> Any:
        return not c if isinstance(c, bool) else self.z3.Not(c)

    # ---- floats ------------------------------------------------------------------------------------------------------

    def _below(self, x: Float, y: Float) -> Any:
        ordered = self._all(x.kind != NAN, y.kind != NAN)
        finite = self._all(x.kind == FINITE, y.kind == FINITE)
        return self._all(ordered, self._any(x.kind < y.kind, self._all(finite, x.value < y.value)))

    def _equal(self, x: Float, y: Float) -> Any:
        return self._all(
            x.kind != NAN, x.kind == y.kind, self._any(self._not(x.kind == FINITE), x.value == y.value)
        )  # fmt: skip

    def _greatest(self, x: Float, y: Float) -> Float:
        chosen = self._choose(self._below(x, y), y, x)
        bad = self._any(x.kind == NAN, y.kind == NAN)
        return Float(self._if(bad, NAN, chosen.kind), chosen.value)

    def _minus(self, x: Float) -> Float:
        return Float(self._if(x.kind == NAN, NAN, -x.kind), -x.value)

    def _sum(self, x: Float, y: Float) -> Float:
        clash = self._any(x.kind == NAN, y.kind == NAN, self._all(x.kind != FINITE, y.kind != FINITE, x.kind != y.kind))
        kind = self._if(clash, NAN, self._if(x.kind == FINITE, y.kind, x.kind))
        return Float(kind, x.value + y.value)

    def _sign(self, x: Float) -> Any:
        return self._if(x.kind == FINITE, self._if(x.value > 0, 1, self._if(x.value < 0, -1, 0)), x.kind)

    def _product(self, x: Float, y: Float) -> Float:
        finite = self._all(x.kind == FINITE, y.kind == FINITE)
        if finite is True:
            return Float(FINITE, x.value * y.value)
        sign = self._sign(x) * self._sign(y)
        bad = self._any(x.kind == NAN, y.kind == NAN, sign == 0)
        return Float(self._if(finite, FINITE, self._if(bad, NAN, sign)), x.value * y.value)

    def _quotient(self, x: Float, y: Float) -> Float:
        self.assumed.append(self._term(self._any(y.kind != FINITE, y.value != 0)))
        finite = self._all(x.kind == FINITE, y.kind == FINITE)
        if finite is True:
            return Float(FINITE, x.value / y.value)
        zero = self._all(x.kind == FINITE, self._any(y.kind == 1, y.kind == -1))
        bad = self._any(x.kind == NAN, y.kind == NAN, self._all(x.kind != FINITE, y.kind != FINITE))
        kind = self._if(bad, NAN, self._if(self._any(finite, zero), FINITE, self._sign(x) * self._sign(y)))
        return Float(kind, self._if(zero, self._real(0), x.value / y.value))

    def _rounded(self, x: Float) -> Float:
        return Float(x.kind, self.z3.ToReal(self.z3.ToInt(x.value)))

    # ---- integers ----------------------------------------------------------------------------------------------------

    def _floor(self, x: Any, y: Any) -> Any:
        down = self.z3.If(y > 0, x / y, (-x) / (-y))  # Z3 rounds so that what is left is not negative
        return self.z3.If(y == 0, self.z3.IntVal(0, self.context), down)

    def _left(self, x: Any, y: Any) -> Any:
        return self.z3.If(y == 0, self.z3.IntVal(0, self.context), x - y * self._floor(x, y))

    def positive(self, x: Term) -> Any:
        """Whether a finite number is positive, a truth value true."""
        x = x.value if isinstance(x, Float) else x
        return x if self.z3.is_bool(x) else x > 0

    # ---- questions ---------------------------------------------------------------------------------------------------

    def _term(self, c: Any) -> Any:
        return self.z3.BoolVal(c, self.context) if isinstance(c, bool) else c

    def same(self, left: Sequence[Term], right: Sequence[Term], defined: bool = False) -> Any:
        """Whether two states are equal. A NaN on one side only comes of what is undefined on the way: that passes,
        unless both have to be ``defined``.
        """
        parts = []
        for x, y in zip(left, right, strict=True):
            if isinstance(x, Float):
                undefined = not defined and self._any(x.kind == NAN, y.kind == NAN)
                parts.append(self._any(undefined, self._equal(x, y)))
            else:
                parts.append(x == y)
        return self._term(self._all(*parts))

    def _apart(self, left: Sequence[Term], right: Sequence[Term]) -> Any:
        """Whether two states differ by more than numbers of few digits may make out."""
        z3 = self.z3
        parts = []
        for x, y in zip(left, right, strict=True):
            if isinstance(x, Float):
                a, b = x.value, y.value
                wide = (z3.If(a < b, b - a, a - b)) * 1000 > 1 + z3.If(a < 0, -a, a) + z3.If(b < 0, -b, b)
                parts.append(self._any(self._not(x.kind == y.kind), self._all(x.kind == FINITE, wide)))
            else:
                parts.append(x != y)
        return self._term(self._any(*parts))

    def refute(self, left: Sequence[Term], right: Sequence[Term], defined: bool = False) -> list[Number] | bool:
        """Values of the variables, in the order they were made, for which two states differ; True where they are
        proved to be the same, False where neither was found.
        """
        z3 = self.z3
        goal = z3.simplify(self.same(left, right, defined), som=True)  # most laws are equations of polynomials
        if z3.is_true(goal):
            return True
        for solver in self._solvers():
            solver.add(*self.assumed, z3.Not(goal))
            answer = solver.check()
            if answer == z3.unsat:
                return True
            if answer == z3.sat:
                solver.add(self._apart(left, right))
                if solver.check() != z3.sat:
                    return False
                model = solver.model()
                return [self._number(model.eval(v, model_completion=True), d) for v, d in self.variables]
        return False

    def _solvers(self) -> Iterator[z3.Solver]:
        """The usual one, then one for products and quotients, which forgets that integers are whole."""
        z3 = self.z3
        usual = z3.Solver(ctx=self.context)
        usual.set("rlimit", LIMIT)
        yield usual
        parts = ("simplify", "purify-arith", "elim-term-ite", "solve-eqs", "tseitin-cnf", "qfnra-nlsat")
        reals = z3.Then(*(z3.Tactic(p, self.context) for p in parts), ctx=self.context).solver()
        reals.set("rlimit", 10 * LIMIT)
        yield reals

    def _number(self, value: Any, dtype: DType) -> Number:
        if dtype.kind == "b":
            return bool(self.z3.is_true(value))
        if not dtype.is_float:
            return int(value.as_long())
        if not self.z3.is_rational_value(value):
            value = value.approx(20)  # a root
        return float(value.numerator_as_long() / value.denominator_as_long())


Rule = Callable[..., Term]
# fmt: off
_BOOL: dict[Op, Rule] = {
    Op.AND: lambda w, x, y: w.z3.And(x, y),   Op.OR: lambda w, x, y: w.z3.Or(x, y),
    Op.XOR: lambda w, x, y: w.z3.Xor(x, y),   Op.NOT: lambda w, x: w.z3.Not(x),
    Op.EQ: lambda w, x, y: x == y,            Op.NE: lambda w, x, y: x != y,
    Op.LT: lambda w, x, y: w.z3.And(w.z3.Not(x), y),
    Op.LE: lambda w, x, y: w.z3.Or(w.z3.Not(x), y),
}
_INT: dict[Op, Rule] = {
    Op.ADD: lambda w, x, y: x + y,            Op.SUB: lambda w, x, y: x - y,
    Op.MUL: lambda w, x, y: x * y,            Op.NEG: lambda w, x: -x,
    Op.ABS: lambda w, x: w.z3.If(x < 0, -x, x),
    Op.MAX: lambda w, x, y: w.z3.If(x < y, y, x),
    Op.MIN: lambda w, x, y: w.z3.If(y < x, y, x),
    Op.IDIV: World._floor,                    Op.MOD: World._left,
    Op.LT: lambda w, x, y: x < y,             Op.LE: lambda w, x, y: x <= y,
    Op.EQ: lambda w, x, y: x == y,            Op.NE: lambda w, x, y: x != y,
    Op.IN_RANGE: lambda w, x, lo, hi: x,
}
_FLOAT: dict[Op, Rule] = {
    Op.ADD: World._sum,                       Op.SUB: lambda w, x, y: w._sum(x, w._minus(y)),
    Op.MUL: World._product,                   Op.DIV: World._quotient,
    Op.FMA: lambda w, x, y, z: w._sum(w._product(x, y), z),
    Op.NEG: World._minus,
    Op.ABS: lambda w, x: w._choose(w._below(x, w.constant(0.0, _F)), w._minus(x), x),
    Op.MAX: World._greatest,
    Op.MIN: lambda w, x, y: w._minus(w._greatest(w._minus(x), w._minus(y))),
    Op.LT: lambda w, x, y: w._term(w._below(x, y)),
    Op.LE: lambda w, x, y: w._term(w._any(w._below(x, y), w._equal(x, y))),
    Op.EQ: lambda w, x, y: w._term(w._equal(x, y)),
    Op.NE: lambda w, x, y: w._term(w._not(w._equal(x, y))),
    Op.ISNAN: lambda w, x: w._term(x.kind == NAN),
    Op.ISFINITE: lambda w, x: w._term(x.kind == FINITE),
    Op.FLOOR: World._rounded,
    Op.CEIL: lambda w, x: w._minus(w._rounded(w._minus(x))),
}
# fmt: on
