"""``kernel.check``: agreement is reported, a difference is an error at the right element and iteration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit import checked
from rangekit.errors import CompileError
from rangekit.program import Program

X = np.linspace(-2, 3, 35, dtype="f4").reshape(5, 7)


def softmax(x: Any) -> Any:
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j")
    return rk.bufferize(rk.softmax(x[i, j], j), i, j)


def two(x: Any) -> Any:
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j")
    return rk.bufferize(rk.exp(x[i, j]), i, j), rk.bufferize(rk.argmax(x[i, j], j), i)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_agreement(dtype: str) -> None:
    report = rk.kernel(lambda x: (x, x == x, rk.sum(x, axis=0))).check((X * 3).astype(dtype), poison=True)
    assert [a.device for a in report.agreements] == ["cpu"] * 3
    assert all(a.ulps <= a.allowed for a in report.agreements)
    assert str(report).startswith("<lambda> gives the same everywhere\n")


def test_schedules_arguments_and_sizes() -> None:
    before = X.copy()
    n = rk.Dim("n", max=100)

    def sized(x: rk.f32[n, 7]) -> Any:
        return softmax(x)

    def written(x: Any) -> Any:
        x[...] = x * 2
        return x

    for fn in (softmax, two, sized, written):
        kernel = rk.kernel(fn)
        kernel.check(X, poison=True)
        kernel.check(X[::2], poison=True)
        kernel.check(X[:0])
    rk.kernel(softmax).schedule(rk.tile("j", 3), rk.upcast("i", 2)).check(X, poison=True)
    np.testing.assert_array_equal(X, before)


def test_special_values_agree_with_themselves() -> None:
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 1.0], "f4")
    rk.kernel(lambda x: (x, rk.exp(x), rk.max(x))).check(x)


def test_a_difference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Program.run

    def wrong(self: Program, *args: Any, **kwargs: Any) -> Any:
        out = run(self, *args, **kwargs)
        if self.device.name == "cpu":
            out[0][3, 2] += 0.01
        return out

    monkeypatch.setattr(Program, "run", wrong)
    with pytest.raises(CompileError, match=r"softmax: out\[3, 2\] is .* on cpu, .* when i = 3, j = 2"):
        rk.kernel(softmax).check(X)


def test_poison_shows_what_nothing_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that is left out leaves its result as it began: with poison that is never the right one."""
    run = Program.run

    def lazy(self: Program, arguments: Any, given: Any = None, **kwargs: Any) -> Any:
        if self.device.name == "cpu":
            self.launches = []
        return run(self, arguments, given, **kwargs)

    monkeypatch.setattr(Program, "run", lazy)
    with pytest.raises(CompileError, match=r"zeros: out\[0\] is nan on cpu, 0.0 in the interpreter"):
        rk.kernel(zeros).check(np.zeros(4, "f4"), poison=True)


def zeros(x: Any) -> Any:
    i = rk.Range(x.shape[0], "i")
    return rk.bufferize(x[i] * 0, i)


def test_the_gap_is_that_of_the_greatest_value() -> None:
    a, b = np.array([1.0, 1e-6], "f4"), np.array([1.0, 2e-6], "f4")
    ulps, where = checked._apart(a, b)
    assert ulps == where[1] == pytest.approx(1e-6 / float(np.spacing(np.float32(1))), rel=1e-3)
    assert checked._apart(np.array([np.nan]), np.array([1.0]))[0] == np.inf
