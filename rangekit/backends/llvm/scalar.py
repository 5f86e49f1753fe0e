"""What each op prints as: one table for integers, one for floats; total in every dtype.

A row is a function from the operands to the operand that holds the result. The half types have no rows: they widen to
float, compute, and round back.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from rangekit.backends.llvm.convert import bitcast, cast, narrow, widen
from rangekit.backends.llvm.emit import TYPES, Emitter
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import BINARY, COMPARE, MATH, TESTS, UNARY, Op
from rangekit.ir.uop import UOp

X86 = platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
Row = Callable[[Emitter, DType, Sequence[str]], str]  # of the operands' dtype and the operands


def scalar(e: Emitter, n: UOp, args: Sequence[str]) -> str:
    """The operand that holds the elementwise node ``n`` of operands ``args``."""
    src = n.src[0].dtype
    if n.op is Op.CAST:
        return cast(e, args[0], src, n.dtype)
    if n.op is Op.BITCAST:
        return bitcast(e, args[0], src, n.dtype)
    if n.op is Op.FMA:
        if not src.is_half:
            return e.intrinsic("fma", TYPES[src], *args)
        return narrow(e, e.intrinsic("fma", "float", *(widen(e, a, src) for a in args)), src)
    if n.op is Op.WHERE:
        return e.select(args[0], e.type(n.dtype), args[1], args[2])
    if src.is_half:
        wide = FLOAT[n.op](e, dt.float32, [widen(e, a, src) for a in args])
        return wide if n.op in COMPARE | TESTS else narrow(e, wide, src)
    return (FLOAT if src.is_float else INT)[n.op](e, src, args)


# ---- makers of rows --------------------------------------------------------------------------------------------------


def _instruction(signed: str, unsigned: str | None = None) -> Row:
    """One instruction on all operands; another for unsigned ints where that differs."""

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        word = unsigned if unsigned is not None and d.kind in "ub" else signed
        return e.make(f"{word} {e.type(d)} {', '.join(args)}")

    return row


def _intrinsic(signed: str, unsigned: str | None = None) -> Row:
    """A function of LLVM's own, which every target has."""

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        word = unsigned if unsigned is not None and d.kind in "ub" else signed
        return e.intrinsic(word, TYPES[d], *args)

    return row


def _libm(name: str) -> Row:
    """A function of the C library."""

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        return e.scalarised(TYPES[d], name + ("f" if d is dt.float32 else ""), *((TYPES[d], a) for a in args))

    return row


# ---- ints ------------------------------------------------------------------------------------------------------------


def _negate(e: Emitter, d: DType, args: Sequence[str]) -> str:
    return e.make(f"sub {e.type(d)} {e.literal(0, d)}, {args[0]}")


def _not(e: Emitter, d: DType, args: Sequence[str]) -> str:
    return e.make(f"xor {e.type(d)} {args[0]}, {e.literal(True if d is dt.bool_ else -1, d)}")


def _int_abs(e: Emitter, d: DType, args: Sequence[str]) -> str:
    if d.kind == "u":
        return args[0]
    return _INT_MAX(e, d, (args[0], _negate(e, d, args)))  # INT_MIN is its own negative


def _shift(word: str, past_signed: str | None = None) -> Row:
    """``word`` gives poison for a count past the width, which a select may leave behind: 0, or the sign."""

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        kind, (x, count) = e.type(d), args
        if e.constant(count).isdigit() and int(e.constant(count)) < d.bits:
            return e.make(f"{past_signed if past_signed and d.kind in 'ix' else word} {kind} {x}, {count}")
        past = e.make(f"icmp uge {kind} {count}, {e.literal(d.bits, d)}")
        if past_signed is not None and d.kind in "ix":
            return e.make(f"{past_signed} {kind} {x}, {e.select(past, kind, e.literal(d.bits - 1, d), count)}")
        return e.select(past, kind, e.literal(0, d), e.make(f"{word} {kind} {x}, {count}"))

    return row


