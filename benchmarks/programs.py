"""Programs that are no library call: what a user would write a kernel for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import DIVIDE, EXP, LOG, SIGMOID, Workload

# 1/n! for exp's series: a polynomial that nothing can simplify.
SERIES = [1.0, 1.0, 0.5, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 3e-6, 3e-7, 3e-8, 2e-9]


def nearest(points: Any, centres: Any) -> Any:
    i, j, k = rk.ranges(points.shape[0], *centres.shape)
    gap = points[i, k] - centres[j, k]
    return rk.bufferize(rk.min(rk.sum(gap * gap, k), j), i)


def jacobi(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0] - 2, x.shape[1] - 2)
    return rk.bufferize(0.25 * (x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2]), i, j)


def bilateral(x: Any) -> Any:
    i, j, dy, dx = rk.ranges(x.shape[0] - 4, x.shape[1] - 4, 5, 5)
    near, gap = x[i + dy, j + dx], x[i + dy, j + dx] - x[i + 2, j + 2]
    w = rk.exp(gap * gap * -4.0)
    return rk.bufferize(rk.sum(w * near, dy, dx) / rk.sum(w, dy, dx), i, j)


def sigmoid_sum(a: Any, b: Any, c: Any) -> Any:
    i, j = rk.ranges(a.shape[0], b.shape[0])
    return rk.bufferize(rk.sum(rk.sigmoid(a[i] + b[j]) * c[j], j), i)


def logsumexp(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    hi = rk.max(x[i, j], j)
    return rk.bufferize(rk.log(rk.sum(rk.exp(x[i, j] - hi), j)) + hi, i)


def rms_norm(x: Any, r: Any, w: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    h = x[i, j] + r[i, j]
    return rk.bufferize(h * rk.rsqrt(rk.mean(h * h, j) + 1e-5) * w[j], i, j)


def gated(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0], x.shape[1] // 2)
    return rk.bufferize(x[i, j] * rk.sigmoid(x[i, j + x.shape[1] // 2]), i, j)


def conv1d(x: Any, taps: Any) -> Any:
    i, t = rk.ranges(x.shape[0] - taps.shape[0] + 1, taps.shape[0])
    return rk.bufferize(rk.sum(x[i + t] * taps[t], t), i)


def polynomial(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(_horner(x[i]), i)


def unit_rows(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j] * rk.rsqrt(rk.sum(x[i, j] * x[i, j], j)), i, j)


# ---- the same with whole arrays, in the words NumPy, torch and JAX share --------------------------------------------


def _horner(x: Any) -> Any:
    value = x * SERIES[-1] + SERIES[-2]
    for c in SERIES[-3::-1]:
        value = value * x + c
    return value


def _nearest(lib: Any, p: Any, c: Any) -> Any:
    squares = (p * p).sum(1)[:, None] - 2 * lib.matmul(p, c.T) + (c * c).sum(1)[None, :]
    return lib.amin(squares, 1)


def _jacobi(lib: Any, x: Any) -> Any:
    return 0.25 * (x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:])


def _bilateral(lib: Any, x: Any) -> Any:
    centre, above, below = x[2:-2, 2:-2], 0.0, 0.0
    for dy in range(5):
        for dx in range(5):
            near = x[dy : dy + centre.shape[0], dx : dx + centre.shape[1]]
            w = lib.exp((near - centre) * (near - centre) * -4.0)
            above, below = above + w * near, below + w
    return above / below


def _sigmoid(lib: Any, x: Any) -> Any:
    return 1 / (1 + lib.exp(-x))


def _sigmoid_sum(lib: Any, a: Any, b: Any, c: Any) -> Any:
    return lib.matmul(_sigmoid(lib, a[:, None] + b[None, :]), c)


def _logsumexp(lib: Any, x: Any) -> Any:
    hi = lib.amax(x, 1)
    return lib.log(lib.exp(x - hi[:, None]).sum(1)) + hi


def _rms_norm(lib: Any, x: Any, r: Any, w: Any) -> Any:
    h = x + r
    return h / lib.sqrt((h * h).mean(1)[:, None] + 1e-5) * w


def _gated(lib: Any, x: Any) -> Any:
    half = x.shape[1] // 2
    return x[:, :half] * _sigmoid(lib, x[:, half:])


def _unit_rows(lib: Any, x: Any) -> Any:
    return x / lib.sqrt((x * x).sum(1))[:, None]


def _shared(fn: Callable[..., Any], **others: Any) -> dict[str, Any]:
    """One function for the three libraries, unless a library has its own word for it."""
    return {"numpy": fn, "torch": fn, "jax": lambda jax, *args: fn(jax.numpy, *args), **others}


def _matrix(draw: Any, M: int, N: int) -> tuple[Any, ...]:
    return (draw.normal(M, N),)


PROGRAMS = [
    Workload(
        "nearest centre's distance, 4096×1024×32",
        nearest,
        inputs=lambda draw, M, N, K: (draw.normal(M, K), draw.normal(N, K)),
        oracle=lambda p, c: np.array([((row - c) ** 2).sum(axis=1).min() for row in p]),
        sizes={"M": 4096, "N": 1024, "K": 32},
        tiny={"M": 17, "N": 9, "K": 5},
        ops=lambda M, N, K: M * N * (2 * K + 1),
        peers=_shared(_nearest, numba="nearest"),
    ),
    Workload(
        "Jacobi step 4096²",
        jacobi,
        inputs=lambda draw, N: (draw.normal(N, N),),
        oracle=lambda x: _jacobi(np, x),
        sizes={"N": 4096},
        tiny={"N": 23},
        ops=lambda N: 4 * N * N,
        peers=_shared(_jacobi, numba="jacobi"),
    ),
    Workload(
        "bilateral filter 5×5, 1024²",
        bilateral,
        inputs=lambda draw, N: (draw.uniform(N + 4, N + 4),),
        oracle=lambda x: _bilateral(np, x),
        sizes={"N": 1024},
        tiny={"N": 19},
        ops=lambda N: 25 * N * N * (EXP + 5),
        peers=_shared(_bilateral, numba="bilateral"),
    ),
    Workload(
        "Σ sigmoid(a + b)·c, 4096²",
        sigmoid_sum,
        inputs=lambda draw, N: tuple(draw.normal(N) for _ in range(3)),
        oracle=lambda a, b, c: np.array([_sigmoid(np, x + b) @ c for x in a]),
        sizes={"N": 4096},
        tiny={"N": 29},
        ops=lambda N: N * N * (SIGMOID + 2),
        peers=_shared(
            _sigmoid_sum,
            torch=lambda torch, a, b, c: torch.sigmoid(a[:, None] + b[None, :]) @ c,
            numba="sigmoid_sum",
        ),
    ),
    Workload(
        "log-sum-exp rows 4096²",
        logsumexp,
        inputs=_matrix,
        oracle=lambda x: _logsumexp(np, x),
        sizes={"M": 4096, "N": 4096},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: M * (N * (EXP + 3) + LOG),
        peers=_shared(
            _logsumexp,
            torch=lambda torch, x, out=None: torch.logsumexp(x, 1, out=out),
            jax=lambda jax, x: jax.nn.logsumexp(x, axis=1),
            numba="logsumexp",
        ),
    ),
    Workload(
        "RMS norm of x + r, 4096×1024",
        rms_norm,
        inputs=lambda draw, M, N: (draw.normal(M, N), draw.normal(M, N), draw.normal(N)),
        oracle=lambda x, r, w: _rms_norm(np, x, r, w),
        sizes={"M": 4096, "N": 1024},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: 5 * M * N,
        peers=_shared(
            _rms_norm,
            torch=lambda torch, x, r, w: torch.nn.functional.rms_norm(x + r, w.shape, w, 1e-5),
            numba="rms_norm",
        ),
    ),
    Workload(
        "a·sigmoid(b), 4096×(2·2048)",
        gated,
        inputs=_matrix,
        oracle=lambda x: _gated(np, x),
        sizes={"M": 4096, "N": 4096},
        tiny={"M": 5, "N": 66},
        ops=lambda M, N: M * N // 2 * (SIGMOID + 1),
        peers=_shared(_gated, torch=lambda torch, x: torch.nn.functional.glu(x, 1), numba="gated"),
    ),
    Workload(
        "convolution of 64 taps over 4 M",
        conv1d,
        inputs=lambda draw, N, T: (draw.normal(N), draw.normal(T)),
        oracle=lambda x, taps: np.convolve(x, taps[::-1], "valid"),
        sizes={"N": 1 << 22, "T": 64},
        tiny={"N": 100, "T": 7},
        ops=lambda N, T: (N - T + 1) * T,
        peers={
            "numpy": lambda np, x, taps: np.correlate(x, taps, "valid"),
            "torch": lambda torch, x, taps: torch.nn.functional.conv1d(x[None, None], taps[None, None])[0, 0],
            "jax": lambda jax, x, taps: jax.numpy.correlate(x, taps, "valid"),
            "numba": "conv1d",
        },
    ),
    Workload(
        "polynomial of degree 12, 16 M",
        polynomial,
        inputs=lambda draw, N: (draw.uniform(N, low=-2, high=2),),
        oracle=_horner,
        sizes={"N": 1 << 24},
        tiny={"N": 133},
        ops=lambda N: 12 * N,
        peers=_shared(lambda lib, x: _horner(x), numba="polynomial"),
    ),
    Workload(
        "rows of length one, 4096²",
        unit_rows,
        inputs=_matrix,
        oracle=lambda x: _unit_rows(np, x),
        sizes={"M": 4096, "N": 4096},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: M * (2 * N + DIVIDE),
        peers=_shared(
            _unit_rows,
            torch=lambda torch, x: torch.nn.functional.normalize(x, dim=1),
            numba="unit_rows",
        ),
    ),
]
