"""One state of a reduction combined with another, as expressions a nest can hold.

An expression is a shallow tree, read by eye and walked by recursion; what a combine computes is a graph. What is used
twice in it, or is long, gets a name.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, Reducer, Values
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, toposort
from rangekit.lower.tidy import MAX_TREE

LONG = 2 * MAX_TREE  # operations of one expression here: comparisons of pairs are read as one

Name = Callable[[str, UOp], UOp]  # gives a value a name like the hint, and returns the variable


def merged(how: Reducer | Formula, a: Values, b: Values, name: Name) -> Values:
    """``combine(a, b)``, which may read ``a`` and ``b`` as often as it likes."""
    roots = _simple(how, a, b)
    leaves = {*a, *b}
    order = [n for n in toposort(*roots, into=lambda n: n not in leaves) if n not in leaves and n.op is not Op.CONST]
    uses: dict[UOp, int] = {}
    for n in order:
        for s in n.src:
            uses[s] = uses.get(s, 0) + 1
    known: dict[UOp, UOp] = {}
    sizes: dict[UOp, int] = {}
    for n in order:
        src = tuple(known.get(s, s) for s in n.src)
        value = n if src == n.src else n.replace(src=src)
        size = 1 + sum(sizes.get(s, 0) for s in src)
        again = uses.get(n, 0) + (n in roots) > 1
        if (again and size > 1) or (size > LONG and n not in roots):
            value, size = name("keep" if n.dtype is dt.bool_ else "v", value), 0
        known[n], sizes[value] = value, size
    return tuple(known.get(n, n) for n in roots)


def plain(how: Reducer | Formula, a: UOp, b: UOp) -> UOp | None:
    """``combine(a, b)`` of single values as one expression; None where it is too long for that."""
    if how.arity > 1:
        return None
    (new,) = _simple(how, (a,), (b,))
    return new if _size(new, {a, b}, MAX_TREE) <= MAX_TREE else None


def _simple(how: Reducer | Formula, a: Values, b: Values) -> Values:
    """The combined state; where one of them is known, a formula is shorter."""
    found = how.combine(a, b)
    return tuple(map(simplify, found)) if isinstance(how, Formula) else found


def _size(n: UOp, leaves: set[UOp], most: int) -> int:
    """Operations of an expression written out, counted no further than past ``most``."""
    if n in leaves or not n.src:
        return 0
    size = 1
    for s in n.src:
        size += _size(s, leaves, most - size)
        if size > most:
            break
    return size
