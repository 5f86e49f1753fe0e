"""Random index programs: what is simplified is what it was, and bounds and proofs are true, at every point.

``python scripts/fuzz.py --seconds 600 [--seed N]``. Prints the seeds tried; the first that fails is printed with its
expression, and the exit status is 1. A seed gives one expression for ever, so a failure is repeated with ``--seed``.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.show import expression
from rangekit.ir.symbolic import simplify
from rangekit.ir.uop import UOp, by_uid, cast, new_range
from rangekit.lower.proof import conjuncts, proof
from tests.ir import conftest as exprs

Array = np.ndarray[Any, np.dtype[Any]]


def over(n: UOp, ranges: tuple[UOp, ...]) -> Array:
    """The value at every iteration of all ranges."""
    own = by_uid(n.ranges)
    shape = [r.extent if r in own else 1 for r in ranges]
    return np.broadcast_to(evaluate(n, {}).reshape(shape), [r.extent for r in ranges])


def broken(seed: int) -> str | None:
    """What is wrong with the expression of a seed, None if nothing is."""
    draw = random.Random(seed)
    if seed % 5 == 4:
        ranges = [new_range(256), new_range(3)]
        leaves = [cast(r, draw.choice((dt.int8, dt.uint8))) for r in ranges[:1]]
        root = exprs.machine_expr(draw, leaves, draw.randint(1, 4))
    else:
        ranges = [new_range(draw.choice((1, 2, 3, 5, 7, 8, 12))) for _ in range(draw.randint(1, 3))]
        make = exprs.bool_expr if seed % 5 == 3 else exprs.index_expr
        leaves = [*ranges, reduced(draw, ranges)] if seed % 7 == 6 else ranges
        root = make(draw, leaves, draw.randint(1, 5))
    order = by_uid(ranges)
    want = over(root, order)
    short = simplify(root)
    if not np.array_equal(over(short, order), want):
        return f"simplified to {expression(short)}"
    for n in (root, short):
        lo, hi = bounds(n)
        if not (lo <= int(want.min()) and int(want.max()) <= hi):
            return f"bounds {lo}..{hi}, values {want.min()}..{want.max()}"
    if root.dtype is dt.index:
        return under_a_condition(draw, root, want, order)
    return None


def reduced(draw: random.Random, ranges: list[UOp]) -> UOp:
    """A reduction over one of the ranges, which outside of it is any other."""
    body = exprs.index_expr(draw, ranges, draw.randint(1, 2))
    return UOp(Op.REDUCE, dt.index, (body, draw.choice(ranges)), draw.choice(("max", "min", "add")))


def under_a_condition(draw: random.Random, root: UOp, want: Array, order: tuple[UOp, ...]) -> str | None:
    """The same where a condition holds: a gate keeps the value, a proof is true."""
    gate = exprs.bool_expr(draw, list(order), 2)
    held = over(gate, order).astype(bool)
    gated = UOp(Op.WHERE, dt.index, (gate, root, UOp(Op.INVALID, dt.index)))
    short = simplify(gated)
    there = over(short, order) if short.op is not Op.INVALID else np.full(want.shape, np.iinfo(np.int64).min)
    if not np.array_equal(there[held], want[held]) or (there[~held] != np.iinfo(np.int64).min).any():
        return f"under {expression(gate)}: simplified to {expression(short)}"
    size = draw.choice((int(want.max(initial=0)) + 1, int(want.max(initial=0)), 4, 9))
    if size > 0 and proof(root, size, conjuncts(gate)) is not None and held.any():
        values = want[held]
        if values.min() < 0 or values.max() >= size:
            return f"under {expression(gate)}: proved inside {size}, is {values.min()}..{values.max()}"
    return None


def main(argv: list[str] | None = None) -> int:
    """Try seeds until the time is over."""
    parser = argparse.ArgumentParser(description="random index programs, simplified and enumerated")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="only this one")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    args = parser.parse_args(argv)
    end, seed = time.monotonic() + args.seconds, args.first if args.seed is None else args.seed
    while True:
        wrong = broken(seed)
        if wrong is not None:
            print(f"seed {seed}: {wrong}", file=sys.stderr)
            return 1
        seed += 1
        if args.seed is not None or time.monotonic() > end:
            print(f"seeds {args.first if args.seed is None else args.seed}..{seed - 1}: nothing wrong")
            return 0


if __name__ == "__main__":
    sys.exit(main())
