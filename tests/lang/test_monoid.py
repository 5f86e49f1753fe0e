"""Reductions that programs write: dtypes, forms, where=, nothing to reduce; against NumPy and Python loops."""

from __future__ import annotations

import gc
import math
from functools import reduce
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.text import dump, parse
from rangekit.ir.uop import live_nodes
from tests.runs import ways

Array = np.ndarray[Any, Any]
SIZES = [0, 1, 2, 7, 8, 9, 31, 64, 65]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]

each = pytest.mark.parametrize
ADD = rk.Monoid(0, lambda a, b: a + b, commutative=True)
MOST = rk.Monoid((-rk.inf, 0), lambda a, b: (rk.maximum(a[0], b[0]), a[1] + b[1]), commutative=True)
AFTER = rk.Monoid((1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))


def array(dtype: str, *shape: int, seed: int = 0) -> Array:
    d = np.dtype(rk.bfloat16.numpy if dtype == "bfloat16" else dtype)
    draw = np.random.default_rng(seed)
    if dtype in FLOATS:
        return (draw.integers(-16, 17, shape) / 4).astype(d)
    return draw.integers(0 if dtype[0] == "u" else -9, 10, shape).astype(d)


# ---- forms -----------------------------------------------------------------------------------------------------------


@each("n", SIZES)
def test_a_bare_state_and_a_tuple(n: int) -> None:
    x = array("float32", 3, n)

    def fn(x: Any) -> Any:
        i, k = rk.ranges(*x.shape)
        total = rk.reduce(x[i, k], k, op=ADD)
        most, count = rk.reduce((x[i, k], 1), k, op=MOST)
        assert total.shape == most.shape == () and total.ranges == most.ranges == count.ranges == (i,)
        return rk.bufferize(total, i), rk.bufferize(most, i), rk.bufferize(count, i)

    want = x.sum(1), x.max(1, initial=-np.inf), np.full(3, n)
    for way, got in ways(fn, x):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=way)


def test_axes_keep_their_place_and_values_broadcast() -> None:
    x, w = array("float32", 2, 5, 3), array("float32", 5, 1, seed=1)
    most = np.maximum.reduce(x, 1)

    def fn(x: Any, w: Any) -> Any:
        a, b = rk.reduce((x, w), axis=1, op=AFTER)
        c, d = rk.reduce((x, 1), axis=(0, -1), op=MOST, keepdims=True)
        assert a.shape == b.shape == (2, 3)
        assert c.shape == d.shape == (1, 5, 1)
        return a, b, c, d, rk.reduce((x, x * 0), axis=1, op=MOST)[0], rk.reduce((x, 0), op=MOST)[0]

    scale, shift = np.ones((2, 3)), np.zeros((2, 3))
    for k in range(5):
        scale, shift = scale * x[:, k], shift * x[:, k] + w[k]
    want = scale, shift, x.max((0, 2), keepdims=True), np.full((1, 5, 1), 6), most, x.max()
    for way, got in ways(fn, x, w):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=way)


@each("n", [1, 4, 9, 33])
def test_shaped_values_reduce_element_by_element(n: int) -> None:
    x, s = array("float32", n, 6), array("float32", n, seed=1)

    def fn(x: Any, s: Any) -> Any:
        k = rk.Range(x.shape[0])
        scale, shift = rk.reduce((s[k] / 4, x[k]), k, op=AFTER)  # the first broadcasts against the second
        assert scale.shape == shift.shape == (6,)
        return scale, shift

    scale, shift = np.ones(6), np.zeros(6)
    for row, a in zip(x.astype(np.float64), s.astype(np.float64) / 4, strict=True):
        scale, shift = scale * a, shift * a + row
    for way, got in ways(fn, x, s):
        for a, b in zip(got, (scale, shift), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=way)


def test_several_ranges_go_in_row_major_order_as_they_are_named() -> None:
    x = array("int64", 4, 5, 3)
    last = rk.Monoid(0, lambda a, b: rk.where(b != 0, b, a))

    def fn(x: Any) -> Any:
        i, j, k = rk.ranges(*x.shape)
        v = x[i, j, k] * 100 + i * 15 + j * 3 + k
        v = rk.where(x[i, j, k] > 0, v, 0)
        return (
            rk.reduce(v, i, j, k, op=last),
            rk.reduce(v, k, i, j, op=last),
            rk.bufferize(rk.reduce(v, j, i, op=last), k),
        )

    i, j, k = np.indices(x.shape)
    v = np.where(x > 0, x * 100 + i * 15 + j * 3 + k, 0)

    def of(a: Array) -> int:
        return next((int(n) for n in a.ravel()[::-1] if n), 0)

    want = of(v), of(v.transpose(2, 0, 1)), [of(v[:, :, k].T) for k in range(3)]
    for way, got in ways(fn, x, schedules=8):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=way)


