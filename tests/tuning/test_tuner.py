"""The beam, over a space of numbers and with a judge who knows what each costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

import rangekit as rk
from rangekit.lower.schedule import Schedule
from rangekit.tuning.judge import Terms, TimeUp, Verdict
from rangekit.tuning.tuner import Search


def schedule(n: int) -> Schedule:
    return Schedule((rk.tile("i", n),))


def number(s: Schedule) -> int:
    return s[0].size  # type: ignore[attr-defined,no-any-return]


class Numbers:
    """Schedules are numbers from 1 to 99; neighbours are near."""

    def __init__(self, starts: Sequence[int] = (50,), steps: Sequence[int] = (-1, 1, -3, 3)) -> None:
        self.begin, self.steps = starts, steps

    def starts(self) -> Iterable[Schedule]:
        return map(schedule, self.begin)

    def neighbours(self, s: Schedule) -> Sequence[Schedule]:
        return [schedule(n) for step in self.steps if 0 < (n := number(s) + step) < 100]

    def text(self, s: Schedule) -> str | None:
        return None if number(s) % 10 == 9 else str(number(s))


class Known:
    """A judge of given costs. ``asked`` are the candidates in order; after ``most`` of them time is up."""

    def __init__(self, cost: Any, most: int = 10_000) -> None:
        self.cost, self.most = cost, most
        self.asked: list[int] = []
        self.turns: list[int] = []

    def __call__(self, texts: Sequence[str], incumbent: str, terms: Terms) -> list[Verdict]:
        out = []
        for text in texts:
            if len(self.asked) == self.most:
                raise TimeUp
            self.asked.append(int(text))
            self.turns.append(terms.turns)
            cost = self.cost(int(text))
            out.append(
                Verdict(cost) if isinstance(cost, str) else Verdict(None, "", cost, cost / self.cost(int(incumbent)))
            )
        return out


def bowl(n: int) -> float:
    return 1.0 + (n - 33) ** 2


def searched(judge: Known, beam: int = 3, default: int = 50, space: Any = None, **more: Any) -> Search:
    search = Search(space or Numbers(), judge, (schedule(default), str(default)), Terms(), beam, **more)
    search.run()
    return search


def test_it_goes_down_to_the_best() -> None:
    judge = Known(bowl)
    search = searched(judge)
    assert search.best.schedule == schedule(33)
    assert search.best.share == pytest.approx(bowl(33) / bowl(50))
    assert judge.asked.count(34) <= 2  # once, and once more to confirm


def test_every_candidate_is_counted() -> None:
    search = searched(Known(lambda n: "crashed" if n in (46, 47) else "wrong" if n == 52 else bowl(n)))
    assert search.best.schedule == schedule(33)
    assert search.rejected["crashed"] == 2
    assert search.rejected["refused"] > 0  # 49 is not made at all
    assert search.tried == len(search._seen) - 1 + search.rejected["refused"]


@pytest.mark.parametrize(("height", "passes"), [(1.4, True), (1.6, False)])
def test_it_climbs_over_what_is_a_little_slower_but_not_over_everything(height: float, passes: bool) -> None:
    def hump(n: int) -> float:
        return 1.0 if n == 50 else height if 42 < n < 58 else 0.5

    search = searched(Known(hump), space=Numbers(steps=(-2, 2)))
    assert (search.best.share == 0.5) == passes


def test_time_that_is_up_leaves_the_best_so_far() -> None:
    for most in range(12):
        judge = Known(bowl, most)
        search = searched(judge)
        assert len(judge.asked) == most
        assert search.best.share == min(share for _, share in search.history)
    assert search.best.share < 1


def test_the_same_answers_give_the_same_search() -> None:
    asked = []
    for _ in range(2):
        judge = Known(bowl)
        searched(judge)
        asked.append(judge.asked)
    assert asked[0] == asked[1]


def test_nothing_faster_leaves_the_default() -> None:
    search = searched(Known(lambda n: 1.0 if n == 50 else 0.99))
    assert search.best is search.default
    assert search.history == [(0.0, 1.0)]


def test_a_gain_that_does_not_repeat_is_none() -> None:
    judge = Known(bowl)

    def lucky(texts: Sequence[str], incumbent: str, terms: Terms) -> list[Verdict]:
        first = terms.turns == Terms().turns
        judge(texts, incumbent, terms)
        return [Verdict(None, "", 1.0, 0.5 if first else 1.0) for _ in texts]

    search = Search(Numbers(), lucky, (schedule(50), "50"), Terms())
    search.run()
    assert search.best is search.default
    assert max(judge.turns) > Terms().turns


def test_a_winner_that_fails_in_the_end_gives_the_default_back() -> None:
    judge = Known(bowl)
    search = searched(judge)
    winner = search.best
    search.judging = lambda texts, incumbent, terms: [Verdict("wrong")]
    search.settle()
    assert search.best is search.default
    assert search.rejected["wrong"] == 1
    search.best = winner
    search.judging = lambda texts, incumbent, terms: [Verdict(None, "", 1.0, 0.25)]
    search.settle()
    assert (search.best.schedule, search.best.share) == (winner.schedule, 0.25)


def test_every_improvement_is_told_at_once() -> None:
    told: list[float] = []
    search = searched(Known(bowl), improved=lambda s: told.append(s.best.share))
    assert told == [share for _, share in search.history[1:]]
    assert told == sorted(told, reverse=True)


def test_several_are_judged_at_once() -> None:
    batches: list[int] = []
    judge = Known(bowl)

    def judging(texts: Sequence[str], incumbent: str, terms: Terms) -> list[Verdict]:
        batches.append(len(texts))
        return judge(texts, incumbent, terms)

    search = Search(Numbers(range(40, 70)), judging, (schedule(50), "50"), Terms(), 3, 4)
    search.run()
    assert max(batches) == 4
    assert search.best.schedule == schedule(33)


def test_what_an_earlier_search_found_is_checked() -> None:
    search = Search(Numbers(), Known(bowl), (schedule(50), "50"), Terms())
    assert search.accept(schedule(33), "33")
    assert search.best.schedule == schedule(33)
    again = Search(Numbers(), Known(lambda n: "wrong"), (schedule(50), "50"), Terms())
    assert not again.accept(schedule(33), "33")
    assert again.best is again.default
    assert again.rejected == {"wrong": 1}
