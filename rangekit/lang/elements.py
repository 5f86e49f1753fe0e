"""A small value of closed axes as its single elements, each an expression of its own.

What a state of shape (2, 2) becomes in a step is four numbers of the four that were there: loops over its axes are
written out, and an index of it is a number then. A state of any shape so is numbers, which is what the compiler knows
how to join. What does not depend on a state is left alone, and read by element.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rangekit.errors import RaceError
from rangekit.ir.binding import substitute
from rangekit.ir.ops import ELEMENTWISE, Op
from rangekit.ir.reducers import reducer
from rangekit.ir.spec import binding
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, const, idx, toposort
from rangekit.lang.movement import reshape, stack
from rangekit.lang.tensor import Tensor, made

Elements = np.ndarray[Any, np.dtype[Any]]
MOST = 64  # numbers in a state: all of them are in registers, and every step is written out


def elements(values: Iterable[UOp], known: Mapping[UOp, Elements], what: str) -> list[Elements]:
    """The elements of values, in arrays of their shapes, given those of the ``known`` nodes they are made of.

    Errors: ``RaceError`` where an element depends on a loop or an index that needs a known node; ``what`` is said.
    """
    values = list(values)
    held = set(known)
    for n in toposort(*values):
        if any(s in held for s in n.src):
            held.add(n)
    work = _Elements(known, held, what)
    return [work.of(v, {}) for v in values]


def shaped(numbers: Iterable[UOp], shape: tuple[int, ...]) -> Elements:
    """The first of the numbers as an array of that shape."""
    row = iter(numbers)
    out = np.empty(shape, object)
    for place in places(shape):
        out[place] = next(row)
    return out


def whole(numbers: Iterable[UOp], shape: tuple[int, ...]) -> Tensor:
    """The value of those elements, row-major."""
    parts = [made(n) for n in numbers]
    return reshape(stack(parts), shape) if shape else parts[0]


def places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The indices of a shape, row-major."""
    return list(itertools.product(*map(range, shape)))


def _counts(n: UOp) -> bool:
    """Whether a value is small and made of ranges only."""
    return (
        n.op is Op.BUFFERIZE
        and math.prod(n.shape) <= MOST
        and all(m.op in ELEMENTWISE or m.op in (Op.RANGE, Op.CONST) for m in toposort(n.src[0]))
    )


_OPENED = ELEMENTWISE | {Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.SHRINK, Op.FLIP, Op.PAD}


