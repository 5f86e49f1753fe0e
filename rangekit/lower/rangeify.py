"""Give every closed axis a range: tensors become functions from indices to scalar expressions.

``value(node, index)`` is the element of ``node`` at ``index``, memoised. Consumers are visited first, to learn at
which indices each tensor is wanted: one that is wanted at several gets a removable BUFFERIZE at once (a cheap leaf
excepted), so a stack of stencils stays as small as it was written; only *fuse* inlines. A shaped reduction always gets
one: its index may repeat, and may hold the very range that the reduction binds. Movement ops leave index arithmetic
behind and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

from rangekit.ir import dtype as dt
from rangekit.ir.ops import MOVEMENT, Op
from rangekit.ir.spec import arity, binding
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import Storage, UOp, alu, const, idx, new_range, toposort
from rangekit.lower.proof import checked, is_mark, proof

Index = tuple[UOp, ...]
Task = tuple[str, UOp, Index]
LEAVES = frozenset({Op.PARAM, Op.BUFFER, Op.BUFFERIZE, Op.ASSIGN, Op.CONST, Op.RANGE})


def rangeify(sink: UOp, carry: Callable[[UOp, UOp], None]) -> UOp:
    """The program with scalars over ranges only; ``carry(old, new)`` learns which node became which."""
    return _Rangeify(sink, carry).run(sink)


class _Rangeify:
    def __init__(self, sink: UOp, carry: Callable[[UOp, UOp], None]) -> None:
        self.carry = carry
        self.closed: dict[UOp, Index] = {}  # a range for each closed axis of a node that is stored
        self.buffered: set[UOp] = set()
        self.memo: dict[Task, UOp] = {}
        self._mark(sink)

    def _over(self, n: UOp) -> Index:
        if n not in self.closed:
            self.closed[n] = tuple(new_range(s) for s in n.shape)
        return self.closed[n]

    # ---- consumers first: who is wanted at several indices? ------------------------------------------------------

    def _mark(self, sink: UOp) -> None:
        order = toposort(sink)
        wanted: dict[UOp, dict[Index, None]] = {n: {} for n in order}
        for n in reversed(order):
            indices = list(wanted[n]) or [()]
            if n.shape and not _is_leaf(n) and (_is_reduction(n) or (len(indices) > 1 and not _cheap(n))):
                self.buffered.add(n)
                indices = [self._over(n)]
            for index in indices:
                for source, at in self._sources(n, index):
                    if source in wanted:
                        wanted[source][at] = None

    def _sources(self, n: UOp, index: Index) -> list[tuple[UOp, Index]]:
        """Which elements of its sources the element of ``n`` at ``index`` needs."""
        if n.op in MOVEMENT:
            return [(n.src[0], moved_index(n, index))]
        if n.op is Op.INDEX:
            head, tail = _split(n, index)
            picks = [(s, head if s.shape else ()) for s in n.src[1:]]
            own = tuple(self._marked(n, axis, _element(s, at)) for axis, (s, at) in enumerate(picks))
            return [*picks, (n.src[0], (*own, *tail))]
        if n.op is Op.BUFFERIZE:
            return [(n.src[0], self._over(n)[len(n.src) - 1 :])]
        if n.op is Op.ASSIGN:
            over = self._over(n.src[2])
            return [(n.src[1], over), (n.src[2], over), *((s, ()) for s in _claims(n))]
        if n.op is Op.PRINT:
            return [(n.src[0], self._over(n.src[0])), (n.src[1], ())]
        if n.op in (Op.SINK, Op.RANGE):
            return []
        bound = binding(n)
        if n.op in (Op.FOLD, Op.SCAN):  # each state over axes of its own; what a scan gives over all but the first
            count = 2 * n.arg[1]
            states = [(s, self._over(s)) for s in n.src[:count]]
            return [*states, *((s, self._over(n)[1:]) for s in n.src[count:-1])]
        return [(s, index if s.shape else ()) for s in (n.src if bound is None else n.src[: bound[1]])]

    def _marked(self, n: UOp, axis: int, i: UOp) -> UOp:
        """An index into a value that may get no storage, marked so that *check* still holds it against the axis."""
        size = n.src[0].shape[axis]
        if n.src[0].op in (Op.PARAM, Op.BUFFER) or proof(i, size, frozenset()) is not None:
            return i
        marked = UOp(Op.GUARD, dt.index, (i,), (None, axis, size))
        self.carry(n, marked)
        return marked

    # ---- producers first: build the scalar expressions -------------------------------------------------------------

    def run(self, sink: UOp) -> UOp:
        """Drive the mutually recursive generators with a stack of our own: graphs are deeper than Python's."""
        root: Task = ("sink", sink, ())
        stack: list[tuple[Task, Generator[Task, UOp, UOp]]] = [(root, self._sink(sink))]
        answer: UOp | None = None
        moved: list[tuple[UOp, UOp]] = []
        while stack:
            task, work = stack[-1]
            try:
                want = work.send(answer)  # type: ignore[arg-type]
            except StopIteration as done:
                stack.pop()
                answer = self.memo[task] = done.value
                if task[1].op in MOVEMENT:
                    moved.append((task[1], done.value))
                elif task[1] is not answer:
                    self.carry(task[1], done.value)
                continue
            answer = self.memo.get(want)
            if answer is None:
                kind, n, index = want
                stack.append((want, self._storage(n) if kind == "storage" else self._value(n, index)))
        for old, new in moved:  # last: the line that indexes a value says more than the one that reshaped it
            self.carry(old, new)
        assert answer is not None
        return answer

    def _sink(self, n: UOp) -> Generator[Task, UOp, UOp]:
        out = []
        for s in n.src:
            if s.op is Op.PRINT:
                over = self._over(s.src[0])
                shown, when = (yield ("value", s.src[0], over)), (yield ("value", s.src[1], ()))
                out.append(s.replace(src=(shown, when, *s.src[2:], *over), arg=(*s.arg, len(over))))
            else:
                out.append((yield ("storage", s, ())))
        return n.replace(src=tuple(out))

    def _storage(self, n: UOp) -> Generator[Task, UOp, UOp]:
        """The storage whose elements are those of ``n``."""
        if n.op in (Op.PARAM, Op.BUFFER):
            return n
        if n.op is Op.BUFFERIZE:
            tail = self._over(n)[len(n.src) - 1 :]
            inside = yield ("value", n.src[0], tail)
            if inside.op is Op.INDEX and inside.src[1:] == (*n.src[1:], *tail) and _is_made(inside.src[0], n):
                return inside.src[0]
            return n.replace(src=(inside, *n.src[1:], *tail))
        if n.op is Op.ASSIGN:
            over = self._over(n.src[2])
            base = yield ("storage", n.src[0], ())
            place, value = (yield ("value", n.src[1], over)), (yield ("value", n.src[2], over))
            while place.op is Op.GUARD:  # of an axis of size 1, say: its index is no part of the place
                place, value = place.src[0], place.replace(src=(value, place.src[1]), dtype=value.dtype)
                self.carry(n.src[1], value)
            claims = []
            for s in _claims(n):
                claims.append((yield ("value", s, ())))
            return n.replace(src=(base, place, value, *claims, *n.src[3 + len(claims) :], *over))
        if n.op is Op.STATE:
            return n
        if n.op is Op.GET and n.src[0].op is Op.FOLD:
            inner = yield ("storage", n.src[0], ())
            return n.replace(src=(inner,))
        if n.op is Op.FOLD:
            states = yield from self._states(n)
            return n.replace(src=(*states, n.src[-1]))
        over = self._over(n)
        inside = yield ("value", n, over)
        return UOp(Op.BUFFERIZE, n.dtype, (inside, *over), Storage())

    def _value(self, n: UOp, index: Index) -> Generator[Task, UOp, UOp]:
        """The element of ``n`` at ``index``."""
        stored = _is_leaf(n) and n.op not in (Op.CONST, Op.RANGE)
        if stored or (n in self.buffered and index != self.closed[n]):
            store = yield ("storage", n, ())
            at = []
            for i in index:
                at.append((yield ("value", i, ())))
            return UOp(Op.INDEX, n.dtype, (store, *at)) if at or not _is_fold(n) else store
        if n.op is Op.SCAN:
            states = yield from self._states(n)
            value = yield ("value", n.src[-2], index[1:])
            whole = n.replace(src=(*states, value, n.src[-1]))
            self.carry(n, whole)
            return UOp(Op.INDEX, n.dtype, (whole, index[0]))
        if n.op in (Op.CONST, Op.RANGE, Op.INVALID):
            return n
        if n.op is Op.INDEX or n.op in MOVEMENT:
            source, at_index = self._sources(n, index)[-1]
            element = yield ("value", source, at_index)
            for i in at_index if n.op is Op.INDEX else ():
                if is_mark(i):
                    mark = yield ("value", i, ())
                    element = checked(element, mark)
                    self.carry(n, element)
            if n.op is not Op.PAD:
                return element
            inside = yield ("value", _inside(n, index), ())
            return alu(Op.WHERE, inside, element, const(0, n.dtype))
        bound = binding(n)
        count = len(n.src) if bound is None else bound[1]
        out = []
        for s in n.src[:count]:
            out.append((yield ("value", s, index if s.shape else ())))
        return n.replace(src=(*out, *n.src[count:]))

    def _states(self, n: UOp) -> Generator[Task, UOp, list[UOp]]:
        """The first and next states of a FOLD or SCAN: scalars, or storage of their own."""
        out = []
        for s in n.src[: 2 * n.arg[1]]:
            if s.op is Op.BUFFERIZE and s.arg.memory == "register":
                out.append((yield ("storage", s, ())))
                continue
            over = self._over(s)
            inside = yield ("value", s, over)
            out.append(UOp(Op.BUFFERIZE, s.dtype, (inside, *over), Storage("register")) if over else inside)
        return out


