"""Places that are counts: an index that tells iterations apart by how much comes before each of them.

Compaction, counting sort and ranks write what iteration a has where the elements before it end: at the sum over all
elements j of a number w(a, j), and a rest r(a). Sums, running sums, histograms and what buffers keep of them are read
as such sums. Say that a comes before b if its rest, with what j = a and j = b bring to it, is less than that of b. If
of any two iterations one comes before the other, and then w(a, j) <= w(b, j) for every other j, no two have one sum:
two questions about three iterations, which Z3 answers whatever the data are. If besides each w(a, j) is 0 or 1, and an
iteration brings nothing to its own, the sum is less than the number of elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.bounds import added, hull, interval, scaled, whole
from rangekit.ir.logic import conditions
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.spec import binding, bound_ranges
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, const, idx, new_range, toposort
from rangekit.lower.limits import equal_to
from rangekit.lower.proof import exact_index, is_mark, proof
from rangekit.lower.prove import never
from rangekit.lower.versions import Carry

NODES, DEEPEST = 2000, 60  # of an index that are read before it is left alone, and above one another
_ZERO, _ONE = idx(0), idx(1)


def counted(sink: UOp, carry: Carry, reasons: list[str]) -> UOp:
    """The program in which an ASSIGN to places that are counts needs neither promise nor proof any more."""
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        new = n if src == n.src else n.replace(src=src)
        found = _found(n) if n.op is Op.ASSIGN and n.arg in (None, "unique") else None
        if found is not None:
            reasons.append(f"{expression(n.src[1])} writes each element once: its index counts what comes before")
            base, place, value = new.src[:3]
            if found.within:
                inside = UOp(Op.IN_RANGE, dt.index, (place.src[1 + found.axis], _ZERO, idx(found.within)), "z3")
                at = tuple(inside if k == found.axis else i for k, i in enumerate(place.src[1:]))
                known = place.replace(src=(place.src[0], *at))
                carry(place, known)
                place = known
            new = new.replace(src=(base, place, value, *new.src[len(new.src) - len(bound_ranges(n)) :]), arg="any")
        if new is not n:
            carry(n, new)
        memo[n] = new
    return memo[sink]


class Count(NamedTuple):
    """The axis whose index is a count, and what that is known to be less than; 0 if it is not."""

    axis: int
    within: int


def _found(write: UOp) -> Count | None:
    """An axis of an ASSIGN's place by which no two iterations have one place."""
    places, ranges = write.src[1].src[1:], bound_ranges(write)
    bare = {p for p in places if p.op is Op.RANGE and p in ranges}
    own = tuple(r for r in ranges if r not in bare)
    if not own:
        return None
    for axis, p in enumerate(places):
        if not any(n.op in (Op.REDUCE, Op.SCAN) for n in toposort(p)):
            continue
        reader = _Reader(own)
        try:
            total = Sum(*map(simplify, reader.read(p)))
        except (_Unreadable, RecursionError):
            continue
        facts = _and(_sure(places))
        others = [_unmarked(q) for k, q in enumerate(places) if k != axis and q not in bare]
        if _ordered(total, reader, facts, others):
            return Count(axis, reader.count if _free(p) and _inside(total, reader) else 0)
    return None


def _ordered(total: Sum, reader: _Reader, facts: UOp, others: list[UOp]) -> bool:
    """Whether of any two iterations that agree in the other indices one comes before the other, and has less."""
    a = reader.own
    b = tuple(new_range(r.length, r.arg.name) for r in a)
    there = dict(zip(a, b, strict=True))
    self_a, self_b = reader.that(a), reader.that(b)
    w, r = total
    w_b, r_b = substitute((w, r), there)
    of_a, of_b = (_sum_of(_sum_of(*(substitute(n, at) for at in (self_a, self_b))), m) for n, m in ((w, r), (w_b, r_b)))
    two = [facts, substitute(facts, there), _differ(there), *(alu(Op.EQ, q, substitute(q, there)) for q in others)]
    wrong_way = [alu(Op.LT, of_a, of_b), _differ(self_a), _differ(self_b), alu(Op.LT, w_b, w)]
    return all(never("counted", _and([*two, *more])) for more in ([alu(Op.EQ, of_a, of_b)], wrong_way))


def _inside(total: Sum, reader: _Reader) -> bool:
    """Whether every other element brings 0 or 1, and an iteration itself nothing: it is less than their number."""
    w, r = total
    self_a = reader.that(reader.own)
    off = alu(Op.OR, alu(Op.LT, w, _ZERO), alu(Op.LT, _ONE, w))
    own = _sum_of(substitute(w, self_a), r)
    return never("a count", _and([_differ(self_a), off])) and never("a count", alu(Op.NE, own, _ZERO))


