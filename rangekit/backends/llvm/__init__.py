"""The host CPU through LLVM: ``render`` prints the module, ``engine`` makes it machine code, a launch calls it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from rangekit.backends import memory
from rangekit.backends.device import Array, Launch, Printer
from rangekit.backends.llvm import engine
from rangekit.backends.llvm.render import render
from rangekit.backends.native import pointer
from rangekit.ir.nest import Nest, Print, walk
from rangekit.ir.target import CPU

_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)  # releases the GIL while the kernel runs
_PRINTER = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64)


def host() -> str:
    """The CPU that code is made for, as LLVM names it."""
    return engine.host()


class CpuDevice:
    """The host CPU. Stages: "llvm" (the module as written) and "asm" (what the code generator makes of it)."""

    name = "cpu"
    stages = ("llvm", "asm")
    target = CPU

    def render(self, nest: Nest, stage: str) -> str:
        """The nest as LLVM IR, or as assembly of the host."""
        text = render(nest)
        return text if stage == "llvm" else engine.assembly(text)

    def compile(self, nest: Nest) -> Launch:
        """Machine code for the nest; ``CompileError`` if LLVM refuses it."""
        return _Launch(nest, engine.Code(render(nest)))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory from the cache of freed blocks, or fresh."""
        return memory.empty(shape, dtype)


class _Launch:
    """A call of the compiled function; keeps its code alive. Any number of threads may call it at once."""

    def __init__(self, nest: Nest, code: engine.Code) -> None:
        self._code = code
        self.address = code.address
        self._entry = _ENTRY(code.address)
        self._dtypes = {s.number: s.value.dtype.numpy for s in walk(nest.body) if isinstance(s, Print)}
        self._block = ctypes.c_void_p * (len(nest.params) + bool(self._dtypes))

    def __call__(self, buffers: Sequence[Array], fault: Array, printer: Printer | None = None) -> None:
        pointers = map(pointer, buffers)
        if not self._dtypes:
            self._entry(self._block(*pointers), pointer(fault))
            return
        failed: list[BaseException] = []
        show = _PRINTER(self._shower(printer, failed))
        self._entry(self._block(*pointers, ctypes.cast(show, ctypes.c_void_p).value), pointer(fault))
        if failed:
            raise failed[0]

    def _shower(self, printer: Printer | None, failed: list[BaseException]) -> Any:
        """What the kernel calls. An exception cannot pass through the kernel: the first is kept, the rest not shown."""

        def show(number: int, count: int, indices: Any, bits: int) -> None:
            if printer is None or failed:
                return
            try:
                dtype = self._dtypes[number]
                stored = (bits & (2**64 - 1)).to_bytes(8, "little")[: dtype.itemsize]
                printer(number, tuple(indices[:count]), np.frombuffer(stored, dtype)[0])
            except BaseException as err:
                failed.append(err)

        return show
