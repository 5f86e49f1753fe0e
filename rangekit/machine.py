"""This machine's limits: how fast it computes and moves bytes when it does nothing else.

Small loops in LLVM IR, timed on one thread and on all of them, once in a fast core's caches, once in memory. Results
are drawn beside kernels' times and never influence what is compiled. The best of several runs counts: other programs
can only make a run slower. They are kept in the user's cache folder for each kind of CPU, core count and version.

Source: the triad of J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers", 1995.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rangekit import cache
from rangekit.backends.llvm import engine, probes
from rangekit.backends.threads import cores

VERSION = 1  # of what is measured and how
RUNS = 12
RUN_SECONDS = 0.015

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Limits:
    """What one machine can do at most. Rates of one thread end in ``_1``, those of all cores together in ``_all``.

    Units: fma in GFLOP/s of float32 (an FMA is two), everything else in GB/s (10^9 bytes each second) but for
    fork_join, in microseconds. A triad reads two arrays and writes one; all three are counted.
    """

    cpu: str  # model name
    cores: int  # that this process may use
    fma_1: float
    fma_all: float
    l1_1: float  # reads
    l1_all: float
    l2_1: float
    l2_all: float
    l3_1: float
    l3_all: float
    dram_1: float  # reads
    dram_all: float
    triad_1: float  # ordinary stores
    triad_all: float
    stream_1: float  # triad with stores that bypass the caches
    stream_all: float
    fork_join: float | None = None  # from calling all workers to hearing from the last; None without a pool

    def __str__(self) -> str:
        rows = [f"{self.cpu}, {self.cores} cores", f"  {'':34} {'1 thread':>9} {'all':>9}"]
        for name, label, unit in _ROWS:
            one, every = getattr(self, name + "_1"), getattr(self, name + "_all")
            rows.append(f"  {label:34} {one:9.1f} {every:9.1f} {unit}")
        if self.fork_join is not None:
            rows.append(f"  {'fork and join of all threads':34} {'':9} {self.fork_join:9.1f} µs")
        return "\n".join(rows)


_ROWS = (
    ("fma", "float32 multiply-adds", "GFLOP/s"),
    ("l1", "reads from L1", "GB/s"),
    ("l2", "reads from L2", "GB/s"),
    ("l3", "reads from L3", "GB/s"),
    ("dram", "reads from memory", "GB/s"),
    ("triad", "triad in memory, ordinary stores", "GB/s"),
    ("stream", "triad in memory, streaming stores", "GB/s"),
)


# ---- what is kept ----------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Where measurements are kept; ``FileNotFoundError`` where nothing is."""
    found = cache.folder()
    if found is None:
        raise FileNotFoundError("there is no folder to keep measurements in")
    return found


def cpu_name() -> str:
    """The CPU's model as the system names it, or as LLVM does."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or engine.host()


def limits() -> Limits:
    """This machine's limits: those kept, or measured now (in at most about five seconds) and kept."""
    return _kept() or keep(measure())


def keep(found: Limits) -> Limits:
    """The same limits, kept for the next ``limits()``; a folder that cannot be written is no error."""
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        partial = _file().with_suffix(f".{os.getpid()}")  # two processes may keep theirs at once
        partial.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
        partial.replace(_file())
    except OSError:
        pass
    return found


def _file() -> Path:
    name = "".join(c if c.isalnum() else "-" for c in f"{cpu_name()} {cores()}")
    return folder() / f"limits-{VERSION}-{engine.host()}-{name}.json"


