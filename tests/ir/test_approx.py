"""The expressions of math functions, interpreted, against functions of more precise floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.approx import MAX_ULP, cheap, expand
from rangekit.ir.dtype import DType
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import ARITH, BITS, COMPARE, SHIFTS, Op
from rangekit.ir.uop import ParamId, UOp, alu, toposort

Array = np.ndarray[Any, np.dtype[Any]]
BASIC = ARITH - {Op.MAX, Op.MIN} | BITS | SHIFTS | COMPARE | {
    Op.DIV, Op.FMA, Op.NEG, Op.ABS, Op.ROUND, Op.SQRT, Op.WHERE, Op.CAST, Op.BITCAST, Op.CONST,
}  # fmt: skip
EXPANDED = sorted({op for op, _ in MAX_ULP} - {Op.SQRT, Op.DIV}, key=lambda op: op.value)
PRECISE = np.longdouble
needs_precision = pytest.mark.skipif(np.finfo(PRECISE).nmant < 63, reason="no floats beyond float64 on this machine")
DTYPES = [dt.float32, pytest.param(dt.float64, marks=needs_precision)]
each_dtype = pytest.mark.parametrize("d", DTYPES, ids=str)


def erf(x: Array) -> Array:
    """By its series of positive terms, 2/sqrt(pi) exp(-x**2) (x + 2 x**3 / 3 + 4 x**5 / 15 + ...)."""
    near = np.clip(x, -7, 7)
    term, total = near.copy(), near.copy()
    for k in range(1, 200):
        term = term * (2 * near * near / (2 * k + 1))
        total = total + term
    return np.asarray(total * np.exp(-near * near) * 2 / np.sqrt(np.asarray(np.pi, x.dtype)))


ORACLES: dict[Op, Any] = {op: getattr(np, op.value) for op in EXPANDED if hasattr(np, op.value)}
ORACLES[Op.ERF], ORACLES[Op.POW] = erf, np.power


def arguments(d: DType, op: Op) -> tuple[Array, ...]:
    """Each exponent, with random fractions; where the functions change; the edges of all that."""
    rng, unsigned = np.random.default_rng(11), f"u{d.itemsize}"
    exponents, fraction = (256, 23) if d is dt.float32 else (2048, 52)
    count = 24 if d is dt.float32 else 3
    low = rng.integers(0, 1 << fraction, (2 * exponents, count), unsigned)
    high = np.arange(2 * exponents, dtype=unsigned)[:, None] << np.asarray(fraction, unsigned)
    every = (high | low).view(d.numpy).ravel()
    small = (rng.uniform(-2, 2, 4000) * 2.0 ** rng.integers(-4, 10, 4000)).astype(d.numpy)
    edges = np.array([0, 1, 2, 10, 0.5, 0.3, np.pi, np.pi / 2, 16, 18, 88.72, 103.97, 709.78, 745.13, np.inf, np.nan,
                      2.0**16, 2.0**25, 2.0**0.5, 0.5**0.5, float(np.finfo(d.numpy).max), 5e-324, 1e-45])  # fmt: skip
    with np.errstate(all="ignore"):
        edges = np.concatenate([edges, -edges]).astype(d.numpy)
    steps = np.arange(-3, 4).astype(f"i{d.itemsize}")
    beside = (edges.view(steps.dtype)[:, None] + steps).view(d.numpy).ravel()
    if op is not Op.POW:
        return (np.concatenate([every, small, beside]),)
    x, y = np.meshgrid(edges, edges)
    near_one = (1 + rng.uniform(-1, 1, 3000) * 2.0 ** -rng.integers(0, 20, 3000)).astype(d.numpy)
    limit = 104 if d is dt.float32 else 745
    with np.errstate(all="ignore"):
        reach = (rng.uniform(-limit, limit, 3000) / np.log(near_one.astype(np.float64))).astype(d.numpy)
    whole = rng.integers(-9, 9, (2, 300)).astype(d.numpy)
    return (
        np.concatenate([x.ravel(), near_one, small[:1000], whole[0]]),
        np.concatenate([y.ravel(), reach, small[1000:2000], whole[1]]),
    )


def node(op: Op, d: DType, size: int) -> UOp:
    return alu(op, *(UOp(Op.PARAM, d, (), ParamId(k, "xy"[k], (size,))) for k in range(1 + (op is Op.POW))))


def forms(n: UOp) -> list[tuple[UOp | None, UOp]]:
    """The ways to compute it: each a condition (None: always) and a value."""
    short, full = cheap(n), expand(n)
    return [*([short] if short else []), *([(None, full)] if full is not None else [])]


def ulps(got: Array, want: Array, d: DType) -> Array:
    """How far; inf where NaN, an infinity or a zero's sign differ."""
    rounded = want.astype(d.numpy)
    info = np.finfo(d.numpy)
    exponent = np.clip(np.frexp(want)[1] - 1, info.minexp, info.maxexp - 1)
    off = np.abs(got.astype(PRECISE) - want) / np.ldexp(PRECISE(1), exponent - info.nmant)
    special = ~np.isfinite(want) | (want == 0) | ~np.isfinite(got) | (got == 0)
    same = (got == rounded) & (np.signbit(got) == np.signbit(rounded)) | (np.isnan(got) & np.isnan(rounded))
    nearly = np.isfinite(got) != np.isfinite(rounded)  # the greatest float for inf, or the other way round
    nearly &= np.abs(got.astype(d.numpy)) >= info.max
    nearly &= np.abs(rounded) >= info.max
    tiny = np.isfinite(want) & (want != 0) & (got == 0) & (np.signbit(got) == np.signbit(rounded))
    return np.where(
        special, np.where(same | tiny & (off <= 1), np.where(tiny, off, 0), np.where(nearly, 1, np.inf)), off
    )


