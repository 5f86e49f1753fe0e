"""The schedule a kernel gets when none is given: chosen by the cost model, from what each loop's accesses do.

For every loop at the top of a nest: which loops run in step, and along which vectors lie; whether a reduction is
blocked for the caches, its operands packed; what runs on threads. Nothing here knows a program: a product of matrices
and a minimum of sums get the same blocks because their loads move alike. The result is a plain tuple of steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rangekit.ir.nest import Loop, Nest, Scratch, walk
from rangekit.ir.ops import Op
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp
from rangekit.lower.blocking import THREADS, Blocks
from rangekit.lower.joined import joinable
from rangekit.lower.loops import (
    all_or_none,
    carried,
    chain,
    fresh_after,
    loops,
    name_of,
    needed,
    parallel,
    regrouped,
    shuffled,
    single,
    span,
)
from rangekit.lower.model import UNKNOWN, Lanes, Row, cycles, packed, reuse, rows
from rangekit.lower.scattering import scattering
from rangekit.lower.schedule import Schedule
from rangekit.lower.step import (
    Group,
    Prefetch,
    Reorder,
    Stage,
    Step,
    Stream,
    Thread,
    Tile,
    Unroll,
    Upcast,
)
from rangekit.lower.tiles import perfected

SMALL = 3000.0  # cycles below which a nest stays as it is
CHUNK = 40_000.0  # cycles of work handed to a thread at once
PARTS = 256  # of a reduction over everything
STRANDS = 32  # of it for each lane, where lanes may not take turns
ALIASED, WAYS = 4096, 8  # bytes after which the first cache places lines alike, and how many it holds of those
SIDE = 6  # parts of a fold side by side: a chain of additions waits four cycles for each
BLOCKS = (8, 16, 24, 32)  # of a vector's loop
TILES = (2, 3, 4, 6, 8, 12)  # of a second loop in step


def default(nest: Nest, target: Target) -> Schedule:
    """The schedule of a nest."""
    if not target.vector_bytes or nest.prints:
        return Schedule()
    fresh_after(nest)
    nest = replace(nest, body=perfected(nest.body))
    if cycles(rows(nest.body), Lanes(), target) < SMALL:
        return Schedule()
    regions, names = _regions(nest, target)
    return _joined([s for region in regions for s in region.plan()], names)


def alternatives(nest: Nest, target: Target, most: int) -> list[Schedule]:
    """Schedules for up to ``most`` choices of lanes of each loop at the top of a nest, the others' as by default."""
    if not target.vector_bytes or nest.prints:
        return []
    fresh_after(nest)
    nest = replace(nest, body=perfected(nest.body))
    regions, names = _regions(nest, target)
    plans = [[r.plan(), *r.plans(most)] for r in regions]
    out = []
    for place, several in enumerate(plans):
        for plan in several:
            out.append(_joined([s for n, p in enumerate(plans) for s in (plan if n == place else p[0])], names))
    return list(dict.fromkeys(out))


def _regions(nest: Nest, target: Target) -> tuple[list[_Region], dict[str, int]]:
    """The loops at the top of a nest, and how many loops there are of each name."""
    names: dict[str, int] = {}
    handle: dict[UOp, str] = {}
    for loop in loops(nest.body):
        names[name_of(loop)] = names.get(name_of(loop), 0) + 1
        handle[loop.var] = f"{name_of(loop)}#{names[name_of(loop)]}"
    for loop in loops(nest.body):
        if names[name_of(loop)] == 1:
            handle[loop.var] = name_of(loop)
    return [_Region(s, nest, target, handle) for s in nest.body if isinstance(s, Loop)], names


@dataclass(frozen=True)
class Choice:
    """Loops to run in step. ``lanes`` of the loops around the body; ``inner``: of loops inside it, by their own."""

    cost: float
    lanes: Lanes
    inner: tuple[tuple[Loop, int], ...] = ()