@each("n", [0, 1, 9, 33])
def test_what_where_leaves_out_changes_nothing(n: int) -> None:
    x = array("float32", 3, n)
    x[:, ::3] = np.nan

    def fn(x: Any) -> Any:
        i, k = rk.ranges(*x.shape)
        scale, shift = rk.reduce((x[i, k] / 4, k), k, op=AFTER, where=~rk.isnan(x[i, k]) & (k <= 2 * i + 3))
        none, _ = rk.reduce((x, x), axis=1, op=AFTER, where=x > rk.inf)
        return rk.bufferize(scale, i), rk.bufferize(shift, i), none

    scale, shift = np.ones(3), np.zeros(3)
    for i in range(3):
        for k in range(min(n, 2 * i + 4)):
            if not np.isnan(x[i, k]):
                scale[i], shift[i] = scale[i] * x[i, k] / 4, shift[i] * x[i, k] / 4 + k
    for way, got in ways(fn, x):
        for a, b in zip(got, (scale, shift, np.ones(3)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=way)


def test_a_range_that_the_value_does_not_have_repeats_it() -> None:
    k = rk.Range(5)
    scale, shift = rk.reduce((2.0, 1.0), k, op=AFTER)
    assert (scale.item(), shift.item()) == (32.0, 31.0)
    assert rk.reduce((2.0, 1.0), k, op=AFTER, where=k >= 3)[1].item() == 3.0


def test_a_reduction_of_reductions_and_reads_at_the_same_range() -> None:
    x = array("float32", 6, 6)

    def fn(x: Any) -> Any:
        i, k = rk.ranges(6, 6)
        rows = rk.bufferize(rk.reduce((x[i, k], 1), k, op=MOST)[0], i)
        inner = rk.reduce((rows[k] - x[k, i], 1), k, op=MOST)[0]
        return rk.bufferize(inner * rows[i], i)

    most = x.max(1)
    want = (most[:, None] - x).max(0) * most
    for way, got in ways(fn, x):
        np.testing.assert_array_equal(got[0], want, err_msg=way)


# ---- dtypes ----------------------------------------------------------------------------------------------------------


@each("dtype", INTS + FLOATS)
def test_python_numbers_take_the_dtype_of_the_values(dtype: str) -> None:
    x = array(dtype, 4, 9)
    for way, (got,) in ways(lambda x: rk.reduce(x, axis=1, op=ADD), x):
        assert got.dtype == x.dtype, way
        want = x.astype(np.float64 if dtype in FLOATS else np.int64).sum(1)
        np.testing.assert_array_equal(got, want.astype(x.dtype), err_msg=way)  # quarters: exact, and ints wrap


def test_the_dtypes_of_a_state() -> None:
    x = rk.asarray(array("float64", 5))
    k = rk.Range(5)
    count, mean, squares = rk.reduce((1, x[k], 0), k, op=rk.monoids.welford)
    assert (count.dtype, mean.dtype, squares.dtype) == (rk.int64, rk.float64, rk.float64)  # a weak 0.0 grows
    strong = rk.Monoid(np.float64(0), lambda a, b: a + b)
    assert rk.reduce(rk.asarray(array("float32", 5)), op=strong).dtype is rk.float64
    assert rk.reduce(rk.asarray(array("int32", 5)), op=rk.Monoid(0.0, lambda a, b: a + b)).dtype is rk.float32
    assert rk.reduce(k, k, op=ADD).dtype is rk.int64
    assert rk.reduce(x[k] > 0, k, op=rk.Monoid(False, lambda a, b: a | b)).dtype is rk.bool_


def test_half_types_are_combined_in_float32() -> None:
    x = np.full(4096, 1.0, np.float16)
    x[1:] = 2.0**-11  # each lost beside 1 in float16
    for way, (got,) in ways(lambda x: rk.reduce(x, op=ADD), x):
        assert got.dtype == np.float16, way
        assert got == np.float16(1 + 4095 * 2.0**-11), way


def test_a_constant_keeps_its_digits_in_float64() -> None:
    k = rk.Range(3)
    assert rk.reduce(0.1 + 0 * rk.asarray(np.ones(3))[k], k, op=ADD).item() == 0.1 + 0.1 + 0.1


# ---- order -----------------------------------------------------------------------------------------------------------


def test_a_combine_that_loses_nan_by_order_is_kept_in_order() -> None:
    by_choice = rk.Monoid(-rk.inf, lambda a, b: rk.where(a > b, a, b), commutative=True)
    assert "not associative for" in by_choice.proof and "nan" in by_choice.proof
    x = array("float32", 3, 130)
    x[:, ::7] = np.nan

    def fn(x: Any) -> Any:
        return rk.reduce(x, axis=1, op=by_choice), rk.reduce(x, op=by_choice)

    def said(values: Array) -> float:
        return reduce(lambda a, b: a if a > b else b, map(float, values.ravel()), -math.inf)

    want = [said(row) for row in x], said(x)
    for way, got in ways(fn, x, schedules=12):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=way)
    with pytest.raises(rk.ScheduleError, match="associative for finite numbers only"):
        rk.kernel(lambda x: rk.reduce(x, op=by_choice)).schedule(rk.group("i", 4))(x[0])


