"""What a search may try: all of it applies, none of it twice, and none changes a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.backends.llvm.render import render
from rangekit.ir.nest import Nest
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower import search
from rangekit.lower.default import default
from rangekit.lower.schedule import applicable, scheduled
from rangekit.lower.step import Thread, Tile, Upcast

RNG = np.random.default_rng(0)


def rand(*shape: int) -> Any:
    return RNG.standard_normal(shape, dtype=np.float32)


def product(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


def blurred(x: Any) -> Any:
    i, j, a = rk.ranges(x.shape[0] - 2, x.shape[1], 3)
    return rk.bufferize(rk.sum(x[i + a, j], a), i, j)


def soft(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


AFTER = rk.Monoid((1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))


def decayed(x: Any) -> Any:
    return x @ 0.9999 ** np.arange(x.shape[-1] - 1, -1, -1.0)


CASES = {
    "product": (product, (rand(70, 90), rand(90, 65)), lambda a, b: a @ b),
    "softmax": (lambda x: rk.softmax(x, axis=1), (rand(60, 130),), soft),
    "stencil": (blurred, (rand(66, 75),), lambda x: x[:-2] + x[1:-1] + x[2:]),
    "sum": (lambda x: rk.sum(x), (rand(150, 90),), lambda x: np.array(x.sum())),
    "ordered rows": (lambda x: rk.reduce((0.9999, x), axis=1, op=AFTER)[1], (rand(60, 130),), decayed),
    "ordered": (lambda x: rk.reduce((0.9999, x), op=AFTER)[1], (rand(60_000),), lambda x: np.array(decayed(x))),
}  # fmt: skip


def nest_of(name: str) -> tuple[Nest, Any, Any]:
    fn, args, want = CASES[name]
    program: Any = rk.kernel(fn).lower(*args)._program
    (nest,) = program.lowered.plain
    return nest, args, want(*(a.astype(np.float64) for a in args))


def run(nest: Nest, args: Any, like: Any) -> Any:
    out = np.full(like.shape, np.nan, np.float32)
    buffers = [args[p.arg.slot] if p.op is Op.PARAM else out for p in nest.params]
    CpuDevice().compile(nest)(buffers, np.zeros(4, np.int64))
    return out


@pytest.mark.parametrize("name", CASES)
def test_everything_proposed_applies_differs_and_is_right(name: str) -> None:
    nest, args, want = nest_of(name)
    starts = search.proposals(nest, CPU)
    assert starts[0] == applicable(nest, default(nest, CPU), CPU)[0]
    near = search.neighbours(nest, starts[0], CPU)
    assert len(near) > 5
    for several in (starts, [starts[0], *near]):
        codes = {render(scheduled(nest, s, CPU)) for s in several}
        assert len(codes) >= 0.85 * len(several)  # a stream of single elements is a plain store, for instance
    tried = [*starts, *near]
    for steps in tried[:: max(1, len(tried) // 12)]:
        new = scheduled(nest, steps, CPU)
        assert search.fits(new, CPU)
        np.testing.assert_allclose(run(new, args, want), want, rtol=2e-4, atol=2e-4, err_msg=str(steps))


def test_the_order_is_the_same_every_time() -> None:
    nest, _, _ = nest_of("product")
    start = search.proposals(nest, CPU)
    assert start == search.proposals(nest, CPU)
    assert search.neighbours(nest, start[0], CPU) == search.neighbours(nest, start[0], CPU)


def test_a_tile_stays_a_multiple_of_the_lanes_inside_it() -> None:
    nest, _, _ = nest_of("product")
    start = (rk.tile("i", 12), rk.upcast("i.t", 4), rk.tile("j", 48), rk.upcast("j.t", 24))
    for steps in search.neighbours(nest, start, CPU):
        lanes = {s.name: s.size for s in steps if isinstance(s, Upcast)}
        for s in steps:
            if isinstance(s, Tile) and f"{s.name}.t" in lanes:
                assert s.size % lanes[f"{s.name}.t"] == 0


def test_too_many_accumulators_too_much_code_and_big_copies_are_left_out() -> None:
    nest, _, _ = nest_of("product")
    assert not search.fits(scheduled(nest, (rk.upcast("i", 12), rk.upcast("j", 64)), CPU), CPU)
    assert not search.fits(scheduled(nest, (rk.upcast("i", 8), rk.upcast("j", 32), rk.unroll("k", 64)), CPU), CPU)


def test_the_grain_of_threads_tells_schedules_apart() -> None:
    nest, _, _ = nest_of("softmax")
    grains = [s.grain for steps in search.neighbours(nest, (rk.upcast("j", 8), rk.thread("i", 4)), CPU)
              for s in steps if isinstance(s, Thread)]  # fmt: skip
    assert {2, 4, 8} <= set(grains)
