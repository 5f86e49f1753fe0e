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
from collections.abc import Callable
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
FEW = 3  # samples before it may be clear who is faster
LOADED = 3  # modules that stay loaded
POISON = 0xA5
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

    def fill(self, contents: Contents) -> None:
        """What is there before a launch."""
        if self.memory.before is None:
            self._whole[:] = POISON
            if self.memory.numpy.kind not in "biu":
                self.flat.fill(np.nan)
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
        exact = self.task.ring and all(_short(s.flat) for s in self.spaces if s.memory.after is None)
        for s in self.written:
            assert s.memory.after is not None
            want = np.empty_like(s.flat)
            self.contents.read(s.memory.after, want)
            wrong = difference(s.flat, want, self.task.tolerance, exact)
            if wrong is not None:
                return wrong
        return None

    def race(self, one: str, other: str, turns: int, worth: float, most: float) -> tuple[float, float]:
        """Median seconds of a call of each of two modules, in turns. ``turns`` at most, in about ``most`` seconds; few
        if the first one is ``worth`` times slower.
        """
        calls = (self._code(one), self._code(other))
        samples: tuple[list[float], list[float]] = ([], [])
        begin = time.perf_counter()
        first = [min(call(), call()) for call in calls]
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
                    calls[n]()
                    samples[n].append(_together(calls[n], together[n]))
                late = turn + 1 >= FEW and time.perf_counter() - begin > most
                if late or (turn + 1 == FEW and min(samples[0]) > worth * min(samples[1])):
                    break
        finally:
            gc.enable()
        return statistics.median(samples[0]), statistics.median(samples[1])

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
    if flat.dtype not in (np.float32, np.float64):
        flat = flat.astype(np.float32)
    return bool((flat * 8 % 1 == 0).all())


def difference(got: Array, want: Array, tolerance: float, exact: bool) -> str | None:
    """How two flat arrays differ beyond rounding, in words; None if they do not.

    Integers and bools must be equal, and floats that are ``exact``; others may be ``tolerance`` times the greatest
    apart. NaN and infinities must be in the same places.
    """
    if np.array_equal(got.view(np.uint8), want.view(np.uint8)):
        return None
    if got.dtype.kind in "biu":
        return f"{np.count_nonzero(got != want)} of {got.size} integers differ"
    half = got.dtype not in (np.float32, np.float64)
    if half:
        got, want = got.astype(np.float32), want.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        good = np.isfinite(want)
        if not np.array_equal(got[~good], want[~good], equal_nan=True):
            return "NaN or infinity in other places"
        here, there = got[good], want[good]
        if not np.isfinite(here).all():
            return "NaN or infinity in other places"
        scale = float(np.abs(there).max(initial=0.0))
        exact = exact and not half and bool(good.all()) and scale * 64 < EXACT and bool((there * 64 % 1 == 0).all())
        worst = float(np.abs(here - there).max(initial=0.0))
    if worst > (0.0 if exact else tolerance * scale):
        return f"off by {worst:.2g} where the greatest is {scale:.2g}"
    return None


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
