"""Logarithms as formulas over basic operations.

x = 2**e m with m in [sqrt(1/2), sqrt(2)] comes from the bits of x. With f = m - 1 and s = f / (2 + f),
log m = f - f**2/2 + s (f**2/2 + R(s**2)), kept as a high part f - f**2/2 and the rest.

Source: the form of log m is that of K. C. Ng in fdlibm, Sun Microsystems, 1993; J.-M. Muller, Elementary Functions,
3rd edition, 2016, chapter 11.
"""

from __future__ import annotations

import math

from rangekit.ir import approx_tables as tables
from rangekit.ir.approx_build import Format, Value, constant, fma, polynomial, where

_ROOT = {23: 0x3F3504F3, 52: 0x3FE6A09E667F3BCD}  # the bits of sqrt(1/2)
_INTEGRAL = {23: 0x4B000000, 52: 0x4330000000000000}  # of 2**fraction, whose lowest bits are those of an integer
INTEGER_AT = {23: 2.0**23 + 127, 52: 2.0**52 + 1023}  # the same with an exponent's bias


def split(x: Value, f: Format) -> tuple[Value, Value, Value]:
    """e + bias + 2**fraction and m, of a normal x > 0; and the bits of e + bias in their place, as an integer."""
    above = x.bits(f.integer) + (f.one - _ROOT[f.fraction])
    e = ((above >> f.fraction) | _INTEGRAL[f.fraction]).bits(f.dtype)
    m = ((above & ((1 << f.fraction) - 1)) + _ROOT[f.fraction]).bits(f.dtype)
    return e, m, above & (2 * f.sign - (1 << f.fraction))


def _parts(g: Value, f: Format) -> tuple[Value, Value]:
    """log(1 + g) as a sum."""
    half = g * g * 0.5
    s = g / (g + 2.0)
    square = s * s
    high = g - half
    low = (g - high) - half
    return high, low + s * fma(square, polynomial(square, tables.LOG[f.dtype]), half)


def _natural(e: Value, g: Value, f: Format) -> Value:
    """e ln 2 + log(1 + g)."""
    half = g * g * 0.5
    s = g / (g + 2.0)
    square = s * s
    rest = s * fma(square, polynomial(square, tables.LOG[f.dtype]), half)
    high, low = f.parts("ln2", 2)
    return fma(e, high, g - (half - fma(e, low, rest)))


def _based(e: Value, g: Value, f: Format, scale: str, unit: str | None) -> Value:
    """The same in another base: log(1 + g) times ``scale``, e times ``unit`` (None: 1)."""
    high, low = _parts(g, f)
    one, rest = f.parts(scale, 2)
    product = high * one
    small = fma(low, one, fma(high, rest, fma(high, one, -product)))
    if unit is None:
        whole = e
    else:
        first, second = f.parts(unit, 2)
        whole = e * first
        small = small + fma(e, second, fma(e, first, -whole))
    total = whole + product
    return total + (((whole - total) + product) + small)


def _of(e: Value, g: Value, f: Format, base: int) -> Value:
    if base == 2:
        return _based(e, g, f, "log2e", None)
    return _based(e, g, f, "log10e", "log10of2") if base == 10 else _natural(e, g, f)


def _edges(x: Value, value: Value, f: Format) -> Value:
    """-inf at 0, NaN below and at NaN, inf at inf."""
    value = where(x < math.inf, value, x)
    outside = where(x.eq(0.0), constant(-math.inf, f.dtype), math.nan)
    return where(x <= 0.0, outside, value)


def logarithm(x: Value, f: Format, base: int) -> Value:
    """The logarithm to base 2 or 10, or (0) the natural one."""
    small, up = x < f.tiny, f.fraction + 2
    e, m, _ = split(where(small, x * 2.0**up, x), f)
    e = e - where(small, constant(INTEGER_AT[f.fraction] + up, f.dtype), INTEGER_AT[f.fraction])
    return _edges(x, _of(e, m - 1.0, f, base), f)


def plain(x: Value, f: Format, base: int) -> tuple[Value, Value]:
    """The same for normal numbers only: the condition, and the value."""
    normal = (x < math.inf) & (constant(f.tiny, f.dtype) <= x)
    e, m, _ = split(x, f)
    return normal, _of(e - INTEGER_AT[f.fraction], m - 1.0, f, base)


def log1p(x: Value, f: Format) -> Value:
    """log(1 + x): of u = 1 + x, with what rounding lost added to m, scaled like it."""
    u = x + 1.0
    lost = x - (u - 1.0)
    e, m, whole = split(u, f)
    scale = (2 * f.one - whole).bits(f.dtype)
    few = u < f.tiny**-0.5  # nothing that counts is lost above, where 2**-e may be no float
    g = fma(where(few, scale, 0.0), where(few, lost, 0.0), m - 1.0)
    value = _edges(u, _natural(e - INTEGER_AT[f.fraction], g, f), f)
    return where(x.eq(0.0), x, value)
