"""The native entry and the Python path beside it: one meaning, whatever the arguments look like. Oracle: NumPy."""

import ctypes
import gc
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from rangekit.backends import native
from rangekit.backends.llvm import call as entry
from rangekit.backends.llvm import engine
from rangekit.direct import CHAIN
from rangekit.ir import dtype as dt
from rangekit.lang import trace

Array = np.ndarray[Any, np.dtype[Any]]
needs_entry = pytest.mark.skipif(not native.SUPPORTED, reason=f"no native entry for Python {sys.version.split()[0]}")


def double(x: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i] + x[i], i)


def add(x: Any, y: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.bufferize(x[i] + y[i], i)


def take(x: Any, at: Any) -> Any:
    i = rk.Range(at.shape[0])
    return rk.bufferize(x[at[i]], i)


def floats(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def warm(kernel: rk.Kernel, *args: Any) -> rk.Kernel:
    """The kernel, called often enough for a native entry."""
    for _ in range(3):
        kernel(*args)
    return kernel


def natively(kernel: rk.Kernel, *args: Any, **options: Any) -> Any:
    """The answer of a call that must run no Python."""
    before = kernel.native_calls
    answer = kernel(*args, **options)
    assert kernel.native_calls == before + 1
    return answer


def in_python(kernel: rk.Kernel, *args: Any, **options: Any) -> Any:
    """The answer of a call that the entry must leave alone."""
    before = kernel.native_calls
    try:
        return kernel(*args, **options)
    finally:
        assert kernel.native_calls == before


@needs_entry
def test_a_signature_is_native_from_its_third_call() -> None:
    k, x = rk.kernel(double), floats(8)
    for calls in (0, 0, 1, 2, 3):
        np.testing.assert_array_equal(k(x), x + x)
        assert k.native_calls == calls


@needs_entry
@pytest.mark.parametrize("dtype", dt.STORED, ids=str)
def test_each_dtype(dtype: dt.DType) -> None:
    def copy(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(x[i, j], j, i)

    x = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype.numpy)
    k = warm(rk.kernel(copy), x)
    out = natively(k, x)
    assert out.dtype == dtype.numpy and out.flags.owndata and out.flags.c_contiguous
    np.testing.assert_array_equal(out, x.T)


@needs_entry
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (2, 3, 4, 5, 6)])
def test_each_shape(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    k = warm(rk.kernel(lambda x: x * 2), x)
    out = natively(k, x)
    assert type(out) is np.ndarray and out.shape == shape
    np.testing.assert_array_equal(out, x * 2)


class Odd(np.ndarray[Any, np.dtype[Any]]):
    pass


def _misaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[...] = x
    return raw


@needs_entry
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:4].copy(),
        lambda x: np.concatenate([x, x]),
        lambda x: np.stack([x, x]),
        lambda x: np.concatenate([x, x])[::2],
        lambda x: x[::-1],
        _misaligned,
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.int32),
        lambda x: x.view(np.int32),
        lambda x: x.astype(">f4"),
        lambda x: x.view(Odd),
    ],
)
def test_what_the_entry_does_not_know_goes_to_python(change: Callable[[Array], Array]) -> None:
    x = floats(8)
    k = warm(rk.kernel(lambda x: x + x), x)
    other = change(x)
    np.testing.assert_array_equal(in_python(k, other), np.asarray(other) + np.asarray(other))
    np.testing.assert_array_equal(natively(k, x), x + x)


@needs_entry
def test_wrong_calls_fail_as_before() -> None:
    x = floats(8)
    k = warm(rk.kernel(double), x)
    for args, options in (((), {}), ((x, x), {}), ((x,), {"y": x}), (([1, 2],), {}), (("text",), {})):
        with pytest.raises((rk.RangekitError, AttributeError)):
            in_python(k, *args, **options)
    np.testing.assert_array_equal(in_python(k, x=x), x + x)


@needs_entry
def test_read_only_arrays_are_read() -> None:
    x = floats(8)
    x.flags.writeable = False
    np.testing.assert_array_equal(natively(warm(rk.kernel(double), x), x), x + x)


@needs_entry
def test_strided_arrays_have_signatures_of_their_own() -> None:
    base = floats(4, 6)
    k = rk.kernel(double)
    for x in (base[:, 1], base[::-1, 0], base.T[2], base[::2, 3]):
        warm(k, x)
        np.testing.assert_array_equal(natively(k, x), x + x)
    np.testing.assert_array_equal(natively(k, base[:, 2]), base[:, 2] * 2)


