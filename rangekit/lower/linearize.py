"""From a kernel's graph to its loop nest: every statement in the deepest loop whose range it uses.

A stack of blocks, one per open loop. An expression goes to the deepest block whose range it uses and is remembered
there, which gives sharing and hoisting; a loop joins its parent after its body is filled, so what its body hoisted
stands before it. Sibling reductions share a loop when they have the same ranges, the same home, the same bounds and
the same depth of nested reductions (equal depths cannot depend on one another). Reductions with lanes keep an array of
accumulators (``place.lanes``). ``where=`` conditions on the reduced range become loop bounds (``limits``).
"""

from __future__ import annotations

from dataclasses import replace

from rangekit.ir import dtype as dt
from rangekit.ir.nest import Access, Guard, Nest, Print, PrintSite, Scratch, Stmt, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.spec import arity, bound_ranges, combines
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, alu, cast, idx, new_buffer, toposort
from rangekit.lower.blocks import Emit
from rangekit.lower.folded import Folds
from rangekit.lower.limits import Bounds, limits
from rangekit.lower.merge import merged, plain
from rangekit.lower.place import lanes, levels
from rangekit.lower.sizes import dims, ground, grounded, held, named
from rangekit.lower.states import aligned
from rangekit.lower.tidy import tidy

_ACCUMULATORS = {"add": "acc", "mul": "acc", "max": "hi", "min": "lo", "and": "every", "or": "some"}


def linearize(kernel: UOp, name: str, accesses: tuple[Access, ...], target: Target, strict: bool = False) -> Nest:
    """The loop nest of one KERNEL; of KERNELs one after another, their nests so."""
    body: list[Stmt] = []
    prints: list[PrintSite] = []
    count = 0
    kernel = aligned(kernel)
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
        accesses = tuple(
            replace(a, ranges=work.numbered[n]) if n in work.numbered and not a.ranges else a
            for n, a in enumerate(accesses)
        )
    body = list(grounded(tuple(body), sizes))
    arrays = {n: ground(n) for n in toposort(kernel) if n.op in (Op.PARAM, Op.BUFFER)}
    flat = tuple((new, n) for n, new in arrays.items() if new is not n)
    params = (*arrays.values(), *held(brought))
    written = {s.buffer for s in walk(tuple(body)) if isinstance(s, Store)}
    outputs = tuple(p for p in params if p in written)
    inputs = tuple(p for p in params if p not in written)
    nest = Nest(name, (*inputs, *outputs), tuple(body), frozenset(outputs), accesses, tuple(prints), strict=strict)
    return tidy(replace(nest, flat=flat))


class _Linearize(Folds):
    def __init__(self, kernel: UOp, target: Target, strict: bool, count: int, names: set[str],
                 sizes: dict[UOp, UOp]) -> None:  # fmt: skip
        super().__init__(kernel, count, names, sizes)
        self.target, self.strict = target, strict
        self.lanes = {n: lanes(n, target) for n in self.order if n.op is Op.REDUCE}
        self.groups: dict[object, list[UOp]] = {}
        self.limits: dict[UOp, tuple[dict[UOp, Bounds], tuple[UOp, ...]]] = {}
        self._group()
        self.under = {s: set(toposort(s)) for s in kernel.src} if len(kernel.src) > 1 else {}
        self.states = {}
        self.prints: list[PrintSite] = []

    def run(self) -> list[Stmt]:
        """Fill the nest from the stores down."""
        self._stores([(s, bound_ranges(s)) for s in self.kernel.src])
        return self.root.body

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
            value = self._bind(n, (yield n.src[0].src[-2]), depth)
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
            value = src[0] if isinstance(n.arg, str) else self._contract(n, src, depth)
        else:
            value = n if tuple(src) == n.src else n.replace(src=tuple(src))
        value = self._bind(n, value, depth)
        self.stack[depth].memo[n] = value
        return value

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
