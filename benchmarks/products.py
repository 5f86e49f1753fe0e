"""Matrix products: those every library has, ugly sizes, and near relatives that no library call computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

import rangekit as rk
from benchmarks.workload import Workload


def matmul(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


def batched(a: Any, b: Any) -> Any:
    n, i, j, k = rk.ranges(a.shape[0], a.shape[1], b.shape[2], a.shape[2])
    return rk.bufferize(rk.sum(a[n, i, k] * b[n, k, j], k), n, i, j)


def matvec(a: Any, x: Any) -> Any:
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.sum(a[i, k] * x[k], k), i)


def min_plus(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.min(a[i, k] + b[k, j], k), i, j)


def weighted(a: Any, b: Any, w: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j] * w[k], k), i, j)


def masked(a: Any, b: Any, m: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(rk.where(m[i, k], a[i, k], 0.0) * b[k, j], k), i, j)


def complex_pairs(a: Any, b: Any, c: Any, d: Any) -> Any:
    """(a + ib)(c + id), real and imaginary parts apart."""
    i, j, k = rk.ranges(a.shape[0], c.shape[1], a.shape[1])
    real = rk.sum(a[i, k] * c[k, j] - b[i, k] * d[k, j], k)
    imaginary = rk.sum(a[i, k] * d[k, j] + b[i, k] * c[k, j], k)
    return rk.bufferize(real, i, j), rk.bufferize(imaginary, i, j)


def transposed(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[1], b.shape[0], a.shape[0])
    return rk.bufferize(rk.sum(a[k, i] * b[j, k], k), i, j)


def narrow_integers(a: Any, b: Any) -> Any:
    return rk.matmul(a, b)  # keeps int32; a sum of int32 is int64


def _into(lib: Any, a: Any, b: Any, out: Any = None) -> Any:
    return lib.matmul(a, b, out=out)


def _jax(jax: Any, a: Any, b: Any) -> Any:
    return jax.numpy.matmul(a, b)


def _same(fn: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """One function for the three libraries that share NumPy's names."""
    return {"numpy": fn, "torch": fn, "jax": lambda jax, *args: fn(jax.numpy, *args)}


MATMUL = Workload(
    "matmul",
    matmul,
    inputs=lambda draw, M, K, N: (draw.normal(M, K), draw.normal(K, N)),
    oracle=lambda a, b: a @ b,
    sizes={"M": 1024, "K": 1024, "N": 1024},
    tiny={"M": 13, "K": 21, "N": 35},
    ops=lambda M, K, N: M * N * K,
    peers={"numpy": _into, "torch": _into, "jax": _jax, "numba": "matmul"},
)


def _sized(M: int, K: int, N: int, name: str = "") -> Workload:
    return replace(MATMUL, name=f"matmul {name or f'{M}×{K}×{N}'}", sizes={"M": M, "K": K, "N": N})


_SHAPES = [(1000, 777, 1013), (63, 64, 65), (100000, 64, 64), (64, 64, 10000), (8, 4096, 4096), (4096, 1, 4096)]


def _typed(name: str, dtype: Any, **changes: Any) -> Workload:
    def inputs(draw: Any, M: int, K: int, N: int) -> tuple[Any, ...]:
        if np.dtype(dtype).kind == "i":
            return draw.integers(-100, 100, M, K, dtype=dtype), draw.integers(-100, 100, K, N, dtype=dtype)
        return draw.normal(M, K, dtype=dtype), draw.normal(K, N, dtype=dtype)

    return replace(MATMUL, name=f"matmul 1024 {name}", inputs=inputs, **changes)


def _through_float32(np_: Any, a: Any, b: Any) -> Any:
    wide = np_.matmul(a.astype(np_.float32), b.astype(np_.float32))
    return wide.astype(a.dtype)


_SQUARE: dict[str, Any] = {"sizes": {"N": 1024}, "tiny": {"N": 19}}

