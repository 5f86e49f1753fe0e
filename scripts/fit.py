"""The cost model's prices, fitted to measured times.

    python -m scripts.fit [--record] [--quiet FILE]

``--record`` measures first (``fit_record.py``: a minute on a quiet machine; FILE exists meanwhile, for others to wait).
Then the prices that ``rangekit/lower/model.py`` multiplies things by are fitted by least squares on the logarithms of
times, none below zero, and ``docs/model.json`` (samples, predictions) and ``docs/model.md`` (tables) are written. The
model itself says what a schedule costs, under other prices; nothing here changes it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

import rangekit as rk
from rangekit.ir.nest import Nest
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.lower import model
from rangekit.lower.loops import loops, name_of, parallel, span
from rangekit.lower.model import Lanes, Row
from rangekit.lower.tiles import perfected
from scripts.fit_kernels import kernels
from scripts.fit_page import gaps, losses, page
from scripts.fit_record import Choice, recorded

ROOT = Path(__file__).resolve().parent.parent
CONSTANTS = ("MATH_PRICE", "OTHER", "LOAD", "STORE", "SPLIT", "SHUFFLE", "PART", "GATHER", "SCATTER", "LOOP", "SPILL",
             "LATENCY")  # fmt: skip
TIED = {Op.MIN: "MAX"}  # one instruction, one price
HOLD = 0.03  # how much a price that no sample depends on is held where it is
FOLDS = 6
SETTLE = 20.0  # seconds for what others have started to end

Prices = dict[str, float]


def now() -> Prices:
    """The prices in force."""
    ops = {op.name: float(price) for op, price in model.PRICES.items() if op not in TIED}
    return {**ops, **{name: float(getattr(model, name)) for name in CONSTANTS}}


# ---- what the model says under other prices --------------------------------------------------------------------------


class Tally:
    """A sum of prices that remembers which: stands for a number while the model adds up operations."""

    def __init__(self, counts: Mapping[str, float]) -> None:
        self.counts = dict(counts)

    def __add__(self, other: Tally | float) -> Tally:
        more = other.counts if isinstance(other, Tally) else {"": other}
        return Tally({n: self.counts.get(n, 0.0) + more.get(n, 0.0) for n in {**self.counts, **more}})

    __radd__ = __add__

    def __mul__(self, times: float) -> Tally:
        return Tally({n: c * times for n, c in self.counts.items()})

    def under(self, prices: Prices) -> float:
        """The sum; what has no name is itself."""
        return sum(c * prices.get(n, 1.0) for n, c in self.counts.items())


class _Ops:
    """Stands for ``model.PRICES``."""

    def get(self, op: Op, default: Any) -> Any:
        return Tally({TIED.get(op, op.name): 1.0}) if op in _KNOWN else default


_KNOWN = frozenset(model.PRICES)


@contextmanager
def _instead(values: Mapping[str, Any]) -> Iterator[None]:
    before = {name: getattr(model, name) for name in values}
    try:
        for name, value in values.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


@dataclass
class Case:
    """One kernel as the model sees it: its rows, and its loops by name."""

    rows: list[Row]
    spans: dict[str, int]
    outer: frozenset[str]
    variables: dict[str, Any]

    @classmethod
    def of(cls, nest: Nest) -> Case:
        """The case of a nest without a schedule."""
        body = perfected(nest.body)
        with _instead({"PRICES": _Ops(), **{n: Tally({n: 1.0}) for n in ("MATH_PRICE", "OTHER")}}):
            listed = model.rows(body)
        found = list(loops(body))
        return cls(
            listed,
            {name_of(a): span(a) or model.UNKNOWN for a in found},
            frozenset(name_of(a) for a in found if parallel(a)),
            {name_of(a): a.var for a in found},
        )

    def cycles(self, choice: Choice, prices: Prices) -> float:
        """What the model says of a choice."""
        fixed = {"load": prices["LOAD"], "store": prices["STORE"]}
        listed = [
            replace(
                row,
                price=row.price.under(prices) if isinstance(row.price, Tally) else fixed.get(row.kind, row.price),
                wait=row.wait / model.LATENCY * prices["LATENCY"],
            )
            for row in self.rows
        ]
        at = self.variables
        others = tuple((at[name], n) for name, n in choice.others)
        lanes = Lanes(at[choice.vector] if choice.vector else None, choice.block, others, choice.width)
        with _instead({name: prices[name] for name in CONSTANTS}):
            total = model.cycles(listed, lanes, CPU)
        if choice.vector is not None and choice.vector not in self.outer:  # partial results, as ``default.py`` has it
            total += math.prod(self.spans[name] for name in self.outer) * (12.0 + choice.block / 4)
        return total


def cases() -> dict[str, Case]:
    """Every kernel's."""
    return {name: Case.of(rk.kernel(fn).lower(*args).kernels[0].written) for name, fn, args in kernels()}


