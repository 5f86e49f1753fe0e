from __future__ import annotations

import math
import random
from types import ModuleType

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds, facts_of
from rangekit.ir.ops import Op
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import ParamId, UOp, alu, cast, const, idx, new_range

I, J = new_range(8, "i"), new_range(5, "j")
FREE = cast(UOp(Op.VAR, dt.float32, (), (0, "f")), dt.index)
V = UOp(Op.VAR, dt.int8, (), (1, "v"))
U = UOp(Op.VAR, dt.uint8, (), (2, "u"))
B = UOp(Op.VAR, dt.bool_, (), (3, "b"))
GATE = alu(Op.LT, I, idx(3))


def plus(a: UOp, b: UOp) -> UOp:
    return alu(Op.ADD, a, b)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (idx(-4), (-4, -4)),
        (I, (0, 7)),
        (new_range(0), (0, 1)),  # no value at all, and not one that is known
        (plus(I, J), (0, 11)),
        (alu(Op.SUB, I, J), (-4, 7)),
        (alu(Op.MUL, plus(I, idx(-3)), plus(J, idx(-1))), (-9, 12)),
        (alu(Op.IDIV, plus(I, idx(-3)), idx(2)), (-2, 2)),
        (alu(Op.IDIV, I, idx(-2)), (-4, 0)),
        (alu(Op.IDIV, I, idx(0)), (0, 0)),
        (alu(Op.IDIV, plus(I, idx(1)), J), (0, 8)),
        (alu(Op.MOD, plus(I, idx(8)), idx(16)), (8, 15)),
        (alu(Op.MOD, I, idx(4)), (0, 3)),
        (alu(Op.MOD, I, idx(-4)), (-3, 0)),
        (alu(Op.MOD, I, idx(0)), (0, 0)),
        (alu(Op.MAX, I, idx(3)), (3, 7)),
        (alu(Op.MIN, I, idx(3)), (0, 3)),
        (alu(Op.ABS, plus(I, idx(-3))), (0, 4)),
        (alu(Op.SHL, J, idx(2)), (0, 16)),
        (alu(Op.SHR, plus(I, idx(-3)), idx(1)), (-2, 2)),
        (alu(Op.AND, I, idx(3)), (0, 3)),
        (alu(Op.OR, I, idx(8)), (8, 15)),
        (UOp(Op.WHERE, dt.index, (GATE, I, idx(20))), (0, 20)),
        (alu(Op.LT, I, idx(8)), (1, 1)),
        (alu(Op.LE, idx(8), I), (0, 0)),
        (alu(Op.EQ, I, idx(8)), (0, 0)),
        (alu(Op.NE, I, I), (0, 0)),
        (alu(Op.LT, I, idx(7)), (0, 1)),
        (alu(Op.NOT, alu(Op.LT, I, idx(8))), (0, 0)),
        (B, (0, 1)),
        (alu(Op.AND, B, alu(Op.EQ, I, idx(8))), (0, 0)),
        (V, (-128, 127)),
        (U, (0, 255)),
        (alu(Op.NEG, V), (-128, 127)),  # -(-128) wraps
        (alu(Op.ADD, cast(I, dt.int8), const(120, dt.int8)), (120, 127)),
        (alu(Op.ADD, cast(I, dt.int8), const(121, dt.int8)), (-128, 127)),
        (cast(V, dt.uint8), (0, 255)),
        (cast(cast(I, dt.int8), dt.index), (0, 7)),
        (cast(V, dt.index), (-128, 127)),
        (FREE, (-math.inf, math.inf)),
        (alu(Op.MAX, FREE, idx(0)), (0, math.inf)),
        (alu(Op.MOD, FREE, idx(6)), (0, 5)),
        (alu(Op.MUL, FREE, idx(0)), (0, 0)),
        (UOp(Op.IN_RANGE, dt.index, (FREE, idx(0), plus(I, idx(1)))), (0, 7)),
        (UOp(Op.GUARD, dt.index, (FREE,), (0, 0, 9)), (0, 8)),
        (UOp(Op.REDUCE, dt.int64, (cast(I, dt.int64), I), "max"), (0, 7)),
        (UOp(Op.REDUCE, dt.int64, (cast(J, dt.int64), J), "add"), (0, 20)),
        (UOp(Op.REDUCE, dt.int8, (cast(J, dt.int8), J, new_range(9)), "add"), (-128, 127)),
    ],
)
def test_the_bounds_are(node: UOp, expected: tuple[float, float]):
    assert bounds(node) == expected


