"""The terms of a reduction as conditions and a value: where a condition does not hold, a term adds nothing.

Conditions are found in selections, in masks that are cast to numbers, and in the factors of products. They are kept in
the order in which they gate one another, outer first: what one reads may be safe only where those before it hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rangekit.ir import dtype as dt
from rangekit.ir.affine import in_order
from rangekit.ir.binding import substitute
from rangekit.ir.ops import ELEMENTWISE, Op
from rangekit.ir.reducers import REDUCERS
from rangekit.ir.uop import UOp, alu, by_uid, cast, const, idx, new_buffer, toposort
from rangekit.lower.limits import bounded, equal_to
from rangekit.lower.proof import conjuncts, is_mark, proof

Groups = list[list[UOp]]  # conditions that are tested together, each group where those before it hold

DEEPEST = 32  # products and casts that conditions are looked for in


class Leaves:
    """Loads, reductions and the like, hidden while an expression is worked on: what they read stays as it is."""

    def __init__(self) -> None:
        self.hiding: dict[UOp, tuple[UOp, tuple[UOp, ...]]] = {}  # an array in its place -> the node, its ranges
        self.gated: dict[UOp, bool] = {}  # whether it reads what may be inside its array only under a condition

    def hidden(self, root: UOp) -> UOp:
        """The expression with an element of an unknown array for each leaf."""
        memo: dict[UOp, UOp] = {}
        for n in toposort(root, into=lambda n: n.op in ELEMENTWISE):
            if n.op in ELEMENTWISE:
                src = tuple(memo[s] for s in n.src)
                memo[n] = n if src == n.src else n.replace(src=src)
            elif n.op in (Op.CONST, Op.RANGE, Op.INVALID):
                memo[n] = n
            else:
                ranges = by_uid(n.ranges)
                dtype = dt.int64 if n.dtype is dt.index else n.dtype
                array = new_buffer(dtype, tuple(r.extent for r in ranges), "leaf")
                self.hiding[array] = n, ranges
                memo[n] = cast(UOp(Op.INDEX, array.dtype, (array, *ranges)), n.dtype)
        return memo[root]

    def wants_gate(self, roots: Iterable[UOp]) -> bool:
        """Whether what expressions read has to stay under the conditions it is under."""
        arrays = {n.src[0] for root in roots for n in toposort(root) if n.op is Op.INDEX}
        for array in arrays - self.gated.keys():
            self.gated[array] = any(map(_unproved, toposort(self.hiding[array][0])))
        return any(self.gated[array] for array in arrays)

    def shown(self, root: UOp) -> UOp:
        """The expression with the leaves, at the indices where they now stand."""
        memo: dict[UOp, UOp] = {}
        for n in toposort(root):
            src = tuple(memo[s] for s in n.src)
            if n.op is Op.INDEX:
                leaf, ranges = self.hiding[n.src[0]]
                memo[n] = cast(substitute(leaf, dict(zip(ranges, src[1:], strict=True))), n.dtype)
            else:
                memo[n] = n if src == n.src else n.replace(src=src)
        return memo[root]


@dataclass
class Terms:
    """The terms of a reduction over ``r`` and others: ``value`` where all conditions hold, else the identity.

    ``licence`` takes a factor that is 0 but where an equation of ``r`` holds for a condition of the whole product.
    """

    node: UOp
    body: UOp
    r: UOp
    licence: bool
    leaves: Leaves
    value: UOp = field(init=False)
    groups: Groups = field(init=False)

    def __post_init__(self) -> None:
        self.reducer: str = self.node.arg
        self.dtype = self.node.dtype
        (self.identity,) = REDUCERS[self.reducer].identity((self.dtype,))
        self.groups, value = self._parts(self.body, 0)
        rounded = value.op is Op.CAST and value.dtype.is_float and value.src[0].op is Op.CONST
        self.value = const(value.src[0].arg, value.dtype) if rounded else value

    # ---- conditions ------------------------------------------------------------------------------------------------

    def _parts(self, n: UOp, depth: int) -> tuple[Groups, UOp]:
        """Conditions outside which a value is the identity (0, within a product or cast), and the value inside."""
        if depth > DEEPEST or not n.ranges:
            return [], n
        if n.dtype is dt.bool_ and self.reducer in ("or", "and"):
            any_ = self.reducer == "or"
            return [in_order(conjuncts(n if any_ else alu(Op.NOT, n)))], const(any_, dt.bool_)
        if n.op is Op.WHERE:
            c, a, b = n.src
            for condition, inside, outside in ((c, a, b), (alu(Op.NOT, c), b, a)):
                if self._neutral(outside):
                    groups, value = self._parts(inside, depth + 1)
                    return [in_order(conjuncts(condition)), *groups], value
            return [], n
        if self.reducer == "add" and n.op is Op.MUL:
            return self._product(n, depth)
        if n.op is Op.CAST and n.src[0].dtype is dt.bool_ and self.reducer == "add":
            return [in_order(conjuncts(n.src[0]))], const(1, n.dtype)
        if (n.op in (Op.CAST, Op.NEG) and self.reducer == "add") or (n.op is Op.CAST and self._keeps(n)):
            groups, value = self._parts(n.src[0], depth + 1)
            return (groups, n.replace(src=(value,))) if groups else ([], n)
        return [], n

    def _product(self, n: UOp, depth: int) -> tuple[Groups, UOp]:
        """Of a product, the conditions of its factors: 0 times a float is 0 if that is finite, or by licence."""
        found: Groups = []
        values = []
        for factor, other in (n.src, n.src[::-1]):
            groups, value = self._parts(factor, depth + 1)
            selects = self.licence and any(equal_to(c, self.r) is not None for g in groups for c in g)
            if n.dtype.is_float and not (finite(other) or selects):
                groups, value = [], factor
            found += groups
            values.append(value)
        return found, alu(Op.MUL, *values) if found else n

    def _neutral(self, n: UOp) -> bool:
        """Whether a value adds nothing: the identity, or what becomes it."""
        if n.op is not Op.CONST:
            return False
        if self.reducer == "add":
            return bool(n.arg == 0)
        return n is self.identity or (n.dtype.is_float is self.dtype.is_float and n.arg == self.identity.arg)

    def _keeps(self, n: UOp) -> bool:
        """Whether a cast keeps the identity: of floats, whose infinities are equal, or of integers that all fit."""
        d, x = n.dtype, n.src[0].dtype
        fits = d.is_int and x.is_int and d.min <= x.min and x.max <= d.max
        return self.reducer in ("max", "min") and (fits or (d.is_float and x.is_float))

    # ---- which iterations ------------------------------------------------------------------------------------------

    def about(self) -> list[UOp]:
        """The conditions that are about ``r``."""
        return [c for g in self.groups for c in g if self.r in c.ranges]

    def others(self) -> Groups:
        """The conditions that are not."""
        return [[c for c in g if self.r not in c.ranges] for g in self.groups]

    def gates(self, count: int, equation: UOp | None = None) -> Groups | None:
        """The first ``count`` groups, the conditions about ``r`` replaced by whether any iteration meets them.

        An equation is left out. None if some are no bounds.
        """
        los, his = [idx(0)], [self.r.size]
        out: Groups = [[alu(Op.LT, idx(0), self.r.size)]]
        for group, mine in zip(self.groups[:count], self.others(), strict=False):
            out.append(mine)
            for c in group:
                if self.r not in c.ranges or c is equation:
                    continue
                found, rest = bounded([c], (self.r,))
                if rest:
                    return None
                lo, hi = found[self.r]
                if lo is not None:
                    los.append(lo)
                    mine += [alu(Op.LT, lo, h) for h in his]
                if hi is not None:
                    his.append(hi)
                    mine += [alu(Op.LT, low, hi) for low in los]
        return out

    def span(self) -> tuple[UOp, UOp] | None:
        """The first iteration and one past the last, if the conditions about ``r`` say that and no more."""
        found, rest = bounded(self.about(), (self.r,))
        if rest:
            return None
        lo, hi = found.get(self.r, (None, None))
        return idx(0) if lo is None else lo, self.r.size if hi is None else hi

    def where(self, groups: Iterable[Iterable[UOp]], value: UOp) -> UOp:
        """The value where all conditions hold, the identity elsewhere."""
        for group in reversed([list(g) for g in groups]):
            if group:
                condition = group[0]
                for c in group[1:]:
                    condition = alu(Op.AND, condition, c)
                value = alu(Op.WHERE, condition, value, self.identity)
        return value

    def only(self, value: UOp) -> UOp:
        """The one term of a sum of floats, which has added it to 0.0: -0.0 does not stay."""
        if self.reducer != "add" or not self.dtype.is_float or _never_minus_zero(value):
            return value
        return alu(Op.ADD, value, const(0.0, self.dtype))


def _unproved(n: UOp) -> bool:
    """Whether a node accesses an element, or holds an index of an axis, that intervals do not show to be there."""
    if n.op is Op.INDEX and n.shape == ():
        return any(proof(i, size, frozenset()) is None for i, size in zip(n.src[1:], n.src[0].shape, strict=True))
    return is_mark(n)


def finite(n: UOp) -> bool:
    """Whether a float is known to be no infinity and no NaN."""
    if n.op is Op.CONST:
        return bool(abs(n.arg) < float("inf"))
    return n.op is Op.CAST and n.src[0].dtype.kind in "biux" and n.dtype.bits > 16


def _never_minus_zero(n: UOp) -> bool:
    if n.op is Op.CONST:
        return not (n.arg == 0 and str(n.arg).startswith("-"))
    if n.op is Op.WHERE:
        return _never_minus_zero(n.src[1]) and _never_minus_zero(n.src[2])
    return n.op is Op.CAST and n.src[0].dtype.kind in "biux"
