"""Rename bound ranges so that equal reductions are equal nodes and siblings share a range.

Each reduction's range becomes the first range of its size that is not open in its body: names the user wrote before
hidden ones, the loops of the results before others. NumPy-style code and range-written code then give one graph.
Outer before inner: a rename that captures gives the inner reduction a new range, which its own turn makes canonical.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir.binding import substitute
from rangekit.ir.ops import LOOPS, Op
from rangekit.ir.spec import binding
from rangekit.ir.uop import UOp, toposort


def canon(sink: UOp, carry: Callable[[UOp, UOp], None]) -> UOp:
    """The graph with canonical bound ranges."""
    candidates: dict[UOp, list[UOp]] = {}
    found = (n for n in toposort(sink) if n.op is Op.RANGE)
    results = {r for s in sink.src if s.op is Op.BUFFERIZE for r in s.src[1:]}
    for r in sorted(found, key=lambda r: (r.arg.name is None, r not in results, r.arg.uid)):
        candidates.setdefault(r.size, []).append(r)
    done: dict[UOp, UOp] = {}
    renamed: dict[UOp, UOp] = {}
    stack = [sink]
    while stack:
        n = stack[-1]
        if n in done:
            stack.pop()
            continue
        if n not in renamed:
            renamed[n] = _rename(n, candidates)
            if renamed[n] is not n:
                carry_tree(n, renamed[n], carry)
        now = renamed[n]
        missing = [s for s in now.src if s not in done]
        if missing:
            stack.extend(reversed(missing))
            continue
        stack.pop()
        src = tuple(done[s] for s in now.src)
        done[n] = now if src == now.src else now.replace(src=src)
        if done[n] is not now:
            carry(now, done[n])
        done[now] = done[n]
    return done[sink]


def _rename(n: UOp, candidates: dict[UOp, list[UOp]]) -> UOp:
    bound = binding(n) if n.op in LOOPS else None
    if bound is None:
        return n
    outside, values, ranges = n.src[: bound[0]], n.src[bound[0] : bound[1]], n.src[bound[1] :]
    taken = set(n.ranges)
    chosen = []
    for r in ranges:
        best = next((c for c in candidates.get(r.size, []) if c not in taken), r)
        chosen.append(best)
        taken.add(best)
    if tuple(chosen) == ranges:
        return n
    mapping = dict(zip(ranges, chosen, strict=True))
    return n.replace(src=(*outside, *(substitute(v, mapping) for v in values), *chosen))


def carry_tree(old: UOp, new: UOp, carry: Callable[[UOp, UOp], None]) -> None:
    """Tell ``carry`` about every pair of corresponding nodes of two graphs that differ by a substitution."""
    seen: set[tuple[UOp, UOp]] = set()
    stack = [(old, new)]
    while stack:
        a, b = stack.pop()
        if a is b or (a, b) in seen or a.op is not b.op or len(a.src) != len(b.src):
            continue
        seen.add((a, b))
        carry(a, b)
        stack.extend(zip(a.src, b.src, strict=True))
