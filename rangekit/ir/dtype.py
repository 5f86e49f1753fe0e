"""Element types and how they combine.

A :class:`DType` is a singleton: identity is equality. ``index`` is the type of loop indices and sizes: an
unbounded integer until a pass proves a machine width sufficient; it is never stored. Promotion follows the
Python array API standard; where that is silent, NumPy; an integer that meets a float takes the float's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """An annotation such as ``rk.f32["M K"]``: an element type and the expected size (or name) of each axis."""

    dtype: DType
    dims: tuple[int | str, ...]  # a Dim is one of the ints

    def __repr__(self) -> str:
        return f"{self.dtype}[{', '.join(map(repr, self.dims))}]"


@dataclass(frozen=True, eq=False)
class DType:
    """One element type: its array API name, its kind and its width in bits.

    ``kind`` is one of ``"b"`` bool, ``"i"`` signed, ``"u"`` unsigned, ``"f"`` float, ``"x"`` index, ``"v"`` none.
    """

    name: str
    kind: str
    bits: int

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return (dtype_named, (self.name,))

    def __getitem__(self, dims: int | str | tuple[int | str, ...]) -> ArraySpec:
        """``rk.f32["M K"]`` or ``rk.f32["B", 64]``: this type with the named or fixed sizes of an array."""
        parts = dims if isinstance(dims, tuple) else (dims,)
        flat: list[int | str] = []
        for part in parts:
            flat.extend(part.split() if isinstance(part, str) else [part])
        return ArraySpec(self, tuple(int(p) if isinstance(p, str) and p.isdigit() else p for p in flat))

    @property
    def itemsize(self) -> int:
        """Bytes of one stored element."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        """Signed, unsigned or index: everything ``//`` and ``<<`` work on."""
        return self.kind in "iux"

    @property
    def is_half(self) -> bool:
        """float16 or bfloat16: computed in float32, rounded to their own type."""
        return self.kind == "f" and self.bits == 16

    @property
    def min(self) -> int | float:
        """The least value: -inf for floats; of an index, the least that int64 holds."""
        if self.kind == "f":
            return float("-inf")
        return -(1 << (self.bits - 1)) if self.kind in "ix" else 0

    @property
    def max(self) -> int | float:
        """The greatest value: inf for floats."""
        if self.kind == "f":
            return float("inf")
        if self.kind == "b":
            return 1
        return (1 << (self.bits - (self.kind in "ix"))) - 1

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype of stored elements (``index`` is stored as int64)."""
        return _numpy_dtype(self)


bool_ = DType("bool", "b", 8)
int8, int16, int32, int64 = (DType(f"int{n}", "i", n) for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DType(f"uint{n}", "u", n) for n in (8, 16, 32, 64))
float16, float32, float64 = (DType(f"float{n}", "f", n) for n in (16, 32, 64))
bfloat16 = DType("bfloat16", "f", 16)
index = DType("index", "x", 64)
void = DType("void", "v", 0)

INTS = (int8, int16, int32, int64)
UINTS = (uint8, uint16, uint32, uint64)
FLOATS = (float16, bfloat16, float32, float64)
STORED = (bool_, *INTS, *UINTS, *FLOATS)
_BY_NAME = {d.name: d for d in (*STORED, index, void)}


def dtype_named(name: str) -> DType:
    """The dtype of that array API name; ``KeyError`` if there is none."""
    return _BY_NAME[name]


@cache
def _numpy_dtype(dtype: DType) -> np.dtype[Any]:
    if dtype is bfloat16:
        import ml_dtypes  # only programs that use bfloat16 pay for it

        half: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return half
    found: np.dtype[Any] = np.dtype("int64" if dtype is index else dtype.name)
    return found


def from_numpy(dtype: np.dtype[Any]) -> DType | None:
    """The dtype that stores what a NumPy dtype stores (native byte order), or None where there is none."""
    return _BY_NAME.get(dtype.name) if dtype.isnative and dtype.name not in ("index", "void") else None


@cache
def promote(a: DType, b: DType) -> DType | None:
    """The type in which values of ``a`` and ``b`` meet; None where the table has no answer.

    Same kind: the wider. float16 with bfloat16: float32. Signed with unsigned: the signed type that holds both
    (int64 with uint64: float64, as NumPy). A float with an integer or bool: the float. ``index`` is weak: it
    takes the other's type.

    >>> promote(int8, uint8), promote(int64, float16), promote(index, uint8)
    (int16, float16, uint8)
    """
    if a is b:
        return a
    if index in (a, b):
        other = b if a is index else a
        return index if other is bool_ else other if other.kind in "iuf" else None
    if void in (a, b):
        return None
    if bool_ in (a, b):
        return b if a is bool_ else a
    if a.kind == b.kind:
        if a.bits == b.bits:
            return float32  # the two half types
        return a if a.bits > b.bits else b
    if "f" in (a.kind, b.kind):
        return a if a.kind == "f" else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if unsigned.bits == 64:
        return float64
    return next(d for d in INTS if d.bits >= max(signed.bits, unsigned.bits * 2))


def accumulator(dtype: DType) -> DType:
    """The type in which a sum or product of ``dtype`` is returned: narrow integers widen to 64 bits."""
    if dtype.kind in "bix":
        return int64
    return uint64 if dtype.kind == "u" else dtype
