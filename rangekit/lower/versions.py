"""Storage and its contents over time: who reads which version, and which accesses can never meet.

Every ASSIGN is a version of the storage its chain of bases begins with. A *root* is what becomes a store: a buffer that
is kept, an ASSIGN, a PRINT. What a root evaluates itself ends where other storage begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rangekit.ir.affine import affine
from rangekit.ir.bounds import bounds
from rangekit.ir.dim import symbolic
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import LOOPS, Op
from rangekit.ir.spec import binding
from rangekit.ir.uop import UOp, by_uid, toposort
from rangekit.lower.place import is_buffer

Array = np.ndarray[Any, np.dtype[Any]]
Carry = Callable[[UOp, UOp], None]
DATA = frozenset({Op.DIM, Op.INDEX, Op.REDUCE, Op.PARAM, Op.BUFFER, Op.IN_RANGE, Op.GET})
ENUMERATED = 1 << 16  # iterations of an access that are tried one by one


def is_root(n: UOp) -> bool:
    """What becomes a store or a print."""
    return is_buffer(n) or n.op in (Op.ASSIGN, Op.PRINT)


def is_storage(n: UOp) -> bool:
    """What has memory, or is a version of something that has."""
    return is_buffer(n) or n.op in (Op.ASSIGN, Op.PARAM, Op.BUFFER)


def evaluated(root: UOp) -> tuple[UOp, ...]:
    """The expressions a root evaluates."""
    if root.op is Op.ASSIGN:
        scope = binding(root)
        assert scope is not None
        return (*root.src[1].src[1:], *root.src[2 : scope[1]])
    return root.src[:2] if root.op is Op.PRINT else root.src[:1]


def reads(root: UOp) -> dict[UOp, list[UOp]]:
    """The storage a root reads, and the INDEX nodes that do."""
    found: dict[UOp, list[UOp]] = {}
    for n in toposort(*evaluated(root), into=lambda n: not is_storage(n)):
        if n.op is Op.INDEX and is_storage(n.src[0]):
            found.setdefault(n.src[0], []).append(n)
    return found


def beginning(version: UOp) -> UOp:
    """The storage of a version."""
    while version.op is Op.ASSIGN:
        version = version.src[0]
    return version


def repeated(root: UOp) -> frozenset[UOp]:
    """What a root evaluates inside of reductions and tiles: not once for each of its iterations."""
    inner: set[UOp] = set()
    for n in toposort(*evaluated(root), into=lambda n: not is_storage(n)):
        if (n.op in LOOPS or n.op is Op.BUFFERIZE) and not is_storage(n):
            inner.update(toposort(n, into=lambda m: not is_storage(m)))
    return frozenset(inner)


# ---- accesses that never meet ----------------------------------------------------------------------------------------


def apart(a: UOp, b: UOp) -> bool:
    """Whether two accesses of one storage never name the same element, in whichever iterations."""
    for i, j in zip(a.src[1:], b.src[1:], strict=True):
        if _differ(i, j):
            return True
    one, two = _elements(a), _elements(b)
    return one is not None and two is not None and not (np.intersect1d(one[1], two[1]) >= 0).any()


def meeting(a: UOp, b: UOp) -> tuple[Mapping[UOp, int], Mapping[UOp, int], int] | None:
    """Iterations of two accesses that name one element, and its number; None where none is found."""
    one, two = _elements(a), _elements(b)
    if one is None or two is None:
        return None
    both, first, second = np.intersect1d(one[1], two[1], return_indices=True)
    if not both.size or both[-1] < 0:
        return None
    return _iteration(one[0], int(first[-1])), _iteration(two[0], int(second[-1])), int(both[-1])


def _differ(i: UOp, j: UOp) -> bool:
    """Whether two indices are never equal, their ranges being any iterations: by interval or by remainder."""
    if i.op is Op.CONST and j.op is Op.CONST:
        return bool(i.arg != j.arg)
    (a, constant), (b, other) = affine(i), affine(j)
    low: float = constant - other
    high = low
    divisor = 0
    for terms, sign in ((a, 1), (b, -1)):
        for atom, factor in terms.items():
            if not atom.ranges and atom in a and atom in b:
                if sign < 0:
                    continue
                factor -= b[atom]  # one value in both
                if not factor:
                    continue
            ends = [m * factor * sign if m else 0 for m in bounds(atom)]
            low, high = low + min(ends), high + max(ends)
            divisor = math.gcd(divisor, factor)
    return low > 0 or high < 0 or (divisor > 1 and (constant - other) % divisor != 0)


def elements(access: UOp) -> Array | None:
    """The number of the element in each iteration, -1 outside; None if data decides or there are many."""
    found = _elements(access)
    return None if found is None else found[1]


def _elements(access: UOp) -> tuple[tuple[UOp, ...], Array] | None:
    """The ranges of an access, and its elements row by row."""
    ranges = by_uid(frozenset().union(*(i.ranges for i in access.src[1:])))
    shape = tuple(r.extent for r in ranges)
    known = not symbolic(access.src[0].shape) and not any(n.op in DATA for n in toposort(*access.src[1:]))
    if math.prod(shape) > ENUMERATED or not known:
        return None
    flat: Array = np.zeros(shape, np.int64)
    inside: Array = np.ones(shape, bool)
    for i, size in zip(access.src[1:], access.src[0].shape, strict=True):
        own = by_uid(i.ranges)
        value = evaluate(i, {}).reshape(tuple(r.extent if r in own else 1 for r in ranges))
        flat = flat * size + value
        inside = inside & (value >= 0) & (value < size)
    return ranges, np.where(inside, flat, -1).reshape(-1)


def _iteration(ranges: Iterable[UOp], number: int) -> dict[UOp, int]:
    found = list(ranges)
    at = np.unravel_index(number, tuple(r.extent for r in found)) if found else ()
    return dict(zip(found, map(int, at), strict=True))
