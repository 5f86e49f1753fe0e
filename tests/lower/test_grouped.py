"""Products of rows and matrices that data chooses: blocks of a group each, those that are not used left out."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.ops import Op
from tests.lower.test_limits import DEVICES, run_scheduled, same, traced

Array = np.ndarray[Any, Any]


def grouped(x: Any, w: Any, row: Any, which: Any, used: Any, full: Any) -> Any:
    """Of each of ``used`` blocks the rows in its first ``full`` parts, times the block's matrix."""
    b, q, i, k, j = rk.ranges(*row.shape, *w.shape[1:])
    row, which = row.in_range(0, x.shape[0]), which.in_range(0, w.shape[0])
    taken = (b < used[0]) & (q < full[b])
    return rk.bufferize(rk.sum(x[row[b, q, i], k] * w[which[b], k, j], k, where=taken), b, q, i, j)


def operands(rng: random.Random, blocks: int, parts: int, rows: int, depth: int, width: int) -> tuple[Array, ...]:
    draw = np.random.default_rng(rng.randrange(1 << 30))
    x = draw.integers(-8, 9, (11, depth)).astype(np.float32) / 8
    w = draw.integers(-8, 9, (3, depth, width)).astype(np.float32) / 8
    full = draw.integers(0, parts + 1, blocks)
    return (x, w, draw.integers(0, 11, (blocks, parts, rows)), np.sort(draw.integers(0, 3, blocks)),
            draw.integers(0, blocks + 2, 1), full)  # fmt: skip


def expected(x: Array, w: Array, row: Array, which: Array, used: Array, full: Array) -> Array:
    out = np.zeros((*row.shape, w.shape[2]))
    for b in range(min(int(used[0]), len(row))):
        n = int(full[b])
        out[b, :n] = x[row[b, :n]].astype(np.float64) @ w[which[b]].astype(np.float64)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_blocks_of_groups_everywhere(seed: int) -> None:
    rng = random.Random(seed)
    args = operands(rng, rng.choice((1, 5)), rng.choice((1, 3)), rng.choice((1, 4)), rng.choice((1, 7)), 5)
    want = expected(*args)
    for device in DEVICES:
        same(rk.kernel(grouped, device=device)(*args), want, (device, seed))
    for again in range(4):
        run_scheduled(grouped, args, [want], random.Random(f"{seed} {again}"))


@pytest.mark.parametrize(("parts", "rows"), [(1, 32), (12, 8), (16, 6), (3, 1)])
@pytest.mark.parametrize("depth", [64, 131, 1030])
def test_blocks_of_groups_under_the_default_schedule(parts: int, rows: int, depth: int) -> None:
    args = operands(random.Random(depth), 9, parts, rows, depth, 141)
    same(rk.kernel(grouped)(*args), expected(*args), (parts, rows, depth))


def test_what_is_not_used_is_neither_read_nor_computed() -> None:
    x, w, row, which, *_ = operands(random.Random(0), 4, 3, 2, 5, 6)
    used, full = np.array([3]), np.array([3, 0, 1, 3])
    (found,) = traced(grouped, x, w, row, which, used, full)
    rows = 2 * (3 + 0 + 1)
    assert found.loads("x") == found.loads("w") == found.ops[Op.FMA] == rows * 5 * 6
    assert {a.index[0] for a in found.accesses if a.array == "w"} == {which[0], which[2]}


def test_both_operands_are_packed_at_blocks() -> None:
    args = operands(random.Random(1), 20, 16, 6, 512, 1024)
    (kernel,) = rk.kernel(grouped).lower(*args).kernels
    steps = str(kernel.schedule)
    assert "rk.stage('x'" in steps and "rk.stage('w'" in steps and "rk.thread('b')" in steps
    lines = str(rk.kernel(grouped).lower(*args)).splitlines()
    depth = {name: next(len(s) - len(s.lstrip()) for s in lines if f"local {name}_tile" in s) for name in "xw"}
    parts = max(len(s) - len(s.lstrip()) for s in lines if s.strip().startswith("for q.t"))
    assert depth["x"] < depth["w"] < parts  # a panel of the matrix, then all rows of the block


def test_a_matrix_that_many_batches_share_is_packed_once() -> None:
    def products(x: Any, w: Any) -> Any:
        n, i, k, j = rk.ranges(*x.shape, w.shape[1])
        return rk.bufferize(rk.sum(x[n, i, k] * w[k, j], k), n, i, j)

    draw = np.random.default_rng(0)
    for shape in ((40, 6, 200), (7, 16, 300), (64, 1, 260)):
        x = draw.integers(-8, 9, shape).astype(np.float32)
        w = draw.integers(-8, 9, (shape[2], 330)).astype(np.float32)
        same(rk.kernel(products)(x, w), x.astype(np.float64) @ w.astype(np.float64), shape)
    text = str(rk.kernel(products).lower(np.ones((64, 6, 512), np.float32), np.ones((512, 1024), np.float32)))
    before, _, _ = text.partition("w_tile")
    assert "n in" not in before and "n.t in" not in before


