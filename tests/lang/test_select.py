"""masked_select, nonzero, unique_counts: against NumPy."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from tests.lower.test_schedule import check

Array = np.ndarray[Any, Any]
each = pytest.mark.parametrize
DTYPES = [np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64,
          np.float16, ml_dtypes.bfloat16, np.float32, np.float64]  # fmt: skip
MASKS = {"none": 0.0, "few": 0.1, "half": 0.5, "all": 1.0}


def packed(found: Array, size: int, fill: Any = 0) -> Array:
    out = np.full(size, fill, found.dtype)
    out[: min(size, len(found))] = found[:size]
    return out


def mask_of(shape: Any, share: float) -> Array:
    return np.random.default_rng(7).random(shape) < share


def bits(x: Array) -> Array:
    return x.view(f"u{x.dtype.itemsize}")


@each("n", [0, 1, 2, 31, 64, 65, 997, 40_009])
@each("share", MASKS.values(), ids=MASKS)
@each("device", ["cpu", "python"])
def test_masked_select(n: int, share: float, device: str) -> None:
    if device == "python" and n > 1000:
        n = 100
    x, m = np.random.default_rng(n).standard_normal(n, dtype=np.float32), mask_of(n, share)
    x[n // 2 : n // 2 + 1] = -0.0
    values, count = rk.kernel(lambda x, m: rk.masked_select(x, m), device=device)(x, m)
    assert count == m.sum()
    np.testing.assert_array_equal(bits(values), bits(packed(x[m], n)))


@each("dtype", DTYPES)
def test_every_bit_of_every_dtype_is_kept(dtype: Any) -> None:
    raw = np.random.default_rng(3).integers(0, 256, 101 * np.dtype(dtype).itemsize, dtype=np.uint8)
    x = (raw % 2).astype(np.bool_) if dtype is np.bool_ else raw.view(dtype)
    m = mask_of(x.shape, 0.5)
    values, count = rk.kernel(lambda x, m: rk.masked_select(x, m))(x, m)
    assert values.dtype == x.dtype
    assert count == m.sum()
    np.testing.assert_array_equal(bits(values), bits(packed(x[m], len(x))))


@each("size", [0, 1, 7, 50, 200])
def test_a_size_and_a_filler(size: int) -> None:
    x, m = np.arange(97.0, dtype=np.float32), mask_of(97, 0.5)
    assert 1 < m.sum() < 97
    values, count = rk.kernel(lambda x, m: rk.masked_select(x, m, size=size, fill_value=-1))(x, m)
    assert count == m.sum(), "the number of all, also where not all fit"
    np.testing.assert_array_equal(values, packed(x[m], size, -1))


def test_row_major_over_all_axes_broadcast() -> None:
    x, m = np.arange(35).reshape(5, 7), mask_of(7, 0.5)
    values, count = rk.kernel(lambda x, m: rk.masked_select(x, m))(x, m)
    whole = np.broadcast_to(m, x.shape)
    assert count == whole.sum()
    np.testing.assert_array_equal(values, packed(x[whole], 35))


def test_ranges_that_are_open_stay_so() -> None:
    x = np.random.default_rng(0).standard_normal((5, 33), dtype=np.float32)

    @rk.kernel
    def rows(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        values, count = rk.masked_select(x[i], x[i] > 0, size=9)
        return rk.bufferize(values, i), rk.bufferize(count, i)

    values, count = rows(x)
    np.testing.assert_array_equal(count, (x > 0).sum(axis=1))
    np.testing.assert_array_equal(values, np.stack([packed(row[row > 0], 9) for row in x]))


def test_outside_kernels() -> None:
    x = rk.asarray(np.arange(10.0))
    values, count = rk.masked_select(x, x > 6)
    assert count.item() == 3
    np.testing.assert_array_equal(values.numpy(), packed(np.array([7.0, 8, 9]), 10))


@each("shape", [(0,), (1,), (13,), (5, 7), (3, 0, 2), (2, 3, 5)])
def test_nonzero(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).integers(0, 2, shape)
    want = np.nonzero(x)
    places, count = rk.kernel(lambda x: rk.nonzero(x))(x)
    assert count == len(want[0])
    assert len(places) == len(shape)
    for got, axis in zip(places, want, strict=True):
        assert got.dtype == np.int64
        np.testing.assert_array_equal(got, packed(axis, x.size))
    places, count = rk.kernel(lambda x: rk.nonzero(x, size=4, fill_value=-1))(x)
    assert count == len(want[0])
    for got, axis in zip(places, want, strict=True):
        np.testing.assert_array_equal(got, packed(axis, 4, -1))


def test_nan_is_not_zero_and_minus_zero_is() -> None:
    places, count = rk.kernel(lambda x: rk.nonzero(x))(np.array([0.0, -0.0, np.nan, np.inf]))
    assert count == 2
    np.testing.assert_array_equal(places[0], [2, 3, 0, 0])


def numbers(n: int, dtype: Any, kinds: int) -> Array:
    out = np.random.default_rng(n).integers(0, kinds, n).astype(dtype)
    if np.dtype(dtype).kind not in "iub" and n > 5:
        out[[0, 3, 5]], out[1], out[2] = np.nan, np.inf, -np.inf
    return out


@each("n", [0, 1, 2, 17, 97, 4001])
@each("kinds", [1, 2, 100])
def test_unique_counts(n: int, kinds: int) -> None:
    x = numbers(n, np.float32, kinds)
    values, counts = np.unique(x, return_counts=True, equal_nan=False)
    got = rk.kernel(lambda x: rk.unique_counts(x))(x)
    assert got.total == len(values)
    np.testing.assert_array_equal(got.values, packed(values, n))
    np.testing.assert_array_equal(got.counts, packed(counts, n))
    got = rk.kernel(lambda x: rk.unique_counts(x, size=3))(x)
    assert got.total == len(values), "the number of all, also where not all fit"
    np.testing.assert_array_equal(got.values, packed(values, 3))
    np.testing.assert_array_equal(got.counts, packed(counts, 3))


@each("dtype", DTYPES)
def test_unique_counts_of_every_dtype(dtype: Any) -> None:
    x = numbers(60, dtype, 5).reshape(6, 10)
    values, counts = np.unique(x.astype(np.float64), return_counts=True, equal_nan=False)
    got = rk.kernel(lambda x: rk.unique_counts(x))(x)
    assert got.values.dtype == x.dtype
    assert got.total == len(values)
    np.testing.assert_array_equal(got.values.astype(np.float64), packed(values, 60))
    np.testing.assert_array_equal(got.counts, packed(counts, 60))


def test_equal_zeros_are_one() -> None:
    got = rk.kernel(lambda x: rk.unique_counts(x))(np.array([0.0, -0.0, 1.0, 0.0], np.float32))
    assert (got.total, got.values.tolist(), got.counts.tolist()) == (2, [0, 1, 0, 0], [3, 1, 0, 0])


def test_random_schedules() -> None:
    for seed in range(16):
        n = (1, 5, 17, 40)[seed % 4]
        x, m = np.random.default_rng(seed).standard_normal(n, dtype=np.float32), mask_of(n, 0.5)
        want = [packed(x[m], n), np.array(m.sum())]
        select = rk.kernel(lambda x, m: tuple(rk.masked_select(x, m)), device="python")
        check(select, (x, m), [x, m], want, random.Random(seed), f"masked_select {seed}")


def test_what_is_refused() -> None:
    with pytest.raises(rk.DtypeError, match="bool mask"):
        rk.masked_select(rk.ones(3), rk.ones(3))
    with pytest.raises(rk.ShapeError, match="size="):
        rk.masked_select(rk.ones(3), rk.ones(3) > 0, size=-1)
    with pytest.raises(rk.ShapeError):
        rk.masked_select(rk.ones(3), rk.ones(2) > 0)
    with pytest.raises(rk.ShapeError):
        rk.nonzero(rk.asarray(1.0))
