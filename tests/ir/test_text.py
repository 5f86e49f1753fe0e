from __future__ import annotations

import math
import random

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim
from rangekit.ir.ops import BINARY, COMPARE, FLOAT_BINARY, MATH, ROUNDING, TERNARY, TESTS, UNARY, Op
from rangekit.ir.text import dump, parse
from rangekit.ir.uop import (
    BufferId,
    ParamId,
    Storage,
    UOp,
    alu,
    cast,
    const,
    idx,
    new_buffer,
    new_range,
    reserve_uids,
    toposort,
)

each = pytest.mark.parametrize


def program() -> UOp:
    """A SINK below which every op occurs."""
    size = Dim("N", min=2, max=9, multiple_of=2)
    i, j, open_ = new_range(4, "i"), new_range(3), new_range(size, "k")
    a = UOp(Op.PARAM, dt.float32, (), ParamId(0, "a", (4, 3)))
    long = UOp(Op.PARAM, dt.float32, (), ParamId(2, "long", (3, size + 1)))
    ids = UOp(Op.PARAM, dt.int32, (), ParamId(1, "ids", (4,), (2,)))
    out = new_buffer(dt.float32, (4,), "out")
    at = UOp(Op.INDEX, dt.int32, (ids, i))
    gated = UOp(Op.WHERE, dt.index, (alu(Op.LT, i, idx(2)), i, UOp(Op.INVALID, dt.index)))
    read = UOp(Op.INDEX, dt.float32, (a, gated, UOp(Op.GUARD, dt.index, (j,), (0, 1, 3))))
    checked = UOp(Op.IN_RANGE, dt.int32, (at, const(0, dt.int32), const(4, dt.int32)))
    floats, ints = [read, const(math.inf, dt.float32)], [checked, const(-3, dt.int32)]
    for op in sorted(UNARY | BINARY | TERNARY, key=lambda o: o.value):
        pool = floats if op in MATH | ROUNDING | TESTS | FLOAT_BINARY | TERNARY or op is Op.POW else ints
        node = alu(op, *pool[: 1 if op in UNARY else 3 if op in TERNARY else 2])
        if op in COMPARE | TESTS:
            node = UOp(Op.WHERE, pool[0].dtype, (node, pool[0], pool[1]))
        pool.insert(0, node)
    bits = UOp(Op.BITCAST, dt.float32, (ints[0],))
    best = UOp(Op.REDUCE, dt.float32, (floats[0], cast(j, dt.int64), j), "argmax")
    place = cast(UOp(Op.GET, dt.int64, (best,), 1), dt.float32)
    later = UOp(Op.REDUCE, dt.float32, (UOp(Op.INDEX, dt.float32, (long, j, open_)), open_), "add")
    bits = alu(Op.ADD, bits, UOp(Op.REDUCE, dt.float32, (later, j), "max"))
    value = alu(Op.ADD, alu(Op.ADD, bits, place), UOp(Op.REDUCE, dt.float32, (read, j), "add"))
    state = UOp(Op.STATE, dt.float32, (i,), (900, 0, (), "s"))
    fold = UOp(Op.FOLD, dt.float32, (const(0.0, dt.float32), alu(Op.ADD, state, read), i), (900, 1, None))
    scan = UOp(Op.SCAN, dt.float32, (*fold.src[:2], state, i), (900, 1, "add"))
    value = alu(Op.ADD, value, alu(Op.ADD, UOp(Op.GET, dt.float32, (fold,), 0), UOp(Op.INDEX, dt.float32, (scan, i))))
    kept = UOp(Op.BUFFERIZE, dt.float32, (value, i), Storage("local", "t"))
    moved = UOp(Op.EXPAND, dt.float32, (UOp(Op.RESHAPE, dt.float32, (kept,), (1, 4)),), (3, 4))
    moved = UOp(Op.FLIP, dt.float32, (UOp(Op.PERMUTE, dt.float32, (moved,), (1, 0)),), (0,))
    moved = UOp(Op.SHRINK, dt.float32, (UOp(Op.PAD, dt.float32, (moved,), ((1, 0), (0, 2))),), ((0, 2, 2), (1, 1, 1)))
    row, column = new_range(2, "row"), new_range(1, "two words # (1,)")
    element = UOp(Op.INDEX, dt.float32, (moved, row, column))
    spot = UOp(Op.INDEX, dt.float32, (out, row))
    changed = UOp(Op.ASSIGN, dt.float32, (out, spot, element, row, column))
    again = UOp(Op.INDEX, dt.float32, (changed, i))
    changed = UOp(Op.ASSIGN, dt.float32, (changed, UOp(Op.INDEX, dt.float32, (changed, i)), again, i), "add")
    claim = UOp(Op.CLAIM, dt.bool_, (at, cast(i, dt.int32)))
    store = UOp(Op.STORE, dt.void, (UOp(Op.INDEX, dt.float32, (changed, i)), again, claim, i), "unique")
    shown = UOp(Op.PRINT, dt.void, (again, const(True, dt.bool_), i), 'it\'s %1, "so"\n')
    loose = UOp(Op.PRINT, dt.void, (UOp(Op.VAR, dt.float32, (), (3, "acc")), const(False, dt.bool_)), None)
    return UOp(Op.SINK, dt.void, (UOp(Op.KERNEL, dt.void, (store, shown), "main"), loose))


