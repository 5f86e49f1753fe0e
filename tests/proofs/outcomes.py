"""Prints what becomes of every kernel of the tables: how each access is proved, or the message of the refusal."""

from __future__ import annotations

import json

import rangekit as rk
from tests.proofs.tables import RIGHT, WRONG, Right, Wrong
from tests.proofs.test_tables import arguments


def outcome(row: Right | Wrong) -> object:
    try:
        kernels = rk.kernel(row.kernel, device="python").lower(*arguments(row)).kernels
    except rk.RangekitError as err:
        return err.message
    return [(p.access, p.axis, p.status, p.by) for k in kernels for p in k.proofs]


if __name__ == "__main__":
    print(json.dumps({row.name: outcome(row) for row in (*RIGHT, *WRONG)}))
