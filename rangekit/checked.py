"""``kernel.check``: one call on every device at hand, held against the interpreter, which runs the loops as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rangekit.backends import python
from rangekit.calls import Call, copied
from rangekit.errors import CompileError
from rangekit.ir.uop import UOp
from rangekit.lang.tensor import Array
from rangekit.lower.pipeline import Options
from rangekit.program import Program, device_named, sized

DEVICES = ("cpu",)  # those that are held against the interpreter
ULPS = {16: 4, 32: 1024, 64: 1024}  # by bits: sums may come in any order, halves are rounded once


@dataclass(frozen=True)
class Agreement:
    """How a result on a device differs from the interpreter's: by ``ulps`` at most, ``allowed`` are as many.

    An ulp is the gap between two floats next to the greatest value of the result, 1 for integers.
    """

    device: str
    result: str
    ulps: float
    allowed: float


@dataclass(frozen=True)
class Checked:
    """What ``kernel.check`` found: one agreement for each result and device."""

    name: str
    agreements: tuple[Agreement, ...]

    def __str__(self) -> str:
        rows = (f"{a.result} on {a.device}: {a.ulps:.3g} ulps from the interpreter, {a.allowed:g} allowed"
                for a in self.agreements)  # fmt: skip
        return "\n".join((f"{self.name} gives the same everywhere", *rows))


def check(name: str, call: Call, options: Options, poison: bool) -> Checked:
    """Run a call on every device; ``CompileError`` at the first element that differs beyond rounding."""
    oracle = call.trace(device_named("python"), replace(options, schedules=((None, ()),))).program
    want = _run(oracle, call, False)
    found = []
    for device in DEVICES:
        program = call.trace(device_named(device), options).program
        got = _run(program, call, poison)
        for place, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            result = str(program.lowered.outputs[place].arg.name or f"result {place}")
            ulps, where = _apart(mine, theirs)
            allowed = float(ULPS[theirs.dtype.itemsize * 8]) if theirs.dtype.kind not in "biu" else 0.0
            if ulps > allowed:
                at = tuple(map(int, np.unravel_index(int(np.argmax(where > allowed)), theirs.shape)))
                made = _iteration(oracle, call, oracle.lowered.outputs[place], at)
                element = f"{result}[{', '.join(map(str, at))}]" if at else result
                raise CompileError(
                    f"{name}: {element} is {mine[at]} on {device}, {theirs[at]} in the interpreter"
                    + (f", which makes it when {made}" if made else ""),
                    help="please report this: the schedule or the device changed what the kernel means"
                    + (", or read memory that nothing had written" if poison else ""),
                )
            found.append(Agreement(device, result, ulps, allowed))
    return Checked(name, tuple(found))


def _run(program: Program, call: Call, poison: bool) -> list[Array]:
    """The results of a call over copies of its arguments; scratch and results begin as NaN if they are poisoned."""
    garbage = device_named("python").empty  # NaN, large integers
    own = (*program.scratch, *program.results) if poison else ()
    given = {p: garbage(sized(p.shape, call.sizes), p.dtype.numpy) for p in own}
    given |= {p: a.copy() for p, a in program.captured.items()}
    arrays = [copied(a) for a in call.arrays]
    return [np.asarray(r) for r in program.run(arrays, given, show=lambda line: None, sizes=call.sizes)]


def _apart(mine: Array, theirs: Array) -> tuple[float, Any]:
    """How many ulps two results are apart, at most and in each element; infinite where one is NaN or infinite."""
    if theirs.size == 0:
        return 0.0, np.zeros(theirs.shape)
    if theirs.dtype.kind in "biu":
        apart = (mine != theirs).astype(np.float64)
        return float(apart.max()), apart
    exact = np.float64 if theirs.dtype.itemsize < 8 else np.longdouble
    a: Any = mine.astype(exact)
    b: Any = theirs.astype(exact)
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(a) & np.isfinite(b)
        greatest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        gap = np.spacing(theirs.dtype.type(greatest)).astype(exact)
        apart = np.where(finite, np.abs(a - b) / gap, np.inf)
        apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return float(apart.max()), apart


def _iteration(program: Program, call: Call, output: UOp, at: tuple[int, ...]) -> str:
    """The iteration in which the interpreter last wrote an element, as text; nothing if it is not seen."""
    memory = program.memory({p: a.copy() for p, a in program.captured.items()}, call.sizes)
    arrays = [copied(a) for a in call.arrays]
    last: Mapping[str, int] = {}
    for nest in program.lowered.plain:
        place = next((p for p in nest.params if nest.original(p) is output), None)
        trace = python.trace(nest, program.buffers(nest, arrays, memory))
        if place is None:
            continue
        index = at
        if place is not output and place.ndim == 1:
            index = (int(np.ravel_multi_index(at, sized(output.shape, call.sizes))),)
        for access in trace.accesses:
            if access.kind == "store" and access.array == place.arg.name and access.index == index:
                last = access.iteration
    return ", ".join(f"{name} = {value}" for name, value in last.items())
