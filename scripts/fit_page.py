"""The page about the cost model, from the recorded data alone: docs/model.md says what docs/model.json gives.

A sample has seconds, and cycles as predicted in three ways: under the prices in force ("now"), under the fitted ones,
and under prices fitted to other kernels ("unseen").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr


def page(data: dict[str, Any]) -> str:
    """The tables, from the data alone."""
    samples = [s for s in data["samples"] if s["choice"] is not None]
    ghz = data["machine"]["ghz"]
    names = list(by_kernel(samples))
    ways = ("now", "fitted", "unseen")
    errors = {w: gaps(samples, w, ghz) for w in ways}
    per = by_kernel(samples)
    orders = {w: np.median([_order(per[name], w) for name in names]) for w in ways}
    lost = {w: losses(samples, w) for w in ways}
    lines = [
        "# The cost model against the clock", "",
        "Written by `python -m scripts.fit` from [model.json](model.json): "
        f"{len(samples)} times of {len(names)} kernels on one thread of {data['machine']['cpu']} "
        f"({data['machine']['host']}, {ghz:.2f} GHz), each kernel under several choices of loops in step. "
        "The kernels are in `scripts/fit_kernels.py`; none is a benchmark or a test.", "",
        "`fitted` prices are those whose predictions come nearest, by least squares on the logarithms of times. "
        "`unseen` is each kernel under prices fitted without it.", "",
        "| | now | fitted | unseen |", "| --- | --: | --: | --: |",
        _row("median of \\|log(predicted / measured)\\|", [f"{np.median(errors[w]):.2f}" for w in ways]),
        _row("its 90th percentile", [f"{np.percentile(errors[w], 90):.2f}" for w in ways]),
        _row("rank correlation of a kernel's schedules, median", [f"{orders[w]:.2f}" for w in ways]),
        _row("time of the choice over the best's, mean", [f"{np.mean(lost[w]):.2f}" for w in ways]),
        _row("its 90th percentile", [f"{np.percentile(lost[w], 90):.2f}" for w in ways]), "",
        "## Prices", "",
        "In cycles, but for SPLIT, a factor; as `rangekit/lower/model.py` names them. On the right, the median error "
        "and the mean time of the choice over the best's when this price alone is the fitted one.", "",
        "| price | now | fitted | error | choice |", "| --- | --: | --: | --: | --: |",
        *(_row(name, [f"{a:g}", f"{b:.3g}", f"{gap:.3f}", f"{loss:.3f}"])
          for name, (a, b, gap, loss) in data["prices"].items()), "",
        "## Kernels", "",
        "Times in µs: the default schedule's, the best measured choice's, those of the choices that the model prefers.",
        "", "| kernel | default | best | now | fitted | unseen |", "| --- | --: | --: | --: | --: | --: |",
    ]  # fmt: skip
    for name in names:
        default = next(s["seconds"] for s in data["samples"] if s["kernel"] == name and s["schedule"] == "default")
        times = [default, min(s["seconds"] for s in per[name]), *(_picked(per[name], w) for w in ways)]
        lines.append(_row(name, [f"{t * 1e6:.1f}" for t in times]))
    return "\n".join(lines) + "\n"


def _row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"


def _order(samples: Sequence[Any], way: str) -> float:
    """Spearman's rank correlation of predicted and measured; 0 for a model that cannot tell them apart."""
    said = [s[way] for s in samples]
    return float(spearmanr(said, [s["seconds"] for s in samples]).statistic) if len(set(said)) > 1 else 0.0


def _picked(samples: Sequence[Any], way: str) -> float:
    return float(min(samples, key=lambda s: s[way])["seconds"])


def losses(samples: Sequence[Any], way: str) -> list[float]:
    """For each kernel, the time of the choice that a way prefers over that of the best."""
    return [_picked(mine, way) / min(s["seconds"] for s in mine) for mine in by_kernel(samples).values()]


def gaps(samples: Sequence[Any], way: str, ghz: float) -> list[float]:
    """How far each prediction is from what was measured, on a logarithmic scale."""
    return [abs(math.log(s[way] / (s["seconds"] * ghz * 1e9))) for s in samples]


def by_kernel(samples: Sequence[Any]) -> dict[str, list[Any]]:
    """The samples of each kernel."""
    names = dict.fromkeys(s["kernel"] for s in samples)
    return {name: [s for s in samples if s["kernel"] == name] for name in names}
