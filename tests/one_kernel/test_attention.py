"""Attention from the textbook form is one kernel without a score matrix, whatever the mask, however it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from tests.one_kernel.single import SIZES, Array, everywhere, rand, single

CAP = 20.0


def plain(lib: Any, s: Any, i: Any, j: Any, slope: Any) -> Any:
    return s


@dataclass(frozen=True)
class Mask:
    """Which scores take part, and what is done to them; both for ranges, for Tensors and for the oracle's arrays."""

    name: str
    keeps: Callable[[Any, Any, Any, Any], Any] | None = None  # of i, j, and the documents of i and of j
    score: Callable[[Any, Any, Any, Any, Any], Any] = plain


MASKS = (
    Mask("none"),
    Mask("causal", lambda i, j, a, b: j <= i),
    Mask("window", lambda i, j, a, b: (j <= i) & (i - j < 5)),
    Mask("document", lambda i, j, a, b: (a == b) & (j <= i)),
    Mask("ALiBi", lambda i, j, a, b: j <= i, lambda lib, s, i, j, slope: s + slope * (j - i)),
    Mask("capped", lambda i, j, a, b: j <= i, lambda lib, s, i, j, slope: CAP * lib.tanh(s / CAP)),
    Mask("the past but two", lambda i, j, a, b: j + 2 < i),  # the first rows have nothing
)
NAMED = {"argnames": "mask", "argvalues": MASKS, "ids": [m.name for m in MASKS]}
FORMS = ("infinity", "where")  # where(mask, s, -inf), or where=mask on each reduction


def ranged(mask: Mask, form: str) -> Any:
    """The textbook's three passes over explicit ranges; k and v may have fewer heads."""

    def attention(q: Any, k: Any, v: Any, doc: Any, slope: Any) -> Any:
        B, H, S, D = q.shape
        b, h, i, j = rk.ranges(B, H, S, S)
        g = h // (H // k.shape[1])
        s = rk.sum(q[b, h, i] * k[b, g, j], axis=-1) * D**-0.5
        s = mask.score(rk, s, i, j, slope[h])
        keep = None if mask.keeps is None else mask.keeps(i, j, doc[b, i], doc[b, j])
        if keep is not None and form == "infinity":
            s, keep = rk.where(keep, s, -rk.inf), None
        p = rk.exp(s - rk.max(s, j, where=keep))
        return rk.bufferize(rk.sum(p * v[b, g, j], j, where=keep) / rk.sum(p, j, where=keep), b, h, i)

    return attention


def arrays(mask: Mask, form: str) -> Any:
    """The same over whole arrays, as NumPy code has it."""

    def attention(q: Any, k: Any, v: Any, doc: Any, slope: Any) -> Any:
        B, H, S, D = q.shape
        groups = H // k.shape[1]
        lead: tuple[int, ...] = (H,)
        if groups > 1:
            lead = (k.shape[1], groups)
            q, k, v = q.reshape(B, *lead, S, D), k[:, :, None], v[:, :, None]
        s = q @ k.mT * D**-0.5
        i, j = rk.arange(S)[:, None], rk.arange(S)[None, :]
        s = mask.score(rk, s, i, j, slope.reshape(*lead, 1, 1))
        ones = (1,) * len(lead)
        rows, columns = doc.reshape(B, *ones, S, 1), doc.reshape(B, *ones, 1, S)
        keep = None if mask.keeps is None else mask.keeps(i, j, rows, columns)
        if keep is not None and form == "infinity":
            s, keep = rk.where(keep, s, -rk.inf), None
        return (rk.softmax(s, axis=-1, where=keep) @ v).reshape(B, H, S, D)

    return attention


