"""One run of a kernel's function over Tensors: what it returned and did, as a program."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rangekit import arguments
from rangekit.arguments import Slot
from rangekit.backends.device import Device
from rangekit.errors import DtypeError, RangeError, RangekitError
from rangekit.ir.ops import Op
from rangekit.ir.uop import ParamId, UOp, by_uid
from rangekit.lang import trace
from rangekit.lang.storage import materialized
from rangekit.lang.tensor import Tensor, lift, stored
from rangekit.lower.pipeline import Options, wanted
from rangekit.lower.states import enclosed
from rangekit.program import Program
from rangekit.source import Position


class Traced:
    """A compiled signature: the program, and how its results go back to the caller.

    ``tree`` has the form of what the function returned; ``places`` says which output of the program each leaf is.
    """

    def __init__(self, program: Program, tree: Any, places: list[int], trace_seconds: float) -> None:
        self.program, self.tree, self.places, self.trace_seconds = program, tree, places, trace_seconds
        self.calls, self.settled = 0, False  # through Python; whether ``direct`` has decided on it


def traced(
    call: Callable[[Callable[[], Tensor]], Any],
    slots: Sequence[Slot],
    names: Sequence[str],
    device: Device,
    options: Options,
) -> Traced:
    """Run the function over a Tensor for each slot and compile what it built.

    ``call`` runs it, given what hands out those Tensors in order.
    """
    start = time.perf_counter()
    params = [
        UOp(Op.PARAM, s.dtype, (), ParamId(n, name, s.shape, s.strides))
        for n, (s, name) in enumerate(zip(slots, _unique(names), strict=True))
    ]
    given = iter(
        Tensor(p, None if s.kind == "array" else s.kind)  # type: ignore[arg-type]
        for p, s in zip(params, slots, strict=True)
    )
    with trace.tracing() as running:
        answer = call(lambda: next(given))
        results: list[UOp] = []
        places = [result(leaf, running.positions, results) for _, leaf in arguments.leaves(answer, "")]
    sink = wanted(tuple(results), _effects(running.effects, results))
    seconds = time.perf_counter() - start
    program = Program(sink, device, {**trace.positions_outside(), **running.positions}, options)
    return Traced(program, arguments.rebuilt(answer, lambda leaf: None), places, seconds)


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        name = "".join(c if c.isalnum() else "_" for c in name)
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out


def result(leaf: Any, positions: Mapping[UOp, Position], results: list[UOp]) -> int:
    """The place among ``results`` of one leaf of what the function returned; its storage is added there."""
    if not isinstance(leaf, Tensor):
        try:
            leaf = lift(leaf)
        except DtypeError:
            raise RangekitError(
                f"a kernel returns Tensors, not {type(leaf).__name__}", help="return the arrays it computes"
            ) from None
    if leaf.node.ranges:
        enclosed(leaf.node, positions)
        names = ", ".join(r.arg.name or "_" for r in by_uid(leaf.node.ranges))
        raise RangeError(
            f"the kernel returns a value in which {names} {'are' if ',' in names else 'is'} open",
            help=f"close it: rk.bufferize(v, {names})",
            at=positions.get(leaf.node),
        )
    node = stored(leaf)
    root = node
    while root.op is Op.ASSIGN:
        root = root.src[0]
    is_storage = node.op in (Op.PARAM, Op.BUFFER) or (node.op is Op.ASSIGN and root.op is not Op.BUFFERIZE)
    closed = node.op is Op.BUFFERIZE and node.arg.memory in (None, "global")
    if not is_storage and not closed and node.op is not Op.ASSIGN:
        node = materialized(Tensor(node)).node
    if node not in results:
        results.append(node)
    return results.index(node)


def _effects(effects: list[UOp], results: list[UOp]) -> tuple[UOp, ...]:
    """Prints, and the last write to each array of the caller's (a write to a temporary has no effect of its own)."""
    out = []
    overwritten = {e.src[0] for e in effects if e.op is Op.ASSIGN}
    for e in effects:
        if e.op is Op.ASSIGN:
            root = e
            while root.op is Op.ASSIGN:
                root = root.src[0]
            if root.op is Op.BUFFERIZE or e in overwritten or e in results:
                continue
        out.append(e)
    return tuple(dict.fromkeys(out))
