"""Dependent reductions over one range as a single pass over its blocks, where that is safe and pays.

Given ``r1 = max_j s`` and ``r2 = sum_j A exp(c (s - r1))`` with a constant ``c > 0``, ``s`` the very node that ``r1``
reduces and ``A`` free of ``r1`` (``min``: ``c < 0``), one step over a block is

    r1' = max(r1, max of the block);  safe = where(isfinite(r1'), r1', 0)
    r2' = r2 exp(c (r1 - safe)) + sum over the block of A exp(c (s - safe))

and after the last one, where ``r1`` is not finite and there was any term, ``r2 exp(-c r1)``. The old maximum stays raw:
were it made safe too, a first block that is masked would be scaled by zero times infinity. What does not vary with
``j`` and holds a reduction is a factor of the whole sum and taken out first. (Milakov and Gimelshein, "Online
normalizer calculation for softmax", 2018; Dao et al., "FlashAttention", 2022.)

Given ``r1 = sum_j x`` and ``r2 = sum_j (x - r1 / n)^2`` over ``n`` iterations, one step joins a block's mean and sum of
squared deviations to those before it (Chan, Golub and LeVeque, 1979).

Everything else stays several passes. A factor distributed over a sum moves overflow: ``strict=True`` derives nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.dim import most
from rangekit.ir.ops import LOOPS, Op
from rangekit.ir.show import expression
from rangekit.ir.target import Target
from rangekit.ir.uop import Storage, UOp, alu, by_uid, cast, const, idx, new_fold, new_range, toposort
from rangekit.lower.closed import closed
from rangekit.lower.place import is_buffer

BLOCK = 64  # iterations of a block: scores of that many keys stay in the first cache beside what they weigh
SHOWN = 60  # characters of a value in what is told of it
ROWS = 32  # rows that run in step, each with a row of values kept between passes

Carry = Callable[[UOp, UOp], None]


@dataclass(frozen=True)
class Weighted:
    """A sum of the rule's form: ``outer`` times the sum of ``rest * exp(factor * (s - extreme))`` where ``where``."""

    node: UOp
    factor: float
    rest: UOp
    outer: Callable[[UOp], UOp]
    where: UOp | None
    safe: bool  # it was written with where(isfinite(extreme), extreme, 0)


def derive(sink: UOp, target: Target, block: int | None, carry: Carry, reasons: list[str]) -> UOp:
    """The program with the dependent reductions that pay in one pass; ``block`` forces it, at that size."""
    work = _Derive(target, block, reasons)
    tried: set[UOp] = set()
    while True:
        work.order = toposort(sink)
        first = next((n for n in work.order if n not in tried and _is_first(n) and n.src[1] not in work.inner), None)
        if first is None:
            return sink
        tried.add(first)
        made = work.softmax(first) or work.variance(first)
        if made:
            rows = [n for n in toposort(*made) if n.op is Op.BUFFERIZE and n.arg.memory == "local"]
            sink = _read_once(_replaced(sink, made, carry), rows, work.inner, carry)


