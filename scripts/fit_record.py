"""Times of kernels under several schedules each, on one thread: what ``fit.py`` holds the cost model against.

A schedule here is a choice of loops in step, the thing that the model prices; the default's is one of them. All are
compiled first and then take turns, so that a busy moment spoils no one's every run; medians count.
"""

from __future__ import annotations

import ctypes
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

import rangekit as rk
from rangekit import machine
from rangekit.backends.llvm import engine
from rangekit.ir.nest import Nest
from rangekit.ir.target import CPU
from rangekit.lower.loops import carried, loops, name_of, parallel, span
from rangekit.lower.model import rows
from rangekit.lower.schedule import Schedule
from rangekit.lower.step import Step, Thread, Unroll, Upcast
from rangekit.lower.tiles import perfected
from scripts.fit_kernels import kernels

TURNS = 7
TURN_SECONDS = 0.012
BLOCKS = (8, 16, 32)  # of a vector's loop
TILES = ((2, 8), (4, 8), (4, 16), (8, 8), (6, 16), (4, 32))  # of a loop beside it, and of the vector's
CHAIN = """define void @kernel(ptr %p, i64 %n) {
entry:
  %first = load i64, ptr %p
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %x = phi i64 [ %first, %entry ], [ %z, %loop ]
  %a = shl i64 %x, 13
  %b = xor i64 %x, %a
  %c = lshr i64 %b, 7
  %d = xor i64 %b, %c
  %e = shl i64 %d, 17
  %z = xor i64 %d, %e
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  store i64 %z, ptr %p
  ret void
}"""
CHAIN_CYCLES = 6  # six operations, each waiting for the one before


@dataclass(frozen=True)
class Choice:
    """Loops in step, by name: the vectors' loop, its block, the width; blocks of further loops."""

    vector: str | None
    block: int
    others: tuple[tuple[str, int], ...]
    width: int


@dataclass
class Sample:
    """One schedule of one kernel. ``choice`` is None where it is more than loops in step."""

    kernel: str
    schedule: str
    choice: Choice | None
    seconds: float = 0.0


def choices(nest: Nest) -> Iterator[Choice]:
    """Those worth measuring: no vectors, vectors along each loop, a second loop beside."""
    found = list(loops(perfected(nest.body)))
    outer = [a for a in found if parallel(a)]
    inner = [a for a in found if not parallel(a) and not any(True for _ in loops(a.body))
             and all(s.update is not None for s in carried(a)) and (span(a) or 0) >= 8]  # fmt: skip
    yield Choice(None, 1, (), CPU.vector_lanes)
    for a in outer:
        yield from (Choice(name_of(a), n, (), width(nest, name_of(a))) for n in BLOCKS if n <= (span(a) or n))
        for b in outer:
            if b is not a:
                yield from (Choice(name_of(a), n, ((name_of(b), m),), width(nest, name_of(a))) for m, n in TILES)
    for a in inner:
        yield from (Choice(name_of(a), n, (), width(nest, name_of(a))) for n in BLOCKS)
        yield from (Choice(name_of(a), 8, ((name_of(b), 4),), width(nest, name_of(a))) for b in outer)


def width(nest: Nest, name: str) -> int:
    """Elements of a vector along a loop: as many as there are of the widest type that it moves."""
    sizes = [
        row.buffer.dtype.itemsize
        for row in rows(nest.body)
        if row.buffer is not None and row.kind != "update" and any(v.arg[-1] == name for v in row.deps)
    ]
    return CPU.vector_bytes // max([4, *sizes])


def steps(choice: Choice) -> tuple[Step, ...]:
    """The schedule of a choice."""
    beside = [Upcast(name, n) for name, n in choice.others]
    return (*beside, Upcast(choice.vector, choice.block)) if choice.vector is not None else tuple(beside)


def choice_of(schedule: Schedule, nest: Nest) -> Choice | None:
    """The choice that a schedule is, where it is no more than one: threads and unrolled reductions do not count."""
    named = [s for s in schedule if not isinstance(s, (Thread, Unroll))]
    if not all(isinstance(s, Upcast) for s in named) or len(named) > 2:
        return None
    found = [(s.name, s.size) for s in named if isinstance(s, Upcast)]
    if not found:
        return Choice(None, 1, (), CPU.vector_lanes)
    return Choice(*found[-1], tuple(found[:-1]), width(nest, found[-1][0]))


def record(quiet: AbstractContextManager[Any]) -> list[Sample]:
    """Measure every kernel under every choice and under the default; times are taken inside ``quiet``."""
    rk.set_num_threads(1)
    ready: list[tuple[Sample, Callable[[], None]]] = []
    for name, fn, args in kernels():
        default = rk.kernel(fn).lower(*args)
        (info,) = default.kernels
        ready.append((Sample(name, "default", choice_of(info.schedule, info.written)), _call(default, args)))
        for choice in choices(info.written):
            made = rk.kernel(fn).schedule(*steps(choice)).lower(*args)
            ready.append((Sample(name, made.kernels[0].schedule.to_json(), choice), _call(made, args)))
    nothing = np.zeros(1, np.float32)
    empty = _call(rk.kernel(lambda x: x + 1).lower(nothing), [nothing])
    runs: list[list[float]] = [[] for _ in ready]
    overheads: list[float] = []
    with quiet:
        for _ in range(TURNS):
            overheads.append(_seconds(empty))
            for times, (_, call) in zip(runs, ready, strict=True):
                times.append(_seconds(call))
    overhead = statistics.median(overheads)
    for times, (sample, _) in zip(runs, ready, strict=True):
        sample.seconds = statistics.median(times) - overhead
    return [sample for sample, _ in ready]


def _call(low: Any, args: list[Any]) -> Callable[[], None]:
    """The launch alone, over arguments and memory for its results."""
    ((nest, launch),) = low._program.launches
    given = iter(args)
    buffers = [np.zeros(p.shape, p.dtype.numpy) if p in nest.outputs else next(given) for p in nest.params]
    fault = np.zeros(4, np.int64)
    launch(buffers, fault)
    assert not fault[0]
    return lambda: launch(buffers, fault)


def _seconds(call: Callable[[], None]) -> float:
    """The median of a call's times over one turn."""
    call()
    samples: list[float] = []
    begin = time.perf_counter()
    while len(samples) < 3 or (time.perf_counter() - begin < TURN_SECONDS and len(samples) < 1000):
        start = time.perf_counter()
        call()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def clock() -> float:
    """Cycles a second, as a chain of dependent one-cycle operations shows them (in 10^9)."""
    code = engine.Code(CHAIN)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address)
    state = np.array([88172645463325252], np.int64)
    count = 2_000_000
    best = min(_seconds(lambda: run(state.ctypes.data, count)) for _ in range(5))
    return count * CHAIN_CYCLES / best / 1e9


def recorded(quiet: AbstractContextManager[Any]) -> dict[str, Any]:
    """Samples, and what they are of."""
    samples = record(quiet)
    return {
        "machine": {"cpu": machine.cpu_name(), "host": engine.host(), "system": platform.system(), "ghz": clock()},
        "versions": {name: version(name) for name in ("llvmlite", "numpy")},
        "samples": [asdict(s) for s in samples],
    }