def _kept() -> Limits | None:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return Limits(**found) if {f.name for f in fields(Limits)} == set(found) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(fork_join: Callable[[], None] | None = None) -> Limits:
    """Measure now. ``fork_join`` calls all workers of a pool for nothing and returns when the last has answered."""
    n = cores()
    lanes = engine.vector_floats()
    l1, l2, l3 = cache_bytes()
    fma, read = _Loop(probes.fma(lanes)), _Loop(probes.read(lanes))
    triads = {
        "triad": _Loop(probes.triad(lanes, streaming=False)),
        "stream": _Loop(probes.triad(lanes, streaming=True)),
    }
    beyond_of = {threads: max(4 << 20, 2 * l3 // threads) for threads in (1, n)}  # all threads' together exceed L3
    memory = [[_aligned(beyond_of[n if t else 1] // 4) for _ in range(3)] for t in range(n)]
    timings: dict[str, _Timing] = {}
    for threads, suffix in ((1, "_1"), (n, "_all")):
        beyond = beyond_of[threads]
        timings["fma" + suffix] = _Timing(fma, memory[:threads], 0, 2 * probes.CHAINS * lanes)
        sizes = {"l1": l1 // 2, "l2": l2 // 2, "l3": min(beyond, max(2 * l2, l3 // 2 // threads)), "dram": beyond}
        for name, size in sizes.items():
            timings[name + suffix] = _Timing(read, memory[:threads], size, 4)
        for name, loop in triads.items():
            timings[name + suffix] = _Timing(loop, memory[:threads], beyond, 12)
    for _ in range(RUNS):  # in rounds, so that a busy moment spoils no one's every run
        for timing in timings.values():
            timing.run()
    found = {name: timing.rate for name, timing in timings.items()}
    pause = None
    if fork_join is not None:
        pause = min(_seconds_of(fork_join) for _ in range(1000)) * 1e6
    return Limits(cpu=cpu_name(), cores=n, fork_join=pause, **found)


def _seconds_of(fn: Callable[[], None]) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def cache_bytes() -> tuple[int, int, int]:
    """Bytes of the first core's data caches, as Linux tells them; ordinary ones where it does not."""
    sizes = [32 << 10, 512 << 10, 16 << 20]
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = ((entry / f).read_text(encoding="utf-8").strip() for f in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and level in "123" and size.endswith("K") and size[:-1].isdigit():
            sizes[int(level) - 1] = int(size[:-1]) << 10
    return sizes[0], sizes[1], sizes[2]


class _Loop:
    """A compiled loop, ``(out, a, b, elements, repetitions)``; calling it releases the GIL."""

    def __init__(self, text: str) -> None:
        self._code = engine.Code(text)
        self.call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)(self._code.address)


class _Timing:
    """A loop on some threads, each on arrays of its own; ``rate`` is of its best run, in 10^9 a second."""

    def __init__(self, loop: _Loop, memory: Sequence[Sequence[Array]], size: int, per_element: int) -> None:
        """``size`` in bytes of each array; 0 for a loop without. ``per_element`` operations or bytes an element."""
        self._loop = loop
        self._pointers = [[a.ctypes.data for a in arrays] for arrays in memory]
        self._elements = size // 4 // probes.STEP * probes.STEP
        self._work = len(memory) * max(1, self._elements) * per_element
        self._repetitions = 1
        while (seconds := self._seconds()) < RUN_SECONDS / 4:
            self._repetitions *= 4
        self._repetitions = max(1, round(self._repetitions * RUN_SECONDS / seconds))
        self.rate = 0.0

    def run(self) -> None:
        """Time it once more."""
        self.rate = max(self.rate, self._work * self._repetitions / self._seconds() / 1e9)

    def _seconds(self) -> float:
        call, elements, repetitions = self._loop.call, self._elements, self._repetitions
        return _together(len(self._pointers), lambda t: call(*self._pointers[t], elements, repetitions))


def _aligned(elements: int) -> Array:
    """Ones from the beginning of a cache line."""
    whole = np.ones(elements + 16, np.float32)
    skip = -whole.ctypes.data % 64 // 4
    return whole[skip : skip + elements]


def _together(threads: int, work: Callable[[int], None]) -> float:
    """Seconds from the first thread's start to the last one's end."""
    spans: list[tuple[float, float]] = []
    start = threading.Barrier(threads)

    def one(t: int) -> None:
        start.wait()
        begin = time.perf_counter()
        work(t)
        spans.append((begin, time.perf_counter()))

    others = [threading.Thread(target=one, args=(t,)) for t in range(1, threads)]
    for thread in others:
        thread.start()
    one(0)
    for thread in others:
        thread.join()
    return max(end for _, end in spans) - min(begin for begin, _ in spans)