@dataclass
class _Derive:
    """What the rules know beside the reduction they are asked about."""

    target: Target
    block: int | None
    reasons: list[str]
    order: list[UOp] = field(default_factory=list)  # the program
    inner: set[UOp] = field(default_factory=set)  # ranges inside blocks made here

    def pays(self, first: UOp, seconds: list[UOp]) -> str | None:
        """Why the reductions stay several passes, or None."""
        r = first.src[1]
        if (self.block or BLOCK) >= r.extent:
            return "it is one block"
        if self.block is not None:
            return None
        bytes_kept = r.extent * first.dtype.itemsize * ROWS
        if bytes_kept <= self.target.l2_bytes:
            return f"{r.extent} values a row fit the caches, where passes over them are cheaper than exponentials"
        gone = {first, *seconds}
        if any(
            n.op in LOOPS and n not in gone and n.src[-1].size is r.size and first in toposort(n) for n in self.order
        ):
            return "another loop needs all of it again"
        return None

    def softmax(self, first: UOp) -> dict[UOp, UOp]:
        """What the extreme, and the sums weighted by it, become."""
        if first.arg not in ("max", "min"):
            return {}
        j = first.src[1]
        users = [n for n in self.order if n.op is Op.REDUCE and n.arg == "add" and n.src[1:] == (j,) and n is not first
                 and _above(n.src[0], first)]  # fmt: skip
        found = [w for n in users if (w := _weighted(n, first)) is not None]
        what = f"{first.arg} over {j.arg.name or f'{j.extent} elements'} of {_shown(first.src[0])}"
        for n in users:
            if all(n is not w.node for w in found):
                self.reasons.append(
                    f"several passes: sum of {_shown(n.src[0])} is not a sum weighted by exp(s - {what})"
                )
        found = [w for w in found if not any(_above(w.rest, v.node) for v in found)]
        found = [w for w in found if w.where is found[0].where]  # the others sum excluded terms, too
        if not found:
            return {}
        why = self.pays(first, [w.node for w in found])
        if why is not None:
            self.reasons.append(f"several passes: {what}: {why}")
            return {}
        size = min(self.block or BLOCK, max(1, j.extent))
        sums = "1 sum" if len(found) == 1 else f"{len(found)} sums"
        self.reasons.append(f"derived: {what} and {sums} weighted by it, in one pass of blocks of {size}")
        return self.one_pass(first, found, size)

    def one_pass(self, first: UOp, found: list[Weighted], size: int) -> dict[UOp, UOp]:
        """The fold over blocks, and what its states give."""
        j, dtype = first.src[1], first.dtype
        worst = const(dtype.min if first.arg == "max" else dtype.max, dtype)
        condition, s = None, first.src[0]
        if found[0].where is not None:
            condition, s = s.src[0], s.src[1]
        blocks = _Blocks(j, size)
        self.inner.add(blocks.inner)
        number = new_fold()
        core = first.ranges.union(*(s.ranges - {j} for s in (s, *((condition,) if condition is not None else ()))))
        around = by_uid(core)
        old = UOp(Op.STATE, dtype, (blocks.outer, *around), (number, 0, (), "hi" if first.arg == "max" else "lo"))
        values = blocks.kept(s)
        tile = UOp(Op.REDUCE, dtype, (blocks.where(condition, values, worst), blocks.inner), first.arg)
        new = alu(Op.MAX if first.arg == "max" else Op.MIN, old, tile)
        zero = const(0.0, dtype)
        safe = alu(Op.WHERE, alu(Op.ISFINITE, new), new, zero)
        inits, news = [worst], [new]
        axes: list[tuple[UOp, ...]] = [()]
        for k, w in enumerate(found, 1):
            total = w.node.dtype
            scale = const(w.factor, dtype)

            def power(value: UOp, scale: UOp = scale, factor: float = w.factor) -> UOp:
                gap = alu(Op.SUB, value, safe)
                return alu(Op.EXP, gap if factor == 1.0 else alu(Op.MUL, gap, scale))

            term = cast(power(values), total)
            if w.rest.op is not Op.CONST or w.rest.arg != 1:
                term = alu(Op.MUL, blocks.at(w.rest), term)
            own = by_uid(term.ranges - core - {blocks.outer, blocks.inner})
            part = UOp(Op.REDUCE, total, (blocks.where(condition, term, const(0.0, total)), blocks.inner), "add")
            arg = (number, k, tuple(a.length for a in own), "acc")
            state = UOp(Op.STATE, total, (blocks.outer, *around), arg)
            before = UOp(Op.INDEX, total, (state, *own)) if own else state
            value = alu(Op.ADD, alu(Op.MUL, before, cast(power(old), total)), part)
            start = const(0.0, total)
            inits.append(UOp(Op.BUFFERIZE, total, (start, *own), Storage("register")) if own else start)
            news.append(UOp(Op.BUFFERIZE, total, (value, *own), Storage("register")) if own else value)
            axes.append(own)
        some = None if condition is None or all(w.safe for w in found) else _any(condition, j)
        if some is not None and some.op is Op.REDUCE:
            before = UOp(Op.STATE, dt.bool_, (blocks.outer, *around), (number, len(inits), (), "some"))
            part = blocks.where(condition, const(True, dt.bool_), const(False, dt.bool_))
            inits.append(const(False, dt.bool_))
            news.append(alu(Op.OR, before, UOp(Op.REDUCE, dt.bool_, (part, blocks.inner), "or")))
        fold = UOp(Op.FOLD, dtype, (*inits, *news, blocks.outer), (number, len(inits), None))
        out = {first: UOp(Op.GET, dtype, (fold,), 0)}
        extreme = out[first]
        if some is not None and some.op is Op.REDUCE:
            some = UOp(Op.GET, dt.bool_, (fold,), len(inits) - 1)
        for k, (w, own) in enumerate(zip(found, axes[1:], strict=True), 1):
            value = UOp(Op.GET, w.node.dtype, (fold,), k)
            value = UOp(Op.INDEX, value.dtype, (value, *own)) if own else value
            if not w.safe:
                undo = alu(Op.EXP, alu(Op.MUL, extreme, const(-w.factor, dtype)))
                kept = alu(Op.ISFINITE, extreme)
                if some is not None:  # a sum of nothing is 0, whatever the extreme is
                    kept = alu(Op.OR, kept, alu(Op.NOT, some))
                value = alu(Op.WHERE, kept, value, alu(Op.MUL, value, cast(undo, value.dtype)))
            out[w.node] = w.outer(value)
        return out

    def variance(self, first: UOp) -> dict[UOp, UOp]:
        """What a mean, and the sum of squared deviations from it, become."""
        if first.arg != "add":
            return {}
        x, j = first.src
        n = j.length
        count = idx(n)
        means = [m for m in self.order if m.op is Op.DIV and m.src[0] is first and m.src[1] is cast(count, first.dtype)]
        found = []
        for mean in means:
            gap = alu(Op.SUB, x, mean)
            square = alu(Op.MUL, gap, gap)
            found += [(mean, m) for m in self.order if m.op is Op.REDUCE and m.arg == "add" and m.src == (square, j)]
        if not found or n == 0:
            return {}
        what = f"mean over {j.arg.name or f'{j.extent} elements'} of {_shown(x)}"
        why = self.pays(first, [m for _, m in found])
        if why is not None:
            self.reasons.append(f"several passes: {what} and of squared deviations: {why}")
            return {}
        size = min(self.block or BLOCK, j.extent)
        self.reasons.append(f"derived: {what} and of squared deviations, in one pass of blocks of {size}")
        dtype = first.dtype
        blocks = _Blocks(j, size)
        self.inner.add(blocks.inner)
        number = new_fold()
        around = by_uid(first.ranges | (x.ranges - {j}))
        source = (blocks.outer, *around)
        before = UOp(Op.STATE, dtype, source, (number, 0, (), "mean"))
        squares = UOp(Op.STATE, dtype, source, (number, 1, (), "m2"))
        values, zero = blocks.kept(x), const(0.0, dtype)
        past = alu(Op.MUL, blocks.outer, idx(size))
        here = alu(Op.MIN, idx(size), alu(Op.ADD, count, alu(Op.MUL, past, idx(-1))))
        inside, total = (UOp(Op.CAST, dtype, (v,)) for v in (here, alu(Op.ADD, past, here)))
        sums = UOp(Op.REDUCE, dtype, (blocks.where(None, values, zero), blocks.inner), "add")
        own = alu(Op.DIV, sums, inside)
        off = alu(Op.SUB, values, own)
        spread = UOp(Op.REDUCE, dtype, (blocks.where(None, alu(Op.MUL, off, off), zero), blocks.inner), "add")
        gap, share = alu(Op.SUB, own, before), alu(Op.DIV, inside, total)
        new_mean = alu(Op.ADD, before, alu(Op.MUL, gap, share))
        between = alu(Op.MUL, alu(Op.MUL, gap, gap), alu(Op.MUL, UOp(Op.CAST, dtype, (past,)), share))
        new_squares = alu(Op.ADD, alu(Op.ADD, squares, spread), between)
        fold = UOp(Op.FOLD, dtype, (zero, zero, new_mean, new_squares, blocks.outer), (number, 2, None))
        last = [UOp(Op.GET, dtype, (fold,), k) for k in range(2)]
        out = dict.fromkeys(means, last[0])
        out |= {m: last[1] for _, m in found}
        return out | {first: alu(Op.MUL, last[0], cast(count, dtype))}


