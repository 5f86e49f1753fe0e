"""Single passes against the several passes they come from: masks, data that hurts, every block size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.ops import Op
from rangekit.ir.uop import toposort
from rangekit.kernel import Kernel
from rangekit.lower.pipeline import Options

Array = np.ndarray[Any, Any]
S, D = 7, 3
INF, NAN = np.inf, np.nan


def kernel(fn: Callable[..., Any], block: int | None, device: str | None = None, strict: bool = False) -> Any:
    return Kernel(fn, (), device, Options(block=block, strict=strict))


def folds(fn: Callable[..., Any], *args: Any, block: int | None = 2, strict: bool = False) -> int:
    """How many folds the derived program has."""
    stage = kernel(fn, block, strict=strict).lower(*args)._program.lowered.stages["derive"]
    return sum(n.op is Op.FOLD for n in toposort(stage))


def report(fn: Callable[..., Any], *args: Any, block: int | None = 2) -> str:
    return str(kernel(fn, block).lower(*args).explain())


# ---- softmax-weighted sums -------------------------------------------------------------------------------------------


def masked(s: Any, v: Any, w: Any) -> Any:
    i, j = rk.ranges(*s.shape)
    t = rk.where(w[i, j], s[i, j], -rk.inf)
    p = rk.exp(t - rk.max(t, j))
    return rk.bufferize(rk.sum(p * v[j], j) / rk.sum(p, j), i)


def left_out(s: Any, v: Any, w: Any) -> Any:
    i, j = rk.ranges(*s.shape)
    c = w[i, j]
    p = rk.exp(s[i, j] - rk.max(s[i, j], j, where=c))
    return rk.bufferize(rk.sum(p * v[j], j, where=c) / rk.sum(p, j, where=c), i)


def normalised_first(s: Any, v: Any, w: Any) -> Any:
    """The weights divided by their sum before they weigh: that sum is taken out."""
    i, j = rk.ranges(*s.shape)
    t = rk.where(w[i, j], s[i, j], -rk.inf)
    p = rk.exp(t - rk.max(t, j))
    return rk.bufferize(rk.sum(p / rk.sum(p, j) * v[j], j), i)


def as_arrays(s: Any, v: Any, w: Any) -> Any:
    return rk.softmax(rk.where(w, s, -rk.inf), axis=-1) @ v


def least(s: Any, v: Any, w: Any) -> Any:
    """exp(min - s): the rule with signs reversed."""
    i, j = rk.ranges(*s.shape)
    t = rk.where(w[i, j], -s[i, j], rk.inf)
    p = rk.exp(-(t - rk.min(t, j)))
    return rk.bufferize(rk.sum(p * v[j], j) / rk.sum(p, j), i)


def scaled(s: Any, v: Any, w: Any) -> Any:
    i, j = rk.ranges(*s.shape)
    t = rk.where(w[i, j], s[i, j], -rk.inf)
    p = rk.exp((t - rk.max(t, j)) * 1.0)
    return rk.bufferize(rk.sum(v[j] * p, j) / rk.sum(p, j), i)


FORMS = [masked, left_out, normalised_first, as_arrays, least, scaled]


def several_passes(fn: Callable[..., Any], s: Array, v: Array, w: Array) -> Array:
    """The textbook's, in float64."""
    s, v = s.astype(np.float64), v.astype(np.float64)
    with np.errstate(all="ignore"):
        if fn is left_out:
            out = np.empty((len(s), v.shape[1]))
            for i, (row, keep) in enumerate(zip(s, w, strict=True)):
                kept, weighed = row[keep], v[keep]
                p = np.exp(kept - (kept.max() if keep.any() else -INF))
                out[i] = (p[:, None] * weighed).sum(0) / p.sum()
            return out
        t = np.where(w, s, -INF)
        p = np.exp(t - t.max(1, initial=-INF)[:, None])
        if fn in (normalised_first, as_arrays):
            return np.asarray(((p / p.sum(1)[:, None])[:, :, None] * v).sum(1))
        return np.asarray((p[:, :, None] * v).sum(1) / p.sum(1)[:, None])


def masks() -> dict[str, Array]:
    i, j = np.indices((S, S))
    return {"none": i >= 0, "causal": j <= i, "leading": j >= 3, "rows": (i % 3 != 0) & (j != i)}


