"""What another process needs to judge code for one launch: text, numbers, and a file without a name. No code, no graph.

The file holds the contents of every array before and after each launch of a program. It is in memory where the system
has such files, is handed on as an open descriptor, and is gone when the last process that has it is, however that ends.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rangekit.ir.dtype import dtype_named

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1 << 30  # bytes that one call of the system reads or writes
PAGE = 4096


@dataclass(frozen=True)
class Memory:
    """One array of a launch: ``shape`` and ``strides`` in elements over ``count`` elements that begin anywhere in it.

    ``before`` is where the file has its contents, None where they are undefined; ``after`` where those that the
    unscheduled nest leaves go, None where it only reads. ``skew`` is the caller's address within a page.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    count: int
    before: int | None
    after: int | None = None
    skew: int = 0

    @property
    def numpy(self) -> np.dtype[Any]:
        """The element type."""
        return dtype_named(self.dtype).numpy

    @property
    def nbytes(self) -> int:
        """Bytes of the ``count`` elements."""
        return self.count * self.numpy.itemsize

    @property
    def first(self) -> int:
        """The place of element (0, 0, …) among the ``count``."""
        return sum(-s * (n - 1) for n, s in zip(self.shape, self.strides, strict=True) if s < 0 and n > 1)


@dataclass(frozen=True)
class Task:
    """One launch whose code is to be chosen.

    Floats may differ by ``tolerance`` of the greatest. ``ring``: the nest computes nothing but sums, products and
    choices, so that short binary fractions must give the very same bits. ``margin``: bytes that code may take.
    """

    name: str
    memory: tuple[Memory, ...]
    tolerance: float
    ring: bool
    threads: int
    margin: int = 1 << 30


def spanned(array: Array) -> Array:
    """The memory from an array's lowest byte to its highest, as one axis of its elements; no copy."""
    if array.size == 0:
        return np.empty(0, array.dtype)
    low = array[tuple(slice(None, None, -1 if s < 0 else None) for s in array.strides)]
    count = 1 + sum((n - 1) * s for n, s in zip(low.shape, low.strides, strict=True)) // array.itemsize
    return np.lib.stride_tricks.as_strided(low, (count,), (array.itemsize,))


def in_order(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of C order, in elements."""
    return tuple(math.prod(shape[n + 1 :]) for n in range(len(shape)))


class Contents:
    """The file: what is put there, and room for results."""

    def __init__(self, fd: int | None = None) -> None:
        """A file of its own, or the one that a process was handed."""
        if fd is not None:
            self.fd = fd
        elif hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("rangekit")
        else:
            with tempfile.TemporaryFile() as file:
                self.fd = os.dup(file.fileno())
        self.size = os.fstat(self.fd).st_size

    def close(self) -> None:
        """Forget the file."""
        os.close(self.fd)

    def room(self, nbytes: int) -> int:
        """Where so many bytes, zeros so far, are."""
        place, self.size = self.size, self.size + -(-nbytes // PAGE) * PAGE
        os.ftruncate(self.fd, self.size)
        return place

    def put(self, array: Array) -> int:
        """Where a contiguous array now is."""
        place = self.room(array.nbytes)
        self.write(place, array)
        return place

    def write(self, place: int, array: Array) -> None:
        """Store a contiguous array's bytes."""
        whole: Any = array.reshape(-1).view(np.uint8)
        data = memoryview(whole)
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]
            while len(part):
                done = os.pwrite(self.fd, part, place + start)
                part, start = part[done:], start + done

    def read(self, place: int, into: Array) -> None:
        """Fill a contiguous array."""
        whole: Any = into.reshape(-1).view(np.uint8)
        data = memoryview(whole)
        done = 0
        while done < len(data):
            got = os.preadv(self.fd, [data[done : done + CHUNK]], place + done)
            if got == 0:
                raise EOFError("the file of a search is shorter than it says")
            done += got

    def whole(self) -> bytes:
        """Everything, for another machine."""
        out = np.empty(self.size, np.uint8)
        self.read(0, out)
        return out.tobytes()

    @classmethod
    def of(cls, data: bytes) -> Contents:
        """A file with everything that another had."""
        made = cls()
        made.put(np.frombuffer(data, np.uint8))
        return made
