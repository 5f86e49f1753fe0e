"""Loads and stores over lanes: addresses as sums of multiples, and what one access is in vectors.

The index of an access is a sum of multiples of variables. The part that does not differ between lanes is computed in
the outermost scope that knows it; lanes add constants. The multiple of the vector lane decides: 1 is a vector load or
store, 0 a single element for all, -1 a vector reversed, anything else element by element; two lanes that cross (one
contiguous, the other the vector) are loaded along the contiguous one and transposed in registers.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from rangekit.backends.llvm.emit import TYPES, Names, memory_type
from rangekit.backends.llvm.lanes import Builder, Lane, Value
from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine
from rangekit.ir.dtype import DType
from rangekit.ir.nest import variables
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, cast

VECTOR_BYTES = 64  # the most of one load: what one with a false gate reads, and what a scratch array has past its end


def strides(buffer: UOp) -> tuple[int, ...]:
    """Elements between neighbours along each axis."""
    given = getattr(buffer.arg, "strides", None)
    if given is not None:
        return tuple(given)
    return tuple(math.prod(max(1, n) for n in buffer.shape[axis + 1 :]) for axis in range(len(buffer.shape)))


@dataclass(frozen=True)
class Slots:
    """Where an array is: one pointer for each combination of the lanes it was made in, if it is a register; and, for an
    array made in lanes, the lanes whose copies lie beside each other (``inner``) and one after another (``outer``).
    """

    pointers: Value
    inner: tuple[Lane, ...] = ()
    outer: tuple[Lane, ...] = ()


@dataclass(frozen=True, eq=False)
class Place:
    """The addresses of one access. ``base`` and the constant ``offset`` of each lane; ``rest`` differs freely."""

    buffer: UOp
    base: Value
    constant: int
    factors: dict[Lane, int]  # elements from one iteration of the lane to the next
    rest: Value | None
    axes: tuple[Lane, ...]
    grain: int = 1  # elements: every address is the array's own plus a multiple of it
    mixed: frozenset[Lane] = frozenset()  # lanes that an index depends on beside other variables

    @property
    def step(self) -> int | None:
        """Elements between neighbours in a vector; None if they are anywhere."""
        if self.rest is not None and self.rest.wide > 1:
            return None
        return sum(f for lane, f in self.factors.items() if lane.width > 1)


class Access(Builder):
    """Addresses, loads and stores."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.slots: dict[UOp, Slots] = {}
        self.changing: frozenset[UOp] = frozenset()  # what the kernel writes
        self.scratch: frozenset[UOp] = frozenset()  # what it makes for itself
        self.exact: dict[UOp, Lane] = {}  # lane variables that are not clamped
        self.active: Value | None = None  # lanes that run the loop's iteration, where they have bounds of their own
        self.masks: dict[Lane, Value] = {}  # of lanes that may lie past their loop's end

    # ---- addresses ---------------------------------------------------------------------------------------------------

    def gated(self, index: tuple[UOp, ...]) -> tuple[Value | None, tuple[UOp, ...]]:
        """The gate under which an index names an element (None: always), and the index without gates."""
        outer, plain = self.gate, []
        for i in index:
            condition = None
            if i.op is Op.INVALID:
                condition, i = UOp(Op.CONST, dt.bool_, (), False), UOp(Op.CONST, dt.index, (), 0)
            elif i.op is Op.WHERE and i.src[2].op is Op.INVALID:
                condition, i = i.src[0], i.src[1]
            if condition is not None:  # a gate is computed under those before it
                self.gate = self.both(self.gate, self.value(condition))
            plain.append(i)
        gate, self.gate = self.gate, outer
        return gate, tuple(plain)

    def place(self, buffer: UOp, index: tuple[UOp, ...]) -> Place:
        """The addresses of ``buffer[index]``."""
        slots = self.slots[buffer]
        copies = math.prod(lane.count * lane.width for lane in slots.inner)
        constant, factors, loose, mixed = 0, dict[Lane, int](), dict[UOp, int](), set[Lane]()
        for i, stride, length in zip(index, strides(buffer), buffer.shape, strict=True):
            terms, more = affine(cast(i, dt.index) if i.dtype is not dt.index else i)
            constant += more * stride * copies
            for atom, factor in terms.items():
                lane = self.exact.get(atom)
                if lane is None and atom is i and buffer in self.scratch:  # an element for each lane, used or not
                    lane = next((a for a in self.open if a.var is atom and a.count <= length), None)
                if len(terms) > 1 or lane is None:
                    mixed.update(*(self.bound[v].axes for v in variables(atom)))
                factor *= stride * copies
                known = self.bound[atom].constant if atom.op is Op.VAR and atom in self.bound else None
                if known is not None:
                    constant += factor * known
                elif lane is not None and lane in self.fixed:
                    constant += factor * self.fixed[lane]
                elif lane is not None:
                    factors[lane] = factors.get(lane, 0) + factor
                else:
                    loose[atom] = loose.get(atom, 0) + factor
        size = copies * math.prod(buffer.shape)
        for lane in slots.inner:
            factors[lane] = factors.get(lane, 0) + 1  # the one vector
        for lane in slots.outer:
            if lane in self.fixed:
                constant += size * self.fixed[lane]
            else:
                factors[lane] = factors.get(lane, 0) + size
            size *= lane.count
        same: list[tuple[Value, int]] = []
        differ: list[tuple[Value, int]] = []
        for atom, factor in loose.items():
            if factor:
                value = self.value(atom)
                (differ if value.axes else same).append((value, factor))
        base = self._moved(slots.pointers, buffer, same)
        rest = self._sum(differ) if differ else None
        own = {lane for lane, factor in factors.items() if factor}  # those fixed are in the constant, or in base
        used = own | set(base.axes) | set(rest.axes if rest is not None else ())
        moves = [*loose.values(), constant, *(f * lane.width for lane, f in factors.items())]
        grain = 0 if rest is None or rest.wide == 1 else 1
        axes = tuple(lane for lane in self.open if lane in used and lane not in self.fixed)
        return Place(buffer, base, constant, factors, rest, axes, math.gcd(grain, *moves), frozenset(mixed))

    def _moved(self, pointer: Value, buffer: UOp, terms: list[tuple[Value, int]]) -> Value:
        """A pointer moved by sums of multiples, each level of loops adding its own."""
        kind = memory_type(buffer.dtype)
        for depth in sorted({v.depth for v, _ in terms}):
            level = [(v, f) for v, f in terms if v.depth == depth]
            key = ("moved", pointer.items, tuple((v.items[0], f) for v, f in level))
            where = max(depth, pointer.depth)
            found = next((s.memo[key] for s in reversed(self.scopes) if key in s.memo), None)
            if found is None:
                offset = self._sum(level).items[0]
                outer, self.lines = self.lines, self.scopes[where].lines
                items = tuple(self.make(f"getelementptr {kind}, ptr {p}, i64 {offset}", "p") for p in pointer.items)
                self.lines = outer
                found = Value(dt.index, items, pointer.axes, 1, where)
                self.scopes[where].memo[key] = found
            pointer = found
        return pointer

    def _sum(self, terms: list[tuple[Value, int]]) -> Value:
        """A sum of multiples."""
        total: Value | None = None
        for value, factor in terms:
            if factor != 1:
                many = Value(dt.index, (str(factor),), constant=factor)
                value = self.elementwise(_MUL, [value, many])
            total = value if total is None else self.elementwise(_ADD, [total, value])
        assert total is not None
        return total

    def _pointer(self, place: Place, position: dict[Lane, int], more: str | int = 0) -> str:
        """The address of one item; ``more`` elements on."""
        kind = memory_type(place.buffer.dtype)
        constant = place.constant
        for lane, factor in place.factors.items():
            if lane in position:
                constant += factor * position[lane] * lane.width
            elif lane in self.fixed:
                constant += factor * self.fixed[lane]
        if isinstance(more, int):
            constant, more = constant + more, ""
        base = place.base.at({**self.fixed, **position})
        if place.rest is not None and place.rest.wide == 1:
            base = self.make(f"getelementptr {kind}, ptr {base}, i64 {place.rest.at(position)}", "p")
        if more:
            base = self.make(f"getelementptr {kind}, ptr {base}, i64 {more}", "p")
        return self.make(f"getelementptr {kind}, ptr {base}, i64 {constant}", "p") if constant else base

    def running(self, lanes: Collection[Lane]) -> Value | None:
        """Where a value that depends on these lanes means something: not past the end of a vector's loop, nor in a lane
        that an iteration leaves out. What does not depend on the lanes that differ in their ends is right for those
        that do run.
        """
        found = None
        for lane in self.open:
            mask = self.masks.get(lane) if lane in lanes else None
            if mask is not None and (lane.width > 1 or (set(mask.axes) - {lane}).intersection(lanes)):
                found = self.both(found, self.projected(mask))
        if self.active is not None and not set(self.active.axes).isdisjoint(lanes):
            found = self.both(found, self.projected(self.active))
        return found

    # ---- loads -------------------------------------------------------------------------------------------------------

    def _load(self, n: UOp) -> Value:
        buffer, outer = n.src[0], self.gate
        gate, index = self.gated(n.src[1:])
        self.gate = gate
        place = self.place(buffer, index)
        self.gate = outer
        vector = next((lane for lane in place.axes if lane.width > 1), None)
        if vector is not None and not (buffer in self.scratch and place.step == 1):  # which has room past its end
            gate = self.both(gate, self.running((vector,)))
        gate = self.both(gate, self.running(place.mixed))
        axes = self.axes(Value(dt.index, (), place.axes), gate)
        wide = max((lane.width for lane in axes), default=1)
        volatile = buffer in self.changing
        depth = self.here
        if wide > 1 and gate is None and place.step not in (0, 1, -1, None):
            crossed = self._crossed(place, axes)
            if crossed is not None:
                return Value(n.dtype, crossed, axes, wide, depth, volatile=volatile)
        if place.step == 0 and (gate is None or gate.wide == 1):
            wide = 1  # one element for all
        items = tuple(self._one(place, p, wide, gate) for p in self.positions(axes))
        return Value(n.dtype, items, axes, wide, depth, volatile=volatile)

    def _one(self, place: Place, position: dict[Lane, int], wide: int, gate: Value | None) -> str:
        """One item: an element or a vector."""
        dtype = place.buffer.dtype
        kind, size, base = memory_type(dtype), dtype.itemsize, place.buffer.arg.name
        if wide == 1 or (place.step == 1 and (gate is None or gate.wide == 1)):
            pointer = self._open(self._pointer(place, position), gate, position)
            shape = kind if wide == 1 else f"<{wide} x {kind}>"
            return self._read(self.make(f"load {shape}, ptr {pointer}, align {size}", base), dtype, wide)
        if place.step == 1:
            assert gate is not None
            pointer, mask = self._pointer(place, position), gate.at(position)
            suffix = f"v{wide}{_suffix(kind)}.p0"
            shape = f"<{wide} x {kind}>"
            loaded = self._masked(shape, f"llvm.masked.load.{suffix}", (f"ptr align {size}", pointer),
                                  (f"<{wide} x i1>", mask), (shape, "zeroinitializer"))  # fmt: skip
            return self._read(loaded, dtype, wide)
        if place.step == -1 and (gate is None or gate.wide == 1):
            pointer = self._open(self._pointer(place, position, 1 - wide), gate, position)
            shape = f"<{wide} x {kind}>"
            loaded = self.make(f"load {shape}, ptr {pointer}, align {size}", base)
            order = ", ".join(f"i32 {wide - 1 - lane}" for lane in range(wide))
            turned = self.make(f"shufflevector {shape} {loaded}, {shape} poison, <{wide} x i32> <{order}>", base)
            return self._read(turned, dtype, wide)
        whole = "poison"
        for lane in range(wide):
            pointer = self._lane_pointer(place, position, lane, wide)
            if gate is not None:
                inside = gate.at(position)
                if gate.wide > 1:
                    inside = self.make(f"extractelement <{wide} x i1> {inside}, i32 {lane}", "in")
                pointer = self.make(f"select i1 {inside}, ptr {pointer}, ptr %zero", "p")
            one = self.make(f"load {kind}, ptr {pointer}, align {size}", base)
            whole = self.make(f"insertelement <{wide} x {kind}> {whole}, {kind} {one}, i32 {lane}", base)
        return self._read(whole, dtype, wide)

    def _lane_pointer(self, place: Place, position: dict[Lane, int], lane: int, wide: int) -> str:
        if place.rest is not None and place.rest.wide > 1:
            offset = self.make(f"extractelement <{wide} x i64> {place.rest.at(position)}, i32 {lane}", "at")
            extra = sum(f for a, f in place.factors.items() if a.width > 1) * lane
            pointer = self._pointer(place, position, offset)
            kind = memory_type(place.buffer.dtype)
            return self.make(f"getelementptr {kind}, ptr {pointer}, i64 {extra}", "p") if extra else pointer
        assert place.step is not None
        return self._pointer(place, position, place.step * lane)

    def _masked(self, result: str, name: str, *args: tuple[str, str]) -> str:
        """A masked load or store; ``args`` as (type, operand)."""
        types = ", ".join(t.split(" ")[0] if t.startswith("ptr") else t for t, _ in args)
        self.names.declared.add(f"declare {result} @{name}({types})")
        call = f"call {result} @{name}({', '.join(f'{t} {v}' for t, v in args)})"
        if result != "void":
            return self.make(call)
        self.line(call)
        return ""

    def _open(self, pointer: str, gate: Value | None, position: dict[Lane, int]) -> str:
        """The pointer, or that of zeros where the gate is false."""
        if gate is None:
            return pointer
        return self.make(f"select i1 {gate.at(position)}, ptr {pointer}, ptr %zero", "p")

    def _read(self, loaded: str, dtype: DType, wide: int) -> str:
        """What memory holds, as a value."""
        if dtype is not dt.bool_:
            return loaded
        shape = "i8" if wide == 1 else f"<{wide} x i8>"
        return self.make(f"icmp ne {shape} {loaded}, {'0' if wide == 1 else 'zeroinitializer'}", "b")

    def _crossed(self, place: Place, axes: tuple[Lane, ...]) -> tuple[str, ...] | None:
        """Items of a load whose contiguous lane is not the vector: loaded along that lane, transposed in squares."""
        vector = next(lane for lane in axes if lane.width > 1)
        size = vector.width
        along = next((lane for lane, f in place.factors.items() if f == 1 and lane in axes and lane.width == 1), None)
        if along is None or along.count % size or place.rest is not None or size & (size - 1):
            return None
        if place.buffer.dtype is dt.bool_:
            return None
        kind = memory_type(place.buffer.dtype)
        shape, align = f"<{size} x {kind}>", place.buffer.dtype.itemsize
        found: dict[tuple[int, ...], str] = {}
        others = tuple(lane for lane in axes if lane is not vector and lane is not along)
        for outer in self.positions(others):
            for a in range(0, along.count, size):
                for v in range(vector.count):
                    rows = []
                    for r in range(size):
                        pointer = self._pointer(place, {**outer, along: a, vector: v}, place.factors[vector] * r)
                        rows.append(self.make(f"load {shape}, ptr {pointer}, align {align}", "row"))
                    for r, row in enumerate(self._transposed(rows, shape)):
                        at = {**outer, along: a + r, vector: v}
                        found[tuple(at[lane] for lane in axes)] = row
        return tuple(found[tuple(p[lane] for lane in axes)] for p in self.positions(axes))

    def _transposed(self, rows: list[str], shape: str) -> list[str]:
        """A square of vectors, transposed: in each of log2(n) stages pairs of rows exchange halves of their blocks."""
        size = len(rows)
        block = 1
        while block < size:
            out = list(rows)
            for r in range(size):
                if r & block:
                    continue
                low = [i if not i & block else size + (i ^ block) for i in range(size)]
                high = [(i | block) if not i & block else size + i for i in range(size)]
                for place, order in ((r, low), (r | block, high)):
                    mask = ", ".join(f"i32 {i}" for i in order)
                    out[place] = self.make(
                        f"shufflevector {shape} {rows[r]}, {shape} {rows[r | block]}, <{size} x i32> <{mask}>", "t"
                    )
            rows, block = out, block * 2
        return rows

    # ---- stores ------------------------------------------------------------------------------------------------------

    def put(self, place: Place, value: Value, gate: Value | None, stream: bool = False) -> None:
        """Store a value in every lane where the gate holds; past the caches where ``stream`` says so and it can."""
        axes = self.axes(Value(dt.index, (), place.axes), value, gate)
        wide = max((lane.width for lane in axes), default=1)
        for position in self.positions(sorted(axes, key=lambda a: a.width > 1)):  # lines are filled one after another
            item = self.item(value, position, wide)
            if value.dtype is dt.bool_:
                flag, byte = ("i1", "i8") if wide == 1 else (f"<{wide} x i1>", f"<{wide} x i8>")
                item = self.make(f"zext {flag} {item} to {byte}", "b")
            self._put_one(place, position, item, wide, gate, stream)

    def _put_one(self, place: Place, position: dict[Lane, int], item: str, wide: int, gate: Value | None,
                 stream: bool) -> None:  # fmt: skip
        kind, size = memory_type(place.buffer.dtype), place.buffer.dtype.itemsize
        shape = kind if wide == 1 else f"<{wide} x {kind}>"
        if wide == 1 or (place.step == 1 and (gate is None or gate.wide == 1)):
            after = self._branch(gate.at(position)) if gate is not None else None
            pointer = self._pointer(place, position)
            store = f"store {shape} {item}, ptr {pointer}, align "
            if stream and wide > 1 and gate is None and place.grain % wide == 0:
                self._either_store(self._aligned(place.buffer, wide * size),
                                   f"{store}{wide * size}, !nontemporal !1", f"{store}{size}")  # fmt: skip
            else:
                self.line(f"{store}{size}")
            self._join(after)
        elif place.step == 1:
            assert gate is not None
            flags = f"<{wide} x i1>"
            mask = (
                self.make(f"and {flags} {gate.at(position)}, {self._opaque(wide)}") if size < 8 else gate.at(position)
            )
            self._masked("void", f"llvm.masked.store.v{wide}{_suffix(kind)}.p0", (shape, item),
                         (f"ptr align {size}", self._pointer(place, position)), (flags, mask))  # fmt: skip
        else:
            for lane in range(wide):
                inside = gate.at(position) if gate is not None else None
                if gate is not None and gate.wide > 1:
                    inside = self.make(f"extractelement <{wide} x i1> {inside}, i32 {lane}", "in")
                after = self._branch(inside) if inside is not None else None
                one = self.make(f"extractelement {shape} {item}, i32 {lane}", "one")
                self.line(f"store {kind} {one}, ptr {self._lane_pointer(place, position, lane, wide)}, align {size}")
                self._join(after)

    def _aligned(self, buffer: UOp, size: int) -> str:
        """Whether an array begins at a multiple of ``size`` bytes; found out once."""
        key = ("aligned", buffer, size)
        found = self.scopes[0].memo.get(key)
        if found is None:
            outer, self.lines = self.lines, self.scopes[0].lines
            bits = self.make(f"ptrtoint ptr {self.slots[buffer].pointers.items[0]} to i64", "bits")
            low = self.make(f"and i64 {bits}, {size - 1}", "bits")
            found = Value(dt.bool_, (self.make(f"icmp eq i64 {low}, 0", "aligned"),))
            self.lines = outer
            self.scopes[0].memo[key] = found
        return found.items[0]

    def _opaque(self, wide: int) -> str:
        """A mask of all lanes that LLVM cannot see through. Of a masked store of a truncated vector with one lane known
        to be on and all others off, it stores the whole vector (LLVM 22.1 for AVX-512).
        """
        found = self.scopes[0].memo.get(("opaque", wide))
        if found is None:
            outer, self.lines = self.lines, self.scopes[0].lines
            one = self.make('call i32 asm "", "=r,0"(i32 1)', "one")
            on = self.make(f"trunc i32 {one} to i1", "on")
            first = self.make(f"insertelement <{wide} x i1> poison, i1 {on}, i32 0", "on")
            every = f"shufflevector <{wide} x i1> {first}, <{wide} x i1> poison, <{wide} x i32> zeroinitializer"
            found = Value(dt.bool_, (self.make(every, "on"),))
            self.lines = outer
            self.scopes[0].memo["opaque", wide] = found
        return found.items[0]

    def _either_store(self, condition: str, yes: str, no: str) -> None:
        then, other, after = self.label("stream"), self.label("plain"), self.label("after")
        self.line(f"br i1 {condition}, label %{then}, label %{other}")
        for label, text in ((then, yes), (other, no)):
            self.lines.append(f"{label}:")
            self.line(text)
            self.line(f"br label %{after}")
        self.lines.append(f"{after}:")

    def _branch(self, condition: str) -> str:
        yes, after = self.label("then"), self.label("after")
        self.line(f"br i1 {condition}, label %{yes}, label %{after}")
        self.lines.append(f"{yes}:")
        return after

    def _join(self, after: str | None) -> None:
        if after is not None:
            self.line(f"br label %{after}")
            self.lines.append(f"{after}:")


def _suffix(kind: str) -> str:
    return {"half": "f16", "float": "f32", "double": "f64"}.get(kind, kind)


_ONE = UOp(Op.CONST, dt.index, (), 1)
_MUL = UOp(Op.MUL, dt.index, (_ONE, _ONE))
_ADD = UOp(Op.ADD, dt.index, (_ONE, _ONE))
assert TYPES[dt.index] == "i64"
