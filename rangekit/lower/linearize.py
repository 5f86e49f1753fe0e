"""From a kernel's graph to its loop nest: every statement in the deepest loop whose range it uses.

A stack of blocks, one per open loop. An expression goes to the deepest block whose range it uses and is remembered
there, which gives sharing and hoisting; a loop joins its parent after its body is filled, so what its body hoisted
stands before it. Sibling reductions share a loop when they have the same ranges, the same home, the same bounds and
the same depth of nested reductions (equal depths cannot depend on one another). Reductions with lanes keep an array of
accumulators (``place.lanes``). ``where=`` conditions on the reduced range become loop bounds (``limits``).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from rangekit.ir import dtype as dt
from rangekit.ir.binding import substitute
from rangekit.ir.nest import Access, Guard, Let, Loop, Nest, Print, PrintSite, Scratch, Stmt, Stop, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.spec import arity, binding, bound_ranges, combines
from rangekit.ir.symbolic import simplify
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, alu, cast, idx, new_buffer, toposort
from rangekit.lower.limits import Bounds, bounded, limits
from rangekit.lower.loops import substitution
from rangekit.lower.merge import merged, plain
from rangekit.lower.place import lanes, levels
from rangekit.lower.proof import conjuncts
from rangekit.lower.sizes import dims, ground, grounded, held, named
from rangekit.lower.tidy import MAX_TREE, tidy

Emit = Generator[UOp, UOp, UOp]
_ACCUMULATORS = {"add": "acc", "mul": "acc", "max": "hi", "min": "lo", "and": "every", "or": "some"}


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


def linearize(kernel: UOp, name: str, accesses: tuple[Access, ...], target: Target, strict: bool = False) -> Nest:
    """The loop nest of one KERNEL; of KERNELs one after another, their nests so."""
    body: list[Stmt] = []
    prints: list[PrintSite] = []
    count = 0
    names = {n.arg.name for n in toposort(kernel) if n.op is Op.RANGE and n.arg.name}
    brought = dims(kernel)
    lets, sizes = named(brought, 1)
    body += lets
    count = len(lets)
    for part in kernel.src if kernel.src and kernel.src[0].op is Op.KERNEL else (kernel,):
        work = _Linearize(part, target, strict, count, names, sizes)
        body += work.run()
        prints += work.prints
        names |= set(work.ranges_named.values())
        count = work.count
    body = list(grounded(tuple(body), sizes))
    params = tuple(ground(n) for n in toposort(kernel) if n.op in (Op.PARAM, Op.BUFFER)) + tuple(held(brought))
    written = {s.buffer for s in walk(tuple(body)) if isinstance(s, Store)}
    outputs = tuple(p for p in params if p in written)
    inputs = tuple(p for p in params if p not in written)
    return tidy(
        Nest(name, (*inputs, *outputs), tuple(body), frozenset(outputs), accesses, tuple(prints), strict=strict)
    )


class _Linearize:
    def __init__(self, kernel: UOp, target: Target, strict: bool, count: int, names: set[str],
                 sizes: dict[UOp, UOp]) -> None:  # fmt: skip
        self.kernel, self.target, self.strict, self.count = kernel, target, strict, count
        self.order = toposort(kernel)
        self.consumers: dict[UOp, int] = {}
        self.counted: set[UOp] = set()
        self._count(kernel)
        self.written = {s.src[0].src[0] for s in kernel.src if s.op is Op.STORE}
        self.lanes = {n: lanes(n, target) for n in self.order if n.op is Op.REDUCE}
        self.groups: dict[object, list[UOp]] = {}
        self.limits: dict[UOp, tuple[dict[UOp, Bounds], tuple[UOp, ...]]] = {}
        self._group()
        self.under = {s: set(toposort(s)) for s in kernel.src} if len(kernel.src) > 1 else {}
        self.sizes: dict[UOp, int] = {}
        self.ranges_named: dict[UOp, str] = {}
        self._name_ranges(names)
        self.states: dict[int, tuple[tuple[UOp, ...], tuple[UOp, ...]]] = {}  # a fold's arrays, and its lanes
        self.root = Block(None, None, frozenset(kernel.src), memo=dict(sizes))
        self.sized = substitution(sizes)
        self.stack = [self.root]
        self.prints: list[PrintSite] = []

    def run(self) -> list[Stmt]:
        """Fill the nest from the stores down."""
        self._stores([(s, bound_ranges(s)) for s in self.kernel.src])
        return self.root.body

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

    # ---- groups of reductions --------------------------------------------------------------------------------------

    def _group(self) -> None:
        level, held = levels(self.kernel), dict[UOp, frozenset[int]]()
        for n in self.order:  # the folds whose states a node reads: inside others it would have others
            inside = frozenset[int]().union(*(held[s] for s in n.src))
            own = {n.arg[0]} if n.op in (Op.STATE, Op.FOLD, Op.SCAN) else set()
            held[n] = inside | own if n.op is Op.STATE else inside - own
        for n in self.order:
            if n.op is Op.REDUCE:
                self.limits[n] = limits(n)
                bounds = frozenset(self.limits[n][0].items())
                bounding = {r for pair in self.limits[n][0].values() for e in pair if e is not None for r in e.ranges}
                self.lanes[n] = tuple(r for r in self.lanes[n] if r not in bounding)  # bounds are known before lanes
                ranges = n.src[arity(n) :]
                key = (ranges, n.ranges - set(self.lanes[n]), level[n], bounds, held[n])
                self.groups.setdefault(key, []).append(n)
        self.group_of = {n: members for members in self.groups.values() for n in members}

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

    # ---- stores ----------------------------------------------------------------------------------------------------

    def _stores(self, pending: list[tuple[UOp, tuple[UOp, ...]]]) -> None:
        for first in dict.fromkeys(ranges[0] for _, ranges in pending if ranges):
            inside = [(s, ranges[1:]) for s, ranges in pending if ranges and ranges[0] is first]
            self._push(first, frozenset(s for s, _ in inside))
            self._stores(inside)
            self._pop(idx(0), self.sized(first.size))
        for s, ranges in pending:
            if not ranges:
                self._effect(s)

    def _effect(self, s: UOp) -> None:
        if s.op is Op.PRINT:
            label, _, closed = s.arg
            value, when = self._run(s.src[0]), self._run(s.src[1])
            loops = s.src[2:]
            named = tuple(self.ranges_named[r] for r in loops[: len(loops) - closed])
            self.prints.append(PrintSite(label, named, tuple(r.extent for r in loops[len(loops) - closed :])))
            indices = tuple(self._run(r) for r in loops)
            self.stack[-1].body.append(Print(len(self.prints) - 1, indices, value, when))
            return
        for n in s.src[2:3]:
            if n.op is Op.CLAIM:
                self._claim(n)
        value = self._run(s.src[1])
        index = tuple(self._run(i) for i in s.src[0].src[1:])
        buffer, index = self._gated(s.src[0].src[0], index)
        how = combines(s)
        if how is None:
            self.stack[-1].body.append(Store(buffer, index, value))
            return
        index = tuple(map(self._once, index))
        new = _added(how, UOp(Op.INDEX, buffer.dtype, (buffer, *index)), value, self.strict)
        self.stack[-1].body.append(Store(buffer, index, new, how, value))

    def _claim(self, n: UOp) -> None:
        """A test that two numbers are equal, where both are known."""
        other, value = (cast(self._run(s), dt.int64) for s in n.src)
        depth = self._home(n.ranges)
        ok = self._let("ok", alu(Op.EQ, other, value), depth)
        self.stack[depth].body.append(Guard(ok, n.arg, 0, value, other))

    def _once(self, i: UOp) -> UOp:
        """An index that is used twice: one that is long or read from memory gets a name."""
        if i.op is Op.WHERE and i.src[2].op is Op.INVALID:
            return i.replace(src=(i.src[0], self._once(i.src[1]), i.src[2]))
        plain = i.op in (Op.VAR, Op.CONST) or (
            self.sizes.get(i, 0) <= 4 and all(n.op is not Op.INDEX for n in toposort(i))
        )
        return i if plain else self._let("at", i, len(self.stack) - 1)

    # ---- expressions -----------------------------------------------------------------------------------------------

    def _run(self, root: UOp) -> UOp:
        """Drive ``_emit`` with a stack of our own."""
        work: list[Emit] = [self._emit(root)]
        answer: UOp | None = None
        while work:
            try:
                want = work[-1].send(answer)  # type: ignore[arg-type]
            except StopIteration as done:
                work.pop()
                answer = done.value
                continue
            known = self._known(want)
            if known is None:
                work.append(self._emit(want))
            answer = known
        assert answer is not None
        return answer

    def _known(self, n: UOp) -> UOp | None:
        if n.op is Op.CONST or n.op is Op.INVALID:
            return n
        if n.op is Op.RANGE:
            return self.stack[self._home(frozenset((n,)))].var
        if n.op is Op.REDUCE or n.op is Op.GET or n.op is Op.FOLD:
            return None
        return self.stack[self._home(n.ranges)].memo.get(n)

    def _emit(self, n: UOp) -> Emit:
        known = self._known(n)
        if known is not None:
            return known
        if n.op is Op.FOLD or (n.op is Op.GET and n.src[0].op is Op.FOLD):
            return UOp(Op.INDEX, n.dtype, ((yield from self._folded(n)),))
        if n.op is Op.REDUCE or n.op is Op.GET:
            return (yield from self._accumulator(n))
        depth = self._home(n.ranges)
        if n.op is Op.INDEX and n.src[0].op is Op.SCAN:
            yield from self._advance(n)
            given = substitute(n.src[0].src[-2], {n.src[0].src[-1]: n.src[1]})
            self._count(given)
            value = self._bind(n, (yield given), depth)
            self.stack[depth].memo[n] = value
            return value
        if n.op is Op.STATE:
            value = self._let(n.arg[3], UOp(Op.INDEX, n.dtype, self._held(n)), depth)
            self.stack[depth].memo[n] = value
            return value
        buffer: UOp | None = None
        lanes: tuple[UOp, ...] = ()
        if n.op is Op.INDEX:
            buffer = n.src[0]
            if buffer.op is Op.BUFFERIZE:
                buffer = yield from self._scratch(buffer)
            elif buffer.op is Op.STATE:
                held = self._held(buffer)
                buffer, lanes = held[0], held[1:]
            elif buffer.op in (Op.GET, Op.FOLD):
                buffer = yield from self._folded(buffer)
        src = []
        for s in n.src[1:] if buffer is not None else n.src:
            src.append((yield s))
        if buffer is not None:
            buffer, index = self._gated(buffer, (*lanes, *src), depth)
            value = UOp(Op.INDEX, n.dtype, (buffer, *index))
        elif n.op is Op.IN_RANGE:
            value = self._contract(n, src, depth)
        else:
            value = n if tuple(src) == n.src else n.replace(src=tuple(src))
        value = self._bind(n, value, depth)
        self.stack[depth].memo[n] = value
        return value

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
        """The access with its gates on the first index and its guards as statements before it."""
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
        for i, (access, axis, size), place in tests:
            key = i, size, gate
            if key not in known:
                at = i if i.op in (Op.VAR, Op.CONST) else self._let("at", i, here)
                ok = self._let("ok", alu(Op.AND, alu(Op.LE, idx(0), at), alu(Op.LT, at, self.sized(idx(size)))), here)
                quiet = ok if gate is None else alu(Op.OR, alu(Op.NOT, gate), ok)
                self.stack[here].body.append(Guard(quiet, access, axis, at))
                known[key] = at, ok
            plain[place], inside = known[key]
            gate = inside if gate is None else alu(Op.AND, gate, inside)
        assert gate is not None
        if not plain:
            return buffer, ()
        first = UOp(Op.WHERE, dt.index, (gate, plain[0], UOp(Op.INVALID, dt.index)))
        return buffer, (first, *plain[1:])

    def _contract(self, n: UOp, src: list[UOp], depth: int) -> UOp:
        x, lo, hi = src
        x = x if x.op in (Op.VAR, Op.CONST) else self._let("x", x, depth)
        ok = self._let("ok", alu(Op.AND, alu(Op.LE, lo, x), alu(Op.LT, x, hi)), depth)
        access, axis = n.arg
        self.stack[depth].body.append(Guard(ok, access, axis, cast(x, dt.int64)))
        return alu(Op.WHERE, ok, x, lo)

    # ---- reductions and scratch ------------------------------------------------------------------------------------

    def _accumulator(self, n: UOp) -> Emit:
        """The read of a reduction's accumulator, its loop emitted if it is not yet there."""
        reduction, which = (n.src[0], n.arg) if n.op is Op.GET else (n, 0)
        home = self._home(reduction.ranges - set(self.lanes[reduction]))
        own = self._own(reduction, home)
        if reduction not in self.stack[home].accumulators:
            yield from self._reductions(reduction, home)
        buffer = self.stack[home].accumulators[reduction][which]
        value = UOp(Op.INDEX, buffer.dtype, (buffer, *self._variables(own)))
        self.sizes[value] = 1
        return value

    def _reductions(self, first: UOp, home: int) -> Emit:
        """Emit the loop that computes ``first`` and every sibling of it that is wanted here."""
        block = self.stack[home]
        wanted = set().union(*(self.under[s] for s in block.stores)) if self.under else None
        members = [m for m in self.group_of[first] if (wanted is None or m in wanted) and m not in block.accumulators]
        inner, self.stack = self.stack[home + 1 :], self.stack[: home + 1]
        ranges = first.src[arity(first) :]
        within = {r: self._within(first, r) for r in ranges}
        ends: dict[UOp, tuple[UOp, UOp]] = {}
        for r, (lo, hi) in within.items():
            if (lo.ranges | hi.ranges).isdisjoint(ranges):
                ends[r] = (yield lo), (yield hi)
        own_lanes = {m: self._own(m, home) for m in members}
        made = [(m, self._start(m, own_lanes[m])) for m in members]
        for r, (lo, hi) in within.items():
            if r not in ends:  # its bounds depend on the ranges before it
                ends[r] = (yield lo), (yield hi)
            self._push(r, block.stores)
        for own in dict.fromkeys(own_lanes.values()):
            self._loop_over(own, block.stores)
            for m, buffers in made:
                if own_lanes[m] == own:
                    yield from self._update(m, buffers, own)
            self._close(own)
        for r in reversed(ranges):
            self._pop(*ends[r])
        block.accumulators.update(made)
        self.stack += inner
        return first

    def _within(self, reduction: UOp, r: UOp) -> tuple[UOp, UOp]:
        """The bounds of a reduced range."""
        lo, hi = self.limits[reduction][0].get(r, (None, None))
        return idx(0) if lo is None else lo, r.size if hi is None else hi

    def _own(self, m: UOp, home: int) -> tuple[UOp, ...]:
        """The lanes of a reduction whose loops are not around its home already."""
        around = {b.range for b in self.stack[: home + 1]}
        return tuple(r for r in self.lanes[m] if r not in around)

    def _start(self, m: UOp, own: tuple[UOp, ...]) -> tuple[UOp, ...]:
        """Accumulators for a reduction, set to its identity in the innermost block."""
        values, block = m.src[: arity(m)], self.stack[-1]
        shape = tuple(r.extent for r in own)
        memory = "local" if own else "register"
        names = ("best", "at") if m.arg in ("argmax", "argmin") else (_ACCUMULATORS.get(m.arg, "state"),) * len(values)
        buffers = tuple(new_buffer(v.dtype, shape, name, memory) for v, name in zip(values, names, strict=True))
        block.body.extend(Scratch(buffer) for buffer in buffers)
        self._loop_over(own, block.stores)
        at = self._variables(own)
        neutral = reducer(m.arg).identity(tuple(v.dtype for v in values))
        self.stack[-1].body.extend(Store(b, at, e) for b, e in zip(buffers, neutral, strict=True))
        self._close(own)
        return buffers

    def _update(self, m: UOp, buffers: tuple[UOp, ...], own: tuple[UOp, ...]) -> Emit:
        values = []
        for v in self.limits[m][1]:
            values.append((yield v))
        at = self._variables(own)
        old = tuple(UOp(Op.INDEX, b.dtype, (b, *at)) for b in buffers)
        body, depth, how = self.stack[-1].body, len(self.stack) - 1, reducer(m.arg)
        if isinstance(m.arg, str) and how.arity == 1:
            body.append(Store(buffers[0], at, _added(m.arg, old[0], values[0], self.strict), m.arg, values[0]))
            return m
        named = tuple(v if v.op in (Op.VAR, Op.CONST) else self._let("v", v, depth) for v in values)
        new = plain(how, old[0], named[0])
        if new is not None:
            body.append(Store(buffers[0], at, new, m.arg, named[0]))
            return m
        before = tuple(self._let("old", o, depth) for o in old)
        combined = merged(how, before, named, lambda hint, v: self._let(hint, v, depth))
        after = [self._let("new", v, depth) for v in combined]
        body.extend(Store(buffer, at, v, m.arg, v) for buffer, v in zip(buffers, after, strict=True))
        return m

    # ---- folds and scans -------------------------------------------------------------------------------------------

    def _folded(self, n: UOp) -> Emit:
        """The array or register that holds a fold's state after its loop, the loop emitted if it is not yet there."""
        fold, which = (n.src[0], n.arg) if n.op is Op.GET else (n, 0)
        home = self._home(fold.ranges)
        block = self.stack[home]
        if fold not in block.accumulators:
            inner, self.stack = self.stack[home + 1 :], self.stack[: home + 1]
            count = fold.arg[1]
            buffers = yield from self._first(fold, ())
            self._push(fold.src[-1], block.stores)
            outer = self.states.get(fold.arg[0])
            self.states[fold.arg[0]] = (buffers, ())
            stop = _stopping(fold)
            if stop is not None:
                when = yield stop
                self.stack[-1].body.append(Stop(when))
            yield from self._next(fold, fold.src[count : 2 * count], buffers, ())
            self._pop(idx(0), self.sized(fold.src[-1].size))
            if outer is not None:
                self.states[fold.arg[0]] = outer
            block.accumulators[fold] = buffers
            self.stack += inner
        return block.accumulators[fold][which]

    def _held(self, state: UOp) -> tuple[UOp, ...]:
        """The array that holds a state, and the variables of its lanes."""
        buffers, lanes = self.states[state.arg[0]]
        return (buffers[state.arg[1]], *self._variables(lanes))

    def _first(self, fold: UOp, lanes: tuple[UOp, ...]) -> Generator[UOp, UOp, tuple[UOp, ...]]:
        """The states of a fold or scan, set to its first ones in the innermost block."""
        names = {m.arg[1]: m.arg[3] for m in toposort(*fold.src) if m.op is Op.STATE and m.arg[0] == fold.arg[0]}
        block, buffers = self.stack[-1], []
        for k, init in enumerate(fold.src[: fold.arg[1]]):
            shape = tuple(r.extent for r in lanes) + init.shape
            buffers.append(new_buffer(init.dtype, shape, names.get(k, "state"), "local" if shape else "register"))
            block.body.append(Scratch(buffers[-1]))
        for buffer, init in zip(buffers, fold.src[: fold.arg[1]], strict=True):
            axes, element = (init.src[1:], init.src[0]) if init.shape else ((), init)
            self._loop_over((*lanes, *axes), block.stores)
            value = yield element
            self.stack[-1].body.append(Store(buffer, self._variables((*lanes, *axes)), value))
            self._close((*lanes, *axes))
        return tuple(buffers)

    def _next(
        self, fold: UOp, news: tuple[UOp, ...], buffers: tuple[UOp, ...], lanes: tuple[UOp, ...]
    ) -> Generator[UOp, UOp, None]:
        """The next states computed from the old ones, which stay readable until the block's ``late`` statements run.

        An array whose elements depend on no other of its own, and no other state on them, is replaced in place, and of
        it only what changes.
        """
        depth = len(self.stack) - 1
        at = self._variables(lanes)
        late = self.stack[depth].late
        in_place = _own_places(fold, news)
        waiting = []
        for buffer, new in zip(buffers, news, strict=True):
            if new in in_place:
                waiting.append((buffer, new))
                continue
            if new.shape:
                fresh = new_buffer(new.dtype, new.shape, buffer.arg.name + "_next", "local")
                self.stack[-1].body.append(Scratch(fresh))
                axes = new.src[1:]
                self._loop_over(axes, self.stack[-1].stores)
                value = yield new.src[0]
                self.stack[-1].body.append(Store(fresh, self._variables(axes), value))
                self._close(axes)
                self._loop_over(axes, self.stack[-1].stores)
                inside = self._variables(axes)
                self.stack[-1].body.append(Store(buffer, (*at, *inside), UOp(Op.INDEX, new.dtype, (fresh, *inside))))
                copy = self._taken(axes)
                late.append(copy)
                continue
            value = yield new
            if value.op not in (Op.VAR, Op.CONST):
                value = self._let("new", value, depth)
                self.stack[depth].memo[new] = value
            late.append(Store(buffer, at, value, joins=fold.arg[2]))
        for number, (buffer, new) in enumerate(waiting):
            axes = new.src[1:]
            within, element = _changing(new, (fold.arg[0], buffers.index(buffer)))
            ends = []
            for r in axes:
                lo, hi = within.get(r, (None, None))
                ends.append(((yield idx(0) if lo is None else lo), (yield self.sized(r.size) if hi is None else hi)))
            self._loop_over(axes, self.stack[-1].stores)
            value = yield element
            self.stack[-1].body.append(Store(buffer, (*at, *self._variables(axes)), value))
            for end in reversed(ends):
                self._pop(*end)
            late.insert(number, self.stack[-1].body.pop())  # before the others change

    def _taken(self, axes: tuple[UOp, ...]) -> Stmt:
        """The loop that is open over ``axes``, closed and taken out of the block it would have joined."""
        self._close(axes)
        return self.stack[-1].body.pop()

    def _advance(self, n: UOp) -> Generator[UOp, UOp, None]:
        """The scan read by ``n`` carried one iteration further, in the loop that stands at it."""
        scan, r = n.src
        count = scan.arg[1]
        at = next(d for d in range(len(self.stack) - 1, 0, -1) if self.stack[d].range is r)
        key = UOp(Op.FOLD, scan.src[0].dtype, (*scan.src[: 2 * count], scan.src[-1]), scan.arg)
        block = self.stack[at]
        if key in block.accumulators:
            return
        here = self._home(key.ranges | {r})
        lanes = tuple(b.range for b in self.stack[at + 1 : here + 1] if b.range is not None)
        assert key.ranges.issuperset(lanes), "a loop between a scan's own runs its step again"
        deeper, self.stack = self.stack[at:], self.stack[:at]
        buffers = yield from self._first(key, lanes)
        self.stack += deeper
        block.accumulators[key] = buffers
        inner, self.stack = self.stack[here + 1 :], self.stack[: here + 1]
        self.states[scan.arg[0]] = (buffers, lanes)
        news = substitute(scan.src[count : 2 * count], {scan.src[-1]: r})
        self._count(*news)
        yield from self._next(key, news, buffers, lanes)
        self.stack += inner

    def _scratch(self, b: UOp) -> Emit:
        """The scratch array of a BUFFERIZE inside the kernel, filled in the innermost loop of its open ranges."""
        home = self._home(b.ranges)
        block = self.stack[home]
        if b in block.memo:
            return block.memo[b]
        inner, self.stack = self.stack[home + 1 :], self.stack[: home + 1]
        memory = "register" if b.arg.memory == "register" else "local"
        buffer = new_buffer(b.dtype, b.shape, b.arg.name or "tile", memory)
        block.body.append(Scratch(buffer))
        self._loop_over(b.src[1:], block.stores)
        value = yield b.src[0]
        self.stack[-1].body.append(Store(buffer, self._variables(b.src[1:]), value))
        self._close(b.src[1:])
        block.memo[b] = buffer
        self.stack += inner
        return buffer

    def _variables(self, ranges: tuple[UOp, ...]) -> tuple[UOp, ...]:
        """The innermost loop variable of each range."""
        found = (self.stack[self._home(frozenset((r,)))].var for r in ranges)
        return tuple(v for v in found if v is not None)


