"""Every workload computes what float64 NumPy does, races survive their peers, and the tables say what was measured."""

from __future__ import annotations

import ast
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from benchmarks import __main__ as command
from benchmarks import guards, matmul_steps
from benchmarks.arrays import ARRAYS
from benchmarks.peers import NumPy, Rangekit
from benchmarks.race import Race, Row, Rules, Times, Worker
from benchmarks.report import Report, ratio, share, shown, table
from benchmarks.worker import find, timed
from benchmarks.workload import Draw, Workload, bound, error
from rangekit import machine
from rangekit.machine import Limits

WORKLOADS = command.WORKLOADS
RATES = {f.name: 100.0 for f in fields(Limits) if f.name.endswith(("_1", "_all"))}
LIMITS = Limits(cpu="a CPU", cores=2, **{**RATES, "dram_all": 20.0, "stream_all": 40.0, "l2_all": 200.0})
CACHES = (32 << 10, 1 << 20, 16 << 20)
QUICK = Rules(turns=2, rest=0.0, limit=60.0)


def named(workload: Workload) -> str:
    return workload.name


@pytest.mark.parametrize("w", WORKLOADS, ids=named)
def test_rangekit_is_right(w: Workload) -> None:
    args = w.arguments(w.tiny)
    want = w.expected(args)
    calls = Rangekit(1).ready(w, args, want)
    assert calls.into is not None
    for call in (calls.fresh, calls.into):
        assert error(Rangekit(1).numpy(call()), want) <= w.tolerance


@pytest.mark.parametrize("w", [w for w in WORKLOADS if "numpy" in w.peers], ids=named)
def test_numpys_functions_are_right(w: Workload) -> None:
    args = w.arguments(w.tiny)
    want = w.expected(args)
    calls = NumPy(1).ready(w, args, want)
    assert error(NumPy(1).numpy(calls.fresh()), want) <= w.tolerance
    if calls.into is not None:
        assert error(NumPy(1).numpy(calls.into()), want) <= w.tolerance


def test_numba_has_the_loops_that_are_named() -> None:
    source = (Path(command.__file__).parent / "numba_loops.py").read_text(encoding="utf-8")
    written = {n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)}
    assert {w.peers["numba"] for w in WORKLOADS if "numba" in w.peers} == written


def test_names_are_unique_and_found() -> None:
    assert len({w.name for w in WORKLOADS}) == len(WORKLOADS) > 40
    assert all(find(w.name).name == w.name for w in WORKLOADS)


def test_every_workload_has_a_bound_but_the_empty_call() -> None:
    unbound = [w.name for w in WORKLOADS if bound(w, w.sizes, 1000, 1000, LIMITS, CACHES) is None]
    assert unbound == ["x + y, 8 floats"]


def test_every_process_draws_the_same() -> None:
    assert np.array_equal(Draw().normal(3), Draw().normal(3))
    assert Draw().uniform(1000, low=2, high=3).min() >= 2
    assert Draw().coins(100).mean() not in (0, 1)


# ---- errors and bounds -----------------------------------------------------------------------------------------------


def test_errors_are_relative_to_the_largest_element() -> None:
    want = (np.array([1.0, -4.0]),)
    assert error((np.array([1.5, -4.0], np.float32),), want) == 0.125
    assert error((np.array([1.0, -4.0], np.float32),), want) == 0.0


@pytest.mark.parametrize("got", [[1.0, np.nan], [1.0, np.inf], [1.0]])
def test_nan_infinity_and_shape_are_no_small_errors(got: list[float]) -> None:
    assert error((np.array(got, np.float32),), (np.array([1.0, 2.0]),)) == np.inf


def test_nan_and_infinity_where_they_belong_are_right() -> None:
    want = np.array([np.nan, np.inf, 1.0])
    assert error((want.astype(np.float32),), (want,)) == 0.0


def test_integers_are_exact() -> None:
    assert error((np.array([1 << 40]),), (np.array([(1 << 40) + 1]),)) == 1.0


