"""What each schedule step does to loops. Each takes the statements around and gives new ones, or says why it cannot.

All of them keep what is computed: only *order* and *place* change. A reduction may be split into partial results,
which are combined in a fixed order; integers do not notice, floats within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Let, Loop, Prefetch, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import REDUCERS
from rangekit.ir.uop import UOp, alu, idx, new_buffer
from rangekit.lower.loops import (
    Body,
    carried,
    least,
    local,
    mapped,
    minus,
    name_of,
    parallel,
    plus,
    span,
    substitution,
    times,
    variable,
    wrapped,
)


def perfected(body: Body) -> Body:
    """Values computed between two parallel loops moved into the inner one where that has reductions inside: so that
    both can be tiled together. What a value costs is little against the reduction.
    """
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            inner = perfected(s.body)
            *first, last = inner if inner else (None,)
            if (
                first
                and isinstance(last, Loop)
                and all(isinstance(t, Let) for t in first)
                and parallel(s)
                and parallel(last)
                and any(not parallel(t) for t in walk(last.body) if isinstance(t, Loop))
                and not (variables(last.lo) | variables(last.hi)) & {t.var for t in first if isinstance(t, Let)}
                and not _reads_written(tuple(t for t in first if t is not None), inner)
            ):
                inner = (replace(last, body=(*(t for t in first if t is not None), *last.body)),)
            s = replace(s, body=inner)
        out.append(s)
    return tuple(out)


def _reads_written(lets: Body, body: Body) -> bool:
    written = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return any(_indexed(n, b) for s in lets for n in operands(s) for b in written)


# ---- tile ------------------------------------------------------------------------------------------------------------


def tile(loop: Loop, size: int) -> Loop:
    """Blocks of ``size`` iterations: the loop over blocks keeps the name, the loop inside one gets ``.t``."""
    inner = variable(name_of(loop) + ".t")
    n = minus(loop.hi, loop.lo)
    blocks = idx(-(-max(0, n.arg) // size)) if n.op is Op.CONST else alu(Op.IDIV, plus(n, idx(size - 1)), idx(size))
    start = times(loop.var, size)
    even = n.op is Op.CONST and n.arg % size == 0
    hi = idx(size) if even else least(idx(size), minus(n, start))
    if n.op is Op.CONST and n.arg <= size:
        hi, size = n, max(1, n.arg)
    body = mapped(loop.body, substitution({loop.var: plus(loop.lo, start, inner)}))
    return replace(loop, lo=idx(0), hi=blocks, width=0, body=(Loop(inner, loop.range, idx(0), hi, body, width=size),))


def block(loop: Loop, size: int) -> tuple[Loop, Loop]:
    """The loop over blocks and the one inside a block."""
    outer = tile(loop, size)
    inner = outer.body[0]
    assert isinstance(inner, Loop)
    return outer, inner


# ---- lanes -----------------------------------------------------------------------------------------------------------


def in_lanes(loop: Loop, lanes: int) -> Loop:
    """A loop over a block, its iterations in step: as vectors of ``lanes`` elements (1: registers of their own)."""
    if any(isinstance(s, Loop) and s.kind == "thread" for s in walk(loop.body)):
        raise ScheduleError(f"{name_of(loop)} cannot run in step: there are threads inside it")
    return replace(loop, kind="vector" if lanes > 1 else "upcast", lanes=lanes)


def sunk(loop: Loop) -> Loop:
    """The loop moved inside the parallel loops that are perfectly nested in it."""
    if len(loop.body) == 1:
        inner = loop.body[0]
        if (
            isinstance(inner, Loop)
            and inner.kind in ("loop", "upcast")
            and not (inner.kind == "upcast" and loop.kind == "upcast")
            and loop.var not in variables(inner.lo) | variables(inner.hi)
            and inner.var not in variables(loop.lo) | variables(loop.hi)
            and parallel(inner)
            and parallel(replace(loop, body=inner.body))
        ):
            return replace(inner, body=(sunk(replace(loop, body=inner.body)),))
    return loop


# ---- reductions in parts ---------------------------------------------------------------------------------------------


def partial(loop: Loop, inner: Loop) -> Body:
    """A reduction whose block loop ``inner`` runs in lanes: one partial result a lane, combined as a tree after it.

    ``loop`` is the blocks' loop around ``inner`` (or ``inner`` itself).
    """
    groups = accumulators(loop)
    size = inner.width
    parts: dict[UOp, UOp] = {}
    before: list[Stmt] = []
    after: list[Stmt] = []
    for reducer, buffers in groups:
        for b in buffers:
            parts[b] = new_buffer(b.dtype, (*b.shape, size), b.arg.name, "register" if size <= 64 else "local")
            before.append(Scratch(parts[b]))
        neutral = REDUCERS[reducer].identity(tuple(b.dtype for b in buffers))
        outer, at = _over(buffers[0].shape, inner.range)
        lane = variable(name_of(inner))
        fill = tuple(Store(parts[b], (*at, lane), e) for b, e in zip(buffers, neutral, strict=True))
        before += wrapped([*outer, replace(inner, var=lane, lo=idx(0), hi=idx(size), body=())], fill)
        after += wrapped(outer, _combined(reducer, buffers, parts, at, inner))

    def moved(n: UOp) -> UOp:
        found = memo.get(n)
        if found is None:
            src = tuple(moved(c) for c in n.src)
            found = n if src == n.src else n.replace(src=src)
            if n.op is Op.INDEX and n.src[0] in parts:
                found = UOp(Op.INDEX, n.dtype, (parts[n.src[0]], *found.src[1:], inner.var))
            memo[n] = found
        return found

    memo: dict[UOp, UOp] = {}
    body = mapped(loop.body, moved)
    body = _map_stores(body, lambda s: replace(s, buffer=parts[s.buffer], index=(*s.index, inner.var))
                       if s.buffer in parts else s)  # fmt: skip
    return (*before, replace(loop, body=body), *after)


def accumulators(loop: Loop) -> list[tuple[str, tuple[UOp, ...]]]:
    """What a reduction accumulates: reducers and their buffers. ``ScheduleError`` if it is not one."""
    out: list[tuple[str, tuple[UOp, ...]]] = []
    pending: list[Store] = []
    for s in carried(loop):
        if s.update is None:
            raise ScheduleError(
                f"{name_of(loop)} hands {s.buffer.arg.name} from one iteration to the next, not through a reduction",
                help="only reductions and loops without such a value can be split or run in lanes",
            )
        pending.append(s)
        if len(pending) == REDUCERS[s.update].arity:
            group = s.update, tuple(p.buffer for p in pending)
            if group not in out:
                out.append(group)
            pending = []
    return out


def _over(shape: Sequence[int], like: UOp) -> tuple[list[Loop], tuple[UOp, ...]]:
    """Loops over every element of a shape, and their variables."""
    made = [variable("d") for _ in shape]
    return [Loop(v, like, idx(0), idx(n), ()) for v, n in zip(made, shape, strict=True)], tuple(made)


def _combined(reducer: str, buffers: tuple[UOp, ...], parts: dict[UOp, UOp], at: tuple[UOp, ...], inner: Loop) -> Body:
    """The partial results, combined by halves, added to the accumulator."""
    lane = variable(name_of(inner))
    other = tuple(UOp(Op.INDEX, b.dtype, (parts[b], *at, lane)) for b in buffers)
    own = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
    body = _merge(reducer, buffers, at, own, other)
    return (Loop(lane, inner.range, idx(0), idx(inner.width), body, "tree", inner.width),)


def _merge(
    reducer: str, buffers: tuple[UOp, ...], at: tuple[UOp, ...], own: tuple[UOp, ...], other: tuple[UOp, ...]
) -> Body:
    """``buffers[at] = combine(own, other)``."""
    if len(buffers) == 1:
        (new,) = REDUCERS[reducer].combine(own, other)
        return (Store(buffers[0], at, new, reducer, other[0]),)
    out: list[Stmt] = []

    def named(values: tuple[UOp, ...], name: str) -> tuple[UOp, ...]:
        made = tuple(local(name, v.dtype) for v in values)
        out.extend(Let(m, v) for m, v in zip(made, values, strict=True))
        return made

    combined = REDUCERS[reducer].combine(named(own, "old"), named(other, "v"))
    if all(v.op is Op.WHERE and v.src[0] is combined[0].src[0] for v in combined):
        (keep,) = named((combined[0].src[0],), "keep")
        combined = tuple(v.replace(src=(keep, *v.src[1:])) for v in combined)
    results = named(combined, "new")
    out.extend(Store(b, at, v, reducer, o) for b, v, o in zip(buffers, results, other, strict=True))
    return tuple(out)


def _map_stores(stmts: Body, fn) -> Body:  # type: ignore[no-untyped-def]
    out: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Loop):
            s = replace(s, body=_map_stores(s.body, fn))
        out.append(fn(s) if isinstance(s, Store) else s)
    return tuple(out)


def grouped(loop: Loop, blocks: int) -> Body:
    """A reduction in at most ``blocks`` contiguous parts of whole results each, combined in order after it."""
    groups = accumulators(loop)
    n = span(loop)
    if n is None or loop.hi.op is not Op.CONST or loop.lo.op is not Op.CONST:
        raise ScheduleError(f"{name_of(loop)} cannot be grouped: its length is not a constant")
    if not groups:
        raise ScheduleError(
            f"{name_of(loop)} is no reduction", help=f"rk.tile({name_of(loop)!r}, n) makes blocks of it"
        )
    outer = tile(loop, max(1, -(-n // blocks)))
    count = span(outer)
    assert count is not None
    before: list[Stmt] = []
    start: list[Stmt] = []
    end: list[Stmt] = []
    after: list[Stmt] = []
    own: dict[UOp, UOp] = {}
    place = variable(name_of(loop) + ".g")
    for reducer, buffers in groups:
        neutral = REDUCERS[reducer].identity(tuple(b.dtype for b in buffers))
        loops, at = _over(buffers[0].shape, loop.range)
        fill: list[Stmt] = []
        save: list[Stmt] = []
        parts = []
        for b, e in zip(buffers, neutral, strict=True):
            part = new_buffer(b.dtype, (count, *b.shape), b.arg.name, "local")
            own[b] = new_buffer(b.dtype, b.shape, b.arg.name, b.arg.memory)
            parts.append(part)
            before.append(Scratch(part))
            start.append(Scratch(own[b]))
            fill.append(Store(own[b], at, e))
            save.append(Store(part, (outer.var, *at), UOp(Op.INDEX, b.dtype, (own[b], *at))))
        start += wrapped(loops, tuple(fill))
        end += wrapped(loops, tuple(save))
        mine = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
        theirs = tuple(UOp(Op.INDEX, p.dtype, (p, place, *at)) for p in parts)
        merge = wrapped(loops, _merge(reducer, buffers, at, mine, theirs))
        after.append(Loop(place, loop.range, idx(0), idx(count), merge))
    body = mapped(outer.body, substitution(own))
    return (*before, replace(outer, body=(*start, *body, *end)), *after)


# ---- a reduction's blocks outside the loops around it ----------------------------------------------------------------


def hoisted(around: list[Loop], loop: Loop, before: Body, after: Body) -> Body:
    """``loop`` (a reduction's loop over blocks) outside the parallel loops ``around`` it.

    Between two blocks each accumulator waits in memory: where its result will be, if that is of its type, else in a
    scratch array. What follows the reduction is done after its last block.
    """
    if loop.lo.op is not Op.CONST or loop.hi.op is not Op.CONST or loop.hi.arg <= loop.lo.arg:
        raise ScheduleError(f"{name_of(loop)} cannot go outside {name_of(around[0])}: its length is not a constant")
    if variables(loop.lo) | variables(loop.hi):
        raise ScheduleError(f"{name_of(loop)} cannot go outside {name_of(around[0])}: its bounds depend on it")
    first, last = alu(Op.EQ, loop.var, loop.lo), alu(Op.EQ, loop.var, idx(loop.hi.arg - 1))
    own = [s.buffer for s in before if isinstance(s, Scratch)]
    kept = [b for _, buffers in accumulators(loop) for b in buffers]
    filled = {s.buffer for s in walk(loop.body) if isinstance(s, Store)} & set(own)
    if not kept or any(b not in own or b.shape for b in kept) or filled - set(kept):
        raise ScheduleError(f"{name_of(loop)} cannot go outside {name_of(around[0])}: it fills an array")
    places = _results(kept, after)
    outside: list[Stmt] = []
    waiting: dict[UOp, tuple[UOp, tuple[UOp, ...]]] = {}
    for b in kept:
        if b in places:
            waiting[b] = places[b].buffer, places[b].index
            continue
        axes = _laid_out(around, None, loop)
        spans = [span(a) for a in axes]
        if any(n is None for n in spans):
            raise ScheduleError(f"{name_of(loop)} cannot go outside {name_of(around[0])}, whose length is not known")
        array = new_buffer(b.dtype, tuple(n for n in spans if n is not None), b.arg.name, "local")
        outside.append(Scratch(array))
        waiting[b] = array, tuple(a.var for a in axes)
    inside: list[Stmt] = []
    later = alu(Op.LT, loop.lo, loop.var)
    for s in before:
        if isinstance(s, Store) and s.buffer in waiting:
            array, at = waiting[s.buffer]
            gated = UOp(Op.WHERE, dt.index, (later, at[0], UOp(Op.INVALID, dt.index)))
            read = UOp(Op.INDEX, s.buffer.dtype, (array, gated, *at[1:]))
            zero = s.value.op is Op.CONST and s.value.arg == 0 and math.copysign(1, s.value.arg) > 0
            inside.append(replace(s, value=read if zero else alu(Op.WHERE, first, s.value, read)))
        elif isinstance(s, Store):
            raise ScheduleError(
                f"{name_of(loop)} cannot go outside {name_of(around[0])}: {s.buffer.arg.name} is written"
            )
        else:
            inside.append(s)
    inside += loop.body
    for b in kept:
        array, at = waiting[b]
        inside.append(Store(array, at, UOp(Op.INDEX, b.dtype, (b,))))
    if not all(b in places and places[b].value is UOp(Op.INDEX, b.dtype, (b,)) for b in kept) or len(after) > len(kept):
        inside += _only_when(last, after)
    return (*outside, replace(loop, body=wrapped(around, tuple(inside))))


def _results(kept: list[UOp], after: Body) -> dict[UOp, Store]:
    """For accumulators, stores of their type that follow: each has a place in the results that is its own till then."""
    out: dict[UOp, Store] = {}
    stores = [s for s in after if isinstance(s, Store) and s.index and s.update is None]
    for b in kept:
        for s in stores:
            gated = any(i.op in (Op.WHERE, Op.INVALID) for i in s.index)
            if b not in out and s.buffer.dtype is b.dtype and not gated and s not in out.values():
                out[b] = s
        for s in stores:  # rather where it is stored as it is
            if b in out and s.value is UOp(Op.INDEX, b.dtype, (b,)) and s.index == out[b].index and \
                    s.buffer.dtype is b.dtype:  # fmt: skip
                other = next((o for o, p in out.items() if p is s), None)
                if other is not None:
                    out[other] = out[b]
                out[b] = s
    return out


def _only_when(condition: UOp, stmts: Body) -> Body:
    out: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Store) and s.index:
            gated = UOp(Op.WHERE, dt.index, (condition, s.index[0], UOp(Op.INVALID, dt.index)))
            s = replace(s, index=(gated, *s.index[1:]))
        elif not isinstance(s, Let):
            raise ScheduleError("what follows the reduction is not a plain store")
        out.append(s)
    return tuple(out)


# ---- stage -----------------------------------------------------------------------------------------------------------


def staged(loop: Loop, buffer: UOp, layout: Sequence[str] | None, threads: bool) -> Loop:
    """Inside one iteration of ``loop``: what is read of ``buffer`` copied first into a scratch array, packed.

    The copy has an axis for each inner loop that the read depends on, by default loops over blocks first, then those of
    reductions, then lanes, the vector last: so the innermost loops read it from front to back. What is computed from
    the read alone, a conversion or a mask, is done as it is copied.
    """
    written = {s.buffer for s in walk(loop.body) if isinstance(s, Store)}
    reads = stageable(loop.body, buffer)
    if not reads:
        raise ScheduleError(
            f"{name_of(loop)} does not read {buffer.arg.name}", help="stage it at a loop around its use"
        )
    if buffer in written:
        raise ScheduleError(f"{buffer.arg.name} cannot be staged: it is written there")
    inner = {s.var: s for s in walk(loop.body) if isinstance(s, Loop)}
    lets = {s.var for s in walk(loop.body) if isinstance(s, Let)}
    before: list[Stmt] = []
    known: dict[UOp, UOp] = {}
    made: dict[object, UOp] = {}  # equal but for the names of the loops around: one copy serves them all
    for read in reads:
        used_here = variables(read)
        if used_here & lets:
            raise ScheduleError(f"{buffer.arg.name} cannot be staged: where it is read depends on data")
        mine = [inner[v] for v in inner if v in used_here]
        sizes = [span(a) for a in mine]
        if any(n is None for n in sizes):
            raise ScheduleError(f"{buffer.arg.name} cannot be staged: a loop around its use has no constant length")
        axes = _laid_out(mine, layout, loop)
        fresh = {a.var: variable(name_of(a)) for a in axes}
        sub = substitution(fresh)
        same = substitution({a.var: UOp(Op.VAR, dt.index, (), ("axis", n)) for n, a in enumerate(axes)})
        key = (tuple((span(a), a.kind, same(a.lo), same(a.hi)) for a in axes), same(read))
        if key in made:
            known[read] = UOp(Op.INDEX, read.dtype, (made[key], *(a.var for a in axes)))
            continue
        array = new_buffer(read.dtype, tuple(span(a) or 0 for a in axes), buffer.arg.name + "_tile", "local")
        made[key] = array
        copy: Body = (Store(array, tuple(fresh[a.var] for a in axes), sub(read)),)
        order = sorted(axes, key=lambda a: (a.kind == "vector", a.kind == "upcast"))
        around = []
        for a in order:
            lo, hi = sub(a.lo), sub(a.hi)
            missing = (variables(lo) | variables(hi)) & (inner.keys() - set())
            if missing:
                raise ScheduleError(f"{buffer.arg.name} cannot be staged: the length of {name_of(a)} varies")
            around.append(replace(a, var=fresh[a.var], lo=lo, hi=hi, body=(),
                                  kind="loop" if a.kind == "thread" else a.kind))  # fmt: skip
        around = _nested(around)
        if threads and around and around[0].kind == "loop" and span(around[0]) != 1:
            around[0] = replace(around[0], kind="thread", width=1)
        before += [Scratch(array), *wrapped(around, copy)]
        known[read] = UOp(Op.INDEX, read.dtype, (array, *(a.var for a in axes)))
    return replace(loop, body=(*before, *mapped(loop.body, substitution(known))))


def stageable(body: Body, buffer: UOp) -> list[UOp]:
    """What is computed from reads of ``buffer`` and varies with nothing else: what a stage of it copies."""
    written = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return list(dict.fromkeys(n for s in walk(body) for o in operands(s) for n in _around(o, buffer, written)))


def _around(n: UOp, buffer: UOp, written: set[UOp]) -> list[UOp]:
    """The largest expressions around reads of ``buffer`` that vary with no more than the read itself."""
    reads = _indexed(n, buffer)
    if not reads:
        return []
    own = [frozenset().union(*map(variables, r.src[1:])) for r in reads]
    if (
        n.dtype is not dt.index
        and all(v == variables(n) for v in own)
        and not any(_reads(n, b) for b in written - {buffer})
    ):
        return [n]
    if n.op is Op.INDEX and n.src[0] is buffer:
        return [n]
    return [found for s in n.src for found in _around(s, buffer, written)]


def _reads(n: UOp, buffer: UOp) -> bool:
    return n is buffer or any(_reads(s, buffer) for s in n.src)


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


def _laid_out(mine: list[Loop], layout: Sequence[str] | None, at: Loop) -> list[Loop]:
    if layout is not None:
        by_name = {name_of(a): a for a in mine}
        if set(layout) != set(by_name):
            raise ScheduleError(f"layout= names {', '.join(layout)}; the read depends on {', '.join(by_name)}")
        return [by_name[n] for n in layout]
    rank = {"loop": 0, "thread": 0, "unroll": 1, "upcast": 2, "vector": 3}
    return sorted(mine, key=lambda a: max(rank[a.kind], 1 if not parallel(a) else 0))


def _indexed(n: UOp, buffer: UOp) -> list[UOp]:
    found = [n] if n.op is Op.INDEX and n.src[0] is buffer else []
    return found + [f for s in n.src for f in _indexed(s, buffer)]


def prefetched(loop: Loop, buffer: UOp) -> Loop:
    """At the start of each iteration of ``loop``: the lines of ``buffer`` that this iteration stores to, asked for."""
    stores = [s for s in walk(loop.body) if isinstance(s, Store) and s.buffer is buffer]
    known = {loop.var, *(v for s in loop.body if isinstance(s, Let) for v in (s.var,))}
    inner = {s.var for s in walk(loop.body) if isinstance(s, Loop)} - known
    before = []
    for s in stores:
        zero = substitution({v: idx(0) for v in inner})
        before.append(Prefetch(buffer, tuple(zero(_ungated(i)) for i in s.index)))
    return replace(loop, body=(*dict.fromkeys(before), *loop.body))


def asked(loop: Loop, buffer: UOp, ahead: int) -> Loop:
    """Before each read of ``buffer`` inside: the lines that it reads ``ahead`` iterations of ``loop`` later."""
    lets = {s.var for s in walk(loop.body) if isinstance(s, Let)}
    later = substitution({loop.var: alu(Op.ADD, loop.var, idx(ahead))})
    found = False

    def body(stmts: Body, known: frozenset[Prefetch]) -> Body:
        nonlocal found
        out: list[Stmt] = []
        for s in stmts:
            if isinstance(s, Loop):
                out.append(replace(s, body=body(s.body, known)))
                continue
            for o in operands(s):
                for read in _indexed(o, buffer):
                    index = tuple(later(_ungated(i)) for i in read.src[1:])
                    if loop.var in variables(read) and not variables(read) & lets:
                        early = Prefetch(buffer, index)
                        if early not in known:
                            out.append(early)
                        known |= {early}
                        found = True
            out.append(s)
        return tuple(out)

    new = replace(loop, body=body(loop.body, frozenset()))
    if not found:
        raise ScheduleError(
            f"{buffer.arg.name} cannot be prefetched at {name_of(loop)}",
            help="no read of it moves with that range alone",
        )
    return new


def _ungated(i: UOp) -> UOp:
    while i.op is Op.WHERE and i.src[2].op is Op.INVALID:
        i = i.src[1]
    return i
