"""x ** y as formulas over basic operations: 2 ** (y log2 |x|), then C's rules for signs and special values.

An error in log2 |x| counts up to 1024 times in the result. float32 is computed in float64. float64 keeps the logarithm
as a sum of two, with log m = 2 s + (2/3) s**3 + s**5 R(s**2), s = (m - 1) / (m + 1), the first two terms as such sums.

Sources: J.-M. Muller, Elementary Functions, 3rd edition, 2016, chapter 11; T. J. Dekker, "A floating-point technique
for extending the available precision", Numerische Mathematik 18, 1971; ISO C, annex F.10.4.4.
"""

from __future__ import annotations

import math

from rangekit.ir import approx_tables as tables
from rangekit.ir import dtype as dt
from rangekit.ir.approx_build import DOUBLE, Format, Value, at_least, at_most, constant, fma, polynomial, where
from rangekit.ir.approx_exp import scaled
from rangekit.ir.approx_log import INTEGER_AT, split

Pair = tuple[Value, Value]  # a sum of which the second part is what the first cannot hold


def power(x: Value, y: Value, f: Format) -> Value:
    """x ** y, as C's pow."""
    size = abs(x)
    value = _single(size, y) if f.dtype is dt.float32 else _double(size, y)
    half = y * 0.5
    odd = y.round().eq(y) & half.round().ne(half)
    negative = x.bits(f.integer) & f.sign
    value = (value.bits(f.integer) ^ where(odd, negative, 0)).bits(f.dtype)
    impossible = (x < 0.0) & (constant(-math.inf, f.dtype) < x) & y.round().ne(y)
    value = where(impossible, math.nan, value)
    value = where(size.eq(1.0) & abs(y).eq(math.inf), 1.0, value)
    return where(x.eq(1.0) | y.eq(0.0), 1.0, value)


def _single(size: Value, y: Value) -> Value:
    f = DOUBLE
    wide = size.to(dt.float64)
    e, m, _ = split(wide, f)
    s = (m - 1.0) / (m + 1.0)
    logarithm = fma(s, polynomial(s * s, tables.POW_LOG[dt.float64]), e - INTEGER_AT[f.fraction])
    logarithm = _edges(wide, logarithm)
    exponent = at_least(at_most(y.to(dt.float64) * logarithm, 130.0), -152.0)
    shifted = exponent + f.magic
    n = shifted - f.magic
    two = ((shifted.bits(f.integer) << f.fraction) + f.one).bits(f.dtype)
    return (polynomial(exponent - n, tables.POW_EXP[dt.float64]) * two).to(dt.float32)


def _double(size: Value, y: Value) -> Value:
    f = DOUBLE
    high, low = _log2(size)
    high = _edges(size, high)
    product = y * high
    rest = fma(y, low, fma(y, high, -product))
    bounded = at_least(at_most(product, 1025.0), -1077.0)
    rest = where(abs(product) < 1077.0, rest, 0.0)  # there it may be no number
    shifted = bounded + f.magic
    n = shifted - f.magic
    part = bounded - n
    one, less = f.parts("ln2", 2)
    r = part * one
    tail = fma(rest, one, fma(part, less, fma(part, one, -r)))
    return scaled(r, tail, shifted.bits(f.integer) << f.fraction, product < 0.0, f)


def _edges(size: Value, logarithm: Value) -> Value:
    logarithm = where(size < math.inf, logarithm, size)
    return where(size.eq(0.0), -math.inf, logarithm)


def _log2(size: Value) -> Pair:
    f = DOUBLE
    small = size < f.tiny
    e, m, _ = split(where(small, size * 2.0**54, size), f)
    e = e - where(small, constant(INTEGER_AT[f.fraction] + 54, f.dtype), INTEGER_AT[f.fraction])
    above, below = m - 1.0, m + 1.0
    lost = m - (below - 1.0)
    s = above / below
    s_low = fma(-s, lost, fma(-s, below, above)) / below
    square = s * s
    square_low = fma(s, s, -square) + s * s_low * 2.0
    third = fma(square, polynomial(square, tables.POW_TAIL[dt.float64]), _THIRDS_LOW)  # after the leading 2/3
    factor, factor_low = _sum(constant(_THIRDS, f.dtype), third)
    term, term_low = _product((square, square_low), (factor, factor_low))
    inside, inside_low = _sum(constant(2.0, f.dtype), term)
    log, log_low = _product((s, s_low), (inside, inside_low + term_low))
    one, rest = f.parts("log2e", 2)
    scaled_log, scaled_low = _product((log, log_low), (constant(one, f.dtype), constant(rest, f.dtype)))
    total, total_low = _sum(e, scaled_log)
    small_e = e.eq(0.0)
    total, total_low = where(small_e, scaled_log, total), where(small_e, constant(0.0, f.dtype), total_low)
    return _sum(total, total_low + scaled_low)


_THIRDS = 2 / 3
_THIRDS_LOW = 3.700743415417188e-17  # what 2/3 loses when rounded


def _sum(a: Value, b: Value) -> Pair:
    """Of an a that is not the smaller one, or 0."""
    total = a + b
    return total, b - (total - a)


def _product(a: Pair, b: Pair) -> Pair:
    product = a[0] * b[0]
    return product, fma(a[0], b[1], fma(a[1], b[0], fma(a[0], b[0], -product)))
