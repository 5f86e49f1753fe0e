"""What a search may try: whole schedules to start from, and those one change away. Pure: nothing is compiled or timed.

Every schedule given applies, gives a nest that no other one given does, and stays within a target's registers, memory
and a size of code that compiles in reasonable time. The order is a guess at what helps most, and always the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Loop, Nest, Scratch, Stmt, Store, walk
from rangekit.ir.nest import Prefetch as Ahead
from rangekit.ir.show import expression, nest_text
from rangekit.ir.target import Target
from rangekit.lower.default import alternatives, default
from rangekit.lower.loops import chain, fresh_after, loops, name_of, parallel, span
from rangekit.lower.schedule import Schedule, applicable, scheduled
from rangekit.lower.step import Group, Pad, Prefetch, Reorder, Stage, Step, Stream, Thread, Tile, Unroll, Upcast
from rangekit.lower.tiles import perfected

STARTS = 6  # choices of lanes of each loop at the top that are worth a start
WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of lanes
COPIES = 1024  # of one statement, after unrolling and lanes
SCRATCH = 64 << 20  # bytes of local arrays


def proposals(nest: Nest, target: Target) -> list[Schedule]:
    """Whole schedules, first the default, then those that the cost model finds next best. ``nest`` has no schedule."""
    start, _ = applicable(nest, default(nest, target), target)
    rest = (applicable(nest, s, target)[0] for s in alternatives(nest, target, STARTS))
    return _distinct(nest, [start, *rest], target, set())


def neighbours(nest: Nest, schedule: Sequence[Step], target: Target) -> list[Schedule]:
    """Schedules that differ from one by a change: another size, a step less, a step more, another order of loops."""
    steps = tuple(schedule)
    known = {_key(scheduled(nest, steps, target))}
    changed = (*_sizes(steps), *_orders(steps), *_fewer(steps), *_more(nest, steps, target))
    return _distinct(nest, changed, target, known)


def fits(nest: Nest, target: Target) -> bool:
    """Whether a scheduled nest is worth compiling: few accumulators, small copies, little code."""
    size = sum(math.prod(s.buffer.shape) * s.buffer.dtype.itemsize for s in walk(nest.body) if isinstance(s, Scratch))
    vectors = _accumulators(nest.body, target, 1.0)
    return size <= SCRATCH and vectors <= 2 * target.registers and _copies(nest.body) <= COPIES


def _accumulators(body: Sequence[Stmt], target: Target, lanes: float) -> float:
    """The most vectors that the accumulators of one loop fill."""
    most = 0.0
    for s in body:
        if isinstance(s, Loop):
            width = s.width / max(1, s.lanes) if s.kind in ("upcast", "vector") else 1
            most = max(most, _accumulators(s.body, target, lanes * width))
        elif isinstance(s, Store) and s.update is not None:
            most = max(most, lanes)
    return most


def _copies(body: Sequence[Stmt]) -> int:
    """The most copies of a statement in the code."""
    most = 1
    for s in body:
        if isinstance(s, Loop):
            many = s.width // max(1, s.lanes) if s.kind in ("upcast", "vector", "unroll") else 1
            most = max(most, max(1, many) * _copies(s.body))
    return most


def _distinct(nest: Nest, found: Iterable[Sequence[Step]], target: Target, known: set[str]) -> list[Schedule]:
    out: list[Schedule] = []
    for steps in found:
        try:
            new = scheduled(nest, tuple(steps), target)
        except ScheduleError:
            continue
        key = _key(new)
        if key not in known and fits(new, target):
            known.add(key)
            out.append(Schedule(steps))
    return out


def _key(nest: Nest) -> str:
    """The same for nests that run alike: their text, and what it does not show."""
    hidden: list[object] = []
    for s in walk(nest.body):
        if isinstance(s, Loop):
            hidden.append((s.kind, s.width, s.lanes) if s.kind != "loop" else "")
        elif isinstance(s, Store):
            hidden.append(s.stream)
        elif isinstance(s, Ahead):
            hidden.append((s.buffer.arg.name, *map(expression, s.index)))
    return f"{nest_text(nest)}{hidden}"


# ---- changes ---------------------------------------------------------------------------------------------------------


def _with(steps: tuple[Step, ...], place: int, *new: Step) -> tuple[Step, ...]:
    return (*steps[:place], *new, *steps[place + 1 :])


def _sizes(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Other sizes. A tile stays a multiple of the lanes inside it."""
    for place, s in enumerate(steps):
        if isinstance(s, Upcast):
            for size in _near(s.size, WIDTHS):
                yield tuple(_rounded(t, s.name, size) for t in _with(steps, place, Upcast(s.name, size)))
        elif isinstance(s, Tile):
            unit = next((t.size for t in steps if isinstance(t, Upcast) and t.name == f"{s.name}.t"), 1)
            for size in (s.size * 2, s.size // 2, s.size * 3 // 2, s.size * 4, s.size // 4):
                if size >= unit:
                    yield _with(steps, place, Tile(s.name, size // unit * unit))
        elif isinstance(s, Unroll):
            for size in (s.size * 2, s.size // 2):
                if 1 < size <= 16:
                    yield _with(steps, place, Unroll(s.name, size))
        elif isinstance(s, Thread):
            for grain in (s.grain * 2, s.grain // 2, s.grain * 4):
                if grain >= 1:
                    yield _with(steps, place, Thread(s.name, grain))
        elif isinstance(s, Group):
            for parts in (s.parts * 2, s.parts // 2, s.parts * 4):
                if parts > 1:
                    yield _with(steps, place, Group(s.name, parts))
        elif isinstance(s, Prefetch) and s.at:
            for ahead in (s.ahead * 2, s.ahead // 2):
                if ahead:
                    yield _with(steps, place, replace(s, ahead=ahead))


def _near(size: int, known: Sequence[int]) -> list[int]:
    below = [n for n in known if n < size][-2:]
    above = [n for n in known if n > size][:2]
    return [*above[:1], *below[-1:], *above[1:], *below[:-1]]


def _rounded(step: Step, name: str, unit: int) -> Step:
    """A tile around lanes, a multiple of their new number."""
    if isinstance(step, Tile) and name == f"{step.name}.t":
        return Tile(step.name, max(unit, step.size // unit * unit))
    return step


def _orders(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for place, s in enumerate(steps):
        if isinstance(s, Reorder):
            for n in range(len(s.names) - 1):
                names = list(s.names)
                names[n], names[n + 1] = names[n + 1], names[n]
                yield _with(steps, place, Reorder(tuple(names)))


def _fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Without one step; without a tile, what names its inside goes, too."""
    for place, s in enumerate(steps):
        inside = f"{s.name}.t" if isinstance(s, Tile) else None
        yield tuple(t for n, t in enumerate(steps) if n != place and getattr(t, "name", "") != inside)


def _more(nest: Nest, steps: tuple[Step, ...], target: Target) -> Iterator[tuple[Step, ...]]:
    """With one step more: on loops and arrays as they are after the steps so far."""
    fresh_after(nest)
    after = replace(nest, body=perfected(nest.body))
    for s in steps:
        after = s.apply(after, target)
    listed = list(loops(after.body))
    names = list(dict.fromkeys(name_of(a) for a in listed))
    threads = any(a.kind == "thread" for a in listed)
    for a in listed:
        leaf = not any(isinstance(s, Loop) for s in a.body)
        if a.kind == "loop" and leaf and (span(a) or 64) > 1:
            for size in (8, 16, 32):
                yield (*steps, Upcast(name_of(a), size))
            if not parallel(a):
                yield (*steps, Unroll(name_of(a), 4))
    outer = [a for s in after.body if isinstance(s, Loop) for a in chain(s)]
    for a in outer:
        if a.kind == "loop" and parallel(a):
            if not threads and target.threads:
                yield (*steps, Thread(name_of(a)))
            for size in (2, 4, 8):
                yield (*steps, Upcast(name_of(a), size))
    written = {s.buffer for s in walk(after.body) if isinstance(s, Store)}
    blocks = [n for n in names if any(name_of(a) == n and a.kind in ("loop", "thread") and a.body for a in listed)]
    for b in after.params:
        name = b.arg.name
        if b in written:
            yield (*steps, Prefetch(name))
            yield (*steps, Stream(name))
        else:
            yield from ((*steps, Stage(name, at)) for at in blocks)
            yield from ((*steps, Prefetch(name, at, ahead)) for at in blocks for ahead in (1, 8))
    for a in listed:
        if a.kind == "loop" and (n := span(a)) is not None and a.width and n % a.width:
            yield (*steps, Pad(name_of(a), a.width))
    for a in outer:
        if a.kind == "loop" and (span(a) or 0) >= 64:
            for size in (16, 64, 256):
                yield (*steps, Tile(name_of(a), size))