def _stopping(fold: UOp) -> UOp | None:
    """The state after which, once it is true, a fold changes none of its states."""
    count = fold.arg[1]
    news = fold.src[count : 2 * count]
    elements = [n.src[0] if n.shape else n for n in news]
    for new in elements:
        for stop in new.src if new.op is Op.OR and new.dtype is dt.bool_ else ():
            if stop.op is Op.STATE and stop.arg[:2] == (fold.arg[0], elements.index(new)) and all(
                e is new or (e.op is Op.WHERE and e.src[0] is stop and _own_state(e.src[1]) == (fold.arg[0], k)
                             and (not n.shape or e.src[1].src[1:] == n.src[1:]))
                for k, (e, n) in enumerate(zip(elements, news, strict=True))
            ):  # fmt: skip
                return stop
    return None


def _own_state(n: UOp) -> tuple[int, int] | None:
    state = n.src[0] if n.op is Op.INDEX else n
    return state.arg[:2] if state.op is Op.STATE else None


def _own_places(fold: UOp, news: tuple[UOp, ...]) -> set[UOp]:
    """The shaped states of which no element depends on others of its own but those read before any changes, and no
    other state on them.
    """
    out = set()
    for k, new in enumerate(news):
        if not new.shape:
            continue
        inside = toposort(new.src[0])
        own = set(new.src[1:])
        hidden = set(toposort(*(m for m in inside if (at := binding(m)) and own & set(m.src[at[1] :]))))
        elsewhere = set(toposort(*(n for n in news if n is not new)))
        reads = [m for m in inside for s in m.src if s.op is Op.STATE and s.arg[:2] == (fold.arg[0], k)]
        outside = [m for m in elsewhere if m.op is Op.STATE and m.arg[:2] == (fold.arg[0], k)]
        if not outside and all(
            m.op is Op.INDEX and m not in hidden and (m.src[1:] == new.src[1:] or own.isdisjoint(m.ranges))
            for m in reads
        ):
            out.add(new)
    return out