@needs_entry
def test_dtypes_are_recognised_by_what_they_are() -> None:
    k = warm(rk.kernel(double), floats(8))
    x = floats(8).astype(np.dtype(np.float32, metadata={"unit": "m"}))
    np.testing.assert_array_equal(natively(k, x), x + x)


@needs_entry
def test_interleaved_signatures_and_more_than_the_chain_holds() -> None:
    k = rk.kernel(double)
    xs = [floats(n) for n in range(1, CHAIN + 4)]
    for x in xs[:CHAIN]:
        warm(k, x)
    for x in xs[:CHAIN] * 2:
        np.testing.assert_array_equal(natively(k, x), x + x)
    for x in xs:
        warm(k, x)
    for x in xs * 5:
        np.testing.assert_array_equal(k(x), x + x)
    warm(k, xs[0])
    np.testing.assert_array_equal(natively(k, xs[0]), xs[0] * 2)


@needs_entry
def test_numbers_are_runtime_values() -> None:
    k = rk.kernel(lambda x, n, s: (x + n) * s)
    x = floats(8)
    warm(k, x, 1, 2.0)
    np.testing.assert_array_equal(natively(k, x, -3, 0.5), (x - 3) * np.float32(0.5))
    np.testing.assert_array_equal(natively(k, x, -(2**63), 0.0), x * -0.0)
    for n, s in ((1.0, 2.0), (1, 2), (np.int64(1), 2.0), (np.float32(1), 2.0)):
        np.testing.assert_array_equal(in_python(k, x, n, s), (x + n) * s)
    with pytest.raises(rk.DtypeError):
        in_python(k, x, 2**63, 1.0)
    exact = warm(rk.kernel(lambda x, n: x + n), np.zeros(2, np.int64), 1)
    assert natively(exact, np.zeros(2, np.int64), 2**63 - 1).tolist() == [2**63 - 1] * 2


@needs_entry
def test_compile_time_values_are_told_apart() -> None:
    k = rk.kernel(lambda x, axis, keep=True, scale=2.0: rk.sum(x, axis=axis, keepdims=keep) * scale, static="axis")
    x = floats(2, 3)
    warm(k, x, 0, True, 1.0)
    np.testing.assert_array_equal(natively(k, x, 0, True, 3.0), x.sum(0, keepdims=True) * 3)
    np.testing.assert_array_equal(in_python(k, x, 1, True, 1.0), x.sum(1, keepdims=True))
    np.testing.assert_array_equal(in_python(k, x, 0, False, 1.0), x.sum(0))
    for _ in range(4):  # a default that is a runtime value stays with Python
        np.testing.assert_array_equal(in_python(k, x, 0), x.sum(0, keepdims=True) * 2)


@needs_entry
def test_tuples_arguments_and_several_launches_are_returned() -> None:
    def fn(x: Any, y: Any) -> Any:
        i, j, k = rk.ranges(*x.shape, y.shape[1])
        z = rk.bufferize(rk.sum(x[i, j] * y[j, k], j), i, k, memory="global")
        a, b = rk.ranges(*z.shape)
        return x, rk.bufferize(rk.exp(z[a, b] - rk.max(z[a, b], b)), a, b), z

    x, y = floats(3, 4) / 10, floats(4, 5) / 10
    k = warm(rk.kernel(fn), x, y)
    same, e, z = natively(k, x, y)
    assert same is x
    np.testing.assert_allclose(z, x @ y, rtol=1e-6)
    np.testing.assert_allclose(e, np.exp(z - z.max(1, keepdims=True)), rtol=1e-6)


@needs_entry
def test_captured_arrays_are_read_and_kept_apart() -> None:
    w = floats(8)
    captured = rk.asarray(w)
    k = warm(rk.kernel(lambda x: (x + captured)[::-1]), w + 1)
    x = floats(8) * 3
    np.testing.assert_array_equal(natively(k, x), (x + w)[::-1])
    w[:] = 1
    np.testing.assert_array_equal(natively(k, x), (x + 1)[::-1])
    w[:] = np.arange(8)
    in_python(k, x, out=w)
    np.testing.assert_array_equal(w, (x + np.arange(8))[::-1])


