"""Scheduled nests in LLVM: lanes, their tails and masks, transposed loads, reductions, streams and threads.

NumPy in float64 or whole numbers says what is right. Arguments and results lie beside pages that nobody may touch.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk

RNG = np.random.default_rng(0)
SIZES = [0, 1, 7, 8, 9, 31, 33, 37]
BLOCKS = [4, 8, 16]
FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
DTYPES = [*FLOATS, np.int32, np.int64, np.uint8, np.bool_]
UNTOUCHED = 0xFF  # a NaN in every float type
I4, I8, I16, J4, J8, J16 = (rk.upcast(name, block) for name in "ij" for block in BLOCKS)

Array = np.ndarray[Any, Any]


def rand(*shape: int, dtype: Any = np.float32) -> Array:
    """Small whole numbers and halves of them: sums of these are exact in any order."""
    return (RNG.integers(-16, 17, shape) / 2).astype(dtype)


def wide(x: Any) -> Array:
    """In a type without rounding."""
    x = np.asarray(x)
    return x.astype(np.int64 if x.dtype.kind in "iub" else np.float64)


class Fenced:
    """A copy of an array in pages of its own: it ends where a page begins that may not be read, or begins where such a
    page ends. The rest of its pages is filled with a byte that must stay.
    """

    def __init__(self, array: Array, low: bool = False) -> None:
        pages = array.nbytes // mmap.PAGESIZE + 3
        self.bytes = np.frombuffer(mmap.mmap(-1, pages * mmap.PAGESIZE), np.uint8)
        self.bytes[:] = UNTOUCHED
        end = len(self.bytes) - mmap.PAGESIZE
        self.start = mmap.PAGESIZE if low else end - array.nbytes
        self.array: Array = self.bytes[self.start : self.start + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        for page in (0, end):
            address = ctypes.c_void_p(self.bytes.ctypes.data + page)
            assert ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0

    def alone(self) -> bool:
        """Whether nothing beside the array was written."""
        beside = (self.bytes[mmap.PAGESIZE : self.start], self.bytes[self.start + self.array.nbytes : -mmap.PAGESIZE])
        return all((b == UNTOUCHED).all() for b in beside)


def same(got: Array, want: Array) -> None:
    """Equal bits, but for what is in a NaN."""
    np.testing.assert_array_equal(wide(got), wide(want))
    np.testing.assert_array_equal(*(np.signbit(np.where(np.isnan(w), 0, w)) for w in (wide(got), wide(want))))


def check(fn: Callable[..., Any], steps: tuple[Any, ...], args: list[Array], *want: Any) -> None:
    """What a scheduled kernel gives for fenced arguments, in fenced results."""
    kernel = rk.kernel(fn).schedule(*steps)
    for low in (False, True):
        given = [Fenced(a, low) for a in args]
        plain = kernel(*(g.array for g in given))
        results = plain if isinstance(plain, tuple) else (plain,)
        out = [Fenced(np.zeros_like(r), low) for r in results]
        kernel(*(g.array for g in given), out=tuple(o.array for o in out) if isinstance(plain, tuple) else out[0].array)
        for o, w, r in zip(out, want, results, strict=True):
            with np.errstate(over="ignore"):
                same(o.array, np.asarray(w).astype(o.array.dtype))
            same(r, o.array)
            assert o.alone()
        assert all(g.alone() and g.array.tobytes() == a.tobytes() for g, a in zip(given, args, strict=True))


# ---- tails -----------------------------------------------------------------------------------------------------------


def affine(x: Any) -> Any:
    return x * 2 + 1


def product(a: Any, b: Any) -> Any:
    i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


@pytest.mark.parametrize("step", [rk.upcast, rk.unroll])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("n", SIZES)
def test_what_is_left_of_a_loop(n: int, block: int, step: Any) -> None:
    x = rand(n)
    check(affine, (step("i", block),), [x], wide(x) * 2 + 1)


@pytest.mark.parametrize("steps", [
    (rk.upcast("i", 3), J8, rk.unroll("k", 4)), (J16, rk.upcast("k", 2)), (J8, rk.prefetch("b", at="k", ahead=9)),
    (rk.tile("i", 8), rk.tile("k", 8), rk.reorder("k", "i"), rk.stage("a", at="i"), rk.upcast("i.t", 4), J8),
    (I8, rk.unroll("k", 3)), (rk.tile("i", 5), rk.reorder("i", "j", "i.t"), J8, rk.prefetch("out")),
])  # fmt: skip
@pytest.mark.parametrize(("m", "k", "n"), [(0, 3, 9), (1, 1, 1), (1, 5, 33), (7, 9, 31), (9, 8, 17), (33, 7, 8)])
def test_what_is_left_in_two_dimensions_and_more(m: int, k: int, n: int, steps: tuple[Any, ...]) -> None:
    a, b = rand(m, k), rand(k, n)
    check(product, steps, [a, b], wide(a) @ wide(b))


# ---- where an access goes --------------------------------------------------------------------------------------------


def turned(x: Any) -> Any:
    i, j = rk.ranges(x.shape[1], x.shape[0])
    return rk.bufferize(x[j, i] + x[j, i], i, j)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", [(1, 33), (31, 1), (7, 9), (17, 31), (33, 16)])
def test_transposed_loads_and_stores(shape: tuple[int, int], block: int) -> None:
    x = rand(*shape)
    i, j = rk.upcast("i", block), rk.upcast("j", block)
    for steps in ((i, j), (i,), (j,)):
        check(turned, steps, [x], wide(x).T * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_any_type(dtype: Any) -> None:
    x = np.abs(rand(17, 33)).astype(dtype)
    check(lambda x: rk.permute_dims(x, (1, 0)), (I16, J16), [x], x.T)
    check(lambda x: rk.where(x == 0, x[::-1], x), (J16,), [x], np.where(x == 0, x[::-1], x))


def over(ids: Any, value: Callable[[Any], Any], part: int = 1) -> Any:
    i = rk.Range(len(ids) // part)
    return rk.bufferize(value(i), i)


ACCESS: dict[str, tuple[Callable[..., Any], Callable[..., Array]]] = {  # lanes past the end read ids of 0
    "gather": (lambda x, ids: over(ids, lambda i: x[ids[i] - 1]), lambda x, ids: x[ids - 1]),
    "promised": (lambda x, ids: over(ids, lambda i: x[ids[i].in_range(1, 38) - 1]), lambda x, ids: x[ids - 1]),
    "reversed": (lambda x, ids: over(ids, lambda i: x[36 - i]), lambda x, ids: x[::-1][: len(ids)]),
    "strided": (lambda x, ids: over(ids, lambda i: x[2 * i + 1], 2), lambda x, ids: x[1 : len(ids) // 2 * 2 : 2]),
    "backwards": (lambda x, ids: over(ids, lambda i: x[36 - 2 * i], 2), lambda x, ids: x[::-2][: len(ids) // 2]),
    "twice": (lambda x, ids: over(ids, lambda i: x[(i + 1) // 2]), lambda x, ids: x.repeat(2)[1:][: len(ids)]),
    "broadcast": (lambda x, ids: over(ids, lambda i: x[3] + ids[i]), lambda x, ids: x[3] + ids),
}


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("n", SIZES)
def test_indices_that_are_not_those_of_the_lanes(n: int, access: str) -> None:
    fn, oracle = ACCESS[access]
    x, ids = rand(37, dtype=np.float64), RNG.integers(1, 38, n)
    ids[: n // 3] = 37
    check(fn, (I8,), [x, ids], oracle(x, ids))


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (9, 33)])
def test_rows_and_columns_for_all(shape: tuple[int, int]) -> None:
    def combined(x: Any, row: Any, column: Any, keep: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        back = rk.where(keep[i], x[i, x.shape[1] - 1 - j], 0)
        return rk.bufferize(back * row[j] + column[i], i, j)

    x, row, column, keep = rand(*shape), rand(shape[1]), rand(shape[0]), RNG.random(shape[0]) < 0.5
    want = np.where(keep[:, None], wide(x)[:, ::-1], 0) * row + wide(column)[:, None]
    for steps in ((J8,), (I8,), (I4, J8)):
        check(combined, steps, [x, row, column, keep], want)


# ---- masks and loops of unequal length -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 31), (7, 8), (9, 33)])
def test_a_stencil_reads_nothing_beyond_the_border(shape: tuple[int, int]) -> None:
    def spread(x: Any) -> Any:
        i, j, k, l = rk.ranges(*shape, 3, 5)
        r, c = i + k - 1, j + l - 2
        inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
        return rk.bufferize(rk.sum(rk.where(inside, x[r, c], 0), k, l), i, j)

    x = rand(*shape)
    padded = np.pad(wide(x), ((1, 1), (2, 2)))
    want = sum(padded[k : k + shape[0], l : l + shape[1]] for k in range(3) for l in range(5))
    for steps in ((J8,), (I4, J8, rk.unroll("l", 5)), (I8, rk.unroll("k", 3))):
        check(spread, steps, [x], want)


@pytest.mark.parametrize("steps", [(I8,), (J8,), (I4, J8)])
@pytest.mark.parametrize("n", [1, 7, 9, 33])
def test_reductions_leave_out_what_is_masked(n: int, steps: tuple[Any, ...]) -> None:
    def left(x: Any, keep: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return tuple(rk.bufferize(op(x[i, j], j, where=keep[i, j]), i) for op in (rk.sum, rk.max, rk.min, rk.prod))

    x, keep = RNG.choice([1, 2, -1, 0.5], (n, n + 1)).astype(np.float32), RNG.random((n, n + 1)) < 0.5
    keep[0] = keep[n // 2] = False  # rows of nothing
    x[~keep & (RNG.random(keep.shape) < 0.5)] = np.nan
    kept = [np.where(keep, wide(x), e) for e in (0, -np.inf, np.inf, 1)]
    check(left, steps, [x, keep], *(f(y, 1) for f, y in zip((np.sum, np.max, np.min, np.prod), kept, strict=True)))


@pytest.mark.parametrize("inside", [
    lambda i, j: j <= i, lambda i, j: j > i, lambda i, j: (j >= i - 2) & (j <= i + 1), lambda i, j: 2 * j < i,
    lambda i, j: j >= 3 * i,  # lanes without an iteration
], ids=["lower", "upper", "band", "half", "steep"])  # fmt: skip
@pytest.mark.parametrize("n", [1, 7, 9, 33])
def test_lanes_that_run_loops_of_unequal_length(n: int, inside: Callable[[Any, Any], Any]) -> None:
    def unequal(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        most = rk.max(x[i, j], j, where=inside(i, j))
        return rk.bufferize(rk.sum(x[i, j] * x[j, i], j, where=inside(i, j)), i), rk.bufferize(most, i)

    x = rand(n, n)
    keep, y = inside(*np.indices(x.shape)), wide(x)
    for steps in ((I8,), (I16,), (I4, J8), (rk.thread("i"), J4)):
        check(unequal, steps, [x], np.where(keep, y * y.T, 0).sum(1), np.where(keep, y, -np.inf).max(1))


# ---- reductions ------------------------------------------------------------------------------------------------------

REDUCED = [(), (I8,), (I16,), (rk.group("i", 3), rk.upcast("i.t", 4)), (rk.group("i", 4), rk.thread("i"))]


def extremes(x: Array) -> list[Array]:
    """The greatest and the least of each row by IEEE 754-2019: NaN wins, and -0 is less than 0."""
    tiny = 1e-300  # in the place of zeros, with their signs
    found = (f(np.where(x == 0, np.copysign(tiny, x), x), 1) for f in (np.max, np.min))
    return [np.where(abs(f) == tiny, np.copysign(0.0, f), f) for f in found]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 33])
def test_reductions_across_lanes_and_groups(n: int, dtype: Any) -> None:
    x, y = (
        RNG.choice([1, 2, 3] if np.dtype(dtype).kind in "bu" else [1, 2, -1, -2], n).astype(dtype),
        np.zeros(n, dtype),
    )
    y[-1:] = 1
    w = wide(x)
    kind = np.int64 if dtype is np.bool_ else dtype
    least, most = (-np.inf, np.inf) if w.dtype.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    for steps in REDUCED:
        check(lambda x: (rk.sum(x), rk.prod(x)), steps, [x], w.sum(), w.prod())
        check(lambda x: (rk.max(x), rk.min(x)), steps, [x], w.max(initial=least), w.min(initial=most))
        check(lambda x, y: (rk.any(y == 7), rk.any(y), rk.all(x), rk.all(y)), steps, [x, y],
              False, y.any(), w.all(), y.all())  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES[:-1])
@pytest.mark.parametrize("n", [1, 9, 33])
def test_the_first_of_several_extremes_is_named(n: int, dtype: Any) -> None:
    cases = [RNG.integers(0, 3, n), np.zeros(n), np.arange(n) % 4, -np.arange(n) % 4]
    if dtype in FLOATS:
        some = RNG.random(n) < 0.2
        cases += [np.where(some, np.nan, cases[0]), np.full(n, np.nan), np.full(n, -np.inf), np.where(some, 0.0, -0.0)]
    for steps in REDUCED:
        kernel = rk.kernel(lambda x: (rk.argmax(x), rk.argmin(x))).schedule(*steps)
        for case in cases:
            x = Fenced(case.astype(dtype)).array
            assert kernel(x) == (wide(x).argmax(), wide(x).argmin()), (steps, case)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_wins_and_zeros_have_an_order(dtype: Any) -> None:
    special = np.array([np.nan, -np.inf, -1, -0.0, 0.0, 1])
    pairs = np.stack([a.ravel() for a in np.meshgrid(special, special)], 1).astype(dtype)
    few = RNG.random((12, 33)) < 0.03
    rows = np.concatenate([np.where(few, a, b) for a, b in ((0.0, -0.0), (-0.0, 0.0), (np.nan, -0.0))]).astype(dtype)
    for steps in ((), (I8,)):
        check(lambda x, y: (rk.maximum(x, y), rk.minimum(x, y)), steps, list(pairs.T.copy()), *extremes(wide(pairs)))
    for steps in ((), (I8,), (J16,), (rk.group("j", 3), rk.upcast("j.t", 4))):
        check(lambda x: (rk.max(x, axis=1), rk.min(x, axis=1)), steps, [rows], *extremes(wide(rows)))


# ---- streams, functions, threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 31), (5, 64), (4, 33)])
def test_a_stream_goes_to_results_of_any_alignment(shape: tuple[int, int], dtype: Any) -> None:
    x = np.abs(rand(*shape, dtype=dtype))
    for steps in ((J16,), (I4, J8), (rk.thread("i"), J16)):
        kernel = rk.kernel(lambda x: x + x).schedule(*steps, rk.stream("out"))
        for offset in range(17):
            whole = np.full(x.size + 32, 99, dtype)
            inside = slice(offset, offset + x.size)
            same(kernel(x, out=whole[inside].reshape(shape)), x + x)
            whole[inside] = 99
            assert (whole == 99).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos", "tanh", "expm1"])
def test_functions_of_lanes_are_those_of_single_elements(name: str, dtype: Any) -> None:
    fn, x = getattr(rk, name), np.concatenate([np.linspace(-9, 9, 101), RNG.standard_normal(98) * 50, [0.0, -0.0]])
    far = 10.0 ** np.arange(-36, 37, 5)  # a large argument among small ones
    x = RNG.permutation(np.concatenate([x, far, [np.inf, -np.inf, np.nan]])).astype(dtype)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x.astype(np.float64)).astype(dtype)
    alone = rk.kernel(lambda x: fn(x)).schedule()
    bits = np.concatenate([alone(x[n : n + 1]) for n in range(len(x))])
    np.testing.assert_allclose(bits, want, rtol=4 * np.finfo(dtype).eps, atol=0)
    for steps in ((), (I4,), (I16,), (rk.unroll("i", 4),)):
        check(lambda x: fn(x), steps, [x], bits)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """How to say how many; put back afterwards."""
    before = rk.get_num_threads()
    yield rk.set_num_threads
    rk.set_num_threads(before)


@pytest.mark.parametrize("grain", [1, 3, 8, 64])
def test_the_number_of_threads_changes_no_bit(grain: int, threads: Callable[[int], None]) -> None:
    x = RNG.standard_normal((41, 37), dtype=np.float32)
    e = np.exp(wide(x))
    for fn, steps, want in (
        (lambda x: rk.softmax(x), (rk.thread("i", grain), J8), e / e.sum(1, keepdims=True)),
        (lambda x: rk.sum(x * x, axis=1), (rk.tile("i", 5), rk.thread("i", grain)), (wide(x) ** 2).sum(1)),
        (lambda x: rk.sum(x), (rk.group("i", 7), rk.thread("i", grain)), wide(x).sum()),
    ):
        results = []
        for count in (1, 2, 2):
            threads(count)
            results.append(rk.kernel(fn).schedule(*steps)(x))
        assert len({r.tobytes() for r in results}) == 1
        np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [(I8,), (rk.thread("i", 3),), (rk.tile("i", 8), rk.thread("i"), rk.upcast("i.t", 8))])
@pytest.mark.parametrize("at", [0, 7, 20, 32])
def test_an_index_out_of_bounds_in_a_lane_or_on_a_thread(at: int, steps: Any, threads: Callable[[int], None]) -> None:
    x, ids = rand(9), RNG.integers(0, 9, 33)
    for bad in (-1, 9, 1 << 40):
        wrong = ids.copy()
        wrong[at] = bad
        for count in (1, 2):
            threads(count)
            check(lambda x, ids: x[ids], steps, [x, ids], x[ids])
            with pytest.raises(rk.BoundsError, match=rf"index {bad} of axis 0"):
                rk.kernel(lambda x, ids: x[ids]).schedule(*steps)(x, wrong)


# ---- text ------------------------------------------------------------------------------------------------------------


def versions(fn: Any, x: Array, *steps: Any) -> tuple[str, str, str]:
    """The text of a kernel: its version for whole blocks, the one for what is left, and the machine's."""
    low = rk.kernel(fn).schedule(*steps).lower(x)
    found = re.search(r"^full\.\d+:\n(.*?)^part\.\d+:\n(.*?)^  ret void", low.as_text("llvm"), re.M | re.S)
    assert found
    return found[1], found[2], low.as_text("asm")


