"""Calling kernels: arguments of every kind, signatures, results, threads, memory."""

import gc
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir.uop import live_nodes


def double(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i] * 2, i)


@dataclass
class Layer:
    w: Any
    b: Any


def test_pytrees_in_and_out() -> None:
    @rk.kernel
    def fn(layers: Any, x: Any, options: Any) -> Any:
        for layer in layers:
            x = x @ layer.w + layer.b
        return {"y": x * options["scale"], "both": (x, [x + 1])}

    w, b, x = np.eye(3, dtype=np.float32) * 2, np.ones(3, np.float32), np.ones((2, 3), np.float32)
    out = fn([Layer(w, b), Layer(w, b)], x, {"scale": 3.0})
    np.testing.assert_allclose(out["y"], np.full((2, 3), 21.0))
    np.testing.assert_allclose(out["both"][1][0], np.full((2, 3), 8.0))
    assert isinstance(out["y"], np.ndarray)


def test_numbers_are_runtime_values_and_the_rest_is_compile_time() -> None:
    traces = []

    @rk.kernel(static="axis")
    def fn(x: Any, n: Any, scale: Any, axis: Any, keep: Any = True) -> Any:
        traces.append((axis, keep))
        return rk.sum(x, axis=axis, keepdims=keep) * scale + n

    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(fn(x, 1, 2.0, 0), [[5, 5, 5]])
    np.testing.assert_allclose(fn(x, 7, 0.5, 0), [[8, 8, 8]])
    assert traces == [(0, True)]
    assert fn(x, 1, 2.0, 1, keep=False).shape == (2,)
    assert len(traces) == 2
    assert fn(x.astype(np.float64), 1, 2.0, 0).dtype == np.float64
    assert fn(x, 1, 2.0, 0).dtype == np.float32


def test_a_kernel_inside_a_kernel_is_part_of_it() -> None:
    inner = rk.kernel(double)
    low = rk.kernel(lambda x: inner(x) + 1).lower(np.ones(3, np.float32))
    assert len(low.kernels) == 1
    np.testing.assert_allclose(rk.kernel(lambda x: inner(x) + 1)(np.ones(3, np.float32)), [3, 3, 3])


def test_tensors_come_back_for_tensors_and_captured_arrays_are_read() -> None:
    w = rk.asarray(np.arange(3.0))
    out = rk.kernel(lambda x: x * w)(rk.ones(3))
    assert isinstance(out, rk.Tensor)
    np.testing.assert_allclose(out.numpy(), [0, 1, 2])


def test_layouts_are_read_in_place_and_odd_ones_copied() -> None:
    k = rk.kernel(double)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    raw = np.zeros(17, np.uint8)
    unaligned = raw[1:].view(np.float32)
    unaligned[:] = 3
    for x in (base[:, 1], base[::-1, 0], base.astype(">f4")[0], unaligned, base.T[2]):
        np.testing.assert_allclose(k(x), 2 * x.astype(np.float32))

    class Foreign:
        __array_interface__ = base[0].__array_interface__

    np.testing.assert_allclose(k(Foreign()), 2 * base[0])


def test_out_receives_the_result() -> None:
    def reverse(x: Any) -> Any:
        i = rk.Range(4)
        return rk.bufferize(x[3 - i], i)

    k = rk.kernel(reverse)
    x = np.arange(4, dtype=np.float32)
    out = np.zeros(4, np.float32)
    assert k(x, out=out) is out
    assert out.tolist() == [3, 2, 1, 0]
    wide = np.zeros(8, np.float32)
    k(x, out=wide[::2])
    assert wide.tolist() == [3, 0, 2, 0, 1, 0, 0, 0]
    assert k(x, out=x) is x  # it overlaps the argument
    assert x.tolist() == [3, 2, 1, 0]
    frozen = np.zeros(4, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(rk.ArgumentError, match="read-only"):
        k(x, out=frozen)
    with pytest.raises(rk.ShapeError):
        k(x, out=np.zeros(5, np.float32))
    with pytest.raises(rk.DtypeError):
        k(x, out=np.zeros(4))


def test_annotations_are_checked() -> None:
    def fn(a: rk.f32["M K"], b: rk.f32["K", 2]) -> Any:  # type: ignore[valid-type]  # noqa: F722, F821
        return a @ b

    k = rk.kernel(fn)
    assert k(np.ones((3, 4), np.float32), np.ones((4, 2), np.float32)).shape == (3, 2)
    with pytest.raises(rk.ShapeError, match="K"):
        k(np.ones((3, 4), np.float32), np.ones((5, 2), np.float32))
    with pytest.raises(rk.DtypeError):
        k(np.ones((3, 4)), np.ones((4, 2), np.float32))


def test_several_threads_may_call_one_kernel() -> None:
    k = rk.kernel(lambda x: rk.softmax(x, axis=-1))
    xs = [np.random.default_rng(n).normal(size=(3 + n % 3, 5)).astype(np.float32) for n in range(12)]
    wrong: list[int] = []

    def call(n: int) -> None:
        for _ in range(20):
            if not np.allclose(k(xs[n]).sum(axis=1), 1, atol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_cell_run_a_thousand_times_does_not_grow_memory() -> None:
    x = np.ones(4, np.float32)

    def cell() -> None:
        @rk.kernel
        def fn(x: Any) -> Any:
            i = rk.Range(x.shape[0])
            return rk.bufferize(x[i] * 2 + 1, i)

        fn(x)

    for _ in range(20):
        cell()
    gc.collect()
    before = live_nodes()
    for _ in range(1000):
        cell()
    gc.collect()
    assert live_nodes() <= before + 10


def test_tensors_outside_kernels_are_values() -> None:
    t = rk.asarray(np.array([1.0, 2.0, 3.0], np.float32))
    before = t * 2
    t[0] = 5.0
    assert t.numpy().tolist() == [5, 2, 3]
    assert before.numpy().tolist() == [2, 4, 6]
    assert rk.sum(t).item() == 10
    assert float(rk.max(t)) == 5
    shared = np.zeros(3, np.float32)
    view = rk.asarray(shared)
    view[1] = 7.0
    view.realize()
    assert shared.tolist() == [0, 7, 0]