@needs_entry
def test_out_is_used_where_it_shares_nothing() -> None:
    def reverse(x: Any) -> Any:
        i = rk.Range(8)
        return rk.bufferize(x[7 - i], i)

    x, out, room = floats(8), np.zeros(8, np.float32), floats(16)
    k = warm(rk.kernel(reverse), x)
    assert natively(k, x, out=out) is out
    np.testing.assert_array_equal(out, x[::-1])
    assert in_python(k, x, out=x) is x
    np.testing.assert_array_equal(x, np.arange(8)[::-1])
    in_python(k, room[:8], out=room[4:12])
    np.testing.assert_array_equal(room[4:12], np.arange(8)[::-1])
    natively(k, x, out=room[8:])
    np.testing.assert_array_equal(room[8:], np.arange(8))
    wide = np.zeros(16, np.float32)
    in_python(k, x, out=wide[::2])
    np.testing.assert_array_equal(wide[::2], np.arange(8))
    np.testing.assert_array_equal(in_python(k, x, out=None), np.arange(8))
    odd = _misaligned(out)
    in_python(k, x, out=odd)
    np.testing.assert_array_equal(odd, np.arange(8))


@needs_entry
def test_a_wrong_out_is_refused() -> None:
    x = floats(8)
    k = warm(rk.kernel(double), x)
    frozen = np.zeros(8, np.float32)
    frozen.flags.writeable = False
    for out, error in (
        (np.zeros(9, np.float32), rk.ShapeError),
        (np.zeros((1, 8), np.float32), rk.ShapeError),
        (np.zeros(8, np.int32), rk.DtypeError),
        (np.zeros(8, ">f4"), rk.DtypeError),
        (frozen, rk.ArgumentError),
        ((x, x), rk.ArgumentError),
    ):
        with pytest.raises(error):
            in_python(k, x, out=out)
    assert not frozen.any()


