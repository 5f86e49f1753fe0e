"""Accesses are made safe where they are used: conditions that read what they protect, alone and one another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.lower.uses import MOST

FAR = 10**8  # elements: whoever reads there does not come back
X = np.array([1, -1, 2, -2, 3, 0.5], np.float32)
ROWS, COLUMNS = 6, 5

Tree = tuple[Any, ...]


def number(draw: random.Random, depth: int, inside: bool = False) -> Tree:
    """A number of an iteration i, and of j ``inside`` of a loop over it, as a tree.

    ("x", m) and ("xj", m) are elements at indices from data, ("p", m) and ("pj", m) data, ("c", v) is a constant;
    ("sum" or "max", condition or None, number) goes over j, ("all", number) over all i again, ("fold", first,
    condition, number) adds under a condition, up to a limit.
    """
    roll = draw.random()
    if depth == 0 or roll < 0.15:
        leaves = [("x", 0), ("x", 1), ("p", 0), ("p", 1), ("c", -2.0)]
        return draw.choice(leaves + [("xj", 0), ("xj", 1), ("pj", 0), ("pj", 1)] * 2 if inside else leaves)
    if roll < 0.55:
        return "where", condition(draw, depth - 1, inside), *(number(draw, depth - 1, inside) for _ in "ab")
    if roll < 0.65:
        return "+", number(draw, depth - 1, inside), number(draw, depth - 1, inside)
    if roll < 0.85 and not inside:
        test = condition(draw, depth - 1, True) if draw.random() < 0.5 else None
        return draw.choice(("sum", "max")), test, number(draw, depth - 1, True)
    if roll < 0.93 or inside:
        return "all", number(draw, depth - 1, inside)
    return "fold", number(draw, 1), condition(draw, depth - 1, True), number(draw, depth - 1, True)


def condition(draw: random.Random, depth: int, inside: bool) -> Tree:
    roll = draw.random()
    if depth == 0 or roll < 0.5:
        return ">", number(draw, max(depth - 1, 0), inside), draw.choice((0.0, 1.0, -1.0))
    if roll < 0.6:
        return "~", condition(draw, depth - 1, inside)
    return draw.choice("&|"), condition(draw, depth - 1, inside), condition(draw, depth - 1, inside)


class Data:
    """Random data for the leaves; ``bad`` is put for one of the indices."""

    def __init__(self, draw: random.Random, bad: int | None) -> None:
        rng = np.random.default_rng(draw.randrange(2**32))
        self.p, self.pj = (
            rng.choice(np.array([-2, -0.5, 0.5, 2], np.float32), (2, ROWS, *s)) for s in ((), (COLUMNS,))
        )
        self.x, self.xj = (rng.integers(0, len(X), (2, ROWS, *s)) for s in ((), (COLUMNS,)))
        if bad is not None:
            one = self.x if draw.random() < 0.5 else self.xj
            one[tuple(draw.randrange(n) for n in one.shape)] = bad

    def arrays(self) -> tuple[Any, ...]:
        return X, self.x, self.xj, self.p, self.pj


def program(tree: Tree) -> Callable[..., Any]:
    """The kernel of a tree."""

    def kernel(x: Any, ids: Any, jds: Any, p: Any, q: Any) -> Any:
        i = rk.Range(ROWS, "i")

        def built(tree: Tree, j: Any = None) -> Any:
            op, *rest = tree
            leaf = {"x": lambda m: x[ids[m, i]], "xj": lambda m: x[jds[m, i, j]], "p": lambda m: p[m, i],
                    "pj": lambda m: q[m, i, j], "c": lambda v: rk.full((), v, dtype=rk.float32)}.get(op)  # fmt: skip
            if leaf is not None:
                return leaf(rest[0])
            if op == ">":
                return built(rest[0], j) > rest[1]
            if op == "all":
                return rk.sum(built(rest[0], j) + 0.0 * p[0, i], i)
            if op == "fold":
                first, test, more = rest
                return rk.fold(
                    rk.Range(COLUMNS, "j"), built(first, j) + 0.0 * p[0, i],
                    lambda j, acc: rk.where(built(test, j) & (acc < 5), acc + built(more, j), acc),
                )  # fmt: skip
            if op in ("sum", "max"):
                j = rk.Range(COLUMNS, "j")
                value, test = built(rest[1], j) + 0.0 * q[0, i, j], None if rest[0] is None else built(rest[0], j)
                if op == "sum":
                    return rk.sum(value, j, where=test)
                return rk.max(value if test is None else rk.where(test, value, -9.0), j)
            args = [built(t, j) for t in rest]
            if op == "where":
                return rk.where(*args)
            if op == "~":
                return ~args[0]
            return args[0] + args[1] if op == "+" else args[0] & args[1] if op == "&" else args[0] | args[1]

        return rk.bufferize(built(tree) + 0.0 * p[0, i], i)

    return kernel


class Outside(Exception):
    """An element that is not there was needed."""


def reads(tree: Any) -> bool:
    """Whether a tree has elements at indices from data."""
    return isinstance(tree, tuple) and (tree[0] in ("x", "xj") or any(map(reads, tree[1:])))


def worked_out(tree: Tree, data: Data, i: int, outside: float | None, j: int = -1) -> Any:
    """What a tree is, only what is chosen being looked at; ``outside``, if given, for an element that is not there."""
    op, *rest = tree

    def go(tree: Tree, at: int = j) -> Any:
        return worked_out(tree, data, i, outside, at)

    if op in ("x", "xj"):
        at = data.x[rest[0], i] if op == "x" else data.xj[rest[0], i, j]
        if not 0 <= at < len(X) and outside is None:
            raise Outside
        return X[at] if 0 <= at < len(X) else np.float32(outside)
    if op in ("p", "pj", "c"):
        return data.p[rest[0], i] if op == "p" else data.pj[rest[0], i, j] if op == "pj" else np.float32(rest[0])
    if op == ">":
        return bool(go(rest[0]) > rest[1])
    if op == "where":
        return go(rest[1] if go(rest[0]) else rest[2])
    if op in "&|":  # data alone may decide; otherwise both sides are looked at
        stops = op == "|"
        if any(not reads(side) and go(side) is stops for side in rest):
            return stops
        return stops if stops in [go(side) for side in rest] else not stops
    if op == "all":
        return np.float32(sum(worked_out(rest[0], data, k, outside, j) for k in range(ROWS)))
    if op == "sum":
        return np.float32(sum(go(rest[1], k) for k in range(COLUMNS) if rest[0] is None or go(rest[0], k)))
    if op == "max":
        return max(go(rest[1], k) if rest[0] is None or go(rest[0], k) else -9.0 for k in range(COLUMNS))
    if op == "fold":
        acc = go(rest[0])
        for k in range(COLUMNS):
            acc = acc + go(rest[2], k) if acc < 5 and go(rest[1], k) else acc
        return acc
    args = [go(t) for t in rest]
    return not args[0] if op == "~" else args[0] + args[1]


def needed(tree: Tree, data: Data) -> bool:
    """Whether an element that is not there is looked at, sums over all i included wherever they stand."""
    try:
        for i in range(ROWS):
            worked_out(tree, data, i, None)
        for whole in sums_over_i(tree):
            for j in range(COLUMNS):
                worked_out(whole, data, 0, None, j)
    except Outside:
        return True
    return False


def sums_over_i(tree: Any) -> list[Tree]:
    if not isinstance(tree, tuple):
        return []
    return [*((tree,) if tree[0] == "all" else ()), *(t for part in tree[1:] for t in sums_over_i(part))]


@pytest.mark.parametrize(("device", "first", "count"), [("cpu", 0, 250), ("python", 250, 60)])
def test_random_conditions(device: str, first: int, count: int) -> None:
    """No access outside, no error that is not due but for very few, no wrong value, and none kept back that matters."""
    raised, idle, needless = 0, 0, 0
    for seed in range(first, first + count):
        draw = random.Random(seed)
        tree = number(draw, 4)
        run = rk.kernel(program(tree), device=device)
        for bad in (None, FAR, -FAR, -1, len(X)):
            data = Data(draw, bad)
            due = needed(tree, data)
            try:
                got = run(*data.arrays())
            except rk.BoundsError:
                raised, needless = raised + 1, needless + (not due)
                continue
            wanted = [[worked_out(tree, data, i, v) for i in range(ROWS)] for v in (0.0, 7.5, -7.5, 0.75, -0.75)]
            assert all(np.allclose(w, wanted[0]) for w in wanted), (seed, bad)  # else it had to raise
            assert np.allclose(got, wanted[0], rtol=1e-5), (seed, bad)
            idle += bad is not None
    assert raised > count // 2 and idle > count
    assert needless <= count // 50


def test_a_condition_that_reads_what_it_protects() -> None:
    def kernel(k: Any, m: Any, x: Any, ids: Any) -> Any:
        i = rk.Range(k.shape[0], "i")
        v = x[ids[i]]
        return rk.bufferize(rk.where((k[i] < 3) | (v > 0), v, 0.0), i)

    k, ids = np.arange(6), np.array([0, 1, 2, 3, 4, FAR])
    with pytest.raises(rk.BoundsError, match=f"index {FAR} of axis 0"):
        rk.kernel(kernel)(k, k, X, ids)
    assert rk.kernel(kernel)(k, k, X, ids % 6).tolist() == [1, -1, 2, 0, 3, 3]


def test_two_conditions_that_read_one_another() -> None:
    def kernel(p: Any, x: Any, a: Any, b: Any) -> Any:
        i = rk.Range(p.shape[0], "i")
        left, right = x[a[i]], x[b[i]]
        return rk.bufferize(rk.where(p[i] > 0, rk.where(left > 0, right, -1.0), rk.where(right > 0, left, -2.0)), i)

    p, a, b = np.array([1, 0, 1, 0]), np.array([1, FAR, 0, 2]), np.array([-FAR, 3, 4, 2])
    assert rk.kernel(kernel)(p, X, a, b).tolist() == [-1, -2, 3, 2], "what is not chosen is not looked at"
    with pytest.raises(rk.BoundsError, match=f"index {-FAR} "):
        rk.kernel(kernel)(p, X, 0 * a, b)
    with pytest.raises(rk.BoundsError, match=f"index {FAR} "):
        rk.kernel(kernel)(p, X, a, 0 * b)


@pytest.mark.parametrize("depth", [4, 40])
def test_a_long_chain_of_choices_has_few_ways(depth: int) -> None:
    """Two ways at each step that differ in a condition and its opposite are one: there are not 2 ** depth."""

    def kernel(x: Any, ids: Any, p: Any) -> Any:
        i = rk.Range(ids.shape[0], "i")
        v = x[ids[i]]
        for step in range(depth):
            v = rk.where(p[step, i] > 0, v + step, v - 2 * step)
        return rk.bufferize(v, i)

    ids, p = np.array([0, 5, 2, 2]), np.random.default_rng(depth).choice([-1.0, 1.0], (depth, 4)).astype(np.float32)
    steps = np.arange(depth)[:, None]
    want = X[ids] + np.where(p > 0, steps, -2 * steps).sum(0)
    assert np.array_equal(rk.kernel(kernel)(X, ids, p), want)
    with pytest.raises(rk.BoundsError, match=f"index {FAR} of axis 0"):
        rk.kernel(kernel)(X, ids + np.array([0, 0, FAR - 2, 0]), p)


def test_too_many_ways_keep_what_they_have_in_common() -> None:
    def kernel(x: Any, ids: Any, p: Any) -> Any:
        i = rk.Range(ids.shape[0], "i")
        total = 0.0
        for k in range(1, MOST + 9):
            total = total + rk.where((p[0, i] > 0) & (p[k, i] > k), x[ids[i]], 0.0)
        return rk.bufferize(total, i)

    p = np.full((MOST + 9, 2), 1000, np.float32)
    p[0] = [1, -1]
    assert rk.kernel(kernel)(X, np.array([2, FAR]), p).tolist() == [2.0 * (MOST + 8), 0]
    for last in (1, MOST + 8):  # of all ways only this one
        p[1:, 0] = -1
        p[last, 0] = 1000
        assert rk.kernel(kernel)(X, np.array([2, FAR]), p).tolist() == [2, 0]
    with pytest.raises(rk.BoundsError):
        rk.kernel(kernel)(X, np.array([2, FAR]), np.abs(p))


def test_a_state_is_none_of_a_sum_over_the_range_that_it_has() -> None:
    """The maximum over all i is the same for each, whatever sum an i has come to."""

    def kernel(x: Any, jds: Any, q: Any) -> Any:
        i, j = rk.Range(q.shape[0], "i"), rk.Range(q.shape[1], "j")

        def step(j: Any, acc: Any) -> Any:
            top = rk.max(rk.where(q[i, j] > 1, x[jds[i, j]], -2.0), i)
            return rk.where((x[jds[i, j]] > 1) & (acc < 5), acc + top, acc)

        return rk.bufferize(rk.fold(j, 0.0 * q[i, 0], step), i)

    rng = np.random.default_rng(1)
    jds, q = rng.integers(0, len(X), (37, 19)), rng.choice([0, 2], (37, 19)).astype(np.float32)
    top, want = np.where(q > 1, X[jds], -2).max(0), np.zeros(37, np.float32)
    for j in range(19):
        want = np.where((X[jds[:, j]] > 1) & (want < 5), want + top[j], want)
    assert np.array_equal(rk.kernel(kernel)(X, jds, q), want)


def test_more_than_a_few_ways_without_data_are_told_apart() -> None:
    """Under 43 conditions, some of which say that i is not 0 and some that it is, a read of x[i - 1] is right."""

    def kernel(x: Any) -> Any:
        i, j = rk.Range(8, "i"), rk.Range(8, "j")
        total = 0.0
        for k in range(2, 45):
            total = total + rk.where((i * k + j) % (k + 60) == k, rk.where(i > 0, x[i - 1], 0.0), 0.0)
        return rk.bufferize(total, i, j)

    x = np.arange(1, 9, dtype=np.float32)
    want = [[sum(float(x[i - 1]) for k in range(2, 45) if i and (i * k + j) % (k + 60) == k) for j in range(8)]
            for i in range(8)]  # fmt: skip
    assert rk.kernel(kernel)(x).tolist() == want
    assert {p.status for p in rk.kernel(kernel).lower(x).kernels[0].proofs} == {"proved"}
