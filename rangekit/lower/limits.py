"""Conditions of a reduction as bounds of its loops: what ``where=`` leaves out is not run.

A comparison that is linear in a reduced range, with anything free of it on the other side (loaded values too), says
where the iterations that take part begin or end; a condition free of all of them, whether there are any. Bounds are
exact whatever the data is: a loaded value is cut to what can make a difference before anything is computed from it, so
nothing overflows, and every bound lies in 0..extent. Machine integers wrap; where a sum of them might, the bound holds
under a test for that, and the condition stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine, in_order, plus, times, total
from rangekit.ir.bounds import bounds
from rangekit.ir.logic import TRUE
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.spec import arity
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, const, idx, toposort
from rangekit.lower.proof import conjuncts

Bounds = tuple[UOp | None, UOp | None]  # first iteration, one past the last; None where the range's own
Limit = tuple[UOp, UOp | None, UOp | None, frozenset[UOp]]  # a range, its bounds, the conditions they hold under

SAFE = 1 << 61  # sums of a few numbers below this fit the machine
DEEPEST = 16  # operations of machine integers that are looked through
_LINEAR = frozenset({Op.CAST, Op.ADD, Op.SUB, Op.MUL, Op.NEG})


def limits(reduction: UOp) -> tuple[dict[UOp, Bounds], tuple[UOp, ...]]:
    """Loop bounds that the excluded iterations of a REDUCE allow, and the values left to compute within them.

    The bounds of a range use nothing but what is around the reduction and the ranges before it in the REDUCE.
    """
    count = arity(reduction)
    values, ranges = reduction.src[:count], reduction.src[count:]
    neutral = reducer(reduction.arg).identity(tuple(v.dtype for v in values))
    conditions: set[UOp] = set()
    while all(
        v.op is Op.WHERE and v.src[2] is e and v.src[0] is values[0].src[0]
        for v, e in zip(values, neutral, strict=True)
    ):
        conditions |= conjuncts(values[0].src[0])
        values = tuple(v.src[1] for v in values)
    found, rest = bounded(conditions, ranges)
    outer = [c for c in rest if c.ranges.isdisjoint(ranges) and not _along(values, c.ranges)]
    if outer:
        rest = [c for c in rest if c not in outer]
        lo, hi = found.get(ranges[0], (None, None))
        found[ranges[0]] = lo, UOp(Op.WHERE, dt.index, (_all(outer), ranges[0].size if hi is None else hi, idx(0)))
    if not rest:
        return found, values
    mask = _all(rest)
    return found, tuple(alu(Op.WHERE, mask, v, e) for v, e in zip(values, neutral, strict=True))


def _along(values: Sequence[UOp], ranges: frozenset[UOp]) -> bool:
    """Whether rows of what is read lie along these ranges and no others: lanes, which end together or not at all."""
    rows = {r for n in toposort(*values) if n.op is Op.INDEX and len(n.src) > 1 for r in n.src[-1].ranges}
    return bool(rows) and rows <= ranges


def _all(conditions: Sequence[UOp]) -> UOp:
    whole = conditions[0]
    for c in conditions[1:]:
        whole = alu(Op.AND, whole, c)
    return whole


def bounded(conditions: Iterable[UOp], ranges: Sequence[UOp]) -> tuple[dict[UOp, Bounds], list[UOp]]:
    """What a set of conditions says of ranges (outer to inner), and the conditions that the bounds do not imply."""
    found: dict[UOp, Bounds] = {}
    rest: list[UOp] = []
    for c in in_order(conditions):
        said = limit(c, ranges)
        if not said or any(guards for *_, guards in said):
            rest.append(c)
        for r, lo, hi, guards in said:
            for g in in_order(guards):
                lo = None if lo is None else UOp(Op.WHERE, dt.index, (g, lo, idx(0)))
                hi = None if hi is None else UOp(Op.WHERE, dt.index, (g, hi, r.size))
            old_lo, old_hi = found.get(r, (None, None))
            lo = lo if old_lo is None else old_lo if lo is None else simplify(alu(Op.MAX, old_lo, lo))
            hi = hi if old_hi is None else old_hi if hi is None else simplify(alu(Op.MIN, old_hi, hi))
            found[r] = lo, hi
    return found, rest


def limit(c: UOp, ranges: Sequence[UOp]) -> list[Limit]:
    """The bounds that one condition gives the innermost of the ranges that it is about; none if it is not linear."""
    if c.op not in (Op.LT, Op.LE, Op.EQ) or not c.src[0].dtype.is_int:
        return []
    guards: set[UOp] = set()
    a, b = (_exact(s, frozenset(ranges), guards) for s in c.src)
    c = simplify(alu(c.op, a, b))  # in normal form: one range, nothing divided
    if c.op is Op.CONST:
        return [(ranges[-1], None, None if c.arg else idx(0), frozenset(guards))]
    if c.op not in (Op.LT, Op.LE, Op.EQ):
        return []
    gap = plus(affine(c.src[1]), affine(c.src[0]), -1)
    about = [r for r in ranges if r in gap[0]]
    if not about:
        return []
    r = about[-1]
    inner = set(ranges[ranges.index(r) :])
    if any(atom is not r and atom.ranges & inner for atom in gap[0]):
        return []
    strict: Form = ({}, -1 if c.op is Op.LT else 0)
    said = [_one(r, plus(gap, strict), frozenset(guards))]
    if c.op is Op.EQ:
        said.append(_one(r, ({n: -m for n, m in gap[0].items()}, -gap[1]), frozenset(guards)))
    return [s for s in said if s is not None]


def equal_to(c: UOp, r: UOp) -> UOp | None:
    """The value that ``r`` has where an equation holds, free of it; outside 0..extent where there is none.

    None if the condition is no such equation.
    """
    if c.op is not Op.EQ or not c.src[0].dtype.is_int:
        return None
    a, b = (exact(s, r) for s in c.src)
    c = simplify(alu(Op.EQ, a, b)) if a is not None and b is not None else c
    if a is None or b is None or c.op is not Op.EQ:
        return None
    gap = plus(affine(c.src[1]), affine(c.src[0]), -1)
    factor = gap[0].get(r)
    if factor not in (1, -1) or any(r in atom.ranges for atom in gap[0] if atom is not r):
        return None
    there = times(plus(gap, ({r: 1}, 0), -factor), -factor)
    plain = total(there)
    if plain.op is Op.CAST and plain.src[0].dtype.kind == "i":
        return plain
    narrow = _narrow(there, -1, r.extent)
    return None if narrow is None or narrow[1] else simplify(narrow[0])


def exact(n: UOp, r: UOp) -> UOp | None:
    """An integer expression as an index in which ``r`` is a number, not cut to a type; None where it may wrap."""
    guards: set[UOp] = set()
    whole = _exact(n, frozenset((r,)), guards)
    return None if guards else simplify(whole)


def _one(r: UOp, gap: Form, guards: frozenset[UOp]) -> Limit | None:
    """The bound of ``r`` where ``gap`` (linear in it) is at least 0."""
    factor, top = gap[0][r], r.extent - 1
    rest = plus(gap, ({r: 1}, 0), -factor)
    below = min(0, -factor * top) - 1  # where the rest is no more, no iteration takes part
    above = max(0, -factor * top)  # where it is no less, all do
    plain = _bound(total(rest), factor)
    if plain.op is Op.CAST and plain.src[0].dtype.kind == "i":
        return _cut(r, plain, factor, guards)  # a loaded value by itself
    narrow = _narrow(rest, below, above)
    return None if narrow is None else _cut(r, _bound(narrow[0], factor), factor, guards | narrow[1])


def _bound(rest: UOp, factor: int) -> UOp:
    """The first ``r`` with ``factor * r + rest >= 0``, or, with a negative factor, one past the last."""
    quotient = simplify(alu(Op.IDIV, rest, idx(abs(factor))))
    return simplify(alu(Op.MUL, quotient, idx(-1)) if factor > 0 else alu(Op.ADD, quotient, idx(1)))


def _cut(r: UOp, bound: UOp, factor: int, guards: frozenset[UOp]) -> Limit:
    """The bound within 0..extent: what is subtracted from an end must not overflow."""
    if factor > 0:
        return r, simplify(alu(Op.MAX, bound, idx(0))), None, guards
    if bounds(bound)[0] < -SAFE:
        bound = alu(Op.MAX, bound, idx(0))
    return r, None, simplify(alu(Op.MIN, bound, r.size)), guards


def _narrow(form: Form, below: int, above: int) -> tuple[UOp, frozenset[UOp]] | None:
    """A sum at most ``below`` or at least ``above`` where ``form`` is, else equal; and where it does not overflow."""
    terms, constant = form
    wide = [n for n, m in terms.items() if max(map(abs, bounds(alu(Op.MUL, n, idx(m))))) > SAFE]
    rest: Form = ({n: m for n, m in terms.items() if n not in wide}, constant)
    lo, hi = bounds(total(rest))
    if max(abs(lo), abs(hi)) > SAFE or len(wide) > 2 or any(n.op is not Op.CAST for n in wide):
        return None
    if not wide:
        return total(form), frozenset()
    first, last = below - int(hi), above - int(lo)  # what the wide terms may add up to and still make a difference
    if len(wide) == 1:
        m = terms[wide[0]]
        ends = (first // m, -(-last // m)) if m > 0 else (last // m, -(-first // m))
        return total(plus(rest, ({_clamped(wide[0], *ends): m}, 0))), frozenset()
    a, b = sorted(wide, key=lambda n: -terms[n])
    if (terms[a], terms[b]) != (1, -1) or any(n.src[0].dtype.kind != "i" for n in wide):
        return None
    x, d = b.src[0], b.src[0].dtype
    near = alu(Op.MAX, alu(Op.MIN, a, alu(Op.ADD, b, idx(last))), alu(Op.ADD, b, idx(first)))
    room = (const(int(d.min) - min(first, 0), d), x), (x, const(int(d.max) - max(last, 0), d))
    tests = (simplify(alu(Op.LE, *sides)) for sides in room)
    return total(plus(rest, ({near: 1, b: -1}, 0))), frozenset(t for t in tests if t is not TRUE)


def _clamped(n: UOp, lo: int, hi: int) -> UOp:
    """A cast to an index, cut to lo..hi in the type it is cast from."""
    x = n.src[0]
    least, most = bounds(x)
    if hi < most:
        x = alu(Op.MIN, x, const(max(hi, int(x.dtype.min)), x.dtype))
    if lo > least:
        x = alu(Op.MAX, x, const(min(lo, int(x.dtype.max)), x.dtype))
    return UOp(Op.CAST, dt.index, (x,))


# ---- machine integers as the integers they are ---------------------------------------------------------------------


def _exact(n: UOp, ranges: frozenset[UOp], guards: set[UOp], depth: int = 0) -> UOp:
    """An integer expression as an index: sums and casts that cannot wrap are looked through, and under ``guards`` those
    of the ranges that might; the rest is a value cast.
    """
    d = n.dtype
    if d is dt.index:
        return n
    if n.op is Op.CONST:
        return idx(int(n.arg))
    opaque = UOp(Op.CAST, dt.index, (n,))
    if depth > DEEPEST or n.op not in _LINEAR or not n.src[0].dtype.is_int:
        return opaque
    mine: set[UOp] = set()
    parts = [_exact(s, ranges, mine, depth + 1) for s in n.src]
    if n.op is Op.MUL and not any(p.op is Op.CONST for p in parts):
        return opaque
    whole = parts[0]
    if n.op is not Op.CAST:
        b = alu(Op.MUL, parts[-1], idx(-1)) if n.op in (Op.SUB, Op.NEG) else parts[-1]
        whole = b if n.op is Op.NEG else alu(Op.MUL if n.op is Op.MUL else Op.ADD, parts[0], b)
    whole = simplify(whole)
    lo, hi = bounds(whole)
    if not (d.min <= lo and hi <= d.max):
        room = _room(n, parts, 1 if n.op is Op.ADD else -1, ranges) if n.op in (Op.ADD, Op.SUB) else None
        if room is None or n.ranges.isdisjoint(ranges):
            return opaque
        mine |= set(room)
    guards |= mine
    return whole


def _room(n: UOp, parts: list[UOp], sign: int, ranges: frozenset[UOp]) -> tuple[UOp, ...] | None:
    """Conditions on one operand, free of the ranges, under which ``parts[0] + sign * parts[1]`` does not wrap."""
    d = n.dtype
    for k, factor in ((0, 1), (1, sign)):
        lo, hi = bounds(alu(Op.MUL, parts[1 - k], idx(sign if k == 0 else 1)))
        if max(abs(lo), abs(hi)) > SAFE or n.src[k].ranges & ranges:
            continue
        least, most = int(d.min) - min(int(lo), 0), int(d.max) - max(int(hi), 0)  # of factor * operand
        least, most = (least, most) if factor > 0 else (-most, -least)
        x = n.src[k]
        tests = (const(max(least, int(d.min)), d), x), (x, const(min(most, int(d.max)), d))
        return tuple(t for a, b in tests if (t := simplify(alu(Op.LE, a, b))) is not TRUE)
    return None
