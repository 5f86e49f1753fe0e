from __future__ import annotations

import math
import random
from collections import Counter
from types import ModuleType

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.algebra import BOOLS, FLOATS, INDICES, INTEGERS, SELECTIONS
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.pattern import Literal, Node, Pattern, Rule, Var, rule
from rangekit.ir.uop import UOp, alu, const

INVALID = UOp(Op.INVALID, dt.index)
ROWS = [*INTEGERS.rows, *INDICES.rows, *BOOLS.rows, *SELECTIONS.rows]
DTYPES = {"x": dt.index, "i": dt.int8, "u": dt.uint8, "b": dt.bool_}


def variables(pattern: Pattern) -> set[Var]:
    if isinstance(pattern, Var):
        return {pattern}
    return set().union(*map(variables, pattern.src)) if isinstance(pattern, Node) else set()


def instance(pattern: Pattern, found: dict[Var, UOp], dtype: DType) -> UOp:
    """The node a pattern describes, nothing folded; a literal has its neighbour's dtype."""
    if isinstance(pattern, Var):
        return found[pattern]
    if isinstance(pattern, Literal):
        return const(pattern.value, dt.bool_ if isinstance(pattern.value, bool) else dtype)
    assert isinstance(pattern, Node)
    return alu(pattern.op, *(instance(s, found, dtype) for s in pattern.src))


def break_law(row: Rule, exprs: ModuleType, rng: random.Random, wanted: int = 150) -> tuple[str, object, object] | None:
    """A case in which a row changes a value; None after so many cases in which it did not."""
    applied = 0
    for _ in range(wanted * 60):
        dtype = DTYPES[rng.choice("xiub")]
        found: dict[Var, UOp] = {}
        env: dict[UOp, int] = {}
        for number, var in enumerate(sorted(variables(row.pattern), key=lambda v: v.name)):
            of = dt.bool_ if var.kinds == "b" else dtype
            value = rng.choice((0, 1, -1, 2, 3, rng.randint(-130, 300)))
            if of is dt.bool_:
                value &= 1
            if var.constant:
                found[var] = const(value, of)
            elif of is dt.index and not var.kinds and rng.random() < 0.3:
                found[var] = INVALID
            else:
                found[var] = UOp(Op.VAR, of, (), (number, var.name))
                env[found[var]] = int(const(value, of).arg)
        if any(v.kinds and found[v].dtype.kind not in v.kinds for v in found):
            continue
        try:
            node = instance(row.pattern, found, dtype)
        except AssertionError:
            continue  # no legal node: INVALID where only a value may stand
        result = row.apply(node, found)
        if not isinstance(result, UOp):
            continue
        applied += 1
        before, after = exprs.value_of(node, env), exprs.value_of(result, env)
        if before != after or (result.dtype is not node.dtype and result is not INVALID):
            return row.name, before, after
        if applied == wanted:
            return None
    raise AssertionError(f"{row.name} applied only {applied} times")


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_a_row_keeps_the_value(row: Rule, exprs: ModuleType):
    assert break_law(row, exprs, random.Random(row.name)) is None


@pytest.mark.parametrize("k", range(4))
def test_a_row_that_is_no_law_would_be_caught(k: int, exprs: ModuleType):
    x, c, d = Var("x", "iux"), Var("c", "iux", constant=True), Var("d", "iux", constant=True)
    wrong = (
        rule("div-mul", (x // c) * c, x),
        rule("div-div-wraps", (x // c) // d, x // (c * d)),
        rule("self-div", x // x, 1),
        rule("lt-add", (x + c) < d, x < d - c),
    )
    assert break_law(wrong[k], exprs, random.Random(k)) is not None


@pytest.mark.parametrize("row", FLOATS.rows, ids=lambda r: r.name)
def test_a_float_row_keeps_every_bit(row: Rule):
    def value(n: UOp, x: float) -> float:
        v = [value(s, x) for s in n.src]
        table = {
            Op.ADD: lambda: v[0] + v[1],
            Op.MUL: lambda: v[0] * v[1],
            Op.DIV: lambda: v[0] / v[1],
            Op.NEG: lambda: -v[0],
        }
        return x if n.op is Op.VAR else n.arg if n.op is Op.CONST else table[n.op]()

    f = UOp(Op.VAR, dt.float64, (), (0, "f"))
    (var,) = variables(row.pattern)
    node = instance(row.pattern, {var: f}, dt.float64)
    result = row.apply(node, {var: f})
    assert isinstance(result, UOp)
    for x in (0.0, -0.0, 1.5, -2.25, math.inf, -math.inf, math.nan, 5e-324):
        assert repr(value(node, x)) == repr(value(result, x))


def test_row_names_are_distinct():
    names = Counter(r.name for r in [*ROWS, *FLOATS.rows])
    assert not [n for n, count in names.items() if count > 1]
