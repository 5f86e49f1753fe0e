"""Running sums, products and extremes against NumPy's accumulations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import RangeError, ShapeError

RUNS: list[tuple[Callable[..., Any], Any]] = [
    (rk.cumulative_sum, np.add), (rk.cumulative_prod, np.multiply), (rk.cumulative_max, np.maximum),
    (rk.cumulative_min, np.minimum),
]  # fmt: skip


def values(shape: tuple[int, ...], dtype: Any) -> Any:
    rng = np.random.default_rng(len(shape))
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 4, shape).astype(dtype)
    return rng.uniform(-1.5, 1.5, shape).astype(dtype)


def along(fn: Callable[..., Any], axis: int) -> Any:
    return rk.kernel(lambda x: fn(x, axis=axis))


@pytest.mark.parametrize(("fn", "ufunc"), RUNS)
@pytest.mark.parametrize("shape", [(0,), (1,), (17,), (3, 0), (0, 3), (5, 33), (2, 3, 7)])
def test_along_each_axis(fn: Callable[..., Any], ufunc: Any, shape: tuple[int, ...]) -> None:
    x = values(shape, np.float32)
    for axis in range(-len(shape), len(shape)):
        kernel = along(fn, axis)
        assert not x.size or len(kernel.lower(x).kernels) == 1
        got = kernel(x)
        np.testing.assert_allclose(got, ufunc.accumulate(x.astype(float), axis), rtol=1e-5, atol=1e-5)
        ranges = rk.ranges(*shape)
        opened = rk.bufferize(fn(rk.asarray(x)[ranges], ranges[axis]), *ranges)
        np.testing.assert_array_equal(opened.numpy(), got)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float16, ml_dtypes.bfloat16, np.float64])
def test_dtypes(dtype: Any) -> None:
    x = values((300,), dtype)
    total = rk.cumulative_sum(rk.asarray(x)).numpy()
    assert total.dtype == (np.uint64 if dtype is np.uint8 else np.int64 if np.dtype(dtype).kind == "i" else dtype)
    close = {np.float16: 1e-3, ml_dtypes.bfloat16: 8e-3}.get(dtype, 1e-12)
    np.testing.assert_allclose(total.astype(float), x.astype(float).cumsum(), rtol=close, atol=close)
    assert rk.cumulative_max(rk.asarray(x)).numpy().dtype == dtype


def test_nan_stays_in_extremes_and_bool_is_counted() -> None:
    x = np.array([1.0, np.nan, 3.0, -np.inf], np.float32)
    np.testing.assert_array_equal(rk.cumulative_max(rk.asarray(x)).numpy(), np.maximum.accumulate(x))
    np.testing.assert_array_equal(rk.cumulative_sum(rk.asarray(x > 0)).numpy(), [1, 1, 2, 2])


def test_the_value_of_nothing_first_and_another_dtype() -> None:
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    got = rk.cumulative_sum(rk.asarray(x), axis=1, dtype=rk.float64, include_initial=True).numpy()
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, np.pad(x.cumsum(1), ((0, 0), (1, 0))))
    np.testing.assert_array_equal(rk.cumulative_prod(rk.asarray(x[1]), include_initial=True).numpy(), [1, 3, 12, 60])


def test_an_axis_must_be_named() -> None:
    with pytest.raises(ShapeError, match="needs axis="):
        rk.cumulative_sum(rk.zeros((2, 2)))
    k = rk.Range(3)
    with pytest.raises(RangeError, match="not both"):
        rk.cumulative_sum(rk.zeros(3)[k], k, axis=0)