def data() -> dict[str, tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    s, v = rng.standard_normal((S, S)).astype(np.float32), rng.standard_normal((S, D)).astype(np.float32)

    def put(at: tuple[int, ...], value: float, which: int = 0) -> tuple[Array, Array]:
        pair = s.copy(), v.copy()
        pair[which][at] = value
        return pair

    low = s.copy()
    low[:, :4] = -INF
    return {
        "plain": (s, v), "1e4": (s * 1e4, v), "1e36": (s * np.float32(1e36), v), "inf": put((2, 3), INF),
        "-inf": (low, v), "nan": put((4, 1), NAN), "nan last": put((4, 6), NAN), "v inf": put((5, 1), INF, 1),
        "v nan": put((0, 0), NAN, 1), "all -inf": (np.full_like(s, -INF), v),
    }  # fmt: skip


@pytest.mark.parametrize("fn", FORMS)
@pytest.mark.parametrize("mask", masks())
def test_one_pass_is_several(fn: Callable[..., Any], mask: str) -> None:
    w = masks()[mask]
    runs = {block: kernel(fn, block) for block in (1, 2, 3, 4, 6)}
    assert folds(fn, *data()["plain"], w) == 1
    for name, (s, v) in data().items():
        want = several_passes(fn, s, v, w)
        for block, run in runs.items():
            np.testing.assert_allclose(run(s, v, w), want, rtol=2e-6, atol=2e-6, err_msg=f"{name} {block}")


def test_the_interpreter_agrees() -> None:
    for fn in FORMS:
        for name in ("plain", "-inf", "nan"):
            s, v = data()[name]
            w = masks()["rows"]
            np.testing.assert_allclose(kernel(fn, 3, "python")(s, v, w), several_passes(fn, s, v, w), rtol=2e-6,
                                       atol=2e-6)  # fmt: skip


def sums_apart(s: Any, v: Any, w: Any) -> Any:
    """Not divided: a row without any key sums to 0 where it is left out, and to NaN where it is -inf."""
    i, j = rk.ranges(*s.shape)
    c = w[i, j]
    t = rk.where(c, s[i, j], -rk.inf)
    top = rk.max(s[i, j], j, where=c)
    left = rk.sum(rk.exp(s[i, j] - top) * v[j, 0], j, where=c)
    low = rk.sum(rk.exp(t - top) * v[j, 1], j)
    return rk.bufferize(left, i), rk.bufferize(low, i)


def sums_apart_where_known(s: Any, v: Any, w: Any) -> Any:
    i, j = rk.ranges(*s.shape)
    c = j + 2 < i
    top = rk.max(s[i, j], j, where=c)
    return rk.bufferize(rk.sum(rk.exp(s[i, j] - top) * v[j, 0], j, where=c), i)


def test_a_sum_of_nothing_is_zero() -> None:
    i, j = np.indices((S, S))
    runs = {block: kernel(sums_apart, block) for block in (1, 2, 3, 6)}
    known = {block: kernel(sums_apart_where_known, block) for block in (1, 2, 3, 6)}
    for name, (s, v) in data().items():
        x, wide = s.astype(np.float64), v.astype(np.float64)
        for w in (*masks().values(), j + 2 < i):
            with np.errstate(all="ignore"):
                t = np.where(w, x, -INF)
                p = np.exp(t - t.max(1)[:, None])
                left, low = np.where(w, p * wide[:, 0], 0).sum(1), (p * wide[:, 1]).sum(1)
            for block, run in runs.items():
                for got, want in zip(run(s, v, w), (left, low), strict=True):
                    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6, err_msg=f"{name} {block}")
        for block, run in known.items():
            np.testing.assert_allclose(run(s, v, w), left, rtol=2e-6, atol=2e-6, err_msg=f"{name} {block}")
    s, v = data()["plain"]
    assert folds(sums_apart, s, v, w) == folds(sums_apart_where_known, s, v, w) == 1
    assert "some" not in str(kernel(sums_apart_where_known, 2).lower(s, v, w))


# ---- attention, three ways -------------------------------------------------------------------------------------------


