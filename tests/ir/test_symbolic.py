from __future__ import annotations

import random
import time
from collections import Counter
from types import ModuleType

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine, in_order, total
from rangekit.ir.bounds import bounds
from rangekit.ir.ops import Op
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import ParamId, UOp, alu, cast, const, idx, new_range, toposort

INVALID = UOp(Op.INVALID, dt.index)
TRUE, FALSE = const(True, dt.bool_), const(False, dt.bool_)


def add(*nodes: UOp) -> UOp:
    out = nodes[0]
    for n in nodes[1:]:
        out = alu(Op.ADD, out, n)
    return out


def mul(a: UOp, k: int) -> UOp:
    return alu(Op.MUL, a, idx(k))


def div(a: UOp, k: int) -> UOp:
    return alu(Op.IDIV, a, idx(k))


def mod(a: UOp, k: int) -> UOp:
    return alu(Op.MOD, a, idx(k))


def less(a: UOp, k: int) -> UOp:
    return alu(Op.LT, a, idx(k))


def gated(gate: UOp, i: UOp) -> UOp:
    return UOp(Op.WHERE, dt.index, (gate, i, INVALID))


# The normal forms keep the value.


@pytest.mark.parametrize("seed", range(150))
def test_simplified_expressions_have_the_same_value(seed: int, exprs: ModuleType):
    rng = random.Random(seed)
    if seed % 3 == 2:
        ranges = [new_range(256), new_range(3)]
        root = exprs.machine_expr(rng, [cast(r, rng.choice((dt.int8, dt.uint8))) for r in ranges[:1]], 3)
    else:
        ranges = [new_range(rng.randint(1, 7)) for _ in range(rng.randint(1, 3))]
        root = exprs.index_expr(rng, ranges, 4) if seed % 3 else exprs.bool_expr(rng, ranges, 3)
    short = simplify(root)
    for env in exprs.environments(ranges):
        assert exprs.value_of(short, env) == exprs.value_of(root, env)


@pytest.mark.parametrize("seed", range(40))
def test_facts_keep_the_value_where_they_hold(seed: int, exprs: ModuleType):
    rng = random.Random(seed)
    i, j = new_range(9), new_range(7)
    root = exprs.index_expr(rng, [i, j], 4)
    low, high = sorted((rng.randint(0, 8), rng.randint(0, 8)))
    short = simplify(root, {i: (low, high)})
    for env in exprs.environments([i, j]):
        if low <= env[i] <= high:
            assert exprs.value_of(short, env) == exprs.value_of(root, env)


@pytest.mark.parametrize("seed", range(60))
def test_gated_indices_keep_gate_and_value(seed: int, exprs: ModuleType):
    rng = random.Random(seed)
    ranges = [new_range(rng.randint(1, 6)) for _ in range(2)]
    root = gated(exprs.bool_expr(rng, ranges, 2), exprs.index_expr(rng, ranges, 3))
    root = gated(exprs.bool_expr(rng, ranges, 1), add(root, rng.choice(ranges)))
    short = simplify(root)
    for env in exprs.environments(ranges):
        assert exprs.value_of(short, env) == exprs.value_of(root, env)


# Movement is index arithmetic: chains that undo one another leave the bare ranges.

Index = list[UOp]


def flat(index: Index, shape: tuple[int, ...]) -> UOp:
    out = idx(0)
    for i, s in zip(index, shape, strict=True):
        out = add(mul(out, s), i)
    return out


def unflat(linear: UOp, shape: tuple[int, ...]) -> Index:
    out, stride = [], 1
    for s in reversed(shape):
        out.append(simplify(mod(div(linear, stride), s)))
        stride *= s
    return out[::-1]


def reshape(index: Index, of: tuple[int, ...], to: tuple[int, ...]) -> Index:
    return unflat(flat(index, of), to)


SHAPES = [
    (6, 8),
    (4, 12),
    (3, 16),
    (48,),
    (2, 2, 12),
    (4, 3, 4),
    (8, 6),
    (16, 3),
    (2, 4, 2, 3),
    (3, 2, 2, 4),
    (1, 48, 1),
]


@pytest.mark.parametrize("seed", range(40))
def test_reshapes_there_and_back_leave_the_bare_ranges(seed: int):
    rng = random.Random(seed)
    start = rng.choice(SHAPES)
    ranges = [new_range(s) for s in start]
    index, shape = list(ranges), start
    for to in [*rng.choices(SHAPES, k=rng.randint(1, 4)), start]:
        index, shape = reshape(index, shape, to), to
    assert index == [idx(0) if r.extent == 1 else r for r in ranges]


