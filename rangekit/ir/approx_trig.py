"""sin, cos and tan as formulas over basic operations.

Near: x less the nearest multiple of pi/2, which is taken off in three parts, each a fused multiply and add (Cody &
Waite); the first leaves an exact difference. Far, for float32: x times 2/pi modulo 4 in float64, with 2/pi in pieces so
short that each product is exact (Payne & Hanek), which is right for every finite x.

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
    shifted = fma(x, f.parts("2/pi", 1)[0], f.magic)
    turns = shifted - f.magic
    first, second, third = f.parts("half_pi", 3)
    exact = fma(turns, -first, x)
    if op is Op.TAN:
        taken = turns * second
        left, lost = _sum(exact, -taken)
        more = fma(turns, -third, lost - fma(turns, second, -taken))
        r = left + more
        value = _tan(r, (left - r) + more, shifted.bits(f.integer), f)
    else:
        r = fma(turns, -third, fma(turns, -second, exact))
        value = _sine(op, r, shifted.bits(f.integer), f)
    value = value if op is Op.COS else where(x.eq(0.0), x, value)  # sums of zeros lose their sign
    return abs(x) < f.pick(2.0**16, 2.0**25), value


def far(op: Op, x: Value, f: Format) -> Value | None:
    """Of every finite float32; NaN for the others."""
    if f.dtype is not dt.float32:
        return None
    phase, rest = _phase(x.to(dt.float64))
    turns = phase.round()
    angle = ((phase - turns) + rest) * DOUBLE.parts("half_pi", 1)[0]
    r = angle.to(dt.float32)
    quadrant = (turns + DOUBLE.magic).bits(dt.uint64).to(dt.uint32)
    if op is Op.TAN:
        value = _tan(r, (angle - r.to(dt.float64)).to(dt.float32), quadrant, f)
    else:
        value = _sine(op, r, quadrant, f)
    return value if op is Op.COS else where(x.eq(0.0), x, value)


def _phase(x: Value) -> tuple[Value, Value]:
    """x / (pi/2) modulo 4, as a sum of which the second part is what the first cannot hold."""
    phase, rest = _modulo(x * tables.TWO_OVER_PI[0]), x * 0.0
    for piece in tables.TWO_OVER_PI[1:]:
        product = _modulo(x * piece)
        phase, lost = _sum(phase, product)
        rest = rest + lost
    return _modulo(phase), rest


def _sum(a: Value, b: Value) -> tuple[Value, Value]:
    """a + b rounded, and what rounding lost (Knuth)."""
    total = a + b
    share = total - a
    return total, (a - (total - share)) + (b - share)


def _modulo(x: Value) -> Value:
    """x less the nearest multiple of 4, exactly."""
    return fma((x * 0.25).round(), -4.0, x)


def _sine(op: Op, r: Value, quadrant: Value, f: Format) -> Value:
    """Of |r| up to a little over pi/4, and as many times pi/2 as the lowest two bits of an integer say."""
    square = r * r
    sine = fma(r * square, polynomial(square, tables.SIN[f.dtype]), r)
    cosine = fma(square, fma(square, polynomial(square, tables.COS[f.dtype]), -0.5), 1.0)
    other = (quadrant & 1).ne(0)
    if op is Op.COS:
        quadrant = quadrant + 1
        value = where(other, sine, cosine)
    else:
        value = where(other, cosine, sine)
    sign = (quadrant << (f.dtype.bits - 2)) & f.sign
    return (value.bits(f.integer) ^ sign).bits(f.dtype)


def _tan(r: Value, tail: Value, quadrant: Value, f: Format) -> Value:
    """Of |r + tail| up to a little over pi/4; the negative reciprocal, of a sum not yet rounded, in odd quadrants."""
    square = r * r
    more = r * square * polynomial(square, tables.TAN[f.dtype])
    more = more + fma(tail, square, tail)  # tan' = 1 + tan**2
    value = r + more
    lost = (r - value) + more
    turned = -1.0 / value
    error = fma(turned, lost, fma(turned, value, 1.0))
    return where((quadrant & 1).ne(0), fma(turned, error, turned), value)
