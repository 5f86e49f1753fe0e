"""What a legal node is: one row an op.

A row says what the op's sources are, which of them its ranges are bound in, how its shape follows, and what must
hold. ``describe`` gives every new node its shape and open ranges; with ``CHECK`` on, as it is in every test, it
also holds the node against its row, so each intermediate state of each pass is legal IR.

Elementwise rows take sources of one shape, or of shape () beside it; everything else is explicit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from rangekit.ir import dtype as dt
from rangekit.ir.ops import (
    ARITH,
    BINARY,
    BITS,
    COMPARE,
    ELEMENTWISE,
    FLOAT_BINARY,
    INT_ARITH,
    MATH,
    ROUNDING,
    SHIFTS,
    STORAGE,
    TERNARY,
    TESTS,
    UNARY,
    Op,
)

if TYPE_CHECKING:
    from rangekit.ir.uop import UOp

CHECK = False  # tests turn it on: every creation is held against its row

Shape = tuple[int, ...]


class SpecError(AssertionError):
    """A pass made a node that is not legal IR: a bug in the compiler, never in the user's program."""


@dataclass(frozen=True)
class Row:
    """``bound`` is (a, b): the ranges ``src[b:]`` are bound in ``src[a:b]`` and open nowhere else."""

    sources: str
    shape: Callable[[UOp], Shape]
    check: Callable[[UOp], bool]
    bound: Callable[[UOp], tuple[int, int]] | None = None


def arity(node: UOp) -> int:
    """How many values a REDUCE carries."""
    return _named_arity(node.arg) if isinstance(node.arg, str) else int(node.arg.arity)


@cache
def _named_arity(name: str) -> int:
    from rangekit.ir.reducers import REDUCERS  # written in nodes, which need this module first

    return REDUCERS[name].arity


def combines(node: UOp) -> str | None:
    """The reducer with which an ASSIGN or STORE joins its values to what is there; None if it replaces that."""
    return node.arg if node.op in (Op.ASSIGN, Op.STORE) and node.arg in _COMBINED else None


def binding(node: UOp) -> tuple[int, int] | None:
    """(a, b) if the node binds its ranges ``src[b:]`` in ``src[a:b]``; None if it binds nothing."""
    bound = SPEC[node.op].bound
    return bound(node) if bound else None


def bound_ranges(node: UOp) -> tuple[UOp, ...]:
    """The ranges a node binds, outer to inner."""
    scope = binding(node)
    return node.src[scope[1] :] if scope else ()


def describe(node: UOp) -> tuple[Shape, frozenset[UOp]]:
    """Shape and open ranges of a node that is being made; ``SpecError`` where CHECK finds it illegal."""
    row = SPEC[node.op]
    if CHECK:
        _check(node, row)
    return row.shape(node), _ranges(node, row)


def _ranges(node: UOp, row: Row) -> frozenset[UOp]:
    src = node.src
    if node.op is Op.RANGE:
        return frozenset((node,))
    if row.bound is None:
        if not src:
            return frozenset()
        found = src[0].ranges
        for s in src[1:]:
            if s.ranges is not found and not s.ranges <= found:
                found = found | s.ranges if not found <= s.ranges else s.ranges
        return found
    a, b = row.bound(node)
    inside: frozenset[UOp] = frozenset().union(*(s.ranges for s in src[a:b])) - frozenset(src[b:])
    return inside.union(*(s.ranges for s in src[:a]))


def _check(node: UOp, row: Row) -> None:
    try:
        good = row.check(node)
        if good and row.bound:
            tail = node.src[row.bound(node)[1] :]
            good = all(r.op is Op.RANGE for r in tail) and len(set(tail)) == len(tail)
    except (AttributeError, IndexError, TypeError, ValueError) as err:
        raise SpecError(f"{node.op.value}: {err}; its row wants {row.sources}") from err
    if not good:
        got = ", ".join(f"{s.op.value}.{s.dtype}{list(s.shape)}" for s in node.src)
        raise SpecError(f"{node.op.value}.{node.dtype} arg={node.arg!r} of ({got}); its row wants {row.sources}")


def _elementwise_shape(node: UOp) -> Shape:
    return next((s.shape for s in node.src if s.shape), ())


def _aligned(node: UOp) -> bool:
    shape = _elementwise_shape(node)
    return all(s.shape in ((), shape) for s in node.src)


def _same(node: UOp) -> bool:
    return _aligned(node) and all(s.dtype is node.src[0].dtype for s in node.src)


def _index_shape(node: UOp) -> Shape:
    value, at = node.src[0], node.src[1:]
    return next((s.shape for s in at if s.shape), ()) + value.shape[len(at) :]


def _index_check(node: UOp) -> bool:
    value, at = node.src[0], node.src[1:]
    shape = next((s.shape for s in at if s.shape), ())
    return (
        node.dtype is value.dtype
        and len(at) <= value.ndim
        and (at != () or value.op in STORAGE)
        and all(s.shape in ((), shape) and s.dtype.is_int for s in at)
    )


