"""Kernels: what is stored, in launch order; stores of equal loops side by side, small ones one after another.

A kept BUFFERIZE becomes a BUFFER and a STORE that fills it, an ASSIGN a STORE into its base's storage, *torn* having
seen to it that old contents are read in time. A KERNEL is one launch: of stores whose loops are the same, or of such
KERNELs one after another, where each writes to what one before it has filled, or is a single element.
"""

from __future__ import annotations

from collections.abc import Mapping

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.bounds import bounds
from rangekit.ir.ops import LOOPS, Op
from rangekit.ir.spec import bound_ranges
from rangekit.ir.target import Target
from rangekit.ir.uop import Storage, UOp, const, new_buffer, toposort
from rangekit.lower.in_place import in_place
from rangekit.lower.place import is_buffer, loop_order
from rangekit.lower.torn import order, untorn
from rangekit.lower.versions import Carry, beginning
from rangekit.source import Position

MOST = 256  # kernels in one launch
LOOKED_AT = 32  # kernels that a store may join


def split(
    sink: UOp,
    target: Target,
    carry: Carry,
    outputs: list[UOp],
    positions: Mapping[UOp, Position],
    reasons: list[str],
) -> UOp:
    """SINK of KERNELs in launch order. ``outputs`` receives the storage of each result of the old sink, ``reasons`` a
    line for each copy.

    Errors: ``RaceError`` where writes to one array that do not follow one another may meet.
    """
    sink = untorn(in_place(sink, carry), carry, positions, reasons)
    stores = _stores(sink, carry, outputs)
    groups = _merged([stores[n] for n in order(sink)], target)
    kernels = _in_sequence([_ordered(g, target, carry) for g in groups])
    return UOp(Op.SINK, dt.void, tuple(_kernel(group, f"k{n}") for n, group in enumerate(kernels)))


def _kernel(group: list[list[UOp]], name: str) -> UOp:
    if len(group) == 1:
        return UOp(Op.KERNEL, dt.void, tuple(group[0]), name)
    return UOp(Op.KERNEL, dt.void, tuple(UOp(Op.KERNEL, dt.void, tuple(part), "") for part in group), name)


def _stores(sink: UOp, carry: Carry, outputs: list[UOp]) -> dict[UOp, UOp]:
    """The STORE or PRINT of each root."""
    results: dict[UOp, int] = {}
    for number, s in enumerate(sink.src):
        results.setdefault(beginning(s), number)
    place: dict[UOp, UOp] = {}  # storage node -> PARAM or BUFFER
    memo: dict[UOp, UOp] = {}
    stores: dict[UOp, UOp] = {}
    taken: set[str] = {n.arg.name for n in toposort(sink) if n.op in (Op.PARAM, Op.BUFFER)}
    count = 0
    for n in toposort(sink):
        src = tuple(memo[s] for s in n.src)
        new = n if src == n.src else n.replace(src=src)
        if is_buffer(n):
            name = n.arg.name or (f"out{results[n] or ''}" if n in results else f"t{count}")
            count += n not in results
            place[n] = new = buffer = new_buffer(n.dtype, n.shape, _unused(name, taken))
            stores[n] = _store(buffer, src[1:], src, None)
        elif n.op is Op.BUFFERIZE and n.arg.memory not in ("local", "register"):
            new = new.replace(arg=Storage("local", n.arg.name))  # inside a kernel for good, whatever simplify finds
        elif n.op is Op.ASSIGN:
            place[n] = new = src[0]
            at = src[1].src[0] if src[1].op is Op.IN_RANGE else src[1]
            stores[n] = _store(src[0], at.src[1:], src[2:], n.arg)
        elif n.op is Op.PRINT:
            stores[n] = new
        elif n.op in (Op.PARAM, Op.BUFFER):
            place[n] = n
        elif n.op is Op.INDEX and n.src[0] in place:
            carry(n, new)
            new = _within(new, *bounds(n))
        if new is not n and n.op is not Op.SINK:
            carry(n, new)
        memo[n] = new
    outputs.extend(place[s] for s in sink.src if s.op is not Op.PRINT)
    return stores


def _within(load: UOp, lo: float, hi: float) -> UOp:
    """A load from another kernel's storage with what is known of what that put there."""
    dtype = load.dtype
    if dtype.kind not in "iu" or (lo <= dtype.min and hi >= dtype.max) or hi == dtype.max:
        return load
    return UOp(Op.IN_RANGE, dtype, (load, const(lo, dtype), const(hi + 1, dtype)), "interval")


