"""Comparisons of index sums, and sets of conditions, in normal form.

A comparison is decided by bounds or brought to ``sum < n`` with the factors' common divisor and every division
taken out; it prints with the negative terms on the right. A conjunction is a sorted set: no duplicate, no condition
that the others imply, at most one bound a side for each sum; a disjunction is the negation of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine_within, in_order, plus, total
from rangekit.ir.bounds import Known, Span, facts_of, meet
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, const

TRUE, FALSE = const(True, dt.bool_), const(False, dt.bool_)
WIDEST = 64  # terms of a sum or conditions of a set; wider ones are left as they are

_OPPOSITE = {Op.LT: Op.LE, Op.LE: Op.LT, Op.EQ: Op.NE, Op.NE: Op.EQ}


def truth(value: bool) -> UOp:
    """The bool constant."""
    return TRUE if value else FALSE


def compare(op: Op, a: UOp, b: UOp, known: Known) -> UOp | None:
    """An index comparison in normal form; None where the sums are too wide to say."""
    left, right = affine_within(a, WIDEST), affine_within(b, WIDEST)
    if left is None or right is None:
        return None
    difference = plus(left, right, -1)
    if op in (Op.EQ, Op.NE):
        return _equal(op, difference, known)
    return _less(difference[0], -difference[1] + (op is Op.LE), known)


def _less(terms: dict[UOp, int], n: int, known: Known) -> UOp:
    """``sum of terms < n``."""
    while True:
        lo, hi = known.form((terms, 0))
        if (hi is not None and hi < n) or (lo is not None and lo >= n):
            return truth(hi is not None and hi < n)
        step = _common(terms, n) or _undivided(terms, n) or _coarser(terms, n, known)
        if step is None:
            return _spell(Op.LT, terms, n)
        terms, n = step


def _common(terms: dict[UOp, int], n: int) -> tuple[dict[UOp, int], int] | None:
    g = gcd(*terms.values())  # g * s < n  is  s < ceil(n / g)
    return None if g == 1 else ({a: m // g for a, m in terms.items()}, -(-n // g))


def _undivided(terms: dict[UOp, int], n: int) -> tuple[dict[UOp, int], int] | None:
    """``w + x // c < n`` is ``c*w + x < c*n``; ``w - x // c < n`` is ``c*w - x < c*(n - 1) + 1``."""
    for a in in_order(a for a, m in terms.items() if a.op is Op.IDIV and abs(m) == 1):
        x, divisor = a.src
        form = affine_within(x, WIDEST) if divisor.op is Op.CONST and divisor.arg > 0 else None
        if form is not None:
            m, c = terms[a], divisor.arg
            others = {b: k * c for b, k in terms.items() if b is not a}
            whole, constant = plus((others, 0), form, m)
            return whole, (c * n if m == 1 else c * (n - 1) + 1) - constant
    return None


