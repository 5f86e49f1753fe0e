"""Thirty kernels that are in no table, no test and no fit: what the default schedule is held against, tuned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import Array, Draw


@dataclass(frozen=True)
class Unseen:
    """A kernel and its arguments."""

    name: str
    fn: Callable[..., Any]
    inputs: Callable[[Draw], tuple[Array, ...]]


def _gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + rk.erf(x * 0.70710678))


def _standardised(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    mean = rk.sum(x[i, j], j) / x.shape[1]
    gap = x[i, j] - mean
    return rk.bufferize(gap / rk.sqrt(rk.sum(gap * gap, j) / x.shape[1] + 1e-6), i, j)


def _pairwise(x: Any, y: Any) -> Any:
    i, j, k = rk.ranges(x.shape[0], y.shape[0], x.shape[1])
    return rk.bufferize(rk.sum(rk.abs(x[i, k] - y[j, k]), k), i, j)


def _heat(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0] - 2, x.shape[1] - 2)
    c = x[i + 1, j + 1]
    around = x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2]
    return rk.bufferize(c + 0.1 * (around - 4.0 * c), i, j)


def _blur(x: Any, w: Any) -> Any:
    i, j, a, b = rk.ranges(x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1, *w.shape)
    return rk.bufferize(rk.sum(x[i + a, j + b] * w[a, b], a, b), i, j)


def _bilinear(x: Any, w: Any, y: Any) -> Any:
    n, i, j = rk.ranges(x.shape[0], *w.shape)
    return rk.bufferize(rk.sum(x[n, i] * w[i, j] * y[n, j], i, j), n)


def _depthwise(x: Any, w: Any) -> Any:
    c, i, j, a, b = rk.ranges(x.shape[0], x.shape[1] - 2, x.shape[2] - 2, 3, 3)
    return rk.bufferize(rk.sum(x[c, i + a, j + b] * w[c, a, b], a, b), c, i, j)


def _pool(x: Any) -> Any:
    c, i, j, a, b = rk.ranges(x.shape[0], x.shape[1] // 2, x.shape[2] // 2, 2, 2)
    return rk.bufferize(rk.max(x[c, i * 2 + a, j * 2 + b], a, b), c, i, j)


def _gather_sum(table: Any, ids: Any) -> Any:
    n, k, d = rk.ranges(*ids.shape, table.shape[1])
    return rk.bufferize(rk.sum(table[ids[n, k].in_range(0, table.shape[0]), d], k), n, d)


def _cosine(x: Any, y: Any) -> Any:
    i, k = rk.ranges(*x.shape)
    dot, a, b = (rk.sum(p, k) for p in (x[i, k] * y[i, k], x[i, k] * x[i, k], y[i, k] * y[i, k]))
    return rk.bufferize(dot / rk.sqrt(a * b), i)


def _attention_scores(q: Any, k: Any) -> Any:
    h, i, j, d = rk.ranges(q.shape[0], q.shape[1], k.shape[1], q.shape[2])
    return rk.bufferize(rk.sum(q[h, i, d] * k[h, j, d], d) * 0.125, h, i, j)


def _mlp(x: Any, a: Any, b: Any) -> Any:
    return rk.tanh(x @ a) @ b


def _gram(x: Any) -> Any:
    return x.mT @ x


def _trace_like(x: Any, y: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.sum(x[i, j] * y[j, i], i, j)


def _upsampled(x: Any) -> Any:
    i, j = rk.ranges(x.shape[0] * 2, x.shape[1] * 2)
    return rk.bufferize(x[i // 2, j // 2], i, j)


def _interleaved(x: Any, y: Any) -> Any:
    i = rk.Range(2 * x.shape[0])
    return rk.bufferize(rk.where(i % 2 == 0, x[i // 2], y[i // 2]), i)


def _lower(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.sum(x[i, j], j, where=j <= i), i)


def _normal(*shape: int, dtype: Any = np.float32) -> Callable[[Draw], Array]:
    return lambda draw: draw.normal(*shape, dtype=dtype)


def _args(*each: Callable[[Draw], Array]) -> Callable[[Draw], tuple[Array, ...]]:
    return lambda draw: tuple(one(draw) for one in each)


def _ids(rows: int, *shape: int) -> Callable[[Draw], Array]:
    return lambda draw: draw.integers(0, rows, *shape)


UNSEEN = (
    Unseen("gelu 2000×1500", _gelu, _args(_normal(2000, 1500))),
    Unseen("rows standardised 3000×700", _standardised, _args(_normal(3000, 700))),
    Unseen("Manhattan distances 700×600×24", _pairwise, _args(_normal(700, 24), _normal(600, 24))),
    Unseen("heat step 2500×1800", _heat, _args(_normal(2500, 1800))),
    Unseen("7×7 filter 900×1100", _blur, _args(_normal(900, 1100), _normal(7, 7))),
    Unseen("bilinear form 500×60×80", _bilinear, _args(_normal(500, 60), _normal(60, 80), _normal(500, 80))),
    Unseen("depthwise 3×3 96×114²", _depthwise, _args(_normal(96, 114, 114), _normal(96, 3, 3))),
    Unseen("2×2 pooling 128×112²", _pool, _args(_normal(128, 112, 112))),
    Unseen("bags of embeddings 3000×12 of 9000×96", _gather_sum, _args(_normal(9000, 96), _ids(9000, 3000, 12))),
    Unseen("cosines 5000×300", _cosine, _args(_normal(5000, 300), _normal(5000, 300))),
    Unseen("scores 12×384²×64", _attention_scores, _args(_normal(12, 384, 64), _normal(12, 384, 64))),
    Unseen("two layers 300×200×120×50", _mlp, _args(_normal(300, 200), _normal(200, 120), _normal(120, 50))),
    Unseen("Gram matrix 3000×150", _gram, _args(_normal(3000, 150))),
    Unseen("Σ x·yᵀ 1800²", _trace_like, _args(_normal(1800, 1800), _normal(1800, 1800))),
    Unseen("doubled image 1100×900", _upsampled, _args(_normal(1100, 900))),
    Unseen("interleaved 3 M", _interleaved, _args(_normal(3_000_000), _normal(3_000_000))),
    Unseen("lower triangle's rows 2200²", _lower, _args(_normal(2200, 2200))),
    Unseen("product 300×500×700", lambda a, b: a @ b, _args(_normal(300, 500), _normal(500, 700))),
    Unseen("product 40×3000×90", lambda a, b: a @ b, _args(_normal(40, 3000), _normal(3000, 90))),
    Unseen("product float64 257³", lambda a, b: a @ b, _args(*[_normal(257, 257, dtype=np.float64)] * 2)),
    Unseen("transposed matrix-vector 3000×2000", lambda a, x: x @ a, _args(_normal(3000, 2000), _normal(3000))),
    Unseen("column maxima 2600×1700", lambda x: rk.max(x, axis=0), _args(_normal(2600, 1700))),
    Unseen("column variances 4000×500", lambda x: rk.var(x, axis=0), _args(_normal(4000, 500))),
    Unseen("mean over the middle 60×500×200", lambda x: rk.mean(x, axis=1), _args(_normal(60, 500, 200))),
    Unseen("log-softmax 1200×3000", lambda x: x - rk.logsumexp(x, axis=-1, keepdims=True), _args(_normal(1200, 3000))),
    Unseen("softmax over columns 1500×1100", lambda x: rk.softmax(x, axis=0), _args(_normal(1500, 1100))),
    Unseen("axes 0 and 2 swapped 120×130×140", lambda x: rk.permute_dims(x, (2, 1, 0)), _args(_normal(120, 130, 140))),
    Unseen("outer product 2000×1700", lambda x, y: rk.outer(x, y), _args(_normal(2000), _normal(1700))),
    Unseen("norms of float64 rows 4000×400", lambda x: rk.sqrt(rk.sum(x * x, axis=1)),
           _args(_normal(4000, 400, dtype=np.float64))),
    Unseen("least of each row 6000×250", lambda x: rk.argmin(x, axis=1), _args(_normal(6000, 250))),
)  # fmt: skip
assert len(UNSEEN) == 30
