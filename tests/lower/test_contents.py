"""What a kernel reads of another's storage lies where that put it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.errors import BoundsError
from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.ops import Op
from rangekit.ir.uop import Storage, UOp, alu, cast, idx, new_buffer, new_range

Y = np.arange(10, dtype=np.float32)


def status(kernel: Any, *args: Any) -> list[tuple[str, str | None]]:
    low = rk.kernel(kernel).lower(*args)
    return [(p.status, p.by) for k in low.kernels for p in k.proofs if p.array == "y"]


def clipped(k: Any, y: Any) -> Any:
    """Indices that a kernel before has cut to 0..5, some of them written again."""
    i, e = rk.Range(8, "i"), rk.Range(8, "e")
    at = rk.bufferize(rk.clip(k[i], 0, 5), i, memory="global")
    j = rk.Range(4, "j")
    at = rk.assign(at[2 * j], 9 - j)
    return rk.bufferize(y[at[7 - e]], e)


def counted(k: Any, y: Any) -> Any:
    """Numbers that were added to: as many as there are."""
    i, e = rk.Range(8, "i"), rk.Range(4, "e")
    counts = rk.scatter(rk.zeros(4, dtype=rk.int64), k[i] % 4, 1, i)
    return rk.bufferize(y[counts[e]], e)


def order(k: Any, y: Any) -> Any:
    places, i = rk.argsort(k), rk.Range(k.shape[0], "i")
    return rk.bufferize(y[places[i]], i)


def test_what_was_stored_is_known() -> None:
    k = np.array([3, -7, 0, 99, 5, 2**40, 1, -1])
    assert status(clipped, k, Y) == [("proved", "interval")]
    want = np.clip(k, 0, 5)
    want[::2] = 9 - np.arange(4)
    assert rk.kernel(clipped)(k, Y).tolist() == want[::-1].tolist()
    assert status(clipped, k, Y[:9]) == [("guarded", None)]
    with pytest.raises(BoundsError, match="index 9 of axis 0 of y, which has 9"):
        rk.kernel(clipped)(k, Y[:9])


def test_sums_in_storage_are_not() -> None:
    k = np.zeros(8, int)
    assert status(counted, k, Y) == [("guarded", None)]
    assert rk.kernel(counted)(k, Y).tolist() == [8, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100, 256])
def test_places_of_a_sort_are_inside(n: int) -> None:
    k, y = np.random.default_rng(n).integers(0, 5, n), np.random.default_rng(n).random(n, np.float32)
    assert all(s[0] == "proved" for s in status(order, k, y))
    assert np.array_equal(rk.kernel(order)(k, y), y[np.argsort(k, kind="stable")])
    if n > 1:
        assert ("guarded", None) in status(order, k, y[: n - 1])


def test_versions_of_storage() -> None:
    i, j = new_range(8), new_range(3)
    made = UOp(Op.BUFFERIZE, dt.int64, (cast(i, dt.int64), i), Storage("global"))
    place = UOp(Op.INDEX, dt.int64, (made, j))
    value = cast(alu(Op.ADD, j, idx(-5)), dt.int64)

    def read(storage: UOp) -> tuple[float, float]:
        return bounds(UOp(Op.INDEX, dt.int64, (storage, new_range(8))))

    assert read(made) == (0, 7)
    for how in (None, "any", "max", "min"):
        written = UOp(Op.ASSIGN, dt.int64, (made, place, value, j), how)
        assert read(written) == (-5, 7)
        assert read(UOp(Op.ASSIGN, dt.int64, (written, place, cast(idx(20), dt.int64), j))) == (-5, 20)
    anything = (dt.int64.min, dt.int64.max)
    assert read(UOp(Op.ASSIGN, dt.int64, (made, place, value, j), "add")) == anything
    empty = new_buffer(dt.int64, (8,), "b")
    assert read(UOp(Op.ASSIGN, dt.int64, (empty, UOp(Op.INDEX, dt.int64, (empty, j)), value, j))) == anything
