"""The coefficients of ``rangekit/ir/approx_tables.py``: minimax polynomials, found by exchange of extrema.

Run it to print the table (needs mpmath). Each row of ``FITS`` is what the polynomial approximates, where, and what its
error is divided by. A fit is rounded coefficient by coefficient: the leading ones first, the others fitted again around
what their rounding lost.

Source: E. Remez, 1934; J.-M. Muller, Elementary Functions: Algorithms and Implementation, 3rd edition, chapter 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.prec = 400  # a quotient that is 0 / 0 at 0 is taken at 1e-20
Function = Callable[[Any], Any]


def remez(f: Function, weight: Function, lo: Any, hi: Any, count: int) -> tuple[list[Any], Any]:
    """``count`` coefficients, lowest first, and the greatest weighted error, of ``f`` on [lo, hi]."""
    lo, hi = mp.mpf(lo), mp.mpf(hi)
    spots = [(lo + hi) / 2 - (hi - lo) / 2 * mp.cos(mp.pi * k / count) for k in range(count + 1)]
    grid = [lo + (hi - lo) * (1 - mp.cos(mp.pi * mp.mpf(k) / (30 * count))) / 2 for k in range(30 * count + 1)]
    values = [(f(x), weight(x)) for x in grid]
    coefficients: list[Any] = []
    worst = mp.mpf(0)
    for _ in range(12):
        rows = [[x**k for k in range(count)] + [(-1) ** n / weight(x)] for n, x in enumerate(spots)]
        solved = mp.lu_solve(mp.matrix(rows), mp.matrix([f(x) for x in spots]))
        coefficients, level = [solved[k] for k in range(count)], abs(solved[count])
        errors = [(mp.polyval(coefficients[::-1], x) - y) * w for x, (y, w) in zip(grid, values, strict=True)]
        peaks: list[int] = []
        for n, e in enumerate(errors):  # the greatest error of each run of one sign
            if peaks and (errors[peaks[-1]] > 0) == (e > 0):
                peaks[-1] = n if abs(e) > abs(errors[peaks[-1]]) else peaks[-1]
            else:
                peaks.append(n)
        while len(peaks) > count + 1:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        worst = max(abs(e) for e in errors)
        if len(peaks) < count + 1 or worst < level * mp.mpf("1.02"):
            break
        spots = [grid[n] for n in peaks]
    return coefficients, worst


def fit(f: Function, weight: Function, lo: Any, hi: Any, count: int, bits: int) -> tuple[list[float], float]:
    """The same with coefficients that are floats: the first none to three are rounded before the rest are fitted."""
    tried = []
    for narrow in range(min(4, count)):
        fixed: list[float] = []
        rest, _ = remez(f, weight, lo, hi, count)
        for shift in range(1, narrow + 1):
            fixed.append(rounded(rest[0], bits))

            def left(x: Any, shift: int = shift, fixed: tuple[float, ...] = tuple(fixed)) -> Any:
                return (f(x) - mp.polyval(fixed[::-1], x)) / x**shift

            scaled = away(lambda x, shift=shift: weight(x) * abs(x) ** shift)
            rest, _ = remez(away(left), scaled, lo, hi, count - shift)
        found = [*fixed, *(rounded(c, bits) for c in rest)]
        spots = [mp.mpf(lo) + (mp.mpf(hi) - mp.mpf(lo)) * k / 300 for k in range(301)]
        tried.append((max(abs((mp.polyval(found[::-1], x) - f(x)) * weight(x)) for x in spots), found))
    worst, found = min(tried)
    return found, float(worst)


def rounded(x: Any, bits: int) -> float:
    """To the nearest float32 or float64."""
    return float(np.float32(str(x))) if bits == 24 else float(x)


def away(f: Function) -> Function:
    """A function of a range that touches 0, where its formula is 0 / 0: taken a little beside it."""
    return lambda x: f(x if abs(x) > mp.mpf("1e-20") else mp.mpf("1e-20"))


def odd(f: Function) -> Function:
    """(f(x) / x - 1) / x**2 of an odd function with f'(0) = 1, in t = x**2."""
    return away(lambda t: (f(mp.sqrt(t)) / mp.sqrt(t) - 1) / t)


def odd_weight(f: Function) -> Function:
    """What makes an error of ``odd(f)`` one relative to f."""
    return away(lambda t: t * mp.sqrt(t) / f(mp.sqrt(t)))


def log_ratio(t: Any) -> Any:
    """log((1 + s) / (1 - s)) / s in t = s**2: 2 + 2/3 t + 2/5 t**2 + ..."""
    s = mp.sqrt(t)
    return mp.log((1 + s) / (1 - s)) / s


def erf_ratio(t: Any) -> Any:
    """erf(x) / x in t = x**2."""
    return mp.erf(mp.sqrt(t)) / mp.sqrt(t)