def attention(q: Any, k: Any, v: Any) -> Any:
    i, j = rk.ranges(len_of(q), len_of(k))
    s = rk.where(j >= 2, rk.sum(q[i] * k[j], axis=-1) * q.shape[1] ** -0.5, -rk.inf)
    p = rk.exp(s - rk.max(s, j))
    return rk.bufferize(rk.sum(p * v[j], j) / rk.sum(p, j), i)


def by_hand(q: Any, k: Any, v: Any) -> Any:
    i, j = rk.ranges(len_of(q), len_of(k))

    def step(j: Any, m: Any, l: Any, o: Any) -> Any:
        s = rk.where(j >= 2, rk.sum(q[i] * k[j], axis=-1) * q.shape[1] ** -0.5, -rk.inf)
        new = rk.maximum(m, s)
        safe = rk.where(rk.isfinite(new), new, 0.0)
        c, p = rk.exp(m - safe), rk.exp(s - safe)
        return new, l * c + p, o * c + p * v[j]

    _, l, o = rk.fold(j, (-rk.inf, 0.0, rk.zeros(q.shape[1])), step)
    return rk.bufferize(o / l, i)


def len_of(x: Any) -> int:
    return int(x.shape[0])


@pytest.mark.parametrize("size", [0, 1, 7, 64, 65, 200])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_attention_derived_by_hand_and_in_several_passes(size: int, dtype: Any) -> None:
    rng = np.random.default_rng(size)
    q, k, v = (rng.standard_normal((size, 8)).astype(dtype) for _ in range(3))
    wide = [x.astype(np.float64) for x in (q, k, v)]
    with np.errstate(all="ignore"):
        s = np.where(np.arange(size) >= 2, wide[0] @ wide[1].T / np.sqrt(8), -INF)
        p = np.exp(s - s.max(1, initial=-INF)[:, None])
        want = p @ wide[2] / p.sum(1)[:, None]
    close = {np.float32: 3e-6, np.float16: 4e-3}.get(dtype, 4e-2)
    results = [kernel(attention, block)(q, k, v) for block in (1, 16, 64, 256, None)]
    if dtype is np.float32:
        results.append(rk.kernel(by_hand)(q, k, v))
    for got in results:
        np.testing.assert_allclose(got.astype(np.float64), want, rtol=close, atol=close)
    if size > 16:
        assert folds(attention, q, k, v, block=16) == 1
        low = kernel(attention, 16).lower(q, k, v)
        assert len(low.kernels) == 1
        assert all(b.size < size * size for b in low.kernels[0].buffers if b.name not in "qkv")


# ---- what is left as it is -------------------------------------------------------------------------------------------


