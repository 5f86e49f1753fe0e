"""Z3's answers against enumeration; that it is the last resort; that nothing is lost where it fails."""

from __future__ import annotations

import random
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

import rangekit as rk
from rangekit.errors import BoundsError, RaceError
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, by_uid, idx, new_range
from rangekit.lower import prove


@pytest.fixture(autouse=True)
def forgotten() -> None:
    prove._ANSWERS.clear()


def index(draw: random.Random, ranges: list[UOp], depth: int = 3) -> UOp:
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([*ranges, *ranges, idx(draw.randint(-3, 9))])
    op = draw.choice([Op.ADD, Op.ADD, Op.MUL, Op.IDIV, Op.MOD, Op.MIN, Op.MAX])
    a = index(draw, ranges, depth - 1)
    b = idx(draw.randint(1, 7)) if op in (Op.MUL, Op.IDIV, Op.MOD) else index(draw, ranges, depth - 1)
    return alu(op, a, b)


def over(n: UOp, ranges: list[UOp]) -> Any:
    """The values at every iteration of all ranges."""
    own = by_uid(n.ranges)
    shape = [r.extent if r in own else 1 for r in ranges]
    return np.broadcast_to(evaluate(n, {}).reshape(shape), [r.extent for r in ranges])


@pytest.mark.parametrize("seed", range(60))
def test_bounds_as_enumeration_finds_them(seed: int) -> None:
    draw = random.Random(seed)
    ranges = [new_range(draw.randint(1, 6), name) for name in "ijk"]
    i, gate = index(draw, ranges), alu(Op.LT, index(draw, ranges, 2), index(draw, ranges, 2))
    values, held = over(i, ranges), over(gate, ranges)
    size = draw.choice([int(values.max()) + 1, int(values.max()), 5])
    size = max(size, 1)
    bad = held & ((values < 0) | (values >= size))
    answer = prove.inside(i, size, gate)
    assert answer.holds is (not bad.any())
    if answer.holds is False:
        at = tuple(answer.at.get(r, 0) for r in ranges)
        assert bad[at]
        first = tuple(int(v) for v in np.argwhere(bad)[0])
        assert at[0] == first[0]  # the outermost number as small as any


@pytest.mark.parametrize("seed", range(60))
def test_meetings_as_enumeration_finds_them(seed: int) -> None:
    draw = random.Random(seed)
    ranges = [new_range(draw.randint(2, 6), name) for name in "ij"]
    places = [index(draw, ranges, 2) for _ in range(draw.randint(1, 2))]
    values = np.stack([over(p, ranges).ravel() for p in places])
    distinct = np.unique(values, axis=1).shape[1] == values.shape[1]
    answer, second = prove.one_to_one(places, None, ranges)
    assert answer.holds is distinct
    if not distinct:
        one, two = (np.ravel_multi_index([at.get(r, 0) for r in ranges], [r.extent for r in ranges])
                    for at in (answer.at, second))  # fmt: skip
        assert one < two
        assert (values[:, one] == values[:, two]).all()


def large(x: Any) -> Any:
    i = rk.Range(1000003, "i")
    return rk.bufferize(x[(i * 7 + 3) % 1000003], i)


def product(x: Any) -> Any:
    i, j = rk.Range(2001, "i"), rk.Range(2001, "j")
    return rk.bufferize(rk.sum(rk.where(i * j < 4000000 - 5, x[i * j + 4], 0.0), j), i)


X = np.zeros(4000000, "f4")


def by(fn: Any, x: Any) -> set[tuple[str, str | None]]:
    return {(p.status, p.by) for p in rk.kernel(fn).lower(x).kernels[0].proofs if p.array == "x"}


def test_what_intervals_prove_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "_answer", lambda *_: pytest.fail("asked"))
    assert by(large, X[:1000003]) == {("proved", "interval")}
    rk.kernel(lambda x, ids: x[ids]).lower(X, np.zeros(3, "i8"))


def test_a_product_under_a_condition_is_proved() -> None:
    assert by(product, X) <= {("proved", "symbolic"), ("proved", "z3")}


