"""Places that are counts: which are written once each, judged by every content that small arrays can have."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir import dtype as dt
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.spec import bound_ranges
from rangekit.ir.uop import UOp, toposort
from rangekit.lower import counts

CLASSES = 3

Place = Callable[[Any, Any], Any]  # of keys and an index over them


def number(c: Any) -> Any:
    return rk.where(c, 1, 0)


def by_comparison(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number((k[j] < k[i]) | ((k[j] == k[i]) & (j < i))), j)


def by_two_counts(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number(k[j] < k[i]), j) + rk.sum(number((k[j] == k[i]) & (j < i)), j)


def descending(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number((k[j] > k[i]) | ((k[j] == k[i]) & (j > i))), j)


def partition(k: Any, i: Any) -> Any:
    """Ones in front, the others behind, from the end."""
    ones = rk.cumulative_sum(number(k[i] == 1), i)
    return rk.where(k[i] == 1, ones - 1, k.shape[0] - 1 - (i - ones))


def stable_partition(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    ones = rk.cumulative_sum(number(k[i] == 1), i)
    return rk.where(k[i] == 1, ones - 1, rk.sum(number(k[j] == 1), j) + i - ones)


def starts_of(k: Any, shift: int = 0) -> Any:
    """Where each class begins, the counts of all of them one after another."""
    i, e = rk.Range(k.shape[0], "i"), rk.Range(CLASSES, "e")
    counts = rk.sum(number(k[i] == e), i)
    return rk.bufferize(rk.cumulative_sum(counts, e) - counts + shift, e)


def by_matrix(k: Any, i: Any) -> Any:
    """Ranks as running sums of the columns of a matrix of zeros and ones."""
    r, e = rk.Range(k.shape[0], "r"), rk.Range(CLASSES, "e")
    hot = number(k[r] == e)
    before = rk.bufferize(rk.cumulative_sum(hot, r) - hot, r, e)
    return starts_of(k)[k[i]] + before[i, k[i]]


def by_histogram(k: Any, i: Any) -> Any:
    """Counts by a scatter, starts by a sum over smaller classes, ranks by a scan with a counter for each class."""
    j, e, f = rk.Range(k.shape[0], "j"), rk.Range(CLASSES, "e"), rk.Range(CLASSES, "f")
    counts = rk.scatter(rk.zeros(CLASSES, dtype=rk.int32), k[j], 1, j)
    starts = rk.bufferize(rk.sum(rk.where(f < e, counts[f], 0), f), e)
    ranks = rk.scan(i, rk.zeros(CLASSES, dtype=rk.int32),
                    lambda i, c: rk.where(rk.arange(CLASSES) == k[i], c + 1, c))  # fmt: skip
    return starts[k[i]] + ranks[k[i]] - 1


def by_next_place(k: Any, i: Any) -> Any:
    """A scan that holds the next place of each class, and gives the one it takes."""
    j = rk.Range(k.shape[0], "j")
    counts = rk.scatter(rk.zeros(CLASSES, dtype=rk.int32), k[j], 1, j)
    starts = rk.cumulative_sum(counts, axis=0, include_initial=True)

    def step(i: Any, at: Any) -> Any:
        return rk.where(rk.arange(CLASSES) == k[i], at + 1, at), at[k[i]]

    return rk.scan(i, starts[:CLASSES], step)[1]


def by_lengths(k: Any, i: Any) -> Any:
    """Records of one element or more, one behind another."""
    length = rk.clip(k[i], 1, 9)
    return rk.cumulative_sum(length, i) - length


RIGHT = [
    by_comparison, by_two_counts, descending, partition, stable_partition, by_matrix, by_histogram, by_next_place,
    by_lengths,
]  # fmt: skip


def ties(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number(k[j] < k[i]), j)


def ties_together(k: Any, i: Any) -> Any:
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number(k[j] <= k[i]), j)


def both_orders(k: Any, i: Any) -> Any:
    """Larger keys first, equal ones in order; but then those that are smaller count, too."""
    j = rk.Range(k.shape[0], "j")
    return rk.sum(number((k[j] > k[i]) | (j < i)), j)


def any_class(k: Any, i: Any) -> Any:
    """Ranks among all, not among those of the class."""
    return starts_of(k)[k[i]] + i


def shifted_class(k: Any, i: Any) -> Any:
    """A class's start with the ranks in the one below."""
    r, e = rk.Range(k.shape[0], "r"), rk.Range(CLASSES, "e")
    hot = number(k[r] == e)
    before = rk.bufferize(rk.cumulative_sum(hot, r) - hot, r, e)
    return starts_of(k)[k[i]] + before[i, rk.maximum(k[i] - 1, 0)]


