"""Races: two iterations of a store never write one element, by bare ranges, by size of factors, tried, or by Z3."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rangekit.errors import RaceError
from rangekit.ir.affine import affine
from rangekit.ir.dim import most
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.spec import bound_ranges
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, by_uid, idx
from rangekit.lower import prove
from rangekit.lower.proof import all_of
from rangekit.lower.tried import ENUMERATED, FEW, depends_on_data, iteration, over, worth_asking
from rangekit.source import Position

_BY_RANGES = "write each element once: reduce first (rk.sum, rk.max), or index with every range"
_BY_DATA = "combine what meets, rk.scatter(x, index, v), or promise that nothing does: op=None, unique=True"


def one_to_one(store: UOp, positions: Mapping[UOp, Position]) -> None:
    """Raise ``RaceError`` unless no two iterations of a STORE write one element."""
    if store.arg is not None:
        return  # what repeats is combined, or the program promises that nothing does
    place, ranges = store.src[0], [r for r in bound_ranges(store) if r.extent > 1]
    bare = [i for i in place.src[1:] if i.op is Op.RANGE]
    if set(ranges) <= set(bare) or any(r.extent == 0 for r in bound_ranges(store)):
        return
    pair: str | None = None
    flat: UOp = idx(0)
    for i, size in zip(place.src[1:], place.src[0].shape, strict=True):
        flat = alu(Op.ADD, alu(Op.MUL, flat, idx(most(size))), i)
    missing = [r for r in ranges if r not in place.ranges]
    if missing:
        pair = f"{missing[0].arg.name} = 0 and {missing[0].arg.name} = 1 write the same element"
    elif _mixed_radix(simplify(flat), ranges):
        return
    elif not depends_on_data(flat, None) and math.prod(r.extent for r in ranges) <= FEW:
        pair = _met(flat, ranges)
    elif worth_asking(flat, None):
        pair = _asked_apart(place, flat, ranges)
    else:
        pair = "it cannot be shown that no two iterations write one element"
    if pair is None:
        return
    raise RaceError(
        f"{expression(place)} = ... : {pair}",
        help=_BY_DATA if depends_on_data(flat, None) and not missing else _BY_RANGES,
        at=positions.get(place) or positions.get(store),
    )


def _met(flat: UOp, ranges: list[UOp]) -> str | None:
    """The first two iterations that have one index, all of them tried."""
    order = by_uid(ranges)
    values = over(order, flat).ravel()
    first, which = np.unique(values, return_index=True, return_inverse=True)[1:]
    if len(first) == values.size:
        return None
    later = int(np.flatnonzero(first[which] != np.arange(values.size))[0])
    shape = [r.extent for r in order]
    twice = [np.unravel_index(n, shape) for n in (int(first[which[later]]), later)]
    return _pair(*(dict(zip(order, map(int, t), strict=True)) for t in twice))


def _asked_apart(place: UOp, flat: UOp, ranges: list[UOp]) -> str | None:
    """Why two iterations may write one element, None if they never do."""
    gates, indices = [], []
    for i in place.src[1:]:
        while i.op is Op.GUARD or (i.op is Op.WHERE and i.src[2].op is Op.INVALID):
            gates += [i.src[0]] if i.op is Op.WHERE else []
            i = i.src[1] if i.op is Op.WHERE else i.src[0]
        indices.append(i)
    answer, second = prove.one_to_one(indices, all_of(frozenset(gates)) if gates else None, ranges)
    if answer.holds:
        return None
    if answer.at:
        sizes = {d: v for d, v in answer.at.items() if d.op is Op.DIM}
        return _pair({**sizes, **{r: answer.at.get(r, 0) for r in ranges}}, {r: second[r] for r in ranges})
    if answer.holds is None and not depends_on_data(flat, None) \
            and math.prod(r.extent for r in ranges) <= ENUMERATED:  # fmt: skip
        return _met(flat, ranges)
    return "it cannot be shown that no two iterations write one element"


def _pair(one: Mapping[UOp, int], two: Mapping[UOp, int]) -> str:
    return f"{iteration(one.items())} and {iteration(two.items())} write the same element"


def _mixed_radix(flat: UOp, ranges: list[UOp]) -> bool:
    """An affine map is one-to-one if each coefficient exceeds what all smaller ones can add up to."""
    terms, _ = affine(flat)
    if set(terms) != set(ranges):
        return False
    reach = 0
    for r, factor in sorted(terms.items(), key=lambda kv: abs(kv[1])):
        if abs(factor) <= reach:
            return False
        reach += abs(factor) * (r.extent - 1)
    return True