def broken(fails: Exception | None) -> Any:
    """A Z3 that fails in one way."""

    def solve(question: Any) -> Any:
        raise prove._Unknown("max. resource limit exceeded") if fails is None else fails

    return solve


def awkward(x: Any) -> Any:
    i, j = rk.Range(3000, "i"), rk.Range(3000, "j")
    return rk.assign(x[(i * 3000 + j) * 7 % 9000011], 1.0)


@pytest.mark.parametrize("fails", [None, RuntimeError("crash"), OSError("killed"), ImportError("no z3")])
def test_a_failing_z3_loses_nothing(monkeypatch: pytest.MonkeyPatch, fails: Exception | None) -> None:
    monkeypatch.setattr(prove._Question, "solve", broken(fails))

    def kernel(x: Any, y: Any) -> Any:
        i, j = rk.Range(x.shape[0], "i"), rk.Range(4000, "j")
        inside = (i + j * j < x.shape[0]) & (j * j < i + 7)
        return rk.bufferize(rk.sum(rk.where(inside, x[(i + j * j) % 70001 + (j * j) // 70001 * 0], 0.0), j), i)

    low = rk.kernel(kernel).lower(X[:70001], X[:1])
    assert {p.status for p in low.kernels[0].proofs} <= {"proved", "guarded"}


def test_a_question_without_an_answer_is_guarded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(x: Any) -> Any:
        i, j = rk.Range(4001, "i"), rk.Range(4001, "j")
        at = i * j
        return rk.bufferize(rk.sum(rk.where(at * at < 5, x[at], 0.0), j), i)

    x = np.arange(5, dtype="f4")
    monkeypatch.setattr(prove._Question, "solve", broken(RuntimeError("crash")))
    low = rk.kernel(kernel).lower(x)
    guarded = [p for p in low.kernels[0].proofs if p.status == "guarded"]
    assert [p.array for p in guarded] == ["x"]
    assert "Z3 failed: RuntimeError" in low.explain()
    got = rk.kernel(kernel)(x)
    products = np.arange(4001)[:, None] * np.arange(4001)
    want = np.where(products * products < 5, x[np.minimum(products, 4)], 0).sum(1)
    np.testing.assert_array_equal(got, want)


def test_meetings_that_cannot_be_ruled_out_are_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove._Question, "solve", broken(None))
    with pytest.raises(RaceError, match="cannot be shown"):
        rk.kernel(awkward).lower(np.zeros(9000011, "f4"))


def test_the_same_answer_every_time() -> None:
    i, j = new_range(100000, "i"), new_range(77, "j")
    at = alu(Op.ADD, alu(Op.MUL, alu(Op.IDIV, i, idx(77)), idx(77)), j)
    answers = []
    for _ in range(3):
        prove._ANSWERS.clear()
        answers.append(prove.inside(at, 99999, None))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0].holds is False


@pytest.mark.parametrize("how", ["max", "argmax"])
def test_a_condition_on_a_range_says_nothing_of_a_reduction_over_it(how: str) -> None:
    def kernel(k: Any, y: Any) -> Any:
        i = rk.Range(10, "i")
        at = rk.max(rk.where(k[i] > 0, i, 0), i) if how == "max" else rk.argmax(k[i], i)
        return rk.bufferize(rk.where(i < 3, y[at], 0.0), i)

    k, y = np.arange(10), np.arange(10, dtype="f4")
    assert rk.kernel(kernel)(k, y).tolist() == [9, 9, 9] + [0] * 7
    with pytest.raises(BoundsError, match="index 9 of axis 0 of y, which has 5"):
        rk.kernel(kernel)(k, y[:5])
    assert rk.kernel(kernel)(k // 9 * 0, y[:5]).tolist() == [0] * 10


def test_the_installed_z3_is_one_that_the_project_names() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wanted,) = (Requirement(r) for r in project["dependencies"] if r.startswith("z3-solver"))
    assert {s.operator for s in wanted.specifier} == {">=", "<"}
    assert wanted.specifier.contains(version("z3-solver"))
