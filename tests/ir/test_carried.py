"""Intervals of states hold every value that the states have, and are no wider than the loop makes them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, cast, const, new_fold, new_range


def fold(extent: int, inits: list[int], step: Any, dtype: Any = dt.int32) -> list[UOp]:
    """The states of a fold after its loop; ``step`` makes the next ones."""
    r, number = new_range(extent), new_fold()
    states = [UOp(Op.STATE, dtype, (r,), (number, k, (), f"s{k}")) for k in range(len(inits))]
    node = UOp(Op.FOLD, dtype, (*(const(i, dtype) for i in inits), *step(cast(r, dtype), *states), r),
               (number, len(inits), None))  # fmt: skip
    return [UOp(Op.GET, dtype, (node,), k) for k in range(len(inits))]


def number(value: int, dtype: Any = dt.int32) -> UOp:
    return const(value, dtype)


def test_a_counter_is_bounded_by_the_iterations() -> None:
    (count,) = fold(10, [2], lambda r, s: [alu(Op.WHERE, alu(Op.LT, r, number(3)), alu(Op.ADD, s, number(1)), s)])
    assert bounds(count) == (2, 12)
    assert evaluate(count, {}) == 5


def test_a_choice_of_indices_stays_among_them() -> None:
    (place,) = fold(10, [0], lambda r, s: [alu(Op.WHERE, alu(Op.LT, s, r), r, s)])
    assert bounds(place) == (0, 9)


def test_what_may_wrap_may_be_anything() -> None:
    (s,) = fold(1000, [1], lambda r, s: [alu(Op.MUL, s, number(3))])
    assert bounds(s) == (dt.int32.min, dt.int32.max)
    (s,) = fold(1 << 20, [1], lambda r, s: [alu(Op.ADD, s, number(1 << 20))])
    assert bounds(s) == (dt.int32.min, dt.int32.max)


def expression(draw: random.Random, leaves: list[UOp], depth: int) -> UOp:
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([*leaves, number(draw.randint(-3, 3))])
    a, b = (expression(draw, leaves, depth - 1) for _ in range(2))
    op = draw.choice([Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX, Op.MOD, Op.IDIV, Op.WHERE])
    if op is Op.WHERE:
        c = expression(draw, leaves, depth - 1)
        return alu(Op.WHERE, alu(Op.LT, a, c), b, c)
    return alu(op, a, b)


@pytest.mark.parametrize("seed", range(300))
def test_random_loops(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(1, 3)
    inits = [draw.randint(-4, 4) for _ in range(count)]

    def step(r: UOp, *states: UOp) -> list[UOp]:
        made = []
        for s in states:
            new = expression(draw, [r, *states], 3)
            made.append(alu(Op.ADD, s, new) if draw.random() < 0.4 else new)
        return made

    for state in fold(draw.choice([0, 1, 2, 7, 40]), inits, step):
        lo, hi = bounds(state)
        assert lo <= int(evaluate(state, {})) <= hi
