"""Keep, shrink or remove each BUFFERIZE, by what it moves and what would be computed again without it.

Removed where no reduction would run more often than now and what is repeated costs less than the traffic. Shrunk to
the axes that are not loops around all of its uses, in local memory, where that is what repeats. Kept otherwise.
``memory=`` orders are kept as they are. Consumers are decided first, so that all uses of a buffer are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rangekit.ir.binding import substitute
from rangekit.ir.ops import EXPENSIVE, LOOPS, Op
from rangekit.ir.spec import binding
from rangekit.ir.target import Target
from rangekit.ir.uop import Storage, UOp, toposort
from rangekit.lower.canon import canon, carry_tree
from rangekit.lower.place import Path, contexts, is_buffer, prefix, runs

Carry = Callable[[UOp, UOp], None]
Nests = dict[UOp, frozenset[UOp]]  # what each root has inside, found once


def fuse(sink: UOp, target: Target, carry: Carry, reasons: list[str]) -> UOp:
    """The program with only the buffers that pay; ``reasons`` gets a line for each that was decided on."""
    decided: set[UOp] = set()
    nests: Nests = {}

    def follow(old: UOp, new: UOp) -> None:
        carry(old, new)
        if old in decided:  # a buffer that was kept stays kept when what it reads is rebuilt
            decided.add(new)

    while True:
        order = toposort(sink)
        found = next((n for n in reversed(order) if _removable(n) and n not in decided and n not in sink.src), None)
        if found is None:
            return sink
        new, why = _decide(found, order, target, follow, nests)
        reasons.append(f"{_name(found)}: {why}")
        if new is None:
            decided.add(found)
            continue
        sink = canon(new(sink), follow)


def _removable(n: UOp) -> bool:
    return n.op is Op.BUFFERIZE and n.arg.memory is None


def _name(n: UOp) -> str:
    sizes = " x ".join(str(s) for s in n.shape) or "1"
    return f"{n.arg.name or n.src[0].op.value} ({sizes} {n.dtype})"


def _decide(
    b: UOp, order: list[UOp], target: Target, carry: Carry, nests: Nests
) -> tuple[Callable[[UOp], UOp] | None, str]:
    uses = [n for n in order if n.op is Op.INDEX and n.src[0] is b]
    if any(b in n.src and n.op is not Op.INDEX for n in order):
        return None, "kept: it is written in place"
    at: list[tuple[UOp, Path]] = []
    heavy = _heavy(b)
    users = [root for root in order if _is_root(root) and not _inside(root, nests).isdisjoint(uses)]
    for root in users:
        if any(u.op is Op.INDEX for u in uses):
            paths = contexts(root, target, costly=frozenset(uses) if heavy else ())
            at.extend((u, p) for u in uses for p in paths.get(u, ()))
    elements = math.prod(b.shape)
    along = _scanned(b)
    again = _evaluations(b, heavy, at)
    once = sum(math.prod(r.extent for r in n.ranges) for n in heavy)
    if along and all(_in_step(b, n, uses, users) for n in along):
        return (lambda sink: _inline(sink, b, carry)), "removed: the loop that uses it runs the scan"
    if along:
        again = once + 1  # another order than its own would run it again
    if again <= once:
        total = len({(u.src[1:], p) for u, p in at})
        each = sum(runs(p) for _, p in {(u.src[1:], p) for u, p in at})
        work = sum(_cost(n) for n in _light(b))
        traffic = target.byte_cost * b.dtype.itemsize
        if (
            work * each <= work * elements + traffic * (elements + each)
            or elements * b.dtype.itemsize > target.memory_bytes
        ):
            return (lambda sink: _inline(sink, b, carry)), f"removed: {total} uses cost less than the memory traffic"
        return None, f"kept: {each} evaluations of {work} operations would replace {elements}"
    common = tuple(a for a in _common_axes(b, uses, users, nests) if b.src[1 + a] not in {n.src[1] for n in along})
    rest = elements // max(1, math.prod(b.shape[a] for a in common))
    if common and rest * b.dtype.itemsize <= target.scratch_bytes:
        return (
            lambda sink: _shrink(sink, b, common, uses, carry)
        ), f"shrunk: {rest} elements in local memory inside the loops around it"
    return None, f"kept: its reductions would run {again} times instead of {once}"


def _scanned(b: UOp) -> list[UOp]:
    """The reads of scans in the body: each has the value of one iteration, known once those before it are done."""
    return [n for n in toposort(b.src[0], into=lambda n: n.op is not Op.BUFFERIZE and n.op not in LOOPS)
            if n.op is Op.INDEX and n.src[0].op is Op.SCAN]  # fmt: skip


def _in_step(b: UOp, scanned: UOp, uses: list[UOp], users: list[UOp]) -> bool:
    """Whether all uses stand in one nest's loop over the scanned axis: then that loop runs the scan too."""
    if len(users) != 1 or not is_buffer(users[0]) or scanned.src[1] not in b.src[1:]:
        return False
    axis = b.src[1:].index(scanned.src[1])
    loops = users[0].src[1:]
    scan = scanned.src[0]
    around = frozenset().union(*(s.ranges for s in scan.src[:-2])) - {scan.src[-1]}
    outside = toposort(users[0].src[0], into=lambda n: n is not b and not is_buffer(n))
    rebound = {r for n in outside if n.op in LOOPS for r in n.src}
    for u in uses:
        r = u.src[1 + axis]
        if r is not uses[0].src[1 + axis] or r not in loops or r in rebound or r.extent != b.shape[axis]:
            return False
        mine = around - set(b.src[1:])
        mine = mine.union(*(i.ranges for a, i in zip(b.src[1:], u.src[1:], strict=True) if a in around))
        inner = [a in mine for a in loops[loops.index(r) + 1 :]]
        if inner != sorted(inner, reverse=True) or r in mine:
            return False
    return True


