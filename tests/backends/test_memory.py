"""Blocks for results: kept alive by their arrays, used again, bounded, safe in threads and forks."""

import gc
import os
import random
import threading
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends import memory
from rangekit.backends.memory import HUGE, SMALL, Cache, size_class

F32 = np.dtype(np.float32)
MIB = 1 << 20


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097, SMALL, SMALL + 1, 10**6, HUGE, HUGE + 1, 3 * HUGE, 10**9 + 7])
def test_a_size_class_is_whole_pages_and_wastes_at_most_an_eighth(n: int) -> None:
    size = size_class(n)
    assert size >= n and size % 4096 == 0
    assert size <= max(n * 9 / 8, n + 4096)
    assert size_class(size) == size


def test_blocks_lie_on_pages_and_large_ones_on_large_pages() -> None:
    cache = Cache(64 * MIB)
    small, large = cache.empty((1 << 14,), F32), cache.empty((1 << 20,), F32)
    assert small.ctypes.data % 4096 == 0 and large.ctypes.data % HUGE == 0
    assert large.flags.writeable and large.flags.c_contiguous and large.flags.aligned
    large[:] = 3
    assert large.sum() == 3 * (1 << 20)


def test_small_arrays_are_of_numpy() -> None:
    before = rk.memory_stats()
    assert memory.empty((SMALL // 4 - 1,), F32).flags.owndata
    assert memory.empty((), F32).shape == () and memory.empty((0, 7), F32).shape == (0, 7)
    assert rk.memory_stats() == before
    assert not memory.empty((SMALL // 4,), F32).flags.owndata


def test_a_block_comes_back_when_its_last_view_dies() -> None:
    cache = Cache(64 * MIB)
    x = cache.empty((512, 512), F32)
    x[...] = 7
    where, row = x.ctypes.data, x[3:, ::2].T
    del x
    gc.collect()
    assert (cache.stats().live, cache.stats().cached) == (MIB, 0)
    other = cache.empty((512, 512), F32)
    assert other.ctypes.data != where
    other[...] = 1
    assert (row == 7).all()
    del row
    assert (cache.stats().live, cache.stats().cached, cache.stats().peak) == (MIB, MIB, 2 * MIB)
    again = cache.empty((MIB // 8 - 3,), np.dtype(np.float64))  # of the same class
    assert again.ctypes.data == where
    assert cache.stats().cached == 0


def test_the_oldest_is_dropped_first_and_the_bound_holds() -> None:
    cache = Cache(4 * MIB)
    arrays = [cache.empty((MIB,), np.dtype(np.uint8)) for _ in range(6)]
    places = [a.ctypes.data for a in arrays]
    for n in range(6):
        arrays[n] = None  # type: ignore[call-overload]
        assert cache.stats().cached <= 4 * MIB
    assert cache.stats().cached == 4 * MIB
    kept = [cache.empty((MIB,), np.dtype(np.uint8)) for _ in range(4)]
    assert {a.ctypes.data for a in kept} == set(places[2:])
    assert kept[0].ctypes.data == places[5]  # the one most likely to be in the caches
    del kept
    cache.empty((8 * MIB,), np.dtype(np.uint8))  # more than the bound: not kept, and nothing else is lost
    assert cache.stats() == memory.MemoryStats(0, 4 * MIB, 8 * MIB)


def test_a_request_that_cannot_be_met_is_a_memory_error_after_the_cache_is_emptied() -> None:
    cache = Cache(64 * MIB)
    cache.empty((MIB,), np.dtype(np.uint8))
    assert cache.stats().cached == MIB
    with pytest.raises(MemoryError):
        cache.empty((1 << 60,), np.dtype(np.uint8))
    assert cache.stats() == memory.MemoryStats(0, 0, MIB)


def test_arrays_that_die_while_a_block_is_taken_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(64 * MIB)
    held: list[Any] = [cache.empty((MIB,), np.dtype(np.uint8))]
    fresh = memory.Block

    def block(size: int) -> memory.Block:
        monkeypatch.setattr(memory, "Block", fresh)
        held.clear()  # as the garbage collector may, at any allocation
        inner = cache.empty((2 * MIB,), np.dtype(np.uint8))  # as a finalizer that runs a kernel may
        inner[:] = 1
        return fresh(size)

    monkeypatch.setattr(memory, "Block", block)
    outer = cache.empty((4 * MIB,), np.dtype(np.uint8))
    assert outer.nbytes == 4 * MIB
    assert cache.stats() == memory.MemoryStats(4 * MIB, MIB, 5 * MIB)


def test_threads_never_share_a_block() -> None:
    cache = Cache(8 * MIB)
    wrong: list[int] = []

    def work(n: int) -> None:
        draw = random.Random(n)
        mine: list[Any] = []
        for step in range(300):
            x = cache.empty((draw.choice([1, 2, 3]) << 15,), F32)
            x[::1024] = n * 1000 + step
            mine.append((x, n * 1000 + step))
            if len(mine) > 4:
                old, value = mine.pop(draw.randrange(len(mine)))
                if not (old[::1024] == value).all():
                    wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert cache.stats().live == 0 and cache.stats().cached <= 8 * MIB


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_its_own_memory() -> None:
    x = memory.empty((MIB,), F32)
    x[:] = 1
    memory.empty((MIB,), F32)[:] = 2
    with memory._cache._lock:  # as if another thread held it
        child = os.fork()
        if child == 0:
            y = memory.empty((MIB,), F32)
            y[:], x[:] = 5, 6
            os._exit(0 if x[0] == 6 and rk.memory_stats().cached == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (x == 1).all()


def test_results_of_kernels_live_in_blocks_and_are_not_mixed_up() -> None:
    k = rk.kernel(lambda x: x + 1)
    x = np.zeros(1 << 18, np.float32)
    results = []
    live = rk.memory_stats().live
    for n in range(8):
        x[:] = n
        results.append(k(x))
    for n, r in enumerate(results):
        assert (r == n + 1).all()
    assert rk.memory_stats().live == live + 8 * MIB
    del results, r
    assert rk.memory_stats().live == live
