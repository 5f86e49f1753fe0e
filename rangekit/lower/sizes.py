"""Sizes that the call brings, in the loop form: read once, at the top; arrays with them are addressed by one number.

Up to here a size is a DIM, and an array's shape may hold one. In a nest a DIM is a name, bound by a load from a small
array of its own that the launch fills, and every array has a shape of ints: the greatest it may have, if only the
first axis is a Dim, otherwise one axis, its index a sum of multiples of the sizes. Bounds were checked before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

from rangekit.ir import dtype as dt
from rangekit.ir.dim import capacity, most, symbolic
from rangekit.ir.nest import Let, Loop, Prefetch, Stmt, Store
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, idx, new_buffer, toposort
from rangekit.lower.loops import Body, rebuilt, substitution

_HELD: WeakKeyDictionary[UOp, UOp] = WeakKeyDictionary()  # the array that brings a DIM
_DIMS: WeakKeyDictionary[UOp, UOp] = WeakKeyDictionary()  # the other way round


def dim_of(buffer: UOp) -> UOp | None:
    """The DIM that an array brings to a launch, None for any other array."""
    return _DIMS.get(buffer)


def dims(*roots: UOp) -> list[UOp]:
    """The DIMs below nodes, and those in the shapes of arrays there, by name."""
    found: set[UOp] = set()
    for n in toposort(*roots):
        sizes = n.shape if n.op in (Op.PARAM, Op.BUFFER) else n.arg[2:3] if n.op is Op.GUARD else ()
        nodes = [n, *(m for s in sizes if symbolic((s,)) for m in toposort(idx(s)))]
        found.update(m for m in nodes if m.op is Op.DIM)
    return sorted(found, key=lambda d: (d.arg.name, d.arg.least, d.arg.most, d.arg.multiple_of))


def held(found: Iterable[UOp]) -> list[UOp]:
    """The arrays that bring DIMs to a launch."""
    return [_HELD[d] for d in found]


def named(found: Iterable[UOp], number: int) -> tuple[list[Stmt], dict[UOp, UOp]]:
    """Statements that give each DIM a name, numbered from ``number`` on, and those names."""
    lets: list[Stmt] = []
    names: dict[UOp, UOp] = {}
    for d in found:
        if d not in _HELD:
            _HELD[d] = new_buffer(dt.int64, (), f"size.{d.arg.name}")
            _DIMS[_HELD[d]] = d
        held = _HELD[d]
        value = UOp(Op.CAST, dt.index, (UOp(Op.INDEX, held.dtype, (held,)),))
        names[d] = UOp(Op.VAR, dt.index, (), ("let", number + len(lets), d.arg.name))
        lets.append(Let(names[d], value))
    return lets, names


def ground(b: UOp) -> UOp:
    """An array as nests address it."""
    if not symbolic(b.shape):
        return b
    shape = (capacity(b.shape),) if symbolic(b.shape[1:]) else (most(b.shape[0]), *b.shape[1:])
    return b.replace(arg=replace(b.arg, shape=shape))


def grounded(body: Body, names: Mapping[UOp, UOp]) -> Body:
    """Statements in which every array has a shape of ints."""
    if not names:
        return body
    size_of = substitution(names)

    def place(b: UOp, index: tuple[UOp, ...]) -> tuple[UOp, ...]:
        if b.op not in (Op.PARAM, Op.BUFFER) or not symbolic(b.shape[1:]):
            return index
        gate, first = None, index[0]
        if first.op is Op.WHERE and first.src[2].op is Op.INVALID:
            gate, first = first.src[0], first.src[1]
        total = idx(0)
        for axis, i in enumerate((first, *index[1:])):
            step = size_of(idx(math.prod(b.shape[axis + 1 :])))
            total = alu(Op.ADD, total, i if step is idx(1) else alu(Op.MUL, i, step))
        total = size_of(total)  # in normal form
        return (total if gate is None else UOp(Op.WHERE, dt.index, (gate, total, UOp(Op.INVALID, dt.index))),)

    memo: dict[UOp, UOp] = {}

    def value(n: UOp) -> UOp:
        if n in memo:
            return memo[n]
        if n.op in (Op.PARAM, Op.BUFFER):
            new = ground(n)
        else:
            src = tuple(value(s) for s in n.src)
            if n.op is Op.INDEX:
                src = (src[0], *place(n.src[0], src[1:]))
            new = n if src == n.src else n.replace(src=src)
        memo[n] = new
        return new

    def statement(s: Stmt) -> Stmt:
        at = s.buffer if isinstance(s, (Store, Prefetch)) else None
        new = rebuilt(s, value)
        if isinstance(new, (Store, Prefetch)) and at is not None:
            new = replace(new, index=place(at, new.index))
        return new

    def all_of(stmts: Body) -> Body:
        out: list[Stmt] = []
        for s in stmts:
            new = statement(s)
            out.append(replace(new, body=all_of(new.body)) if isinstance(new, Loop) else new)
        return tuple(out)

    return all_of(body)
