"""``fold`` and ``scan`` against Python loops: on the interpreter, on LLVM under default and random schedules, and
stage by stage by evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower.schedule import scheduled
from tests.lower.test_schedule import random_schedule

Array = np.ndarray[Any, Any]


def rand(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def recurrence(a: Any, b: Any) -> Any:
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.scan(k, 0.0, lambda k, h: a[i, k] * h + b[i, k]), i, k)


def recurrence_np(a: Array, b: Array) -> Array:
    out, h = np.zeros(a.shape), np.zeros(len(a))
    for k in range(a.shape[1]):
        h = a[:, k] * h + b[:, k]
        out[:, k] = h
    return out


def columns(a: Any, b: Any) -> Any:
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.scan(i, b[0, k], lambda i, h: a[i, k] * h + b[i, k]), i, k)


def columns_np(a: Array, b: Array) -> Array:
    out, h = np.zeros(a.shape), b[0]
    for i in range(a.shape[0]):
        h = a[i] * h + b[i]
        out[i] = h
    return out


def horner(a: Any, b: Any) -> Any:
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.fold(k, 1.0, lambda k, s: s * b[i, k] + a[i, k]), i)


def horner_np(a: Array, b: Array) -> Array:
    s = np.ones(len(a))
    for k in range(a.shape[1]):
        s = s * b[:, k] + a[:, k]
    return s


def vector_state(a: Any, b: Any) -> Any:
    """The state is a row; each step turns it by one place and adds a row."""
    i = rk.Range(a.shape[0])
    return rk.fold(i, rk.zeros(a.shape[1]), lambda i, s: rk.flip(s) * 0.5 + a[i])


def vector_state_np(a: Array, b: Array) -> Array:
    s = np.zeros(a.shape[1])
    for row in a:
        s = s[::-1] * 0.5 + row
    return s


def normalised_state(a: Any, b: Any) -> Any:
    """A state that every element of the next one reads, and a count that only the loop needs."""
    i = rk.Range(a.shape[0])

    def step(i: Any, s: Any, n: Any) -> Any:
        s = s + a[i]
        return s / (1.0 + rk.sum(s * s)), n + 1

    s, n = rk.fold(i, (rk.zeros(a.shape[1]), 0), step)
    return s * n


def normalised_state_np(a: Array, b: Array) -> Array:
    s = np.zeros(a.shape[1])
    for row in a:
        s = s + row
        s = s / (1 + (s * s).sum())
    return s * len(a)


def two_axes(a: Any, b: Any) -> Any:
    """A state with a range of its own beside one that both need."""
    i, k, d = rk.ranges(a.shape[0], a.shape[1], b.shape[1])

    def step(k: Any, m: Any, o: Any) -> Any:
        new = rk.maximum(m, a[i, k])
        return new, o * rk.exp(m - new) + rk.exp(a[i, k] - new) * b[i, d]

    m, o = rk.fold(k, (-1.0, 0.0), step)
    return rk.bufferize(o + m, i, d)


def two_axes_np(a: Array, b: Array) -> Array:
    m, o = -np.ones(len(a)), np.zeros(b.shape)
    for k in range(a.shape[1]):
        new = np.maximum(m, a[:, k])
        o = o * np.exp(m - new)[:, None] + np.exp(a[:, k] - new)[:, None] * b
        m = new
    return o + m[:, None]


def exclusive(a: Any, b: Any) -> Any:
    """Sums before each element and the total of each row."""
    i, k = rk.ranges(*a.shape)
    total, before = rk.scan(k, 0.0, lambda k, s: (s + a[i, k], s))
    return rk.bufferize(before + total, i, k)


def exclusive_np(a: Array, b: Array) -> Array:
    c = a.cumsum(1)
    return c - a + c[:, -1:] if a.shape[1] else a


def backwards(a: Any, b: Any) -> Any:
    i, k = rk.ranges(*a.shape)
    c = rk.bufferize(rk.scan(k, 0.0, lambda k, s: s + a[i, k]), k)
    return rk.bufferize(c[a.shape[1] - 1 - k] * 2.0, i, k)


def backwards_np(a: Array, b: Array) -> Array:
    return 2 * a.cumsum(1)[:, ::-1]


def stopped(a: Any, b: Any) -> Any:
    """Sums up to where they pass 1.5."""
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.fold(k, 0.0, lambda k, s: s + a[i, k], until=lambda s: s > 1.5), i)


def stopped_np(a: Array, b: Array) -> Array:
    out = np.zeros(len(a))
    for n, row in enumerate(a):
        for v in row:
            out[n] += v
            if out[n] > 1.5:
                break
    return out


def reduced_scan(a: Any, b: Any) -> Any:
    """The greatest prefix sum."""
    i, k = rk.ranges(*a.shape)
    return rk.bufferize(rk.max(rk.scan(k, 0.0, lambda k, s: s + a[i, k]), k), i)


def reduced_scan_np(a: Array, b: Array) -> Array:
    return a.cumsum(1).max(1, initial=-np.inf)


def nested(a: Any, b: Any) -> Any:
    """A fold whose step folds another range, from the outer state."""
    i, k = rk.ranges(*a.shape)
    return rk.fold(i, 0.5, lambda i, s: rk.fold(k, s, lambda k, t: t * 0.9 + a[i, k]))


def nested_np(a: Array, b: Array) -> Array:
    s = np.array(0.5)
    for v in a.ravel():
        s = s * 0.9 + v
    return s


CASES: dict[Callable[..., Any], Callable[[Array, Array], Array]] = {
    recurrence: recurrence_np, columns: columns_np, horner: horner_np, vector_state: vector_state_np,
    normalised_state: normalised_state_np, two_axes: two_axes_np, exclusive: exclusive_np, backwards: backwards_np,
    stopped: stopped_np, reduced_scan: reduced_scan_np, nested: nested_np,
}  # fmt: skip
SIZES = [(0, 3), (3, 0), (1, 1), (2, 5), (7, 13), (17, 33)]


def inputs(m: int, n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(m * 100 + n)
    return tuple(rng.uniform(-1, 1, (m, n)).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("fn", CASES)
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_against_a_loop(fn: Callable[..., Any], m: int, n: int) -> None:
    if fn is columns and m == 0:
        return  # there is no first row to start from
    a, b = inputs(m, n)
    want = CASES[fn](a.astype(float), b.astype(float))
    for device in ("python", "cpu"):
        if device == "python" and m * n > 200:
            continue
        np.testing.assert_allclose(rk.kernel(fn, device=device)(a, b), want, rtol=2e-5, atol=1e-5, err_msg=device)


@pytest.mark.parametrize("fn", CASES)
@pytest.mark.parametrize(("m", "n"), [(3, 5), (9, 17)])
def test_under_random_schedules(fn: Callable[..., Any], m: int, n: int) -> None:
    a, b = inputs(m, n)
    want = CASES[fn](a.astype(float), b.astype(float))
    program = rk.kernel(fn, device="python").lower(a, b)._program
    for seed in range(25):
        rng = random.Random(seed)
        memory = {p: np.full(p.shape, np.nan, p.dtype.numpy) for p in (*program.scratch, *program.results)}
        taken = []
        for nest in program.lowered.plain:
            taken.append(random_schedule(rng, nest))
            new = scheduled(nest, taken[-1], CPU)
            held = [(a, b)[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in new.params]
            CpuDevice().compile(new)(held, np.zeros(4, np.int64))
        (got,) = (memory[p] for p in program.lowered.outputs)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5, err_msg=f"{seed} {taken}")


@pytest.mark.parametrize("fn", CASES)
def test_every_stage_means_the_same(fn: Callable[..., Any]) -> None:
    a, b = inputs(4, 5)
    want = CASES[fn](a.astype(float), b.astype(float))
    lowered = rk.kernel(fn, device="python").lower(a, b)._program.lowered
    for stage in ("trace", "rangeify", "canon", "fuse"):
        (root,) = lowered.stages[stage].src
        params = {p: (a, b)[p.arg.slot] for p in _params(root)}
        np.testing.assert_allclose(evaluate(root, params), want, rtol=2e-5, atol=1e-5, err_msg=stage)


def _params(root: Any) -> list[Any]:
    from rangekit.ir.uop import toposort

    return [n for n in toposort(root) if n.op is Op.PARAM]


def test_a_first_state_that_the_identity_hides_is_tried_too() -> None:
    """From -inf no sum moves: only the program's own first state shows that maxima do not join sums."""
    most = rk.Monoid(-rk.inf, rk.maximum)
    x = np.ones(8, np.float32)
    for init in (0.0, 3):
        with pytest.raises(rk.RaceError, match="combine= does not join this step"):
            rk.kernel(lambda x, k=init: rk.fold(i := rk.Range(8), k, lambda _, s: s + x[i], combine=most))(x)
    with pytest.raises(rk.RaceError, match="combine= does not join this step"):
        rk.kernel(lambda x: rk.fold(i := rk.Range(8), x[0], lambda _, s: s + x[i], combine=most))(x)
