"""The library of monoids against NumPy in float64: sizes, dtypes, ties, infinities and NaN, masks, every way to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from tests.runs import ways

Array = np.ndarray[Any, Any]
each = pytest.mark.parametrize
SIZES = [1, 2, 7, 8, 9, 31, 33, 130]
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0], np.float32)


def rand(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- the laws --------------------------------------------------------------------------------------------------------


def test_what_is_known_of_them() -> None:
    both = "proved over the integers and the reals"
    assert rk.monoids.argmax.proof == rk.monoids.argmin.proof == both
    assert rk.monoids.welford.proof == f"{both}, for states whose value 0 is positive"
    assert rk.monoids.logsumexp.proof == "tested on 2048 random states"
    for m in (rk.monoids.argmax, rk.monoids.argmin, rk.monoids.welford, rk.monoids.logsumexp):
        assert m.commutative
        assert "in order" not in m.proof


# ---- argmax and argmin -----------------------------------------------------------------------------------------------


@each("dtype", ["bool", "int8", "uint8", "int64", "float16", "float32", "float64"])
@each("which", ["argmax", "argmin"])
def test_the_first_of_equal_values_wins(which: str, dtype: str) -> None:
    x = np.random.default_rng(3).integers(0, 3, (4, 41)).astype(dtype)
    x[3] = x[3, 0]
    monoid = getattr(rk.monoids, which)

    def fn(x: Any) -> Any:
        i, k = rk.ranges(*x.shape)
        value, at = rk.reduce((x[i, k], k), k, op=monoid)
        return rk.bufferize(value, i), rk.bufferize(at, i)

    want = getattr(np, which)(x, axis=1)
    for way, (value, at) in ways(fn, x):
        assert value.dtype == x.dtype, way
        np.testing.assert_array_equal(at, want, err_msg=way)
        np.testing.assert_array_equal(value, np.take_along_axis(x, want[:, None], 1)[:, 0], err_msg=way)


@each("seed", range(6))
def test_nan_is_best_and_infinities_count(seed: int) -> None:
    x = np.random.default_rng(seed).choice(SPECIAL, (5, 19))
    x[0], x[1] = -np.inf, np.inf

    def fn(x: Any) -> Any:
        k = rk.Range(x.shape[1])
        most = rk.reduce((x, rk.arange(x.shape[1])), axis=1, op=rk.monoids.argmax)
        least, where = rk.reduce((x[2, k], 100 - k), k, op=rk.monoids.argmin)  # an index of one's own
        return *most, least, where

    want = np.argmax(x, 1)
    last = x.shape[1] - 1 - int(np.argmin(x[2, ::-1]))
    for way, (value, at, least, where) in ways(fn, x, seed=seed):
        np.testing.assert_array_equal(at, want, err_msg=way)
        np.testing.assert_array_equal(value, x[np.arange(5), want], err_msg=way)
        np.testing.assert_array_equal(least, np.min(x[2]), err_msg=way)
        assert where == 100 - last, way


def test_an_index_is_an_integer() -> None:
    with pytest.raises(rk.DtypeError, match=r"argmax takes \(value, index\), and float32 is no index"):
        rk.reduce((rk.arange(3), rk.ones(3)), op=rk.monoids.argmax)


def test_of_nothing_the_worst_value_and_no_index() -> None:
    k = rk.Range(0)
    value, at = rk.reduce((rk.ones(()), k), k, op=rk.monoids.argmax)
    assert (value.item(), at.item()) == (-np.inf, 2**63 - 1)
    x = rk.asarray(np.array([3, 5], np.int32))
    value, at = rk.reduce((x, rk.arange(2)), op=rk.monoids.argmin, where=x > 9)
    assert (value.item(), at.item()) == (2**31 - 1, 2**63 - 1)


# ---- welford ---------------------------------------------------------------------------------------------------------


@each("n", SIZES)
@each("dtype", [np.float32, np.float64])
def test_mean_and_variance_far_from_zero(n: int, dtype: Any) -> None:
    x = (1e4 + rand(3, n)).astype(dtype)  # where the difference of two sums of squares has lost every digit
    wide = x.astype(np.float64)
    for way, (count, mean, squares) in ways(lambda x: rk.reduce((1, x, 0), axis=1, op=rk.monoids.welford), x):
        rtol = 3e-7 if dtype is np.float32 else 1e-15
        np.testing.assert_array_equal(count, np.full(3, n), err_msg=way)
        np.testing.assert_allclose(mean, wide.mean(1), rtol=rtol, err_msg=way)
        scale = 1e4 * np.finfo(dtype).eps * n  # a mean that is off by its last digit
        np.testing.assert_allclose(squares / count, wide.var(1), rtol=1e-3, atol=scale, err_msg=way)


@each("n", [1, 2, 9, 40])
@each("weighted", [False, True])
def test_weights_masks_and_nothing(n: int, weighted: bool) -> None:
    x, w = rand(3, n), np.random.default_rng(1).integers(0, 4, (3, n))
    x[1] = np.minimum(x[1], -1)

    def fn(x: Any, w: Any) -> Any:
        if weighted:
            return rk.reduce((w, x, 0), axis=1, op=rk.monoids.welford)
        return rk.reduce((1, x, 0), axis=1, op=rk.monoids.welford, where=x > -0.5)

    weights = w if weighted else (x > -0.5).astype(int)
    total = weights.sum(1)
    mean = (weights * x.astype(np.float64)).sum(1) / np.maximum(total, 1)
    squares = (weights * (x - mean[:, None]) ** 2).sum(1)
    for way, got in ways(fn, x, w):
        for a, b in zip(got, (total, mean, squares), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=way)


def test_infinities_and_nan_reach_the_mean_and_masked_ones_do_not() -> None:
    x = rand(3, 21)
    x[0, 4], x[1, 5], x[2, 6] = np.nan, np.inf, np.inf

    def fn(x: Any) -> Any:
        _, mean, squares = rk.reduce((1, x, 0), axis=1, op=rk.monoids.welford)
        clean = rk.reduce((1, x, 0), axis=1, op=rk.monoids.welford, where=rk.isfinite(x))
        return mean, squares, *clean

    finite = np.ma.masked_invalid(x.astype(np.float64))
    for way, (mean, squares, count, clean, _) in ways(fn, x):
        assert not np.isfinite(mean).any() and not np.isfinite(squares).any(), way
        np.testing.assert_array_equal(count, [20, 20, 20], err_msg=way)
        np.testing.assert_allclose(clean, finite.mean(1), rtol=1e-5, atol=1e-6, err_msg=way)


# ---- logsumexp -------------------------------------------------------------------------------------------------------


def said(x: Array) -> Array:
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.logaddexp.reduce(wide, axis=1, initial=-np.inf)


def finished(x: Any) -> Any:
    m, s = rk.reduce((x, 1), axis=1, op=rk.monoids.logsumexp)
    return m + rk.log(s)


@each("n", [0, *SIZES])
def test_the_log_of_a_sum_of_exponentials(n: int) -> None:
    x = rand(4, n) * 30
    x[1] += 1e4
    x[2] = -np.inf
    if n > 1:
        x[3, ::2] = -np.inf
    for way, (got,) in ways(finished, x):
        np.testing.assert_allclose(got, said(x), rtol=2e-6, err_msg=way)


@each("seed", range(6))
def test_of_infinities_and_nan(seed: int) -> None:
    x = np.random.default_rng(seed).choice(SPECIAL, (6, 17))
    x[0] = np.inf
    x[1, 3:] = -np.inf
    for way, (got,) in ways(finished, x, seed=seed):
        np.testing.assert_allclose(got, said(x), rtol=1e-5, err_msg=way)


def test_weights_and_masks_of_it() -> None:
    x = rand(4, 50) * 30

    def fn(x: Any) -> Any:
        i, k = rk.ranges(*x.shape)
        m, s = rk.reduce((x[i, k], k % 3), k, op=rk.monoids.logsumexp, where=(k <= 10 * i) & (x[i, k] < 40))
        return rk.bufferize(m + rk.log(s), i)

    k = np.arange(50)
    keep = (k <= 10 * np.arange(4)[:, None]) & (x < 40) & (k % 3 > 0)
    with np.errstate(divide="ignore"):
        want = said(np.where(keep, x + np.log(k % 3), -np.inf))
    for way, (got,) in ways(fn, x):
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=way)
