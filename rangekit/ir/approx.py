"""Math functions as expressions over basic operations, so that they vectorise; their greatest errors, measured.

``expand`` gives an expression that is right for every input, ``cheap`` one that is right under a condition. Neither has
a branch, a table or a call: a lane of a vector is computed as any other. The interpreter does not use them.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir import approx_exp, approx_log, approx_pow, approx_trig
from rangekit.ir import dtype as dt
from rangekit.ir.approx_build import FORMATS, Format, Value
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp

Formula = Callable[[Value, Format], Value]
_BASES = {Op.LOG: 0, Op.LOG2: 2, Op.LOG10: 10}
_TRIG = (Op.SIN, Op.COS, Op.TAN)
_UNARY: dict[Op, Formula] = {
    Op.EXP: approx_exp.exp,
    Op.EXPM1: approx_exp.expm1,
    Op.SINH: approx_exp.sinh,
    Op.COSH: approx_exp.cosh,
    Op.TANH: approx_exp.tanh,
    Op.ERF: approx_exp.erf,
    Op.LOG1P: approx_log.log1p,
}


def expand(n: UOp) -> UOp | None:
    """The same value from basic operations, for every input; None where there is none (then it is a call).

    Half types are computed in float32 and rounded.
    """
    if n.dtype.is_half:
        made = expand(_widened(n))
        return None if made is None else UOp(Op.CAST, n.dtype, (made,))
    f = FORMATS.get(n.dtype)
    if f is None:
        return None
    x = Value(n.src[0])
    if n.op is Op.POW:
        return approx_pow.power(x, Value(n.src[1]), f).node
    if n.op in _BASES:
        return approx_log.logarithm(x, f, _BASES[n.op]).node
    if n.op in _TRIG:
        value = approx_trig.far(n.op, x, f)
        return None if value is None else value.node
    return _UNARY[n.op](x, f).node if n.op in _UNARY else None


def cheap(n: UOp) -> tuple[UOp, UOp] | None:
    """A condition and a shorter expression that is the same value where it holds; None where there is none.

    Where it does not hold for each lane of a vector, the value is ``expand``'s, or a call.
    """
    if n.dtype.is_half:
        made = cheap(_widened(n))
        return None if made is None else (made[0], UOp(Op.CAST, n.dtype, (made[1],)))
    f = FORMATS.get(n.dtype)
    if f is None:
        return None
    x = Value(n.src[0])
    if n.op in _BASES:
        condition, value = approx_log.plain(x, f, _BASES[n.op])
    elif n.op in _TRIG:
        condition, value = approx_trig.near(n.op, x, f)
    else:
        return None
    return condition.node, value.node


def _widened(n: UOp) -> UOp:
    return UOp(n.op, dt.float32, tuple(UOp(Op.CAST, dt.float32, (s,)) for s in n.src), n.arg)


# fmt: off
_MEASURED: dict[Op, tuple[float, float]] = {  # float32, over all inputs but for POW; float64, over 2**26 inputs
    Op.EXP: (0.93, 1.01),    Op.EXPM1: (1.33, 1.5),   Op.LOG: (0.83, 0.82),    Op.LOG1P: (1.4, 1.4),
    Op.LOG2: (0.85, 0.8),    Op.LOG10: (0.71, 0.7),   Op.SIN: (1.56, 1.5),     Op.COS: (1.56, 1.5),
    Op.TAN: (1.6, 1.5),      Op.SINH: (1.63, 1.65),   Op.COSH: (1.41, 1.35),   Op.TANH: (1.7, 1.8),
    Op.ERF: (1.09, 1.15),     Op.POW: (0.54, 1.2),
    Op.SQRT: (0.5, 0.5),     Op.DIV: (0.5, 0.5),     # the machine's own, rounded right; 1 / sqrt(x) is 1.5 at most
}
# fmt: on
MAX_ULP: dict[tuple[Op, DType], float] = {
    (op, d): error for op, pair in _MEASURED.items() for d, error in zip((dt.float32, dt.float64), pair, strict=True)
}
