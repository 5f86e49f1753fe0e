"""scatter: against NumPy's unbuffered updates, on both devices, under the default schedule and under random ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.uop import toposort
from tests.lower.test_schedule import check
from tests.test_properties import close

Array = np.ndarray[Any, Any]
each = pytest.mark.parametrize
PLACES = {"add": np.add, "max": np.maximum, "min": np.minimum}


def floats(rng: Any, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def joined(x: Any, at: Any, v: Any, op: str | None = "add") -> Array:
    out = np.array(x, np.float64)
    if op is None:
        out[at] = v
    else:
        PLACES[op].at(out, at, v)
    return out


def histogram(ids: Any, w: Any) -> Any:
    i = rk.Range(ids.shape[0])
    return rk.scatter(rk.zeros(7), ids[i], w[i], i)


def rows(t: Any, ids: Any, g: Any) -> Any:
    i = rk.Range(ids.shape[0])
    return rk.scatter(t, ids[i], g[i], i)


def columns(t: Any, ids: Any, g: Any) -> Any:
    i, j = rk.ranges(*g.shape)
    return rk.scatter(t, (ids[i], j), g[i, j] * g[i, j], i, j)


def pairs(t: Any, a: Any, b: Any, w: Any) -> Any:
    i = rk.Range(a.shape[0])
    return rk.scatter(t, (a[i], b[i]), w[i], i, op="max")


def two_ranges(ids: Any, w: Any) -> Any:
    i, k = rk.ranges(*ids.shape)
    return rk.scatter(rk.full(7, 2.0), ids[i, k], w[i, k], i, k, op="min")


def batches(t: Any, ids: Any, w: Any) -> Any:
    b, i = rk.ranges(*ids.shape)
    return rk.bufferize(rk.scatter(t[b], ids[b, i], w[b, i], i), b)


def columns_in_batches(ids: Any, g: Any) -> Any:
    b, i, j = rk.ranges(*g.shape)
    return rk.bufferize(rk.scatter(rk.zeros(7), ids[b, i], g[b, i, j], i), j, b)


def whole(t: Any, ids: Any, g: Any) -> Any:
    return rk.scatter(t, ids, g)


def flat(t: Any, ids: Any, g: Any) -> Any:
    i, j = rk.ranges(*g.shape)
    return rk.scatter(t, 2 * ids[i] + j, g[i, j], j, i)


def by_range(t: Any, w: Any) -> Any:
    i = rk.Range(w.shape[0])
    return rk.scatter(t, i // 3, w[i], i)


def in_place(t: Any, ids: Any, w: Any) -> Any:
    i = rk.Range(w.shape[0])
    t[...] = rk.scatter(t, ids[i], w[i] * t[ids[i]], i)
    return t


def used(ids: Any, w: Any) -> Any:
    i, k = rk.ranges(ids.shape[0], 7)
    counts = rk.scatter(rk.zeros(7), ids[i], rk.exp(w[i]), i)
    return rk.bufferize(counts[k] / rk.sum(counts[k], k), k)


def unique(t: Any, ids: Any, g: Any) -> Any:
    i, j = rk.ranges(*g.shape)
    return rk.scatter(t, (ids[i], j), g[i, j], i, j, op=None, unique=True)


def unique_max(t: Any, ids: Any, g: Any) -> Any:
    return rk.scatter(t, ids, g, op="max", unique=True)


def softmax_of_counts(ids: Array, w: Array) -> Array:
    out = joined(np.zeros(7), ids, np.exp(w.astype(np.float64)))
    return np.asarray(out / out.sum())


def ids_of(rng: Any, *shape: int) -> Array:
    return rng.integers(0, 7, shape)


def batched(t: Array, ids: Array, w: Array) -> Array:
    return np.stack([joined(a, b, c) for a, b, c in zip(t, ids, w, strict=True)])


def column_batches(ids: Array, g: Array) -> Array:
    return np.stack([[joined(np.zeros(7), ids[b], g[b, :, j]) for b in range(len(ids))] for j in range(g.shape[2])])


Case = tuple[Callable[..., Any], Callable[[Any, int], tuple[Array, ...]], Callable[..., Array]]
CASES: list[Case] = [
    (histogram, lambda r, n: (ids_of(r, n), floats(r, n)), lambda ids, w: joined(np.zeros(7), ids, w)),
    (rows, lambda r, n: (floats(r, 7, 5), ids_of(r, n), floats(r, n, 5)), joined),
    (columns, lambda r, n: (floats(r, 7, 9), ids_of(r, n), floats(r, n, 9)),
     lambda t, ids, g: joined(t, ids, g.astype(float) ** 2)),
    (pairs, lambda r, n: (floats(r, 7, 7), ids_of(r, n), ids_of(r, n).astype(np.uint8), floats(r, n)),
     lambda t, a, b, w: joined(t, (a, b), w, "max")),
    (two_ranges, lambda r, n: (ids_of(r, 5, n), floats(r, 5, n)),
     lambda ids, w: joined(np.full(7, 2.0), ids, w, "min")),
    (batches, lambda r, n: (floats(r, 3, 7), ids_of(r, 3, n), floats(r, 3, n)), batched),
    (columns_in_batches, lambda r, n: (ids_of(r, 3, n), floats(r, 3, n, 4)), column_batches),
    (whole, lambda r, n: (floats(r, 7, 2), ids_of(r, n, 3), floats(r, n, 3, 1)), joined),
    (flat, lambda r, n: (floats(r, 16), ids_of(r, n), floats(r, n, 3)),
     lambda t, ids, g: joined(t, 2 * ids[:, None] + np.arange(3), g)),
    (by_range, lambda r, n: (floats(r, n), floats(r, n)), lambda t, w: joined(t, np.arange(len(w)) // 3, w)),
    (in_place, lambda r, n: (floats(r, 7), ids_of(r, n), floats(r, n)),
     lambda t, ids, w: joined(t, ids, w.astype(float) * t[ids])),
    (used, lambda r, n: (ids_of(r, n + 1), floats(r, n + 1)), softmax_of_counts),
    (unique, lambda r, n: (floats(r, n + 3, 5), r.permutation(n + 3)[:n], floats(r, n, 5)),
     lambda t, ids, g: joined(t, ids, g, None)),
    (unique_max, lambda r, n: (floats(r, n + 3, 5), r.permutation(n + 3)[:n], floats(r, n, 5)),
     lambda t, ids, g: joined(t, ids, g, "max")),
]  # fmt: skip
cases = each("case", CASES, ids=lambda c: c[0].__name__)


@cases
@each("n", [0, 1, 7, 31, 1000, 20_001])
def test_the_default_schedule(case: Case, n: int) -> None:
    fn, make, oracle = case
    args = make(np.random.default_rng(n), n)
    want = oracle(*args)
    close(rk.kernel(fn)(*args), want, f"{fn.__name__} {n}")


@cases
@each("n", [0, 1, 13])
def test_the_interpreter(case: Case, n: int) -> None:
    fn, make, oracle = case
    args = make(np.random.default_rng(n), n)
    want = oracle(*args)
    close(rk.kernel(fn, device="python")(*args), want, f"{fn.__name__} {n}")


@cases
def test_random_schedules(case: Case) -> None:
    fn, make, oracle = case
    for seed in range(24):
        n = (1, 5, 8, 17, 40)[seed % 5]
        args = make(np.random.default_rng(seed), n)
        want = oracle(*args)
        check(rk.kernel(fn, device="python"), args, list(args), [want], random.Random(seed), f"{fn.__name__} {seed}")


@cases
def test_the_meaning_of_the_graph(case: Case) -> None:
    fn, make, oracle = case
    args = make(np.random.default_rng(5), 5)
    want = oracle(*args)
    stages = rk.kernel(fn, device="python").lower(*args)._program.lowered.stages
    for name in ("trace", "rangeify", "canon", "fuse"):
        (out,) = stages[name].src
        env = {n: args[n.arg.slot] for n in toposort(out) if n.op is Op.PARAM}
        env |= {n: np.zeros(n.shape, n.dtype.numpy) for n in toposort(out) if n.op is Op.BUFFER}
        close(evaluate(out, env), want, f"{fn.__name__} after {name}")


DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]


@each("op", ["add", "max", "min"])
@each("dtype", DTYPES)
def test_dtypes(dtype: str, op: str) -> None:
    rng = np.random.default_rng(1)
    x, v = ((rng.integers(0, 200, n) if dtype != "bool" else rng.random(n) < 0.3).astype(dtype) for n in (9, 300))
    ids = rng.integers(0, 9, 300)
    want = x.copy()
    with np.errstate(over="ignore"):
        {"add": np.add, "max": np.maximum, "min": np.minimum}[op].at(want, ids, v)
    for device in ("cpu", "python"):
        out = rk.kernel(lambda x, ids, v: rk.scatter(x, ids, v, op=op), device=device)(x, ids, v)
        assert out.dtype == want.dtype and np.array_equal(out, want)


@each("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_summed_in_float32(dtype: Any) -> None:
    ids, v = np.zeros(1000, np.int64), np.ones(1000, dtype)
    out = rk.kernel(lambda ids, v: rk.scatter(rk.zeros(2, dtype=dtype), ids, v))(ids, v)
    assert out.dtype == dtype and out.tolist() == [1000.0, 0.0]
    top = rk.kernel(lambda ids, v: rk.scatter(rk.zeros(2, dtype=dtype), ids, v, op="max"))(ids, 2 * v)
    assert top.dtype == dtype and top.tolist() == [2.0, 0.0]


@each("device", ["cpu", "python"])
def test_nan_infinities_and_the_sign_of_zero(device: str) -> None:
    x = np.array([-0.0, 1, np.inf, -np.inf, 5, np.nan], np.float32)
    ids, v = np.array([1, 1, 2, 3, 4]), np.array([np.nan, 2, -np.inf, 7, -0.0], np.float32)
    for op in ("add", "max", "min"):
        want = x.copy()
        with np.errstate(invalid="ignore"):
            PLACES[op].at(want, ids, v)
        out = rk.kernel(lambda x, ids, v, op: rk.scatter(x, ids, v, op=op), device=device)(x, ids, v, op)
        assert np.array_equal(out, want, equal_nan=True) and np.signbit(out[0])
    parts = rk.kernel(rows).schedule(rk.group("i", 3), rk.upcast("i.t", 2))
    assert np.signbit(parts(x[:, None], ids, v[:, None])[0, 0])  # untouched, whatever parts there are


@each("n", [100, 40_000, 300_000])
def test_strict_keeps_the_order_of_the_ranges(n: int) -> None:
    rng = np.random.default_rng(2)
    ids, w = rng.integers(0, 5, (n // 10, 10)), floats(rng, n // 10, 10)

    def summed(ids: Any, w: Any) -> Any:
        i, k = rk.ranges(*ids.shape)
        return rk.scatter(rk.zeros(5), ids[i, k], w[i, k], k, i)

    want = np.zeros(5, np.float32)
    np.add.at(want, ids.T.reshape(-1), w.T.reshape(-1))  # k outside, as it is named
    assert np.array_equal(rk.kernel(summed, strict=True)(ids, w), want)
    once = rk.kernel(summed)(ids, w)
    assert all(np.array_equal(rk.kernel(summed)(ids, w), once) for _ in range(3))


def test_what_is_scattered_into_does_not_change() -> None:
    x, ids = np.arange(4, dtype=np.float32), np.array([1, 1])

    def both(x: Any, ids: Any) -> Any:
        return rk.scatter(x, ids, 1.0), rk.scatter(x, ids, 10.0), x

    one, ten, same = rk.kernel(both)(x, ids)
    assert one.tolist() == [0, 3, 2, 3] and ten.tolist() == [0, 21, 2, 3] and same.tolist() == [0, 1, 2, 3]
    t = rk.asarray(x)
    assert rk.scatter(t, ids, t[ids]).numpy().tolist() == [0, 3, 2, 3] and t.numpy().tolist() == [0, 1, 2, 3]


def test_zeros_are_filled_where_they_are_scattered_into() -> None:
    ids, w = np.zeros(4, np.int64), np.ones(4, np.float32)
    low = rk.kernel(histogram).lower(ids, w)
    assert [b.name for b in low.kernels[0].buffers] == ["ids", "w", "out"] and len(low.kernels) == 1
    low = rk.kernel(batches).lower(np.ones((2, 7), np.float32), np.zeros((2, 3), int), np.ones((2, 3), np.float32))
    assert [b.name for k in low.kernels for b in k.buffers] == ["t", "ids", "w", "out"]


@each("device", ["cpu", "python"])
@each("bad", [-1, 7, 2**62, -(2**62)])
def test_indices_outside_write_nothing(device: str, bad: int) -> None:
    around = np.full(32, 3.0, np.float32)
    x = around[8:15]

    def added(x: Any, ids: Any) -> Any:
        i = rk.Range(ids.shape[0])
        return rk.assign(x[:], rk.scatter(x, ids[i], 1.0, i))

    ids = np.tile(np.array([1, 3, bad, 5]), 2000)
    with pytest.raises(rk.BoundsError, match=f"index {bad} of axis 0"):
        rk.kernel(added, device=device)(x, ids[: 4 if device == "python" else None])
    assert (around[:8] == 3).all() and (around[15:] == 3).all() and (x[[0, 2, 4, 6]] == 3).all()


def test_a_promise_that_holds_is_silent_and_one_that_does_not_is_not() -> None:
    n = 50_000
    rng = np.random.default_rng(3)
    ids, v = rng.permutation(2 * n)[:n], floats(rng, n, 1)

    def stored(ids: Any, v: Any) -> Any:
        i = rk.Range(n)
        return rk.scatter(rk.zeros(2 * n), ids[i], v[i, 0], i, op=None, unique=True)

    kernel = rk.kernel(stored)
    want = np.zeros(2 * n, np.float32)
    want[ids] = v[:, 0]
    assert np.array_equal(kernel(ids, v), want)
    for _ in range(20):
        a, b = rng.choice(n, 2, replace=False)
        twice = ids.copy()
        twice[a] = twice[b]
        with pytest.raises(rk.RaceError, match=rf"i = {min(a, b)} and i = {max(a, b)} write the same element"):
            kernel(twice, v)


def test_promises_about_several_ranges() -> None:
    rng = np.random.default_rng(4)
    ids = rng.permutation(24).reshape(2, 3, 4)

    def stored(ids: Any) -> Any:
        b, i, j = rk.ranges(2, 3, 4)
        return rk.bufferize(rk.scatter(rk.zeros(24), ids[b, i, j], 1.0 * j, i, j, op=None, unique=True), b)

    want = np.zeros((2, 24))
    for b in range(2):
        want[b, ids[b]] = np.arange(4)
    assert np.array_equal(rk.kernel(stored)(ids), want)
    ids[1, 2, 3] = ids[1, 0, 1]
    with pytest.raises(rk.RaceError, match="b = 1, i = 0, j = 1 and b = 1, i = 2, j = 3 write"):
        rk.kernel(stored)(ids)
    ids[1, 2, 3] = ids[0, 0, 1]  # of another batch
    rk.kernel(stored)(ids)


def test_a_place_that_ranges_decide_needs_no_promise_at_run_time() -> None:
    def reversed_(x: Any) -> Any:
        i = rk.Range(8)
        return rk.scatter(rk.zeros(8), 7 - i, x[i], i, op=None, unique=True)

    x = np.arange(8, dtype=np.float32)
    low = rk.kernel(reversed_).lower(x)
    assert len(low.kernels) == 1 and "owner" not in str(low)
    assert np.array_equal(rk.kernel(reversed_)(x), x[::-1])

    def halved(x: Any) -> Any:
        i = rk.Range(8)
        return rk.scatter(rk.zeros(8), i // 2, x[i], i, op=None, unique=True)

    with pytest.raises(rk.RaceError, match="i = 0 and i = 1 write the same element"):
        rk.kernel(halved)(x)


def test_repeated_calls_through_the_native_entry_raise_too() -> None:
    kernel = rk.kernel(unique)
    t, ids, g = np.zeros((9, 2), np.float32), np.arange(5), np.ones((5, 2), np.float32)
    for _ in range(5):
        kernel(t, ids, g)
    assert kernel.native_calls
    ids[4] = 1
    with pytest.raises(rk.RaceError, match="i = 1 and i = 4"):
        kernel(t, ids, g)


def test_constants_bools_and_nothing_to_bind() -> None:
    x = np.zeros((3, 2), np.float32)
    assert np.array_equal(rk.kernel(lambda x: rk.scatter(x, -1, 2.0))(x), [[0, 0], [0, 0], [2, 2]])
    assert np.array_equal(rk.kernel(lambda x: rk.scatter(x, (0, 1), 2.0))(x), [[0, 2], [0, 0], [0, 0]])

    def one_hot(ids: Any) -> Any:
        i = rk.Range(ids.shape[0])
        return rk.bufferize(rk.scatter(rk.zeros(4), ids[i], 1.0), i)

    assert np.array_equal(rk.kernel(one_hot)(np.array([2, 0, 3])), np.eye(4)[[2, 0, 3]])


def wrong(fn: Callable[..., Any], error: type[Exception], match: str) -> None:
    x, ids = np.zeros((4, 3), np.float32), np.zeros(5, np.int64)
    with pytest.raises(error, match=match):
        rk.kernel(fn)(x, ids)


def test_mistakes() -> None:
    i = rk.Range(5, name="i")
    wrong(lambda x, n: rk.scatter(x, (n, n, n), 1.0), rk.ShapeError, "indexes 3 axes")
    wrong(lambda x, n: rk.scatter(x, (), 1.0), rk.ShapeError, "indexes 0 axes")
    wrong(lambda x, n: rk.scatter(x, n, rk.zeros((5, 2))), rk.ShapeError, r"\(5, 3\) and \(5, 2\) do not")
    wrong(lambda x, n: rk.scatter(x, n * 0.5, 1.0), rk.DtypeError, "axis 0 is indexed with a float32")
    wrong(lambda x, n: rk.scatter(x, n == 0, 1.0), rk.DtypeError, "boolean mask")
    wrong(lambda x, n: rk.scatter(x, n, 1.0, op="mul"), rk.DtypeError, "no op 'mul'")
    wrong(lambda x, n: rk.scatter(x, n, 1.0, op=None), rk.RaceError, "op=None stores")
    wrong(lambda x, n: rk.scatter(x, 4, 1.0), rk.BoundsError, "index 4 of axis 0")
    wrong(lambda x, n: rk.scatter(x, i, 1.0, i), rk.BoundsError, r"writes element 4 of axis 0")
    wrong(lambda x, n: rk.scatter(x, n[i], 1.0), rk.RangeError, "i is open")
    wrong(lambda x, n: rk.scatter(x[i], n[i], 1.0, i), rk.RangeError, "scatter binds i, which is open in x")
    wrong(lambda x, n: rk.scatter(x, n[i], 1.0, i, i), rk.RangeError, "names the Range i twice")
    wrong(lambda x, n: rk.scatter(x, n[i], 1.0, 5), rk.RangeError, "scatter takes Ranges")
