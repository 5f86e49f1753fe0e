"""Every access is inside its array: proved, refused with a counterexample, or guarded. Always on.

An access that intervals do not prove where it stands gets the conditions it is used under (the OR over its uses) as
its gate, so ``where(j > 0, x[j - 1], 0)`` never touches ``x[-1]``; it is then proved under those. What remains is tried
in every iteration, if they are few, or put to Z3. It is refused if some iteration leaves the array whatever the data
and the sizes are, and guarded otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from rangekit.errors import BoundsError
from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine
from rangekit.ir.binding import substitute
from rangekit.ir.dim import Dim
from rangekit.ir.evaluate import evaluate
from rangekit.ir.nest import Access
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.spec import bound_ranges
from rangekit.ir.uop import UOp, alu, by_uid, const, idx, toposort
from rangekit.lower.proof import Conditions, either, is_mark, proof
from rangekit.lower.prove import inside
from rangekit.lower.races import one_to_one
from rangekit.lower.tried import ENUMERATED, FEW, depends_on_data, involved, iteration, over, worth_asking
from rangekit.lower.uses import uses
from rangekit.source import Position


def check(
    kernel: UOp, positions: Mapping[UOp, Position], accesses: list[Access], carry: Callable[[UOp, UOp], None],
    doubts: list[str],
) -> UOp:  # fmt: skip
    """The kernel with gates and guards at the accesses that need them; one ``Access`` an axis is appended, and to
    ``doubts`` a line for each question that Z3 did not answer.

    Errors: ``BoundsError`` with a counterexample, ``RaceError`` where two iterations write one element.
    """
    return _Check(kernel, positions, accesses, carry, doubts).run()


class _Check:
    def __init__(self, kernel: UOp, positions: Mapping[UOp, Position], accesses: list[Access],
                 carry: Callable[[UOp, UOp], None], doubts: list[str]) -> None:  # fmt: skip
        self.doubts = doubts
        self.kernel = _without_doubles(kernel, carry)
        self.positions, self.accesses, self.carry = positions, accesses, carry
        self.order = toposort(self.kernel)
        self.indices = [n for n in self.order if n.op is Op.INDEX and n.shape == ()]
        self.stores = [n for n in self.order if n.op is Op.STORE]
        self.stored = {s.src[0] for s in self.stores}
        read = {s for n in self.order for s in (n.src[1:] if n.op is Op.STORE else n.src)}
        self.idle = {s.src[0] for s in self.stores if any(r.extent == 0 for r in bound_ranges(s))} - read

    def run(self) -> UOp:
        self.open = {n for n in self.indices if self._axes_unproved(n, frozenset())}
        self.uses, self.vague = uses(self.kernel, self.order, self.open | {n for n in self.order if is_mark(n)})
        self.memo: dict[UOp, UOp] = {}
        self._checked(self.kernel)
        for s in self.stores:
            one_to_one(s, self.positions)
        return self.memo[self.kernel]

    def _checked(self, root: UOp) -> UOp:
        """A node with what it reads made safe."""
        memo = self.memo
        for n in toposort(root, into=lambda n: n not in memo):
            if n in memo:
                continue
            src = tuple(memo[s] for s in n.src)
            new = n if src == n.src else n.replace(src=src)
            if n in self.open or is_mark(n):
                new = self._under_a_gate(n, new)
            elif n.op is Op.INDEX and n.shape == ():
                new = self._access(n, new, [])
            elif n.op is Op.IN_RANGE and n.arg is None:
                new = new.replace(arg=(self._note(n, _source_name(n), 0, 0, "assumed", "contract"), 0))
            elif n.op is Op.CLAIM:
                new = new.replace(arg=self._claim(n))
            if new is not n:
                self.carry(n, new)
            memo[n] = new
        return memo[root]

    def _under_a_gate(self, n: UOp, new: UOp) -> UOp:
        """An access or a mark made safe where it is used. The condition for that may read it, too: there it has its
        value inside the array and 0 outside, and tells nobody, for whoever uses it first does not know its value.
        """
        memo, known = self.memo, len(self.memo)
        memo[n] = self._silent(n, new)
        if is_mark(n):
            at = self._marker(n, new.src[-1], self.uses.get(n) or [frozenset()])
            new = at if len(n.src) == 1 else _inside(new.src[0], at)
        else:
            new = self._access(n, new, self.uses.get(n))
        silent = {n}
        for m in list(memo)[known + 1 :]:  # made for the condition: the program itself reads what is safe
            if any(s in silent for s in m.src):
                silent.add(m)
                del memo[m]
        return new

    def _silent(self, n: UOp, new: UOp) -> UOp:
        def ok(i: UOp, size: int) -> UOp:
            return alu(Op.AND, alu(Op.LE, idx(0), i), alu(Op.LT, i, idx(size)))

        if is_mark(n):
            i = new.src[-1]
            value = i if len(n.src) == 1 else new.src[0]
            return alu(Op.WHERE, ok(i, n.arg[2]), value, const(0, value.dtype))
        parts, sizes = list(new.src[1:]), n.src[0].shape
        for a in self._axes_unproved(n, frozenset()):
            parts[a] = UOp(Op.WHERE, dt.index, (ok(parts[a], sizes[a]), parts[a], UOp(Op.INVALID, dt.index)))
        return new.replace(src=(new.src[0], *parts))

    # ---- proof -----------------------------------------------------------------------------------------------------

    def _axes_unproved(self, n: UOp, held: Conditions) -> list[int]:
        if n in self.idle or any(r.extent == 0 for r in n.ranges):
            return []
        sizes = n.src[0].shape
        return [a for a, (i, size) in enumerate(zip(n.src[1:], sizes, strict=True)) if proof(i, size, held) is None]

    def _access(self, old: UOp, new: UOp, uses: list[Conditions] | None) -> UOp:
        """``new``, the access ``old`` after its own index was checked, with the gate and the guards it needs."""
        ways = uses or [frozenset()]
        gate = either(ways) if uses else None
        parts = list(new.src[1:])
        guarded: list[tuple[int, int]] = []
        for axis, (i, size) in enumerate(zip(old.src[1:], old.src[0].shape, strict=True)):
            if old in self.idle or any(r.extent == 0 for r in old.ranges):
                self._note(old, _array_name(old), axis, size, "proved", "interval")
                continue
            proofs = [proof(i, size, held) for held in ways]
            if all(p is not None for p in proofs):
                by = max((p for p in proofs if p), key=("interval", "symbolic", "z3", "contract").index)
                self._note(old, _array_name(old), axis, size, "assumed" if by == "contract" else "proved", by)
                continue
            found = self._tried(old, axis, i, size, gate)
            if found is not None:
                self._note(old, _array_name(old), axis, size, "proved", found)
                continue
            guarded.append((axis, size))
        whole = gate is not None and not (gate.op is Op.CONST and gate.arg)
        if whole and gate is not None:
            gate = self._checked(gate)
            where = 0 if not guarded else None
            for a in range(len(parts)):
                if a == where or any(a == g for g, _ in guarded):
                    parts[a] = UOp(Op.WHERE, dt.index, (gate, parts[a], UOp(Op.INVALID, dt.index)))
        for axis, size in guarded:
            number = self._note(old, _array_name(old), axis, size, "guarded", None)
            parts[axis] = UOp(Op.GUARD, dt.index, (parts[axis],), (number, axis, size))
        return new.replace(src=(new.src[0], *parts))

    def _marker(self, n: UOp, i: UOp, ways: list[Conditions]) -> UOp:
        """``i``, the index of an axis that has no storage of its own, once it is known or made to be inside it."""
        _, axis, size = n.arg
        old, gate, name = n.src[-1], either(ways), self._text(n).partition("[")[0]
        by: str | None = "symbolic"
        if any(proof(old, size, held) is None for held in ways):
            by = self._tried(n, axis, old, size, gate)
        if by is None:
            number = self._note(n, name, axis, size, "guarded", None)
            i = i if gate.op is Op.CONST else alu(Op.WHERE, self._checked(gate), i, idx(0))
            return UOp(Op.IN_RANGE, dt.index, (i, idx(0), idx(size)), (number, axis))
        self._note(n, name, axis, size, "proved", by)
        return i

    def _tried(self, n: UOp, axis: int, i: UOp, size: int, gate: UOp | None) -> str | None:
        """By what an index is proved beyond sums and intervals, None if it is not; raises where it leaves the array."""
        try:
            return self._asked(n, axis, i, size, gate)
        except BoundsError:
            if n not in self.vague:
                raise
            return None  # perhaps where nobody uses it

    def _asked(self, n: UOp, axis: int, i: UOp, size: int, gate: UOp | None) -> str | None:
        steps = math.prod(r.extent for r in involved(i, gate))
        plain = not depends_on_data(i, gate) and not isinstance(size, Dim)
        if plain and steps <= FEW:
            self._enumerate(n, axis, i, size, gate)
            return "symbolic"
        if not worth_asking(i, gate):
            return None
        answer = inside(i, size, gate)
        if answer.holds:
            return "z3"
        if answer.at and all(d.op is not Op.DIM for d in answer.at):
            self._refuse(n, axis, i, size, answer.at)
        elif answer.at:
            self._refuse_every_size(n, axis, i, size, gate)
        elif answer.holds is None and plain and steps <= ENUMERATED:
            self._enumerate(n, axis, i, size, gate)
            return "symbolic"
        elif answer.why:
            self.doubts.append(f"guarded: {self._text(n)}: {answer.why}")
        return None

    def _refuse_every_size(self, n: UOp, axis: int, i: UOp, size: int, gate: UOp | None) -> None:
        """Raise if the index leaves the array at the least sizes and at the greatest."""
        dims = [d for d in toposort(i, *(() if gate is None else (gate,)), idx(size)) if d.op is Op.DIM]
        found = []
        for ends in ([d.arg.least for d in dims], [d.arg.most for d in dims]):
            held = gate
            for d, end in zip(dims, ends, strict=True):
                fixed = alu(Op.EQ, d, idx(end))
                held = fixed if held is None else alu(Op.AND, held, fixed)
            found.append(inside(i, size, held).at)
        if all(found):
            self._refuse(n, axis, i, size, found[0])

    def _text(self, n: UOp) -> str:
        """An access as text; that of a marker, which names no array, from the user's line."""
        at = self.positions.get(n) if n.op is Op.GUARD else None
        text, span = (at.text, at.span) if at is not None else (None, None)
        return text[span[0] : span[1]] if text and span else expression(n)

    def _note(self, n: UOp, array: str, axis: int, size: int, status: str, by: str | None) -> int:
        at = self.positions.get(n)
        i = n.src[0] if n.op is Op.IN_RANGE else n.src[1 + axis] if n.op is Op.INDEX else n.src[-1]
        unsigned = (i.src[0] if i.op is Op.CAST else i).dtype is dt.uint64
        line = at.lineno if at else None
        self.accesses.append(Access(self._text(n), array, axis, size, line, status, by, at, unsigned=unsigned))
        return len(self.accesses) - 1

    def _claim(self, n: UOp) -> int:
        """The number of a promise that no two iterations write one element; what they are is told by their numbers."""
        store = next(s for s in self.stores if n in s.src)
        at = self.positions.get(store.src[0]) or self.positions.get(store)
        terms, _ = affine(n.src[1].src[0] if n.src[1].op is Op.CAST else n.src[1])
        order = sorted(terms, key=terms.__getitem__, reverse=True)
        ranges = tuple((r.arg.name, r.extent) for r in order if r.op is Op.RANGE)
        text, array, line = expression(store.src[0]), _array_name(store.src[0]), at.lineno if at else None
        self.accesses.append(Access(text, array, 0, 0, line, "assumed", "unique", at, ranges))
        return len(self.accesses) - 1

    def _enumerate(self, n: UOp, axis: int, i: UOp, size: int, gate: UOp | None) -> None:
        """Try every iteration; raises at the first that leaves the array."""
        ranges = by_uid(involved(i, gate))
        values = over(ranges, i)
        bad = (values < 0) | (values >= size)
        if gate is not None:
            bad &= over(ranges, gate).astype(bool)
        if bad.any():
            where = np.unravel_index(int(np.argmax(bad)), bad.shape)
            self._refuse(n, axis, i, size, dict(zip(ranges, map(int, where), strict=True)))

    def _refuse(self, n: UOp, axis: int, i: UOp, size: int, at: Mapping[UOp, int]) -> None:
        """Raise for the iteration in which the index leaves the axis."""
        sizes = {d: np.asarray(v) for d, v in at.items() if d.op is Op.DIM}
        there = {r: idx(v) for r, v in at.items() if r.op is Op.RANGE}
        value = int(evaluate(substitute(i, there), sizes))
        have = int(evaluate(idx(size), sizes))
        verb = "writes" if n in self.stored else "reads"
        text = self._text(n)
        named = [(r, v) for r, v in at.items() if r in i.ranges or (r.op is Op.DIM and r in toposort(i, idx(size)))]
        when = iteration(named)
        elements = f"which has {size} element{'s' if size != 1 else ''}"
        raise BoundsError(
            f"{text} {verb} element {value} of axis {axis}, {elements}" + (f", when {when}" if when else ""),
            help=_remedy(n, text, i, size, have, value, guard=n not in self.stored),
            at=self.positions.get(n),
        )


