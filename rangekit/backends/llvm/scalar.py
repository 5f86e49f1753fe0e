"""What each op prints as: tables from op to LLVM instruction, total in every dtype.

Half types live in registers as they are stored (``half``, and ``i16`` for bfloat16); an operation widens to float,
computes, and rounds back. No symbol is called that a C library lacks: the conversions of bfloat16, and of float64 to
the half types, are written out.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import MATH, Op
from rangekit.ir.uop import UOp

TYPES = {dt.bool_: "i1", dt.float16: "half", dt.bfloat16: "i16", dt.float32: "float", dt.float64: "double"}
TYPES.update({d: f"i{d.bits}" for d in (*dt.INTS, *dt.UINTS)})
TYPES[dt.index] = "i64"


def memory_type(dtype: DType) -> str:
    """The type an element has in memory: bools are bytes."""
    return "i8" if dtype is dt.bool_ else TYPES[dtype]


_INT_BINARY = {Op.ADD: "add", Op.SUB: "sub", Op.MUL: "mul", Op.AND: "and", Op.OR: "or", Op.XOR: "xor"}
_FLOAT_BINARY = {Op.ADD: "fadd", Op.SUB: "fsub", Op.MUL: "fmul", Op.DIV: "fdiv"}
_FLOAT_COMPARE = {Op.LT: "olt", Op.LE: "ole", Op.EQ: "oeq", Op.NE: "une"}
_INTRINSIC = {
    Op.FLOOR: "floor", Op.CEIL: "ceil", Op.TRUNC: "trunc", Op.ROUND: "roundeven", Op.SQRT: "sqrt", Op.ABS: "fabs",
    Op.MAX: "maximum", Op.MIN: "minimum",
}  # fmt: skip
LIBM = {op: op.value for op in MATH - {Op.SQRT}} | {Op.POW: "pow", Op.ATAN2: "atan2"}

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


class Emitter:
    """Lines of one function, and names in it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, int] = {}
        self.current = "entry"
        self.declared: set[str] = set()
        self.helpers: set[str] = set()

    def name(self, base: str) -> str:
        """A new SSA name like ``base``."""
        base = re.sub(r"[^A-Za-z0-9._]", "_", base)
        count = self.names.get(base, 0)
        self.names[base] = count + 1
        return f"%{base}.{count}"

    def label(self, base: str) -> str:
        """A new block name."""
        return self.name(base)[1:]

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def block(self, label: str) -> None:
        """Start a block."""
        self.lines.append(f"{label}:")
        self.current = label

    def make(self, instruction: str, base: str = "v") -> str:
        """An instruction with a result; its name."""
        name = self.name(base)
        self.line(f"{name} = {instruction}")
        return name

    def declare(self, *texts: str) -> None:
        self.declared.update(texts)

    def call(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of a declared function, ``args`` as (type, value)."""
        self.declare(f"declare {result} @{function}({', '.join(t for t, _ in args)})")
        return self.make(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})")

    # ---- constants and bits ----------------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: DType) -> str:
        """A literal operand."""
        if dtype is dt.bool_:
            return "true" if value else "false"
        if not dtype.is_float:
            return str(int(value))
        if dtype is dt.float64:
            return "0x" + struct.pack(">d", value).hex().upper()
        if dtype is dt.float32:  # LLVM writes a float as the double of equal value
            return "0x" + struct.pack(">d", struct.unpack(">f", struct.pack(">f", value))[0]).hex().upper()
        bits = int.from_bytes(dtype.numpy.type(value).tobytes(), "little")
        return str(bits) if dtype is dt.bfloat16 else f"0xH{bits:04X}"

    def bits(self, value: str, dtype: DType) -> str:
        """The value's bits in an i64, as the printer gets them."""
        width = 1 if dtype is dt.bool_ else dtype.bits
        if dtype.is_float and dtype is not dt.bfloat16:
            value = self.make(f"bitcast {TYPES[dtype]} {value} to i{width}")
        return value if width == 64 else self.make(f"zext i{width} {value} to i64")

    # ---- half types ------------------------------------------------------------------------------------------------

    def widen(self, value: str, dtype: DType) -> str:
        """A half type as float, exactly."""
        if dtype is dt.float16:
            return self.make(f"fpext half {value} to float")
        wide = self.make(f"zext i16 {value} to i32")
        return self.make(f"bitcast i32 {self.make(f'shl i32 {wide}, 16')} to float")

    def narrow(self, value: str, dtype: DType) -> str:
        """A float rounded to a half type: to nearest, ties to even, NaN kept."""
        if dtype is dt.float16:
            return self.make(f"fptrunc float {value} to half")
        bits = self.make(f"bitcast float {value} to i32")
        odd = self.make(f"and i32 {self.make(f'lshr i32 {bits}, 16')}, 1")
        rounded = self.make(f"add i32 {bits}, {self.make(f'add i32 {odd}, 32767')}")
        quiet = self.make(f"or i32 {bits}, 4194304")
        nan = self.make(f"fcmp uno float {value}, {value}")
        kept = self.make(f"select i1 {nan}, i32 {quiet}, i32 {rounded}")
        return self.make(f"trunc i32 {self.make(f'lshr i32 {kept}, 16')} to i16")

    def to_odd(self, value: str) -> str:
        """A double as float, rounded to odd, so that rounding again to fewer bits is as if done once.

        Source: S. Boldo, G. Melquiond, IEEE Transactions on Computers 57(4), 2008.
        """
        near = self.make(f"fptrunc double {value} to float")
        back = self.make(f"fpext float {near} to double")
        bits = self.make(f"bitcast float {near} to i32")
        size, was = (self.call("double", "llvm.fabs.f64", ("double", v)) for v in (back, value))
        over = self.make(f"zext i1 {self.make(f'fcmp ogt double {size}, {was}')} to i32")
        odd = self.make(f"or i32 {self.make(f'sub i32 {bits}, {over}')}, 1")
        exact = self.make(f"fcmp ueq double {back}, {value}")
        return self.make(f"bitcast i32 {self.make(f'select i1 {exact}, i32 {bits}, i32 {odd}')} to float")

    # ---- ops -------------------------------------------------------------------------------------------------------

    def scalar(self, n: UOp, args: list[str]) -> str:
        """The operand that holds ``n`` of operands ``args``."""
        if n.op is Op.CAST:
            return self.cast(args[0], n.src[0].dtype, n.dtype)
        if n.op is Op.BITCAST:
            return self.bitcast(args[0], n.src[0].dtype, n.dtype)
        if n.op is Op.WHERE:
            kind = TYPES[n.dtype]
            return self.make(f"select i1 {args[0]}, {kind} {args[1]}, {kind} {args[2]}")
        return self.alu(n.op, n.src[0].dtype, args)

    def alu(self, op: Op, dtype: DType, args: list[str]) -> str:
        """An op over operands of one dtype."""
        if dtype.is_half:
            wide = self.alu(op, dt.float32, [self.widen(a, dtype) for a in args])
            return wide if op in _FLOAT_COMPARE or op in (Op.ISNAN, Op.ISFINITE) else self.narrow(wide, dtype)
        return self._float(op, dtype, args) if dtype.is_float else self._int(op, dtype, args)

    def _float(self, op: Op, dtype: DType, args: list[str]) -> str:
        kind, suffix = TYPES[dtype], f"f{dtype.bits}"
        typed = [(kind, a) for a in args]
        if op in _FLOAT_BINARY:
            return self.make(f"{_FLOAT_BINARY[op]} {kind} {args[0]}, {args[1]}")
        if op in _FLOAT_COMPARE:
            return self.make(f"fcmp {_FLOAT_COMPARE[op]} {kind} {args[0]}, {args[1]}")
        if op in _INTRINSIC:
            return self.call(kind, f"llvm.{_INTRINSIC[op]}.{suffix}", *typed)
        if op in LIBM:
            return self.call(kind, LIBM[op] + ("f" if dtype is dt.float32 else ""), *typed)
        if op is Op.NEG:
            return self.make(f"fneg {kind} {args[0]}")
        if op is Op.ISNAN:
            return self.make(f"fcmp uno {kind} {args[0]}, {args[0]}")
        if op is Op.ISFINITE:
            size = self.call(kind, f"llvm.fabs.{suffix}", typed[0])
            return self.make(f"fcmp olt {kind} {size}, {self.constant(float('inf'), dtype)}")
        return self._float_divmod(op, dtype, args[0], args[1])

    def _float_divmod(self, op: Op, dtype: DType, x: str, y: str) -> str:
        """Python's divmod: the remainder has the divisor's sign; by zero the quotient is x / y, the remainder NaN."""
        kind, f = TYPES[dtype], f"f{dtype.bits}"
        zero, one, half = (self.constant(v, dtype) for v in (0.0, 1.0, 0.5))
        rest = self.call(kind, "fmod" + ("f" if dtype is dt.float32 else ""), (kind, x), (kind, y))
        some = self.make(f"fcmp une {kind} {rest}, {zero}")
        other_sign = self.make(
            f"xor i1 {self.make(f'fcmp olt {kind} {y}, {zero}')}, {self.make(f'fcmp olt {kind} {rest}, {zero}')}"
        )
        wrap = self.make(f"and i1 {some}, {other_sign}")
        if op is Op.MOD:
            moved = self.make(f"select i1 {wrap}, {kind} {self.make(f'fadd {kind} {rest}, {y}')}, {kind} {rest}")
            signed = self.call(kind, f"llvm.copysign.{f}", (kind, zero), (kind, y))
            return self.make(f"select i1 {some}, {kind} {moved}, {kind} {signed}")
        plain = self.make(f"fdiv {kind} {x}, {y}")
        whole = self.make(f"fdiv {kind} {self.make(f'fsub {kind} {x}, {rest}')}, {y}")
        whole = self.make(f"select i1 {wrap}, {kind} {self.make(f'fsub {kind} {whole}, {one}')}, {kind} {whole}")
        floor = self.call(kind, f"llvm.floor.{f}", (kind, whole))
        short = self.make(f"fcmp ogt {kind} {self.make(f'fsub {kind} {whole}, {floor}')}, {half}")
        floor = self.make(f"select i1 {short}, {kind} {self.make(f'fadd {kind} {floor}, {one}')}, {kind} {floor}")
        nothing = self.make(f"fcmp oeq {kind} {whole}, {zero}")
        signed = self.call(kind, f"llvm.copysign.{f}", (kind, zero), (kind, plain))
        floor = self.make(f"select i1 {nothing}, {kind} {signed}, {kind} {floor}")
        by_zero = self.make(f"fcmp oeq {kind} {y}, {zero}")
        return self.make(f"select i1 {by_zero}, {kind} {plain}, {kind} {floor}")

    def _int(self, op: Op, dtype: DType, args: list[str]) -> str:
        kind, signed = TYPES[dtype], dtype.kind in "ix"
        if op in _INT_BINARY:
            return self.make(f"{_INT_BINARY[op]} {kind} {args[0]}, {args[1]}")
        if op in (Op.LT, Op.LE, Op.EQ, Op.NE):
            word = {Op.LT: "lt", Op.LE: "le", Op.EQ: "eq", Op.NE: "ne"}[op]
            sign = ("s" if signed else "u") if op in (Op.LT, Op.LE) else ""
            return self.make(f"icmp {sign}{word} {kind} {args[0]}, {args[1]}")
        if op in (Op.MAX, Op.MIN):
            function = f"llvm.{'s' if signed else 'u'}{op.value}.{kind}"
            return self.call(kind, function, (kind, args[0]), (kind, args[1]))
        if op is Op.NEG:
            return self.make(f"sub {kind} 0, {args[0]}")
        if op is Op.NOT:
            return self.make(f"xor {kind} {args[0]}, {'true' if dtype is dt.bool_ else '-1'}")
        if op is Op.ABS:
            if not signed:
                return args[0]
            self.declare(f"declare {kind} @llvm.abs.{kind}({kind}, i1)")
            return self.make(f"call {kind} @llvm.abs.{kind}({kind} {args[0]}, i1 false)")
        if op in (Op.SHL, Op.SHR):
            return self._shift(op, dtype, args[0], args[1])
        if op is Op.POW:
            return self._power(dtype, args[0], args[1])
        return self._int_divmod(op, dtype, args[0], args[1])

    def _shift(self, op: Op, dtype: DType, x: str, count: str) -> str:
        kind = TYPES[dtype]
        past = self.make(f"icmp uge {kind} {count}, {dtype.bits}")
        arithmetic = op is Op.SHR and dtype.kind in "ix"
        most = str(dtype.bits - 1) if arithmetic else "0"
        safe = self.make(f"select i1 {past}, {kind} {most}, {kind} {count}")
        word = "shl" if op is Op.SHL else "ashr" if arithmetic else "lshr"
        moved = self.make(f"{word} {kind} {x}, {safe}")
        return moved if arithmetic else self.make(f"select i1 {past}, {kind} 0, {kind} {moved}")

    def _int_divmod(self, op: Op, dtype: DType, x: str, y: str) -> str:
        """Floor division and its remainder; by zero 0, INT_MIN // -1 wraps; nothing traps."""
        kind, want_rest = TYPES[dtype], op is Op.MOD
        if dtype.kind == "u":
            zero = self.make(f"icmp eq {kind} {y}, 0")
            safe = self.make(f"select i1 {zero}, {kind} 1, {kind} {y}")
            out = self.make(f"{'urem' if want_rest else 'udiv'} {kind} {x}, {safe}")
            return self.make(f"select i1 {zero}, {kind} 0, {kind} {out}")
        plain = y.isdigit() and y != "0"  # a positive constant needs no care
        safe = y
        if not plain:
            zero = self.make(f"icmp eq {kind} {y}, 0")
            minus = self.make(f"icmp eq {kind} {y}, -1")
            safe = self.make(f"select i1 {self.make(f'or i1 {zero}, {minus}')}, {kind} 1, {kind} {y}")
        rest = self.make(f"srem {kind} {x}, {safe}")
        some = self.make(f"icmp ne {kind} {rest}, 0")
        other = self.make(f"icmp slt {kind} {self.make(f'xor {kind} {rest}, {safe}')}, 0")
        fix = self.make(f"and i1 {some}, {other}")
        if want_rest:
            moved = self.make(f"select i1 {fix}, {kind} {safe}, {kind} 0")
            return self.make(f"add {kind} {rest}, {moved}")  # x % 1 is 0, which is what 0 and -1 want too
        quotient = self.make(f"sdiv {kind} {x}, {safe}")
        if kind == "i1":
            return quotient
        down = self.make(f"add {kind} {quotient}, {self.make(f'sext i1 {fix} to {kind}')}")
        if plain:
            return down
        negated = self.make(f"sub {kind} 0, {x}")
        out = self.make(f"select i1 {minus}, {kind} {negated}, {kind} {down}")
        return self.make(f"select i1 {zero}, {kind} 0, {kind} {out}")

    def _power(self, dtype: DType, x: str, n: str) -> str:
        """An integer power, wrapping; a negative one is 0 but for x of 1 and -1."""
        self.helpers.add("ipow")
        kind, wide = TYPES[dtype], "sext" if dtype.kind == "i" else "zext"
        base, count = ((v if kind == "i64" else self.make(f"{wide} {kind} {v} to i64")) for v in (x, n))
        if dtype.kind != "i":
            out = self.make(f"call i64 @ipow(i64 {base}, i64 {count})")
            return out if kind == "i64" else self.make(f"trunc i64 {out} to {kind}")
        below = self.make(f"icmp slt i64 {count}, 0")
        parity = self.make(f"and i64 {count}, 1")
        used = self.make(f"select i1 {below}, i64 {parity}, i64 {count}")
        out = self.make(f"call i64 @ipow(i64 {base}, i64 {used})")
        one = self.make(f"icmp ult i64 {self.make(f'add i64 {base}, 1')}, 3")
        zero = self.make(f"icmp eq i64 {base}, 0")
        unit = self.make(f"and i1 {one}, {self.make(f'xor i1 {zero}, true')}")
        gone = self.make(f"and i1 {below}, {self.make(f'xor i1 {unit}, true')}")
        out = self.make(f"select i1 {gone}, i64 0, i64 {out}")
        return out if kind == "i64" else self.make(f"trunc i64 {out} to {kind}")

    # ---- conversions -----------------------------------------------------------------------------------------------

    def cast(self, x: str, src: DType, dst: DType) -> str:
        """A value in another dtype, as the scalar table of the IR defines it."""
        a, b = TYPES[src], TYPES[dst]
        if src is dst or (a == b and not src.is_float and not dst.is_float and src is not dt.bfloat16):
            return x
        if dst is dt.bool_:
            if src.is_half:
                x, a, src = self.widen(x, src), "float", dt.float32
            return self.make(f"fcmp une {a} {x}, 0.0" if src.is_float else f"icmp ne {a} {x}, 0")
        if src.is_half:
            x, src = self.widen(x, src), dt.float32
            return self.cast(x, src, dst)
        if dst.is_half:
            if src is dt.float64:
                return self.narrow(self.to_odd(x), dst)
            return self.narrow(self.cast(x, src, dt.float32), dst)
        if src.is_float and dst.is_float:
            return self.make(f"{'fpext' if dst.bits > src.bits else 'fptrunc'} {a} {x} to {b}")
        if src.is_float:
            sign = "u" if dst.kind == "u" else "s"
            return self.call(b, f"llvm.fpto{sign}i.sat.{b}.f{src.bits}", (a, x))
        if dst.is_float:
            return self.make(f"{'sitofp' if src.kind in 'ix' else 'uitofp'} {a} {x} to {b}")
        if int(a[1:]) > int(b[1:]):
            return self.make(f"trunc {a} {x} to {b}")
        return self.make(f"{'sext' if src.kind in 'ix' else 'zext'} {a} {x} to {b}")

    def bitcast(self, x: str, src: DType, dst: DType) -> str:
        """The same bits in another dtype of the same width."""
        a, b = TYPES[src], TYPES[dst]
        if dst is dt.bool_:
            return x if a == b else self.make(f"icmp ne {a} {x}, 0")
        if src is dt.bool_:
            return self.make(f"zext i1 {x} to {b}")
        return x if a == b else self.make(f"bitcast {a} {x} to {b}")