class _Elements:
    def __init__(self, known: Mapping[UOp, Elements], held: set[UOp], what: str) -> None:
        self.known, self.held, self.what = known, held, what
        self.memo: dict[tuple[UOp, tuple[tuple[UOp, int], ...]], Elements] = {}

    def of(self, root: UOp, at: Mapping[UOp, int]) -> Elements:
        """The elements where some ranges stand at one iteration."""
        for n in toposort(root, into=self.opened):
            if self.key(n, at) not in self.memo:
                self.memo[self.key(n, at)] = self.node(n, at)
        return self.memo[self.key(root, at)]

    def opened(self, n: UOp) -> bool:
        """Whether a node's elements are made of those of its sources. Equal ones that are read are one node then."""
        if n in self.known or binding(n) is not None:
            return False  # what binds ranges is gone through for each of their iterations
        small = all(math.prod(s.shape) <= MOST for s in n.src)
        picked = n.op is Op.INDEX and all(s.op is Op.CONST for s in n.src[1:])
        return n in self.held or (small and (n.op in _OPENED or picked))

    def key(self, n: UOp, at: Mapping[UOp, int]) -> tuple[UOp, tuple[tuple[UOp, int], ...]]:
        return n, tuple((r, t) for r, t in at.items() if r in n.ranges)

    def source(self, n: UOp, at: Mapping[UOp, int]) -> Elements:
        return self.memo[self.key(n, at)]

    def node(self, n: UOp, at: Mapping[UOp, int]) -> Elements:
        if n in self.known:
            return self.known[n]
        if n not in self.held and not self.opened(n) and not _counts(n):
            return self.read(n, at)
        if n.op in ELEMENTWISE:
            return self.elementwise(n, [self.source(s, at) for s in n.src])
        if n.op is Op.INDEX:
            return self.index(n, [self.source(s, at) for s in n.src])
        if n.op is Op.BUFFERIZE:
            sizes = tuple(r.extent for r in n.src[1:])
            out = np.empty(n.shape, object)
            for place in places(sizes):
                out[place] = self.of(n.src[0], {**at, **dict(zip(n.src[1:], place, strict=True))})[()]
            return out
        if n.op is Op.REDUCE:
            return self.reduce(n, at)[0]
        if n.op is Op.GET and n.src[0].op is Op.REDUCE:
            which: int = n.arg
            return self.reduce(n.src[0], at)[which]
        base = self.source(n.src[0], at)
        if n.op is Op.RESHAPE:
            return base.reshape(n.arg)
        if n.op is Op.PERMUTE:
            return base.transpose(n.arg)
        if n.op is Op.EXPAND:
            return np.broadcast_to(base, n.arg)
        if n.op is Op.SHRINK:
            return base[tuple(slice(start, start + max(size, 0) * step, step) for start, size, step in n.arg)]
        if n.op is Op.FLIP:
            return np.flip(base, n.arg)
        if n.op is Op.PAD:
            out = np.full(n.shape, const(0, n.dtype), object)
            out[tuple(slice(lo, lo + size) for (lo, _), size in zip(n.arg, base.shape, strict=True))] = base
            return out
        raise self.refused(f"{n.op.value} in it needs the state")

    def read(self, n: UOp, at: Mapping[UOp, int]) -> Elements:
        """The elements of what does not depend on a known node."""
        n = substitute(n, {r: idx(t) for r, t in at.items() if r in n.ranges})
        out = np.empty(n.shape, object)
        for place in places(n.shape):
            out[place] = simplify(UOp(Op.INDEX, n.dtype, (n, *map(idx, place))) if place else n)
        return out

    def elementwise(self, n: UOp, sources: list[Elements]) -> Elements:
        out = np.empty(n.shape, object)
        for place in places(n.shape):
            picked: list[UOp] = [s[place if s.shape else ()] for s in sources]
            out[place] = simplify(UOp(n.op, n.dtype, tuple(picked), n.arg))
        return out

    def index(self, n: UOp, sources: list[Elements]) -> Elements:
        base, *at = sources
        shape = next((s.shape for s in at if s.shape), ())
        out = np.empty(shape + base.shape[len(at) :], object)
        for place in places(shape):
            picks: list[UOp] = [s[place if s.shape else ()] for s in at]
            if any(p.op is not Op.CONST for p in picks):
                raise self.refused("an index in it is not a number")
            if any(not 0 <= p.arg < size for p, size in zip(picks, base.shape, strict=False)):
                raise self.refused("it reads past the end of the state")
            picked = base[tuple(p.arg for p in picks)]
            out[place] = picked
        return out

    def reduce(self, n: UOp, at: Mapping[UOp, int]) -> tuple[Elements, ...]:
        bound = binding(n)
        assert bound is not None
        values, ranges = n.src[: bound[1]], n.src[bound[1] :]
        how, dtypes = reducer(n.arg), tuple(v.dtype for v in values)
        if math.prod(r.extent for r in ranges) > MOST:
            raise self.refused(f"a reduction in it is over more than {MOST} elements")
        states = [np.full(n.shape, e, object) for e in how.identity(dtypes)]
        for place in places(tuple(r.extent for r in ranges)):
            here = {**at, **dict(zip(ranges, place, strict=True))}
            given = [np.broadcast_to(self.of(v, here), n.shape) for v in values]
            for element in places(n.shape):
                old, new = (tuple(s[element] for s in side) for side in (states, given))
                for s, v in zip(states, how.combine(old, new), strict=True):
                    s[element] = simplify(v)
        return tuple(states)

    def refused(self, why: str) -> RaceError:
        return RaceError(
            f"{self.what} is not numbers that are made of numbers: {why}",
            help="leave combine= out: the fold then runs in order",
        )
