"""One call of ``kernel.tune``: each launch of a program searched by itself, within one budget of time.

Arrays are copies, and nothing runs but in the judge's process. Whatever ends the search, the best found so far is
returned, and it is on disk from the moment it is found.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rangekit.backends.llvm import engine
from rangekit.backends.llvm.render import render
from rangekit.backends.threads import get_num_threads
from rangekit.errors import ArgumentError, DeviceError
from rangekit.ir.nest import Nest
from rangekit.ir.show import nest_text
from rangekit.ir.target import Target
from rangekit.lower import search
from rangekit.lower.recall import recall
from rangekit.lower.schedule import Schedule, scheduled
from rangekit.lower.step import Step
from rangekit.program import Program
from rangekit.tuning import kept, report
from rangekit.tuning.inputs import Tasks
from rangekit.tuning.judge import Bench, Failed, Judge, Terms, TimeUp, Verdict
from rangekit.tuning.progress import Progress
from rangekit.tuning.task import Array, Task
from rangekit.tuning.tuner import Search

LEAST = 20e-6  # seconds of a launch that is worth a search
REFERENCE = 0.25  # of the budget, for the kernels as written
SETTLE = 1.5  # seconds of the last measurement, where there is time for it
SIMILAR = 4  # schedules of nests of other sizes to begin with


class Shapes:
    """The schedules of one nest: what the search may try, and the code that each gives."""

    def __init__(self, nest: Nest, target: Target, first: Sequence[Schedule]) -> None:
        """``nest`` has no schedule; ``first`` is tried before anything else."""
        self.nest = recall(nest, target) if target.vector_bytes else nest
        self.target, self.first = target, first

    def starts(self) -> Iterator[Schedule]:
        """What was good elsewhere, then what the cost model finds good."""
        yield from self.first
        yield from search.proposals(self.nest, self.target)

    def neighbours(self, schedule: Schedule) -> Sequence[Schedule]:
        """Schedules one change away."""
        try:
            return search.neighbours(self.nest, schedule, self.target)
        except Exception:  # whatever a candidate brings to light in the compiler, the others go on
            return []

    def text(self, schedule: Schedule) -> str | None:
        """The module of a schedule; None where it does not apply."""
        try:
            return render(scheduled(self.nest, schedule, self.target))
        except Exception:  # it does not apply, or brings a fault of the compiler to light: no loss but of itself
            return None


@dataclass
class _Launch:
    """One nest under search."""

    plain: Nest
    task: Task
    key: str
    start: Schedule  # what it has without tuning
    text: str
    default: float  # seconds
    note: str = ""
    known: kept.Entry | None = None
    search: Search | None = None
    quick: bool = False  # an earlier search's result was enough

    def schedule(self) -> Schedule:
        """The best so far."""
        return self.start if self.search is None else self.search.best.schedule


class Session:
    """The search over a program. ``launches`` fill up as it goes."""

    def __init__(
        self, program: Program, name: str, given: Callable[[str], Sequence[Step] | None], seconds: float, beam: int
    ) -> None:
        """``given`` says which steps the user asked for of a launch, None where the cost model chose."""
        if program.device.name != "cpu":
            raise DeviceError(f"there is nothing to tune on the device {program.device.name!r}", help='device="cpu"')
        if os.name != "posix":
            raise DeviceError("tune hands open files to processes, which this system does not do", help="tune on Linux")
        if not seconds > 0:
            raise ArgumentError(f"seconds={seconds!r}", help="a time to search for, such as 30")
        if not isinstance(beam, int) or beam < 1:
            raise ArgumentError(f"beam={beam!r}", help="how many schedules to follow at once, such as 4")
        self.program, self.name, self.given, self.seconds, self.beam = program, name, given, seconds, beam
        self.target = program.options.target
        self.threads = get_num_threads()
        self.begin = time.monotonic()
        self.end = self.begin + seconds
        self.launches: list[_Launch] = []
        self.bench: Bench | None = None
        self.ended = "exhausted"

    def run(self, arrays: Sequence[Array], client: Any = None) -> None:
        """Search until the time is up, nothing is left, or Ctrl-C. A second Ctrl-C is raised."""
        try:
            with Progress(self.seconds) as progress:
                progress.show(f"tune {self.name}")
                self._prepare(arrays)
                with self._judges(client) as judge:
                    self._search(judge, progress)
        except TimeUp:
            self.ended = "time"
        except KeyboardInterrupt:
            self.ended = "interrupted"
        finally:
            if self.bench is not None:
                self.bench.close()

    def schedules(self) -> dict[str, Schedule]:
        """The best schedule of each launch that is faster than what it has without tuning."""
        return {one.plain.name: one.schedule() for one in self.launches if one.schedule() != one.start}

    # ---- before the search -------------------------------------------------------------------------------------------

    def _prepare(self, arrays: Sequence[Array]) -> None:
        """Run every launch as written, which says what is right, and as it is without tuning, which says how long."""
        if not self._references(arrays, random=True):
            self._references(arrays, random=False)

    def _references(self, arrays: Sequence[Array], random: bool) -> bool:
        """Whether these inputs serve: no fault, and no NaN where they are random."""
        if self.bench is not None:
            self.bench.close()
        self.launches.clear()
        tasks = Tasks(self.program, arrays, random, self.threads)
        self.bench = Bench(tasks.contents)
        for number, (plain, nest) in enumerate(
            zip(self.program.lowered.plain, self.program.lowered.nests, strict=True)
        ):
            if nest.prints and nest.outputs:
                return True  # it is for people to see; what comes later needs what it computes
            if nest.prints:
                continue
            task, text, note = tasks.task(plain), render(nest), ""
            limit = max(0.2, (self.begin + REFERENCE * self.seconds) - time.monotonic())
            try:
                _, fault, nan = self.bench.reference(task, render(plain), limit, self.end)
            except Failed as err:
                if err.reason != "endless":
                    raise DeviceError(f"{nest.name} as written cannot be run apart: {err.detail}") from None
                note = "checked against the default: as written it takes too long"
                _, fault, nan = self.bench.reference(task, text, self.seconds, self.end)
            if fault[0] and not random:
                self.program.fail(number, *fault[:4])
            if random and (fault[0] or nan):
                return False
            self._add(plain, nest, task, text, note)
        return True

    def _add(self, plain: Nest, nest: Nest, task: Task, text: str, note: str) -> None:
        assert self.bench is not None
        verdict = self.bench.one(task, text, text, Terms(turns=5, patience=self.seconds), self.end)
        key = kept.key(plain, self.target, self.threads, self.given(nest.name))
        default = 0.0 if verdict.reason else verdict.seconds
        if verdict.reason:
            note = f"left alone: the default is {verdict.reason}, {verdict.detail}"
        elif default < LEAST:
            note = "left alone: too short"
        self.launches.append(_Launch(plain, task, key, Schedule(nest.schedule), text, default, note, kept.load(key)))

    # ---- the search --------------------------------------------------------------------------------------------------

    @contextmanager
    def _judges(self, client: Any) -> Iterator[Judge]:
        assert self.bench is not None
        if client is None:
            yield self.bench
            return
        from rangekit.tuning.remote import Cluster

        with Cluster(client, self.bench.contents) as cluster:
            yield cluster

    def _search(self, judge: Judge, progress: Progress) -> None:
        """The longest launch first; each has its share of the time that is left."""
        todo = sorted((one for one in self.launches if one.default >= LEAST), key=lambda one: -one.default)
        for n, one in enumerate(todo):
            left = self.end - time.monotonic()
            share = left * one.default / sum(other.default for other in todo[n:])
            try:
                self._one(one, judge, progress, time.monotonic() + share)
            except DeviceError as err:  # what was found before the machine failed counts
                one.note = f"ended early: {err.message}"
        if todo and all(one.quick for one in todo):
            self.ended = "kept"

    def _one(self, one: _Launch, judge: Judge, progress: Progress, end: float) -> None:
        until = end - min(SETTLE + 10 * one.default, 0.3 * (end - time.monotonic()))  # later once more, to settle
        terms = Terms(patience=0.5 + 20 * one.default)

        pace = 0.0  # seconds that a candidate took lately

        def judging(texts: Sequence[str], incumbent: str, terms: Terms) -> list[Verdict]:
            nonlocal pace
            begin = time.monotonic()
            if begin + pace > until:  # cut short, it would cost a process
                raise TimeUp
            verdicts = judge.judge(one.task, texts, incumbent, terms, until)
            pace = 0.7 * pace + 0.3 * 1.5 * (time.monotonic() - begin)
            return verdicts

        def watch(s: Search) -> None:
            out = sum(s.rejected.values())
            progress.show(f"tune {self.name} {one.plain.name}: {1e3 * one.default:.3g} ms -> "
                          f"{1e3 * one.default * s.best.share:.3g} ms, {s.tried} tried, {out} out")  # fmt: skip

        space = Shapes(one.plain, self.target, self._first(one))
        one.search = Search(space, judging, (one.start, one.text), terms, self.beam, judge.width,
                            lambda s: kept.save(self._entry(one)), watch)  # fmt: skip
        if one.known is not None and one.known.spent >= self.seconds and self._again(one, one.known, space):
            one.quick = True
            return
        one.search.run()
        if not one.search.exhausted:
            self.ended = "time"
        until, pace = end, 0.0
        candidate = one.search.best.schedule
        one.search.settle()
        refuted = candidate if candidate != one.search.best.schedule else None
        kept.save(replace(self._entry(one), spent=self.seconds), refuted)

    def _again(self, one: _Launch, known: kept.Entry, space: Shapes) -> bool:
        """Whether what an earlier search found still holds; it is the best then."""
        assert one.search is not None
        if known.schedule == one.start:
            return True
        text = space.text(known.schedule)
        if text is None:
            return False
        return one.search.accept(known.schedule, text)

    def _first(self, one: _Launch) -> list[Schedule]:
        known = [] if one.known is None else [one.known.schedule]
        return [*known, *(e.schedule for e in kept.similar(one.key, one.plain, self.threads)[:SIMILAR])]

    def _entry(self, one: _Launch) -> kept.Entry:
        assert one.search is not None
        best = one.search.best
        return kept.Entry(one.key, f"{self.name} {one.plain.name}", nest_text(one.plain), engine.host(), self.threads,
                          best.schedule, one.default * best.share, one.default, 0.0, one.search.tried)  # fmt: skip

    # ---- after it ----------------------------------------------------------------------------------------------------

    def report(self) -> report.Report:
        """What was done, as far as it got."""
        nests = []
        for one in self.launches:
            s = one.search
            if s is None:
                nests.append(report.Nest(one.plain.name, one.start, one.default, one.default, note=one.note))
                continue
            history = tuple((s.begin - self.begin + at, share * one.default) for at, share in s.history)
            nests.append(report.Nest(one.plain.name, s.best.schedule, one.default, one.default * s.best.share, s.tried,
                                     dict(s.rejected), history, one.note))  # fmt: skip
        return report.Report(self.name, tuple(nests), time.monotonic() - self.begin, self.ended)