# fmt: off
H = mp.mpf("0.347")  # a little over log(2) / 2
S2 = mp.mpf("0.02945")  # ((m - 1) / (m + 1))**2 for m in [sqrt(1/2), sqrt(2)]
# name: function, weight, from, to, how many coefficients for float32 and float64
FITS: dict[str, tuple[Function, Function, Any, Any, int, int]] = {
    "EXP": (away(lambda r: (mp.exp(r) - 1 - r) / r**2), away(lambda r: abs(r * r / mp.expm1(r))), -H, H, 5, 11),
    "LOG": (away(lambda t: (log_ratio(t) - 2) / t), away(lambda t: t / 2), 0, S2, 3, 7),
    "SIN": (odd(mp.sin), odd_weight(mp.sin), 0, "0.63", 3, 6),
    "COS": (away(lambda t: (mp.cos(mp.sqrt(t)) - 1 + t / 2) / t**2), away(lambda t: t**2), 0, "0.63", 3, 6),
    "TAN": (odd(mp.tan), odd_weight(mp.tan), 0, "0.63", 6, 14),
    "SINH": (odd(mp.sinh), odd_weight(mp.sinh), 0, 1, 4, 7),
    "ERF": (away(lambda t: erf_ratio(t) - 1), away(lambda t: 1 / erf_ratio(t)), 0, 1, 7, 12),
    "ERFC": (lambda x: -mp.log(mp.erfc(x)), lambda x: mp.erfc(x) / mp.erf(x), "0.99", (4, "5.94"), 7, 19),
    "POW_LOG": (away(lambda t: log_ratio(t) / mp.log(2)), lambda t: mp.mpf(1) / 3, 0, S2, 0, 5),
    "POW_EXP": (lambda r: mp.power(2, r), lambda r: mp.power(2, -r), "-0.5001", "0.5001", 0, 7),
    "POW_TAIL": (away(lambda t: ((log_ratio(t) - 2) / t - mp.mpf(2) / 3) / t), away(lambda t: t * t / 2), 0, S2, 0, 8),
}
# fmt: on


# name: the constant, how many parts, whether to cut and not to round
PARTS: dict[str, tuple[Any, int, bool]] = {
    "ln2": (mp.log(2), 2, False),
    "log2e": (1 / mp.log(2), 2, False),
    "log10e": (1 / mp.log(10), 2, False),
    "log10of2": (mp.log10(2), 2, False),
    "half_pi": (mp.pi / 2, 3, True),
    "2/pi": (2 / mp.pi, 1, False),
}
HEAD = '''\
"""Coefficients of the polynomials in ``approx``, lowest power first; ``scripts/remez.py`` finds them and prints this.

The comment is the greatest error, relative to the function that the polynomial is part of.
"""

from rangekit.ir import dtype as dt

'''


def split(x: Any, count: int, bits: int, cut: bool) -> list[float]:
    """The constant as a sum of floats."""
    found = []
    for _ in range(count):
        exponent = int(mp.frexp(x)[1]) - bits
        whole = mp.ldexp(x, -exponent)
        part = mp.ldexp(mp.floor(whole) if cut else mp.nint(whole), exponent)
        found.append(float(part))
        x = x - part
    return found


def constants() -> str:
    """The text of the constants."""
    note = "each what those before it leave; of half_pi each is cut, so that none is negative."
    lines = [f"# Constants as sums of floats, {note}", "PARTS = {"]
    for d, bits in (("float32", 24), ("float64", 53)):
        lines.append(f"    dt.{d}: {{")
        lines.extend(f'        "{name}": {tuple(split(x, n, bits, cut))!r},' for name, (x, n, cut) in PARTS.items())
        lines.append("    },")
    pieces, left = [], 2 / mp.pi
    for k in range(1, 9):
        pieces.append(mp.floor(mp.ldexp(left, 28 * k)) / mp.mpf(2) ** (28 * k))
        left -= pieces[-1]
    lines += ["}", "", "# 2 / pi, 28 bits at a time: times a float32, each is exact in float64.", "TWO_OVER_PI = ("]
    return "\n".join([*lines, *(f"    {float(c)!r}," for c in pieces), ")"]) + "\n"


def table() -> str:
    """The table's text."""
    lines = []
    for name, (f, weight, lo, hi, *counts) in FITS.items():
        lines.append(f"{name} = {{")
        for k, (bits, count) in enumerate(zip((24, 53), counts, strict=True)):
            if count:
                end = hi[k] if isinstance(hi, tuple) else hi
                found, worst = fit(f, weight, lo, end, count, bits)
                lines.append(f"    dt.float{32 if bits == 24 else 64}: (  # 2**{float(mp.log(worst, 2)):.1f}")
                lines.extend(f"        {c!r}," for c in found)
                lines.append("    ),")
        lines.append("}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(HEAD + table() + "\n" + constants())
