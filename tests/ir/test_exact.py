"""What formulas are to Z3, against what their ops mean: values put in for the variables give the same numbers."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.bits import Bits
from rangekit.ir.exact import FINITE, NAN, Float, Untranslatable, World
from rangekit.ir.ops import Op
from rangekit.ir.scalar import apply
from rangekit.ir.uop import UOp, alu, cast, const, toposort

each = pytest.mark.parametrize
FLOAT_OPS = [Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.FMA, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.LT, Op.LE, Op.EQ, Op.NE,
             Op.ISNAN, Op.ISFINITE, Op.FLOOR, Op.CEIL]  # fmt: skip
INT_OPS = [Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.IDIV, Op.MOD, Op.LT, Op.LE, Op.EQ, Op.NE]
BOOL_OPS = [Op.AND, Op.OR, Op.XOR, Op.NOT, Op.EQ, Op.NE, Op.LT, Op.LE]
BIT_OPS = [Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.ABS, Op.MAX, Op.MIN, Op.AND, Op.OR, Op.XOR, Op.NOT, Op.SHL, Op.SHR,
           Op.LT, Op.LE, Op.EQ, Op.NE]  # fmt: skip
ARITY = {Op.NEG: 1, Op.ABS: 1, Op.NOT: 1, Op.ISNAN: 1, Op.ISFINITE: 1, Op.FLOOR: 1, Op.CEIL: 1, Op.FMA: 3}


def meant(root: UOp, env: dict[UOp, Any]) -> Any:
    known = {v: np.asarray(x, v.dtype.numpy) for v, x in env.items()}
    for n in toposort(root):
        if n.op is Op.CONST:
            known[n] = np.asarray(n.arg, n.dtype.numpy)
        elif n not in known:
            known[n] = apply(n.op, n.dtype, [known[s] for s in n.src], src_dtypes=[s.dtype for s in n.src])
    return known[root].item()


def translated(world: World, root: UOp, env: dict[UOp, Any]) -> Any:
    """The value of the term, numbers put in for variables after it is made."""
    z3 = world.z3
    terms = {v: world.variable(f"v{n}", v.dtype) for n, v in enumerate(env)}
    (term,) = world.values([root], terms)
    put = [(t.value if isinstance(t, Float) else t, world.constant(env[v], v.dtype)) for v, t in terms.items()]
    put = [(a, b.value if isinstance(b, Float) else b) for a, b in put]

    def number(t: Any) -> Any:
        if isinstance(t, (bool, int)):
            return t
        t = z3.simplify(z3.substitute(t, *put))
        if z3.is_true(t) or z3.is_false(t):
            return bool(z3.is_true(t))
        if z3.is_bv_value(t):
            return t.as_long() if root.dtype.kind == "u" else t.as_signed_long()
        return t.as_long() if z3.is_int_value(t) else float(Fraction(t.numerator_as_long(), t.denominator_as_long()))

    if not isinstance(term, Float):
        return number(term)
    kind = number(term.kind)
    return number(term.value) if kind == FINITE else math.nan if kind == NAN else kind * math.inf


@each("op", FLOAT_OPS, ids=str)
@each("dynamic", [False, True])
def test_floats(op: Op, dynamic: bool) -> None:
    rng, world = random.Random(op.value), World()
    for _ in range(25):
        env: dict[UOp, Any] = {}
        args = []
        for n in range(ARITY.get(op, 2)):
            x, b, c, d = (UOp(Op.VAR, t, (), (name, n, name)) for t, name in
                          ((dt.float64, "x"), (dt.bool_, "b"), (dt.bool_, "c"), (dt.bool_, "d")))  # fmt: skip
            value = rng.choice((0.0, 1.0, -1.0, 2.5, -3.0))
            env[x] = value if op is not Op.DIV or n == 0 else value or 4.0  # nothing is said of a division by zero
            if not dynamic:
                args.append(rng.choice((x, x, const(math.inf, dt.float64), const(-math.inf, dt.float64),
                                        const(math.nan, dt.float64))))  # fmt: skip
                continue
            env |= {b: rng.random() < 0.4, c: rng.random() < 0.6, d: rng.random() < 0.5}
            other = UOp(Op.WHERE, dt.float64, (d, const(math.inf, dt.float64), const(math.nan, dt.float64)))
            other = UOp(Op.WHERE, dt.float64, (c, other, const(-math.inf, dt.float64)))
            args.append(UOp(Op.WHERE, dt.float64, (b, x, other)))
        root = alu(op, *args)
        got, want = translated(world, root, env), meant(root, env)
        assert got == want or (got != got and want != want), (op, [meant(a, env) for a in args], got, want)


@each("op", INT_OPS, ids=str)
def test_integers(op: Op) -> None:
    rng, world = random.Random(op.value), World()
    a, b = (UOp(Op.VAR, dt.int64, (), (name, 0, name)) for name in "ab")
    root = alu(op, *(a, b)[: ARITY.get(op, 2)])
    for _ in range(25):
        env = {a: rng.randint(-9, 9), b: rng.randint(-3, 3)}
        assert translated(world, root, env) == meant(root, env), (op, env)


@each("kind", [World, Bits])
@each("op", BOOL_OPS, ids=str)
def test_truth_values(kind: type[World], op: Op) -> None:
    world = kind()
    a, b = (UOp(Op.VAR, dt.bool_, (), (name, 0, name)) for name in "ab")
    root = alu(op, *(a, b)[: ARITY.get(op, 2)])
    for x in (False, True):
        for y in (False, True):
            assert translated(world, root, {a: x, b: y}) == bool(meant(root, {a: x, b: y})), (op, x, y)


@each("dtype", [*dt.INTS, *dt.UINTS], ids=str)
@each("op", BIT_OPS, ids=str)
def test_machine_integers_wrap(op: Op, dtype: dt.DType) -> None:
    rng, world = random.Random(op.value), Bits()
    a, b = (UOp(Op.VAR, dtype, (), (name, 0, name)) for name in "ab")
    root = alu(op, *(a, b)[: ARITY.get(op, 2)])
    some = [0, 1, 2, 3, dtype.bits - 1, dtype.bits, dtype.max, dtype.min, dtype.max - 1]
    for _ in range(12):
        env = {a: rng.choice(some), b: rng.choice(some)}
        assert translated(world, root, env) == meant(root, env), (op, env)


@each("src", [dt.bool_, dt.int8, dt.uint8, dt.int64], ids=str)
@each("dst", [dt.bool_, dt.int8, dt.uint16, dt.int64], ids=str)
def test_conversions_of_machine_integers(src: dt.DType, dst: dt.DType) -> None:
    x = UOp(Op.VAR, src, (), ("x", 0, "x"))
    for value in (0, 1, src.max, src.min):
        env = {x: bool(value) if src is dt.bool_ else value}
        assert translated(Bits(), cast(x, dst), env) == meant(cast(x, dst), env), value


def test_conversions_of_numbers() -> None:
    i, b = (UOp(Op.VAR, d, (), ("x", 0, "x")) for d in (dt.int32, dt.bool_))
    for value in (-7, 0, 3):
        assert translated(World(), cast(i, dt.float32), {i: value}) == value
        assert translated(World(), cast(cast(i, dt.float32), dt.bool_), {i: value}) is bool(value)
        assert translated(World(), cast(cast(i, dt.bool_), dt.int8), {i: value}) == bool(value)
    assert translated(World(), cast(b, dt.float32), {b: True}) == 1.0


def test_what_has_no_counterpart_says_so() -> None:
    x = UOp(Op.VAR, dt.float32, (), ("x", 0, "x"))
    i = UOp(Op.VAR, dt.int32, (), ("i", 0, "i"))
    for root in (alu(Op.EXP, x), cast(x, dt.int32), alu(Op.XOR, i, i), alu(Op.ROUND, x)):
        with pytest.raises(Untranslatable):
            translated(World(), root, {x: 1.0, i: 1})
    for root in (alu(Op.IDIV, i, i), cast(i, dt.float32)):
        with pytest.raises(Untranslatable):
            translated(Bits(), root, {i: 1})


def test_a_question_has_the_same_answer_every_time() -> None:
    def asked() -> Any:
        world = World()
        x, y = (world.variable(n, dt.float32) for n in "xy")
        a, b = (UOp(Op.VAR, dt.float32, (), (n, 0, n)) for n in "ab")
        left, right = (
            alu(Op.MUL, alu(Op.SUB, a, b), alu(Op.ADD, a, b)),
            alu(Op.SUB, alu(Op.MUL, a, a), alu(Op.MAX, b, a)),
        )
        known = {a: x, b: y}
        return world.refute(world.values([left], known), world.values([right], known))

    assert asked() == asked()
    x, y = asked()
    assert (x - y) * (x + y) != x * x - max(x, y)
