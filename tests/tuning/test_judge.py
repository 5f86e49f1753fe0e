"""Whatever a candidate does, it costs that candidate alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rangekit.errors import DeviceError
from rangekit.tuning import judge as judges
from rangekit.tuning.judge import Bench, Failed, Terms, TimeUp
from rangekit.tuning.task import Task
from rangekit.tuning.worker import Want
from tests.tuning.modules import FAULTS, GOOD, SLOW, contents, halves, module

TERMS = Terms(turns=3, most=0.05, patience=0.5)
Made = tuple[Bench, Task]


def later() -> float:
    return time.monotonic() + 60


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    file, task = contents(halves())
    bench = Bench(file)
    bench.reference(task, GOOD, 5, later())
    yield bench, task
    bench.close()


def judged(made: Made, text: str, incumbent: str = GOOD) -> judges.Verdict:
    bench, task = made
    return bench.one(task, text, incumbent, TERMS, later())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_the_candidate_and_nobody_else(made: Made, name: str) -> None:
    text, reason = FAULTS[name]
    verdict = judged(made, text)
    assert verdict.reason == reason, verdict
    assert verdict.ratio == float("inf")
    good = judged(made, module(repeat=2), SLOW)
    assert good.reason is None, good
    assert good.ratio < 1


def test_a_slower_candidate_is_told(made: Made) -> None:
    verdict = judged(made, SLOW)
    assert verdict.reason is None
    assert verdict.ratio > 2


def test_a_killed_process_costs_nothing(made: Made) -> None:
    bench, _ = made
    before = bench.starts
    assert bench.process is not None
    os.kill(bench.process.pid, signal.SIGKILL)
    assert judged(made, module(repeat=3)).reason is None
    assert bench.starts == before + 1


def test_a_process_killed_in_the_middle_gives_a_second_chance(made: Made) -> None:
    bench, _ = made
    bench.stop()
    endless = FAULTS["never ends"][0]
    pids = []

    def kill() -> None:
        while bench.process is None or not pids:
            if bench.process is not None:
                pids.append(bench.process.pid)
            time.sleep(0.01)
        time.sleep(0.7)
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    before = bench.starts
    killer.start()
    verdict = bench.one(made[1], endless, GOOD, Terms(turns=3, patience=1.2), later())
    killer.join()
    assert verdict.reason == "endless"
    assert bench.starts == before + 2


def test_one_that_is_killed_twice_is_lost(made: Made) -> None:
    text = module(declare="declare i32 @raise(i32)", before="  %k = call i32 @raise(i32 9)")
    assert judged(made, text).reason == "lost"


def test_time_that_is_up_counts_against_nobody(made: Made) -> None:
    bench, task = made
    judged(made, GOOD)
    begin = time.monotonic()
    with pytest.raises(TimeUp):
        bench.one(task, FAULTS["never ends"][0], GOOD, Terms(patience=60), begin + 0.3)
    assert judged(made, GOOD).reason is None


def test_an_order_that_fails_leaves_the_process_alone(made: Made) -> None:
    bench, _ = made
    judged(made, GOOD)
    before = bench.starts
    with pytest.raises(Failed) as caught:
        bench.ask("compile", "no module", limit=5, until=later())
    assert caught.value.reason == "refused"
    assert bench.starts == before


def test_a_process_ends_with_its_parent_even_in_a_loop_without_end() -> None:
    file, task = contents(halves())
    bench = Bench(file)
    bench.reference(task, GOOD, 5, later())
    assert bench.process is not None
    bench._pipe.send(("check", FAULTS["never ends"][0]))
    time.sleep(0.2)
    assert bench.process.poll() is None
    assert bench.process.stdin is not None
    bench.process.stdin.close()  # what the system does when the parent is killed
    assert bench.process.wait(5) == 1
    bench.close()


def test_a_process_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no arrays here')")
    monkeypatch.setattr(judges.sys, "path", [str(tmp_path), *judges.sys.path])
    file, task = contents(halves())
    bench = Bench(file)
    with pytest.raises(DeviceError, match=r"does not start: .*no arrays here"):
        bench.one(task, GOOD, GOOD, TERMS, later())
    bench.close()


F, I = np.float32, np.int32


@pytest.mark.parametrize(
    ("got", "want", "same"),
    [
        (np.array([1.0, np.nan], F), np.array([1.00001, np.nan], F), True),
        (np.array([1.0, 2.0], F), np.array([1.0, np.nan], F), False),
        (np.array([1.0, np.inf], F), np.array([1.0, -np.inf], F), False),
        (np.array([1.0, np.inf], F), np.array([1.0, 5.0], F), False),
        (np.array([0.0, 100.0], F), np.array([0.005, 100.0], F), True),
        (np.array([0.0, 100.0], F), np.array([0.05, 100.0], F), False),
        (np.array([3, 4], I), np.array([3, 5], I), False),
        (np.array([True]), np.array([False]), False),
        (np.array([], F), np.array([], F), True),
        (np.array([np.nan], np.float16), np.array([1], np.float16), False),
    ],
)
def test_results_agree_up_to_rounding(got: Any, want: Any, same: bool) -> None:
    assert (Want(want, False).difference(got, 1e-4) is None) == same


def test_short_fractions_agree_exactly() -> None:
    want = np.array([0.5, 2.25, 1000.0], F)
    off = want + np.array([0, 0, 6e-5], F)
    assert Want(want, False).difference(off, 1e-4) is None
    assert Want(want, True).difference(off, 1e-4) is not None
    assert Want(want / 3, True).difference(off / 3, 1e-4) is None  # no short fractions
