"""sin, cos and tan as formulas over basic operations.

Near: x less the nearest multiple of pi (of pi/2 for tan), which is taken off in three parts, each a fused multiply and
add (Cody & Waite); the first leaves an exact difference. Far, for float32: x times 1/pi modulo 2 in float64, with 1/pi
in pieces so short that each product is exact (Payne & Hanek), which is right for every finite x.

Sources: W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980; M. Payne, R. Hanek, "Radian reduction
for trigonometric functions", SIGNUM Newsletter 18(1), 1983; S. Boldo, M. Daumas, R.-C. Li, "Formally verified argument
reduction with a fused multiply-add", IEEE Transactions on Computers 58(8), 2009.
"""

from __future__ import annotations

from rangekit.ir import approx_tables as tables
from rangekit.ir import dtype as dt
from rangekit.ir.approx_build import DOUBLE, Format, Value, fma, polynomial, where
from rangekit.ir.ops import Op


def near(op: Op, x: Value, f: Format) -> tuple[Value, Value]:
    """The condition under which it is right, and sin, cos or tan of x."""
    inverse = f.parts("2/pi" if op is Op.TAN else "1/pi", 1)[0]
    if op is Op.COS:
        shifted = fma(x, inverse, 0.5) + f.magic
        turns = (shifted - f.magic) - 0.5  # cos x = sin(x + pi/2)
    else:
        shifted = fma(x, inverse, f.magic)
        turns = shifted - f.magic
    r = x
    for part in f.parts("half_pi" if op is Op.TAN else "pi", 3):
        r = fma(turns, -part, r)
    odd = shifted.bits(f.integer) << (f.dtype.bits - 1)
    if op is Op.TAN:
        value = _tan(r, f)
        value = where(odd.eq(0), value, -1.0 / value)
    else:
        value = (_sin(r, f).bits(f.integer) ^ odd).bits(f.dtype)
    return abs(x) < f.pick(2.0**16, 2.0**25), value


def far(op: Op, x: Value, f: Format) -> Value | None:
    """Of every finite float32; NaN for the others."""
    if f.dtype is not dt.float32:
        return None
    phase, rest = _phase(x.to(dt.float64))  # x / pi modulo 2
    if op is Op.TAN:
        phase, rest = phase * 2.0, rest * 2.0
    turns = ((phase + 0.5) if op is Op.COS else phase).round()
    gone = turns - 0.5 if op is Op.COS else turns
    angle = (phase - gone) + rest
    pi = DOUBLE.parts("half_pi" if op is Op.TAN else "pi", 1)[0]
    r = (angle * pi).to(dt.float32)
    half = turns * 0.5
    odd = half.round().ne(half)
    if op is Op.TAN:
        value = _tan(r, f)
        value = where(odd, -1.0 / value, value)
    else:
        value = _sin(r, f)
        value = where(odd, -value, value)
    return value if op is Op.COS else where(x.eq(0.0), x, value)


def _phase(x: Value) -> tuple[Value, Value]:
    """x / pi modulo 2, as a sum of which the second part is what the first cannot hold."""
    phase = rest = None
    for piece in tables.INVERSE_PI:
        product = x * piece
        product = fma((product * 0.5).round(), -2.0, product)
        if phase is None or rest is None:
            phase, rest = product, product * 0.0
            continue
        total = phase + product
        share = total - phase
        rest = rest + ((phase - (total - share)) + (product - share))
        phase = total
    assert phase is not None and rest is not None
    return fma((phase * 0.5).round(), -2.0, phase), rest


def _sin(r: Value, f: Format) -> Value:
    """For |r| up to a little over pi/2."""
    square = r * r
    return r * fma(square, polynomial(square, tables.SIN[f.dtype]), 1.0)


def _tan(r: Value, f: Format) -> Value:
    """For |r| up to a little over pi/4."""
    square = r * r
    return r * fma(square, polynomial(square, tables.TAN[f.dtype]), 1.0)
