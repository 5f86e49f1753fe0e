"""Values in other dtypes: casts, bitcasts, and the half types.

Half types live in registers as they are stored: ``half``, and ``i16`` for bfloat16. No symbol is called that a C
library lacks: the conversions of bfloat16, and of float64 to the half types, are written out.
"""

from __future__ import annotations

from rangekit.backends.llvm.emit import TYPES, Emitter
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType


def widen(e: Emitter, x: str, dtype: DType) -> str:
    """A half type as float, exactly."""
    if dtype is dt.float16:
        return e.make(f"fpext half {x} to float")
    wide = e.make(f"zext i16 {x} to i32")
    return e.make(f"bitcast i32 {e.make(f'shl i32 {wide}, 16')} to float")


def narrow(e: Emitter, x: str, dtype: DType) -> str:
    """A float rounded to a half type: to nearest, ties to even, NaN kept."""
    if dtype is dt.float16:
        return e.make(f"fptrunc float {x} to half")
    bits = e.make(f"bitcast float {x} to i32")
    odd = e.make(f"and i32 {e.make(f'lshr i32 {bits}, 16')}, 1")
    rounded = e.make(f"add i32 {bits}, {e.make(f'add i32 {odd}, 32767')}")
    quiet = e.make(f"or i32 {bits}, 4194304")
    kept = e.select(e.make(f"fcmp uno float {x}, {x}"), "i32", quiet, rounded)
    return e.make(f"trunc i32 {e.make(f'lshr i32 {kept}, 16')} to i16")


def to_odd(e: Emitter, x: str) -> str:
    """A double as float, rounded to odd, so that rounding again to fewer bits is as if done once.

    Source: S. Boldo, G. Melquiond, IEEE Transactions on Computers 57(4), 2008.
    """
    near = e.make(f"fptrunc double {x} to float")
    back = e.make(f"fpext float {near} to double")
    bits = e.make(f"bitcast float {near} to i32")
    size, was = (e.call("double", "llvm.fabs.f64", ("double", v)) for v in (back, x))
    over = e.make(f"zext i1 {e.make(f'fcmp ogt double {size}, {was}')} to i32")
    odd = e.make(f"or i32 {e.make(f'sub i32 {bits}, {over}')}, 1")
    exact = e.make(f"fcmp ueq double {back}, {x}")
    return e.make(f"bitcast i32 {e.select(exact, 'i32', bits, odd)} to float")


def cast(e: Emitter, x: str, src: DType, dst: DType) -> str:
    """A value in another dtype, as the scalar table of the IR defines it."""
    if src is dst:
        return x
    if src.is_half:
        return cast(e, widen(e, x, src), dt.float32, dst)
    a, b = TYPES[src], TYPES[dst]
    if dst is dt.bool_:
        return e.make(f"fcmp une {a} {x}, 0.0" if src.is_float else f"icmp ne {a} {x}, 0")
    if dst.is_half:
        near = to_odd(e, x) if src is dt.float64 else cast(e, x, src, dt.float32)
        return narrow(e, near, dst)
    signed = src.kind in "ix"
    if src.is_float and dst.is_float:
        return e.make(f"{'fpext' if dst.bits > src.bits else 'fptrunc'} {a} {x} to {b}")
    if src.is_float:
        return e.call(b, f"llvm.fpto{'u' if dst.kind == 'u' else 's'}i.sat.{b}.f{src.bits}", (a, x))
    if dst.is_float:
        return e.make(f"{'sitofp' if signed else 'uitofp'} {a} {x} to {b}")
    if a == b:
        return x
    if src is not dt.bool_ and src.bits > dst.bits:
        return e.make(f"trunc {a} {x} to {b}")
    return e.make(f"{'sext' if signed else 'zext'} {a} {x} to {b}")


def bitcast(e: Emitter, x: str, src: DType, dst: DType) -> str:
    """The same bits in another dtype of the same width."""
    a, b = TYPES[src], TYPES[dst]
    if a == b:
        return x
    if dst is dt.bool_:
        return e.make(f"icmp ne {a} {x}, 0")
    return e.make(f"zext i1 {x} to {b}" if src is dt.bool_ else f"bitcast {a} {x} to {b}")


def raw(e: Emitter, x: str, dtype: DType) -> str:
    """The value's bits in an i64, as the printer gets them."""
    width = 1 if dtype is dt.bool_ else dtype.bits
    if dtype.is_float and dtype is not dt.bfloat16:
        x = e.make(f"bitcast {TYPES[dtype]} {x} to i{width}")
    return x if width == 64 else e.make(f"zext i{width} {x} to i64")
