"""FMA against exact fractions, rounded by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.scalar import apply
from rangekit.ir.show import expression
from rangekit.ir.uop import UOp, alu, const

Array = np.ndarray[Any, np.dtype[Any]]
FORMATS = {dt.float32: (24, -149), dt.float64: (53, -1074)}  # bits of a significand, exponent of the least number


def rounded(exact: Fraction, d: DType) -> float:
    """To the nearest number of the format, ties to even."""
    if exact == 0:
        return 0.0
    bits, least = FORMATS[d]
    size = abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = max(exponent - bits + 1, least)
    near = round(size / Fraction(2) ** unit)  # Python rounds halves to even
    try:
        value = math.ldexp(near, unit)
    except OverflowError:
        value = math.inf
    if d is dt.float32 and value >= 2.0**128:
        value = math.inf
    return value if exact > 0 else -value


def exactly(a: float, b: float, c: float, d: DType) -> float:
    if not all(map(math.isfinite, (a, b, c))):
        product = math.copysign(1, a) * math.copysign(1, b) * math.inf
        if math.isnan(a + b + c) and any(map(math.isnan, (a, b, c))):
            return math.nan
        if math.isinf(a) or math.isinf(b):
            return math.nan if 0 in (a, b) or c == -product else product
        return c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        sign = math.copysign(1, a) * math.copysign(1, b)
        return -0.0 if (0 in (a, b)) and c == 0 and sign < 0 and math.copysign(1, c) < 0 else 0.0
    return rounded(exact, d)


def hard(d: DType) -> list[Array]:
    """Random bits; products near the negated sum; sums next to a tie; results among the subnormals."""
    rng, bits, unsigned = np.random.default_rng(7), FORMATS[d][0], f"u{d.itemsize}"
    parts = []
    anything = rng.integers(0, 1 << d.bits, (3, 1500), unsigned).view(d.numpy)
    parts.append(anything)
    a, b = (rng.standard_normal((2, 1500)) * 2.0 ** rng.integers(-40, 40, (2, 1500))).astype(d.numpy)
    parts.append(np.stack([a, b, -(a * b)]))
    parts.append(np.stack([a, b, (a * b * 2.0 ** rng.integers(-2 * bits, bits, 1500)).astype(d.numpy)]))
    tie = (1 + rng.integers(0, 1 << 10, 1500) * 2.0 ** (1 - bits)).astype(d.numpy)
    tiny = rng.choice([1, -1], 1500) * 2.0 ** -rng.integers(bits, 3 * bits, 1500)
    parts.append(np.stack([np.sign(tiny), np.abs(tiny), tie]).astype(d.numpy))
    half = (1 + rng.integers(0, 1 << (bits // 2 - 1), 1500) * 2.0 ** (1 - bits // 2)).astype(d.numpy)
    parts.append(np.stack([half, half * d.numpy.type(2.0 ** (1 - bits)), tie]))
    small = np.ldexp(rng.uniform(0.5, 1, (3, 800)), rng.integers(-10, 25, (3, 800)))
    low = [np.ldexp(v, FORMATS[d][1] * part // 2).astype(d.numpy) for v, part in zip(small, (1, 1, 2), strict=True)]
    parts.append(np.stack([low[0], -low[1], low[2]]))
    edge = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, np.finfo(d.numpy).max, np.finfo(d.numpy).tiny], d.numpy)
    parts.append(np.stack([v.ravel() for v in np.meshgrid(edge, edge, edge)]))
    return list(np.concatenate(parts, axis=1))


@pytest.mark.parametrize("d", FORMATS, ids=str)
def test_fma_rounds_once(d: DType) -> None:
    a, b, c = hard(d)
    got = apply(Op.FMA, d, (a, b, c), src_dtypes=(d, d, d))
    want = np.array([exactly(float(x), float(y), float(z), d) for x, y, z in zip(a, b, c, strict=True)]).astype(d.numpy)
    np.testing.assert_array_equal(got, want)
    number = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))
    with np.errstate(all="ignore"):
        assert np.any(got != a * b + c)  # the arguments can tell


def test_fma_reads_as_a_call() -> None:
    x = UOp(Op.VAR, dt.float32, (), ("let", 0, "x"))
    assert expression(alu(Op.FMA, x, x, const(1.0, dt.float32))) == "fma(x, x, 1.0)"