# ---- fitting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One measurement that the model has a word for. ``cycles`` are measured."""

    kernel: str
    choice: Choice
    cycles: float


def fitted(known: Mapping[str, Case], points: Sequence[Point], start: Prices, hold: float = HOLD) -> Prices:
    """The prices whose predictions are nearest on a logarithmic scale; a price nothing depends on stays."""
    names = list(start)
    origin = np.array([start[n] for n in names])

    def residuals(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        prices = dict(zip(names, x.tolist(), strict=True))
        gaps = [math.log(max(known[p.kernel].cycles(p.choice, prices), 1e-9) / p.cycles) for p in points]
        return np.concatenate([gaps, hold * len(points) ** 0.5 * (x - origin) / origin])

    found = least_squares(residuals, origin, bounds=(0, np.inf), x_scale=origin, diff_step=1e-3, ftol=1e-5, max_nfev=40)
    return dict(zip(names, found.x.tolist(), strict=True))


def unseen(known: Mapping[str, Case], points: Sequence[Point], start: Prices) -> list[float]:
    """What prices fitted to other kernels say of each point."""
    order = list(known)
    out = [0.0] * len(points)
    for fold in range(FOLDS):
        mine = {name for n, name in enumerate(order) if n % FOLDS == fold}
        prices = fitted(known, [p for p in points if p.kernel not in mine], start)
        for n, p in enumerate(points):
            if p.kernel in mine:
                out[n] = known[p.kernel].cycles(p.choice, prices)
    return out


def fit(data: dict[str, Any]) -> dict[str, Any]:
    """The recorded data with prices and, for each sample, predictions in cycles."""
    known, start = cases(), now()
    rows = [s for s in data["samples"] if s["choice"] is not None]
    points = [Point(s["kernel"], _choice(s["choice"]), s["seconds"] * data["machine"]["ghz"] * 1e9) for s in rows]
    found = fitted(known, points, start)
    for s, p, blind in zip(rows, points, unseen(known, points, start), strict=True):
        case = known[p.kernel]
        said = {"now": case.cycles(p.choice, start), "fitted": case.cycles(p.choice, found), "unseen": blind}
        s.update({name: float(f"{value:.5g}") for name, value in said.items()})
    prices = {}
    for name in start:
        one = {**start, name: found[name]}
        for s, p in zip(rows, points, strict=True):
            s["one"] = known[p.kernel].cycles(p.choice, one)
        ones = np.median(gaps(rows, "one", data["machine"]["ghz"])), np.mean(losses(rows, "one"))
        alone = [round(float(x), 4) for x in ones]
        prices[name] = [start[name], float(f"{found[name]:.3g}"), *alone]
    for s in rows:
        del s["one"]
    return {**data, "prices": prices}


def _choice(data: dict[str, Any]) -> Choice:
    return Choice(data["vector"], data["block"], tuple((n, m) for n, m in data["others"]), data["width"])


# ---- the command -----------------------------------------------------------------------------------------------------


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """The file exists, once nobody else's does, until the end."""
    while True:
        try:
            file.touch(exist_ok=False)
            break
        except FileExistsError:
            time.sleep(0.5)
    try:
        time.sleep(SETTLE)
        yield
    finally:
        file.unlink()


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="The cost model's prices, fitted to measured times.")
    parser.add_argument("--record", action="store_true", help="measure anew; else docs/model.json's samples are used")
    parser.add_argument("--quiet", metavar="FILE", type=Path, help="made for as long as times are measured")
    args = parser.parse_args(argv)
    kept = ROOT / "docs" / "model.json"
    if args.record:
        data = recorded(alone(args.quiet) if args.quiet else nullcontext())
    else:
        data = json.loads(kept.read_text(encoding="utf-8"))
    data = fit(data)
    listed = ",\n".join("  " + json.dumps(s, ensure_ascii=False) for s in data.pop("samples"))
    head = json.dumps(data, indent=1, ensure_ascii=False)[:-2]
    kept.write_text(f'{head},\n "samples": [\n{listed}\n ]\n}}\n', encoding="utf-8")
    text = page(json.loads(kept.read_text(encoding="utf-8")))
    kept.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
