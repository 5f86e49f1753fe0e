"""A loop is cut in two where a condition on its own variable changes, if either side then has less to compute.

``where(j <= i, sum(q[i, d] * k[j, d], d), -inf)`` in a loop over ``j`` becomes a loop up to ``i``, and one from there
on that has no sum. The iterations stay in their order, so that every bit of the result does. What no longer varies in
such a part is computed before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.nest import Let, Loop, Nest, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, const, new_buffer
from rangekit.lower.limits import limit
from rangekit.lower.loops import (
    Body,
    declared,
    fresh_after,
    greatest,
    least,
    local,
    mapped,
    rebuilt,
    substitution,
    variable,
)
from rangekit.lower.tidy import tidy

MOST = 4  # parts that one loop may become
_COMPARISONS = (Op.LT, Op.LE)


def cut(nest: Nest) -> Nest:
    """The nest with the loops cut that do less in parts."""
    fresh_after(nest)
    body = _body(nest.body, {})
    return nest if body == nest.body else tidy(replace(nest, body=body))


def _body(body: Body, around: dict[UOp, UOp]) -> Body:
    out: list[Stmt] = []
    for s in body:
        if not isinstance(s, Loop):
            out.append(s)
            continue
        around[s.var] = s.range
        s = replace(s, body=_body(s.body, around))
        out += _parts(s, around, MOST)
        del around[s.var]
    return tuple(out)


def _parts(loop: Loop, around: dict[UOp, UOp], most: int) -> Body:
    """What a loop becomes: itself, or its parts in order."""
    if most < 2 or not all(isinstance(s, (Let, Loop, Scratch, Store)) for s in walk(loop.body)) or not _work(loop.body):
        return (loop,)
    for c in dict.fromkeys(_conditions(loop)):
        place = _place(c, loop, around)
        if place is None:
            continue
        at, holds_first, (first_at, last_at) = place
        first, last = (_under(loop.body, c, holds) for holds in (holds_first, not holds_first))
        if min(_work(first), _work(last)) == _work(loop.body):
            continue
        lo, hi = loop.lo, loop.hi
        end = at if hi.op is Op.CONST and last_at <= hi.arg else least(hi, at)
        begin = at if lo.op is Op.CONST and first_at >= lo.arg else greatest(lo, at)
        one, two = replace(loop, hi=end, body=first), _renamed(replace(loop, lo=begin, body=last))
        around = {**around, two.var: two.range}
        return tuple(t for part in (one, two) for s in _hoisted(part)
                     for t in (_parts(s, around, most - 1) if isinstance(s, Loop) else (s,)))  # fmt: skip
    return (loop,)


def _work(body: Body) -> int:
    return sum(isinstance(s, Loop) for s in walk(body))


def _conditions(loop: Loop) -> Iterator[UOp]:
    """The comparisons of a loop's variable with what its iterations do not change, that selections in its body make."""
    inside = {s.var for s in walk(loop.body) if isinstance(s, (Let, Loop))}
    written = {s.buffer for s in walk(loop.body) if isinstance(s, Store)}
    for s in loop.body:
        for root in operands(s) if not isinstance(s, Loop) else ():
            for n in _nodes(root):
                if n.op in _COMPARISONS and n.src[0].dtype.is_int and loop.var in variables(n) \
                        and not variables(n) & inside and not _arrays(n) & written:  # fmt: skip
                    yield n


def _nodes(n: UOp) -> Iterator[UOp]:
    yield n
    for s in n.src:
        yield from _nodes(s)


def _arrays(n: UOp) -> set[UOp]:
    return {m.src[0] for m in _nodes(n) if m.op is Op.INDEX}


def _place(c: UOp, loop: Loop, around: dict[UOp, UOp]) -> tuple[UOp, bool, tuple[float, float]] | None:
    """Where a condition changes, whether it holds before that, and the interval in which that is."""
    said = limit(substitution(around)(c), (loop.range,))
    if len(said) != 1 or said[0][3]:
        return None
    _, lo, hi, _ = said[0]
    at = hi if lo is None else lo
    if at is None:
        return None
    back = substitution({r: v for v, r in around.items()})
    return back(at), lo is None, bounds(at)


def _under(body: Body, c: UOp, holds: bool) -> Body:
    """Statements where a condition is known, without what nothing uses then."""
    known = {c: const(holds, dt.bool_)}
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            out.append(replace(s, body=_mapped(s.body, known)))
            continue
        s = rebuilt(s, lambda n: _folded(n, known))
        if isinstance(s, Let) and s.value.op is Op.CONST:
            known[s.var] = s.value
            continue
        out.append(s)
    return _used(tuple(out))


def _mapped(body: Body, known: dict[UOp, UOp]) -> Body:
    return mapped(body, lambda n: _folded(n, known))


def _folded(n: UOp, known: dict[UOp, UOp]) -> UOp:
    """An expression in which conditions are known."""
    if n in known:
        return known[n]
    src = tuple(_folded(s, known) for s in n.src)
    if src == n.src:
        return n
    if n.op is Op.WHERE and src[0].op is Op.CONST:
        return src[1] if src[0].arg else src[2]
    new = n.replace(src=src)
    return simplify(new) if n.dtype is dt.bool_ else new


def _used(body: Body) -> Body:
    """Statements without names and scratch arrays that nothing reads."""
    while True:
        read: set[UOp] = set()
        for s in walk(body):
            for n in operands(s):
                read |= variables(n)
                read |= _arrays(n) - ({s.buffer} if isinstance(s, Store) else set())
        new = _kept(body, declared(body) - read, read)
        if new == body:
            return body
        body = new


def _kept(body: Body, dead: frozenset[UOp] | set[UOp], read: set[UOp]) -> Body:
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            s = replace(s, body=_kept(s.body, dead, read))
            if not s.body:
                continue
        elif (isinstance(s, (Store, Scratch)) and s.buffer in dead) or (isinstance(s, Let) and s.var not in read):
            continue
        out.append(s)
    return tuple(out)


def _renamed(loop: Loop) -> Loop:
    """The same loop with variables and scratch arrays of its own."""
    new: dict[UOp, UOp] = {loop.var: variable(loop.var.arg[-1])}
    for s in walk(loop.body):
        if isinstance(s, Let):
            new[s.var] = local(s.var.arg[-1], s.var.dtype)
        elif isinstance(s, Loop):
            new[s.var] = variable(s.var.arg[-1])
        elif isinstance(s, Scratch):
            b = s.buffer
            new[b] = new_buffer(b.dtype, b.shape, b.arg.name, b.arg.memory)
    (made,) = mapped((loop,), substitution(new))
    assert isinstance(made, Loop)
    return made


def _hoisted(loop: Loop) -> Body:
    """A loop after the names of its body that are the same in every iteration. It may have none: what is read at an
    index stays where it is known to be there.
    """
    written = {s.buffer for s in walk(loop.body) if isinstance(s, Store)}
    varies = {loop.var}
    before: list[Stmt] = []
    rest: list[Stmt] = []
    for s in loop.body:
        if (
            isinstance(s, Let)
            and not variables(s.value) & varies
            and not any(b in written or b.shape for b in _arrays(s.value))
        ):
            before.append(s)
            continue
        if isinstance(s, Let):
            varies.add(s.var)
        rest.append(s)
    return (*before, replace(loop, body=tuple(rest)))
