"""Kernels whose times the cost model is fitted to: neither benchmark workloads nor tests, so that those stay unseen.

Each is one nest whose arrays fit the second cache, since the model prices no memory, and takes a few microseconds at
least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import rangekit as rk

Array = np.ndarray[Any, np.dtype[Any]]
Kernel = tuple[str, Callable[..., Any], list[Array]]


def each(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of elements, over one axis."""

    def over(*arrays: Any) -> Any:
        i = rk.Range(arrays[0].shape[0])
        return rk.bufferize(fn(*(a[i] for a in arrays)), i)

    return over


def along_rows(fn: Callable[..., Any], reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of each row."""

    def over(*arrays: Any) -> Any:
        i, j = rk.ranges(*arrays[0].shape)
        return rk.bufferize(reduce(fn(*(a[i, j] for a in arrays)), j), i)

    return over


def down_columns(fn: Callable[..., Any], reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of each column."""

    def over(*arrays: Any) -> Any:
        j, i = rk.ranges(arrays[0].shape[1], arrays[0].shape[0])
        return rk.bufferize(reduce(fn(*(a[i, j] for a in arrays)), i), j)

    return over


def pairs(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of every two elements of two vectors."""

    def over(a: Any, b: Any) -> Any:
        i, j = rk.ranges(a.shape[0], b.shape[0])
        return rk.bufferize(fn(a[i], b[j]), i, j)

    return over


def contracted(fn: Callable[..., Any], form: str) -> Callable[..., Any]:
    """A sum over k of a function of a and b; ``form`` says how both are indexed: "ik,kj"."""
    left, right = form.split(",")

    def over(a: Any, b: Any) -> Any:
        size = dict(zip(left + right, (*a.shape, *b.shape), strict=True))
        at = {n: rk.Range(size[n], n) for n in "ijk"}
        value = fn(a[at[left[0]], at[left[1]]], b[at[right[0]], at[right[1]]])
        return rk.bufferize(rk.sum(value, at["k"]), at["i"], at["j"])

    return over


def five_taps(x: Any) -> Any:
    """A convolution whose taps are constants."""
    i = rk.Range(x.shape[0] - 4)
    return rk.bufferize(0.1 * x[i] + 0.2 * x[i + 1] + 0.4 * x[i + 2] + 0.2 * x[i + 3] + 0.1 * x[i + 4], i)


def gradient(x: Any) -> Any:
    """The length of the gradient, by differences."""
    i, j = rk.ranges(x.shape[0] - 2, x.shape[1] - 2)
    down, right = x[i + 2, j + 1] - x[i, j + 1], x[i + 1, j + 2] - x[i + 1, j]
    return rk.bufferize(rk.sqrt(down * down + right * right), i, j)


def dilated(x: Any) -> Any:
    """The maximum of each window of nine."""
    i, j, a, b = rk.ranges(x.shape[0] - 2, x.shape[1] - 2, 3, 3)
    return rk.bufferize(rk.max(x[i + a, j + b], a, b), i, j)


def picked(x: Any, at: Any, y: Any) -> Any:
    """A gather of elements."""
    i = rk.Range(at.shape[0])
    return rk.bufferize(x[at[i].in_range(0, x.shape[0])] * y[i], i)


def picked_rows(x: Any, at: Any) -> Any:
    """A gather of rows."""
    i, j = rk.ranges(at.shape[0], x.shape[1])
    return rk.bufferize(x[at[i].in_range(0, x.shape[0]), j] + 1.0, i, j)


def transposed(x: Any) -> Any:
    """Rows become columns."""
    i, j = rk.ranges(x.shape[1], x.shape[0])
    return rk.bufferize(x[j, i] * 2.0, i, j)


def symmetric(x: Any) -> Any:
    """A matrix and its transpose."""
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j] + x[j, i], i, j)


def middle_first(x: Any) -> Any:
    """The first two of three axes change places."""
    j, i, k = rk.ranges(x.shape[1], x.shape[0], x.shape[2])
    return rk.bufferize(x[i, j, k] - 1.0, j, i, k)


def biased(x: Any, row: Any) -> Any:
    """A row added to each row, nothing below zero."""
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.maximum(x[i, j] + row[j], 0.0), i, j)


def kernels() -> Iterator[Kernel]:
    """Name, function, arguments; the same in every process."""
    rng = np.random.default_rng(0)

    def f(*shape: int, dtype: Any = np.float32) -> Array:
        return (rng.random(shape) + 0.5).astype(dtype)

    def n(high: int, *shape: int, dtype: Any = np.int32) -> Array:
        return rng.integers(1, high, shape, dtype=dtype)

    total = rk.sum
    long = 16384
    # fmt: off
    yield "multiply-adds", each(lambda x, y: ((x * 1.1 + y) * x + 0.3) * y - x), [f(long), f(long)]
    yield "multiply-adds float64", each(lambda x, y: ((x * 1.1 + y) * x + 0.3) * y - x), [f(8192, dtype=np.float64)] * 2
    yield "quotients", each(lambda x, y: x / (y + 2.0) / (x + 3.0)), [f(long), f(long)]
    yield "lengths", each(lambda x, y: rk.sqrt(x * x + y * y)), [f(long), f(long)]
    yield "bell curve", each(lambda x, y: rk.exp(-x * x) * y), [f(long), f(long)]
    yield "tanh and log", each(lambda x: rk.tanh(x) + rk.log(x)), [f(8192)]
    yield "waves", each(lambda x, y: rk.sin(x) * rk.cos(y)), [f(8192), f(8192)]
    yield "clipped", each(lambda x, y: rk.minimum(rk.maximum(x - y, -1.0), 1.0) * x), [f(long), f(long)]
    yield "choices", each(lambda x, y: rk.where(x > y, x - y, rk.where(x > 1.0, y, x * y))), [f(long), f(long)]
    yield "integer quotients", each(lambda x, y: x // y), [n(1000, 4096), n(50, 4096)]
    yield "integer remainders", each(lambda x, y: x % y), [n(1000, 4096), n(50, 4096)]
    yield "dequantized", each(lambda q, s: q.astype(rk.float32) * s), [n(100, long, dtype=np.int8), f(long)]
    yield "truncated", each(lambda x: (x * 100.0).astype(rk.int32) + 3), [f(long)]
    yield "powers", each(lambda x, y: rk.pow(x, y)), [f(8192), f(8192)]
    yield "angles", each(lambda x, y: rk.atan2(x, y)), [f(8192), f(8192)]
    yield "without nan", each(lambda x, y: rk.where(rk.isnan(x), y, x)), [f(long), f(long)]
    yield "row maxima", along_rows(lambda x: x * 2.0 - 1.0, rk.max), [f(64, 1024)]
    yield "row distances", along_rows(lambda x, y: rk.abs(x - y), total), [f(96, 512), f(96, 512)]
    yield "row squares float64", along_rows(lambda x: x * x, total), [f(64, 512, dtype=np.float64)]
    yield "row argmax", along_rows(lambda x: x, rk.argmax), [f(64, 512)]
    yield "column sums", down_columns(lambda x: x, total), [f(512, 128)]
    yield "column maxima", down_columns(lambda x, y: x + y, rk.max), [f(256, 192), f(256, 192)]
    yield "five taps", five_taps, [f(long + 4)]
    yield "gradient", gradient, [f(130, 258)]
    yield "dilated", dilated, [f(66, 130)]
    yield "product 48×64×96", contracted(lambda a, b: a * b, "ik,kj"), [f(48, 64), f(64, 96)]
    yield "product 24×200×32", contracted(lambda a, b: a * b, "ik,kj"), [f(24, 200), f(200, 32)]
    yield "rows by rows", contracted(lambda a, b: a * b, "ik,jk"), [f(64, 80), f(64, 80)]
    yield "columns by rows", contracted(lambda a, b: a * b, "ki,kj"), [f(80, 48), f(80, 64)]
    yield "distances", contracted(lambda a, b: rk.abs(a - b), "ik,kj"), [f(48, 40), f(40, 64)]
    yield "outer product", pairs(lambda a, b: a * b), [f(192), f(256)]
    yield "outer quotient", pairs(lambda a, b: a / (b + 1.0)), [f(160), f(192)]
    yield "picked", picked, [f(4096), n(4096, long, dtype=np.int64), f(long)]
    yield "picked rows", picked_rows, [f(256, 96), n(256, 192, dtype=np.int64)]
    yield "transposed", transposed, [f(192, 256)]
    yield "symmetric", symmetric, [f(192, 192)]
    yield "middle first", middle_first, [f(24, 32, 64)]
    yield "biased", biased, [f(160, 256), f(256)]
    # fmt: on
