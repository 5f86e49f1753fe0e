"""Norms, softmax and losses are one kernel, whichever axis they run along and whether ranges or axes are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from tests.one_kernel.single import SIZES, Array, everywhere, rand, single, wide

D = 37


@dataclass(frozen=True)
class Case:
    """A program, its arguments for S rows, and what float64 NumPy says."""

    name: str
    fn: Callable[..., Any]
    want: Callable[..., Any]
    args: Callable[[int], tuple[Array, ...]] = lambda S: (rand(S, D),)


def vectors(S: int) -> tuple[Array, ...]:
    return rand(S, D), rand(D, seed=1), rand(D, seed=2)


def images(S: int) -> tuple[Array, ...]:
    return (rand(3, 5, S, 4),)


def labelled(S: int) -> tuple[Array, ...]:
    return rand(S, D), np.arange(S) * 7 % D


# ---- what they mean --------------------------------------------------------------------------------------------------


def centred(x: Array, axis: Any) -> Array:
    return x - x.mean(axis=axis, keepdims=True)


def norm(x: Array, axis: Any = -1) -> Array:
    gap = centred(x, axis)
    return gap / np.sqrt((gap * gap).mean(axis=axis, keepdims=True) + 1e-5)


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def logsumexp(x: Array) -> Array:
    hi = x.max(axis=-1, keepdims=True, initial=-np.inf)
    hi = np.where(np.isfinite(hi), hi, 0)
    return np.log(np.exp(x - hi).sum(axis=-1, keepdims=True)) + hi


# ---- the same over ranges --------------------------------------------------------------------------------------------


def layer_norm(x: Any, w: Any, b: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    gap = x[i, j] - rk.mean(x[i, j], j)
    return rk.bufferize(gap * rk.rsqrt(rk.mean(gap * gap, j) + 1e-5) * w[j] + b[j], i, j)


def rms_norm(x: Any, w: Any, b: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j] * rk.rsqrt(rk.mean(x[i, j] ** 2, j) + 1e-5) * w[j] + b[j], i, j)


def statistics(x: Any) -> Any:
    n, c, y, z = rk.ranges(*x.shape)
    mean = rk.mean(x[n, c, y, z], n, y, z)
    return rk.bufferize(mean, c), rk.bufferize(rk.mean((x[n, c, y, z] - mean) ** 2, n, y, z), c)


def batch_norm(x: Any) -> Any:
    n, c, y, z = rk.ranges(*x.shape)
    gap = x[n, c, y, z] - rk.mean(x[n, c, y, z], n, y, z)
    return rk.bufferize(gap * rk.rsqrt(rk.mean(gap * gap, n, y, z) + 1e-5), n, c, y, z)


def log_softmax(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j] - rk.logsumexp(x[i, j], j), i, j)


def cross_entropy(x: Any, labels: Any) -> Any:
    b, c = rk.ranges(*x.shape)
    return rk.mean(rk.logsumexp(x[b, c], c) - x[b, labels[b]], b)


def centred_both_ways(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(x[i, j] - rk.mean(x[i, j], j) - rk.mean(x[i, j], i), i, j)


def softmax_columns(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    e = rk.exp(x[i, j] - rk.max(x[i, j], i))
    return rk.bufferize(e / rk.sum(e, i), i, j)


def axes_norm(x: Any, axis: Any = -1) -> Any:
    gap = x - rk.mean(x, axis=axis, keepdims=True)
    return gap * rk.rsqrt(rk.mean(gap * gap, axis=axis, keepdims=True) + 1e-5)


CASES = (
    Case("layer norm, ranges", layer_norm, lambda x, w, b: norm(x) * w + b, vectors),
    Case("layer norm", lambda x, w, b: axes_norm(x) * w + b, lambda x, w, b: norm(x) * w + b, vectors),
    Case("RMS norm, ranges", rms_norm, lambda x, w, b: x / np.sqrt((x * x).mean(1)[:, None] + 1e-5) * w + b, vectors),
    Case(
        "RMS norm",
        lambda x, w, b: x * rk.rsqrt(rk.mean(x * x, axis=-1, keepdims=True) + 1e-5) * w + b,
        lambda x, w, b: x / np.sqrt((x * x).mean(1)[:, None] + 1e-5) * w + b,
        vectors,
    ),
    Case("variance", lambda x: rk.var(x, axis=1), lambda x: x.var(axis=1)),
    Case("variance of columns", lambda x: rk.var(x, axis=0), lambda x: x.var(axis=0)),
    Case(
        "statistics",
        lambda x: (rk.mean(x, axis=(0, 2, 3)), rk.var(x, axis=(0, 2, 3))),
        lambda x: (x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))),
        images,
    ),
    Case("statistics, ranges", statistics, lambda x: (x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))), images),
    Case("batch norm", lambda x: axes_norm(x, (0, 2, 3)), lambda x: norm(x, (0, 2, 3)), images),
    Case("batch norm, ranges", batch_norm, lambda x: norm(x, (0, 2, 3)), images),
    Case("log-softmax", lambda x: x - rk.logsumexp(x, axis=-1, keepdims=True), lambda x: x - logsumexp(x)),
    Case("log-softmax, ranges", log_softmax, lambda x: x - logsumexp(x)),
    Case("log-sum-exp", lambda x: rk.logsumexp(x, axis=-1), lambda x: logsumexp(x)[:, 0]),
    Case(
        "cross-entropy",
        lambda x, labels: rk.mean(rk.logsumexp(x, axis=-1) - x[rk.arange(x.shape[0]), labels]),
        lambda x, labels: (logsumexp(x)[:, 0] - x[np.arange(len(x)), labels]).mean(),
        labelled,
    ),
    Case(
        "cross-entropy, ranges",
        cross_entropy,
        lambda x, labels: (logsumexp(x)[:, 0] - x[np.arange(len(x)), labels]).mean(),
        labelled,
    ),
    Case("softmax", lambda x: rk.softmax(x, axis=-1), softmax),
    Case("softmax of columns", lambda x: rk.softmax(x, axis=0), lambda x: softmax(x, 0)),
    Case("softmax of columns, ranges", softmax_columns, lambda x: softmax(x, 0)),
    Case("argmax", lambda x: rk.argmax(x, axis=-1), lambda x: x.argmax(axis=-1)),
    Case("argmax of softmax", lambda x: rk.softmax(x, axis=-1).argmax(axis=-1), lambda x: softmax(x).argmax(axis=-1)),
    Case("both", lambda x: (rk.max(x, axis=1), rk.argmax(x, axis=1)), lambda x: (x.max(axis=1), x.argmax(axis=1))),
    Case("centred both ways", lambda x: x - x.mean(axis=1, keepdims=True) - x.mean(axis=0),
         lambda x: x - x.mean(axis=1, keepdims=True) - x.mean(axis=0)),
    Case("centred both ways, ranges", centred_both_ways, lambda x: x - x.mean(axis=1, keepdims=True) - x.mean(axis=0)),
    Case(
        "masked mean",
        lambda x: rk.mean(x, axis=-1, where=x > 0),
        lambda x: np.where(x > 0, x, 0).sum(axis=-1) / (x > 0).sum(axis=-1),
    ),
    Case(
        "masked mean by hand",
        lambda x: rk.sum(rk.where(x > 0, x, 0), axis=-1) / rk.sum(x > 0, axis=-1),
        lambda x: np.where(x > 0, x, 0).sum(axis=-1) / (x > 0).sum(axis=-1),
    ),
    Case("unit rows", lambda x: x / rk.sqrt(rk.sum(x * x, axis=1, keepdims=True)),
         lambda x: x / np.sqrt((x * x).sum(axis=1, keepdims=True))),
)  # fmt: skip
NAMED = {"argnames": "case", "argvalues": CASES, "ids": [c.name for c in CASES]}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(**NAMED)
class TestOneKernel:
    def test_every_size(self, case: Case) -> None:
        for S in SIZES:
            args = case.args(S)
            single(case.fn, case.want(*wide(*args)), *args, most=S * D)

    def test_every_stage_and_schedule(self, case: Case) -> None:
        args = case.args(9)
        everywhere(case.fn, case.want(*wide(*args)), *args)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", [c for c in CASES if c.args is CASES[-1].args], ids=lambda c: c.name)
def test_values_that_are_large_and_are_none(case: Case) -> None:
    x = rand(12, D)
    x[1, 3], x[2, 4], x[3, 5], x[4], x[5, :9] = np.nan, np.inf, -np.inf, -np.inf, 1e18
    single(case.fn, case.want(x.astype(np.float64)), x, rtol=1e-3)


def test_several_results_of_one_row_share_it() -> None:
    """A row that is dear is computed once for all results, in one nest."""

    def fn(x: Any, w: Any) -> Any:
        s = x @ w
        p = rk.softmax(s, axis=-1)
        return rk.max(p, axis=-1), rk.argmax(s, axis=-1), rk.logsumexp(s, axis=-1)

    for S in (1, 7, 65):
        x, w = rand(S, D), rand(D, 11, seed=1)
        s = x.astype(np.float64) @ w
        why = single(fn, (softmax(s).max(axis=-1), s.argmax(axis=-1), logsumexp(s)[:, 0]), x, w, most=S * 11)
        assert "11 float32 (44 bytes)" in why
