"""Layers of networks, and what else is written around products: one kernel, from ranges and from axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from tests.one_kernel.single import SIZES, Array, everywhere, rand, single, wide
from tests.one_kernel.test_rows import axes_norm, norm, softmax


def check(fn: Any, want: Any, *args: Array, most: int | None = None, stages: bool = False, rtol: float = 2e-4) -> None:
    """One kernel; with ``stages``, the same at each stage and under random schedules too."""
    wanted = want(*wide(*args))
    single(fn, wanted, *args, most=most, rtol=rtol, atol=1e-4)
    if stages:
        everywhere(fn, wanted, *args, rtol=rtol, atol=1e-4)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + rk.tanh(0.7978845608 * (x + 0.044715 * x * x * x)))


def np_gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x * x * x))))


def np_silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


# ---- gates, embeddings, dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("S", SIZES)
def test_gates(S: int) -> None:
    x, a, b, c = rand(S, 13), rand(13, 29, seed=1), rand(13, 29, seed=2), rand(29, seed=3)
    check(lambda x: x * rk.sigmoid(x) * (x + 1), lambda x: np_silu(x) * (x + 1), x)
    check(gelu, np_gelu, x)
    check(lambda x, a, c: gelu(x @ a + c), lambda x, a, c: np_gelu(x @ a + c), x, a, c)

    def gated(x: Any, a: Any, b: Any) -> Any:
        up = x @ a
        return up * rk.sigmoid(up) * (x @ b)

    check(gated, lambda x, a, b: np_silu(x @ a) * (x @ b), x, a, b, stages=S == 7)

    def ranged(x: Any, a: Any, b: Any) -> Any:
        i, j, k = rk.ranges(*x.shape[:1], a.shape[1], x.shape[1])
        up = rk.sum(x[i, k] * a[k, j], k)
        return rk.bufferize(up * rk.sigmoid(up) * rk.sum(x[i, k] * b[k, j], k), i, j)

    check(ranged, lambda x, a, b: np_silu(x @ a) * (x @ b), x, a, b)


@pytest.mark.parametrize("S", SIZES)
def test_embeddings(S: int) -> None:
    table, places, w = rand(50, 13), rand(S, 13, seed=1), rand(13, seed=2)
    ids = np.arange(3 * S).reshape(3, S) * 7 % 50
    check(lambda t, i: t[i], lambda t, i: t[i], table, ids)
    check(lambda t, i, p: t[i] + p, lambda t, i, p: t[i] + p, table, ids, places)

    def axes(t: Any, i: Any, p: Any, w: Any) -> Any:
        return axes_norm(t[i] + p) * w

    def ranged(t: Any, ids: Any, p: Any, w: Any) -> Any:
        b, s, d = rk.ranges(*ids.shape, t.shape[1])
        x = t[ids[b, s], d] + p[s, d]
        gap = x - rk.mean(x, d)
        return rk.bufferize(gap * rk.rsqrt(rk.mean(gap * gap, d) + 1e-5) * w[d], b, s, d)

    for fn in (axes, ranged):
        check(fn, lambda t, i, p, w: norm(t[i] + p) * w, table, ids, places, w, stages=S == 7)


@pytest.mark.parametrize("S", SIZES)
def test_dropout(S: int) -> None:
    x = rand(S, 13)
    keep = rk.random.bernoulli(7, 0.75, x.shape).numpy()
    drawn = rk.random.uniform(7, x.shape).numpy()
    check(lambda x: rk.where(rk.random.bernoulli(7, 0.75, x.shape), x / 0.75, 0.0),
          lambda x: np.where(keep, x / 0.75, 0), x, stages=S == 7)  # fmt: skip
    check(
        lambda x: rk.where(rk.random.uniform(7, x.shape) < 0.5, x * 2, 0.0),
        lambda x: np.where(drawn < 0.5, 2 * x, 0),
        x,
    )
    check(lambda x: rk.random.bernoulli(7, 0.75, x.shape) * rk.softmax(x, axis=-1), lambda x: keep * softmax(x), x)


# ---- places ----------------------------------------------------------------------------------------------------------


def turned(x: Array) -> Array:
    S, D = x.shape[-2:]
    angle = np.arange(S)[:, None] * np.exp(np.arange(D // 2) * (-9.0 / D))
    z = (x[..., : D // 2] + 1j * x[..., D // 2 :]) * np.exp(1j * angle)
    return np.concatenate((z.real, z.imag), axis=-1)


@pytest.mark.parametrize("S", SIZES)
def test_rotary_embedding(S: int) -> None:
    x = rand(2, 3, S, 6)

    def axes(x: Any) -> Any:
        S, D = x.shape[-2:]
        angle = rk.arange(S)[:, None] * rk.exp(rk.arange(D // 2) * (-9.0 / D))
        a, b = x[..., : D // 2], x[..., D // 2 :]
        c, s = rk.cos(angle), rk.sin(angle)
        return rk.concat((a * c - b * s, a * s + b * c), axis=-1)

    def halves(x: Any) -> Any:
        S, D = x.shape[-2:]
        angle = rk.arange(S)[:, None] * rk.exp((rk.arange(D) % (D // 2)) * (-9.0 / D))
        other = rk.concat((-x[..., D // 2 :], x[..., : D // 2]), axis=-1)
        return x * rk.cos(angle) + other * rk.sin(angle)

    def ranged(x: Any) -> Any:
        b, h, s, d = rk.ranges(*x.shape)
        half = x.shape[-1] // 2
        angle = s * rk.exp((d % half) * (-9.0 / (2 * half)))
        other = x[b, h, s, (d + half) % (2 * half)]
        return rk.bufferize(
            x[b, h, s, d] * rk.cos(angle) + rk.where(d < half, -other, other) * rk.sin(angle), b, h, s, d
        )

    for fn in (axes, halves, ranged):
        check(fn, turned, x, most=S * 3, stages=S == 7, rtol=1e-3)


def test_rotary_embedding_of_neighbours() -> None:
    def fn(x: Any, c: Any, s: Any) -> Any:
        pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        a, b = pairs[..., 0], pairs[..., 1]
        return rk.stack((a * c - b * s, a * s + b * c), axis=-1).reshape(x.shape)

    def want(x: Array, c: Array, s: Array) -> Array:
        z = (x[..., ::2] + 1j * x[..., 1::2]) * (c + 1j * s)
        return np.stack((z.real, z.imag), axis=-1).reshape(x.shape)

    for S in (1, 7, 65):
        check(fn, want, rand(2, S, 6), rand(S, 3, seed=1), rand(S, 3, seed=2), stages=S == 7)


# ---- images ----------------------------------------------------------------------------------------------------------


def convolved(x: Array, w: Array) -> Array:
    n, _, height, width = x.shape
    p = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, len(w), height, width))
    for y, z in np.ndindex(height, width):
        out[:, :, y, z] = np.einsum("ncrs,kcrs->nk", p[:, :, y : y + 3, z : z + 3], w)
    return out


def conv(x: Any, w: Any, b: Any) -> Any:
    N, C, H, W = x.shape
    n, k, y, z, c, r, s = rk.ranges(N, w.shape[0], H, W, C, 3, 3)
    i, j = y + r - 1, z + s - 1
    inside = (i >= 0) & (i < H) & (j >= 0) & (j < W)
    total = rk.sum(rk.where(inside, x[n, c, i, j], 0) * w[k, c, r, s], c, r, s)
    return rk.bufferize(rk.maximum(total + b[k], 0), n, k, y, z)


def axes_conv(x: Any, w: Any, b: Any) -> Any:
    H, W = x.shape[2:]
    p = rk.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    taps = [rk.tensordot(w[:, :, r, s], p[:, :, r : r + H, s : s + W], axes=((1,), (1,)))
            for r in range(3) for s in range(3)]  # fmt: skip
    return rk.maximum(sum(taps[1:], taps[0]).permute_dims(1, 0, 2, 3) + b[:, None, None], 0)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("fn", [conv, axes_conv])
def test_convolution(fn: Any, size: int) -> None:
    x, w, b = rand(2, 3, size, 5), rand(4, 3, 3, 3, seed=1), rand(4, seed=2)
    check(fn, lambda x, w, b: np.maximum(convolved(x, w) + b[:, None, None], 0), x, w, b, stages=size == 2)
    if size == 12:

        def pooled(x: Any, w: Any, b: Any) -> Any:
            return fn(x, w, b)[..., :4].reshape(2, 4, 6, 2, 2, 2).max(axis=(3, 5))

        def want(x: Array, w: Array, b: Array) -> Array:
            whole = np.maximum(convolved(x, w) + b[:, None, None], 0)
            return np.asarray(whole[..., :4].reshape(2, 4, 6, 2, 2, 2).max(axis=(3, 5)))

        check(pooled, want, x, w, b)


@pytest.mark.parametrize("size", [0, 2, 6, 14])
def test_pooling(size: int) -> None:
    x = rand(2, 3, size, 4)

    def ranged(x: Any) -> Any:
        n, c, y, z, r, s = rk.ranges(2, 3, size // 2, 2, 2, 2)
        return rk.bufferize(rk.max(x[n, c, 2 * y + r, 2 * z + s], r, s), n, c, y, z)

    def want(x: Array) -> Array:
        return x.reshape(2, 3, size // 2, 2, 2, 2).max(axis=(3, 5), initial=-np.inf)

    check(ranged, want, x, stages=size == 6)
    check(lambda x: x.reshape(2, 3, size // 2, 2, 2, 2).max(axis=(3, 5)), want, x)


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("S", SIZES)
def test_softmax_of_and_before_products(S: int) -> None:
    x, w, u = rand(S, 13), rand(13, 11, seed=1), rand(11, 9, seed=2)
    check(lambda x, w: rk.softmax(x, axis=-1) @ w, lambda x, w: softmax(x) @ w, x, w, most=S * 11, stages=S == 7)
    check(lambda x, w: rk.softmax(x @ w, axis=-1), lambda x, w: softmax(x @ w), x, w, most=S * 11)
    check(lambda x, w, u: rk.softmax(x @ w, axis=-1) @ u, lambda x, w, u: softmax(x @ w) @ u, x, w, u, most=S * 11)
    check(lambda x, w: axes_norm(x) @ w, lambda x, w: norm(x) @ w, x, w, most=S * 11)

    def experts(x: Any, gate: Any, w: Any) -> Any:
        weight = rk.softmax(x @ gate, axis=-1)
        best = rk.argmax(weight, axis=-1)
        return rk.max(weight, axis=-1)[:, None] * (x[:, None, :] @ w[best])[:, 0]

    def want(x: Array, gate: Array, w: Array) -> Array:
        weight = softmax(x @ gate)
        best = weight.argmax(axis=-1)
        return weight.max(axis=-1, initial=0)[:, None] * np.einsum("sd,sde->se", x, w[best])

    check(experts, want, x, w, rand(11, 13, 5, seed=3), most=S * 11)


@pytest.mark.parametrize("S", SIZES)
def test_diamonds(S: int) -> None:
    """A dear value that is used twice, along rows and along columns."""
    x, w = rand(S, 13), rand(13, 11, seed=1)

    def rows(x: Any, w: Any) -> Any:
        e = rk.exp(x @ w)
        return e / (1 + rk.sum(e, axis=-1, keepdims=True))

    def columns(x: Any) -> Any:
        e = rk.exp(x)
        return e * rk.max(e, axis=0) + e

    def join(x: Any, w: Any) -> Any:
        e = rk.softmax(x @ w, axis=-1)
        return rk.tanh(e) + rk.sin(e)

    def np_rows(x: Array, w: Array) -> Array:
        e = np.exp(x @ w)
        return np.asarray(e / (1 + e.sum(axis=-1, keepdims=True)))

    check(rows, np_rows, x, w, most=S * 11, stages=S == 7)
    check(columns, lambda x: np.exp(x) * np.exp(x).max(axis=0, initial=0) + np.exp(x), x, stages=S == 7)
    check(join, lambda x, w: np.tanh(softmax(x @ w)) + np.sin(softmax(x @ w)), x, w, most=S * 11)


@pytest.mark.parametrize("S", SIZES)
def test_nearest_centres(S: int) -> None:
    x, c = rand(S, 5), rand(9, 5, seed=1)

    def want(x: Array, c: Array) -> Array:
        return ((x[:, None] - c) ** 2).sum(axis=-1).argmin(axis=-1)

    def ranged(x: Any, c: Any) -> Any:
        i, j, k = rk.ranges(x.shape[0], *c.shape)
        return rk.bufferize(rk.argmin(rk.sum((x[i, k] - c[j, k]) ** 2, k), j), i)

    def products(x: Any, c: Any) -> Any:
        i, j, k = rk.ranges(x.shape[0], *c.shape)
        return rk.bufferize(rk.argmin(rk.sum(c[j, k] ** 2, k) - 2 * rk.sum(x[i, k] * c[j, k], k), j), i)

    check(ranged, want, x, c, stages=S == 7)
    check(products, want, x, c, most=S * 9, stages=S == 7)
    check(lambda x, c: rk.argmin(((x[:, None] - c) ** 2).sum(axis=-1), axis=-1), want, x, c, most=S * 9)
    check(lambda x, c: rk.argmin((x * x).sum(axis=1)[:, None] - 2 * x @ c.T + (c * c).sum(axis=1), axis=-1), want, x, c,
          most=S * 9)  # fmt: skip

    def cosines(x: Any, c: Any) -> Any:
        i, j, k = rk.ranges(x.shape[0], *c.shape)
        squares = rk.sum(x[i, k] ** 2, k) * rk.sum(c[j, k] ** 2, k)
        return rk.bufferize(rk.sum(x[i, k] * c[j, k], k) * rk.rsqrt(squares), i, j)

    for fn in (cosines, lambda x, c: (x / rk.sqrt((x * x).sum(axis=1)[:, None]))
               @ (c / rk.sqrt((c * c).sum(axis=1)[:, None])).T):  # fmt: skip
        check(fn, lambda x, c: (x @ c.T) / np.sqrt((x * x).sum(axis=1)[:, None] * (c * c).sum(axis=1)), x, c)


@pytest.mark.parametrize("S", SIZES)
def test_sums_of_outer_products(S: int) -> None:
    x, y = rand(S, 5), rand(S, 7, seed=1)

    def ranged(x: Any, y: Any) -> Any:
        n, i, j = rk.ranges(*x.shape, y.shape[1])
        return rk.bufferize(rk.sum(x[n, i] * y[n, j], n), i, j)

    for fn in (ranged, lambda x, y: rk.sum(x[:, :, None] * y[:, None, :], axis=0), lambda x, y: x.T @ y):
        check(fn, lambda x, y: x.T @ y, x, y, most=35)
    check(lambda x, w, y: (x + y @ w, axes_norm(x + y @ w)), lambda x, w, y: (x + y @ w, norm(x + y @ w)), x,
          rand(7, 5, seed=2), y, stages=S == 7)  # fmt: skip
