"""Right kernels are accepted without a guard; wrong ones are refused with an iteration in which they are wrong."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import BoundsError, RaceError
from tests.proofs.tables import RIGHT, WRONG, Right, Wrong


def arguments(row: Right | Wrong) -> list[Any]:
    return [np.zeros(int(s[1:]), "i8") if isinstance(s, str) else np.zeros(s, "f4") for s in row.shapes]


def names(rows: list[Any]) -> list[str]:
    return [row.name for row in rows]


def test_there_are_sixty_of_each() -> None:
    assert len(set(names(RIGHT))) == len(RIGHT) >= 60
    assert len(set(names(WRONG))) == len(WRONG) >= 60


@pytest.mark.parametrize("row", RIGHT, ids=names(RIGHT))
def test_right_kernels_need_no_guard(row: Right) -> None:
    kernels = rk.kernel(row.kernel).lower(*arguments(row)).kernels
    found = [p for k in kernels for p in k.proofs]
    assert found
    assert {p.status for p in found} <= {"proved", "assumed"}, [p for p in found if p.status == "guarded"]
    assert all(p.by == "contract" for p in found if p.status == "assumed")


def iterations(text: str) -> list[dict[str, int]]:
    """The iterations that a message names."""
    return [{n: int(v) for n, v in re.findall(r"(\w+) = (\d+)", part)} for part in text.split(" and ")]


@pytest.mark.parametrize("row", WRONG, ids=names(WRONG))
def test_wrong_kernels_are_refused_with_a_true_counterexample(row: Wrong) -> None:
    kind = BoundsError if row.size is not None else RaceError
    with pytest.raises(kind) as caught:
        rk.kernel(row.kernel).lower(*arguments(row))
    message = caught.value.message
    if row.size is not None:
        (at,) = iterations(message.partition(" when ")[2])
        assert not 0 <= row.place(**at) < row.size, message
        assert f"element {row.place(**at)} " in message
    else:
        one, two = iterations(message.rpartition(" : ")[2])
        assert one != two, message
        assert row.place(**one) == row.place(**two), message
    assert caught.value.help
    assert caught.value.line
