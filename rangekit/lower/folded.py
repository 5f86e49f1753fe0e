"""Folds and scans as loops: states in registers or arrays, replaced when everything that reads the old ones is done."""

from __future__ import annotations

from collections.abc import Generator

from rangekit.ir import dtype as dt
from rangekit.ir.nest import Scratch, Stmt, Stop, Store
from rangekit.ir.ops import Op
from rangekit.ir.spec import binding
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, alu, idx, new_buffer, toposort
from rangekit.lower.blocks import Blocks, Emit
from rangekit.lower.limits import Bounds, bounded
from rangekit.lower.proof import conjuncts


class Folds(Blocks):
    """What a fold, and a scan read in order, put into the blocks."""

    states: dict[int, tuple[tuple[UOp, ...], tuple[UOp, ...]]]  # of a fold's number: its arrays, and their lanes

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
        yield from self._next(key, scan.src[count : 2 * count], buffers, lanes)
        self.stack += inner


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
