"""Reads of old contents that are never torn: what is wanted after a write that replaces it is copied before.

Writes go to the storage they begin with. A reader of a version runs before the first write that may touch what it
reads; where it cannot, because it needs that write's result, too, or because it is that write, the elements it reads
are kept, or the whole storage if that is smaller. Accesses that never meet need neither order nor copy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rangekit.errors import RaceError
from rangekit.ir.dim import capacity
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.spec import combines
from rangekit.ir.uop import Storage, UOp, by_uid, new_range, toposort
from rangekit.lower.proof import proof
from rangekit.lower.versions import (
    Carry,
    apart,
    beginning,
    elements,
    evaluated,
    is_root,
    is_storage,
    meeting,
    reads,
    repeated,
)
from rangekit.source import Position

MARKED = 1 << 22  # elements of an array whose writes are marked one by one
LOOKED_AT = 8  # writes of a chain that a reader is compared with: then it goes before the next one


def untorn(sink: UOp, carry: Carry, positions: Mapping[UOp, Position], reasons: list[str]) -> UOp:
    """The program with the copies it needs, so that an order of its roots exists (``order``); ``reasons`` gets a line
    for each.

    Errors: ``RaceError`` where two writes to a caller's array that do not follow one another may meet.
    """
    sink = _in_line(sink, carry, positions)
    copies: dict[UOp, None] = {}
    sink = _kept(_apart(sink, carry, copies), carry, copies)
    reasons[:0] = map(_reason, copies)
    return sink


def _reason(copy: UOp) -> str:
    what = copy.arg.name.removesuffix("_old") if copy.arg.name else "a buffer"
    return f"a copy of {what}, {capacity(copy.shape) * copy.dtype.itemsize} bytes: it is read after it is written"


def order(sink: UOp) -> list[UOp]:
    """The roots in an order in which each finds what it reads."""
    found = _Order(sink)
    found.run()
    assert not found.torn, "a copy is missing"
    return found.done


# ---- writes that do not follow one another ---------------------------------------------------------------------------


def _writers(sink: UOp) -> dict[UOp, list[UOp]]:
    found: dict[UOp, list[UOp]] = {}
    for n in toposort(sink):
        if n.op is Op.ASSIGN:
            found.setdefault(n.src[0], []).append(n)
    return found


def _in_line(sink: UOp, carry: Carry, positions: Mapping[UOp, Position]) -> UOp:
    """Writes to a caller's array, each to what the one before left: those of one version must not meet."""
    order = toposort(sink)
    begin: dict[UOp, UOp] = {}
    lines: dict[UOp, list[UOp]] = {}
    for n in order:
        begin[n] = begin[n.src[0]] if n.op is Op.ASSIGN else n
        if n.op is Op.ASSIGN and begin[n].op is not Op.BUFFERIZE:
            lines.setdefault(begin[n], []).append(n)
    writers = _writers(sink)
    follows: dict[UOp, UOp] = {}
    for line in lines.values():
        for version in dict.fromkeys(n.src[0] for n in line if len(writers[n.src[0]]) > 1):
            _refuse_meeting([_after(w, writers) for w in writers[version]], positions)
        follows.update((n, m) for m, n in pairwise(line) if n.src[0] is not m)
    if not follows:
        return sink
    memo: dict[UOp, UOp] = {}
    for n in order:
        src = tuple(memo[s] for s in n.src)
        if n in follows:
            base = memo[follows[n]]
            src = (base, src[1].replace(src=(base, *src[1].src[1:])), *src[2:])
        elif n is sink:  # a result that is a caller's array is that array with all that is written to it
            src = tuple(
                memo[lines[begin[s]][-1]] if s.op is Op.ASSIGN and begin[s] in lines else memo[s] for s in n.src
            )
        memo[n] = n if src == n.src else n.replace(src=src)
        if memo[n] is not n:
            carry(n, memo[n])
    return memo[sink]


