"""``bufferize``: close ranges, give a value storage; and ``print``, the other thing that binds what is open."""

from __future__ import annotations

from typing import Any

from rangekit.errors import RangekitError, ScheduleError
from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.uop import Storage, UOp, by_uid, const
from rangekit.lang import trace
from rangekit.lang.ranges import as_range_nodes, open_axes
from rangekit.lang.tensor import Tensor, lift, made, stored

MEMORIES = (None, "global", "local", "register")


def bufferize(v: Any, /, *ranges: Tensor, memory: str | None = None, name: str | None = None) -> Tensor:
    """Close ``ranges``: axes of their sizes lead the result's shape, and the value has storage.

    A range the value does not have repeats it. ``memory`` "global", "local" or "register" is an order; without it
    the storage is a boundary the compiler may fuse away. Ranges of v that stay open keep the buffer inside their
    loops. Errors: ``RangeError`` for anything but distinct Ranges, ``ScheduleError`` for an unknown memory.

    >>> import rangekit as rk
    >>> i, j = rk.ranges(2, 3)
    >>> rk.bufferize(i * 10 + j, j, i).numpy()
    array([[ 0, 10],
           [ 1, 11],
           [ 2, 12]])
    """
    if memory not in MEMORIES:
        raise ScheduleError(f"there is no memory {memory!r}", help='memory= "global", "local" or "register"')
    nodes = as_range_nodes(ranges, "bufferize")
    value = stored(lift(v))
    if memory == "global" and value.ranges - set(nodes):
        left = ", ".join(str(r.arg.name) for r in by_uid(value.ranges - set(nodes)))
        raise ScheduleError(
            f'memory="global" while {left} is open: a buffer inside a loop is local to it',
            help=f'close {left} too, or ask for memory="local"',
        )
    return made(UOp(Op.BUFFERIZE, value.dtype, (value, *nodes), Storage(memory, name)))


def materialized(x: Tensor) -> Tensor:
    """``x`` with storage of its own, all closed axes kept."""
    value, ranges = open_axes(stored(x), tuple(range(x.ndim)))
    return made(UOp(Op.BUFFERIZE, value.dtype, (value, *ranges), Storage()))


def print(v: Any, /, *, when: Any = True) -> None:  # noqa: A001  (rk.print is the promised name)
    """Show a value from inside a kernel, once per iteration of the ranges open in it, where ``when`` holds.

    Errors: ``RangekitError`` outside a kernel while ranges are open.
    """
    value, condition = lift(v), lift(when)
    running = trace.current()
    if running is None:
        if value.node.ranges or condition.node.ranges:
            raise RangekitError(
                "rk.print of a value with open ranges belongs inside a kernel", help="close them: rk.bufferize(v, i)"
            )
        if bool(condition):
            import builtins

            builtins.print(value.numpy())
        return
    label = _argument_text()
    when_node = condition.node if condition.node.dtype is dt.bool_ else const(True, dt.bool_)
    node = stored(value)
    ranges = by_uid(node.ranges | when_node.ranges)
    running.effects.append(
        trace.note(UOp(Op.PRINT, dt.void, (node, when_node, *ranges), (label, len(running.effects))))
    )


def _argument_text() -> str:
    """What the user wrote between the parentheses of ``rk.print(...)``, up to its first keyword."""
    at = trace.note_position()
    text, span = (at.text, at.span) if at is not None else (None, None)
    if not text or not span:
        return ""
    inside = text[span[0] : span[1]].partition("(")[2].rpartition(")")[0]
    return inside.rpartition(", when")[0] or inside
