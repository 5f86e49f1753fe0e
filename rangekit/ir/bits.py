"""A formula over machine integers, as Z3 sees it: bits of a width, which wrap. For what shifts and masks them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rangekit.ir.dtype import DType
from rangekit.ir.exact import LIMIT, Number, Term, Untranslatable, World
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp

if TYPE_CHECKING:
    import z3


class Bits(World):
    """Terms over every value of integer dtypes, and truth values. ``Untranslatable`` for floats and divisions."""

    def variable(self, name: str, dtype: DType) -> Term:
        """Any value."""
        made = (
            self.z3.Bool(name, self.context) if dtype.kind == "b" else self.z3.BitVec(name, _bits(dtype), self.context)
        )
        self.variables.append((made, dtype))
        return made

    def constant(self, value: Number, dtype: DType) -> Term:
        """A number."""
        if dtype.kind == "b":
            return super().constant(value, dtype)
        return self.z3.BitVecVal(int(value), _bits(dtype), self.context)

    def _node(self, n: UOp, args: list[Term]) -> Term:
        if n.op in (Op.CONST, Op.CAST) or n.src[0].dtype.kind == "b":
            return super()._node(n, args)
        d = n.src[0].dtype
        rule = (_UNSIGNED if d.kind == "u" else {}).get(n.op) or _BITS.get(n.op)
        if rule is None:
            raise Untranslatable(n.op.value)
        return rule(self, *args)

    def _cast(self, x: Term, src: DType, dst: DType) -> Term:
        z3 = self.z3
        if dst.kind == "b":
            return x if src.kind == "b" else x != 0
        width = _bits(dst)
        if src.kind == "b":
            return z3.If(x, self.constant(1, dst), self.constant(0, dst))
        more = width - _bits(src)
        if more < 0:
            return z3.Extract(width - 1, 0, x)
        return z3.ZeroExt(more, x) if src.kind == "u" else z3.SignExt(more, x)

    def positive(self, x: Term) -> Any:
        """Whether a count is not 0, a truth value true."""
        return x if self.z3.is_bool(x) else x > 0

    def _apart(self, left: Sequence[Term], right: Sequence[Term]) -> Any:
        return self._term(True)

    def _solvers(self) -> Iterator[z3.Solver]:
        solver = self.z3.SolverFor("QF_BV", ctx=self.context)
        solver.set("rlimit", 10 * LIMIT)
        yield solver

    def _number(self, value: Any, dtype: DType) -> Number:
        if dtype.kind == "b":
            return super()._number(value, dtype)
        return int(value.as_long() if dtype.kind == "u" else value.as_signed_long())


def _bits(dtype: DType) -> int:
    if dtype.kind not in "iux":
        raise Untranslatable(dtype.name)
    return dtype.bits


# fmt: off
_BITS: dict[Op, Callable[..., Term]] = {
    Op.ADD: lambda w, x, y: x + y,            Op.SUB: lambda w, x, y: x - y,
    Op.MUL: lambda w, x, y: x * y,            Op.NEG: lambda w, x: -x,
    Op.AND: lambda w, x, y: x & y,            Op.OR: lambda w, x, y: x | y,
    Op.XOR: lambda w, x, y: x ^ y,            Op.NOT: lambda w, x: ~x,
    Op.SHL: lambda w, x, y: x << y,           Op.SHR: lambda w, x, y: x >> y,
    Op.EQ: lambda w, x, y: x == y,            Op.NE: lambda w, x, y: x != y,
    Op.LT: lambda w, x, y: x < y,             Op.LE: lambda w, x, y: x <= y,
    Op.MAX: lambda w, x, y: w.z3.If(x < y, y, x),
    Op.MIN: lambda w, x, y: w.z3.If(y < x, y, x),
    Op.ABS: lambda w, x: w.z3.If(x < 0, -x, x),
}
_UNSIGNED: dict[Op, Callable[..., Term]] = {
    Op.SHR: lambda w, x, y: w.z3.LShR(x, y),  Op.ABS: lambda w, x: x,
    Op.LT: lambda w, x, y: w.z3.ULT(x, y),    Op.LE: lambda w, x, y: w.z3.ULE(x, y),
    Op.MAX: lambda w, x, y: w.z3.If(w.z3.ULT(x, y), y, x),
    Op.MIN: lambda w, x, y: w.z3.If(w.z3.ULT(y, x), y, x),
}
# fmt: on
