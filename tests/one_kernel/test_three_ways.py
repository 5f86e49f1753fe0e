"""Attention derived, by hand as a fold, and as the textbook has it in float64: one answer, in one kernel each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
D = 4  # the factor of the scores is 1/2, exactly


def keeps(i: Any, j: Any, lead: Any) -> Any:
    """Some keys in front are masked, and every key of some rows."""
    return (j >= lead) & (i % 7 != 5)


def by_infinity(q: Any, k: Any, v: Any, lead: Any) -> Any:
    b, i, j = rk.ranges(*q.shape[:2], k.shape[1])
    s = rk.where(keeps(i, j, lead[b]), rk.sum(q[b, i] * k[b, j], axis=-1) * D**-0.5, -rk.inf)
    p = rk.exp(s - rk.max(s, j))
    return rk.bufferize(rk.sum(p * v[b, j], j) / rk.sum(p, j), b, i)


def by_where(q: Any, k: Any, v: Any, lead: Any) -> Any:
    b, i, j = rk.ranges(*q.shape[:2], k.shape[1])
    s, c = rk.sum(q[b, i] * k[b, j], axis=-1) * D**-0.5, keeps(i, j, lead[b])
    p = rk.exp(s - rk.max(s, j, where=c))
    return rk.bufferize(rk.sum(p * v[b, j], j, where=c) / rk.sum(p, j, where=c), b, i)


def by_hand(q: Any, k: Any, v: Any, lead: Any) -> Any:
    b, i, j = rk.ranges(*q.shape[:2], k.shape[1])
    wide = (lambda x: x) if q.dtype == rk.float32 else lambda x: x.astype(rk.float32)

    def step(j: Any, top: Any, total: Any, out: Any) -> Any:
        s = rk.sum(wide(q[b, i]) * wide(k[b, j]), axis=-1) * D**-0.5
        s = rk.where(keeps(i, j, lead[b]), s, -rk.inf)
        new = rk.maximum(top, s)
        safe = rk.where(rk.isfinite(new), new, 0.0)
        old, p = rk.exp(top - safe), rk.exp(s - safe)
        return new, total * old + p, out * old + p * wide(v[b, j])

    top, total, out = rk.fold(j, (-rk.inf, 0.0, rk.zeros(D)), step)
    undo = rk.where(rk.isfinite(top), 1.0, rk.exp(-top))
    return rk.bufferize((out * undo / (total * undo)).astype(q.dtype), b, i)


def textbook(form: Any, q: Array, k: Array, v: Array, lead: Array) -> Array:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    i, j = np.indices((q.shape[1], k.shape[1]))
    keep = keeps(i, j, lead[:, None, None])
    s = np.where(keep, q @ np.swapaxes(k, 1, 2) / 2, -np.inf)
    p = np.exp(s - s.max(-1, initial=-np.inf)[..., None])
    if form is by_where:
        p = np.where(keep, p, 0)
        bad = np.isin(np.arange(k.shape[1]), np.nonzero(~np.isfinite(v).all((0, 2)))[0])
        out = p @ np.where(bad[:, None], 0, v)
        for at in np.nonzero(bad)[0]:  # what is left out is not multiplied
            out += np.where(keep[..., at, None], p[..., at, None] * v[:, None, at], 0)
    else:
        out = p @ v
    return out / p.sum(-1)[..., None]


def data(S: int, dtype: Any) -> tuple[Array, ...]:
    """A batch for each evil; scores that are large are exact products of few digits."""
    rng = np.random.default_rng(S)
    B = 10
    q, k, v = (rng.standard_normal((B, S, D)) for _ in range(3))
    for b, size in enumerate((1e4, 1e36), 1):
        q[b], k[b] = 0, 0
        q[b, :, 0] = rng.choice((-1, 1), S) * 2 * size
        k[b, :, 0] = rng.integers(-8, 9, S) / 8
    place = S // 2
    if S:
        k[3, place, 1], k[4, place, 2], k[5, -1, 0] = np.inf, -np.inf, np.nan
        q[6, place, 1], q[6, 0, 2] = np.inf, np.nan
        v[7, place, 1], v[7, 0, 2], v[8, -1, 0] = np.inf, np.nan, -np.inf
        k[9, :, 0], q[9, :, 0] = -np.inf, np.abs(q[9, :, 0]) + 1  # every score is -inf
    lead = np.array([0, 0, 0, 0, 2, 2, 0, 2, 3, 0]) % max(1, S)
    return *(x.astype(dtype) for x in (q, k, v)), lead


WAYS = [by_infinity, by_where, by_hand]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("S", [0, 1, 7, 64, 65, 1000])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("form", WAYS)
def test_three_ways(form: Any, dtype: Any, S: int) -> None:
    args = data(S, dtype)
    want = textbook(form, *args)
    close = {np.float32: 1e-5, np.float16: 2e-3}.get(dtype, 1e-2)
    blocks = (None,) if form is by_hand else (None, 1, 5, 64, S + 1)
    for block in blocks if S < 1000 else blocks[:1] + blocks[2:4]:
        low: Any = Kernel(form, (), None, Options(block=block)).lower(*args)
        assert len(low.kernels) == 1, low.explain()
        folds = sum(n.op is Op.FOLD for n in toposort(low._program.lowered.stages["derive"]))
        assert folds == (form is by_hand or (block is not None and block < S))
        if S > 7:
            assert all(b.size < S * S for b in low.kernels[0].buffers if b.memory != "global")
        got = Kernel(form, (), None, Options(block=block))(*args)
        assert got.dtype == dtype
        for b in range(len(want)):
            np.testing.assert_allclose(
                got[b].astype(np.float64), want[b], rtol=close, atol=close, err_msg=f"{block} {b}"
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", WAYS)
def test_the_data_has_every_kind_of_row(form: Any) -> None:
    """Finite where it should be, and not where it should not: the comparison is of numbers."""
    for S in (7, 65):
        finite = np.isfinite(textbook(form, *data(S, np.float32)).reshape(10, -1)).mean(1)
        assert (finite[[0, 1, 2]] > 0.8).all() and finite[[0, 1, 2]].max() < 1  # rows without keys
        assert finite[[3, 4, 5, 6]].min() < 0.8 and finite[9] == 0


MEASURED = """
import json, resource, sys
import numpy as np
import rangekit as rk

def attention(q, k, v):
    return rk.softmax(q @ k.mT * q.shape[-1] ** -0.5, axis=-1) @ v

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

B, (H, S), D = 1, map(int, sys.argv[1:]), 64
kernel = rk.kernel(attention)
kernel(*(np.ones((B, H, 128, D), np.float32) for _ in range(3)))
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((B, H, S, D), dtype=np.float32) for _ in range(3))
kernel.lower(q, k, v)
before = most()
out = kernel(q, k, v)
row = q[0, 0, S - 1].astype(float) @ k[0, 0].T.astype(float) / 8
p = np.exp(row - row.max())
error = abs(p @ v[0, 0] / p.sum() - out[0, 0, S - 1]).max()
print(json.dumps([most() - before, rk.memory_stats().peak, error]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_the_memory_of_long_attention_grows_with_its_length() -> None:
    H, S = 2, 16384
    command = [sys.executable, "-c", MEASURED, str(H), str(S)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    process, counted, error = json.loads(done.stdout)
    result = H * S * D * 16 * 4
    assert error < 1e-5
    assert result <= counted <= 1.5 * result
    assert process <= 2.5 * result  # a matrix of scores has 2 GiB
