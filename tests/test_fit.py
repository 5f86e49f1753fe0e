"""Fitting finds the prices that times were made from, the model is asked as it is, and the page says what was found."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.target import CPU
from rangekit.lower import model
from rangekit.lower.loops import loops, name_of
from rangekit.lower.model import Lanes
from rangekit.lower.schedule import Schedule
from rangekit.lower.tiles import perfected
from scripts import fit, fit_page, fit_record
from scripts.fit_kernels import kernels
from scripts.fit_record import Choice

DOCS = Path(__file__).parents[1] / "docs"


def nests() -> dict[str, Any]:
    return {name: rk.kernel(fn).lower(*args).kernels[0].written for name, fn, args in kernels()}


@pytest.fixture(scope="module")
def known() -> dict[str, fit.Case]:
    return fit.cases()


def test_a_price_by_hand() -> None:
    nest = rk.kernel(lambda x: x * 2).lower(np.ones(64, np.float32)).kernels[0].written
    (i,) = (name_of(a) for a in loops(nest.body))
    case = fit.Case.of(nest)
    prices = {**fit.now(), "LOAD": 0.25, "OTHER": 2.0, "STORE": 4.0, "LOOP": 16.0}
    assert case.cycles(Choice(i, 8, (), 8), prices) == 8 * (0.25 + 2 + 4 + 16)
    assert case.cycles(Choice(None, 1, (), 8), prices) == 64 * (0.25 + 2 + 4 + 16)
    assert case.cycles(Choice(i, 32, (), 8), prices) == 2 * (4 * (0.25 + 2 + 4) + 16)


def test_under_the_prices_in_force_it_is_the_model(known: dict[str, fit.Case]) -> None:
    for name, nest in nests().items():
        body = perfected(nest.body)
        at = {name_of(a): a.var for a in loops(body)}
        listed = model.rows(body)
        for choice in fit_record.choices(nest):
            if choice.vector is None or choice.vector in known[name].outer:
                vector = at[choice.vector] if choice.vector else None
                lanes = Lanes(vector, choice.block, tuple((at[n], m) for n, m in choice.others), choice.width)
                assert math.isclose(known[name].cycles(choice, fit.now()), model.cycles(listed, lanes, CPU)), choice


def test_the_models_own_prices_are_put_back() -> None:
    before = {n: getattr(model, n) for n in (*fit.CONSTANTS, "PRICES")}
    with suppress(ZeroDivisionError), fit._instead({"LOAD": 9.0}):
        assert model.LOAD == 9.0
        _ = 1 / 0
    fit.cases()
    assert {n: getattr(model, n) for n in before} == before


def test_known_prices_are_recovered(known: dict[str, fit.Case]) -> None:
    rng = np.random.default_rng(0)
    truth = {name: price * math.exp(rng.uniform(-0.7, 0.7)) for name, price in fit.now().items()}
    points = [fit.Point(name, choice, known[name].cycles(choice, truth) * math.exp(rng.normal(0, 0.005)))
              for name, nest in nests().items() for choice in fit_record.choices(nest)]  # fmt: skip
    found = fit.fitted(known, points, fit.now(), hold=1e-4)
    assert {n: found[n] for n in found} == pytest.approx(truth, rel=0.1)


def test_a_price_that_nothing_depends_on_stays(known: dict[str, fit.Case]) -> None:
    case = known["quotients"]
    choices = fit_record.choices(nests()["quotients"])
    points = [fit.Point("quotients", c, case.cycles(c, {**fit.now(), "DIV": 2.5})) for c in choices]
    found = fit.fitted(known, points, fit.now(), hold=1e-3)
    assert found["DIV"] == pytest.approx(2.5, rel=0.1)
    assert found["IDIV"] == pytest.approx(fit.now()["IDIV"])


def test_a_choice_is_the_schedule_that_is_measured() -> None:
    count = 0
    for nest in nests().values():
        for choice in fit_record.choices(nest):
            assert fit_record.choice_of(Schedule(fit_record.steps(choice)), nest) == choice
            count += 1
    assert count > 400
    nest = nests()["transposed"]
    assert fit_record.choice_of(Schedule((rk.tile("i", 8), rk.upcast("j", 8))), nest) is None
    assert fit_record.choice_of(Schedule((rk.upcast("i", 8), rk.thread("i"))), nest) == Choice("i", 8, (), 8)


# ---- the page --------------------------------------------------------------------------------------------------------


def sample(kernel: str, seconds: float, now: float, fitted: float, schedule: str = "[]") -> dict[str, Any]:
    return {"kernel": kernel, "schedule": schedule, "choice": {}, "seconds": seconds, "now": now, "fitted": fitted,
            "unseen": fitted}  # fmt: skip


def test_the_tables_by_hand() -> None:
    e = math.e
    data = {
        "machine": {"cpu": "a CPU", "host": "zen", "ghz": 1.0},  # a cycle is a nanosecond
        "prices": {"LOAD": [0.5, 0.25, 0.9, 1.2]},
        "samples": [
            sample("a", 1000e-9, 1000 * e**2, 1000, "default"),
            sample("a", 2000e-9, 2000, 2000),
            sample("a", 3000e-9, 3000 / e, 3000),
            {**sample("a", 500e-9, 0, 0), "choice": None},  # no choice of lanes: not the model's
        ],
    }
    page = fit_page.page(data)
    assert "3 times of 1 kernels on one thread of a CPU (zen, 1.00 GHz)" in page
    assert "| median of \\|log(predicted / measured)\\| | 1.00 | 0.00 | 0.00 |" in page
    assert "| its 90th percentile | 1.80 | 0.00 | 0.00 |" in page
    assert "| rank correlation of a kernel's schedules, median | -1.00 | 1.00 | 1.00 |" in page
    assert "| time of the choice over the best's, mean | 3.00 | 1.00 | 1.00 |" in page
    assert "| LOAD | 0.5 | 0.25 | 0.900 | 1.200 |" in page
    assert "| a | 1.0 | 1.0 | 3.0 | 1.0 | 1.0 |" in page


def test_the_page_kept_says_what_the_data_kept_gives() -> None:
    data = json.loads((DOCS / "model.json").read_text(encoding="utf-8"))
    assert len(data["samples"]) > 400
    assert (DOCS / "model.md").read_text(encoding="utf-8") == fit_page.page(data)