def test_a_product_is_bound_by_arithmetic_and_a_sum_by_memory() -> None:
    product, total = find("matmul 1024"), find("x + y, 16 M")
    assert bound(product, product.sizes, 8 << 20, 4 << 20, LIMITS, CACHES) == pytest.approx(2 * 1024**3 / 100e9)
    moved = 12 << 24
    assert bound(total, total.sizes, 8 << 24, 4 << 24, LIMITS, CACHES) == pytest.approx(moved / 40e9)
    assert bound(total, {"N": 1 << 17}, 1 << 20, 1 << 19, LIMITS, CACHES) == pytest.approx(3 * (1 << 19) / 200e9)


def test_what_is_only_read_is_held_against_reads() -> None:
    w = find("sum, 16 M")
    assert bound(w, w.sizes, 4 << 24, 4, LIMITS, CACHES) == pytest.approx(((4 << 24) + 4) / 20e9)


# ---- races -----------------------------------------------------------------------------------------------------------


def test_a_race_samples_both_ways_and_names_gaps() -> None:
    w = find("x + y, 8 floats")
    with Race(["rangekit", "numpy", "numba"], QUICK) as race:
        row = race.run(w)
        assert (row.read, row.written) == (64, 32)
        for peer in ("rangekit", "numpy"):
            assert row.times[peer].gap is None
            assert len(row.times[peer].fresh) == len(row.times[peer].into) == 2
        numba = row.times["numba"]
        assert numba.gap == "not installed (numba)" or len(numba.fresh) == 2
        assert race.versions["numpy"] == np.__version__

        race.workers["numpy"]._process.kill()
        race.workers["numpy"]._process.join()
        assert race.run(w).times["numpy"].gap == "its process has died"
        assert race.run(w).times["numpy"].gap is None


def test_a_peer_that_does_not_answer_is_given_up() -> None:
    with Race(["numpy"], replace(QUICK, limit=0.0)) as race:
        row = race.run(find("x + y, 8 floats"))
        assert row.times["numpy"].gap == "no oracle: no answer in 0 s"
        assert race.oracle._process is None


def test_a_wrong_order_is_answered_and_survived() -> None:
    worker = Worker("numpy", QUICK)
    try:
        with pytest.raises(Exception, match="StopIteration"):
            worker.ask("ready", "no such workload", {}, Path(__file__))
        assert worker._process.is_alive()
    finally:
        worker.stop()


def test_timing_calls_at_least_twice_and_counts_each() -> None:
    calls = []
    assert 0 < timed(lambda: calls.append(1)) < 1e-3
    assert len(calls) > 1000  # short calls are timed many at once


# ---- tables ----------------------------------------------------------------------------------------------------------


def report() -> Report:
    fast = Row(
        "fast", {"N": 1}, 8, 4, {"rangekit": Times([2e-3, 1e-3, 3e-3], [1e-3], 0.1), "numpy": Times([4e-3])}, 1e-3
    )
    slow = Row("slow", {}, 8, 4, {"rangekit": Times(gap="wrong: error 1"), "numpy": Times([5e-6], [4e-6])})
    return Report(LIMITS, {"rangekit": "1", "numpy": "2"}, "abc", {"threads": 2}, [fast, slow])


def test_ratios_race_like_with_like() -> None:
    fast, slow = report().rows
    assert ratio(fast, "fresh") == 2.0 and share(fast, "fresh") == 0.5
    assert ratio(fast, "into") is None and share(fast, "into") == 1.0
    assert ratio(slow, "fresh") is None and share(slow, "fresh") is None


def test_the_page_shows_medians_ratios_and_gaps() -> None:
    page = report().markdown()
    assert "| fast | **2.00 ms** | 4.00 ms | 2.00× | 1.00 ms | 50% |" in page
    assert "| slow |  | **5.00 µs** |  |  |  |" in page
    assert "- slow: rangekit: wrong: error 1" in page
    assert "commit abc; rangekit 1, numpy 2." in page
    assert "streaming stores" in page


