"""States of folds: each means something inside its fold only, and a scan read in order is the loop that reads it."""

from __future__ import annotations

from collections.abc import Mapping

from rangekit.errors import RangeError
from rangekit.ir.binding import substitute
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, toposort
from rangekit.source import Position


def enclosed(sink: UOp, positions: Mapping[UOp, Position]) -> None:
    """``RangeError`` naming a state that is used outside the fold it belongs to."""
    order = toposort(sink)
    if not any(n.op is Op.STATE for n in order):
        return
    free: dict[UOp, frozenset[UOp]] = {}
    for n in order:
        inside = frozenset[UOp]().union(*(free[s] for s in n.src))
        if n.op is Op.STATE:
            inside |= {n}
        elif n.op in (Op.FOLD, Op.SCAN):
            count = n.arg[1]
            outer = frozenset[UOp]().union(*(free[s] for s in n.src[:count]))
            inside = outer | {m for m in inside if m.arg[0] != n.arg[0]}
        free[n] = inside
    for state in sorted(free[sink], key=order.index):
        name, number = state.arg[3], state.arg[0]
        within = set(toposort(*(n for n in order if n.op in (Op.FOLD, Op.SCAN) and n.arg[0] == number)))
        users = (n for n in order if n is not state and n not in within and state in free[n] and n in positions)
        raise RangeError(
            f"the state {name} is used outside its fold",
            help=f"what the fold gives is the last {name}; rk.scan gives every one of them",
            at=positions.get(next(users, state)),
        )


def aligned(kernel: UOp) -> UOp:
    """The kernel with the range of each scan that of the loop which reads it, so that a loop runs what is there.

    What a scan gives may depend on that loop: only that of the same iteration is read.
    """
    memo: dict[UOp, UOp] = {}
    for n in toposort(kernel):
        src = tuple(memo[s] for s in n.src)
        if n.op is Op.INDEX and src[0].op is Op.SCAN and src[0].src[-1] is not src[1]:
            scan, r, count = src[0], src[1], src[0].arg[1]
            assert not any(r in s.ranges for s in scan.src[: 2 * count]), (
                "a scan with states of its own in each iteration"
            )
            inside = substitute(scan.src[count : 2 * count + 1], {scan.src[-1]: r})
            src = (scan.replace(src=(*scan.src[:count], *inside, r)), *src[1:])
        memo[n] = n if src == n.src else n.replace(src=src)
    return memo[kernel]
