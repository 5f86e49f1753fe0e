"""The demonstration: nearest-neighbour digits and causal attention, each one kernel, each checked against NumPy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import rangekit as rk
from rangekit.kernel import Kernel
from rangekit.lowered import Lowering
from rangekit.view.page import write_page

Array = np.ndarray[Any, np.dtype[Any]]


@rk.kernel
def nearest_label(test: Any, train: Any, labels: Any) -> Any:
    """The label of the training row nearest to each test row (squared Euclidean distance, first on ties)."""
    i, j, k = rk.ranges(test.shape[0], train.shape[0], test.shape[1])
    gap = test[i, k] - train[j, k]
    distance = rk.sum(gap * gap, k)
    return rk.bufferize(labels[rk.argmin(distance, j)], i)


@rk.kernel
def causal_attention(q: Any, k: Any, v: Any) -> Any:
    """Softmax attention in which query i sees keys 0 .. i; arrays are (batch, head, position, feature)."""
    B, H, S, D = q.shape
    b, h, i, j = rk.ranges(B, H, S, S)
    s = rk.sum(q[b, h, i] * k[b, h, j], axis=-1) * D**-0.5
    s = rk.where(j <= i, s, -rk.inf)
    p = rk.exp(s - rk.max(s, j))
    o = rk.sum(p * v[b, h, j], j) / rk.sum(p, j)
    return rk.bufferize(o, b, h, i)


def digits(train_rows: int = 1200) -> tuple[Array, Array, Array, Array]:
    """scikit-learn's bundled 8 x 8 handwritten digits: test rows, training rows, training labels, test labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = data.data.astype(np.float32)
    labels = data.target.astype(np.int64)
    return rows[train_rows:], rows[:train_rows], labels[:train_rows], labels[train_rows:]


def nearest_oracle(test: Array, train: Array, labels: Array) -> Array:
    """The same labels from float64 NumPy, one test row at a time."""
    wide = train.astype(np.float64)
    found = [np.argmin(((wide - row.astype(np.float64)) ** 2).sum(axis=1)) for row in test]
    return labels[np.array(found, dtype=np.int64)] if found else labels[:0]


def attention_oracle(q: Array, k: Array, v: Array) -> Array:
    """Causal attention in float64 NumPy."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    s = np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(q.shape[-1])
    s = np.where(np.tril(np.ones(s.shape[-2:], bool)), s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    return np.asarray(np.einsum("bhij,bhjd->bhid", p / p.sum(axis=-1, keepdims=True), v))


def run(folder: Path) -> None:
    """Run both, check both, print what they are and write the page. Raises ``AssertionError`` if a check fails."""
    test, train, labels, truth = digits()
    print(f"handwritten digits: {len(test)} test rows, {len(train)} training rows of {train.shape[1]} features\n")
    got, low = _shown(nearest_label, test, train, labels)
    wrong = int((got != nearest_oracle(test, train, labels)).sum())
    assert wrong == 0, f"{wrong} labels differ from the float64 oracle"
    assert len(low.kernels) == 1, "nearest neighbour should be one kernel"
    results = {"test", "train", "labels", "out"}
    biggest = max(low.kernels[0].buffers, key=lambda b: b.size)
    assert biggest.name in results, f"the largest buffer is {biggest.name}"
    print(f"accuracy {np.mean(got == truth):.2%}; all {len(got)} labels equal those of float64 NumPy\n")

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 4, 256, 64), dtype=np.float32) for _ in range(3))
    out, attention = _shown(causal_attention, q, k, v)
    error = float(np.abs(out - attention_oracle(q, k, v)).max())
    assert error < 1e-5, f"attention is off by {error}"
    assert len(attention.kernels) == 1, "attention should be one kernel"
    print(f"causal attention {q.shape}: largest error against float64 NumPy {error:.1e}\n")
    parts = [("Nearest neighbour", low), ("Causal attention", attention)]
    written = write_page(folder / "rangekit-demo.html", "rangekit demo", parts)
    print(f"both nests, with every access and its proof: {written}")


def _shown(fn: Kernel, *args: Array) -> tuple[Array, Lowering]:
    low = fn.lower(*args)
    print(low)
    result = fn(*args)
    start = time.perf_counter()
    fn(*args)
    seconds = time.perf_counter() - start
    kernel_info = low.kernels[0]
    print(f"{kernel_info.flops:,} floating-point operations, {kernel_info.bytes:,} bytes, {seconds * 1e3:.1f} ms")
    return result, low
