"""What *fuse* may make of the boundary that a BUFFERIZE is: nothing, one with fewer axes, one inside a nest.

Each is a rewrite of the whole program that keeps its meaning; whether it pays is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rangekit.ir.binding import substitute
from rangekit.ir.ops import Op
from rangekit.ir.spec import arity, binding
from rangekit.ir.target import Target
from rangekit.ir.uop import Storage, UOp, by_uid, idx, toposort
from rangekit.lower.canon import carry_tree
from rangekit.lower.place import Path, contexts, is_buffer, runs
from rangekit.lower.proof import checked, is_mark
from rangekit.lower.versions import beginning

Carry = Callable[[UOp, UOp], None]


def is_root(n: UOp) -> bool:
    """What becomes a nest of its own: a buffer over closed ranges, a write in place, a print."""
    return is_buffer(n) or (n.op in (Op.ASSIGN, Op.PRINT) and not n.ranges)


def loops_of(root: UOp) -> tuple[UOp, ...]:
    """The ranges that a root closes: the loops around everything in its nest."""
    bound = binding(root)
    assert bound is not None
    return root.src[bound[1] :]


def same_nest(roots: Sequence[UOp]) -> bool:
    """Whether these roots will be one nest: the only root, or results over the same ranges, none from another."""
    if len(roots) < 2:
        return bool(roots)
    if any(not is_buffer(r) or loops_of(r) != loops_of(roots[0]) for r in roots):
        return False
    below = {r: set(toposort(r.src[0])) for r in roots}
    return not any(a in below[b] for a in roots for b in roots)


def aligned(sink: UOp, carry: Carry) -> UOp:
    """The program with one set of ranges for results of equal extents that read something in common: one nest, then,
    unless one of them is computed from another.
    """
    leads: list[tuple[UOp, set[UOp]]] = []
    memo: dict[UOp, UOp] = {}
    wanted: dict[UOp, UOp] = {}
    for n in sink.src:
        if not is_buffer(n):
            continue
        below = set(toposort(n.src[0]))
        read = {m for m in below if m.op in (Op.PARAM, Op.BUFFER)}
        lead = next((m for m, theirs in leads if m.shape == n.shape and m not in below and read & theirs), None)
        if lead is None:
            leads.append((n, read))
        elif loops_of(lead) != loops_of(n):
            wanted[n] = lead
    if not wanted:
        return sink
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        if n in wanted:
            loops = loops_of(wanted[n])
            src = (substitute(src[0], dict(zip(src[1:], loops, strict=True))), *loops)
            carry_tree(n.src[0], src[0], carry)
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]


def outlined(sink: UOp, target: Target, least: int, carry: Carry) -> UOp:
    """The program with a boundary around each reduction that loops it does not use would run again, for ``least`` or
    more iterations in all: a sum of columns beside a sum of rows.
    """
    again: dict[UOp, int] = {}
    for root in filter(is_buffer, toposort(sink)):
        for n, paths in contexts(root, target).items():
            reduction = n.src[0] if n.op is Op.GET else n
            if reduction.op is Op.REDUCE and (n.op is Op.GET or arity(n) == 1) and n.ranges and not _stateful(n):
                each = math.prod(r.extent for r in reduction.src[arity(reduction) :])
                again[n] = again.get(n, 0) + each * sum(runs(path) - runs(_own(path, n)) for path in paths)
    wanted = {n for n, iterations in again.items() if iterations >= max(1, least)}
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink) if wanted else ():
        src = tuple(memo[s] for s in n.src)
        memo[n] = n if src == n.src else n.replace(src=src)
        if n in wanted:
            ranges = by_uid(n.ranges)
            boundary = UOp(Op.BUFFERIZE, n.dtype, (memo[n], *ranges), Storage())
            carry(n, boundary)
            memo[n] = UOp(Op.INDEX, n.dtype, (boundary, *ranges))
        if memo[n] is not n:
            carry(n, memo[n])
    return memo.get(sink, sink)


def _stateful(n: UOp) -> bool:
    """Whether a node has to stay inside a fold."""
    return any(m.op is Op.STATE for m in toposort(n))


def _own(path: Path, n: UOp) -> Path:
    """The loops of a path that a node uses: the innermost over each of its ranges."""
    last = {r: place for place, (r, _) in enumerate(path) if r in n.ranges}
    return tuple(path[place] for place in sorted(last.values()))


def inlined(sink: UOp, b: UOp, carry: Carry) -> UOp:
    """Every use replaced by the body at its index."""

    def body(index: tuple[UOp, ...]) -> UOp:
        new = substitute(b.src[0], dict(zip(b.src[1:], index, strict=True)))
        carry_tree(b.src[0], new, carry)
        for mark in (m for i in index for m in toposort(i) if is_mark(m)):
            new = checked(new, mark)
            carry(mark, new)
        return new

    return _replaced(sink, b, body, carry)


def spare_axes(b: UOp, order: Sequence[UOp]) -> tuple[int, ...]:
    """Axes along which all elements are equal, or that have one element; not where an index has yet to be checked."""
    inside = b.src[0].ranges
    axes = [a for a, r in enumerate(b.src[1:]) if r.length == 1 or (r.extent and r not in inside)]
    if not axes:
        return ()
    uses = [n for n in order if n.op is Op.INDEX and n.src[0] is b]
    return tuple(a for a in axes if not any(is_mark(m) for u in uses for m in toposort(u.src[1 + a])))


def narrowed(sink: UOp, b: UOp, axes: tuple[int, ...], carry: Carry) -> UOp:
    """The buffer without these axes, along which its elements are equal."""
    rest = [a for a in range(len(b.src) - 1) if a not in axes]
    body = substitute(b.src[0], {b.src[1 + a]: idx(0) for a in axes})
    carry_tree(b.src[0], body, carry)
    new = UOp(Op.BUFFERIZE, b.dtype, (body, *(b.src[1 + a] for a in rest)), b.arg)
    carry(b, new)
    return _replaced(sink, b, lambda index: UOp(Op.INDEX, b.dtype, (new, *(index[a] for a in rest))), carry)


def shrunk(sink: UOp, b: UOp, axes: tuple[int, ...], uses: Sequence[UOp], carry: Carry) -> UOp:
    """The buffer over its other axes only, in local memory, inside the loops of ``axes``."""
    rest = [a for a in range(b.ndim) if a not in axes]
    kept = b.src[0]
    if rest:  # first without the axes, then in terms of the loops: a loop must not be captured by an axis that stays
        kept = UOp(Op.BUFFERIZE, b.dtype, (kept, *(b.src[1 + a] for a in rest)), Storage("local", b.arg.name))
    inside = kept
    kept = substitute(inside, {b.src[1 + a]: uses[0].src[1 + a] for a in axes})
    carry_tree(inside, kept, carry)
    carry(b, kept)
    return _replaced(
        sink, b, lambda index: UOp(Op.INDEX, b.dtype, (kept, *(index[a] for a in rest))) if rest else kept, carry
    )


def named(sink: UOp, carry: Carry) -> UOp:
    """The program with a name for each buffer that is kept in memory and is no result."""
    memo: dict[UOp, UOp] = {}
    results = {beginning(s) for s in sink.src}
    count = 0
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        memo[n] = n if src == n.src else n.replace(src=src)
        if is_buffer(n) and n.arg.name is None and n not in results:
            memo[n] = memo[n].replace(arg=Storage(n.arg.memory, f"t{count}"))
            count += 1
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]


def _replaced(sink: UOp, b: UOp, use: Callable[[tuple[UOp, ...]], UOp], carry: Carry) -> UOp:
    """The program with ``use(index)`` for each element of ``b`` that is read."""
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        if n.op is Op.INDEX and n.src[0] is b:
            memo[n] = use(src[1:])
        else:
            memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]
