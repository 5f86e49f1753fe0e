"""Where things run in a nest: the order of its loops, accumulator lanes, and the loops an expression ends up inside.

The one model that *fuse* estimates with and *linearize* builds by. A node runs in the deepest enclosing loop whose
range it uses; so the loops that a reduction uses go outside of those it does not, where that saves much. A reduction
whose expensive part does not use all of its element ranges keeps the others as *lanes*: an array of accumulators
filled inside the loop, so that ``p`` in ``sum(p[i, j] * v[j, d], j)`` is computed once per j and not once per d.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from rangekit.ir.ops import EXPENSIVE, LOOPS, Op
from rangekit.ir.spec import binding, combines
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, by_uid, toposort

Path = tuple[tuple[UOp, int], ...]  # the enclosing loops, outer first: the range, and which of its loops
ORDERS = 4  # sets of loops that are tried as the outer ones

_NOTHING: Mapping[UOp, int] = MappingProxyType({})


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


def contexts(root: UOp, target: Target, costly: Mapping[UOp, int] = _NOTHING) -> dict[UOp, set[Path]]:
    """For every node below a STORE or BUFFERIZE: the loops it runs in, one path an instance.

    Loops of reductions are told apart by their nesting level, as *linearize* shares them among siblings. ``costly``:
    nodes to count as expensive whatever their op, with the iterations of the reductions they stand for.
    """
    loops = _loops(root)
    found = _contexts(root, loops, target, costly)
    order = _ordered([root], [found], loops, target, costly)
    return found if order == loops else _contexts(root, order, target, costly)


def loop_order(roots: Sequence[UOp], target: Target) -> tuple[UOp, ...]:
    """The loops that roots share, outer to inner: as written, unless another order saves half of the reductions' work.

    The sum of a column, inside the loop over rows, would be taken again for each row.
    """
    loops = _loops(roots[0])
    return _ordered(roots, [_contexts(root, loops, target, _NOTHING) for root in roots], loops, target, _NOTHING)


def _ordered(
    roots: Sequence[UOp],
    found: Sequence[Mapping[UOp, set[Path]]],
    loops: tuple[UOp, ...],
    target: Target,
    costly: Mapping[UOp, int],
) -> tuple[UOp, ...]:
    if len(loops) < 2 or any(root.op is Op.PRINT or combines(root) for root in roots):  # in the order that is written
        return loops
    if any(n.op is Op.SCAN for each in found for n in each):  # its loop hands values on to the next iteration
        return loops
    used = {
        n.ranges.intersection(loops): None
        for each in found
        for n, paths in each.items()
        if (n.op in LOOPS or costly.get(n)) and not {r for path in paths for r, _ in path} <= n.ranges
    }
    sets = sorted(used, key=len)[:ORDERS]
    orders = [loops, *(tuple(sorted(loops, key=lambda r: r not in s)) for s in sets)]
    orders.append(tuple(sorted(loops, key=lambda r: [r not in s for s in sets])))
    work = [sum(_work(root, order, target, costly) for root in roots) for order in orders] if sets else [0]
    best = work.index(min(work))
    return orders[best] if 2 * work[best] <= work[0] else loops


def _work(root: UOp, loops: tuple[UOp, ...], target: Target, costly: Mapping[UOp, int]) -> int:
    """Iterations of all reductions, with the loops of the root in this order."""
    total = 0
    for n, paths in _contexts(root, loops, target, costly).items():
        bound = binding(n) if n.op in LOOPS else None
        each = math.prod(r.extent for r in n.src[bound[1] :]) if bound else costly.get(n, 0)
        total += each * sum(map(runs, paths))
    return total


def _loops(root: UOp) -> tuple[UOp, ...]:
    bound = binding(root)
    assert bound is not None
    return root.src[bound[1] :]


def _contexts(root: UOp, loops: tuple[UOp, ...], target: Target, costly: Mapping[UOp, int]) -> dict[UOp, set[Path]]:
    out: dict[UOp, set[Path]] = {}
    bound = binding(root)
    assert bound is not None
    outer: Path = tuple((r, 0) for r in loops)
    stack: list[tuple[UOp, Path]] = [(s, outer) for s in root.src[: bound[1]]]
    own: dict[UOp, tuple[UOp, ...]] = {}
    level = levels(root)
    while stack:
        n, path = stack.pop()
        if is_filled(n):
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
    for n in toposort(root, into=lambda n: n is root or not is_filled(n)):
        nested = n.op in LOOPS or n.op is Op.BUFFERIZE
        level[n] = 0 if n is not root and is_filled(n) else max((level[s] for s in n.src), default=0) + nested
    return level


def in_step(b: UOp, scanned: UOp, uses: Sequence[UOp], users: Sequence[UOp]) -> bool:
    """Whether all uses stand in one nest's loop over the scanned axis: then that loop runs the scan too."""
    if scanned.src[1] not in b.src[1:] or not _together(users):
        return False
    axis = b.src[1:].index(scanned.src[1])
    loops = _loops(users[0])
    scan = scanned.src[0]
    around = frozenset().union(*(s.ranges for s in scan.src[:-2])) - {scan.src[-1]}
    given = (s for root in users for s in root.src[: len(root.src) - len(loops)])
    outside = toposort(*given, into=lambda n: n is not b and not is_filled(n))
    rebound = {r for n in outside if n.op in LOOPS for r in n.src}
    for u in uses:
        r = u.src[1 + axis]
        if r is not uses[0].src[1 + axis] or r not in loops or r in rebound or r.length != b.shape[axis]:
            return False
        mine = around - set(b.src[1:])
        mine = mine.union(*(i.ranges for a, i in zip(b.src[1:], u.src[1:], strict=True) if a in around))
        inner = [a in mine for a in loops[loops.index(r) + 1 :]]
        if inner != sorted(inner, reverse=True) or r in mine:
            return False
    return True


def _together(users: Sequence[UOp]) -> bool:
    """Whether what these roots compute is one nest: a buffer, or writes of values that do not meet, over the same
    ranges.
    """
    if len(users) == 1 and is_buffer(users[0]):
        return True
    first = users[0] if users else None
    if first is None or any(u.op is not Op.ASSIGN or u.arg not in (None, "any") or u.ranges for u in users):
        return False
    below = set(toposort(*(s for u in users for s in u.src[:3])))
    return not below.intersection(users) and all(_loops(u) == _loops(first) for u in users)


def is_filled(n: UOp) -> bool:
    """What another nest makes: memory of its own, or new contents of what there is."""
    return is_buffer(n) or (n.op is Op.ASSIGN and not n.ranges)


def is_buffer(n: UOp) -> bool:
    """A BUFFERIZE that is memory of its own, filled by another nest; not a tile inside one."""
    return n.op is Op.BUFFERIZE and not n.ranges and n.arg.memory in (None, "global")


def runs(path: Path) -> int:
    """How often the innermost of these loops' bodies runs."""
    return math.prod(r.extent for r, _ in path)