def test_steps_that_change_the_order_are_refused() -> None:
    x = array("float32", 4, 40)
    kernel = rk.kernel(lambda x: rk.reduce((x, x), axis=1, op=AFTER)[1])
    with pytest.raises(rk.ScheduleError, match="j is reduced in order: monoid is not commutative"):
        kernel.schedule(rk.upcast("j", 8))(x)
    both = rk.kernel(lambda x: rk.reduce((x, x), op=AFTER)[1])
    with pytest.raises(rk.ScheduleError, match="not commutative"):
        both.schedule(rk.reorder("j", "i"))(x)
    np.testing.assert_allclose(kernel.schedule(rk.group("j", 8), rk.upcast("j", 8))(x), kernel(x), rtol=1e-5)


def test_strict_keeps_groups_of_what_rounds_and_of_that_only() -> None:
    x = array("float32", 100)
    near = rk.kernel(lambda x: rk.reduce(x, op=ADD), strict=True)
    with pytest.raises(rk.ScheduleError, match="strict=True"):
        near.schedule(rk.group("i", 4))(x)
    with pytest.raises(rk.ScheduleError, match="strict=True"):
        rk.kernel(lambda x: rk.sum(x), strict=True).schedule(rk.reorder("j", "i"))(x.reshape(10, 10))
    exact = rk.kernel(lambda x: rk.reduce((x, 1), op=MOST)[0], strict=True)
    assert exact.schedule(rk.upcast("i", 8))(x) == x.max()


# ---- what is refused -------------------------------------------------------------------------------------------------


def combined_with(fn: Any, identity: Any = 0.0) -> Any:
    return lambda: rk.Monoid(identity, fn)


