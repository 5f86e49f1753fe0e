"""Schedules: what each step makes of a nest, what it refuses, and that none of them changes a result."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.errors import ScheduleError
from rangekit.ir.nest import Nest
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower import step as steps
from rangekit.lower.loops import loops, name_of
from rangekit.lower.schedule import scheduled
from rangekit.lower.tiles import perfected
from tests.generator import Loops, Program
from tests.test_properties import close, kernel_of

RNG = np.random.default_rng(0)


def rand(*shape: int) -> Any:
    return RNG.standard_normal(shape, dtype=np.float32)


@rk.kernel
def product(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


def text(kernel: Any, *args: Any) -> str:
    return str(kernel.lower(*args))


# ---- what the steps make ---------------------------------------------------------------------------------------------


def test_a_tile_is_blocks_and_what_is_inside_one() -> None:
    double = rk.kernel(lambda x: x * 2).schedule(rk.tile("i", 4))
    assert (
        text(double, np.ones(10, np.float32))
        == """\
for i in 0..3:
    for i.t in 0..min(4, i * (-4) + 10):
        out[i * 4 + i.t] = x[i * 4 + i.t] * 2.0
"""
    )


def test_a_product_in_registers() -> None:
    k = product.schedule(rk.upcast("i", 6), rk.upcast("j", 16), rk.unroll("k", 4))
    assert (
        text(k, np.ones((12, 8), np.float32), np.ones((8, 32), np.float32))
        == """\
for i in 0..2:
    for j in 0..2:
        vector j.t in 0..16:
            upcast i.t in 0..6:
                acc = 0.0
                for k in 0..2:
                    unroll k.t in 0..4:
                        acc += a[i * 6 + i.t, k * 4 + k.t] * b[k * 4 + k.t, j * 16 + j.t]
                out[i * 6 + i.t, j * 16 + j.t] = acc
"""
    )


def test_a_reduction_along_vectors_keeps_a_result_a_lane() -> None:
    total = rk.kernel(lambda x: rk.sum(x)).schedule(rk.upcast("i", 8))
    assert (
        text(total, np.ones(24, np.float32))
        == """\
acc = 0.0
register acc1[8] float32
vector i.t in 0..8:
    acc1[i.t] = 0.0
for i in 0..3:
    vector i.t in 0..8:
        acc1[i.t] += x[i * 8 + i.t]
tree i.t in 0..8:
    acc += acc1[i.t]
out = acc
"""
    )


def test_a_group_is_partial_results_combined_in_order() -> None:
    total = rk.kernel(lambda x: rk.sum(x)).schedule(rk.group("i", 4), rk.thread("i"))
    x = np.arange(10, dtype=np.float32)
    assert (
        text(total, x)
        == """\
acc = 0.0
local acc1[4] float32
thread i in 0..4:
    acc2 = 0.0
    for i.t in 0..min(3, i * (-3) + 10):
        acc2 += x[i * 3 + i.t]
    acc1[i] = acc2
for i.g in 0..4:
    acc += acc1[i.g]
out = acc
"""
    )
    assert total(x) == 45


def test_a_reduction_moved_outside_waits_in_the_result() -> None:
    k = product.schedule(rk.tile("k", 4), rk.reorder("k", "i", "j"))
    assert (
        text(k, np.ones((2, 8), np.float32), np.ones((8, 3), np.float32))
        == """\
for k in 0..2:
    for i in 0..2:
        for j in 0..3:
            acc = out[i, j if 0 < k]
            for k.t in 0..4:
                acc += a[i, k * 4 + k.t] * b[k * 4 + k.t, j]
            out[i, j] = acc
"""
    )


def test_a_staged_operand_is_packed_for_the_loops_inside() -> None:
    k = product.schedule(rk.tile("i", 2), rk.stage("a", at="i"))
    assert (
        text(k, np.ones((4, 3), np.float32), np.ones((3, 2), np.float32))
        == """\
for i in 0..2:
    local a_tile[2, 3] float32
    for i.t in 0..2:
        for k in 0..3:
            a_tile[i.t, k] = a[i * 2 + i.t, k]
    for i.t in 0..2:
        for j in 0..2:
            acc = 0.0
            for k in 0..3:
                acc += a_tile[i.t, k] * b[k, j]
            out[i * 2 + i.t, j] = acc
"""
    )


def test_a_schedule_is_data() -> None:
    s = rk.Schedule(
        (rk.tile("i", 64), rk.stage("A", at="k", layout=("j", "k")), rk.reorder("j", "i"), rk.thread("j", 2))
    )
    assert repr(s) == (
        "(rk.tile('i', 64), rk.stage('A', at='k', layout=('j', 'k')), rk.reorder('j', 'i'), rk.thread('j', grain=2))"
    )
    assert eval(repr(s), {"rk": rk}) == s
    assert rk.Schedule.from_json(s.to_json()) == s
    assert hash(s) == hash(rk.Schedule.from_json(s.to_json()))


def test_a_padded_range_has_whole_blocks() -> None:
    k = product.schedule(rk.pad("j", 8), rk.upcast("j", 8), rk.pad("k", 2), rk.unroll("k", 2))
    a, b = rand(2, 3), rand(3, 5)
    assert (
        text(k, a, b) == """\