def _after(write: UOp, writers: Mapping[UOp, list[UOp]]) -> list[UOp]:
    """A write and those to what it leaves."""
    found = [write]
    for n in found:
        found.extend(writers.get(n, ()))
    return found


def _refuse_meeting(branches: list[list[UOp]], positions: Mapping[UOp, Position]) -> None:
    """No write of one branch meets one of another."""
    size = capacity(branches[0][0].shape)
    taken = np.zeros(size if size <= MARKED else 0, bool)
    before: list[UOp] = []
    for branch in branches:
        listed = [elements(w.src[1]) for w in branch]
        marks = [at[at >= 0] for at in listed if at is not None]
        if taken.size < size or len(marks) < len(listed) or any(taken[at].any() for at in marks):
            for one in before:
                for two in branch:
                    _refuse_pair(one, two, positions)
        for at in marks if taken.size else ():
            taken[at] = True
        before += branch


def _refuse_pair(one: UOp, two: UOp, positions: Mapping[UOp, Position]) -> None:
    a, b = one.src[1], two.src[1]
    if apart(a, b):
        return
    found = meeting(a, b)
    text = "it cannot be shown that they write different elements"
    if found is not None:
        at = "; ".join(filter(None, (", ".join(f"{r.arg.name} = {v}" for r, v in at.items()) for at in found[:2])))
        text = f"both write element {found[2]}" + (f", when {at}" if at else "")
    raise RaceError(
        f"{expression(a)} = ... and {expression(b)} = ... : {text}",
        help="write to what the first one returns: y = rk.assign(x[i], v), then rk.assign(y[j], w)",
        at=positions.get(b) or positions.get(two),
    )


# ---- copies that are known to be needed ------------------------------------------------------------------------------


@dataclass
class _Change:
    """What becomes of a root: some of its reads go to copies, and a write to another storage than its base."""

    reads: dict[UOp, UOp] = field(default_factory=dict)  # the INDEX -> itself, kept, or a version to be copied whole
    base: bool = False


def _apart(sink: UOp, carry: Carry, copies: dict[UOp, None]) -> UOp:
    """Copies for writes that replace what they read themselves, for old contents that are results, and for all but the
    first of several writes to one version.
    """
    writers = _writers(sink)
    changes: dict[UOp, _Change] = {}
    for several in writers.values():
        for place, write in enumerate(several):
            change = _Change(base=place > 0)
            own = reads(write).get(write.src[0], [])
            inner = repeated(write) if own else frozenset()
            for read in own:
                pointwise = read is write.src[1] and read not in inner and combines(write) is None
                if not pointwise and not apart(write.src[1], read):
                    change.reads[read] = write.src[0]
            if change.base or change.reads:
                changes[write] = change
    wanted = [s for s in sink.src if s in writers]
    if not changes and not wanted:
        return sink
    for change in changes.values():
        _by_element(change, list(change.reads))
    return _Rewrite(sink, changes, frozenset(wanted), carry, copies).run()


def _by_element(change: _Change, listed: list[UOp]) -> None:
    """Reads of one version: only the elements kept, where those are fewer than all."""
    if listed and sum(map(_count, listed)) < capacity(listed[0].src[0].shape) and all(map(_safe, listed)):
        change.reads.update((read, read) for read in listed)


def _count(read: UOp) -> int:
    return math.prod(r.extent for r in read.ranges)


def _safe(read: UOp) -> bool:
    """Whether a read is inside its storage in every iteration, whatever condition it is used under."""
    return all(proof(i, size, frozenset()) for i, size in zip(read.src[1:], read.src[0].shape, strict=True))


