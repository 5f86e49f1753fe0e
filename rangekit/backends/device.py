"""What a backend is: facts about a target, a pure ``render``, a ``compile``, and memory.

``render`` is testable without the device; ``compile`` returns a ``Launch``, the one function that touches it. On the
devices here memory is NumPy arrays: a launch takes one array per ``nest.params`` entry, in that order, with exactly
the shape and strides that the PARAM or BUFFER says (a PARAM without strides: C order).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from rangekit.ir.nest import Nest
from rangekit.ir.target import Target

Array = np.ndarray[Any, np.dtype[Any]]
Printer = Callable[[int, tuple[int, ...], Any], None]  # (Print.number, the indices, the value)

FAULT_WORDS = 4  # (access + 1, axis or other, value, iteration): what a Guard that fails writes; all 0 while none did


class Launch(Protocol):
    """Runs a compiled nest over ``buffers``; complete when it returns."""

    def __call__(self, buffers: Sequence[Array], fault: Array, printer: Printer | None = None) -> None: ...


class Device(Protocol):
    """One place where kernels run."""

    @property
    def name(self) -> str:
        """The name users write: "cpu", "python"."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """The names ``render`` takes after the loop nest: ("llvm", "asm") for the CPU."""
        ...

    @property
    def target(self) -> Target:
        """What the compiler may know of it."""
        ...

    def render(self, nest: Nest, stage: str) -> str:
        """The nest in one of the device's own languages."""
        ...

    def compile(self, nest: Nest) -> Launch:
        """The nest, ready to run; ``CompileError`` where the device cannot."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory for a result or a kept buffer; contents undefined."""
        ...