def _free(p: UOp) -> bool:
    """Whether nothing that an index is made of has to be guarded: then it is what it says in every launch."""
    return all(
        proof(i, size, frozenset())
        for n in toposort(p)
        for i, size in ([(n.src[-1], n.arg[2])] if is_mark(n) else _indices(n) if n.op is Op.INDEX else ())
    )


def _indices(n: UOp) -> list[tuple[UOp, int]]:
    """The indices of an access, and the sizes that they have to stay below."""
    return [(i, s) for i, s in zip(n.src[1:], n.src[0].shape, strict=False) if not is_mark(i)]


def _differ(pairs: Mapping[UOp, UOp]) -> UOp:
    out: UOp = const(False, dt.bool_)
    for x, y in pairs.items():
        part = alu(Op.NE, x, y)
        out = part if out.op is Op.CONST else alu(Op.OR, out, part)
    return out


def _and(parts: Iterable[UOp]) -> UOp:
    out: UOp = const(True, dt.bool_)
    for part in parts:
        out = part if out.op is Op.CONST else alu(Op.AND, out, part)
    return out


def _sure(places: tuple[UOp, ...]) -> list[UOp]:
    """What holds in every iteration that comes to its store: the indices that were read are inside their arrays."""
    found: dict[UOp, None] = {}
    seen: set[UOp] = set()
    stack = list(places)
    while stack:
        n = stack.pop()
        if n in seen:
            continue
        seen.add(n)
        if is_mark(n):
            found.update(dict.fromkeys(_within(n.src[-1], n.arg[2])))
        elif n.op is Op.INDEX:
            for i, size in _indices(n):
                found.update(dict.fromkeys(_within(i, size)))
            inner = n.src[0]
            if inner.op is Op.SCAN:
                stack.append(substitute(inner.src[-2], {inner.src[-1]: n.src[1]}))
            elif inner.op is Op.BUFFERIZE:
                stack.append(substitute(inner.src[0], dict(zip(inner.src[1:], n.src[1:], strict=False))))
        scope = binding(n)
        stack += n.src[:1] if n.op is Op.WHERE else n.src if scope is None else n.src[: scope[0]]
    return [c for c in found if c.ranges and not _gated(c)]


def _within(i: UOp, size: int) -> tuple[UOp, UOp]:
    i = _unmarked(i)
    return alu(Op.LE, _ZERO, i), alu(Op.LT, i, idx(size))


# ---- indices as sums -------------------------------------------------------------------------------------------------


class Sum(NamedTuple):
    """``each`` summed over every j, and ``rest``, as indices."""

    each: UOp
    rest: UOp


class _Unreadable(Exception):
    """A sum over something that is neither all elements nor one of them."""