PRODUCTS = [
    *(_sized(n, n, n, str(n)) for n in (512, 1024, 2048)),
    *(_sized(*shape) for shape in _SHAPES),
    Workload(
        "64 matmuls 64×64×64",
        batched,
        inputs=lambda draw, B, N: (draw.normal(B, N, N), draw.normal(B, N, N)),
        oracle=lambda a, b: a @ b,
        sizes={"B": 64, "N": 64},
        tiny={"B": 3, "N": 9},
        ops=lambda B, N: B * N**3,
        peers={"numpy": _into, "torch": _into, "jax": _jax},
    ),
    Workload(
        "matrix-vector 4096",
        matvec,
        inputs=lambda draw, N: (draw.normal(N, N), draw.normal(N)),
        oracle=lambda a, x: a @ x,
        sizes={"N": 4096},
        tiny={"N": 37},
        ops=lambda N: N * N,
        peers={"numpy": _into, "torch": _into, "jax": _jax, "numba": "matvec"},
    ),
    Workload(
        "min-plus 1024",
        min_plus,
        inputs=lambda draw, N: (draw.normal(N, N), draw.normal(N, N)),
        oracle=lambda a, b: np.array([(row[:, None] + b).min(axis=0) for row in a]),
        ops=lambda N: 2 * N**3,
        peers={
            "numpy": lambda np, a, b: np.stack([(row[:, None] + b).min(axis=0) for row in a]),
            "torch": lambda torch, a, b: (a[:, :, None] + b[None]).amin(1),
            "jax": lambda jax, a, b: (a[:, :, None] + b[None]).min(axis=1),
            "numba": "min_plus",
        },
        **_SQUARE,
    ),
    Workload(
        "Σ A·B·w 1024",
        weighted,
        inputs=lambda draw, N: (draw.normal(N, N), draw.normal(N, N), draw.normal(N)),
        oracle=lambda a, b, w: (a * w) @ b,
        ops=lambda N: N**3,
        peers=_same(lambda lib, a, b, w: lib.matmul(a * w, b)),
        **_SQUARE,
    ),
    Workload(
        "Σ where(m, A, 0)·B 1024",
        masked,
        inputs=lambda draw, N: (draw.normal(N, N), draw.normal(N, N), draw.coins(N, N)),
        oracle=lambda a, b, m: np.where(m, a, 0.0) @ b,
        ops=lambda N: N**3,
        peers=_same(lambda lib, a, b, m: lib.matmul(lib.where(m, a, 0.0), b)),
        **_SQUARE,
    ),
    Workload(
        "complex matmul 1024, parts apart",
        complex_pairs,
        inputs=lambda draw, N: tuple(draw.normal(N, N) for _ in range(4)),
        oracle=lambda a, b, c, d: (a @ c - b @ d, a @ d + b @ c),
        ops=lambda N: 4 * N**3,
        peers=_same(lambda lib, a, b, c, d: (lib.matmul(a, c) - lib.matmul(b, d), lib.matmul(a, d) + lib.matmul(b, c))),
        **_SQUARE,
    ),
    Workload(
        "matmul 1024, both transposed",
        transposed,
        inputs=lambda draw, N: (draw.normal(N, N), draw.normal(N, N)),
        oracle=lambda a, b: a.T @ b.T,
        ops=lambda N: N**3,
        peers={
            "numpy": lambda np, a, b, out=None: np.matmul(a.T, b.T, out=out),
            "torch": lambda torch, a, b, out=None: torch.matmul(a.T, b.T, out=out),
            "jax": lambda jax, a, b: jax.numpy.matmul(a.T, b.T),
        },
        **_SQUARE,
    ),
    replace(_typed("int32", np.int32, ops=lambda M, K, N: 2 * M * N * K), rangekit=narrow_integers),
    _typed("float64", np.float64, ops=lambda M, K, N: 2 * M * N * K, tolerance=1e-13),
    _typed(
        "bfloat16",
        ml_dtypes.bfloat16,
        tolerance=8e-3,
        peers={"numpy": _through_float32, "torch": _into, "jax": _jax},
    ),
]