@pytest.mark.parametrize("seed", range(40))
def test_any_movement_and_its_inverse_leave_the_bare_ranges(seed: int):
    rng = random.Random(seed)
    start = rng.choice([(4, 6), (2, 3, 4), (5, 4), (12, 2)])
    ranges = [new_range(s) for s in start]
    shape, undo = list(start), []
    index, gate = list(ranges), TRUE
    for _ in range(rng.randint(2, 6)):
        kind, a = rng.choice(("permute", "flip", "pad", "reshape")), rng.randrange(len(shape))
        if kind == "permute":
            order = rng.sample(range(len(shape)), len(shape))
            index, shape = [index[k] for k in order], [shape[k] for k in order]
            undo.append((kind, order))
        elif kind == "flip":
            index[a] = simplify(alu(Op.SUB, idx(shape[a] - 1), index[a]))
            undo.append((kind, a, shape[a]))
        elif kind == "pad":
            before, after = rng.randint(0, 3), rng.randint(0, 3)
            index[a], shape[a] = simplify(add(index[a], idx(before))), shape[a] + before + after
            undo.append((kind, a, before, shape[a] - before - after))
        else:
            to = [shape[0] * shape[1], *shape[2:]]
            index = reshape(index, tuple(shape), tuple(to))
            undo.append((kind, tuple(to), tuple(shape)))
            shape = to
            if len(to) == 1:
                break
    for kind, *how in reversed(undo):
        if kind == "permute":
            index = [index[how[0].index(k)] for k in range(len(index))]
        elif kind == "flip":
            index[how[0]] = simplify(alu(Op.SUB, idx(how[1] - 1), index[how[0]]))
        elif kind == "pad":
            i = index[how[0]] = simplify(add(index[how[0]], idx(-how[1])))
            gate = alu(Op.AND, gate, alu(Op.AND, alu(Op.LE, idx(0), i), less(i, how[2])))
        else:
            index = reshape(index, how[0], how[1])
    assert index == ranges
    assert simplify(gate) is TRUE


def test_a_chain_that_is_one_affine_index_prints_as_such():
    i, j = (
        new_range(4, "i"),
        new_range(6, "j"),
    )  # x of (24,): reshape (4, 6), transpose, flip, flatten, read at 4 * j + i
    back = alu(Op.SUB, idx(3), i)
    linear = add(mul(j, 4), i)
    column, row = unflat(linear, (6, 4))
    assert (column, row) == (j, i)
    assert simplify(add(mul(alu(Op.SUB, idx(3), row), 6), column)) is simplify(add(mul(back, 6), j))
    assert affine(simplify(add(mul(back, 6), j))) == ({i: -6, j: 1}, 18)


@pytest.mark.parametrize(("n", "k", "step"), [(7, 3, 1), (9, 3, 2), (14, 5, 3), (5, 1, 1)])
def test_windows_made_by_repeating_and_reshaping_take_no_division(n: int, k: int, step: int):
    """x (n,) repeated, cut to (k * (n + step),), reshaped to (k, n + step): row j is x shifted by j * step."""
    j, i = new_range(k), new_range(n - (k - 1) * step)
    repeated = flat([j, i], (k, n + step))
    assert simplify(mod(repeated, n)) is simplify(add(mul(j, step), i))


# Golden cases.

