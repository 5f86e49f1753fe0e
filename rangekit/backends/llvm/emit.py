"""Text of one LLVM function: lines, names, constants, declarations. What the lines say is up to the callers.

``lanes`` is the number of elements in the values being computed: 1 for plain ones, more for vectors. The rows of
``scalar`` and ``convert`` ask for types and constants through the emitter and so print both.
"""

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
_SUFFIX = {"half": "f16", "float": "f32", "double": "f64"}
_SPLAT = re.compile(r"splat \(\S+ (\S+)\)$")


def memory_type(dtype: DType) -> str:
    """The type an element has in memory: bools are bytes."""
    return "i8" if dtype is dt.bool_ else TYPES[dtype]


class Names:
    """What the functions of one module share: names, declarations, helpers."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.declared: set[str] = set()
        self.helpers: set[str] = set()
        self.outlined: dict[Any, str] = {}  # functions of this module, by what they compute

    def name(self, base: str) -> str:
        """A new name like ``base``, without its sigil."""
        base = re.sub(r"[^A-Za-z0-9._]", "_", base)
        count = self.taken.get(base, 0)
        self.taken[base] = count + 1
        return f"{base}.{count}"


Lines = list[Any]  # of text, and of blocks that are lists of lines themselves


class Emitter:
    """Lines of one function. ``lines`` is where the next one goes, ``lanes`` how wide its values are."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.lines: Lines = []
        self.lanes = 1

    # ---- types and constants of the width in force -------------------------------------------------------------------

    def wide(self, kind: str) -> str:
        """An LLVM type of one element, as that of the values being computed."""
        return kind if self.lanes == 1 else f"<{self.lanes} x {kind}>"

    def type(self, dtype: DType) -> str:
        """The LLVM type of a value."""
        return self.wide(TYPES[dtype])

    def splat(self, value: object, kind: str) -> str:
        """A constant, in every lane."""
        return str(value) if self.lanes == 1 else f"splat ({kind} {value})"

    def literal(self, value: Any, dtype: DType) -> str:
        """A constant as an operand."""
        return self.splat(literal(value, dtype), TYPES[dtype])

    def constant(self, operand: str) -> str:
        """The element of a constant operand, as text; the operand itself if it is none."""
        found = _SPLAT.match(operand)
        return found[1] if found else operand

    # ---- lines -------------------------------------------------------------------------------------------------------

    def name(self, base: str) -> str:
        """A new SSA name like ``base``."""
        return "%" + self.names.name(base)

    def label(self, base: str) -> str:
        """A new block name."""
        return self.names.name(base)

    def line(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append("  " + text)

    def make(self, instruction: str, base: str = "v") -> str:
        """An instruction with a result; its name."""
        name = self.name(base)
        self.lines.append(f"  {name} = {instruction}")
        return name

    def select(self, condition: str, kind: str, yes: str, no: str) -> str:
        """One of two values of the LLVM type ``kind`` (already as wide as the values)."""
        return self.make(f"select {self.wide('i1')} {condition}, {kind} {yes}, {kind} {no}")

    def call(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of a declared function, ``args`` as (type, value)."""
        self.names.declared.add(f"declare {result} @{function}({', '.join(t for t, _ in args)})")
        return self.make(f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})")

    def intrinsic(self, name: str, kind: str, *args: str) -> str:
        """A call of LLVM's own function of operands and result of one element type, which is part of its name."""
        suffix = ("" if self.lanes == 1 else f"v{self.lanes}") + _SUFFIX.get(kind, kind)
        wide = self.wide(kind)
        return self.call(wide, f"llvm.{name}.{suffix}", *((wide, a) for a in args))

    def scalarised(self, result: str, function: str, *args: tuple[str, str]) -> str:
        """A call of a function that has no vector form: lane by lane, ``result`` and the types of one element."""
        if self.lanes == 1:
            return self.call(result, function, *args)
        count, whole = self.lanes, "poison"
        for lane in range(count):
            one = [(t, self.make(f"extractelement <{count} x {t}> {v}, i32 {lane}")) for t, v in args]
            self.lanes = 1
            answer = self.call(result, function, *one)
            self.lanes = count
            whole = self.make(f"insertelement <{count} x {result}> {whole}, {result} {answer}, i32 {lane}")
        return whole


def literal(value: Any, dtype: DType) -> str:
    """A constant as the operand of a plain value."""
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
