"""What conditions say of indices: the facts that prove an access, and the gates that make one safe."""

from __future__ import annotations

from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine
from rangekit.ir.bounds import bounds, facts_of
from rangekit.ir.dim import Dim
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, const, idx, toposort

Conditions = frozenset[UOp]


def conjuncts(c: UOp) -> Conditions:
    """The conditions whose AND is ``c``."""
    out: set[UOp] = set()
    stack = [(c, True)]  # a condition, and whether it holds or its negation does
    while stack:
        n, holds = stack.pop()
        x = n.src[0] if n.src else n
        if n.op is (Op.AND if holds else Op.OR) and n.dtype is dt.bool_:
            stack.extend((s, holds) for s in n.src)
        elif n.op is Op.NOT and n.dtype is dt.bool_:
            stack.append((x, not holds))
        elif not holds and n.op in _OPPOSITE and x.dtype.is_int:
            out.add(UOp(_OPPOSITE[n.op], dt.bool_, n.src[::-1]))
        elif not (n.op is Op.CONST and n.arg is holds):
            out.add(n if holds else alu(Op.NOT, n))
    return frozenset(out)


_OPPOSITE = {Op.LT: Op.LE, Op.LE: Op.LT, Op.NE: Op.EQ}  # of integers, sides exchanged


def either(ways: list[Conditions]) -> UOp:
    """The OR over the ANDs, common conditions taken out."""
    if not all(ways):
        return const(True, dt.bool_)
    common = frozenset.intersection(*ways)
    rest = [w - common for w in ways]
    out = all_of(common)
    if all(rest):
        some: UOp = const(False, dt.bool_)
        for w in rest:
            some = alu(Op.OR, some, all_of(w))
        out = alu(Op.AND, out, some)
    return simplify(out)


def all_of(conditions: Conditions) -> UOp:
    """The AND of conditions, in one order whatever order they came in."""
    out: UOp = const(True, dt.bool_)
    for c in sorted(conditions, key=expression):
        out = c if out.op is Op.CONST else alu(Op.AND, out, c)
    return out


def proof(i: UOp, size: int, held: Conditions) -> str | None:
    """How ``0 <= i < size`` is known where the conditions hold, or None."""
    promises = {n.arg for n in toposort(i) if n.op is Op.IN_RANGE}
    unproved = promises - {"z3", "interval"}
    promise = "contract" if unproved else "z3" if "z3" in promises else None
    lo, hi = bounds(i)
    if isinstance(size, Dim):
        return _proof_of(i, size, held, promise)
    if lo >= 0 and hi < size:
        return promise or "interval"
    if not held:
        return None
    slacks = [s for c in held for s in _slacks(c)]
    facts = facts_of(all_of(held))
    lo, hi = bounds(i, facts)
    ok_low = lo >= 0 or any(bounds(simplify(_minus(i, s)), facts)[0] >= 0 for s in slacks)
    room = _minus(idx(size - 1), i)
    ok_high = hi < size or any(bounds(simplify(_minus(room, s)), facts)[0] >= 0 for s in slacks)
    return (promise or "symbolic") if ok_low and ok_high else None


def _proof_of(i: UOp, size: Dim, held: Conditions, promise: str | None) -> str | None:
    """The same where the size is known only at the call: the index at the last iterations is less than any such size.

    Iterations of a range exist, so that the index where it is used is one of theirs.
    """
    facts = facts_of(all_of(held)) if held else {}
    slacks = [s for c in held for s in _slacks(c)]

    def known(n: UOp) -> bool:
        """Whether a sum is not negative, by itself or beside something that is not."""
        return any(bounds(_last(m, frozenset()), facts)[0] >= 0 for m in (n, *(_minus(n, s) for s in slacks)))

    inside = (bounds(i, facts)[0] >= 0 or known(i)) and known(_minus(_plus(size.node, -1), i))
    return (promise or "symbolic") if inside else None


def _last(n: UOp, seen: frozenset[UOp]) -> UOp:
    """A sum no greater than ``n`` is, with ranges whose size is a Dim at their last iteration where they lessen it."""
    n = simplify(n)
    terms, _ = affine(n)
    r = next((a for a, m in terms.items() if a.op is Op.RANGE and len(a.src) == 2 and m < 0 and a not in seen), None)
    if r is None:
        return n
    beyond = alu(Op.MUL, _minus(_plus(r.size, -1), r), idx(terms[r]))  # no more than 0, wherever else the range is
    return _last(alu(Op.ADD, n, beyond), seen | {r})


def _plus(n: UOp, k: int) -> UOp:
    return alu(Op.ADD, n, idx(k))


def is_mark(n: UOp) -> bool:
    """An index of something that may get no storage, still to be held against the axis it was written for."""
    return n.op is Op.GUARD and n.arg[0] is None


def checked(element: UOp, mark: UOp) -> UOp:
    """An element that the marked index may have left no trace in, as that of a constant: then the mark is put on it."""
    if not is_mark(mark) or mark in toposort(element):
        return element
    return UOp(Op.GUARD, element.dtype, (element, mark.src[0]), mark.arg)


def _minus(a: UOp, b: UOp) -> UOp:
    return alu(Op.ADD, a, alu(Op.MUL, b, idx(-1)))


def _slacks(c: UOp) -> list[UOp]:
    """Index expressions that are >= 0 where the comparison holds."""
    if c.op not in (Op.LT, Op.LE, Op.EQ) or not c.src[0].dtype.is_int:
        return []
    a, b = (exact_index(s) for s in c.src)
    if a is None or b is None:
        return []
    gap = _minus(b, a)
    return [gap, _minus(a, b)] if c.op is Op.EQ else [alu(Op.ADD, gap, idx(-1)) if c.op is Op.LT else gap]


def exact_index(n: UOp) -> UOp | None:
    """An integer expression as the index it equals, None where it may wrap on the way."""
    if n.dtype is dt.index:
        return n
    if n.op is Op.CAST and n.src[0].dtype is dt.index:
        lo, hi = bounds(n.src[0])
        return n.src[0] if n.dtype.min <= lo and hi <= n.dtype.max else None
    if n.op is Op.CONST:
        return idx(int(n.arg))
    return UOp(Op.CAST, dt.index, (n,)) if n.dtype.is_int else None
