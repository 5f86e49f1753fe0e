"""Arrays that a loop keeps: what an iteration changes is changed in place, what else it reads is read before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from tests.runs import ways

Array = np.ndarray[Any, Any]
SIZE = 5


def ids(n: int) -> Array:
    return np.random.default_rng(n).integers(0, SIZE, n)


def ranks(d: Any) -> Any:
    """How many equal ones come before each, and how many of each there are."""
    t, j = rk.Range(d.shape[0]), rk.arange(SIZE)
    seen, before = rk.scan(
        t, rk.zeros(SIZE, dtype=rk.int64), lambda t, s: (rk.where(j == d[t], s + 1, s), s[d[t].in_range(0, SIZE)])
    )
    return seen, rk.bufferize(before, t)


def said_ranks(d: Array) -> tuple[Array, ...]:
    return np.bincount(d, minlength=SIZE), np.array([np.sum(d[:t] == v) for t, v in enumerate(d)], np.int64)


def last_places(d: Any) -> Any:
    """Where each was last; what is kept is written as the other choice."""
    t, j = rk.Range(d.shape[0]), rk.arange(SIZE)
    return rk.fold(t, rk.full(SIZE, -1), lambda t, s: rk.where(j != d[t], s, t))


def said_last_places(d: Array) -> tuple[Array, ...]:
    return (np.array([max(np.flatnonzero(d == v), default=-1) for v in range(SIZE)]),)


def moved(d: Any) -> Any:
    """An element that becomes what another was, and a number that reads both."""
    t, j = rk.Range(d.shape[0]), rk.arange(SIZE)

    def step(t: Any, s: Any, total: Any) -> Any:
        at = d[t].in_range(0, SIZE)
        return rk.where(j == at, s[(at + 1) % SIZE] + 1, s), total * 3 + s[at]

    return rk.fold(t, (rk.arange(SIZE), rk.zeros((), dtype=rk.int64)), step)


def said_moved(d: Array) -> tuple[Array, ...]:
    s, total = list(range(SIZE)), 0
    for at in d.tolist():
        total = total * 3 + s[at]
        s[at] = s[(at + 1) % SIZE] + 1
    return np.array(s), np.array(total)


def two_arrays(d: Any) -> Any:
    """Each of two arrays reads the other: neither may change first."""
    t, j = rk.Range(d.shape[0]), rk.arange(SIZE)

    def step(t: Any, a: Any, b: Any) -> Any:
        return rk.where(j == d[t], b + 1, a), rk.where(j == d[t], a * 2, b)

    return rk.fold(t, (rk.zeros(SIZE, dtype=rk.int64), rk.ones(SIZE, dtype=rk.int64)), step)


def said_two_arrays(d: Array) -> tuple[Array, ...]:
    a, b = [0] * SIZE, [1] * SIZE
    for at in d.tolist()[:20]:
        a[at], b[at] = b[at] + 1, a[at] * 2
    return np.array(a), np.array(b)


def spans(d: Any) -> Any:
    """Not one element but those from one to another."""
    t, j = rk.Range(d.shape[0]), rk.arange(SIZE)
    return rk.fold(
        t, rk.zeros(SIZE, dtype=rk.int64), lambda t, s: rk.where((j >= d[t] - 1) & (j < d[t] + 2) & (t > 1), s + t, s)
    )


def said_spans(d: Array) -> tuple[Array, ...]:
    s = np.zeros(SIZE, np.int64)
    for t, at in enumerate(d.tolist()):
        if t > 1:
            s[max(at - 1, 0) : at + 2] += t
    return (s,)


def rows(d: Any) -> Any:
    """A matrix of which one element changes, in each of some rows of data."""
    i, t = rk.ranges(2, d.shape[0])
    r, c = rk.arange(SIZE)[:, None], rk.arange(2)[None, :]
    made = rk.fold(
        t, rk.zeros((SIZE, 2), dtype=rk.int64), lambda t, s: rk.where((r == d[t]) & (c == (t + i) % 2), s + t, s)
    )
    return rk.bufferize(made, i)


def said_rows(d: Array) -> tuple[Array, ...]:
    out = np.zeros((2, SIZE, 2), np.int64)
    for i in range(2):
        for t, at in enumerate(d.tolist()):
            out[i, at, (t + i) % 2] += t
    return (out,)


CASES: list[tuple[Callable[[Any], Any], Callable[[Array], tuple[Array, ...]]]] = [
    (ranks, said_ranks),
    (last_places, said_last_places),
    (moved, said_moved),
    (two_arrays, said_two_arrays),
    (spans, said_spans),
    (rows, said_rows),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 20])
def test_one_element_at_a_time(case: Any, n: int) -> None:
    fn, said = case
    d = ids(n)
    for way, got in ways(fn, d, schedules=6, seed=n):
        for mine, want in zip(got, said(d), strict=True):
            np.testing.assert_array_equal(mine, want, err_msg=way)


def test_only_what_changes_is_gone_through() -> None:
    text = str(rk.kernel(lambda d: ranks(d)[1]).lower(ids(7)))
    assert (
        text
        == """\
