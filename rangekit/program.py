"""A lowered program made ready to run: its nests compiled for a device, its memory found or made, its faults raised."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from rangekit.backends.device import FAULT_WORDS, Array, Device, Launch
from rangekit.errors import ArgumentError, BoundsError, DeviceError, RaceError
from rangekit.ir.dim import Dim, symbolic
from rangekit.ir.evaluate import evaluate
from rangekit.ir.nest import Nest
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, toposort
from rangekit.lang.tensor import array_of
from rangekit.lower.pipeline import Lowered, Options, lower
from rangekit.lower.sizes import dim_of
from rangekit.source import Position

ALIASES = {"llvm": "cpu"}


@cache
def device_named(name: str) -> Device:
    """The device users call ``name``; LLVM is loaded here, not before. ``DeviceError`` if there is none."""
    if ALIASES.get(name, name) == "cpu":
        from rangekit.backends.llvm import CpuDevice

        return CpuDevice()
    if name == "python":
        from rangekit.backends.python import PythonDevice

        return PythonDevice()
    raise DeviceError(f"there is no device {name!r}", help='device= "cpu" or "python"')


class Program:
    """Kernels in launch order over arguments, captured arrays and buffers of their own.

    Errors: ``BoundsError`` or ``RaceError`` when made, where the program is plainly wrong; ``BoundsError`` after a
    launch in which a guarded access was out of bounds, ``RaceError`` where a promise of unique places was broken
    (results are then undefined, memory is not).
    Captured arrays that kernels cannot address, ``odd`` ones, are copied for each run.
    """

    def __init__(
        self, sink: UOp, device: Device, positions: Mapping[UOp, Position], options: Options | None = None
    ) -> None:
        self.device = device
        self.options = replace(options or Options(), target=device.target)
        self.lowered: Lowered = lower(sink, self.options, positions)
        self.seconds: dict[str, float] = dict(self.lowered.seconds)
        start = time.perf_counter()
        self.launches: list[tuple[Nest, Launch]] = [(nest, device.compile(nest)) for nest in self.lowered.nests]
        self.seconds["compile"] = time.perf_counter() - start
        self.captured = {p: a for nest in self.lowered.nests for p in nest.params if (a := array_of(p)) is not None}
        self.odd = tuple(p for p, a in self.captured.items() if not (a.flags.c_contiguous and a.flags.aligned))
        used = dict.fromkeys(nest.original(p) for nest in self.lowered.nests for p in nest.params)
        self.dims = {p: d for p in used if (d := dim_of(p)) is not None}
        outputs = [nest.original(p) for nest in self.lowered.nests for p in nest.outputs]
        self.written: frozenset[int] = frozenset(p.arg.slot for p in outputs if p.op is Op.PARAM)
        self.overwritten: frozenset[UOp] = frozenset(p for p in outputs if p in self.captured)
        made = (p for p in used if p.op is Op.BUFFER and p not in self.captured and p not in self.dims)
        self.scratch = tuple(p for p in made if p not in self.lowered.outputs)
        self.results = tuple(
            dict.fromkeys(p for p in self.lowered.outputs if p.op is Op.BUFFER and p not in self.captured)
        )

    def run(self, arguments: Sequence[Array], given: Mapping[UOp, Array] | None = None,
            show: Callable[[str], None] = print, sizes: Mapping[UOp, int] | None = None) -> list[Array]:  # fmt: skip
        """Launch over one array a slot; returns the array of each result. ``given`` is memory to use for a result or
        in place of a captured array, ``sizes`` what the DIMs are.
        """
        memory = self.memory(given or {}, sizes or {})
        for number, (nest, launch) in enumerate(self.launches):
            fault = np.zeros(FAULT_WORDS, np.int64)
            buffers = self.buffers(nest, arguments, memory)
            if nest.prints:
                lines = _Lines(nest)
                launch(buffers, fault, lines)
                for line in lines.text():
                    show(line)
            else:
                launch(buffers, fault)
            if fault[0]:
                self.fail(number, *map(int, fault))
        for p in self.overwritten.intersection(self.odd):
            np.copyto(self.captured[p], memory[p])
        return [arguments[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in self.lowered.outputs]

    def memory(self, given: Mapping[UOp, Array], sizes: Mapping[UOp, int]) -> dict[UOp, Array]:
        """The array of every BUFFER, before the first launch."""
        memory: dict[UOp, Array] = {**self.captured, **given}
        for p in self.odd:
            if p not in given:
                memory[p] = self.captured[p].copy()
        for p in (*self.scratch, *self.results):
            if p not in memory:
                memory[p] = self.device.empty(sized(p.shape, sizes), p.dtype.numpy)
        for p, d in self.dims.items():
            memory[p] = np.array(_known(d, sizes), np.int64)
        return memory

    def buffers(self, nest: Nest, arguments: Sequence[Array], memory: Mapping[UOp, Array]) -> list[Array]:
        """What a nest is launched over."""
        found = [arguments[p.arg.slot] if p.op is Op.PARAM else memory[nest.original(p)] for p in nest.params]
        if not self.dims:
            return found
        return [b.reshape(-1) if p.ndim == 1 else b for p, b in zip(nest.params, found, strict=True)]

    def fail(self, launch: int, place: int, axis: int, value: int, number: int) -> None:
        """Raise what the words of a launch's fault say."""
        access = self.launches[launch][0].accesses[place - 1]
        if access.by == "unique":
            one, two = (_iteration(access.ranges, number) for number in sorted((axis, value)))
            raise RaceError(
                f"{access.access} = ... : {one} and {two} write the same element, in spite of unique=True",
                help='combine what meets: op="add", "max" or "min", or mend the index',
                at=access.at,
            )
        value += 2**64 if access.unsigned and value < 0 else 0
        when = _iteration(access.ranges, number) if access.ranges and number >= 0 else ""
        when = f", when {when}" if when else ""
        if access.by == "contract":
            raise BoundsError(
                f"{access.access}: the value {value} of {access.array} breaks its contract{when}",
                help="promise less, in_range(lo, hi) with wider ends, or mend the data",
                at=access.at,
            )
        elements = f"{access.size} element{'s' if access.size != 1 else ''}"
        raise BoundsError(
            f"{access.access}: index {value} of axis {axis} of {access.array}, which has {elements}{when}",
            help=f"clip the index, rk.clip(i, 0, {access.size - 1}), or guard it with rk.where; "
            "only constant negative indices wrap",
            at=access.at,
        )


