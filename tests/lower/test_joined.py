"""Scans in parts give what they give in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import ScheduleError


def running(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(rk.cumulative_sum(x[i], i), i)


def last_two(x: Any) -> Any:
    """A scan, and what depends on an element beside it."""
    i = rk.Range(x.shape[0])
    return rk.bufferize(rk.cumulative_max(rk.where(i > 0, x[i - 1], 0) * x[i], i), i)


@pytest.mark.parametrize("n", [1, 2, 7, 24, 25, 1000, 1013])
@pytest.mark.parametrize("parts", [1, 2, 5, 24])
def test_parts_of_a_scan(n: int, parts: int) -> None:
    x = np.random.default_rng(n).integers(-100, 100, n)  # integers: any order gives the same
    for steps in (
        [rk.group("i", parts)],
        [rk.group("i", parts), rk.upcast("i", 3), rk.thread("i")],
        [rk.tile("i", 64), rk.group("i.t", parts), rk.upcast("i.t", 4), rk.thread("i.t")],
        [rk.group("i", parts), rk.unroll("i.t", 4)],
    ):
        np.testing.assert_array_equal(rk.kernel(running).schedule(*steps)(x), x.cumsum(), err_msg=str(steps))
        before = np.concatenate([[0], x[:-1]])
        want = np.maximum.accumulate(before * x)
        np.testing.assert_array_equal(rk.kernel(last_two).schedule(*steps)(x), want, err_msg=str(steps))


def test_long_scans_are_grouped_by_default_and_repeat_to_the_bit() -> None:
    x = np.random.default_rng(0).standard_normal(3_000_017, dtype=np.float32)
    kernel = rk.kernel(running)
    low = kernel.lower(x)
    assert len(low.kernels) == 1 and any("group" in repr(s) for s in low.kernels[0].schedule)
    out = kernel(x)
    np.testing.assert_allclose(out, x.astype(np.float64).cumsum(), atol=2e-2)
    for _ in range(3):
        np.testing.assert_array_equal(kernel(x), out)


def test_strict_keeps_the_order() -> None:
    x = np.random.default_rng(0).standard_normal(5000, dtype=np.float32)
    want = x.copy()
    for i in range(1, len(x)):
        want[i] = want[i - 1] + want[i]
    np.testing.assert_array_equal(rk.kernel(running, strict=True)(x), want)
    with pytest.raises(ScheduleError, match="keeps its order"):
        rk.kernel(running, strict=True).schedule(rk.group("i", 4))(x)


def test_a_step_that_nothing_joins_is_not_grouped() -> None:
    def recurrence(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        return rk.bufferize(rk.scan(i, 0.0, lambda i, s: s * x[i] + 1.0), i)

    with pytest.raises(ScheduleError):
        rk.kernel(recurrence).schedule(rk.group("i", 4))(np.ones(8, np.float32))


ADD = rk.Monoid(0.0, lambda a, b: a + b)
AFTER = rk.Monoid((1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))


@pytest.mark.parametrize("parts", [1, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 100, 1013])
def test_a_linear_recurrence_in_parts(n: int, parts: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.uniform(0.5, 0.9, n).astype(np.float32), rng.standard_normal(n, dtype=np.float32)

    def recurrence(a: Any, b: Any) -> Any:
        k = rk.Range(a.shape[0])
        _, h = rk.scan(k, (1.0, 3.0), lambda k, p, q: (p * a[k], q * a[k] + b[k]), combine=AFTER)
        return rk.bufferize(h, k)

    h, want = 3.0, []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        h = h * x + y
        want.append(h)
    for steps in ([], [rk.group("k", parts)], [rk.group("k", parts), rk.upcast("k", 3), rk.thread("k")]):
        kernel = rk.kernel(recurrence).schedule(*steps) if steps else rk.kernel(recurrence)
        np.testing.assert_allclose(kernel(a, b), want, rtol=1e-5, atol=1e-5, err_msg=str(steps))


@pytest.mark.parametrize("parts", [2, 7])
def test_a_fold_in_parts_enters_its_first_state_once(parts: int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, 1000).astype(np.float32)

    def total(x: Any) -> Any:
        k = rk.Range(x.shape[0])
        return rk.fold(k, 5.0, lambda k, s: s + x[k], combine=ADD)

    assert rk.kernel(total).schedule(rk.group("k", parts), rk.thread("k"))(x) == x.sum() + 5

    def log_sum_exp(x: Any) -> Any:
        k = rk.Range(x.shape[0])

        def step(k: Any, m: Any, s: Any) -> Any:
            new = rk.maximum(m, x[k])
            return new, s * rk.exp(m - new) + rk.exp(x[k] - new)

        m, s = rk.fold(k, (-rk.inf, 0.0), step, combine=rk.monoids.logsumexp)
        return m + rk.log(s)

    want = np.log(np.exp(x.astype(float)).sum())
    np.testing.assert_allclose(rk.kernel(log_sum_exp).schedule(rk.group("k", parts))(x), want, rtol=1e-6)


def test_a_step_that_is_not_the_monoids_is_refused() -> None:
    def wrong(x: Any) -> Any:
        k = rk.Range(x.shape[0])
        return rk.fold(k, 0.0, lambda k, s: s * 0.5 + x[k], combine=ADD)

    with pytest.raises(rk.RaceError, match="does not join this step"):
        rk.kernel(wrong)(np.ones(8, np.float32))
    k = rk.Range(3)
    with pytest.raises(rk.RangekitError, match="combine= is a Monoid"):
        rk.fold(k, 0.0, lambda k, s: s + 1.0, combine=lambda a, b: a + b)  # type: ignore[arg-type]
