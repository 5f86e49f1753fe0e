"""Prove that every index fits the machine's 64 bits: the index world is unbounded until here."""

from __future__ import annotations

from rangekit.errors import CompileError
from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.uop import UOp, toposort

WIDTH = 64
DATA = frozenset({Op.CAST, Op.INDEX, Op.REDUCE, Op.FOLD, Op.SCAN, Op.STATE, Op.GUARD})


def legalize(kernel: UOp) -> UOp:
    """The kernel, unchanged, with every index expression over ranges known to fit; ``CompileError`` otherwise.

    What comes from data is a machine integer already and wraps; its access is guarded.
    """
    data: set[UOp] = set()
    for n in toposort(kernel):
        if n.op in DATA or any(s in data for s in n.src):
            data.add(n)
        if n.dtype is dt.index and n not in data and n.op is not Op.INVALID:
            lo, hi = bounds(n)
            if lo < dt.int64.min or hi > dt.int64.max:
                raise CompileError(f"the index {expression(n)} does not fit in {WIDTH} bits", help="use smaller ranges")
    return kernel