def _split(n: UOp, index: Index) -> tuple[Index, Index]:
    """An INDEX's own index, as the part over its index tensors' axes and the part over the rest of the value."""
    gathered = len(index) - (n.src[0].ndim - (len(n.src) - 1))
    return index[:gathered], index[gathered:]


def _element(x: UOp, index: Index) -> UOp:
    return UOp(Op.INDEX, x.dtype, (x, *index)) if index else x


def _is_fold(n: UOp) -> bool:
    """A state, or what becomes of it: an array that the loop itself keeps."""
    return n.op is Op.STATE or (n.op is Op.GET and n.src[0].op is Op.FOLD)


def _is_leaf(n: UOp) -> bool:
    return n.op in LEAVES or _is_fold(n)


def _is_made(version: UOp, n: UOp) -> bool:
    """Whether contents that were written in place are all that a BUFFERIZE wants, in memory of the program's own."""
    if version.op is not Op.ASSIGN or version.shape != n.shape or n.arg.memory not in (None, "global"):
        return False
    while version.op is Op.ASSIGN:
        version = version.src[0]
    return version.op is Op.BUFFERIZE


def _claims(n: UOp) -> tuple[UOp, ...]:
    """What an ASSIGN tests before it writes."""
    return tuple(s for s in n.src[3:4] if s.op is Op.CLAIM)