# ---- conditions that no reduced range is part of ---------------------------------------------------------------------


def test_a_condition_on_a_row_leaves_its_loop_out() -> None:
    def sums(x: Any, n: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(rk.sum(x[i, j], j, where=n[i] > 0), i)

    x, n = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([1, 0, 2])
    assert str(rk.kernel(sums, device="python").lower(x, n)) == """\
for i in 0..3:
    acc = 0.0
    for j in 0..where(0 < n[i], 4, 0):
        acc += x[i, j]
    out[i] = acc
"""  # fmt: skip
    assert traced(sums, x, n)[0].loads("x") == 8
    y = np.random.default_rng(0).integers(-8, 9, (70, 1024)).astype(np.float32)
    m = np.arange(70) % 3
    same(rk.kernel(sums)(y, m), np.where(m > 0, y.sum(1), 0), "rows")
    assert "0..where(" in str(rk.kernel(sums).lower(y, m)) and "min(" not in str(rk.kernel(sums).lower(y, m))


def test_a_condition_on_what_lies_in_vectors_is_a_mask() -> None:
    def columns(x: Any, n: Any) -> Any:
        i, j = rk.ranges(x.shape[1], x.shape[0])
        return rk.bufferize(rk.sum(x[j, i], j, where=n[i] > 0), i)

    y = np.random.default_rng(0).integers(-8, 9, (1000, 70)).astype(np.float32)
    m = np.arange(70) % 3
    text = str(rk.kernel(columns).lower(y, m))
    assert "where(c, x[" in text and "vector i" in text
    same(rk.kernel(columns)(y, m), np.where(m > 0, y.sum(0), 0), "columns")


def test_an_element_that_only_the_condition_protects_stays_protected() -> None:
    def some(x: Any, n: Any) -> Any:
        b, k, j = rk.ranges(40, *x.shape[1:])
        return rk.bufferize(rk.sum(x[b, k, j], k, where=b < 10), b, j)

    x = np.ones((10, 64, 96), np.float32)
    want = np.zeros((40, 96))
    want[:10] = 64
    for device in DEVICES:
        same(rk.kernel(some, device=device)(x, 0), want, device)
    run_scheduled(some, (x, np.array(0)), [want], random.Random(0))


# ---- promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["row", "which"])
def test_broken_promises_are_told_whatever_the_schedule(broken: str) -> None:
    for sizes in ((2, 3, 2, 5, 6), (20, 16, 6, 512, 1024)):
        x, w, row, which, used, full = operands(random.Random(2), *sizes)
        row, which = row.copy(), which.copy()
        if broken == "row":
            row[-1, -1, -1] = 11
        else:
            which[-1] = 3
        for device in DEVICES if sizes[0] < 20 else ["cpu"]:
            with pytest.raises(rk.BoundsError, match="breaks its contract"):
                rk.kernel(grouped, device=device)(x, w, row, which, used, full)


def test_tests_have_loops_of_their_own_before_the_blocks() -> None:
    low = rk.kernel(grouped).lower(*operands(random.Random(3), 20, 16, 6, 512, 1024))
    first, second = str(low).split("thread b in")
    assert first.count("guard") == 2 and "b.ok" in first
    assert "guard" not in second


# ---- products of products --------------------------------------------------------------------------------------------


def layers(x: Any, v: Any, w: Any) -> Any:
    i, k, f, j = rk.ranges(*x.shape, *w.shape)
    h = rk.bufferize(rk.maximum(rk.sum(x[i, k] * v[k, f], k), 0.0), i, f)
    return rk.bufferize(rk.sum(h[i, f] * w[f, j], f), i, j)


def test_two_products_with_long_rows_stay_apart() -> None:
    low = rk.kernel(layers).lower(*(np.ones(s, np.float32) for s in ((256, 512), (512, 1024), (1024, 512))))
    assert len(low.kernels) == 2
    assert "two products in blocks cost less than one inside the other" in low.explain()
    low = rk.kernel(layers).lower(*(np.ones(s, np.float32) for s in ((256, 512), (512, 1024), (1024, 64))))
    assert len(low.kernels) == 1  # the row of results fits registers


def test_products_are_kept_where_data_says_which_rows_are_read() -> None:
    def chosen(x: Any, w: Any, ids: Any) -> Any:
        i, k, j, n = rk.ranges(*x.shape, w.shape[1], ids.shape[0])
        y = rk.bufferize(rk.sum(x[i, k] * w[k, j], k), i, j)
        return rk.bufferize(y[ids[n].in_range(0, x.shape[0]), j], n, j)

    x, w = np.ones((64, 200), np.float32), np.ones((200, 96), np.float32)
    many, few = np.arange(64)[::-1].copy(), np.array([3, 1])
    low = rk.kernel(chosen).lower(x, w, many)
    assert len(low.kernels) == 2 and "data says which rows are read" in low.explain()
    assert len(rk.kernel(chosen).lower(x, w, few).kernels) == 1
    for ids in (many, few):
        same(rk.kernel(chosen)(x, w, ids), np.full((len(ids), 96), 200.0), len(ids))