def test_the_json_has_every_sample() -> None:
    found = json.loads(report().json())
    assert found["rows"][0]["times"]["rangekit"]["fresh"] == [2e-3, 1e-3, 3e-3]
    assert found["limits"]["cpu"] == "a CPU"
    assert found["rows"][1]["times"]["rangekit"]["gap"] == "wrong: error 1"


def test_a_report_of_nothing_is_a_page() -> None:
    assert "# Benchmarks" in replace(report(), rows=[]).markdown()


def test_tables_and_times() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --: |", "| 1 | 2 |"]
    assert [shown(s) for s in (9.99e-5, 1e-4, 0.1234, 12.0)] == ["99.9 µs", "0.10 ms", "123 ms", "12.0 s"]


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "limits", lambda: LIMITS)
    args = ["--only", "8 floats", "--peers", "", "--quick", "--rest", "0", "--results", str(tmp_path)]
    assert command.main(args) == 0
    found = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]] == ["x + y, 8 floats"]
    assert "| x + y, 8 floats | **" in (tmp_path / "quick.md").read_text(encoding="utf-8")


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list", "--only", "softmax,sum, 16"]) == 0
    assert "softmax rows 4096²" in capsys.readouterr().out.splitlines()
    for wrong in (["--peers", "fortran"], ["--only", "nothing like this"]):
        with pytest.raises(SystemExit):
            command.main(wrong)


# ---- the page about a product ----------------------------------------------------------------------------------------


def test_the_steps_are_schedule_steps() -> None:
    known = {"tile", "reorder", "upcast", "unroll", "thread", "group", "stage", "prefetch", "stream"}
    for step in matmul_steps.STEPS:
        for expression in step.schedule:
            call = ast.parse(expression, mode="eval").body
            assert isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            assert call.func.attr in known
    assert [s.threaded for s in matmul_steps.STEPS] == [False] * (len(matmul_steps.STEPS) - 1) + [True]


@pytest.mark.skipif(not hasattr(rk.Kernel, "schedule"), reason="needs Kernel.schedule")
@pytest.mark.parametrize("step", matmul_steps.STEPS, ids=lambda step: step.title)
def test_every_step_keeps_the_product(step: matmul_steps.Step) -> None:
    made = matmul_steps.measure(step, 97, 1, LIMITS)  # raises if it is wrong
    assert made.rate > 0 and "for k in" in made.nest


def test_the_page_shows_each_step() -> None:
    first, last = matmul_steps.STEPS[0], matmul_steps.STEPS[-1]
    rows = [matmul_steps.Measured(first, "for i in 0..8:\n", 1.0, 2.0, 100.0),
            matmul_steps.Measured(last, "thread i in 0..8:\n", 0.5, 90.0, 100.0)]  # fmt: skip
    page = matmul_steps.page(rows, 8, LIMITS)
    assert "| 1. All threads | 500.0 | 90.0 | 90% |" in page
    assert '    rk.thread("i"),' in page
    assert "```text\nfor i in 0..8:\n```\n\n2.0 GFLOP/s, 2% of the limit." in page


def test_arrays_that_move_little_say_so() -> None:
    gather = next(w for w in ARRAYS if w.name.startswith("embedding"))
    assert gather.moved is not None
    assert gather.moved(**gather.sizes) == 8192 * (8 + 2 * 4096)


@pytest.mark.parametrize("program", guards.PROGRAMS, ids=lambda p: p[0])
def test_what_guards_cost_is_measured_on_equal_results(program: Any) -> None:
    name, made, shape, wanted = program
    few = guards.measure(made, tuple(min(n, 64) for n in shape), tuple(min(n, 40) for n in wanted), 1)  # raises if not
    assert set(few) == set(guards.WAYS)
    text = guards.page([(name, {"guarded": 0.0011, "promised": 0.001, "proved": 0.001})], 1)
    assert "+10 % | +0 %" in text