def no_starts(k: Any, i: Any) -> Any:
    r, e = rk.Range(k.shape[0], "r"), rk.Range(CLASSES, "e")
    hot = number(k[r] == e)
    before = rk.bufferize(rk.cumulative_sum(hot, r) - hot, r, e)
    return before[i, k[i]]


def last_forgotten(k: Any, i: Any) -> Any:
    """Counts of all elements but the last."""
    j, j2 = rk.Range(max(k.shape[0] - 1, 1), "j"), rk.Range(k.shape[0], "j2")
    return rk.sum(number(k[j] < k[i]), j) + rk.sum(number((k[j2] == k[i]) & (j2 < i)), j2)


def first_sent_again(k: Any, i: Any) -> Any:
    """Ones in front; what is none goes to the first place."""
    return rk.where(k[i] == 1, rk.cumulative_sum(number(k[i] == 1), i) - 1, 0)


def both_from_the_front(k: Any, i: Any) -> Any:
    ones = rk.cumulative_sum(number(k[i] == 1), i)
    return rk.where(k[i] == 1, ones - 1, i - ones)


def empty_records(k: Any, i: Any) -> Any:
    """Records that may have no element."""
    return rk.cumulative_sum(k[i], i) - k[i]


def halves(k: Any, i: Any) -> Any:
    return by_comparison(k, i) // 2


def narrow(k: Any, i: Any) -> Any:
    """A count that wraps in its type."""
    j = rk.Range(k.shape[0], "j")
    wide = rk.sum(number((k[j] < k[i]) | ((k[j] == k[i]) & (j < i))), j)
    return (100 * wide).astype(rk.int8).astype(rk.int64) % 2


def classes_outside(k: Any, i: Any) -> Any:
    """Keys below the classes that are counted: all of them begin at 0."""
    low, e, j, j2 = k[i] - 2, rk.Range(CLASSES, "e"), rk.Range(k.shape[0], "j"), rk.Range(k.shape[0], "j2")
    counts = rk.bufferize(rk.sum(number(k[j] - 2 == e), j), e)
    return rk.sum(rk.where(e < low, counts[e], 0), e) + rk.sum(number((k[j2] - 2 == low) & (j2 < i)), j2)


def one_less(k: Any, i: Any) -> Any:
    """Later elements have more before them, but for those that they count no more."""
    j, j2 = rk.Range(k.shape[0], "j"), rk.Range(k.shape[0], "j2")
    return rk.sum(number((j < i) | (k[j] < 1)), j) - rk.sum(number((j2 < i) & (k[j2] == 2)), j2)


def back_and_forth(k: Any, i: Any) -> Any:
    """Ones forward, others backward, towards one another and past."""
    j = rk.Range(k.shape[0], "j")
    return rk.where(k[i] == 1, i, k.shape[0] - 1 - rk.sum(number((k[j] != 1) & (j < i)), j))


def downhill(k: Any, i: Any) -> Any:
    """Two for each later element, which those of the same class before may make up for."""
    j, j2 = rk.Range(k.shape[0], "j"), rk.Range(k.shape[0], "j2")
    return 2 * rk.sum(number(j > i), j) + rk.sum(number((j2 < i) & (k[j2] == k[i])), j2)


WRONG = [
    downhill, classes_outside, one_less, back_and_forth, ties, ties_together, both_orders, any_class, shifted_class,
    no_starts, last_forgotten, first_sent_again, both_from_the_front, empty_records, halves, narrow,
]  # fmt: skip
SMALL = [np.array(k) for n in (1, 2, 3, 4) for k in product(range(CLASSES), repeat=n)]


