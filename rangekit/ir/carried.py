"""Intervals of what loops carry: the states of folds and scans, and what is made of them.

Two ways, each sound by itself. A state that every iteration adds to is its first value and at most as many additions
as there are iterations. Otherwise an interval that holds the first states, and the next ones wherever the states are in
theirs, holds them all: it is grown a few times, and what still grows may be anything.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from rangekit.ir.bounds import Span, added, hull, interval, meet, scaled, whole
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, toposort

ROUNDS = 3  # of growing
_KNOWN: WeakKeyDictionary[UOp, tuple[Span, ...]] = WeakKeyDictionary()


def carried(node: UOp) -> Span:
    """The interval of a fold's first state, of GET of one, or of a scan read at an iteration."""
    if node.op is Op.INDEX:
        scan = node.src[0]
        return interval(scan.src[-2], _facts(scan, _states(scan)))
    fold, which = (node.src[0], node.arg) if node.op is Op.GET else (node, 0)
    return _states(fold)[which]


def _facts(fold: UOp, spans: tuple[Span, ...]) -> dict[UOp, Span]:
    """What is known of the states inside the loop."""
    inside = (n for n in toposort(*fold.src) if n.op is Op.STATE and n.arg[0] == fold.arg[0])
    return {n: spans[n.arg[1]] for n in inside if _is_number(n)}


def _states(fold: UOp) -> tuple[Span, ...]:
    """An interval for each state, as it comes in and as it goes out."""
    found = _KNOWN.get(fold)
    if found is None:
        found = _KNOWN[fold] = _found(fold)
    return found


def _found(fold: UOp) -> tuple[Span, ...]:
    count, steps = fold.arg[1], fold.src[-1].extent
    inits, news = fold.src[:count], fold.src[count : 2 * count]
    states = {n.arg[1]: n for n in toposort(*news) if n.op is Op.STATE and n.arg[0] == fold.arg[0]}
    spans = [interval(n, {}) if _is_number(n) else (None, None) for n in inits]
    grown: set[int] = set()
    for k, (init, new) in enumerate(zip(inits, news, strict=True)):
        step = _step(new, states[k]) if k in states and _is_number(init) else None
        if step is not None:
            sums = added(spans[k], scaled(hull((0, 0), step), steps))
            if _fits(sums, init):
                spans[k] = sums
                grown.add(k)
    for rounds in range(2 * ROUNDS):
        facts = _facts(fold, tuple(spans))
        still = False
        for k, (init, new) in enumerate(zip(inits, news, strict=True)):
            if k in grown or not _is_number(init):
                continue
            wider = hull(spans[k], interval(new, facts))
            if wider != spans[k]:
                spans[k] = wider if rounds < ROUNDS else whole(init.dtype)
                still = True
        if not still:
            return tuple(spans)
    return tuple(s if k in grown else whole(n.dtype) for k, (s, n) in enumerate(zip(spans, inits, strict=True)))


def _step(new: UOp, state: UOp) -> Span | None:
    """What an iteration adds to a state, None if it does anything else."""
    if new is state:
        return 0, 0
    if new.op is Op.WHERE:
        a, b = (_step(s, state) for s in new.src[1:])
        return None if a is None or b is None else hull(a, b)
    if new.op in (Op.ADD, Op.SUB):
        x, y = new.src
        if new.op is Op.ADD and state in toposort(y) and state not in toposort(x):
            x, y = y, x
        before = _step(x, state)
        if before is None or state in toposort(y):
            return None
        return added(before, scaled(interval(y, {}), 1 if new.op is Op.ADD else -1))
    return None


def _is_number(n: UOp) -> bool:
    return n.shape == () and n.dtype.kind in "biux"


def _fits(span: Span, n: UOp) -> bool:
    return span[0] is not None and span[1] is not None and meet(whole(n.dtype), span) == span
