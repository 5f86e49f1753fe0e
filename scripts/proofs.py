"""How every access that the test suite compiles is known to be inside its array, and what finding out costs.

``python scripts/proofs.py [test paths]`` runs the tests in this process, looks at every program they make, and writes
``docs/proofs.md``. Only accesses whose index is not a bare range are counted; a program is counted once.
"""

from __future__ import annotations

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
        self.how: Counter[str] = Counter()
        self.shares: list[float] = []
        self.checks: list[tuple[float, str]] = []
        self.seen: set[tuple[Any, ...]] = set()

    def look(self, program: Program) -> None:
        accesses = [a for nest in program.lowered.nests for a in nest.accesses]
        seconds = program.seconds
        check = seconds["check"] + seconds["counts"]
        self.shares.append(check / sum(seconds.values()))
        first = accesses[0].access if accesses else "nothing"
        self.checks.append((check, first))
        key = tuple((a.access, a.axis, a.size, a.status, a.by) for a in accesses)
        if key in self.seen:
            return
        self.seen.add(key)
        for a in accesses:
            if a.by != "unique" and a.size and not bare(a):  # a promise is no access
                self.how[a.by or "guard"] += 1


def bare(a: Access) -> bool:
    """Whether the index of an access is a range by itself."""
    inside = a.access.partition("[")[2].rpartition("]")[0]
    parts, depth = [""], 0
    for c in inside:
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    part = parts[a.axis].strip() if a.axis < len(parts) else ""
    return part.isidentifier() or part in ("", ":")


def page(found: Watcher) -> str:
    """The report."""
    total = sum(found.how.values())
    rows = "\n".join(f"| {name} | {n} | {100 * n / total:.1f} % |" for name, n in found.how.most_common())
    worst, where = max(found.checks)
    return f"""# How accesses are proved

Made by `make proofs`: every program that the test suite compiles, each counted once, and every access in them whose
index is not a bare range. "guard" and "contract" stand for data that decides, in programs that are about just that.

| by | accesses | share |
| --- | ---: | ---: |
{rows}

Checking takes {100 * statistics.median(found.shares):.1f} % of a compilation at the median of {len(found.shares)}
programs, and {100 * sorted(found.shares)[int(0.95 * len(found.shares))]:.0f} % at the 95th percentile; the longest took
{1000 * worst:.0f} ms (`{where[:60]}`). Z3's import is not in these numbers.
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
