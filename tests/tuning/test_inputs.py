"""What a launch finds and leaves, and how close results must come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.program import Program
from rangekit.tuning.inputs import Tasks, ring, tolerance
from rangekit.tuning.task import Contents, spanned


def program(fn: Any, *args: Any) -> Program:
    return rk.kernel(fn).lower(*args)._program


def nest(fn: Any, *args: Any) -> Any:
    return program(fn, *args).lowered.plain[0]


def contents(tasks: Tasks, memory: Any) -> Any:
    out = np.empty(memory.count, memory.numpy)
    tasks.contents.read(memory.before, out)
    return out


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    "view",
    [
        np.s_[:, :],
        np.s_[::2, ::3],
        np.s_[::-1, :],
        np.s_[1:, ::-2],
        np.s_[2, :],
        np.s_[:0, :],
    ],
)
def test_an_array_is_found_again_whatever_its_strides(view: Any) -> None:
    whole = np.arange(60, dtype=np.float32).reshape(6, 10)
    x = whole[view]
    flat = spanned(x)
    assert np.shares_memory(flat, x) or x.size == 0
    tasks = Tasks(program(lambda x: x + 1, x), [x], False, 1)
    made = tasks.task(tasks_nest(x))
    m = made.memory[[p.arg.name for p in tasks_nest(x).params].index("x")]
    found = contents(tasks, m)
    steps = tuple(s * 4 for s in m.strides)
    again = np.lib.stride_tricks.as_strided(found[m.first :], x.shape, steps) if x.size else found.reshape(x.shape)
    np.testing.assert_array_equal(again, x)


def tasks_nest(x: Any) -> Any:
    return nest(lambda x: x + 1, x)


def test_floats_are_fresh_and_integers_are_the_callers() -> None:
    table, at = ones(50), np.arange(40)[::-1].copy()
    fn = lambda table, at: table[at]
    tasks = Tasks(program(fn, table, at), [table, at], True, 1)
    task = tasks.task(nest(fn, table, at))
    by = {m.dtype: contents(tasks, m) for m in task.memory if m.before is not None}
    np.testing.assert_array_equal(by["int64"], at)
    assert len(np.unique(by["float32"])) > 5
    assert ((by["float32"] * 8) % 2 == 1).all()  # odd eighths: none is 0, short enough for every dtype


def test_what_one_launch_leaves_the_next_one_finds() -> None:
    def fn(x: Any) -> Any:
        i, j = rk.ranges(4, 4)
        y = rk.bufferize(x[i, j] * 2, i, j, memory="global")
        return rk.bufferize(rk.sum(y[i, j], j), i), y

    p = program(fn, ones(4, 4))
    tasks = Tasks(p, [ones(4, 4)], False, 1)
    made = [tasks.task(n) for n in p.lowered.plain]
    assert len(made) == 2
    (left,) = [m for m in made[0].memory if m.after is not None]
    assert left.before is None  # its first contents are poison
    assert left.after in [m.before for m in made[1].memory]


def test_an_array_written_in_place_begins_with_its_contents() -> None:
    def fn(x: Any) -> Any:
        x[...] = x + 1
        return x

    x = np.arange(8, dtype=np.float32)
    p = program(fn, x)
    tasks = Tasks(p, [x], False, 1)
    (m,) = tasks.task(p.lowered.plain[0]).memory
    assert m.before is not None
    assert m.after is not None
    np.testing.assert_array_equal(contents(tasks, m), x)


def test_long_sums_and_short_floats_may_differ_more() -> None:
    total = lambda x: rk.sum(x)
    assert tolerance(nest(total, ones(10))) == 1e-4
    assert 1e-3 < tolerance(nest(total, ones(10_000_000))) < 1e-2
    assert tolerance(nest(total, np.ones(10))) == 1e-11
    assert tolerance(nest(total, np.ones(10, np.float16))) == 2e-2


def test_only_sums_products_and_choices_are_exact() -> None:
    x, at = ones(8, 8), np.zeros(8, np.int64)
    assert ring(nest(lambda x: x @ x, x))
    assert ring(nest(lambda x: rk.where(x > 0.5, x * 2, -x), x))
    assert ring(nest(lambda x, at: rk.sum(x[at], axis=0), x, at))
    assert not ring(nest(lambda x: x * 0.1, x))
    assert not ring(nest(lambda x: rk.exp(x), x))
    assert not ring(nest(lambda x: x / 3, x))
    assert not ring(nest(lambda x: rk.prod(x, axis=0), x))


def test_the_file_is_whole_on_another_machine() -> None:
    one = Contents()
    places = [one.put(np.arange(n, dtype=np.int32)) for n in (3, 5000, 1)]
    two = Contents.of(one.whole())
    for n, place in zip((3, 5000, 1), places, strict=True):
        out = np.empty(n, np.int32)
        two.read(place, out)
        np.testing.assert_array_equal(out, np.arange(n))
    with pytest.raises(EOFError):
        two.read(two.size, np.empty(1))
    one.close()
    two.close()