def no_rule(power: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    def fn(s: Any, v: Any, w: Any) -> Any:
        i, j = rk.ranges(*s.shape)
        return rk.bufferize(rk.sum(power(s[i, j], rk.max(s[i, j], j), v[j, 0]), j), i)

    return fn


@pytest.mark.parametrize(
    "power",
    [
        lambda s, m, t: rk.exp(2.0 * s - m),
        lambda s, m, t: rk.exp(s - m + t),
        lambda s, m, t: rk.exp(m - s),
        lambda s, m, t: rk.exp(-0.5 * (s - m)),
        lambda s, m, t: rk.exp(s - m) * (s - m),
        lambda s, m, t: rk.where(t > 0, rk.exp(s - m), 0.0),
        lambda s, m, t: s - m,
    ],
)
def test_what_the_rule_does_not_cover_stays_several_passes(power: Callable[[Any, Any, Any], Any]) -> None:
    s, v = data()["1e4"]
    w = masks()["none"]
    fn = no_rule(power)
    assert folds(fn, s, v, w) == 0
    assert "several passes" in report(fn, s, v, w)
    np.testing.assert_array_equal(kernel(fn, 2)(s, v, w), rk.kernel(fn)(s, v, w))


def test_conditions_that_differ_stay_several_passes() -> None:
    def fn(s: Any, v: Any, w: Any) -> Any:
        i, j = rk.ranges(*s.shape)
        top = rk.max(s[i, j], j, where=w[i, j])
        return rk.bufferize(rk.sum(rk.exp(s[i, j] - top) * v[j, 0], j, where=j <= i), i)

    s, v = data()["plain"]
    w = masks()["rows"]
    assert folds(fn, s, v, w) == 0 and "several passes" in report(fn, s, v, w)
    with np.errstate(all="ignore"):
        top = np.where(w, s, -INF).max(1).astype(np.float64)
        want = np.where(np.tri(S, dtype=bool), np.exp(s - top[:, None]) * v[:, 0], 0).sum(1)
    np.testing.assert_allclose(kernel(fn, 2)(s, v, w), want, rtol=2e-6)


def test_strict_derives_nothing() -> None:
    s, v = data()["plain"]
    assert folds(masked, s, v, masks()["none"], strict=True) == 0
    v = np.full_like(v, 3e38)
    s = np.zeros_like(s)
    s[:, -1] = 2000  # what a factor taken out of the sum would overflow
    out = rk.kernel(masked, strict=True)(s, v, masks()["none"])
    np.testing.assert_allclose(out, v[0, 0], rtol=1e-6)


def test_short_rows_stay_several_passes_and_long_ones_do_not() -> None:
    def total(x: Any) -> Any:
        return rk.logsumexp(x, axis=-1)

    short, long = np.ones((2, 100), np.float32), np.ones((2, 20000), np.float32)
    assert folds(total, short, block=None) == 0 and "fit the caches" in report(total, short, block=None)
    assert folds(total, long, block=None) == 1 and "derived: max over" in report(total, long, block=None)


# ---- log-sum-exp, cross-entropy, variance ----------------------------------------------------------------------------


def test_log_sum_exp_and_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((5, 33)) * 50).astype(np.float32)
    x[1] = -INF
    x[2, 4] = NAN
    x[3, 32] = INF
    labels = rng.integers(0, 33, 5)

    def entropy(x: Any, labels: Any) -> Any:
        b, c = rk.ranges(*x.shape)
        return rk.mean(rk.logsumexp(x[b, c], c) - x[b, labels[b]], b)

    with np.errstate(all="ignore"):
        top = x.astype(float).max(1)
        safe = np.where(np.isfinite(top), top, 0)
        want = np.log(np.exp(x - safe[:, None]).sum(1)) + safe
    for block in (1, 8, 32):
        got = kernel(lambda x: rk.logsumexp(x, axis=-1), block)(x)
        np.testing.assert_allclose(got, want, rtol=2e-6)
        one = kernel(entropy, block)
        good = x[[0, 4]]
        np.testing.assert_allclose(one(good, labels[[0, 4]]), (want[[0, 4]] - good[[0, 1], labels[[0, 4]]]).mean(),
                                   rtol=2e-6)  # fmt: skip
        assert len(one.lower(good, labels[[0, 4]]).kernels) == 1
        assert folds(entropy, good, labels[[0, 4]], block=block) == 1


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 65, 1000])
def test_variance_is_one_pass(n: int, offset: float) -> None:
    x = (np.random.default_rng(n).standard_normal((3, n)) + offset).astype(np.float32)

    def normalised(x: Any) -> Any:
        i, k = rk.ranges(*x.shape)
        return rk.bufferize((x[i, k] - rk.mean(x[i, k], k)) / rk.sqrt(rk.var(x[i, k], k) + 1e-5), i, k)

    wide = x.astype(float)
    spread = wide.var(1)
    for block in (1, 2, 16, 64):
        got = kernel(lambda x: rk.var(x, axis=-1), block)(x)
        np.testing.assert_allclose(got, spread, rtol=1e-5 if not offset else 2e-3, atol=1e-6)
        layer = kernel(normalised, block)(x)
        want = (wide - wide.mean(1)[:, None]) / np.sqrt(spread + 1e-5)[:, None]
        np.testing.assert_allclose(layer, want, rtol=1e-4, atol=1e-4 if not offset else 2e-2)
        assert folds(normalised, x, block=block) == (n > block)


def test_a_variance_reads_its_values_once() -> None:
    from rangekit.backends.python import trace

    x = np.random.default_rng(0).standard_normal((2, 48)).astype(np.float32)
    program = kernel(lambda x: rk.var(x, axis=-1), 16, "python").lower(x)._program
    (nest,) = program.lowered.nests
    out = np.zeros(2, np.float32)
    found = trace(nest, [x if p.op is Op.PARAM else out for p in nest.params])
    assert found.loads("x") == x.size
    np.testing.assert_allclose(out, x.astype(float).var(1), rtol=1e-5)