def places(place: Place) -> Callable[[Any], Any]:
    def kernel(k: Any) -> Any:
        i = rk.Range(k.shape[0], "i")
        return rk.bufferize(place(k, i), i)

    return rk.kernel(kernel)


def sent(place: Place, **options: Any) -> Any:
    def kernel(x: Any, k: Any, out: Any) -> Any:
        i = rk.Range(k.shape[0], "i")
        return rk.assign(out[place(k, i)], x[i])

    return rk.kernel(kernel, **options)


def named(place: Place) -> str:
    return place.__name__


@pytest.mark.parametrize("place", RIGHT, ids=named)
def test_right_places_are_all_different(place: Place) -> None:
    where = places(place)
    for k in SMALL:
        found = where(k)
        assert len(set(found.tolist())) == len(k), k


@pytest.mark.parametrize("place", WRONG, ids=named)
def test_wrong_places_meet(place: Place) -> None:
    where = places(place)
    assert any(len(set(where(k).tolist())) < len(k) for k in SMALL)


@pytest.mark.parametrize("place", RIGHT, ids=named)
@pytest.mark.parametrize("device", ["cpu", "python"])
def test_right_ones_are_accepted_and_run(place: Place, device: str) -> None:
    rng = np.random.default_rng(3)
    kernel, where = sent(place, device=device), places(place)
    for n in (1, 2, 3, 7, 16, 17, 61) + ((4099,) if device == "cpu" and place not in (by_comparison,) else ()):
        x, k = rng.random(n, np.float32), rng.integers(0, CLASSES, n)
        want = np.full(3 * n, -1, np.float32)
        want[where(k)] = x
        got = kernel(x, k, np.full(3 * n, -1, np.float32))
        assert np.array_equal(got, want)


def test_what_they_sort() -> None:
    rng = np.random.default_rng(4)
    x, k = rng.random(1000, np.float32), rng.integers(0, CLASSES, 1000)
    for place in (by_comparison, by_two_counts, by_matrix, by_histogram, by_next_place):
        assert np.array_equal(sent(place)(x, k, np.zeros_like(x)), x[np.argsort(k, kind="stable")])
    ones = sent(stable_partition)(x, k, np.zeros_like(x))
    assert np.array_equal(ones, np.concatenate([x[k == 1], x[k != 1]]))


@pytest.mark.parametrize("place", WRONG, ids=named)
def test_wrong_ones_are_refused(place: Place) -> None:
    with pytest.raises(rk.RaceError, match="no two iterations write one element"):
        sent(place).lower(np.zeros(20, np.float32), np.zeros(20, int), np.zeros(20, np.float32))


def test_they_are_inside_their_array_where_nothing_is_guarded() -> None:
    x, k = np.zeros(20, np.float32), np.zeros(20, int)

    def status(place: Place, size: int) -> tuple[str, str | None]:
        low = sent(place).lower(x, k, np.zeros(size, np.float32))
        (p,) = (p for kernel in low.kernels for p in kernel.proofs if p.array == "out")
        return p.status, p.by

    for place in (by_comparison, by_two_counts, partition, stable_partition):
        assert status(place, 20) == ("proved", "z3") == status(place, 25)
        assert status(place, 19) == ("guarded", None)
    assert status(by_lengths, 20) == status(by_histogram, 20) == ("guarded", None)
    for place in (by_matrix, by_histogram):  # with classes that are promised
        assert status(lambda k, i, place=place: place(k_in_range(k), i), 20) == ("assumed", "contract")


def k_in_range(k: Any) -> Any:
    j = rk.Range(k.shape[0])
    return rk.bufferize(k[j].in_range(0, CLASSES), j)


@pytest.mark.parametrize("bad", [-1, CLASSES, 2**40])
def test_a_class_outside_is_told_and_writes_nothing_outside(bad: int) -> None:
    around = np.full(64, 3.0, np.float32)
    k = np.array([0, 1, 2, bad, 1, 0, 2, 2])
    for place in (by_matrix, by_histogram, by_next_place):
        with pytest.raises(rk.BoundsError, match=f"index {bad} of axis"):
            sent(place)(np.zeros(8, np.float32), k, around[24:32])
        assert (around[:24] == 3).all() and (around[32:] == 3).all()


