"""Sums of multiples: the normal form of index arithmetic, and the one order in which terms stand.

A form is ``({atom: factor}, constant)``, factors never 0. Its node is a left-leaning chain of ``atom * factor``
in ``order``, the constant last; a difference is a factor of -1. Equal sums are so one node.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cmp_to_key
from typing import Any
from weakref import WeakKeyDictionary

from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, idx, toposort

Form = tuple[dict[UOp, int], int]

_LINEAR = frozenset({Op.ADD, Op.SUB, Op.NEG, Op.MUL})


_WIDEST_KEPT = 256  # terms of a form worth remembering: a chain of n prefixes must not cost n * n
_FORMS: WeakKeyDictionary[UOp, Form] = WeakKeyDictionary()


def affine(node: UOp) -> Form:
    """The form of an index node: what it is a sum of, and the constant. Everything not linear is an atom.

    The form is shared: do not change it.

    >>> from rangekit.ir.uop import alu, idx, new_range
    >>> i = new_range(4); affine(alu(Op.ADD, alu(Op.MUL, i, idx(3)), idx(1))) == ({i: 3}, 1)
    True
    """
    if not _splits(node):
        return _leaf(node)
    form = _FORMS.get(node) or _of_sources(node) or _of_chain(node)
    if len(form[0]) <= _WIDEST_KEPT:
        _FORMS[node] = form
    return form


def affine_within(node: UOp, limit: int) -> Form | None:
    """``affine``, or None, soon, for a node of more than ``limit`` terms or linear parts not looked at before."""
    if _splits(node) and node not in _FORMS and _of_sources(node) is None and _wide(node, limit):
        return None
    form = affine(node)
    return None if len(form[0]) > limit else form


def _factor(node: UOp) -> int | None:
    """The constant of a multiple."""
    a, b = node.src
    return b.arg if b.op is Op.CONST else a.arg if a.op is Op.CONST else None


def _splits(node: UOp) -> bool:
    return node.op in _LINEAR and node.dtype is dt.index and (node.op is not Op.MUL or _factor(node) is not None)


def _leaf(node: UOp) -> Form:
    return ({}, node.arg) if node.op is Op.CONST else ({node: 1}, 0)


def _of_sources(node: UOp) -> Form | None:
    """From the forms of the sources, if both are known."""
    forms = [_FORMS.get(s) if _splits(s) else _leaf(s) for s in node.src]
    a, b = forms[0], forms[-1]
    if a is None or b is None:
        return None
    if node.op is Op.ADD:
        return plus(a, b)
    if node.op is Op.SUB:
        return plus(a, b, -1)
    if node.op is Op.NEG:
        return times(a, -1)
    return times(b, a[1]) if node.src[0].op is Op.CONST else times(a, b[1])


def _of_chain(node: UOp) -> Form:
    """By one walk over the linear nodes below, users first, so that a factor is complete when its node is reached."""
    terms: dict[UOp, int] = {}
    constant = 0
    factors = {node: 1}
    for n in reversed(toposort(node, into=_splits)):
        m = factors.pop(n, None)
        if m is None:
            continue  # the literal factor of a multiple
        if n.op is Op.CONST:
            constant += m * n.arg
        elif not _splits(n):
            terms[n] = m
        elif n.op is Op.MUL:
            a, b = n.src if n.src[1].op is Op.CONST else n.src[::-1]
            factors[a] = factors.get(a, 0) + m * b.arg
        else:
            signs = (-m,) if n.op is Op.NEG else (m, -m if n.op is Op.SUB else m)
            for s, sign in zip(n.src, signs, strict=True):
                factors[s] = factors.get(s, 0) + sign
    return {a: m for a, m in terms.items() if m}, constant


def _wide(node: UOp, limit: int) -> bool:
    count, stack = 0, [node]
    while stack:
        n = stack.pop()
        count += 1
        if count > limit:
            return True
        if _splits(n):
            stack.extend(n.src)
    return False


def total(form: Form) -> UOp:
    """The one node of a form."""
    terms, constant = form
    node: UOp | None = None
    for atom in in_order(terms):
        factor = terms[atom]
        term = atom if factor == 1 else UOp(Op.MUL, dt.index, (atom, idx(factor)))
        node = term if node is None else UOp(Op.ADD, dt.index, (node, term))
    if node is None:
        return idx(constant)
    return UOp(Op.ADD, dt.index, (node, idx(constant))) if constant else node


def times(a: Form, m: int) -> Form:
    """``a * m``."""
    return ({atom: factor * m for atom, factor in a[0].items()} if m else {}), a[1] * m


def plus(a: Form, b: Form, m: int = 1) -> Form:
    """``a + b * m``."""
    terms = dict(a[0])
    for atom, factor in b[0].items():
        new = terms.get(atom, 0) + factor * m
        if new:
            terms[atom] = new
        else:
            terms.pop(atom, None)
    return terms, a[1] + b[1] * m


def in_order(nodes: Iterable[UOp]) -> list[UOp]:
    """Distinct nodes, sorted by what they are: ranges as made, then the rest by structure. No address has a say."""
    found = list(nodes)
    if len(found) > 1:
        if all(n.op is Op.RANGE for n in found):
            found.sort(key=lambda n: n.arg.uid)
        else:
            found.sort(key=cmp_to_key(order))
    return found


def order(a: UOp, b: UOp) -> int:
    """-1, 0 or 1 as ``a`` stands before, at or after ``b``."""
    stack = [(a, b)]
    seen: set[tuple[UOp, UOp]] = set()
    while stack:
        pair = stack.pop()
        x, y = pair
        if x is y or pair in seen:
            continue
        seen.add(pair)
        kx, ky = _key(x), _key(y)
        if kx != ky:
            return -1 if kx < ky else 1
        ax, ay = _arg_key(x), _arg_key(y)
        if ax != ay:
            return -1 if ax < ay else 1
        stack.extend(zip(reversed(x.src), reversed(y.src), strict=True))
    return 0


def _key(node: UOp) -> tuple[bool, str, str, int]:
    return node.op is not Op.RANGE, node.op.value, node.dtype.name, 0 if node.op is Op.RANGE else len(node.src)


def _arg_key(node: UOp) -> Any:
    """Comparable between nodes of one op and dtype; numbers that only tell nodes apart count by their order."""
    arg = node.arg
    if node.op in (Op.RANGE, Op.BUFFER):
        return arg.uid
    if node.op is Op.VAR:  # by name: blocks (i) before what is inside one (i.t)
        return str(arg[-1]), str(arg[0]), arg[1:-1]
    if node.op is Op.CONST and node.dtype.kind in "biux":
        return arg
    return repr(arg)