def swap(x: Any, y: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.assign(x[i], y[i] + 1)


@needs_entry
def test_arguments_are_written_in_place() -> None:
    k = warm(rk.kernel(swap), floats(8), floats(8))
    x, y = np.zeros(8, np.float32), floats(8)
    assert natively(k, x, y) is x
    np.testing.assert_array_equal(x, y + 1)
    room = floats(12)
    in_python(k, room[1:9], room[:8])
    np.testing.assert_array_equal(room, [0, *range(1, 9), 9, 10, 11])
    y.flags.writeable = False
    with pytest.raises(rk.ArgumentError, match="read-only"):
        in_python(k, y, x)


@pytest.mark.parametrize("kind", [_misaligned, lambda x: x.astype(">f4")])
def test_writes_to_an_array_that_kernels_cannot_address_arrive(kind: Callable[[Array], Array]) -> None:
    x, y = kind(np.zeros(8, np.float32)), floats(8)
    k = rk.kernel(swap)
    for _ in range(3):
        assert k(x, y) is x
        np.testing.assert_array_equal(x, y + 1)
        x[...] = 0
    x.flags.writeable = False
    with pytest.raises(rk.ArgumentError, match="read-only"):
        k(x, y)


@needs_entry
def test_a_fault_raises_as_in_python() -> None:
    k = rk.kernel(take)
    x, good, bad = floats(8), np.array([0, 7, 3]), np.array([0, 9, 3])
    with pytest.raises(rk.BoundsError) as slow:
        k(x, bad)
    warm(k, x, good)
    with pytest.raises(rk.BoundsError) as fast:
        in_python(k, x, bad)  # no call through __call__ either:
    assert not any(f.name == "__call__" for f in fast.traceback)
    assert str(fast.value) == str(slow.value) and "9" in str(fast.value)
    with pytest.raises(rk.BoundsError):
        k(x, bad, out=np.zeros(3, np.float32))
    np.testing.assert_array_equal(natively(k, x, good), x[good])


@needs_entry
def test_a_kernel_that_writes_and_faults_runs_once() -> None:
    def bump(x: Any, t: Any, at: Any) -> Any:
        i = rk.Range(x.shape[0])
        return rk.assign(x[i], x[i] + t[at[i]])

    x, t = np.zeros(3, np.float32), np.ones(4, np.float32)
    k = warm(rk.kernel(bump), x, t, np.array([0, 1, 2]))
    assert x.tolist() == [3, 3, 3]
    with pytest.raises(rk.BoundsError):
        k(x, t, np.array([0, 4, 2]))
    assert x[0] == 4 and x[2] == 4


@needs_entry
def test_inside_a_trace_a_kernel_is_part_of_it_even_with_plain_arrays() -> None:
    w = floats(8)
    inner = warm(rk.kernel(double), w)
    seen: list[Any] = []

    def outer(x: Any) -> Any:
        seen.append(inner(w))
        return x + seen[-1]

    before = inner.native_calls
    low = rk.kernel(outer).lower(w)
    assert isinstance(seen[0], rk.Tensor)
    assert inner.native_calls == before
    assert len(low.kernels) == 1
    np.testing.assert_array_equal(rk.kernel(outer)(w), 3 * w)
    with pytest.raises(rk.ArgumentError, match="out="):
        rk.kernel(lambda x: inner(x, out=w))(w)
    assert trace.RUNNING.value == 0
    with pytest.raises(ZeroDivisionError):
        rk.kernel(lambda x: 1 // 0)(w)
    np.testing.assert_array_equal(natively(inner, w), w + w)


@needs_entry
def test_a_fork_inside_nothing_leaves_native_calls_alone() -> None:
    k, x = rk.kernel(double), floats(8)
    warm(k, x)
    child = os.fork()
    if child == 0:
        before = k.native_calls
        right = np.array_equal(k(x), x + x) and k.native_calls == before + 1 and rk.memory_stats().cached == 0
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_tensors_prints_and_devices_stay_with_python(capsys: pytest.CaptureFixture[str]) -> None:
    x = floats(3)
    t = rk.asarray(x)
    k = rk.kernel(double)
    for _ in range(4):
        assert isinstance(in_python(k, t), rk.Tensor)

    @rk.kernel
    def shows(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        rk.print(x[i])
        return rk.bufferize(x[i], i)

    slow = rk.kernel(double, device="python")
    for _ in range(4):
        in_python(shows, x)
        np.testing.assert_array_equal(in_python(slow, x), x + x)
    assert len(capsys.readouterr().out.splitlines()) == 12


@needs_entry
def test_threads_call_one_kernel_with_several_signatures() -> None:
    k = rk.kernel(lambda x: rk.softmax(x, axis=-1))
    xs = [np.random.default_rng(n).normal(size=(3 + n % 10, 5)).astype(np.float32) for n in range(12)]
    xs[3] = np.random.default_rng(3).normal(size=(600, 500)).astype(np.float32)  # long: without the lock
    want = [np.exp(x.astype(np.float64)) for x in xs]
    want = [w / w.sum(1, keepdims=True) for w in want]
    wrong: list[int] = []

    def run(n: int) -> None:
        for _ in range(100):
            if not np.allclose(k(xs[n]), want[n], rtol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert k.native_calls > 100


@needs_entry
def test_nothing_leaks_and_nothing_is_dropped() -> None:
    x, y, out, scale = floats(8), floats(8), floats(8) + 1, 1234.5
    at = np.array([0, 99])
    k = warm(rk.kernel(lambda x, y, s: (x + y) * s), x, y, scale)
    pair = warm(rk.kernel(lambda x, y: (x + y, x)), x, y)
    bad = warm(rk.kernel(take), x, np.array([0, 1]))
    big = np.zeros(1 << 17, np.float32)
    large = warm(rk.kernel(double), big)
    watched = (x, y, out, scale, x.dtype, np.dtype(np.float32), at, big, k, None, "out", k.fn, rk.BoundsError)

    def rounds(count: int) -> None:
        for _ in range(count):
            k(x, y, scale)
            k(x, y, scale, out=out)
            pair(x, y)
        for _ in range(count // 50):
            large(big)
            with suppress(rk.BoundsError):
                bad(x, at)

    rounds(100)
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    blocks, live = sys.getallocatedblocks(), rk.memory_stats().live
    rounds(30_000)
    gc.collect()
    after = [sys.getrefcount(o) for o in watched]
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) < 20
    assert abs(sys.getallocatedblocks() - blocks) < 500
    assert rk.memory_stats().live == live
    answer = natively(k, x, y, scale)
    assert sys.getrefcount(answer) == 2


@needs_entry
def test_kernels_die_with_their_records() -> None:
    import weakref

    x = floats(8)
    k = warm(rk.kernel(double), x)
    held = weakref.ref(k)
    program = weakref.ref(next(iter(k._compiled.values())).program)
    del k
    gc.collect()
    assert held() is None and program() is None


@needs_entry
def test_a_failed_result_is_a_memory_error_and_drops_the_others() -> None:
    def failing() -> Any:
        raise MemoryError("none left")

    code = engine.Code("define void @kernel(ptr %args, ptr %fault) {\n  ret void\n}\n")
    f32 = np.dtype(np.float32)
    made = (entry.Value(entry.ARRAY, f32, (8,)), entry.Value(entry.ARRAY, f32, (8,), make=failing))
    plan = entry.Plan((), made, (entry.Start(code.address, (0, 1)),), (0, 1), False, print, keep=(code,))
    record = entry.Record(plan)

    class Bare(native.Callable):  # type: ignore[misc]
        pass

    assert native.calls_natively(Bare)
    bare = Bare()
    native.set_entry(bare, entry.entry(ctypes.addressof(trace.RUNNING)), record.address)
    before = sys.getrefcount(f32)
    for _ in range(100):
        with pytest.raises(MemoryError, match="none left"):
            bare()
    assert abs(sys.getrefcount(f32) - before) < 5
    assert record.hits == 0


def test_a_kernel_still_looks_like_its_function() -> None:
    @rk.kernel
    def named(x: Any, n: int = 2) -> Any:
        """What it says."""
        return x * n

    warm(named, floats(3), 1)
    assert repr(named) == "<kernel named(x: Any, n: int = 2) -> Any>"
    assert named.__doc__ == "What it says." and named.__name__ == "named" and named.__wrapped__ is named.fn
    assert str(inspect.signature(named)) == "(x: Any, n: int = 2) -> Any"
    assert callable(named) and isinstance(named, rk.Kernel)


@needs_entry
def test_a_replaced_call_method_is_what_python_calls_find(monkeypatch: pytest.MonkeyPatch) -> None:
    x = floats(8)
    k, fresh = warm(rk.kernel(double), x), rk.kernel(double)
    monkeypatch.setattr(rk.Kernel, "__call__", lambda self, *args: "replaced")
    assert fresh(x) == "replaced"
    assert k(x[:3]) == "replaced"


def test_strided_arrays_that_share_memory_with_a_written_one_are_copied_as_they_lie() -> None:
    base = floats(6, 5)
    want = base.copy()
    want[:, 1] = base[::-1, 2] + 1
    k = rk.kernel(swap)
    for _ in range(4):
        room = base.copy()
        k(room[:, 1], room[::-1, 2])
        np.testing.assert_array_equal(room, want)
    room = floats(6)
    spread = np.lib.stride_tricks.as_strided(room[3:], (6,), (0,))
    k(room, spread)
    np.testing.assert_array_equal(room, np.full(6, 4))


@pytest.mark.parametrize("kind", [lambda x: np.repeat(x, 2)[::2], lambda x: x[::-1].copy()[::-1], _misaligned])
def test_captured_arrays_may_lie_as_they_like(kind: Callable[[Array], Array]) -> None:
    x, w = floats(8), kind(floats(8) * 10)
    captured = rk.asarray(w)
    reads = rk.kernel(lambda x: x + captured)

    def write(x: Any) -> Any:
        i = rk.Range(8)
        return rk.assign(captured[i], captured[i] + x[i])

    writes = rk.kernel(write)
    for n in range(4):
        np.testing.assert_array_equal(reads(x), x * (11 + n))
        np.testing.assert_array_equal(writes(x), x * (11 + n))
        np.testing.assert_array_equal(w, x * (11 + n))
    writes(w)
    np.testing.assert_array_equal(w, x * 28)


class Foreign:
    """An array of another library, as DLPack shows it."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[no-any-return]


class Unreadable(Foreign):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it is elsewhere")


def test_arrays_of_other_libraries_are_read_and_written_where_they_are() -> None:
    x, y = floats(8), floats(8)[::-1]
    k = rk.kernel(add)
    for _ in range(3):
        np.testing.assert_array_equal(k(Foreign(x), Foreign(y)), x + y)
    written = Foreign(np.zeros(8, np.float32))
    assert rk.kernel(swap)(written, x) is written
    np.testing.assert_array_equal(written.array, x + 1)
    out = Foreign(np.zeros(8, np.float32))
    assert k(x, y, out=out) is out
    np.testing.assert_array_equal(out.array, x + y)
    with pytest.raises(rk.DtypeError, match="it is elsewhere"):
        k(Unreadable(x), y)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, y = torch.arange(8.0), torch.ones(8)
    out = rk.kernel(add)(x, y)
    assert isinstance(out, torch.Tensor)
    assert torch.equal(out, x + y)
    assert rk.kernel(swap)(y, x) is y
    assert torch.equal(y, x + 1)


def test_without_known_layouts_calls_work_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SUPPORTED", False)
    x = floats(8)
    k = warm(rk.kernel(double), x)
    np.testing.assert_array_equal(k(x), x + x)
    assert k.native_calls == 0
    assert native.pointer(x) == x.ctypes.data
    assert not native.calls_natively(rk.Kernel)


def _layouts() -> Iterator[Array]:
    x = floats(4, 6)
    yield from (x, x[1:], x[:, ::-2], x[::-1], x.T, x[:0], x[2:3, 3].reshape(()), x.astype(ml_dtypes.bfloat16))


def test_pointers_are_those_of_numpy() -> None:
    for x in _layouts():
        assert native.pointer(x) == x.ctypes.data