def _sizes(ranges: tuple[UOp, ...]) -> Shape:
    return tuple(r.length for r in ranges)


def _place(node: UOp) -> bool:
    """A STORE's place names one element of storage, an ASSIGN's a view of it."""
    return node.op in (Op.INDEX, Op.PARAM, Op.BUFFER)


def _states(node: UOp) -> bool:
    count = node.arg[1]
    pairs = zip(node.src[:count], node.src[count : 2 * count], strict=True)
    return count > 0 and all(a.dtype is b.dtype and a.shape == b.shape for a, b in pairs)


_COMBINED = frozenset({"add", "mul", "max", "min", "and", "or"})  # in any order, so that places may repeat


def _how(node: UOp) -> bool:
    """No arg: each place is written once, which is proved; "unique": which a CLAIM tests. A reducer joins what meets at
    a place, of "any" one value stays.
    """
    claim = node.src[_claim(node) - 1].op is Op.CLAIM
    return claim == (node.arg == "unique") and (node.arg in (None, "unique", "any") or node.arg in _COMBINED)


def _claim(node: UOp) -> int:
    """How many sources an ASSIGN or STORE has before its ranges."""
    return (3 if node.op is Op.ASSIGN else 2) + int(node.arg == "unique")


def _shrunk(node: UOp) -> Shape:
    return tuple(size for _, size, _ in node.arg)


# fmt: off
_SCALAR: Callable[[UOp], Shape] = lambda n: ()