def _heavy(b: UOp) -> list[UOp]:
    """The reductions of the body that depend on where in the buffer they are."""
    bound = set(b.src[1:])
    return [n for n in toposort(b.src[0], into=lambda n: n.op is not Op.BUFFERIZE and n.op not in LOOPS)
            if n.op in LOOPS and n.ranges & bound]  # fmt: skip


def _light(b: UOp) -> list[UOp]:
    bound = set(b.src[1:])
    return [
        n for n in toposort(b.src[0], into=lambda n: n.op is not Op.BUFFERIZE and n.op not in LOOPS) if n.ranges & bound
    ]


def _cost(n: UOp) -> int:
    if n.op is Op.INDEX:
        return n.dtype.itemsize
    if n.op in LOOPS or n.dtype.kind == "x":
        return 0
    return 16 if n.op in EXPENSIVE else 1


def _evaluations(b: UOp, heavy: list[UOp], at: list[tuple[UOp, Path]]) -> int:
    """How often the heavy reductions would run if the buffer were computed at its uses; equal ones run once."""
    total = 0
    for n in heavy:
        instances = set()
        for use, path in at:
            mine = tuple((r, i) for r, i in zip(b.src[1:], use.src[1:], strict=True) if r in n.ranges)
            free = (n.ranges - set(b.src[1:])).union(*(i.ranges for _, i in mine))
            instances.add((mine, prefix(path, free)))
        total += sum(runs(p) for _, p in instances)
    return total


def _inline(sink: UOp, b: UOp, carry: Carry) -> UOp:
    """Every use replaced by the body at its index."""
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        if n.op is Op.INDEX and n.src[0] is b:
            new = substitute(b.src[0], dict(zip(b.src[1:], src[1:], strict=True)))
            carry_tree(b.src[0], new, carry)
        else:
            new = n if src == n.src else n.replace(src=src)
            if new is not n:
                carry(n, new)
        memo[n] = new
    return memo[sink]


def _common_axes(b: UOp, uses: list[UOp], users: list[UOp], nests: Nests) -> tuple[int, ...]:
    """Axes at which every use reads its own loop's element, that loop being one of the single nest that uses it."""
    if len(users) != 1:
        return ()
    bound = binding(users[0])
    assert bound is not None
    loops = set(users[0].src[bound[1] :])
    first = uses[0].src[1:]
    axes = [
        a
        for a in range(b.ndim)
        if all(u.src[1 + a] is first[a] for u in uses) and first[a] in loops and first[a].extent == b.shape[a]
    ]
    # A loop that some reduction binds again around a use is another loop of that name: then it is not common.
    rebound = {r for n in _inside(users[0], nests) if n.op in LOOPS for r in n.src if r in loops}
    return tuple(a for a in axes if first[a] not in rebound)


def _is_root(n: UOp) -> bool:
    """What becomes a nest of its own: a buffer over closed ranges, a write in place, a print."""
    return is_buffer(n) or (n.op in (Op.ASSIGN, Op.PRINT) and not n.ranges)


def _inside(root: UOp, nests: Nests) -> frozenset[UOp]:
    """The nodes of one nest, without those of the nests that fill the buffers it reads."""
    if root not in nests:
        found = toposort(root, into=lambda n: n is root or not is_buffer(n))
        nests[root] = frozenset(found)
    return nests[root]


def _shrink(sink: UOp, b: UOp, axes: tuple[int, ...], uses: list[UOp], carry: Carry) -> UOp:
    """The buffer over its other axes only, in local memory, inside the loops of ``axes``."""
    mapping = {b.src[1 + a]: uses[0].src[1 + a] for a in axes}
    rest = [a for a in range(b.ndim) if a not in axes]
    inside = b.src[0]
    if rest:  # first without the axes, then in terms of the loops: a loop must not be captured by an axis that stays
        inside = UOp(Op.BUFFERIZE, b.dtype, (inside, *(b.src[1 + a] for a in rest)), Storage("local", b.arg.name))
    kept = substitute(inside, mapping)
    carry_tree(inside, kept, carry)
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        if n in uses:
            new = UOp(Op.INDEX, n.dtype, (kept, *(src[1 + a] for a in rest))) if rest else kept
            carry(n, new)
        else:
            new = n if src == n.src else n.replace(src=src)
        memo[n] = new
    return memo[sink]
