"""Kernels made at random and judged by enumeration: no wrong one is accepted, hardly a right one refused or guarded."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import BoundsError, RaceError
from rangekit.ir.evaluate import evaluate
from rangekit.ir.uop import UOp, by_uid
from rangekit.lang.tensor import Tensor
from tests.ir import conftest as exprs

SEEDS = 2000


def over(n: UOp, ranges: list[UOp]) -> Any:
    own = by_uid(n.ranges)
    shape = [r.extent if r in own else 1 for r in ranges]
    return np.broadcast_to(evaluate(n, {}).reshape(shape), [r.extent for r in ranges]).astype(np.int64)


def judged(seed: int) -> tuple[bool, str]:
    """Whether a kernel is right, and what became of it: "proved", "guarded" or "refused"."""
    draw = random.Random(seed)
    sizes = [draw.choice((1, 2, 3, 4, 7, 8, 12)) for _ in range(draw.randint(1, 3))]
    ranges = [rk.Range(n, name) for n, name in zip(sizes, "ijk", strict=False)]
    nodes = [r.node for r in ranges]
    index = exprs.index_expr(draw, nodes, draw.randint(1, 3))
    values = over(index, nodes)
    size = max(1, int(values.max()) + draw.choice((1, 1, 1, 0, 5)))
    x = np.zeros(size, "f4")
    place = Tensor(index)
    if draw.random() < 0.5:
        gate = exprs.bool_expr(draw, nodes, 2)
        held = over(gate, nodes).astype(bool)
        right = bool(((values >= 0) & (values < size))[held].all())

        def kernel(x: Any) -> Any:
            return rk.bufferize(rk.where(Tensor(gate), x[place], 0.0), *ranges)
    else:
        used = list(by_uid(index.ranges))
        mine = over(index, used)
        inside = bool(((mine >= 0) & (mine < size)).all())
        right = inside and np.unique(mine).size == mine.size

        def kernel(x: Any) -> Any:
            return rk.assign(x[place], 1.0)

    try:
        kernels = rk.kernel(kernel, device="python").lower(x).kernels
    except (BoundsError, RaceError):
        return right, "refused"
    statuses = {p.status for k in kernels for p in k.proofs}
    return right, "guarded" if "guarded" in statuses else "proved"


@pytest.fixture(scope="module")
def verdicts() -> Counter[tuple[bool, str]]:
    return Counter(judged(seed) for seed in range(SEEDS))


def test_no_wrong_kernel_is_accepted(verdicts: Counter[tuple[bool, str]]) -> None:
    assert verdicts[False, "proved"] == 0
    assert verdicts[False, "refused"] > SEEDS // 20


def test_hardly_a_right_one_is_refused_or_guarded(verdicts: Counter[tuple[bool, str]]) -> None:
    right = sum(n for (good, _), n in verdicts.items() if good)
    assert right > SEEDS // 3
    assert verdicts[True, "refused"] == 0
    assert verdicts[True, "guarded"] <= right // 100