def three_passes(mask: Mask, written: Any, form: str, q: Array, k: Array, v: Array, doc: Array, slope: Array) -> Array:
    """The oracle: float64, a row at a time."""
    B, H, S, D = q.shape
    groups, out = H // k.shape[1], np.zeros(q.shape)
    q, k, v, slope = (a.astype(np.float64) for a in (q, k, v, slope))
    j = np.arange(S)
    for b, h, i in np.ndindex(B, H, S):
        s = (k[b, h // groups] * q[b, h, i]).sum(axis=1) * D**-0.5
        s = np.asarray(mask.score(np, s, i, j, slope[h]))
        keep = np.ones(S, bool) if mask.keeps is None else mask.keeps(i, j, doc[b, i], doc[b])
        values = v[b, h // groups]
        if form == "infinity":
            s, keep = np.where(keep, s, -np.inf), np.ones(S, bool)
        p = np.exp(s[keep] - s[keep].max(initial=-np.inf))
        if written is ranged:
            out[b, h, i] = (p[:, None] * values[keep]).sum(axis=0) / p.sum()
        else:  # softmax's where= gives 0 for what is excluded, and 0 is then multiplied
            whole = np.zeros(S)
            whole[keep] = p / p.sum()
            out[b, h, i] = (whole[:, None] * values).sum(axis=0)
    return out


def data(S: int, D: int, heads: int = 2, shared: int = 1, B: int = 2) -> tuple[Array, ...]:
    q, k, v = rand(B, heads, S, D), rand(B, heads // shared, S, D, seed=1), rand(B, heads // shared, S, D, seed=2)
    doc = np.sort(np.random.default_rng(3).integers(0, 2 + S // 20, (B, S)), axis=1)
    return q, k, v, doc, np.float32(0.5) ** np.arange(1, heads + 1, dtype=np.float32)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("written", [ranged, arrays])
@pytest.mark.parametrize(**NAMED)
class TestOneKernel:
    def test_every_size(self, mask: Mask, written: Any, form: str) -> None:
        for S in SIZES if form == "infinity" else (0, 7, 65):
            args = data(S, 5)
            single(written(mask, form), three_passes(mask, written, form, *args), *args, most=S * S)

    def test_heads_that_share_keys(self, mask: Mask, written: Any, form: str) -> None:
        for S in (1, 65) if form == "infinity" else (7,):
            args = data(S, 3, heads=4, shared=2, B=1)
            single(written(mask, form), three_passes(mask, written, form, *args), *args, most=S * S)

    def test_logits_that_overflow_and_are_none(self, mask: Mask, written: Any, form: str) -> None:
        """With one dimension a score is one exact product: all of these, by row and by key, one batch for each evil."""
        rows = np.float32([1, -1, 1e4, -1e4, 1e36, -1e36, np.inf, -np.inf, np.nan, 0, 2, -2, 1e4, 1, 0.5])
        keys = np.resize(np.float32([1, -1, 0.5, 2, 0, 1, 1, -0.5, 1, -1, 1, 1]), len(rows))
        evils = [(place, value) for value in (None, np.inf, -np.inf, np.nan) for place in (0, 1)]
        B, S = len(evils), len(rows)
        q, k, v = np.tile(rows, (B, 1)), np.tile(keys, (B, 1)), rand(B, S)
        for b, (place, value) in enumerate(evils):
            if value is not None:
                (k, v)[place][b, 9] = value
        args = (*(x.reshape(B, 1, S, 1) for x in (q, k, v)), np.tile(np.arange(S) // 5, (B, 1)), np.float32([0.5]))
        single(written(mask, form), three_passes(mask, written, form, *args), *args, rtol=2e-4, atol=1e-4)

    def test_half_types(self, mask: Mask, written: Any, form: str) -> None:
        for dtype, rtol in ((np.float16, 4e-3), (ml_dtypes.bfloat16, 3e-2)):
            S = 65 if form == "infinity" else 7
            q, k, v, doc, slope = data(S, 3, B=1)
            args = (*(a.astype(dtype) for a in (q, k, v)), doc, slope.astype(dtype))
            single(
                written(mask, form), three_passes(mask, written, form, *args), *args, most=S * S, rtol=rtol, atol=rtol
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("written", [ranged, arrays])
@pytest.mark.parametrize("name", ["none", "document", "capped", "the past but two"])
def test_every_stage_and_schedule(name: str, written: Any, form: str) -> None:
    mask = next(m for m in MASKS if m.name == name)
    args = data(9, 3, B=1)
    everywhere(written(mask, form), three_passes(mask, written, form, *args), *args, rtol=2e-4)


def test_rotated_queries_and_keys_too() -> None:
    def rotated(x: Any) -> Any:
        S, D = x.shape[-2:]
        angle = rk.arange(S)[:, None] * rk.exp(rk.arange(D // 2) * (-9.0 / D))
        a, b = x[..., : D // 2], x[..., D // 2 :]
        return rk.concat((a * rk.cos(angle) - b * rk.sin(angle), a * rk.sin(angle) + b * rk.cos(angle)), axis=-1)

    def attention(q: Any, k: Any, v: Any) -> Any:
        return rk.softmax(rotated(q) @ rotated(k).mT, axis=-1) @ v

    def turned(x: Array) -> Array:
        S, D = x.shape[-2:]
        z = (x[..., : D // 2] + 1j * x[..., D // 2 :]) * np.exp(
            1j * np.arange(S)[:, None] * np.exp(np.arange(D // 2) * (-9.0 / D))
        )
        return np.concatenate((z.real, z.imag), axis=-1)

    for S in (1, 7, 65):
        q, k, v = (rand(2, S, 6, seed=n) for n in range(3))
        s = turned(q.astype(np.float64)) @ np.swapaxes(turned(k.astype(np.float64)), 1, 2)
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        want = p / p.sum(axis=-1, keepdims=True) @ v
        single(attention, want, q, k, v, most=S * S, rtol=1e-3, atol=1e-4)


def test_dropped_weights() -> None:
    def attention(q: Any, k: Any, v: Any) -> Any:
        p = rk.softmax(q @ k.mT, axis=-1)
        return rk.where(rk.random.bernoulli(7, 0.75, p.shape), p / 0.75, 0.0) @ v

    for S in (1, 7, 65):
        q, k, v = (rand(2, S, 3, seed=n) for n in range(3))
        s = (q @ np.swapaxes(k, 1, 2)).astype(np.float64)
        p = np.exp(s - s.max(axis=-1, keepdims=True))
        keep = rk.random.bernoulli(7, 0.75, p.shape).numpy()
        want = np.where(keep, p / p.sum(axis=-1, keepdims=True) / 0.75, 0) @ v
        single(attention, want, q, k, v, most=S * S, rtol=1e-3)
