"""What needs more than a reduction: the best of each row, running sums, sorting, histograms, random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import DIVIDE, EXP, Workload

K = 8
BINS = 256


def router(x: Any) -> Any:
    i, e = rk.ranges(*x.shape)
    weights, experts = rk.topk(rk.softmax(x[i, e], e), K, e)
    return rk.bufferize(weights, i), rk.bufferize(experts, i)


def running(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(rk.cumulative_sum(x[i], i), i)


def in_order(x: Any) -> Any:
    return rk.sort(x)


def order(x: Any) -> Any:
    return rk.argsort(x)


def histogram(w: Any, ids: Any) -> Any:
    i = rk.Range(ids.shape[0])
    return rk.scatter(rk.zeros(BINS), ids[i], w[i], i)


def normals(x: Any) -> Any:
    return rk.random.normal(7, x.shape)


def _softmax(np: Any, x: Any) -> Any:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _numpy_router(np: Any, x: Any) -> Any:
    p = _softmax(np, x)
    best = np.argsort(-p, axis=1, kind="stable")[:, :K]  # a partition has no order among equal values
    return np.take_along_axis(p, best, 1), best


def _jax_router(jax: Any, x: Any) -> Any:
    weights, experts = jax.lax.top_k(jax.nn.softmax(x, axis=1), K)
    return weights, experts.astype(jax.numpy.int64)


def _router_oracle(x: Any) -> Any:
    p = _softmax(np, x)
    best = np.argsort(-p, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(p, best, 1), best


def _numpy_running(np: Any, x: Any, out: Any = None) -> Any:
    return np.cumsum(x, out=out)


def _torch_running(torch: Any, x: Any, out: Any = None) -> Any:
    return torch.cumsum(x, 0, out=out)


LOOPS = [
    Workload(
        "router: softmax, top 8 of 64, 16384 rows",
        router,
        inputs=lambda draw, N, E: (draw.normal(N, E),),
        oracle=_router_oracle,
        sizes={"N": 16384, "E": 64},
        tiny={"N": 9, "E": 16},
        ops=lambda N, E: N * E * (2 + EXP + DIVIDE + 5 * K),
        peers={
            "numpy": _numpy_router,
            "torch": lambda torch, x: torch.topk(torch.softmax(x, 1), K, dim=1),
            "jax": _jax_router,
            "numba": "router",
        },
    ),
    Workload(
        "cumulative sum 16 M",
        running,
        inputs=lambda draw, N: (draw.normal(N),),
        oracle=np.cumsum,
        sizes={"N": 1 << 24},
        tiny={"N": 1013},
        ops=lambda N: N,
        tolerance=1e-3,  # of the greatest: a sum of so many floats, one after another
        peers={
            "numpy": _numpy_running,
            "torch": _torch_running,
            "jax": lambda jax, x: jax.numpy.cumsum(x),
            "numba": "running",
        },
    ),
    Workload(
        "sort 1 M",
        in_order,
        inputs=lambda draw, N: (draw.normal(N),),
        oracle=np.sort,
        sizes={"N": 1 << 20},
        tiny={"N": 1031},
        peers={
            "numpy": lambda np, x: np.sort(x),
            "torch": lambda torch, x: torch.sort(x).values,
            "jax": lambda jax, x: jax.numpy.sort(x),
            "numba": "in_ascending_order",
        },
    ),
    Workload(
        "argsort 1 M",
        order,
        inputs=lambda draw, N: (draw.permutation(N),),
        oracle=np.argsort,
        sizes={"N": 1 << 20},
        tiny={"N": 1031},
        peers={
            "numpy": lambda np, x: np.argsort(x),
            "torch": lambda torch, x: torch.argsort(x),
            "jax": lambda jax, x: jax.numpy.argsort(x).astype(jax.numpy.int64),
            "numba": "ascending_order",
        },
    ),
    Workload(
        "scatter-add 16 M into 256",
        histogram,
        inputs=lambda draw, N: (draw.uniform(N), draw.integers(0, BINS, N)),
        oracle=lambda w, ids: np.bincount(ids, w, BINS),
        sizes={"N": 1 << 24},
        tiny={"N": 1013},
        ops=lambda N: N,
        tolerance=1e-2,  # of floats added one after another; ours are added in parts
        peers={
            "numpy": lambda np, w, ids: np.bincount(ids, w, BINS).astype(np.float32),
            "torch": lambda torch, w, ids: torch.zeros(BINS).index_add_(0, ids, w),
            "jax": lambda jax, w, ids: jax.numpy.zeros(BINS).at[ids].add(w),
            "numba": "histogram",
        },
    ),
    Workload(
        "normal random numbers 16 M",
        normals,
        inputs=lambda draw, N: (draw.normal(N),),
        oracle=np.zeros_like,
        sizes={"N": 1 << 24},
        tiny={"N": 1013},
        moved=lambda N: 4 * N,
        tolerance=7.0,  # every library has numbers of its own
        peers={
            "numpy": lambda np, x: np.random.default_rng(7).standard_normal(x.shape, np.float32),
            "torch": lambda torch, x: torch.randn(x.shape),
            "jax": lambda jax, x: jax.random.normal(jax.random.PRNGKey(7), x.shape),
            "numba": "normals",
        },
    ),
]
