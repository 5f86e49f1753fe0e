"""Whether the states of a fold may be joined: ``step(combine(a, b), x) == combine(a, step(b, x))``, tried on values.

The states tried are ones that a fold reaches: some steps from the identity, over random values of what a step reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rangekit.errors import DtypeError, RaceError, RangekitError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import ELEMENTWISE, Op
from rangekit.ir.reducers import Formula, reducer, states
from rangekit.ir.scalar import apply
from rangekit.ir.uop import UOp, toposort
from rangekit.lang.monoid import Monoid
from rangekit.lang.tensor import Tensor

TRIES = 512
Array = np.ndarray[Any, np.dtype[Any]]
State = tuple[Array, ...]


def joined(
    combine: Any, old: list[UOp], news: list[UOp], inits: list[UOp], shapes: Sequence[tuple[int, ...]]
) -> str | Formula | None:
    """The reducer that joins the states ``old``, of which ``news`` are the next; None if it only holds in order.

    ``inits`` are the first states, ``shapes`` those of the values of a state, of which ``old`` are the numbers.

    Errors: ``DtypeError`` where it joins other values, ``RaceError`` where the step is not one that it joins.
    """
    if not isinstance(combine, Monoid):
        raise RangekitError(
            f"combine= is a Monoid, not {type(combine).__name__}",
            help="rk.Monoid(identity, combine): parts of the loop start at its identity",
        )
    if combine.arity != len(shapes):
        raise DtypeError(f"combine= joins {combine.arity} values, the state has {len(shapes)}")
    if combine.shapes != tuple(shapes):
        raise ShapeError(f"combine= joins values of shapes {combine.shapes}, the state has {tuple(shapes)}")
    first = [sum(math.prod(s) for s in shapes[:k]) for k in range(len(shapes))]
    how, dtypes, _ = combine.over([Tensor(old[k]) for k in first])
    if dtypes != tuple(v.dtype for v in old):
        listed = ", ".join(str(v.dtype) for v in old)
        raise DtypeError(
            f"combine= joins ({', '.join(map(str, dtypes))}), the state is ({listed})",
            help="start the fold with values of the dtypes that combine= gives",
        )
    _Test(how, old, news, inits).run()
    return how if reducer(how).associative else None


class _Test:
    def __init__(self, how: str | Formula, old: list[UOp], news: list[UOp], inits: list[UOp]) -> None:
        self.how, self.old, self.news, self.inits = how, old, news, inits
        self.order = toposort(*news)
        held = set(old)
        for n in self.order:
            if any(s in held for s in n.src):
                held.add(n)
                if n.op not in ELEMENTWISE:
                    raise RaceError(
                        "the law of combine= cannot be tried on this step: a loop or an index in it needs the state",
                        help="leave combine= out: the fold then runs in order",
                    )
        self.order = toposort(*news, into=lambda n: n.op in ELEMENTWISE)
        self.leaves = [n for n in self.order if n not in held and n.op not in ELEMENTWISE]
        self.rng = np.random.default_rng(0)

    def run(self) -> None:
        """Raise where joining and going on differ. The first part begins at the program's own state."""
        neutral = list(reducer(self.how).identity(tuple(v.dtype for v in self.old)))
        own = [n if n.op is Op.CONST else None for n in self.inits]
        for first in (neutral, own) if own != neutral else (neutral,):
            start = [self.values(v) if n is None else _filled(n) for n, v in zip(first, self.old, strict=True)]
            self.compared(self.reached(start, 3), self.reached(list(map(_filled, neutral)), 2))

    def compared(self, a: State, b: State) -> None:
        """Raise where joining ``a`` and ``b`` and then going on is not going on and then joining."""
        known = self.drawn()
        left, right = self.step(self.join(a, b), known), self.join(a, self.step(b, known))
        bad = np.zeros(TRIES, bool)
        for x, y in zip(left, right, strict=True):
            bad |= ~_close(x, y)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            shown = [tuple(v[row].item() for v in s) for s in (a, b, left, right)]
            raise RaceError(
                f"combine= does not join this step: for a = {shown[0]} and b = {shown[1]}, step(combine(a, b)) is "
                f"{shown[2]}, combine(a, step(b)) is {shown[3]}",
                help="leave combine= out: the fold then runs in order",
            )

    def reached(self, start: list[Array], steps: int) -> State:
        """States after as many steps, fewer in some rows."""
        state, stops = tuple(start), self.rng.integers(0, steps + 1, TRIES)
        for n in range(steps):
            after = self.step(state, self.drawn())
            state = tuple(np.where(stops > n, new, old) for new, old in zip(after, state, strict=True))
        return state

    def drawn(self) -> dict[UOp, Array]:
        """Values for what the step reads."""
        return {n: _filled(n) if n.op is Op.CONST else self.values(n) for n in self.leaves}

    def values(self, n: UOp) -> Array:
        if n.op is Op.RANGE:
            return self.rng.integers(0, max(1, n.extent), TRIES)
        if n.dtype is dt.bool_:
            return self.rng.random(TRIES) < 0.5
        if n.dtype.is_float:
            return self.rng.standard_normal(TRIES).astype(n.dtype.numpy)
        return self.rng.integers(0 if n.dtype.kind == "u" else -4, 5, TRIES).astype(_numpy(n.dtype))

    def step(self, state: State, known: dict[UOp, Array]) -> State:
        memo: dict[UOp, Array] = {**known, **dict(zip(self.old, state, strict=True))}
        for n in self.order:
            if n not in memo:
                memo[n] = apply(n.op, n.dtype, [memo[s] for s in n.src], src_dtypes=[s.dtype for s in n.src])
        return tuple(np.broadcast_to(memo[n], (TRIES,)) for n in self.news)

    def join(self, a: State, b: State) -> State:
        dtypes = tuple(v.dtype for v in self.old)
        left, right = states(dtypes)
        roots = reducer(self.how).combine(left, right)
        memo: dict[UOp, Array] = dict(zip((*left, *right), (*a, *b), strict=True))
        for n in toposort(*roots):
            if n.op is Op.CONST:
                memo[n] = np.full(TRIES, n.arg, _numpy(n.dtype))
            elif n not in memo:
                memo[n] = apply(n.op, n.dtype, [memo[s] for s in n.src], src_dtypes=[s.dtype for s in n.src])
        return tuple(np.broadcast_to(memo[n], (TRIES,)) for n in roots)


def _filled(n: UOp) -> Array:
    return np.full(TRIES, n.arg, _numpy(n.dtype))


def _numpy(d: DType) -> Any:
    return np.int64 if d is dt.index else d.numpy


def _close(x: Array, y: Array) -> Array:
    if x.dtype.kind in "iub":
        return np.asarray(x == y)
    wide = x.astype(np.float64), y.astype(np.float64)
    with np.errstate(all="ignore"):
        near = np.abs(wide[0] - wide[1]) <= 1e-3 * np.maximum(1.0, np.abs(wide[0]))
    return np.asarray(near | (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1])))
