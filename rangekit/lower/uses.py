"""The conditions under which nodes of a kernel are used, on each way from its stores down to them.

A branch of a ``where`` is used where its condition says so, a part of a chain of ANDs where the others hold. What is
known outside of a loop is dropped where that binds the same range again. A node may stand in several loops: it is given
the conditions that can be told in all of them, for it is one node.
"""

from __future__ import annotations

from rangekit.ir import dtype as dt
from rangekit.ir.logic import conditions
from rangekit.ir.ops import Op
from rangekit.ir.spec import binding
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, toposort
from rangekit.lower.proof import Conditions, conjuncts

Scope = frozenset[UOp | int]  # ranges that are bound around a node, and numbers of folds
Way = tuple[UOp, Conditions, Scope]


def uses(kernel: UOp, order: list[UOp], wanted: set[UOp]) -> dict[UOp, list[Conditions]]:
    """For each wanted node, which is to get the OR of its ways as a gate, the conditions of each way."""
    if not wanted:
        return {}
    return _Uses(kernel, order, wanted).found()


class _Uses:
    def __init__(self, kernel: UOp, order: list[UOp], wanted: set[UOp]) -> None:
        self.kernel, self.wanted = kernel, wanted
        self.above: set[UOp] = set()
        for n in order:
            if n in wanted or any(s in self.above for s in n.src):
                self.above.add(n)
        self.states: dict[int, frozenset[UOp]] = {}  # the ranges that a fold's states are about
        for n in order:
            if n.op is Op.STATE:
                self.states[n.arg[0]] = self.states.get(n.arg[0], frozenset()) | n.ranges
        self.gates: dict[UOp, Scope] = {}  # what the gates of wanted nodes are about
        self.free: dict[UOp, Scope] = {}

    def found(self) -> dict[UOp, list[Conditions]]:
        """The ways, when they agree with what is known of the gates that are made of them."""
        while True:
            self.free.clear()
            found = {n: self._told(ways) for n, ways in self._ways().items()}
            old, self.gates = self.gates, {
                n: self.gates.get(n, frozenset()).union(*(self._about(c) for held in ways for c in held))
                for n, ways in found.items()
            }  # fmt: skip
            if all(self.gates[n] <= old.get(n, frozenset()) | n.ranges for n in found):
                return found

    def _ways(self) -> dict[UOp, list[tuple[Conditions, Scope]]]:
        found: dict[UOp, list[tuple[Conditions, Scope]]] = {}
        seen: set[Way] = set()
        stack: list[Way] = [(self.kernel, frozenset(), frozenset())]
        while stack:
            way = stack.pop()
            n, held, scope = way
            if n not in self.above or way in seen:
                continue
            seen.add(way)
            if n in self.wanted:
                found.setdefault(n, []).append((held, scope))
            if n.op is Op.WHERE:
                c, a, b = n.src
                otherwise = simplify(alu(Op.NOT, c))
                below = [(c, held), (a, held | conjuncts(c)), (b, held | conjuncts(otherwise))]
            elif n.op in (Op.AND, Op.OR) and n.dtype is dt.bool_:
                below = self._beside(n, held)
            elif binding(n) is not None:
                stack += self._inside(n, held, scope)
                continue
            else:
                below = [(s, held) for s in n.src]
            stack += [(s, known, scope) for s, known in below]
        return found

    def _inside(self, n: UOp, held: Conditions, scope: Scope) -> list[Way]:
        """The sources of what binds ranges, which inside are others than outside."""
        start, end = binding(n) or (0, 0)
        captured = frozenset(n.src[end:])
        known = frozenset(c for c in held if not self._about(c) & captured)
        others = frozenset(f for f in scope if isinstance(f, int) and self.states.get(f, captured) & captured)
        within = scope - others | captured | _number(n)
        parts = [(s, known, within) for s in n.src[start:end]]
        if n.op is Op.PRINT:
            parts[0] = n.src[0], known | conjuncts(n.src[1]), within
        return [*((s, held, scope) for s in n.src[:start]), *parts]

    def _beside(self, n: UOp, held: Conditions) -> list[tuple[UOp, Conditions]]:
        """The parts of a chain of ANDs (ORs), each where the others hold (do not hold): else it makes no difference."""
        parts = conditions(n.op, n)
        if parts is None:
            return [(s, held) for s in n.src]
        known = {p: conjuncts(p if n.op is Op.AND else alu(Op.NOT, p)) for p in parts if p not in self.above}
        return [(p, held.union(*(c for q, c in known.items() if q is not p))) for p in parts]

    def _told(self, ways: list[tuple[Conditions, Scope]]) -> list[Conditions]:
        """Of the conditions of each way those that all ways can tell: others are about loops that one is not in."""
        common = frozenset.intersection(*(scope for _, scope in ways))
        return [frozenset(c for c in held if self._about(c) <= common) for held, _ in ways]

    def _about(self, c: UOp) -> Scope:
        """The ranges that a condition and the gates of its reads are about, and the folds whose states they read."""
        free = self.free
        for n in toposort(c, into=lambda n: n not in free):
            if n in free:
                continue
            parts = [free[s] for s in n.src]
            scope = binding(n)
            if scope is not None:
                start, end = scope
                inside = frozenset[UOp | int]().union(*parts[start:end]) - frozenset(n.src[end:]) - _number(n)
                parts = [*parts[:start], inside]
            own: Scope = frozenset((n,)) if n.op is Op.RANGE else frozenset((n.arg[0],)) if n.op is Op.STATE else _NONE
            free[n] = own.union(self.gates.get(n, _NONE), *parts)
        return free[c]


_NONE: Scope = frozenset()


def _number(n: UOp) -> Scope:
    return frozenset((n.arg[0],)) if n.op in (Op.FOLD, Op.SCAN) else _NONE
