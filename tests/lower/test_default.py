"""The schedule that is chosen when none is given: by what the loads do, for products that no library has too."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import engine

RNG = np.random.default_rng(0)


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape, dtype=np.float32)


def product(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


def transposed(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[1], b.shape[0], a.shape[0])
    return rk.bufferize(rk.sum(a[k, i] * b[j, k], k), i, j)


def min_plus(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.min(a[i, k] + b[k, j], k), i, j)


def weighted(a: Any, b: Any, w: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j] * w[k], k), i, j)


def masked(a: Any, b: Any, m: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(rk.where(m[i, k], a[i, k], 0.0) * b[k, j], k), i, j)


def complex_pairs(a: Any, b: Any, c: Any, d: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], c.shape[1], a.shape[1])
    real = rk.sum(a[i, k] * c[k, j] - b[i, k] * d[k, j], k)
    imaginary = rk.sum(a[i, k] * d[k, j] + b[i, k] * c[k, j], k)
    return rk.bufferize(real, i, j), rk.bufferize(imaginary, i, j)


def dense_layer(a: Any, b: Any, bias: Any) -> Any:
    return rk.maximum(a @ b + bias, 0.0)


def wide(*args: Any) -> list[Any]:
    return [a if a.dtype == bool else a.astype(np.float64) for a in args]


def check(fn: Callable[..., Any], args: list[Any], want: Any, tolerance: float = 2e-5) -> None:
    got = rk.kernel(fn)(*args)
    for g, w in zip(
        got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,), strict=True
    ):
        scale = np.abs(w).max(initial=1.0)
        np.testing.assert_allclose(np.asarray(g, np.float64) / scale, w / scale, atol=tolerance, rtol=0)


SIZES = [(131, 257, 200), (97, 1100, 97), (64, 700, 25), (129, 513, 1033)]


@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_products_of_ugly_sizes(m: int, k: int, n: int) -> None:
    a, b, w, mask = floats(m, k), floats(k, n), floats(k), RNG.random((m, k)) < 0.5
    x, y, v = wide(a, b, w)
    check(product, [a, b], x @ y)
    check(transposed, [np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)], x @ y)
    check(weighted, [a, b, w], (x * v) @ y)
    check(masked, [a, b, mask], np.where(mask, x, 0.0) @ y)
    check(min_plus, [a, b], np.stack([(row[:, None] + y).min(0) for row in x]))
    check(dense_layer, [a, b, floats(n) * 0], np.maximum(x @ y, 0))


@pytest.mark.parametrize(("m", "k", "n"), SIZES[:2])
def test_a_product_of_complex_numbers_as_pairs(m: int, k: int, n: int) -> None:
    a, b, c, d = floats(m, k), floats(m, k), floats(k, n), floats(k, n)
    x, y, z, w = wide(a, b, c, d)
    check(complex_pairs, [a, b, c, d], (x @ z - y @ w, x @ w + y @ z))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float64, 1e-13), (np.float16, 2e-3), (ml_dtypes.bfloat16, 1e-2), (np.int32, 0.0), (np.int8, 0.0)],
)
def test_products_of_every_kind_of_number(dtype: Any, tolerance: float) -> None:
    a, b = (np.round(floats(*s) * 2).astype(dtype) for s in ((133, 1030), (1030, 99)))
    x, y = wide(a, b)
    check(product, [a, b], x @ y, tolerance)


def test_nan_reaches_the_minimum_of_a_blocked_product() -> None:
    a, b = floats(130, 1030), floats(1030, 97)
    a[7, 1029], b[512, 40], b[3, 11] = np.nan, np.nan, -np.inf
    got = rk.kernel(min_plus)(a, b)
    with np.errstate(invalid="ignore"):
        want = np.stack([(row[:, None] + b).min(0) for row in a])
    np.testing.assert_array_equal(got, want)


def test_what_follows_a_blocked_product_comes_after_its_last_block() -> None:
    a, b, bias = floats(140, 1500), floats(1500, 110), floats(110)
    text = str(rk.kernel(dense_layer).lower(a, b, bias))
    assert "for k in 0..3:" in text and "acc = out" in text  # partial sums wait where the result will be
    x, y, v = wide(a, b, bias)
    check(dense_layer, [a, b, bias], np.maximum(x @ y + v, 0))


@pytest.mark.parametrize(
    ("fn", "count"), [(product, 2), (transposed, 2), (min_plus, 2), (masked, 2), (complex_pairs, 4)]
)
def test_operands_that_are_read_again_and_again_are_packed(fn: Callable[..., Any], count: int) -> None:
    a = floats(1024, 1024)
    args = {product: 2, transposed: 2, min_plus: 2, masked: 3, complex_pairs: 4}[fn]
    mask = [a > 0] if args == 3 else []
    low = rk.kernel(fn).lower(*([a] * (args - len(mask)) + mask))
    (kernel,) = low.kernels
    staged = [s for s in kernel.schedule if type(s).__name__ == "Stage"]
    assert len({b.name for b in kernel.buffers if b.name.endswith("_tile")}) == count
    assert len(staged) >= count
    assert any(type(s).__name__ == "Thread" for s in kernel.schedule)


def test_a_mask_and_a_conversion_are_packed_with_what_they_change() -> None:
    a, b = floats(512, 512), floats(512, 512)
    text = str(rk.kernel(masked).lower(a, b, a > 0))
    (packing,) = [line for line in text.splitlines() if "m[" in line]
    assert "_tile[" in packing and "where(m[" in packing
    half = a.astype(ml_dtypes.bfloat16)
    text = str(rk.kernel(product).lower(half, half))
    assert all("_tile" in line for line in text.splitlines() if "float32(" in line)


def test_small_work_stays_as_it_is() -> None:
    low = rk.kernel(product).lower(floats(4, 4), floats(4, 4))
    assert not low.kernels[0].schedule
    assert "thread" not in str(rk.kernel(lambda x: x + 1).lower(floats(1000)))


def loops_of(assembly: str) -> list[list[str]]:
    """The lines of each loop: from a label to the last jump back to it."""
    lines = assembly.splitlines()
    label = {m.group(1): n for n, line in enumerate(lines) if (m := re.match(r"(\.L\w+):", line))}
    jumps = ((n, m.group(1)) for n, line in enumerate(lines) if (m := re.match(r"\s+j\w+\s+(\.L\w+)", line)))
    return [lines[label[to] : n + 1] for n, to in jumps if label.get(to, n) < n]


@pytest.mark.parametrize(("fn", "adds"), [(product, 12), (transposed, 12), (complex_pairs, 16)])
def test_the_inner_loop_of_a_product_keeps_its_tile_in_registers(fn: Callable[..., Any], adds: int) -> None:
    if platform.machine() != "x86_64" or engine.vector_floats() < 8:
        pytest.skip("needs an x86-64 CPU with AVX")
    a = floats(512, 512)
    low = rk.kernel(fn).lower(*[a] * (4 if fn is complex_pairs else 2))
    inner = [
        body for body in loops_of(low.as_text("asm")) if sum("vfmadd" in x or "vfnmadd" in x for x in body) >= adds
    ]
    assert inner
    hot = min(inner, key=len)
    multiplied = [x for x in hot if re.search(r"vfn?m(add|sub)\d+ps", x)]
    assert len(multiplied) == 4 * adds  # four steps of k
    assert not [x for x in hot if "%rsp" in x], "a register is spilled"
    assert not [x for x in hot if re.search(r"v(add|mul)ps", x)], "a product is not contracted"
    assert not [x for x in hot if re.search(r"vmov\w+\s+%[yz]mm\d+,.*\(", x)], "an accumulator is stored"
