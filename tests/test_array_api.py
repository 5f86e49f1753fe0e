"""The array API functions that exist, against NumPy over dtypes and shapes: one kernel a dtype and shape."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.ir import dtype as dt

INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
SHAPES = [(), (0,), (1,), (3,), (2, 3), (5, 1, 7)]

# name -> what NumPy calls it
UNARY_FLOAT = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "log2": np.log2, "log10": np.log10,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh,
    "atanh": np.arctanh, "sqrt": np.sqrt,
}  # fmt: skip
UNARY = {
    "abs": np.abs, "positive": np.positive, "square": np.square, "sign": np.sign, "floor": np.floor, "ceil": np.ceil,
    "trunc": np.trunc, "round": np.round, "logical_not": np.logical_not,
}  # fmt: skip
TESTS = {"isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit}
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "less": np.less, "less_equal": np.less_equal, "greater": np.greater, "greater_equal": np.greater_equal,
    "equal": np.equal, "not_equal": np.not_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}  # fmt: skip
BINARY_FLOAT = {
    "divide": np.divide, "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign, "logaddexp": np.logaddexp,
}  # fmt: skip
BITS = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}
Table = dict[str, Callable[..., Any]]


def data(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    if name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if name in FLOATS:
        x = np.asarray(rng.uniform(-3, 3, shape)).astype(name)
        special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0])
        flat = x.reshape(-1)
        flat[: min(flat.size, 6)] = rng.permutation(special)[: min(flat.size, 6)]
        return flat.reshape(shape)
    info = np.iinfo(name)
    x = rng.integers(0 if info.min == 0 else -7, 8, shape).astype(name)
    flat = np.asarray(x).reshape(-1)
    if flat.size > 2:
        flat[:2] = info.max, info.min
    return flat.reshape(shape)


def same(got: Any, want: Any, what: str, tolerance: float = 0.0) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, what
    if tolerance and got.dtype.kind == "f":
        np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=tolerance, atol=tolerance, err_msg=what)
    else:
        np.testing.assert_array_equal(got, want, err_msg=what)


def check(table: Table, arrays: tuple[np.ndarray[Any, Any], ...], tolerance: float = 0.0, dtype: bool = True) -> None:
    """Every function of the table in one kernel, over the same arguments."""
    got = rk.kernel(lambda *xs: {name: getattr(rk, name)(*xs) for name in table})(*arrays)
    with np.errstate(all="ignore"):
        for name, fn in table.items():
            want = fn(*arrays)
            what = f"{name} of {', '.join(f'{a.dtype}{a.shape}' for a in arrays)}"
            same(got[name], want, what, tolerance)
            if dtype:
                assert got[name].dtype == want.dtype, what


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["bool", *INTS, *FLOATS])
def test_functions_of_one_and_two_arguments(name: str, shape: tuple[int, ...]) -> None:
    x, y = data(name, shape, 1), data(name, shape, 2)
    if name in FLOATS:
        tolerance = {"float16": 4e-3, "float32": 4e-6, "float64": 1e-13}[name]
        check(UNARY_FLOAT, (x,), tolerance)
        check(BINARY_FLOAT, (x, y), tolerance)
        check(TESTS, (x,))
        check(UNARY | {"negative": np.negative, "reciprocal": np.reciprocal}, (x,))
    elif name == "bool":
        check(BITS | {"logical_and": np.logical_and}, (x, y))
        check({"logical_not": np.logical_not, "bitwise_invert": np.invert}, (x,))
        check({"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "equal": np.equal}, (x, y))
        return
    else:
        check(UNARY | {"negative": np.negative, "bitwise_invert": np.invert}, (x,))
        check(BITS, (x, y))
        check({"floor_divide": np.floor_divide, "remainder": np.remainder}, (x, np.where(y == 0, 1, y).astype(name)))
    check(BINARY, (x, y))


def test_a_pair_of_dtypes_meets_where_numpy_says_with_the_stated_differences() -> None:
    names = ["bool", *INTS, *FLOATS]
    for a in names:
        for b in names:
            want = np.result_type(a, b)
            if (a in FLOATS) != (b in FLOATS):
                want = np.dtype(a if a in FLOATS else b)  # an integer takes the float's dtype
            got = rk.add(rk.zeros(2, dtype=a), rk.zeros(2, dtype=b)).dtype
            assert got is dt.from_numpy(want), (a, b)
    assert (rk.zeros(2, dtype="float16") + rk.zeros(2, dtype="bfloat16")).dtype is rk.float32
    assert (rk.zeros(2, dtype="int32") / rk.zeros(2, dtype="int32")).dtype is rk.float32
    assert (rk.zeros(2, dtype="uint8") + 1).dtype is rk.uint8
    assert (rk.zeros(2, dtype="int8") * 0.5).dtype is rk.float32
    assert (rk.Range(3) * 0.5).dtype is rk.float32
    assert rk.sum(rk.zeros(2, dtype="int8")).dtype is rk.int64
    assert rk.sum(rk.zeros(2, dtype="uint8")).dtype is rk.uint64
    assert rk.asarray([1.0]).dtype is rk.float32
    assert rk.asarray([1]).dtype is rk.int64
    assert rk.asarray(np.zeros(1)).dtype is rk.float64


MOVES: dict[str, Callable[[Any, Any], Any]] = {
    "transpose": lambda m, x: m.permute_dims(x, (2, 0, 1)) if m is rk else np.transpose(x, (2, 0, 1)),
    "reshape": lambda m, x: m.reshape(x, (x.shape[2], -1)),
    "flip": lambda m, x: m.flip(x, axis=(0, 2)),
    "expand": lambda m, x: m.expand_dims(x, axis=1),
    "roll": lambda m, x: m.roll(x, 2, axis=1),
    "roll all": lambda m, x: m.roll(x, -3),
    "repeat": lambda m, x: m.repeat(x, 2, axis=1),
    "tile": lambda m, x: m.tile(x, (2, 1, 3)),
    "stack": lambda m, x: m.stack([x, x], axis=2),
    "concat": lambda m, x: (m.concat if m is rk else np.concatenate)([x, x, x], axis=1),
    "concat flat": lambda m, x: (m.concat if m is rk else np.concatenate)([x, x], axis=None),
    "tril": lambda m, x: m.tril(x, k=1),
    "triu": lambda m, x: m.triu(x, k=-1),
    "moveaxis": lambda m, x: m.moveaxis(x, 0, 2),
    "broadcast": lambda m, x: m.broadcast_to(x, (2, *x.shape)),
    "slice": lambda m, x: x[::-2, 1:, ::2],
    "newaxis": lambda m, x: x[:, None, ..., 0],
    "mT": lambda m, x: x.mT if m is rk else np.swapaxes(x, -1, -2),
}
REDUCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda m, x: m.sum(x, axis=1),
    "sum all": lambda m, x: m.sum(x),
    "sum kept": lambda m, x: m.sum(x, axis=(0, 2), keepdims=True),
    "prod": lambda m, x: m.prod(x, axis=0),
    "max": lambda m, x: m.max(x, axis=2),
    "min": lambda m, x: m.min(x, axis=-1),
    "any": lambda m, x: m.any(x, axis=1),
    "all": lambda m, x: m.all(x, axis=0),
    "argmax": lambda m, x: m.argmax(x, axis=1),
    "argmin": lambda m, x: m.argmin(x, axis=2),
    "argmax all": lambda m, x: m.argmax(x),
    "mean": lambda m, x: m.mean(x, axis=1),
    "var": lambda m, x: m.var(x, axis=1),
    "std": lambda m, x: m.std(x, axis=(0, 1)),
}


@pytest.mark.parametrize("name", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 4), (5, 1, 7)], ids=str)
def test_movement_and_reductions(name: str, shape: tuple[int, ...]) -> None:
    x = np.nan_to_num(data(name, shape, 3), posinf=2, neginf=-2) if name in FLOATS else data(name, shape, 3)
    moved = rk.kernel(lambda x: {k: fn(rk, x) for k, fn in MOVES.items()})(x)
    for key, fn in MOVES.items():
        same(moved[key], fn(np, x), f"{key} of {name}{shape}")
        assert moved[key].dtype == x.dtype, key
    wanted = {k: fn for k, fn in REDUCTIONS.items() if name != "bool" or k in ("any", "all", "sum", "sum all", "max")}
    got = rk.kernel(lambda x: {k: fn(rk, x) for k, fn in wanted.items()})(x)
    wide = x.astype(np.float64) if name in FLOATS else x
    with np.errstate(all="ignore"):
        for key, fn in wanted.items():
            tolerance = 1e-2 if name == "float16" else 1e-5 if name in FLOATS or key in ("mean", "var", "std") else 0.0
            if key in ("mean", "var", "std") and name == "int64":
                continue  # NumPy means in float64, here float32: the extremes of int64 leave it no common digits
            same(got[key], fn(np, wide), f"{key} of {name}{shape}", tolerance)


def test_creation() -> None:
    pairs = {
        "arange": (rk.arange(3, 20, 4), np.arange(3, 20, 4)),
        "arange down": (rk.arange(5, 0, -2), np.arange(5, 0, -2)),
        "arange float": (rk.arange(0.0, 1.0, 0.25), np.arange(0.0, 1.0, 0.25, dtype=np.float32)),
        "linspace": (rk.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=np.float32)),
        "linspace open": (rk.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False, dtype=np.float32)),
        "eye": (rk.eye(3, 4, k=1), np.eye(3, 4, k=1, dtype=np.float32)),
        "zeros": (rk.zeros((2, 3)), np.zeros((2, 3), np.float32)),
        "ones": (rk.ones(2, dtype="int8"), np.ones(2, np.int8)),
        "full": (rk.full((2,), 7), np.full(2, 7)),
        "full_like": (rk.full_like(rk.zeros(3), 2), np.full(3, 2, np.float32)),
        "meshgrid": (rk.meshgrid(rk.arange(2), rk.arange(3))[1], np.meshgrid(np.arange(2), np.arange(3))[1]),
    }
    for name, (got, want) in pairs.items():
        same(got.numpy(), want, name)
        assert got.numpy().dtype == want.dtype, name


def test_products() -> None:
    rng = np.random.default_rng(0)
    a, b, v = (rng.uniform(-1, 1, s).astype(np.float32) for s in ((2, 3, 4), (2, 4, 5), (4,)))
    got = rk.kernel(
        lambda a, b, v: (
            a @ b,
            a @ v,
            v @ b,
            v @ v,
            rk.tensordot(a, b, axes=((2,), (1,))),
            rk.vecdot(a, v),
            rk.outer(v, v),
        )
    )(a, b, v)
    want = (a @ b, a @ v, v @ b, v @ v, np.tensordot(a, b, axes=((2,), (1,))), np.vecdot(a, v), np.outer(v, v))
    for g, w in zip(got, want, strict=True):
        same(g, w, "product", 1e-5)
    ints = rng.integers(-9, 9, (3, 3)).astype(np.int32)
    assert rk.kernel(lambda x: x @ x)(ints).dtype == np.int32
