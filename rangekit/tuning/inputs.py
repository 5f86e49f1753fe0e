"""A program's launches as tasks: what each reads, what it leaves, how close another schedule's results must come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rangekit.ir.dtype import DType
from rangekit.ir.nest import Loop, Nest, Store, operands, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp
from rangekit.program import Program
from rangekit.tuning.task import PAGE, Array, Contents, Memory, Task, in_order, spanned

CLOSE = {64: 1e-11, 32: 1e-4, 16: 2e-2}  # of the greatest result, by the bits of the least precise float
ROUNDING = {64: 2.0**-53, 32: 2.0**-24, 16: 2.0**-24}
RING = frozenset({
    Op.ADD, Op.SUB, Op.MUL, Op.FMA, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.WHERE, Op.CAST, Op.CONST, Op.INDEX, Op.VAR,
    Op.PARAM, Op.BUFFER, Op.INVALID, Op.GUARD, Op.LT, Op.LE, Op.EQ, Op.NE, Op.AND, Op.OR, Op.NOT,
})  # fmt: skip


class Tasks:
    """The tasks of a program, made in launch order: what one launch leaves is what the next ones find."""

    def __init__(self, program: Program, arrays: Sequence[Array], random: bool, threads: int) -> None:
        """``arrays`` has one for each slot. ``random``: floats get fresh values of a normal distribution."""
        self.contents = Contents()
        self.threads = threads
        self._known: dict[UOp, Memory] = {}  # what is in the file
        draw = np.random.default_rng()
        for nest in program.lowered.nests:
            for p in nest.params:
                if p in self._known:
                    continue
                if p.op is Op.PARAM:
                    array = spanned(arrays[p.arg.slot])
                    skew = array.ctypes.data % PAGE
                    if random and p.dtype.is_float and p.shape:
                        array = _normal(draw, array.size, p.dtype)
                elif p in program.captured:
                    array = np.ascontiguousarray(program.captured[p]).reshape(-1)
                    skew = program.captured[p].ctypes.data % PAGE
                else:
                    continue
                self._known[p] = _memory(p, array.size, self.contents.put(np.ascontiguousarray(array)), skew)

    def task(self, plain: Nest) -> Task:
        """The task of the next launch. ``plain`` is its nest without a schedule."""
        memory = []
        for p in plain.params:
            m = self._known.get(p) or _memory(p, math.prod(p.shape), None, 0)
            if p in plain.outputs:
                after = self.contents.room(m.nbytes)
                self._known[p] = _memory(p, m.count, after, m.skew)
                m = Memory(m.dtype, m.shape, m.strides, m.count, m.before, after, m.skew)
            memory.append(m)
        return Task(plain.name, tuple(memory), tolerance(plain), ring(plain), self.threads)


def _memory(p: UOp, count: int, before: int | None, skew: int) -> Memory:
    strides = p.arg.strides if p.op is Op.PARAM else None
    return Memory(p.dtype.name, p.shape, in_order(p.shape) if strides is None else strides, count, before, None, skew)


def _normal(draw: np.random.Generator, count: int, dtype: DType) -> Array:
    """About normal: odd multiples of an eighth. None is 0, and sums of their products are exact in any order."""
    whole = np.floor(draw.standard_normal(count, np.float32) * 4) + np.float32(0.5)
    return (whole / 4).astype(dtype.numpy)


def _expressions(nest: Nest) -> Iterator[UOp]:
    for s in walk(nest.body):
        stack = list(operands(s))
        while stack:
            n = stack.pop()
            yield n
            stack.extend(n.src)


def tolerance(nest: Nest) -> float:
    """How far floats may be from the unscheduled ones, by the greatest of them. Grows with the terms of a sum.

    Both add n terms in some order; the rounding errors of that grow like the root of n.
    """
    dtypes = {n.dtype for n in (*_expressions(nest), *nest.params)}
    bits = min((d.bits for d in dtypes if d.is_float), default=64)
    results = min((math.prod(p.shape) for p in nest.outputs), default=1)
    terms = max(1.0, _iterations(nest) / max(1, results))
    return max(CLOSE[bits], 32 * ROUNDING[bits] * math.sqrt(terms))


def _iterations(nest: Nest) -> float:
    def most(stmts: Sequence[object]) -> float:
        inner = [s for s in stmts if isinstance(s, Loop)]
        return max((_span(s) * most(s.body) for s in inner), default=1.0)

    return most(nest.body)


def _span(loop: Loop) -> float:
    if loop.lo.op is Op.CONST and loop.hi.op is Op.CONST:
        return float(max(0, loop.hi.arg - loop.lo.arg))
    return 64.0


def ring(nest: Nest) -> bool:
    """Whether floats are only added, multiplied and chosen from, with constants that are multiples of an eighth."""
    reduced = {s.update for s in walk(nest.body) if isinstance(s, Store)}
    if not reduced <= {None, "add", "max", "min", "or", "and"}:
        return False
    for n in _expressions(nest):
        computes = n.dtype.is_float or any(s.dtype.is_float for s in n.src)
        if computes and (n.op not in RING or (n.dtype.is_half and n.op is Op.CAST)):
            return False
        if n.op is Op.CONST and n.dtype.is_float and math.isfinite(n.arg) and n.arg * 8 % 1:
            return False
    return True