def _inside(value: UOp, at: UOp) -> UOp:
    """A value whose index was checked: 0 where that leaves the axis."""
    if at.op is not Op.IN_RANGE:
        return value
    return alu(Op.WHERE, alu(Op.EQ, at, at.src[0]), value, const(0, value.dtype))


def _without_doubles(kernel: UOp, carry: Callable[[UOp, UOp], None]) -> UOp:
    """Without the markers on indices of storage with the marked size: the access itself is checked against that."""
    memo: dict[UOp, UOp] = {}
    for n in toposort(kernel):
        src = tuple(memo[s] for s in n.src)
        if n.op is Op.INDEX:
            sizes = (None, *n.src[0].shape)
            marks = [s for s in src if is_mark(s)]
            src = tuple(s.src[0] if is_mark(s) and s.arg[2] == size else s for s, size in zip(src, sizes, strict=True))
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
            for mark in marks if n.op is Op.INDEX else ():
                carry(mark, memo[n])
    return memo[kernel]


def _array_name(n: UOp) -> str:
    base = n.src[0]
    if base.op in (Op.STATE, Op.GET, Op.SCAN):
        return str(base.arg[3]) if base.op is Op.STATE else "state"
    return base.arg.name or "buffer"


def _source_name(n: UOp) -> str:
    return next(
        (m.src[0].arg.name for m in toposort(n) if m.op is Op.INDEX and m.src[0].op in (Op.PARAM, Op.BUFFER)), "value"
    )


