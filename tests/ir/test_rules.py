"""Each row of the tables proved: over all integers and over machine integers by Z3, where that has no counterpart of an
op over every value of 8 bits.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.algebra import BOOLS, INDICES, INTEGERS, SELECTIONS
from rangekit.ir.bits import Bits
from rangekit.ir.dtype import DType
from rangekit.ir.exact import Untranslatable, World
from rangekit.ir.ops import BITS, COMPARE, SHIFTS, Op
from rangekit.ir.pattern import Literal, Node, Pattern, Rule, Var
from rangekit.ir.scalar import apply
from rangekit.ir.uop import UOp, alu, const, toposort

ROWS = [*INTEGERS.rows, *INDICES.rows, *BOOLS.rows, *SELECTIONS.rows]
GUARDS: dict[str, Any] = {  # what a row's guard says of its constants, said again
    "mod-mod": lambda c, d: (c > 0) & (d > 0) & (c % np.where(d == 0, 1, d) == 0),
    "div-negative": lambda c: c < 0,
    "mod-negative": lambda c: c < 0,
    "div-div": lambda d: d > 0,
}
FORMS = {"where-not", "where-closed", "where-both", "where-either"}  # guards about what nodes are, not about values


def names(pattern: Pattern) -> list[Var]:
    """The variables of a pattern, by name."""
    if isinstance(pattern, Var):
        return [pattern]
    inside = {v for s in pattern.src for v in names(s)} if isinstance(pattern, Node) else set()
    return sorted(inside, key=lambda v: v.name)


def made(pattern: Pattern, found: dict[Var, UOp], dtype: DType) -> UOp:
    """The node a pattern describes."""
    if isinstance(pattern, Var):
        return found[pattern]
    if isinstance(pattern, Literal):
        return const(pattern.value, dt.bool_ if isinstance(pattern.value, bool) else dtype)
    assert isinstance(pattern, Node)
    return alu(pattern.op, *(made(s, found, dtype) for s in pattern.src))


def sides(row: Rule, dtype: DType) -> tuple[dict[Var, UOp], UOp, UOp]:
    assert isinstance(row.result, Pattern)
    found = {v: UOp(Op.VAR, dt.bool_ if v.kinds == "b" else dtype, (), (n, v.name))
             for n, v in enumerate(names(row.pattern))}  # fmt: skip
    return found, made(row.pattern, found, dtype), made(row.result, found, dtype)


def guard_term(world: World, row: Rule, terms: dict[str, Any]) -> Any:
    z3 = world.z3
    if row.name == "mod-mod":
        return z3.And(terms["c"] > 0, terms["d"] > 0, terms["c"] % terms["d"] == 0)
    if row.name in GUARDS:
        ((name, sign),) = ({"div-negative": ("c", -1), "mod-negative": ("c", -1), "div-div": ("d", 1)}[row.name],)
        return terms[name] * sign > 0
    return z3.BoolVal(True, world.context)


def proved(row: Rule, dtype: DType, world: World) -> bool:
    """Whether Z3 finds no values for which the sides of a row differ."""
    found, left, right = sides(row, dtype)
    known = {n: world.variable(v.name, n.dtype) for v, n in found.items()}
    terms = {v.name: known[n] for v, n in found.items()}
    a, b = world.values([left, right], known)
    for solver in world._solvers():
        if dtype is not dt.index:
            solver.add(*world.assumed)
        solver.add(guard_term(world, row, terms), world.z3.Not(a == b))
        answer = solver.check()
        if answer != world.z3.unknown:
            return bool(answer == world.z3.unsat)
    return False


def enumerated(row: Rule, dtype: DType) -> bool:
    """Whether the sides are equal for all values of 8 bits; of three integers, the constants are a sample."""
    found, left, right = sides(row, dtype)
    every = np.arange(int(dtype.min), int(dtype.max) + 1).astype(dtype.numpy)
    some = np.array([v for v in (-128, -127, -9, -7, -3, -1, 0, 1, 2, 3, 4, 6, 8, 12, 64, 100, 127, 200, 255)
                     if dtype.min <= v <= dtype.max], dtype.numpy)  # fmt: skip
    many = sum(n.dtype is not dt.bool_ for n in found.values()) > 2
    axes = [np.array([False, True]) if n.dtype is dt.bool_ else some if many and v.constant else every
            for v, n in found.items()]  # fmt: skip
    grids = dict(zip(found, np.meshgrid(*axes, indexing="ij"), strict=True))
    values = {found[v]: g for v, g in grids.items()}
    for n in toposort(left, right):
        if n not in values:
            srcs = [values[s] for s in n.src]
            values[n] = np.asarray(n.arg, n.dtype.numpy) if n.op is Op.CONST else apply(
                n.op, n.dtype, srcs, src_dtypes=[s.dtype for s in n.src])  # fmt: skip
    same = values[left] == values[right]
    if row.name in GUARDS:
        inputs = [g.astype(np.int64) for v, g in grids.items() if v.name in GUARDS[row.name].__code__.co_varnames]
        same = same | ~GUARDS[row.name](*inputs)
    return bool(np.all(same))


def test_guards_are_known() -> None:
    guarded = {row.name for row in ROWS if row.when is not None}
    assert guarded == set(GUARDS) | FORMS


def of_machines(pattern: Pattern) -> bool:
    """Whether a pattern has ops that only machine integers have."""
    inside = isinstance(pattern, Node) and any(map(of_machines, pattern.src))
    bits = isinstance(pattern, Node) and pattern.op in BITS | SHIFTS | {Op.NOT}
    return inside or (bits and any(v.kinds != "b" and v.kinds for v in names(pattern)) and not _compares(pattern))


def _compares(pattern: Pattern) -> bool:
    return isinstance(pattern, Node) and (pattern.op in COMPARE or any(map(_compares, pattern.src)))


UNPROVED = {"mod-mod"}  # products of unknowns: over a domain instead


@pytest.mark.parametrize("row", [r for r in ROWS if not of_machines(r.pattern)], ids=lambda r: r.name)
def test_a_row_holds_for_all_integers(row: Rule) -> None:
    if row.name in UNPROVED:
        cases = product(range(-200, 201), range(1, 49), range(1, 49))
        assert all(x % c % d == x % d for x, c, d in cases if c % d == 0)
        return
    assert proved(row, dt.index, World())


MACHINE = [*INTEGERS.rows, *SELECTIONS.rows, *(r for r in BOOLS.rows if any(v.kinds != "b" for v in names(r.pattern)))]


TYPES = (dt.int8, dt.uint8, dt.int32, dt.uint32, dt.int64)


@pytest.mark.parametrize(("row", "dtype"), list(product(MACHINE, TYPES)), ids=lambda p: getattr(p, "name", str(p)))
def test_a_row_holds_for_machine_integers(row: Rule, dtype: DType) -> None:
    try:
        assert proved(row, dtype, Bits())
    except Untranslatable:
        if dtype.bits == 8:
            assert enumerated(row, dtype)
        else:  # a quotient: a law of all integers, and of 8 bits, where wrapping could break it
            assert row.name in UNPROVED or proved(row, dt.index, World())


def test_a_wrong_row_is_refuted() -> None:
    x, c = (v for v in names(next(r for r in ROWS if r.name == "add-add").pattern) if v.name in "xc")
    wrong = [Rule("wrong", (x * c) // c, x), Rule("wrong", (x + c) // 2, x // 2 + c // 2),
             Rule("wrong", x < x + 1, Literal(True))]  # fmt: skip
    verdicts = [(proved(r, dt.index, World()), enumerated(r, dt.int8)) for r in wrong]
    assert verdicts == [(False, False), (False, False), (True, False)]  # the last is a law of unbounded integers only
