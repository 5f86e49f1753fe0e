"""Simplification of index, integer and bool expressions, of selections and of gates.

Two parts, tried in turn at every node, sources first: the rows of ``algebra``, which are laws of one op or two, and
the normal forms of sums (``affine``), quotients (``divmod``) and conditions (``logic``), which look further. Floats
are left as they are but for the few rows that IEEE allows. A node that cannot be simplified is returned itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from weakref import WeakSet

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine, affine_within, in_order, plus, total
from rangekit.ir.algebra import BOOLS, FLOATS, INDICES, INTEGERS, SELECTIONS
from rangekit.ir.bounds import Facts, Known, Span, bounds, captures, facts_of, meet, whole
from rangekit.ir.divmod import join, split
from rangekit.ir.fold import fold, fold_cast
from rangekit.ir.logic import combine, compare, negated
from rangekit.ir.ops import ARITH, COMMUTATIVE, COMPARE, ELEMENTWISE, INT_ARITH, Op
from rangekit.ir.rewrite import Answer, rewrite
from rangekit.ir.uop import UOp, const, toposort

__all__ = ["affine", "bounds", "facts_of", "simplify"]

_WIDEST = 256  # parts of a sum that is brought to normal form; longer ones keep the shape they have
_LARGEST_GATED = 64  # nodes of an index that is simplified again under its gate
_LINEAR = (Op.ADD, Op.SUB, Op.NEG, Op.MUL)
_CARRIES_GATE = ARITH | INT_ARITH | {Op.NEG, Op.CAST}
_TABLES = {"x": INDICES + INTEGERS, "i": INTEGERS, "u": INTEGERS, "b": BOOLS, "f": FLOATS}
_simple: WeakSet[UOp] = WeakSet()  # results given before: normal forms, with all below them

Found = tuple[str, UOp] | None


def simplify(root: UOp, facts: Facts | None = None, counts: Counter[str] | None = None,
             moved: Callable[[UOp, UOp], None] | None = None) -> UOp:  # fmt: skip
    """The same value with less arithmetic; shape, dtype and what it reads stay.

    ``facts`` narrow nodes below the root, but not inside what binds their ranges; ``counts`` gets the rewrites per
    rule, ``moved`` is told of each.

    >>> from rangekit.ir.uop import alu, idx, new_range
    >>> i, j = new_range(4), new_range(6)
    >>> linear = alu(Op.ADD, alu(Op.MUL, i, idx(6)), j)
    >>> simplify(alu(Op.IDIV, linear, idx(6))) is i
    True
    """
    if facts:
        bound = lambda n: captures(n, facts)
        return rewrite(root, _Simplifier(Known(facts)).visit, counts=counts, moved=moved, stop=bound)
    if root not in _simple:
        root = rewrite(root, _Simplifier(Known()).visit, counts=counts, moved=moved, stop=_simple.__contains__)
        _simple.add(root)
    return root


class _Simplifier:
    """What to do at one node whose sources are simple; ``known`` holds the facts in force."""

    def __init__(self, known: Known, gates: bool = True) -> None:
        self.known = known
        self.gates = gates
        self.normal: set[UOp] = set()  # normal forms made here: asking again would find nothing

    def visit(self, node: UOp) -> Answer | tuple[str, UOp]:
        if node.op not in ELEMENTWISE or node in self.normal:
            return None
        found = self.where(node) if node.op is Op.WHERE else self.cast(node) if node.op is Op.CAST else self.alu(node)
        if found is None or found[1] is node:
            return None
        return found if found[1].dtype is node.dtype and found[1].shape == node.shape else None

    def alu(self, node: UOp) -> Found:
        kind = node.src[0].dtype.kind
        if kind != "f":
            found = _carried(node) or self.constant(node)
            if found is None and kind == "x":
                found = self.index(node)
                if found is not None:
                    self.normal.add(found[1])
            if found is not None:
                return found
        found = _TABLES[kind].apply(node)  # type: ignore[assignment]  # no row of these tables waits
        if found is None and kind in "iu":
            found = self.machine(node)
        elif found is None and kind == "b" and node.op in (Op.AND, Op.OR):
            made = combine(node.op, node, self.known)
            if made is not None:
                return "conditions", made
        return found or _sorted(node)

    def constant(self, node: UOp) -> Found:
        if all(s.op is Op.CONST for s in node.src):
            folded = fold(node.op, *node.src)
            return None if folded is None else ("constant", folded)
        if node.op is Op.IN_RANGE or (node.dtype is dt.index and node.op in _LINEAR):
            return None  # a promise is kept; a sum finds its constants itself
        lo, hi = self.known(node)
        return ("bounds", const(lo, node.dtype)) if lo is not None and lo == hi else None

    def index(self, node: UOp) -> Found:
        """The normal form of an index node or comparison: itself if it has it, None if the op has none."""
        op = node.op
        if op in _LINEAR:
            form = affine_within(node, _WIDEST)
            if form is None or node in form[0]:
                return None
            return "sum", total(join(self.settled(form), self.known))
        a, b = node.src[0], node.src[-1]
        if op in COMPARE:
            made = compare(op, a, b, self.known)
            return None if made is None else ("compare", made)
        if op in (Op.IDIV, Op.MOD) and b.op is Op.CONST and b.arg > 0:
            form = affine_within(a, _WIDEST)
            if form is not None:
                quotient, remainder = split(self.settled(form), b.arg, self.known)
                name, wanted = ("quotient", quotient) if op is Op.IDIV else ("remainder", remainder)
                return name, total(join(wanted, self.known))
        if op in (Op.MAX, Op.MIN):
            left, right = affine_within(a, _WIDEST), affine_within(b, _WIDEST)
            if left is not None and right is not None:
                return _extreme(node, self.known.form(plus(left, right, -1)))
        return None

    def settled(self, form: Form) -> Form:
        """The form with the atoms that can only be one number put into its constant."""
        for atom in form[0]:
            lo, hi = self.known(atom)
            if lo is not None and lo == hi:
                form = plus(form, plus(({atom: 1}, 0), ({}, lo), -1), -form[0][atom])
        return form

    def machine(self, node: UOp) -> Found:
        """Of machine integers: what intervals decide."""
        a, b = node.src[0], node.src[-1]
        if node.op in (Op.MAX, Op.MIN):
            (lo, hi), (least, most) = self.known(a), self.known(b)
            assert lo is not None and hi is not None and least is not None and most is not None
            return _extreme(node, (lo - most, hi - least))
        if node.op is Op.MOD and b.op is Op.CONST and b.arg > 0:
            lo, hi = self.known(a)
            return ("remainder", a) if lo is not None and hi is not None and lo >= 0 and hi < b.arg else None
        return None

    def cast(self, node: UOp) -> Found:
        x = node.src[0]
        if x.dtype is node.dtype:
            return "cast-same", x
        if x.dtype.kind not in "biux":
            return None
        carried = _carried(node)
        if carried is not None:
            return carried
        lo, hi = self.known(x)
        if lo is not None and lo == hi and x.op is not Op.IN_RANGE:
            made = fold_cast(const(lo, x.dtype), node.dtype)
            return None if made is None else ("constant", made)
        if x.op is Op.CAST and x.src[0].dtype.kind in "biux" and x.dtype is not dt.bool_:
            inner = x.src[0]
            span = self.known(inner)
            if x.dtype is dt.index or (None not in span and meet(whole(x.dtype), span) == span):
                return "cast-cast", inner if inner.dtype is node.dtype else UOp(Op.CAST, node.dtype, (inner,))
        return None

    def where(self, node: UOp) -> Found:
        g, a, b = node.src
        lo, hi = self.known(g)
        if lo == hi:
            return "where-decided", a if lo else b
        found = SELECTIONS.apply(node)
        if found is not None:
            return found  # type: ignore[return-value]  # no row of this table waits
        if self.gates and node.dtype.kind in "biux":
            a = self.under(g, a)
            if b.op is not Op.INVALID:
                b = self.under(negated(g, self.known), b)
            return _changed(node, "gate", UOp(Op.WHERE, node.dtype, (g, a, b)))
        return None

    def under(self, gate: UOp, node: UOp) -> UOp:
        """A branch, simplified with what its gate says. Loads keep the gates they have: those make them safe."""
        if node.op not in ELEMENTWISE:
            return node
        facts = facts_of(gate, self.known.facts)
        if not any(f.ranges & node.ranges for f in facts):
            return node
        if len(toposort(node, into=lambda n: n.op in ELEMENTWISE)) > _LARGEST_GATED:
            return node
        inner = _Simplifier(Known({**self.known.facts, **facts}), gates=False)
        return rewrite(node, inner.visit, stop=lambda n: n.op not in ELEMENTWISE)


def _changed(node: UOp, name: str, made: UOp | None) -> Found:
    return None if made is None or made is node else (name, made)


def _extreme(node: UOp, difference: Span) -> Found:
    """A MAX or MIN whose first operand less its second lies in this interval."""
    a, b = node.src
    lo, hi = difference
    if lo is not None and lo >= 0:
        return "bounds", a if node.op is Op.MAX else b
    if hi is not None and hi <= 0:
        return "bounds", b if node.op is Op.MAX else a
    return None


def _carried(node: UOp) -> Found:
    """Arithmetic on a gated index is a gated index, and on no index none."""
    if node.op not in _CARRIES_GATE or node.dtype.kind not in "iux":
        return None
    for k, s in enumerate(node.src):
        if s.op is Op.INVALID:
            return "no-index", s
        if s.op is Op.WHERE and s.src[2].op is Op.INVALID:
            inside = node.replace((*node.src[:k], s.src[1], *node.src[k + 1 :]))
            return "carry-gate", UOp(Op.WHERE, node.dtype, (s.src[0], inside, s.src[2]))
    return None


def _sorted(node: UOp) -> Found:
    """Operands of a commutative op in the one order; those of machine integers only with a constant last."""
    if node.op not in COMMUTATIVE or node.src[0].dtype.kind == "f":
        return None
    a, b = node.src
    if a.op is Op.CONST or b.op is Op.CONST:
        src = (b, a) if a.op is Op.CONST and b.op is not Op.CONST else (a, b)
    elif node.src[0].dtype.kind in "xb" and a is not b:
        first, second = in_order((a, b))
        src = (first, second)
    else:
        src = (a, b)
    return None if src == node.src else ("order", node.replace(src))
