"""Text of one LLVM function: lines, names, constants, declarations. What the lines say is up to the callers."""

from __future__ import annotations

import re
import struct
from typing import Any

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType

TYPES = {dt.bool_: "i1", dt.float16: "half", dt.bfloat16: "i16", dt.float32: "float", dt.float64: "double"}
TYPES.update({d: f"i{d.bits}" for d in (*dt.INTS, *dt.UINTS)})
TYPES[dt.index] = "i64"
assert TYPES.keys() >= set(dt.STORED)


def memory_type(dtype: DType) -> str:
    """The type an element has in memory: bools are bytes."""
    return "i8" if dtype is dt.bool_ else TYPES[dtype]


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
        """An instruction without a result."""
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

    def select(self, condition: str, kind: str, yes: str, no: str) -> str:
        """One of two values of the LLVM type ``kind``."""
        return self.make(f"select i1 {condition}, {kind} {yes}, {kind} {no}")

    def declare(self, *texts: str) -> None:
        """Functions of elsewhere that this one calls."""
        self.declared.update(texts)

    def call(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of a declared function, ``args`` as (type, value)."""
        self.declare(f"declare {result} @{function}({', '.join(t for t, _ in args)})")
        return self.make(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})")


def literal(value: Any, dtype: DType) -> str:
    """A constant as an operand."""
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
