"""Writes docs/matmul.md: one product of matrices from the naive nest to the limit, a schedule step at a time.

``STEPS`` are data: schedule steps as they are written in Python, so that the page shows what ran. Each nest is the one
that was compiled and timed, each share is of the multiply-adds this machine can do on as many threads.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rangekit as rk
from benchmarks.products import matmul
from benchmarks.report import table
from benchmarks.worker import timed
from benchmarks.workload import error
from rangekit import machine
from rangekit.machine import Limits


@dataclass(frozen=True)
class Step:
    """A schedule and why; ``schedule`` lists all its steps, those of earlier ``Step``s too."""

    title: str
    why: str
    schedule: tuple[str, ...] = ()

    @property
    def threaded(self) -> bool:
        """Whether it runs on all threads."""
        return any(step.startswith("rk.thread") for step in self.schedule)


BLOCKS = ('rk.tile("i", 64)', 'rk.tile("j", 1032)', 'rk.upcast("i.t", 4)', 'rk.upcast("j.t", 24)',
          'rk.tile("k", 512)', 'rk.unroll("k.t", 4)', 'rk.reorder("j", "k", "i", "j.t", "i.t")')  # fmt: skip
PACK_A, PACK_B = 'rk.stage("a", at="i")', 'rk.stage("b", at="k")'

STEPS = (
    Step(
        "As written",
        "Three loops, as the ranges say. Each step of k waits for the addition before it, and b is read down a column: "
        "a new cache line for every multiplication.",
    ),
    Step(
        "Vectors along j",
        "Neighbouring elements of a row of the result need neighbouring elements of b and the same element of a. So "
        "they run in step, as lanes: several sums no longer wait for one another, and b is read along its rows.",
        ('rk.upcast("j", 24)',),
    ),
    Step(
        "A register tile",
        "Rows of the result in step, too: each vector of b is now used four times and each element of a three times "
        "while they are in registers. Twelve independent sums keep both multiply-add units busy through their latency.",
        ('rk.upcast("i", 4)', 'rk.upcast("j", 24)'),
    ),
    Step(
        "Four steps of k at once",
        "The tile's loop is so short that counting and jumping weigh. Writing four iterations out shares that among "
        "them, and more would only be more code.",
        ('rk.upcast("i", 4)', 'rk.upcast("j", 24)', 'rk.unroll("k", 4)'),
    ),
    Step(
        "Blocks for the caches",
        "A tile's operands come from memory again and again, because whole rows and columns do not stay in the caches. "
        "With blocks, a panel of b stays in the first caches and a block of a in the second while they are used.",
        BLOCKS,
    ),
    Step(
        "b packed",
        "The rows of a panel of b lie far apart: each is on another page, and they compete for the same places in the "
        "cache. A copy in the order of use is read as one stream, and costs little beside how often it is used.",
        (*BLOCKS, PACK_B),
    ),
    Step(
        "a packed",
        "The same for a: the four rows of a tile lie a row apart. Copied side by side, they are one stream as well.",
        (*BLOCKS, PACK_A, PACK_B),
    ),
    Step(
        "The result asked for early",
        "A tile ends by adding to the result, which has left the caches since the last block of k. Asking for its "
        "lines when the tile begins hides the wait.",
        (*BLOCKS, 'rk.prefetch("out")', PACK_A, PACK_B),
    ),
    Step(
        "All threads",
        "Blocks of rows depend on nothing but their operands. Threads take them in turn and share the packed b; each "
        "packs its own a.",
        (*BLOCKS, 'rk.prefetch("out")', 'rk.thread("i")', PACK_A, PACK_B),
    ),
)


@dataclass(frozen=True)
class Measured:
    """A step's nest as text, its seconds, and its rate in GFLOP/s with the limit's beside it."""

    step: Step
    nest: str
    seconds: float
    rate: float
    limit: float

    @property
    def share(self) -> float:
        """The rate as a share of the limit."""
        return self.rate / self.limit


def steps_of(schedule: Sequence[str]) -> tuple[Any, ...]:
    """The schedule steps that these expressions mean."""
    return tuple(eval(expression, {"rk": rk}) for expression in schedule)


def measure(step: Step, size: int, turns: int, limits: Limits) -> Measured:
    """Compile, check and time one step. ``AssertionError`` if the product is wrong."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    kernel: Any = rk.kernel(matmul)
    kernel = kernel.schedule(*steps_of(step.schedule))
    out = kernel(a, b)
    worst = error((out,), (a.astype(np.float64) @ b.astype(np.float64),))
    assert worst < 2e-5, f"{step.title}: the product is off by {worst:.1e}"
    seconds = statistics.median(_turns(functools.partial(kernel, a, b, out=out), turns))
    limit = limits.fma_all if step.threaded else limits.fma_1
    return Measured(step, str(kernel.lower(a, b)), seconds, 2 * size**3 / seconds / 1e9, limit)


def _turns(call: Callable[[], Any], turns: int) -> list[float]:
    samples = []
    for _ in range(turns):
        time.sleep(0.15)
        samples.append(timed(call))
    return samples


def page(rows: Sequence[Measured], size: int, limits: Limits) -> str:
    """The Markdown page."""
    lines = [
        "# A product of matrices, from the naive nest to the limit",
        "",
        f"`rk.sum(a[i, k] * b[k, j], k)` for float32 matrices of {size} × {size}: one meaning, and a schedule that "
        "grows by one idea at a time. A schedule changes order and place, never the result. Written by "
        "`python -m benchmarks.matmul_steps`.",
        "",
        f"Measured on {limits.cpu} with {limits.cores} cores. The limit is what its multiply-add units can do: "
        f"{limits.fma_1:.0f} GFLOP/s on one thread, {limits.fma_all:.0f} on all.",
        "",
        *table(
            ["step", "ms", "GFLOP/s", "share of the limit"],
            [[f"{n}. {m.step.title}", f"{m.seconds * 1e3:.1f}", f"{m.rate:.1f}", f"{m.share:.0%}"]
             for n, m in enumerate(rows)],
        ),
    ]  # fmt: skip
    for n, m in enumerate(rows):
        lines += ["", f"## {n}. {m.step.title}", "", m.step.why]
        if m.step.schedule:
            lines += ["", "```python", "kernel.schedule(", *(f"    {s}," for s in m.step.schedule), ")", "```"]
        lines += ["", "```text", m.nest.rstrip(), "```", "", f"{m.rate:.1f} GFLOP/s, {m.share:.0%} of the limit."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure every step and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matmul_steps", description="Writes docs/matmul.md.")
    parser.add_argument("--size", type=int, default=1024, help="rows and columns (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each step (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=Path(__file__).parent.parent / "docs" / "matmul.md")
    args = parser.parse_args(argv)
    limits = machine.keep(machine.measure())
    rows = []
    for step in STEPS:
        rows.append(measure(step, args.size, args.turns, limits))
        print(f"{step.title}: {rows[-1].rate:.1f} GFLOP/s, {rows[-1].share:.0%} of the limit", flush=True)
    args.page.write_text(page(rows, args.size, limits), encoding="utf-8")
    print(f"written: {args.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
