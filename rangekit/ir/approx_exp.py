"""exp and what is made of it, and erf, as formulas over basic operations.

x = n ln 2 + r with |r| <= ln 2 / 2, n in the lowest bits of a float that is too big to have a fraction, ln 2 in two
parts (Cody & Waite); then 2**n e**r, the power of two put together as bits.

Sources: W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980; J.-M. Muller et al., Handbook of
Floating-Point Arithmetic, 2nd edition, 2018; W. J. Cody, "Rational Chebyshev approximations for the error function",
Mathematics of Computation 23, 1969, for where erf is split.
"""

from __future__ import annotations

from rangekit.ir import approx_tables as tables
from rangekit.ir.approx_build import Format, Value, at_least, at_most, constant, fma, polynomial, where


def reduced(x: Value, f: Format) -> tuple[Value, Value]:
    """n shifted to the exponent's place, as an integer, and r; of an x whose n fits a float's exponent."""
    shifted = fma(x, f.parts("log2e", 1)[0], f.magic)
    n = shifted - f.magic
    high, low = f.parts("ln2", 2)
    return shifted.bits(f.integer) << f.fraction, fma(n, -low, fma(n, -high, x))


def _growth(r: Value, f: Format) -> Value:
    """e**r for a small r."""
    return fma(r, fma(r, polynomial(r, tables.EXP[f.dtype]), 1.0), 1.0)


def _less_one(r: Value, power: Value, f: Format, unit: float = 1.0) -> Value:
    """(power e**r - 1) * unit of a power of two that has the factor already; power * r - unit is exact, or near."""
    rest = r * r * polynomial(r, tables.EXP[f.dtype])
    return fma(power, rest, fma(power, r, power - unit))


def _power(n: Value, extra: int, f: Format) -> Value:
    """2**(n + extra), if that is a normal number."""
    return (n + (f.one + (extra << f.fraction))).bits(f.dtype)


def exp(x: Value, f: Format) -> Value:
    """e**x."""
    n, r = reduced(at_least(at_most(x, f.pick(89.0, 710.0)), f.pick(-104.0, -746.0)), f)
    return _scaled(_growth(r, f), n, x < 0.0, f)


def _scaled(value: Value, n: Value, below: Value, f: Format) -> Value:
    """value 2**n, as two factors, of which the second has n's sign: a subnormal result is rounded once, and one that is
    too large becomes inf.
    """
    first = (n + where(below, constant(f.one + (64 << f.fraction), f.integer), f.one - (1 << f.fraction))).bits(f.dtype)
    second = where(below, constant(2.0**-64, f.dtype), 2.0)
    return value * first * second


def scaled(r: Value, tail: Value, n: Value, below: Value, f: Format) -> Value:
    """e**(r + tail) 2**n, ``below`` if n is not positive."""
    square = r * r
    value = fma(square, polynomial(r, tables.EXP[f.dtype]), r)
    value = (value + fma(value, tail, tail)) + 1.0
    return _scaled(value, n, below, f)


def expm1(x: Value, f: Format) -> Value:
    """e**x - 1; x itself where that is as near."""
    n, r = reduced(at_least(at_most(x, f.pick(89.0, 710.0)), f.pick(-18.0, -38.0)), f)
    half = _power(n, -1, f)  # 2**n may be too large where the result is not
    value = _less_one(r, half, f, 0.5) * 2.0
    return where(abs(x) < f.pick(2.0**-25, 2.0**-54), x, value)


def tanh(x: Value, f: Format) -> Value:
    """(e**2x - 1) / (e**2x + 1), of |x|."""
    size = at_most(abs(x), f.pick(10.0, 20.0))
    n, r = reduced(size + size, f)
    above = _less_one(r, _power(n, 0, f), f)
    total = above + 2.0
    lost = where(size < 0.3, above - (total - 2.0), 0.0)  # where rounding the sum shows
    value = above / total
    error = fma(-value, lost, fma(-value, total, above))
    return f.signed(fma(error, fma(value, -0.5, 0.5), value), x)  # (1 - value) / 2 is 1 / total


def _half_exp(size: Value, f: Format) -> Value:
    """e**size / 2 of a size that is not negative: inf only where that is too large."""
    n, r = reduced(at_most(size, f.pick(90.0, 711.0)), f)
    return _growth(r, f) * _power(n, -2, f) * 2.0


def cosh(x: Value, f: Format) -> Value:
    """e**|x| / 2 + e**-|x| / 2."""
    half = _half_exp(abs(x), f)
    return half + 0.25 / half


def sinh(x: Value, f: Format) -> Value:
    """e**|x| / 2 - e**-|x| / 2; a polynomial where these are near each other."""
    size = abs(x)
    half = _half_exp(size, f)
    square = x * x
    near = fma(x * square, polynomial(square, tables.SINH[f.dtype]), x)
    far = f.signed(half - 0.25 / half, x)
    return where(size < 1.0, f.signed(abs(near), x), far)


def erf(x: Value, f: Format) -> Value:
    """x + x P(x**2) up to 1; beyond, 1 - e**-Q(|x|), where an error of Q counts less and less."""
    size = abs(x)
    near = fma(x, polynomial(x * x, tables.ERF[f.dtype]), x)
    n, r = reduced(-polynomial(at_most(size, f.pick(4.0, 5.94)), tables.ERFC[f.dtype]), f)
    far = fma(-_growth(r, f), _power(n, 0, f), 1.0)
    return where(size < 1.0, near, f.signed(far, x))
