"""Reductions in parts: a partial result a lane, groups of them, blocks of one outside the loops around it.

Partial results are combined in a fixed order; integers do not notice, floats within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Let, Loop, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, reducer
from rangekit.ir.uop import UOp, alu, const, idx, new_buffer
from rangekit.lower.copies import laid_out
from rangekit.lower.loops import (
    Body,
    all_or_none,
    carried,
    gated,
    local,
    mapped,
    name_of,
    reads,
    span,
    ungated,
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
    copies: dict[UOp, _Copy] = {}
    before: list[Stmt] = []
    after: list[Stmt] = []
    for how, buffers in groups:
        stays = _stays(loop, buffers)
        outer, moving, at = _over(buffers[0].shape, stays, inner.range)
        shape = tuple(n for n, i in zip(buffers[0].shape, stays, strict=True) if i is None)
        for b in buffers:
            copies[b] = _Copy(
                new_buffer(b.dtype, (*shape, size), b.arg.name, _memory(shape, size)), stays, (inner.var,)
            )
            before.append(Scratch(copies[b].buffer))
        lane = variable(name_of(inner))
        fill = [
            Store(copies[b].buffer, (*moving, lane), e) for b, e in zip(buffers, _neutral(how, buffers), strict=True)
        ]
        before += wrapped([*outer, replace(inner, var=lane, lo=idx(0), hi=idx(size), body=())], tuple(fill))
        other = variable(name_of(inner))
        own = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
        theirs = tuple(UOp(Op.INDEX, b.dtype, (copies[b].buffer, *moving, other)) for b in buffers)
        tree = Loop(other, inner.range, idx(0), idx(size), _merge(how, buffers, at, own, theirs), "tree", size)
        after += wrapped(outer, (tree,))
    return (*before, replace(loop, body=_with(loop.body, copies)), *after)


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


def copied(loop: Loop) -> int:
    """Bytes of a copy of what a loop reduces into."""
    size = 0
    for _, buffers in accumulators(loop):
        moving = (n for n, i in zip(buffers[0].shape, _stays(loop, buffers), strict=True) if i is None)
        size += math.prod(moving) * sum(b.dtype.itemsize for b in buffers)
    return size


@dataclass(frozen=True)
class _Copy:
    """What stands for an accumulator inside a loop: an array of the axes along which the loop moves, then ``last``."""

    buffer: UOp
    stays: tuple[UOp | None, ...]
    last: tuple[UOp, ...] = ()

    def index(self, given: tuple[UOp, ...]) -> tuple[UOp, ...]:
        """The place in the copy of a place in the accumulator."""
        plain = (*(ungated(i) for i, fixed in zip(given, self.stays, strict=True) if fixed is None), *self.last)
        gate = next((i.src[0] for i in given if i is not ungated(i)), None)
        return plain if gate is None else gated(plain, gate)


def _stays(loop: Loop, buffers: tuple[UOp, ...]) -> tuple[UOp | None, ...]:
    """For each axis of accumulators the index that all of a loop uses there; None if it moves along the axis."""
    inside = {loop.var}
    for s in walk(loop.body):
        if isinstance(s, (Let, Loop)):
            inside.add(s.var)
    used = [s.index for s in walk(loop.body) if isinstance(s, Store) and s.buffer in buffers]
    used += [r.src[1:] for s in walk(loop.body) for o in operands(s) for b in buffers for r in reads(o, b)]
    out: list[UOp | None] = []
    for axis in range(len(buffers[0].shape)):
        found = {ungated(i[axis]) for i in used}
        i = found.pop()
        fixed = not found and not variables(i) & inside and i.op in (Op.VAR, Op.CONST)
        out.append(i if fixed else None)
    gates = any(i is not ungated(i) for index in used for i in index)
    return tuple(out) if None in out or not gates else (*out[:-1], None)  # a gate needs an index to stand on


def _with(body: Body, copies: dict[UOp, _Copy]) -> Body:
    """A loop's body that accumulates into copies."""

    def moved(n: UOp) -> UOp:
        found = memo.get(n)
        if found is None:
            src = tuple(moved(c) for c in n.src)
            found = n if src == n.src else n.replace(src=src)
            if n.op is Op.INDEX and n.src[0] in copies:
                copy = copies[n.src[0]]
                found = UOp(Op.INDEX, n.dtype, (copy.buffer, *copy.index(found.src[1:])))
            memo[n] = found
        return found

    def stored(s: Store) -> Store:
        copy = copies.get(s.buffer)
        return s if copy is None else replace(s, buffer=copy.buffer, index=copy.index(s.index))

    memo: dict[UOp, UOp] = {}
    return _map_stores(mapped(body, moved), stored)


