"""The passes, in order, as one tuple; each leaves a form that the next may rely on.

``lower`` runs them and keeps every stage, its time, and what people may ask for later (proofs, reasons). A pass is a
function of the graph and the frozen ``Options``; the ``Record`` it may append to never influences a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from rangekit.errors import ScheduleError
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Access, Nest
from rangekit.ir.ops import Op
from rangekit.ir.symbolic import simplify
from rangekit.ir.target import CPU, Target
from rangekit.ir.uop import UOp
from rangekit.lower.canon import canon
from rangekit.lower.check import check
from rangekit.lower.closed import closed
from rangekit.lower.counts import counted
from rangekit.lower.cut import cut
from rangekit.lower.default import default
from rangekit.lower.derive import derive
from rangekit.lower.fuse import fuse
from rangekit.lower.legalize import legalize
from rangekit.lower.linearize import linearize
from rangekit.lower.rangeify import rangeify
from rangekit.lower.recall import recall
from rangekit.lower.schedule import Schedule, applicable, scheduled
from rangekit.lower.split import split
from rangekit.lower.states import enclosed
from rangekit.lower.step import Step
from rangekit.lower.widen import widened
from rangekit.source import Position


@dataclass(frozen=True)
class Options:
    """Everything a lowered program depends on beside its graph; part of every cache key."""

    target: Target = CPU
    schedules: tuple[tuple[str | None, tuple[Step, ...]], ...] = ()  # (kernel's name, None for all; its steps)
    block: int | None = None  # derive single passes wherever that is right, in blocks of so many iterations
    strict: bool = False  # no reassociation, no contraction: what is written, in that order


@dataclass
class Record:
    """What the passes tell people. ``positions`` follows nodes through rewrites."""

    positions: dict[UOp, Position] = field(default_factory=dict)
    accesses: dict[UOp, list[Access]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    outputs: list[UOp] = field(default_factory=list)
    nests: list[Nest] = field(default_factory=list)
    plain: list[Nest] = field(default_factory=list)  # before their schedules

    def carry(self, old: UOp, new: UOp) -> None:
        """``new`` came from ``old``: it keeps the user's line, unless it has one."""
        at = self.positions.get(old)
        if at is not None:
            self.positions.setdefault(new, at)


@dataclass(frozen=True)
class Pass:
    """One named step from a legal graph to a legal graph."""

    name: str
    run: Callable[[UOp, Options, Record], UOp]


def _each_kernel(sink: UOp, fn: Callable[[UOp], UOp]) -> UOp:
    return sink.replace(src=tuple(fn(k) for k in sink.src))


def _simplify(sink: UOp, options: Options, record: Record) -> UOp:
    def one(kernel: UOp) -> UOp:
        return simplify(kernel, moved=record.carry)

    return _each_kernel(sink, one)


def _legalize(sink: UOp, options: Options, record: Record) -> UOp:
    def one(kernel: UOp) -> UOp:
        return legalize(kernel)

    return _each_kernel(sink, one)


def _closed(sink: UOp, options: Options, record: Record) -> UOp:
    short = closed(sink, options.strict, record.carry, record.reasons, set())
    return sink if short is sink else canon(short, record.carry)


def _fuse(sink: UOp, options: Options, record: Record) -> UOp:
    def settled(graph: UOp, carry: Callable[[UOp, UOp], None]) -> UOp:
        graph = canon(graph, carry)
        short = closed(graph, options.strict, carry, found, tried)
        return graph if short is graph else canon(short, carry)

    found, tried = list[str](), set[UOp]()
    fused = fuse(sink, options.target, record.carry, record.positions, record.reasons, settled)
    record.reasons += found
    return fused


def _widen(sink: UOp, options: Options, record: Record) -> UOp:
    return sink if options.strict else widened(sink, record.carry)


def _derive(sink: UOp, options: Options, record: Record) -> UOp:
    return sink if options.strict else derive(sink, options.target, options.block, record.carry, record.reasons)


