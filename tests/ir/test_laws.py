"""What is found out about laws: right ones are never refused, wrong ones never pass, and what refutes one does."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.laws import Verdict, examine
from rangekit.ir.ops import Op
from rangekit.ir.reducers import REDUCERS, Formula, formula, states
from rangekit.ir.scalar import apply
from rangekit.ir.uop import UOp, alu, cast, const, toposort

each = pytest.mark.parametrize
Build = Callable[..., Any]


def made(build: Build, neutral: tuple[Any, ...], dtypes: tuple[DType, ...], commutative: bool = False) -> Formula:
    a, b = states(dtypes)
    return Formula("f", tuple(map(const, neutral, dtypes)), tuple(build(a, b)), commutative)


def run(f: Formula, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """The combine in Python floats and ints of the formula's dtypes, by the meaning of each op."""
    left, right = states(f.dtypes)
    known: dict[UOp, Any] = {v: np.asarray(x, v.dtype.numpy) for v, x in zip((*left, *right), (*a, *b), strict=True)}
    for n in toposort(*f.combined):
        if n.op is Op.CONST:
            known[n] = np.asarray(n.arg, n.dtype.numpy)
        elif n not in known:
            known[n] = apply(n.op, n.dtype, [known[s] for s in n.src], src_dtypes=[s.dtype for s in n.src])
    return tuple(known[n].item() for n in f.combined)


def sides(f: Formula, verdict: Verdict) -> tuple[Any, Any]:
    """What the broken law says of its states, worked out anew."""
    assert verdict.broken is not None
    e = tuple(n.arg for n in f.neutral)
    a, b, c = (verdict.broken.states * 3)[:3]
    return {
        "associative": lambda: (run(f, run(f, a, b), c), run(f, a, run(f, b, c))),
        "left identity": lambda: (run(f, e, a), a),
        "right identity": lambda: (run(f, a, e), a),
        "commutative": lambda: (run(f, a, b), run(f, b, a)),
    }[verdict.broken.law]()


NUMBERS = [*dt.INTS, *dt.UINTS, *dt.FLOATS]


@each("dtype", NUMBERS, ids=str)
@each("name", ["add", "mul", "max", "min"])
def test_the_named_reductions_are_monoids(name: str, dtype: DType) -> None:
    verdict = examine(formula(name, (dtype,)))
    assert verdict == Verdict(None, "numbers"), verdict


@each("dtype", [dt.bool_, *NUMBERS], ids=str)
@each("name", ["argmax", "argmin"])
def test_so_are_those_over_pairs(name: str, dtype: DType) -> None:
    verdict = examine(formula(name, (dtype, dt.int64)))
    assert verdict == Verdict(None, "numbers"), verdict


@each("dtype", [dt.bool_, *dt.INTS, *dt.UINTS], ids=str)
@each("name", ["and", "or"])
def test_those_of_bits_hold_for_every_value_of_the_width(name: str, dtype: DType) -> None:
    assert examine(formula(name, (dtype,))) == Verdict(None, "numbers" if dtype is dt.bool_ else "bits")
    assert set(REDUCERS) == {"add", "mul", "max", "min", "argmax", "argmin", "and", "or"}


