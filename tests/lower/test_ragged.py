"""Ragged groups through an array of offsets: each costs its own rows, and no others are read."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.ops import Op
from tests.lower.test_limits import DEVICES, run_scheduled, same, traced

Array = np.ndarray[Any, Any]

ROWS = 13
GROUPS = {  # offsets of groups in 13 rows
    "one after another": [0, 3, 4, 9, 13],
    "of no row": [0, 0, 5, 5, 5, 13, 13],
    "of one row": list(range(ROWS + 1)),
    "all in one": [0, 0, 13, 13],
    "one group": [0, 13],
    "rows before, between and after that belong to none": [2, 2, 6, 7],
    "no rows at all": [4, 4, 4],
    "no groups": [0],
}
EVERY = pytest.mark.parametrize("off", GROUPS.values(), ids=GROUPS)


def sums(v: Any, w: Any, off: Any) -> Any:
    g, r = rk.ranges(off.shape[0] - 1, v.shape[0])
    return rk.bufferize(rk.sum(v[r, 0] * w[r, 0], r, where=(off[g] <= r) & (r < off[g + 1])), g)


def products(v: Any, w: Any, off: Any) -> Any:
    g, r, a, b = rk.ranges(off.shape[0] - 1, v.shape[0], v.shape[1], w.shape[1])
    mine = (off[g] <= r) & (r < off[g + 1])
    return rk.bufferize(rk.sum(v[r, a] * w[r, b], r, where=mine), g, a, b)


def softmax_means(v: Any, w: Any, off: Any) -> Any:
    """Of each group's rows of w, weighted by a softmax of one column of v: reductions that need one another."""
    g, r, b = rk.ranges(off.shape[0] - 1, v.shape[0], w.shape[1])
    mine = (off[g] <= r) & (r < off[g + 1])
    p = rk.exp(v[r, 0] - rk.max(v[r, 0], r, where=mine))
    return rk.bufferize(rk.sum(p * w[r, b], r, where=mine) / rk.sum(p, r, where=mine), g, b)


def _weighted(v: Array, w: Array) -> Array:
    e = np.exp(v[:, 0] - v[:, 0].max(initial=-np.inf))
    with np.errstate(invalid="ignore"):
        mean: Array = e @ w / e.sum()
    return mean


ORACLES: dict[Callable[..., Any], Callable[[Array, Array], Any]] = {
    sums: lambda v, w: (v[:, 0] * w[:, 0]).sum(),
    products: lambda v, w: v.T @ w,
    softmax_means: _weighted,
}
KERNELS = pytest.mark.parametrize("fn", ORACLES, ids=lambda fn: fn.__name__)


def operands(rows: int = ROWS, width: int = 3, depth: int = 5) -> tuple[Array, Array]:
    rng = np.random.default_rng(rows)
    return (rng.integers(-8, 9, (rows, width)).astype(np.float32) / 4,
            rng.integers(-8, 9, (rows, depth)).astype(np.float32) / 4)  # fmt: skip


def expected(fn: Callable[..., Any], v: Array, w: Array, off: Array) -> Array:
    bounds, wide = off.astype(np.int64), (v.astype(np.float64), w.astype(np.float64))
    each = [ORACLES[fn](wide[0][a:b], wide[1][a:b]) for a, b in pairwise(bounds)]
    empty = np.zeros((0, *np.shape(ORACLES[fn](*wide))))
    return np.array(each) if each else empty


@EVERY
@KERNELS
def test_groups_are_what_numpy_says(fn: Callable[..., Any], off: list[int]) -> None:
    v, w = operands()
    for dtype in (np.int32, np.int64, np.uint64):
        given = np.array(off, dtype)
        for device in DEVICES:
            same(rk.kernel(fn, device=device)(v, w, given), expected(fn, v, w, given), (device, dtype))


@EVERY
@KERNELS
def test_groups_read_their_own_rows_only(fn: Callable[..., Any], off: list[int]) -> None:
    v, w = operands()
    rows = set(range(off[0], off[-1]))
    found = traced(fn, v, w, np.array(off))
    for name in ("v", "w"):
        assert {a.index[0] for t in found for a in t.accesses if a.array == name} == rows
    if fn is products:
        assert sum(t.loads("v") for t in found) == len(rows) * 3 * 5
    if fn is softmax_means:
        assert sum(t.ops[Op.EXP] for t in found) == len(rows)


@EVERY
def test_groups_cost_what_their_rows_do(off: list[int]) -> None:
    (found,) = traced(sums, *operands(), np.array(off))
    rows, groups = off[-1] - off[0], len(off) - 1
    assert found.loads("v") == found.loads("w") == rows
    assert found.loads("off") <= 2 * groups
    assert sum(found.ops.values()) <= 2 * rows + 4 * groups


@KERNELS
def test_groups_under_random_schedules(fn: Callable[..., Any]) -> None:
    for seed, off in enumerate(GROUPS.values()):
        v, w = operands()
        given = np.array(off)
        for again in range(3):
            run_scheduled(fn, (v, w, given), [expected(fn, v, w, given)], random.Random(f"{seed} {again}"))


@KERNELS
def test_groups_under_the_default_schedule(fn: Callable[..., Any]) -> None:
    v, w = operands(2003, 33, 65)
    for off in (
        [0, 2003],
        [0, 1, 1, 700, 2003],
        [0, *range(1000, 2004)],
        np.linspace(0, 2003, 64).astype(int).tolist(),
    ):
        given = np.array(off)
        same(rk.kernel(fn)(v, w, given), expected(fn, v, w, given), off)
