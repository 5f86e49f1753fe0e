"""Values over lanes: what an expression is inside loops that run in step.

Inside "upcast" and "vector" loops every statement runs for all iterations at once. A ``Value`` is then several SSA
values, one for each combination of the lanes it differs over, each a vector if the vector loop is among them; what
does not depend on a lane is computed once. Pure operations go to the outermost scope where their operands are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from rangekit.backends.llvm.emit import TYPES, Emitter, Lines, Names
from rangekit.backends.llvm.scalar import scalar
from rangekit.ir import dtype as dt
from rangekit.ir.approx import cheap, expand
from rangekit.ir.dtype import DType
from rangekit.ir.ops import MATH, Op
from rangekit.ir.uop import UOp


@dataclass(frozen=True, eq=False)
class Lane:
    """One open loop whose iterations run in step: ``count`` SSA values of ``width`` elements (1: no vector)."""

    var: UOp
    count: int
    width: int


@dataclass(frozen=True, eq=False)
class Value:
    """``items`` in row-major order over ``axes``; each has ``wide`` elements. ``depth`` is the scope it is known in."""

    dtype: DType
    items: tuple[str, ...]
    axes: tuple[Lane, ...] = ()
    wide: int = 1
    depth: int = 0
    constant: Any = None  # where it is one
    volatile: bool = False  # read from memory that the kernel writes: to be read anew by the next statement

    def at(self, position: dict[Lane, int]) -> str:
        """The item at a position over a superset of its axes."""
        place = 0
        for lane in self.axes:
            place = place * lane.count + position[lane]
        return self.items[place]


@dataclass(eq=False)
class Scope:
    """One open block of code: its lines and what has been computed in it."""

    lines: Lines = field(default_factory=list)
    memo: dict[Any, Value] = field(default_factory=dict)
    splats: dict[tuple[str, int], str] = field(default_factory=dict)


class Builder(Emitter):
    """Scopes, the open lanes, and elementwise expressions over them. Loads are ``_load``, of a subclass."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.scopes = [Scope()]
        self.lines = self.scopes[0].lines
        self.open: list[Lane] = []
        self.fixed: dict[Lane, int] = {}  # lanes taken one after another by the statement being emitted
        self.bound: dict[UOp, Value] = {}
        self.fresh: dict[Any, Value] = {}  # volatile values of the statement being emitted
        self.gate: Value | None = None  # of the index being computed

    # ---- scopes ------------------------------------------------------------------------------------------------------

    def push(self) -> Scope:
        """Open a block."""
        self.scopes.append(Scope())
        self.lines = self.scopes[-1].lines
        return self.scopes[-1]

    def pop(self) -> Lines:
        """Close the innermost block; its lines are to be placed by the caller."""
        lines = self.scopes.pop().lines
        self.lines = self.scopes[-1].lines
        return lines

    @property
    def here(self) -> int:
        """The depth of the innermost scope."""
        return len(self.scopes) - 1

    # ---- values ------------------------------------------------------------------------------------------------------

    def axes(self, *values: Value | None) -> tuple[Lane, ...]:
        """The lanes over which any of these differs, in the order they were opened."""
        used = {lane for v in values if v is not None for lane in v.axes}
        return tuple(lane for lane in self.open if lane in used)

    def positions(self, axes: Sequence[Lane]) -> list[dict[Lane, int]]:
        """Every combination, row-major."""
        return [dict(zip(axes, p, strict=True)) for p in product(*(range(lane.count) for lane in axes))]

    def item(self, value: Value, position: dict[Lane, int], wide: int) -> str:
        """One item, repeated to ``wide`` elements where it has one."""
        text = value.at(position)
        if value.wide == wide:
            return text
        kind = TYPES[value.dtype]
        if value.constant is not None:
            return f"splat ({kind} {text})"
        scope = self.scopes[value.depth]
        found = scope.splats.get((text, wide))
        if found is None:
            outer, self.lines = self.lines, scope.lines
            one = self.make(f"insertelement <{wide} x {kind}> poison, {kind} {text}, i32 0", "s")
            zeros = "zeroinitializer"
            found = self.make(
                f"shufflevector <{wide} x {kind}> {one}, <{wide} x {kind}> poison, <{wide} x i32> {zeros}"
            )
            self.lines = outer
            scope.splats[text, wide] = found
        return found

    def projected(self, value: Value) -> Value:
        """The part of a value at the lanes that are fixed."""
        if not any(lane in self.fixed for lane in value.axes):
            return value
        axes = tuple(lane for lane in value.axes if lane not in self.fixed)
        items = tuple(value.at({**self.fixed, **p}) for p in self.positions(axes))
        return replace(value, items=items, axes=axes)

    def value(self, n: UOp) -> Value:
        """The value of an expression here."""
        if n.op is Op.VAR:
            return self.projected(self.bound[n])
        if n.op is Op.CONST:
            return Value(n.dtype, (self.text(n.arg, n.dtype),), constant=n.arg)
        key = (n, self.gate, tuple(self.fixed.values())) if self.fixed else (n, self.gate)
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        if key in self.fresh:
            return self.fresh[key]
        if n.op is Op.INDEX:
            found = self._load(n)
        elif n.op in MATH or n.op is Op.POW:
            found = self._math(n)
        else:
            found = self.elementwise(n, [self.value(s) for s in n.src])
        if found.volatile:
            self.fresh[key] = found
        else:
            self.scopes[found.depth].memo[key] = found
        return found

    def _math(self, n: UOp) -> Value:
        """A math function: an expression of basic operations where there is one. One that is right for small arguments
        only is used where all lanes hold such; where one does not, all go through a function that is right for all.
        """
        near = cheap(n)
        if near is not None:
            return self._checked(n, self.value(near[0]), near[1])
        known = expand(n)
        return self.value(known) if known is not None else self.elementwise(n, [self.value(s) for s in n.src])

    def _checked(self, n: UOp, condition: Value, near: UOp) -> Value:
        raise NotImplementedError

    def text(self, value: Any, dtype: DType) -> str:
        """A constant of one element."""
        width, self.lanes = self.lanes, 1
        answer = self.literal(value, dtype)
        self.lanes = width
        return answer

    def elementwise(self, n: UOp, args: list[Value]) -> Value:
        """One operation on all combinations of its operands' lanes."""
        axes, wide = self.axes(*args), max(a.wide for a in args)
        depth = max(a.depth for a in args)
        outer, width = self.lines, self.lanes
        items = []
        for position in self.positions(axes):
            self.lines = self.scopes[depth].lines
            operands = [self.item(a, position, wide) for a in args]
            self.lines, self.lanes = self.scopes[depth].lines, wide
            items.append(scalar(self, n, operands))
            self.lanes = width
        self.lines = outer
        return Value(n.dtype, tuple(items), axes, wide, depth, volatile=any(a.volatile for a in args))

    def plain(self, n: UOp) -> str:
        """An expression that is the same in every lane, such as a loop's bound."""
        value = self.value(n)
        assert not value.axes, "a loop bound differs between lanes"
        return value.items[0]

    def both(self, a: Value | None, b: Value | None) -> Value | None:
        """The conjunction of two conditions, None being true."""
        if a is None or b is None:
            return a if b is None else b
        node = UOp(Op.AND, dt.bool_, (UOp(Op.CONST, dt.bool_, (), True), UOp(Op.CONST, dt.bool_, (), True)))
        return self.elementwise(node, [a, b])

    def _load(self, n: UOp) -> Value:
        raise NotImplementedError