WRONG: dict[str, tuple[Build, tuple[Any, ...], tuple[DType, ...]]] = {
    "difference": (lambda a, b: [alu(Op.SUB, a[0], b[0])], (0,), (dt.int32,)),
    "mean": (lambda a, b: [alu(Op.MUL, alu(Op.ADD, a[0], b[0]), const(0.5, dt.float32))], (0.0,), (dt.float32,)),
    "power": (lambda a, b: [alu(Op.POW, a[0], b[0])], (1.0,), (dt.float64,)),
    "distance": (lambda a, b: [alu(Op.ABS, alu(Op.SUB, a[0], b[0]))], (0,), (dt.int64,)),
    "sum from one": (lambda a, b: [alu(Op.ADD, a[0], b[0])], (1,), (dt.int8,)),
    "greatest from zero": (lambda a, b: [alu(Op.MAX, a[0], b[0])], (0.0,), (dt.float32,)),
    "greatest from a little": (lambda a, b: [alu(Op.MAX, a[0], b[0])], (-1e9,), (dt.float32,)),
    "least of a count and greatest from zero": (
        lambda a, b: [alu(Op.ADD, a[0], b[0]), alu(Op.MAX, a[1], b[1])], (0, 0), (dt.int64, dt.int64)),
    "first but one": (
        lambda a, b: [alu(Op.WHERE, alu(Op.EQ, a[0], const(12345, dt.int64)), b[0], alu(Op.ADD, a[0], b[0]))],
        (0,), (dt.int64,)),
    "bits": (lambda a, b: [alu(Op.OR, alu(Op.NOT, a[0]), b[0])], (0,), (dt.uint8,)),
    "not what it is": (lambda a, b: [alu(Op.NOT, alu(Op.AND, a[0], b[0]))], (True,), (dt.bool_,)),
    "log of a sum, unguarded": (
        lambda a, b: [m := alu(Op.MAX, a[0], b[0]),
                      alu(Op.ADD, alu(Op.MUL, a[1], alu(Op.EXP, alu(Op.SUB, a[0], m))),
                          alu(Op.MUL, b[1], alu(Op.EXP, alu(Op.SUB, b[0], m))))],
        (-math.inf, 0.0), (dt.float32, dt.float32)),
    "product and its wrong sum": (
        lambda a, b: [alu(Op.MUL, a[0], b[0]), alu(Op.ADD, alu(Op.MUL, a[1], b[0]), b[0])],
        (1.0, 0.0), (dt.float32, dt.float32)),
}  # fmt: skip


@each("name", WRONG)
def test_a_wrong_law_is_refuted_by_numbers_that_refute_it(name: str) -> None:
    f = made(*WRONG[name])
    verdict = examine(f)
    left, right = sides(f, verdict)
    np.testing.assert_allclose(verdict.broken.left, left, rtol=1e-5)
    np.testing.assert_allclose(verdict.broken.right, right, rtol=1e-5)
    assert not np.allclose(left, right, rtol=1e-4, equal_nan=True)


def test_the_numbers_are_small() -> None:
    broken = examine(made(*WRONG["difference"])).broken
    assert (broken.law, broken.states, broken.left, broken.right) == ("associative", ((0,), (0,), (1,)), (-1,), (1,))
    broken = examine(made(*WRONG["greatest from zero"])).broken
    assert (broken.law, broken.states, broken.left, broken.right) == ("left identity", ((-1.0,),), (0.0,), (-1.0,))


def test_an_order_that_shows_is_not_commutative() -> None:
    later = (lambda a, b: [alu(Op.WHERE, alu(Op.NE, b[0], const(0, dt.int32)), b[0], a[0])], (0,), (dt.int32,))
    assert examine(made(*later)) == Verdict(None, "numbers")
    broken = examine(made(*later, commutative=True)).broken
    assert broken.law == "commutative"
    assert broken.left != broken.right


def _mean(a: Any, b: Any, guard: bool = True) -> list[UOp]:
    n = alu(Op.ADD, a[0], b[0])
    one = const(1, n.dtype)
    safe = alu(Op.WHERE, alu(Op.EQ, n, const(0, n.dtype)), one, n) if guard else n
    total = alu(Op.ADD, *(alu(Op.MUL, cast(s[0], dt.float32), s[1]) for s in (a, b)))
    return [n, alu(Op.DIV, total, cast(safe, dt.float32))]


@each("dtype", [dt.int64, dt.float32], ids=str)
def test_a_mean_is_one_where_it_counts_something(dtype: DType) -> None:
    verdict = examine(made(_mean, (0, 0.0), (dtype, dt.float32), commutative=True))
    assert verdict == Verdict(None, "numbers", (0,))
    broken = examine(made(lambda a, b: _mean(a, b, False), (0, 0.0), (dtype, dt.float32))).broken
    assert (broken.law, broken.states) == ("left identity", ((0, 0.0),))  # nothing of nothing is 0 / 0


