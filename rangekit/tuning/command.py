"""``python -m rangekit tune file.py:kernel --shapes 512x512,512x512``: search without writing a program."""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rangekit.errors import ArgumentError
from rangekit.ir.dtype import STORED, dtype_named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("kernel", help="file.py:name of a kernel")
    parser.add_argument("--shapes", required=True, help="one for each argument: 512x512,512 (and =0.5 for a number)")
    parser.add_argument("--dtypes", default="float32", help="one for each array, or one for all (default: float32)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to search (default: 30)")
    parser.add_argument("--beam", type=int, default=4, help="schedules followed at once (default: 4)")
    parser.add_argument("--save", type=Path, help="where the schedule goes, as JSON; one file a launch")


def run(args: argparse.Namespace) -> int:
    """Search, print what was found; 0 if the search ended in any way, 2 for arguments that make no sense."""
    try:
        kernel = found(args.kernel)
        arrays = arguments(args.shapes, args.dtypes)
    except ArgumentError as err:
        print(f"{err.message}: {err.help}")
        return 2
    tuned = kernel.tune(*arrays, seconds=args.seconds, beam=args.beam)
    print(tuned.tuned)
    if args.save is not None:
        nests = tuned.tuned.nests
        for nest in nests:
            path = args.save if len(nests) == 1 else args.save.with_suffix(f".{nest.name}{args.save.suffix}")
            nest.schedule.save(path)
            print(f"saved {path}")
    return 0


def found(name: str) -> Any:
    """The kernel that ``file.py:name`` names; ``ArgumentError`` if there is none."""
    path, colon, kernel = name.rpartition(":")
    if not colon or not Path(path).is_file():
        raise ArgumentError(f"there is no file {path or name}", help="write file.py:kernel")
    made = runpy.run_path(path)
    one = made.get(kernel)
    if not hasattr(one, "tune"):
        there = ", ".join(sorted(n for n, v in made.items() if hasattr(v, "tune"))) or "none"
        raise ArgumentError(f"{path} has no kernel {kernel!r}", help=f"its kernels: {there}")
    return one


def arguments(shapes: str, dtypes: str) -> list[Any]:
    """Random arrays of shapes and dtypes in the command line's words.

    Integers are from 0 to the least size of any axis, so that they can be indices.

    >>> [a.shape for a in arguments("2x3,4", "float32,int64")[:2]]
    [(2, 3), (4,)]
    """
    words = [word.strip() for word in shapes.split(",")]
    try:
        sizes = [None if w.startswith("=") else tuple(int(n) for n in w.split("x")) for w in words]
        names = [dtype_named(d.strip()) for d in dtypes.split(",")]
    except (ValueError, KeyError) as err:
        known = ", ".join(d.name for d in STORED)
        raise ArgumentError(f"{err} is no size or dtype", help=f"sizes as 512x512; one of {known}") from None
    arrays = sum(s is not None for s in sizes)
    if len(names) not in (1, arrays):
        raise ArgumentError(f"{len(names)} dtypes for {arrays} arrays", help="one for each, or one for all")
    given = iter(names if len(names) == arrays else names * arrays)
    least = min((n for s in sizes if s for n in s), default=1)
    return [_number(w[1:]) if s is None else _random(s, next(given), least) for w, s in zip(words, sizes, strict=True)]


def _number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        raise ArgumentError(f"{word!r} is no number", help="=2 or =0.5") from None


def _random(shape: Sequence[int], dtype: Any, least: int) -> Any:
    draw = np.random.default_rng(0)
    if dtype.is_float:
        return draw.standard_normal(shape).astype(dtype.numpy)
    return draw.integers(0, 2 if dtype.kind == "b" else min(least, dtype.max + 1), shape).astype(dtype.numpy)
