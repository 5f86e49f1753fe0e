"""Copies of what is read, packed into scratch arrays, and lines asked for before they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine
from rangekit.ir.logic import conditions
from rangekit.ir.nest import Let, Loop, Prefetch, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, idx, new_buffer
from rangekit.lower.loops import (
    Body,
    local,
    mapped,
    name_of,
    needed,
    parallel,
    reads,
    span,
    substitution,
    ungated,
    variable,
    wrapped,
)


def staged(loop: Loop, buffer: UOp, layout: Sequence[str] | None, threads: bool) -> Loop:
    """Inside one iteration of ``loop``: what is read of ``buffer`` copied first into a scratch array, packed.

    The copy has an axis for each inner loop that the read depends on, by default loops over blocks first, then those of
    reductions, then lanes, the vector last: so the innermost loops read it from front to back. What is computed from
    the read alone, a conversion or a mask, is done as it is copied.
    """
    written = {s.buffer for s in walk(loop.body) if isinstance(s, Store)}
    found = stageable(loop.body, buffer)
    if not found:
        raise ScheduleError(
            f"{name_of(loop)} does not read {buffer.arg.name}", help="stage it at a loop around its use"
        )
    if buffer in written:
        raise ScheduleError(f"{buffer.arg.name} cannot be staged: it is written there")
    inner = {s.var: s for s in walk(loop.body) if isinstance(s, Loop)}
    lets = {s.var: s.value for s in walk(loop.body) if isinstance(s, Let)}
    spelled = _spelled(lets)
    before: list[Stmt] = []
    known: dict[UOp, UOp] = {}
    made: dict[object, UOp] = {}  # equal but for the names of the loops around: one copy serves them all
    for read in found:
        whole = spelled(read)
        used_here = variables(whole)
        if any(reads(whole, b) for b in written):
            raise ScheduleError(
                f"{buffer.arg.name} cannot be staged: where it is read depends on what is written there"
            )
        mine = [inner[v] for v in inner if v in used_here]
        sizes = [span(a) for a in mine]
        if any(n is None for n in sizes):
            raise ScheduleError(f"{buffer.arg.name} cannot be staged: a loop around its use has no constant length")
        axes = laid_out(mine, layout)
        fresh = {a.var: variable(name_of(a)) for a in axes}
        sub = substitution(fresh)
        same = substitution({a.var: UOp(Op.VAR, dt.index, (), ("axis", n)) for n, a in enumerate(axes)})
        key = (tuple((span(a), a.kind, same(spelled(a.lo)), same(spelled(a.hi))) for a in axes), same(whole))
        if key in made:
            known[read] = UOp(Op.INDEX, read.dtype, (made[key], *(a.var for a in axes)))
            continue
        array = new_buffer(read.dtype, tuple(span(a) or 0 for a in axes), buffer.arg.name + "_tile", "local")
        made[key] = array
        behind = needed(loop.body, read)
        named = {v: local(v.arg[-1], v.dtype) for v in lets if v in behind}
        own = substitution({**fresh, **named})
        store = Store(array, tuple(fresh[a.var] for a in axes), own(read))
        copy: Body = (*(Let(name, own(lets[v])) for v, name in named.items()), store)
        along = [_step(whole, buffer, a.var) for a in axes]  # pages and lines are read from front to back
        order = [a for _, a in sorted(zip(along, axes, strict=True), key=lambda p: _rank(p[1], p[0]))]
        around = []
        for a in order:
            lo, hi = sub(spelled(a.lo)), sub(_whole(spelled(a.hi), inner.keys() - fresh.keys()))
            missing = (variables(lo) | variables(hi)) & inner.keys()
            if missing or any(reads(n, b) for n in (lo, hi) for b in written):
                raise ScheduleError(f"{buffer.arg.name} cannot be staged: the length of {name_of(a)} varies")
            around.append(replace(a, var=fresh[a.var], lo=lo, hi=hi, body=(),
                                  kind="loop" if a.kind == "thread" else a.kind))  # fmt: skip
        around = _nested(around)
        if threads and around and around[0].kind == "loop" and span(around[0]) != 1:
            around[0] = replace(around[0], kind="thread", width=1)
        before += [Scratch(array), *wrapped(around, copy)]
        known[read] = UOp(Op.INDEX, read.dtype, (array, *(a.var for a in axes)))
    return replace(loop, body=(*before, *mapped(loop.body, substitution(known))))


def _rank(a: Loop, step: float) -> tuple[bool, bool, float]:
    return a.kind == "vector", a.kind == "upcast", -step


def _step(read: UOp, buffer: UOp, v: UOp) -> float:
    """Elements that the address of a read moves for each iteration of a loop: inf where that is not known."""
    first = reads(read, buffer)[0]
    steps = getattr(buffer.arg, "strides", None) or [math.prod(buffer.shape[a + 1 :]) for a in range(buffer.ndim)]
    total = 0
    for i, step in zip(map(ungated, first.src[1:]), steps, strict=True):
        terms, _ = affine(i)
        if any(v in variables(atom) for atom in terms if atom is not v):
            return math.inf
        total += abs(terms.get(v, 0)) * step
    return total


def _spelled(lets: Mapping[UOp, UOp]) -> Callable[[UOp], UOp]:
    """A function that puts values in place of their names, and the values of the names in those."""
    known: dict[UOp, UOp] = {}
    for var, value in lets.items():  # each after those it is made of
        known[var] = substitution(known)(value)
    return substitution(known)


def _whole(hi: UOp, inner: Collection[UOp]) -> UOp:
    """The end of a loop that runs whole or not at all, without what loops that the copy has no axis for say of that."""
    if hi.op is not Op.WHERE:
        return hi
    some = [c for c in conditions(Op.AND, hi.src[0]) or () if not variables(c) & set(inner)]
    out = hi.src[1]
    for c in some:
        out = UOp(Op.WHERE, dt.index, (c, out, hi.src[2]))
    return out


def stageable(body: Body, buffer: UOp) -> list[UOp]:
    """What is computed from reads of ``buffer`` and varies with nothing else: what a stage of it copies."""
    written = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return list(dict.fromkeys(n for s in walk(body) for o in operands(s) for n in _around(o, buffer, written)))


def _around(n: UOp, buffer: UOp, written: set[UOp]) -> list[UOp]:
    """The largest expressions around reads of ``buffer`` that vary with no more than the read itself."""
    found = reads(n, buffer)
    if not found:
        return []
    own = [frozenset().union(*map(variables, r.src[1:])) for r in found]
    if (
        n.dtype is not dt.index
        and all(v == variables(n) for v in own)
        and not any(reads(n, b) for b in written - {buffer})
    ):
        return [n]
    if n.op is Op.INDEX and n.src[0] is buffer:
        return [n]
    return [found for s in n.src for found in _around(s, buffer, written)]


def _nested(around: list[Loop]) -> list[Loop]:
    """Loops in an order in which the bounds of each are known."""
    out: list[Loop] = []
    left = list(around)
    while left:
        names = {a.var for a in left}
        free = next(a for a in left if not (variables(a.lo) | variables(a.hi)) & (names - {a.var}))
        out.append(free)
        left.remove(free)
    return out


def laid_out(mine: list[Loop], layout: Sequence[str] | None) -> list[Loop]:
    """Loops in the order of a packed array's axes: as named, or blocks, reductions, lanes."""
    if layout is not None:
        by_name = {name_of(a): a for a in mine}
        if set(layout) != set(by_name):
            raise ScheduleError(f"layout= names {', '.join(layout)}; the read depends on {', '.join(by_name)}")
        return [by_name[n] for n in layout]
    rank = {"loop": 0, "thread": 0, "unroll": 1, "upcast": 2, "vector": 3}
    return sorted(mine, key=lambda a: max(rank[a.kind], 1 if not parallel(a) else 0))