for i in 0..2:
    for j in 0..1:
        vector j.t in 0..8:
            acc = 0.0
            for k in 0..2:
                unroll k.t in 0..2:
                    acc += where(k * 2 + k.t < 3, a[i, k * 2 + k.t if k * 2 + k.t < 3] * """
        """b[k * 2 + k.t, j * 8 + j.t if (k * 2 + k.t < 3) & (j * 8 + j.t < 5)], 0.0)
            out[i, j * 8 + j.t if j * 8 + j.t < 5] = acc
"""
    )
    np.testing.assert_allclose(k(a, b), a @ b, rtol=1e-5)


def test_what_is_read_may_be_asked_for_early() -> None:
    k = product.schedule(rk.upcast("j", 16), rk.prefetch("b", at="k", ahead=4))
    a, b = rand(5, 33), rand(33, 40)
    assert k.lower(a, b).as_text("llvm").count("call void @llvm.prefetch") == 2  # the main block and the tail's
    np.testing.assert_allclose(k(a, b), a @ b, rtol=1e-4)
    with pytest.raises(ScheduleError, match="no read of it moves with that range"):
        product.schedule(rk.prefetch("a", at="j")).lower(a, b)


def test_a_schedule_saves_and_loads(tmp_path: Any) -> None:
    a, b = rand(200, 200), rand(200, 200)
    chosen = product.lower(a, b).kernels[0].schedule
    assert chosen
    chosen.save(tmp_path / "product.json")
    again = product.schedule(*rk.Schedule.load(tmp_path / "product.json"))
    assert str(again.lower(a, b)) == str(product.lower(a, b))


@pytest.mark.parametrize(
    "bad", ["", "[]", "{}", '{"version": 99, "steps": []}', '{"version": 1, "steps": [["os.system", {}]]}',
            '{"version": 1, "steps": [["tile", {"name": "i"}]]}',
            '{"version": 1, "steps": [["tile", {"name": "i", "size": 0}]]}',
            '{"version": 1, "steps": [["pad", {"name": "i", "multiple": 0}]]}',
            '{"version": 1, "steps": [["prefetch", {"array": "x", "at": 3}]]}'],
)  # fmt: skip
def test_what_is_no_schedule_does_not_load(bad: str) -> None:
    with pytest.raises(ScheduleError):
        rk.Schedule.from_json(bad)


# ---- what they refuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ((rk.tile("z", 4),), "there is no range 'z'"),
        ((rk.thread("k"),), "k cannot run on threads: it is a reduction"),
        ((rk.group("i", 4),), "i is no reduction"),
        ((rk.upcast("i", 4), rk.tile("i.t", 2)), "i.t is in step already"),
        ((rk.stage("c", at="i"),), "there is no array 'c'"),
        ((rk.stage("out", at="i"),), "does not read out"),
        ((rk.stream("a"),), "a is not a result"),
        ((rk.reorder("j", "z"),), "z is not nested with j"),
        ((rk.tile("i", 4), rk.reorder("i.t", "i", "j")), None),
        ((rk.thread("j"), rk.thread("i")), "i cannot run on threads"),
        ((rk.prefetch("out"),), "no tile stores to out"),
        (("tile",), "is not a schedule step"),
    ],
)
def test_a_step_that_cannot_apply_says_why(wrong: tuple[Any, ...], why: str | None) -> None:
    a, b = rand(8, 8), rand(8, 8)
    if why is None:
        assert np.allclose(product.schedule(*wrong)(a, b), a @ b, atol=1e-5)
        return
    with pytest.raises(ScheduleError, match=why):
        product.schedule(*wrong).lower(a, b)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "4"])
def test_sizes_are_whole_numbers_from_one(size: Any) -> None:
    with pytest.raises(ScheduleError):
        rk.upcast("i", size)


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ScheduleError, match="there is no kernel 'k7'"):
        product.schedule(rk.tile("i", 2), kernel="k7").lower(rand(2, 2), rand(2, 2))


def test_strict_keeps_the_order_of_sums() -> None:
    x = rand(100_000)
    total = rk.kernel(lambda x: rk.sum(x), strict=True)
    want = np.float32(0)
    for v in x:
        want += v
    assert total(x) == want
    with pytest.raises(ScheduleError, match="strict=True"):
        total.schedule(rk.upcast("i", 8)).lower(x)
    top = rk.kernel(lambda x: rk.max(x), strict=True).schedule(rk.upcast("i", 8))
    assert top(x) == x.max()


# ---- whatever the schedule, the result -------------------------------------------------------------------------------


def random_step(rng: random.Random, nest: Nest) -> steps.Step | None:
    names = [name_of(loop) for loop in loops(nest.body)]
    if not names:
        return None
    name = rng.choice(names)
    if rng.random() < 0.3:
        name += f"#{rng.randint(1, names.count(name))}"
    size = rng.choice([1, 2, 3, 4, 5, 8, 16])
    array = rng.choice([p.arg.name for p in nest.params])
    order = tuple(rng.sample(sorted(set(names)), min(len(set(names)), rng.randint(2, 5))))
    return rng.choice([
        steps.Tile(name, size), steps.Upcast(name, size), steps.Upcast(name, size), steps.Unroll(name, size),
        steps.Thread(name), steps.Group(name, size), steps.Reorder(order), steps.Stage(array, name),
        steps.Prefetch(array), steps.Prefetch(array, name, size), steps.Pad(name, size), steps.Stream(array),
    ])  # fmt: skip


def at_random(kernel: Any, rng: random.Random, *args: Any) -> Any:
    """The kernel under a random schedule of each of its nests, where that applies."""
    for nest in kernel.lower(*args)._program.lowered.plain:
        chosen = random_schedule(rng, nest)
        try:
            scheduled(nest, chosen, CPU)
        except ScheduleError:
            continue
        kernel = kernel.schedule(*chosen, kernel=nest.name)
    return kernel


def random_schedule(rng: random.Random, nest: Nest) -> tuple[steps.Step, ...]:
    """Steps that can apply to a nest, one after another."""
    nest = replace(nest, body=perfected(nest.body))
    kept: list[steps.Step] = []
    for _ in range(rng.randint(1, 8)):
        step = random_step(rng, nest)
        if step is None:
            continue
        try:
            nest = step.apply(nest, CPU)
        except ScheduleError:
            continue
        kept.append(step)
    return tuple(kept)


def check(
    kernel: Any, args: tuple[Any, ...], arrays: list[Any], want: list[Any], rng: random.Random, what: str
) -> None:
    """A kernel's nests under random schedules, against what they should give."""
    program = kernel.lower(*args)._program
    memory = {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
    memory.update(program.captured)
    for nest in program.lowered.plain:
        chosen = random_schedule(rng, nest)
        what += f"\n{chosen}"
        new = scheduled(nest, chosen, CPU)
        fault = np.zeros(4, np.int64)
        CpuDevice().compile(new)([arrays[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in new.params], fault)
    for p, b in zip(program.lowered.outputs, want, strict=True):
        close(arrays[p.arg.slot] if p.op is Op.PARAM else memory[p], b, what)


@pytest.mark.parametrize("chunk", range(16))
def test_generated_programs_under_random_schedules(chunk: int) -> None:
    for seed in range(chunk * 12, chunk * 12 + 12):
        program = Program(seed)
        arrays = [*program.arrays, program.ids]
        check(kernel_of(program, "python"), (program.arrays, program.ids), arrays, Loops(program).results(),
              random.Random(seed), f"seed {seed}")  # fmt: skip


def softmax(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    e = rk.exp(x[i, j] - rk.max(x[i, j], j))
    return rk.bufferize(e / rk.sum(e, j), i, j)


def triangle(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    return rk.bufferize(rk.sum(x[i, j] * x[j, i], j, where=j <= i), i)


def nearest(x: Any, y: Any) -> Any:
    i, j, k = rk.ranges(x.shape[0], y.shape[0], x.shape[1])
    gap = x[i, k] - y[j, k]
    return rk.bufferize(rk.argmin(rk.sum(gap * gap, k), j), i)


def crossed(x: Any) -> Any:
    i, j = rk.ranges(x.shape[1], x.shape[0])
    return rk.bufferize(x[j, i] * 2, i, j)


def rows(x: Any) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


CASES = {
    "product": (product.fn, lambda n: (rand(n, n + 1), rand(n + 1, n + 2)), lambda a, b: a @ b),
    "softmax": (softmax, lambda n: (rand(n, n + 3),), rows),
    "triangle": (triangle, lambda n: (rand(n, n),), lambda x: np.tril(x * x.T).sum(1)),
    "nearest": (
        nearest,
        lambda n: (rand(n, 3), rand(n + 2, 3)),
        lambda x, y: ((x[:, None] - y[None]) ** 2).sum(-1).argmin(1),
    ),
    "crossed": (crossed, lambda n: (rand(n, n + 1),), lambda x: 2 * x.T),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [1, 7, 16, 17, 33])
def test_programs_under_random_schedules(name: str, n: int) -> None:
    fn, make, oracle = CASES[name]
    for seed in range(6):
        args = make(n)
        want = oracle(*(a.astype(np.float64) for a in args))
        check(rk.kernel(fn, device="python"), args, list(args), [want], random.Random(seed), f"{name} {n} seed {seed}")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [1, 8, 31, 64, 65, 130])
def test_programs_under_the_default_schedule(name: str, n: int) -> None:
    fn, make, oracle = CASES[name]
    args = make(n)
    close(rk.kernel(fn)(*args), oracle(*(a.astype(np.float64) for a in args)), f"{name} {n}")


def test_integers_are_equal_whatever_the_schedule() -> None:
    a, b = (RNG.integers(-1000, 1000, (37, 37)).astype(np.int32) for _ in range(2))
    program = rk.kernel(product.fn, device="python").lower(a, b)._program
    want = product.schedule()(a, b)
    for seed in range(20):
        chosen = random_schedule(random.Random(seed), program.lowered.plain[0])
        assert np.array_equal(product.schedule(*chosen)(a, b), want), chosen
