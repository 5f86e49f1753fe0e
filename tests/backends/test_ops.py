"""Every op in every dtype, compiled and interpreted, against the scalar table."""

from typing import Any

import numpy as np
import pytest

from rangekit.backends.llvm import CpuDevice
from rangekit.backends.python import PythonDevice
from rangekit.ir import dtype as dt
from rangekit.ir import spec
from rangekit.ir.dtype import DType
from rangekit.ir.nest import Loop, Nest, Store
from rangekit.ir.ops import BINARY, COMPARE, TERNARY, TESTS, UNARY, Op
from rangekit.ir.scalar import apply
from rangekit.ir.uop import ParamId, UOp, idx, new_range

DEVICES = {"cpu": CpuDevice(), "python": PythonDevice()}
ONE_OPERAND = 16


def values(d: DType) -> np.ndarray[Any, Any]:
    """Sixteen values where things go wrong."""
    if d is dt.bool_:
        return np.array([0, 1] * 8, bool)
    if d.is_float:
        inf, nan = np.inf, np.nan
        return np.array([0.0, -0.0, 1, -1, 2.5, -2.5, 0.5, 1.5, 3, 7, inf, -inf, nan, 1e-3, 100, -7]).astype(d.numpy)
    lo, hi = int(d.min), int(d.max)
    edge = [hi, hi - 1, lo, lo + 1, d.bits - 1, d.bits, hi // 2]
    rest = [0, 1, 2, 3, 5, 7, 1, 0, 2] if d.kind == "u" else [0, 1, -1, 2, -2, 7, -7, 3, -3]
    return np.array(edge + rest, d.numpy)


def elementwise(op: Op, out: DType, arrays: list[np.ndarray[Any, Any]], src: tuple[DType, ...]) -> Nest:
    """``out[i] = op(x0[i], ...)``."""
    params = [
        UOp(Op.PARAM, s, (), ParamId(k, f"x{k}", a.shape)) for k, (s, a) in enumerate(zip(src, arrays, strict=True))
    ]
    result = UOp(Op.PARAM, out, (), ParamId(len(params), "out", arrays[0].shape))
    r, var = new_range(arrays[0].size, "i"), UOp(Op.VAR, dt.index, (), ("range", 1, "i"))
    value = UOp(op, out, tuple(UOp(Op.INDEX, p.dtype, (p, var)) for p in params))
    loop = Loop(var, r, idx(0), idx(arrays[0].size), (Store(result, (var,), value),))
    return Nest("k", (*params, result), (loop,), frozenset((result,)))


def legal(op: Op, d: DType) -> bool:
    out = dt.bool_ if op in COMPARE | TESTS else d
    try:
        UOp(op, out, tuple(UOp(Op.VAR, d, (), ("t", k, "t")) for k in range(operands(op))))
    except spec.SpecError:
        return False
    return True


def operands(op: Op) -> int:
    return 1 if op in UNARY else 3 if op in TERNARY else 2


def check(device: str, op: Op, out: DType, arrays: list[np.ndarray[Any, Any]], src: tuple[DType, ...]) -> None:
    got = np.zeros(arrays[0].shape, out.numpy)
    DEVICES[device].compile(elementwise(op, out, arrays, src))([*arrays, got], np.zeros(4, np.int64))
    want = apply(op, out, arrays, src_dtypes=src)
    if not out.is_float:
        np.testing.assert_array_equal(got, want, err_msg=f"{op} {src} -> {out}")
        return
    tolerance = 1e-2 if out.is_half else 2e-6 if out.bits == 32 else 1e-13  # libm against NumPy's own functions
    a, b = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=0, err_msg=f"{op} {src} -> {out}")
    zero = (a == 0) & (b == 0)
    np.testing.assert_array_equal(np.signbit(a[zero]), np.signbit(b[zero]), err_msg=f"sign of 0: {op} {src}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d", dt.STORED, ids=str)
def test_every_op_means_what_the_scalar_table_says(device: str, d: DType) -> None:
    tried = 0
    for op in sorted(UNARY | BINARY | TERNARY, key=lambda op: op.value):
        if not legal(op, d):
            continue
        a = values(d)
        arrays = [column.ravel() for column in np.meshgrid(*[a] * operands(op), indexing="ij")]
        out = dt.bool_ if op in COMPARE | TESTS else d
        check(device, op, out, arrays, (d,) * len(arrays))
        tried += 1
    assert tried >= 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("d", dt.STORED, ids=str)
def test_every_cast_means_what_the_scalar_table_says(device: str, d: DType) -> None:
    a = values(d)
    if d.is_float:  # past every integer type, halfway between halves, and where rounding twice would show
        with np.errstate(over="ignore"):
            more = np.array([1e10, -1e10, 300, -300, 65519.9, 65520, 1e-8, 3.3e38, 1.00048828125 + 2**-30, 1e20])
            a = np.concatenate([a, more.astype(d.numpy)])
    for out in dt.STORED:
        check(device, Op.CAST, out, [a], (d,))


def test_the_scalar_table_agrees_with_python_on_integers() -> None:
    xs, ys = np.repeat(values(dt.int8), 16), np.tile(values(dt.int8), 16)
    for op, fn in {Op.IDIV: lambda x, y: x // y if y else 0, Op.MOD: lambda x, y: x % y if y else 0}.items():
        want = [(fn(int(x), int(y)) + 128) % 256 - 128 for x, y in zip(xs, ys, strict=True)]
        np.testing.assert_array_equal(apply(op, dt.int8, [xs, ys], src_dtypes=(dt.int8, dt.int8)), want)