class _Rewrite:
    """The graph after changes of some roots."""

    def __init__(
        self, sink: UOp, changes: Mapping[UOp, _Change], wanted: frozenset[UOp], carry: Carry, made: dict[UOp, None]
    ) -> None:
        self.sink, self.changes, self.wanted, self.carry, self.made = sink, changes, wanted, carry, made
        self.memo: dict[UOp, UOp] = {}
        self.copies: dict[UOp, UOp] = {}

    def run(self) -> UOp:
        """The new sink."""
        for n in toposort(self.sink):
            if n in self.changes:
                new = self.root(n, self.changes[n])
            elif n is self.sink:
                new = n.replace(src=tuple(self.copy(s) if s in self.wanted else self.memo[s] for s in n.src))
            else:
                src = tuple(self.memo[s] for s in n.src)
                new = n if src == n.src else n.replace(src=src)
            self.memo[n] = new
            if new is not n:
                self.carry(n, new)
        return self.memo[self.sink]

    def root(self, n: UOp, change: _Change) -> UOp:
        """A root whose reads go to copies."""
        local: dict[UOp, UOp] = {}
        for m in toposort(*evaluated(n), into=lambda m: not is_storage(m)):
            if is_storage(m):
                local[m] = self.memo[m]
                continue
            src = tuple(local[s] for s in m.src)
            new = m if src == m.src else m.replace(src=src)
            if m in change.reads:
                whole = change.reads[m]
                new = self.element(new) if whole is m else new.replace(src=(self.copy(whole), *new.src[1:]))
            local[m] = new
            if new is not m:
                self.carry(m, new)
        own = tuple(local[m] for m in evaluated(n))
        if n.op is not Op.ASSIGN:
            return n.replace(src=(*own, *n.src[len(own) :]))
        base = self.fresh(n.src[0]) if change.base else self.memo[n.src[0]]
        index = len(n.src[1].src) - 1
        place = n.src[1].replace(src=(base, *own[:index]))
        self.carry(n.src[1], place)
        rest = own[index:]
        if change.base and n.src[1] in local:  # what it reads at its own place
            rest = tuple(_replaced(m, local[n.src[1]], place) for m in rest)
        return n.replace(src=(base, place, *rest, *n.src[2 + len(rest) :]))

    def element(self, read: UOp) -> UOp:
        """A read of a buffer that keeps what the read finds, for each of its iterations."""
        ranges = by_uid(read.ranges)
        kept = UOp(Op.BUFFERIZE, read.dtype, (read, *ranges), _old(read.src[0]))
        self.made[kept] = None
        return UOp(Op.INDEX, read.dtype, (kept, *ranges))

    def copy(self, version: UOp) -> UOp:
        """All of a version, one copy for all who want it."""
        if version not in self.copies:
            self.copies[version] = self.fresh(version)
        return self.copies[version]

    def fresh(self, version: UOp) -> UOp:
        """A copy of a version that is no other."""
        now = self.memo[version]
        over = tuple(new_range(s) for s in now.shape)
        element = UOp(Op.INDEX, now.dtype, (now, *over))
        copy = UOp(Op.BUFFERIZE, now.dtype, (element, *over), _old(version))
        self.made[copy] = None
        return copy


def _old(version: UOp) -> Storage:
    begin = beginning(version)
    name = begin.arg.name
    return Storage("global", f"{name}_old" if name else None)


def _replaced(n: UOp, old: UOp, new: UOp) -> UOp:
    memo: dict[UOp, UOp] = {old: new}
    for m in toposort(n, into=lambda m: m is not old and not is_storage(m)):
        if m not in memo:
            memo[m] = m if is_storage(m) else m.replace(src=tuple(memo.get(s, s) for s in m.src))
    return memo[n]


# ---- order, and the copies that it shows to be needed ----------------------------------------------------------------


@dataclass
class _Torn:
    """A write that cannot wait for readers of what it replaces: each reader, and its reads."""

    write: UOp
    late: list[tuple[UOp, list[UOp]]]
    done: int  # how many roots came before