@each(
    ("make", "error", "text"),
    [
        (combined_with(lambda a, b: (a, b)), rk.DtypeError, "combine gives a tuple of 2, the identity is one value"),
        (combined_with(lambda a, b: a[0], (0.0, 0.0)), rk.DtypeError, "gives one value, the identity is a tuple of 2"),
        (combined_with(lambda a, b: (a[0], b[0]), (0.0,)), rk.DtypeError, "a tuple of 2, the identity is a tuple of 1"),
        (combined_with(lambda a, b: a > b, np.float32(0)), rk.DtypeError, "gives bool where the state is float32"),
        (combined_with(lambda a, b: a.astype(rk.float64) + b, np.float32(0)), rk.DtypeError, "gives float64 where"),
        (combined_with(lambda a, b: a + 0.5 * b, np.int32(0)), rk.DtypeError, "gives float32 where the state is"),
        (combined_with(lambda a, b: a + b + rk.Range(3, "k")), rk.RangeError, "a value in which k is open"),
        (combined_with(lambda a, b: a + b + rk.ones(3)), rk.ShapeError, r"a value of shape \(3,\)"),
        (combined_with(lambda a, b: a + b + rk.asarray(np.ones(()))), rk.RangekitError, "combine reads data"),
        (combined_with(lambda a, b: a if a > b else b), rk.RangekitError, "needs one value now"),
        (combined_with(lambda a, b: a, []), rk.DtypeError, "a number, a NumPy array or a tuple of these, not list"),
        (combined_with(lambda a, b: a, ()), rk.DtypeError, "not an empty tuple"),
        (combined_with(lambda a, b: a, "0"), rk.DtypeError, "not str"),
    ],
)  # fmt: skip
def test_what_is_no_monoid_says_why(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_combine_with_effects_is_refused() -> None:
    def shown(a: Any, b: Any) -> Any:
        rk.print(a)
        return a + b

    with pytest.raises(rk.RangekitError, match="prints or writes"):
        rk.Monoid(0.0, shown)


def test_values_of_another_form_than_the_identity() -> None:
    x, k = rk.asarray(array("float32", 4)), rk.Range(4)
    with pytest.raises(rk.DtypeError, match="one value is reduced with a monoid over tuples of 2"):
        rk.reduce(x[k], k, op=AFTER)
    with pytest.raises(rk.DtypeError, match="a tuple of 3 values is reduced with a monoid over tuples of 2"):
        rk.reduce((x[k], x[k], x[k]), k, op=AFTER)
    with pytest.raises(rk.DtypeError, match="a tuple of 1 values is reduced with a monoid over single values"):
        rk.reduce((x[k],), k, op=ADD)
    with pytest.raises(rk.DtypeError, match="where a"):
        rk.sum((x[k], x[k]), k)
    with pytest.raises(rk.RangeError, match="needs a range; open here: k"):
        rk.reduce((x[k], 1.0), op=AFTER)


def test_a_law_that_holds_for_some_dtypes_is_looked_at_again_for_others() -> None:
    most = rk.Monoid(-(2**31), rk.maximum)
    x = array("int32", 9)
    assert rk.reduce(rk.asarray(x), op=most).item() == x.max()
    with pytest.raises(rk.RaceError, match=r"-2147483648 is not the identity: combine\(-2147483648, -2147483649\)"):
        rk.reduce(rk.asarray(x.astype(np.int64)), op=most)
    with pytest.raises(rk.RaceError, match="-2147483648 is not the identity"):
        rk.reduce(rk.asarray(x.astype(np.float32)), op=most)
    with pytest.raises(rk.DtypeError, match="the integer -2147483648 does not fit in int16"):
        rk.reduce(rk.asarray(x.astype(np.int16)), op=most)


# ---- as data ---------------------------------------------------------------------------------------------------------


def test_the_text_of_a_program_holds_its_formula() -> None:
    def program(combine: Any) -> Any:
        low = rk.kernel(lambda x: rk.reduce((x, x), axis=1, op=rk.Monoid((1.0, 0.0), combine))).lower(np.ones((2, 3)))
        return low._program.lowered.stages["canon"]

    one = program(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))
    other = program(lambda a, b: (a[0] * b[0], b[0] * (a[1] * 1.0) + b[1]))
    assert parse(dump(one)) is one
    assert dump(one, canonical=True) == dump(parse(dump(one)), canonical=True)
    assert dump(one, canonical=True) != dump(other, canonical=True)
    assert "monoid(" in dump(one) and "monoid(" not in dump(one, canonical=True)


def test_equal_programs_outside_kernels_differ_by_their_combine() -> None:
    x = rk.asarray(np.array([3.0, 4.0]))
    sums = rk.Monoid(0.0, lambda a, b: a + b)
    squares = rk.Monoid(0.0, lambda a, b: a + b + a * b)
    assert [rk.reduce(x, op=m).item() for m in (sums, squares, sums)] == [7.0, 19.0, 7.0]


def test_a_cell_run_a_thousand_times_keeps_nothing() -> None:
    def cell() -> None:
        m = rk.Monoid((0, -rk.inf), lambda a, b: (a[0] + b[0], rk.maximum(a[1], b[1])), commutative=True)
        x, k = rk.asarray(np.ones(4)), rk.Range(4)
        rk.reduce((1, x[k]), k, op=m)

    cell()
    gc.collect()
    before = live_nodes()
    for _ in range(1000):
        cell()
    gc.collect()
    assert live_nodes() <= before


def test_long_and_deep_combines() -> None:
    def combine(a: Any, b: Any) -> Any:
        s, t = a[0] + b[0], a[1] + b[1]
        for _ in range(400):  # back and forth: each step is used twice
            s, t = s + t, t
            s, t = s - t, t + s - s
        return s, t

    m = rk.Monoid((0, 0), combine, commutative=True)
    x = array("int64", 5, 33)
    for way, got in ways(lambda x: rk.reduce((x, 2 * x), axis=1, op=m), x, schedules=2):
        np.testing.assert_array_equal(got[0], x.sum(1), err_msg=way)
        np.testing.assert_array_equal(got[1], 2 * x.sum(1), err_msg=way)

    def chain(a: Any, b: Any) -> Any:
        total = a + b
        for n in range(400):
            total = (total + n) - n
        return total

    single = rk.Monoid(0, chain, commutative=True)
    for way, got in ways(lambda x: rk.reduce(x, axis=1, op=single), x, schedules=2):
        np.testing.assert_array_equal(got[0], x.sum(1), err_msg=way)