def test_every_op_reads_back_to_the_same_node():
    root = program()
    assert {n.op for n in toposort(root)} == set(Op)
    assert parse(dump(root)) is root


def test_the_form():
    i = new_range(8, "i")
    x = UOp(Op.PARAM, dt.float32, (), ParamId(0, "x", (8,)))
    root = UOp(
        Op.REDUCE, dt.float32, (alu(Op.ADD, UOp(Op.INDEX, dt.float32, (x, i)), const(-0.0, dt.float32)), i), "add"
    )
    assert (
        dump(root)
        == f"""\
%0 = param.float32 x#0(8,)
%1 = const.index 8
%2 = range.index %1 i#{i.arg.uid}
%3 = index.float32 %0, %2
%4 = const.float32 -0.0
%5 = add.float32 %3, %4
%6 = reduce.float32 %5, %2 add
"""
    )


@each("value", [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, 0.1])
def test_float_constants_keep_their_identity(value: float):
    for dtype in dt.FLOATS:
        node = const(value, dtype)
        assert parse(dump(node)) is node


def test_integer_and_bool_constants_keep_their_type():
    for node in (const(1, dt.int8), const(True, dt.bool_), idx(-(10**30)), const(1.0, dt.float32)):
        assert parse(dump(node)) is node


@each("name", ["x", "", "two words", "a#1(2)", "'\"\\", "é", "\u2028", "any", "None"])
def test_names_of_every_kind_read_back(name: str):
    buffer = UOp(Op.BUFFER, dt.int8, (), BufferId(10**6, name, (2, 2), "local"))
    i = new_range(2, name)
    value = UOp(Op.INDEX, dt.int8, (buffer, i, i))
    root = UOp(Op.BUFFERIZE, dt.int8, (value, i), Storage(None, name))
    assert parse(dump(root)) is root


def test_equal_programs_have_one_canonical_text():
    def softmax_sum(names: str) -> UOp:
        i, j = (new_range(4, n) for n in names)
        x = UOp(Op.PARAM, dt.float32, (), ParamId(0, names, (4, 4)))
        b = new_buffer(dt.float32, (4,), names)
        value = UOp(Op.REDUCE, dt.float32, (UOp(Op.INDEX, dt.float32, (x, i, j)), j), "add")
        return UOp(Op.STORE, dt.void, (UOp(Op.INDEX, dt.float32, (b, i)), value, i))

    one, two = softmax_sum("ij"), softmax_sum("ab")
    assert dump(one) != dump(two)
    assert dump(one, canonical=True) == dump(two, canonical=True)


def test_canonical_text_tells_a_range_used_twice_from_two_ranges():
    i, j = new_range(4), new_range(4)
    assert dump(alu(Op.ADD, i, i), canonical=True) != dump(alu(Op.ADD, i, j), canonical=True)
    assert dump(alu(Op.SUB, i, j), canonical=True) == dump(alu(Op.SUB, j, i), canonical=True)
    assert parse(dump(alu(Op.SUB, i, j), canonical=True)).op is Op.SUB


@each("seed", range(20))
def test_random_graphs_read_back(seed: int):
    rng = random.Random(seed)
    nodes = [new_range(rng.randint(1, 9), rng.choice(("i", None))) for _ in range(3)] + [idx(rng.randint(-5, 5))]
    for _ in range(60):
        op = rng.choice((Op.ADD, Op.MUL, Op.IDIV, Op.MAX, Op.NEG))
        nodes.append(alu(op, *(rng.choice(nodes) for _ in range(1 if op is Op.NEG else 2))))
    assert parse(dump(nodes[-1])) is nodes[-1]


@each(
    "line",
    [
        "",
        "%0 = nothing.index 1",
        "%0 = const.int7 1",
        "add %1",
        "%0 = neg.index %5",
        "%0 = const.index 1 +",
        "%0 = param.int8 x",
    ],
)
def test_what_is_no_graph_is_refused(line: str):
    with pytest.raises(ValueError, match="graph"):
        parse(line)


def test_ranges_made_after_reading_a_text_are_other_ranges():
    known = new_range(4).arg.uid
    read = parse(f"%0 = const.index 4\n%1 = range.index %0 #{known + 2}\n")
    assert read not in (new_range(4), new_range(4), new_range(4))
    reserve_uids(0)
    assert new_range(4) is not read


def test_a_chain_of_ten_thousand_nodes_reads_back():
    node = new_range(4)
    for k in range(10_000):
        node = alu(Op.ADD, node, idx(k))
    assert parse(dump(node)) is node
