"""The search itself: a beam over schedules, told what is faster by a judge. It compiles and times nothing.

At any moment ``best`` is the fastest schedule that was found right and measured faster twice. All times are shares of
the default's, measured against the best so far in the same moment: a machine that slows down misleads nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from rangekit.lower.schedule import Schedule
from rangekit.tuning.judge import Terms, TimeUp, Verdict

GAIN = 0.98  # of the incumbent's time: what does not get below is no gain but noise
HOPELESS = 1.5  # times the best: where no neighbours are looked for
SLICE = 6  # neighbours of one schedule before the others of the beam have their turn
CONFIRM = 2  # times the turns, to be believed
FINAL = 4


class Space(Protocol):
    """What can be tried."""

    def starts(self) -> Iterable[Schedule]:
        """Schedules to begin with, best guess first."""
        ...

    def neighbours(self, schedule: Schedule) -> Sequence[Schedule]:
        """Schedules one change away, best guess first."""
        ...

    def text(self, schedule: Schedule) -> str | None:
        """Its module, None where it cannot be made."""
        ...


Judging = Callable[[Sequence[str], str, Terms], list[Verdict]]  # candidates, the incumbent, how they race


@dataclass(frozen=True)
class Found:
    """A schedule that gives right results. ``share``: its time by the default's."""

    schedule: Schedule
    text: str
    share: float


class Search:
    """One nest's search. ``tried`` and ``rejected`` count candidates; ``history``: (seconds from ``begin``, share)."""

    def __init__(
        self,
        space: Space,
        judging: Judging,
        default: tuple[Schedule, str],
        terms: Terms,
        beam: int = 4,
        width: int = 1,
        improved: Callable[[Search], None] = lambda search: None,
        watch: Callable[[Search], None] = lambda search: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.space, self.judging, self.terms, self.beam, self.width = space, judging, terms, beam, width
        self.improved, self.watch, self.clock = improved, watch, clock
        self.begin = clock()
        self.default = self.best = Found(*default, 1.0)
        self.pool = [self.default]
        self.tried = 0
        self.rejected: Counter[str] = Counter()
        self.history: list[tuple[float, float]] = [(0.0, 1.0)]
        self.exhausted = False  # nothing was left to try
        self._seen = {self.default.text}
        self._fronts: dict[Schedule, Iterator[Schedule]] = {}

    def run(self) -> None:
        """Search until the judge says that time is up, or nothing is left to try."""
        try:
            self._try(self.space.starts())
            while batch := self._round():
                self._try(batch)
            self.exhausted = True
        except TimeUp:
            pass

    def accept(self, schedule: Schedule, text: str) -> bool:
        """Whether a schedule of an earlier search is right and faster than the default; it is the best then."""
        self.tried += 1
        try:
            (verdict,) = self.judging([text], self.default.text, self._longer(CONFIRM))
        except TimeUp:
            return False
        if verdict.reason is not None or verdict.surely >= GAIN:
            self.rejected[verdict.reason or "no faster after all"] += 1
            return False
        self.best = Found(schedule, text, verdict.surely)
        self.pool.append(self.best)
        self._seen.add(text)
        self.history.append((self.clock() - self.begin, self.best.share))
        return True

    def settle(self) -> None:
        """Measure the best against the default once more, for longer; the default, if that is not slower."""
        if self.best is self.default:
            return
        try:
            (verdict,) = self.judging([self.best.text], self.default.text, self._longer(FINAL))
        except TimeUp:
            return
        if verdict.reason is not None or verdict.surely >= GAIN:
            self.rejected[verdict.reason or "no faster after all"] += 1
            self.best = self.default
        else:
            self.best = replace(self.best, share=verdict.surely)
        self.history.append((self.clock() - self.begin, self.best.share))

    def _round(self) -> list[Schedule]:
        """The next neighbours of each schedule in the beam, in turns."""
        self.pool.sort(key=lambda f: f.share)
        slices: list[list[Schedule]] = []
        for found in self.pool:
            if found.share > HOPELESS * self.best.share or len(slices) == self.beam:
                break
            front = self._fronts.get(found.schedule)
            if front is None:
                front = self._fronts[found.schedule] = iter(self.space.neighbours(found.schedule))
            some = list(islice(front, SLICE))
            if some:
                slices.append(some)
        return [s for n in range(SLICE) for some in slices for s in some[n : n + 1]]

    def _try(self, schedules: Iterable[Schedule]) -> None:
        """Judge those whose code was not seen before, ``width`` at once."""
        waiting: list[tuple[Schedule, str]] = []
        for schedule in schedules:
            text = self.space.text(schedule)
            if text is None:
                self._count("refused")
            elif text not in self._seen:
                self._seen.add(text)
                waiting.append((schedule, text))
            if len(waiting) == self.width:
                self._judge(waiting)
                waiting = []
        if waiting:
            self._judge(waiting)

    def _judge(self, batch: Sequence[tuple[Schedule, str]]) -> None:
        incumbent = self.best
        verdicts = self.judging([text for _, text in batch], incumbent.text, self.terms)
        for (schedule, text), verdict in zip(batch, verdicts, strict=True):
            if verdict.reason is not None:
                self._count(verdict.reason)
                continue
            self.tried += 1
            found = Found(schedule, text, verdict.surely * incumbent.share)
            self.pool.append(found)
            if found.share < GAIN * self.best.share:
                self._confirm(found)
        self.watch(self)

    def _confirm(self, found: Found) -> None:
        (again,) = self.judging([found.text], self.best.text, self._longer(CONFIRM))
        if again.reason is not None:
            self.rejected[again.reason] += 1
            self.pool.remove(found)
        elif again.surely < GAIN:
            self.best = replace(found, share=again.surely * self.best.share)
            self.pool[self.pool.index(found)] = self.best
            self.history.append((self.clock() - self.begin, self.best.share))
            self.improved(self)

    def _count(self, reason: str) -> None:
        self.tried += 1
        self.rejected[reason] += 1
        self.watch(self)

    def _longer(self, times: int) -> Terms:
        return replace(self.terms, turns=times * self.terms.turns, most=times * self.terms.most)
