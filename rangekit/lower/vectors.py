"""Which of the loops that run in step become the lanes of vectors.

At most one loop around any statement does. A loop is taken if the body costs less with it as the vector than with the
best of the loops inside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from rangekit.ir.nest import Loop, Stmt
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp
from rangekit.lower.loops import Body, carried, loops
from rangekit.lower.model import Lanes, Row, cycles, rows


def vectorised(body: Body, target: Target) -> Body:
    """The body with the best of its "upcast" loops made "vector"."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            if s.kind == "upcast":
                chosen = _best(s, rows((s,)), target)[1]
                (s,) = _marked((s,), chosen)
            else:
                s = replace(s, body=vectorised(s.body, target))
        out.append(s)
    return _trees(tuple(out), target)


def _trees(body: Body, target: Target) -> Body:
    """Partial results that are not inside a vector are combined as vectors."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop) and s.kind == "tree":
            s = replace(s, lanes=math.gcd(s.width, target.vector_lanes))
        elif isinstance(s, Loop) and s.kind != "vector":
            s = replace(s, body=_trees(s.body, target))
        out.append(s)
    return tuple(out)


def _best(loop: Loop, listed: Sequence[Row], target: Target) -> tuple[float, dict[UOp, int]]:
    """What a loop in lanes costs, and the loops to make vectors, with their lanes: itself, or some inside it."""
    in_step = tuple((a.var, a.width) for a in loops((loop,)) if a.kind == "upcast")
    inside = [row for row in listed if any(a.var is loop.var for a in row.path)]
    plain = cycles(inside, Lanes(others=in_step), target)
    best, chosen = plain, dict[UOp, int]()
    lanes = _lanes(loop, inside, target)
    if lanes > 1 and not carried(loop):
        cost = cycles(inside, Lanes(loop.var, loop.width, in_step, lanes), target)
        if cost < best:
            best, chosen = cost, {loop.var: lanes}
    inner_cost, inner = plain, dict[UOp, int]()
    for child in _children(loop.body):
        below = [row for row in inside if any(a.var is child.var for a in row.path)]
        cost, found = _best(child, inside, target)
        inner_cost += cost - cycles(below, Lanes(others=in_step), target)
        inner.update(found)
    return (inner_cost, inner) if inner and inner_cost < best else (best, chosen)


def _children(body: Body) -> list[Loop]:
    """The nearest "upcast" loops inside."""
    out = []
    for s in body:
        if isinstance(s, Loop):
            out += [s] if s.kind == "upcast" else _children(s.body)
    return out


def _marked(body: Body, chosen: dict[UOp, int]) -> Body:
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            s = replace(s, body=_marked(s.body, chosen))
            if s.var in chosen:
                s = replace(s, kind="vector", lanes=chosen[s.var])
        out.append(s)
    return tuple(out)


def _lanes(loop: Loop, listed: list[Row], target: Target) -> int:
    """Elements of a vector: as many as fit a register of the widest type in memory, and divide the block."""
    widest = 1
    for row in listed:
        if row.buffer is None or row.kind == "update" or loop.var not in row.deps:
            continue
        if any(p.var is loop.var for p in row.path):
            widest = max(widest, row.buffer.dtype.itemsize)
    most = target.vector_bytes // max(widest, 2)
    lanes = math.gcd(loop.width, 1 << (max(1, most).bit_length() - 1))
    return lanes
