"""Memory for results and kept buffers: large blocks are kept when they are freed, and used again.

The first touch of a fresh page costs more than most kernels do to it. A block so goes back to a cache when the last
array over it dies, and serves the next request of its size class; the cache is bounded, and drops what was freed
longest ago. Classes are eighths of powers of two: at most an eighth of a block is unused. Large blocks begin on large
pages and ask for them. Small arrays are NumPy's affair.

Arrays may die at any moment, in any thread, inside this module too: a dying one only appends its block to a queue.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np

from rangekit.backends.device import Array

SMALL = 256 << 10  # bytes below which arrays are NumPy's: its allocator keeps those too
HUGE = 2 << 20  # a large page; the alignment of blocks


@dataclass(frozen=True)
class MemoryStats:
    """Bytes of blocks that arrays live in, of freed blocks kept for the next, and the most that ever lived at once."""

    live: int
    cached: int
    peak: int


class Block:
    """Memory from the system, ``size`` bytes at ``address``; given back with this object."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.counted = False  # among what lives, and to be kept
        flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        room = size + HUGE if size >= HUGE else size
        self._map = mmap.mmap(-1, room, **flags)
        whole = ctypes.c_char.from_buffer(self._map)
        start = ctypes.addressof(whole)
        del whole
        self.address = -(-start // HUGE) * HUGE if size >= HUGE else start
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # where the system has none, small pages serve too
                self._map.madvise(mmap.MADV_HUGEPAGE, self.address - start, size)


def size_class(nbytes: int) -> int:
    """The size of the block that serves so many bytes.

    >>> size_class(1 << 20), size_class((1 << 20) + 1)
    (1048576, 1179648)
    """
    step = 1 << max(12, (nbytes - 1).bit_length() - 4)
    return -(-nbytes // step) * step


class Cache:
    """Blocks by size class, at most ``limit`` bytes of them free."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.live = self.cached = self.peak = 0
        self._dead: deque[Block] = deque()
        self.forget()

    def forget(self) -> None:
        """Begin anew with a lock of its own, as a forked child must: another thread may have held the old one."""
        self._lock = threading.Lock()
        self._owner = 0  # the thread that holds it
        self._free: dict[int, list[Block]] = {}
        self._order: OrderedDict[Block, None] = OrderedDict()  # the one freed longest ago is first
        self.cached = 0

    def take(self, size: int) -> Block:
        """A block of a size class; ``MemoryError`` if there is none to be had."""
        if self._owner == threading.get_ident():  # a finalizer or a signal handler runs a kernel in the midst of this
            return Block(size)
        with self._lock:
            self._owner = threading.get_ident()
            try:
                self._bury()
                free = self._free.get(size)
                if free:
                    block = free.pop()
                    del self._order[block]
                    self.cached -= size
                else:
                    block = self._new(size)
                    block.counted = True
                self.live += size
                self.peak = max(self.peak, self.live)
                return block
            finally:
                self._owner = 0

    def _new(self, size: int) -> Block:
        try:
            return Block(size)
        except (OSError, ValueError, OverflowError):
            self._shrink(0)
        try:
            return Block(size)
        except (OSError, ValueError, OverflowError) as err:
            raise MemoryError(f"no memory for {size} bytes: {err}") from None

    def give(self, block: Block) -> None:
        """The last array over a block died. Whoever holds the lock, this thread or another, is not waited for."""
        if block.counted:
            self._dead.append(block)
            del block
            if self._lock.acquire(blocking=False):
                self._owner = threading.get_ident()
                try:
                    self._bury()
                finally:
                    self._owner = 0
                    self._lock.release()

    def _bury(self) -> None:
        while self._dead:
            block = self._dead.popleft()
            self.live -= block.size
            if block.size <= self.limit:
                self.cached += block.size
                self._free.setdefault(block.size, []).append(block)
                self._order[block] = None
        self._shrink(self.limit)

    def _shrink(self, limit: int) -> None:
        while self.cached > limit:
            block, _ = self._order.popitem(last=False)
            self._free[block.size].remove(block)
            self.cached -= block.size

    def stats(self) -> MemoryStats:
        """What there is now."""
        with self._lock:
            self._owner = threading.get_ident()
            try:
                self._bury()
                return MemoryStats(self.live, self.cached, self.peak)
            finally:
                self._owner = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array over a block of its own, of a shape that needs one; contents undefined."""
        size = size_class(prod(shape) * dtype.itemsize)
        block = self.take(size)
        lease = _lease_type(size).from_address(block.address)
        lease.block, lease.cache = block, self
        return np.ndarray(shape, dtype, lease)


@cache
def _lease_type(size: int) -> Any:
    """A buffer of some size whose owner learns of its death."""

    class Lease(ctypes.c_char * size):  # type: ignore[misc]
        def __del__(self) -> None:
            self.cache.give(self.block)

    return Lease


def _limit() -> int:
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        memory = 4 << 30
    return min(memory // 8, 1 << 30)


_cache = Cache(_limit())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_cache.forget)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array for a result; contents undefined. ``MemoryError`` if there is no room."""
    if prod(shape) * dtype.itemsize < SMALL:
        return np.empty(shape, dtype)
    return _cache.empty(shape, dtype)


def memory_stats() -> MemoryStats:
    """Bytes of memory that results and kept buffers of kernels take: ``live``, ``cached`` and ``peak``.

    ``live`` is in use, ``cached`` freed and kept for the next result, ``peak`` the most that was ever live at once.
    Arrays under 256 KiB are NumPy's and not counted.

    >>> import rangekit as rk, numpy as np
    >>> y = rk.kernel(lambda x: x + 1)(np.zeros(1 << 18, np.float32))
    >>> stats = rk.memory_stats()
    >>> 0 <= stats.live <= stats.peak, stats.cached <= 1 << 30
    (True, True)
    """
    return _cache.stats()