class _Reader:
    """Indices over the ranges ``own`` as sums over ``each``, ranges like them."""

    def __init__(self, own: tuple[UOp, ...]) -> None:
        self.own = own
        self.each = tuple(new_range(r.length, r.arg.name) for r in own)
        self.count = math.prod(r.extent for r in own)
        self.scans: dict[int, UOp] = {}
        self.left, self.deep = NODES, 0
        self.inner = 0  # sums around what is read

    def that(self, ranges: tuple[UOp, ...]) -> dict[UOp, UOp]:
        """The element that an iteration is."""
        return dict(zip(self.each, ranges, strict=True))

    def read(self, n: UOp) -> Sum:
        """An index or integer as such a sum."""
        self.left -= 1
        self.deep += 1
        if not self.left or self.deep > DEEPEST:
            raise _Unreadable
        found = self._read(n)
        self.deep -= 1
        return found

    def _read(self, n: UOp) -> Sum:
        op = n.op
        if is_mark(n):
            return self.read(n.src[0])
        if not self.inner:
            known = self._counted(n)
            if known is not None:
                return known
        if op is Op.CAST and n.src[0].dtype.kind == "b":
            return Sum(_ZERO, _number(_unmarked(n.src[0])))
        if op is Op.CAST and n.src[0].dtype.kind in "iux":
            found = self.read(n.src[0])
            return found if self._fits(found, n.src[0]) else _leaf(n)
        if op is Op.MUL and n.src[1].op is Op.CONST:
            return Sum(*(_times(v, idx(n.src[1].arg)) for v in self.read(n.src[0])))
        if op in (Op.ADD, Op.SUB):
            return _plus(self.read(n.src[0]), self.read(n.src[1]), 1 if op is Op.ADD else -1)
        if op is Op.WHERE and n.src[2].op is not Op.INVALID:
            c, a, b = _unmarked(n.src[0]), self.read(n.src[1]), self.read(n.src[2])
            return Sum(_choice(c, a.each, b.each), _choice(c, a.rest, b.rest))
        if op is Op.REDUCE and n.arg == "add":
            return self._over(self._term(n.src[0]), n.src[1:])
        if op is Op.STATE:
            return self._state(n, ())
        if op is Op.INDEX:
            return self._element(n.src[0], tuple(map(_unmarked, n.src[1:])), n)
        return _leaf(n)

    def _counted(self, n: UOp) -> Sum | None:
        """A number as a count: an iteration of those before it, a size of all, any other of shares."""
        if len(self.own) == 1 and n is self.own[0]:
            return Sum(_number(alu(Op.LT, self.each[0], n)), _ZERO)
        if len(self.own) == 1 and n is self.own[0].size:
            return Sum(_ONE, _ZERO)
        if n.op is Op.CONST and self.count and all(len(r.src) == 1 for r in self.own):
            share = (2 * n.arg + self.count) // (2 * self.count)
            return Sum(idx(share), idx(n.arg - share * self.count))
        return None

    def _term(self, n: UOp) -> Sum:
        """What is summed over more than the elements."""
        self.inner += 1
        found = self.read(n)
        self.inner -= 1
        return found

    def _fits(self, found: Sum, n: UOp) -> bool:
        """Whether a sum did not wrap in the type it was computed in."""
        if n.dtype is dt.index:
            return True
        most = scaled(interval(found.each, {}), self.count)
        if any(len(r.src) > 1 for r in self.own):  # there may be fewer
            most = hull(most, (0, 0))
        span = added(most, interval(found.rest, {}))
        return hull(span, whole(n.dtype)) == whole(n.dtype)

    def _element(self, base: UOp, at: tuple[UOp, ...], n: UOp) -> Sum:
        """An element of storage, by what was put there."""
        if any(map(_gated, at)):
            return _leaf(n)
        if base.op is Op.BUFFERIZE:
            ranges = base.src[1:]
            value = substitute(base.src[0], dict(zip(ranges, at, strict=False)))
            return self._inner(value, at[len(ranges) :])
        if base.op is Op.SCAN:
            outer = self.scans.get(base.arg[0])
            self.scans[base.arg[0]] = base
            value = substitute(base.src[-2], {base.src[-1]: at[0]})
            found = self._inner(value, at[1:])
            if outer is not None:
                self.scans[base.arg[0]] = outer
            return found
        if base.op is Op.STATE:
            return self._state(base, at)
        if base.op is Op.ASSIGN and base.arg == "add" and len(base.src[1].src) == 1 + len(at):
            over = {r: new_range(r.length, r.arg.name) for r in bound_ranges(base)}  # at may be one of its own
            *places, value = substitute((*map(_unmarked, base.src[1].src[1:]), base.src[2]), over)
            hit = _and(alu(Op.EQ, p, i) for p, i in zip(places, at, strict=True))
            more = Sum(*(_choice(hit, part, _ZERO) for part in self._term(value)))
            return _plus(self._element(base.src[0], at, n), self._over(more, tuple(over.values())))
        return _leaf(n)

    def _inner(self, value: UOp, at: tuple[UOp, ...]) -> Sum:
        if not at:
            return self.read(value)
        return self._element(value, at, UOp(Op.INDEX, value.dtype, (value, *at)))

    def _state(self, state: UOp, at: tuple[UOp, ...]) -> Sum:
        """A state as it comes into an iteration: the first, and what each iteration before it has added."""
        number, k = state.arg[:2]
        scan = self.scans.get(number)
        if scan is None:
            raise _Unreadable
        count, r = scan.arg[1], scan.src[-1]
        q = new_range(r.length, r.arg.name)
        inside = substitute(scan.src[count + k], {r: q})
        own = state.replace(src=(q, *state.src[1:]))
        step = self._step(_at(inside, at), _at(own, at))
        ran = alu(Op.LT, q, state.src[0])
        step = Sum(_choice(ran, step.each, _ZERO), _choice(ran, step.rest, _ZERO))
        first = self._inner(scan.src[k], at)
        return _plus(first, self._over(step, (q,)))

    def _step(self, new: UOp, state: UOp) -> Sum:
        """What an iteration adds to a state."""
        if new is state:
            return Sum(_ZERO, _ZERO)
        if new.op is Op.WHERE:
            c, a, b = _unmarked(new.src[0]), self._step(new.src[1], state), self._step(new.src[2], state)
            return Sum(_choice(c, a.each, b.each), _choice(c, a.rest, b.rest))
        if new.op in (Op.ADD, Op.SUB):
            x, y = new.src
            if new.op is Op.ADD and state in toposort(y):
                x, y = y, x
            if state not in toposort(y):
                return _plus(self._step(x, state), self._term(y), 1 if new.op is Op.ADD else -1)
        raise _Unreadable

    def _over(self, found: Sum, ranges: tuple[UOp, ...]) -> Sum:
        """A sum over ranges of sums."""
        each, rest = found
        try:
            rest = _one_by_one(rest, ranges)
        except _Unreadable:
            alike = self._alike(ranges)
            if alike is None:
                raise
            return Sum(_sum_of(_one_by_one(each, ranges), substitute(rest, alike)), _ZERO)
        return Sum(_one_by_one(each, ranges), rest)

    def _alike(self, ranges: tuple[UOp, ...]) -> dict[UOp, UOp] | None:
        """What stands for ranges that go over all elements."""
        if tuple(r.size for r in ranges) == tuple(r.size for r in self.each):
            return dict(zip(ranges, self.each, strict=True))
        if len(ranges) == 1 and ranges[0].size is idx(self.count) and all(len(r.src) == 1 for r in self.each):
            number = _ZERO
            for r in self.each:
                number = alu(Op.ADD, alu(Op.MUL, number, r.size), r)
            return {ranges[0]: number}
        return None


