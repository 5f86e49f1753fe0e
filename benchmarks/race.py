"""Races: every peer in a long-lived process of its own, taking turns with rests between.

Libraries' workers spin for a while after a call and would take the next peer's core: hence processes and rests. A
peer that is missing, wrong, too slow or dead is a gap with a reason; its process is replaced for the next workload.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import GapError, environment
from benchmarks.worker import serve
from benchmarks.workload import Sizes, Workload

SLOW_SECONDS = 0.5  # a peer with longer calls gets FEW turns
FEW = 3


@dataclass
class Times:
    """One peer's samples on one workload, in seconds; ``gap`` says why there are none."""

    fresh: list[float] = field(default_factory=list)  # a new result each call
    into: list[float] = field(default_factory=list)  # out=
    first: float | None = None  # making ready and the first call, compilation included
    error: float | None = None
    gap: str | None = None

    def median(self, mode: str) -> float | None:
        """The median of ``"fresh"`` or ``"into"``."""
        samples = self.fresh if mode == "fresh" else self.into
        return statistics.median(samples) if samples else None


@dataclass
class Row:
    """One workload's race. Bytes are those of arguments and results."""

    name: str
    sizes: Sizes
    read: int
    written: int
    times: dict[str, Times]
    bound: float | None = None


@dataclass(frozen=True)
class Rules:
    """How races are run. Seconds."""

    threads: int = 2
    turns: int = 9
    rest: float = 0.15
    limit: float = 120.0  # for one order: a first call with its compilation, or a turn
    extra: Mapping[str, str] = field(default_factory=dict)  # environment variables of the workers


class Worker:
    """A peer's process, started when it is first needed."""

    def __init__(self, peer: str, rules: Rules) -> None:
        self.peer, self.rules = peer, rules
        self.version: str | None = None
        self.missing: str | None = None
        self._process: Any = None
        self._pipe: Any = None

    def ask(self, *order: Any) -> Any:
        """The answer to an order; ``GapError`` if there is none in time."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send(order)
        except OSError:
            self.stop()
            raise GapError("its process has died") from None
        return self._answer()

    def _start(self) -> None:
        if self.missing is not None:
            raise GapError(self.missing)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, self.peer, self.rules.threads), daemon=True)
        before = dict(os.environ)
        os.environ.update({**environment(self.rules.threads), **self.rules.extra})
        try:
            process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        theirs.close()
        self._process = process
        try:
            self.version = self._answer()
        except GapError as err:
            self.missing = str(err)
            self.stop()
            raise

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self.rules.limit):
                self.stop()
                raise GapError(f"no answer in {self.rules.limit:g} s")
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            self.stop()
            raise GapError("its process has died") from None
        if kind != "ok":
            raise GapError(value)
        return value

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None


class Race:
    """Workers for the peers and the oracle. A context manager: leaving it ends them."""

    def __init__(self, peers: Sequence[str], rules: Rules) -> None:
        self.rules = rules
        self.workers = {p: Worker(p, rules) for p in peers}
        self.oracle = Worker("oracle", rules)

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in (self.oracle, *self.workers.values()):
            worker.stop()

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the peers that took part."""
        return {p: w.version for p, w in self.workers.items() if w.version}

    def run(self, w: Workload, sizes: Sizes | None = None, say: Callable[[str], None] = lambda line: None) -> Row:
        """One workload, every peer, ``rules.turns`` turns. Never raises for a peer's fault."""
        sizes = dict(w.sizes if sizes is None else sizes)
        row = Row(w.name, sizes, 0, 0, {p: Times() for p in self.workers})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "expected.npz"
            try:
                row.read, row.written = self.oracle.ask("write", w.name, sizes, path)
            except GapError as err:
                row.times = {p: Times(gap=f"no oracle: {err}") for p in self.workers}
                return row
            modes = {p: self._ready(p, w.name, sizes, path, row.times[p], say) for p in self.workers}
        self._turns(row.times, modes)
        return row

    def _ready(
        self, peer: str, name: str, sizes: Sizes, path: Path, times: Times, say: Callable[[str], None]
    ) -> list[str]:
        try:
            times.first, into, times.error = self.workers[peer].ask("ready", name, sizes, path)
            return ["fresh", "into"] if into else ["fresh"]
        except GapError as err:
            times.gap = str(err)
            say(f"{name}: {peer}: {err}")
            return []

    def _turns(self, times: dict[str, Times], modes: dict[str, list[str]]) -> None:
        order = list(self.workers)
        for turn in range(self.rules.turns):
            for mode in ("fresh", "into"):
                for peer in order[turn % len(order) :] + order[: turn % len(order)]:
                    mine = times[peer]
                    samples = mine.fresh if mode == "fresh" else mine.into
                    if mode not in modes[peer] or (turn >= FEW and max(samples, default=0.0) > SLOW_SECONDS):
                        continue
                    time.sleep(self.rules.rest)
                    try:
                        samples.append(self.workers[peer].ask("turn", mode == "into"))
                    except GapError as err:
                        mine.gap, modes[peer] = str(err), []
