"""Elementwise chains, row reductions and movement: what memory decides, and one call on almost nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import EXP, SIN, Workload


def add(x: Any, y: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i] + y[i], i)


def chain(x: Any, y: Any, z: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i] * rk.sin(y[i]) + rk.exp(-z[i]), i)


def total(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.sum(x[i], i)


def softmax(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    p = rk.exp(x[i, j] - rk.max(x[i, j], j))
    return rk.bufferize(p / rk.sum(p, j), i, j)


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    centred = x[i, j] - rk.mean(x[i, j], j)
    variance = rk.mean(centred * centred, j)
    return rk.bufferize(centred * rk.rsqrt(variance + 1e-5) * w[j] + b[j], i, j)


def embedding(table: Any, ids: Any) -> Any:
    n, d = rk.ranges(ids.shape[0], table.shape[1])
    return rk.bufferize(table[ids[n], d], n, d)


def transpose(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j], j, i)


def argmax(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.argmax(x[i, j], j), i)


def _softmax(x: Any) -> Any:
    p = np.exp(x - x.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _numpy_softmax(np: Any, x: Any, out: Any = None) -> Any:
    p = np.subtract(x, x.max(axis=1, keepdims=True), out=out)
    np.exp(p, out=p)
    return np.divide(p, p.sum(axis=1, keepdims=True), out=p)


def _layer_norm(lib: Any, x: Any, w: Any, b: Any) -> Any:
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / lib.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5) * w + b


def _torch_take(torch: Any, table: Any, ids: Any, out: Any = None) -> Any:
    return torch.index_select(table, 0, ids, out=out)


_ADD: dict[str, Any] = {
    "numpy": lambda np, x, y, out=None: np.add(x, y, out=out),
    "torch": lambda torch, x, y, out=None: torch.add(x, y, out=out),
    "jax": lambda jax, x, y: x + y,
    "numba": "add",
}

ARRAYS = [
    Workload(
        "x·sin(y) + exp(-z), 16 M",
        chain,
        inputs=lambda draw, N: tuple(draw.normal(N) for _ in range(3)),
        oracle=lambda x, y, z: x * np.sin(y) + np.exp(-z),
        sizes={"N": 1 << 24},
        tiny={"N": 133},
        ops=lambda N: (SIN + EXP + 2) * N,
        peers={
            "numpy": lambda np, x, y, z: x * np.sin(y) + np.exp(-z),
            "torch": lambda torch, x, y, z: x * torch.sin(y) + torch.exp(-z),
            "jax": lambda jax, x, y, z: x * jax.numpy.sin(y) + jax.numpy.exp(-z),
            "numba": "chain",
        },
    ),
    Workload(
        "x + y, 16 M",
        add,
        inputs=lambda draw, N: (draw.normal(N), draw.normal(N)),
        oracle=lambda x, y: x + y,
        sizes={"N": 1 << 24},
        tiny={"N": 133},
        ops=lambda N: N,
        peers=_ADD,
    ),
    Workload(
        "sum, 16 M",
        total,
        inputs=lambda draw, N: (draw.normal(N),),
        oracle=lambda x: x.sum(),
        sizes={"N": 1 << 24},
        tiny={"N": 133},
        ops=lambda N: N,
        tolerance=1e-3,
        peers={
            "numpy": lambda np, x: np.sum(x),
            "torch": lambda torch, x: torch.sum(x),
            "jax": lambda jax, x: jax.numpy.sum(x),
            "numba": "total",
        },
    ),
    Workload(
        "softmax rows 4096²",
        softmax,
        inputs=lambda draw, M, N: (draw.normal(M, N),),
        oracle=_softmax,
        sizes={"M": 4096, "N": 4096},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: (EXP + 4) * M * N,
        peers={
            "numpy": _numpy_softmax,
            "torch": lambda torch, x: torch.softmax(x, 1),
            "torch out": lambda torch, x, out=None: torch.ops.aten._softmax.out(x, 1, False, out=out),
            "jax": lambda jax, x: jax.nn.softmax(x, axis=1),
            "numba": "softmax",
        },
    ),
    Workload(
        "layer norm 4096×1024",
        layer_norm,
        inputs=lambda draw, M, N: (draw.normal(M, N), draw.normal(N), draw.normal(N)),
        oracle=lambda x, w, b: _layer_norm(np, x, w, b),
        sizes={"M": 4096, "N": 1024},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: 6 * M * N,
        peers={
            "numpy": _layer_norm,
            "torch": lambda torch, x, w, b: torch.nn.functional.layer_norm(x, w.shape, w, b),
            "jax": lambda jax, x, w, b: _layer_norm(jax.numpy, x, w, b),
            "numba": "layer_norm",
        },
    ),
    Workload(
        "embedding, 8192 of 32000×1024",
        embedding,
        inputs=lambda draw, V, D, N: (draw.normal(V, D), draw.integers(0, V, N)),
        oracle=lambda table, ids: table[ids],
        sizes={"V": 32000, "D": 1024, "N": 8192},
        tiny={"V": 31, "D": 19, "N": 12},
        moved=lambda V, D, N: 8 * N + 8 * N * D,
        peers={
            "numpy": lambda np, table, ids, out=None: np.take(table, ids, axis=0, out=out, mode="clip"),
            "torch": _torch_take,
            "jax": lambda jax, table, ids: jax.numpy.take(table, ids, axis=0),
            "numba": "embedding",
        },
    ),
    Workload(
        "transpose 4096²",
        transpose,
        inputs=lambda draw, N: (draw.normal(N, N),),
        oracle=lambda x: x.T,
        sizes={"N": 4096},
        tiny={"N": 37},
        peers={
            "numpy": lambda np, x: np.ascontiguousarray(x.T),
            "torch": lambda torch, x: x.T.contiguous(),
            "torch out": lambda torch, x, out=None: out.copy_(x.T),
            "jax": lambda jax, x: x.T,
            "numba": "transpose",
        },
    ),
    Workload(
        "argmax rows 4096²",
        argmax,
        inputs=lambda draw, M, N: (draw.normal(M, N),),
        oracle=lambda x: np.argmax(x, axis=1),
        sizes={"M": 4096, "N": 4096},
        tiny={"M": 5, "N": 67},
        ops=lambda M, N: 3 * M * N,
        peers={
            "numpy": lambda np, x, out=None: np.argmax(x, axis=1, out=out),
            "torch": lambda torch, x, out=None: torch.argmax(x, 1) if out is None else torch.argmax(x, 1, out=out),
            "jax": lambda jax, x: jax.numpy.argmax(x, axis=1),
            "numba": "argmax",
        },
    ),
    Workload(
        "x + y, 8 floats",
        add,
        inputs=lambda draw, N: (draw.normal(N), draw.normal(N)),
        oracle=lambda x, y: x + y,
        sizes={"N": 8},
        tiny={"N": 8},
        moved=lambda N: 0,
        peers=_ADD,
    ),
]
