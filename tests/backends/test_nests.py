"""Hand-made nests on both devices: gates, guards, scratch, strides, prints."""

from typing import Any

import numpy as np
import pytest

from rangekit.backends.llvm import CpuDevice
from rangekit.backends.python import PythonDevice, trace
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, PrintSite, Scratch, Store
from rangekit.ir.ops import Op
from rangekit.ir.uop import ParamId, UOp, alu, const, idx, new_buffer, new_range

DEVICES = {"cpu": CpuDevice(), "python": PythonDevice()}
pytestmark = pytest.mark.parametrize("device", DEVICES)


def param(slot: int, name: str, array: np.ndarray[Any, Any], strided: bool = False) -> UOp:
    dtype = dt.from_numpy(array.dtype)
    assert dtype is not None
    strides = tuple(s // array.itemsize for s in array.strides) if strided else None
    return UOp(Op.PARAM, dtype, (), ParamId(slot, name, array.shape, strides))


def load(buffer: UOp, *at: UOp) -> UOp:
    return UOp(Op.INDEX, buffer.dtype, (buffer, *at))


def variable(name: str, number: int) -> UOp:
    return UOp(Op.VAR, dt.index, (), ("range", number, name))


def launch(device: str, nest: Nest, *arrays: np.ndarray[Any, Any], printer: Any = None) -> np.ndarray[Any, Any]:
    fault = np.zeros(4, np.int64)
    DEVICES[device].compile(nest)(list(arrays), fault, printer)
    return fault


def gated(condition: UOp, at: UOp) -> UOp:
    return UOp(Op.WHERE, dt.index, (condition, at, UOp(Op.INVALID, dt.index)))


def test_a_gated_load_reads_zero_and_a_gated_store_stores_nothing(device: str) -> None:
    x, out = np.arange(1, 5, dtype=np.float32), np.full(4, 9, np.float32)
    i, a, b = variable("i", 1), param(0, "x", x), param(1, "out", out)
    below = gated(alu(Op.LT, idx(0), i), alu(Op.ADD, i, idx(-1)))
    odd = gated(alu(Op.EQ, alu(Op.MOD, i, idx(2)), idx(1)), i)
    body = (Store(b, (odd,), load(a, below)),)
    nest = Nest("k", (a, b), (Loop(i, new_range(4), idx(0), idx(4), body),), frozenset((b,)))
    launch(device, nest, x, out)
    np.testing.assert_array_equal(out, [9, 1, 9, 3])
    first = (Store(b, (i,), load(a, below)),)
    launch(device, Nest("k", (a, b), (Loop(i, new_range(4), idx(0), idx(4), first),), frozenset((b,))), x, out)
    np.testing.assert_array_equal(out, [0, 1, 2, 3])


def test_a_guard_keeps_the_first_fault(device: str) -> None:
    x = np.array([0, 7, 9], np.int64)
    i, a = variable("i", 1), param(0, "x", x)
    value = UOp(Op.VAR, dt.index, (), ("let", 2, "v"))
    ok = alu(Op.LT, value, idx(5))
    body = (Let(value, UOp(Op.CAST, dt.index, (load(a, i),))), Guard(ok, 3, 1, value))
    fault = launch(device, Nest("k", (a,), (Loop(i, new_range(3), idx(0), idx(3), body),)), x)
    assert fault.tolist()[:3] == [4, 1, 7]


@pytest.mark.parametrize("size", [3, 20_000])
def test_scratch_is_an_array_of_its_own(device: str, size: int) -> None:
    out = np.zeros(size, np.float64)
    i, j, b = variable("i", 1), variable("j", 2), param(0, "out", out)
    tile = new_buffer(dt.float64, (size,), "tile", "local")
    fill = Loop(i, new_range(size), idx(0), idx(size), (Store(tile, (i,), UOp(Op.CAST, dt.float64, (i,))),))
    back = alu(Op.ADD, idx(size - 1), alu(Op.MUL, j, idx(-1)))
    read = Loop(j, new_range(size), idx(0), idx(size), (Store(b, (j,), load(tile, back)),))
    launch(device, Nest("k", (b,), (Scratch(tile), fill, read), frozenset((b,))), out)
    np.testing.assert_array_equal(out, np.arange(size)[::-1])


def test_strides_of_a_parameter_are_followed(device: str) -> None:
    x = np.arange(24, dtype=np.int32).reshape(4, 6)[::-1, ::2].T
    out = np.zeros((3, 4), np.int32)
    i, j, a, b = variable("i", 1), variable("j", 2), param(0, "x", x, strided=True), param(1, "out", out)
    inner = Loop(j, new_range(4), idx(0), idx(4), (Store(b, (i, j), load(a, i, j)),))
    nest = Nest("k", (a, b), (Loop(i, new_range(3), idx(0), idx(3), (inner,)),), frozenset((b,)))
    launch(device, nest, x, out)
    np.testing.assert_array_equal(out, x)


def test_a_loop_with_its_end_before_its_start_does_not_run(device: str) -> None:
    out = np.full(2, 5, np.int64)
    i, b = variable("i", 1), param(0, "out", out)
    body = (Store(b, (i,), const(1, dt.int64)),)
    nest = Nest("k", (b,), (Loop(i, new_range(2), idx(3), idx(1), body),), frozenset((b,)))
    launch(device, nest, out)
    assert out.tolist() == [5, 5]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "bool", "int8", "uint64"])
def test_a_print_hands_over_indices_and_the_value(device: str, name: str) -> None:
    dtype = dt.dtype_named(name)
    x = np.array([1, 0, 1]).astype(dtype.numpy)
    i, a = variable("i", 1), param(0, "x", x)
    seen: list[Any] = []
    shown = Print(0, (i,), load(a, i), alu(Op.LT, idx(0), i))
    nest = Nest("k", (a,), (Loop(i, new_range(3), idx(0), idx(3), (shown,)),), prints=(PrintSite("x", ("i",), ()),))
    launch(device, nest, x, printer=lambda number, at, value: seen.append((number, at, float(value))))
    assert seen == [(0, (1,), 0.0), (0, (2,), 1.0)]


def test_the_interpreter_refuses_an_unsafe_access(device: str) -> None:
    x = np.zeros(2, np.float32)
    i, a = variable("i", 1), param(0, "x", x)
    v = UOp(Op.VAR, dt.float32, (), ("let", 2, "v"))
    nest = Nest("k", (a,), (Loop(i, new_range(3), idx(0), idx(3), (Let(v, load(a, i)),)),))
    with pytest.raises(AssertionError, match="unsafe access x"):
        trace(nest, [x])