class _Region:
    """One loop at the top of a nest, with everything inside it."""

    def __init__(self, loop: Loop, nest: Nest, target: Target, handle: dict[UOp, str]) -> None:
        self.loop, self.nest, self.target, self.handle = loop, nest, target, handle
        self.listed = rows((loop,))
        found = chain(loop)
        count = next((n for n, a in enumerate(found) if not parallel(a)), len(found))
        self.chain = found[:count]
        self.body = self.chain[-1].body if self.chain else (loop,)
        self.inside = list(loops(self.body))
        self.blocks = Blocks(self.chain, self.body, self.listed, nest, target, handle)
        self.scratch = sum(
            math.prod(s.buffer.shape) * s.buffer.dtype.itemsize
            for s in walk(self.body) if isinstance(s, Scratch) and s.buffer.shape
        )  # fmt: skip

    def plan(self) -> list[Step]:
        """The steps for this region."""
        scattered = scattering(self.loop, cycles(self.listed, Lanes(), self.target), self.nest.strict, self.target,
                               self.handle)  # fmt: skip
        if scattered is not None:
            return scattered
        if not self.chain:
            return self._reduction()
        best = min(self._choices(), key=lambda c: c.cost)
        blocks = self.blocks.blocked(best.lanes, best.cost) or self.blocks.banded(best.lanes, best.cost)
        return blocks or self._plain(best)

    def plans(self, most: int) -> Iterator[list[Step]]:
        """Steps for the choices that cost least, each in all the ways that it allows."""
        for choice in sorted(self._choices(), key=lambda c: c.cost)[:most] if self.chain else ():
            yield from filter(None, (self.blocks.blocked(choice.lanes, choice.cost), self._plain(choice),
                                     self.blocks.banded(choice.lanes, choice.cost)))  # fmt: skip

    def _plain(self, choice: Choice) -> list[Step]:
        return [*self._in_step(choice), *self._packed(choice), *self._threads(choice), *self._streams(choice),
                *self._ahead(choice)]  # fmt: skip

    # ---- lanes -------------------------------------------------------------------------------------------------------

    def _choices(self) -> Iterator[Choice]:
        """The choices of lanes worth pricing: which loop is the vector's, then its block and what runs beside it."""
        yield Choice(cycles(self.listed, Lanes(), self.target), Lanes())
        together = {v for a in self.inside if all_or_none(a) is not None for v in needed(self.body, a.hi)}
        outer = [a for a in self.chain if (span(a) or 64) > 1]
        outer = [a for a in outer if a.var not in together] or outer
        jammed = tuple(a.var for a in self.inside if any(isinstance(s, Loop) for s in a.body)
                       and all(t.update is not None for t in carried(a)) and not self._ordered(a))  # fmt: skip
        if outer:
            a = min(outer, key=lambda a: self._first(a, outer))
            n = span(a) or 64
            blocks = {m for m in BLOCKS if m <= 8 or m <= 2 * n} | ({n} if n % 8 == 0 and n <= 64 else set())
            beside = [(b.var,) for b in outer if b is not a] + ([jammed] if jammed else [])
            for block in sorted(blocks):
                yield self._priced(Lanes(a.var, block, (), self._width(a)))
                for group in beside:
                    for m in TILES if self.inside else (*TILES, 16):
                        if all(m <= (span(self._loop(v)) or 64) + 1 for v in group):
                            yield self._priced(Lanes(a.var, block, tuple((v, m) for v in group), self._width(a)))
        if self.inside:
            yield self._inner(Lanes())
            for a in outer:
                for m in TILES:
                    if m <= (span(a) or 64):
                        yield self._inner(Lanes(None, 1, ((a.var, m),)))

    def _first(self, a: Loop, outer: Sequence[Loop]) -> float:
        """What vectors along a loop cost, alone or with another loop beside it."""
        beside: list[tuple[tuple[UOp, int], ...]] = [(), *(((b.var, 4),) for b in outer if b is not a)]
        return min(self._priced(Lanes(a.var, 8, others, self._width(a))).cost for others in beside)

    def _ordered(self, loop: Loop) -> bool:
        """Whether what it reduces has to be combined in order."""
        return not shuffled(loop, self.nest.strict)

    def _loop(self, v: UOp) -> Loop:
        return next(a for a in (*self.chain, *self.inside) if a.var is v)

    def _crowded(self, lanes: Lanes) -> float:
        """What it costs that every lane has scratch arrays of its own."""
        size = self.scratch * lanes.block * math.prod(n for v, n in lanes.others if any(a.var is v for a in self.chain))
        return 1.0 if size <= self.target.l1_bytes else 1.1 if size <= self.target.l2_bytes else 1.5

    def _aliased(self, lanes: Lanes) -> float:
        """What it costs that lines side by side are a power of two apart: they displace one another."""
        lines = 0
        if lanes.vector is not None and self.blocks.operands(lanes) is not None:
            return 1.0  # what is read has been packed
        for row in self.listed:
            if row.buffer is None or row.buffer not in self.nest.params or row.strides is None or not row.path:
                continue
            if lanes.count(row.path[-1].var) > 1 or row.strides.get(row.path[-1].var) != 1:
                continue  # only what goes along a line for some time
            for v, n in ((lanes.vector, lanes.block), *lanes.others):
                step = row.strides.get(v, 0) if v is not None else 0
                lines += n if step and step * row.buffer.dtype.itemsize % ALIASED == 0 else 0
        return 3.0 if lines > WAYS else 1.0

    def _width(self, loop: Loop) -> int:
        widest = 4
        for row in self.listed:
            if row.buffer is not None and row.kind != "update" and loop.var in row.deps:
                widest = max(widest, row.buffer.dtype.itemsize)
        return self.target.vector_bytes // widest

    def _priced(self, lanes: Lanes) -> Choice:
        spans = [(span(a), lanes.count(a.var)) for a in self.chain]
        tails = sum(1 for size, n in spans if n > 1 and size is not None and size % n)
        scattered = any(r.kind == "store" and r.strides is not None and r.strides.get(lanes.vector, 1) not in (0, 1)
                        for r in self.listed if lanes.vector is not None)  # fmt: skip
        listed: Sequence[Row] = self.listed
        v = lanes.vector
        if v is not None and self.blocks.operands(lanes) is not None:  # then all that is read has been packed
            listed = [packed(r, v, lanes.block) for r in listed]
        # A tail is code, too, and lines stored to in part are read and written again and again.
        waste = (1 + 0.03 * tails + 0.05 * len(lanes.others)) * (1.15 if scattered else 1) * self._aliased(lanes)
        return Choice(cycles(listed, lanes, self.target) * waste * self._crowded(lanes), lanes)

    def _inner(self, lanes: Lanes) -> Choice:
        """Vectors along the loops inside the body, the best for each."""
        total = 0.0
        chosen: list[tuple[Loop, int]] = []
        done: set[UOp] = set()
        for s in self.body:
            if not isinstance(s, Loop):
                continue
            mine = [row for row in self.listed if any(a.var is s.var for a in row.path)]
            done.add(s.var)
            best: tuple[float, Loop | None, int] = (cycles(mine, lanes, self.target), None, 1)
            for a in loops((s,)):
                leaf = not any(isinstance(t, Loop) for t in a.body)
                if not (leaf or parallel(a)) or any(t.update is None for t in carried(a)) or self._ordered(a):
                    continue
                for n in BLOCKS:
                    if n > 8 and n > 2 * (span(a) or 64):
                        continue
                    cost = cycles(mine, Lanes(a.var, n, lanes.others, self._width(a)), self.target)
                    if not parallel(a):  # the partial results are combined each time
                        times = math.prod(span(p) or 64 for p in self._path(a)) / math.prod(m for _, m in lanes.others)
                        cost += times * (12.0 + n / 4) * math.prod(m for _, m in lanes.others)
                    if cost < best[0]:
                        best = cost, a, n
            total += best[0]
            if best[1] is not None:
                chosen.append((best[1], best[2]))
        rest = [row for row in self.listed if not any(a.var in done for a in row.path)]
        total = (
            (total + cycles(rest, lanes, self.target))
            * (1 + 0.25 * len(lanes.others))
            * self._crowded(lanes)
            * self._aliased(lanes)
        )
        return Choice(total, lanes, tuple(chosen))

    def _path(self, loop: Loop) -> tuple[Loop, ...]:
        """The loops around a loop."""
        row = next(r for r in self.listed if r.path and any(a.var is loop.var for a in r.path))
        place = next(n for n, a in enumerate(row.path) if a.var is loop.var)
        return row.path[:place]

    def _in_step(self, choice: Choice) -> list[Step]:
        steps: list[Step] = []
        lanes = choice.lanes
        for v, n in lanes.others:
            one_by_one = any(a.var is v and single(a) for a in self.inside)
            steps.append((Unroll if one_by_one else Upcast)(self.handle[v], n))
        if lanes.vector is not None:
            steps.append(Upcast(self.handle[lanes.vector], lanes.block))
        steps += [Upcast(self.handle[a.var], n) for a, n in choice.inner]
        vectored = {a.var for a, _ in choice.inner} | {v for v, _ in lanes.others}
        for a in self.inside:
            leaf = not any(isinstance(t, Loop) for t in a.body)
            if leaf and not parallel(a) and a.var not in vectored and lanes.vector is not None and single(a) \
                    and (span(a) or 0) >= 8 and len(a.body) <= 2:  # fmt: skip
                steps.append(Unroll(self.handle[a.var], 4))
        return steps

    def _packed(self, choice: Choice) -> list[Step]:
        """Operands that vectors would gather, and that are read again and again: packed at the vector's blocks."""
        lanes = choice.lanes
        if lanes.vector is None:
            return []
        names = []
        for row in self.listed:
            if row.kind == "load" and row.buffer in self.nest.params and row.strides is not None:
                step = row.strides.get(lanes.vector)
                if step not in (None, 0, 1) and lanes.vector in row.deps and reuse(row, lanes) >= 4:
                    names.append(row.buffer.arg.name)
        return [Stage(name, self.handle[lanes.vector]) for name in dict.fromkeys(names)]

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _threads(self, choice: Choice) -> list[Step]:
        """The outermost loop with work for all, its iterations in chunks worth handing out."""
        if choice.cost < THREADS or not self.target.threads:
            return []
        blocks = {a.var: -(-(span(a) or 64) // choice.lanes.count(a.var)) for a in self.chain}
        loop = next((a for a in self.chain if blocks[a.var] >= 8), max(self.chain, key=lambda a: blocks[a.var]))
        count = blocks[loop.var]
        if count < 2:
            return []
        place = self.chain.index(loop)
        grain = max(1, min(count // 8, round(CHUNK * count / choice.cost)))
        steps: list[Step] = []
        crossed = self._crossed(choice)
        if crossed is not None and len(self.chain) > 1:  # a band of what is read stays in the caches, as it is written
            loop, other = crossed
            place, count = self.chain.index(loop), blocks[loop.var]
            if blocks[other.var] > 1 and count > 1:
                rest = [a for a in self.chain if a is not loop and a is not other and blocks[a.var] > 1]
                order = [*(self.handle[a.var] for a in rest), self.handle[loop.var], self.handle[other.var]]
                first = rest[0] if rest else loop
                grain = max(1, min(blocks[first.var] // 8, round(CHUNK * blocks[first.var] / choice.cost)))
                return [Reorder(tuple(order)), Thread(order[0], grain)]
        before = [self.handle[a.var] for a in self.chain[:place] if blocks[a.var] > 1]
        if before:
            steps.append(Reorder((self.handle[loop.var], *before)))
        return [*steps, Thread(self.handle[loop.var], grain)]

    def _crossed(self, choice: Choice) -> tuple[Loop, Loop] | None:
        """The vector's loop and one beside it along which something lies contiguously that is strided for vectors."""
        v = choice.lanes.vector
        if v is None or self.inside:
            return None
        for row in self.listed:
            for u, _ in choice.lanes.others:
                if row.kind == "load" and row.strides is not None and row.strides.get(u) == 1 \
                        and row.strides.get(v) not in (None, 0, 1):  # fmt: skip
                    return self._loop(v), self._loop(u)
        return None

    def _reduction(self) -> list[Step]:
        """A reduction over everything: in parts, on threads, each along vectors."""
        if joinable(self.loop):
            return self._joined()
        if (
            any(s.update is None for s in carried(self.loop))
            or not regrouped(self.loop, self.nest.strict)
            or self.loop.hi.op is not Op.CONST
        ):
            return []
        cost = cycles(self.listed, Lanes(), self.target)
        steps: list[Step] = []
        name = self.handle[self.loop.var]
        n = span(self.loop) or 1
        parts = max(1, min(PARTS, n, int(cost / CHUNK)))
        threads = parts > 1 and cost > THREADS and self.target.threads
        leaf = [a for a in loops((self.loop,)) if not any(isinstance(s, Loop) for s in a.body)]
        free = [a for a in leaf if not self._ordered(a)]
        lanes = self._width(self.loop)
        if not free and n >= 8 * lanes:  # each lane has a part of its own, from one end to the other
            few = max(1, min(parts, STRANDS))
            return [Group(name, few * lanes), Upcast(name, lanes), *[Thread(name)] * threads]
        if threads:
            steps += [Group(name, parts), Thread(name)]
            name += ".t"
        for a in free:
            size = 32 if (span(a) or 64) >= 64 else 8
            steps.append(Upcast(name if a is self.loop else self.handle[a.var], size))
        return steps

    def _joined(self) -> list[Step]:
        """A fold or scan over everything in parts, several of them side by side, block by block of what fits caches."""
        cost = cycles(self.listed, Lanes(), self.target)
        n = span(self.loop) or 0
        if self.nest.strict or cost < THREADS or not self.target.threads:
            return []
        name = self.handle[self.loop.var]
        read = [r.buffer for r in self.listed if r.kind == "load" and r.buffer in self.nest.params]
        width = sum(b.dtype.itemsize for b in read if b is not None)
        size = 2 * self.target.l2_bytes // max(1, width)
        steps: list[Step] = []
        if n >= 4 * size:
            steps.append(Tile(name, size))
            name += ".t"
        return [*steps, Group(name, 4 * SIDE), Upcast(name, SIDE), Thread(name)]

    def _ahead(self, choice: Choice) -> list[Step]:
        """Rows that several loops go over, one after another: the next one comes from memory while this one is used."""
        if len(self.chain) != 1 or not choice.inner or choice.cost < THREADS:
            return []
        (row,) = self.chain
        loops_of: dict[UOp, dict[UOp, Row]] = {}
        for r in self.listed:
            if r.kind == "load" and r.buffer in self.nest.params and r.strides and r.strides.get(row.var) \
                    and r.path[-1] is not row and r.strides.get(r.path[-1].var) == 1:  # fmt: skip
                loops_of.setdefault(r.buffer, {})[r.path[-1].var] = r
        steps: list[Step] = []
        for buffer, found in loops_of.items():
            r = next(iter(found.values()))
            length = abs(r.strides[row.var] if r.strides else 0) * buffer.dtype.itemsize
            whole = length * (span(row) or UNKNOWN)
            if len(found) > 1 and length <= self.target.l2_bytes // 4 and whole >= self.target.l3_bytes:
                steps.append(Prefetch(buffer.arg.name, self.handle[row.var]))
        return steps

    def _streams(self, choice: Choice) -> list[Step]:
        """Results larger than the caches, stored in whole vectors, go past them."""
        steps: list[Step] = []
        stores = [r for r in self.listed if r.kind == "store" and r.buffer in self.nest.outputs]
        loaded = {r.buffer for r in self.listed if r.kind == "load"}
        along = {a.var for a, _ in choice.inner} | {choice.lanes.vector}
        for row in stores:
            b = row.buffer
            assert b is not None and row.strides is not None
            size = math.prod(b.shape) * b.dtype.itemsize
            if (
                size >= self.target.l3_bytes
                and b not in loaded
                and any(row.strides.get(v) == 1 for v in along if v is not None)
                and not any(not parallel(a) and any(p.var is a.var for p in row.path) for a in self.inside)
            ):
                steps.append(Stream(b.arg.name))
        return list(dict.fromkeys(steps))


def _joined(steps: Sequence[Step], names: dict[str, int]) -> Schedule:
    """Equal steps on all loops of a name, as one step on the name."""
    out: list[Step] = []
    for s in steps:
        name = getattr(s, "name", "")
        base = name.partition("#")[0]
        if "#" in name:
            same = [t for t in steps if type(t) is type(s) and getattr(t, "name", "").partition("#")[0] == base
                    and getattr(t, "name", "").partition(".")[2] == name.partition(".")[2]
                    and _but_name(t) == _but_name(s)]  # fmt: skip
            if len(same) == names.get(base) and isinstance(s, (Upcast, Unroll)) and "." not in name:
                plain = type(s)(base, s.size)
                if plain not in out:
                    out.append(plain)
                continue
        out.append(s)
    return Schedule(out)


def _but_name(s: Step) -> tuple[object, ...]:
    return tuple(v for k, v in vars(s).items() if k != "name")
