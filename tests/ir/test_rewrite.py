from __future__ import annotations

from collections import Counter

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir import rewrite as driver
from rangekit.ir.ops import Op
from rangekit.ir.pattern import Var, node, rule, rules
from rangekit.ir.rewrite import NOT_READY, RewriteError, rewrite
from rangekit.ir.uop import UOp, alu, const, idx, new_range, toposort

x, y = Var("x", "x"), Var("y", "x")
c, d = Var("c", "x", constant=True), Var("d", "x", constant=True)


def chain(length: int, leaf: UOp, op: Op = Op.ADD) -> UOp:
    for k in range(length):
        leaf = alu(op, leaf, idx(k + 2))
    return leaf


def test_a_row_matches_commutative_operands_in_either_order():
    table = rules(rule("add-zero", x + 0, x), rule("factor", x * c + y * c, (x + y) * c))
    i, j = new_range(4), new_range(5)
    assert rewrite(alu(Op.ADD, idx(0), i), table) is i
    swapped = alu(Op.ADD, alu(Op.MUL, idx(3), i), alu(Op.MUL, j, idx(3)))
    assert rewrite(swapped, table) is alu(Op.MUL, alu(Op.ADD, i, j), idx(3))


def test_a_variable_that_occurs_twice_matches_one_node_only():
    table = rules(rule("sub-self", x - x, 0))
    i, j = new_range(4), new_range(4)
    assert rewrite(alu(Op.SUB, i, i), table) is idx(0)
    assert rewrite(alu(Op.SUB, i, j), table) is alu(Op.SUB, i, j)


def test_a_variable_matches_its_kinds_only_and_literals_tell_types_apart():
    table = rules(rule("drop", x + 0, x))
    v = UOp(Op.VAR, dt.int32, (), (0, "v"))
    assert rewrite(alu(Op.ADD, v, const(0, dt.int32)), table).op is Op.ADD
    negative_zero = rules(rule("drop", Var("f", "f") + -0.0, Var("f", "f")))
    f = UOp(Op.VAR, dt.float32, (), (0, "f"))
    assert rewrite(alu(Op.ADD, f, const(0.0, dt.float32)), negative_zero).op is Op.ADD


def test_constants_of_a_result_are_folded_and_wrap():
    m, n = (Var(name, "iu", constant=True) for name in "mn")
    v = UOp(Op.VAR, dt.int8, (), (0, "v"))
    z = Var("z", "iu")
    table = rules(rule("add-add", (z + m) + n, z + (m + n)))
    far = alu(Op.ADD, alu(Op.ADD, v, const(100, dt.int8)), const(100, dt.int8))
    assert rewrite(far, table) is alu(Op.ADD, v, const(-56, dt.int8))


def test_rewrites_run_to_a_fixpoint_and_are_counted():
    table = rules(rule("add-add", (x + c) + d, x + (c + d)), rule("add-zero", x + 0, x))
    counts: Counter[str] = Counter()
    i = new_range(4)
    root = alu(Op.ADD, alu(Op.ADD, alu(Op.ADD, i, idx(2)), idx(3)), idx(-5))
    assert rewrite(root, table, counts=counts) is i
    assert counts == {"add-add": 2, "add-zero": 1}


def test_moved_tells_of_every_replacement_so_that_positions_follow():
    table = rules(rule("add-zero", x + 0, x))
    i = new_range(4)
    inner = alu(Op.ADD, i, idx(0))
    root = alu(Op.MUL, inner, idx(3))
    moves: list[tuple[UOp, UOp]] = []
    final = rewrite(root, table, moved=lambda old, new: moves.append((old, new)))
    assert moves == [(inner, i), (root, final)]


def test_top_down_offers_users_before_sources():
    seen: list[UOp] = []
    i = new_range(4)
    inner = alu(Op.ADD, i, idx(1))
    root = alu(Op.MUL, inner, idx(2))

    def note(n: UOp) -> None:
        seen.append(n)

    rewrite(root, note, bottom_up=False)
    assert seen.index(root) < seen.index(inner) < seen.index(i)
    seen.clear()
    rewrite(root, note)
    assert seen.index(root) > seen.index(inner) > seen.index(i)