@each_dtype
@pytest.mark.parametrize("op", EXPANDED, ids=lambda op: op.value)
def test_no_expression_is_further_off_than_the_table_says(op: Op, d: DType) -> None:
    inputs = arguments(d, op)
    with np.errstate(all="ignore"):
        want = ORACLES[op](*(np.asarray(x, PRECISE) for x in inputs))
    n = node(op, d, inputs[0].size)
    env = dict(zip(n.src, inputs, strict=True))
    found = forms(n)
    assert found
    for condition, value in found:
        with np.errstate(all="ignore"):
            off = ulps(evaluate(value, env), want, d)
        if condition is not None:
            held = evaluate(condition, env)
            assert held.any()
            off = np.where(held, off, 0)
        worst = int(np.argmax(off))
        assert off[worst] <= MAX_ULP[op, d], f"{op} of {[float(x[worst]) for x in inputs]} is {off[worst]} ulp off"


@pytest.mark.parametrize("d", [dt.float16, dt.bfloat16, dt.float32, dt.float64], ids=str)
def test_expressions_are_made_of_basic_operations(d: DType) -> None:
    for op in EXPANDED:
        n = node(op, d, 4)
        for condition, value in forms(n):
            assert value.dtype is d
            below = [m for m in toposort(value, *([condition] if condition is not None else [])) if m not in n.src]
            assert {m.op for m in below} <= BASIC
            assert all(m.dtype.kind != "i" for m in below), "AVX2 has no signed shift of 64 bits"
            assert len(below) < 250


@pytest.mark.parametrize("d", [dt.float32, dt.float64], ids=str)
def test_results_that_are_floats_are_met(d: DType) -> None:
    def value(op: Op, *inputs: list[float]) -> list[float]:
        arrays = [np.array(x, d.numpy) for x in inputs]
        n = node(op, d, arrays[0].size)
        made = expand(n)
        if made is None:
            short = cheap(n)
            assert short is not None
            made = short[1]
        with np.errstate(all="ignore"):
            return list(evaluate(made, dict(zip(n.src, arrays, strict=True))))

    inf, few = math.inf, list(range(-100, 100))
    assert value(Op.EXP, [0, -0.0, -inf, inf]) == [1, 1, 0, inf]
    assert value(Op.LOG, [1, 0, -0.0, inf]) == [0, -inf, -inf, inf]
    assert value(Op.LOG2, [2.0**k for k in few]) == few
    assert value(Op.COS, [0, -0.0]) == value(Op.COSH, [0, -0.0]) == [1, 1]
    assert value(Op.ERF, [inf, -inf]) == value(Op.TANH, [inf, -inf]) == value(Op.TANH, [99, -99]) == [1, -1]
    assert value(Op.POW, [3.5, 1.1, -7], [1, 1, 1]) == list(np.array([3.5, 1.1, -7], d.numpy))
    assert value(Op.POW, [3, -5, 1.5], [2, 3, 4]) == [9, -125, 5.0625]


def test_half_types_are_computed_in_float32() -> None:
    x = np.linspace(-4, 4, 300).astype(dt.float16.numpy)
    n = node(Op.TANH, dt.float16, x.size)
    made = expand(n)
    assert made is not None
    np.testing.assert_array_equal(evaluate(made, {n.src[0]: x}), np.tanh(x.astype(np.float64)).astype(np.float16))


def test_other_ops_and_types_have_no_expression() -> None:
    assert expand(node(Op.SQRT, dt.float32, 1)) is None
    x = node(Op.EXP, dt.float32, 1).src[0]
    assert expand(alu(Op.ADD, x, x)) is None
    assert expand(alu(Op.POW, *(UOp(Op.CAST, dt.int32, (x,)),) * 2)) is None
    assert cheap(node(Op.EXP, dt.float32, 1)) is None
