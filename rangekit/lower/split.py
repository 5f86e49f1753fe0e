"""Kernels: one per kept buffer, in an order that respects every read and write; independent equal nests share one.

A kept BUFFERIZE becomes a BUFFER and a STORE that fills it, an ASSIGN a STORE into its base's storage. Readers of a
base's old contents run before the write; where that is impossible, or the write itself reads elements it does not
itself replace, the old contents are copied first, so reads are never torn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.ops import LOOPS, Op
from rangekit.ir.target import Target
from rangekit.ir.uop import Storage, UOp, new_buffer, new_range, toposort
from rangekit.lower.place import is_buffer, loop_order

Carry = Callable[[UOp, UOp], None]


def split(sink: UOp, target: Target, carry: Carry, outputs: list[UOp], reasons: list[str]) -> UOp:
    """SINK of KERNELs in launch order. ``outputs`` receives the storage of each result of the old sink, ``reasons`` a
    line for each copy.
    """
    while (torn := _torn(sink)) is not None:
        sink = _copy_first(sink, *torn, carry)
        base, size = torn[0], math.prod(torn[0].shape) * torn[0].dtype.itemsize
        reasons.insert(
            0,
            f"a copy of {getattr(base.arg, 'name', None) or 'a buffer'}, {size} bytes: it is read after it is written",
        )
    order = toposort(sink)
    place: dict[UOp, UOp] = {}  # storage node -> PARAM or BUFFER
    memo: dict[UOp, UOp] = {}
    stores: list[tuple[UOp, UOp]] = []  # (the storage or PRINT node, its STORE or PRINT)
    results = set(sink.src)
    count = 0
    for n in order:
        src = tuple(memo[s] for s in n.src)
        new = n if src == n.src else n.replace(src=src)
        if is_buffer(n):
            name = n.arg.name or (f"out{list(sink.src).index(n) or ''}" if n in results else f"t{count}")
            count += n not in results
            place[n] = buffer = new_buffer(n.dtype, n.shape, name)
            ranges = src[1:]
            stores.append((n, _store(buffer, tuple(ranges), src[0], ranges)))
            new = buffer
        elif n.op is Op.BUFFERIZE and n.arg.memory not in ("local", "register"):
            new = new.replace(arg=Storage("local", n.arg.name))  # inside a kernel for good, whatever simplify finds
        elif n.op is Op.ASSIGN:
            place[n] = new = src[0]
            stores.append((n, _store(src[0], src[1].src[1:], src[2], src[3:])))
        elif n.op is Op.PRINT:
            stores.append((n, new))
        elif n.op in (Op.PARAM, Op.BUFFER):
            place[n] = n
        if new is not n and n.op is not Op.SINK:
            carry(n, new)
        memo[n] = new
    outputs.extend(place[s] for s in sink.src if s.op is not Op.PRINT)
    kernels = [_ordered(group, target, carry) for group in _merged(_scheduled(stores), target)]
    return UOp(Op.SINK, dt.void, tuple(
        UOp(Op.KERNEL, dt.void, tuple(group), f"k{n}") for n, group in enumerate(kernels)))  # fmt: skip


def _store(buffer: UOp, index: tuple[UOp, ...], value: UOp, ranges: tuple[UOp, ...]) -> UOp:
    return UOp(Op.STORE, dt.void, (UOp(Op.INDEX, buffer.dtype, (buffer, *index)), value, *ranges))


def _reads(n: UOp) -> set[UOp]:
    """The storage nodes a root reads, down to the next storage."""
    body = n.src[0] if n.op is Op.BUFFERIZE else None
    roots: Iterable[UOp] = (body,) if body is not None else n.src[1:3] if n.op is Op.ASSIGN else n.src[:2]
    found: set[UOp] = set()
    for root in roots:
        for m in toposort(root, into=lambda m: not (is_buffer(m) or m.op is Op.ASSIGN)):
            if (is_buffer(m) or m.op in (Op.ASSIGN, Op.PARAM, Op.BUFFER)) and not (
                n.op is Op.ASSIGN and root is n.src[1] and m is n.src[0]
            ):
                found.add(m)
    return found


def _nodes(sink: UOp) -> list[UOp]:
    return [n for n in toposort(sink) if is_buffer(n) or n.op in (Op.ASSIGN, Op.PRINT)]


def _below(roots: list[UOp]) -> dict[UOp, set[UOp]]:
    """For each root, all roots it depends on (through reads and, for ASSIGN, its base)."""
    below: dict[UOp, set[UOp]] = {}
    for n in roots:
        direct = _reads(n) | ({n.src[0]} if n.op is Op.ASSIGN else set())
        below[n] = set(direct).union(*(below.get(d, set()) for d in direct))
    return below


def _torn(sink: UOp) -> tuple[UOp, UOp, list[UOp]] | None:
    """A storage node, the ASSIGN that overwrites it, and who still wants its old contents after that."""
    roots = _nodes(sink)
    below = _below(roots)
    for write in (n for n in roots if n.op is Op.ASSIGN):
        base = write.src[0]
        late = [n for n in roots if n is not write and base in _reads(n) and write in below[n]]
        late += [n for n in roots if n is not write and n.op is Op.ASSIGN and n.src[0] is base and n not in late]
        late += [sink] if base in sink.src else []
        late += [write] if base in _reads(write) and not _pointwise(write) else []
        if late:
            return base, write, late
    return None


def _pointwise(write: UOp) -> bool:
    """The value of an ASSIGN reads its base only at the place being written, outside any reduction."""
    base, place, value = write.src[:3]
    inside = toposort(value, into=lambda m: not (is_buffer(m) or m.op is Op.ASSIGN))
    reads = [m for m in inside if m.op is Op.INDEX and m.src[0] is base]
    bound = {m for n in inside if n.op in LOOPS or n.op is Op.BUFFERIZE for m in toposort(n)} if reads else set()
    return all(m is place and m not in bound for m in reads)


def _copy_first(sink: UOp, base: UOp, write: UOp, late: list[UOp], carry: Carry) -> UOp:
    """The nodes in ``late`` read a copy of ``base``, made before ``write`` overwrites it."""
    over = tuple(new_range(s) for s in base.shape)
    name = f"{base.arg.name}_old" if base.op in (Op.PARAM, Op.BUFFER) else None
    element = UOp(Op.INDEX, base.dtype, (base, *over))
    memo: dict[UOp, UOp] = {}
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        if n in late:
            copy = UOp(Op.BUFFERIZE, base.dtype, (element, *over), Storage("global", name))
            if n is write:  # it still writes the base itself; only what it reads is old
                place = src[1].replace(src=(src[1].src[0], *(_redirect(s, base, copy, carry) for s in src[1].src[1:])))
                src = (src[0], place, _redirect(src[2], base, copy, carry), *src[3:])
            elif n is sink:
                src = tuple(copy if old is base else s for old, s in zip(n.src, src, strict=True))
            else:
                src = tuple(_redirect(s, base, copy, carry) for s in src)
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]


def _redirect(node: UOp, base: UOp, copy: UOp, carry: Carry) -> UOp:
    """``node`` reading ``copy`` where it reads ``base`` itself; what other nests read is theirs."""

    def theirs(n: UOp) -> bool:
        return n is copy or is_buffer(n) or n.op is Op.ASSIGN

    memo: dict[UOp, UOp] = {}
    for n in toposort(node, into=lambda n: not theirs(n)):
        if n is base or theirs(n):
            memo[n] = copy if n is base else n
            continue
        src = tuple(memo[s] for s in n.src)
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[node]


def _scheduled(stores: list[tuple[UOp, UOp]]) -> list[UOp]:
    """Launch order: sources first, and readers of old contents before the write."""
    nodes = [n for n, _ in stores]
    reads = {n: _reads(n) for n in nodes}
    before: dict[UOp, set[UOp]] = {
        n: {m for m in reads[n] | ({n.src[0]} if n.op is Op.ASSIGN else set()) if m in reads} for n in nodes
    }
    for write in (n for n in nodes if n.op is Op.ASSIGN):
        before[write] |= {n for n in nodes if n is not write and write.src[0] in reads[n]}
    out: list[UOp] = []
    done: set[UOp] = set()
    waiting = list(stores)
    while waiting:
        ready = next(pair for pair in waiting if before[pair[0]] <= done)
        waiting.remove(ready)
        done.add(ready[0])
        out.append(ready[1])
    return out


def _merged(stores: list[UOp], target: Target) -> list[list[UOp]]:
    """Stores with loops of equal extents and something in common, neither reading the other, share a kernel."""
    groups: list[list[UOp]] = []
    for s in stores:
        group = _group_for(s, groups, target)
        if group is None:
            groups.append([s])
            continue
        mapping = dict(zip(_loops(s), _loops(group[0]), strict=True))
        if any(a is not b for a, b in mapping.items()):
            s = s.replace(src=(*(substitute(v, mapping) for v in s.src[:2]), *_loops(group[0])))
        group.append(s)
    return groups


def _group_for(s: UOp, groups: list[list[UOp]], target: Target) -> list[UOp] | None:
    """The last kernel that a store may join: nothing between the two, and nothing in it, minds that it moves there."""
    for group in reversed(groups):
        if _mergeable(group, s):
            mine, theirs = loop_order([s], target), loop_order(group, target)
            alike = [_loops(s).index(r) for r in mine] == [_loops(group[0]).index(r) for r in theirs]
            return group if alike else None
        if s.op is not Op.STORE or any(g.op is not Op.STORE or _conflict(g, s) for g in group):
            return None
    return None


def _conflict(a: UOp, b: UOp) -> bool:
    """Whether two stores have to stay in their order: one writes what the other reads or writes."""
    return bool(_written(a) & (_touched(b) | _written(b)) or _written(b) & _touched(a))


def _ordered(group: list[UOp], target: Target, carry: Carry) -> list[UOp]:
    """The stores of a kernel with their loops in the order that runs its reductions least."""
    order = loop_order(group, target)
    if order == _loops(group[0]):
        return group
    moved = [s.replace(src=(*s.src[:2], *order)) for s in group]
    for old, new in zip(group, moved, strict=True):
        carry(old, new)
    return moved


def _loops(s: UOp) -> tuple[UOp, ...]:
    return s.src[2:]


def _mergeable(group: list[UOp], s: UOp) -> bool:
    if s.op is not Op.STORE or any(g.op is not Op.STORE or _conflict(g, s) for g in group):
        return False
    if tuple(r.extent for r in _loops(s)) != tuple(r.extent for r in _loops(group[0])):
        return False
    mine, theirs = _touched(s), frozenset().union(*(_touched(g) for g in group))
    return bool(mine & theirs) or not (mine or theirs)  # tables of functions of the index have that in common


def _written(s: UOp) -> frozenset[UOp]:
    return frozenset((s.src[0].src[0],))


def _touched(s: UOp) -> frozenset[UOp]:
    """What a store's value and place are computed from: arrays, and loops that need none."""
    inside = toposort(s.src[1], *s.src[0].src[1:])
    return frozenset(n for n in inside if n.op in (Op.PARAM, Op.BUFFER) or n.op in LOOPS)
