"""``python -m benchmarks``: race the workloads and write the tables."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.arrays import ARRAYS
from benchmarks.loops import LOOPS
from benchmarks.moe import MIXTURES
from benchmarks.networks import NETWORKS
from benchmarks.peers import PEERS, USUAL
from benchmarks.products import PRODUCTS
from benchmarks.programs import PROGRAMS
from benchmarks.race import Race, Rules
from benchmarks.report import MODES, Report, ratio, share, shown
from benchmarks.workload import bound
from rangekit import machine

WORKLOADS = (*PRODUCTS, *ARRAYS, *NETWORKS, *MIXTURES, *LOOPS, *PROGRAMS)
KEEP_BLOCKS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 26)}


def commit() -> str:
    """The commit that runs, marked if files differ from it."""
    try:
        args = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(args, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="rangekit beside its peers and limits.")
    parser.add_argument("--only", default="", help="workloads whose names contain one of these, comma-separated")
    parser.add_argument("--peers", default=",".join(USUAL), help=f"of {', '.join(PEERS)}; rangekit always runs")
    parser.add_argument("--turns", type=int, default=9, help="turns of each peer (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each peer (default: %(default)s)")
    parser.add_argument("--rest", type=float, default=0.15, help="seconds between turns (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a peer is given up")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one turn: does everything run?")
    parser.add_argument("--keep-blocks", action="store_true", help="glibc keeps freed memory, for every peer")
    parser.add_argument("--list", action="store_true", help="only the workloads' names")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    args = parser.parse_args(argv)
    args.peers = list(dict.fromkeys(["rangekit", *filter(None, args.peers.split(","))]))
    unknown = [p for p in args.peers if p not in PEERS]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}: there are {', '.join(PEERS)}")
    args.workloads = [w for w in WORKLOADS if not args.only or any(part in w.name for part in args.only.split(","))]
    if not args.workloads:
        parser.error(f"no workload is named like {args.only!r}: see --list")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the races, print each as it ends, write Markdown and JSON."""
    args = parsed(argv)
    if args.list:
        print("\n".join(w.name for w in args.workloads))
        return 0
    limits = machine.limits() if args.quick else machine.keep(machine.measure())  # kept ones may be of a busy hour
    caches = machine.cache_bytes()
    extra = KEEP_BLOCKS if args.keep_blocks else {}
    rules = Rules(args.threads, 1 if args.quick else args.turns, args.rest, args.limit, extra)
    rows = []
    with Race(args.peers, rules) as race:
        for w in args.workloads:
            row = race.run(w, w.tiny if args.quick else None, print)
            row.bound = bound(w, row.sizes, row.read, row.written, limits, caches)
            rows.append(row)
            for mode in MODES:
                medians = [f"{p} {shown(t.median(mode))}" for p, t in row.times.items() if t.median(mode) is not None]
                r, s = ratio(row, mode), share(row, mode)
                verdict = (f"; {r:.2f}×" if r else "") + (f"; {s:.0%} of the limit" if s else "")
                if medians:
                    print(f"{w.name} ({mode}): {', '.join(medians)}{verdict}", flush=True)
        versions = race.versions
    report = Report(limits, versions, commit(), {**asdict(rules), "quick": args.quick}, rows)
    args.results.mkdir(parents=True, exist_ok=True)
    name = "quick" if args.quick else "results"
    (args.results / f"{name}.json").write_text(report.json(), encoding="utf-8")
    (args.results / f"{name}.md").write_text(report.markdown(), encoding="utf-8")
    print(f"written: {args.results / name}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
