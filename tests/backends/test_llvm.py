"""What the LLVM device promises beyond meaning what the interpreter means: its text, its gates, its code's life."""

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rangekit.backends.llvm import CpuDevice, engine
from rangekit.backends.llvm.scalar import FLOAT, INT
from rangekit.errors import CompileError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, PrintSite, Scratch, Stmt, Store
from rangekit.ir.ops import COMPARE, MATH, TESTS, UNARY, Op
from rangekit.ir.scalar import apply
from rangekit.ir.uop import ParamId, UOp, alu, const, idx, new_buffer, new_range
from tests.backends.test_ops import elementwise, legal

CPU = CpuDevice()
I = UOp(Op.VAR, dt.index, (), ("range", 1, "i"))
J = UOp(Op.VAR, dt.index, (), ("range", 2, "j"))
K = UOp(Op.VAR, dt.index, (), ("range", 3, "k"))
INVALID = UOp(Op.INVALID, dt.index)
TRUE = const(True, dt.bool_)
ROOT = Path(__file__).parents[2]
FAR = idx(1 << 44)  # elements: no address a process has

Array = np.ndarray[Any, Any]


def param(slot: int, name: str, shape: tuple[int, ...], dtype: DType = dt.float32) -> UOp:
    return UOp(Op.PARAM, dtype, (), ParamId(slot, name, shape))


def load(buffer: UOp, *at: UOp) -> UOp:
    return UOp(Op.INDEX, buffer.dtype, (buffer, *at))


def gated(condition: UOp, at: UOp) -> UOp:
    return UOp(Op.WHERE, dt.index, (condition, at, INVALID))


def loop(var: UOp, size: int, *body: Stmt) -> Loop:
    return Loop(var, new_range(size), idx(0), idx(size), body)


def nest(params: tuple[UOp, ...], *body: Stmt, prints: tuple[PrintSite, ...] = ()) -> Nest:
    """A nest that writes its last param, unless it prints."""
    return Nest("k", params, body, frozenset() if prints else frozenset(params[-1:]), prints=prints)


def run(program: Nest, *arrays: Array, printer: Any = None) -> Array:
    fault = np.zeros(4, np.int64)
    CPU.compile(program)(list(arrays), fault, printer)
    return fault


def double() -> Nest:
    x, out = param(0, "x", (4,)), param(1, "out", (4,))
    return nest((x, out), loop(I, 4, Store(out, (I,), alu(Op.ADD, load(x, I), load(x, I)))))


# ---- text ------------------------------------------------------------------------------------------------------------


def test_the_text_reads_like_the_nest_and_a_shared_load_is_one_load() -> None:
    assert (
        CPU.render(double(), "llvm")
        == """\
; k

define internal void @body(ptr %arg0, ptr noalias %arg1, ptr %fault) #0 {
entry:
  %zero = alloca [64 x i8], align 64
  store [64 x i8] zeroinitializer, ptr %zero
  %i.slot.0 = alloca i64
  store i64 0, ptr %i.slot.0
  br label %i.head.0
i.head.0:
  %i.0 = load i64, ptr %i.slot.0
  %i.more.0 = icmp slt i64 %i.0, 4
  br i1 %i.more.0, label %i.body.0, label %i.end.0
i.body.0:
  %p.0 = getelementptr float, ptr %arg1, i64 %i.0
  %p.1 = getelementptr float, ptr %arg0, i64 %i.0
  %x.0 = load float, ptr %p.1, align 4
  %v.0 = fadd float %x.0, %x.0
  store float %v.0, ptr %p.0, align 4
  %i.next.0 = add nsw i64 %i.0, 1
  store i64 %i.next.0, ptr %i.slot.0
  br label %i.head.0
i.end.0:
  ret void
}

define void @kernel(ptr %args, ptr %fault) {
entry:
  %slot0 = getelementptr ptr, ptr %args, i64 0
  %p0 = load ptr, ptr %slot0
  %slot1 = getelementptr ptr, ptr %args, i64 1
  %p1 = load ptr, ptr %slot1
  call void @body(ptr %p0, ptr %p1, ptr %fault)
  ret void
}

attributes #0 = { nounwind "prefer-vector-width"="256" "frame-pointer"="none" }

!0 = !{!"branch_weights", i32 1048575, i32 1}
!1 = !{i32 1}
"""
    )