def _unused(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        found, count = f"{name}{count}", count + 1
    taken.add(found)
    return found


def _store(buffer: UOp, index: tuple[UOp, ...], rest: tuple[UOp, ...], how: str | None) -> UOp:
    return UOp(Op.STORE, dt.void, (UOp(Op.INDEX, buffer.dtype, (buffer, *index)), *rest), how)


# ---- one launch ------------------------------------------------------------------------------------------------------


class _Group:
    """Stores with the same loops, and what they touch."""

    def __init__(self, first: UOp) -> None:
        self.stores = [first]
        self.prints = first.op is not Op.STORE
        self.written = frozenset() if self.prints else _written(first)
        self.touched = _touched(first)

    def minds(self, s: UOp) -> bool:
        """Whether a store has to stay behind these: one writes what the other reads or writes."""
        return bool(self.written & (_touched(s) | _written(s)) or _written(s) & self.touched)

    def takes(self, s: UOp) -> bool:
        """Whether a store may share the loops: equal extents, something in common, neither reading the other."""
        if self.prints or s.op is not Op.STORE or self.minds(s):
            return False
        if [r.size for r in bound_ranges(s)] != [r.size for r in bound_ranges(self.stores[0])]:
            return False
        mine = _touched(s)  # tables of functions of the index have that in common
        return bool(mine & self.touched) or not (mine or self.touched)

    def add(self, s: UOp) -> None:
        """A store more, over the loops of the first."""
        loops = bound_ranges(self.stores[0])
        mapping = dict(zip(bound_ranges(s), loops, strict=True))
        if any(a is not b for a, b in mapping.items()):
            own = s.src[: len(s.src) - len(loops)]
            s = s.replace(src=(*(substitute(v, mapping) for v in own), *loops))
        self.stores.append(s)
        self.written |= _written(s)
        self.touched |= _touched(s)


def _merged(stores: list[UOp], target: Target) -> list[_Group]:
    """Stores that may share loops do."""
    groups: list[_Group] = []
    for s in stores:
        group = _group_for(s, groups, target)
        if group is None:
            groups.append(_Group(s))
        else:
            group.add(s)
    return groups


def _group_for(s: UOp, groups: list[_Group], target: Target) -> _Group | None:
    """The last kernel that a store may join: nothing between the two, and nothing in it, minds that it moves there."""
    for group in reversed(groups[-LOOKED_AT:]):
        if group.takes(s):
            mine, theirs = loop_order([s], target), loop_order(group.stores, target)
            lead = bound_ranges(group.stores[0])
            alike = [bound_ranges(s).index(r) for r in mine] == [lead.index(r) for r in theirs]
            return group if alike else None
        if s.op is not Op.STORE or group.prints or group.minds(s):
            return None
    return None


def _ordered(group: _Group, target: Target, carry: Carry) -> _Group:
    """The stores of a kernel with their loops in the order that runs its reductions least."""
    order, loops = loop_order(group.stores, target), bound_ranges(group.stores[0])
    if order != loops:
        moved = [s.replace(src=(*s.src[: len(s.src) - len(loops)], *order)) for s in group.stores]
        for old, new in zip(group.stores, moved, strict=True):
            carry(old, new)
        group.stores = moved
    return group


def _in_sequence(groups: list[_Group]) -> list[list[list[UOp]]]:
    """Groups in one launch, one after another: writes to what the launch has filled, and single elements."""
    out: list[list[list[UOp]]] = []
    written: set[UOp] = set()
    for group in groups:
        lead = group.stores[0]
        joins = not group.prints and bool(written) and len(out[-1]) < MOST
        if joins and (group.written <= written or _single(lead) or all(_single(part[0]) for part in out[-1])):
            out[-1].append(group.stores)
        else:
            out.append([group.stores])
            written = set()
        written |= group.written
    return out


def _single(s: UOp) -> bool:
    """A store of one element that takes no loop to compute."""
    return not bound_ranges(s) and not any(n.op in LOOPS or n.op is Op.BUFFERIZE for n in toposort(s))


def _written(s: UOp) -> frozenset[UOp]:
    return frozenset((s.src[0].src[0],))


def _touched(s: UOp) -> frozenset[UOp]:
    """What a store's value and place are computed from: arrays, and loops that need none."""
    own = s.src[: len(s.src) - len(bound_ranges(s))]
    inside = toposort(*own[1:], *own[0].src[1:]) if s.op is Op.STORE else toposort(*own)
    return frozenset(n for n in inside if n.op in (Op.PARAM, Op.BUFFER) or n.op in LOOPS)
