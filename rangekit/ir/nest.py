"""The loop form of a kernel: what linearize leaves and every backend prints or runs.

Expressions are still UOps, over VAR (a name bound by a ``Let`` or ``Loop``), CONST and ``INDEX(buffer, ...)`` (a
load, indices per axis). Statements are regions: one Range may be several loops, each with a variable of its own,
and accumulators change in time, which hash-consed nodes cannot say. An INDEX of a buffer that the nest writes is
only read at the place it stands: linearize binds it with a ``Let`` wherever that matters.

Every ``Let`` value and statement operand is a shallow tree (``MAX_DEPTH``), so walking one may recurse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula
from rangekit.ir.uop import UOp
from rangekit.source import Position

MAX_DEPTH = 24  # of one expression: deeper ones are cut by a Let


@dataclass(frozen=True)
class Let:
    """``var = value``, once per iteration of the enclosing loop."""

    var: UOp
    value: UOp


@dataclass(frozen=True)
class Loop:
    """``for var in lo..hi`` (hi excluded; no iteration where hi <= lo). ``range`` is the RANGE it runs.

    ``kind`` says how, never what: "loop" one after another; "unroll" the body written ``width`` times; "upcast" the
    iterations in step, statement by statement, values in registers of their own; "vector" the same, in the lanes of
    vectors; "thread" in chunks of ``width`` over threads, in any order; "tree" partial results combined by halves (the
    stores of its body are one reducer's, their operands the parts). For "upcast" and "vector" ``lo`` is 0 or not a
    constant, never negative, and ``hi`` at most ``width``, a constant.
    """

    var: UOp
    range: UOp
    lo: UOp
    hi: UOp
    body: tuple[Stmt, ...]
    kind: str = "loop"
    width: int = 0
    lanes: int = 1  # elements of one vector, a divisor of ``width``


@dataclass(frozen=True)
class Store:
    """``buffer[index] = value``. An INVALID index (a gated one whose gate is false) stores nothing.

    ``update`` is the reducer when this is ``acc = combine(acc, v)``, for printing as ``acc += v``; ``value`` is
    the whole right-hand side either way, ``operand`` the ``v``.
    """

    buffer: UOp
    index: tuple[UOp, ...]
    value: UOp
    update: str | Formula | None = None
    operand: UOp | None = None
    joins: str | Formula | None = None  # of a fold's state: the reducer that joins what two parts of its loop give
    stream: bool = False  # past the caches, for what nothing reads soon


@dataclass(frozen=True)
class Scratch:
    """Gives ``buffer`` (memory "local" or "register") storage here; contents undefined until stored."""

    buffer: UOp


@dataclass(frozen=True)
class Guard:
    """Unless ``ok``, record (access, axis, value, number) in the launch's fault, keeping the first; go on either way.

    ``other`` is recorded in place of the axis where there is one: of two values, that should have been equal.
    ``number`` tells the iteration, row by row over the ranges of the access; -1 is recorded where there is none.
    """

    ok: UOp
    access: int
    axis: int
    value: UOp
    other: UOp | None = None
    number: UOp | None = None


@dataclass(frozen=True)
class Print:
    """When ``when``, hand ``(number, the index of each range, value)`` to the launch's printer."""

    number: int
    indices: tuple[UOp, ...]
    value: UOp
    when: UOp


@dataclass(frozen=True)
class Prefetch:
    """Ask for the cache line of ``buffer[index]``, which need not exist; changes nothing."""

    buffer: UOp
    index: tuple[UOp, ...]


@dataclass(frozen=True)
class Stop:
    """Where ``when`` holds, neither the rest of this iteration nor a later one of the loop changes anything: the loop
    may end.
    """

    when: UOp


Stmt = Let | Loop | Store | Scratch | Guard | Print | Prefetch | Stop


@dataclass(frozen=True)
class Access:
    """One place that reads or writes an array at an index, and why it is safe.

    ``status`` is "proved", "assumed" (by a contract the user gave) or "guarded" (tested at run time); ``by`` says
    how: "interval", "symbolic", "z3", "contract", "unique" or None. ``line`` is the user's line number, None where it
    is unknown.
    ``ranges`` (name, extent) are those whose iterations are numbered row by row, where a test at run time fails.
    """

    access: str
    array: str
    axis: int
    size: int
    line: int | None
    status: str
    by: str | None
    at: Position | None = field(default=None, compare=False, repr=False)  # the user's line, for errors
    ranges: tuple[tuple[str | None, int], ...] = ()
    unsigned: bool = False  # the index comes from 64 bits without a sign


@dataclass(frozen=True)
class PrintSite:
    """What a ``Print`` shows: its label, the names of its ranges, the closed shape of the value (last indices)."""

    label: str
    ranges: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Nest:
    """One kernel as loops. ``params`` are the global buffers in launch order; scratch is declared in the body."""

    name: str
    params: tuple[UOp, ...]
    body: tuple[Stmt, ...]
    outputs: frozenset[UOp] = frozenset()  # the params it writes
    accesses: tuple[Access, ...] = ()  # Guard.access is a place in it
    prints: tuple[PrintSite, ...] = ()  # Print.number is a place in it
    schedule: tuple[Any, ...] = ()  # the steps that gave it this form
    strict: bool = False  # sums of floats keep their order
    flat: tuple[tuple[UOp, UOp], ...] = ()  # params whose shape is ints where that of the program's array has Dims

    def original(self, param: UOp) -> UOp:
        """The array of the program that one of ``params`` is."""
        return dict(self.flat).get(param, param)


def walk(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement, outer before inner, in program order."""
    stack: list[Stmt] = list(reversed(body))
    while stack:
        stmt = stack.pop()
        yield stmt
        if isinstance(stmt, Loop):
            stack.extend(reversed(stmt.body))


def operands(stmt: Stmt) -> tuple[UOp, ...]:
    """The expressions a statement evaluates itself (not those of its body)."""
    if isinstance(stmt, Let):
        return (stmt.value,)
    if isinstance(stmt, Loop):
        return (stmt.lo, stmt.hi)
    if isinstance(stmt, Store):
        return (*stmt.index, stmt.value)
    if isinstance(stmt, Prefetch):
        return stmt.index
    if isinstance(stmt, Stop):
        return (stmt.when,)
    if isinstance(stmt, Guard):
        return tuple(n for n in (stmt.ok, stmt.value, stmt.other, stmt.number) if n is not None)
    if isinstance(stmt, Print):
        return (*stmt.indices, stmt.value, stmt.when)
    return ()


def plain_update(s: Store) -> bool:
    """Whether a store's value reads the accumulator it updates itself, not by a name given to it before."""
    return s.update is not None and _reads(s.value, s.buffer)


def _reads(n: UOp, buffer: UOp) -> bool:
    return (n.op is Op.INDEX and n.src[0] is buffer) or any(_reads(s, buffer) for s in n.src)


def variables(n: UOp) -> frozenset[UOp]:
    """The variables of an expression."""
    found = _VARIABLES.get(n)
    if found is None:
        found = frozenset((n,)) if n.op is Op.VAR else frozenset().union(*map(variables, n.src)) if n.src else _NONE
        _VARIABLES[n] = found
    return found


_NONE: frozenset[UOp] = frozenset()
_VARIABLES: WeakKeyDictionary[UOp, frozenset[UOp]] = WeakKeyDictionary()
