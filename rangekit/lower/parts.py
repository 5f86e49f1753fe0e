"""Reductions in parts: a partial result a lane, groups of them, blocks of one outside the loops around it.

Partial results are combined in a fixed order; integers do not notice, floats within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Let, Loop, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, reducer
from rangekit.ir.uop import UOp, alu, idx, new_buffer
from rangekit.lower.copies import laid_out
from rangekit.lower.loops import (
    Body,
    carried,
    gated,
    local,
    mapped,
    name_of,
    reads,
    span,
    substitution,
    variable,
    wrapped,
)
from rangekit.lower.merge import merged, plain
from rangekit.lower.tiles import tile


def partial(loop: Loop, inner: Loop) -> Body:
    """A reduction whose block loop ``inner`` runs in lanes: one partial result a lane, combined as a tree after it.

    ``loop`` is the blocks' loop around ``inner`` (or ``inner`` itself).
    """
    groups = accumulators(loop)
    size = inner.width
    parts: dict[UOp, UOp] = {}
    before: list[Stmt] = []
    after: list[Stmt] = []
    for how, buffers in groups:
        for b in buffers:
            parts[b] = new_buffer(b.dtype, (*b.shape, size), b.arg.name, "register" if size <= 64 else "local")
            before.append(Scratch(parts[b]))
        neutral = reducer(how).identity(tuple(b.dtype for b in buffers))
        outer, at = _over(buffers[0].shape, inner.range)
        lane = variable(name_of(inner))
        fill = tuple(Store(parts[b], (*at, lane), e) for b, e in zip(buffers, neutral, strict=True))
        before += wrapped([*outer, replace(inner, var=lane, lo=idx(0), hi=idx(size), body=())], fill)
        after += wrapped(outer, _combined(how, buffers, parts, at, inner))

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


def accumulators(loop: Loop) -> list[tuple[str | Formula, tuple[UOp, ...]]]:
    """What a reduction accumulates: reducers and their buffers. ``ScheduleError`` if it is not one."""
    out: list[tuple[str | Formula, tuple[UOp, ...]]] = []
    pending: list[Store] = []
    for s in carried(loop):
        if s.update is None:
            raise ScheduleError(
                f"{name_of(loop)} hands {s.buffer.arg.name} from one iteration to the next, not through a reduction",
                help="only reductions and loops without such a value can be split or run in lanes",
            )
        pending.append(s)
        if len(pending) == reducer(s.update).arity:
            group = s.update, tuple(p.buffer for p in pending)
            if group not in out:
                out.append(group)
            pending = []
    return out


def _over(shape: Sequence[int], like: UOp) -> tuple[list[Loop], tuple[UOp, ...]]:
    """Loops over every element of a shape, and their variables."""
    made = [variable("d") for _ in shape]
    return [Loop(v, like, idx(0), idx(n), ()) for v, n in zip(made, shape, strict=True)], tuple(made)


def _combined(
    how: str | Formula, buffers: tuple[UOp, ...], parts: dict[UOp, UOp], at: tuple[UOp, ...], inner: Loop
) -> Body:
    """The partial results, combined by halves, added to the accumulator."""
    lane = variable(name_of(inner))
    other = tuple(UOp(Op.INDEX, b.dtype, (parts[b], *at, lane)) for b in buffers)
    own = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
    body = _merge(how, buffers, at, own, other)
    return (Loop(lane, inner.range, idx(0), idx(inner.width), body, "tree", inner.width),)


def _merge(
    how: str | Formula, buffers: tuple[UOp, ...], at: tuple[UOp, ...], own: tuple[UOp, ...], other: tuple[UOp, ...]
) -> Body:
    """``buffers[at] = combine(own, other)``."""
    new = plain(reducer(how), own[0], other[0])
    if new is not None:
        return (Store(buffers[0], at, new, how, other[0]),)
    out: list[Stmt] = []

    def named(hint: str, value: UOp) -> UOp:
        made = local(hint, value.dtype)
        out.append(Let(made, value))
        return made

    olds, values = (tuple(named(hint, v) for v in several) for hint, several in (("old", own), ("v", other)))
    results = tuple(named("new", v) for v in merged(reducer(how), olds, values, named))
    out.extend(Store(b, at, v, how, o) for b, v, o in zip(buffers, results, other, strict=True))
    return tuple(out)


def _map_stores(stmts: Body, fn: Callable[[Store], Store]) -> Body:
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
    for how, buffers in groups:
        neutral = reducer(how).identity(tuple(b.dtype for b in buffers))
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
        merge = wrapped(loops, _merge(how, buffers, at, mine, theirs))
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
    places = _results(kept, after, (*before, loop, *after))
    outside: list[Stmt] = []
    waiting: dict[UOp, tuple[UOp, tuple[UOp, ...]]] = {}
    for b in kept:
        if b in places:
            waiting[b] = places[b].buffer, places[b].index
            continue
        axes = laid_out(around, None)
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
            read = UOp(Op.INDEX, s.buffer.dtype, (array, *gated(at, later)))
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


def _results(kept: list[UOp], after: Body, whole: Body) -> dict[UOp, Store]:
    """For accumulators, stores of their type that follow: each has a place in the results that is its own till then.

    Rather that of the store of the accumulator as it is. Nothing may read the old contents of such a place.
    """
    stores = [
        s for s in after
        if isinstance(s, Store) and s.index and s.update is None
        and not any(i.op in (Op.WHERE, Op.INVALID) for i in s.index)
        and not any(reads(o, s.buffer) for t in walk(whole) for o in operands(t))
    ]  # fmt: skip
    out: dict[UOp, Store] = {}
    for exactly in (True, False):
        for b in kept:
            fitting = (s for s in stores if s.buffer.dtype is b.dtype and s not in out.values()
                       and (not exactly or s.value is UOp(Op.INDEX, b.dtype, (b,))))  # fmt: skip
            place = None if b in out else next(fitting, None)
            if place is not None:
                out[b] = place
    return out


def _only_when(condition: UOp, stmts: Body) -> Body:
    out: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Store) and s.index:
            s = replace(s, index=gated(s.index, condition))
        elif not isinstance(s, Let):
            raise ScheduleError("what follows the reduction is not a plain store")
        out.append(s)
    return tuple(out)