def test_a_block_has_no_masks_and_a_stream_goes_past_the_caches() -> None:
    main, tail, asm = versions(affine, rand(33), I8, rk.stream("out"))
    assert re.search(r"load <\d+ x float>", main) and "masked" not in main and "!nontemporal" in main
    assert "llvm.masked.load" in tail and "llvm.masked.store" in tail and "!nontemporal" not in tail
    *_, early = versions(affine, rand(33), I8, rk.prefetch("x", at="i", ahead=2))
    assert platform.machine() != "x86_64" or ("movnt" in asm and "prefetch" in early)
    assert "masked" not in rk.kernel(affine).schedule(I8).lower(rand(32)).as_text("llvm")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_transposed_load_is_one_of_rows(block: int) -> None:
    main, *_ = versions(turned, rand(33, 34), rk.upcast("i", block), rk.upcast("j", block))
    assert "shufflevector" in main and re.search(r"load <\d+ x float>", main)
    assert not re.search(r"(load|store) float|insertelement", main)


# ---- what a compiler got wrong ---------------------------------------------------------------------------------------

NARROWER = [
    *((source, target) for source in (np.int64, np.int32) for target in (np.int16, np.int8, np.uint8)),
    *((np.int64, target) for target in (np.int32, ml_dtypes.bfloat16, np.float32)),
    *((source, ml_dtypes.bfloat16) for source in (np.float32, np.float64)),
]


