"""Candidates judged on the workers of a dask cluster that have this machine's CPU, one on each at a time.

A worker judges in a process of its own, as this machine does: what a candidate does costs that process. If a worker
goes away, what it was judging is given to another once more, then counted as lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rangekit.backends.llvm import engine
from rangekit.errors import DeviceError
from rangekit.tuning.judge import Bench, Terms, TimeUp, Verdict
from rangekit.tuning.task import Contents, Task

PATIENCE = 30.0  # seconds to wait for a worker in place of one that went away
PAUSE = 0.02  # seconds between looks at what the workers do

_lock = threading.Lock()
_benches: dict[str, Bench] = {}  # in a worker: one, for the search that asked last


def judge(name: str, data: bytes | None, task: Task, text: str, incumbent: str, terms: Terms, seconds: float) -> Any:
    """What a worker does: the verdict on one candidate, or a word: "contents" if it needs ``data`` first, "time" if the
    ``seconds`` were over. ``name`` is the search's.
    """
    with _lock:
        bench = _benches.get(name)
        if bench is None:
            if data is None:
                return "contents"
            for old in _benches.values():
                old.close()
            _benches.clear()
            bench = _benches[name] = Bench(Contents.of(data))
        try:
            return bench.one(task, text, incumbent, terms, time.monotonic() + seconds)
        except TimeUp:
            return "time"


def cpu() -> str:
    """What a worker does: the name of its CPU."""
    return engine.host()


def release(name: str) -> None:
    """What a worker does when a search is over."""
    with _lock:
        bench = _benches.pop(name, None)
        if bench is not None:
            bench.close()


@dataclass
class _Job:
    """A candidate that is judged somewhere. ``chances`` is how many workers may still have it."""

    text: str
    chances: int = 2
    worker: str = ""
    future: Any = None
    verdict: Verdict | None = None


@dataclass
class _Round:
    """What is judged at once: all against one incumbent."""

    what: tuple[Task, str, Terms]
    until: float
    jobs: list[_Job]


class Cluster:
    """A client's workers as a judge. A context manager: leaving it ends their processes."""

    def __init__(self, client: Any, contents: Contents) -> None:
        self.client = client
        self.contents = contents
        self._data: bytes | None = None
        self._name = f"rangekit-{id(self):x}-{time.time_ns():x}"
        self._host = engine.host()
        self._hosts: dict[str, str] = {}
        found = self._workers()
        if not found:
            there = ", ".join(sorted(set(self._hosts.values()))) or "none at all"
            raise DeviceError(
                f"no worker of the cluster has this machine's CPU, {self._host}; there are {there}",
                help="leave client= away, or tune on a machine like the workers",
            )
        self.width = len(found)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(Exception):  # a cluster that is gone has nothing to end
            self.client.run(release, self._name, workers=self._workers(), on_error="ignore")

    def judge(self, task: Task, candidates: Sequence[str], incumbent: str, terms: Terms, until: float) -> list[Verdict]:
        """A verdict on each."""
        round_ = _Round((task, incumbent, terms), until, [_Job(text) for text in candidates])
        try:
            while not all(job.verdict for job in round_.jobs):
                if time.monotonic() >= until:
                    raise TimeUp
                self._assign(round_)
                time.sleep(PAUSE)
                here = set(self.client.nthreads())
                for job in round_.jobs:
                    if job.future is not None:
                        self._look(job, here, round_)
        finally:
            for job in round_.jobs:
                if job.future is not None:
                    self.client.cancel([job.future], force=True)
        return [job.verdict for job in round_.jobs if job.verdict]

    def _assign(self, round_: _Round) -> None:
        """Give each that waits to a worker that is free."""
        waiting = [job for job in round_.jobs if job.future is None and job.verdict is None]
        if not waiting:
            return
        begin = time.monotonic()
        while not (workers := self._workers()):
            if time.monotonic() >= round_.until:
                raise TimeUp
            if time.monotonic() - begin > PATIENCE:
                raise DeviceError("the cluster has no worker of this machine's CPU any more")
            time.sleep(PAUSE)
        busy = {job.worker for job in round_.jobs if job.future is not None}
        for job, worker in zip(waiting, (w for w in workers if w not in busy), strict=False):
            job.worker = worker
            job.chances -= 1
            self._submit(job, None, round_)

    def _submit(self, job: _Job, data: Any, round_: _Round) -> None:
        task, incumbent, terms = round_.what
        seconds = max(0.0, round_.until - time.monotonic())
        job.future = self.client.submit(judge, self._name, data, task, job.text, incumbent, terms, seconds,
                                        workers=[job.worker], pure=False, retries=0)  # fmt: skip

    def _look(self, job: _Job, here: set[str], round_: _Round) -> None:
        """Take what a worker answered, or see that it went away."""
        status = job.future.status
        if job.worker not in here or status in ("error", "lost", "cancelled"):
            self.client.cancel([job.future], force=True)
            job.future = None
            if not job.chances:
                job.verdict = Verdict("lost", "its workers went away")
        elif status == "finished":
            answer = job.future.result()
            job.future = None
            if answer == "time":
                raise TimeUp
            if answer == "contents":
                self._data = self._data or self.contents.whole()
                data = self.client.scatter([self._data], workers=[job.worker], hash=False)[0]
                self._submit(job, data, round_)
            else:
                job.verdict = answer

    def _workers(self) -> list[str]:
        """The addresses of the workers with this CPU, those that came since among them."""
        here = self.client.nthreads()
        new = [address for address in here if address not in self._hosts]
        if new:
            answers = self.client.run(cpu, workers=new, on_error="return")
            self._hosts.update({address: said for address, said in answers.items() if isinstance(said, str)})
        return [address for address in here if self._hosts.get(address) == self._host]
