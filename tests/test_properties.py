"""Generated programs: the oracle, every stage of lowering, the interpreter and LLVM give one answer."""

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir import spec
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.uop import toposort
from tests.generator import Builder, Loops, Program

spec.CHECK = True
CHUNK, CHUNKS = 20, 32


def kernel_of(program: Program, device: str) -> Any:
    def fn(arrays: list[Any], ids: Any) -> Any:
        return Builder(program, arrays, ids).results()

    return rk.kernel(fn, device=device)


def close(got: Any, want: Any, what: str) -> None:
    scale = max(1.0, float(np.max(np.abs(want[np.isfinite(want)]), initial=0)))
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=2e-4, atol=2e-4 * scale, err_msg=what)


def stages(program: Program, low: Any, want: list[Any]) -> None:
    """What each graph stage means, by the evaluator that knows nothing of the passes."""
    for name in ("trace", "rangeify", "canon", "fuse"):
        sink = low._program.lowered.stages[name]
        params = [n for n in toposort(sink) if n.op is Op.PARAM]
        env = {p: ([*program.arrays, program.ids][p.arg.slot]) for p in params}
        for root, value in zip(sink.src, want, strict=False):
            close(evaluate(root, env), value, f"stage {name}")


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_generated_programs_mean_one_thing(chunk: int) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        program = Program(seed)
        want = Loops(program).results()
        for device in ("cpu", "python"):
            got = kernel_of(program, device)(program.arrays, program.ids)
            for n, (a, b) in enumerate(zip(got, want, strict=True)):
                close(a, b, f"seed {seed}, {device}, result {n}: {program.results[n]}")
        if len(set(map(repr, program.results))) == len(program.results):
            stages(program, kernel_of(program, "python").lower(program.arrays, program.ids), want)


@pytest.mark.parametrize("seed", range(12))
def test_writes_in_place_read_the_old_contents(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, shift = int(rng.integers(1, 7)), int(rng.integers(0, 4))
    x, w = rng.uniform(-1, 1, (2, n)).astype(np.float32)

    def fn(x: Any, w: Any) -> Any:
        i, j = rk.ranges(n, n)
        before = x[(i + 1) % n] * 1.0
        total = rk.sum(x[j] * w[j], j) if seed % 2 else w[i]
        x[(n - 1 - i + shift) % n] = x[i] * 2.0 + total
        return rk.bufferize(x[i] + before, i)

    for device in ("cpu", "python"):
        got_x = x.copy()
        got = rk.kernel(fn, device=device)(got_x, w)
        want_x = np.zeros(n)
        for i in range(n):
            total = float((x.astype(np.float64) * w).sum()) if seed % 2 else float(w[i])
            want_x[(n - 1 - i + shift) % n] = x[i] * 2.0 + total
        close(got_x, want_x, f"{device}: x after the call")
        close(got, want_x + x[(np.arange(n) + 1) % n], f"{device}: the result")


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_one_kernel_called_with_many_layouts_answers_for_each(device: str) -> None:
    calls = 0

    @rk.kernel(device=device)
    def fn(x: Any) -> Any:
        nonlocal calls
        calls += 1
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(rk.sum(x[i, j] * (j + 1), j), i)

    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    square = base[:, :4]
    layouts = [base, base[::-1], base.T, base[:, ::2], square, square.T, base.astype(np.float64), base.astype(np.int16)]
    for x in [*layouts, *layouts]:
        want = (x.astype(np.float64) * (np.arange(x.shape[1]) + 1)).sum(axis=1)
        np.testing.assert_allclose(fn(x), want)
    assert calls == len(layouts)


@pytest.mark.parametrize("seed", range(8))
def test_a_buffer_is_read_at_the_ranges_it_was_closed_over_in_other_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 6)), int(rng.integers(1, 4))
    x, y = rng.uniform(-1, 1, (2, n, m)).astype(np.float32)
    turn, swap = int(rng.integers(0, n)), bool(seed % 2)

    def fn(x: Any, y: Any) -> Any:
        i, j, k = rk.ranges(n, n, m)
        t = rk.bufferize(rk.sum(x[i, k] * y[j, k] * (i + 1), k), i, j)
        first, second = (j, i) if swap else (i, j)
        value = t[first, (second + turn) % n] * t[first, second] - rk.max(t[first, i], i)
        return rk.bufferize(value, i, j)

    t = (x.astype(np.float64) * (np.arange(n) + 1)[:, None]) @ y.T.astype(np.float64)
    want = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            first, second = (j, i) if swap else (i, j)
            want[i, j] = t[first, (second + turn) % n] * t[first, second] - (
                t[first].max() if swap else t.diagonal().max()
            )  # i is bound
    for device in ("cpu", "python"):
        close(rk.kernel(fn, device=device)(x, y), want, device)
