"""Keep, shrink or remove each BUFFERIZE, by what it moves and what would be computed again without it.

Removed where no reduction would run more often than now and what is repeated costs less than the traffic. Shrunk where
that is cheaper than memory, into local memory inside the one nest that uses it: to the axes that are not loops around
all of its uses, or, if it is small, to a table that the nest begins with. Kept otherwise. ``memory=`` orders are kept
as they are. Consumers are decided first, so that all uses of a buffer are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rangekit.ir.dim import capacity
from rangekit.ir.ops import EXPENSIVE, LOOPS, Op
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, toposort
from rangekit.lower.boundaries import (
    Carry,
    aligned,
    inlined,
    is_root,
    loops_of,
    named,
    narrowed,
    outlined,
    same_nest,
    shrunk,
    spare_axes,
)
from rangekit.lower.canon import canon
from rangekit.lower.place import Path, contexts, in_step, is_buffer, is_filled, prefix, runs
from rangekit.lower.proof import is_mark
from rangekit.source import Position

Rewrite = Callable[[UOp], UOp]

LAUNCH = 4096  # operations that take about as long as the start of a kernel
ANEW = 8  # times as slow is a reduction whose operands no block shares
ROW = 4  # times as many operations may fill a row for each iteration around it as keeping all rows in memory takes


def fuse(sink: UOp, target: Target, carry: Carry, positions: Mapping[UOp, Position], reasons: list[str],
         settled: Callable[[UOp, Carry], UOp] = canon) -> UOp:  # fmt: skip
    """The program with only the buffers that pay; ``reasons`` gets a line for each that was weighed, the kept first.

    ``settled`` is what a program becomes after each change: what one boundary less shows is seen by the next decision.
    """
    kept: dict[UOp, str] = {}  # every form that a kept buffer takes, and why
    nests: dict[UOp, frozenset[UOp]] = {}
    checked: set[UOp] = set()
    shrunk_: list[str] = []
    gone: list[str] = []

    def follow(old: UOp, new: UOp) -> None:
        carry(old, new)
        if old in kept:  # a buffer that was kept stays kept when what it reads is rebuilt
            kept[new] = kept[old]

    order = toposort(sink)
    asked = [f"{_what(n, order, positions)}: in {n.arg.memory} memory, {_size(n, range(n.ndim))}: memory= asks for it"
             for n in order if n.op is Op.BUFFERIZE and n.arg.memory is not None]  # fmt: skip
    sink = aligned(sink, follow)
    complete = False
    while True:
        order = toposort(sink)
        found = [n for n in order if _removable(n) and n not in kept and n not in sink.src]
        if not found:
            again = outlined(sink, target, LAUNCH, follow) if not complete else sink
            complete = True
            if again is sink:
                break
            sink = settled(again, follow)
            continue
        rewrite = next((r for b in found if b not in checked and (r := _plain(b, order, follow)) is not None), None)
        checked.update(found)
        if rewrite is None:
            b = found[-1]
            rewrite, verdict = _Choice(b, order, target, nests).best(follow)
            if rewrite is None:
                kept[b] = f"{_what(b, order, positions)}: {verdict}"
                continue
            (gone if verdict.startswith("removed") else shrunk_).append(f"{_what(b, order, positions)}: {verdict}")
        sink = settled(rewrite(sink), follow)
    sink = named(sink, follow)
    stay = [f"{n.arg.name} = {kept[n]}" if n.arg.name else kept[n] for n in toposort(sink) if n in kept]
    reasons += stay + asked + shrunk_ + gone
    return sink


def _removable(n: UOp) -> bool:
    return n.op is Op.BUFFERIZE and n.arg.memory is None


def _what(b: UOp, order: list[UOp], positions: Mapping[UOp, Position]) -> str:
    """A buffer as people know it: what it holds, and where that was written, or else where it is used."""
    body = b.src[0].src[0] if b.src[0].op is Op.GET else b.src[0]
    op = {"add": "sum", "mul": "product"}.get(body.arg, body.arg) if body.op is Op.REDUCE else body.op.value
    reads = [n for n in order if n.op is Op.INDEX and n.src[0] is b]
    users = [n for n in order if any(r in n.src for r in reads)]
    at = next((positions[n] for n in (b, b.src[0], *users) if n in positions), None)
    if at is None or at.text is None or at.span is None:
        return str(op)
    return f"{op} in `{at.text[at.span[0] : at.span[1]]}` (line {at.lineno})"


def _plain(b: UOp, order: list[UOp], carry: Carry) -> Rewrite | None:
    """What needs no weighing: an element that takes no longer to compute than to load, an axis that says nothing."""
    if _written(b, order):
        return None
    light = _light(b)
    if sum(map(_cost, light)) <= b.dtype.itemsize and not any(n.op in LOOPS for n in _body(b)):
        return lambda sink: inlined(sink, b, carry)
    axes = spare_axes(b, order) if not _scanned(b) else ()
    return (lambda sink: narrowed(sink, b, axes, carry)) if axes else None


def _written(b: UOp, order: list[UOp]) -> bool:
    return any(b in n.src and n.op is not Op.INDEX for n in order)


def _body(b: UOp) -> list[UOp]:
    return toposort(b.src[0], into=lambda n: n.op is not Op.BUFFERIZE and n.op not in LOOPS)


def _scanned(b: UOp) -> list[UOp]:
    """The reads of scans in the body: each has the value of one iteration, known once those before it are done."""
    return [n for n in _body(b) if n.op is Op.INDEX and n.src[0].op is Op.SCAN]


def _light(b: UOp) -> list[UOp]:
    """What is computed for each element, its reductions as one node each."""
    bound = set(b.src[1:])
    return [n for n in _body(b) if n.ranges & bound]


def _operands(reduction: UOp) -> list[UOp]:
    """What a reduction loads anew in each of its iterations."""
    own = set(loops_of(reduction))
    return [n for n in toposort(reduction) if n.op is Op.INDEX and n.ranges & own]


def _is_product(reduction: UOp, ranges: frozenset[UOp]) -> bool:
    """Whether two things are loaded that go without different ones of these ranges: blocks share loads of both."""
    without = [ranges - n.ranges for n in _operands(reduction)]
    return any(a and b and not a & b for n, a in enumerate(without) for b in without[:n])


def _cost(n: UOp) -> int:
    if n.op is Op.INDEX:
        return n.dtype.itemsize
    if n.op in LOOPS or n.dtype.kind == "x":
        return 0
    return 16 if n.op in EXPENSIVE else 1


@dataclass(frozen=True)
class _Use:
    """One place where elements of the buffer are read: in which nest, at which index, inside which loops."""

    nest: int
    index: tuple[UOp, ...]
    path: Path


class _Choice:
    """One buffer, all that uses it, and what each way to deal with it costs, in operations."""

    def __init__(self, b: UOp, order: list[UOp], target: Target, nests: dict[UOp, frozenset[UOp]]) -> None:
        self.b, self.order, self.target, self.nests = b, order, target, nests
        self.reads = [n for n in order if n.op is Op.INDEX and n.src[0] is b]
        self.light = _light(b)
        self.heavy = [n for n in self.light if n.op in LOOPS]  # those that depend on where in the buffer they are
        self.along = _scanned(b)
        self.users = [root for root in order if is_root(root) and not self._inside(root).isdisjoint(self.reads)]
        self.one = same_nest(self.users)
        steps = sum(math.prod(r.extent for r in loops_of(n)) for n in self.heavy)
        costly = dict.fromkeys(self.reads, steps) if any(n.op in EXPENSIVE for n in self.light) else {}
        found: dict[_Use, None] = {}
        for number, root in enumerate(self.users):
            paths = contexts(root, target, costly)
            for read in self.reads:
                for path in sorted(paths.get(read, ()), key=repr):
                    found[_Use(0 if self.one else number, read.src[1:], path)] = None
        self.uses = list(found)
        self.each = sum(runs(u.path) for u in self.uses)

    def best(self, carry: Carry) -> tuple[Rewrite | None, str]:
        """The rewrite that pays most, None to keep the buffer; and why."""
        b, target = self.b, self.target
        size = capacity(b.shape) * b.dtype.itemsize
        whole = f"kept in {'memory' if is_buffer(b) else 'local memory'}, {_size(b, range(b.ndim))}"
        if _written(b, self.order):
            return None, f"{whole}: it is written in place"
        once = sum(math.prod(r.extent for r in n.ranges) for n in self.heavy)
        again = sum(map(self._times, self.heavy))
        moved = capacity(b.shape) * math.prod(r.extent for r in b.ranges) + self.each
        if self.along and all(in_step(b, n, self.reads, self.users) for n in self.along):
            return (lambda sink: inlined(sink, b, carry)), "removed: the loop that uses it runs the scan"
        if self.along:
            again = once + 1  # another order than its own would run it again
        cost, elements = self._filled(())
        kept = cost + target.byte_cost * b.dtype.itemsize * moved
        repeated = sum(_cost(n) * self._times(n) for n in self.light)
        if self._scattered(again, once):
            return None, f"{whole}: data says which rows are read, and blocks of rows share what they are computed from"
        if self._two_products():
            return None, f"{whole}: two products in blocks cost less than one inside the other"
        if again <= once and (repeated <= kept or size > target.memory_bytes):
            places = f"in {len(self.uses)} places" if len(self.uses) != 1 else "where it is used"
            why = f"{repeated} operations, against {kept} to keep it"
            why = "its reductions run no more often there" if self.heavy else why
            return (lambda sink: inlined(sink, b, carry)), f"removed, computed {places}: {why}"
        for axes, limit in self._insides():
            cost, fills = self._filled(axes)
            if fills > elements if self.heavy else cost + fills + self.each > limit * (kept + LAUNCH):
                continue
            rest = [a for a in range(b.ndim) if a not in axes]
            where = "inside the loops around its uses" if axes else "before the loops that use it"
            why = f"in local memory, {_size(b, rest)}, {where}: {self._why(again, once, repeated, kept)}"
            return (lambda sink, axes=axes: shrunk(sink, b, axes, self.reads, carry)), why
        return None, f"{whole}: {self._why(again, once, repeated, kept)}{self._outside()}"

    def _scattered(self, again: int, once: int) -> bool:
        """Whether data says which rows of the buffer are read, and blocks of rows would share what their reductions
        read, as those of a product of matrices do. Row by row they are as slow as if they ran ``ANEW`` times.
        """
        if ANEW * again <= once:
            return False
        bound = self.b.src[1:]
        named = {r for use in self.uses for r, i in zip(bound, use.index, strict=True)
                 if any(n.op is Op.INDEX for n in toposort(i))}  # fmt: skip
        inside = {n for h in self.heavy for n in _operands(h)}
        return any(not named <= n.ranges and n.ranges & (set(bound) - named) for n in inside)

    def _two_products(self) -> bool:
        """Whether the buffer is a product of matrices, and read for another one only, whose rows do not fit registers:
        one inside the other, each step would load and store such a row.
        """
        if len(self.reads) != 1 or not any(_is_product(h, h.ranges & set(self.b.src[1:])) for h in self.heavy):
            return False
        (read,) = self.reads
        room = self.target.registers * self.target.vector_bytes
        reductions = {n for root in self.users for n in self._inside(root) if n.op is Op.REDUCE}
        around = [n for n in reductions if read in toposort(n)]
        return bool(around) and all(
            read.ranges & set(loops_of(n))
            and _is_product(n, n.ranges)
            and math.prod(r.extent for r in n.ranges - read.ranges) * n.dtype.itemsize > room > 0
            for n in around
        )

    def _why(self, again: int, once: int, repeated: int, kept: int) -> str:
        """Why it is not computed where it is used."""
        if again > once:
            return f"its reductions would run {again} times instead of {once}"
        return f"{repeated} operations to compute it in {len(self.uses)} places, against {kept} to keep it"

    def _outside(self) -> str:
        """Why it is not kept inside a nest."""
        if not self.one:
            return f"; {len(self.users)} nests read it"
        return (
            "; the nest that reads it would fill it again and again" if self._common_axes() else "; all of it is read"
        )

    def _times(self, n: UOp) -> int:
        """How often a node of the body would run if the buffer were computed at its uses; equal ones run once."""
        bound = self.b.src[1:]
        instances = set()
        for use in self.uses:
            mine = tuple((r, i) for r, i in zip(bound, use.index, strict=True) if r in n.ranges)
            free = (n.ranges - set(bound)).union(*(i.ranges for _, i in mine))
            instances.add((use.nest, mine, prefix(use.path, free)))
        return sum(runs(path) for _, _, path in instances)

    def _filled(self, axes: tuple[int, ...]) -> tuple[int, int]:
        """Operations that fill the buffer, shrunk by these axes, and how many elements that computes."""
        b = self.b
        loops = {b.src[1 + a]: self.reads[0].src[1 + a].ranges for a in axes}
        around = b.ranges.union(*loops.values())
        rest = tuple((r, 0) for r in b.src[1:] if r not in loops)
        cost = fills = 0
        for home in {prefix(use.path, around) for use in self.uses} if around else [()]:
            path = (*home, *rest)
            fills += runs(path)
            for n in self.light:
                used = n.ranges.union(*(mine for r, mine in loops.items() if r in n.ranges))
                cost += _cost(n) * runs(prefix(path, used))
        return cost, fills

    def _insides(self) -> list[tuple[tuple[int, ...], int]]:
        """The sets of axes to shrink the buffer by, best first, and how much dearer than memory each may be: those that
        are loops around all uses leave a row, which stays in the nearest cache; none leaves a table.
        """
        if not self.one:
            return []
        out = []
        axes = self._common_axes()
        if axes and self._bytes(axes) <= self.target.scratch_bytes:
            out.append((axes, ROW))
        plain = all(level == 0 for use in self.uses for _, level in use.path)
        # Blocks for the caches want what one reduction reads in memory, unless starting a kernel takes longer.
        blocked = sum(n.op is Op.REDUCE for root in self.users for n in self._inside(root)) == 1 and self.each > LAUNCH
        if (
            not self.b.ranges
            and not self.along
            and self._bytes(()) <= self.target.lane_bytes
            and (plain or not blocked)
        ):
            out.append(((), 1))
        return out

    def _bytes(self, axes: tuple[int, ...]) -> int:
        """The size of the buffer shrunk by these axes."""
        return capacity(s for a, s in enumerate(self.b.shape) if a not in axes) * self.b.dtype.itemsize

    def _common_axes(self) -> tuple[int, ...]:
        """Axes at which all uses have one index, made of the nest's own loops: an iteration of those wants no other."""
        # A loop that some reduction binds again around a use is another loop of that name: then it is not common.
        rebound = {r for root in self.users for n in self._inside(root) if n.op in LOOPS for r in n.src}
        loops = set(loops_of(self.users[0])) - rebound
        along = {n.src[1] for n in self.along}
        first = self.reads[0].src[1:]
        return tuple(
            a
            for a, r in enumerate(self.b.src[1:])
            if r not in along and first[a].ranges <= loops and all(u.src[1 + a] is first[a] for u in self.reads)
            and not any(is_mark(n) for n in toposort(first[a]))
        )  # fmt: skip

    def _inside(self, root: UOp) -> frozenset[UOp]:
        """The nodes of one nest, without those of the nests that fill the buffers it reads."""
        if root not in self.nests:
            self.nests[root] = frozenset(toposort(root, into=lambda n: n is root or not is_filled(n)))
        return self.nests[root]


def _size(b: UOp, axes: Iterable[int]) -> str:
    shape = [b.shape[a] for a in axes]
    sizes = " x ".join(map(str, shape)) or "1"
    return f"{sizes} {b.dtype} ({math.prod(shape) * b.dtype.itemsize} bytes)"
