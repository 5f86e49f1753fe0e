"""Where things run in a nest: accumulator lanes, and the loops an expression ends up inside.

The one model that *fuse* estimates with and *linearize* builds by. A node runs in the deepest enclosing loop whose
range it uses. A reduction whose expensive part does not use all of its element ranges keeps the others as *lanes*: an
array of accumulators filled inside the loop, so that ``p`` in ``sum(p[i, j] * v[j, d], j)`` is computed once per j
and not once per d.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from rangekit.ir.ops import EXPENSIVE, LOOPS, Op
from rangekit.ir.spec import binding
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, by_uid, toposort

Path = tuple[tuple[UOp, int], ...]  # the enclosing loops, outer first: the range, and which of its loops


def lanes(node: UOp, target: Target, costly: Collection[UOp] = ()) -> tuple[UOp, ...]:
    """The lanes of a REDUCE: its ranges less those of its expensive part that depends on the reduced range.

    ``costly`` are nodes to count as expensive whatever their op. Empty if nothing is expensive, if every range is
    used by it, or if the accumulators would not fit.
    """
    bound = binding(node)
    assert bound is not None
    consumed = frozenset(node.src[bound[1] :])
    used: set[UOp] = set()
    found = False
    seen: set[UOp] = set()
    stack = list(node.src[: bound[1]])
    while stack:
        n = stack.pop()
        if n in seen or not n.ranges & consumed:
            continue
        seen.add(n)
        if n.op in EXPENSIVE or n in costly:
            found = True
            used |= n.ranges
            continue
        stack.extend(n.src)
    free = node.ranges - used - consumed
    if not found or not free:
        return ()
    size = math.prod(r.extent for r in free) * sum(v.dtype.itemsize for v in node.src[: bound[1]])
    return by_uid(free) if size <= target.lane_bytes else ()


def prefix(path: Path, ranges: Collection[UOp]) -> Path:
    """The loops of ``path`` down to the deepest one whose range is used."""
    for depth in range(len(path), 0, -1):
        if path[depth - 1][0] in ranges:
            return path[:depth]
    return ()


def contexts(root: UOp, target: Target, costly: Collection[UOp] = ()) -> dict[UOp, set[Path]]:
    """For every node below a STORE or BUFFERIZE: the loops it runs in, one path an instance.

    Loops of reductions are told apart by their nesting level, as *linearize* shares them among siblings.
    """
    out: dict[UOp, set[Path]] = {}
    bound = binding(root)
    assert bound is not None
    outer: Path = tuple((r, 0) for r in root.src[bound[1] :])
    stack: list[tuple[UOp, Path]] = [(s, outer) for s in root.src[: bound[1]]]
    own: dict[UOp, tuple[UOp, ...]] = {}
    level = levels(root)
    while stack:
        n, path = stack.pop()
        if is_buffer(n):
            continue
        here = prefix(path, n.ranges)
        paths = out.setdefault(n, set())
        if here in paths:
            continue
        paths.add(here)
        inner = path
        if n.op is Op.REDUCE:
            if n not in own:
                own[n] = lanes(n, target, costly)
            bound = binding(n)
            assert bound is not None
            home = prefix(path, n.ranges - set(own[n]))
            around = {r for r, _ in home}  # a lane whose loop is around the home already is no lane there
            kept = (r for r in own[n] if r not in around)
            inner = (*home, *((r, level[n]) for r in (*n.src[bound[1] :], *kept)))
        elif n.op in LOOPS:
            bound = binding(n)
            assert bound is not None
            stack.extend((s, here) for s in n.src[: bound[0]])
            inner = (*here, (n.src[-1], level[n]))
            stack.extend((s, inner) for s in n.src[bound[0] :])
            continue
        elif n.op is Op.BUFFERIZE:
            inner = (*here, *((r, level[n]) for r in n.src[1:]))
        stack.extend((s, inner) for s in n.src)
    return out


def levels(root: UOp) -> dict[UOp, int]:
    """How deep reductions (and scratch arrays) nest below each node: equal levels cannot depend on one another."""
    level: dict[UOp, int] = {}
    for n in toposort(root, into=lambda n: n is root or not is_buffer(n)):
        nested = n.op in LOOPS or n.op is Op.BUFFERIZE
        level[n] = 0 if n is not root and is_buffer(n) else max((level[s] for s in n.src), default=0) + nested
    return level


def is_buffer(n: UOp) -> bool:
    """A BUFFERIZE that is memory of its own, filled by another nest; not a tile inside one."""
    return n.op is Op.BUFFERIZE and not n.ranges and n.arg.memory in (None, "global")


def runs(path: Path) -> int:
    """How often the innermost of these loops' bodies runs."""
    return math.prod(r.extent for r, _ in path)
