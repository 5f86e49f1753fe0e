"""Whole programs, compiled and interpreted, against NumPy, at sizes that hurt."""

from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.python import trace
from rangekit.ir.ops import Op

SIZES = [0, 1, 2, 3, 7, 8, 13]
DEVICES = ["cpu", "python"]
Array = np.ndarray[Any, Any]
inf = float("inf")


def rand(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def check(fn: Any, want: Any, *args: Any, rtol: float = 1e-4) -> None:
    for device in DEVICES:
        got = rk.kernel(fn, device=device)(*args)
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=1e-5, err_msg=device)


def wide(*arrays: Array) -> tuple[Array, ...]:
    return tuple(a.astype(np.float64) for a in arrays)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-99))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("n", SIZES)
def test_chains_products_and_movement(n: int) -> None:
    x, y, v = rand(n, 5), rand(5, n, seed=1), rand(n, seed=2)
    dx, dy, dv = wide(x, y, v)
    check(lambda x, v: rk.tanh(x * 2 + v[:, None]) - x / 3, np.tanh(dx * 2 + dv[:, None]) - dx / 3, x, v)
    check(lambda x: x.T, dx.T, x)
    check(lambda x: x[::-2], dx[::-2], x)
    check(lambda v: rk.outer(v, v), np.outer(dv, dv), v)
    check(lambda x, y: x @ y, dx @ dy, x, y)
    check(lambda x, y: y @ x, dy @ dx, x, y)

    def ranges(x: Any, y: Any) -> Any:
        i, j, k = rk.ranges(n, n, 5)
        return rk.bufferize(rk.sum(x[i, k] * y[k, j], k), i, j)

    check(ranges, dx @ dy, x, y)
    b = rand(3, n, 4, seed=3)
    check(lambda b: b @ b.mT, wide(b)[0] @ np.swapaxes(wide(b)[0], 1, 2), b)
    s = rand(n, n, seed=4)
    check(lambda s: s @ s @ s, np.linalg.matrix_power(wide(s)[0], 3), s, rtol=1e-3)


@pytest.mark.parametrize("n", SIZES)
def test_rows(n: int) -> None:
    x = rand(n, 6)
    (d,) = wide(x)
    check(lambda x: rk.softmax(x, axis=-1), softmax(d), x)
    check(lambda x: rk.logsumexp(x, axis=1), np.log(np.exp(d).sum(axis=1)), x)

    def layer_norm(x: Any) -> Any:
        gap = x - rk.mean(x, axis=-1, keepdims=True)
        return gap * rk.rsqrt(rk.mean(gap * gap, axis=-1, keepdims=True) + 1e-5)

    check(layer_norm, (d - d.mean(1, keepdims=True)) / np.sqrt(d.var(1, keepdims=True) + 1e-5), x)
    check(lambda x: rk.max(x, axis=0), d.max(axis=0, initial=-inf), x)
    check(lambda x: rk.mean(x, axis=0), d.mean(axis=0) if n else np.full(6, np.nan), x)


@pytest.mark.parametrize("n", SIZES)
def test_windows_gates_and_bounds(n: int) -> None:
    x = rand(n, 4)
    (d,) = wide(x)

    def shifted(x: Any) -> Any:
        j = rk.Range(n)
        return rk.bufferize(rk.where(j > 0, x[j - 1], 0), j)

    check(shifted, np.concatenate([np.zeros((1, 4)), d[:-1]])[:n], x)

    def window(x: Any) -> Any:
        i, c, a, b = rk.ranges(n, 4, 3, 3)
        y, z = i + a - 1, c + b - 1
        inside = (y >= 0) & (y < n) & (z >= 0) & (z < 4)
        return rk.bufferize(rk.max(rk.where(inside, x[y, z], -rk.inf), a, b), i, c)

    padded = np.pad(d, 1, constant_values=-inf)
    check(window, [[padded[i : i + 3, c : c + 3].max() for c in range(4)] for i in range(n)] or d, x)

    def running(x: Any) -> Any:
        i, j = rk.ranges(n, n)
        return rk.bufferize(rk.sum(x[j], j, where=j <= i), i)

    check(running, d.cumsum(axis=0), x)
    lengths = np.arange(n) % 4 + 1

    def ragged(x: Any, lengths: Any) -> Any:
        i, j = rk.ranges(n, 4)
        return rk.bufferize(rk.mean(x[i, j], j, where=j < lengths[i]), i)

    check(ragged, [d[i, : lengths[i]].mean() for i in range(n)], x, lengths)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_ranges_are_bound_where_they_are_closed(n: int) -> None:
    x = rand(n, n)
    (d,) = wide(x)

    def captured(x: Any) -> Any:
        j = rk.Range(n)
        m = rk.sum(x[j], j)
        return rk.bufferize(m[j] + x[0, j], j)

    check(captured, d.sum(axis=0) + d[0], x)

    def again(x: Any) -> Any:
        i = rk.Range(n)
        a = rk.bufferize(x[i] * 2, i)
        return rk.bufferize(a[n - 1 - i] + x[i], i)

    check(again, d[::-1] * 2 + d, x)

    def shadowed(x: Any) -> Any:
        i, j = rk.ranges(n, n)
        t = rk.sum(x[i, j], j)
        u = rk.sum(rk.where(t > 0, t, 0.0) * x[i, 0], i)
        return rk.bufferize(t - u, i)

    t = d.sum(axis=1)
    check(shadowed, t - (np.maximum(t, 0) * d[:, 0]).sum(), x)