@pytest.mark.parametrize("bottom_up", [True, False])
def test_a_node_that_is_not_ready_waits_for_its_sibling(bottom_up: bool):
    i, j = new_range(4, "i"), new_range(4, "j")
    early, late = alu(Op.NEG, i), alu(Op.NEG, j)
    done: set[UOp] = set()

    def visit(n: UOp) -> object:
        if n is early:
            return ("early", i) if late in done else ("early", NOT_READY)
        if n is late:
            done.add(late)
            return "late", j
        return None

    root = alu(Op.ADD, alu(Op.ADD, early, idx(1)), late)
    assert rewrite(root, visit, bottom_up=bottom_up) is alu(Op.ADD, alu(Op.ADD, i, idx(1)), j)


def test_nodes_that_only_wait_are_an_error_naming_the_rule():
    i = new_range(4)
    with pytest.raises(RewriteError, match="rule never is not ready"):
        rewrite(alu(Op.NEG, i), lambda n: ("never", NOT_READY) if n.op is Op.NEG else None)


def test_a_cycle_of_rules_is_an_error_naming_the_rule():
    i, j = new_range(4), new_range(5)
    with pytest.raises(RewriteError, match="rule swap"):
        rewrite(alu(Op.ADD, i, j), rules(rule("swap", x + y, y + x)))
    with pytest.raises(RewriteError, match=r"rule (there|back)"):
        rewrite(
            alu(Op.MAX, i, j), rules(rule("there", node(Op.MAX, x, y), x + y), rule("back", x + y, node(Op.MAX, x, y)))
        )


@pytest.mark.parametrize("bottom_up", [True, False])
def test_a_rule_that_grows_its_node_forever_is_an_error_naming_it(monkeypatch: pytest.MonkeyPatch, bottom_up: bool):
    monkeypatch.setattr(driver, "LIMIT", 200)
    i = new_range(4)
    with pytest.raises(RewriteError, match="rule grow"):
        rewrite(alu(Op.ADD, i, idx(1)), rules(rule("grow", x + c, (x + 1) + c)), bottom_up=bottom_up)


def test_stop_leaves_what_is_below_alone():
    table = rules(rule("neg-neg", node(Op.NEG, -x), x))
    i = new_range(4)
    kept = alu(Op.ABS, alu(Op.NEG, alu(Op.NEG, i)))
    root = alu(Op.ADD, kept, alu(Op.NEG, alu(Op.NEG, i)))
    assert rewrite(root, table, stop=lambda n: n is kept) is alu(Op.ADD, kept, i)


def test_several_roots_share_one_run():
    table = rules(rule("add-zero", x + 0, x))
    counts: Counter[str] = Counter()
    i = new_range(4)
    shared = alu(Op.ADD, i, idx(0))
    assert rewrite([alu(Op.NEG, shared), shared], table, counts=counts) == (alu(Op.NEG, i), i)
    assert counts["add-zero"] == 1


@pytest.mark.parametrize("bottom_up", [True, False])
def test_a_chain_of_ten_thousand_nodes_is_rewritten(bottom_up: bool):
    i = new_range(4)
    table = rules(rule("max-to-min", node(Op.MAX, x, c), node(Op.MIN, x, c)))
    final = rewrite(chain(10_000, i, Op.MAX), table, bottom_up=bottom_up)
    assert {n.op for n in toposort(final)} == {Op.MIN, Op.CONST, Op.RANGE}


def test_a_rule_may_push_a_node_down_a_chain_of_ten_thousand():
    i = new_range(4)
    table = rules(rule("neg-add", -(x + c), -x + c))
    final = rewrite(alu(Op.NEG, chain(10_000, i)), table, bottom_up=False)
    assert next(n for n in toposort(final) if n.op is Op.NEG).src == (i,)