@pytest.mark.parametrize("place", RIGHT + WRONG, ids=named)
def test_indices_are_read_as_the_sums_they_are(place: Place) -> None:
    def kernel(k: Any) -> Any:
        i = rk.Range(k.shape[0], "i")
        return rk.scatter(rk.zeros(50), place(k, i), 1.0, i, op=None, unique=True)

    for n in (1, 2, 3, 4, 11):
        k = np.random.default_rng(n).integers(0, CLASSES, n)
        stage = rk.kernel(kernel).lower(k)._program.lowered.stages["fuse"]
        (write,) = (m for m in toposort(stage) if m.op is Op.ASSIGN and m.arg in ("unique", None))
        (at,), own = write.src[1].src[1:], bound_ranges(write)
        reader = counts._Reader(own)
        env = {m: k for m in toposort(at) if m.op is Op.PARAM}
        want = evaluate(at, env)
        try:
            found = reader.read(at)
        except counts._Unreadable:
            assert place in (last_forgotten, narrow)
            return
        total = UOp(Op.REDUCE, dt.index, (found.each, *reader.each), "add")
        got = np.broadcast_to(evaluate(total, env), want.shape) + evaluate(found.rest, env)
        assert np.array_equal(got, want)


def test_rows_and_slots() -> None:
    rng = np.random.default_rng(5)

    @rk.kernel
    def rows(x: Any, k: Any, out: Any) -> Any:
        """Each row sorted by its keys."""
        b, i, j = rk.Range(x.shape[0], "b"), rk.Range(x.shape[1], "i"), rk.Range(x.shape[1], "j")
        before = (k[b, j] < k[b, i]) | ((k[b, j] == k[b, i]) & (j < i))
        return rk.assign(out[b, rk.sum(number(before), j)], x[b, i])

    x, k = rng.random((6, 9), np.float32), rng.integers(0, 4, (6, 9))
    want = np.take_along_axis(x, np.argsort(k, axis=1, kind="stable"), 1)
    assert np.array_equal(rows(x, k, np.zeros_like(x)), want)

    @rk.kernel
    def slots(x: Any, k: Any, out: Any) -> Any:
        """Elements in the row of their class, in order."""
        i, j = rk.Range(k.shape[0], "i"), rk.Range(k.shape[0], "j")
        return rk.assign(out[k[i], rk.sum(number((k[j] == k[i]) & (j < i)), j)], x[i])

    x, k = rng.random(30, np.float32), rng.integers(0, CLASSES, 30)
    got = slots(x, k, np.zeros((CLASSES, 30), np.float32))
    for e in range(CLASSES):
        mine = x[k == e]
        assert np.array_equal(got[e, : len(mine)], mine) and not got[e, len(mine) :].any()

    @rk.kernel
    def pairs(k: Any, out: Any) -> Any:
        """Two choices of each token, sorted by what was chosen: ranks among all pairs, row by row."""
        t, c = rk.Range(k.shape[0], "t"), rk.Range(2, "c")
        u, d = rk.Range(k.shape[0], "u"), rk.Range(2, "d")
        earlier = (u < t) | ((u == t) & (d < c))
        before = (k[u, d] < k[t, c]) | ((k[u, d] == k[t, c]) & earlier)
        return rk.assign(out[rk.sum(number(before), u, d)], t * 2 + c)

    k = rng.integers(0, 4, (11, 2))
    assert np.array_equal(pairs(k, np.zeros(22, int)), np.argsort(k.ravel(), kind="stable"))


def test_keys_of_floats_are_refused_for_nan_has_no_place() -> None:
    with pytest.raises(rk.RaceError):
        sent(by_comparison).lower(*(np.zeros(5, np.float32) for _ in range(3)))


