"""``rk.tile`` and ``rk.pad``: names that arrays and schedules both have; the first argument tells which is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from rangekit.lang import movement
from rangekit.lang.tensor import Tensor
from rangekit.lower import schedule, step


@overload
def tile(x: str, repetitions: int, /) -> step.Tile: ...
@overload
def tile(x: Any, repetitions: tuple[int, ...], /) -> Tensor: ...
def tile(x: Any, repetitions: Any, /) -> Any:
    """``tile("i", 64)``: a schedule step, blocks of 64 iterations of the range ``i``, ``i.t`` inside one.

    ``tile(x, (2, 3))``: the array repeated along its axes, as in the array API standard.

    >>> tile("i", 64)
    rk.tile('i', 64)
    """
    if isinstance(x, str):
        return schedule.tile(x, repetitions)
    return movement.tile(x, repetitions)


@overload
def pad(x: str, multiple: int, /) -> step.Pad: ...
@overload
def pad(x: Any, width: int | Sequence[Any], /, value: Any = 0) -> Tensor: ...
def pad(x: Any, width: Any, /, value: Any = 0) -> Any:
    """``pad("i", 8)``: a schedule step, the length of the range ``i`` rounded up to a multiple of 8, the rest masked.

    ``pad(x, width)``: ``value`` added around the axes; ``width`` is one int, (before, after), or one pair an axis, as
    NumPy's.

    >>> pad("i", 8)
    rk.pad('i', 8)
    """
    if isinstance(x, str):
        return schedule.pad(x, width)
    return movement.pad(x, width, value)
