"""``rk.tile``: one name that the array API and schedules both have; the first argument tells which is meant."""

from __future__ import annotations

from typing import Any, overload

from rangekit.lang import movement
from rangekit.lang.tensor import Tensor
from rangekit.lower import schedule


@overload
def tile(x: str, repetitions: int, /) -> schedule.Tile: ...
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