def _divided(want_rest: bool) -> Row:
    """Floor division or its remainder; by zero 0, INT_MIN // -1 wraps. Where a CPU would trap, divides by 1."""

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        kind, (x, y) = e.type(d), args
        none, one, flag = e.literal(0, d), e.literal(1, d), e.wide("i1")
        harmless = e.constant(y).isdigit() and e.constant(y) != "0"  # a positive constant
        if d.kind == "u":
            word = "urem" if want_rest else "udiv"
            if harmless:
                return e.make(f"{word} {kind} {x}, {y}")
            zero = e.make(f"icmp eq {kind} {y}, {none}")
            return e.select(zero, kind, none, e.make(f"{word} {kind} {x}, {e.select(zero, kind, one, y)}"))
        safe = y
        if not harmless:
            zero, minus = (e.make(f"icmp eq {kind} {y}, {bad}") for bad in (none, e.literal(-1, d)))
            safe = e.select(e.make(f"or {flag} {zero}, {minus}"), kind, one, y)
        rest = e.make(f"srem {kind} {x}, {safe}")
        other_sign = e.make(f"icmp slt {kind} {e.make(f'xor {kind} {rest}, {safe}')}, {none}")
        wrap = e.make(f"and {flag} {e.make(f'icmp ne {kind} {rest}, {none}')}, {other_sign}")
        if want_rest:  # x % 1 is 0, which is what 0 and -1 want too
            return e.make(f"add {kind} {rest}, {e.select(wrap, kind, safe, none)}")
        down = e.make(f"add {kind} {e.make(f'sdiv {kind} {x}, {safe}')}, {e.make(f'sext {flag} {wrap} to {kind}')}")
        if harmless:
            return down
        return e.select(zero, kind, none, e.select(minus, kind, _negate(e, d, args), down))

    return row


def _int_pow(e: Emitter, d: DType, args: Sequence[str]) -> str:
    """An integer power, wrapping; a negative one is 0 but for x of 1 and -1, whose powers repeat every second."""
    e.names.helpers.add("ipow")
    wide = dt.uint64 if d.kind == "u" else dt.int64
    base, count = (cast(e, a, d, wide) for a in args)
    if d.kind == "u":
        return cast(e, _ipow(e, base, count), wide, d)
    word, flag, none, one = e.type(wide), e.wide("i1"), e.literal(0, wide), e.literal(1, wide)
    below = e.make(f"icmp slt {word} {count}, {none}")
    used = e.select(below, word, e.make(f"and {word} {count}, {one}"), count)
    units = (e.make(f"icmp eq {word} {base}, {u}") for u in (one, e.literal(-1, wide)))
    unit = e.make(f"or {flag} {next(units)}, {next(units)}")
    other = e.make(f"xor {flag} {unit}, {e.literal(True, dt.bool_)}")
    gone = e.make(f"and {flag} {below}, {other}")
    return cast(e, e.select(gone, word, none, _ipow(e, base, used)), wide, d)


def _ipow(e: Emitter, base: str, count: str) -> str:
    return e.scalarised("i64", "ipow", ("i64", base), ("i64", count))


HELPERS = {
    "ipow": """define internal i64 @ipow(i64 %x, i64 %n) {
entry:
  br label %head
head:
  %r = phi i64 [ 1, %entry ], [ %r2, %body ]
  %b = phi i64 [ %x, %entry ], [ %b2, %body ]
  %e = phi i64 [ %n, %entry ], [ %e2, %body ]
  %more = icmp ne i64 %e, 0
  br i1 %more, label %body, label %end
body:
  %odd = trunc i64 %e to i1
  %rb = mul i64 %r, %b
  %r2 = select i1 %odd, i64 %rb, i64 %r
  %b2 = mul i64 %b, %b
  %e2 = lshr i64 %e, 1
  br label %head
end:
  ret i64 %r
}""",
}

# ---- floats ----------------------------------------------------------------------------------------------------------


def _is_nan(e: Emitter, d: DType, args: Sequence[str]) -> str:
    return e.make(f"fcmp uno {e.type(d)} {args[0]}, {args[0]}")


def _is_finite(e: Emitter, d: DType, args: Sequence[str]) -> str:
    return e.make(f"fcmp olt {e.type(d)} {_intrinsic('fabs')(e, d, args)}, {e.literal(float('inf'), d)}")


def _float_extreme(op: Op, compare: str, name: str) -> Row:
    """IEEE 754-2019 minimum or maximum: NaN wins, and -0 < +0. x86 has one instruction for ``a < b ? a : b``: taken
    both ways round, it gives two answers, that differ only where a NaN or two zeros have to be looked at.
    """

    def row(e: Emitter, d: DType, args: Sequence[str]) -> str:
        if not X86:
            return e.intrinsic(name, TYPES[d], *args)
        (a, b), kind, bits = args, e.type(d), e.wide(f"i{d.bits}")
        one = e.select(e.make(f"fcmp {compare} {kind} {a}, {b}"), kind, a, b)
        two = e.select(e.make(f"fcmp {compare} {kind} {b}, {a}"), kind, b, a)
        one, two = (e.make(f"bitcast {kind} {v} to {bits}") for v in (one, two))
        if op is Op.MIN:  # the bits of a NaN outlast any others, and so does a sign
            return e.make(f"bitcast {bits} {e.make(f'or {bits} {one}, {two}')} to {kind}")
        differ = e.make(f"xor {bits} {one}, {two}")
        both = e.make(f"bitcast {bits} {e.make(f'or {bits} {one}, {differ}')} to {kind}")
        return e.make(f"fsub {kind} {both}, {e.make(f'bitcast {bits} {differ} to {kind}')}")  # -0 - -0 is +0

    return row


