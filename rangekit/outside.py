"""Tensors outside kernels: computed when their values are asked for, equal graphs by one program."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from rangekit import arguments
from rangekit.errors import RangeError
from rangekit.ir.ops import Op
from rangekit.ir.text import dump
from rangekit.ir.uop import ParamId, UOp, by_uid, toposort
from rangekit.lang import trace
from rangekit.lang.tensor import Array, Tensor, array_of, home_of, readers, settle
from rangekit.lower.pipeline import Options, wanted
from rangekit.program import Program, device_named
from rangekit.traced import result

_programs: OrderedDict[tuple[Options, str], Program] = OrderedDict()
_programs_lock = threading.Lock()
MAX_PROGRAMS = 256


def realize(x: Tensor) -> None:
    """Compute a lazy Tensor: its concrete arrays become arguments, so equal graphs share one program."""
    if x.node.ranges:
        names = ", ".join(r.arg.name or "_" for r in by_uid(x.node.ranges))
        raise RangeError(f"{names} is open in this value", help=f"close it: rk.bufferize(v, {names})")
    results: list[UOp] = []
    result(x, trace.positions_outside(), results)
    sink = wanted(tuple(results), ())
    memo: dict[UOp, UOp] = {}
    arrays: list[Array] = []
    positions = {}
    for n in toposort(sink):
        array = array_of(n) if n.op is Op.BUFFER else None
        if array is not None:
            slot, plain = arguments.array_slot("data", array)
            memo[n] = UOp(
                Op.PARAM, slot.dtype, (), ParamId(len(arrays), f"data{len(arrays)}", slot.shape, slot.strides)
            )
            arrays.append(plain)
        else:
            src = tuple(memo[s] for s in n.src)
            memo[n] = n if src == n.src else n.replace(src=src)
        at = trace.positions_outside().get(n)
        if at is not None:
            positions[memo[n]] = at
    options = Options()
    key = (options, dump(memo[sink], canonical=True))
    with _programs_lock:
        program = _programs.get(key)
        if program is not None:
            _programs.move_to_end(key)
    if program is None:
        program = Program(memo[sink], device_named("cpu"), positions, options)
        with _programs_lock:
            _programs[key] = program
            while len(_programs) > MAX_PROGRAMS:
                _programs.popitem(last=False)
    (array,) = program.run(arrays)
    home = home_of(x)
    if home is not None:  # a write: whoever still reads the old contents is computed first
        for reader in readers(home):
            if reader is not x and home_of(reader) is not home:
                reader.realize()
        np.copyto(home, array)
        array = home
    settle(x, array)
