"""States that hold arrays: monoids over them, folds and scans that join them, topk as a monoid."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rangekit as rk
from tests.runs import ways

Array = np.ndarray[Any, Any]
each = pytest.mark.parametrize
SIZES = [0, 1, 2, 7, 31, 130]
PRODUCT = rk.Monoid(np.eye(2), lambda a, b: a @ b)


def matrices(n: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, 2, 2)) * 0.7


def products(x: Array) -> Array:
    out = [np.eye(2)]
    for m in x:
        out.append(out[-1] @ m)
    return np.array(out)


def reduced(x: Any) -> Any:
    k = rk.Range(x.shape[0])
    return rk.reduce(x[k], k, op=PRODUCT)


def folded(x: Any) -> Any:
    k = rk.Range(x.shape[0])
    return rk.fold(k, rk.eye(2, dtype=rk.float64), lambda k, s: s @ x[k], combine=PRODUCT)


def scanned(x: Any) -> Any:
    k = rk.Range(x.shape[0])
    return rk.bufferize(rk.scan(k, rk.eye(2, dtype=rk.float64), lambda k, s: s @ x[k], combine=PRODUCT), k)


def test_the_laws_of_products_of_matrices_are_proved() -> None:
    assert PRODUCT.proof == "proved over the reals"
    assert repr(PRODUCT) == "<monoid monoid of [[1.0, 0.0], [0.0, 1.0]]: proved over the reals>"
    with pytest.raises(rk.RaceError, match=r"not associative: combine\(combine\(\[\[1.0, 0.0\], \[0.0, 0.0\]\], "):
        rk.Monoid(np.eye(2), lambda a, b: a @ b.mT)
    with pytest.raises(rk.RaceError, match="not commutative"):
        rk.Monoid(np.eye(2), lambda a, b: a @ b, commutative=True)


@each("n", SIZES)
@each("fn", [reduced, folded, scanned])
def test_products_of_matrices(fn: Any, n: int) -> None:
    x = matrices(n)
    want = products(x)[1:] if fn is scanned else products(x)[-1]
    for way, (got,) in ways(fn, x):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12, err_msg=way)


@each("fn", [folded, scanned])
def test_parts_of_the_loop_are_joined(fn: Any) -> None:
    x = matrices(1013)
    x /= np.sqrt(np.abs(np.linalg.det(x)))[:, None, None] * 1.2
    kernel = rk.kernel(fn)
    if fn is folded:
        kernel = kernel.schedule(rk.group("k", 7), rk.upcast("k", 7))
    want = products(x)[1:] if fn is scanned else products(x)[-1]
    np.testing.assert_allclose(kernel(x), want, rtol=1e-6, atol=1e-9)


def test_a_state_of_an_array_and_a_number() -> None:
    """x -> A x + b, and how often: the affine maps."""

    def after(a: Any, b: Any) -> Any:
        return b[0] @ a[0], b[0] @ a[1] + b[1], a[2] + b[2]

    maps = rk.Monoid((np.eye(2), np.zeros(2), 0), after)
    assert maps.proof.startswith("proved")
    m, t = matrices(33), np.random.default_rng(1).standard_normal((33, 2))

    def fn(m: Any, t: Any) -> Any:
        k = rk.Range(m.shape[0])
        return rk.reduce((m[k], t[k], 1), k, op=maps)

    state = np.eye(2), np.zeros(2)
    for a, b in zip(m, t, strict=True):
        state = a @ state[0], a @ state[1] + b
    for way, got in ways(fn, m, t):
        for a, b in zip(got, (*state, 33), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=way)


def test_a_step_that_is_not_joined_is_refused() -> None:
    x = matrices(5)
    with pytest.raises(rk.RaceError, match="combine= does not join this step"):
        rk.kernel(
            lambda x: rk.fold(k := rk.Range(5), rk.eye(2, dtype=rk.float64), lambda _, s: x[k] @ s, combine=PRODUCT)
        )(x)
    with pytest.raises(rk.ShapeError, match=r"combine= joins values of shapes \(\(2, 2\),\), the state has \(\(\),\)"):
        rk.kernel(lambda x: rk.fold(k := rk.Range(5), 1.0, lambda _, s: x[k, 0, 0] * s, combine=PRODUCT))(x)
    with pytest.raises(rk.ShapeError, match="at most 64 numbers, not 81"):
        rk.Monoid(np.eye(9), lambda a, b: a @ b)


def test_what_an_element_has_to_be() -> None:
    k = rk.Range(4)
    with pytest.raises(rk.ShapeError, match=r"a value of shape \(3,\) where the state has shape \(2, 2\)"):
        rk.reduce(rk.ones((4, 3))[k], k, op=PRODUCT)
    with pytest.raises(rk.RangeError, match="reduces ranges"):
        rk.reduce(rk.ones((4, 2, 2)), axis=0, op=PRODUCT)


# ---- topk ------------------------------------------------------------------------------------------------------------


def best(x: Array, k: int) -> Array:
    wide = x.astype(np.float64)
    nan = np.isnan(wide)
    return np.lexsort((np.arange(len(x)), np.where(nan, 0, -wide), ~nan))[:k]


@each("k", [1, 2, 3, 5, 8])
def test_its_laws_hold_for_sorted_states(k: int) -> None:
    assert rk.monoids.topk(k).proof == "tested on 2048 random states, each sorted"


@each("dtype", [np.bool_, np.uint8, np.int32, np.int64, np.uint64, np.float16, ml_dtypes.bfloat16, np.float32, float])
def test_topk_of_every_dtype(dtype: Any) -> None:
    x = np.random.default_rng(0).integers(0, 40, 61).astype(dtype)
    values, places = rk.kernel(topk_of)(x, rk.monoids.topk(3))
    assert values.dtype == x.dtype
    np.testing.assert_array_equal(places, best(x, 3))
    np.testing.assert_array_equal(values, x[best(x, 3)])


def topk_of(x: Any, m: Any) -> Any:
    i = rk.Range(x.shape[0])
    return rk.reduce((x[i], i), i, op=m)


@each("n", [0, 1, 2, 7, 31])
@each("k", [1, 3, 6])
def test_topk_in_every_way(n: int, k: int) -> None:
    x = np.random.default_rng(n).choice(np.array([1, 2, 2, 3, np.nan, np.inf, -np.inf, 0], np.float32), n)
    order = best(x, k)
    for way, (values, places) in ways(lambda x: topk_of(x, rk.monoids.topk(k)), x):
        np.testing.assert_array_equal(places[:n], order, err_msg=way)
        np.testing.assert_array_equal(values[:n], x[order], err_msg=way)
        assert (values[n:] == -np.inf).all() and (places[n:] == 2**63 - 1).all(), way


def test_topk_joins_a_fold() -> None:
    x = np.random.default_rng(5).standard_normal(1009, dtype=np.float32)
    m = rk.monoids.topk(4)

    def fn(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        start = rk.full(4, -rk.inf), rk.full(4, 2**63 - 1)
        return rk.fold(i, start, lambda i, v, p: m((v, p), (x[i], i)), combine=m)

    for kernel in (rk.kernel(fn), rk.kernel(fn).schedule(rk.group("i", 8), rk.upcast("i", 8))):
        values, places = kernel(x)
        np.testing.assert_array_equal(places, best(x, 4))
        np.testing.assert_array_equal(values, x[places])


def test_what_topk_refuses() -> None:
    with pytest.raises(rk.ShapeError, match="from 1 to 32"):
        rk.monoids.topk(0)
    k = rk.Range(3)
    with pytest.raises(rk.DtypeError, match="is no index"):
        rk.reduce((rk.ones(3)[k], rk.ones(3)[k]), k, op=rk.monoids.topk(2))
