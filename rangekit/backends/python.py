"""The interpreter as a device: a nest run statement by statement, one iteration at a time, with access traces.

Slow and obvious: each op is a row of the IR's scalar table. It is also the oracle of memory safety: an access outside
its array that is not gated raises, and scratch is full of garbage until it is stored to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rangekit.backends.device import FAULT_WORDS, Array, Launch, Printer
from rangekit.ir import dtype as dt
from rangekit.ir import show
from rangekit.ir.dtype import DType
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, Scratch, Stmt, Stop, Store
from rangekit.ir.ops import Op
from rangekit.ir.scalar import EXACT, meaning, quiet
from rangekit.ir.target import INTERPRETER
from rangekit.ir.uop import UOp

Env = dict[UOp, Any]


@dataclass(frozen=True)
class Access:
    """One executed load or store: the array, the element, and the iteration it happened in."""

    array: str
    index: tuple[int, ...]
    kind: str  # "load" or "store"
    iteration: dict[str, int]


@dataclass
class Trace:
    """What a launch did, in order. ``ops`` counts executed operations on values, index arithmetic apart."""

    accesses: list[Access] = field(default_factory=list)
    ops: Counter[Op] = field(default_factory=Counter)

    def loads(self, array: str) -> int:
        """How often elements of the array were read."""
        return sum(a.array == array and a.kind == "load" for a in self.accesses)

    def stores(self, array: str) -> int:
        """How often elements of the array were written."""
        return sum(a.array == array and a.kind == "store" for a in self.accesses)


def trace(nest: Nest, buffers: Sequence[Array], fault: Array | None = None) -> Trace:
    """Run the nest over the buffers and record every access and operation."""
    found = Trace()
    _Run(nest, buffers, np.zeros(FAULT_WORDS, np.int64) if fault is None else fault, None, found).body(nest.body)
    return found


class PythonDevice:
    """The interpreter. It has no stage of its own: what it runs is the loop nest."""

    name = "python"
    stages: tuple[str, ...] = ()
    target = INTERPRETER

    def render(self, nest: Nest, stage: str) -> str:
        """The loop nest."""
        return show.nest_text(nest)

    def compile(self, nest: Nest) -> Launch:
        """A launch that interprets the nest."""

        def launch(buffers: Sequence[Array], fault: Array, printer: Printer | None = None) -> None:
            _Run(nest, buffers, fault, printer, None).body(nest.body)

        return launch

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory full of garbage, so that an element nobody wrote shows."""
        return _garbage(shape, dtype)


def _garbage(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    out = np.empty(shape, dtype)
    if dtype.kind == "b":
        out.fill(True)
    elif dtype.kind in "iu":
        out.fill(np.iinfo(dtype).max // 3)
    else:
        out.fill(np.nan)
    return out


class _Run:
    def __init__(self, nest: Nest, buffers: Sequence[Array], fault: Array, printer: Printer | None,
                 record: Trace | None) -> None:  # fmt: skip
        self.arrays: dict[UOp, Array] = dict(zip(nest.params, buffers, strict=True))
        self.fault, self.printer, self.record = fault, printer, record
        self.env: Env = {}
        self.loops: dict[str, int] = {}

    def body(self, body: tuple[Stmt, ...]) -> bool:
        """Each statement in turn; recursion is as deep as the loops. True where a loop may end."""
        for s in body:
            if isinstance(s, Loop):
                name = s.var.arg[-1]
                outer = self.loops.get(name)
                for i in range(self.value(s.lo), self.value(s.hi)):
                    self.env[s.var] = self.loops[name] = i
                    if self.body(s.body):
                        break
                if outer is None:
                    self.loops.pop(name, None)
                else:
                    self.loops[name] = outer
            elif isinstance(s, Let):
                self.env[s.var] = self.value(s.value)
            elif isinstance(s, Scratch):
                self.arrays[s.buffer] = _garbage(s.buffer.shape, s.buffer.dtype.numpy)
            elif isinstance(s, Store):
                value = self.value(s.value)
                at = self.element(s.buffer, s.index)
                if at is not None:
                    self.note(s.buffer, at, "store")
                    self.arrays[s.buffer][at] = value
            elif isinstance(s, Guard):
                if not self.value(s.ok) and not self.fault[0]:
                    other = s.axis if s.other is None else self.value(s.other)
                    number = -1 if s.number is None else self.value(s.number)
                    self.fault[:] = s.access + 1, other, self.value(s.value), number
            elif isinstance(s, Print) and self.value(s.when) and self.printer is not None:
                self.printer(s.number, tuple(self.value(i) for i in s.indices), self.value(s.value))
            elif isinstance(s, Stop) and self.value(s.when):
                return True
        return False

    def note(self, buffer: UOp, at: tuple[int, ...], kind: str) -> None:
        """Remember an access."""
        if self.record is not None:
            self.record.accesses.append(Access(buffer.arg.name, at, kind, dict(self.loops)))

    def element(self, buffer: UOp, index: tuple[UOp, ...]) -> tuple[int, ...] | None:
        """The element an index names, None if it is INVALID; ``AssertionError`` if it is outside the array."""
        at: list[int] = []
        for i in index:
            value = self.value(i)
            if value is None:
                return None
            at.append(int(value))
        if not all(0 <= a < size for a, size in zip(at, buffer.shape, strict=True)):
            raise AssertionError(f"unsafe access {buffer.arg.name}{at} of shape {buffer.shape} in {self.loops}")
        return tuple(at)

    def value(self, n: UOp) -> Any:
        """An expression's value now."""
        if n.op is Op.VAR:
            return self.env[n]
        if n.op is Op.CONST:
            return n.arg if n.dtype is dt.index else n.dtype.numpy.type(n.arg)
        if n.op is Op.INVALID:
            return None  # the index of no element
        if n.op is Op.INDEX:
            at = self.element(n.src[0], n.src[1:])
            if at is None:
                return n.dtype.numpy.type(0)
            self.note(n.src[0], at, "load")
            return self.arrays[n.src[0]][at]
        if n.op is Op.WHERE and (n.dtype is dt.index or n.src[2].op is Op.INVALID):
            return self.value(n.src[1] if self.value(n.src[0]) else n.src[2])
        args = [self.value(s) for s in n.src]
        kinds = tuple(s.dtype for s in n.src)
        if self.record is not None and n.dtype is not dt.index and dt.index not in kinds:
            self.record.ops[n.op] += 1
        if dt.index in kinds and n.op is not Op.WHERE:
            return _from_index(n, args)
        with quiet():
            out = meaning(n.op, dt.int64 if n.dtype is dt.index else n.dtype, kinds)(*args)
        return int(out) if n.dtype is dt.index else _scalar(out, n.dtype)


def _from_index(n: UOp, args: list[Any]) -> Any:
    """Index arithmetic, in exact Python ints."""
    if n.op is Op.CAST:
        wide = np.int64(args[0])
        with quiet():
            return _scalar(meaning(Op.CAST, n.dtype, (dt.int64,))(wide), n.dtype)
    out = EXACT[n.op](*args)
    return np.bool_(out) if n.dtype is dt.bool_ else int(out)


def _scalar(value: Any, dtype: DType) -> Any:
    """One element of that dtype."""
    return np.asarray(value).astype(dtype.numpy, copy=False)[()]
