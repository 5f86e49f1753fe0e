"""Random integer and bool expressions over a few ranges, and what they are, worked out value by value."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import COMPARE, Op
from rangekit.ir.uop import UOp, alu, cast, const, idx, toposort

Env = dict[UOp, int]


@pytest.fixture(scope="session")
def exprs() -> ModuleType:
    """The functions of this file."""
    return sys.modules[__name__]


def wrap(value: int, dtype: DType) -> int:
    if dtype.kind not in "iu":
        return value
    value &= (1 << dtype.bits) - 1
    return value - (1 << dtype.bits) if dtype.kind == "i" and value >> (dtype.bits - 1) else value


def value_of(root: UOp, env: Env) -> int | None:
    """The value of an integer or bool node (None: no index) where its leaves are ``env``; plain Python throughout."""
    got: dict[UOp, int | None] = dict(env)
    for n in toposort(root):
        if n in got:
            continue
        v = [got[s] for s in n.src]
        got[n] = _one(n, v)
    return got[root]


def _one(n: UOp, v: list[int | None]) -> int | None:
    if n.op is Op.CONST:
        return int(n.arg)
    if n.op is Op.INVALID:
        return None
    if n.op is Op.WHERE:
        return v[1] if v[0] else v[2]
    if any(x is None for x in v):
        return None
    a = v[0]
    b = v[1] if len(v) > 1 else 0
    assert a is not None and b is not None
    bits = 10**6 if n.dtype is dt.index else n.dtype.bits
    table = {
        Op.ADD: lambda: a + b,
        Op.SUB: lambda: a - b,
        Op.MUL: lambda: a * b,
        Op.IDIV: lambda: a // b if b else 0,
        Op.MOD: lambda: a % b if b else 0,
        Op.MAX: lambda: max(a, b),
        Op.MIN: lambda: min(a, b),
        Op.AND: lambda: a & b,
        Op.OR: lambda: a | b,
        Op.XOR: lambda: a ^ b,
        Op.SHL: lambda: a << b if b < bits else 0,
        Op.SHR: lambda: a >> b if b < bits else (-1 if a < 0 else 0),
        Op.LT: lambda: int(a < b),
        Op.LE: lambda: int(a <= b),
        Op.EQ: lambda: int(a == b),
        Op.NE: lambda: int(a != b),
        Op.NEG: lambda: -a,
        Op.ABS: lambda: abs(a),
        Op.NOT: lambda: 1 - a if n.dtype is dt.bool_ else ~a,
        Op.CAST: lambda: int(bool(a)) if n.dtype is dt.bool_ else a,
        Op.IN_RANGE: lambda: a,
    }
    return wrap(table[n.op](), n.dtype)


def environments(ranges: list[UOp]) -> Iterator[Env]:
    for point in itertools.product(*(range(r.extent) for r in ranges)):
        yield dict(zip(ranges, point, strict=True))


def index_expr(rng: random.Random, ranges: list[UOp], depth: int) -> UOp:
    """An index expression, most of it sums, multiples, quotients and remainders."""
    if depth == 0 or rng.random() < 0.1:
        return rng.choice(ranges) if rng.random() < 0.8 else idx(rng.randint(-7, 12))
    a = index_expr(rng, ranges, depth - 1)
    roll = rng.random()
    if roll < 0.3:
        return alu(rng.choice((Op.ADD, Op.ADD, Op.SUB)), a, index_expr(rng, ranges, depth - 1))
    if roll < 0.5:
        return alu(Op.MUL, a, idx(rng.choice((-3, -1, 0, 1, 2, 3, 4, 6, 12))))
    if roll < 0.85:
        return alu(rng.choice((Op.IDIV, Op.MOD)), a, idx(rng.choice((-4, -1, 0, 1, 2, 3, 4, 6, 8, 12))))
    if roll < 0.9:
        return alu(rng.choice((Op.MAX, Op.MIN, Op.MUL, Op.IDIV, Op.MOD)), a, index_expr(rng, ranges, depth - 1))
    if roll < 0.92:
        return alu(rng.choice((Op.NEG, Op.ABS)), a)
    if roll < 0.94:
        return cast(cast(a, dt.int64), dt.index)
    return UOp(Op.WHERE, dt.index, (bool_expr(rng, ranges, 2), a, index_expr(rng, ranges, depth - 1)))


def bool_expr(rng: random.Random, ranges: list[UOp], depth: int) -> UOp:
    """Comparisons of index expressions, combined."""
    if depth == 0 or rng.random() < 0.3:
        op = rng.choice(sorted(COMPARE, key=lambda o: o.value))
        right = idx(rng.randint(-4, 20)) if rng.random() < 0.6 else index_expr(rng, ranges, 1)
        return alu(op, index_expr(rng, ranges, 2), right)
    if rng.random() < 0.2:
        return alu(Op.NOT, bool_expr(rng, ranges, depth - 1))
    op = rng.choice((Op.AND, Op.AND, Op.OR, Op.OR, Op.XOR, Op.EQ))
    return alu(op, bool_expr(rng, ranges, depth - 1), bool_expr(rng, ranges, depth - 1))


def machine_expr(rng: random.Random, leaves: list[UOp], depth: int) -> UOp:
    """An expression of one small machine integer type, which wraps."""
    dtype = leaves[0].dtype
    if depth == 0:
        return rng.choice(leaves) if rng.random() < 0.7 else const(rng.choice((-128, -1, 0, 1, 2, 3, 127, 255)), dtype)
    a, b = machine_expr(rng, leaves, depth - 1), machine_expr(rng, leaves, depth - 1)
    op = rng.choice(
        (Op.ADD, Op.SUB, Op.MUL, Op.IDIV, Op.MOD, Op.MAX, Op.MIN, Op.AND, Op.OR, Op.XOR, Op.NEG, Op.NOT, Op.ABS,
         Op.SHL, Op.SHR, Op.WHERE, Op.CAST)
    )  # fmt: skip
    if op in (Op.NEG, Op.NOT, Op.ABS):
        return alu(op, a)
    if op in (Op.SHL, Op.SHR):
        return alu(op, a, const(rng.choice((0, 1, 3, 7, 8, 9)), dtype))
    if op is Op.WHERE:
        return UOp(op, dtype, (alu(rng.choice((Op.LT, Op.LE, Op.EQ, Op.NE)), a, b), b, a))
    if op is Op.CAST:
        return cast(cast(a, rng.choice((dt.int8, dt.uint8, dt.int16, dt.index, dt.bool_))), dtype)
    return alu(op, a, b)
