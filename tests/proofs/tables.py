"""Kernels that are right, and kernels that are wrong, as two tables: a name, the kernel, the shapes of its arguments.

A wrong one has what is wrong as a Python function of the iteration: the index that leaves ``size``, or, where two
iterations meet (``size`` None), the place that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import rangekit as rk

N = rk.Dim("N", min=4, max=5000)
TILES = rk.Dim("T", min=16, max=4096, multiple_of=16)


class Right(NamedTuple):
    name: str
    kernel: Callable[..., Any]
    shapes: tuple[tuple[int, ...] | str, ...]  # a shape of float32, or "i5": five int64 indices


class Wrong(NamedTuple):
    name: str
    kernel: Callable[..., Any]
    shapes: tuple[tuple[int, ...] | str, ...]
    place: Callable[..., Any]
    size: int | None


def table(*rows: tuple[Any, ...]) -> list[Right]:
    return [Right(*row) for row in rows]


def conv(taps: int, stride: int = 1, dilation: int = 1, pad: int = 0) -> Callable[..., Any]:
    """A one-dimensional convolution as people write it: the padding is a condition."""

    def kernel(x: Any) -> Any:
        n = x.shape[0]
        i = rk.Range((n + 2 * pad - dilation * (taps - 1) - 1) // stride + 1, "i")
        k = rk.Range(taps, "k")
        at = i * stride + k * dilation - pad
        return rk.bufferize(rk.sum(rk.where((at >= 0) & (at < n), x[at], 0.0), k), i)

    return kernel


def valid(taps: int, stride: int = 1, dilation: int = 1, longer: int = 0) -> Callable[..., Any]:
    """A convolution without padding; ``longer`` iterations too many."""

    def kernel(x: Any) -> Any:
        i = rk.Range((x.shape[0] - dilation * (taps - 1) - 1) // stride + 1 + longer, "i")
        k = rk.Range(taps, "k")
        return rk.bufferize(rk.sum(x[i * stride + k * dilation], k), i)

    return kernel


def tiled(size: int, tail: bool = True) -> Callable[..., Any]:
    """A copy by tiles, the last one cut short; without ``tail`` it is not."""

    def kernel(x: Any) -> Any:
        n = x.shape[0]
        o, t = rk.Range(-(-n // size), "o"), rk.Range(size, "t")
        at = o * size + t
        value = rk.where(at < n, x[at], 0.0) if tail else x[at]
        return rk.bufferize(value, o, t)

    return kernel


def tile_sums(size: int) -> Callable[..., Any]:
    def kernel(x: Any) -> Any:
        n = x.shape[0]
        o, t = rk.Range(-(-n // size), "o"), rk.Range(size, "t")
        return rk.bufferize(rk.sum(x[o * size + t], t, where=o * size + t < n), o)

    return kernel


def written(index: Callable[..., Any], *sizes: int) -> Callable[..., Any]:
    """1 written at an index over ranges i, j, ... of those sizes."""

    def kernel(x: Any) -> Any:
        over = [rk.Range(n, name) for n, name in zip(sizes, "ijkl", strict=False)]
        place = index(*over)
        return rk.assign(x[place], 1.0)

    return kernel


def read(index: Callable[..., Any], *sizes: int) -> Callable[..., Any]:
    """The elements at an index over ranges i, j, ... of those sizes."""

    def kernel(x: Any) -> Any:
        over = [rk.Range(n, name) for n, name in zip(sizes, "ijkl", strict=False)]
        return rk.bufferize(x[index(*over)], *over)

    return kernel


def triangle(x: Any) -> Any:
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j")
    return rk.bufferize(rk.sum(rk.where(j <= i, x[i, i - j], 0.0), j), i)


def packed_triangle(x: Any) -> Any:
    """Rows of a triangle one after another: element (i, j) at i (i + 1) / 2 + j."""
    i, j = rk.Range(20, "i"), rk.Range(20, "j")
    return rk.bufferize(rk.sum(rk.where(j <= i, x[i * (i + 1) // 2 + j], 0.0), j), i)


def reversal(bits: int) -> Callable[..., Any]:
    """Elements at the index with its bits turned round."""

    def kernel(x: Any) -> Any:
        i = rk.Range(1 << bits, "i")
        at = 0
        for b in range(bits):
            at = at + (i // (1 << b)) % 2 * (1 << (bits - 1 - b))
        return rk.assign(x[at], i * 1.0)

    return kernel


def ring(n: int, shift: int) -> Callable[..., Any]:
    return read(lambda i: (i + shift) % n, 3 * n)


def halo(x: Any) -> Any:
    i, j = rk.Range(x.shape[0] - 2, "i"), rk.Range(x.shape[1] - 2, "j")
    around = x[i, j + 1] + x[i + 2, j + 1] + x[i + 1, j] + x[i + 1, j + 2]
    return rk.bufferize(around - 4 * x[i + 1, j + 1], i, j)


def clamped(x: Any) -> Any:
    i, k = rk.Range(x.shape[0], "i"), rk.Range(5, "k")
    return rk.bufferize(rk.sum(x[rk.clip(i + k - 2, 0, x.shape[0] - 1)], k), i)


def interleaved(x: Any, y: Any) -> Any:
    i = rk.Range(2 * x.shape[0], "i")
    return rk.bufferize(rk.where(i % 2 == 0, x[i // 2], y[i // 2]), i)


def blocks(x: Any, ids: Any) -> Any:
    """Blocks of rows that a table names, which keeps its contract."""
    b, r, c = rk.Range(ids.shape[0], "b"), rk.Range(4, "r"), rk.Range(x.shape[1], "c")
    block = ids[b].in_range(0, x.shape[0] // 4)
    return rk.bufferize(x[block * 4 + r, c], b, r, c)


def wrapped(x: Any, ids: Any) -> Any:
    i = rk.Range(ids.shape[0], "i")
    return rk.bufferize(x[ids[i] % x.shape[0]], i)


def clipped(x: Any, ids: Any) -> Any:
    i = rk.Range(ids.shape[0], "i")
    return rk.bufferize(x[rk.clip(ids[i], 0, x.shape[0] - 1)], i)


def masked(x: Any, ids: Any) -> Any:
    i = rk.Range(ids.shape[0], "i")
    return rk.bufferize(x[ids[i] & 7], i)


def tested(x: Any, ids: Any) -> Any:
    i = rk.Range(ids.shape[0], "i")
    v = ids[i]
    return rk.bufferize(rk.where((v >= 1) & (v < x.shape[0]), x[v - 1], 0.0), i)


def best_of(x: Any, y: Any) -> Any:
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j")
    return rk.bufferize(y[rk.argmax(x[i, j], j)], i)


def top_of(x: Any, y: Any) -> Any:
    i, j, k = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j"), rk.Range(3, "k")
    _, places = rk.topk(x[i, j], 3, j)
    return rk.bufferize(y[rk.bufferize(places, i)[i, k]], i, k)


def sized_rows(x: rk.f32[N, 8]) -> Any:
    i, j = rk.Range(x.shape[0], "i"), rk.Range(8, "j")
    return rk.bufferize(x[x.shape[0] - 1 - i, 7 - j], i, j)


def sized_window(x: rk.f32[N]) -> Any:
    i, k = rk.Range(x.shape[0] - 3, "i"), rk.Range(4, "k")
    return rk.bufferize(rk.sum(x[i + k], k), i)


def sized_tiles(x: rk.f32[TILES]) -> Any:
    o, t = rk.Range(x.shape[0] // 16, "o"), rk.Range(16, "t")
    return rk.bufferize(rk.sum(x[o * 16 + t], t), o)


def sized_flat(x: rk.f32[N, 6]) -> Any:
    k = rk.Range(x.shape[0] * 6, "k")
    return rk.bufferize(x[k // 6, k % 6], k)


def transposed_in_place(x: Any) -> Any:
    """Reads what other iterations write: of the old contents, which are kept for that."""
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[1], "j")
    return rk.assign(x[i, j], x[j, i])


def before(j: Any, i: Any, key: Callable[..., Any]) -> Any:
    return rk.where((key(j) < key(i)) | ((key(j) == key(i)) & (j < i)), 1, 0)


def sorted_by_counts(x: Any, keys: Any, out: Any) -> Any:
    """Each element goes where those before it end."""
    i, j = rk.Range(x.shape[0], "i"), rk.Range(x.shape[0], "j")
    return rk.assign(out[rk.sum(before(j, i, lambda r: keys[r]), j)], x[i])


def partitioned(x: Any, out: Any) -> Any:
    """Positive elements from the front, the others from the end."""
    i, n = rk.Range(x.shape[0], "i"), x.shape[0]
    found = rk.cumulative_sum(rk.where(x[i] > 0, 1, 0), i)
    return rk.assign(out[rk.where(x[i] > 0, found - 1, n - 1 - (i - found))], x[i])


RIGHT = table(
    *((f"convolution, {t} taps, stride {s}, dilation {d}, padding {p}", conv(t, s, d, p), ((37,),))
      for t, s, d, p in ((3, 1, 1, 1), (5, 2, 1, 2), (3, 1, 4, 4), (7, 3, 2, 6), (4, 2, 3, 0))),
    *((f"convolution inside, {t} taps, stride {s}, dilation {d}", valid(t, s, d), ((40,),))
      for t, s, d in ((1, 1, 1), (3, 1, 1), (3, 2, 1), (4, 3, 2), (40, 1, 1))),
    *((f"tiles of {s}, {n} elements", tiled(s), ((n,),))
      for s, n in ((8, 64), (8, 65), (8, 63), (7, 50), (64, 3), (16, 1), (3, 1000000), (48, 999983))),
    *((f"sums of tiles of {s}, {n} elements", tile_sums(s), ((n,),))
      for s, n in ((16, 160), (16, 161), (5, 4), (9, 100003))),
    ("strided writes", written(lambda i: 3 * i + 1, 33), ((100,),)),
    ("backward writes", written(lambda i: 99 - i, 100), ((100,),)),
    ("diagonal writes", written(lambda i: (i, i), 50), ((50, 60),)),
    ("antidiagonal writes", written(lambda i: (i, 49 - i), 50), ((50, 50),)),
    ("row-major writes by one index", written(lambda i, j: i * 7 + j, 30, 7), ((210,),)),
    ("column-major writes by one index", written(lambda i, j: j * 30 + i, 30, 7), ((210,),)),
    ("writes of tiles", written(lambda i, j, k: i * 40 + j * 8 + k, 10, 5, 8), ((400,),)),
    ("writes of every other tile", written(lambda i, j: i * 16 + j, 12, 8), ((190,),)),
    ("writes through quotient and remainder", written(lambda i: (i // 12, i % 12), 120), ((10, 12),)),
    ("the same, a million", written(lambda i: (i // 1000, i % 1000), 1000000), ((1000, 1000),)),
    ("rotated writes", written(lambda i: (i + 17) % 100, 100), ((100,),)),
    ("rotated writes, a million", written(lambda i: (i + 17) % 1000003, 1000003), ((1000003,),)),
    ("writes in two halves", written(lambda i, j: i + 500000 * j, 500000, 2), ((1000000,),)),
    ("deinterleaved writes", written(lambda i: (i % 2) * 50 + i // 2, 100), ((100,),)),
    ("a triangle", triangle, ((30, 30),)),
    ("a packed triangle", packed_triangle, ((210,),)),
    *((f"bit reversal of {1 << b}", reversal(b), ((1 << b,),)) for b in (1, 3, 8, 12)),
    *((f"a ring of {n}, {s} on", ring(n, s), ((n,),)) for n, s in ((5, 3), (64, 63), (1000003, 12345))),
    ("a halo", halo, ((20, 31),)),
    ("clamped ends", clamped, ((40,),)),
    ("interleaved", interleaved, ((20,), (20,))),
    ("reads of a transposed array", read(lambda i, j: (j, i), 30, 20), ((20, 30),)),
    ("reads of a skewed array", read(lambda i, j: i + 2 * j, 50, 60), ((168,),)),
    ("reads from the end", read(lambda i: 1999 - 2 * i, 1000), ((2000,),)),
    ("reads of the remainder of a product", read(lambda i: i * i % 97, 5000), ((97,),)),
    ("block-sparse rows under contract", blocks, ((64, 5), "i6")),
    ("a gather of a remainder", wrapped, ((11,), "i6")),
    ("a gather of a clipped index", clipped, ((11,), "i6")),
    ("a gather of masked bits", masked, ((8,), "i6")),
    ("a gather behind a test", tested, ((11,), "i6")),
    ("a gather at an argmax", best_of, ((5, 9), (9,))),
    ("a gather at the top three", top_of, ((5, 9), (9,))),
    ("a transpose in place", transposed_in_place, ((9, 9),)),
    ("a permutation by ranks", sorted_by_counts, ((50,), "i50", (50,))),
    ("a partition by running counts", partitioned, ((50,), (50,))),
    ("rows of any number, turned round", sized_rows, ((33, 8),)),
    ("a window over any length", sized_window, ((33,),)),
    ("tiles of any multiple of 16", sized_tiles, ((64,),)),
    ("any number of rows by one index", sized_flat, ((9, 6),)),
)  # fmt: skip


def wrong(name: str, kernel: Callable[..., Any], shape: tuple[int, ...], place: Callable[..., Any], size: int) -> Wrong:
    return Wrong(name, kernel, (shape,), place, size)


def race(name: str, shape: tuple[int, ...], place: Callable[..., Any], *sizes: int) -> Wrong:
    return Wrong(name, written(place, *sizes), (shape,), place, None)


def reads(name: str, shape: int, place: Callable[..., Any], *sizes: int) -> Wrong:
    return wrong(name, read(place, *sizes), (shape,), place, shape)


def writes(name: str, shape: int, place: Callable[..., Any], *sizes: int) -> Wrong:
    return wrong(name, written(place, *sizes), (shape,), place, shape)


def sized_next(x: rk.f32[N]) -> Any:
    i = rk.Range(x.shape[0], "i")
    return rk.bufferize(x[i + 1], i)


def sized_before(x: rk.f32[N]) -> Any:
    i = rk.Range(x.shape[0], "i")
    return rk.bufferize(x[i - 1], i)


def sized_beyond(x: rk.f32[TILES]) -> Any:
    o, t = rk.Range(x.shape[0] // 16, "o"), rk.Range(17, "t")
    return rk.bufferize(rk.sum(x[o * 16 + t], t), o)


def narrow_square(i: Any) -> Any:
    """A square in 32 bits, which it leaves for i > 46340, then made small."""
    if isinstance(i, rk.Tensor):
        square = i.astype(rk.int32) * i.astype(rk.int32)
        return square // 65536
    return ((i * i + 2**31) % 2**32 - 2**31) // 65536


def half_guarded(x: Any) -> Any:
    i = rk.Range(100, "i")
    return rk.bufferize(rk.where(i < 99, x[i + 2], 0.0), i)


def guarded_low(x: Any) -> Any:
    i = rk.Range(100, "i")
    return rk.bufferize(rk.where(i > 0, x[i - 2], 0.0), i)


def wrong_pad(x: Any) -> Any:
    i, k = rk.Range(100, "i"), rk.Range(3, "k")
    at = i + k - 1
    return rk.bufferize(rk.sum(rk.where(at <= 100, x[rk.maximum(at, 0)], 0.0), k), i)


def reduction_as_store(x: Any) -> Any:
    i, j = rk.Range(10, "i"), rk.Range(20, "j")
    return rk.assign(x[i], i * j * 1.0)


def all_to_one(x: Any) -> Any:
    i = rk.Range(10, "i")
    return rk.assign(x[3], i * 1.0)


def corner(x: Any) -> Any:
    i, j = rk.Range(12, "i"), rk.Range(9, "j")
    return rk.bufferize(x[i, j], i, j)


WRONG = [
    reads("one past the end", 8, lambda i: i + 1, 8),
    reads("one before the beginning", 8, lambda i: i - 1, 8),
    reads("the last too many", 8, lambda i: i, 9),
    reads("a million, one past", 1000000, lambda i: i + 1, 1000000),
    reads("a million, one before", 1000000, lambda i: i - 1, 1000000),
    reads("two ranges, one past", 107, lambda i, j: i + j, 100, 9),
    reads("a large plane, one past", 9000000, lambda i, j: i * 3000 + j + 1, 3000, 3000),
    reads("a large plane, a row too many", 9000000, lambda i, j: i * 3000 + j, 3001, 3000),
    reads("stride past the end", 100, lambda i: 3 * i, 35),
    reads("a stride that just misses", 3000000, lambda i: 3 * i + 1, 1000001),
    reads("backward by one too many", 100, lambda i: 99 - i, 101),
    reads("backward from the size", 100, lambda i: 100 - i, 100),
    reads("negative stride below zero", 100, lambda i: 99 - 2 * i, 51),
    reads("a remainder by one too many", 100, lambda i: i % 101, 300),
    reads("a quotient that reaches the size", 10, lambda i: i // 10, 101),
    reads("a large quotient", 1000, lambda i: i // 1000, 1000001),
    reads("a large remainder", 1000, lambda i: i % 1001, 1000001),
    reads("a ring shifted outside the remainder", 64, lambda i: i % 64 + 1, 640),
    reads("a product", 400, lambda i, j: i * j, 21, 21),
    reads("a square", 10000, lambda i: i * i, 101),
    reads("a large square", 1000000, lambda i: i * i, 1001),
    reads("a square that overflows 32 bits", 40000, narrow_square, 50000),
    reads("a packed triangle, a row too many", 210, lambda i: i * (i + 1) // 2, 21),
    *(wrong(f"tail of {n} by {s} forgotten", tiled(s, tail=False), (n,), lambda t, o=0, s=s: o * s + t, n)
      for n, s in ((65, 8), (63, 8), (50, 7), (3, 64), (1000003, 48))),
    *(wrong(f"a convolution of {t} taps, stride {s}, dilation {d}, one too many", valid(t, s, d, 1), (40,),
            lambda i, k, s=s, d=d: i * s + k * d, 40) for t, s, d in ((3, 1, 1), (5, 2, 1), (3, 1, 4), (40, 1, 1))),
    wrong("a condition that ends too late", half_guarded, (100,), lambda i: i + 2, 100),
    wrong("a condition that begins too early", guarded_low, (100,), lambda i: i - 2, 100),
    wrong("padding with <= for <", wrong_pad, (100,), lambda i, k: max(i + k - 1, 0), 100),
    wrong("a row too many", corner, (11, 9), lambda i, j=0: i, 11),
    wrong("a column too many", corner, (12, 8), lambda j, i=0: j, 8),
    wrong("any length, one past", sized_next, (33,), lambda i, N: i + 1 if i + 1 >= N else -1, 0),
    wrong("any length, one before", sized_before, (33,), lambda i, N=33: i - 1, 33),
    writes("writes one past the end", 8, lambda i: i + 1, 8),
    writes("writes before the beginning", 8, lambda i: i - 1, 8),
    writes("strided writes past the end", 100, lambda i: 3 * i + 1, 34),
    writes("tiles written past the end", 1000, lambda i, j: i * 16 + j, 63, 16),
    writes("writes of 5 GB, the last outside", 1 << 20, lambda i: i * 2, (1 << 19) + 1),
    race("two rows overlap", (100,), lambda i, j: i * 4 + j, 10, 5),
    race("a large overlap", (1000000,), lambda i, j: i * 999 + j, 1000, 1000),
    race("both orders of a pair", (20,), lambda i, j: i + j, 10, 10),
    race("products meet", (101,), lambda i, j: i * j, 10, 10),
    race("a quotient forgets", (10,), lambda i: i // 2, 20),
    race("a remainder forgets", (10,), lambda i: i % 10, 20),
    race("a large remainder forgets", (1000,), lambda i: i % 1000, 1000001),
    race("a large quotient forgets", (500001,), lambda i: i // 2, 1000001),
    race("squares of both signs", (101,), lambda i: (i - 10) * (i - 10), 21),
    race("halves that overlap by one", (200,), lambda i, j: i + 99 * j, 100, 2),
    Wrong("a transpose in place of a longer side", transposed_in_place, ((9, 8),), lambda i, j=0: i, 8),
    race("large halves that overlap by one", (2000000,), lambda i, j: i + 999999 * j, 1000000, 2),
    race("a rotation by a factor that divides", (100,), lambda i: i * 4 % 100, 100),
    race("a large rotation by a factor that divides", (1000000,), lambda i: i * 4 % 1000000, 1000000),
    race("a diagonal twice", (50, 50), lambda i=0, j=0: (i, i + j - j), 50, 2),
    race("a transpose of a symmetric place", (30, 30), lambda i, j: (i * j % 30, j), 30, 30),
    race("maximum of two", (30,), lambda i, j: rk.maximum(i, j) if isinstance(i, rk.Tensor) else max(i, j), 30, 30),
    race("tiles that share an edge", (1000,), lambda i, j, k: i * 90 + j * 10 + k, 9, 10, 10),
    Wrong("a reduction written as a store", reduction_as_store, ((10,),), lambda i=0, j=0: i, None),
    Wrong("all iterations to one place", all_to_one, ((10,),), lambda i: 3, None),
]  # fmt: skip
