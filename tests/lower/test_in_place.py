"""Kernels that read what they write, under the default schedule and under random ones: no partial result may wait in an
array whose old contents are still to be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.errors import ScheduleError
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower.schedule import scheduled
from tests.lower.test_schedule import random_schedule

Floats = np.ndarray[Any, Any]


def accumulated(c: Any, a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.assign(c[i, j], c[i, j] + rk.sum(a[i, k] * b[k, j], k))


def normalised(c: Any, a: Any, b: Any) -> Any:
    i, j = rk.ranges(*c.shape)
    e = rk.exp(c[i, j] - rk.max(c[i, j], j))
    return rk.assign(c[i, j], e / rk.sum(e, j))


def mirrored(c: Any, a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(c.shape[0], c.shape[1], a.shape[1])
    return rk.assign(c[i, j], c[i, c.shape[1] - 1 - j] + rk.sum(a[i, k] * b[k, j], k))


def columns(c: Any, a: Any, b: Any) -> Any:
    k, j = rk.ranges(*b.shape)
    return rk.assign(c[0, j], c[0, j] * 0.5 + rk.sum(b[k, j], k))


def softmax(c: Floats) -> Floats:
    e = np.exp(c - c.max(1)[:, None])
    return np.asarray(e / e.sum(1)[:, None])


def first_row(c: Floats, b: Floats) -> Floats:
    out = c.copy()
    out[0] = c[0] * 0.5 + b.sum(0)
    return out


KERNELS: dict[Callable[..., Any], Callable[[Floats, Floats, Floats], Floats]] = {
    accumulated: lambda c, a, b: c + a @ b,
    normalised: lambda c, a, b: softmax(c),
    mirrored: lambda c, a, b: c[:, ::-1] + a @ b,
    columns: lambda c, a, b: first_row(c, b),
}


def rand(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("fn", KERNELS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (5, 3, 17), (129, 301, 203), (256, 600, 96)])
def test_the_default_schedule(fn: Callable[..., Any], m: int, k: int, n: int) -> None:
    c, a, b = rand(1, m, n), rand(2, m, k), rand(3, k, n)
    want = KERNELS[fn](*(v.astype(np.float64) for v in (c, a, b)))
    rk.kernel(fn)(c, a, b)
    np.testing.assert_allclose(c, want, rtol=2e-5, atol=2e-5 * k)


@pytest.mark.parametrize("fn", KERNELS)
@pytest.mark.parametrize("chunk", range(4))
def test_random_schedules(fn: Callable[..., Any], chunk: int) -> None:
    for seed in (*range(chunk * 8, chunk * 8 + 8), *((167,), (199,), (264,), (332,))[chunk]):
        rng = random.Random(seed)
        m, k, n = rng.choice([5, 9, 17]), rng.choice([3, 9, 33, 70]), rng.choice([4, 9, 17, 40])
        c, a, b = rand(seed, m, n), rand(seed + 1, m, k), rand(seed + 2, k, n)
        want = KERNELS[fn](*(v.astype(np.float64) for v in (c, a, b)))
        program = rk.kernel(fn, device="python").lower(c, a, b)._program
        arrays, memory = [c, a, b], {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
        for nest in program.lowered.plain:
            steps = random_schedule(rng, nest)
            new = scheduled(nest, steps, CPU)
            held = [arrays[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in new.params]
            CpuDevice().compile(new)(held, np.zeros(4, np.int64))
        np.testing.assert_allclose(c, want, rtol=1e-4, atol=1e-3, err_msg=f"{fn.__name__} {seed} {steps}")


def sums(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.sum(x[i, j], j), i)


@pytest.mark.parametrize("n", [1, 7, 9, 17, 23])
def test_blocks_of_blocks_of_lanes_that_are_cut_short(n: int) -> None:
    x = 2.0 ** np.arange(n, dtype=np.float32)[None]  # a sum tells which were added
    for sizes in product((2, 4), (2, 5), (3, 16)):
        for kinds in product((rk.upcast, rk.unroll), repeat=3):
            steps = [kind("j", size) for kind, size in zip(kinds, sizes, strict=True)]
            out = rk.kernel(sums).schedule(*steps)(x)
            assert int(out[0]) == 2**n - 1, steps
    for steps in ([rk.tile("j", 4), rk.upcast("j.t", 4), rk.unroll("j", 5)], [rk.upcast("j", 4), rk.unroll("j", 3)]):
        assert int(rk.kernel(sums).schedule(*steps)(x)[0]) == 2**n - 1, steps


def test_what_an_inner_range_depends_on_cannot_be_padded() -> None:
    with pytest.raises(ScheduleError, match=r"i\.t depends on it"):
        rk.kernel(accumulated).schedule(rk.tile("i", 4), rk.pad("i", 16))(rand(1, 5, 4), rand(2, 5, 3), rand(3, 3, 4))
