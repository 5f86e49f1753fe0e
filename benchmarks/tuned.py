"""``python -m benchmarks.tuned``: what tuning adds to the default schedule, over the table and over unseen kernels.

Writes ``tuned.md`` and ``tuned.json``: for each kernel the milliseconds by default and tuned, and what share of the
gain was there after some seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rangekit as rk
from benchmarks.__main__ import WORKLOADS, commit
from benchmarks.report import table
from benchmarks.unseen import UNSEEN
from benchmarks.workload import Draw

AFTER = (5.0, 15.0, 30.0, 60.0)  # seconds


@dataclass(frozen=True)
class Row:
    """One kernel: seconds a call, and the best found against the seconds of search it took."""

    name: str
    unseen: bool
    default: float
    tuned: float
    tried: int
    rejected: dict[str, int]
    history: list[tuple[float, float]]
    schedule: list[str]

    def share(self, after: float) -> float:
        """Of the final gain, what was there after so many seconds; 1 where there is none."""
        gain = self.default - self.tuned
        best = min((t for at, t in self.history if at <= after), default=self.default)
        return (self.default - best) / gain if gain > 0 else 1.0


def measured(name: str, fn: Callable[..., Any], args: Sequence[Any], unseen: bool, seconds: float) -> Row:
    """Tune one kernel."""
    report = rk.kernel(fn).tune(*args, seconds=seconds).tuned
    assert report is not None
    rejected: Counter[str] = Counter()
    for nest in report.nests:
        rejected.update(nest.rejected)
    times = sorted({at for nest in report.nests for at, _ in nest.history})
    history = [(at, sum(best_at(nest, at) for nest in report.nests)) for at in times]
    return Row(name, unseen, report.default, report.best, sum(n.tried for n in report.nests), dict(rejected), history,
               [repr(step) for nest in report.nests for step in nest.schedule])  # fmt: skip


def best_at(nest: Any, at: float) -> float:
    """The best seconds of a call that a nest's search had found by then."""
    return next((best for when, best in reversed(nest.history) if when <= at), nest.default)


def markdown(rows: Sequence[Row], seconds: float) -> str:
    """The report."""
    seen = [r for r in rows if not r.unseen]
    fresh = [r for r in rows if r.unseen]
    machine = (
        f"{platform.processor() or platform.machine()} with {os.cpu_count()} cores, {rk.get_num_threads()} threads"
    )
    out = ["# Tuned against the default schedule", "", f"Measured on {machine}, {seconds:g} s of search a kernel, "
           f"commit {commit()}.", ""]  # fmt: skip
    for title, part in (("The table's kernels", seen), ("Kernels that no table, test or fit has seen", fresh)):
        if not part:
            continue
        shares = [r.tuned / r.default for r in part]
        out += [f"## {title}", "", f"The default reaches {statistics.median(shares):.2f} of tuned at the median, "
                f"{min(shares):.2f} at worst.", ""]  # fmt: skip
        head = ["kernel", "default ms", "tuned ms", "default / tuned", "tried",
                *(f"gain after {s:g} s" for s in AFTER if s <= seconds)]  # fmt: skip
        body = [[r.name, f"{1e3 * r.default:.3g}", f"{1e3 * r.tuned:.3g}", f"{r.tuned / r.default:.2f}", str(r.tried),
                 *(f"{r.share(s):.0%}" for s in AFTER if s <= seconds)] for r in part]  # fmt: skip
        out += [*table(head, body), ""]
    return "\n".join(out)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuned", description="Tuned against the default.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of search a kernel (default: %(default)s)")
    parser.add_argument("--only", default="", help="kernels whose names contain one of these, comma-separated")
    parser.add_argument("--unseen", action="store_true", help="only the unseen kernels")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    args = parser.parse_args(argv)
    wanted = args.only.split(",")
    todo = [] if args.unseen else [(w.name, w.rangekit, w.arguments, False) for w in WORKLOADS]
    todo += [(u.name, u.fn, lambda u=u: u.inputs(Draw()), True) for u in UNSEEN]  # type: ignore[misc]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RANGEKIT_CACHE_DIR"] = folder  # a search that starts from nothing
        for name, fn, inputs, unseen in todo:
            if any(part in name for part in wanted):
                row = measured(name, fn, inputs(), unseen, args.seconds)
                rows += [row] if row.default else []  # of work too small to tune nothing is measured
                print(f"{name}: {1e3 * row.default:.3g} ms, tuned {1e3 * row.tuned:.3g} ms, {row.tried} tried, "
                      f"{row.schedule}", flush=True)  # fmt: skip
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "tuned.json").write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    (args.results / "tuned.md").write_text(markdown(rows, args.seconds), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
