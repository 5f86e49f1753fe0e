"""Sorting against NumPy's stable sort."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import ShapeError

Array = np.ndarray[Any, Any]


def values(n: int, dtype: Any = np.float32) -> Array:
    rng = np.random.default_rng(n)
    x = rng.integers(-9, 10, n)  # many ties
    x = np.abs(x) if np.dtype(dtype).kind in "ub" else x
    out = x.astype(dtype)
    if np.dtype(dtype).kind not in "iub" and n > 4:
        out[n // 2], out[n // 3], out[0], out[-1] = np.nan, -np.inf, np.inf, -0.0
    return out


def order(x: Array, descending: bool = False) -> Array:
    """By value, NaN last either way, then by place."""
    wide = x.astype(np.float64) if x.dtype.kind not in "iub" else x.astype(object)
    keys = [(1, 0) if v != v else (0, -v if descending else v) for v in wide.tolist()]
    return np.array(sorted(range(len(x)), key=lambda i: keys[i]), np.int64)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 64, 100])
@pytest.mark.parametrize("descending", [False, True])
def test_stable_and_nan_last(n: int, descending: bool) -> None:
    x = values(n)
    want = order(x, descending)
    places = rk.kernel(lambda x: rk.argsort(x, descending=descending))(x)
    assert places.dtype == np.int64
    np.testing.assert_array_equal(places, want)
    out = rk.kernel(lambda x: rk.sort(x, descending=descending))(x)
    np.testing.assert_array_equal(out, x[want])
    np.testing.assert_array_equal(np.signbit(out), np.signbit(x[want]))


def test_merges_of_many_pieces() -> None:
    x = values(20011)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x))(x), order(x))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64, np.uint64, np.float16, ml_dtypes.bfloat16])
def test_dtypes(dtype: Any) -> None:
    x = values(40, dtype)
    if np.dtype(dtype).kind in "iu":
        x[::7], x[::11] = np.iinfo(dtype).min, np.iinfo(dtype).max
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x))(x), order(x))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_along_an_axis(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((20, 19), dtype=np.float32)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x, axis=axis))(x), np.argsort(x, axis, kind="stable"))
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.sort(x, axis=axis))(x), np.sort(x, axis))


def test_the_interpreter_agrees() -> None:
    x = values(37)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x), device="python")(x), order(x))


def test_a_scalar_is_not_sorted() -> None:
    with pytest.raises(ShapeError):
        rk.sort(rk.asarray(1.0))