def _one_by_one(n: UOp, ranges: tuple[UOp, ...]) -> UOp:
    """The sum of an index over ranges that a condition in it gives one value each."""
    if n is _ZERO:
        return n
    mine = tuple(r for r in ranges if r in n.ranges)
    times = idx(1)
    for r in ranges:
        times = times if r in mine else _times(times, r.size)
    if not mine:
        return _times(n, times)
    if n.op is Op.ADD:
        return _times(_sum_of(*(_one_by_one(s, mine) for s in n.src)), times)
    if n.op is Op.MUL and any(s.op is Op.CONST for s in n.src):
        k, x = n.src if n.src[0].op is Op.CONST else n.src[::-1]
        return _times(_times(_one_by_one(x, mine), k), times)
    if n.op is not Op.WHERE:
        raise _Unreadable
    c, a, b = n.src
    if b is not _ZERO:
        less = _sum_of(a, _times(b, idx(-1)))
        return _times(_sum_of(_one_by_one(b, mine), _one_by_one(_choice(c, less, _ZERO), mine)), times)
    parts = conditions(Op.AND, c) or []
    while a.op is Op.WHERE and a.src[2] is _ZERO:
        parts, a = [*parts, *(conditions(Op.AND, a.src[0]) or [a.src[0]])], a.src[1]
    for p in parts:
        for r in mine:
            t = equal_to(p, r)
            if t is not None and t.ranges.isdisjoint(mine):
                rest = _and(q for q in parts if q is not p)
                rest, a = substitute((rest, a), {r: t})
                there = _choice(_and((alu(Op.LE, _ZERO, t), alu(Op.LT, t, r.size), rest)), a, _ZERO)
                return _times(_one_by_one(there, tuple(s for s in mine if s is not r)), times)
    if a.op is Op.ADD:
        gate = _and(parts)
        return _times(_sum_of(*(_one_by_one(_choice(gate, s, _ZERO), mine) for s in a.src)), times)
    raise _Unreadable


def _at(value: UOp, at: tuple[UOp, ...]) -> UOp:
    """An element of a value that has axes."""
    if not at:
        return value
    if value.op is Op.BUFFERIZE and len(value.src) == 1 + len(at):
        return substitute(value.src[0], dict(zip(value.src[1:], at, strict=True)))
    return UOp(Op.INDEX, value.dtype, (value, *at))


def _leaf(n: UOp) -> Sum:
    found = exact_index(_unmarked(n))
    if found is None or _gated(found):
        raise _Unreadable
    return Sum(_ZERO, found)


def _number(c: UOp) -> UOp:
    return alu(Op.WHERE, c, _ONE, _ZERO)


def _choice(c: UOp, a: UOp, b: UOp) -> UOp:
    return a if a is b else alu(Op.WHERE, c, a, b)


def _times(n: UOp, k: UOp) -> UOp:
    return k if n is _ONE or k is _ZERO else n if k is _ONE or n is _ZERO else alu(Op.MUL, n, k)


def _sum_of(a: UOp, b: UOp) -> UOp:
    return b if a is _ZERO else a if b is _ZERO else alu(Op.ADD, a, b)


def _plus(a: Sum, b: Sum, sign: int = 1) -> Sum:
    return Sum(*(_sum_of(x, _times(y, idx(sign))) for x, y in zip(a, b, strict=True)))


def _gated(n: UOp) -> bool:
    """Whether there may be no index."""
    return any(m.op is Op.INVALID for m in toposort(n))


def _unmarked(n: UOp) -> UOp:
    """An expression without the marks on its indices."""
    memo: dict[UOp, UOp] = {}
    for m in toposort(n):
        src = tuple(memo[s] for s in m.src)
        memo[m] = src[0] if is_mark(m) else m if src == m.src else m.replace(src=src)
    return memo[n]
