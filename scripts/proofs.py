"""How every access that the test suite compiles is known to be inside its array, and what finding out costs.

``python scripts/proofs.py [test paths]`` runs the tests in this process, looks at every program they make, and writes
``docs/proofs.md``. Only accesses whose index is not a bare range are counted; a program is counted once.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rangekit.ir.nest import Access
from rangekit.program import Program

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "proofs.md"


class Watcher:
    """What the programs of a test run say."""

    def __init__(self) -> None:
        self.how: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}  # whether data is in the index
        self.shares: list[float] = []
        self.checks: list[tuple[float, str]] = []
        self.seen: set[tuple[Any, ...]] = set()

    def look(self, program: Program) -> None:
        accesses = [a for nest in program.lowered.nests for a in nest.accesses]
        seconds = program.seconds
        check = seconds["check"] + seconds["counts"]
        self.shares.append(check / sum(seconds.values()))
        self.checks.append((check, os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]))
        key = tuple((a.access, a.axis, a.size, a.status, a.by) for a in accesses)
        if key in self.seen:
            return
        self.seen.add(key)
        for a in accesses:
            index = of_axis(a)
            if a.by != "unique" and not a.access.startswith("in_range(") and not bare(index):
                self.how["[" in index][a.by or "guard"] += 1


def of_axis(a: Access) -> str:
    """The index of an access's axis, as text."""
    inside = a.access.partition("[")[2].rpartition("]")[0]
    parts, depth = [""], 0
    for c in inside:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return parts[a.axis].strip() if a.axis < len(parts) else ""


def bare(index: str) -> bool:
    """Whether an index is a range by itself."""
    return index.isidentifier() or index in ("", ":")


def rows(how: Counter[str]) -> str:
    """The lines of a table."""
    total = sum(how.values())
    return "\n".join(f"| {name} | {n} | {100 * n / total:.1f} % |" for name, n in how.most_common())


def page(found: Watcher) -> str:
    """The report."""
    worst = "\n".join(f"| `{where}` | {1000 * s:.0f} ms |" for s, where in sorted(found.checks, reverse=True)[:5])
    return f"""# How accesses are proved

Made by `make proofs`: every program that the test suite compiles, each counted once, and every access in them whose
index is not a bare range. The index of some is made of ranges, sizes and states of loops:

| by | accesses | share |
| --- | ---: | ---: |
{rows(found.how[False])}

There is data in that of others. They are proved where something bounds it, a contract says so, or a guard tests:

| by | accesses | share |
| --- | ---: | ---: |
{rows(found.how[True])}

Checking takes {100 * statistics.median(found.shares):.1f} % of a compilation at the median of {len(found.shares)}
programs, and {100 * sorted(found.shares)[int(0.95 * len(found.shares))]:.0f} % at the 95th percentile. Z3's import is
not in these numbers. It took longest in

| test | checking |
| --- | ---: |
{worst}
"""


def main(paths: list[str]) -> int:
    """Run the tests and write the page."""
    import z3  # noqa: F401

    watcher = Watcher()
    made = Program.__init__

    def init(self: Program, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        watcher.look(self)

    Program.__init__ = init  # type: ignore[method-assign]
    status = pytest.main(["-q", "-p", "no:cacheprovider", *(paths or [str(ROOT / "tests")])])
    PAGE.write_text(page(watcher), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