def test_a_value_is_one_where_its_flag_is_true() -> None:
    last = made(lambda a, b: [alu(Op.OR, a[0], b[0]), alu(Op.WHERE, b[0], b[1], a[1])], (False, 0), (dt.bool_, dt.int8))
    assert examine(last) == Verdict(None, "numbers", (0,))


def test_a_choice_that_loses_nan_is_one_for_finite_numbers() -> None:
    greater = made(lambda a, b: [alu(Op.WHERE, alu(Op.LT, b[0], a[0]), a[0], b[0])], (-math.inf,), (dt.float32,))
    verdict = examine(greater)
    assert verdict.broken is None and verdict.proved
    assert verdict.special.law == "associative"
    a, b, c = verdict.special.states
    assert any(math.isnan(x) for x in (*a, *b, *c))
    assert run(greater, run(greater, a, b), c) != run(greater, a, run(greater, b, c))
    product = made(lambda a, b: [alu(Op.MUL, a[0], b[0]), alu(Op.ADD, alu(Op.MUL, a[1], b[0]), b[1])], (1.0, 0.0),
                   (dt.float32, dt.float32))  # fmt: skip
    assert examine(product) == Verdict(None, "numbers")  # inf - inf comes of arithmetic


@each("seed", range(8))
def test_random_tables_against_enumeration(seed: int) -> None:
    """Operations on two truth values, given by their tables: few are monoids, and which is found by trying all."""
    rng = random.Random(seed)
    for _ in range(40):
        table = [rng.random() < 0.5 for _ in range(4)]
        e = rng.random() < 0.5

        def build(a: Any, b: Any, table: list[bool] = table) -> list[UOp]:
            first, second = (
                alu(Op.WHERE, b[0], *(const(t, dt.bool_) for t in pair)) for pair in (table[3:1:-1], table[1::-1])
            )
            return [alu(Op.WHERE, a[0], first, second)]

        def op(a: bool, b: bool, table: list[bool] = table) -> bool:
            return table[2 * a + b]

        every = list(itertools.product((False, True), repeat=3))
        associative = all(op(op(a, b), c) == op(a, op(b, c)) for a, b, c in every)
        neutral = all(op(e, a) == op(a, e) == a for a in (False, True))
        commutative = all(op(a, b) == op(b, a) for a, b, _ in every)
        for claimed in (False, True):
            verdict = examine(made(build, (e,), (dt.bool_,), claimed))
            assert (verdict.broken is None) == (associative and neutral and (commutative or not claimed)), table
            assert verdict.broken is not None or verdict.proved == "numbers"


@each("seed", range(4))
def test_random_polynomials_against_values(seed: int) -> None:
    """x + y + k x y is associative with 0 for every k, and hardly anything near it is."""
    rng = random.Random(seed)
    for _ in range(10):
        p, q, r, s = (rng.choice((0, 1, 1, 2, -1)) for _ in range(4))

        def build(a: Any, b: Any, p: int = p, q: int = q, r: int = r, s: int = s) -> list[UOp]:
            x, y = a[0], b[0]
            terms = [alu(Op.MUL, const(k, dt.int64), t) for k, t in ((p, x), (q, y), (r, alu(Op.MUL, x, y)))]
            return [alu(Op.ADD, alu(Op.ADD, alu(Op.ADD, *terms[:2]), terms[2]), const(s, dt.int64))]

        def op(x: int, y: int, p: int = p, q: int = q, r: int = r, s: int = s) -> int:
            return p * x + q * y + r * x * y + s

        some = range(-3, 4)
        holds = all(op(0, x) == x == op(x, 0) for x in some) and all(
            op(op(x, y), z) == op(x, op(y, z)) for x in some for y in some for z in some
        )
        verdict = examine(made(build, (0,), (dt.int64,)))
        assert (verdict.broken is None) == holds == bool(verdict.proved), (p, q, r, s)
