"""Trying the iterations of an index one by one, and whether there is anything to be tried or asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rangekit.ir.bounds import bounds
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, by_uid, toposort

FEW = 1 << 17  # iterations in which an index is tried at once
ENUMERATED = 1 << 20  # and where Z3 does not answer
OPAQUE = frozenset({Op.INDEX, Op.REDUCE, Op.GET, Op.FOLD, Op.SCAN, Op.STATE})
DATA = frozenset({Op.DIM, Op.INDEX, Op.REDUCE, Op.PARAM, Op.BUFFER, Op.IN_RANGE, Op.GET, Op.FOLD, Op.SCAN, Op.STATE})


def depends_on_data(i: UOp, gate: UOp | None) -> bool:
    """Whether anything but the iteration decides an index or its condition."""
    return any(n.op in DATA for n in toposort(*(x for x in (i, gate) if x is not None)))


def involved(i: UOp, gate: UOp | None) -> frozenset[UOp]:
    """The ranges of an index and of its condition."""
    return i.ranges | (gate.ranges if gate is not None else frozenset())


def worth_asking(i: UOp, gate: UOp | None) -> bool:
    """Whether what data brings into an index is bounded by something: else nothing is known of it."""
    known = set(toposort(gate)) if gate is not None else set()
    for n in toposort(i, into=lambda n: n.op not in OPAQUE | {Op.IN_RANGE}):
        if n.op in OPAQUE and n.dtype.kind in "iux" and n not in known:
            lo, hi = bounds(n)
            if lo == -math.inf or hi == math.inf or (lo <= n.dtype.min and hi >= n.dtype.max):
                return False
    return True


def over(ranges: tuple[UOp, ...], n: UOp) -> np.ndarray[Any, np.dtype[Any]]:
    """The value of a data-free expression at every iteration of the ranges."""
    value = evaluate(n, {})
    own = by_uid(n.ranges)
    shape = tuple(r.extent if r in own else 1 for r in ranges)
    return np.broadcast_to(value.reshape(shape), tuple(r.extent for r in ranges))


def iteration(at: Iterable[tuple[UOp, int]]) -> str:
    """Ranges and Dims with their numbers, as text."""
    return ", ".join(f"{r.arg.name or 'an unnamed Range'} = {v * _unit(r)}" for r, v in at)


def _unit(r: UOp) -> int:
    return int(r.arg.multiple_of) if r.op is Op.DIM else 1
