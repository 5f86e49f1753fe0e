"""A process for one peer: it makes workloads ready, checks them, and times calls when its turn comes.

Orders come through a pipe as tuples and are answered with ("ok", value), ("gap", reason) or ("error", text).
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS, Calls, GapError, hold
from benchmarks.workload import Array, Sizes, Workload, error

WARM_SECONDS = 0.03  # what two threads need after a rest before they show their speed
TURN_SECONDS = 0.06
BATCH_SECONDS = 5e-4  # calls shorter than this are timed several at once

Ready = tuple[float, bool, float]  # seconds of the first call, whether there is a call with out=, the error found


def find(name: str) -> Workload:
    """The workload of this name."""
    from benchmarks.arrays import ARRAYS
    from benchmarks.loops import LOOPS
    from benchmarks.moe import MIXTURES
    from benchmarks.networks import NETWORKS
    from benchmarks.products import PRODUCTS
    from benchmarks.programs import PROGRAMS

    return next(w for w in (*PRODUCTS, *ARRAYS, *NETWORKS, *MIXTURES, *LOOPS, *PROGRAMS) if w.name == name)


class Oracle:
    """Writes what is right into a file, for the peers to be held against."""

    def version(self) -> str:
        """NumPy's, which computes it."""
        return np.__version__

    def write(self, name: str, sizes: Sizes, path: Path) -> tuple[int, int]:
        """Bytes of the arguments and, in the arguments' own type, of the results."""
        w = find(name)
        args = w.arguments(sizes)
        want = w.expected(args)
        np.savez(path, *want)
        size = args[0].dtype.itemsize
        written = sum(a.size * (a.dtype.itemsize if a.dtype.kind in "iub" else size) for a in want)
        return sum(a.nbytes for a in args), written


class Runner:
    """One peer's side of a race."""

    def __init__(self, peer: str, threads: int) -> None:
        self.peer = PEERS[peer](threads)
        self.calls: Calls | None = None

    def version(self) -> str:
        """The peer's version."""
        return self.peer.version()

    def ready(self, name: str, sizes: Sizes, path: Path) -> Ready:
        """Make a workload ready and hold its result against the oracle's; ``GapError`` if it is wrong."""
        self.calls = None  # free the last workload's arrays first
        gc.collect()
        w = find(name)
        with np.load(path) as kept:
            want = tuple(kept.values())
        args = w.arguments(sizes)
        start = time.perf_counter()
        calls = self.peer.ready(w, args, want)
        first = calls.fresh()
        seconds = time.perf_counter() - start
        worst = self._check(w, first, want)
        del first
        if calls.into is not None:
            worst = max(worst, self._check(w, calls.into(), want))
        self.calls = calls
        return seconds, calls.into is not None, worst

    def _check(self, w: Workload, got: Any, want: tuple[Array, ...]) -> float:
        worst = error(self.peer.numpy(got), want)
        if not worst <= w.tolerance:
            raise GapError(f"wrong: error {worst:.1e}")
        return worst

    def turn(self, into: bool) -> float:
        """The median seconds of a few calls after warming up."""
        assert self.calls is not None
        call = self.calls.into if into else self.calls.fresh
        assert call is not None
        return timed(call)


def timed(call: Callable[[], Any]) -> float:
    """The median seconds of a call: after ``WARM_SECONDS`` or one call, over ``TURN_SECONDS`` or one call."""
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        if time.perf_counter() - begin > WARM_SECONDS:
            break
    together = max(1, int(BATCH_SECONDS / max(once, 1e-9)))
    samples: list[float] = []
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        while not samples or (time.perf_counter() - begin < TURN_SECONDS and len(samples) < 100):
            start = time.perf_counter()
            for _ in itertools.repeat(None, together):
                call()
            samples.append((time.perf_counter() - start) / together)
    finally:
        gc.enable()
    return statistics.median(samples)


def serve(pipe: Connection, peer: str, threads: int) -> None:
    """What the process does: answer orders until the pipe closes."""
    hold(threads)
    try:
        target: Oracle | Runner = Oracle() if peer == "oracle" else Runner(peer, threads)
    except ImportError as err:
        pipe.send(("gap", f"not installed ({err.name or err})"))
        return
    pipe.send(("ok", target.version()))
    while True:
        try:
            method, *args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(target, method)(*args)))
        except GapError as err:
            pipe.send(("gap", str(err)))
        except Exception as err:
            pipe.send(("error", f"{type(err).__name__}: {err}".splitlines()[0][:200]))
