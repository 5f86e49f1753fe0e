"""A fold or scan in parts, where its states can be joined: ``rk.group`` for loops that hand a state on.

Each part runs the step from the neutral state. A fold then joins what the parts give, in order. A scan has to know
what came before each part: a first pass finds what the parts give, a running join of those is where each part starts,
and a second pass does all that the loop did.
"""

from __future__ import annotations

from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Let, Loop, Print, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.uop import UOp, idx, new_buffer
from rangekit.lower.loops import Body, carried, local, mapped, name_of, span, substitution, variable
from rangekit.lower.tiles import tile


def joinable(loop: Loop) -> bool:
    """Whether all that the loop hands on are states that can be joined."""
    stores = carried(loop)
    return bool(stores) and all(s.joins is not None and not s.buffer.shape for s in stores)


def exact(loop: Loop) -> bool:
    """Whether no grouping of what it joins shows."""
    stores = carried(loop)
    how = stores[0].joins
    return how is not None and reducer(how).exact(tuple(s.buffer.dtype for s in stores))


def grouped(loop: Loop, blocks: int) -> Body:
    """The loop in at most ``blocks`` contiguous parts."""
    stores = carried(loop)
    n = span(loop)
    if n is None or loop.lo.op is not Op.CONST:
        raise ScheduleError(f"{name_of(loop)} cannot be grouped: its length is not known")
    how = stores[0].joins
    assert how is not None
    if any(s.joins != how for s in stores) or len(stores) != reducer(how).arity:
        raise ScheduleError(f"{name_of(loop)} cannot be grouped: it hands on states of several folds")
    held = tuple(s.buffer for s in stores)
    neutral = reducer(how).identity(tuple(b.dtype for b in held))
    size = max(1, -(-n // blocks))
    outer = tile(loop, size)
    parts = tuple(new_buffer(b.dtype, (-(-n // size),), b.arg.name, "local") for b in held)
    inner = outer.body[0]
    assert isinstance(inner, Loop)
    scan = _used(inner, held)
    first = _own(outer, _silent(inner.body, held) if scan else inner.body, held, neutral, parts)
    place = variable(name_of(loop) + ".g")
    old = tuple(UOp(Op.INDEX, b.dtype, (b,)) for b in held)
    mine = tuple(UOp(Op.INDEX, p.dtype, (p, place)) for p in parts)
    names = tuple(local(b.arg.name, b.dtype) for b in (*held, *held))
    lets: list[Stmt] = [Let(v, e) for v, e in zip(names, (*old, *mine), strict=True)]
    joined = reducer(how).combine(names[: len(held)], names[len(held) :])
    after: list[Stmt] = [*lets]
    if scan:  # where each part starts
        after += [Store(p, (place,), v) for p, v in zip(parts, names, strict=False)]
    after += [Store(b, (), v) for b, v in zip(held, joined, strict=True)]
    body: list[Stmt] = [*(Scratch(p) for p in parts), first, Loop(place, loop.range, idx(0), outer.hi, tuple(after))]
    if scan:
        again = tile(loop, size)
        whole = again.body[0]
        assert isinstance(whole, Loop)
        start = tuple(UOp(Op.INDEX, p.dtype, (p, again.var)) for p in parts)
        body.append(_own(again, whole.body, held, start, None))
    return tuple(body)


def _own(
    outer: Loop, stmts: Body, held: tuple[UOp, ...], start: tuple[UOp, ...], parts: tuple[UOp, ...] | None
) -> Loop:
    """The loop over parts, each with states of its own from ``start``; with ``parts`` they are kept there."""
    inner = outer.body[0]
    assert isinstance(inner, Loop)
    own = {b: new_buffer(b.dtype, (), b.arg.name, b.arg.memory) for b in held}
    before: list[Stmt] = [Scratch(b) for b in own.values()]
    before += [Store(own[b], (), e) for b, e in zip(held, start, strict=True)]
    after = [Store(p, (outer.var,), UOp(Op.INDEX, b.dtype, (own[b],))) for b, p in zip(held, parts or (), strict=False)]
    body = mapped(stmts, substitution(own))
    return replace(outer, body=(*before, replace(inner, body=body), *after))


def _used(inner: Loop, held: tuple[UOp, ...]) -> bool:
    """Whether something beside the states is stored: each iteration then needs its own state, not only the last."""
    own = {s.buffer for s in walk(inner.body) if isinstance(s, Scratch)} | set(held)
    return any(isinstance(s, Print) or (isinstance(s, Store) and s.buffer not in own) for s in walk(inner.body))


def _silent(body: Body, held: tuple[UOp, ...]) -> Body:
    """The statements that the next states are made of."""
    own = {s.buffer for s in walk(body) if isinstance(s, Scratch)} | set(held)
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            s = replace(s, body=_silent(s.body, tuple(own)))
            if s.body:
                out.append(s)
        elif not isinstance(s, Print) and (not isinstance(s, Store) or s.buffer in own):
            out.append(s)
    return _needed(tuple(out))


def _needed(body: Body) -> Body:
    """Without names that nothing uses any more."""
    while True:
        used = frozenset().union(*(variables(n) for s in walk(body) for n in operands(s)))
        kept = tuple(s for s in body if not isinstance(s, Let) or s.var in used)
        if len(kept) == len(body):
            return body
        body = kept