I6, J8, K = new_range(6, "i"), new_range(8, "j"), new_range(1000, "k")
L = add(mul(I6, 8), J8)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (div(L, 8), I6),
        (mod(L, 8), J8),
        (add(mul(div(K, 7), 7), mod(K, 7)), K),
        (div(div(K, 3), 4), div(K, 12)),
        (div(add(mul(I6, 12), mul(J8, 4)), 4), add(mul(I6, 3), J8)),
        (mod(mod(K, 12), 4), mod(K, 4)),
        (add(mul(mod(div(K, 4), 5), 4), mod(K, 4)), mod(K, 20)),
        (add(mul(div(K, 20), 20), mul(mod(div(K, 4), 5), 4), mod(K, 4)), K),
        (div(mod(K, 12), 4), mod(div(K, 4), 3)),
        (mod(add(mul(K, 7), mul(I6, 3)), 3), mod(K, 3)),
        (div(K, 1000), idx(0)),
        (mod(add(K, idx(1000)), 1000), K),
        (div(add(K, idx(9)), 4), add(div(add(K, idx(1)), 4), idx(2))),
        (div(mul(K, -1), -1), K),
        (mod(K, 0), idx(0)),
        (alu(Op.SUB, add(I6, J8), I6), J8),
        (alu(Op.SUB, J8, I6), add(mul(I6, -1), J8)),
        (add(J8, idx(3), I6, idx(-1)), add(I6, J8, idx(2))),
        (mul(add(I6, mul(J8, 2)), 3), add(mul(I6, 3), mul(J8, 6))),
        (add(new_range(1), I6), I6),
        (alu(Op.MAX, I6, idx(0)), I6),
        (alu(Op.MIN, add(K, idx(3)), add(K, idx(1))), add(K, idx(1))),
        (less(add(I6, idx(1)), 6), less(I6, 5)),
        (alu(Op.LE, add(J8, idx(1)), I6), alu(Op.LT, J8, I6)),
        (alu(Op.LT, J8, add(I6, idx(1))), alu(Op.LE, J8, I6)),
        (less(mul(J8, 3), 10), less(J8, 4)),
        (less(L, 24), less(I6, 3)),
        (less(div(K, 4), 5), less(K, 20)),
        (alu(Op.LT, idx(4), div(K, 10)), alu(Op.LT, idx(49), K)),
        (less(J8, 8), TRUE),
        (less(J8, 0), FALSE),
        (alu(Op.EQ, mul(K, 2), idx(7)), FALSE),
        (alu(Op.EQ, add(mul(K, 2), idx(4)), idx(10)), alu(Op.EQ, K, idx(3))),
        (alu(Op.NOT, less(K, 5)), alu(Op.LT, idx(4), K)),
        (alu(Op.AND, less(K, 5), less(K, 3)), less(K, 3)),
        (alu(Op.OR, less(K, 5), less(K, 3)), less(K, 5)),
        (alu(Op.AND, less(K, 5), alu(Op.LT, idx(8), K)), FALSE),
        (alu(Op.OR, less(K, 5), alu(Op.LT, idx(3), K)), TRUE),
        (alu(Op.AND, less(K, 5), alu(Op.LT, idx(3), K)), alu(Op.EQ, K, idx(4))),
        (alu(Op.AND, less(I6, 3), less(add(I6, J8), 10)), less(I6, 3)),
        (alu(Op.AND, alu(Op.LE, J8, I6), less(J8, 7)), alu(Op.LE, J8, I6)),
        (UOp(Op.WHERE, dt.index, (less(K, 8), mod(K, 8), K)), K),
        (gated(less(K, 8), div(K, 8)), gated(less(K, 8), idx(0))),
        (gated(less(I6, 9), I6), I6),
        (
            gated(less(I6, 4), add(gated(less(J8, 3), J8), idx(1))),
            gated(alu(Op.AND, less(I6, 4), less(J8, 3)), add(J8, idx(1))),
        ),
        (cast(cast(K, dt.int32), dt.index), K),
        (cast(less(I6, 6), dt.float32), const(1.0, dt.float32)),
    ],
)
def test_golden(root: UOp, expected: UOp):
    found = simplify(root)
    assert found is expected, "\n".join(f"{n} {[str(s) for s in n.src]}" for n in toposort(found))


def test_conditions_have_one_order():
    a, b, c = less(K, 900), alu(Op.LE, J8, I6), alu(Op.NE, I6, idx(2))
    forms = {simplify(alu(Op.AND, x, alu(Op.AND, y, z))) for x, y, z in [(a, b, c), (c, b, a), (b, a, c), (b, c, a)]}
    assert len(forms) == 1


def test_sums_have_one_order_whatever_their_atoms():
    parts = [mod(K, 7), div(K, 9), I6, alu(Op.MAX, I6, J8), idx(3)]
    forms = set()
    for seed in range(10):
        random.Random(seed).shuffle(parts)
        forms.add(simplify(add(*parts)))
    assert len(forms) == 1


def test_a_load_under_a_condition_keeps_its_own_gate():
    ids = UOp(Op.PARAM, dt.int32, (), ParamId(0, "ids", (4,)))
    gate = less(J8, 4)
    load = UOp(Op.INDEX, dt.int32, (ids, gated(gate, J8)))
    root = UOp(Op.WHERE, dt.int32, (gate, load, const(0, dt.int32)))
    assert simplify(root) is root


