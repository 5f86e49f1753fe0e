"""Reductions with a known form, without their loop: selections become gathers, sums of lines arithmetic.

    sum_r  where(r == e & c(r), v(r), 0)         is  where(0 <= e < n & c(e), v(e), 0)       so for max, min, any, all
    sum_r  where(lo <= r < hi, a + b r, 0)       is  a count + b (sum of lo..hi-1)           integers
    sum_r  where(lo <= r < hi, a, 0)             is  a count                                 floats too, see below
    max_r  where(lo <= r < hi, a + b r, -inf)    is  the value at the last r, or the first   min, and floats of it, too
    any_r, all_r, max_r, min_r  of a             is  a, where there is an iteration

with ``e lo hi a b`` free of ``r`` and ``n`` its extent; bounds are those of ``limits``. Integers wrap as the loop does.
Sums of floats keep their bits, the sign of zero included, but for two licences that ``strict=True`` withdraws: a factor
``cast(r == e)`` selects, so what it leaves out does not make the sum NaN where it is infinite or NaN; and ``n`` equal
terms are ``n`` times one, rounded once.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine, plus, total
from rangekit.ir.binding import substitute
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, cast, const, idx, toposort
from rangekit.lower.canon import carry_tree
from rangekit.lower.limits import equal_to, exact
from rangekit.lower.terms import DEEPEST, Groups, Leaves, Terms, finite

Carry = Callable[[UOp, UOp], None]
Line = tuple[UOp, UOp | None]  # (a, b) for a + b * r, b None for 0

LONGEST = 1 << 31  # of a range whose indices are summed: the sum fits 64 bits
_DIGITS = {16: 8, 32: 24, 64: 53}  # bits of a float's fraction


def closed(sink: UOp, strict: bool, carry: Carry, reasons: list[str], open_: set[UOp]) -> UOp:
    """The program without the loops of reductions that have a known form; ``reasons`` gets a line for each.

    ``open_`` collects those that have none, so that the same program is not looked at twice.
    """
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        new = n if src == n.src else n.replace(src=src)
        if new.op is Op.REDUCE and new.arg in _RULES and new not in open_:
            new = _closed(new, strict, carry, reasons)
            open_.add(new)
        if new is not n:
            carry(n, new)
        memo[n] = new
    return memo[sink]


def _closed(n: UOp, strict: bool, carry: Carry, reasons: list[str]) -> UOp:
    """A reduction with as few of its ranges as the rules leave."""
    while n.op is Op.REDUCE:
        leaves = Leaves()
        body, ranges = leaves.hidden(n.src[0]), n.src[1:]
        tries = ((r, licence) for licence in ((False,) if strict else (False, True)) for r in reversed(ranges))
        terms = (Terms(n, body, r, licence, leaves) for r, licence in tries)
        found = next((made for t in terms if (made := _tried(t, strict)) is not None), None)
        if found is None:
            return n
        r, value = found
        value = leaves.shown(value)
        rest = tuple(a for a in ranges if a is not r)
        new = UOp(Op.REDUCE, n.dtype, (value, *rest), n.arg) if rest else value
        reasons.append(f"closed: {expression(n)} is {expression(new)}")
        carry_tree(n.src[0], value, carry)
        n = new
    return n


def _tried(terms: Terms, strict: bool) -> tuple[UOp, UOp] | None:
    """A range, and what is left to reduce over the others, or the whole reduction if there are none."""
    made = next((made for rule in _RULES[terms.reducer] if (made := rule(terms, strict)) is not None), None)
    if made is None:
        return None
    made = simplify(made)
    return terms.r, made if len(terms.node.src) > 2 else terms.only(made)


# ---- rules: what remains of one range, or None -----------------------------------------------------------------------


def _selection(terms: Terms, strict: bool) -> UOp | None:
    """The one iteration that an equation leaves."""
    r = terms.r
    later = set(terms.node.src[terms.node.src.index(r) + 1 :])
    for c in terms.about():
        place = equal_to(c, r)
        if place is None or (strict and terms.dtype.is_float and place.ranges & later):
            continue  # in another order than the loops'
        level = next(n for n, g in enumerate(terms.groups) if c in g)
        before: Groups | None = terms.others()[: level + 1]
        if terms.leaves.wants_gate((place, *(m for g in before or () for m in g))):
            before = terms.gates(level + 1, equation=c)
        if before is None:
            continue  # what has to hold to find the iteration cannot be told before it is found
        before[-1] += [alu(Op.LE, idx(0), place), alu(Op.LT, place, r.size)]
        after: Groups = [
            [substitute(m, {r: place}) for m in g if m is not c and (r in m.ranges or n > level)]
            for n, g in enumerate(terms.groups)
        ]
        return terms.where([*before, *after], substitute(terms.value, {r: place}))
    return None


def _same(terms: Terms, strict: bool) -> UOp | None:
    """One value for all iterations: itself, if there are any."""
    gates = terms.gates(len(terms.groups)) if terms.r not in terms.value.ranges else None
    return None if gates is None else terms.where(gates, terms.value)


def _extreme(terms: Terms, strict: bool) -> UOp | None:
    """The greatest or least value of a line: at one of its ends."""
    span = terms.span()
    x = terms.value.src[0] if terms.value.op is Op.CAST and terms.dtype.is_float else terms.value
    whole = exact(x, terms.r) if span is not None and x.dtype.is_int else None
    line = _of_form(affine(whole), terms.r) if whole is not None else None
    gates = terms.gates(len(terms.groups))
    if span is None or line is None or gates is None:
        return None
    at = alu(Op.ADD, span[1], idx(-1)) if (line[1] > 0) is (terms.reducer == "max") else span[0]
    return terms.where(gates, substitute(terms.value, {terms.r: simplify(at)}))


def _sum(terms: Terms, strict: bool) -> UOp | None:
    """A sum of the values of a line, or of equal floats."""
    r, d = terms.r, terms.dtype
    if d.is_float and (r in terms.value.ranges or (strict and not _counts(terms))):
        return None
    span = terms.span()
    line = _linear(terms.value, r, 0) if span is not None else None
    if line is None or span is None or (line[1] is not None and r.extent >= LONGEST):
        return None
    lo, hi = simplify(alu(Op.MIN, *span)), span[1]
    count = simplify(alu(Op.ADD, hi, alu(Op.MUL, lo, idx(-1))))
    first, slope = line
    value = alu(Op.MUL, first, cast(count, d))
    if slope is not None:  # lo + ... + (hi - 1), twice: each pair of ends adds up to the same
        ends = alu(Op.ADD, alu(Op.ADD, lo, hi), idx(-1))
        indices = simplify(alu(Op.IDIV, alu(Op.MUL, count, ends), idx(2)))
        value = alu(Op.ADD, value, alu(Op.MUL, slope, cast(indices, d)))
    groups: Groups | None = terms.others()
    if (d.is_float and not finite(first)) or terms.leaves.wants_gate((value, *(c for g in terms.groups for c in g))):
        groups = terms.gates(len(terms.groups))  # 0 times what is not finite is not 0
    return None if groups is None else terms.where(groups, value)


Rule = Callable[[Terms, bool], UOp | None]
_CHOICE: tuple[Rule, ...] = (_selection, _same)
_RULES: dict[object, tuple[Rule, ...]] = {
    "add": (_selection, _sum), "mul": (_selection,), "max": (*_CHOICE, _extreme), "min": (*_CHOICE, _extreme),
    "or": _CHOICE, "and": _CHOICE,
}  # fmt: skip


# ---- lines -----------------------------------------------------------------------------------------------------------


def _linear(n: UOp, r: UOp, depth: int) -> Line | None:
    """A value as a line, wrapped to its type if it is an integer."""
    d = n.dtype
    if r not in n.ranges:
        return n, None
    if depth > DEEPEST or d.kind not in "iu":
        return None
    whole = n.src[0] if n.op is Op.CAST and n.src[0].dtype is dt.index else exact(n, r)  # an index is cut, and so a sum
    line = None if whole is None else _of_form(affine(simplify(whole)), r)
    if line is not None:
        return UOp(Op.CAST, d, (line[0],)), const(line[1], d) if line[1] else None
    if n.op is Op.MUL:
        for x, y in (n.src, n.src[::-1]):
            inner = _linear(x, r, depth + 1) if r not in y.ranges else None
            if inner is not None:
                return _each(inner, lambda v, y=y: alu(Op.MUL, v, y))  # type: ignore[misc]
        return None
    if n.op is Op.NEG or (n.op is Op.CAST and n.src[0].dtype.kind in "iu" and n.src[0].dtype.bits >= d.bits):
        inner = _linear(n.src[0], r, depth + 1)
        return None if inner is None else _each(inner, lambda v: n.replace(src=(v,)))
    if n.op not in (Op.ADD, Op.SUB):
        return None
    left, right = (_linear(s, r, depth + 1) for s in n.src)
    if left is None or right is None:
        return None
    zero = const(0, d)
    slope = alu(n.op, *(zero if b is None else b for _, b in (left, right)))
    return alu(n.op, left[0], right[0]), slope


def _of_form(form: Form, r: UOp) -> tuple[UOp, int] | None:
    """A sum as (what is free of ``r``, how often ``r``)."""
    slope = form[0].get(r, 0)
    rest = plus(form, ({r: 1}, 0), -slope)
    return None if any(r in m.ranges for m in rest[0]) else (total(rest), slope)


def _each(line: Line, fn: Callable[[UOp], UOp]) -> Line:
    return fn(line[0]), None if line[1] is None else fn(line[1])


def _counts(terms: Terms) -> bool:
    """Whether adding a value again and again never rounds: small whole numbers."""
    most, value = 1 << _DIGITS[terms.dtype.bits], terms.value
    if value.op is not Op.CONST or not abs(value.arg) <= most:
        return False
    return bool(value.arg == int(value.arg) and abs(value.arg) * terms.r.extent <= most)
