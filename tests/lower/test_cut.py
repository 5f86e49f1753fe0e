"""Loops in parts: what a condition leaves out is not computed, and no bit of the result changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.python import trace
from rangekit.ir.nest import Loop, walk
from rangekit.ir.ops import Op
from tests.runs import ways

Array = np.ndarray[Any, Any]
INF = np.inf


def scores(i: Any, j: Any, x: Any, y: Any) -> Any:
    return rk.sum(x[i] * y[j], axis=-1)


def below(x: Any, y: Any, m: Any) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(rk.sum(rk.where(j <= i, scores(i, j, x, y), -1.0), j), i)


def above(x: Any, y: Any, m: Any) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(rk.sum(rk.where(j <= i, 2.0, scores(i, j, x, y)), j), i)


def window(x: Any, y: Any, m: Any) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    near = (j <= i) & (i - j < 3)
    return rk.bufferize(rk.sum(rk.exp(rk.where(near, scores(i, j, x, y), -rk.inf)), j), i)


def by_data(x: Any, y: Any, m: Any) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(rk.sum(rk.where(j < m[i], scores(i, j, x, y), 0.5), j), i)


def beyond(x: Any, y: Any, m: Any) -> Any:
    """Begins past the end in some rows; what the rest reads is there in those iterations only."""
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(rk.sum(rk.where(j > i, y[i + 1, 0], scores(i, j, x, y)), j), i)


def rows(x: Any, y: Any, m: Any) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(rk.where(j <= i, scores(i, j, x, y), -1.0), i, j)


def sums(fn: Callable[..., Any], x: Array, y: Array, m: Array) -> Any:
    i, j = np.indices((len(x), len(y)))
    s = x.astype(np.float64) @ y.T.astype(np.float64)
    near = (j <= i) & (i - j < 3)
    after = np.append(y[:, 0], np.zeros(len(x) + 1))[i + 1]
    return {
        below: lambda: np.where(j <= i, s, -1).sum(1), above: lambda: np.where(j <= i, 2, s).sum(1),
        window: lambda: np.where(near, np.exp(s), 0).sum(1), by_data: lambda: np.where(j < m[:, None], s, 0.5).sum(1),
        rows: lambda: np.where(j <= i, s, -1), beyond: lambda: np.where(j > i, after, s).sum(1),
    }[fn]()  # fmt: skip


def taken(fn: Callable[..., Any], x: Array, y: Array, m: Array) -> int:
    """How many scores are needed."""
    i, j = np.indices((len(x), len(y)))
    near = {
        below: j <= i,
        above: j > i,
        window: (j <= i) & (i - j < 3),
        by_data: j < m[:, None],
        rows: j <= i,
        beyond: j <= i,
    }[fn]
    return int(near.sum())


FORMS = [below, above, window, by_data, rows, beyond]


@pytest.mark.parametrize("fn", FORMS)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 7), (9, 4), (4, 9), (17, 33)])
def test_every_way_agrees(fn: Callable[..., Any], shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-8, 9, (n, 3)).astype(np.float32) / 8 for n in shape)
    m = np.resize(np.array([2, -3, 0, 4, 1 << 40, -(1 << 62), 3]), shape[0])
    want = sums(fn, x, y, m)
    for way, (got,) in ways(fn, x, y, m, schedules=6):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6, err_msg=way)


@pytest.mark.parametrize("fn", FORMS)
def test_only_what_is_needed_is_computed(fn: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, 3)).astype(np.float32) for n in (9, 12))
    m = np.array([2, -3, 0, 4, 99, 12, 3, 5, 1])
    program = rk.kernel(fn, device="python").lower(x, y, m)._program
    (nest,) = program.lowered.plain
    given = [x, y, m]
    memory = [given[p.arg.slot] if p.op is Op.PARAM else np.empty(p.shape, p.dtype.numpy) for p in nest.params]
    rest = len(x) if fn is beyond else 0  # one for each row
    assert trace(nest, memory).loads("y") == 3 * taken(fn, x, y, m) + rest


def test_no_bit_changes() -> None:
    """In order, each term rounded: what cannot be told from the loop as it is written."""

    def fn(x: Any, y: Any) -> Any:
        i, j = rk.ranges(x.shape[0], y.shape[0])
        return rk.bufferize(rk.sum(rk.where(j <= i, scores(i, j, x, y), y[j, 0]), j), i)

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, 3), dtype=np.float32) for n in (9, 12))
    x[3], y[5] = np.nan, INF
    want = np.zeros(9, np.float32)
    with np.errstate(invalid="ignore"):
        for i, j in np.ndindex(9, 12):
            term = np.float32(0)
            for d in range(3):
                term = term + x[i, d] * y[j, d]
            want[i] += term if j <= i else y[j, 0]
    np.testing.assert_array_equal(rk.kernel(fn, strict=True)(x, y), want)


def test_a_loop_that_would_not_have_less_to_do_stays_whole() -> None:
    def light(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(rk.sum(rk.where(j <= i, x[i, j], 1.0), j), i)

    def bound_inside(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        near = j < rk.astype(x[i, j], rk.int64)
        return rk.bufferize(rk.sum(rk.where(near, rk.sum(x[i] * x[j], axis=-1), 1.0), j), i)

    x = np.ones((5, 5), np.float32)
    for fn in (light, bound_inside):
        (nest,) = rk.kernel(fn, device="python").lower(x)._program.lowered.plain
        loops = [s.var.arg[-1] for s in walk(nest.body) if isinstance(s, Loop)]
        assert loops.count("j") == 1


def test_a_masked_row_of_attention_skips_what_is_masked() -> None:
    def causal(q: Any, k: Any, v: Any) -> Any:
        i, j, d = rk.ranges(*q.shape[:1], *k.shape)
        s = rk.where(j <= i, rk.sum(q[i] * k[j], axis=-1), -rk.inf)
        p = rk.exp(s - rk.max(s, j))
        return rk.bufferize(rk.sum(p * v[j, d], j) / rk.sum(p, j), i, d)

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((9, 4), dtype=np.float32) for _ in range(3))
    v[7, 1], k[4, 2], q[6] = INF, np.nan, 1e38
    s = np.where(np.tri(9, dtype=bool), q.astype(np.float64) @ k.T, -INF)
    with np.errstate(all="ignore"):
        p = np.exp(s - s.max(1)[:, None])
        want = p @ v / p.sum(1)[:, None]
    for way, (got,) in ways(causal, q, k, v, schedules=6):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=way)
    assert (
        str(rk.kernel(causal, device="python").lower(q, k, v))
        == """\
for i in 0..9:
    local acc[4] float32
    for d in 0..4:
        acc[d] = 0.0
    acc1 = 0.0
    hi = -inf
    for j in 0..(i + 1):
        acc2 = 0.0
        for d in 0..4:
            acc2 += q[i, d] * k[j, d]
        hi = max(hi, acc2)
    for j in 0..(i + 1):
        acc3 = 0.0
        for d in 0..4:
            acc3 += q[i, d] * k[j, d]
        e = exp(acc3 - hi)
        for d in 0..4:
            acc[d] += e * v[j, d]
        acc1 += e
    e1 = exp(-inf - hi)
    for j in (i + 1)..9:
        for d in 0..4:
            acc[d] += e1 * v[j, d]
        acc1 += e1
    for d in 0..4:
        out[i, d] = acc[d] / acc1
"""
    )