def test_floats_keep_their_ieee_meaning():
    f = UOp(Op.VAR, dt.float32, (), (0, "f"))
    zero, one = const(0.0, dt.float32), const(1.0, dt.float32)
    for kept in (alu(Op.MUL, f, zero), alu(Op.SUB, f, f), alu(Op.ADD, f, zero), alu(Op.DIV, f, f), alu(Op.EQ, f, f),
                 alu(Op.NOT, alu(Op.LT, f, one))):  # fmt: skip
        assert simplify(kept) is kept
    assert simplify(alu(Op.MUL, f, one)) is f
    assert simplify(UOp(Op.WHERE, dt.float32, (less(J8, 8), f, zero))) is f


def test_indices_inside_float_graphs_are_simplified():
    x = UOp(Op.PARAM, dt.float32, (), ParamId(0, "x", (6, 8)))
    read = UOp(Op.INDEX, dt.float32, (x, div(L, 8), mod(L, 8)))
    root = UOp(Op.REDUCE, dt.float32, (alu(Op.EXP, read), J8), "add")
    assert simplify(root).src[0].src[0] is UOp(Op.INDEX, dt.float32, (x, I6, J8))


def test_closed_axes_keep_their_shape():
    x = UOp(Op.PARAM, dt.int32, (), ParamId(0, "x", (3,)))
    root = alu(Op.MUL, x, const(0, dt.int32))
    assert simplify(root).shape == (3,)


def test_machine_integers_wrap():
    v = UOp(Op.VAR, dt.int8, (), (0, "v"))
    assert simplify(alu(Op.LT, alu(Op.ADD, v, const(1, dt.int8)), const(0, dt.int8))).src[0].op is Op.ADD
    assert simplify(alu(Op.ADD, alu(Op.ADD, v, const(127, dt.int8)), const(1, dt.int8))) is alu(
        Op.ADD, v, const(-128, dt.int8)
    )
    assert simplify(alu(Op.IDIV, const(-128, dt.int8), const(-1, dt.int8))) is const(-128, dt.int8)


def test_rewrites_are_counted_by_rule_and_moves_are_told():
    counts: Counter[str] = Counter()
    moves: list[tuple[UOp, UOp]] = []
    i = new_range(6)
    root = div(add(mul(i, 4), new_range(3)), 4)
    assert simplify(root, counts=counts, moved=lambda old, new: moves.append((old, new))) is i
    assert counts == {"quotient": 1}
    assert moves == [(root, i)]


def test_affine_reads_any_sum():
    i, j = new_range(4), new_range(5)
    node = alu(Op.SUB, alu(Op.NEG, mul(add(i, idx(2)), 3)), alu(Op.MUL, idx(2), add(j, i)))
    assert affine(node) == ({i: -5, j: -2}, -6)
    assert affine(alu(Op.SUB, i, i)) == ({}, 0)
    doubled = i
    for _ in range(100):
        doubled = add(doubled, doubled)
    assert affine(doubled) == ({i: 2**100}, 0)
    assert total(affine(simplify(node))) is simplify(node)


def test_the_order_of_nodes_does_not_depend_on_the_order_they_are_given_in():
    nodes = [mod(K, 3), I6, div(K, 3), J8, mod(J8, 3), alu(Op.MUL, I6, J8)]
    assert in_order(nodes) == in_order(nodes[::-1])


@pytest.mark.parametrize(
    "step",
    [
        lambda n, k: add(n, idx(1)),
        lambda n, k: alu(Op.MAX, add(n, idx(1)), J8),
        lambda n, k: alu(Op.ADD, n, new_range(3)),
        lambda n, k: UOp(Op.WHERE, dt.index, (less(K, k), n, idx(k))),
        lambda n, k: add(mod(n, 7), J8),
        lambda n, k: add(n, n),
    ],
    ids=["sum", "max", "atoms", "where", "mod", "doubling"],
)
def test_a_chain_of_thousands_is_simplified_in_linear_time(step: object):
    node: UOp = K
    for k in range(3_000):
        node = step(node, k)  # type: ignore[operator]
    started = time.process_time()
    simplify(node)
    assert time.process_time() - started < 20


def test_a_chain_of_ten_thousand_floats_and_conditions_is_simplified():
    f, c = UOp(Op.VAR, dt.float32, (), (0, "f")), TRUE
    for k in range(10_000):
        f = alu(Op.ADD, f, const(-0.0, dt.float32))
        c = alu(Op.AND, c, alu(Op.NE, K, idx(k % 700)))
    assert simplify(f).op is Op.VAR
    assert simplify(c).dtype is dt.bool_
    assert bounds(simplify(c)) == (0, 1)
