"""The host CPU through LLVM: ``render`` prints the module, ``engine`` makes it machine code, a launch calls it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from rangekit.backends.device import Array, Launch, Printer
from rangekit.backends.llvm import engine
from rangekit.backends.llvm.render import render
from rangekit.ir.nest import Nest, Print, walk

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)  # releases the GIL while the kernel runs
_PRINTER = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64)


def host() -> str:
    """The CPU that code is made for, as LLVM names it."""
    return engine.host()


class CpuDevice:
    """The host CPU. Stages: "llvm" (the module as written) and "asm" (what the code generator makes of it)."""

    name = "cpu"
    stages = ("llvm", "asm")

    def render(self, nest: Nest, stage: str) -> str:
        """The nest as LLVM IR, or as assembly of the host."""
        text = render(nest)
        return text if stage == "llvm" else engine.assembly(text)

    def compile(self, nest: Nest) -> Launch:
        """Machine code for the nest; ``CompileError`` if LLVM refuses it."""
        return _Launch(nest, engine.Code(render(nest)))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Fresh memory."""
        return np.empty(shape, dtype)


class _Launch:
    """A call of the compiled function; keeps its code alive."""

    def __init__(self, nest: Nest, code: engine.Code) -> None:
        self._code = code
        self._entry = _ENTRY(code.address)
        self._block = ctypes.c_void_p * (len(nest.params) + 1)
        self._dtypes = {s.number: s.value.dtype.numpy for s in walk(nest.body) if isinstance(s, Print)}

    def __call__(self, buffers: Sequence[Array], fault: Array, printer: Printer | None = None) -> None:
        shown = _PRINTER(self._shower(printer)) if printer is not None else None
        last = ctypes.cast(shown, ctypes.c_void_p).value if shown is not None else None
        block = self._block(*(b.ctypes.data for b in buffers), last)
        self._entry(ctypes.addressof(block), fault.ctypes.data)

    def _shower(self, printer: Printer) -> Any:
        def show(number: int, count: int, indices: Any, bits: int) -> None:
            dtype = self._dtypes[number]
            raw = (bits & (2**64 - 1)).to_bytes(8, "little")[: dtype.itemsize]
            printer(number, tuple(indices[:count]), np.frombuffer(raw, dtype)[0])

        return show
