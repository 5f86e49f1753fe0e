"""Calls without Python: which signatures the native entry can serve, and the kernels' records of them.

A signature gets a record once it was called a few times, so that a kernel that runs once compiles nothing for it. What
one record cannot say (pytrees, Tensors, prints, results that are captured arrays) stays with ``calls``.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from rangekit import arguments
from rangekit.backends import native
from rangekit.backends.memory import SMALL
from rangekit.calls import Call
from rangekit.ir.nest import Loop, Nest, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp
from rangekit.lang import trace
from rangekit.lang.tensor import array_of
from rangekit.lower.cost import counts, touched_bytes
from rangekit.program import Program
from rangekit.traced import Traced

AFTER = 2  # calls through Python before a signature gets a record
CHAIN = 8  # records that a kernel's entry looks through; the one made last is first
LONG = 100_000  # operations and bytes from which other threads may run during a launch
_PLAIN = frozenset({np.ndarray, int, float})


class Records:
    """The records of one kernel's signatures, in the order in which its entry tries them."""

    def __init__(self) -> None:
        self._chain: dict[Traced, Any] = {}
        self._made: dict[Traced, Any] = {}  # for good: a launch in another thread may be reading one

    @property
    def hits(self) -> int:
        """How many calls ran no Python."""
        return sum(record.hits for record in self._made.values())

    def add(self, kernel: Any, made: Traced, call: Call, given: int) -> None:
        """Serve the signature of a call with so many positional arguments natively from its second time on.

        The kernel's lock must be held.
        """
        if any(type(v) not in _PLAIN for v in call.values):
            return
        made.calls += 1
        if made.calls < AFTER:
            return
        made.settled = True
        record = self._made.get(made) or _record(made, call, given)
        if record is None or made in self._chain:
            return
        from rangekit.backends.llvm.call import entry

        self._made[made] = record
        for dropped in [*self._chain][CHAIN - 1 :]:
            dropped.settled, dropped.calls = False, 0
        self._chain = {made: record, **dict([*self._chain.items()][: CHAIN - 1])}
        following = None
        for one in reversed(self._chain.values()):
            one.follow(following)
            following = one
        native.set_entry(kernel, entry(ctypes.addressof(trace.RUNNING)), record.address)


def _record(made: Traced, call: Call, given: int) -> Any:
    """A record for the signature of a call with so many positional arguments, None where it cannot be served."""
    from rangekit.backends.llvm import call as entry

    program, form = made.program, call.form
    codes = [int(getattr(launch, "address", 0)) for _, launch in program.launches]
    bare = made.tree is None
    if (
        not native.SUPPORTED
        or form.plain is None
        or 0 in codes
        or program.overwritten
        or program.dims
        or program.odd
        or any(nest.prints for nest, _ in program.launches)
        or not (bare or (type(made.tree) is tuple and all(leaf is None for leaf in made.tree)))
        or len(set(made.places)) != len(made.places)
        or not made.places
    ):
        return None
    values: list[entry.Value] = []
    places: dict[int, int] = {}  # the place of each slot among the positional arguments
    for number, (name, value) in enumerate(call.bound.items()):
        if arguments.structure(value) is not None:
            return None
        if name in form.static or not arguments.is_runtime(value):
            if number < given:
                values.append(entry.Value(entry.SAME, constant=value))
            continue
        slot = call.slots[len(places)]
        if number >= given:
            return None
        kind = {"array": entry.ARRAY, "int": entry.INT, "float": entry.FLOAT}[slot.kind]
        steps = None if slot.strides is None else tuple(s * slot.dtype.itemsize for s in slot.strides)
        written = len(places) in program.written
        if written and kind != entry.ARRAY:
            return None
        places[len(places)] = len(values)
        values.append(entry.Value(kind, slot.dtype.numpy, slot.shape, steps, written))
    outputs = [program.lowered.outputs[p] for p in made.places]
    if any(o.op is not Op.PARAM and array_of(o) is not None for o in outputs):
        return None
    buffers = [*(o for o in outputs if o.op is Op.BUFFER), *program.scratch]
    buffers += [r for r in program.results if r not in buffers]

    def place(p: UOp) -> Any:
        if p.op is Op.PARAM:
            return places[p.arg.slot]
        return program.captured[p] if p in program.captured else len(values) + buffers.index(p)

    plan = entry.Plan(
        tuple(values),
        tuple(_made(entry, program, b) for b in buffers),
        tuple(
            entry.Start(code, tuple(place(p) for p in nest.params))
            for code, (nest, _) in zip(codes, program.launches, strict=True)
        ),
        tuple(place(o) for o in outputs),
        bare,
        program.fail,
        long=any(_is_long(nest) for nest, _ in program.launches),
        keep=(program,),
    )
    return entry.Record(plan) if plan.fits else None


def _made(entry: Any, program: Program, b: UOp) -> Any:
    dtype = b.dtype.numpy
    large = dtype.itemsize * functools.reduce(int.__mul__, b.shape, 1) >= SMALL
    make = functools.partial(program.device.empty, b.shape, dtype) if large else None
    return entry.Value(entry.ARRAY, dtype, b.shape, written=True, make=make)


def _is_long(nest: Nest) -> bool:
    """Whether a launch may take longer than handing the interpreter to another thread does."""
    loops = (s for s in walk(nest.body) if isinstance(s, Loop))
    if any(_loads(bound) for loop in loops for bound in (loop.lo, loop.hi)):
        return True
    return counts(nest).flops + touched_bytes(nest) > LONG


def _loads(n: UOp) -> bool:
    return n.op is Op.INDEX or any(_loads(s) for s in n.src)
