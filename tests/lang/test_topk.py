"""The greatest and least values against a stable sort of NumPy's."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import RangeError, ShapeError

Array = np.ndarray[Any, Any]


def best(x: Array, k: int, largest: bool) -> tuple[Array, Array]:
    """Of the last axis: sorted by value, NaN above all numbers, then by place."""
    wide = x.astype(np.float64) if x.dtype.kind not in "iub" else x.astype(object).astype(object)
    rows = []
    for row in wide.reshape(-1, x.shape[-1]):
        keys = [((1, 0) if v != v else (0, v), n) for n, v in enumerate(row)]
        keys.sort(key=lambda key: (key[0], -key[1]) if largest else key, reverse=largest)
        rows.append([n for _, n in keys[:k]])
    places = np.array(rows, np.int64).reshape(*x.shape[:-1], k)
    return np.take_along_axis(x, places, -1), places


def check(x: Array, k: int, largest: bool, device: str | None = None) -> None:
    values, places = rk.kernel(lambda x: rk.topk(x, k, largest=largest), device=device)(x)
    want = best(x, k, largest)
    assert values.dtype == x.dtype and places.dtype == np.int64
    np.testing.assert_array_equal(places, want[1])
    np.testing.assert_array_equal(values, want[0])


def hard(rows: int, n: int) -> Array:
    rng = np.random.default_rng(n)
    x = rng.integers(-3, 4, (rows, n)).astype(np.float32)  # many ties
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = np.inf
    x[rng.random(x.shape) < 0.2] = -np.inf
    x[rng.random(x.shape) < 0.1] *= -0.0
    x[0] = -np.inf
    if rows > 1:
        x[1] = np.nan
    return x


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    ("rows", "n", "k"), [(1, 1, 1), (3, 7, 1), (5, 20, 8), (5, 20, 20), (17, 33, 17), (2, 64, 16), (4, 9, 0)]
)
def test_ties_and_special_values(rows: int, n: int, k: int, largest: bool) -> None:
    for device in ("python", "cpu"):
        check(hard(rows, n), k, largest, device)


@pytest.mark.parametrize(
    "dtype",
    [
        np.bool_,
        np.uint8,
        np.int16,
        np.int32,
        np.uint32,
        np.int64,
        np.uint64,
        np.float16,
        ml_dtypes.bfloat16,
        np.float64,
    ],
)
def test_every_dtype_with_its_extremes(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2 if dtype is np.bool_ else 100, (4, 23)).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        x[1] = info.min
        x[2, ::3], x[2, ::4] = info.max, info.min
    for k in (1, 5, 18):
        check(x, k, True)
        check(x, k, False)


def test_over_ranges_the_index_is_row_major_and_k_leads() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)

    def fn(x: Any) -> Any:
        i, j, l = rk.ranges(*x.shape)
        values, places = rk.topk(x[i, j, l], 3, j, l)
        return rk.bufferize(values, i), rk.bufferize(places, i)

    values, places = rk.kernel(fn)(x)
    want = best(x.reshape(3, 20), 3, True)
    np.testing.assert_array_equal(values, want[0])
    np.testing.assert_array_equal(places, want[1])


def test_along_a_middle_axis() -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    values, places = rk.topk(rk.asarray(x), 2, axis=1)
    want = best(x.transpose(0, 2, 1), 2, True)
    np.testing.assert_array_equal(values.numpy(), want[0].transpose(0, 2, 1))
    np.testing.assert_array_equal(places.numpy(), want[1].transpose(0, 2, 1))


def test_a_router_is_one_kernel_without_a_table_of_probabilities() -> None:
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)

    def router(x: Any) -> Any:
        return rk.topk(rk.softmax(x, axis=-1), 4)

    low = rk.kernel(router).lower(x)
    assert len(low.kernels) == 1
    assert all(b.size < x.size for b in low.kernels[0].buffers if b.name != "x" and b.memory != "global")
    e = np.exp(x - x.max(1, keepdims=True).astype(float))
    p = e / e.sum(1, keepdims=True)
    values, places = rk.kernel(router)(x)
    np.testing.assert_array_equal(places, best(p, 4, True)[1])
    np.testing.assert_allclose(values, best(p, 4, True)[0], rtol=1e-5)


def test_what_is_wrong() -> None:
    x = rk.zeros((2, 3))
    with pytest.raises(ShapeError, match="the top 4 of 3 values"):
        rk.topk(x, 4)
    with pytest.raises(ShapeError, match="takes a number of values"):
        rk.topk(x, 1.5)  # type: ignore[arg-type]
    with pytest.raises(RangeError, match="needs a range"):
        rk.topk(x[0, 0], 1)
    j = rk.Range(3)
    with pytest.raises(RangeError, match="not both"):
        rk.topk(x[:, j], 1, j, axis=0)
