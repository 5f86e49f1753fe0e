"""What several loops over one range compute alike is computed in the first of them and kept, in a local row.

A function of an element (``exp``) or a whole inner reduction, the same in sibling loops but for the names of their
variables: the first loop stores it, the others read it back. A row has to fit the caches, and nothing that the value
reads may change in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rangekit.ir import dtype as dt
from rangekit.ir.nest import Let, Loop, Nest, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import MATH, Op
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, new_buffer
from rangekit.lower.loops import Body, local, mapped, span, substitution

LEAST = 16  # iterations: shorter loops are not worth a row
_AT, _INNER = (UOp(Op.VAR, dt.index, (), ("axis", name)) for name in ("at", "inner"))


def recall(nest: Nest, target: Target) -> Nest:
    """The nest with rows for what would be computed twice."""
    return replace(nest, body=_body(nest.body, target))


@dataclass(frozen=True)
class _Found:
    """One value of a loop's body: how it is written whatever the variables' names, and what it is there."""

    form: object
    node: UOp  # the expression, or the read of the accumulator
    group: tuple[Stmt, ...]  # the statements that reduce it, none for an expression


def _body(body: Body, target: Target) -> Body:
    body = tuple(replace(s, body=_body(s.body, target)) if isinstance(s, Loop) else s for s in body)
    places = [n for n, s in enumerate(body) if isinstance(s, Loop) and s.range.extent >= LEAST]
    for n, place in enumerate(places):
        first = body[place]
        assert isinstance(first, Loop)
        for found in _candidates(first):
            again = [p for p in places[n + 1 :] if _same(first, body[p]) and _match(body[p], found) is not None]
            if again and _fits(first, found, target) and not _changes(body[place : again[-1] + 1], found):
                return _body(_kept(body, place, again, found), target)
    return body


def _same(a: Stmt, b: Stmt) -> bool:
    return isinstance(a, Loop) and isinstance(b, Loop) and a.lo is b.lo and a.hi is b.hi


def _candidates(loop: Loop) -> Iterator[_Found]:
    """The reductions of a loop's body, then its math functions."""
    inside = {s.var for s in loop.body if isinstance(s, Let)}
    for n in range(len(loop.body) - 2):
        found = _reduction(loop, loop.body[n : n + 3])
        if found is not None:
            yield found
    canonical = substitution({loop.var: _AT})
    for s in loop.body:
        for root in operands(s) if not isinstance(s, Loop) else ():
            for node in _nodes(root):
                if (
                    node.op in MATH
                    and node.op is not Op.SQRT
                    and loop.var in variables(node)
                    and not variables(node) & inside
                ):
                    yield _Found(canonical(node), node, ())


def _reduction(loop: Loop, group: tuple[Stmt, ...]) -> _Found | None:
    """A scratch value, set and then reduced into by a loop, as the three statements that linearize makes of it."""
    scratch, start, inner = group
    if not (isinstance(scratch, Scratch) and isinstance(start, Store) and isinstance(inner, Loop)):
        return None
    b = scratch.buffer
    if b.shape or start.buffer is not b or len(inner.body) != 1 or (span(inner) or 64) < 8:
        return None
    update = inner.body[0]
    if not isinstance(update, Store) or update.buffer is not b or update.update is None:
        return None
    used = variables(update.value) | variables(inner.lo) | variables(inner.hi)
    if loop.var not in used or used & {s.var for s in loop.body if isinstance(s, Let)}:
        return None
    name = UOp(Op.VAR, b.dtype, (), ("axis", "value"))
    read = UOp(Op.INDEX, b.dtype, (b,))
    canonical = substitution({loop.var: _AT, inner.var: _INNER, read: name})
    form = (update.update, canonical(start.value), canonical(inner.lo), canonical(inner.hi), canonical(update.value))
    return _Found(form, read, group)


def _nodes(n: UOp) -> Iterator[UOp]:
    yield n
    for s in n.src:
        yield from _nodes(s)


def _match(s: Stmt, found: _Found) -> _Found | None:
    """The same value in another loop."""
    assert isinstance(s, Loop)
    return next((c for c in _candidates(s) if c.form == found.form), None)


def _fits(loop: Loop, found: _Found, target: Target) -> bool:
    size = loop.range.extent * found.node.dtype.itemsize
    return size <= (target.l1_bytes // 2 if found.group else target.l1_bytes * 2)


def _changes(stmts: Body, found: _Found) -> bool:
    """Whether anything the value reads is stored to in between."""
    read = {n.src[0] for s in walk(found.group) or () for o in operands(s) for n in _nodes(o) if n.op is Op.INDEX}
    read |= {n.src[0] for n in _nodes(found.node) if n.op is Op.INDEX}
    read -= {s.buffer for s in found.group if isinstance(s, Scratch)}
    return any(isinstance(s, Store) and s.buffer in read for s in walk(stmts))


def _kept(body: Body, place: int, again: list[int], found: _Found) -> Body:
    out = list(body)
    first = body[place]
    assert isinstance(first, Loop)
    row = new_buffer(found.node.dtype, (first.range.extent,), "row", "local")  # its bounds may be within the range's
    name = local("e", found.node.dtype)
    inside: list[Stmt] = []
    seen = False
    use = substitution({found.node: name})
    for s in first.body:
        if not seen and (s is found.group[-1] if found.group else any(found.node in _nodes(o) for o in operands(s))):
            seen = True
            if found.group:
                inside += [s, Store(row, (first.var,), found.node)]
                continue
            inside += [Let(name, found.node), Store(row, (first.var,), name)]
        inside += mapped((s,), use) if not found.group else (s,)
    out[place] = replace(first, body=tuple(inside))
    for p in again:
        loop = body[p]
        assert isinstance(loop, Loop)
        other = _match(loop, found)
        assert other is not None
        left = tuple(s for s in loop.body if s not in other.group)
        out[p] = replace(loop, body=mapped(left, substitution({other.node: UOp(Op.INDEX, row.dtype, (row, loop.var))})))
    return (*out[:place], Scratch(row), *out[place:])
