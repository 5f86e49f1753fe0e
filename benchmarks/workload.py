"""What a workload is: one declaration from which every peer, the oracle and the bound are made.

Peers' functions take the library as their first argument, so that declaring them imports nothing. One with a
parameter ``out`` is also timed writing into memory that exists already; where a library has another function for
that, it stands under the peer's name and " out".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rangekit.machine import Limits

Array = np.ndarray[Any, np.dtype[Any]]
Sizes = Mapping[str, int]

# Vector instructions of the math functions, about: range reduction, a polynomial in float32, reassembly.
EXP, LOG, SIN, SIGMOID, DIVIDE = 12, 16, 18, 16, 4


@dataclass(frozen=True)
class Workload:
    """One thing to compute.

    ``ops`` counts float32 lanes through an arithmetic unit (a multiply-add, an addition, a minimum: one each; 64-bit
    lanes: two), ``moved`` bytes between memory and the CPU (None: every argument and result once). ``tolerance`` is
    the largest error that passes, relative to the largest element of the float64 ``oracle``; integers are exact.
    """

    name: str
    rangekit: Callable[..., Any]
    inputs: Callable[..., tuple[Array, ...]]  # (draw, **sizes)
    oracle: Callable[..., Any]  # of the arguments, floats as float64
    sizes: Sizes
    tiny: Sizes  # for tests
    ops: Callable[..., int] = lambda **sizes: 0
    moved: Callable[..., int] | None = None
    tolerance: float = 2e-5
    peers: Mapping[str, Callable[..., Any] | str] = field(default_factory=dict)  # of numba: a name in numba_loops

    def arguments(self, sizes: Sizes | None = None) -> tuple[Array, ...]:
        """The arguments, the same in every process."""
        return self.inputs(Draw(), **(self.sizes if sizes is None else sizes))

    def expected(self, args: tuple[Array, ...]) -> tuple[Array, ...]:
        """The oracle's results."""
        return results(self.oracle(*(widened(a) for a in args)))


class Draw:
    """Random arrays from a fixed seed."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int, dtype: Any = np.float32) -> Array:
        """Normal floats."""
        wide = np.float64 if dtype == np.float64 else np.float32
        return self.rng.standard_normal(shape, dtype=wide).astype(dtype, copy=False)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Array:
        """float32 between ``low`` and ``high``."""
        return self.rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)

    def integers(self, low: int, high: int, *shape: int, dtype: Any = np.int64) -> Array:
        """Integers from ``low`` to ``high - 1``."""
        return self.rng.integers(low, high, shape, dtype=dtype)

    def permutation(self, n: int) -> Array:
        """0 .. n - 1 as float32, in any order."""
        return self.rng.permutation(n).astype(np.float32)

    def coins(self, *shape: int) -> Array:
        """Bools."""
        return self.rng.integers(0, 2, shape, dtype=np.uint8).astype(bool)


def widened(a: Array) -> Array:
    """Floats of every size (bfloat16 is no float to NumPy) as float64; other arrays as they are."""
    return a if a.dtype.kind in "biu" else a.astype(np.float64)


def results(value: Any) -> tuple[Array, ...]:
    """One array, or a tuple of them, as a tuple."""
    return tuple(np.asarray(v) for v in (value if isinstance(value, tuple) else (value,)))


def error(got: tuple[Array, ...], want: tuple[Array, ...]) -> float:
    """The largest difference relative to the largest element wanted; inf for another shape or a NaN out of place.

    >>> error((np.array([1.0, 2.5]),), (np.array([1.0, 2.0]),))
    0.25
    """
    if [a.shape for a in got] != [a.shape for a in want]:
        return float("inf")
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if b.dtype.kind in "biu":
            worst = max(worst, float((a != b).any()))
            continue
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | (np.isnan(a.astype(np.float64)) & np.isnan(b)), 0.0, np.abs(a - b))
        scale = np.abs(b[np.isfinite(b)]).max(initial=0.0) or 1.0
        worst = max(worst, float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0) / scale))
    return worst


def takes_out(fn: Callable[..., Any]) -> bool:
    """Whether a peer's function can write into memory that exists already."""
    return "out" in inspect.signature(fn).parameters


def bound(
    w: Workload, sizes: Sizes, read: int, written: int, limits: Limits, caches: tuple[int, int, int]
) -> float | None:
    """The least seconds that this machine's limits allow; None where nothing is counted.

    Arithmetic at the rate of the FMA units (separate adders may do better), bytes at the rate of the smallest level
    that holds arguments and results. Memory that is also written is held against the faster of reads and triad.
    """
    ops = w.ops(**sizes)
    moved = w.moved(**sizes) if w.moved else read + written
    l1, l2, l3 = caches
    if moved <= l1:
        rate = limits.l1_all
    elif moved <= l2 * limits.cores:
        rate = limits.l2_all
    elif moved <= l3:
        rate = limits.l3_all
    else:
        rate = max(limits.dram_all, limits.stream_all) if written * 10 > moved else limits.dram_all
    return max(2 * ops / limits.fma_all, moved / rate) / 1e9 or None
