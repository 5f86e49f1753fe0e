"""Accesses are made safe where they are used: conditions that read what they protect, alone and one another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk

FAR = 10**8  # elements: whoever reads there does not come back
X = np.array([1, -1, 2, -2, 3, 0.5], np.float32)
ROWS = 16

Tree = tuple[Any, ...]


def number(draw: random.Random, depth: int) -> Tree:
    """("x", m): an element at the m-th index; ("p", m): data; ("where", condition, number, number); ("+", a, b)."""
    roll = draw.random()
    if depth == 0 or roll < 0.2:
        return draw.choice((("x", 0), ("x", 1), ("x", 2), ("p", 0), ("p", 1), ("c", -2.0)))
    if roll < 0.75:
        return "where", condition(draw, depth - 1), number(draw, depth - 1), number(draw, depth - 1)
    return "+", number(draw, depth - 1), number(draw, depth - 1)


def condition(draw: random.Random, depth: int) -> Tree:
    roll = draw.random()
    if depth == 0 or roll < 0.5:
        return ">", number(draw, max(depth - 1, 0)), draw.choice((0.0, 1.0, -1.0))
    if roll < 0.6:
        return "~", condition(draw, depth - 1)
    return draw.choice("&|"), condition(draw, depth - 1), condition(draw, depth - 1)


def built(tree: Tree, reads: list[Any], data: list[Any]) -> Any:
    """The expression of a tree."""
    op, *rest = tree
    if op in "xp":
        return (reads if op == "x" else data)[rest[0]]
    if op == "c":
        return rest[0]
    if op == ">":
        return built(rest[0], reads, data) > rest[1]
    args = [built(t, reads, data) for t in rest]
    if op == "where":
        return rk.where(*args)
    if op == "~":
        return ~args[0] if not isinstance(args[0], bool) else not args[0]
    return args[0] + args[1] if op == "+" else args[0] & args[1] if op == "&" else args[0] | args[1]


class Outside(Exception):
    """An element that is not there was needed."""


def reads(tree: Tree) -> bool:
    return tree[0] == "x" or any(reads(t) for t in tree[1:] if isinstance(t, tuple))


def worked_out(tree: Tree, at: list[int], data: list[float], outside: float | None) -> Any:
    """What a tree is, only what is chosen being looked at; ``outside``, if given, for an element that is not there."""
    op, *rest = tree
    if op == "x":
        if 0 <= at[rest[0]] < len(X):
            return X[at[rest[0]]]
        if outside is None:
            raise Outside
        return np.float32(outside)
    if op in "pc":
        return np.float32(data[rest[0]] if op == "p" else rest[0])
    if op == ">":
        return bool(worked_out(rest[0], at, data, outside) > rest[1])
    if op == "where":
        return worked_out(rest[1] if worked_out(rest[0], at, data, outside) else rest[2], at, data, outside)
    if op in "&|":  # data alone may decide; otherwise both sides are looked at
        stops = op == "|"
        if any(not reads(side) and worked_out(side, at, data, outside) is stops for side in rest):
            return stops
        return stops if stops in [worked_out(side, at, data, outside) for side in rest] else not stops
    args = [worked_out(t, at, data, outside) for t in rest]
    return not args[0] if op == "~" else args[0] + args[1]


def must(tree: Tree, at: list[int], data: list[float]) -> tuple[bool, Any]:
    """Whether nothing outside is needed, and then the value; else whether the value depends on what is there."""
    try:
        return True, worked_out(tree, at, data, None)
    except Outside:
        return False, len({float(worked_out(tree, at, data, v)) for v in (0.0, 7.5, -7.5, 0.75, -0.75)}) > 1


def gathered(tree: Tree) -> Callable[..., Any]:
    def kernel(x: Any, ids: Any, p: Any) -> Any:
        i = rk.Range(p.shape[1], "i")
        value = built(tree, [x[ids[m, i]] for m in range(3)], [p[m, i] for m in range(2)])
        return rk.bufferize(value + 0.0 * p[0, i], i)

    return kernel


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_random_conditions(device: str) -> None:
    needed = free = 0
    for seed in range(150 if device == "cpu" else 50):
        draw = random.Random(seed)
        tree = number(draw, 4)

        run = rk.kernel(gathered(tree), device=device)
        p = np.array([[draw.choice((-2.0, -0.5, 0.5, 2.0)) for _ in range(ROWS)] for _ in range(2)], np.float32)
        ids = np.array([[draw.randrange(len(X)) for _ in range(ROWS)] for _ in range(3)])
        for bad in (None, FAR, -FAR, -1, len(X)):
            k = draw.randrange(ROWS)
            if bad is not None:
                ids[draw.randrange(3), k] = bad
            wanted = [must(tree, ids[:, r].tolist(), p[:, r].tolist()) for r in range(ROWS)]
            try:
                got = run(X, ids, p)
            except rk.BoundsError:
                assert not all(fine for fine, _ in wanted), (seed, tree, bad)
                needed += 1
                ids[:, k] = 0
                continue
            assert not any(depends is True for fine, depends in wanted if not fine), (seed, tree, bad)
            for r, (fine, value) in enumerate(wanted):
                assert not fine or got[r] == value, (seed, tree, r)
            free += bad is not None
            ids[:, k] = 0
    assert needed > 50 and free > 50


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