def prefetched(loop: Loop, buffer: UOp) -> Loop:
    """At the start of each iteration of ``loop``: the lines of ``buffer`` that this iteration stores to, asked for."""
    stores = [s for s in walk(loop.body) if isinstance(s, Store) and s.buffer is buffer]
    lets = {s.var for s in walk(loop.body) if isinstance(s, Let)}
    inner = {s.var for s in walk(loop.body) if isinstance(s, Loop)} - {loop.var}
    before = []
    for s in stores:
        zero = substitution({v: idx(0) for v in inner})
        index = tuple(zero(ungated(i)) for i in s.index)
        if frozenset().union(*map(variables, index)) & lets:
            raise ScheduleError(f"{buffer.arg.name} cannot be prefetched: where it is stored to depends on data")
        before.append(Prefetch(buffer, index))
    return replace(loop, body=(*dict.fromkeys(before), *loop.body))


def asked(loop: Loop, buffer: UOp, ahead: int) -> Loop:
    """Beside the last read of ``buffer`` inside, the lines that it reads ``ahead`` iterations of ``loop`` later.

    Of several loops over a row the first waits for memory as it is; the last one computes.
    """
    lets = {s.var for s in walk(loop.body) if isinstance(s, Let)}
    later = substitution({loop.var: alu(Op.ADD, loop.var, idx(ahead))})
    last: dict[UOp, Stmt] = {}
    for s in walk(loop.body):
        for read in (r for o in operands(s) for r in reads(o, buffer)) if not isinstance(s, Loop) else ():
            if loop.var in variables(read) and not variables(read) & lets:
                last = {read: s} if s not in last.values() else {**last, read: s}
    if not last:
        raise ScheduleError(
            f"{buffer.arg.name} cannot be prefetched at {name_of(loop)}",
            help="no read of it moves with that range alone",
        )
    early = tuple(dict.fromkeys(Prefetch(buffer, tuple(later(ungated(i)) for i in read.src[1:])) for read in last))

    def body(stmts: Body) -> Body:
        out: list[Stmt] = []
        for s in stmts:
            if isinstance(s, Loop):
                s = replace(s, body=body(s.body))
            elif any(s is t for t in last.values()):
                out.extend(early)
            out.append(s)
        return tuple(out)

    return replace(loop, body=body(loop.body))
