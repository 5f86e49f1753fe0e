"""The iteration of a fault, under any schedule: it is one in which the access fails, and its value is the one told."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import BoundsError
from tests.lower.test_schedule import at_random


def gathered(x: Any, ids: Any) -> Any:
    b, d = rk.Range(ids.shape[0], "b"), rk.Range(x.shape[1], "d")
    return rk.bufferize(x[ids[b], d], b, d)


def two(x: Any, ids: Any) -> Any:
    b, c = rk.Range(ids.shape[0], "b"), rk.Range(5, "c")
    return rk.bufferize(rk.sum(x[(ids[b] + c).in_range(0, x.shape[0]), 0], c), b)


def summed(x: Any, ids: Any) -> Any:
    b = rk.Range(ids.shape[0], "b")
    return rk.sum(x[ids[b], 3], b)


@pytest.mark.parametrize("fn", [gathered, two, summed])
@pytest.mark.parametrize("seed", range(6))
def test_the_iteration_is_one_that_fails(fn: Any, seed: int) -> None:
    draw = random.Random(seed)
    x = np.zeros((50, 37), "f4")
    ids = np.arange(203) % 40
    wrong = draw.sample(range(203), 1 + seed % 2)
    ids[wrong] = 90
    kernel = rk.kernel(fn)
    if seed:
        kernel = at_random(kernel, draw, x, ids)
    for made in (kernel, rk.kernel(fn, device="python")):
        for _ in range(4):  # the last calls by the native entry
            with pytest.raises(BoundsError) as caught:
                made(x, ids)
            found = re.search(r"(?:index|value) (\d+) .* when b = (\d+)(?:, c = (\d+))?", caught.value.message)
            assert found, caught.value.message
            value, b, c = (int(n) if n else 0 for n in found.groups())
            assert b in wrong
            assert value == 90 + c


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_numbers_without_a_sign_are_told_as_they_are(device: str) -> None:
    top = np.array([0, 2**63 + 3, 1], np.uint64)
    gather = rk.kernel(lambda x, u: x[u], device=device)
    promised = rk.kernel(lambda x, u: x[u.in_range(0, 5)], device=device)
    with pytest.raises(BoundsError, match="index 9223372036854775811 of axis 0"):
        gather(np.zeros(5, "f4"), top)
    with pytest.raises(BoundsError, match="the value 9223372036854775811 of u"):
        promised(np.zeros(5, "f4"), top)


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_a_guarded_load_has_no_mask_but_where_there_is_no_element(device: str) -> None:
    def gathered(x: Any, ids: Any) -> Any:
        i = rk.Range(ids.shape[0], "i")
        return rk.bufferize(x[ids[i]], i)

    kernel, ids = rk.kernel(gathered, device=device), np.arange(3)
    assert "x[where(ok, at, 0)]" in str(kernel.lower(np.zeros(3, "f4"), ids))
    with pytest.raises(BoundsError, match="index 0 of axis 0 of x, which has 0 elements"):
        kernel(np.zeros(0, "f4"), ids)
    N = rk.Dim("N", min=0, max=50)

    @rk.kernel(device=device)
    def any_size(x: rk.f32[N], ids: rk.i64[3]) -> Any:
        i = rk.Range(3, "i")
        return rk.bufferize(x[ids[i]], i)

    assert any_size(np.arange(3, dtype="f4"), ids).tolist() == [0, 1, 2]
    with pytest.raises(BoundsError, match="index 0 of axis 0 of x"):
        any_size(np.zeros(0, "f4"), ids)
