"""The process that runs code nobody has run before: it compiles modules, checks what they compute, times them in turns.

Orders come through a pipe as tuples and are answered with ("ok", value) or ("failed", reason, text). Whatever the code
does, it can only end this process: its memory is limited, its arrays are copies, it keeps nothing on disk. It ends with
its parent, even in the middle of a loop without end: nothing is ever written to its standard input, which closes then.
"""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import numpy as np

from rangekit.backends import memory
from rangekit.backends.device import FAULT_WORDS
from rangekit.backends.llvm import engine
from rangekit.backends.threads import set_num_threads
from rangekit.errors import RangekitError
from rangekit.tuning.task import PAGE, Array, Contents, Memory, Task

BATCH_SECONDS = 5e-4  # calls shorter than this are timed several at once
WARM_SECONDS = 0.01  # what threads need after a rest before they show their speed
CLEAR = 2.0  # times slower in the first calls already: no need for turns
CLEAR_SECONDS = 1e-3  # calls longer than this are alike from the second on
FEW = 3  # samples before it may be clear who is faster
LOADED = 3  # modules that stay loaded
POISON = 0xA5
PART = 1 << 16  # elements looked at together
EXACT = 1 << 20  # sixty-fourths: sums below have the same bits in any order

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)  # releases the GIL while the code runs


class _Code:
    """A module, loaded, over the arrays of the task."""

    def __init__(self, text: str, arrays: list[Array], fault: Array) -> None:
        self._code = engine.Code(text)
        self._entry = _ENTRY(self._code.address)
        self._block = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        self._fault = fault.ctypes.data

    def __call__(self) -> float:
        """Seconds of a call."""
        start = time.perf_counter()
        self._entry(self._block, self._fault)
        return time.perf_counter() - start


