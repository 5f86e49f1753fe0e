"""A mixture of experts: each row goes through the few of many small networks that a router picks for it.

Rows are put into groups of one expert each, in parts of a few rows; blocks of parts take turns with that expert's
matrices. How many parts a block uses only data knows: those it does not are left out of the sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import EXP, SIGMOID, Workload

K = 8  # experts for each row
ROWS = 8  # of a part


def mixture(x: Any, router: Any, up: Any, down: Any) -> Any:
    T, D = x.shape
    E, _, F = up.shape
    t, c, e, d, f = rk.ranges(T, K, E, D, F)
    p = rk.Range(T * K)  # pairs of a row and its choices
    scores = rk.bufferize(rk.sum(x[t, d] * router[d, e], d), t, e)
    best, experts = rk.topk(rk.softmax(scores[t, e], e), K, e)
    weights = rk.bufferize(best / rk.sum(best), t)
    chosen = rk.bufferize(experts, t).in_range(0, E)[p // K, p % K]

    block = ROWS * min(32, max(2, 3 * T * K // (2 * E * ROWS)))  # rows: half as many again as the mean group has
    blocks = (T * K + E * (block - 1)) // block  # the most there can be
    b, q, i = rk.ranges(blocks, block // ROWS, ROWS)
    counts = rk.scatter(rk.zeros(E, dtype=rk.int64), chosen, 1, p)
    ends = rk.cumulative_sum((counts + block - 1) // block, axis=0)
    starts = ends - (counts + block - 1) // block
    _, rank = rk.scan(p, rk.zeros(E, dtype=rk.int64), lambda p, n: (n + (rk.arange(E) == chosen), n[chosen]))
    place = rk.bufferize(starts[chosen] * block + rank, p).in_range(0, blocks * block)
    rows = rk.scatter(rk.zeros(blocks * block, dtype=rk.int64), place[p], p // K, p, op=None, unique=True)
    row = rows.in_range(0, T)[b * block + q * ROWS + i]
    owner = rk.bufferize(rk.minimum(rk.sum(ends[e] <= b, e), E - 1), b).in_range(0, E)[b]
    left = rk.bufferize(counts[owner] - (b - starts[owner]) * block, b)[b]  # of the group, for this block and later

    used = (b < ends[E - 1]) & (q * ROWS < left)
    inner = rk.sum(x[row, d] * up[owner, d, f], d, where=used)
    hidden = rk.bufferize(inner * rk.sigmoid(inner), b, q, i, f)
    outer = rk.bufferize(rk.sum(hidden[b, q, i, f] * down[owner, f, d], f, where=used), b, q, i, d)
    at = place[t * K + c]
    return rk.bufferize(rk.sum(weights[t, c] * outer[at // block, at // ROWS % (block // ROWS), at % ROWS, d], c), t, d)


def _inputs(draw: Any, T: int, D: int, F: int, E: int) -> tuple[Any, ...]:
    router, up, down = draw.normal(D, E), draw.normal(E, D, F), draw.normal(E, F, D)
    up *= np.float32(D**-0.5)
    down *= np.float32(F**-0.5)
    return draw.normal(T, D), router * np.float32(D**-0.5), up, down


def _loop(np: Any, x: Any, router: Any, up: Any, down: Any) -> Any:
    scores = x @ router
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    experts = np.argsort(-p, axis=1, kind="stable")[:, :K]
    weights = np.take_along_axis(p, experts, 1)
    weights /= weights.sum(1, keepdims=True)
    out = np.zeros_like(x)
    for n in range(router.shape[1]):
        t, c = np.nonzero(experts == n)
        inner = x[t] @ up[n]
        out[t] += weights[t, c][:, None] * ((inner / (1 + np.exp(-inner))) @ down[n])
    return out


# ---- torch: one expert after another, groups one after another, its product of groups; the fastest counts ------------


def _torch_route(torch: Any, x: Any, router: Any) -> tuple[Any, Any]:
    weights, experts = torch.topk(torch.softmax(x @ router, 1), K, dim=1)
    return weights / weights.sum(1, keepdim=True), experts


def _torch_loop(torch: Any, x: Any, router: Any, up: Any, down: Any) -> Any:
    weights, experts = _torch_route(torch, x, router)
    out = torch.zeros_like(x)
    for n in range(up.shape[0]):
        t, c = torch.where(experts == n)
        inner = torch.nn.functional.silu(x.index_select(0, t) @ up[n], inplace=True)
        out.index_add_(0, t, (inner @ down[n]).mul_(weights[t, c][:, None]))
    return out


def _torch_groups(torch: Any, x: Any, router: Any, up: Any, down: Any) -> Any:
    weights, experts = _torch_route(torch, x, router)
    order = torch.argsort(experts.view(-1))
    counts = torch.bincount(experts.view(-1), minlength=up.shape[0]).tolist()
    given = x.index_select(0, order // K)
    found, first = torch.empty_like(given), 0
    for n, count in enumerate(counts):
        mine = slice(first, first + count)
        torch.mm(torch.nn.functional.silu(given[mine] @ up[n], inplace=True), down[n], out=found[mine])
        first += count
    return _torch_joined(torch, weights, order, found)


def _torch_grouped(torch: Any, x: Any, router: Any, up: Any, down: Any) -> Any:
    weights, experts = _torch_route(torch, x, router)
    order = torch.argsort(experts.view(-1))
    ends = torch.cumsum(torch.bincount(experts.view(-1), minlength=up.shape[0]), 0).to(torch.int32)
    inner = torch._grouped_mm(x.index_select(0, order // K), up, offs=ends)
    found = torch._grouped_mm(torch.nn.functional.silu(inner, inplace=True), down, offs=ends)
    return _torch_joined(torch, weights, order, found)


def _torch_joined(torch: Any, weights: Any, order: Any, found: Any) -> Any:
    back = torch.empty_like(found)
    back.index_copy_(0, order, found)
    return torch.bmm(weights[:, None, :], back.view(*weights.shape, -1))[:, 0]


def _fastest(*variants: Callable[..., Any]) -> Callable[..., Any]:
    """The variant that is fastest for these shapes, found by the first call."""
    found: dict[Any, Callable[..., Any]] = {}

    def seconds(fn: Callable[..., Any], args: tuple[Any, ...]) -> float:
        fn(*args)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            fn(*args)
            times.append(time.perf_counter() - start)
        return min(times)

    def run(lib: Any, *args: Any) -> Any:
        key = tuple(tuple(a.shape) for a in args)
        if key not in found:
            found[key] = min(variants, key=lambda fn: seconds(fn, (lib, *args)))
        return found[key](lib, *args)

    return run


def _jax(jax: Any, x: Any, router: Any, up: Any, down: Any) -> Any:
    weights, experts = jax.lax.top_k(jax.nn.softmax(x @ router, axis=1), K)
    weights = weights / weights.sum(1, keepdims=True)
    order = jax.numpy.argsort(experts.reshape(-1))
    counts = jax.numpy.bincount(experts.reshape(-1), length=up.shape[0]).astype(jax.numpy.int32)
    inner = jax.nn.silu(jax.lax.ragged_dot(x[order // K], up, counts))
    found = jax.lax.ragged_dot(inner, down, counts)
    back = jax.numpy.zeros_like(found).at[order].set(found)
    return (weights[:, :, None] * back.reshape(*weights.shape, -1)).sum(1)


_MIXTURE = Workload(
    "mixture of experts, 8 of 64, 512 rows, 512→1024",
    mixture,
    inputs=_inputs,
    oracle=lambda *args: _loop(np, *args),
    sizes={"T": 512, "D": 512, "F": 1024, "E": 64},
    tiny={"T": 19, "D": 12, "F": 7, "E": 9},
    ops=lambda T, D, F, E: T * (D * E + E * (EXP + 5 * K) + K * F * (2 * D + SIGMOID)),
    peers={
        "numpy": _loop,
        "torch": _fastest(_torch_loop, _torch_groups, _torch_grouped),
        "jax": _jax,
    },
)

MIXTURES = [
    _MIXTURE,
    replace(
        _MIXTURE,
        name="mixture of experts, 8 of 64, 64 rows, 512→512",
        sizes={"T": 64, "D": 512, "F": 512, "E": 64},
    ),
    replace(
        _MIXTURE,
        name="mixture of experts, 8 of 64, 4096 rows, 512→256",
        sizes={"T": 4096, "D": 512, "F": 256, "E": 64},
    ),
]