def test_rendering_is_a_function_of_the_nest_and_loads_no_llvm() -> None:
    code = (
        "import sys; from tests.backends.test_llvm import double, CPU; a = CPU.render(double(), 'llvm')\n"
        "assert a == CPU.render(double(), 'llvm'); assert 'llvmlite' not in sys.modules; print(a, end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == CPU.render(double(), "llvm")


def test_an_expression_that_shares_its_parts_prints_each_once() -> None:
    x, out = param(0, "x", (4,)), param(1, "out", (4,))
    value = load(x, I)
    for _ in range(20):
        value = alu(Op.ADD, value, value)
    text = CPU.render(nest((x, out), loop(I, 4, Store(out, (I,), value))), "llvm")
    assert text.count("fadd float") == 20


def test_asm_is_the_hosts_and_names_the_entry() -> None:
    assert "kernel:" in CPU.render(double(), "asm").replace("_kernel:", "kernel:")


def test_text_that_llvm_refuses_is_a_compile_error() -> None:
    with pytest.raises(CompileError, match="LLVM refuses the kernel"):
        engine.Code("define void @kernel(ptr %args, ptr %fault) {\n  ret i32 %nothing\n}\n")


def test_float16_is_refused_where_its_conversions_would_be_missing_symbols() -> None:
    text = CPU.render(elementwise(Op.ADD, dt.float16, [np.zeros(4)] * 2, (dt.float16,) * 2), "llvm")
    assert engine.lacking(text, "x86_64-unknown-linux-gnu", {"f16c": False}) == "conversions of float16 (F16C)"
    assert engine.lacking(text, "x86_64-unknown-linux-gnu", {"f16c": True}) is None
    assert engine.lacking(text, "aarch64-unknown-linux-gnu", {}) is None
    assert engine.lacking(CPU.render(double(), "llvm"), "x86_64-unknown-linux-gnu", {}) is None


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_closed_gate_on_any_axis_keeps_a_load_and_a_store_from_touching_memory() -> None:
    x, out = param(0, "x", (1, 4)), param(1, "out", (1, 4))
    low = alu(Op.LT, I, idx(2))
    far = alu(Op.ADD, I, UOp(Op.WHERE, dt.index, (low, idx(0), FAR)))
    got, data = np.full((1, 4), 9, np.float32), np.arange(1, 5, dtype=np.float32).reshape(1, 4)
    run(nest((x, out), loop(I, 4, Store(out, (idx(0), I), load(x, idx(0), gated(low, far))))), data, got)
    assert got.tolist() == [[1, 2, 0, 0]]
    got[:] = 9
    run(nest((x, out), loop(I, 4, Store(out, (idx(0), gated(low, far)), load(x, idx(0), I)))), data, got)
    assert got.tolist() == [[1, 2, 9, 9]]


def test_gates_on_several_axes_must_all_be_open() -> None:
    x, out = param(0, "x", (4, 4)), param(1, "out", (4, 4))
    at = (gated(alu(Op.LT, I, idx(2)), I), gated(alu(Op.LT, J, idx(3)), J))
    got, data = np.full((4, 4), 9, np.float32), np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    run(nest((x, out), loop(I, 4, loop(J, 4, Store(out, (I, J), load(x, *at))))), data, got)
    want = np.zeros((4, 4))
    want[:2, :3] = data[:2, :3]
    np.testing.assert_array_equal(got, want)


def test_an_index_that_is_invalid_loads_zero_and_stores_nothing() -> None:
    x, out = param(0, "x", (4,)), param(1, "out", (4,))
    got = np.full(4, 9, np.float32)
    body = (Store(out, (I,), load(x, INVALID)), Store(out, (INVALID,), const(5.0, dt.float32)))
    run(nest((x, out), loop(I, 4, *body)), np.ones(4, np.float32), got)
    assert got.tolist() == [0, 0, 0, 0]


def test_a_load_inside_a_gated_index_is_gated_with_it() -> None:
    ids, x, out = param(0, "ids", (4,), dt.int64), param(1, "x", (4,)), param(2, "out", (4,))
    low = alu(Op.LT, I, idx(2))
    inner = load(ids, UOp(Op.WHERE, dt.index, (low, I, FAR)))  # far away where the gate around it is closed
    got = np.full(4, 9, np.float32)
    program = nest((ids, x, out), loop(I, 4, Store(out, (I,), load(x, gated(low, UOp(Op.CAST, dt.index, (inner,)))))))
    run(program, np.array([3, 2, 0, 0]), np.arange(4, dtype=np.float32), got)
    assert got.tolist() == [3, 2, 0, 0]


def test_a_load_that_is_used_with_and_without_a_gate_is_zero_only_under_it() -> None:
    ids, x, out = param(0, "ids", (4,), dt.int64), param(1, "x", (4,), dt.int64), param(2, "out", (4,), dt.int64)
    at = load(ids, I)
    under = load(x, gated(alu(Op.LT, I, idx(2)), UOp(Op.CAST, dt.index, (at,))))
    got = np.zeros(4, np.int64)
    run(
        nest((ids, x, out), loop(I, 4, Store(out, (I,), alu(Op.ADD, under, at)))),
        np.array([3, 2, 1, 1]),
        np.arange(4),
        got,
    )
    assert got.tolist() == [6, 4, 1, 1]


@pytest.mark.parametrize("kind", [dt.int8, dt.uint8, dt.int32, dt.int64], ids=str)
def test_an_index_of_any_integer_type_names_its_element(kind: DType) -> None:
    ids, x, out = param(0, "ids", (3,), kind), param(1, "x", (200,)), param(2, "out", (3,))
    got = np.zeros(3, np.float32)
    at = np.array([100, 0, 127 if kind is dt.int8 else 199]).astype(kind.numpy)  # 199 of uint8 must not turn negative
    run(
        nest((ids, x, out), loop(I, 3, Store(out, (I,), load(x, load(ids, I))))),
        at,
        np.arange(200, dtype=np.float32),
        got,
    )
    assert got.tolist() == at.tolist()


def test_a_guard_keeps_the_first_value_of_a_narrow_type() -> None:
    x = param(0, "x", (3,), dt.int32)
    body = Guard(alu(Op.LT, const(0, dt.int32), load(x, I)), 4, 2, load(x, I))
    fault = run(Nest("k", (x,), (loop(I, 3, body),)), np.array([1, -7, -9], np.int32))
    assert fault.tolist() == [5, 2, -7, -1]


def test_any_byte_but_zero_is_true() -> None:
    x, out = param(0, "x", (3,), dt.bool_), param(1, "out", (3,), dt.bool_)
    got = np.zeros(3, np.uint8)
    run(nest((x, out), loop(I, 3, Store(out, (I,), load(x, I)))), np.array([0, 1, 2], np.uint8), got)
    assert got.tolist() == [0, 1, 1]


@pytest.mark.parametrize(("rows", "columns", "inner"), [(3, 5, 7), (1, 1, 1), (0, 4, 4), (4, 4, 0)])
def test_matmul_with_an_accumulator(rows: int, columns: int, inner: int) -> None:
    a, b, out = param(0, "a", (rows, inner)), param(1, "b", (inner, columns)), param(2, "out", (rows, columns))
    acc = new_buffer(dt.float32, (), "acc", "register")
    product = alu(Op.MUL, load(a, I, K), load(b, K, J))
    step = Store(acc, (), alu(Op.ADD, load(acc), product), "add", product)
    body = (Scratch(acc), Store(acc, (), const(0.0, dt.float32)), loop(K, inner, step), Store(out, (I, J), load(acc)))
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, s).astype(np.float32) for s in ((rows, inner), (inner, columns)))
    got = np.full((rows, columns), 9, np.float32)
    run(nest((a, b, out), loop(I, rows, loop(J, columns, *body))), x, y, got)
    np.testing.assert_array_equal(got, x @ y)


