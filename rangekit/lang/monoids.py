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
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rangekit.errors import DtypeError
from rangekit.ir import dtype as dt
from rangekit.ir.reducers import Formula, formula
from rangekit.lang.elementwise import TABLE, where
from rangekit.lang.monoid import DTypes, Monoid
from rangekit.lang.tensor import Tensor, stored_dtype

State = tuple[Tensor, ...]


class _Kept(Monoid):
    """A monoid whose laws are looked at only where its ``proof`` is asked for, as tests do: importing it is free."""

    def _begin(self) -> None:
        pass

    def _usable(self, f: Formula) -> Formula:
        return f


class _Extreme(_Kept):
    """One of the named reductions over (value, index), for values of any dtype: its identity depends on that."""

    def __init__(self, name: str, worst: float) -> None:
        self._reducer = name
        super().__init__((worst, dt.int64.max), lambda a, b: a, commutative=True)

    def _first(self) -> list[Formula]:
        return [formula(self._reducer, (d, dt.int64)) for d in (dt.int64, dt.float32)]

    def over(self, values: Sequence[Tensor]) -> tuple[str | Formula, DTypes, DTypes]:
        """The named reducer; bools are compared as integers."""
        if not values[1].node.dtype.is_int:
            raise DtypeError(
                f"{self._reducer} takes (value, index), and {values[1].dtype} is no index",
                help="give the Range, or integers of your own, beside the value: (x[i], i)",
            )
        own = stored_dtype(values[0])
        inside = dt.uint8 if own is dt.bool_ else dt.float32 if own.is_half else own
        return self._reducer, (inside, dt.int64), (own, dt.int64)


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
