"""``python -m rangekit demo | doctor | tune | cache``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def doctor(measure: bool = False) -> int:
    """Print what this machine has and can do, and whether a kernel runs right on each device; 0 if all do.

    ``measure`` times the machine's limits anew instead of showing those that are kept.
    """
    import numpy as np

    import rangekit as rk

    print(f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores")
    for name in ("rangekit", "numpy", "ml_dtypes", "llvmlite", "z3-solver"):
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            print(f"  {name} is not installed: pip install {name}")
    from rangekit.backends.llvm import host

    print(f"  LLVM target {host()}")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    failed = 0
    for device in ("cpu", "python"):

        def row_sum(x):  # type: ignore[no-untyped-def]
            i, j = rk.ranges(3, 4)
            return rk.bufferize(rk.sum(x[i, j], j), i)

        try:
            good = bool(np.array_equal(rk.kernel(row_sum, device=device)(x), x.sum(axis=1)))
            print(f"device {device}: {'a row sum is right' if good else 'a row sum is WRONG'}")
        except Exception as err:  # the doctor reports whatever is broken
            good = False
            print(f"device {device}: {type(err).__name__}: {err}")
        failed += not good
    try:
        from rangekit import machine

        print(f"limits of {machine.keep(machine.measure()) if measure else machine.limits()}")
    except Exception as err:
        print(f"limits: {type(err).__name__}: {err}")
        failed += 1
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rangekit", description="A declarative kernel language.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="classify digits and run attention, each in one kernel, checked against NumPy"
    )
    demo.add_argument("--folder", type=Path, default=Path(), help="where the HTML page goes (default: here)")
    check = commands.add_parser("doctor", help="what this machine has, and whether kernels run right on it")
    check.add_argument("--measure", action="store_true", help="measure the machine's limits again")
    from rangekit import cache_command
    from rangekit.tuning import command

    command.add_arguments(commands.add_parser("tune", help="search for a kernel's fastest schedule"))
    cache_command.add_arguments(commands.add_parser("cache", help="what is kept on disk: list, show, clear"))
    args = parser.parse_args(argv)
    if args.command == "tune":
        return command.run(args)
    if args.command == "cache":
        return cache_command.run(args)
    if args.command == "doctor":
        return doctor(args.measure)
    from rangekit.demo import run

    run(args.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