def _check(sink: UOp, options: Options, record: Record) -> UOp:
    def one(kernel: UOp) -> UOp:
        found: list[Access] = []
        checked = check(kernel, record.positions, found, record.carry, record.reasons)
        record.accesses[checked] = found
        return checked

    return _each_kernel(sink, one)


def _linearize(sink: UOp, options: Options, record: Record) -> UOp:
    for number, kernel in enumerate(sink.src):
        accesses = tuple(record.accesses[kernel])
        record.nests.append(cut(linearize(kernel, f"k{number}", accesses, options.target, options.strict)))
    return sink


def _schedule(sink: UOp, options: Options, record: Record) -> UOp:
    """Each nest under the steps given for it, or else those that the cost model chooses."""
    for name, _ in options.schedules:
        if name is not None and name not in {nest.name for nest in record.nests}:
            raise ScheduleError(
                f"there is no kernel {name!r}", help="one of " + ", ".join(n.name for n in record.nests)
            )
    record.plain += record.nests
    for place, nest in enumerate(record.plain):
        if options.target.vector_bytes:
            nest = recall(nest, options.target)
        given = [steps for name, steps in options.schedules if name is None or name == nest.name]
        steps = tuple(s for steps in given for s in steps)
        if given:
            new = scheduled(nest, steps, options.target)
        else:
            steps, new = applicable(nest, default(nest, options.target), options.target)
        record.nests[place] = replace(new, schedule=Schedule(steps))
    return sink


PASSES = (
    Pass("rangeify", lambda g, o, r: rangeify(g, r.carry)),  # no movement op, no closed axis but of storage
    Pass("canon", lambda g, o, r: canon(g, r.carry)),  # equal reductions are equal nodes
    Pass("closed", _closed),  # reductions of known form have no loop
    Pass("fuse", _fuse),  # only buffers that pay; what that shows is closed, too
    Pass("counts", lambda g, o, r: counted(g, r.carry, r.reasons)),  # places that are counts are written once
    Pass("widen", _widen),  # halves are computed in float32
    Pass("derive", _derive),  # dependent reductions are one fold where that is safe and pays
    Pass("split", lambda g, o, r: split(g, o.target, r.carry, r.outputs, r.positions, r.reasons)),  # SINK of KERNELs
    Pass("simplify", _simplify),  # indices in normal form
    Pass("legalize", _legalize),  # indices fit the machine
    Pass("check", _check),  # every access proved, gated or guarded
    Pass("linearize", _linearize),  # one Nest a kernel, in the record; loops outer to inner as written
    Pass("schedule", _schedule),  # those nests in the order and the place that a schedule gives them
)


@dataclass(frozen=True)
class Lowered:
    """A program as loop nests in launch order, and how it came to be."""

    nests: tuple[Nest, ...]
    outputs: tuple[UOp, ...]  # PARAM or BUFFER of each result
    stages: Mapping[str, UOp]
    seconds: Mapping[str, float]
    reasons: tuple[str, ...]
    plain: tuple[Nest, ...] = ()  # the same before their schedules


def lower(sink: UOp, options: Options, positions: Mapping[UOp, Position]) -> Lowered:
    """Run every pass over a SINK of storage nodes and PRINTs."""
    enclosed(sink, positions)
    record = Record(dict(positions))
    stages: dict[str, UOp] = {"trace": sink}
    seconds: dict[str, float] = {}
    for step in PASSES:
        start = time.perf_counter()
        sink = step.run(sink, options, record)
        seconds[step.name] = time.perf_counter() - start
        stages[step.name] = sink
    return Lowered(
        tuple(record.nests), tuple(record.outputs), stages, seconds, tuple(record.reasons), tuple(record.plain)
    )


def wanted(results: tuple[UOp, ...], effects: tuple[UOp, ...]) -> UOp:
    """The SINK of a program: its results' storage, then its effects."""
    return UOp(Op.SINK, dt.void, (*results, *effects))
