"""What a nest does, counted from its statements: operations, loads, stores, and the bytes of memory it touches."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from rangekit.ir import dtype as dt
from rangekit.ir.nest import Loop, Nest, Stmt, Store, operands
from rangekit.ir.ops import BINARY, COMPARE, MATH, Op
from rangekit.ir.uop import UOp

FLOPS = (BINARY - COMPARE) | MATH | {Op.NEG, Op.ABS}


@dataclass
class Counts:
    """Dynamic counts of one launch. ``ops`` by op, on values only (index arithmetic apart)."""

    ops: Counter[Op] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    stores: Counter[str] = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        """Floating-point operations; a math function counts as one."""
        return sum(c for op, c in self.ops.items() if op in FLOPS)


def counts(nest: Nest) -> Counts:
    """Counts of a launch. Loop bounds that depend on outer loops are averaged over their first and last iteration."""
    out = Counts()
    _body(nest.body, 1.0, {}, out)
    return out


def _body(body: tuple[Stmt, ...], times: float, at: dict[UOp, float], out: Counts) -> None:
    for s in body:
        for n in operands(s):
            _expression(n, times, out)
        if isinstance(s, Store):
            out.stores[s.buffer.arg.name] += round(times)
        elif isinstance(s, Loop):
            lo, hi = _value(s.lo, at), _value(s.hi, at)
            trips = max(0.0, hi - lo)
            if trips and times:
                _body(s.body, times * trips, {**at, s.var: (lo + hi - 1) / 2}, out)


def _expression(n: UOp, times: float, out: Counts) -> None:
    if n.op is Op.INDEX:
        if n.src[0].arg.memory if n.src[0].op is Op.BUFFER else True:
            out.loads[n.src[0].arg.name] += round(times)
    elif n.dtype is not dt.index and (n.dtype.is_float or n.op in MATH):
        if n.op is Op.FMA:
            out.ops.update({Op.MUL: round(times), Op.ADD: round(times)})
        else:
            out.ops[n.op] += round(times)
    for s in n.src:
        if s.op not in (Op.PARAM, Op.BUFFER):
            _expression(s, times, out)


def _value(n: UOp, at: dict[UOp, float]) -> float:
    """An index expression at the middle of the loops around it; unknown data counts as 0."""
    if n.op is Op.CONST:
        return float(n.arg)
    if n in at:
        return at[n]
    values = [_value(s, at) for s in n.src]
    if n.op is Op.ADD:
        return values[0] + values[1]
    if n.op is Op.MUL:
        return values[0] * values[1]
    if n.op in (Op.MIN, Op.MAX):
        return min(values) if n.op is Op.MIN else max(values)
    if n.op is Op.IDIV and values[1]:
        return float(values[0] // values[1])
    return values[0] if n.op is Op.CAST and values else 0.0


def touched_bytes(nest: Nest) -> int:
    """Bytes of memory a launch reads or writes, each array once."""
    return sum(math.prod(p.shape) * p.dtype.itemsize for p in nest.params)
