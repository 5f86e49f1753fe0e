"""What a graph means, at any stage before it is linear: one NumPy array a node, one obvious line an op.

A node's value has its open ranges as leading axes, in ``by_uid`` order, and its closed shape behind them. Nothing is
lowered, shared or reordered, so this is the oracle of every pass. Slow and memory-hungry on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rangekit.ir.ops import ELEMENTWISE, Op
from rangekit.ir.reducers import reducer, states
from rangekit.ir.scalar import apply
from rangekit.ir.spec import binding, bound_ranges, combines
from rangekit.ir.uop import UOp, by_uid, toposort

Array = np.ndarray[Any, np.dtype[Any]]
Axes = tuple[UOp, ...]


def evaluate(root: UOp, env: Mapping[UOp, Array], *, strict: bool = False) -> Array:
    """The value of a node: shape (open ranges in ``by_uid`` order, then its closed axes).

    ``env`` gives the contents of PARAM and BUFFER nodes, and what a DIM is. A load outside its array is 0 (its result
    is then thrown away by a WHERE, or the access is guarded); with ``strict`` it is an ``IndexError``.
    """
    return _Evaluator(env, strict).value(root)


class _Evaluator:
    def __init__(self, env: Mapping[UOp, Array], strict: bool, at: Mapping[UOp, int] | None = None) -> None:
        self.env, self.strict = env, strict
        self.at = at or {}  # ranges that stand at one iteration, as axes of size 1
        self.memo: dict[UOp, Array] = {}

    def value(self, root: UOp) -> Array:
        """Every node below the root once, sources first."""
        for n in toposort(root, into=lambda n: n not in self.memo and n.op not in (Op.FOLD, Op.SCAN)):
            if n not in self.memo:
                self.memo[n] = np.asarray(self.node(n))
        return self.memo[root]

    def extent(self, r: UOp) -> int:
        """How many iterations of a range there are here."""
        if r in self.at:
            return 1
        return r.extent if len(r.src) == 1 else max(0, int(self.value(r.size)))

    def over(self, n: UOp, axes: Axes) -> Array:
        """The value with exactly these ranges as leading axes (those it lacks have size 1)."""
        value, own = self.value(n) if n not in self.memo else self.memo[n], by_uid(n.ranges)
        order = [own.index(r) for r in axes if r in own]
        rest = range(len(own), value.ndim)
        value = value.transpose([*order, *rest])
        shape = tuple(self.extent(r) if r in own else 1 for r in axes)
        return value.reshape(shape + value.shape[len(own) :])

    def aligned(self, n: UOp, s: UOp) -> Array:
        """A source with the ranges of ``n`` in front and its closed axes broadcast from the right."""
        value = self.over(s, by_uid(n.ranges))
        missing = n.ndim - s.ndim
        lead = len(n.ranges)
        return value.reshape(value.shape[:lead] + (1,) * missing + value.shape[lead:])

    def node(self, n: UOp) -> Array:
        """The value of one node whose sources are known."""
        op, lead = n.op, len(n.ranges)
        bound = binding(n)
        again = set(n.src[bound[1] :]) & self.at.keys() if bound else set()
        if again:  # it runs over the range anew
            work = _Evaluator(self.env, self.strict, {r: t for r, t in self.at.items() if r not in again})
            work.memo.update((m, v) for m, v in self.memo.items() if not m.ranges & again)
            return work.value(n)
        if op is Op.CONST:
            return np.asarray(n.arg, n.dtype.numpy)
        if op is Op.RANGE:
            return np.arange(self.extent(n), dtype=np.int64) if n not in self.at else np.array([self.at[n]])
        if op is Op.INVALID:
            return np.asarray(np.iinfo(np.int64).min)
        if op in (Op.PARAM, Op.BUFFER, Op.DIM):
            return self.env[n]
        if op is Op.INDEX:
            return self.index(n)
        if op is Op.GUARD:
            return self.memo[n.src[0]] if len(n.src) == 1 else self.guarded(n)
        if op is Op.CLAIM:
            return np.asarray(self.aligned(n, n.src[0]) == self.aligned(n, n.src[1]))
        if op is Op.WHERE and n.src[2].op is Op.INVALID:
            return np.where(self.aligned(n, n.src[0]), self.aligned(n, n.src[1]), np.iinfo(np.int64).min)
        if op in ELEMENTWISE:
            args = [self.aligned(n, s) for s in n.src]
            full = tuple(self.extent(r) for r in by_uid(n.ranges)) + n.shape
            return np.broadcast_to(apply(op, n.dtype, args, src_dtypes=[s.dtype for s in n.src]), full)
        if op is Op.BUFFERIZE:
            axes = (*by_uid(n.ranges), *n.src[1:])
            value = self.over(n.src[0], axes)
            return np.broadcast_to(value, tuple(self.extent(r) for r in axes) + n.src[0].shape)
        if op is Op.REDUCE:
            return self.reduce(n)[0]
        if op is Op.GET:
            which: int = n.arg
            return (self.fold(n.src[0]) if n.src[0].op is Op.FOLD else self.reduce(n.src[0]))[which]
        if op is Op.FOLD:
            return self.fold(n)[0]
        if op is Op.SCAN:
            return self.scan(n)
        if op is Op.ASSIGN:
            return self.assign(n)
        value = self.memo[n.src[0]] if n.src else np.zeros(())
        shape = value.shape[:lead]
        if op is Op.RESHAPE:
            return value.reshape(shape + n.arg)
        if op is Op.PERMUTE:
            return value.transpose([*range(lead), *(lead + a for a in n.arg)])
        if op is Op.EXPAND:
            return np.broadcast_to(value, shape + n.arg)
        if op is Op.PAD:
            return np.pad(value, [(0, 0)] * lead + [tuple(w) for w in n.arg])
        if op is Op.SHRINK:
            cuts = (slice(start, start + max(size, 0) * step, step) for start, size, step in n.arg)
            return value[(slice(None),) * lead + tuple(cuts)]
        if op is Op.FLIP:
            return np.flip(value, tuple(lead + a for a in n.arg))
        return np.zeros(())  # STORE, PRINT, KERNEL, SINK have no value

    def guarded(self, n: UOp) -> Array:
        """A value where its index is inside the axis that it was read along, 0 elsewhere."""
        value, at = self.aligned(n, n.src[0]), self.aligned(n, n.src[1])
        return np.where((at >= 0) & (at < n.arg[2]), value, np.zeros((), n.dtype.numpy))

    def index(self, n: UOp) -> Array:
        """Fancy indexing: the index arrays broadcast over n's ranges and the index tensors' axes."""
        base, at = n.src[0], n.src[1:]
        axes = by_uid(n.ranges)
        gathered = next((s.shape for s in at if s.shape), ())
        full = tuple(self.extent(r) for r in axes) + gathered
        own = [np.arange(self.extent(r)).reshape([-1 if a is r else 1 for a in axes] + [1] * len(gathered))
               for r in by_uid(base.ranges)]  # fmt: skip
        picks = []
        for s in at:
            value = self.over(s, axes)
            picks.append(value.reshape(value.shape[: len(axes)] + (s.shape or (1,) * len(gathered))))
        inside = np.ones((), bool)
        for pick, size in zip(picks, base.shape, strict=False):
            inside = inside & (pick >= 0) & (pick < size)
        if self.strict and not np.all(inside | np.any([p == np.iinfo(np.int64).min for p in picks])):
            raise IndexError(f"{n} is out of bounds")
        value = self.memo[base]
        tail = base.shape[len(at) :]
        if 0 in base.shape[: len(at)] or 0 in full:
            return np.zeros(full + tail, n.dtype.numpy)
        safe = [np.where(inside, p, 0) for p in picks]
        taken = value[(*own, *safe)] if (own or safe) else value
        taken = np.broadcast_to(taken, full + tail)
        mask = np.broadcast_to(inside, full).reshape(full + (1,) * len(tail))
        return np.where(mask, taken, np.zeros((), n.dtype.numpy))

    def reduce(self, n: UOp) -> tuple[Array, ...]:
        """Combine along the reduced ranges one iteration after another, from the identity."""
        bound = binding(n)
        assert bound is not None
        values, ranges = n.src[: bound[1]], n.src[bound[1] :]
        free = by_uid(n.ranges)
        count = math.prod(self.extent(r) for r in ranges)
        shape = tuple(self.extent(r) for r in free) + n.shape
        lines = []
        for v in values:
            value = np.broadcast_to(self.over(v, (*ranges, *free)), tuple(self.extent(r) for r in ranges) + shape)
            lines.append(value.reshape((count, *shape)))
        dtypes = tuple(v.dtype for v in values)
        how = reducer(n.arg)
        state = tuple(np.full(shape, e.arg, e.dtype.numpy) for e in how.identity(dtypes))
        a, b = states(dtypes)
        combine = how.combine(a, b)
        order = toposort(*combine)
        for step in range(count):
            known = dict(zip((*a, *b), (*state, *(line[step] for line in lines)), strict=True))
            for m in order:
                if m.op is Op.CONST:
                    known[m] = np.asarray(m.arg, m.dtype.numpy)
                elif m.op is not Op.VAR:
                    args = [known[s] for s in m.src]
                    known[m] = apply(m.op, m.dtype, args, src_dtypes=[s.dtype for s in m.src])
            state = tuple(np.broadcast_to(known[c], shape) for c in combine)
        return state

    def steps(self, n: UOp, wanted: tuple[UOp, ...]) -> tuple[list[Array], list[list[Array]]]:
        """The states after a FOLD or SCAN, and ``wanted`` at each iteration, over the ranges open around it."""
        count, r = n.arg[1], n.src[-1]
        free = by_uid(n.ranges.union(*(s.ranges for s in n.src[:count])))
        shape = tuple(self.extent(a) for a in free)

        def whole(work: _Evaluator, s: UOp) -> Array:
            work.value(s)
            value = work.over(s, (*free, r) if r in s.ranges else free)
            value = value.reshape(value.shape[: len(free)] + s.shape)
            return np.broadcast_to(value, shape + s.shape).copy()

        state = [whole(self, s) for s in n.src[:count]]
        uses = [m for m in toposort(*n.src[count:-1]) if m.op is Op.STATE and m.arg[0] == n.arg[0]]
        known = {m: v for m, v in self.memo.items() if r not in m.ranges}
        seen = []
        for t in range(self.extent(r)):
            work = _Evaluator(self.env, self.strict, {**self.at, r: t})
            work.memo.update(known)
            for m in uses:
                own = by_uid(m.ranges)
                picked = state[m.arg[1]]  # the same along what only the scan's value depends on
                picked = picked[tuple(slice(None) if a in own else 0 for a in free)]
                order = [a for a in free if a in own]
                axes = [order.index(a) for a in own if a is not r]
                picked = picked.transpose([*axes, *range(len(order), picked.ndim)])
                work.memo[m] = np.expand_dims(picked, own.index(r))
            seen.append([whole(work, w) for w in wanted])
            state = [whole(work, s) for s in n.src[count : 2 * count]]
        return state, seen

    def fold(self, n: UOp) -> list[Array]:
        """One step after another, from the first states."""
        return self.steps(n, ())[0]

    def scan(self, n: UOp) -> Array:
        """The value of each step, in order, as the first closed axis."""
        free = by_uid(n.ranges)
        shape = tuple(self.extent(a) for a in free)
        lines = [values[0] for values in self.steps(n, (n.src[-2],))[1]]
        if not lines:
            return np.zeros(shape + n.shape, n.dtype.numpy)
        return np.stack(lines, axis=len(shape))

    def assign(self, n: UOp) -> Array:
        """The base with the places written, one after another, those that are there (0 is none)."""
        base, place, value, ranges = *n.src[:3], bound_ranges(n)
        flat = np.arange(1, math.prod(base.shape) + 1).reshape(base.shape)
        spots = _Evaluator(self.env, self.strict, self.at)
        spots.memo = {**self.memo, base: flat}
        view = place
        while view is not base:  # only what leads to the base sees numbers of elements there
            del spots.memo[view]
            view = view.src[0]
        where = spots.over(place, ranges)
        out = np.array(self.memo[base])
        full = tuple(self.extent(r) for r in ranges) + value.shape
        elements, how = out.reshape(-1), combines(n)
        spread = (np.broadcast_to(v, full).reshape(-1) for v in (where, self.over(value, ranges)))
        for at, new in zip(*spread, strict=True):
            if at:
                elements[int(at) - 1] = new if how is None else self.combined(how, n, elements[int(at) - 1], new)
        return out

    def combined(self, how: str, n: UOp, old: Any, new: Any) -> Any:
        """One element joined to what is there."""
        a, b = (UOp(Op.VAR, n.dtype, (), (name, 0, name)) for name in "ab")
        (root,) = reducer(how).combine((a,), (b,))
        return apply(root.op, n.dtype, [np.asarray(old), np.asarray(new)], src_dtypes=[n.dtype, n.dtype])
