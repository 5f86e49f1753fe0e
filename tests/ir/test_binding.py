from __future__ import annotations

import itertools
import random

import pytest

from rangekit.ir import dtype as dt
from rangekit.ir.binding import rename_bound, substitute
from rangekit.ir.ops import Op
from rangekit.ir.uop import Storage, UOp, alu, cast, idx, new_buffer, new_range


def total(value: UOp, *ranges: UOp) -> UOp:
    return UOp(Op.REDUCE, value.dtype, (value, *ranges), "add")


def meaning(n: UOp, env: dict[UOp, int]) -> int:
    """The value of a small expression with sums, bound ranges found by scope."""
    if n.op is Op.RANGE:
        return env[n]
    if n.op is Op.CONST:
        return int(n.arg)
    if n.op is Op.CAST:
        return meaning(n.src[0], env)
    if n.op is Op.REDUCE:
        loops = itertools.product(*(range(r.extent) for r in n.src[1:]))
        return sum(meaning(n.src[0], {**env, **dict(zip(n.src[1:], at, strict=True))}) for at in loops)
    a, b = (meaning(s, env) for s in n.src)
    return {Op.ADD: a + b, Op.MUL: a * b, Op.SUB: a - b}[n.op]


def stored(i: UOp) -> UOp:
    return cast(i, dt.int64)


def test_only_free_occurrences_are_replaced():
    i, j = new_range(3, "i"), new_range(3, "j")
    body = alu(Op.MUL, stored(i), stored(j))
    root = alu(Op.ADD, total(body, j), stored(j))
    assert substitute(root, {j: idx(2)}) is alu(Op.ADD, total(body, j), UOp(Op.CAST, dt.int64, (idx(2),)))


def test_a_bound_range_is_renamed_where_a_value_would_be_captured():
    i, j = new_range(3, "i"), new_range(3, "j")
    root = total(alu(Op.MUL, stored(i), stored(j)), j)
    new = substitute(root, {i: j})
    bound = new.src[1]
    assert bound is not j
    assert (bound.extent, bound.arg.name) == (3, "j")
    assert new.ranges == {j}
    assert [meaning(new, {j: k}) for k in range(3)] == [meaning(root, {i: k}) for k in range(3)]


def test_reductions_that_shared_a_body_share_it_after_a_renaming():
    i, j = new_range(3), new_range(3)
    body = alu(Op.ADD, stored(i), stored(j))
    both = alu(Op.SUB, total(body, j), UOp(Op.REDUCE, dt.int64, (body, j), "max"))
    new = substitute(both, {i: j})
    assert new.src[0].src == new.src[1].src


def test_what_mentions_no_mapped_range_is_returned_itself():
    i, j, k = new_range(3), new_range(3), new_range(3)
    kept = total(alu(Op.ADD, stored(i), stored(j)), j)
    root = alu(Op.ADD, kept, stored(k))
    assert substitute(root, {k: i}).src[0] is kept
    assert substitute(kept, {j: i}) is kept
    assert substitute([kept, root], {}) == (kept, root)


def test_values_swap_at_once_not_one_after_the_other():
    i, j = new_range(3), new_range(3)
    assert substitute(alu(Op.SUB, i, j), {i: j, j: i}) is alu(Op.SUB, j, i)


def test_the_base_of_an_assign_lies_outside_its_scope():
    i, j = new_range(4, "i"), new_range(4, "j")
    buffer = new_buffer(dt.float32, (4,), "b")
    base = UOp(Op.BUFFERIZE, dt.float32, (cast(alu(Op.ADD, i, j), dt.float32), j), Storage())
    place = UOp(Op.INDEX, dt.float32, (buffer, i))
    root = UOp(Op.ASSIGN, dt.float32, (base, place, cast(i, dt.float32), i))
    assert root.ranges == {i}
    new = substitute(root, {i: j})
    assert new.src[1:] == root.src[1:]
    assert new.ranges == {j}


def test_rename_bound_renames_in_its_scope_only():
    i, j = new_range(3), new_range(3)
    root = total(alu(Op.MUL, stored(i), stored(i)), i)
    assert rename_bound(root, i, j) is total(alu(Op.MUL, stored(j), stored(j)), j)
    assert rename_bound(root, i, i) is root


def test_rename_bound_refuses_what_would_change_the_meaning():
    i, j, k = new_range(3), new_range(3), new_range(4)
    root = total(alu(Op.MUL, stored(i), stored(j)), j)
    for old, new in ((j, i), (j, k), (i, new_range(3))):
        with pytest.raises(ValueError, match=r"bind|stand"):
            rename_bound(root, old, new)


@pytest.mark.parametrize("seed", range(60))
def test_a_substitution_means_what_a_change_of_the_environment_means(seed: int):
    rng = random.Random(seed)
    ranges = [new_range(rng.choice((2, 3)), n) for n in "ijk"]

    def expr(depth: int) -> UOp:
        if depth == 0:
            return stored(rng.choice(ranges))
        if rng.random() < 0.5:
            return total(expr(depth - 1), *rng.sample(ranges, rng.randint(1, 2)))
        return alu(rng.choice((Op.ADD, Op.MUL, Op.SUB)), expr(depth - 1), expr(depth - 1))

    for _ in range(10):
        root = expr(4)
        mapping = {r: alu(Op.ADD, rng.choice(ranges), rng.choice(ranges)) for r in rng.sample(ranges, 2)}
        new = substitute(root, mapping)
        for point in itertools.product(range(2), repeat=3):
            env = dict(zip(ranges, point, strict=True))
            assert meaning(new, env) == meaning(root, {**env, **{r: meaning(v, env) for r, v in mapping.items()}})


def test_ten_thousand_nested_binders_are_no_problem():
    i, j, k = new_range(2), new_range(2), new_range(2)
    node = stored(i)
    for _ in range(10_000):
        node = total(alu(Op.ADD, node, stored(j)), j)
    new = substitute(node, {i: alu(Op.ADD, j, k)})
    assert new.ranges == {j, k}
