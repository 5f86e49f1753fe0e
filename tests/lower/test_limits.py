"""Conditions as loop bounds: every kind of comparison, loaded values of every integer type, the work that is left."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.backends.python import trace
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.ir.uop import UOp, alu, cast, const, idx, new_buffer, new_range
from rangekit.lower.limits import bounded
from rangekit.lower.proof import conjuncts
from rangekit.lower.schedule import scheduled
from tests.backends.test_lanes import Fenced
from tests.ir.conftest import value_of
from tests.lower.test_schedule import random_schedule

Array = np.ndarray[Any, Any]
INTS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
DEVICES = ["cpu", "python"]


# ---- one condition, or several, value by value -----------------------------------------------------------------------


def loaded(dtype: DType) -> UOp:
    """A value read from memory."""
    return UOp(Op.INDEX, dtype, (new_buffer(dtype, (1,), "data"), idx(0)))


def extremes(dtype: DType, n: int) -> list[int]:
    near = {0, 1, 2, n // 2, n - 1, n, n + 1, -1, -n, 3 * n}
    least, most = int(dtype.min), int(dtype.max)
    ends = {least, least + 1, least + n, most, most - 1, most - n, most // 2}
    return sorted(v for v in near | ends if least <= v <= most)


def side(rng: random.Random, r: UOp, outer: UOp, data: list[UOp]) -> UOp:
    """One side of a comparison, in the type of the data."""
    d = data[0].dtype

    def index(about: UOp) -> UOp:
        i = alu(Op.ADD, alu(Op.MUL, about, idx(rng.choice((1, 1, 1, 2, 3, -1, -2)))), idx(rng.choice((0, 0, 1, -3, 5))))
        i = i if rng.random() < 0.6 else alu(Op.ADD, i, alu(Op.MUL, outer, idx(rng.choice((1, -1, 2)))))
        return i if rng.random() < 0.85 else alu(rng.choice((Op.IDIV, Op.MOD)), i, idx(rng.choice((2, 3))))

    roll = rng.random()
    if roll < 0.45:
        return cast(index(r), d)
    value = rng.choice(data)
    if roll < 0.75:
        return value
    if roll < 0.85:
        return alu(rng.choice((Op.ADD, Op.SUB)), value, const(rng.choice((0, 1, 2, 7)), d))
    if roll < 0.9:
        return cast(index(outer), d)
    if roll < 0.95:
        return alu(rng.choice((Op.ADD, Op.SUB)), *rng.sample([cast(index(r), d), value], 2))
    return alu(Op.ADD, cast(value, d), cast(index(outer), d))


def condition(rng: random.Random, r: UOp, outer: UOp, data: list[UOp]) -> UOp:
    op = rng.choice((Op.LT, Op.LT, Op.LE, Op.LE, Op.EQ, Op.NE))
    c = alu(op, side(rng, r, outer, data), side(rng, r, outer, data))
    return alu(Op.NOT, c) if rng.random() < 0.2 else c


@pytest.mark.parametrize("d", [*dt.INTS, *dt.UINTS], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_bounds_and_what_is_left_say_what_the_conditions_say(d: DType, seed: int) -> None:
    rng = random.Random(f"{d} {seed}")
    used = 0
    for _ in range(40):
        n = rng.choice((1, 2, 5, 8))
        r, outer, data = new_range(n), new_range(3), [loaded(d), loaded(d)]
        c = condition(rng, r, outer, data)
        for _ in range(rng.choice((0, 0, 1, 2))):
            more = condition(rng, r, outer, data)
            c = alu(Op.AND, c, more) if rng.random() < 0.8 else alu(Op.NOT, alu(Op.OR, c, more))
        found, rest = bounded(conjuncts(c), [r])
        used += bool(found)
        lo, hi = found.get(r, (None, None))
        assert all(e is None or r not in e.ranges for e in (lo, hi))
        for values in rng.sample(list(itertools.product(extremes(d, n), repeat=2)), 6):
            env = {p.src[0]: np.array([v], d.numpy) for p, v in zip(data, values, strict=True)}
            for o in range(3):
                first = at(lo, env, outer, o) if lo is not None else 0
                last = at(hi, env, outer, o) if hi is not None else n
                assert first >= 0
                assert last <= n
                assert last > -(1 << 62)
                got = [k for k in range(first, last)
                       if all(value_of(m, known(r, k, outer, o, data, values)) for m in rest)]  # fmt: skip
                want = [k for k in range(n) if value_of(c, known(r, k, outer, o, data, values))]
                assert got == want, (c, values, o)
    assert used > 3


def at(bound: UOp, env: dict[UOp, Array], outer: UOp, o: int) -> int:
    """A bound in the arithmetic of the machine, which wraps."""
    with np.errstate(over="ignore"):
        value = evaluate(bound, env)
    return int(value[o] if outer in bound.ranges else value)


def known(r: UOp, k: int, outer: UOp, o: int, data: list[UOp], values: tuple[int, ...]) -> dict[UOp, int]:
    return {r: k, outer: o, **{p.src[0]: 0 for p in data}, **dict(zip(data, values, strict=True))}


# ---- kernels: everywhere, whatever the data --------------------------------------------------------------------------


def segments(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.sum(x[r], r, where=(a[g] <= r) & (r < b[g])), g)


def open_segments(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.sum(x[r], r, where=(a[g] < r) & (r <= b[g])), g)


def lengths(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.max(x[r], r, where=r < a[g]) + rk.min(x[r], r, where=b[g] > r), g)


def one(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.max(x[r], r, where=(r == a[g]) & (r <= b[g])), g)


def denied(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.sum(x[r], r, where=~((r < a[g]) | (b[g] <= r))), g)


def strided(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.sum(x[r], r, where=(a[g] < 3 * r) & (2 * r <= b[g])), g)


def windows(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    seen = (g - r < a[0].astype(rk.int64)) & (r - g <= b[0].astype(rk.int64))
    return rk.bufferize(rk.sum(x[r], r, where=seen), g)


def cast_first(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    seen = (a[g].astype(rk.int32) <= r) & (r < b[g].astype(rk.int32) - 1)
    return rk.bufferize(rk.sum(x[r], r, where=seen), g)


def documents(x: Any, a: Any, b: Any) -> Any:
    g, r = rk.ranges(a.shape[0], x.shape[0])
    return rk.bufferize(rk.sum(x[r] * x[g], r, where=(a[g] <= r) & (r <= g)), g)


def wrapped(n: int, d: Any) -> int:
    return int(np.array(n).astype(d))


INSIDE: dict[Callable[..., Any], Callable[[int, int, list[int], list[int]], bool]] = {
    segments: lambda g, r, a, b: a[g] <= r < b[g],
    open_segments: lambda g, r, a, b: a[g] < r <= b[g],
    denied: lambda g, r, a, b: a[g] <= r < b[g],
    strided: lambda g, r, a, b: a[g] < 3 * r and 2 * r <= b[g],
    windows: lambda g, r, a, b: g - r < wrapped(a[0], np.int64) and r - g <= wrapped(b[0], np.int64),
    cast_first: lambda g, r, a, b: wrapped(a[g], np.int32) <= r < wrapped(wrapped(b[g], np.int32) - 1, np.int32),
    documents: lambda g, r, a, b: a[g] <= r <= g,
}


def expected(fn: Callable[..., Any], x: Array, a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return _expected(fn, x, a, b)


def _expected(fn: Callable[..., Any], x: Array, a: Array, b: Array) -> Array:
    wide, left, right = x.astype(np.float64), [int(v) for v in a], [int(v) for v in b]
    n, out = len(x), []
    for g in range(len(a)):
        if fn is lengths:
            most, least = wide[: min(max(left[g], 0), n)], wide[: min(max(right[g], 0), n)]
            out.append(most.max(initial=-np.inf) + float(least.min(initial=np.inf)))
        elif fn is one:
            out.append(wide[left[g]] if 0 <= left[g] < n and left[g] <= right[g] else -np.inf)
        else:
            scale = wide[g] if fn is documents else 1.0
            out.append(sum(wide[r] * scale for r in range(n) if INSIDE[fn](g, r, left, right)))
    return np.array(out)


def numbers(n: int) -> Array:
    return np.random.default_rng(n).integers(-8, 9, n).astype(np.float32) / 8


def offsets(rng: random.Random, d: Any, count: int, n: int) -> Array:
    near = [v for v in (0, 1, n // 2, n - 1, n, n + 1, -1, -n) if np.iinfo(d).min <= v <= np.iinfo(d).max]
    return np.array([rng.choice(near if rng.random() < 0.7 else extremes(dt.dtype_named(np.dtype(d).name), n))
                     for _ in range(count)], d)  # fmt: skip


def same(got: Any, want: Array, what: object) -> None:
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=1e-5, atol=1e-5, err_msg=str(what))


@pytest.mark.parametrize("fn", [*INSIDE, lengths, one])
@pytest.mark.parametrize("d", INTS)
def test_loaded_bounds_of_every_type(fn: Callable[..., Any], d: Any) -> None:
    rng = random.Random(f"{fn.__name__} {np.dtype(d)}")
    for n in (1, 2, 7, 17, 40):
        count = n if fn is documents else rng.choice((1, 3, 8, 19))
        x, a, b = numbers(n), offsets(rng, d, count, n), offsets(rng, d, count, n)
        want = expected(fn, x, a, b)
        for device in DEVICES:
            given = [Fenced(v, low=n % 2 == 0).array for v in (x, a, b)]
            same(rk.kernel(fn, device=device)(*given), want, (device, n, a, b))


@pytest.mark.parametrize("fn", [*INSIDE, lengths, one])
def test_loaded_bounds_under_random_schedules(fn: Callable[..., Any]) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        n, d = rng.choice((1, 5, 8, 17, 33)), rng.choice(INTS)
        count = n if fn is documents else rng.choice((1, 4, 9, 17))
        x, a, b = numbers(n), offsets(rng, d, count, n), offsets(rng, d, count, n)
        run_scheduled(fn, (x, a, b), [expected(fn, x, a, b)], rng)


def run_scheduled(fn: Callable[..., Any], args: tuple[Array, ...], want: list[Array], rng: random.Random) -> None:
    """A kernel's plain nests under random schedules, as machine code."""
    program = rk.kernel(fn, device="python").lower(*args)._program
    memory = {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
    memory.update(program.captured)
    what, low = [], rng.random() < 0.5
    fenced = [Fenced(np.asarray(a), low) for a in args]  # what is read outside them ends the process
    for nest in program.lowered.plain:
        steps = random_schedule(rng, nest)
        what.append(steps)
        new = scheduled(nest, steps, CPU)
        held = [fenced[p.arg.slot].array if p.op is Op.PARAM else memory[p] for p in new.params]
        fault = np.zeros(4, np.int64)
        CpuDevice().compile(new)(held, fault)
        assert not fault[0]
    for p, w in zip(program.lowered.outputs, want, strict=True):
        same(memory[p], w, (what, args))


def test_bounds_of_two_ranges_and_of_one_by_the_other() -> None:
    def corner(x: Any, n: Any) -> Any:
        b, i, j = rk.ranges(n.shape[0], *x.shape)
        return rk.bufferize(rk.sum(x[i, j], i, j, where=(i < n[b]) & (j <= i)), b)

    x = np.random.default_rng(0).integers(-4, 5, (9, 9)).astype(np.float32)
    n = np.array([-5, 0, 1, 4, 9, 10, 1 << 62])
    want = np.array([np.tril(x)[: max(0, min(int(v), 9))].sum() for v in n])
    assert loads(corner, "x", x, n) == sum(k * (k + 1) // 2 for k in (0, 0, 0, 1, 4, 9, 9, 9)[1:])
    for device in DEVICES:
        same(rk.kernel(corner, device=device)(x, n), want, device)
    for seed in range(20):
        run_scheduled(corner, (x, n), [want], random.Random(seed))


@pytest.mark.parametrize("d", [np.int32, np.int64, np.uint32, np.uint64])
def test_rows_of_a_sparse_matrix_by_a_range_from_0_on(d: Any) -> None:
    def rows(values: Any, columns: Any, first: Any, x: Any) -> Any:
        i, k = rk.ranges(first.shape[0] - 1, 6)
        at = first[i] + k
        seen = at < first[i + 1]
        return rk.bufferize(rk.sum(values[at] * x[columns[at].in_range(0, x.shape[0])], k, where=seen), i)

    first = np.array([0, 2, 2, 7, 8], d)
    values, x = np.arange(1, 9, dtype=np.float32), np.arange(5, dtype=np.float32)
    columns = np.array([0, 3, 1, 2, 3, 4, 0, 2])
    dense = [[values[k] * x[columns[k]] for k in range(a, b)] for a, b in itertools.pairwise(first)]
    for device in DEVICES:
        same(rk.kernel(rows, device=device)(values, columns, first, x), np.array([sum(r) for r in dense]), device)
    assert loads(rows, "values", values, columns, first, x) == 8


def test_numbers_given_to_a_kernel_bound_its_loops() -> None:
    def windows(x: Any, back: int, ahead: int) -> Any:
        i, j = rk.ranges(x.shape[0], x.shape[0])
        return rk.bufferize(rk.sum(x[j], j, where=(i - j < back) & (j - i <= ahead)), i)

    x = np.arange(1, 14, dtype=np.float32)
    for back, ahead in [(1, 0), (3, 2), (0, 0), (-1, 5), (100, -100), (1 << 62, 1 << 62), (-(1 << 63), (1 << 63) - 1)]:
        inside = [[i - j < back and j - i <= ahead for j in range(13)] for i in range(13)]
        want = (np.array(inside) * x).sum(1)
        for device in DEVICES:
            same(rk.kernel(windows, device=device)(x, back, ahead), want, (device, back, ahead))
        assert loads(windows, "x", x, back, ahead) == np.sum(inside)


# ---- the work that is left -------------------------------------------------------------------------------------------


def traced(fn: Callable[..., Any], *args: Any) -> list[Any]:
    """What each launch of a kernel did, as the loops are written."""
    program = rk.kernel(fn, device="python").lower(*args)._program
    given = [np.asarray(a) for a in args]
    memory = {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
    return [trace(n, [given[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in n.params])
            for n in program.lowered.plain]  # fmt: skip


def loads(fn: Callable[..., Any], array: str, *args: Any) -> int:
    return sum(t.loads(array) for t in traced(fn, *args))


@pytest.mark.parametrize("groups", [1, 5, 40])
def test_groups_cost_their_own_rows(groups: int) -> None:
    def sums(x: Any, off: Any) -> Any:
        g, r = rk.ranges(off.shape[0] - 1, x.shape[0])
        return rk.bufferize(rk.sum(x[r], r, where=(off[g] <= r) & (r < off[g + 1])), g)

    x = np.arange(97, dtype=np.float32)
    off = np.sort(np.random.default_rng(groups).integers(0, 98, groups + 1))
    off[0], off[-1] = 0, 97
    (found,) = traced(sums, x, off)
    assert found.loads("x") == 97
    assert found.ops[Op.ADD] == 97
    assert sum(found.ops.values()) <= 97 + 8 * groups


def test_masks_cost_what_they_let_through() -> None:
    q, k, v = (np.random.default_rng(n).standard_normal((24, 3)).astype(np.float32) for n in range(3))
    start = np.arange(24) // 7 * 7

    def attention(mask: Callable[..., Any]) -> Callable[..., Any]:
        def fn(q: Any, k: Any, v: Any, *more: Any) -> Any:
            i, j, d = rk.ranges(q.shape[0], k.shape[0], v.shape[1])
            s, seen = rk.sum(q[i] * k[j], axis=-1), mask(i, j, *more)
            p = rk.exp(s - rk.max(s, j, where=seen))
            return rk.bufferize(rk.sum(p * v[j, d], j, where=seen) / rk.sum(p, j, where=seen), i, d)

        return fn

    masks: list[tuple[Callable[..., Any], tuple[Array, ...]]] = [
        (lambda i, j: j <= i, ()), (lambda i, j: (j <= i) & (i - j < 5), ()),
        (lambda i, j: (j <= i + 2) & (i - j <= 2), ()), (lambda i, j, s: (s[i] <= j) & (j <= i), (start,)),
    ]  # fmt: skip
    for mask, more in masks:
        pairs = np.sum(mask(*np.indices((24, 24)), *more)) if not more else sum(i - start[i] + 1 for i in range(24))
        found = traced(attention(mask), q, k, v, *more)
        assert sum(t.ops[Op.EXP] for t in found) == pairs
        assert sum(t.loads("v") for t in found) == 3 * pairs


# ---- the default schedule, at sizes where it does something ----------------------------------------------------------


@pytest.mark.parametrize("groups", [3, 100, 3000])
@pytest.mark.parametrize("d", [np.int32, np.int64, np.uint64])
def test_groups_under_the_default_schedule(groups: int, d: Any) -> None:
    def sums(x: Any, off: Any) -> Any:
        g, r = rk.ranges(off.shape[0] - 1, x.shape[0])
        return rk.bufferize(rk.sum(x[r], r, where=(off[g] <= r) & (r < off[g + 1])), g)

    def columns(x: Any, off: Any) -> Any:
        g, r, c = rk.ranges(off.shape[0] - 1, *x.shape)
        return rk.bufferize(rk.sum(x[r, c], r, where=(off[g] <= r) & (r < off[g + 1])), g, c)

    rng = np.random.default_rng(groups)
    x = rng.integers(-8, 9, 20_011).astype(np.float32)
    off = np.concatenate([[0], np.sort(rng.integers(0, len(x), groups - 1)), [len(x)]]).astype(d)
    want = np.diff(np.concatenate([[0.0], np.cumsum(x, dtype=np.float64)])[off.astype(np.int64)])
    assert "vector r.t" in str(rk.kernel(sums).lower(x, off))
    same(rk.kernel(sums)(x, off), want, groups)
    y = x[:, None] * np.arange(1, 33, dtype=np.float32)
    assert "vector c.t" in str(rk.kernel(columns).lower(y, off))
    same(rk.kernel(columns)(y, off), want[:, None] * np.arange(1, 33), groups)


@pytest.mark.parametrize("n", [31, 64, 65, 200])
def test_attention_with_windows_and_documents_under_the_default_schedule(n: int) -> None:
    q, k, v = (np.random.default_rng(m).standard_normal((n, 16)).astype(np.float32) for m in range(3))
    start = (np.arange(n) // 23 * 23).astype(np.int32)

    def attention(q: Any, k: Any, v: Any, start: Any, back: int) -> Any:
        i, j, d = rk.ranges(q.shape[0], k.shape[0], v.shape[1])
        s, seen = rk.sum(q[i] * k[j], axis=-1), (start[i] <= j) & (j <= i) & (i - j < back)
        p = rk.exp(s - rk.max(s, j, where=seen))
        return rk.bufferize(rk.sum(p * v[j, d], j, where=seen) / rk.sum(p, j, where=seen), i, d)

    i, j = np.indices((n, n))
    score = np.where((start[i] <= j) & (j <= i) & (i - j < 17), q.astype(np.float64) @ k.T, -np.inf)
    e = np.exp(score - score.max(1)[:, None])
    got = rk.kernel(attention)(q, k, v, start, 17)
    np.testing.assert_allclose(got, e @ v / e.sum(1)[:, None], atol=1e-4)
    for seed in range(4):
        run_scheduled(attention, (q, k, v, start, np.array(17)), [e @ v / e.sum(1)[:, None]], random.Random(seed))