def _shown(n: UOp) -> str:
    """A value as text, short enough for a line."""
    text = expression(n)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _is_first(n: UOp) -> bool:
    return n.op is Op.REDUCE and len(n.src) == 2 and n.dtype.is_float and n.arg in ("max", "min", "add")


# ---- softmax ---------------------------------------------------------------------------------------------------------


def _weighted(n: UOp, first: UOp) -> Weighted | None:
    """A sum in the rule's form."""
    j = first.src[1]
    body, s, condition = n.src[0], first.src[0], None
    if body.op is Op.WHERE and s.op is Op.WHERE and body.src[0] is s.src[0] and _is(body.src[2], 0) and \
            _is_worst(s.src[2], first.arg):  # fmt: skip
        condition, body, s = s.src[0], body.src[1], s.src[1]
    above, below = _factors(body)
    power: tuple[float, bool] | None = None
    rest: list[UOp] = []
    outer: list[tuple[Op, UOp]] = []
    for op, values in ((Op.MUL, above), (Op.DIV, below)):
        for v in values:
            if j not in v.ranges and any(m.op in LOOPS for m in toposort(v)):
                outer.append((op, v))
                continue
            inner = v
            while inner.op is Op.CAST and inner.src[0].dtype.is_float:
                inner = inner.src[0]
            exponent = _exponent(inner.src[0], s, first) if op is Op.MUL and inner.op is Op.EXP else None
            if exponent is not None and power is None:
                power = exponent
            elif _above(v, first):
                return None
            elif op is Op.MUL:
                rest.append(v)
            else:
                rest.append(alu(Op.DIV, const(1.0, v.dtype), v))
    if power is None or (power[0] > 0) is not (first.arg == "max"):
        return None
    whole = rest[0] if rest else const(1.0, n.dtype)
    for v in rest[1:]:
        whole = alu(Op.MUL, whole, v)

    def around(value: UOp) -> UOp:
        for op, v in outer:
            value = alu(op, value, v)
        return value

    return Weighted(n, power[0], whole, around, condition, power[1])


