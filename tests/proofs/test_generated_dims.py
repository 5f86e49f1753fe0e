"""Kernels over a size known only at the call, made at random and judged at every size it may have."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import BoundsError, RaceError

SEEDS = 800
READ, GATED, WRITTEN = "read", "gated", "written"


class Program:
    """The program of a seed: its parts are asked for at a size, an int or a Dim, always in the same order."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed, self.least = seed, draw.choice((1, 2, 4))
        self.most = self.least + draw.choice((3, 6, 9))
        self.kind = draw.choice((READ, GATED, GATED, WRITTEN))
        kinds = [lambda n: n, lambda n: n + 1, lambda n: n * 2, lambda n: 3, lambda n: 4]
        if self.least > 1:
            kinds.append(lambda n: n - 1)
        self.lengths = [draw.choice(kinds) for _ in range(draw.randint(1, 2))]
        self.array = draw.choice((*kinds, lambda n: n + 3, lambda n: 3 * n, lambda n: 8))

    def parts(self, n: Any, at: list[Any], lesser: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
        """The index and the condition in an iteration."""
        draw = random.Random(self.seed + 10**6)

        def index(depth: int) -> Any:
            roll = draw.random()
            if depth == 0 or roll < 0.2:
                return draw.choice((*at, *at, n + 0 * at[0], draw.randrange(-2, 5) + 0 * at[0]))
            a, roll = index(depth - 1), draw.random()
            if roll < 0.25:
                return a + index(depth - 1)
            if roll < 0.45:
                return a - index(depth - 1)
            if roll < 0.6:
                return a * draw.choice((1, 2, 3, -1))
            if roll < 0.9:
                by = draw.choice((2, 3, 4, n))
                return a // by if draw.random() < 0.5 else a % by
            return lesser(a, index(depth - 1))

        return index(2), (index(1) < index(1)) if self.kind is GATED else True

    def verdict(self) -> str:
        """What becomes of it: "proved", "guarded" or "refused"; ``self.used`` are the ranges that a write binds."""
        size = rk.Dim("N", min=self.least, max=self.most)
        self.used = set[str]()

        def kernel(x: Any) -> Any:
            over = [rk.Range(of(size), name) for of, name in zip(self.lengths, "ij", strict=False)]
            index, gate = self.parts(size, list(over), rk.minimum)
            if self.kind is WRITTEN:
                self.used = {r.arg.name for r in index.node.ranges}
                return rk.assign(x[index], 1.0)
            return rk.bufferize(x[index] if gate is True else rk.where(gate, x[index], 0.0), *over)

        kernel.__annotations__["x"] = rk.f32[self.array(size)]
        try:
            low = rk.kernel(kernel, device="python").lower(np.zeros(self.array(self.least), "f4"))
        except (BoundsError, RaceError):
            return "refused"
        return "guarded" if any(p.status == "guarded" for k in low.kernels for p in k.proofs) else "proved"

    def right(self, n: int) -> bool:
        """Whether it is right at a size, all iterations tried."""
        places: dict[tuple[int, ...], int] = {}
        for at in itertools.product(*(range(of(n)) for of in self.lengths)):
            index, gate = self.parts(n, list(at), min)
            if gate and not 0 <= index < self.array(n):
                return False
            places[tuple(v for v, name in zip(at, "ij", strict=False) if name in self.used)] = index
        return self.kind is not WRITTEN or len(set(places.values())) == len(places)


@pytest.fixture(scope="module")
def verdicts() -> Counter[tuple[bool, bool, str]]:
    """How many are right at every size, right at the least and the greatest, and what became of them."""
    found: Counter[tuple[bool, bool, str]] = Counter()
    for seed in range(SEEDS):
        program = Program(seed)
        verdict = program.verdict()
        right = [program.right(n) for n in range(program.least, program.most + 1)]
        found[all(right), right[0] or right[-1], verdict] += 1
    return found


def test_none_that_is_wrong_at_some_size_is_accepted(verdicts: Counter[tuple[bool, bool, str]]) -> None:
    wrong = Counter[str]()
    for (right, _, verdict), n in verdicts.items():
        wrong[verdict] += 0 if right else n
    assert wrong["proved"] == 0
    assert wrong["refused"] > SEEDS // 5 and wrong["guarded"] > SEEDS // 40


def test_none_that_is_right_at_every_size_is_refused_or_guarded(verdicts: Counter[tuple[bool, bool, str]]) -> None:
    assert verdicts[True, True, "proved"] > SEEDS // 3
    assert verdicts[True, True, "refused"] == 0
    assert verdicts[True, True, "guarded"] <= verdicts[True, True, "proved"] // 100
