"""The conditions under which nodes of a kernel are used, on each way from its stores down to them.

A branch of a ``where`` is used where its condition says so, a part of a chain of ANDs where the others hold. What is
known outside of a loop is dropped where that binds the same range again. A node may stand in several loops: it is given
the conditions that can be told in all of them, for it is one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rangekit.ir import dtype as dt
from rangekit.ir.logic import conditions
from rangekit.ir.ops import Op
from rangekit.ir.spec import binding
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, toposort
from rangekit.lower.proof import Conditions, conjuncts

Scope = frozenset[UOp | int]  # ranges that are bound around a node, and numbers of folds
Way = tuple[Conditions, Scope]

MOST = 128  # ways to a node, of one scope, that are told apart


def uses(kernel: UOp, order: list[UOp], wanted: set[UOp]) -> tuple[dict[UOp, list[Conditions]], set[UOp]]:
    """For each wanted node, which is to get the OR of its ways as a gate, the conditions of each way; and the nodes of
    which these say less than is known: in some iteration that they hold in, the node may be used by nobody.
    """
    if not wanted:
        return {}, set()
    work = _Uses(kernel, order, wanted)
    return work.found(), work.vague


class _Uses:
    def __init__(self, kernel: UOp, order: list[UOp], wanted: set[UOp]) -> None:
        self.kernel, self.wanted = kernel, wanted
        self.above: dict[UOp, None] = {}  # sources first
        for n in order:
            if n in wanted or any(s in self.above for s in n.src):
                self.above[n] = None
        self.otherwise: dict[UOp, Conditions] = {}
        self.states: dict[int, frozenset[UOp]] = {}  # the ranges that a fold's states are about
        for n in order:
            if n.op is Op.STATE:
                self.states[n.arg[0]] = self.states.get(n.arg[0], frozenset()) | n.ranges
        self.gates: dict[UOp, Scope] = {}  # what the gates of wanted nodes are about
        self.free: dict[UOp, Scope] = {}
        self.vague: set[UOp] = set()

    def found(self) -> dict[UOp, list[Conditions]]:
        """The ways, when they agree with what is known of the gates that are made of them."""
        while True:
            self.free.clear()
            found = {n: self._told(n, ways) for n, ways in self._ways().items()}
            old, self.gates = self.gates, {
                n: self.gates.get(n, frozenset()).union(*(self._about(c) for held in ways for c in held))
                for n, ways in found.items()
            }  # fmt: skip
            if all(self.gates[n] <= old.get(n, frozenset()) | n.ranges for n in found):
                return found

    def _ways(self) -> dict[UOp, list[Way]]:
        """For each wanted node the conditions and the scope of each way to it, from the stores down."""
        ways: dict[UOp, dict[Way, None]] = {self.kernel: {(frozenset(), frozenset()): None}}
        found: dict[UOp, list[Way]] = {}
        for n in reversed(self.above):
            reached = self._fewer(n, ways.pop(n, {}))
            if n in self.wanted:
                found[n] = reached
            for held, scope in reached:
                for s, known, within in self._below(n, held, scope):
                    if s in self.above:
                        ways.setdefault(s, {})[known, within] = None
        return found

    def _below(self, n: UOp, held: Conditions, scope: Scope) -> list[tuple[UOp, Conditions, Scope]]:
        """The sources of a node with what is known in each."""
        if n.op is Op.WHERE:
            c, a, b = n.src
            return [(c, held, scope), (a, held | conjuncts(c), scope), (b, held | self._not(c), scope)]
        if n.op in (Op.AND, Op.OR) and n.dtype is dt.bool_:
            return [(s, known, scope) for s, known in self._beside(n, held)]
        if binding(n) is not None:
            return self._inside(n, held, scope)
        return [(s, held, scope) for s in n.src]

    def _not(self, c: UOp) -> Conditions:
        """The conditions that hold where one does not."""
        if c not in self.otherwise:
            self.otherwise[c] = conjuncts(simplify(alu(Op.NOT, c)))
        return self.otherwise[c]

    def _fewer(self, n: UOp, ways: Iterable[Way]) -> list[Way]:
        """Ways whose OR is the same: without those that others contain, two that differ in a condition and its opposite
        as one. Of too many only what they have in common is kept.
        """
        by_scope: dict[Scope, list[Conditions]] = {}
        for held, scope in ways:
            _join(by_scope.setdefault(scope, []), held, self._not)
        if any(len(kept) > MOST for kept in by_scope.values()):
            self.vague.update(m for m in toposort(n) if m in self.wanted)
        return [
            (held, scope)
            for scope, kept in by_scope.items()
            for held in (kept if len(kept) <= MOST else [frozenset.intersection(*kept)])
        ]

    def _inside(self, n: UOp, held: Conditions, scope: Scope) -> list[tuple[UOp, Conditions, Scope]]:
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

    def _told(self, n: UOp, ways: list[Way]) -> list[Conditions]:
        """Of the conditions of each way those that all ways can tell: others are about loops that one is not in."""
        common = frozenset.intersection(*(scope for _, scope in ways))
        told = [frozenset(c for c in held if self._about(c) <= common) for held, _ in ways]
        if any(a != b for a, (b, _) in zip(told, ways, strict=True)):
            self.vague.add(n)
        return told

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


def _join(kept: list[Conditions], held: Conditions, opposite: Callable[[UOp], Conditions]) -> None:
    """Add a way to others, so that none contains another and no two are one."""
    while not any(k <= held for k in kept):
        kept[:] = [k for k in kept if not held <= k]
        for k in kept:
            one, two = k - held, held - k
            if (len(one) == 1 and opposite(*one) == two) or (len(two) == 1 and opposite(*two) == one):
                kept.remove(k)
                held = k & held
                break
        else:
            kept.append(held)
            return


_NONE: Scope = frozenset()


def _number(n: UOp) -> Scope:
    return frozenset((n.arg[0],)) if n.op in (Op.FOLD, Op.SCAN) else _NONE