def _factors(n: UOp) -> tuple[list[UOp], list[UOp]]:
    """What a product multiplies, and what it divides by."""
    if n.op is Op.MUL:
        left, right = _factors(n.src[0]), _factors(n.src[1])
        return left[0] + right[0], left[1] + right[1]
    if n.op is Op.DIV:
        above, below = _factors(n.src[0])
        return above, [*below, n.src[1]]
    return [n], []


def _exponent(n: UOp, s: UOp, first: UOp) -> tuple[float, bool] | None:
    """(c, whether the extreme was made finite) if ``n`` is ``c * (s - extreme)``."""
    factor = 1.0
    while True:
        if n.op is Op.MUL and any(x.op is Op.CONST for x in n.src):
            factor *= next(x.arg for x in n.src if x.op is Op.CONST)
            n = next(x for x in reversed(n.src) if x.op is not Op.CONST) if n.src[0].op is not n.src[1].op else n.src[0]
        elif n.op is Op.DIV and n.src[1].op is Op.CONST and n.src[1].arg:
            factor /= n.src[1].arg
            n = n.src[0]
        elif n.op is Op.NEG:
            factor, n = -factor, n.src[0]
        else:
            break
    if n.op is not Op.SUB or not math.isfinite(factor) or not factor:
        return None
    a, b = n.src
    if a is not s and b is s:
        a, b, factor = b, a, -factor
    if a is not s:
        return None
    if b is first:
        return factor, False
    finite = b.op is Op.WHERE and b.src[0].op is Op.ISFINITE and b.src[0].src[0] is first and b.src[1] is first
    return (factor, True) if finite and _is(b.src[2], 0) else None


