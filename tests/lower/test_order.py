"""Reductions whose order shows, under the default schedule and under random ones: whatever the loops, each keeps it.

The oracle combines NumPy or Python objects one after another, in row-major order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower.schedule import scheduled
from tests.lower.test_schedule import random_schedule

Array = np.ndarray[Any, Any]


def product(a: Any, b: Any) -> Any:
    """Of 2 x 2 matrices, by rows."""
    return tuple(a[2 * i] * b[k] + a[2 * i + 1] * b[2 + k] for i in range(2) for k in range(2))


MATRIX = rk.Monoid((1, 0, 0, 1), product)
AFFINE = rk.Monoid((1, 0), lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))
FIRST = rk.Monoid(0, lambda a, b: rk.where(a != 0, a, b))
LAST = rk.Monoid((False, 0), lambda a, b: (a[0] | b[0], rk.where(b[0], b[1], a[1])))


def ints(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(-3, 4, shape)


def inner(x: Any) -> Any:
    """Affine maps along the rows."""
    i, j = rk.ranges(x.shape[0], x.shape[1])
    return tuple(rk.bufferize(v, i) for v in rk.reduce((x[i, j], i - j), j, op=AFFINE))


def outer(x: Any) -> Any:
    """Affine maps down the columns."""
    i, j = rk.ranges(x.shape[0], x.shape[1])
    return tuple(rk.bufferize(v, j) for v in rk.reduce((x[i, j], i - j), i, op=AFFINE))


def both(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0], x.shape[1])
    return rk.reduce((x[i, j], i - j), i, j, op=AFFINE)


def swapped(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0], x.shape[1])
    return rk.reduce((x[i, j], i - j), j, i, op=AFFINE)


def triangle(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0], x.shape[1])
    return tuple(rk.bufferize(v, i) for v in rk.reduce((x[i, j], i - j), j, op=AFFINE, where=(j <= i) & (x[i, j] > -2)))


def nested(x: Any) -> Any:
    """What is combined is a reduction itself, shared by two."""
    i, j, k = rk.ranges(x.shape[0], x.shape[1], x.shape[0])
    v = rk.sum(x[i, j] * x[k, j], j)
    a, b = rk.reduce((v % 3, v % 5), k, op=AFFINE)
    return rk.bufferize(a + b, i), rk.bufferize(rk.reduce(v, k, op=FIRST), i)


def matrices(x: Any) -> Any:
    n = x.shape[1] // 4
    i, j = rk.ranges(x.shape[0], n)
    parts = rk.reduce(tuple(x[i, j * 4 + k] for k in range(4)), j, op=MATRIX)
    return tuple(rk.bufferize(v, i) for v in parts)


def first(x: Any) -> Any:
    return rk.reduce(x, op=FIRST, where=x < 2), rk.reduce(x, axis=0, op=FIRST), rk.reduce(x, axis=1, op=FIRST)


def last(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0], x.shape[1])
    found, value = rk.reduce((x[i, j] == 1, i * x.shape[1] + j), i, j, op=LAST)
    return rk.where(found, value, -1)


def affine(maps: Any) -> tuple[int, int]:
    a, b = 1, 0
    for s, t in maps:
        a, b = a * s, b * s + t
    return wrapped(a), wrapped(b)


def wrapped(n: int) -> int:
    return (n + 2**63) % 2**64 - 2**63


def said(name: str, x: Array) -> list[Array]:
    """What a kernel means, in Python integers."""
    rows, columns = x.shape
    v = {at: int(x[at]) for at in np.ndindex(rows, columns)}
    pair = {at: (n, at[0] - at[1]) for at, n in v.items()}
    places = list(np.ndindex(rows, columns))
    if name == "inner":
        out = [affine(pair[i, j] for j in range(columns)) for i in range(rows)]
        return [np.array([o[k] for o in out], np.int64) for k in range(2)]
    if name == "outer":
        out = [affine(pair[i, j] for i in range(rows)) for j in range(columns)]
        return [np.array([o[k] for o in out], np.int64) for k in range(2)]
    if name == "both":
        return [np.array(n) for n in affine(pair[at] for at in places)]
    if name == "swapped":
        return [np.array(n) for n in affine(pair[i, j] for j in range(columns) for i in range(rows))]
    if name == "triangle":
        out = [affine(pair[i, j] for j in range(columns) if j <= i and v[i, j] > -2) for i in range(rows)]
        return [np.array([o[k] for o in out], np.int64) for k in range(2)]
    if name == "nested":
        gram = [[sum(v[i, j] * v[k, j] for j in range(columns)) for k in range(rows)] for i in range(rows)]
        maps = [affine((g % 3, g % 5) for g in row) for row in gram]
        return [np.array([wrapped(sum(m)) for m in maps], np.int64),
                np.array([next((g for g in row if g), 0) for row in gram], np.int64)]  # fmt: skip
    if name == "matrices":
        blocks = x[:, : columns // 4 * 4].reshape(rows, columns // 4, 2, 2).astype(object)
        whole = [reduce(lambda a, b: a @ b, row, np.array([[1, 0], [0, 1]], object)).reshape(4) for row in blocks]
        return [np.array([wrapped(w[k]) for w in whole], np.int64) for k in range(4)]
    if name == "first":
        flat = [v[at] for at in places]
        down = [next((v[i, j] for i in range(rows) if v[i, j]), 0) for j in range(columns)]
        along = [next((v[i, j] for j in range(columns) if v[i, j]), 0) for i in range(rows)]
        kept = next((n for n in flat if n and n < 2), 0)
        return [np.array(kept), np.array(down, np.int64), np.array(along, np.int64)]
    return [np.array(max((i * columns + j for i, j in places if v[i, j] == 1), default=-1))]


KERNELS: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (inner, outer, both, swapped, triangle, nested, matrices, first, last)
}  # fmt: skip
SHAPES = [(1, 1), (0, 3), (3, 0), (2, 4), (7, 9), (33, 65), (300, 130)]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_default_schedule(name: str, shape: tuple[int, int]) -> None:
    x = ints(1, *shape)
    for got, want in zip(_tuple(rk.kernel(KERNELS[name])(x)), said(name, x), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", KERNELS)
def test_the_interpreter(name: str) -> None:
    for shape in SHAPES[:5]:
        x = ints(2, *shape)
        for got, want in zip(_tuple(rk.kernel(KERNELS[name], device="python")(x)), said(name, x), strict=True):
            np.testing.assert_array_equal(got, want)


def _tuple(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("chunk", range(4))
def test_random_schedules(name: str, chunk: int) -> None:
    for seed in range(chunk * 15, chunk * 15 + 15):
        rng = random.Random(seed)
        x = ints(seed, rng.choice([4, 9, 17]), rng.choice([5, 8, 33, 70]))
        program: Any = rk.kernel(KERNELS[name], device="python").lower(x)._program
        memory = {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
        chosen = []
        for nest in program.lowered.plain:
            chosen.append(random_schedule(rng, nest))
            new = scheduled(nest, chosen[-1], CPU)
            held = [x if p.op is Op.PARAM else memory[p] for p in new.params]
            CpuDevice().compile(new)(held, np.zeros(4, np.int64))
        for p, want in zip(program.lowered.outputs, said(name, x), strict=True):
            np.testing.assert_array_equal(memory[p], want, err_msg=f"{seed} {chosen}")


@pytest.mark.parametrize("n", [9000, 100_003])
def test_each_lane_of_an_ordered_reduction_has_a_part_of_its_own(n: int) -> None:
    x = np.zeros(n, np.int32)
    x[[0, 7, n // 2, n - 3]] = 5, 6, 7, 8
    both: Any = rk.kernel(lambda x: (rk.reduce(x, op=FIRST), rk.reduce((x != 0, x), op=LAST)[1]))
    steps = both.lower(x).kernels[0].schedule
    assert [type(s).__name__ for s in steps][:2] == ["Group", "Upcast"]
    assert tuple(map(int, both(x))) == (5, 8)