@pytest.mark.parametrize(("source", "target"), NARROWER)
def test_a_tail_of_one_narrowed_element_is_one_element(source: Any, target: Any) -> None:
    for n in (1, 9, 17, 33):
        x = np.arange(n).astype(source)
        for block in (8, 16):
            check(
                lambda x: x.astype(rk.Tensor(np.zeros(0, target)).dtype),
                (rk.upcast("i", block),),
                [x],
                x.astype(target),
            )


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_a_result_does_not_depend_on_the_lane_beside_it(name: str) -> None:
    f = rk.kernel(lambda x: getattr(rk, name)(x)).schedule(rk.upcast("i", 4))
    x = RNG.standard_normal(512) * 50
    beside = np.repeat(x, 2)
    beside[1::2] = 1e9  # reduced by another formula
    np.testing.assert_array_equal(f(beside)[::2], f(x))


def test_axes_and_reductions_without_elements() -> None:
    check(lambda x: x * 2, (I4,), [rand(9, 0)], np.zeros((9, 0), np.float32))
    check(lambda x: rk.flip(x), (), [rand(0)], np.zeros(0, np.float32))

    def product(a: Any, b: Any) -> Any:
        i, j, k = rk.ranges(a.shape[0], b.shape[1], a.shape[1])
        return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)

    check(product, (rk.tile("k", 8), rk.reorder("k", "i")), [rand(8, 0), rand(0, 8)], np.zeros((8, 8), np.float32))
