"""numba's peers: plain loops, each with its result as last argument. Imported in numba's process only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from benchmarks.programs import SERIES

COEFFICIENTS = tuple(np.float32(c) for c in SERIES)
F = np.float32  # a Python float would make the arithmetic float64

# What rangekit may do too: reassociate sums and fuse multiply-adds; NaN and infinities keep their meaning.
loops: Callable[[Any], Any] = njit(parallel=True, fastmath={"reassoc", "contract", "nsz"})
in_order: Callable[[Any], Any] = njit(fastmath={"reassoc", "contract", "nsz"})


@loops
def matmul(a, b, out):
    for i in prange(out.shape[0]):
        out[i, :] = 0
        for k in range(a.shape[1]):
            for j in range(out.shape[1]):
                out[i, j] += a[i, k] * b[k, j]


@loops
def matvec(a, x, out):
    for i in prange(a.shape[0]):
        acc = F(0)
        for k in range(a.shape[1]):
            acc += a[i, k] * x[k]
        out[i] = acc


@loops
def min_plus(a, b, out):
    for i in prange(out.shape[0]):
        out[i, :] = np.inf
        for k in range(a.shape[1]):
            for j in range(out.shape[1]):
                out[i, j] = min(out[i, j], a[i, k] + b[k, j])


@loops
def add(x, y, out):
    for i in prange(x.shape[0]):
        out[i] = x[i] + y[i]


@loops
def chain(x, y, z, out):
    for i in prange(x.shape[0]):
        out[i] = x[i] * math.sin(y[i]) + math.exp(-z[i])


@loops
def total(x, out):
    acc = F(0)
    for i in prange(x.shape[0]):
        acc += x[i]
    out[()] = acc


@loops
def softmax(x, out):
    for i in prange(x.shape[0]):
        hi = F(-np.inf)
        for j in range(x.shape[1]):
            hi = max(hi, x[i, j])
        acc = F(0)
        for j in range(x.shape[1]):
            out[i, j] = math.exp(x[i, j] - hi)
            acc += out[i, j]
        for j in range(x.shape[1]):
            out[i, j] /= acc


@loops
def layer_norm(x, w, b, out):
    for i in prange(x.shape[0]):
        mean = F(0)
        for j in range(x.shape[1]):
            mean += x[i, j]
        mean /= F(x.shape[1])
        var = F(0)
        for j in range(x.shape[1]):
            var += (x[i, j] - mean) * (x[i, j] - mean)
        scale = F(1) / math.sqrt(var / F(x.shape[1]) + F(1e-5))
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean) * scale * w[j] + b[j]


@loops
def embedding(table, ids, out):
    for n in prange(ids.shape[0]):
        for d in range(table.shape[1]):
            out[n, d] = table[ids[n], d]


@loops
def transpose(x, out):
    for block in prange(x.shape[0] // 16 + 1):
        for start in range(0, x.shape[1], 16):
            for j in range(start, min(start + 16, x.shape[1])):
                for i in range(block * 16, min(block * 16 + 16, x.shape[0])):
                    out[j, i] = x[i, j]


@loops
def argmax(x, out):
    for i in prange(x.shape[0]):
        best, where = x[i, 0], 0
        for j in range(1, x.shape[1]):
            if x[i, j] > best:
                best, where = x[i, j], j
        out[i] = where


@loops
def conv2d(x, w, out):
    for nk in prange(out.shape[0] * out.shape[1]):
        n, k = nk // out.shape[1], nk % out.shape[1]
        out[n, k] = 0
        for c in range(w.shape[1]):
            for ky in range(w.shape[2]):
                for kx in range(w.shape[3]):
                    for y in range(out.shape[2]):
                        for z in range(out.shape[3]):
                            out[n, k, y, z] += x[n, c, y + ky, z + kx] * w[k, c, ky, kx]


@loops
def nearest(p, c, out):
    for i in prange(p.shape[0]):
        lo = F(np.inf)
        for j in range(c.shape[0]):
            acc = F(0)
            for k in range(p.shape[1]):
                acc += (p[i, k] - c[j, k]) * (p[i, k] - c[j, k])
            lo = min(lo, acc)
        out[i] = lo


@loops
def jacobi(x, out):
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = F(0.25) * (x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2])


@loops
def bilateral(x, out):
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            above, below = F(0), F(0)
            for dy in range(5):
                for dx in range(5):
                    gap = x[i + dy, j + dx] - x[i + 2, j + 2]
                    w = math.exp(gap * gap * F(-4))
                    above += w * x[i + dy, j + dx]
                    below += w
            out[i, j] = above / below


@loops
def sigmoid_sum(a, b, c, out):
    for i in prange(a.shape[0]):
        acc = F(0)
        for j in range(b.shape[0]):
            acc += c[j] / (F(1) + math.exp(-(a[i] + b[j])))
        out[i] = acc


@loops
def logsumexp(x, out):
    for i in prange(x.shape[0]):
        hi = F(-np.inf)
        for j in range(x.shape[1]):
            hi = max(hi, x[i, j])
        acc = F(0)
        for j in range(x.shape[1]):
            acc += math.exp(x[i, j] - hi)
        out[i] = math.log(acc) + hi


@loops
def rms_norm(x, r, w, out):
    for i in prange(x.shape[0]):
        acc = F(0)
        for j in range(x.shape[1]):
            h = x[i, j] + r[i, j]
            acc += h * h
        scale = F(1) / math.sqrt(acc / F(x.shape[1]) + F(1e-5))
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] + r[i, j]) * scale * w[j]


@loops
def gated(x, out):
    half = out.shape[1]
    for i in prange(x.shape[0]):
        for j in range(half):
            out[i, j] = x[i, j] / (F(1) + math.exp(-x[i, j + half]))


@loops
def conv1d(x, taps, out):
    for i in prange(out.shape[0]):
        acc = F(0)
        for t in range(taps.shape[0]):
            acc += x[i + t] * taps[t]
        out[i] = acc


@loops
def polynomial(x, out):
    for i in prange(x.shape[0]):
        value = COEFFICIENTS[-1]
        for n in range(len(COEFFICIENTS) - 2, -1, -1):
            value = value * x[i] + COEFFICIENTS[n]
        out[i] = value


@loops
def unit_rows(x, out):
    for i in prange(x.shape[0]):
        acc = F(0)
        for j in range(x.shape[1]):
            acc += x[i, j] * x[i, j]
        scale = F(1) / math.sqrt(acc)
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] * scale


@loops
def router(x, out, best):
    n, k = x.shape[1], out.shape[1]
    for i in prange(x.shape[0]):
        hi = x[i, 0]
        for e in range(1, n):
            hi = max(hi, x[i, e])
        total = F(0)
        for e in range(n):
            total += math.exp(x[i, e] - hi)
        for t in range(k):
            out[i, t] = F(-1)
        for e in range(n):
            p = math.exp(x[i, e] - hi) / total
            if p > out[i, k - 1]:
                t = k - 1
                while t > 0 and p > out[i, t - 1]:
                    out[i, t] = out[i, t - 1]
                    best[i, t] = best[i, t - 1]
                    t -= 1
                out[i, t] = p
                best[i, t] = e


@in_order
def running(x, out):
    acc = F(0)
    for i in range(x.shape[0]):
        acc += x[i]
        out[i] = acc


@in_order
def in_ascending_order(x, out):
    out[:] = np.sort(x)


@in_order
def ascending_order(x, out):
    out[:] = np.argsort(x)


@in_order
def histogram(w, ids, out):
    out[:] = 0
    for i in range(ids.shape[0]):
        out[ids[i]] += w[i]


@loops
def normals(x, out):
    for i in prange(x.shape[0]):
        out[i] = np.random.standard_normal()
