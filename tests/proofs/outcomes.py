"""Prints what becomes of every kernel of the tables (how each access is proved, or the message of the refusal), and of
random ones.
"""

from __future__ import annotations

import json
import random

import rangekit as rk
from tests.lower.test_uses import Data, number, program
from tests.proofs.tables import RIGHT, WRONG, Right, Wrong
from tests.proofs.test_tables import arguments


def outcome(row: Right | Wrong) -> object:
    try:
        kernels = rk.kernel(row.kernel, device="python").lower(*arguments(row)).kernels
    except rk.RangekitError as err:
        return err.message
    return [(p.access, p.axis, p.status, p.by) for k in kernels for p in k.proofs]


def conditional(seed: int) -> object:
    """The loops of a random program with accesses under conditions."""
    draw = random.Random(seed)
    tree = number(draw, 4)
    low = rk.kernel(program(tree), device="python").lower(*Data(draw, None).arrays())
    return [str(k) for k in low.kernels]


if __name__ == "__main__":
    found = {row.name: outcome(row) for row in (*RIGHT, *WRONG)}
    print(json.dumps({**found, **{f"conditions, seed {seed}": conditional(seed) for seed in range(60)}}))