def test_scratch_inside_a_loop_takes_no_stack_per_iteration() -> None:
    out = param(0, "out", (2000,))
    tile = new_buffer(dt.float32, (8000,), "tile", "local")  # 64 MB, if each iteration had its own
    at = alu(Op.MOD, I, idx(8000))
    body = (Scratch(tile), Store(tile, (at,), UOp(Op.CAST, dt.float32, (I,))), Store(out, (I,), load(tile, at)))
    got = np.zeros(2000, np.float32)
    run(nest((out,), loop(I, 2000, *body)), got)
    np.testing.assert_array_equal(got, np.arange(2000))


def test_scratch_may_be_larger_than_a_stack() -> None:
    out, size = param(0, "out", (3,)), 1 << 24
    tile = new_buffer(dt.float32, (size,), "tile", "local")
    at = alu(Op.MUL, I, idx(size // 3))
    fill = loop(I, 3, Store(tile, (at,), UOp(Op.CAST, dt.float32, (I,))))
    got = np.full(3, 9, np.float32)
    run(nest((out,), Scratch(tile), fill, loop(I, 3, Store(out, (I,), load(tile, at)))), got)
    assert got.tolist() == [0, 1, 2]


# ---- printing --------------------------------------------------------------------------------------------------------


def printing() -> Nest:
    x = param(0, "x", (3,))
    return nest((x,), loop(I, 3, Print(0, (I,), load(x, I), TRUE)), prints=(PrintSite("x", ("i",), ()),))


def test_a_nest_that_prints_runs_without_a_printer() -> None:
    assert run(printing(), np.ones(3, np.float32)).tolist() == [0, 0, 0, 0]


def test_an_exception_of_the_printer_reaches_the_caller_once() -> None:
    calls: list[int] = []

    def fail(number: int, at: tuple[int, ...], value: Any) -> None:
        calls.append(at[0])
        raise ValueError("no paper")

    with pytest.raises(ValueError, match="no paper"):
        run(printing(), np.ones(3, np.float32), printer=fail)
    assert calls == [0]


# ---- code ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_code_is_freed_with_its_launch() -> None:
    def pages() -> int:
        return sum(" r-xp " in line and line.endswith(" 0 \n") for line in Path("/proc/self/maps").open())

    CPU.compile(double())
    gc.collect()
    before = pages()
    held = [CPU.compile(double()) for _ in range(20)]
    assert pages() >= before + 10
    del held
    gc.collect()
    assert pages() <= before + 2


def test_threads_compile_and_launch_at_once() -> None:
    bad: list[str] = []

    def work(seed: int) -> None:
        launch = CPU.compile(double())
        for step in range(200):
            x, out = np.full(4, seed * 1000 + step, np.float32), np.zeros(4, np.float32)
            launch([x, out], np.zeros(4, np.int64))
            shared([out, x], np.zeros(4, np.int64))
            if not ((out == (seed * 1000 + step) * 2) & (x == out * 2)).all():
                bad.append(f"{seed}, {step}: {out} {x}")

    shared = CPU.compile(double())
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert bad == []


# ---- ops on random bits ----------------------------------------------------------------------------------------------


def random_bits(d: DType, count: int, seed: int) -> Array:
    """Every exponent, every sign, NaNs and denormals as often as bits have them; half of the ints small."""
    rng = np.random.default_rng(seed)
    if d is dt.bool_:
        return rng.integers(0, 2, count).astype(bool)
    raw = rng.integers(0, 256, count * d.itemsize, dtype=np.uint8).view(d.numpy).copy()
    if not d.is_float:
        raw[::2] = rng.integers(-9 if d.kind == "i" else 0, 9, raw[::2].shape).astype(d.numpy)
    return raw


def same(got: Array, want: Array) -> None:
    """Equal, NaN with NaN, and zeros with their signs."""
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(invalid="ignore"):  # signalling NaN
        a, b = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(a, b)
    number = ~np.isnan(b)
    np.testing.assert_array_equal(np.signbit(a[number]), np.signbit(b[number]))


EXACT_OPS = sorted((FLOAT.keys() | INT.keys()) - (MATH - {Op.SQRT}) - {Op.POW, Op.ATAN2}, key=lambda op: op.value)


@pytest.mark.parametrize("d", dt.STORED, ids=str)
def test_exact_ops_agree_with_the_scalar_table_on_random_bits(d: DType) -> None:
    size, tried = 400, 0
    for op in [*EXACT_OPS, *((Op.POW,) if d.is_int else ())]:
        if legal(op, d):
            src = (d,) * (1 if op in UNARY else 2)
            out = dt.bool_ if op in COMPARE | TESTS else d
            arrays, got = [random_bits(d, size, k) for k in range(len(src))], np.zeros(size, out.numpy)
            run(elementwise(op, out, arrays, src), *arrays, got)
            same(got, apply(op, out, arrays, src_dtypes=src))
            tried += 1
    assert tried >= 7


@pytest.mark.parametrize("half", [dt.float16, dt.bfloat16], ids=str)
def test_every_half_value_survives_and_every_rounding_is_done_once(half: DType) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(half.numpy)
    wide = np.zeros(every.shape, np.float64)
    run(elementwise(Op.CAST, dt.float64, [every], (half,)), every, wide)
    same(wide, every)
    finite = np.unique(wide[np.isfinite(wide)])
    middle = (finite[1:] + finite[:-1]) / 2  # a tie, and what lies next to one in float64: lost if rounded twice
    x = np.concatenate([middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf), finite])
    got = np.zeros(x.size, half.numpy)
    run(elementwise(Op.CAST, half, [x], (dt.float64,)), x, got)
    low = np.searchsorted(finite, x, side="right") - 1
    low = np.clip(low, 0, finite.size - 2)
    down, up = finite[low], finite[low + 1]
    even = (down.astype(half.numpy).view(np.uint16) & 1) == 0
    nearer = np.where(x - down < up - x, down, np.where(x - down > up - x, up, np.where(even, down, up)))
    np.testing.assert_array_equal(got.astype(np.float64), nearer)


def test_a_let_is_read_after_later_stores_as_it_was() -> None:
    x = param(0, "x", (2,))
    old = UOp(Op.VAR, dt.float32, (), ("let", 9, "old"))
    body = (Let(old, load(x, idx(0))), Store(x, (idx(0),), load(x, idx(1))), Store(x, (idx(1),), old))
    data = np.array([1, 2], np.float32)
    run(nest((x,), *body), data)
    assert data.tolist() == [2, 1]
