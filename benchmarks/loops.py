"""What needs more than a reduction: the best of each row, running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import DIVIDE, EXP, Workload

K = 8


def router(x: Any) -> Any:
    i, e = rk.ranges(*x.shape)
    weights, experts = rk.topk(rk.softmax(x[i, e], e), K, e)
    return rk.bufferize(weights, i), rk.bufferize(experts, i)


def running(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(rk.cumulative_sum(x[i], i), i)


def _softmax(np: Any, x: Any) -> Any:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _numpy_router(np: Any, x: Any) -> Any:
    p = _softmax(np, x)
    best = np.argpartition(-p, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(p, best, 1), axis=1)
    best = np.take_along_axis(best, order, 1)
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
]
