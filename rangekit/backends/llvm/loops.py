"""Loops of every kind as control flow: serial, unrolled, in step, and combined by halves.

A loop in step opens a lane for its body: what depends on the lane is a value for each of its iterations. Where it may
be cut short there are two versions, one without masks for a whole block and one with them for what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial as lazily
from itertools import count

from rangekit.backends.llvm.access import Access
from rangekit.backends.llvm.emit import TYPES, Lines, Names
from rangekit.backends.llvm.lanes import Lane, Value
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Loop, Stmt, Stop, Store, plain_update, variables
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, Reducer, Values, reducer
from rangekit.ir.uop import UOp, alu, idx, toposort

Ends = tuple[Value, Value, Value]  # of a loop in step: where each lane begins and ends, and the last end of all


class Loops(Access):
    """What a loop becomes. ``body`` and ``store``, the statements of one, are of a subclass."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.entry: list[str] = []  # stack slots: one inside a loop would be a new one each iteration
        self.numbers = count(-100, -1)
        self.ends: list[tuple[str, int] | None] = [None]  # where each loop goes on after its end, and its depth

    def body(self, stmts: tuple[Stmt, ...]) -> None:
        """Statements in order."""
        raise NotImplementedError

    def store(self, s: Store) -> None:
        """A value stored in every lane that runs."""
        raise NotImplementedError

    def serial(self, s: Loop) -> None:
        """One iteration after another. Where lanes have bounds of their own, what all of them run has no mask, and what
        is before and after that has one.
        """
        lo, hi = self._where_running(self.value(s.lo), _NEVER), self._end(s.hi)
        if lo.axes or hi.axes:
            begin, last = lo.items[0], self._over_lanes(s.hi, lambda: hi, "smax")
            if lo.axes:
                first, begin = (self._over_lanes(s.lo, lambda: lo, which) for which in ("smin", "smax"))
                begin = self.intrinsic("smin", "i64", begin, last)
                self._counted(s, first, begin, (lo, hi))
            shared = self._over_lanes(s.hi, lambda: hi, "smin")
            self._counted(s, begin, shared, None)
            if hi.axes:
                self._counted(s, self.intrinsic("smax", "i64", begin, shared), last, (lo, hi))
            return
        if s.lo.op is Op.CONST and s.hi.op is Op.CONST and s.hi.arg == s.lo.arg + 1:
            self.bound[s.var] = Value(dt.index, (str(s.lo.arg),), constant=s.lo.arg)
            self._inline(s.body)
            return
        self._counted(s, lo.items[0], hi.items[0], None)

    def _end(self, hi: UOp) -> Value:
        """Where a loop ends: at once in lanes that do not run, whose bounds mean nothing."""
        return self._where_running(self.value(hi), 0)

    def _where_running(self, bound: Value, other: int) -> Value:
        running = self.running(bound.axes)
        if running is None:
            return bound
        return self.elementwise(_EITHER, [running, bound, Value(dt.index, (str(other),), constant=other)])

    def _counted(self, s: Loop, lo: str, hi: str, own: tuple[Value, Value] | None) -> None:
        """The loop itself; ``own`` are the bounds of each lane, where those differ."""
        name = s.var.arg[-1]
        slot = self.name(f"{name}.slot")
        self.entry.append(f"  {slot} = alloca i64")
        head, inside, after = (self.label(f"{name}.{part}") for part in ("head", "body", "end"))
        self.push()
        self.line(f"store i64 {lo}, ptr {slot}")
        self.line(f"br label %{head}")
        self.lines.append(f"{head}:")
        var = self.make(f"load i64, ptr {slot}", name)
        more = self.make(f"icmp slt i64 {var}, {hi}", f"{name}.more")
        self.line(f"br i1 {more}, label %{inside}, label %{after}")
        self.lines.append(f"{inside}:")
        self.bound[s.var] = Value(dt.index, (var,), depth=self.here)
        outer = self.active
        if own is not None:
            at = self.bound[s.var]
            running = self.both(self.elementwise(_LESS, [at, own[1]]), self.elementwise(_LESS_EQUAL, [own[0], at]))
            self.active = self.both(outer, running)
        self.ends.append((after, len(self.open)) if self.active is None else None)
        self.body(s.body)
        self.ends.pop()
        self.active = outer
        following = self.make(f"add nsw i64 {var}, 1", f"{name}.next")
        self.line(f"store i64 {following}, ptr {slot}")
        self.line(f"br label %{head}")
        self.lines.append(f"{after}:")
        lines = self.pop()
        self.lines.append(lines)

    def stop(self, s: Stop) -> None:
        """The end of the loop around, where all lanes are to stop and it is one that can."""
        end, value = self.ends[-1], self.value(s.when)
        if end is None or end[1] != len(self.open) or value.axes:
            return
        on = self.label("on")
        self.line(f"br i1 {value.items[0]}, label %{end[0]}, label %{on}")
        self.lines.append(f"{on}:")

    def unrolled(self, s: Loop) -> None:
        """The body once for each iteration, where there are as many as there may be; a plain loop else."""
        if s.hi.op is not Op.CONST or s.lo.op is not Op.CONST:
            length = s.hi if s.lo.op is Op.CONST else alu(Op.ADD, s.hi, alu(Op.MUL, s.lo, idx(-1)))
            count = self.extreme(self.value(length), "smin")
            self.either(
                self.make(f"icmp eq i64 {count}, {s.width}", "full"),
                lambda: self.unrolled(replace(s, lo=idx(0), hi=idx(s.width))),
                lambda: self.serial(replace(s, kind="loop")),
            )
            return
        for n in range(s.lo.arg, s.hi.arg):
            self.push()  # what one copy computes is not another's
            self.bound[s.var] = Value(dt.index, (str(n),), depth=self.here, constant=n)
            self._inline(s.body)
            lines = self.pop()
            self.lines.append(lines)

    def _inline(self, stmts: tuple[Stmt, ...]) -> None:
        """An iteration without a loop of its own: the loop around is not the one that it could end."""
        self.ends.append(None)
        self.body(stmts)
        self.ends.pop()

    def either(self, condition: str, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Two versions of the code, one of which runs."""
        then, other, after = (self.label(part) for part in ("full", "part", "after"))
        text: Lines = [f"  br i1 {condition}, label %{then}, label %{other}"]
        known = self.fresh
        for label, emit in ((then, yes), (other, no)):
            self.push()
            self.fresh = dict(known)  # what one version reads anew is not known in the other
            self.lines.append(f"{label}:")
            emit()
            self.line(f"br label %{after}")
            text.append(self.pop())
        self.fresh = known
        self.lines += [*text, f"{after}:"]  # after what either of them has hoisted

    def in_step(self, s: Loop) -> None:
        """Loops that run in step, and those directly inside them: without masks where all of them are full."""
        chain = [s]
        while len(chain[-1].body) == 1:
            (inner,) = chain[-1].body
            if not isinstance(inner, Loop) or inner.kind not in ("upcast", "vector"):
                break
            if any(loop.var in variables(inner.lo) | variables(inner.hi) for loop in chain):
                break
            chain.append(inner)
        partial = [loop for loop in chain if not _whole(loop)]
        if not partial:
            self._chain(chain, {})
            return
        full = None
        for loop in partial:
            tests = [f"icmp sge i64 {self._over_lanes(loop.hi, lazily(self._end, loop.hi), 'smin')}, {loop.width}"]
            if loop.lo.op is not Op.CONST:
                tests.append(f"icmp sle i64 {self._over_lanes(loop.lo, lazily(self.value, loop.lo), 'smax')}, 0")
            for test in tests:
                whole = self.make(test, "full")
                full = whole if full is None else self.make(f"and i1 {full}, {whole}", "full")
        assert full is not None

        def part() -> None:
            ends = {}
            for loop in partial:
                most = self._over_lanes(loop.hi, lazily(self._end, loop.hi), "smax")
                ends[loop.var] = self.value(loop.lo), self._end(loop.hi), Value(dt.index, (most,), depth=self.here)
            self._chain(chain, ends)

        if any(loop.hi.op is Op.CONST and loop.hi.arg < loop.width for loop in partial):
            part()
            return
        self.either(full, lambda: self._chain(chain, {}), part)

    def _chain(self, chain: list[Loop], ends: dict[UOp, Ends]) -> None:
        opened = []
        self.push()  # what depends on the lanes is theirs: another version of the loops has other values
        for loop in chain:
            width = min(loop.width, loop.lanes) if loop.kind == "vector" else 1
            lane = Lane(loop.var, loop.width // width, width)
            opened.append(lane)
            self.open.append(lane)
            self.bind(lane, ends.get(loop.var))
        self.body(chain[-1].body)
        for lane in opened:
            self.open.remove(lane)
            self.exact.pop(lane.var, None)
            self.masks.pop(lane, None)
        lines = self.pop()
        self.lines.append(lines)

    def bind(self, lane: Lane, ends: Ends | None) -> None:
        """The variable of a lane loop. Outside the bounds of its loop a plain lane repeats the nearest iteration, a
        vector one is masked: nothing outside is touched either way.
        """
        depth = self.here
        if lane.width > 1:
            items = tuple(
                "<" + ", ".join(f"i64 {c * lane.width + n}" for n in range(lane.width)) + ">" for c in range(lane.count)
            )
            self.bound[lane.var] = Value(dt.index, items, (lane,), lane.width, depth)
            self.exact[lane.var] = lane
            if ends is not None:
                self.masks[lane] = self._between(self.bound[lane.var], *ends[:2])
            return
        plain = Value(dt.index, tuple(map(str, range(lane.count))), (lane,), 1, depth)
        if ends is None:
            self.bound[lane.var] = plain
            self.exact[lane.var] = lane
            return
        start, end, most = ends
        last = self.elementwise(_ADD, [most, Value(dt.index, ("-1",), constant=-1)])
        last = self.elementwise(_MAX, [last, Value(dt.index, ("0",), constant=0)])  # where no lane runs, the first
        nearest = plain
        if start.constant is None:
            nearest = self.elementwise(_MAX, [plain, Value(dt.index, (self.extreme(start, "smin"),), depth=depth)])
        self.bound[lane.var] = self.elementwise(_MIN, [nearest, last])
        self.masks[lane] = self._between(plain, start, end)

    def _between(self, lane: Value, start: Value, end: Value) -> Value:
        """The iterations of a lane loop that are in its bounds."""
        inside = self.elementwise(_LESS, [lane, end])
        if start.constant is not None:
            return inside
        return self.elementwise(_BOTH, [self.elementwise(_LESS_EQUAL, [start, lane]), inside])

    def tree(self, s: Loop) -> None:
        """Partial results combined by halves: vectors with vectors, the halves of one, then the accumulator."""
        stores = [t for t in s.body if isinstance(t, Store)]
        assert stores[0].update is not None
        how = reducer(stores[0].update)
        self.push()
        lane = Lane(s.var, s.width // s.lanes, s.lanes)
        self.open.append(lane)
        self.bind(lane, None)
        values = [self.value(t.operand) for t in stores if t.operand is not None]
        own = [tuple(a for a in v.axes if a is not lane) for v in values]
        rows = [[replace(v, axes=o, items=tuple(v.at({**p, lane: n}) for p in self.positions(o)), wide=v.wide)
                 for v, o in zip(values, own, strict=True)] for n in range(lane.count)]  # fmt: skip
        self.open.remove(lane)
        while len(rows) > 1:
            half = (len(rows) + 1) // 2
            rows = [self._combined(how, rows[n], rows[n + half]) if n + half < len(rows) else rows[n]
                    for n in range(half)]  # fmt: skip
        row, wide = rows[0], lane.width
        while wide > 1:
            low, high = ([self._half(v, wide, first) for v in row] for first in (0, wide // 2))
            wide //= 2
            row = self._combined(how, low, high)
        olds = tuple(UOp(Op.INDEX, t.buffer.dtype, (t.buffer, *t.index)) for t in stores)
        names = self._named(row)
        if len(stores) == 1 and plain_update(stores[0]):  # lanes around it may share the accumulator
            (t,), (new,) = stores, how.combine(olds, names)
            self.store(replace(t, value=new, operand=names[0]))
        else:
            for t, name in zip(stores, self._named(self._values(how.combine(olds, names))), strict=True):
                self.store(replace(t, value=name, update=None, operand=None))
        lines = self.pop()
        self.lines.append(lines)

    def _combined(self, how: Reducer | Formula, a: list[Value], b: list[Value]) -> list[Value]:
        return self._values(how.combine(self._named(a), self._named(b)))

    def _values(self, roots: Values) -> list[Value]:
        """The values of a graph, which may be deep, as expressions are not."""
        for n in toposort(*roots, into=lambda n: n.op is not Op.INDEX):
            self.value(n)
        return [self.value(n) for n in roots]

    def _named(self, values: list[Value]) -> tuple[UOp, ...]:
        names = tuple(UOp(Op.VAR, v.dtype, (), ("let", next(self.numbers), "side")) for v in values)
        self.bound.update(zip(names, values, strict=True))
        return names

    def _half(self, v: Value, wide: int, first: int) -> Value:
        """The lower or upper half of vectors; single elements when there are two."""
        kind, half = TYPES[v.dtype], wide // 2
        shape = f"<{wide} x {kind}>"
        if half == 1:
            items = tuple(self.make(f"extractelement {shape} {i}, i32 {first}", "h") for i in v.items)
        else:
            order = ", ".join(f"i32 {first + n}" for n in range(half))
            items = tuple(
                self.make(f"shufflevector {shape} {i}, {shape} poison, <{half} x i32> <{order}>", "h") for i in v.items
            )
        return replace(v, items=items, wide=half)

    def _over_lanes(self, n: UOp, value: Callable[[], Value], which: str) -> str:
        """The least or greatest bound of a loop over lanes: without a look at all where the first or last has it."""
        lanes = [v for v in _variables(n) if v in self.exact]
        if len(lanes) == len(set(lanes)) and self.running([self.exact[v] for v in lanes]) is None:
            there = self._at_an_end(n, which == "smax")
            single = self.value(there) if there is not None else None
            if single is not None and not single.axes:
                return single.items[0]
        return self.extreme(value(), which)

    def _at_an_end(self, n: UOp, greatest: bool) -> UOp | None:
        """An index at that one of the lanes where it is least or greatest, if it rises or falls with each of them."""
        if n.op is Op.VAR:
            lane = self.exact.get(n)
            return n if lane is None or lane in self.fixed else idx(lane.count * lane.width - 1 if greatest else 0)
        if n.op is Op.CONST:
            return n
        factor = n.src[1].arg if n.op in (Op.MUL, Op.IDIV) and n.src[1].op is Op.CONST else None
        if n.op is Op.MUL and factor is not None:
            x = self._at_an_end(n.src[0], greatest is (factor > 0))
        elif n.op is Op.IDIV and factor is not None and factor > 0:
            x = self._at_an_end(n.src[0], greatest)
        elif n.op in (Op.ADD, Op.MIN, Op.MAX):
            a, b = (self._at_an_end(s, greatest) for s in n.src)
            return None if a is None or b is None else alu(n.op, a, b)
        else:
            x = None
        return None if x is None else alu(n.op, x, n.src[1])

    def extreme(self, value: Value, which: str) -> str:
        """The least ("smin") or greatest ("smax") of an index over its lanes."""
        outer, self.lines = self.lines, self.scopes[value.depth].lines
        answer = value.items[0]
        width, self.lanes = self.lanes, value.wide
        for item in value.items[1:]:
            answer = self.intrinsic(which, "i64", answer, item)
        self.lanes = width
        if value.wide > 1:
            shape = f"<{value.wide} x i64>"
            answer = self.call("i64", f"llvm.vector.reduce.{which}.v{value.wide}i64", (shape, answer))
        self.lines = outer
        return answer


def _variables(n: UOp) -> list[UOp]:
    """The variables of an expression, each as often as it is there."""
    return [n] if n.op is Op.VAR else [v for s in n.src for v in _variables(s)]


def _whole(loop: Loop) -> bool:
    """Whether every lane of a loop in step runs."""
    return loop.lo.op is Op.CONST and loop.hi.op is Op.CONST and loop.hi.arg == loop.width


_NEVER = (1 << 63) - 1
_LESS_EQUAL = UOp(Op.LE, dt.bool_, (idx(0), idx(1)))
_LESS = UOp(Op.LT, dt.bool_, (idx(0), idx(1)))
_BOTH = UOp(Op.AND, dt.bool_, (_LESS, _LESS))
_EITHER = UOp(Op.WHERE, dt.index, (_LESS, idx(0), idx(1)))
_MAX = UOp(Op.MAX, dt.index, (idx(0), idx(1)))
_MIN = UOp(Op.MIN, dt.index, (idx(0), idx(1)))
_ADD = UOp(Op.ADD, dt.index, (idx(0), idx(1)))