def _changing(new: UOp, own: tuple[int, int]) -> tuple[dict[UOp, Bounds], UOp]:
    """Where the elements of a state may change, as bounds of its axes, and what they become there."""
    element, axes = new.src[0], new.src[1:]
    if element.op is not Op.WHERE:
        return {}, element
    c, *values = element.src
    kept = [v.op is Op.INDEX and v.src[1:] == axes and _own_state(v) == own for v in values]
    if kept[0] is kept[1]:
        return {}, element
    found, rest = bounded(conjuncts(simplify(alu(Op.NOT, c)) if kept[0] else c), axes)
    ends = [e for pair in found.values() for e in pair if e is not None]
    if not found or any(not e.ranges.isdisjoint(axes) for e in ends):
        return {}, element
    value = values[kept[0]]
    for test in rest:
        value = alu(Op.WHERE, test, value, values[kept[1]])
    return found, value


def _added(name: str, old: UOp, value: UOp, strict: bool) -> UOp:
    """The accumulator after one more value; products of floats are contracted into the sum that consumes them."""
    terms = _products(value) if name == "add" and value.dtype in (dt.float32, dt.float64) else None
    if strict or terms is None:
        (new,) = reducer(name).combine((old,), (value,))
        return new
    for x, y in terms:
        old = UOp(Op.FMA, value.dtype, (x, y, old))
    return old


def _products(n: UOp) -> list[tuple[UOp, UOp]] | None:
    """The factors of a sum or difference of products; None if it is anything else."""
    if n.op is Op.MUL:
        return [(n.src[0], n.src[1])]
    if n.op not in (Op.ADD, Op.SUB):
        return None
    left, right = (_products(s) for s in n.src)
    if left is None or right is None:
        return None
    return left + (right if n.op is Op.ADD else [(alu(Op.NEG, x), y) for x, y in right])


def _hint(n: UOp) -> str:
    if n.op is Op.INDEX:
        name = n.src[0].arg[3] if n.src[0].op is Op.STATE else getattr(n.src[0].arg, "name", None) or "tile"
        return f"{name}_"  # the element read; the array keeps its own name
    if n.op is Op.EXP:
        return "e"
    return {"x": "at", "b": "c"}.get(n.dtype.kind, "v")
