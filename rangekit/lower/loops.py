"""Changing the loops of a nest: what every schedule step is made of.

Statements are values; a change gives new ones. ``rewritten`` finds loops and replaces them by statements; the rest
are questions about a loop (what it carries from one iteration to the next, which variables an expression uses) and
substitution of variables by expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from threading import local as local_to_thread

from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine, total
from rangekit.ir.nest import (
    Guard,
    Let,
    Loop,
    Nest,
    Prefetch,
    Print,
    Scratch,
    Stmt,
    Stop,
    Store,
    operands,
    plain_update,
    variables,
    walk,
)
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.uop import UOp, alu, idx

Body = tuple[Stmt, ...]


class _Numbers(local_to_thread):
    """What tells variables apart; names are what is printed. Each thread counts for the nest it works on."""

    def __init__(self) -> None:
        self.next = count(1)


_NUMBERS = _Numbers()


def fresh_after(nest: Nest) -> None:
    """Number new variables after those of a nest: the same nest and steps give the same text, every time."""
    used = [s.var.arg[1] for s in walk(nest.body) if isinstance(s, (Loop, Let))]
    _NUMBERS.next = count(1 + max((n for n in used if isinstance(n, int)), default=0))


def variable(name: str) -> UOp:
    """A new loop variable."""
    return UOp(Op.VAR, dt.index, (), ("range", next(_NUMBERS.next), name))


def local(name: str, dtype: dt.DType) -> UOp:
    """A new name for a value."""
    return UOp(Op.VAR, dtype, (), ("let", next(_NUMBERS.next), name))


def name_of(loop: Loop) -> str:
    """What schedules call it."""
    name: str = loop.var.arg[-1]
    return name


def used(stmts: Iterable[Stmt]) -> frozenset[UOp]:
    """The variables that statements and their bodies use."""
    return frozenset().union(*(variables(n) for s in walk(tuple(stmts)) for n in operands(s)))


def needed(stmts: Body, n: UOp) -> frozenset[UOp]:
    """The variables of an expression, and those of the values that it names, which statements bind."""
    lets = {s.var: s.value for s in walk(stmts) if isinstance(s, Let)}
    found: set[UOp] = set()
    waiting = [n]
    while waiting:
        new = variables(waiting.pop()) - found
        found |= new
        waiting += [lets[v] for v in new if v in lets]
    return frozenset(found)


def rebuilt(s: Stmt, fn: Callable[[UOp], UOp]) -> Stmt:
    """A statement with every expression mapped; the body of a loop is not entered."""
    if isinstance(s, Let):
        return Let(fn(s.var), fn(s.value))
    if isinstance(s, Loop):
        return replace(s, var=fn(s.var), lo=fn(s.lo), hi=fn(s.hi))
    if isinstance(s, Store):
        operand = fn(s.operand) if s.operand is not None else None
        return replace(s, buffer=fn(s.buffer), index=tuple(map(fn, s.index)), value=fn(s.value), operand=operand)
    if isinstance(s, Scratch):
        return Scratch(fn(s.buffer))
    if isinstance(s, Prefetch):
        return Prefetch(fn(s.buffer), tuple(map(fn, s.index)))
    if isinstance(s, Stop):
        return Stop(fn(s.when))
    if isinstance(s, Guard):
        other, number = (None if n is None else fn(n) for n in (s.other, s.number))
        return replace(s, ok=fn(s.ok), value=fn(s.value), other=other, number=number)
    return Print(s.number, tuple(map(fn, s.indices)), fn(s.value), fn(s.when))


def mapped(stmts: Body, fn: Callable[[UOp], UOp]) -> Body:
    """Statements with every expression mapped, bodies too."""
    out = []
    for s in stmts:
        s = rebuilt(s, fn)
        out.append(replace(s, body=mapped(s.body, fn)) if isinstance(s, Loop) else s)
    return tuple(out)


def substitution(known: Mapping[UOp, UOp]) -> Callable[[UOp], UOp]:
    """A function that replaces nodes; sums of indices come out in normal form."""
    memo: dict[UOp, UOp] = dict(known)

    def sub(n: UOp) -> UOp:
        found = memo.get(n)
        if found is None:
            src = tuple(sub(c) for c in n.src)
            found = n if src == n.src else _normal(n.replace(src=src))
            memo[n] = found
        return found

    return sub


def _normal(n: UOp) -> UOp:
    if n.dtype is dt.index and n.op in (Op.ADD, Op.MUL, Op.SUB, Op.NEG):
        return total(affine(n))
    return n


def plus(*terms: UOp) -> UOp:
    """A sum of index expressions in normal form."""
    total = terms[0]
    for t in terms[1:]:
        total = alu(Op.ADD, total, t)
    return _normal(total)


def times(n: UOp, factor: int) -> UOp:
    """A multiple of an index expression in normal form."""
    return _normal(alu(Op.MUL, n, idx(factor)))


def minus(a: UOp, b: UOp) -> UOp:
    """A difference in normal form."""
    return plus(a, times(b, -1))


def least(a: UOp, b: UOp) -> UOp:
    """The smaller of two index expressions."""
    if a.op is Op.CONST and b.op is Op.CONST:
        return idx(min(a.arg, b.arg))
    return alu(Op.MIN, a, b)


def greatest(a: UOp, b: UOp) -> UOp:
    """The larger of two index expressions."""
    if a.op is Op.CONST and b.op is Op.CONST:
        return idx(max(a.arg, b.arg))
    return alu(Op.MAX, a, b)


def rewritten(stmts: Body, fn: Callable[[Loop], Body | None]) -> Body:
    """Loops replaced, outer before inner; where ``fn`` gives None the loop stays and its body is searched."""
    out: list[Stmt] = []
    for s in stmts:
        if isinstance(s, Loop):
            new = fn(s)
            if new is not None:
                out.extend(new)
                continue
            s = replace(s, body=rewritten(s.body, fn))
        out.append(s)
    return tuple(out)


def loops(stmts: Body) -> Iterator[Loop]:
    """Every loop, outer before inner."""
    return (s for s in walk(stmts) if isinstance(s, Loop))


def chain(loop: Loop) -> list[Loop]:
    """The loop and those perfectly nested in it."""
    found = [loop]
    while len(found[-1].body) == 1 and isinstance(found[-1].body[0], Loop):
        found.append(found[-1].body[0])
    return found


def wrapped(loop_list: Iterable[Loop], body: Body) -> Body:
    """The body in perfectly nested loops."""
    for loop in reversed(list(loop_list)):
        body = (replace(loop, body=body),)
    return body


def declared(stmts: Body) -> frozenset[UOp]:
    """The scratch arrays made in statements."""
    return frozenset(s.buffer for s in walk(stmts) if isinstance(s, Scratch))


def carried(loop: Loop) -> list[Store]:
    """Stores of a loop's body to places that do not move with it: what one iteration hands to the next.

    A plain store that moves has a place of its own in each iteration, as *check* proved; what is reduced may meet again
    at a place that data names, unless an index tells the iterations apart.
    """
    own = declared(loop.body)
    inner = _following(loop)
    return [
        s
        for s in walk(loop.body)
        if isinstance(s, Store) and s.buffer not in own
        and not (_moves(s, inner) and (s.update is None or _apart(s, loop)))
    ]  # fmt: skip


def _following(loop: Loop) -> set[UOp]:
    """The variable of a loop, and the names and arrays in its body of what depends on it."""
    inner, own = {loop.var}, declared(loop.body)
    while True:
        before = len(inner)
        for s in walk(loop.body):
            if isinstance(s, Let) and _follows(s.value, inner):
                inner.add(s.var)
            elif isinstance(s, Store) and s.buffer in own and any(_follows(e, inner) for e in (*s.index, s.value)):
                inner.add(s.buffer)
        if len(inner) == before:
            return inner


def _follows(n: UOp, inner: set[UOp]) -> bool:
    return n in inner or any(_follows(s, inner) for s in n.src)


def _moves(s: Store, inner: set[UOp]) -> bool:
    return any(_follows(ungated(i), inner) for i in s.index)


def _apart(s: Store, loop: Loop) -> bool:
    """Whether some index of a store has other values in each iteration of a loop, whatever the loops inside do: its
    factor there is more than they add up to, and nothing else that varies is in it.
    """
    reach: dict[UOp, int | None] = {}
    for a in loops(loop.body):
        n = span(a)
        reach[a.var] = None if n is None else max(0, n - 1)
    varying = {loop.var, *reach}
    for t in walk(loop.body):
        if isinstance(t, Let) and variables(t.value) & varying:
            varying.add(t.var)
    for i in map(ungated, s.index):
        terms = affine(i)[0] if i.dtype is dt.index else {}
        step, most = abs(terms.get(loop.var, 0)), 0
        for atom, factor in terms.items():
            if atom in reach:
                n = reach[atom]
                most += step if n is None else abs(factor) * n
            elif atom is not loop.var and (atom in varying or variables(atom) & varying or _loads(atom)):
                most += step
        if most < step:
            return True
    return False


def _loads(n: UOp) -> bool:
    return n.op is Op.INDEX or any(_loads(s) for s in n.src)


def parallel(loop: Loop) -> bool:
    """Whether its iterations may run in any order."""
    return not carried(loop)


def single(loop: Loop) -> bool:
    """Whether all it hands on are values reduced one by one: those may be taken one lane after another."""
    inner = _following(loop)
    return all(
        s.update is not None and reducer(s.update).arity == 1 and plain_update(s) and not _moves(s, inner)
        for s in carried(loop)
    )


def scattered(loop: Loop) -> bool:
    """Whether data says where it reduces to."""
    inner = _following(loop)
    return any(_moves(s, inner) for s in carried(loop))


def exact(loop: Loop) -> bool:
    """Whether how it groups what it reduces does not show: integers, extremes and logic."""
    return all(s.update is not None and reducer(s.update).exact((s.buffer.dtype,)) for s in carried(loop))


def regrouped(loop: Loop, strict: bool) -> bool:
    """Whether blocks of what it reduces may be reduced each for itself, then combined in order."""
    found = carried(loop)
    return all(s.update is not None and reducer(s.update).associative for s in found) and (not strict or exact(loop))


def shuffled(loop: Loop, strict: bool) -> bool:
    """Whether what it reduces may be combined in any order."""
    stores = carried(loop)
    return regrouped(loop, strict) and all(s.update is not None and reducer(s.update).commutative for s in stores)


def all_or_none(loop: Loop) -> UOp | None:
    """The end of a loop from 0 that a condition lets run as a whole or not at all; None for other loops."""
    empty = loop.lo.op is Op.CONST and loop.lo.arg == 0 and loop.hi.op is Op.WHERE and loop.hi.src[2] is loop.lo
    return loop.hi.src[1] if empty else None


def span(loop: Loop) -> int | None:
    """The most iterations it can have; None where that is not known."""
    if loop.kind != "loop" and loop.width and loop.kind != "thread":
        return loop.width
    if loop.lo.op is not Op.CONST:
        return loop.range.extent if (n := few(loop)) is None else n
    most = _most(loop.hi)
    return loop.range.extent if most is None else max(0, most - int(loop.lo.arg))


def few(loop: Loop) -> int | None:
    """The length of a loop that begins anywhere; None if that varies, or the beginning does not."""
    if loop.lo.op is Op.CONST:
        return None
    terms, rest = affine(alu(Op.SUB, loop.hi, loop.lo))
    return None if terms else max(0, rest)


def _most(n: UOp) -> int | None:
    """An upper bound of a loop's bound; loop variables are at least 0."""
    if n.op is Op.CONST:
        return int(n.arg)
    if n.op is Op.MUL and n.src[1].op is Op.CONST and n.src[1].arg <= 0 and n.src[0].op is Op.VAR:
        return 0
    sides = [_most(s) for s in (n.src[1:] if n.op is Op.WHERE else n.src)]
    known = [m for m in sides if m is not None]
    if n.op is Op.MIN:
        return min(known) if known else None
    if len(known) < len(sides):
        return None
    if n.op is Op.ADD:
        return sum(known)
    if n.op is Op.WHERE:
        return max(known)
    if n.op is Op.IDIV and n.src[1].op is Op.CONST and n.src[1].arg > 0:
        return known[0] // int(n.src[1].arg)
    return None


def reads(n: UOp, buffer: UOp) -> list[UOp]:
    """The reads of a buffer in an expression."""
    found = [n] if n.op is Op.INDEX and n.src[0] is buffer else []
    return found + [f for s in n.src for f in reads(s, buffer)]


def ungated(i: UOp) -> UOp:
    """An index without the conditions under which it is used."""
    while i.op is Op.WHERE and i.src[2].op is Op.INVALID:
        i = i.src[1]
    return i


def gated(index: tuple[UOp, ...], condition: UOp) -> tuple[UOp, ...]:
    """An index used only where a condition holds."""
    first = index[0]
    if first.op is Op.WHERE and first.src[2].op is Op.INVALID:
        condition, first = alu(Op.AND, condition, first.src[0]), first.src[1]
    return (UOp(Op.WHERE, dt.index, (condition, first, UOp(Op.INVALID, dt.index))), *index[1:])