def _coarser(terms: dict[UOp, int], n: int, known: Known) -> tuple[dict[UOp, int], int] | None:
    """``g*s + t < n`` is ``s < q`` where every t gives the same q."""
    for g in sorted({abs(m) for m in terms.values()} - {1}, reverse=True):
        high = {a: m // g for a, m in terms.items() if m % g == 0}
        low = {a: m for a, m in terms.items() if m % g}
        lo, hi = known.form((low, 0))
        if low and lo is not None and hi is not None and (n - 1 - lo) // g == (n - 1 - hi) // g:
            return high, (n - 1 - lo) // g + 1
    return None


def _equal(op: Op, form: Form, known: Known) -> UOp:
    terms, constant = form
    same = op is Op.EQ
    lo, hi = known.form(form)
    if (lo is not None and lo > 0) or (hi is not None and hi < 0):
        return truth(not same)
    if lo == hi == 0:
        return truth(same)
    g = gcd(*terms.values())
    if constant % g:
        return truth(not same)
    first = in_order(terms)[0]
    g = g if terms[first] > 0 else -g
    return _spell(op, {a: m // g for a, m in terms.items()}, -(constant // g))


def _spell(op: Op, terms: dict[UOp, int], n: int) -> UOp:
    """``sum op n`` as a reader would write it: positive terms on the left, negative ones on the right."""
    left = {a: m for a, m in terms.items() if m > 0}
    right = {a: -m for a, m in terms.items() if m < 0}
    if op is Op.LT and left and right and n == 1:
        op, n = Op.LE, 0
    a, b = (total((left, 0)), total((right, n))) if left else (total(({}, -n)), total((right, 0)))
    return UOp(op, dt.bool_, (a, b))


def negated(c: UOp, known: Known) -> UOp:
    """The condition that holds where ``c`` does not."""
    if c.op is Op.CONST:
        return truth(not c.arg)
    if c.op is Op.NOT:
        return c.src[0]
    a, b = c.src if c.op in _OPPOSITE else (c, c)
    if c.op in (Op.EQ, Op.NE) or (c.op in _OPPOSITE and a.dtype.is_int):  # NaN < x and x <= NaN are both false
        op, sides = _OPPOSITE[c.op], (a, b) if c.op in (Op.EQ, Op.NE) else (b, a)
        found = compare(op, sides[0], sides[1], known) if a.dtype is dt.index else None
        return UOp(op, dt.bool_, sides) if found is None else found
    return UOp(Op.NOT, dt.bool_, (c,))


def combine(op: Op, node: UOp, known: Known) -> UOp | None:
    """A bool AND or OR in normal form; None where it has too many conditions to say."""
    parts = conditions(op, node)
    if parts is None:
        return None
    inner = Op.OR if op is Op.AND else Op.AND
    parts = _absorbed(inner, parts)
    if op is Op.AND:
        found = _conjunction(parts, known)
        return FALSE if found is None else _chain(Op.AND, found)
    found = _conjunction([negated(p, known) for p in parts], known)
    return TRUE if found is None else _chain(Op.OR, [negated(p, known) for p in found])


def conditions(op: Op, node: UOp) -> list[UOp] | None:
    """What a chain of ANDs (or ORs) combines, once each; None if too many."""
    found: dict[UOp, None] = {}
    seen: set[UOp] = set()
    stack = [node]
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if len(seen) > 2 * WIDEST:
            return None
        if n.op is op and n.dtype is dt.bool_:
            stack.extend(reversed(n.src))
        else:
            found[n] = None
    return list(found)


def _chain(op: Op, parts: Iterable[UOp]) -> UOp:
    node: UOp | None = None
    for p in in_order(dict.fromkeys(parts)):
        node = p if node is None else UOp(op, dt.bool_, (node, p))
    return truth(op is Op.AND) if node is None else node


def _absorbed(inner: Op, parts: list[UOp]) -> list[UOp]:
    """``a & (a | b)`` is ``a``, and with the ops exchanged."""
    simple = {p for p in parts if p.op is not inner}
    return [p for p in parts if p.op is not inner or simple.isdisjoint(conditions(inner, p) or ())]


def _conjunction(parts: list[UOp], known: Known) -> list[UOp] | None:
    """Conditions that together say the same, none of them idle; None if they cannot all hold."""
    kept = [p for p in parts if p is not TRUE]
    held = set(kept)
    if FALSE in held or any(negated(p, known) in held for p in kept):
        return None
    merged = _merged(kept, known)
    if merged is None or len(merged) < 2:
        return merged
    facts = {p: facts_of(p, known.facts) for p in merged}
    for p in in_order(p for p in merged if facts[p] or p.op is Op.NE):
        if p.src[0].dtype is not dt.index:
            continue
        given = dict(known.facts)
        for q in merged:
            if q is not p:
                for node, span in facts[q].items():
                    given[node] = meet(given.get(node, (None, None)), span)
        decided = compare(p.op, p.src[0], p.src[1], Known(given)) if any(n.ranges & p.ranges for n in given) else None
        if decided is FALSE:
            return None
        if decided is TRUE:
            merged.remove(p)
    return merged


def _merged(parts: list[UOp], known: Known) -> list[UOp] | None:
    """The conditions with the bounds of each sum merged to one interval; None if one is empty."""
    spans: dict[UOp, Span] = {}
    forms: dict[UOp, Form] = {}
    sources: dict[UOp, list[UOp]] = {}
    rest: list[UOp] = []
    for p in parts:
        found = _interval(p)
        if found is None:
            rest.append(p)
            continue
        key, form, (lo, hi) = found
        a, b = spans.get(key, (None, None))
        a, b = (
            lo if a is None or (lo is not None and lo > a) else a,
            hi if b is None or (hi is not None and hi < b) else b,
        )
        if a is not None and b is not None and a > b:
            return None
        spans[key], forms[key] = (a, b), form
        sources.setdefault(key, []).append(p)
    for key, (lo, hi) in spans.items():
        if len(sources[key]) == 1:
            rest.extend(sources[key])
            continue
        terms = forms[key][0]
        if lo is not None and lo == hi:
            made = [_equal(Op.EQ, (terms, -lo), known)]
        else:
            made = [] if hi is None else [_less(terms, hi + 1, known)]
            made += [] if lo is None else [_less({a: -m for a, m in terms.items()}, -lo + 1, known)]
        if FALSE in made:
            return None
        rest.extend(p for p in made if p is not TRUE)
    return rest


def _interval(p: UOp) -> tuple[UOp, Form, Span] | None:
    """(a sum whose first factor is positive, its form, the interval in which ``p`` says it lies)."""
    if p.op not in (Op.LT, Op.LE, Op.EQ) or p.src[0].dtype is not dt.index:
        return None
    left, right = affine_within(p.src[0], WIDEST), affine_within(p.src[1], WIDEST)
    if left is None or right is None:
        return None
    terms, constant = plus(left, right, -1)
    if not terms:
        return None
    positive = terms[in_order(terms)[0]] > 0
    top = -constant - (p.op is Op.LT)
    if not positive:
        terms = {a: -m for a, m in terms.items()}
    span: Span = (-constant, -constant) if p.op is Op.EQ else (None, top)
    if not positive:
        span = (None if span[1] is None else -span[1], None if span[0] is None else -span[0])
    return total((terms, 0)), (terms, 0), span
