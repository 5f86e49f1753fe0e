"""The first seeds of ``make fuzz``, which goes on from there."""

from __future__ import annotations

import pytest

from scripts import fuzz

PART = 500


@pytest.mark.parametrize("first", range(0, 20_000, PART))
def test_seeds(first: int) -> None:
    wrong = {seed: found for seed in range(first, first + PART) if (found := fuzz.broken(seed)) is not None}
    assert not wrong
