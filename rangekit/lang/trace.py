"""What a trace knows beside its graph: where each node came from, and what the program does besides its result.

Outside a kernel there is no trace: positions go to a weak table, effects happen when a Tensor is realized. A trace
belongs to one thread.
"""

from __future__ import annotations

import ctypes
import os
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
    depth: int = 0


_local = _Local()
_counting = threading.Lock()
RUNNING = ctypes.c_int64()  # traces of all threads; compiled code reads it, to leave calls inside a trace to Python
_outside: Positions = WeakKeyDictionary()


def current() -> Trace | None:
    """The trace this thread is in, or None."""
    return _local.trace


@contextmanager
def tracing() -> Iterator[Trace]:
    """A new trace for this thread; an outer one is set aside meanwhile."""
    outer, _local.trace = _local.trace, Trace()
    with _counting:
        RUNNING.value += 1
        _local.depth += 1
    try:
        yield _local.trace
    finally:
        with _counting:
            RUNNING.value -= 1
            _local.depth -= 1
        _local.trace = outer


def _forked() -> None:
    """Of all traces, only those of the thread that forked go on in the child."""
    global _counting
    _counting = threading.Lock()
    RUNNING.value = _local.depth


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
