"""How far the expressions of ``rangekit/ir/approx.py`` are from the functions they stand for, in ulp.

    python scripts/ulp.py [--all] [--sample N] [function ...]

Compiles each expression for vectors of this machine and compares it with the C library: float32 with its functions of
float64 (pow: of 80-bit floats), float64 with those of 80-bit floats. ``--all`` tries each of the 2**32 float32 inputs,
some minutes for a function; otherwise, and for float64 and pow, random bits, values where the functions change, and
what lies around the edges. The table it prints goes, rounded up, into ``MAX_ULP``.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rangekit.backends.llvm import engine
from rangekit.backends.llvm.emit import TYPES, Emitter, Names
from rangekit.backends.llvm.scalar import scalar
from rangekit.ir import dtype as dt
from rangekit.ir.approx import MAX_ULP, cheap, expand
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, alu, const, toposort

Array = np.ndarray[Any, np.dtype[Any]]
LANES, BLOCK = 8, 1 << 18
OPS = (Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.LOG2, Op.LOG10, Op.SIN, Op.COS, Op.TAN, Op.SINH, Op.COSH, Op.TANH, Op.ERF,
       Op.POW)  # fmt: skip
_ENTRY = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)


class Function:
    """Machine code that maps two arrays of BLOCK elements to two others."""

    def __init__(self, text: str) -> None:
        self._code = engine.Code(text)
        self._call = _ENTRY(self._code.address)

    def __call__(self, *arrays: Array) -> None:
        self._call(*(a.ctypes.data for a in arrays))


def _loop(names: Names, body: list[str], lanes: int) -> str:
    head = ["define void @kernel(ptr %x, ptr %y, ptr %a, ptr %b) {", "entry:", "  br label %loop", "loop:",
            "  %i = phi i64 [ 0, %entry ], [ %next, %loop ]"]  # fmt: skip
    tail = [f"  %next = add i64 %i, {lanes}", f"  %more = icmp ult i64 %next, {BLOCK}",
            "  br i1 %more, label %loop, label %end", "end:", "  ret void", "}", *sorted(names.declared)]  # fmt: skip
    return "\n".join([*head, *body, *tail]) + "\n"


def compiled(value: UOp, condition: UOp | None, sources: tuple[UOp, ...]) -> Function:
    """a = the value, b = 1 where the condition holds, of vectors of x and y."""
    d = value.dtype
    wanted = const(1.0, d) if condition is None else UOp(Op.WHERE, d, (condition, const(1.0, d), const(0.0, d)))
    names = Names()
    e = Emitter(names)
    e.lanes = LANES
    held: dict[UOp, str] = {}
    for n in toposort(value, wanted):
        if n in sources:
            at = e.make(f"getelementptr {TYPES[d]}, ptr {'%x' if n is sources[0] else '%y'}, i64 %i")
            held[n] = e.make(f"load {e.type(d)}, ptr {at}, align 8")
        else:
            held[n] = e.literal(n.arg, n.dtype) if n.op is Op.CONST else scalar(e, n, [held[s] for s in n.src])
    for place, n in (("%a", value), ("%b", wanted)):
        e.line(f"store {e.type(d)} {held[n]}, ptr {e.make(f'getelementptr {TYPES[d]}, ptr {place}, i64 %i')}, align 8")
    return Function(_loop(names, e.lines, LANES))


def reference(op: Op, d: DType) -> Function:
    """a + b = the C library's result, a rounded to float64, of x and y."""
    wide = "double" if d is dt.float32 and op is not Op.POW else "x86_fp80"
    if wide != "double" and platform.machine() not in ("x86_64", "AMD64"):
        sys.exit("there are no 80-bit floats on this machine")
    names, name = Names(), op.value + ("" if wide == "double" else "l")
    e = Emitter(names)
    args = []
    for place in ("%x", "%y")[: 2 if op is Op.POW else 1]:
        got = e.make(f"load {TYPES[d]}, ptr {e.make(f'getelementptr {TYPES[d]}, ptr {place}, i64 %i')}")
        args.append((wide, e.make(f"fpext {TYPES[d]} {got} to {wide}")))
    result = e.call(wide, name, *args)
    near, rest = result, "0.0"
    if wide != "double":
        near = e.make(f"fptrunc {wide} {result} to double")
        lost = e.make(f"fsub {wide} {result}, {e.make(f'fpext double {near} to {wide}')}")
        rest = e.make(f"fptrunc {wide} {lost} to double")
    for place, value in (("%a", near), ("%b", rest)):
        e.line(f"store double {value}, ptr {e.make(f'getelementptr double, ptr {place}, i64 %i')}")
    return Function(_loop(names, e.lines, 1))


def errors(got: Array, near: Array, rest: Array, d: DType) -> Array:
    """In ulp of ``near + rest``; inf where NaN, inf or a zero's sign is not what it should be."""
    info = np.finfo(d.numpy)
    want, value = near.astype(d.numpy), got.astype(np.float64)
    binade = (near.view(np.uint64) & np.uint64(0x7FF0000000000000)).view(np.float64)
    unit = np.maximum(np.minimum(binade, 2.0 ** (info.maxexp - 1)) * 2.0**-info.nmant, float(info.smallest_subnormal))
    top = float(info.max)
    rest = np.where(np.abs(near) < top, rest, 0)
    off = np.abs((np.clip(value, -top, top) - np.clip(near, -top, top)) - rest) / unit
    off += np.isinf(got) != np.isinf(want)
    agree = (got == want) & (np.signbit(got) == np.signbit(want)) | (np.isnan(got) & np.isnan(want))
    off[agree & ~np.isfinite(near)] = 0
    wrong = np.isnan(got) != np.isnan(want)
    wrong |= (got == 0) & (np.signbit(got) != np.signbit(want)) | ((near == 0) & ~agree)
    wrong |= np.isinf(near) & ~agree & (np.abs(value) < top)
    off[wrong] = np.inf
    return off


