"""What a trace knows beside its graph: where each node came from, and what the program does besides its result.

Outside a kernel there is no trace: positions go to a weak table, effects happen when a Tensor is realized. A trace
belongs to one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from rangekit.ir.uop import UOp
from rangekit.source import Position, caller

Positions = MutableMapping[UOp, Position]


@dataclass(eq=False)
class Trace:
    """One run of a kernel's function over Tensors. ``effects`` are ASSIGN and PRINT nodes, in program order."""

    positions: Positions = field(default_factory=dict)
    effects: list[UOp] = field(default_factory=list)


class _Local(threading.local):
    trace: Trace | None = None


_local = _Local()
_outside: Positions = WeakKeyDictionary()


def current() -> Trace | None:
    """The trace this thread is in, or None."""
    return _local.trace


@contextmanager
def tracing() -> Iterator[Trace]:
    """A new trace for this thread; an outer one is set aside meanwhile."""
    outer, _local.trace = _local.trace, Trace()
    try:
        yield _local.trace
    finally:
        _local.trace = outer


def note(node: UOp) -> UOp:
    """Remember the user's line for a node; the first line that made it is the one shown."""
    positions = _local.trace.positions if _local.trace else _outside
    if node not in positions and (at := caller()) is not None:
        positions[node] = at
    return node


def positions_outside() -> Positions:
    """Where nodes made outside any kernel came from."""
    return _outside


def note_position() -> Position | None:
    """The user's line now."""
    return caller()