def _float_rest(e: Emitter, d: DType, x: str, y: str) -> tuple[str, str, str]:
    """C's remainder, whether it is not 0, and whether its sign is not the divisor's."""
    kind, zero, flag = e.type(d), e.literal(0.0, d), e.wide("i1")
    rest = _libm("fmod")(e, d, (x, y))
    some = e.make(f"fcmp une {kind} {rest}, {zero}")
    differ = e.make(f"xor {flag} {e.make(f'fcmp olt {kind} {y}, {zero}')}, {e.make(f'fcmp olt {kind} {rest}, {zero}')}")
    return rest, some, e.make(f"and {flag} {some}, {differ}")


def _float_mod(e: Emitter, d: DType, args: Sequence[str]) -> str:
    """Python's: the remainder has the divisor's sign; by zero it is NaN."""
    kind, y = e.type(d), args[1]
    rest, some, wrap = _float_rest(e, d, *args)
    moved = e.select(wrap, kind, e.make(f"fadd {kind} {rest}, {y}"), rest)
    return e.select(some, kind, moved, _intrinsic("copysign")(e, d, (e.literal(0.0, d), y)))


def _float_floordiv(e: Emitter, d: DType, args: Sequence[str]) -> str:
    """Python's: exact where ``floor(x / y)`` would round up to the next integer; by zero it is x / y."""
    kind, (x, y) = e.type(d), args
    zero, one, half = (e.literal(v, d) for v in (0.0, 1.0, 0.5))
    rest, _, wrap = _float_rest(e, d, x, y)
    whole = e.make(f"fdiv {kind} {e.make(f'fsub {kind} {x}, {rest}')}, {y}")
    whole = e.select(wrap, kind, e.make(f"fsub {kind} {whole}, {one}"), whole)
    floor = _intrinsic("floor")(e, d, (whole,))
    short = e.make(f"fcmp ogt {kind} {e.make(f'fsub {kind} {whole}, {floor}')}, {half}")
    floor = e.select(short, kind, e.make(f"fadd {kind} {floor}, {one}"), floor)
    plain = e.make(f"fdiv {kind} {x}, {y}")
    signed = _intrinsic("copysign")(e, d, (zero, plain))
    floor = e.select(e.make(f"fcmp oeq {kind} {whole}, {zero}"), kind, signed, floor)
    return e.select(e.make(f"fcmp oeq {kind} {y}, {zero}"), kind, plain, floor)


_INT_MAX = _intrinsic("smax", "umax")

# fmt: off
INT: dict[Op, Row] = {  # signed, unsigned, index and bool
    Op.ADD: _instruction("add"),      Op.SUB: _instruction("sub"),      Op.MUL: _instruction("mul"),
    Op.AND: _instruction("and"),      Op.OR: _instruction("or"),        Op.XOR: _instruction("xor"),
    Op.LT: _instruction("icmp slt", "icmp ult"),                        Op.LE: _instruction("icmp sle", "icmp ule"),
    Op.EQ: _instruction("icmp eq"),   Op.NE: _instruction("icmp ne"),
    Op.MAX: _INT_MAX,                 Op.MIN: _intrinsic("smin", "umin"),
    Op.NEG: _negate,                  Op.NOT: _not,                     Op.ABS: _int_abs,
    Op.SHL: _shift("shl"),            Op.SHR: _shift("lshr", "ashr"),
    Op.IDIV: _divided(False),         Op.MOD: _divided(True),           Op.POW: _int_pow,
}
FLOAT: dict[Op, Row] = {  # float32 and float64
    Op.ADD: _instruction("fadd"),     Op.SUB: _instruction("fsub"),     Op.MUL: _instruction("fmul"),
    Op.DIV: _instruction("fdiv"),     Op.NEG: _instruction("fneg"),
    Op.LT: _instruction("fcmp olt"),  Op.LE: _instruction("fcmp ole"),
    Op.EQ: _instruction("fcmp oeq"),  Op.NE: _instruction("fcmp une"),
    Op.MAX: _float_extreme(Op.MAX, "ogt", "maximum"),
    Op.MIN: _float_extreme(Op.MIN, "olt", "minimum"),                   Op.ABS: _intrinsic("fabs"),
    Op.FLOOR: _intrinsic("floor"),    Op.CEIL: _intrinsic("ceil"),      Op.TRUNC: _intrinsic("trunc"),
    Op.ROUND: _intrinsic("roundeven"),
    Op.ISNAN: _is_nan,                Op.ISFINITE: _is_finite,
    Op.IDIV: _float_floordiv,         Op.MOD: _float_mod,
    Op.POW: _libm("pow"),             Op.ATAN2: _libm("atan2"),
    **{op: _libm(op.value) for op in MATH},
    Op.SQRT: _intrinsic("sqrt"),
}
# fmt: on
assert INT.keys() | FLOAT.keys() == UNARY | BINARY