def _memory(shape: Sequence[int], copies: int = 1) -> str:
    """Where copies of accumulators are kept."""
    return "register" if copies <= 64 and not shape else "local"


def _neutral(how: str | Formula, buffers: tuple[UOp, ...]) -> tuple[UOp, ...]:
    """What the parts of accumulators begin with. Of sums into an array that may have contents already -0.0: added to
    what is there, it changes nothing.
    """
    if how == "add" and buffers[0].shape and buffers[0].dtype.is_float:
        return tuple(const(-0.0, b.dtype) for b in buffers)
    return reducer(how).identity(tuple(b.dtype for b in buffers))


def _over(
    shape: Sequence[int], stays: tuple[UOp | None, ...], like: UOp
) -> tuple[list[Loop], tuple[UOp, ...], tuple[UOp, ...]]:
    """Loops over the axes of a shape that do not stay, their variables, and the index of an element."""
    at = tuple(variable("d") if i is None else i for i in stays)
    made = [(v, n) for v, n, i in zip(at, shape, stays, strict=True) if i is None]
    return [Loop(v, like, idx(0), idx(n), ()) for v, n in made], tuple(v for v, _ in made), at


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
    copies: dict[UOp, _Copy] = {}
    place = variable(name_of(loop) + ".g")
    for how, buffers in groups:
        stays = _stays(loop, buffers)
        loops, moving, at = _over(buffers[0].shape, stays, loop.range)
        shape = tuple(n for n, i in zip(buffers[0].shape, stays, strict=True) if i is None)
        fill: list[Stmt] = []
        save: list[Stmt] = []
        parts = []
        for b, e in zip(buffers, _neutral(how, buffers), strict=True):
            part = new_buffer(b.dtype, (count, *shape), b.arg.name, "local")
            copies[b] = _Copy(new_buffer(b.dtype, shape, b.arg.name, _memory(shape)), stays)
            own = copies[b].buffer
            parts.append(part)
            before.append(Scratch(part))
            start.append(Scratch(own))
            fill.append(Store(own, moving, e))
            save.append(Store(part, (outer.var, *moving), UOp(Op.INDEX, b.dtype, (own, *moving))))
        start += wrapped(loops, tuple(fill))
        end += wrapped(loops, tuple(save))
        mine = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
        theirs = tuple(UOp(Op.INDEX, p.dtype, (p, place, *moving)) for p in parts)
        merge = wrapped(loops, _merge(how, buffers, at, mine, theirs))
        after.append(Loop(place, loop.range, idx(0), idx(count), merge))
    return (*before, replace(outer, body=(*start, *_with(outer.body, copies), *end)), *after)


# ---- a reduction's blocks outside the loops around it ----------------------------------------------------------------


def hoisted(around: list[Loop], loop: Loop, before: Body, after: Body) -> Body:
    """``loop`` (a reduction's loop over blocks) outside the parallel loops ``around`` it.

    Between two blocks each accumulator waits in memory: where its result will be, if that is of its type, else in a
    scratch array. What follows the reduction is done after its last block.
    """
    loop = _run_through(loop)
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


def _run_through(loop: Loop) -> Loop:
    """A loop over blocks that runs whole or not at all, as one that always runs, over blocks that may be empty."""
    whole = all_or_none(loop)
    if whole is None or not all(isinstance(s, Loop) and s.lo.op is Op.CONST and s.lo.arg == 0 for s in loop.body):
        return loop
    body = tuple(replace(s, hi=alu(Op.WHERE, loop.hi.src[0], s.hi, s.lo)) for s in loop.body if isinstance(s, Loop))
    return replace(loop, hi=whole, body=body)


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
