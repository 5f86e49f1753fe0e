"""Rows that keep what sibling loops compute alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk

RNG = np.random.default_rng(0)


def weighted(lo: int, hi: int) -> Any:
    def spread(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        inside = (j >= lo) & (j < hi)
        e = rk.exp(x[i, j])
        share = e / rk.sum(e, j, where=inside)
        return rk.bufferize(rk.sum(share * share, j, where=inside), i)

    return rk.kernel(spread)


@pytest.mark.parametrize(("lo", "hi"), [(0, 100), (0, 60), (40, 100), (40, 90), (83, 100), (5, 22)])
def test_a_row_holds_what_the_loops_bounds_leave(lo: int, hi: int) -> None:
    x = RNG.standard_normal((37, 100), dtype=np.float32)
    k = weighted(lo, hi)
    text = str(k.lower(x))
    assert text.count("exp(") == 1
    e = np.exp(x[:, lo:hi].astype(np.float64))
    share = e / e.sum(1, keepdims=True)
    np.testing.assert_allclose(k(x), (share * share).sum(1), rtol=1e-5)


def test_causal_attention_computes_each_score_once() -> None:
    def attention(q: Any, k: Any, v: Any) -> Any:
        S, D = q.shape
        i, j, e, d = rk.ranges(S, S, D, D)
        s = rk.sum(q[i, e] * k[j, e], e) * D**-0.5
        seen = j <= i
        p = rk.exp(s - rk.max(s, j, where=seen))
        return rk.bufferize(rk.sum(p * v[j, d], j, where=seen) / rk.sum(p, j, where=seen), i, d)

    q, k, v = (RNG.standard_normal((77, 16), dtype=np.float32) for _ in range(3))
    kernel = rk.kernel(attention)
    assert str(kernel.lower(q, k, v)).count("k[") == 1
    s = np.where(np.tri(77, dtype=bool), q.astype(np.float64) @ k.T / 4, -np.inf)
    p = np.exp(s - s.max(1, keepdims=True))
    np.testing.assert_allclose(kernel(q, k, v), p @ v / p.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)


def test_what_changes_in_between_is_computed_again() -> None:
    def twice(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        first = rk.sum(rk.exp(x[i, j]), j)
        return rk.bufferize(first + rk.sum(rk.exp(x[i, j] + 1.0), j), i)

    x = RNG.standard_normal((9, 64), dtype=np.float32)
    want = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(rk.kernel(twice)(x), (want + want * np.e).sum(1), rtol=1e-5)