def test_an_argmin_lies_among_the_indices_it_saw():
    x = UOp(Op.PARAM, dt.float32, (), ParamId(0, "x", (5,)))
    best = UOp(Op.REDUCE, dt.float32, (UOp(Op.INDEX, dt.float32, (x, J)), cast(J, dt.int64), J), "argmin")
    assert bounds(UOp(Op.GET, dt.int64, (best,), 1)) == (0, 4)
    empty = new_range(0)
    none = UOp(Op.REDUCE, dt.float32, (const(0.0, dt.float32), cast(empty, dt.int64), empty), "argmin")
    assert bounds(UOp(Op.GET, dt.int64, (none,), 1)) == (dt.int64.min, dt.int64.max)


def test_facts_narrow_nodes_and_all_above_them():
    total = plus(alu(Op.MUL, I, idx(5)), J)
    assert bounds(total) == (0, 39)
    assert bounds(total, {I: (2, 3)}) == (10, 19)
    assert bounds(total, {I: (2, math.inf), J: (None, 1)}) == (10, 36)
    assert bounds(plus(total, idx(1)), {total: (0, 9)}) == (1, 10)


def test_facts_that_contradict_say_nothing():
    assert bounds(I, {I: (9, 12)}) == (0, 7)


@pytest.mark.parametrize(
    ("gate", "node", "expected"),
    [
        (GATE, I, (0, 2)),
        (alu(Op.LE, idx(2), I), I, (2, 7)),
        (alu(Op.NOT, GATE), I, (3, 7)),
        (alu(Op.EQ, I, idx(3)), I, (3, 3)),
        (alu(Op.LE, I, J), I, (0, 4)),
        (alu(Op.LT, J, I), I, (1, 7)),
        (alu(Op.AND, GATE, alu(Op.LT, J, idx(2))), plus(I, J), (0, 3)),
        (alu(Op.LT, plus(I, J), idx(4)), plus(I, J), (0, 3)),
        (alu(Op.LT, idx(9), alu(Op.ADD, I, J)), plus(I, J), (10, 11)),
        (alu(Op.LT, alu(Op.MUL, I, idx(3)), idx(10)), I, (0, 3)),
        (alu(Op.LT, V, const(3, dt.int8)), V, (-128, 2)),
        (alu(Op.OR, GATE, B), I, (0, 7)),
    ],
)
def test_a_gate_gives_facts(gate: UOp, node: UOp, expected: tuple[int, int]):
    assert bounds(node, facts_of(gate)) == expected


def test_a_gated_index_has_the_bounds_it_has_where_its_gate_is_open():
    shifted = plus(I, idx(-1))
    gate = alu(Op.LT, idx(0), I)
    assert bounds(UOp(Op.WHERE, dt.index, (gate, shifted, UOp(Op.INVALID, dt.index)))) == (0, 6)


@pytest.mark.parametrize("seed", range(120))
def test_no_value_lies_outside_its_bounds(seed: int, exprs: ModuleType):
    rng = random.Random(seed)
    if seed % 3:
        ranges = [new_range(rng.randint(1, 6)) for _ in range(2)]
        node = exprs.index_expr(rng, ranges, 4)
    else:
        ranges = [new_range(256), new_range(3)]
        node = exprs.machine_expr(rng, [cast(r, rng.choice((dt.int8,))) for r in ranges], 3)
    lo, hi = bounds(node)
    gate = exprs.bool_expr(rng, ranges, 2)
    low, high = bounds(node, facts_of(gate))
    for env in exprs.environments(ranges):
        value = exprs.value_of(node, env)
        assert lo <= value <= hi
        assert not exprs.value_of(gate, env) or low <= value <= high


def test_a_chain_of_ten_thousand_nodes_has_bounds():
    node = I
    for _ in range(5_000):
        node = plus(alu(Op.MAX, node, J), idx(1))
    assert bounds(node) == (5_000, 5_007)
    assert bounds(node, {I: (0, 1), J: (0, 0)}) == (5_000, 5_001)


def test_facts_about_a_range_say_nothing_inside_what_binds_it():
    i, j = new_range(10), new_range(7)
    biggest = UOp(Op.REDUCE, dt.index, (alu(Op.ADD, i, j), i), "max")
    where = UOp(Op.REDUCE, dt.index, (alu(Op.MUL, i, idx(2)), i, i), "argmax")
    facts = {i: (0, 2), alu(Op.MUL, i, idx(2)): (0, 3), j: (5, math.inf)}
    assert bounds(biggest, facts) == (5, 15)
    assert bounds(UOp(Op.GET, dt.index, (where,), 1), facts) == (0, 9)
    assert bounds(alu(Op.ADD, biggest, i), facts) == (5, 17)
    capped = alu(Op.MIN, biggest, idx(10))
    assert simplify(UOp(Op.WHERE, dt.index, (alu(Op.LT, i, idx(3)), capped, idx(0)))).src[1] is simplify(capped)
    assert simplify(capped, facts).op is Op.MIN
