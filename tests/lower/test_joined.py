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
