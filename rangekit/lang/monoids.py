"""Monoids that are often wanted. Each says what a state is, and what to make of one element, and of the last state.

``argmax``, ``argmin``: (value, index), compared by value, NaN best of all, then by the smaller index. An element is
``(x[i], i)``. Of nothing: the worst value and the largest int64.

>>> import rangekit as rk
>>> x, i = rk.asarray([2.0, 5.0, 5.0, 1.0]), rk.Range(4)
>>> [v.item() for v in rk.reduce((x[i], i), i, op=rk.monoids.argmax)]
[5.0, 1]
>>> [v.item() for v in rk.reduce((x[i], i), i, op=rk.monoids.argmin)]
[1.0, 3]

``welford``: (count, mean, sum of squared deviations from it), in one pass and without cancellation. An element is
``(1, x[i], 0)``, one that counts for more ``(n, x[i], 0)``. Of nothing: zeros.

>>> count, mean, squares = rk.reduce((1, x[i], 0), i, op=rk.monoids.welford)
>>> count.item(), mean.item(), (squares / count).item()
(4, 3.25, 3.1875)

Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances", COMPSTAT 1982.

``logsumexp``: (greatest, sum of exp of the distances to it). An element is ``(x[i], 1)``, or ``(x[i], w)`` for
``w * exp(x[i])``; what is wanted of the last state is ``m + log(s)``. Of nothing, or of -inf only, that is -inf.

>>> m, s = rk.reduce((x[i], 1), i, op=rk.monoids.logsumexp)
>>> round((m + rk.log(s)).item(), 4)
5.7266

``topk(k)``: the k greatest values and their indices, (values, indices) of shape (k,), best first; NaN is greatest, of
equal values the smaller index comes first. An element is ``(x[i], i)``. Of fewer than k, the worst value and the
largest int64 fill the rest. Two states are merged by a bitonic network: every pair of the one, best first, with one of
the other, worst first, keeps the better.

>>> values, places = rk.reduce((x[i], i), i, op=rk.monoids.topk(2))
>>> values.numpy(), places.numpy()
(array([5., 5.], dtype=float32), array([1, 2]))

Source: K. E. Batcher, "Sorting networks and their applications", AFIPS 1968.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from rangekit.errors import DtypeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.laws import examine
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, Values, beats, formula, states
from rangekit.ir.uop import UOp, alu, const, idx
from rangekit.lang.elements import MOST, whole
from rangekit.lang.elementwise import TABLE, where
from rangekit.lang.monoid import DTypes, Monoid
from rangekit.lang.tensor import Tensor, stored, stored_dtype

State = tuple[Tensor, ...]


class _Kept(Monoid):
    """A monoid whose laws are looked at only where its ``proof`` is asked for, as tests do: importing it is free."""

    def _begin(self) -> None:
        pass

    def _usable(self, f: Formula) -> Formula:
        return f


def _beside_an_index(name: str, values: Sequence[Tensor]) -> tuple[DType, DType]:
    """The dtype of the first of (value, index), and the one it is compared in."""
    if not values[1].node.dtype.is_int:
        raise DtypeError(
            f"{name} takes (value, index), and {values[1].dtype} is no index",
            help="give the Range, or integers of your own, beside the value: (x[i], i)",
        )
    own = stored_dtype(values[0])
    return own, dt.uint8 if own is dt.bool_ else dt.float32 if own.is_half else own


class _Extreme(_Kept):
    """One of the named reductions over (value, index), for values of any dtype: its identity depends on that."""

    def __init__(self, name: str, worst: float) -> None:
        self._reducer = name
        super().__init__((worst, dt.int64.max), lambda a, b: a, commutative=True)

    def _first(self) -> list[Formula]:
        return [formula(self._reducer, (d, dt.int64)) for d in (dt.int64, dt.float32)]

    def over(self, values: Sequence[Tensor]) -> tuple[str | Formula, DTypes, DTypes]:
        """The named reducer; bools are compared as integers."""
        own, inside = _beside_an_index(self._reducer, values)
        return self._reducer, (inside, dt.int64), (own, dt.int64)


class _Best(_Kept):
    """The k best pairs of (value, index), best first."""

    def __init__(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST // 2:
            raise ShapeError(f"the monoid topk keeps from 1 to {MOST // 2} values, not {k!r}", help="rk.topk keeps any")
        self.k = k
        super().__init__((np.full(k, -math.inf, np.float32), np.full(k, dt.int64.max)), self._joined, commutative=True)

    @property
    def _name(self) -> str:
        return f"top{self.k}"

    @cached_property
    def proof(self) -> str:
        """What is known of the laws: they were tried on states that are sorted."""
        return self._told([(f, examine(f, _best_first)) for f in self._first()]) + ", each sorted"

    def _first(self) -> list[Formula]:
        return [self._formula(d) for d in (dt.float32, dt.int64)]

    def _formula(self, d: DType) -> Formula:
        a, b = states((d,) * self.k + (dt.int64,) * self.k)
        neutral = [const(d.min, d)] * self.k + [const(dt.int64.max, dt.int64)] * self.k
        return Formula(self._name, tuple(neutral), self._merged(a, b), commutative=True)

    def over(self, values: Sequence[Tensor]) -> tuple[str | Formula, DTypes, DTypes]:
        """The formula for values of their dtype; bools are compared as integers."""
        own, inside = _beside_an_index("topk", values)
        f = self._formula(inside)
        return f, f.dtypes, (own,) * self.k + (dt.int64,) * self.k

    def elements(self, values: Sequence[Tensor]) -> list[Tensor]:
        """States as they are; a value and its index as the best of a state that holds no more."""
        if any(v.shape for v in values):
            return super().elements(values)
        out = []
        for v, e in zip(values, self._formula(stored_dtype(values[0])).neutral[:: self.k], strict=True):
            rest = [e] * (self.k - 1)
            out.append(whole([stored(v), *rest], (self.k,)))
        return out

    def _joined(self, a: State, b: State) -> State:
        if any(v.shape == () for v in b):  # a step may give an element
            b = tuple(self.elements(b))
        sides = [
            [UOp(Op.INDEX, v.node.dtype, (v.node, idx(n))) for v in side for n in range(self.k)] for side in (a, b)
        ]
        numbers = self._merged(*map(tuple, sides))
        return whole(numbers[: self.k], (self.k,)), whole(numbers[self.k :], (self.k,))

    def _merged(self, a: Values, b: Values) -> Values:
        """The numbers of both states merged."""
        k, size = self.k, 1 << (self.k - 1).bit_length()
        left, right = ([*zip(v[:k], v[k:], strict=True), *[None] * (size - k)] for v in (a, b))
        kept = [_ordered(x, y)[0] for x, y in zip(left, reversed(right), strict=True)]
        step = size // 2
        while step:
            for n in range(size):
                if not n & step:
                    kept[n], kept[n + step] = _ordered(kept[n], kept[n + step])
            step //= 2
        pairs = [p for p in kept[:k] if p is not None]
        return tuple(p[0] for p in pairs) + tuple(p[1] for p in pairs)


Pair = tuple[UOp, UOp] | None  # None: worse than any


def _ordered(a: Pair, b: Pair) -> tuple[Pair, Pair]:
    """The better one first."""
    if a is None or b is None:
        return (b, a) if a is None else (a, b)
    first = beats(a, b)

    def chosen(x: tuple[UOp, UOp], y: tuple[UOp, UOp]) -> tuple[UOp, UOp]:
        return alu(Op.WHERE, first, x[0], y[0]), alu(Op.WHERE, first, x[1], y[1])

    return chosen(a, b), chosen(b, a)


def _best_first(state: tuple[np.ndarray[Any, Any], ...]) -> tuple[np.ndarray[Any, Any], ...]:
    """Numbers as those of a state of topk: each row sorted."""
    k = len(state) // 2
    values, places = np.stack(state[:k]), np.stack(state[k:])
    nan = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    order = np.lexsort((places, np.where(nan, 0, -values), ~nan), axis=0)
    return (*np.take_along_axis(values, order, 0), *np.take_along_axis(places, order, 0))


def topk(k: int) -> Monoid:
    """The monoid that keeps the ``k`` greatest values and their indices; k is at most 32."""
    return _Best(k)


def _welford(a: State, b: State) -> State:
    count, gap = a[0] + b[0], b[1] - a[1]
    share = gap * b[0] / where(count == 0, 1, count)
    mean, squares = a[1] + share, a[2] + b[2] + share * gap * a[0]
    first, second = a[0] == 0, b[0] == 0  # nothing adds nothing, to an infinite mean either
    return (
        count,
        where(second, a[1], where(first, b[1], mean)),
        where(second, a[2], where(first, b[2], squares)),
    )


def _logsumexp(a: State, b: State) -> State:
    top = TABLE["maximum"](a[0], b[0])
    parts = [where(m == top, s, s * TABLE["exp"](m - top)) for m, s in (a, b)]  # of equal infinities there is no gap
    return top, parts[0] + parts[1]


argmax = _Extreme("argmax", -math.inf)
argmin = _Extreme("argmin", math.inf)
welford = _Kept((0, 0.0, 0.0), _welford, commutative=True)
logsumexp = _Kept((-math.inf, 0.0), _logsumexp, commutative=True)
