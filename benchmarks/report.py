"""What came out of the races: tables for people, and every sample as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.race import Row
from rangekit.machine import Limits

MODES = {"fresh": "With a fresh result each call", "into": "Into memory that exists (`out=`)"}


@dataclass(frozen=True)
class Report:
    """A run: the machine, what ran on it, and the rows."""

    limits: Limits
    versions: dict[str, str]
    commit: str
    options: dict[str, Any]
    rows: list[Row]

    def json(self) -> str:
        """Everything, every sample in seconds."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """The tables: medians, rangekit beside the best peer, and its share of the machine's limit."""
        peers = list(self.rows[0].times) if self.rows else []
        threads = self.options.get("threads")
        lines = [
            "# Benchmarks",
            "",
            f"{self.limits.cpu}, {self.limits.cores} cores, {threads} threads each; commit {self.commit}; "
            + ", ".join(f"{p} {v}" for p, v in self.versions.items())
            + ".",
            "",
            "Medians. *Ratio* is the best peer's time over rangekit's: above 1, rangekit is faster; 0.95 to 1.05 is a "
            "tie. *Share* is the least time that this machine's measured limits allow over rangekit's time.",
        ]
        for mode, title in MODES.items():
            body = [_cells(row, mode, peers) for row in self.rows]
            body = [cells for cells in body if any(c != "" for c in cells[1 : 1 + len(peers)])]
            if body:
                lines += ["", f"## {title}", "", *table(["workload", *peers, "ratio", "limit", "share"], body)]
        lines += ["", "## First calls", "", "Compilation and the first call.", ""]
        lines += table(["workload", *peers], [[r.name, *(shown(r.times[p].first) for p in peers)] for r in self.rows])
        gaps = [f"- {r.name}: {p}: {t.gap}" for r in self.rows for p, t in r.times.items() if t.gap]
        if gaps:
            lines += ["", "## Gaps", "", *gaps]
        lines += ["", "## The machine", "", "```text", str(self.limits), "```", ""]
        return "\n".join(lines)


def ratio(row: Row, mode: str) -> float | None:
    """The best peer's median over rangekit's; None where one of them is missing."""
    ours = row.times["rangekit"].median(mode) if "rangekit" in row.times else None
    theirs = [m for p, t in row.times.items() if p != "rangekit" and (m := t.median(mode)) is not None]
    return min(theirs) / ours if ours and theirs else None


def share(row: Row, mode: str) -> float | None:
    """The least seconds possible over rangekit's median."""
    ours = row.times["rangekit"].median(mode) if "rangekit" in row.times else None
    return row.bound / ours if ours and row.bound else None


def _cells(row: Row, mode: str, peers: Sequence[str]) -> list[str]:
    medians = {p: row.times[p].median(mode) for p in peers}
    best = min((m for m in medians.values() if m is not None), default=None)
    cells = [f"**{shown(m)}**" if m is not None and m == best else shown(m) for m in medians.values()]
    r, s = ratio(row, mode), share(row, mode)
    return [row.name, *cells, f"{r:.2f}×" if r else "", shown(row.bound), f"{s:.0%}" if s else ""]


def shown(seconds: float | None) -> str:
    """Three digits and a unit.

    >>> shown(0.0123), shown(2.5e-6), shown(61.0), shown(None)
    ('12.3 ms', '2.50 µs', '61.0 s', '')
    """
    if seconds is None:
        return ""
    value, unit = (seconds * 1e6, "µs") if seconds < 1e-4 else (seconds * 1e3, "ms") if seconds < 10 else (seconds, "s")
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {unit}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *body)]
