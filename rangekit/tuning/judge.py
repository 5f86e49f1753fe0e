"""Verdicts on candidates: code runs in a process of its own, which is killed when it takes too long and made anew.

Nothing that a candidate does reaches the caller but as a ``Verdict``. One order is under way at a time, so that nothing
compiles beside a timing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from rangekit.errors import DeviceError
from rangekit.tuning.task import Contents, Task

START_SECONDS = 60.0  # until a new process answers
COMPILE_SECONDS = 20.0
KILLED = tuple(-int(getattr(signal, name, 0)) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"))


@dataclass(frozen=True)
class Terms:
    """How two modules race: at most so many turns in about so many seconds, few where the first one is ``worth`` times
    slower. ``patience``: seconds a call may take before it counts as endless.
    """

    turns: int = 7
    worth: float = 1.3
    most: float = 0.25
    patience: float = 2.0


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate: ``reason`` it is out, or None and its seconds, ``ratio`` times the incumbent's.

    ``ratio`` is the median of many turns, ``least`` that of the fastest ones.
    """

    reason: str | None = None
    detail: str = ""
    seconds: float = float("inf")
    ratio: float = float("inf")
    least: float = 0.0

    @property
    def surely(self) -> float:
        """A ratio that a disturbed moment does not make better than it is."""
        return max(self.ratio, self.least)


class TimeUp(Exception):
    """The time for searching is over; what was under way does not count."""


class Failed(Exception):
    """An order that was not carried out. ``reason`` is one word for counting; ``outside``: by nobody's fault here."""

    def __init__(self, reason: str, detail: str = "", outside: bool = False) -> None:
        super().__init__(detail or reason)
        self.reason, self.detail, self.outside = reason, detail, outside


class Judge(Protocol):
    """Where candidates are judged."""

    @property
    def width(self) -> int:
        """How many candidates it judges at once."""
        ...

    def judge(self, task: Task, candidates: Sequence[str], incumbent: str, terms: Terms, until: float) -> list[Verdict]:
        """A verdict on each module text, held against the incumbent; ``TimeUp`` at ``until`` (``time.monotonic``)."""
        ...


class Bench:
    """One process and the file it works on. ``starts`` counts the processes it took."""

    width = 1

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._loaded: Task | None = None

    # ---- orders ------------------------------------------------------------------------------------------------------

    def judge(self, task: Task, candidates: Sequence[str], incumbent: str, terms: Terms, until: float) -> list[Verdict]:
        """A verdict on each, one after another."""
        return [self.one(task, text, incumbent, terms, until) for text in candidates]

    def one(self, task: Task, candidate: str, incumbent: str, terms: Terms, until: float) -> Verdict:
        """The verdict on one candidate. If its process is killed from outside, it gets a second chance."""
        for chance in (1, 2):
            try:
                return self._one(task, candidate, incumbent, terms, until)
            except Failed as err:
                if err.outside and chance == 1:
                    continue
                return Verdict(err.reason, err.detail)
        raise AssertionError

    def _one(self, task: Task, candidate: str, incumbent: str, terms: Terms, until: float) -> Verdict:
        self._load(task, until)
        self.ask("compile", candidate, limit=COMPILE_SECONDS, until=until)
        wrong = self.ask("check", candidate, limit=terms.patience + 0.5, until=until)
        if wrong is not None:
            self.stop()  # it may have written where it should not
            return Verdict("wrong", wrong)
        limit = COMPILE_SECONDS + 2 * terms.turns * terms.patience
        most = max(0.05, min(terms.most, until - time.monotonic()))
        timed = self.ask("race", candidate, incumbent, terms.turns, terms.worth, most, limit=limit, until=until)
        return Verdict(None, "", *timed)

    def reference(self, task: Task, text: str, limit: float, until: float) -> tuple[float, tuple[int, ...], bool]:
        """Put what a module computes into the file: seconds, the words of its fault, whether any result is NaN."""
        self._load(task, until)
        self.ask("compile", text, limit=COMPILE_SECONDS, until=until)
        seconds, fault, nan = self.ask("reference", text, limit=limit, until=until)
        return seconds, fault, nan

    def _load(self, task: Task, until: float) -> None:
        if self._loaded != task or not self._alive():
            self._loaded = None
            self.ask("load", task, limit=START_SECONDS, until=until)
            self._loaded = task

    def forget(self) -> None:
        """The file has changed: arrays are loaded again before the next order."""
        self._loaded = None

    # ---- the process -------------------------------------------------------------------------------------------------

    def ask(self, *order: Any, limit: float, until: float) -> Any:
        """The answer to one order. ``Failed`` if there is none in ``limit`` seconds, ``TimeUp`` at ``until``."""
        try:
            if not self._alive():
                self._start()
            try:
                self._pipe.send(order)
                return self._answer(limit, until)
            except (EOFError, OSError):
                raise self._death() from None
        except Failed as err:
            if err.reason not in ("refused", "error"):
                self.stop()
            raise
        except BaseException:
            self.stop()  # an answer may still come, to an order that nobody waits for
            raise

    def _answer(self, limit: float, until: float) -> Any:
        now = time.monotonic()
        last = min(now + limit, until)
        if not self._pipe.poll(max(0.0, last - now)):
            if last == until:
                raise TimeUp
            raise Failed("endless", f"no answer in {limit:.2g} s")
        kind, *rest = self._pipe.recv()
        if kind == "ok":
            return rest[0]
        raise Failed(rest[0], rest[1])

    def _death(self) -> Failed:
        assert self.process is not None
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return Failed("crashed", "it closed its pipe")
        if code in KILLED:
            return Failed("lost", "its process was killed", outside=True)
        return Failed("crashed", signal.Signals(-code).name if code < 0 else f"status {code}")

    def _alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _start(self) -> None:
        self.stop()
        self._pipe, theirs = multiprocessing.Pipe()
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "RANGEKIT_CACHE_DIR": ""}  # what loses is not worth the disk
        command = [sys.executable, "-P", "-m", "rangekit.tuning.worker", str(theirs.fileno()), str(self.contents.fd)]
        self.starts += 1
        with theirs, tempfile.TemporaryFile() as said:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=(theirs.fileno(), self.contents.fd),
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent to hear
            )
            theirs.close()
            try:
                self._answer(START_SECONDS, time.monotonic() + 2 * START_SECONDS)
            except (EOFError, OSError, Failed):
                self.stop()
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:]
                raise DeviceError(
                    "the process for candidates does not start: " + (last[0] if last else "it says nothing"),
                    help="python -m rangekit doctor says what is missing",
                ) from None

    def stop(self) -> None:
        """End the process, whatever it does."""
        process, self.process, self._loaded = self.process, None, None
        if process is None:
            return
        process.kill()
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        self._pipe.close()
        process.wait()

    def close(self) -> None:
        """End the process and forget the file."""
        self.stop()
        self.contents.close()
