"""Reductions without their loop: equal to the loop for every value, in every type, and the loop is gone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.reducers import REDUCERS
from rangekit.ir.uop import UOp, alu, cast, const, idx, new_buffer, new_range, toposort
from rangekit.lower.closed import closed
from tests.backends.test_lanes import Fenced
from tests.lower.test_limits import INTS, condition, loads, run_scheduled, traced

Array = np.ndarray[Any, Any]
DEVICES = ["cpu", "python"]
inf, nan = float("inf"), float("nan")


def short(root: UOp, strict: bool = True) -> UOp:
    return closed(root, strict, lambda old, new: None, [], set())


def reduced(op: str, c: UOp, value: UOp, *ranges: UOp) -> UOp:
    (identity,) = REDUCERS[op].identity((value.dtype,))
    return UOp(Op.REDUCE, value.dtype, (alu(Op.WHERE, c, value, identity), *ranges), op)


def loops_left(n: UOp) -> int:
    return sum(m.op is Op.REDUCE for m in toposort(n))


def equal(n: UOp, made: UOp, env: dict[UOp, Array], what: object = "") -> None:
    """Equal bits, but for what is in a NaN."""
    with np.errstate(all="ignore"):
        a, b = (np.broadcast_to(evaluate(m, env), evaluate(n, env).shape) for m in (n, made))
    np.testing.assert_array_equal(a, b, err_msg=str(what))
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(np.where(np.isnan(a), 0, a)), np.signbit(np.where(np.isnan(b), 0, b)))


# ---- every value of 8 bits -------------------------------------------------------------------------------------------


def every(d: DType) -> tuple[UOp, dict[UOp, Array]]:
    """An element that takes every value of an 8-bit type."""
    buffer, g = new_buffer(d, (256,), "all"), new_range(256)
    return UOp(Op.INDEX, d, (buffer, g)), {buffer: np.arange(256).astype(np.uint8).view(d.numpy)}


CONDITIONS: dict[str, Callable[[UOp, UOp], UOp]] = {
    "equal": lambda i, x: alu(Op.EQ, i, x),
    "equal to a sum": lambda i, x: alu(Op.EQ, alu(Op.ADD, x, const(3, x.dtype)), i),
    "below": lambda i, x: alu(Op.LT, i, x),
    "up to": lambda i, x: alu(Op.LE, i, x),
    "above": lambda i, x: alu(Op.LT, x, i),
    "from": lambda i, x: alu(Op.LE, x, i),
    "between": lambda i, x: alu(Op.AND, alu(Op.LE, x, i), alu(Op.LT, i, const(5, i.dtype))),
    "not above": lambda i, x: alu(Op.NOT, alu(Op.LT, x, i)),
}


@pytest.mark.parametrize("d", [dt.int8, dt.uint8], ids=str)
@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 127])
def test_every_value_in_a_condition(d: DType, name: str, n: int) -> None:
    x, env = every(d)
    r = new_range(n)
    c = CONDITIONS[name](cast(r, d), x)
    for op in ("add", "max", "min", "or", "and", "mul"):
        for t in (dt.int8, dt.uint8, dt.int64):
            line = alu(Op.ADD, alu(Op.MUL, cast(r, t), const(-3, t)), const(5, t))
            for value in (const(7, t), line) if op in ("add", "max", "min") else (const(7, t),):
                node = reduced(op, c, value, r)
                made = short(node)
                equal(node, made, env, (op, t))
                wraps = t is dt.uint8 or (t is dt.int8 and n > 44)
                one = name.startswith("equal") or (op in ("max", "min") and value is not line)
                if one or op == "add" or (op in ("max", "min") and not wraps):
                    assert loops_left(made) == 0, (op, t)


@pytest.mark.parametrize("d", [dt.int8, dt.uint8, dt.int16, dt.int64, dt.uint64], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 9, 300])
def test_sums_of_lines_wrap_as_the_loop_does(d: DType, n: int) -> None:
    x, env = every(dt.int8)
    (a,) = (cast(x, d),)
    r = new_range(n)
    i = cast(r, d)
    lines = [
        i, a, alu(Op.MUL, i, a), alu(Op.ADD, alu(Op.MUL, a, i), a), alu(Op.SUB, a, alu(Op.MUL, i, const(77, d))),
        alu(Op.NEG, i), alu(Op.MUL, alu(Op.ADD, i, a), a), cast(alu(Op.MUL, r, idx(1 << 40)), d),
        cast(alu(Op.ADD, cast(r, dt.int64), cast(x, dt.int64)), d),
    ]  # fmt: skip
    for value in lines:
        node = UOp(Op.REDUCE, d, (value, r), "add")
        assert loops_left(short(node)) == 0, value
        equal(node, short(node), env, value)


def test_what_is_no_line_keeps_its_loop() -> None:
    r, x = new_range(9), every(dt.int8)[0]
    i = cast(r, dt.int64)
    wide = cast(alu(Op.ADD, cast(r, dt.int8), x), dt.int64)  # wraps before it is widened
    for value in (alu(Op.MUL, i, i), cast(alu(Op.MOD, r, idx(3)), dt.int64), wide):
        assert loops_left(short(UOp(Op.REDUCE, dt.int64, (value, r), "add"))) == 1
    assert loops_left(short(UOp(Op.REDUCE, dt.int64, (wide, r), "max"))) == 1
    assert loops_left(short(UOp(Op.REDUCE, dt.int64, (i, r), "mul"))) == 1


# ---- conditions and values of any kind -------------------------------------------------------------------------------


def case(rng: random.Random, d: DType, t: DType) -> tuple[UOp, dict[UOp, Array]]:
    """A reduction over one range, or two, of a value that reads an array where conditions hold that read others."""
    n, m = rng.choice((0, 1, 2, 5, 8)), rng.choice((1, 3))
    r, outer, g = new_range(n), new_range(3), new_range(12)
    info = np.iinfo(d.numpy)
    near = [v for v in (-1, 0, 1, 2, n - 1, n, info.min, info.max) if info.min <= v <= info.max]
    env: dict[UOp, Array] = {}
    data = []
    for _ in range(2):
        buffer = new_buffer(d, (12,), "data")
        env[buffer] = np.array([rng.choice(near) for _ in range(12)], d.numpy)
        data.append(UOp(Op.INDEX, d, (buffer, g)))
    c = condition(rng, r, outer, data)
    if rng.random() < 0.6:
        c = alu(Op.EQ, *rng.sample([cast(r, d), rng.choice(data)], 2))
    for _ in range(rng.choice((0, 0, 1))):
        c = alu(Op.AND, c, condition(rng, r, outer, data))
    v = new_buffer(t, (max(n, 1),), "v")
    if t.is_float:
        values = [rng.choice((0.0, -0.0, 1.5, -2.25, 3.0, inf, -inf, nan)) for _ in range(max(n, 1))]
    else:
        values = [rng.randint(-100, 100) for _ in range(max(n, 1))]
    env[v] = np.array(values).astype(t.numpy)
    read = UOp(Op.INDEX, t, (v, r))
    value = rng.choice((read, read, const(rng.choice((1, 3, -2)), t), alu(Op.ADD, read, read), cast(r, t)))
    op = rng.choice(("add", "add", "add", "max", "min", "mul"))
    roll = rng.random()
    if op == "add" and roll < 0.3:
        return UOp(Op.REDUCE, t, (alu(Op.MUL, cast(c, t), value), r), op), env
    if roll < 0.5:
        k = new_range(m)
        return reduced(op, c, value, *rng.sample([r, k], 2)), env
    if roll < 0.6:
        node = UOp(Op.REDUCE, dt.bool_, (alu(Op.AND, c, alu(Op.LT, const(0, t), value)), r), "or")
        return node, env
    return reduced(op, c, value, r), env


@pytest.mark.parametrize("d", [*dt.INTS, *dt.UINTS], ids=str)
@pytest.mark.parametrize("t", [dt.int8, dt.uint32, dt.int64, dt.float32, dt.float64], ids=str)
def test_random_reductions_keep_every_bit(d: DType, t: DType) -> None:
    rng, gone = random.Random(f"{d} {t}"), 0
    for _ in range(60):
        node, env = case(rng, d, t)
        made = short(node)
        gone += loops_left(made) == 0
        equal(node, made, env, node)
    assert gone > 15


@pytest.mark.parametrize("d", [dt.int8, dt.int64, dt.uint64], ids=str)
def test_what_licences_allow(d: DType) -> None:
    rng, licensed = random.Random(str(d)), 0
    for _ in range(150):
        node, env = case(rng, d, dt.float64)
        for array in env.values():
            if array.dtype.kind == "f":
                array[~np.isfinite(array)] = 0.5  # a mask times these is no 0
        made = short(node, strict=False)
        licensed += loops_left(made) < loops_left(short(node))
        with np.errstate(all="ignore"):
            a, b = evaluate(node, env), evaluate(made, env)
        np.testing.assert_allclose(np.broadcast_to(b, a.shape), a, rtol=1e-12)
    assert licensed > 5


# ---- kernels ---------------------------------------------------------------------------------------------------------


def picked(w: Array, ids: Array) -> Array:
    out = np.zeros((len(ids), *w.shape[1:]), w.dtype)
    for i, v in enumerate(int(v) for v in ids):
        if 0 <= v < len(w):
            out[i] = w[v] + w.dtype.type(0)
    return out


def selected(ids: Any, w: Any) -> Any:
    i, j, c = rk.ranges(ids.shape[0], *w.shape)
    return rk.bufferize(rk.sum(w[j, c], j, where=ids[i] == j), i, c)


def chosen(ids: Any, w: Any) -> Any:
    i, j, c = rk.ranges(ids.shape[0], *w.shape)
    return rk.bufferize(rk.sum(rk.where(j != ids[i], 0, w[j, c]), j), i, c)


def one_hot(ids: Any, w: Any) -> Any:
    i, j, c = rk.ranges(ids.shape[0], *w.shape)
    return rk.bufferize(rk.sum((j == ids[i]).astype(w.dtype) * w[j, c], j), i, c)


def product(ids: Any, w: Any) -> Any:
    return (ids[:, None] == rk.arange(w.shape[0])).astype(w.dtype) @ w


def kept_in_between(ids: Any, w: Any) -> Any:
    i, j = rk.ranges(ids.shape[0], w.shape[0])
    hot = rk.bufferize(rk.where(ids[i] == j, 1, 0).astype(w.dtype), i, j)
    return hot @ w


GATHERS = [selected, chosen, one_hot, product, kept_in_between]


@pytest.mark.parametrize("fn", GATHERS)
@pytest.mark.parametrize("d", INTS)
def test_a_selection_is_a_gather(fn: Callable[..., Any], d: Any) -> None:
    w = np.random.default_rng(0).integers(-9, 10, (7, 5)).astype(np.float32)
    info = np.iinfo(d)
    ids = np.array([0, 6, 3, 3, 7, max(-1, info.min), info.min, info.max, info.max - 1, 1], d)
    for device in DEVICES:
        for low in (False, True):
            given = Fenced(ids, low).array, Fenced(w, low).array
            np.testing.assert_array_equal(rk.kernel(fn, device=device)(*given), picked(w, ids), err_msg=device)
    inside = sum(0 <= int(v) < 7 for v in ids)
    if fn is not product or d is not np.uint64:  # which NumPy compares with int64 as float64
        assert loads(fn, "w", ids, w) == 5 * inside
    for seed in range(6):
        run_scheduled(fn, (ids, w), [picked(w, ids)], random.Random(seed))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float16, ml_dtypes.bfloat16, np.float64, np.bool_])
def test_a_gather_of_any_dtype(dtype: Any) -> None:
    w = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 9, (7, 5)).astype(dtype)
    ids = np.array([2, -1, 6, 7, 0])

    def matrix(ids: Any, w: Any) -> Any:
        return (ids[:, None] == rk.arange(7)).astype(w.dtype) @ w

    want = np.stack([w[v] if 0 <= v < 7 else np.zeros(5, dtype) for v in ids])
    for device in DEVICES:
        got = rk.kernel(matrix, device=device)(ids, w)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert loads(matrix, "w", ids, w) == 15


def test_a_where_keeps_every_bit_and_a_product_is_licensed() -> None:
    w = np.array([[nan, 1.0, -0.0], [inf, -0.0, 2.0], [3.0, -inf, nan]], np.float32)
    ids = np.array([0, 1, 2, 5])
    loop = np.zeros((4, 3), np.float32)
    loop[:3] = w + np.float32(0)  # what is added to 0.0 is not -0.0
    for strict in (False, True):
        for device in DEVICES:
            got = rk.kernel(selected, strict=strict, device=device)(ids, w)
            np.testing.assert_array_equal(got, loop)
            assert not np.signbit(got[loop == 0]).any()
    assert rk.kernel(selected, strict=True).lower(ids, w).explain().startswith("closed: ")
    np.testing.assert_array_equal(rk.kernel(one_hot)(ids, w), loop)
    strictly = rk.kernel(one_hot, strict=True)(ids, w)
    with np.errstate(invalid="ignore"):
        want = (ids[:, None] == np.arange(3)).astype(np.float32) @ w
    np.testing.assert_array_equal(strictly, want)
    assert np.isnan(strictly).sum() > np.isnan(loop).sum()


def test_what_a_selection_reads_is_read_where_its_other_conditions_hold() -> None:
    def before(ids: Any, w: Any) -> Any:
        i, j = rk.ranges(ids.shape[0], w.shape[0])
        return rk.bufferize(rk.sum(w[j], j, where=(i > 0) & (j == ids[i - 1])), i)

    def twice(ids: Any, w: Any) -> Any:
        i, j = rk.ranges(ids.shape[0], w.shape[0])
        allowed = rk.where((ids[i] >= 0) & (ids[i] < 4), rk.where(w[ids[i]] > 1, w[j], 0.0), 0.0)
        return rk.bufferize(rk.sum(allowed, j, where=j == ids[i]), i)

    def later(ids: Any, w: Any) -> Any:
        i, j = rk.ranges(ids.shape[0], w.shape[0])
        return rk.bufferize(rk.sum(rk.where((j > 0) & (w[j - 1] > 1), w[j], 0.0), j, where=j == ids[i]), i)

    ids, w = np.array([3, 0, 9, 1, -1]), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    for device in DEVICES:
        np.testing.assert_array_equal(rk.kernel(before, device=device)(ids, w), [0, 4, 1, 0, 2])
        np.testing.assert_array_equal(rk.kernel(twice, device=device)(ids, w), [4, 0, 0, 2, 0])
        np.testing.assert_array_equal(rk.kernel(later, device=device)(ids, w), [4, 0, 0, 0, 0])
    for fn in (before, twice, later):
        assert "for j" not in str(rk.kernel(fn, device="python").lower(ids, w))


def guarded_value(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where(r < m[i], x[m[i] - 1], 0), r)


def guarded_condition(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where(r < m[i], rk.where(x[m[i] - 1] > 11, 1, 0), 0), r)


def guarded_beside(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.max(rk.where((r < m[i]) & (x[m[i] - 1] > 11), 1, np.iinfo(np.int64).min), r)


def guarded_place(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where(r < m[i], rk.where(r == x[m[i] - 1] - 10, x[r], 0), 0), r)


def guarded_place_beside(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(x[r], r, where=(r < m[i]) & (r == x[m[i] - 1] - 10))


def guarded_bound(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where(r < m[i], rk.where(r < x[m[i] - 1] - 10, i, 0), 0), r)


def guarded_by_what_is_no_bound(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where(r * r < m[i], rk.where(r == x[m[i] - 1] - 10, x[r], 0), 0), r)


def guarded_by_the_equation(m: Any, x: Any, i: Any, r: Any) -> Any:
    return rk.sum(rk.where((r == m[i] - 1) & (x[m[i] - 1] > 11), x[r], 0), r)


GUARDED: dict[Callable[..., Any], tuple[Callable[[Array, int, int], int], int]] = {
    guarded_value: (lambda x, m, i: min(m, 4) * x[m - 1], 0),
    guarded_condition: (lambda x, m, i: min(m, 4) * int(x[m - 1] > 11), 0),
    guarded_beside: (lambda x, m, i: 1 if x[m - 1] > 11 else np.iinfo(np.int64).min, np.iinfo(np.int64).min),
    guarded_place: (lambda x, m, i: x[x[m - 1] - 10] if x[m - 1] - 10 < min(m, 4) else 0, 0),
    guarded_place_beside: (lambda x, m, i: x[x[m - 1] - 10] if x[m - 1] - 10 < min(m, 4) else 0, 0),
    guarded_bound: (lambda x, m, i: min(m, 4, x[m - 1] - 10) * i, 0),
    guarded_by_what_is_no_bound: (lambda x, m, i: x[x[m - 1] - 10] if (x[m - 1] - 10) ** 2 < m else 0, 0),
    guarded_by_the_equation: (lambda x, m, i: x[m - 1] if m - 1 < 4 and x[m - 1] > 11 else 0, 0),
}


@pytest.mark.parametrize("term", GUARDED)
@pytest.mark.parametrize("device", DEVICES)
def test_what_conditions_of_the_range_protect_stays_protected(term: Callable[..., Any], device: str) -> None:
    def fn(m: Any, x: Any) -> Any:
        i, r = rk.ranges(m.shape[0], 4)
        return rk.bufferize(term(m, x, i, r), i)

    some, none = GUARDED[term]
    m, x = np.array([0, 2, 3, -7, 0, 1, 5, 4]), np.array([10, 13, 11, 10, 12])
    kernel = rk.kernel(fn, device=device)
    got = kernel(Fenced(m, True).array, Fenced(x, device == "cpu").array)
    np.testing.assert_array_equal(got, [some(x, int(v), i) if v > 0 else none for i, v in enumerate(m)])
    assert ("for r" in str(kernel.lower(m, x))) is (term is guarded_by_what_is_no_bound)


def test_one_range_of_several_and_what_is_expensive_only_where_it_is_used() -> None:
    def traced_(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.sum(rk.where(i == j, x[i, j], 0.0), i, j)

    def rows(x: Any, ids: Any) -> Any:
        g, i, j = rk.ranges(ids.shape[0], *x.shape)
        return rk.bufferize(rk.max(rk.sum(x[i, j], j), i, where=i == ids[g]), g)

    x, ids = np.arange(42, dtype=np.float32).reshape(6, 7), np.array([2, 5, 9])
    assert float(rk.kernel(traced_)(x)) == np.trace(x)
    assert loads(traced_, "x", x) == 6
    np.testing.assert_array_equal(rk.kernel(rows)(x, ids), [x[2].sum(), x[5].sum(), -inf])
    assert loads(rows, "x", x, ids) <= 21


@pytest.mark.parametrize("n", [0, 1, 7, 64])
def test_sums_and_extremes_of_indices(n: int) -> None:
    def numbers(start: Any) -> Any:
        i, k = rk.ranges(start.shape[0], n)
        a = start[i]
        values = (
            rk.sum(k, k), rk.sum(3 * k - i, k), rk.sum(k <= i, k), rk.sum((a <= k) & (k < 5), k),
            rk.sum(k * a + i, k, where=k >= a), rk.max(5 - 2 * k, k, where=k >= i), rk.min(k, k, where=a < k),
            rk.sum(2.0, k, where=k < i), rk.mean(start[i] * 1.0, k), rk.any(k > a, k), rk.all(k > a, k),
            rk.max(1.5 * a, k, where=k < a),
        )  # fmt: skip
        return tuple(rk.bufferize(v + 0 * i, i) if v.dtype != rk.bool else rk.bufferize(v, i) for v in values)

    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    start = np.array([0, 1, 3, n - 1, n, n + 2, -2, 50])
    want = []
    for i, a in enumerate(int(v) for v in start):
        ks = range(n)
        kept = [k for k in ks if k >= a]
        want.append([
            sum(ks), sum(3 * k - i for k in ks), sum(k <= i for k in ks), sum(a <= k < 5 for k in ks),
            sum(k * a + i for k in kept), max((5 - 2 * k for k in ks if k >= i), default=least),
            min((k for k in ks if a < k), default=most), 2.0 * sum(k < i for k in ks), a if n else nan,
            any(k > a for k in ks), all(k > a for k in ks), 1.5 * a if any(k < a for k in ks) else -inf,
        ])  # fmt: skip
    for device in DEVICES:
        got = rk.kernel(numbers, device=device)(start)
        for g, w in zip(got, zip(*want, strict=True), strict=True):
            np.testing.assert_array_equal(g, w, err_msg=device)
    assert " in 0..64" not in str(rk.kernel(numbers, device="python").lower(start))
    assert sum(t.ops[Op.ADD] for t in traced(numbers, start)) <= 12 * len(start)


def test_equal_terms_are_one_product() -> None:
    def counted(x: Any) -> Any:
        i, k = rk.ranges(x.shape[0], 1000)
        return rk.bufferize(rk.sum(x[i], k), i)

    x = np.array([0.1, -0.0, inf, nan, -3.0], np.float32)
    np.testing.assert_array_equal(rk.kernel(counted)(x), x * np.float32(1000))
    assert not np.signbit(rk.kernel(counted)(x)[1])
    loop = np.zeros(5, np.float32)
    for _ in range(1000):
        loop += x
    np.testing.assert_array_equal(rk.kernel(counted, strict=True)(x), loop)
    assert loop[0] != np.float32(0.1) * 1000
    assert loads(counted, "x", x) == 5

    def lengths(x: Any) -> Any:
        i, j = rk.ranges(x.shape[0], 100)
        return rk.bufferize(rk.sum(1.0, j, where=j <= i), i)

    np.testing.assert_array_equal(rk.kernel(lengths, strict=True)(x), np.arange(1, 6))
    assert "for j" not in str(rk.kernel(lengths, strict=True).lower(x))


def test_what_was_derived_is_told() -> None:
    ids, w = np.array([1, 0]), np.ones((4, 3), np.float32)
    assert rk.kernel(one_hot).lower(ids, w).explain() == (
        "closed: sum(float32(j == ids[i]) * w[j, c], j) is where((ids[i] < 4) & (-1 < ids[i]), w[ids[i], c], 0.0) + 0.0"
    )
