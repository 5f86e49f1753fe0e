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
        return e.make(f"fpext {e.wide('half')} {x} to {e.wide('float')}")
    word = e.wide("i32")
    bits = e.make(f"zext {e.wide('i16')} {x} to {word}")
    bits = e.make(f"shl {word} {bits}, {e.splat(16, 'i32')}")
    return e.make(f"bitcast {word} {bits} to {e.wide('float')}")


def narrow(e: Emitter, x: str, dtype: DType) -> str:
    """A float rounded to a half type: to nearest, ties to even, NaN kept."""
    if dtype is dt.float16:
        return e.make(f"fptrunc {e.wide('float')} {x} to {e.wide('half')}")
    word = e.wide("i32")
    bits = e.make(f"bitcast {e.wide('float')} {x} to {word}")
    top = e.make(f"lshr {word} {bits}, {e.splat(16, 'i32')}")
    odd = e.make(f"and {word} {top}, {e.splat(1, 'i32')}")
    carry = e.make(f"add {word} {odd}, {e.splat(32767, 'i32')}")
    rounded = e.make(f"add {word} {bits}, {carry}")
    quiet = e.make(f"or {word} {bits}, {e.splat(4194304, 'i32')}")
    kept = e.select(e.make(f"fcmp uno {e.wide('float')} {x}, {x}"), word, quiet, rounded)
    top = e.make(f"lshr {word} {kept}, {e.splat(16, 'i32')}")
    return e.make(f"trunc {word} {top} to {e.wide('i16')}")


def to_odd(e: Emitter, x: str) -> str:
    """A double as float, rounded to odd, so that rounding again to fewer bits is as if done once.

    Source: S. Boldo, G. Melquiond, IEEE Transactions on Computers 57(4), 2008.
    """
    single, double, word = e.wide("float"), e.wide("double"), e.wide("i32")
    near = e.make(f"fptrunc {double} {x} to {single}")
    back = e.make(f"fpext {single} {near} to {double}")
    bits = e.make(f"bitcast {single} {near} to {word}")
    size, was = (e.intrinsic("fabs", "double", v) for v in (back, x))
    over = e.make(f"zext {e.wide('i1')} {e.make(f'fcmp ogt {double} {size}, {was}')} to {word}")
    odd = e.make(f"or {word} {e.make(f'sub {word} {bits}, {over}')}, {e.splat(1, 'i32')}")
    exact = e.make(f"fcmp ueq {double} {back}, {x}")
    return e.make(f"bitcast {word} {e.select(exact, word, bits, odd)} to {single}")


def cast(e: Emitter, x: str, src: DType, dst: DType) -> str:
    """A value in another dtype, as the scalar table of the IR defines it."""
    if src is dst:
        return x
    if src.is_half:
        return cast(e, widen(e, x, src), dt.float32, dst)
    a, b = e.type(src), e.type(dst)
    if dst is dt.bool_:
        zero = e.literal(0, src)
        return e.make(f"fcmp une {a} {x}, {zero}" if src.is_float else f"icmp ne {a} {x}, {zero}")
    if dst.is_half:
        near = to_odd(e, x) if src is dt.float64 else cast(e, x, src, dt.float32)
        return narrow(e, near, dst)
    signed = src.kind in "ix"
    if src.is_float and dst.is_float:
        return e.make(f"{'fpext' if dst.bits > src.bits else 'fptrunc'} {a} {x} to {b}")
    if src.is_float:
        name = f"llvm.fpto{'u' if dst.kind == 'u' else 's'}i.sat"
        width = "" if e.lanes == 1 else f"v{e.lanes}"
        return e.call(b, f"{name}.{width}{TYPES[dst]}.{width}f{src.bits}", (a, x))
    if dst.is_float:
        return e.make(f"{'sitofp' if signed else 'uitofp'} {a} {x} to {b}")
    if a == b:
        return x
    if src is not dt.bool_ and src.bits > dst.bits:
        return e.make(f"trunc {a} {x} to {b}")
    return e.make(f"{'sext' if signed else 'zext'} {a} {x} to {b}")


def bitcast(e: Emitter, x: str, src: DType, dst: DType) -> str:
    """The same bits in another dtype of the same width."""
    a, b = e.type(src), e.type(dst)
    if a == b:
        return x
    if dst is dt.bool_:
        return e.make(f"icmp ne {a} {x}, {e.literal(0, src)}")
    return e.make(f"zext {a} {x} to {b}" if src is dt.bool_ else f"bitcast {a} {x} to {b}")


def raw(e: Emitter, x: str, dtype: DType) -> str:
    """The value's bits in an i64, as the printer gets them."""
    width = 1 if dtype is dt.bool_ else dtype.bits
    if dtype.is_float and dtype is not dt.bfloat16:
        x = e.make(f"bitcast {TYPES[dtype]} {x} to i{width}")
    return x if width == 64 else e.make(f"zext i{width} {x} to i64")