def _remedy(n: UOp, text: str, i: UOp, size: int, have: int, value: int, guard: bool) -> str:
    """What to write instead of an access that leaves its array: a shorter Range, or a condition on it."""
    if not i.ranges:
        return f"write an index from 0 to {size - 1}" if have else "the axis is empty"
    shorter = "make the ranges shorter" if value >= have else ""
    condition = f"{expression(i)} < {size}" if shorter else f"{expression(i)} >= 0"
    terms, constant = affine(i)
    ((r, factor),) = terms.items() if len(terms) == 1 else ((i, 0),)
    if r.op is Op.RANGE and r.arg.name:
        limit = None  # of that range, if the index leaves the array because it is too long
        if factor > 0 and value >= have and (have > constant or isinstance(size, Dim)):
            limit = (size - constant + factor - 1) // factor
        elif factor < 0 and value < 0 <= constant:
            limit = constant // -factor + 1
        if limit is not None:
            shorter = f"write Range({limit})" + (f" for {r.arg.name}" if len(n.ranges) > 1 else "")
            condition = f"{r.arg.name} < {limit}"
        elif factor > 0 and value < 0:
            condition = f"{r.arg.name} >= {-(constant // factor)}"
    guarded = ""
    if guard and all(r.arg.name for r in i.ranges):
        guarded = f"guard it: rk.where({condition}, {text}, {'0.0' if n.dtype.is_float else '0'})"
    if shorter:
        return f"{shorter}, or {guarded}" if guarded else shorter
    return f"{guarded or 'write indices from 0 on'}; only constant negative indices wrap"