local s[5] int64
for i in 0..5:
    s[i] = 0
for t in 0..7:
    d_ = d[t]
    ok = (0 <= d_) & (d_ < 5)
    guard ok
    out[t] = s[where(ok, d_, 0)]
    for j in max(d_, 0)..(max(min(d_, 4), -1) + 1):
        s[j] = s[j] + 1
"""
    )


def test_a_loop_that_begins_anywhere_runs_on_threads() -> None:
    d = ids(100)
    kernel = rk.kernel(last_places)
    name = str(kernel.lower(d)).partition("for t ")[2].partition("    for ")[2].partition(" in max(")[0]
    np.testing.assert_array_equal(kernel.schedule(rk.thread(name))(d), said_last_places(d)[0])


def test_blocks_that_write_where_their_own_arrays_say_run_on_threads() -> None:
    x = np.zeros(1 << 17, np.float32)
    sending = str(rk.kernel(lambda x: rk.sort(x)).lower(x)).split("\n\n")[-1]
    assert sending.startswith("thread")


def test_lanes_do_not_go_through_what_lies_between_their_places() -> None:
    """Rows in step would run the update of a table from the least of their places to the greatest."""
    sending = str(rk.kernel(lambda x: rk.sort(x)).lower(np.zeros((100, 300), np.float32))).split("\n\n")[-1]
    assert sending.startswith("thread i in 0..100:\n    local start[256] int32\n")


def test_a_scan_read_by_another_loop_than_its_own_reduces_in_that() -> None:
    def starts(d: Any) -> Any:
        """A running sum of counts, read through a buffer that the next kernel gathers from."""
        t, e, u = rk.Range(d.shape[0], "t"), rk.Range(SIZE, "e"), rk.Range(d.shape[0], "u")
        counts = rk.sum(rk.where(d[t] == e, 1, 0), t)
        first = rk.bufferize(rk.cumulative_sum(counts, e) - counts, e)
        return rk.bufferize(first[d[u]] + d[u], u)

    def own(d: Any) -> Any:
        """What a scan gives may depend on the loop that reads it: of each iteration its own is read."""
        t = rk.Range(d.shape[0], "t")
        seen = rk.scan(t, rk.zeros(SIZE, dtype=rk.int32),
                       lambda t, s: rk.where(rk.arange(SIZE) == d[t], s + 1, s))  # fmt: skip
        return rk.bufferize(seen[d[t]], t)

    for n in (1, 2, 9, 40):
        d = ids(n)
        counts = np.bincount(d, minlength=SIZE)
        for device in ("cpu", "python"):
            got = rk.kernel(starts, device=device)(d)
            assert got.tolist() == ((np.cumsum(counts) - counts)[d] + d).tolist()
            assert rk.kernel(own, device=device)(d).tolist() == [int((d[: k + 1] == d[k]).sum()) for k in range(n)]
