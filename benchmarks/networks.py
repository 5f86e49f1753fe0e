"""Attention in its three-pass textbook form, and convolution from the plain seven loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.workload import EXP, Workload


def attention(q: Any, k: Any, v: Any) -> Any:
    B, H, S, D = q.shape
    b, h, i, j, e, d = rk.ranges(B, H, S, S, D, D)
    s = rk.sum(q[b, h, i, e] * k[b, h, j, e], e) * D**-0.5
    p = rk.exp(s - rk.max(s, j))
    return rk.bufferize(rk.sum(p * v[b, h, j, d], j) / rk.sum(p, j), b, h, i, d)


def causal_by_infinity(q: Any, k: Any, v: Any) -> Any:
    B, H, S, D = q.shape
    b, h, i, j, e, d = rk.ranges(B, H, S, S, D, D)
    s = rk.sum(q[b, h, i, e] * k[b, h, j, e], e) * D**-0.5
    s = rk.where(j <= i, s, -rk.inf)
    p = rk.exp(s - rk.max(s, j))
    return rk.bufferize(rk.sum(p * v[b, h, j, d], j) / rk.sum(p, j), b, h, i, d)


def causal_by_where(q: Any, k: Any, v: Any) -> Any:
    B, H, S, D = q.shape
    b, h, i, j, e, d = rk.ranges(B, H, S, S, D, D)
    s = rk.sum(q[b, h, i, e] * k[b, h, j, e], e) * D**-0.5
    p = rk.exp(s - rk.max(s, j, where=j <= i))
    o = rk.sum(p * v[b, h, j, d], j, where=j <= i) / rk.sum(p, j, where=j <= i)
    return rk.bufferize(o, b, h, i, d)


def conv2d(x: Any, w: Any) -> Any:
    N, C, H, W = x.shape
    K, _, Y, X = w.shape
    n, k, y, x_, c, ky, kx = rk.ranges(N, K, H - Y + 1, W - X + 1, C, Y, X)
    return rk.bufferize(rk.sum(x[n, c, y + ky, x_ + kx] * w[k, c, ky, kx], c, ky, kx), n, k, y, x_)


def _attention_inputs(draw: Any, B: int, H: int, S: int, D: int) -> tuple[Any, ...]:
    return tuple(draw.normal(B, H, S, D) for _ in range(3))


def _attend(lib: Any, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """NumPy's and JAX's: the whole score matrix."""
    s = lib.matmul(q, lib.swapaxes(k, -1, -2)) * q.shape[-1] ** -0.5
    s = s if mask is None else lib.where(mask, s, lib.asarray(-lib.inf, dtype=s.dtype))
    p = lib.exp(s - s.max(axis=-1, keepdims=True))
    return lib.matmul(p / p.sum(axis=-1, keepdims=True), v)


def _attend_causally(lib: Any, q: Any, k: Any, v: Any) -> Any:
    return _attend(lib, q, k, v, lib.tril(lib.ones((q.shape[2], q.shape[2]), dtype=bool)))


def _torch_attention(causal: bool) -> Callable[..., Any]:
    return lambda torch, q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _conv_oracle(x: Any, w: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.moveaxis(np.tensordot(windows, w, axes=((1, 4, 5), (1, 2, 3))), -1, 1)


ATTENTION = Workload(
    "attention B1 H8 S2048 D64",
    attention,
    inputs=_attention_inputs,
    oracle=lambda q, k, v: _attend(np, q, k, v),
    sizes={"B": 1, "H": 8, "S": 2048, "D": 64},
    tiny={"B": 1, "H": 2, "S": 21, "D": 8},
    ops=lambda B, H, S, D: B * H * S * S * (2 * D + EXP + 3),
    peers={
        "numpy": _attend,
        "torch": _torch_attention(causal=False),
        "jax": lambda jax, q, k, v: _attend(jax.numpy, q, k, v),
    },
)
_CAUSAL = replace(
    ATTENTION,
    oracle=lambda q, k, v: _attend_causally(np, q, k, v),
    ops=lambda B, H, S, D: B * H * S * (S + 1) // 2 * (2 * D + EXP + 3),
    peers={
        "numpy": _attend_causally,
        "torch": _torch_attention(causal=True),
        "jax": lambda jax, q, k, v: _attend_causally(jax.numpy, q, k, v),
    },
)

NETWORKS = [
    ATTENTION,
    replace(ATTENTION, name="attention B1 H8 S512 D64", sizes={"B": 1, "H": 8, "S": 512, "D": 64}),
    replace(ATTENTION, name="attention B1 H8 S4096 D64", sizes={"B": 1, "H": 8, "S": 4096, "D": 64}),
    replace(ATTENTION, name="attention B1 H8 S2048 D128", sizes={"B": 1, "H": 8, "S": 2048, "D": 128}),
    replace(_CAUSAL, name="the same, causal, where(…, -inf)", rangekit=causal_by_infinity),
    replace(_CAUSAL, name="the same, causal, where=", rangekit=causal_by_where),
    Workload(
        "conv2d 3×3 N8 C64 56² K64",
        conv2d,
        inputs=lambda draw, N, C, H, K: (draw.normal(N, C, H + 2, H + 2), draw.normal(K, C, 3, 3)),
        oracle=_conv_oracle,
        sizes={"N": 8, "C": 64, "H": 56, "K": 64},
        tiny={"N": 2, "C": 3, "H": 6, "K": 4},
        ops=lambda N, C, H, K: N * K * H * H * C * 9,
        peers={
            "numpy": lambda np, x, w: _conv_oracle(x, w),
            "torch": lambda torch, x, w: torch.nn.functional.conv2d(x, w),
            "jax": lambda jax, x, w: jax.lax.conv(x, w, (1, 1), "VALID"),
            "numba": "conv2d",
        },
    ),
]
