"""The last resort of *check*: questions about indices that intervals and sums leave open, put to Z3.

Ranges are integers below their sizes, Dims integers within their bounds; what comes from data (a load, a reduction, a
machine integer that may wrap) is any integer within its interval, told apart by the node it is, so that a condition on
it counts. An answer is for all of them. A counterexample has the smallest numbers that can be found, outer ranges
first, and was evaluated again by the meaning of the graph before anyone sees it.

Z3 is loaded by the first question, works in a context of its own under a limit of steps, never of time, and may fail in
any way: then the answer is that there is none. Answers are kept by the question's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.bounds import bounds
from rangekit.ir.evaluate import evaluate
from rangekit.ir.exact import Untranslatable, World
from rangekit.ir.ops import Op
from rangekit.ir.text import dump
from rangekit.ir.uop import UOp, alu, by_uid, const, idx, new_range, toposort

LIMIT = 400_000  # steps of Z3 for one question: about a tenth of a second
KEPT = 4096  # answers


@dataclass(frozen=True)
class Answer:
    """``holds`` True: for all iterations; False: not in that of ``at``, or nobody knows which if data decides; None: no
    answer, and ``why``.
    """

    holds: bool | None
    at: Mapping[UOp, int] = field(default_factory=dict)
    why: str = ""


def inside(i: UOp, size: int, gate: UOp | None) -> Answer:
    """Whether ``0 <= i < size`` where the gate is open."""
    held = const(True, dt.bool_) if gate is None else gate
    wrong = alu(Op.OR, alu(Op.LT, i, idx(0)), alu(Op.LE, idx(size), i))
    return _asked("inside", alu(Op.AND, held, wrong))


def one_to_one(places: Sequence[UOp], gate: UOp | None, ranges: Sequence[UOp]) -> tuple[Answer, Mapping[UOp, int]]:
    """Whether no two iterations in which the gate is open have the same indices, and the second of two that do."""
    own = tuple(ranges)
    other = {r: new_range(r.length, r.arg.name) for r in own}
    here = const(True, dt.bool_) if gate is None else gate
    there = substitute(here, other)
    meet: UOp = alu(Op.AND, here, there)
    for p in places:
        meet = alu(Op.AND, meet, alu(Op.EQ, p, substitute(p, other)))
    later: UOp = const(False, dt.bool_)  # the second comes after the first, row by row
    for r in reversed(own):
        same = alu(Op.AND, alu(Op.EQ, r, other[r]), later)
        later = alu(Op.OR, alu(Op.LT, r, other[r]), same)
    answer = _asked("one to one", alu(Op.AND, meet, later))
    return answer, {r: answer.at.get(other[r], 0) for r in own}


def never(kind: str, wrong: UOp) -> bool:
    """Whether a condition is known to hold in no iteration."""
    return _asked(kind, wrong).holds is True


_ANSWERS: dict[str, tuple[bool | None, tuple[int, ...], str]] = {}


def _asked(kind: str, wrong: UOp) -> Answer:
    """Whether an expression is never true."""
    variables = [n for n in toposort(wrong) if n.op in (Op.RANGE, Op.DIM)]
    key = f"{kind}\n{dump(wrong, canonical=True)}"
    known = _ANSWERS.get(key)
    if known is None:
        known = _answer(wrong, variables)
        if len(_ANSWERS) >= KEPT:
            _ANSWERS.clear()
        _ANSWERS[key] = known
    holds, numbers, why = known
    at = dict(zip(variables, numbers, strict=True)) if numbers else {}
    if holds is False and at and not _happens(wrong, at):
        return Answer(None, why="the counterexample that Z3 found is none")
    return Answer(holds, at, why)


def _answer(wrong: UOp, variables: list[UOp]) -> tuple[bool | None, tuple[int, ...], str]:
    try:
        question = _Question(wrong)
        found = question.solve()
        if found is None:
            return True, (), ""
        data = bool(question.opaque)
        return False, () if data else tuple(found[v] for v in variables), ""
    except Untranslatable as err:
        return None, (), f"Z3 is not asked about {err}"
    except _Unknown as err:
        return None, (), f"Z3 gave up: {err}"
    except Exception as err:  # whatever it does, a program must not be lost to it
        return None, (), f"Z3 failed: {type(err).__name__}"


class _Unknown(Exception):
    """No answer within the limit."""


class _Question:
    """An expression over integers for Z3, and what its variables are."""

    def __init__(self, wrong: UOp) -> None:
        self.world = World()
        self.known: dict[UOp, Any] = {}
        self.opaque: list[UOp] = []
        for n in toposort(wrong, into=_is_plain):
            if n not in self.known:
                self.known[n] = self._term(n)
        self.wrong = self.known[wrong]

    def _term(self, n: UOp) -> Any:
        world = self.world
        if n.op in (Op.RANGE, Op.DIM) or not _is_plain(n):
            return self._variable(n)
        if n.op is Op.CONST:
            return world.constant(n.arg, n.dtype)
        if n.op is Op.CAST and n.src[0].dtype.kind != "b":
            return self.known[n.src[0]]
        return world._node(n, [self.known[s] for s in n.src])

    def _variable(self, n: UOp) -> Any:
        """What a node may be, if nothing else is known of it."""
        z3, world = self.world.z3, self.world
        name = f"v{len(self.known)}"
        if n.op not in (Op.RANGE, Op.DIM):
            self.opaque.append(n)
        if n.dtype.kind == "b":
            return z3.Bool(name, world.context)
        made = z3.Int(name, world.context)
        lo, hi = bounds(n)
        if lo > float("-inf"):
            world.assumed.append(made >= int(lo))
        if hi < float("inf"):
            world.assumed.append(made <= int(hi))
        if n.op is Op.RANGE and len(n.src) == 2:
            world.assumed.append(made < self.known[n.size])
        return made

    def solve(self) -> dict[UOp, int] | None:
        """Values for which the expression is true, small where they can be; None if there are none."""
        z3, world = self.world.z3, self.world
        solver = z3.Solver(ctx=world.context)
        solver.set("rlimit", LIMIT)
        solver.add(*world.assumed, world._term(self.wrong))
        if self._checked(solver) is False:
            return None
        variables = [n for n in by_kind(self.known) if n.op in (Op.RANGE, Op.DIM)]
        for v in variables:
            term = self.known[v]
            low, high = int(bounds(v)[0]), _number(solver, term)
            while low < high:  # the smallest value that some solution has
                middle = (low + high) // 2
                solver.push()
                solver.add(term <= middle)
                smaller = solver.check() == z3.sat
                high = _number(solver, term) if smaller else high
                low = low if smaller else middle + 1
                solver.pop()
            solver.add(term == high)
            self._checked(solver)
        model = solver.model()
        return {v: int(model.eval(self.known[v], model_completion=True).as_long()) for v in variables}

    def _checked(self, solver: Any) -> bool:
        answer = solver.check()
        if answer == self.world.z3.unknown:
            raise _Unknown(solver.reason_unknown())
        return bool(answer == self.world.z3.sat)


def by_kind(nodes: Iterable[UOp]) -> list[UOp]:
    """Dims before ranges, those in the order they were made."""
    found = list(nodes)
    dims = [n for n in found if n.op is Op.DIM]
    return dims + list(by_uid(n for n in found if n.op is Op.RANGE))


def _number(solver: Any, term: Any) -> int:
    return int(solver.model().eval(term, model_completion=True).as_long())


def _is_plain(n: UOp) -> bool:
    """Whether a node is what its sources say, over unbounded integers."""
    if n.op is Op.CONST:
        return n.dtype.kind in "biux"
    if n.op is Op.RANGE:
        return True
    if n.dtype.kind not in "biux" or any(s.dtype.kind not in "biux" for s in n.src):
        return False
    if n.dtype.kind in "iu" and n.op is not Op.WHERE:
        lo, hi = bounds(n)
        if lo <= n.dtype.min and hi >= n.dtype.max:
            return False  # it may have wrapped
    if n.op is Op.CAST:
        return n.dtype.kind != "b" or n.src[0].dtype.kind == "b"
    if n.op in (Op.AND, Op.OR, Op.XOR):
        return n.dtype.kind == "b"
    return n.op in _PLAIN and not (n.op is Op.WHERE and n.src[2].op is Op.INVALID)


_PLAIN = frozenset({
    Op.ADD, Op.SUB, Op.MUL, Op.IDIV, Op.MOD, Op.MAX, Op.MIN, Op.NEG, Op.ABS, Op.LT, Op.LE, Op.EQ, Op.NE, Op.NOT,
    Op.WHERE,
})  # fmt: skip


def _happens(wrong: UOp, at: Mapping[UOp, int]) -> bool:
    """Whether the expression is true there, by the meaning of its ops."""
    there = substitute(wrong, {r: idx(v) for r, v in at.items() if r.op is Op.RANGE})
    return bool(evaluate(there, {d: np.asarray(v) for d, v in at.items() if d.op is Op.DIM}))
