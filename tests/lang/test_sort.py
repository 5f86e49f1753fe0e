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


DTYPES = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64,
          np.float16, ml_dtypes.bfloat16, np.float32, np.float64]  # fmt: skip
LENGTHS = [
    255,
    256,
    257,
    20_011,
    (1 << 16) - 1,
    1 << 16,
    (1 << 16) + 1,
    70_001,
]  # around a change of method or of blocks


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("descending", [False, True])
def test_long_ones(n: int, descending: bool) -> None:
    x = np.random.default_rng(n).standard_normal(n, dtype=np.float32)
    x[:: n // 7], x[1 :: n // 9], x[2 :: n // 5], x[3 :: n // 8] = np.nan, -0.0, 0.0, x[5]
    want = order(x, descending)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x, descending=descending))(x), want)
    out = rk.kernel(lambda x: rk.sort(x, descending=descending))(x)
    np.testing.assert_array_equal(out.view(np.uint32), x[want].view(np.uint32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [40, 300, 66_000])
@pytest.mark.parametrize("descending", [False, True])
def test_dtypes(dtype: Any, n: int, descending: bool) -> None:
    if n > 2000 and descending:
        return  # what differs is the key, not the passes
    x = values(n, dtype)
    if np.dtype(dtype).kind in "iu":
        x[::7], x[::11] = np.iinfo(dtype).min, np.iinfo(dtype).max
        x[n // 2 :] = np.random.default_rng(1).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, n - n // 2, dtype)
    elif np.dtype(dtype).kind != "b":
        x[n // 2 + 1 :] = np.random.default_rng(1).standard_normal(n - n // 2 - 1) * 1e3
    want = order(x, descending)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x, descending=descending))(x), want)
    out = rk.kernel(lambda x: rk.sort(x, descending=descending))(x)
    np.testing.assert_array_equal(out.view(f"u{x.itemsize}"), x[want].view(f"u{x.itemsize}"))


@pytest.mark.parametrize("axis", [0, 1])
def test_long_rows(axis: int) -> None:
    x = np.random.default_rng(0).integers(0, 500, (3, 301)).astype(np.float32)
    x = np.ascontiguousarray(x if axis else x.T)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x, axis=axis))(x), np.argsort(x, axis, kind="stable"))
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.sort(x, axis=axis))(x), np.sort(x, axis))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_along_an_axis(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((20, 19), dtype=np.float32)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x, axis=axis))(x), np.argsort(x, axis, kind="stable"))
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.sort(x, axis=axis))(x), np.sort(x, axis))


@pytest.mark.parametrize("n", [37, 263])
def test_the_interpreter_agrees(n: int) -> None:
    x = values(n)
    np.testing.assert_array_equal(rk.kernel(lambda x: rk.argsort(x), device="python")(x), order(x))


def test_a_scalar_is_not_sorted() -> None:
    with pytest.raises(ShapeError):
        rk.sort(rk.asarray(1.0))