def _iteration(ranges: Sequence[tuple[str | None, int]], number: int) -> str:
    """The iteration of that number, row by row: of ranges without names the number itself."""
    at = []
    for name, extent in reversed(ranges):
        number, i = divmod(number, extent)
        at.append((name, i))
    if any(name is None for name, _ in at):
        inside = ", ".join(str(i) for _, i in reversed(at))
        return f"index {inside}" if len(at) == 1 else f"index ({inside})"
    return ", ".join(f"{name} = {i}" for name, i in reversed(at))


def sized(shape: Sequence[int], sizes: Mapping[UOp, int]) -> tuple[int, ...]:
    """A shape in ints, once it is known what the DIMs in it are."""
    if not symbolic(shape):
        return tuple(shape)
    known = {d: np.asarray(n) for d, n in sizes.items()}
    out = []
    for s in shape:
        if isinstance(s, Dim):
            for d in toposort(s.node):
                if d.op is Op.DIM:
                    _known(d, sizes)
            s = int(evaluate(s.node, known))
        out.append(s)
    return tuple(out)


def _known(d: UOp, sizes: Mapping[UOp, int]) -> int:
    """What a DIM is; ``ArgumentError`` if no argument says."""
    if d not in sizes:
        raise ArgumentError(
            f"what the Dim {d.arg.name} is, no argument says",
            help=f"annotate one that has an axis of that size: def f(x: rk.f32[{d.arg.name}])",
        )
    return sizes[d]


class _Lines:
    """What ``rk.print`` sites show, gathered until the launch is over: shaped values come element by element."""

    def __init__(self, nest: Nest) -> None:
        self.sites = nest.prints
        self.seen: dict[tuple[int, tuple[int, ...]], list[tuple[tuple[int, ...], Any]]] = {}

    def __call__(self, number: int, indices: tuple[int, ...], value: Any) -> None:
        count = len(self.sites[number].ranges)
        self.seen.setdefault((number, indices[:count]), []).append((indices[count:], value))

    def text(self) -> list[str]:
        """One line a site and iteration."""
        out = []
        for (number, at), values in self.seen.items():
            site = self.sites[number]
            where = ", ".join(f"{name}={i}" for name, i in zip(site.ranges, at, strict=True))
            if site.shape:
                whole = np.zeros(site.shape, np.asarray(values[0][1]).dtype)
                for index, value in values:
                    whole[index] = value
                shown = np.array2string(whole)
            else:
                shown = str(values[0][1])
            out.append(": ".join(part for part in (" ".join(p for p in (site.label, where) if p), shown) if part))
        return out
