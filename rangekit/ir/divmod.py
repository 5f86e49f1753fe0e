"""Floor division and remainder of sums, and sums that put a quotient and its remainder together again.

``split`` writes a form as ``c * quotient + remainder`` with ``0 <= remainder < c``, both in normal form and with
as little division left as the bounds allow; the two always agree, so ``join`` can find and undo them:

    m * c * (x // c) + m * (x % c)              is  m * x
    m * c * ((w + x // c) % e) + m * (x % c)    is  m * ((c * w + x) % (c * e))
"""

from __future__ import annotations

from math import gcd

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine, in_order, plus, total
from rangekit.ir.bounds import Known
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, idx


def _block(form: Form, c: int, known: Known) -> int | None:
    """The one quotient by ``c`` that every value of the form has."""
    lo, hi = known.form(form)
    return lo // c if lo is not None and hi is not None and lo // c == hi // c else None


def _divided(node: UOp) -> tuple[Form, int] | None:
    """(form of x, c) of ``x // c`` or ``x % c`` with a constant c > 0."""
    if node.op in (Op.IDIV, Op.MOD) and node.src[1].op is Op.CONST and node.src[1].arg > 0:
        return affine(node.src[0]), node.src[1].arg
    return None


def split(form: Form, c: int, known: Known) -> tuple[Form, Form]:
    """(quotient, remainder) by a constant ``c`` > 0."""
    block = _block(form, c, known)
    if block is not None:
        return ({}, block), (form[0], form[1] - block * c)
    multiples: dict[UOp, int] = {}
    rest: dict[UOp, int] = {}
    for atom, factor in form[0].items():
        times = factor // c if factor >= 0 else -(-factor // c)  # towards 0: a factor keeps its sign
        if times:
            multiples[atom] = times
        if factor != times * c:
            rest[atom] = factor - times * c
    whole: Form = (multiples, form[1] // c)
    left: Form = (rest, form[1] % c)
    quotient, remainder = _split_small(left, c, known)
    return plus(whole, quotient), remainder


def _split_small(form: Form, c: int, known: Known) -> tuple[Form, Form]:
    """``split`` of a form whose factors and constant are smaller than ``c``."""
    block = _block(form, c, known)
    if block is not None:
        return ({}, block), (form[0], form[1] - block * c)
    terms, constant = form
    for d in sorted({gcd(m, c) for m in terms.values()} - {1}, reverse=True):
        # form = d * high + low with low inside one block of d: then only high is divided, by c / d.
        high = {a: m // d for a, m in terms.items() if m % d == 0}
        low: Form = ({a: m for a, m in terms.items() if m % d}, constant % d)
        block = _block(low, d, known)
        if block is not None:
            quotient, remainder = split((high, constant // d + block), c // d, known)
            return quotient, plus((low[0], low[1] - block * d), remainder, d)
    return _quotient(form, c, known), _remainder(form, c, known)


def _quotient(form: Form, c: int, known: Known) -> Form:
    terms, constant = form
    inner = [(a, found) for a, m in terms.items() if m == 1 and a.op is Op.IDIV and (found := _divided(a))]
    if len(inner) == 1:  # (w + x // e) // c = (e * w + x) // (c * e)
        atom, (x, e) = inner[0]
        others = plus(form, ({atom: 1}, 0), -1)
        return split(plus(x, others, e), c * e, known)[0]
    if len(terms) == 1 and constant == 0:
        atom = next(iter(terms))
        found = _divided(atom) if atom.op is Op.MOD and terms[atom] == 1 else None
        if found and found[1] % c == 0:  # (x % (c * e)) // c = (x // c) % e
            return split(split(found[0], c, known)[0], found[1] // c, known)[1]
    return {UOp(Op.IDIV, dt.index, (total(form), idx(c))): 1}, 0


def _remainder(form: Form, c: int, known: Known) -> Form:
    terms = form[0]
    for atom, factor in terms.items():
        found = _divided(atom) if atom.op is Op.MOD else None
        if found and factor * found[1] % c == 0:  # x % e differs from x by a multiple of e
            return split(plus(plus(form, ({atom: 1}, 0), -factor), found[0], factor), c, known)[1]
    return {UOp(Op.MOD, dt.index, (total(form), idx(c))): 1}, 0


def join(form: Form, known: Known) -> Form:
    """The form with quotients and remainders of one value put together."""
    while True:
        remainders = in_order(a for a in form[0] if a.op is Op.MOD)
        joined = next((made for a in remainders if (made := _join_at(form, a, known))), None)
        if joined is None:
            return form
        form = joined


def _join_at(form: Form, atom: UOp, known: Known) -> Form | None:
    found = _divided(atom)
    if found is None:
        return None
    terms, m = form[0], form[0][atom]
    x, c = found
    quotient = split(x, c, known)[0]
    if not quotient[0]:
        return None
    without = plus(form, ({atom: 1}, 0), -m)
    if all(_covers(terms.get(a, 0), m * c * factor) for a, factor in quotient[0].items()):
        return plus(plus(without, quotient, -m * c), x, m)
    for other in terms:
        again = _divided(other) if other.op is Op.MOD and terms[other] == m * c else None
        if again and all(again[0][0].get(a) == factor for a, factor in quotient[0].items()):
            w, e = plus(again[0], quotient, -1), again[1]
            both = split(plus(x, w, c), c * e, known)[1]
            return plus(plus(without, ({other: 1}, 0), -m * c), both, m)
    return None


def _covers(have: int, need: int) -> bool:
    """Whether taking ``need`` from ``have`` brings it nearer to 0 or to 0."""
    return abs(have) >= abs(need) and have * need > 0
