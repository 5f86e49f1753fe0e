"""Sizes known at the call: one compilation gives what NumPy gives, at every size within the bounds, on every device."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import ArgumentError, BoundsError, RangekitError, ShapeError
from tests.lower.test_schedule import at_random

N = rk.Dim("N", max=300)
M = rk.Dim("M", max=200)
K = rk.Dim("K", min=0, max=70)
E = rk.Dim("E", max=64, multiple_of=8)
SIZES = (1, 2, 3, 7, 8, 13, 16, 17, 31, 64, 65, 101)
Arrays = Any


# ---- programs --------------------------------------------------------------------------------------------------------


def row_sums(x: rk.f32[N, 7]) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.sum(x[i, j], j), i)


def column_sums(x: rk.f32[N, M]) -> Any:
    return rk.sum(x, axis=0)


def total(x: rk.f64[N, M]) -> Any:
    return rk.sum(x)


def product(a: rk.f32[N, K], b: rk.f32[K, M]) -> Any:
    return a @ b


def softmax(x: rk.f32[N, M]) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.softmax(x[i, j], j), i, j)


def normalised(x: rk.f32[N, M]) -> Any:
    i, j = rk.ranges(*x.shape)
    centre, spread = rk.mean(x[i, j], j), rk.var(x[i, j], j)
    return rk.bufferize((x[i, j] - centre) * rk.rsqrt(spread + 1e-5), i, j)


def transposed(x: rk.i32[N, M]) -> Any:
    return x.T + 1


def turned(x: rk.i32[N, M]) -> Any:
    return rk.flip(x, axis=1)


def flat(x: rk.f32[N, 4]) -> Any:
    return rk.reshape(x, (-1,)) * 2


def folded(x: rk.f32[E, M]) -> Any:
    return rk.reshape(x, (x.shape[0] // 8, 8, x.shape[1])) + 1


def diagonal(x: rk.f32[N, N]) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i, i], i)


def lower_sums(x: rk.f32[N, N]) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.sum(x[i, j], j, where=j <= i), i)


def best(x: rk.f32[N, M]) -> Any:
    return rk.argmax(x, axis=1), rk.max(x, axis=1)


def flat_best(x: rk.f32[N, M]) -> Any:
    return rk.argmax(x)


def running(x: rk.f32[N, M]) -> Any:
    return rk.cumulative_sum(x, axis=1)


def recurrence(x: rk.f32[N]) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(rk.scan(i, 0.0, lambda i, h: 0.5 * h + x[i]), i)


def counts(x: rk.i32[N]) -> Any:
    i = rk.Range(x.shape[0])
    return rk.scatter(rk.zeros((5,), dtype=rk.int64), x[i] % 5, 1, i)


def share(x: rk.f32[N]) -> Any:
    return x / x.shape[0] + rk.arange(0, 1).astype(rk.float32)


def outer(x: rk.f32[N], y: rk.f32[M]) -> Any:
    i, j = rk.ranges(x.shape[0], y.shape[0])
    return rk.bufferize(x[i] * y[j], i, j)


def twice(x: rk.f32[N, M]) -> Any:
    row = rk.max(x, axis=1)
    return x - row[:, None], row


def edges(x: rk.f32[N, M]) -> Any:
    return rk.concat([x, x * 2], axis=0)


def attention(q: rk.f32[2, N, 8], k: rk.f32[2, M, 8], v: rk.f32[2, M, 5]) -> Any:
    h, i, j, c, e = rk.ranges(2, q.shape[1], k.shape[1], 8, 5)
    p = rk.softmax(rk.sum(q[h, i, c] * k[h, j, c], c), j)
    return rk.bufferize(rk.sum(p * v[h, j, e], j), h, i, e)


def groups(x: rk.f32[N, 3], ends: rk.i64[M + 1]) -> Any:
    g, r, c = rk.ranges(ends.shape[0] - 1, x.shape[0], 3)
    inside = (ends[g] <= r) & (r < ends[g + 1])
    return rk.bufferize(rk.sum(x[r, c], r, where=inside), g, c)


def sliced(x: rk.f32[N + 3]) -> Any:
    return x[1:-1], x[::-1], x[2:], x[-1]


def counted(x: rk.f32[N]) -> Any:
    n = x.shape[0]
    return x + rk.arange(n), rk.arange(2, 2 * n + 1, 3)


def selected(x: rk.f32[N]) -> Any:
    return rk.masked_select(x, x > 0)


def of(*shape: int, dtype: str = "f4") -> Any:
    draw = np.random.default_rng(sum(shape))
    if dtype.startswith("i"):
        return draw.integers(-50, 50, shape).astype(dtype)
    return draw.standard_normal(shape).astype(dtype)


def np_softmax(x: Arrays) -> Arrays:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def np_groups(x: Arrays, ends: Arrays) -> Arrays:
    return np.stack([x[lo:hi].sum(0) for lo, hi in pairwise(ends)])


def np_recurrence(x: Arrays) -> Arrays:
    out, h = [], 0.0
    for v in x:
        h = 0.5 * h + v
        out.append(h)
    return np.array(out)


def some_ends(n: int, m: int) -> Arrays:
    return np.sort(np.random.default_rng(n).integers(0, n + 1, m + 1))


Case = tuple[Callable[..., Any], Callable[[int, int], tuple[Arrays, ...]], Callable[..., Any]]
CASES: list[Case] = [
    (row_sums, lambda n, m: (of(n, 7),), lambda x: x.sum(1)),
    (column_sums, lambda n, m: (of(n, m),), lambda x: x.sum(0)),
    (total, lambda n, m: (of(n, m, dtype="f8"),), lambda x: x.sum()),
    (product, lambda n, m: (of(n, m % 70), of(m % 70, m)), lambda a, b: a @ b),
    (softmax, lambda n, m: (of(n, m),), np_softmax),
    (normalised, lambda n, m: (of(n, m),), lambda x: (x - x.mean(1)[:, None]) / np.sqrt(x.var(1)[:, None] + 1e-5)),
    (transposed, lambda n, m: (of(n, m, dtype="i4"),), lambda x: x.T + 1),
    (turned, lambda n, m: (of(n, m, dtype="i4"),), lambda x: x[:, ::-1]),
    (flat, lambda n, m: (of(n, 4),), lambda x: x.reshape(-1) * 2),
    (folded, lambda n, m: (of(-(-n // 8) * 8 % 64 or 64, m),), lambda x: x.reshape(-1, 8, x.shape[1]) + 1),
    (diagonal, lambda n, m: (of(n, n),), lambda x: np.diagonal(x)),
    (lower_sums, lambda n, m: (of(n, n),), lambda x: np.tril(x).sum(1)),
    (best, lambda n, m: (of(n, m),), lambda x: (x.argmax(1), x.max(1))),
    (flat_best, lambda n, m: (of(n, m),), lambda x: x.argmax()),
    (running, lambda n, m: (of(n, m),), lambda x: x.cumsum(1)),
    (recurrence, lambda n, m: (of(n),), np_recurrence),
    (counts, lambda n, m: (of(n, dtype="i4"),), lambda x: np.bincount(x % 5, minlength=5)),
    (share, lambda n, m: (of(n),), lambda x: x / len(x)),
    (outer, lambda n, m: (of(n), of(m)), np.outer),
    (twice, lambda n, m: (of(n, m),), lambda x: (x - x.max(1)[:, None], x.max(1))),
    (edges, lambda n, m: (of(n, m),), lambda x: np.concatenate([x, x * 2])),
    (attention, lambda n, m: (of(2, n, 8), of(2, m, 8), of(2, m, 5)),
     lambda q, k, v: np_softmax(q @ k.swapaxes(1, 2)) @ v),
    (sliced, lambda n, m: (of(n + 3),), lambda x: (x[1:-1], x[::-1], x[2:], x[-1])),
    (counted, lambda n, m: (of(n),), lambda x: (x + np.arange(len(x)), np.arange(2, 2 * len(x) + 1, 3))),
    (selected, lambda n, m: (of(n),), lambda x: (np.pad(x[x > 0], (0, (x <= 0).sum())), (x > 0).sum())),
    (groups, lambda n, m: (of(n, 3), some_ends(n, m)), np_groups),
]  # fmt: skip
NAMES = [case[0].__name__ for case in CASES]


def wide(args: tuple[Arrays, ...]) -> tuple[Arrays, ...]:
    return tuple(a.astype("f8") if a.dtype.kind == "f" else a for a in args)


def same(got: Any, want: Any) -> None:
    got, want = (x if isinstance(x, tuple) else (x,) for x in (got, want))
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert g.shape == w.shape
        if g.dtype.kind == "f":
            np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-4)
        else:
            np.testing.assert_array_equal(g, w)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_one_compilation_serves_every_size(case: Case) -> None:
    fn, inputs, oracle = case
    kernel = rk.kernel(fn)
    for n, m in zip(SIZES, (65, 1, 16, 3, 17, 2, 101, 8, 64, 7, 31, 13), strict=True):
        args = inputs(n, m)
        same(kernel(*args), oracle(*wide(args)))
    assert len(kernel._compiled) == 1


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_interpreter_gives_the_same(case: Case) -> None:
    fn, inputs, oracle = case
    kernel = rk.kernel(fn, device="python")
    for n, m in ((1, 1), (5, 9)):
        args = inputs(n, m)
        same(kernel(*args), oracle(*wide(args)))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_any_schedule_gives_the_same(case: Case) -> None:
    fn, inputs, oracle = case
    for seed in range(3):
        kernel = at_random(rk.kernel(fn), random.Random(seed), *inputs(9, 9))
        for n, m in ((1, 2), (17, 13), (40, 67)):
            args = inputs(n, m)
            same(kernel(*args), oracle(*wide(args)))


def test_a_size_that_may_be_zero() -> None:
    kernel = rk.kernel(product)
    got = kernel(np.zeros((3, 0), "f4"), np.zeros((0, 4), "f4"))
    np.testing.assert_array_equal(got, np.zeros((3, 4), "f4"))


def test_a_shorter_range_reads_within_the_array() -> None:
    size = rk.Dim("L", min=3, max=50)

    def kernel(x: rk.f32[size]) -> Any:
        i = rk.Range(x.shape[0] - 2)
        return rk.bufferize(x[i] + x[i + 1] * 2 + x[i + 2] * 3, i)

    made = rk.kernel(kernel)
    for n in (3, 4, 50):
        x = of(n)
        same(made(x), x[:-2] + x[1:-1] * 2 + x[2:] * 3)
    proofs = made.lower(of(5)).kernels[0].proofs
    assert {p.status for p in proofs} == {"proved"}


def test_every_access_over_bare_ranges_is_proved() -> None:
    for fn, inputs, _ in CASES:
        if fn in (flat, folded, groups, counts, running, selected):
            continue
        for k in rk.kernel(fn).lower(*inputs(9, 9)).kernels:
            assert {p.status for p in k.proofs} <= {"proved"}, fn.__name__


def test_what_leaves_the_array_at_every_size_is_refused() -> None:
    def kernel(x: rk.f32[N]) -> Any:
        i = rk.Range(x.shape[0])
        return rk.bufferize(x[i + 1], i)

    with pytest.raises(BoundsError, match=r"has N elements, when N = 1, i = 0"):
        rk.kernel(kernel)(of(5))


def test_a_fixed_axis_over_a_size_is_guarded() -> None:
    def kernel(x: rk.f32[N], table: rk.f32[10]) -> Any:
        i = rk.Range(x.shape[0])
        return rk.bufferize(x[i] * table[i], i)

    made = rk.kernel(kernel)
    x, table = of(10), of(10)
    same(made(x, table), x * table)
    with pytest.raises(BoundsError, match="index 10 of axis 0 of table"):
        made(of(11), table)


def test_sizes_are_held_to_their_bounds() -> None:
    sums = rk.kernel(row_sums)
    with pytest.raises(ShapeError, match="N is from 1 to 300"):
        sums(of(301, 7))
    with pytest.raises(ShapeError, match="a multiple of 8"):
        rk.kernel(folded)(of(12, 3))
    with pytest.raises(ShapeError, match="K is 4"):
        rk.kernel(product)(of(3, 4), of(5, 2))
    with pytest.raises(ShapeError, match=r"annotated M \+ 1"):
        rk.kernel(groups)(of(3, 3), np.zeros(0, "i8"))


def test_out_and_strides() -> None:
    kernel = rk.kernel(softmax)
    x = of(40, 30)
    out = np.empty((20, 30), "f4")
    assert kernel(x[::2], out=out) is out
    same(out, np_softmax(x[::2].astype("f8")))
    with pytest.raises(ShapeError, match=r"\(3, 30\), the result \(20, 30\)"):
        kernel(x[::2], out=np.empty((3, 30), "f4"))
    same(kernel(x.T), np_softmax(x.T.astype("f8")))


def test_writing_in_place() -> None:
    def kernel(x: rk.f32[N, M]) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.assign(x[i, j], x[i, x.shape[1] - 1 - j] + 1)

    made = rk.kernel(kernel)
    for shape in ((1, 1), (5, 8), (17, 33)):
        x = of(*shape)
        want = x[:, ::-1] + 1
        assert made(x) is x
        same(x, want)
    big = of(10, 66)
    want = big[:, :33][:, ::-1] + 1
    made(big[:, :33])
    same(big[:, :33], want)


def test_a_number_is_asked_for_loudly() -> None:
    assert (N + 1) - 1 == N and N * 2 // 2 == N and N != 3 and N - N == 0
    assert (N > 0, N <= 300, 2 * N >= N) == (True, True, True)
    for question in (lambda: N > 5, lambda: range(N), lambda: [0] * N, lambda: M < N):
        with pytest.raises(ShapeError, match="known"):
            question()
    with pytest.raises(ShapeError, match="broadcast"):
        rk.kernel(broken)(of(4), of(4))
    with pytest.raises(ArgumentError, match="what the Dim M is"):
        rk.kernel(unknown)(of(4))
    with pytest.raises(ShapeError):
        rk.Dim("N", min=5, max=3)
    with pytest.raises(RangekitError, match="not tuned"):
        rk.kernel(softmax).tune(of(3, 3), seconds=1)


def broken(x: rk.f32[N], y: rk.f32[M]) -> Any:
    return x + y


def unknown(x: rk.f32[N]) -> Any:
    j = rk.Range(M)
    return rk.bufferize(x[0] + j, j)


def test_stages_are_text_that_parses_back() -> None:
    from rangekit.ir.text import dump, parse

    for fn, inputs, _ in CASES:
        for stage in rk.kernel(fn).lower(*inputs(9, 9))._program.lowered.stages.values():
            text = dump(stage, canonical=True)
            assert dump(parse(text), canonical=True) == text


LONG, OTHER = rk.Dim("LONG"), rk.Dim("OTHER")  # of any size: rows that no cache holds


def long_normalised(x: rk.f32[LONG, OTHER]) -> Any:
    return normalised(x)


def long_attention(q: rk.f32[2, LONG, 8], k: rk.f32[2, OTHER, 8], v: rk.f32[2, OTHER, 5]) -> Any:
    return attention(q, k, v)


@pytest.mark.parametrize(("fn", "like"), [(long_normalised, "normalised"), (long_attention, "attention")])
def test_single_passes_over_sizes_of_any_length(fn: Callable[..., Any], like: str) -> None:
    _, inputs, oracle = CASES[NAMES.index(like)]
    for device in ("cpu", "python"):
        kernel = rk.kernel(fn, device=device)
        for n, m in ((1, 1), (3, 65), (40, 64)) if device == "cpu" else ((2, 65),):
            args = inputs(n, m)
            same(kernel(*args), oracle(*wide(args)))
        assert "derived: " in kernel.lower(*args).explain()


def test_buffers_have_the_shapes_of_the_program() -> None:
    (kernel,) = rk.kernel(softmax).lower(of(3, 4)).kernels
    assert [(b.name, b.shape) for b in kernel.buffers if b.memory == "global"] == [("x", (N, M)), ("out", (N, M))]
    assert next(b.nbytes for b in kernel.buffers) == 300 * 200 * 4


def test_arrays_of_one_size_keep_their_own_axes() -> None:
    @rk.kernel
    def rows(x: rk.f32[N, 6]) -> Any:
        return rk.sum(x, axis=1)

    @rk.kernel
    def columns(x: rk.f32[6, N]) -> Any:
        return rk.sum(x, axis=0)

    x = np.ones((9, 6), np.float32)
    one, two = rows.lower(x), columns.lower(x.T.copy())
    shown = [[str(s) for s in b.shape] for low in (one, two) for b in low.kernels[0].buffers if b.name == "x"]
    assert shown == [["N", "6"], ["6", "N"]]