@dataclass
class Worst:
    """The greatest error so far."""

    ulp: float = 0.0
    at: list[float] = field(default_factory=list)

    def see(self, off: Array, inputs: list[Array]) -> None:
        """Keep what is worse."""
        k = int(np.argmax(off))
        if off[k] > self.ulp:
            self.ulp, self.at = float(off[k]), [float(x[k]) for x in inputs]


def every(d: DType) -> Iterator[tuple[Array, Array]]:
    """Each float32."""
    for start in range(0, 1 << 32, BLOCK):
        x = np.arange(start, start + BLOCK, dtype=np.uint32).view(d.numpy)
        yield x, x


def some(d: DType, blocks: int, op: Op) -> Iterator[tuple[Array, Array]]:
    """Random bits; values of each size in which the functions change; what lies around special values."""
    rng = np.random.default_rng(list(op.value.encode()))
    edges = np.array(
        [
            0,
            1,
            2,
            10,
            100,
            1000,
            0.5,
            1.5,
            np.pi,
            np.pi / 2,
            88.7228,
            103.97,
            709.7827,
            745.1332,
            np.inf,
            np.nan,
            2.0**24,
            2.0**53,
            3e38,
            1e-38,
            1e-45,
            2.0**16,
            2.0**25,
            0.3,
            2.0**0.5,
            0.5**0.5,
        ]
    )
    with np.errstate(all="ignore"):
        edges = np.concatenate([edges, -edges]).astype(d.numpy)
        steps = np.arange(-40, 41).astype(f"i{d.itemsize}")
        beside = (edges.view(steps.dtype)[:, None] + steps).view(d.numpy).ravel()
    yield np.resize(beside, BLOCK), np.resize(beside[::-1], BLOCK)
    for a, b in (np.meshgrid(part, edges) for part in np.array_split(beside, 16)):
        yield np.resize(a, BLOCK), np.resize(b, BLOCK)
    for _ in range(blocks):
        bits = rng.integers(0, 1 << d.bits, (2, BLOCK), f"u{d.itemsize}").view(d.numpy)
        yield bits[0], bits[1]
        size = 2.0 ** rng.integers(-30, 11, BLOCK)
        spread = (rng.uniform(-2, 2, BLOCK) * size).astype(d.numpy)
        yield spread, bits[0]
        near_one = (1 + rng.uniform(-1, 1, BLOCK) * 2.0 ** -rng.integers(0, 40, BLOCK)).astype(d.numpy)
        with np.errstate(all="ignore"):
            whole = np.abs(np.log(np.abs(near_one).astype(np.float64)))
            exponent = rng.uniform(-1, 1, BLOCK) * (104 if d is dt.float32 else 746) / whole
            yield near_one, exponent.astype(d.numpy)
            exponent = rng.uniform(-1, 1, BLOCK) * (104 if d is dt.float32 else 746) / np.abs(np.log(np.abs(spread)))
            yield np.abs(spread), np.where(rng.random(BLOCK) < 0.2, np.round(exponent), exponent).astype(d.numpy)


def measured(op: Op, d: DType, whole: bool, blocks: int) -> Iterator[tuple[str, Worst]]:
    """The greatest error of each form."""
    sources = tuple(UOp(Op.VAR, d, (), ("let", k, "xy"[k])) for k in range(2 if op is Op.POW else 1))
    node = alu(op, *sources)
    forms = [("cheap", cheap(node)), ("expand", (None, expand(node)))]
    known, a, b, near, rest = reference(op, d), *np.empty((2, BLOCK), d.numpy), *np.empty((2, BLOCK))
    functions = [
        (name, compiled(f[1], f[0], sources), Worst()) for name, f in forms if f is not None and f[1] is not None
    ]
    for x, y in every(d) if whole and d is dt.float32 and op is not Op.POW else some(d, blocks, op):
        known(np.ascontiguousarray(x), np.ascontiguousarray(y), near, rest)
        for _, function, worst in functions:
            function(np.ascontiguousarray(x), np.ascontiguousarray(y), a, b)
            with np.errstate(all="ignore"):
                worst.see(np.where(b != 0, errors(a, near, rest, d), 0), [x, y][: len(sources)])
    yield from ((name, worst) for name, _, worst in functions)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", help="such as exp or sin; none: all")
    parser.add_argument("--all", action="store_true", help="each float32, not a sample")
    parser.add_argument("--sample", type=int, default=64, metavar="N", help="blocks of 2**20 inputs (64)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="one of the two")
    args = parser.parse_args()
    for op in (op for op in OPS if not args.functions or op.value in args.functions):
        for d in (d for d in (dt.float32, dt.float64) if args.dtype in (None, d.name)):
            start = time.perf_counter()
            for form, worst in measured(op, d, args.all, args.sample):
                at = ", ".join(f"{v!r}" for v in worst.at)
                stated = MAX_ULP.get((op, d), 0.0)
                late = "" if worst.ulp <= stated else f"  (MAX_ULP says {stated})"
                print(f"{op.value:6} {d} {form:6} {worst.ulp:6.3f} ulp at {at}{late}", flush=True)
            print(f"       {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
