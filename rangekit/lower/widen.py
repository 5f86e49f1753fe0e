"""Intermediates of half types stay in float32: rounding each to 16 bits takes longer than computing it.

Only what is stored, cast by the program or used by something else than arithmetic is rounded, once. The licence is that
of contraction: ``strict=True`` withdraws it.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir import dtype as dt
from rangekit.ir.ops import ARITH, COMPARE, FLOAT_BINARY, ROUNDING, TESTS, UNARY, Op
from rangekit.ir.uop import UOp, cast, toposort

COMPUTED = (ARITH | FLOAT_BINARY | UNARY | {Op.WHERE, Op.POW}) - TESTS - ROUNDING
ASKED = COMPARE | TESTS


def widened(kernel: UOp, carry: Callable[[UOp, UOp], None]) -> UOp:
    """The kernel with arithmetic on half types done in float32."""
    if not any(n.dtype.is_half and n.op in COMPUTED for n in toposort(kernel)):
        return kernel
    new: dict[UOp, UOp] = {}
    wide: dict[UOp, UOp] = {}  # a half value before it is rounded

    def whole(s: UOp) -> UOp:
        if s not in wide:
            wide[s] = cast(new[s], dt.float32)
        return wide[s]

    for n in toposort(kernel):
        halves = [s for s in n.src if s.dtype.is_half]
        if n.op in COMPUTED and n.dtype.is_half:
            src = tuple(whole(s) if s.dtype.is_half else new[s] for s in n.src)
            wide[n] = UOp(n.op, dt.float32, src, n.arg)
            new[n] = cast(wide[n], n.dtype)
        elif n.op is Op.CAST and n.dtype.is_half and n.src[0].op in (Op.REDUCE, Op.GET):  # reduced in float32
            new[n] = n.replace(src=(new[n.src[0]],))
            wide[n] = cast(new[n.src[0]], dt.float32)
        elif n.op in ASKED and any(s in wide for s in halves):
            new[n] = n.replace(src=tuple(map(whole, n.src)))
        elif n.op is Op.CAST and n.dtype.is_float and not n.dtype.is_half and n.src[0] in wide:
            new[n] = cast(wide[n.src[0]], n.dtype)
        else:
            src = tuple(new[s] for s in n.src)
            new[n] = n if src == n.src else n.replace(src=src)
        if new[n] is not n:
            carry(n, new[n])
    return new[kernel]