def _any(condition: UOp, j: UOp) -> UOp:
    """Whether a condition holds in some iteration, without a loop where that has a form."""
    return closed(UOp(Op.REDUCE, dt.bool_, (condition, j), "or"), False, lambda old, new: None, [], set())


def _is(n: UOp, value: float) -> bool:
    return n.op is Op.CONST and n.arg == value


def _is_worst(n: UOp, op: str) -> bool:
    return n.op is Op.CONST and n.arg == (n.dtype.min if op == "max" else n.dtype.max)


# ---- blocks ----------------------------------------------------------------------------------------------------------


class _Blocks:
    """A range as blocks of ``size`` iterations, the last one cut short."""

    def __init__(self, j: UOp, size: int) -> None:
        self.size, self.range = size, j
        count = (j.length + size - 1) // size
        self.outer = new_range(count, j.arg.name)
        self.inner = new_range(size, f"{j.arg.name}.t" if j.arg.name else None)
        linear = alu(Op.ADD, alu(Op.MUL, self.outer, idx(size)), self.inner) if size > 1 else self.outer
        self.place = linear if most(count) > 1 else self.inner
        self.ragged = j.length % size != 0

    def at(self, n: UOp) -> UOp:
        """A value at the iteration of this block."""
        return substitute(n, {self.range: self.place})

    def where(self, condition: UOp | None, value: UOp, other: UOp) -> UOp:
        """A value where there is an iteration and the condition holds."""
        inside = alu(Op.LT, self.place, self.range.size) if self.ragged else None
        if condition is not None:
            given = self.at(condition)
            if inside is not None and not any(n.op is Op.INDEX for n in toposort(given)):
                inside = alu(Op.AND, inside, given)
            else:  # what it reads, it reads only where there is an iteration
                value = alu(Op.WHERE, given, value, other)
        return value if inside is None else alu(Op.WHERE, inside, value, other)

    def kept(self, n: UOp) -> UOp:
        """A value at the iteration of this block, computed once for all its uses."""
        value = self.at(n)
        if self.ragged:
            value = alu(Op.WHERE, alu(Op.LT, self.place, self.range.size), value, const(0.0, value.dtype))
        if self.size == 1:
            return substitute(value, {self.inner: idx(0)})
        tile = UOp(Op.BUFFERIZE, value.dtype, (value, self.inner), Storage("local", "part"))
        return UOp(Op.INDEX, value.dtype, (tile, self.inner))


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _above(n: UOp, below: UOp) -> bool:
    """Whether a value is made of another."""
    return any(m is below for m in toposort(n, into=lambda m: not is_buffer(m)))


def _replaced(sink: UOp, made: dict[UOp, UOp], carry: Carry) -> UOp:
    """The program with those nodes replaced, in what they are replaced by too."""
    memo: dict[UOp, UOp] = {}
    for old, new in made.items():
        carry(old, new)
    for n in _bottom_up(sink, made):
        if n in made:
            memo[n] = memo[made[n]]
            continue
        src = tuple(memo[s] for s in n.src)
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]


def _read_once(sink: UOp, rows: list[UOp], inner: set[UOp], carry: Carry) -> UOp:
    """The program without the rows that only a block of a derived pass reads: it computes them."""
    for row in rows:
        readers = [n for n in toposort(sink) if row in n.src]
        if len(readers) == 1 and readers[0].op is Op.INDEX and readers[0].ranges & inner:
            element = substitute(row.src[0], dict(zip(row.src[1:], readers[0].src[1:], strict=True)))
            sink = _replaced(sink, {readers[0]: element}, carry)
    return sink


def _bottom_up(root: UOp, made: dict[UOp, UOp]) -> Iterator[UOp]:
    """Sources before users, a replaced node after what replaces it."""
    done: set[UOp] = set()
    stack: list[tuple[UOp, bool]] = [(root, False)]
    while stack:
        n, ready = stack.pop()
        if n in done:
            continue
        if ready:
            done.add(n)
            yield n
            continue
        stack.append((n, True))
        stack.extend((s, False) for s in ((made[n],) if n in made else n.src) if s not in done)
