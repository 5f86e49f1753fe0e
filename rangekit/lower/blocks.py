"""The blocks of a nest that is being filled, one an open loop: what is written into them, and under which names.

Every statement goes to the deepest block whose range it uses, and is remembered there; a loop joins its parent when it
is closed, so that what its body hoisted stands before it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine, total
from rangekit.ir.dim import least
from rangekit.ir.nest import Guard, Let, Loop, Stmt
from rangekit.ir.ops import Op
from rangekit.ir.spec import bound_ranges
from rangekit.ir.uop import UOp, alu, cast, idx, toposort
from rangekit.lower.loops import substitution
from rangekit.lower.tidy import MAX_TREE

Emit = Generator[UOp, UOp, UOp]  # asks for values, answers with one


@dataclass(eq=False)
class Block:
    """One open loop: its range, its variable, the statements so far, and what is known in it."""

    range: UOp | None
    var: UOp | None
    stores: frozenset[UOp]
    body: list[Stmt] = field(default_factory=list)
    memo: dict[UOp, UOp] = field(default_factory=dict)
    accumulators: dict[UOp, tuple[UOp, ...]] = field(default_factory=dict)
    late: list[Stmt] = field(default_factory=list)  # the states of scans, handed on when the iteration is done
    inside: dict[tuple[UOp, int, UOp | None], tuple[UOp, UOp]] = field(default_factory=dict)  # indices with their tests


class Blocks:
    """A stack of open loops, the outermost first, over a kernel's nodes."""

    def __init__(self, kernel: UOp, count: int, names: set[str], sizes: dict[UOp, UOp]) -> None:
        self.kernel, self.count = kernel, count
        self.order = toposort(kernel)
        self.consumers: dict[UOp, int] = {}
        self.counted: set[UOp] = set()
        self._count(kernel)
        self.written = {s.src[0].src[0] for s in kernel.src if s.op is Op.STORE}
        self.sizes: dict[UOp, int] = {}
        self.ranges_named: dict[UOp, str] = {}
        self._name_ranges(names)
        self.root = Block(None, None, frozenset(kernel.src), memo=dict(sizes))
        self.sized = substitution(sizes)
        self.stack = [self.root]
        self.numbered: dict[int, tuple[tuple[str | None, int], ...]] = {}  # of an access: the loops around its tests

    def _count(self, *roots: UOp) -> None:
        """How often each node below is used; nodes that were counted before stay as they are."""
        for n in toposort(*roots, into=lambda n: n not in self.counted):
            if n not in self.counted:
                self.counted.add(n)
                for s in n.src:
                    self.consumers[s] = self.consumers.get(s, 0) + 1

    # ---- names -----------------------------------------------------------------------------------------------------

    def _name_ranges(self, names: set[str]) -> None:
        """User names first; hidden ranges get the next of i, j, k, ... in order of appearance."""
        found = sorted({n for n in self.order if n.op is Op.RANGE}, key=lambda r: self.order.index(r))
        loops = list(dict.fromkeys([*(r for s in self.kernel.src for r in bound_ranges(s)), *found]))
        taken = {n.arg.name for n in self.order if n.op in (Op.PARAM, Op.BUFFER)}
        taken |= {n.arg[3] for n in self.order if n.op is Op.STATE}
        pool = (f"{c}{n or ''}" for n in range(10_000) for c in "ijklmn")
        for r in sorted(loops, key=lambda r: r.arg.name is None):
            base = r.arg.name
            if base is None:
                base = next(p for p in pool if p not in taken and p not in names)
            while base in taken:
                base += "_"
            taken.add(base)
            self.ranges_named[r] = base

    # ---- blocks ----------------------------------------------------------------------------------------------------

    def _push(self, r: UOp, stores: frozenset[UOp]) -> Block:
        block = Block(r, UOp(Op.VAR, dt.index, (), ("range", self._number(), self.ranges_named[r])), stores)
        self.stack.append(block)
        return block

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _pop(self, lo: UOp, hi: UOp) -> None:
        block = self.stack.pop()
        assert block.var is not None and block.range is not None
        self.stack[-1].body.append(Loop(block.var, block.range, lo, hi, (*block.body, *block.late)))

    def _home(self, ranges: frozenset[UOp]) -> int:
        for depth in range(len(self.stack) - 1, 0, -1):
            if self.stack[depth].range in ranges:
                return depth
        return 0

    def _loop_over(self, ranges: tuple[UOp, ...], stores: frozenset[UOp]) -> None:
        for r in ranges:
            self._push(r, stores)

    def _close(self, ranges: tuple[UOp, ...]) -> None:
        for r in reversed(ranges):
            self._pop(idx(0), self.sized(r.size))

    def _variables(self, ranges: tuple[UOp, ...]) -> tuple[UOp, ...]:
        """The innermost loop variable of each range."""
        found = (self.stack[self._home(frozenset((r,)))].var for r in ranges)
        return tuple(v for v in found if v is not None)

    # ---- values and places -----------------------------------------------------------------------------------------

    def _once(self, i: UOp) -> UOp:
        """An index that is used twice: one that is long or read from memory gets a name."""
        if i.op is Op.WHERE and i.src[2].op is Op.INVALID:
            return i.replace(src=(i.src[0], self._once(i.src[1]), i.src[2]))
        plain = i.op in (Op.VAR, Op.CONST) or (
            self.sizes.get(i, 0) <= 4 and all(n.op is not Op.INDEX for n in toposort(i))
        )
        return i if plain else self._let("at", i, len(self.stack) - 1)

    def _bind(self, n: UOp, value: UOp, depth: int) -> UOp:
        """The value itself, or a name for it where it is used again, hoisted, long, or may change."""
        size = 1 + sum(self.sizes.get(s, 0) for s in value.src)
        self.sizes[value] = size
        if n.op in (Op.GUARD,) or (n.op is Op.WHERE and n.src[2].op is Op.INVALID):
            return value
        again = self.consumers.get(n, 0) > 1
        index = n.dtype is dt.index
        hoisted = depth < len(self.stack) - 1
        changes = n.op is Op.INDEX and (n.src[0] in self.written or n.src[0].op is Op.STATE)
        plain_index = index and size <= 4
        if changes or size > MAX_TREE or ((again or hoisted) and not plain_index):
            return self._let(_hint(n), value, depth)
        return value

    def _let(self, hint: str, value: UOp, depth: int) -> UOp:
        var = UOp(Op.VAR, value.dtype, (), ("let", self._number(), hint))
        self.stack[depth].body.append(Let(var, value))
        self.sizes[var] = 0
        return var

    def _gated(self, buffer: UOp, index: tuple[UOp, ...], depth: int | None = None) -> tuple[UOp, tuple[UOp, ...]]:
        """The access with its gates on the first index and its guards as statements before it.

        A load that is used always reads element 0 where its index is wrong: the launch raises, and that is not a test
        of each load once more.
        """
        here = len(self.stack) - 1 if depth is None else depth
        gates: list[UOp] = []
        plain: list[UOp] = []
        tests: list[tuple[UOp, tuple[int, int, int], int]] = []
        for i in index:
            guard = None
            while i.op is Op.GUARD or (i.op is Op.WHERE and i.src[2].op is Op.INVALID):
                if i.op is Op.GUARD:
                    guard = i.arg
                    i = i.src[0]
                else:
                    if i.src[0] not in gates:
                        gates.append(i.src[0])
                    i = i.src[1]
            if guard is not None:
                tests.append((i, guard, len(plain)))
            plain.append(i)
        if not gates and not tests:
            return buffer, index
        gate: UOp | None = None
        for g in gates:
            gate = g if gate is None else alu(Op.AND, gate, g)
        known = self.stack[here].inside
        moved = depth is not None and gate is None and all(least(size) > 0 for _, (_, _, size), _ in tests)
        for i, (access, axis, size), place in tests:
            key = i, size, gate
            if key not in known:
                at = i if i.op in (Op.VAR, Op.CONST) else self._let("at", i, here)
                ok = self._let("ok", alu(Op.AND, alu(Op.LE, idx(0), at), alu(Op.LT, at, self.sized(idx(size)))), here)
                quiet = ok if gate is None else alu(Op.OR, alu(Op.NOT, gate), ok)
                self.stack[here].body.append(Guard(quiet, access, axis, at, number=self._iteration(access, here)))
                known[key] = at, ok
            plain[place], inside = known[key]
            if moved:
                plain[place] = alu(Op.WHERE, inside, plain[place], idx(0))
                continue
            gate = inside if gate is None else alu(Op.AND, gate, inside)
        if gate is None or not plain:
            return buffer, tuple(plain)
        first = UOp(Op.WHERE, dt.index, (gate, plain[0], UOp(Op.INVALID, dt.index)))
        return buffer, (first, *plain[1:])

    def _iteration(self, access: int, depth: int) -> UOp | None:
        """The number of an iteration of the loops around a test, row by row; None where another test has others."""
        loops = [b for b in self.stack[1 : depth + 1] if b.range is not None and b.var is not None]
        ranges = tuple((self.ranges_named[b.range], b.range.extent) for b in loops if b.range is not None)
        if self.numbered.setdefault(access, ranges) != ranges or math.prod(n for _, n in ranges) > dt.int64.max:
            return None
        number = idx(0)
        for b in loops:
            assert b.range is not None and b.var is not None
            number = alu(Op.ADD, alu(Op.MUL, number, idx(b.range.extent)), b.var)
        return total(affine(number))

    def _contract(self, n: UOp, src: list[UOp], depth: int) -> UOp:
        x, lo, hi = src
        x = x if x.op in (Op.VAR, Op.CONST) else self._let("x", x, depth)
        ok = self._let("ok", alu(Op.AND, alu(Op.LE, lo, x), alu(Op.LT, x, hi)), depth)
        access, axis = n.arg
        number = self._iteration(access, depth)
        self.stack[depth].body.append(Guard(ok, access, axis, cast(x, dt.int64), number=number))
        return alu(Op.WHERE, ok, x, lo)


def _hint(n: UOp) -> str:
    if n.op is Op.INDEX:
        name = n.src[0].arg[3] if n.src[0].op is Op.STATE else getattr(n.src[0].arg, "name", None) or "tile"
        return f"{name}_"  # the element read; the array keeps its own name
    if n.op is Op.EXP:
        return "e"
    return {"x": "at", "b": "c"}.get(n.dtype.kind, "v")