SPEC: dict[Op, Row] = {
    Op.CONST: Row("nothing; arg the value", _SCALAR, lambda n: not n.src and isinstance(n.arg, (bool, int, float))),
    Op.RANGE: Row("the greatest size, and the size itself if that is not known", _SCALAR,
                  lambda n: n.dtype is dt.index and n.src[0].op is Op.CONST and n.src[0].arg >= 0
                  and all(s.dtype is dt.index for s in n.src) and len(n.src) <= 2),
    Op.DIM: Row("nothing; arg DimId", _SCALAR, lambda n: not n.src and n.dtype is dt.index),
    Op.INVALID: Row("nothing", _SCALAR, lambda n: not n.src and n.dtype is dt.index),
    Op.VAR: Row("nothing; arg (number, name)", _SCALAR, lambda n: not n.src),
    Op.PARAM: Row("nothing; arg ParamId", lambda n: n.arg.shape, lambda n: not n.src and n.dtype in dt.STORED),
    Op.BUFFER: Row("nothing; arg BufferId", lambda n: n.arg.shape, lambda n: not n.src and n.dtype in dt.STORED),
    Op.INDEX: Row("a value and an integer per leading axis", _index_shape, _index_check),
    Op.BUFFERIZE: Row("a value, the ranges it closes", lambda n: _sizes(n.src[1:]) + n.src[0].shape,
                      lambda n: n.dtype is n.src[0].dtype and n.dtype in dt.STORED, lambda n: (0, 1)),
    Op.ASSIGN: Row("base, place, value, a CLAIM, the ranges it closes; arg how", lambda n: n.src[0].shape,
                   lambda n: n.src[1].dtype is n.src[2].dtype is n.dtype and n.src[1].shape == n.src[2].shape
                   and _how(n),
                   lambda n: (1, _claim(n))),
    Op.STORE: Row("place, value, a CLAIM, the ranges it closes; arg how", _SCALAR,
                  lambda n: n.dtype is dt.void and _place(n.src[0]) and n.src[0].dtype is n.src[1].dtype
                  and n.src[0].shape == n.src[1].shape == () and _how(n), lambda n: (0, _claim(n))),
    Op.REDUCE: Row("the reducer's values, the ranges it consumes", lambda n: n.src[0].shape,
                   lambda n: n.dtype is n.src[0].dtype
                   and all(s.shape == n.src[0].shape for s in n.src[: arity(n)])
                   and (isinstance(n.arg, str) or n.arg.dtypes == tuple(s.dtype for s in n.src[: arity(n)])),
                   lambda n: (0, arity(n))),
    Op.GET: Row("a reduction or a fold; arg which value", lambda n: n.src[0].src[n.arg].shape,
                lambda n: n.src[0].op in (Op.REDUCE, Op.FOLD) and n.dtype is n.src[0].src[n.arg].dtype),
    Op.FOLD: Row("first states, as many next ones, the range", lambda n: n.src[0].shape,
                 lambda n: len(n.src) == 2 * n.arg[1] + 1 and n.dtype is n.src[0].dtype and _states(n),
                 lambda n: (n.arg[1], 2 * n.arg[1])),
    Op.SCAN: Row("first states, as many next ones, a value, the range", lambda n: (n.src[-1].length, *n.src[-2].shape),
                 lambda n: len(n.src) == 2 * n.arg[1] + 2 and n.dtype is n.src[-2].dtype and _states(n),
                 lambda n: (n.arg[1], 2 * n.arg[1] + 1)),
    Op.STATE: Row("the range and those around; arg (fold's number, k, shape, name)", lambda n: n.arg[2],
                  lambda n: all(s.dtype is dt.index for s in n.src)),
    Op.PRINT: Row("value, condition, the ranges it closes; arg label", _SCALAR,
                  lambda n: n.dtype is dt.void and n.src[1].dtype is dt.bool_ and n.src[1].shape == (),
                  lambda n: (0, 2)),
    Op.GUARD: Row("an index, or a value and the index that it was read at; arg (access or None, axis, size)", _SCALAR,
                  lambda n: n.dtype is n.src[0].dtype and n.src[-1].dtype is dt.index and len(n.src) < 3),
    Op.CLAIM: Row("two integers of one type; arg the access or None", _SCALAR,
                  lambda n: n.dtype is dt.bool_ and n.src[0].dtype is n.src[1].dtype and n.src[0].dtype.is_int
                  and len(n.src) == 2 and n.src[0].shape == n.src[1].shape == ()),
    Op.KERNEL: Row("stores and prints over equal loops, or kernels one after another; arg the name", _SCALAR,
                   lambda n: n.dtype is dt.void and (all(s.op in (Op.STORE, Op.PRINT) for s in n.src)
                                                     or all(s.op is Op.KERNEL for s in n.src))),
    Op.SINK: Row("everything the program does", _SCALAR, lambda n: n.dtype is dt.void),
    Op.RESHAPE: Row("a value; arg the shape", lambda n: n.arg,
                    lambda n: math.prod(n.arg) == math.prod(n.src[0].shape) and n.dtype is n.src[0].dtype),
    Op.PERMUTE: Row("a value; arg the order", lambda n: tuple(n.src[0].shape[a] for a in n.arg),
                    lambda n: sorted(n.arg) == list(range(n.src[0].ndim)) and n.dtype is n.src[0].dtype),
    Op.EXPAND: Row("a value of the same rank; arg the shape", lambda n: n.arg,
                   lambda n: len(n.arg) == n.src[0].ndim and n.dtype is n.src[0].dtype
                   and all(a == b or a == 1 for a, b in zip(n.src[0].shape, n.arg, strict=True))),
    Op.PAD: Row("a value; arg (before, after) an axis", lambda n: tuple(
                    a + s + b for s, (a, b) in zip(n.src[0].shape, n.arg, strict=True)),
                lambda n: all(a >= 0 and b >= 0 for a, b in n.arg) and n.dtype is n.src[0].dtype),
    Op.SHRINK: Row("a value; arg (start, size, step) an axis", _shrunk,
                   lambda n: n.dtype is n.src[0].dtype and len(n.arg) == n.src[0].ndim
                   and all(size == 0 or (start >= 0 and step > 0 and start + (size - 1) * step < s)
                           for s, (start, size, step) in zip(n.src[0].shape, n.arg, strict=True))),
    Op.FLIP: Row("a value; arg the axes", lambda n: n.src[0].shape,
                 lambda n: all(0 <= a < n.src[0].ndim for a in n.arg) and n.dtype is n.src[0].dtype),
    Op.CAST: Row("a value", _elementwise_shape, lambda n: len(n.src) == 1 and n.dtype is not dt.void),
    Op.BITCAST: Row("a value of the same width", _elementwise_shape,
                    lambda n: len(n.src) == 1 and n.dtype.bits == n.src[0].dtype.bits),
    Op.WHERE: Row("a condition and two values of one type (INVALID beside an index)", _elementwise_shape,
                  lambda n: _aligned(n) and n.src[0].dtype is dt.bool_ and n.src[1].dtype is n.dtype
                  and (n.src[2].dtype is n.dtype or n.src[2].op is Op.INVALID)),
    Op.IN_RANGE: Row("x, lo, hi of one type", _elementwise_shape,
                     lambda n: _same(n) and n.dtype is n.src[0].dtype and n.dtype.is_int and len(n.src) == 3),
}
# fmt: on


def _alu_row(op: Op) -> Row:
    count = 1 if op in UNARY else 3 if op in TERNARY else 2

    def check(n: UOp) -> bool:
        x = n.src[0].dtype
        kind = (
            x.is_float if op in MATH | FLOAT_BINARY | TESTS | ROUNDING | TERNARY
            else x.is_int if op in SHIFTS
            else x.is_int or x.kind == "b" if op in BITS | {Op.NOT}
            else x.is_int or x.is_float if op in ARITH | INT_ARITH | {Op.POW, Op.NEG, Op.ABS}
            else True
        )  # fmt: skip
        result = dt.bool_ if op in COMPARE | TESTS else x
        return len(n.src) == count and _same(n) and kind and n.dtype is result

    return Row(f"{count} of one type", _elementwise_shape, check)


SPEC.update({op: _alu_row(op) for op in (UNARY | BINARY | TERNARY) if op not in SPEC})
assert set(SPEC) == set(Op), set(Op) - set(SPEC)
assert set(SPEC) >= ELEMENTWISE | STORAGE
