"""a * b + c rounded once, over NumPy, which has no such function.

float32 goes by way of float64: the product is exact there, and the sum is rounded to odd, so that rounding it again to
float32 is as if done once. float64 uses sums and products that keep what rounding loses; only where the result is
subnormal, and would be rounded twice by scaling, is it worked out in fractions, element by element.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_FAR = 200  # powers of two between a product and a sum beyond which the smaller one only breaks ties
_SPLIT = 2.0**27 + 1  # halves a float64's 53 bits


def fma(a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` rounded once; arrays or scalars of one type, float32 or float64, which broadcast together.

    Source: S. Boldo, G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding
    to odd", IEEE Transactions on Computers 57(4), 2008.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    return _single(a, b, c) if a.dtype == np.float32 else _double(a, b, c)


def _single(a: Array, b: Array, c: Array) -> Array:
    product = a.astype(np.float64) * b.astype(np.float64)
    return _odd_sum(product, c.astype(np.float64)).astype(np.float32)


def _double(a: Array, b: Array, c: Array) -> Array:
    shape = a.shape
    a, b, c = (np.atleast_1d(v) for v in (a, b, c))
    plain = np.where(np.isfinite(a) & np.isfinite(b) & np.isinf(c), c, a * b + c)  # a * b may overflow
    some = (a != 0) & (b != 0)  # with a product of 0 the plain sum is exact
    plain = np.where(some & (c == 0), a * b, plain)  # a product that is too small keeps its sign
    hard = np.flatnonzero(some & (c != 0) & np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
    if hard.size:
        plain.flat[hard] = _finite(a.flat[hard], b.flat[hard], c.flat[hard])
    return plain.reshape(shape)


def _finite(a: Array, b: Array, c: Array) -> Array:
    """Of finite numbers other than 0."""
    (x, i), (y, j), (z, k) = (np.frexp(v) for v in (a, b, c))
    above = np.clip(k - (i + j), -_FAR, _FAR)  # the sum's exponent over the product's
    scale = np.where(above == _FAR, k - _FAR, i + j)
    z = np.ldexp(z, above)
    high, low = _product(x, y)
    top, rest = _sum(z, low)
    near, over = _sum(high, top)
    total = near + _odd_sum(over, rest)
    result: Array = np.ldexp(total, scale)
    for n in np.flatnonzero((np.abs(result) < 2.0**-1021) & (total != 0)):
        result[n] = float(Fraction(a[n]) * Fraction(b[n]) + Fraction(c[n]))
    return result


def _sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what rounding lost (Knuth)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b rounded, and what rounding lost (Dekker)."""
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    product = a * b
    return product, a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)


def _halves(a: Array) -> tuple[Array, Array]:
    high = _SPLIT * a
    high = high - (high - a)
    return high, a - high


def _odd_sum(a: Array, b: Array) -> Array:
    """a + b rounded to odd: if it is no float64, the neighbour of the two whose last bit is 1."""
    total, lost = _sum(a, b)
    total = np.atleast_1d(total)
    bits = total.view(np.int64)
    even = (lost != 0) & np.isfinite(total) & (bits & 1 == 0)
    away = (lost > 0) == (total > 0)
    odd: Array = np.where(even, bits + np.where(away, 1, -1), bits).view(np.float64)
    return odd.reshape(np.shape(lost))
