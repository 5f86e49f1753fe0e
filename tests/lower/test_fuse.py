"""What is kept, what is a row or a table inside a nest, in which order loops run, and what is told of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.python import trace
from rangekit.ir.ops import Op
from tests.runs import ways

Array = np.ndarray[Any, Any]


def rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def scratch(low: Any) -> list[tuple[int, ...]]:
    return [b.shape for k in low.kernels for b in k.buffers if b.memory != "global" and b.size > 1]


def ran(fn: Any, *args: Array) -> Any:
    """What the interpreter does for a program of one kernel."""
    low: Any = rk.kernel(fn, device="python").lower(*args)
    nest = low.kernels[0].nest
    results = [np.empty(p.shape, p.dtype.numpy) for p in low._program.results]
    assert len(low.kernels) == 1
    return trace(nest, [*args, *results])


def agree(fn: Any, want: Any, *args: Array) -> None:
    for way, got in ways(fn, *args):
        wanted = want if isinstance(want, tuple) else (want,)
        for g, w in zip(got, wanted, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5, err_msg=way)


# ---- the order of loops ----------------------------------------------------------------------------------------------


def columns(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    e = rk.exp(x[i, j] - rk.max(x[i, j], i))
    return rk.bufferize(e / rk.sum(e, i), i, j)


@pytest.mark.parametrize("fn", [columns, lambda x: rk.softmax(x, axis=0)])
def test_a_reduction_of_columns_runs_once_a_column(fn: Any) -> None:
    x = rand(9, 5)
    assert ran(fn, x).ops[Op.EXP] == 2 * x.size
    low = rk.kernel(fn).lower(x)
    assert [s.split(" in ")[1] for s in str(low).splitlines() if s.startswith("for")] == ["0..5:"]


def test_the_order_stays_as_written_where_another_saves_little() -> None:
    def fn(q: Any, w: Any) -> Any:
        b, h, i, d = rk.ranges(*q.shape)
        scale = rk.sum(w[b, i], axis=0)  # of batch and row: heads between them take it again
        return rk.bufferize(q[b, h, i, d] * scale + rk.sum(q[b, h, i]), b, h, i, d)

    q, w = rand(2, 3, 5, 40), rand(2, 5, 4, seed=1)
    low = rk.kernel(fn, device="python").lower(q, w)
    assert str(low).splitlines()[:3] == ["for b in 0..2:", "    for h in 0..3:", "        for i in 0..5:"]
    agree(fn, q * w.sum(axis=2)[:, None, :, None] + q.sum(axis=3)[..., None], q, w)


def test_sums_that_want_two_orders_are_taken_once_each() -> None:
    def fn(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(x[i, j] - rk.mean(x[i, j], j) - rk.mean(x[i, j], i), i, j)

    x = rand(80, 70)
    assert ran(fn, x).loads("x") == 3 * x.size
    assert scratch(rk.kernel(fn, device="python").lower(x)) == [(70,)]
    x = x[:9, :7].copy()
    agree(fn, x - x.mean(axis=1, keepdims=True) - x.mean(axis=0), x)


def test_a_fold_over_columns_and_a_scan_along_rows_keep_their_order() -> None:
    def folded(x: Any) -> Any:
        i, j, k = rk.ranges(*x.shape, x.shape[0])
        last = rk.fold(k, 0.0, lambda k, s: s * 0.5 + x[k, j])
        return rk.bufferize(x[i, j] - last, i, j)

    x, last = rand(6, 4), np.zeros(4)
    for row in x:
        last = last * 0.5 + row
    agree(folded, x - last, x)
    agree(lambda x: rk.cumulative_sum(x, axis=0) * 2 - rk.sum(x, axis=0), 2 * x.cumsum(axis=0) - x.sum(axis=0), x)
    agree(lambda x: rk.cumulative_sum(x, axis=1) * rk.max(x, axis=0), x.cumsum(axis=1) * x.max(axis=0), x)


# ---- rows, tables, memory --------------------------------------------------------------------------------------------


def test_axes_along_which_nothing_changes_take_no_storage() -> None:
    def fn(x: Any, w: Any) -> Any:
        t = rk.broadcast_to(rk.exp(w)[None, None], (*x.shape[:2], *w.shape))
        rows = rk.sum(x[..., None] * t, axis=2)
        return rk.sum(rows[..., None, :] * t, axis=-1)

    x, w = rand(3, 4, 20), rand(20, 30, seed=1)
    low = rk.kernel(fn).lower(x, w)
    assert max((math.prod(s) for s in scratch(low)), default=0) <= w.size
    e = np.exp(w)
    agree(fn, x @ e @ e.T, x, w)


def test_a_row_for_each_iteration_rather_than_all_rows_in_memory() -> None:
    def fn(x: Any, doc: Any) -> Any:
        keep = (doc[:, None] == doc[None, :]) & (rk.arange(40)[:, None] >= rk.arange(40)[None, :])
        return rk.softmax(x, axis=-1, where=keep) + rk.max(x, axis=-1, where=keep)[..., None]

    x, doc = rand(3, 40, 40), np.arange(40) // 9
    low = rk.kernel(fn, device="python").lower(x, doc)
    assert scratch(low) == [(40,)]
    assert "in local memory, 40 bool (40 bytes), inside the loops" in low.explain()


def test_a_row_at_an_index_that_is_made_of_loops() -> None:
    """The heads of a group are an axis of their own: the row that a head reads is at [h // 2, h % 2]."""

    def fn(q: Any, k: Any) -> Any:
        s = q.reshape(2, 2, 9, 3) @ k[:, None].mT
        return rk.softmax(s, axis=-1).reshape(4, 9, 9)

    q, k = rand(4, 9, 3), rand(2, 9, 3, seed=1)
    assert scratch(rk.kernel(fn, device="python").lower(q, k)) == [(9,)]
    s = q @ np.repeat(k, 2, axis=0).transpose(0, 2, 1)
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    agree(fn, e / e.sum(axis=-1, keepdims=True), q, k)


def test_a_table_that_a_nest_begins_with() -> None:
    def fn(x: Any) -> Any:
        t = rk.sum(x, axis=1)
        return t[::-1] * rk.sum(x, axis=1) + t

    x = rand(6, 4)
    low = rk.kernel(fn).lower(x)
    assert len(low.kernels) == 1
    t = x.sum(axis=1)
    agree(fn, t[::-1] * t + t, x)


def test_what_two_nests_read_is_kept_and_said_so() -> None:
    def fn(x: Any) -> Any:
        t = rk.exp(x @ x)
        return rk.sum(t, axis=0) @ x, t @ t

    x = rand(80, 80) / 9
    low = rk.kernel(fn).lower(x)
    line = next(line for line in low.explain().splitlines() if "kept in memory" in line)
    assert line.startswith("t0 = exp in `rk.exp(x @ x)` (line ")
    assert (
        "kept in memory, 80 x 80 float32 (25600 bytes): 20608000 operations to compute it in 3 places, against" in line
    )
    assert line.endswith("to keep it; 2 nests read it")
    assert "t0" in str(low)
    t = np.exp(x.astype(np.float64) @ x)
    for got, want in zip(rk.kernel(fn)(x), (t.sum(axis=0) @ x, t @ t), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4)


def test_everything_kept_is_told_with_its_bytes() -> None:
    def asked(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        t = rk.bufferize(rk.sum(x[i, j], j), i, memory="global")
        return rk.bufferize(t[i] * x[i, j], i, j)

    def written(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        return rk.assign(x[i], x[x.shape[0] - 1 - i])

    says = rk.kernel(asked).lower(rand(5, 4)).explain()
    assert says.startswith('sum in `rk.bufferize(rk.sum(x[i, j], j), i, memory="global")` (line ')
    assert says.endswith("in global memory, 5 float32 (20 bytes): memory= asks for it")
    assert rk.kernel(written).lower(rand(5)).explain() == "a copy of x, 20 bytes: it is read after it is written"
    assert rk.kernel(lambda x: x + 1).lower(rand(5)).explain() == "no buffer but the results was asked for"


def test_an_explanation_of_attention() -> None:
    def attention(q: Any, k: Any, v: Any) -> Any:
        s = q @ k.mT
        return rk.softmax(s, axis=-1) @ v

    q, k, v = (rand(40, 8, seed=n) for n in range(3))
    says = [line.partition(" (line ") for line in rk.kernel(attention).lower(q, k, v).explain().splitlines()]
    run_once = "removed, computed where it is used: its reductions run no more often there"
    assert [(what, why.partition("): ")[2]) for what, _, why in says[:5]] == [
        ("sum in `q @ k.mT`", "in local memory, 40 float32 (160 bytes), inside the loops around its uses: "
                              "its reductions would run 4800 times instead of 1600"),
        ("sum in `rk.softmax(s, axis=-1) @ v`", run_once),
        ("sum in `rk.softmax(s, axis=-1)`", run_once),
        ("exp in `rk.softmax(s, axis=-1)`",
         "removed, computed in 2 places: 67360 operations, against 110560 to keep it"),
        ("max in `rk.softmax(s, axis=-1)`", run_once),
    ]  # fmt: skip


# ---- kernels that results share --------------------------------------------------------------------------------------


def test_results_that_read_the_same_share_a_kernel_though_another_stands_between() -> None:
    def fn(x: Any) -> Any:
        return rk.mean(x, axis=1), x * 2, rk.var(x, axis=1)

    x = rand(6, 5)
    assert len(rk.kernel(fn).lower(x).kernels) == 2
    agree(fn, (x.mean(axis=1), x * 2, x.var(axis=1)), x)


def test_results_do_not_share_a_kernel_across_a_write() -> None:
    def fn(x: Any) -> Any:
        before = rk.sum(x, axis=1)
        x[1:3] = 9.0
        return before, rk.sum(x, axis=1), rk.max(x, axis=1)

    for device in ("cpu", "python"):
        x = np.ones((5, 4), np.float32)
        low = rk.kernel(fn, device=device).lower(x)
        assert len(low.kernels) >= 3
        before, after, most = rk.kernel(fn, device=device)(x)
        assert before.tolist() == [4, 4, 4, 4, 4]
        assert after.tolist() == [4, 36, 36, 4, 4]
        assert most.tolist() == [1, 9, 9, 1, 1]


def test_results_that_want_their_loops_in_two_orders_do_not_share_a_kernel() -> None:
    def fn(x: Any) -> Any:
        return x - rk.mean(x, axis=1, keepdims=True), x - rk.mean(x, axis=0)

    x = rand(30, 20)
    low = rk.kernel(fn, device="python").lower(x)
    assert sum(k.counts.loads["x"] for k in low.kernels) == 4 * x.size
    x = x[:6, :5].copy()
    agree(fn, (x - x.mean(axis=1, keepdims=True), x - x.mean(axis=0)), x)


# ---- checks of what leaves no trace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "python"])
@pytest.mark.parametrize(
    "fn",
    [
        lambda x, i: rk.zeros(3)[i],
        lambda x, i: rk.full((3,), 7)[i] + x[i],
        lambda x, i: rk.arange(3)[i],
        lambda x, i: rk.broadcast_to(x[:1], (3,))[i],
        lambda x, i: rk.broadcast_to(rk.sum(x), (3,))[i],
        lambda x, i: x[:1][i],
        lambda x, i: x[:, None][0, i],
        lambda x, i: (x[None] + 1)[i, 0],
        lambda x, i: rk.bufferize(rk.exp(rk.sum(x)), rk.Range(3))[i],
    ],
)
def test_an_index_past_the_end_is_refused_though_the_value_does_not_depend_on_it(fn: Any, device: str) -> None:
    def refused(x: Any) -> Any:
        i = rk.Range(5)
        return rk.bufferize(fn(x, i), i)

    def guarded(x: Any) -> Any:
        i = rk.Range(5)
        return rk.bufferize(rk.where(i < 1, fn(x, i), 2.0), i)

    x = rand(8)
    with pytest.raises(rk.BoundsError, match=r"reads element \d of axis \d, which has \d elements?, when i = \d"):
        rk.kernel(refused, device=device)(x)
    got = rk.kernel(guarded, device=device)(x)
    assert got[1:].tolist() == [2, 2, 2, 2]
    low: Any = rk.kernel(guarded).lower(x)
    assert all(p.status == "proved" for p in low.kernels[0].proofs)


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_an_index_from_data_is_guarded_though_the_value_does_not_depend_on_it(device: str) -> None:
    def fn(ids: Any) -> Any:
        i = rk.Range(3)
        return rk.bufferize(rk.where(ids[i] < 100, rk.ones(8)[ids[i]] * 4, 1.0), i)

    kernel = rk.kernel(fn, device=device)
    assert kernel(np.array([0, 7, 500])).tolist() == [4, 4, 1]
    with pytest.raises(rk.BoundsError, match=r"index 9 of axis 0 of rk\.ones\(8\), which has 8 elements"):
        kernel(np.array([0, 9, 500]))
    with pytest.raises(rk.BoundsError, match="index -1"):
        kernel(np.array([0, -1, 500]))


def test_a_write_at_an_axis_that_leaves_no_trace() -> None:
    def fn(x: Any, ids: Any) -> Any:
        i = rk.Range(8)
        return rk.assign(x.reshape(1, 8)[ids[0], i], 5.0)

    for device in ("cpu", "python"):
        x = np.zeros(8, np.float32)
        assert rk.kernel(fn, device=device)(x, np.array([0])).tolist() == [5] * 8
        with pytest.raises(rk.BoundsError, match="index 1 of axis 0"):
            rk.kernel(fn, device=device)(np.zeros(8, np.float32), np.array([1]))