class _Order:
    """The roots one after another, each as soon as what it reads is there and nobody still reads what it replaces."""

    def __init__(self, sink: UOp) -> None:
        self.roots = [n for n in toposort(sink) if is_root(n)]
        self.place = {n: p for p, n in enumerate(self.roots)}
        self.done: list[UOp] = []
        self.torn: list[_Torn] = []
        self.writer = {n.src[0]: n for n in self.roots if n.op is Op.ASSIGN}
        self.known: dict[tuple[UOp, UOp], bool] = {}
        self.needs: dict[UOp, int] = {}  # how many roots it reads that are not done
        self.users: dict[UOp, list[UOp]] = {n: [] for n in self.roots}
        self.waits: dict[UOp, dict[UOp, list[UOp]]] = {n: {} for n in self.roots}  # a write: readers, their reads
        self.before: dict[UOp, dict[UOp, None]] = {n: {} for n in self.roots}  # the writes that wait for a root
        for n in self.roots:
            found = reads(n)
            sources = {s for s in (*found, *(n.src[:1] if n.op is Op.ASSIGN else ())) if s in self.place}
            self.needs[n] = len(sources)
            for s in sources:
                self.users[s].append(n)
            for version, listed in found.items():
                write = self.replacing(n, version, listed)
                if write is not None:
                    self.waits[write].setdefault(n, []).extend(listed)
                    self.before[n][write] = None

    def replacing(self, n: UOp, version: UOp, listed: list[UOp]) -> UOp | None:
        """The first write that may touch what a root reads of a version."""
        write = self.writer.get(version)
        for _ in range(LOOKED_AT):
            if write is None or write is n:
                return None
            if not all(self.apart(write.src[1], read) for read in listed):
                return write
            write = self.writer.get(write)
        return write if write is not n else None

    def apart(self, a: UOp, b: UOp) -> bool:
        """``apart``, each pair once."""
        if (a, b) not in self.known:
            self.known[a, b] = apart(a, b)
        return self.known[a, b]

    def run(self) -> None:
        """Fill ``done``; ``torn`` has the writes that could not wait."""
        ready = [self.place[n] for n in self.roots if not self.needs[n] and not self.waits[n]]
        blocked = [self.place[n] for n in self.roots if not self.needs[n] and self.waits[n]]
        heapq.heapify(ready)
        heapq.heapify(blocked)
        finished: set[UOp] = set()
        while len(self.done) < len(self.roots):
            if ready:
                n = self.roots[heapq.heappop(ready)]
            else:
                n = self.roots[heapq.heappop(blocked)]
                if n in finished:
                    continue
                self.torn.append(_Torn(n, list(self.waits[n].items()), len(self.done)))
            finished.add(n)
            self.done.append(n)
            for write in self.before[n]:
                self.waits[write].pop(n, None)
                if not self.waits[write] and not self.needs[write] and write not in finished:
                    heapq.heappush(ready, self.place[write])
            for user in self.users[n]:
                self.needs[user] -= 1
                if not self.needs[user]:
                    heapq.heappush(blocked if self.waits[user] else ready, self.place[user])


def _kept(sink: UOp, carry: Carry, copies: dict[UOp, None]) -> UOp:
    """Copies for readers that need what replaces what they read."""
    found = _Order(sink)
    found.run()
    if not found.torn:
        return sink
    changes: dict[UOp, _Change] = {}
    done = {n: p for p, n in enumerate(found.done)}
    for event in found.torn:
        listed = [read for _, several in event.late for read in several]
        within = sum(map(_count, listed)) < capacity(event.write.shape) and all(map(_safe, listed))
        for reader, several in event.late:
            change = changes.setdefault(reader, _Change())
            for read in several:
                early = within and all(done.get(s, -1) < event.done for s in _sources(read))
                change.reads[read] = read if early else event.write.src[0]
    return _Rewrite(sink, changes, frozenset(), carry, copies).run()


def _sources(read: UOp) -> list[UOp]:
    """The storage that the index of a read depends on."""
    return [m for m in toposort(*read.src[1:], into=lambda m: not is_storage(m)) if is_storage(m)]