class _Space:
    """An array's memory, with a page on either side that nobody may write to."""

    def __init__(self, m: Memory) -> None:
        self.memory = m
        size = -(-m.nbytes // PAGE) * PAGE + 4 * PAGE
        # As the arrays of real calls: those that a kernel makes come from the cache of blocks, the others from NumPy.
        self._whole = np.empty(size, np.uint8) if m.before is not None else memory.empty((size,), np.dtype(np.uint8))
        skip = PAGE + (m.skew - self._whole.ctypes.data) % PAGE
        self._low, self._high = self._whole[skip - PAGE : skip], self._whole[skip + m.nbytes :][:PAGE]
        self.flat = self._whole[skip : skip + m.nbytes].view(m.numpy)
        self.start = self.flat[m.first :] if m.count else self.flat
        self._low[:], self._high[:] = POISON, POISON
        self.want: Want | None = None

    def fill(self, contents: Contents) -> None:
        """What is there before a launch."""
        if self.memory.before is None:
            if self.memory.numpy.kind in "biu":
                self.flat.view(np.uint8).fill(POISON)
            else:
                self.flat.fill(np.nan)
            self._low[:], self._high[:] = POISON, POISON
        else:
            contents.read(self.memory.before, self.flat)

    def whole(self) -> bool:
        """Whether nothing was written beside it."""
        return bool((self._low == POISON).all() and (self._high == POISON).all())


class Runner:
    """What the orders do, one method each."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.fault = np.zeros(FAULT_WORDS, np.int64)
        self.spaces: list[_Space] = []
        self.codes: OrderedDict[str, _Code] = OrderedDict()

    def load(self, task: Task) -> None:
        """Make the arrays of a launch."""
        self.codes.clear()
        self.spaces.clear()
        gc.collect()
        limit_memory(None)
        self.task = task
        set_num_threads(task.threads)
        self.spaces = [_Space(m) for m in task.memory]
        self.written = [s for s in self.spaces if s.memory.after is not None]
        for s in self.spaces:
            s.fill(self.contents)
        limit_memory(task.margin + task.threads * (160 << 20))  # a thread's stack and heap are addresses, seldom memory

    def reference(self, text: str) -> tuple[float, tuple[int, ...], bool]:
        """Run the module whose results are right, and put them into the file: seconds, its fault, any NaN in them."""
        seconds = self._once(text)
        for s in self.written:
            assert s.memory.after is not None
            self.contents.write(s.memory.after, s.flat)
            s.want = None
        return seconds, tuple(self.fault.tolist()), any(_any_nan(s) for s in self.written)

    def compile(self, text: str) -> None:
        """Make machine code of a module."""
        self._code(text)

    def check(self, text: str) -> str | None:
        """What is wrong with what a module computes, None if nothing."""
        self._once(text)
        if not all(s.whole() for s in self.spaces):
            return "wrote outside of an array"
        if self.fault.any():
            return "reports a fault"
        for s in self.written:
            wrong = self._want(s).difference(s.flat, self.task.tolerance)
            if wrong is not None:
                return wrong
        return None

    def _want(self, s: _Space) -> Want:
        """What should be in a space after a launch."""
        if s.want is None:
            assert s.memory.after is not None
            values = np.empty_like(s.flat)
            self.contents.read(s.memory.after, values)
            read = [other for other in self.spaces if other.memory.after is None]
            s.want = Want(values, self.task.ring and all(_short(other.flat) for other in read))
        return s.want

    def race(self, one: str, other: str, turns: int, worth: float, most: float) -> tuple[float, float, float]:
        """Two modules in turns: ``turns`` at most, in about ``most`` seconds; few if the first one is ``worth`` times
        slower. The median seconds of a call of the first one; its time by the other's, the median of the turns, whose
        halves share what else the machine does; and the same of the fastest samples, which it disturbs least.
        """
        calls = (self._code(one), self._code(other))
        samples: tuple[list[float], list[float]] = ([], [])
        begin = time.perf_counter()
        first = [min(call(), call()) for call in calls]
        if min(first) > CLEAR_SECONDS and first[0] > CLEAR * first[1]:
            return first[0], first[0] / first[1], first[0] / first[1]
        together = [max(1, min(100, int(BATCH_SECONDS / max(s, 1e-9)))) for s in first]
        while time.perf_counter() - begin < WARM_SECONDS:
            for call in calls:
                call()
        gc.collect()
        gc.disable()
        try:
            begin = time.perf_counter()
            for turn in range(turns):
                for n in (0, 1) if turn % 2 else (1, 0):
                    self._refill()
                    if first[n] < CLEAR_SECONDS:
                        calls[n]()
                    samples[n].append(_together(calls[n], together[n]))
                late = turn + 1 >= FEW and time.perf_counter() - begin > most
                if late or (turn + 1 == FEW and min(samples[0]) > worth * min(samples[1])):
                    break
        finally:
            gc.enable()
        ratio = statistics.median(a / b for a, b in zip(*samples, strict=True))
        return statistics.median(samples[0]), ratio, min(samples[0]) / min(samples[1])

    def _refill(self) -> None:
        """What is changed in place begins anew: else it might overflow, and numbers too small for a float are slow."""
        for s in self.written:
            if s.memory.before is not None:
                s.fill(self.contents)

    def _once(self, text: str) -> float:
        for s in self.written:
            s.fill(self.contents)
        self.fault[:] = 0
        return self._code(text)()

    def _code(self, text: str) -> _Code:
        code = self.codes.get(text)
        if code is None:
            code = self.codes[text] = _Code(text, [s.start for s in self.spaces], self.fault)
            while len(self.codes) > LOADED:
                self.codes.popitem(last=False)
        self.codes.move_to_end(text)
        return code


def _together(call: Callable[[], float], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def _any_nan(s: _Space) -> bool:
    return s.memory.numpy.kind not in "biu" and bool(np.isnan(s.flat).any())


def _short(flat: Array) -> bool:
    """Whether all elements are multiples of an eighth, so that their products and sums can be exact."""
    if flat.dtype.kind in "biu":
        return bool(flat.size == 0 or np.abs(flat.astype(np.float64)).max() < EXACT)
    return all(bool((part * 8 % 1 == 0).all()) for part in map(_wide, _parts(flat)))


def _parts(flat: Array) -> Iterator[Array]:
    """Pieces that fit the caches."""
    return (flat[n : n + PART] for n in range(0, flat.size, PART))


def _wide(part: Array) -> Array:
    return part if part.dtype in (np.float32, np.float64) else part.astype(np.float32)


class Want:
    """What a flat array should hold. ``ring``: results that are short binary fractions have the same bits in any order.

    Integers and bools must be equal, and floats that are exact; others may be ``tolerance`` times the greatest apart.
    NaN and infinities must be in the same places.
    """

    def __init__(self, values: Array, ring: bool) -> None:
        self.values = values
        self.scale, self.exact = 0.0, False
        if values.dtype.kind in "biu":
            return
        self.exact = ring and values.dtype in (np.float32, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            for part in map(_wide, _parts(values)):
                self.scale = max(self.scale, float(np.abs(part[np.isfinite(part)]).max(initial=0.0)))
                self.exact = self.exact and bool((part * 64 % 1 == 0).all())
        self.exact = self.exact and self.scale * 64 < EXACT

    def difference(self, got: Array, tolerance: float) -> str | None:
        """How an array differs beyond rounding, in words; None if it does not."""
        allowed = 0.0 if self.exact else tolerance * self.scale
        for mine, theirs in zip(_parts(got), _parts(self.values), strict=True):
            if np.array_equal(_bits(mine), _bits(theirs)):
                continue
            if mine.dtype.kind in "biu":
                return f"{np.count_nonzero(mine != theirs)} of {mine.size} integers differ"
            here, there = _wide(mine), _wide(theirs)
            with np.errstate(invalid="ignore", over="ignore"):
                good = np.isfinite(there)
                if not np.array_equal(here[~good], there[~good], equal_nan=True) or not np.isfinite(here[good]).all():
                    return "NaN or infinity in other places"
                worst = float(np.abs(here[good] - there[good]).max(initial=0.0))
            if worst > allowed:
                return f"off by {worst:.2g} where the greatest is {self.scale:.2g}"
        return None


def _bits(part: Array) -> Array:
    return part.view(f"u{part.itemsize}")


def limit_memory(more: int | None) -> None:
    """Let this process take so many bytes of addresses more than now, None: any number. Only where Linux says how."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        soft = hard if more is None else now + more if hard == resource.RLIM_INFINITY else min(now + more, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except (ImportError, OSError, ValueError):
        pass


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def serve(pipe: Connection, contents: Contents) -> None:
    """Answer orders until the pipe closes."""
    runner = Runner(contents)
    pipe.send(("ok", None))
    while True:
        try:
            method, *args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("ok", getattr(runner, method)(*args)))
        except MemoryError:
            pipe.send(("failed", "out of memory", "no memory"))
        except RangekitError as err:
            pipe.send(("failed", "refused", str(err)))
        except Exception as err:
            pipe.send(("failed", "error", f"{type(err).__name__}: {err}"))


def main(argv: list[str]) -> None:
    """What the process does: ``argv`` has the descriptors of its pipe and its file."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(Connection(int(argv[0])), Contents(int(argv[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
