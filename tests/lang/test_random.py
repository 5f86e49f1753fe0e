"""Random numbers: the generator's published blocks, NumPy's own arithmetic, and what distributions have to be."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import DtypeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.uop import const
from rangekit.lang.random import threefry
from rangekit.lang.tensor import made

WORD = 1 << 32


def blocks(key: int, counters: list[int]) -> list[tuple[int, int]]:
    """Threefry-2x32 with whole numbers."""
    a, b = key % WORD, key >> 32 & (WORD - 1)
    words = (a, b, a ^ b ^ 0x1BD11BDA)
    out = []
    for n in counters:
        x, y = (n % WORD + words[0]) % WORD, ((n >> 32) + words[1]) % WORD
        for step in range(20):
            x = (x + y) % WORD
            turn = (13, 15, 26, 6, 17, 29, 16, 24)[step % 8]
            y = ((y << turn | y >> (32 - turn)) % WORD) ^ x
            if step % 4 == 3:
                n = step // 4 + 1
                x, y = (x + words[n % 3]) % WORD, (y + words[(n + 1) % 3] + n) % WORD
        out.append((x, y))
    return out


def word(v: int) -> rk.Tensor:
    return made(const(v, dt.uint32))


@pytest.mark.parametrize(
    ("key", "counter", "want"),  # the known answers of the paper's own code
    [((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)), ((WORD - 1,) * 2, (WORD - 1,) * 2, (0x1CB996FC, 0xBB002BE7)),
     ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0))],
)  # fmt: skip
def test_the_published_blocks(key: tuple[int, int], counter: tuple[int, int], want: tuple[int, int]) -> None:
    got = threefry((word(key[0]), word(key[1])), (word(counter[0]), word(counter[1])))
    assert tuple(int(g.item()) for g in got) == want


@pytest.mark.parametrize("key", [0, 7, -1, 12345678901234567, 1 << 63])
def test_bits_are_the_first_words_of_blocks(key: int) -> None:
    want = [x for x, _ in blocks(key % (1 << 64), list(range(37)))]
    assert rk.random.bits(key, (37,)).numpy().tolist() == want
    assert rk.random.bits(np.uint64(key % (1 << 64)), (37,)).numpy().tolist() == want


def test_a_number_depends_on_its_key_and_place_only() -> None:
    flat = rk.random.normal(5, (24,)).numpy()
    np.testing.assert_array_equal(rk.random.normal(5, (2, 3, 4)).numpy().reshape(-1), flat)
    np.testing.assert_array_equal(rk.random.normal(5, (7,)).numpy(), flat[:7])
    scheduled = rk.kernel(lambda key: rk.random.normal(key, (24,))).schedule(rk.upcast("i", 8), rk.thread("i"))
    np.testing.assert_array_equal(scheduled(5), flat)
    interpreted = rk.kernel(lambda key: rk.random.bits(key, (24,)), device="python")
    np.testing.assert_array_equal(interpreted(5), rk.random.bits(5, (24,)).numpy())
    assert not np.array_equal(rk.random.normal(6, (24,)).numpy(), flat)


def test_keys_of_a_key() -> None:
    keys = rk.random.split(11, 1000).numpy()
    assert keys.dtype == np.uint64 and len(set(keys.tolist())) == 1000
    assert keys.tolist() == [x << 32 | y for x, y in blocks(11, [n | 1 << 63 for n in range(1000)])]
    one = rk.random.normal(int(keys[3]), (5,)).numpy()
    np.testing.assert_array_equal(rk.random.normal(rk.random.split(11, 1000)[3], (5,)).numpy(), one)

    def rows(keys: Any) -> Any:  # one key a row
        i = rk.Range(keys.shape[0])
        return rk.bufferize(rk.random.uniform(keys[i], (6,)), i)

    got = rk.kernel(rows)(keys[:4])
    for n in range(4):
        np.testing.assert_array_equal(got[n], rk.random.uniform(int(keys[n]), (6,)).numpy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_uniform_numbers(dtype: Any) -> None:
    kind = rk.asarray(np.zeros(1, dtype)).dtype
    x = rk.random.uniform(1, (1 << 18,), dtype=kind).numpy()
    assert x.dtype == dtype and x.min() >= 0 and x.max() < 1
    counts, _ = np.histogram(x.astype(np.float64), 64, (0, 1))
    expected = len(x) / 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * math.sqrt(2 * 63)
    y = rk.random.uniform(2, (1 << 16,), dtype=kind, minval=-3.0, maxval=-2.0).numpy().astype(np.float64)
    assert y.min() >= -3 and y.max() < -2
    assert abs(y.mean() + 2.5) < 0.02
    assert len(np.unique(rk.random.uniform(3, (1 << 12,)).numpy())) > 4090


def test_normal_numbers() -> None:
    x = rk.random.normal(4, (1 << 20,)).numpy().astype(np.float64)
    error = 5 / math.sqrt(len(x))
    assert np.isfinite(x).all()
    assert abs(x.mean()) < error and abs(x.var() - 1) < error * math.sqrt(2)
    assert abs((x**3).mean()) < error * math.sqrt(15) and abs((x**4).mean() - 3) < error * math.sqrt(96)
    want = np.array([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.linspace(-4, 4, 81)])
    got = np.searchsorted(np.sort(x), np.linspace(-4, 4, 81)) / len(x)
    assert np.abs(got - want).max() < 2 / math.sqrt(len(x))  # Kolmogorov and Smirnov
    assert abs((x[1:] * x[:-1]).mean()) < error
    assert rk.random.normal(4, (3,), dtype=rk.float64).numpy().dtype == np.float64
    np.testing.assert_allclose(rk.random.normal(4, (9,), dtype=rk.float64).numpy(), x[:9], atol=1e-5)


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (-3, 4), (10, 10 + (1 << 20)), (-(1 << 62), 1 << 62), (0, 1 << 32)])
def test_integers(lo: int, hi: int) -> None:
    x = rk.random.randint(9, (50_000,), lo, hi).numpy()
    assert x.dtype == np.int64 and x.min() >= lo and x.max() < hi
    scaled = (x.astype(np.float64) - lo) / (hi - lo)
    assert abs(scaled.mean() - (0.5 - 0.5 / (hi - lo))) < 0.01
    if hi - lo == 7:
        assert np.bincount(x - lo).min() > 6700


def test_coins() -> None:
    assert rk.random.bernoulli(1, 1.0, (1000,)).numpy().all() and not rk.random.bernoulli(1, 0.0, (1000,)).numpy().any()
    assert abs(rk.random.bernoulli(1, 0.3, (100_000,)).numpy().mean() - 0.3) < 0.01
    p = np.array([0.1, 0.9], np.float32)
    assert rk.random.bernoulli(2, p, (50_000, 2)).numpy().mean(0) == pytest.approx([0.1, 0.9], abs=0.01)


def test_dropout_is_one_kernel_and_keeps_the_mean() -> None:
    def dropout(x: Any, key: Any) -> Any:
        return rk.where(rk.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0.0)

    x = np.ones((300, 400), np.float32)
    kernel = rk.kernel(dropout)
    assert len(kernel.lower(x, 3).kernels) == 1
    y = kernel(x, 3)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs(y.mean() - 1) < 0.01
    np.testing.assert_array_equal(y, kernel(x, 3))


def test_empty_and_scalar_shapes() -> None:
    assert rk.random.normal(0, (0,)).numpy().shape == (0,)
    assert rk.random.bits(0, (3, 0)).numpy().shape == (3, 0)
    assert int(rk.random.bits(0).item()) == 0x6B200159


def test_what_is_no_key_and_no_interval() -> None:
    with pytest.raises(DtypeError, match="a key is an integer"):
        rk.random.bits(1.5, (3,))
    with pytest.raises(ShapeError, match="one key is wanted"):
        rk.random.bits(np.arange(3), (3,))
    with pytest.raises(ShapeError, match="no integer from 3 to 2"):
        rk.random.randint(0, (3,), 3, 3)
    with pytest.raises(DtypeError, match="floats, not int32"):
        rk.random.uniform(0, (3,), dtype=rk.int32)
