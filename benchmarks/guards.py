"""Writes benchmarks/results/guards.md: what it costs to test each index that data brings.

Each program runs three ways on the same data: with a guard, which is the default; with ``in_range``, a promise that is
tested once; and with the lowest bits of the index taken, which proves it and so tests nothing. A guard's cost is its
time against that of the proved one. The three take turns, in one process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.report import table
from benchmarks.worker import timed
from rangekit import machine

PAGE = Path(__file__).parent / "results" / "guards.md"
WAYS: dict[str, Callable[[Any, int], Any]] = {
    "guarded": lambda i, n: i,
    "promised": lambda i, n: i.in_range(0, n),
    "proved": lambda i, n: i & (n - 1),  # n is a power of 2
}


def embedding(sure: Callable[[Any], Any]) -> Callable[..., Any]:
    """Rows of a table at indices."""

    def kernel(table: Any, ids: Any) -> Any:
        n, d = rk.Range(ids.shape[0], "n"), rk.Range(table.shape[1], "d")
        return rk.bufferize(table[sure(ids[n]), d], n, d)

    return kernel


def gather(sure: Callable[[Any], Any]) -> Callable[..., Any]:
    """Single elements at indices: nothing but the index and its test."""

    def kernel(x: Any, ids: Any) -> Any:
        n = rk.Range(ids.shape[0], "n")
        return rk.bufferize(x[sure(ids[n])], n)

    return kernel


def bags(sure: Callable[[Any], Any]) -> Callable[..., Any]:
    """Sums of a few rows each."""

    def kernel(table: Any, ids: Any) -> Any:
        n, k = rk.Range(ids.shape[0], "n"), rk.Range(ids.shape[1], "k")
        d = rk.Range(table.shape[1], "d")
        return rk.bufferize(rk.sum(table[sure(ids[n, k]), d], k), n, d)

    return kernel


def counts(sure: Callable[[Any], Any]) -> Callable[..., Any]:
    """A histogram."""

    def kernel(zeros: Any, ids: Any) -> Any:
        n = rk.Range(ids.shape[0], "n")
        return rk.scatter(rk.zeros(zeros.shape[0]), sure(ids[n]), 1.0, n)

    return kernel


PROGRAMS: tuple[tuple[str, Callable[..., Any], tuple[int, ...], tuple[int, ...]], ...] = (
    ("embedding, 8192 of 32768×1024", embedding, (32768, 1024), (8192,)),
    ("embedding, 65536 of 32768×64", embedding, (32768, 64), (65536,)),
    ("bags of 16 rows, 4096 of 32768×128", bags, (32768, 128), (4096, 16)),
    ("elements, 4 M of 32768", gather, (32768,), (1 << 22,)),
    ("elements, 4 M of 16 M", gather, (1 << 24,), (1 << 22,)),
    ("histogram, 16 M into 256", counts, (256,), (1 << 24,)),
)


def measure(made: Callable[..., Any], shape: tuple[int, ...], wanted: tuple[int, ...], turns: int) -> dict[str, float]:
    """Median seconds of each way; raises if their results differ or they are not tested as they should be."""
    rng = np.random.default_rng(0)
    x, ids = rng.random(shape, np.float32), rng.integers(0, shape[0], wanted)
    kernels = {way: rk.kernel(made(lambda i, f=f: f(i, shape[0]))) for way, f in WAYS.items()}
    results = {way: k(x, ids) for way, k in kernels.items()}
    for way, k in kernels.items():
        found = {p.status for n in k.lower(x, ids).kernels for p in n.proofs}
        assert found <= {"proved", {"guarded": "guarded", "promised": "assumed", "proved": "proved"}[way]}, (way, found)
        assert np.array_equal(results[way], results["proved"]), way
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(turns):
        for way, k in kernels.items():
            times[way].append(timed(lambda k=k, out=results[way]: k(x, ids, out=out)))
    return {way: statistics.median(t) for way, t in times.items()}


def page(rows: list[tuple[str, dict[str, float]]], turns: int) -> str:
    """The report."""
    cells = [
        [name, *(f"{1000 * t[way]:.2f} ms" for way in WAYS), *(f"{100 * (t[way] / t['proved'] - 1):+.0f} %" for way in
         ("guarded", "promised"))]
        for name, t in rows
    ]  # fmt: skip
    head = ["program", *WAYS, "guard's cost", "promise's cost"]
    return f"""# What guards cost

Made by `python -m benchmarks.guards` on {machine.cpu_name()}, {rk.get_num_threads()} threads: medians of {turns} turns,
into memory that exists. An index that data brings is tested where it is used, unless it is promised (`in_range`, tested
in a loop of its own) or proved (here by taking its lowest bits).

{chr(10).join(table(head, cells))}
"""


def main(argv: list[str] | None = None) -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description="what it costs to test indices")
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args(argv)
    rows = []
    for name, made, shape, wanted in PROGRAMS:
        rows.append((name, measure(made, shape, wanted, args.turns)))
        print(rows[-1], flush=True)
    PAGE.write_text(page(rows, args.turns), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