@pytest.mark.parametrize(("pad", "stride"), [(0, 1), (1, 1), (1, 2), (2, 3)])
def test_convolution(pad: int, stride: int) -> None:
    x, w = rand(2, 3, 7, 5), rand(4, 3, 3, 3, seed=1)
    height, width = ((s + 2 * pad - 3) // stride + 1 for s in x.shape[2:])

    def conv(x: Any, w: Any) -> Any:
        n, k, y, z, c, r, s = rk.ranges(2, 4, height, width, 3, 3, 3)
        a, b = y * stride + r - pad, z * stride + s - pad
        inside = (a >= 0) & (a < 7) & (b >= 0) & (b < 5)
        return rk.bufferize(rk.sum(rk.where(inside, x[n, c, a, b], 0) * w[k, c, r, s], c, r, s), n, k, y, z)

    p = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    want = np.zeros((2, 4, height, width))
    for y in range(height):
        for z in range(width):
            patch = p[:, :, y * stride : y * stride + 3, z * stride : z * stride + 3]
            want[:, :, y, z] = np.einsum("ncrs,kcrs->nk", patch, w)
    check(conv, want, x, w)


def attention(q: Any, k: Any, v: Any) -> Any:
    B, H, S, D = q.shape
    b, h, i, j = rk.ranges(B, H, S, S)
    s = rk.sum(q[b, h, i] * k[b, h, j], axis=-1) * D**-0.5
    s = rk.where(j <= i, s, -rk.inf)
    p = rk.exp(s - rk.max(s, j))
    o = rk.sum(p * v[b, h, j], j) / rk.sum(p, j)
    return rk.bufferize(o, b, h, i)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_attention_is_one_kernel_with_one_exponential_a_score_and_one_for_the_rest(size: int) -> None:
    q, k, v = (rand(1, 2, size, 3, seed=s) for s in range(3))
    a, b, c = wide(q, k, v)
    s = np.einsum("bhid,bhjd->bhij", a, b) / np.sqrt(3)
    check(attention, softmax(np.where(np.tril(np.ones((size, size), bool)), s, -inf)) @ c, q, k, v)
    low = rk.kernel(attention, device="python").lower(q, k, v)
    assert len(low.kernels) == 1
    assert max(b.size for b in low.kernels[0].buffers if b.memory != "global") <= 3
    nest = low.kernels[0].nest
    ran = trace(nest, [q, k, v, np.empty_like(q)])
    assert ran.ops[Op.EXP] == 2 * (size * (size + 1) // 2 + size * (size > 1))  # one for all that a row masks


def test_a_gated_load_never_touches_what_is_outside() -> None:
    def shifted(x: Any) -> Any:
        j = rk.Range(5)
        return rk.bufferize(rk.where(j > 0, x[j - 1], 0), j)

    x = rand(5)
    nest = rk.kernel(shifted, device="python").lower(x).kernels[0].nest
    ran = trace(nest, [x, np.empty_like(x)])
    assert [a.index for a in ran.accesses if a.array == "x"] == [(0,), (1,), (2,), (3,)]


def test_what_a_kernel_reports_is_what_the_interpreter_does() -> None:
    def fn(x: Any, y: Any) -> Any:
        i, j, k = rk.ranges(4, 6, 5)
        return rk.bufferize(rk.sum(x[i, k] * y[k, j], k), i, j)

    def row(x: Any) -> Any:
        return rk.softmax(x, axis=-1)

    x, y = rand(4, 5), rand(5, 6)
    for program, args in ((fn, (x, y)), (row, (x,))):
        info = rk.kernel(program, device="python").lower(*args).kernels[0]
        out = np.empty(info.nest.params[-1].shape, np.float32)
        ran = trace(info.nest, [*args, out])
        for name in (b.name for b in info.buffers if b.memory == "global"):
            assert info.counts.loads[name] == ran.loads(name)
            assert info.counts.stores[name] == ran.stores(name)
        assert info.bytes == sum(a.nbytes for a in (*args, out))
    assert rk.kernel(row).lower(x).kernels[0].counts.loads["x"] == 3 * x.size  # three passes over a row
    assert rk.kernel(fn).lower(x, y).kernels[0].flops == 2 * 4 * 5 * 6


def test_axes_and_ranges_give_one_kernel_up_to_names() -> None:
    def ranged(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        e = rk.exp(x[i, j] - rk.max(x[i, j], j))
        return rk.bufferize(e / rk.sum(e, j), i, j)

    x, y = rand(4, 6), rand(6, 5)
    assert str(rk.kernel(ranged).lower(x)) == str(rk.kernel(lambda x: rk.softmax(x, axis=-1)).lower(x))

    def product(a: Any, b: Any) -> Any:
        i, j, k = rk.ranges(4, 5, 6)
        return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)

    assert str(rk.kernel(product).lower(x, y)) == str(rk.kernel(lambda a, b: a @ b).lower(x, y))

    def centred(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        return rk.bufferize(x[i, j] - rk.mean(x[i, j], j), i, j)

    assert str(rk.kernel(centred).lower(x)) == str(rk.kernel(lambda x: x - x.mean(axis=1, keepdims=True)).lower(x))


def test_chains_of_movement_leave_no_trace() -> None:
    x = rand(4, 6)
    same = "for i in 0..4:\n    for j in 0..6:\n        out[i, j] = x[i, j]\n"
    for fn in (
        lambda x: x.T.reshape(24).reshape(6, 4).T,
        lambda x: x.reshape(2, 2, 6).permute_dims(2, 0, 1).reshape(6, 4).T,
        lambda x: rk.pad(x, 2)[2:-2, 2:-2],
        lambda x: x[::-1, ::-1].flip(axis=0)[:, ::-1],
        lambda x: rk.broadcast_to(x[None], (3, 4, 6))[1],
        lambda x: x.reshape(4, 2, 3).reshape(8, 3).reshape(4, 6),
    ):
        assert str(rk.kernel(fn).lower(x)) == same


def test_a_buffer_that_many_iterations_read_is_kept() -> None:
    def fn(x: Any) -> Any:
        i, j = rk.ranges(*x.shape)
        t = rk.bufferize(rk.sum(x[i, j], j), i)
        a, b = rk.ranges(x.shape[0], x.shape[0])
        return rk.bufferize(rk.sum(t[a] * t[b], b), a)

    for rows, kernels in ((80, 2), (5, 1)):  # a few sums are not worth a launch: then they are a table in the one nest
        x = rand(rows, 4)
        low = rk.kernel(fn).lower(x)
        assert len(low.kernels) == kernels
        assert ("kept in memory" if kernels == 2 else "in local memory") in low.explain()
        check(fn, x.astype(np.float64).sum(1) * x.astype(np.float64).sum(), x)


def test_a_tile_in_local_memory() -> None:
    def fn(a: Any, b: Any) -> Any:
        i, j, block, k, t = rk.ranges(4, 6, 2, 4, 4)
        tile = rk.bufferize(b[block * 4 + t, j], t, memory="local")
        return rk.bufferize(rk.sum(rk.sum(a[i, block * 4 + k] * tile[k], k), block), i, j)

    a, b = rand(4, 8), rand(8, 6)
    check(fn, a.astype(np.float64) @ b, a, b)
    assert [b.shape for b in rk.kernel(fn).lower(a, b).kernels[0].buffers if b.memory == "local"] == [(4,)]


def test_an_inner_reduction_sits_outside_the_loop_it_does_not_use_and_siblings_share_one() -> None:
    def fn(x: Any, y: Any) -> Any:
        i, j = rk.ranges(3, 4)
        return rk.bufferize(y[i] * rk.sum(x[j], j) + rk.max(x[j], j), i)

    assert (
        str(rk.kernel(fn).lower(rand(4), rand(3)))
        == """\
acc = 0.0
hi = -inf
for j in 0..4:
    x_ = x[j]
    acc += x_
    hi = max(hi, x_)
for i in 0..3:
    out[i] = y[i] * acc + hi
"""
    )


def test_ties_and_nan_in_argmax() -> None:
    nan = np.nan
    x = np.array([[1, nan, 3, nan], [2, 2, 1, 0], [-inf, -inf, -inf, -inf], [-1, -1, -2, inf]], np.float32)
    check(lambda x: rk.argmax(x, axis=1), [1, 0, 0, 3], x)
    check(lambda x: rk.argmin(x, axis=1), [1, 3, 0, 2], x)
    check(lambda x: rk.argmax(x), 1, x)
    check(lambda x: rk.any(x > 2, axis=1), [True, False, False, True], x)
    check(lambda x: rk.all(x < 3, axis=1), [False, True, True, False], x)
    with pytest.raises(rk.ShapeError):
        rk.argmax(rk.zeros((0,)))


def test_integers_divide_down_and_by_zero() -> None:
    a = np.array([7, -7, 7, -7, 5, 0, -128], np.int8)
    b = np.array([2, 2, -2, -2, 0, 0, -1], np.int8)
    check(lambda a, b: a // b, [3, -4, -4, 3, 0, 0, -128], a, b)
    check(lambda a, b: a % b, [1, 1, -1, -1, 0, 0, 0], a, b)


def test_gathers_guards_and_contracts() -> None:
    table, ids = rand(5, 3), np.array([4, 0, 3])
    check(lambda t, i: t[i], table.astype(np.float64)[ids], table, ids)
    check(lambda t, i: t[:, i % 3], table.astype(np.float64)[:, ids % 3], table, ids)

    def contract(t: Any, ids: Any) -> Any:
        i = rk.Range(3)
        return rk.bufferize(t[ids[i].in_range(0, 5)], i)

    check(contract, table.astype(np.float64)[ids], table, ids)
    for device in DEVICES:
        with pytest.raises(rk.BoundsError, match=r"index 7 of axis 0 of t, which has 5 elements"):
            rk.kernel(lambda t, i: t[i], device=device)(table, np.array([4, 7, 3]))
        with pytest.raises(rk.BoundsError, match=r"index -1 of axis 0"):
            rk.kernel(lambda t, i: t[i], device=device)(table, np.array([-1, 0, 3]))
        with pytest.raises(rk.BoundsError, match=r"value 9 of ids"):
            rk.kernel(contract, device=device)(table, np.array([9, 0, 3]))
    status = [p.status for p in rk.kernel(contract).lower(table, ids).kernels[0].proofs]
    assert "assumed" in status
    assert "guarded" not in status


@pytest.mark.parametrize("device", DEVICES)
def test_writes_are_not_torn(device: str) -> None:
    def reverse(x: Any) -> Any:
        i = rk.Range(4)
        return rk.assign(x[i], x[3 - i])

    x = np.arange(4, dtype=np.float32)
    assert rk.kernel(reverse, device=device)(x) is x
    assert x.tolist() == [3, 2, 1, 0]

    def later(x: Any) -> Any:
        before = x[0] * 1
        x[1:3] = 9.0
        return before + rk.sum(x)

    assert float(rk.kernel(later, device=device)(x)) == 3 + 3 + 18
    assert x.tolist() == [3, 9, 9, 0]
    with pytest.raises(rk.RaceError):
        rk.kernel(lambda x: rk.assign(x[rk.Range(4) // 2], 1.0), device=device)(x)


@pytest.mark.parametrize("device", DEVICES)
def test_print_shows_values_from_inside(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fn(x: Any) -> Any:
        i = rk.Range(3)
        rk.print(x[i], when=i > 0)
        return rk.bufferize(x[i], i)

    rk.kernel(fn, device=device)(np.array([1.5, 2.5, 3.5], np.float32))
    assert capsys.readouterr().out == "x[i] i=1: 2.5\nx[i] i=2: 3.5\n"


def test_a_chain_of_ten_thousand_operations_compiles_and_runs() -> None:
    def fn(x: Any) -> Any:
        for _ in range(5000):
            x = x * 1.0001 + 0.5
        return x

    want = np.ones(3)
    for _ in range(5000):
        want = want * 1.0001 + 0.5
    np.testing.assert_allclose(rk.kernel(fn)(np.ones(3, np.float32)), want, rtol=1e-3)


def test_a_condition_that_reads_does_so_only_where_the_one_around_it_holds() -> None:
    x, m = np.arange(6, dtype=np.float32), np.array([True, False, True, True, False])

    def inner(x: Any, m: Any) -> Any:
        i = rk.Range(6)
        return rk.bufferize(rk.where(i > 0, rk.where(m[i - 1], x[i], 0.0), 0.0), i)

    def other(x: Any, m: Any) -> Any:
        i = rk.Range(6)
        return rk.bufferize(rk.where(i < 1, 7.0, rk.where(m[i - 1], 7.0, x[i])), i)

    for device in ("python", "cpu"):
        np.testing.assert_array_equal(rk.kernel(inner, device=device)(x, m), [0, *np.where(m, x[1:], 0)])
        np.testing.assert_array_equal(rk.kernel(other, device=device)(x, m), [7, *np.where(m, 7, x[1:])])
