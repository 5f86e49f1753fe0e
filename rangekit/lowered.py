"""What ``kernel.lower(...)`` returns: the program at every stage, and what each kernel does and why it is safe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rangekit.errors import RangekitError
from rangekit.ir import show
from rangekit.ir.nest import Access, Loop, Nest, Scratch, walk
from rangekit.ir.text import dump
from rangekit.ir.uop import UOp
from rangekit.lower.cost import Counts, counts, touched_bytes
from rangekit.lower.schedule import Schedule
from rangekit.lower.sizes import dim_of
from rangekit.program import Program


@dataclass(frozen=True)
class BufferInfo:
    """One array a kernel uses. ``size`` in elements; ``memory`` is "global", "local" or "register".

    Sizes known only at the call are Dims in ``shape``; ``size`` and ``nbytes`` are then the greatest there may be.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    nbytes: int
    memory: str
    copies: int = 1


@dataclass(frozen=True)
class KernelInfo:
    """One launch: its nest and what is known of it. ``written`` is the nest before its schedule."""

    nest: Nest
    source: str
    written: Nest

    @property
    def name(self) -> str:
        return self.nest.name

    @property
    def counts(self) -> Counts:
        """Operations, loads and stores of one launch, as written: a schedule does not change what is computed."""
        return counts(self.written)

    @property
    def schedule(self) -> Schedule:
        """The steps that gave the nest its form: those asked for, or those the cost model chose."""
        return Schedule(self.nest.schedule)

    @property
    def flops(self) -> int:
        """Floating-point operations of one launch; a math function counts as one."""
        return self.counts.flops

    @property
    def bytes(self) -> int:
        """Bytes of global memory one launch touches, each array once."""
        return touched_bytes(self.nest)

    @property
    def buffers(self) -> tuple[BufferInfo, ...]:
        """Inputs, results and scratch."""
        made = [s.buffer for s in walk(self.nest.body) if isinstance(s, Scratch)]
        return tuple(_info(b, self.nest.original(b).shape) for b in (*self.nest.params, *made) if dim_of(b) is None)

    @property
    def proofs(self) -> tuple[Access, ...]:
        """Each access, and how it is known to be in bounds."""
        return self.nest.accesses

    def __str__(self) -> str:
        return show.nest_text(self.nest)


def _info(b: UOp, shape: tuple[int, ...]) -> BufferInfo:
    size = math.prod(b.shape)
    memory = getattr(b.arg, "memory", "global")
    return BufferInfo(b.arg.name, shape, b.dtype.name, size, size * b.dtype.itemsize, memory)


class Lowering:
    """A lowered program. ``print`` it for its loop nests; in a notebook it shows the same, coloured."""

    def __init__(self, name: str, program: Program, trace_seconds: float) -> None:
        self.name, self._program, self._trace_seconds = name, program, trace_seconds

    @property
    def stages(self) -> tuple[str, ...]:
        """The names ``as_text`` takes, in order."""
        return (*self._program.lowered.stages, "nest", *self._program.device.stages)

    @property
    def kernels(self) -> tuple[KernelInfo, ...]:
        """Each launch, in order."""
        device = self._program.device
        last = device.stages[0] if device.stages else None
        return tuple(
            KernelInfo(n, device.render(n, last) if last else show.nest_text(n), plain)
            for n, plain in zip(self._program.lowered.nests, self._program.lowered.plain, strict=True)
        )

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds that tracing, each pass and compiling took."""
        return {"trace": self._trace_seconds, **self._program.seconds}

    @property
    def schedule_names(self) -> tuple[str, ...]:
        """The names of the loops, in the order they are printed."""
        loops = (s for n in self._program.lowered.nests for s in walk(n.body) if isinstance(s, Loop))
        return tuple(dict.fromkeys(s.var.arg[-1] for s in loops))

    def as_text(self, stage: str | None = None) -> str:
        """The program after a pass, in the device's languages, or (default) as loop nests.

        Errors: ``RangekitError`` for a stage that is not in ``stages``.
        """
        if stage is None or stage == "nest":
            return "\n".join(show.nest_text(n) for n in self._program.lowered.nests)
        if stage in self._program.lowered.stages:
            return dump(self._program.lowered.stages[stage])
        if stage in self._program.device.stages:
            return "\n".join(self._program.device.render(n, stage) for n in self._program.lowered.nests)
        raise RangekitError(f"there is no stage {stage!r}", help="one of " + ", ".join(self.stages))

    def explain(self) -> str:
        """Every buffer the compiler decided on, and why it is kept or gone."""
        reasons = self._program.lowered.reasons
        return "\n".join(reasons) if reasons else "no buffer but the results was asked for"

    def __str__(self) -> str:
        return self.as_text()

    def _repr_html_(self) -> str:
        return "".join(show.nest_html(n) for n in self._program.lowered.nests)

    def __repr__(self) -> str:
        return f"<lowered {self.name}: {len(self._program.lowered.nests)} kernels>"