def condition(draw: random.Random, k: Any, i: Any, j: Any, depth: int = 2) -> Any:
    """A comparison of keys, places and numbers, or some of them together."""
    if depth == 0 or draw.random() < 0.4:
        a = draw.choice((k[j], k[i], j, i, k[j] + draw.choice((0, 1))))
        b = draw.choice((k[i], k[j], i, j, draw.randrange(3)))
        return draw.choice((lambda: a < b, lambda: a > b, lambda: a == b, lambda: a != b))()
    a, b = (condition(draw, k, i, j, depth - 1) for _ in "ab")
    return a & b if draw.random() < 0.5 else a | b


def random_place(draw: random.Random, k: Any, i: Any, depth: int = 3) -> Any:
    """Counts, running counts, numbers, and what is made of them."""
    n, roll = k.shape[0], draw.random()
    if depth == 0 or roll < 0.1:
        return i + 0 if draw.random() < 0.5 else 0 * i + draw.randrange(-1, n + 1)
    if roll < 0.5:
        j = rk.Range(n, "j")
        return rk.sum(number(condition(draw, k, i, j)), j)
    if roll < 0.62:
        mine = number(k[i] == draw.randrange(CLASSES))
        return rk.cumulative_sum(mine, i) - draw.choice((0, 1)) * mine
    a, b = (random_place(draw, k, i, depth - 1) for _ in "ab")
    if roll < 0.8:
        return a + b if draw.random() < 0.7 else a - b
    return rk.where(k[i] == draw.randrange(CLASSES), a, b)


def test_random_places_that_are_accepted_are_all_different(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, taken = [k for k in SMALL if len(k) == 4], 0
    found: list[counts.Count | None] = []
    judge = counts._found
    monkeypatch.setattr(counts, "_found", lambda write: found.append(judge(write)) or found[-1])
    for seed in range(800):
        found.clear()

        def place(k: Any, i: Any) -> Any:
            return random_place(random.Random(seed), k, i)  # noqa: B023  # is traced below

        with contextlib.suppress(rk.RaceError, rk.BoundsError):
            sent(place, device="python").lower(np.zeros(4, np.float32), whole[0], np.zeros(80, np.float32))
        if any(found):
            taken += 1
            (count,) = (c for c in found if c)
            where = places(place)
            for k in whole:
                at = where(k)
                assert len(set(at.tolist())) == 4, (seed, k, at)
                assert not count.within or ((at >= 0) & (at < count.within)).all(), (seed, k, at)
    assert taken > 5, taken


def test_counts_that_wrap_are_none() -> None:
    def narrow_ranks(k: Any, i: Any) -> Any:
        return by_comparison(k, i).astype(rk.int8).astype(rk.int64) + 128

    def lower(n: int) -> None:
        sent(narrow_ranks, device="python").lower(np.zeros(n, np.float32), np.zeros(n, int), np.zeros(400, np.float32))

    lower(127)
    with pytest.raises(rk.RaceError):
        lower(300)


def test_a_promise_that_is_proved_is_not_tested() -> None:
    def kernel(x: Any, k: Any) -> Any:
        i = rk.Range(k.shape[0], "i")
        return rk.scatter(rk.zeros(k.shape[0]), by_comparison(k, i), x[i], i, op=None, unique=True)

    x, k = np.random.default_rng(6).random(50, np.float32), np.random.default_rng(7).integers(0, 9, 50)
    low = rk.kernel(kernel).lower(x, k)
    assert "owner" not in str(low) and not any(p.by == "unique" for n in low.kernels for p in n.proofs)
    assert "its index counts what comes before" in low.explain()
    assert np.array_equal(rk.kernel(kernel)(x, k), x[np.argsort(k, kind="stable")])


def test_any_number_of_elements() -> None:
    N = rk.Dim("N", min=1, max=5000)

    @rk.kernel
    def kernel(x: rk.f32[N], k: rk.i64[N], out: rk.f32[N]) -> Any:
        i = rk.Range(x.shape[0], "i")
        return rk.assign(out[partition(k, i)], x[i])

    rng = np.random.default_rng(8)
    for n in (1, 5, 33):
        x, k = rng.random(n, np.float32), rng.integers(0, CLASSES, n)
        assert np.array_equal(kernel(x, k, np.zeros_like(x)), np.concatenate([x[k == 1], x[k != 1][::-1]]))