def _is_reduction(n: UOp) -> bool:
    """A reduction's one value; one over tuples has no storage of its own, only the values got from it do."""
    return n.op in (Op.GET, Op.SCAN) or (n.op is Op.REDUCE and arity(n) == 1)


def _cheap(n: UOp) -> bool:
    """A leaf, or movement of one: reading it twice costs what reading a buffer twice would."""
    while n.op in MOVEMENT or n.op is Op.CAST:
        n = n.src[0]
    return _is_leaf(n) or n.op is Op.FOLD or (n.op is Op.REDUCE and arity(n) > 1)


def moved_index(n: UOp, index: Index) -> Index:
    """Where the element of a movement op at ``index`` lies in its source."""
    shape = n.src[0].shape
    if n.op is Op.RESHAPE:
        return reshaped_index(n.shape, shape, index)
    if n.op is Op.PERMUTE:
        back: list[UOp] = [idx(0)] * len(index)
        for axis, i in zip(n.arg, index, strict=True):
            back[axis] = i
        return tuple(back)
    if n.op is Op.EXPAND:
        return tuple(idx(0) if s == 1 else i for s, i in zip(shape, index, strict=True))
    if n.op is Op.PAD:
        return tuple(_plus(i, -lo) for i, (lo, _) in zip(index, n.arg, strict=True))
    if n.op is Op.SHRINK:
        return tuple(_plus(_times(i, step), start) for i, (start, _, step) in zip(index, n.arg, strict=True))
    return tuple(
        _plus(_times(i, -1), s - 1) if a in n.arg else i for a, (i, s) in enumerate(zip(index, shape, strict=True))
    )


def reshaped_index(new: tuple[int, ...], old: tuple[int, ...], index: Index) -> Index:
    """The index into ``old`` of an index into ``new``: axes in groups of equal product, division only inside one."""
    if 0 in old:  # no element: an index that runs over nothing keeps every use inside a loop that never runs
        nothing = next(i for size, i in zip(new, index, strict=True) if size == 0)
        return tuple(nothing for _ in old)
    out: list[UOp] = []
    a = b = 0
    while b < len(old):
        if old[b] == 1:
            out.append(idx(0))
            b += 1
            continue
        if a < len(new) and new[a] == 1:
            a += 1
            continue
        first_a, first_b, have, need = a, b, new[a], old[b]
        while have != need:
            if have < need:
                a += 1
                have *= new[a]
            else:
                b += 1
                need *= old[b]
        a, b = a + 1, b + 1
        linear: UOp = idx(0)
        for size, i in zip(new[first_a:a], index[first_a:a], strict=True):
            linear = alu(Op.ADD, _times(linear, size), i)
        for axis, size in enumerate(old[first_b:b], first_b):
            stride = math.prod(old[axis + 1 : b])
            part = alu(Op.IDIV, linear, idx(stride)) if stride != 1 else linear
            out.append(_tidied(part if size * stride == need else alu(Op.MOD, part, idx(size))))
    return tuple(out)


def _tidied(i: UOp) -> UOp:
    """An index in normal form; one that is read is left alone: what it is read from is not rangeified yet."""
    return i if any(n.op is Op.INDEX for n in toposort(i)) else simplify(i)


def _plus(i: UOp, n: int) -> UOp:
    return _tidied(alu(Op.ADD, i, idx(n))) if n != 0 else i


def _times(i: UOp, n: int) -> UOp:
    return alu(Op.MUL, i, idx(n)) if n != 1 else i


def _inside(n: UOp, index: Index) -> UOp:
    """Whether an element of a PAD comes from its source."""
    inside: UOp = const(True, dt.bool_)
    for i, size, (lo, hi) in zip(index, n.src[0].shape, n.arg, strict=True):
        if lo:
            inside = alu(Op.AND, inside, alu(Op.LE, idx(lo), i))
        if hi:
            inside = alu(Op.AND, inside, alu(Op.LT, i, idx(lo + size)))
    return inside
