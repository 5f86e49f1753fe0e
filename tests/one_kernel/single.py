"""What the tests here ask of a program: one kernel, in memory nothing but arguments and results, beside that rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import rangekit as rk
from rangekit.ir.nest import Scratch, walk
from tests.runs import ways

Array = np.ndarray[Any, Any]
Program = Callable[..., Any]
SIZES = (0, 1, 7, 64, 65, 200)


def rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def wide(*arrays: Array) -> tuple[Array, ...]:
    """The floats among them in float64, for the oracle."""
    return tuple(a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays)


def close(got: Any, want: Any, rtol: float, atol: float, what: str = "") -> None:
    """Each of one or more results equals what is wanted, NaN for NaN."""
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else ((got, want),)
    for g, w in pairs:
        assert np.shape(g) == np.shape(w), (np.shape(g), np.shape(w), what)
        np.testing.assert_allclose(np.asarray(g, np.float64), w, rtol=rtol, atol=atol, err_msg=what)


def single(
    fn: Program, want: Any, *args: Array, most: int | None = None, rtol: float = 1e-4, atol: float = 1e-5
) -> str:
    """One kernel that gives what is wanted and has no scratch array of ``most`` elements; its explanation."""
    kernel = rk.kernel(fn)
    low = kernel.lower(*args)
    assert len(low.kernels) == 1, low.explain()
    assert "kept in memory" not in low.explain()
    (info,) = low.kernels
    results = len(want) if isinstance(want, tuple) else 1
    assert sum(b.memory == "global" for b in info.buffers) <= len(args) + results, info.buffers
    if most is not None and most >= 49:  # a row of a smaller square may have as many
        sizes = {
            s.buffer.arg.name: math.prod(s.buffer.shape) for s in walk(info.written.body) if isinstance(s, Scratch)
        }
        if most >= 64 * 64:  # what a schedule adds for blocks and vectors may be more than all of a small program
            sizes |= {b.name: b.size for b in info.buffers if b.memory != "global"}
        assert all(size < most for size in sizes.values()), (sizes, low.explain())
    close(kernel(*args), want, rtol, atol, "cpu")
    if sum(a.size for a in args) < 1000 and sum(map(np.size, want if isinstance(want, tuple) else (want,))) < 300:
        close(rk.kernel(fn, device="python")(*args), want, rtol, atol, "python")
    return low.explain()


def everywhere(
    fn: Program, want: Any, *args: Array, rtol: float = 1e-4, atol: float = 1e-5, schedules: int = 3
) -> None:
    """Each stage of the graph, both devices, strict and random schedules give what is wanted."""
    for way, got in ways(fn, *args, schedules=schedules):
        close(got if isinstance(want, tuple) else got[0], want, rtol, atol, way)
