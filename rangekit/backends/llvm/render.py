"""Print a loop nest as LLVM IR text: ``@kernel`` over a block of pointers, and a function for each thread loop.

Pure; needs no LLVM. Every value is in SSA form under a readable name; ``scalar`` says what each op prints as, ``lanes``
what loops that run in step make of an expression, ``access`` what they make of a load or store, ``loops``
what becomes of loops. A gated load reads a
zero instead of touching memory, and so does every load inside its index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from rangekit.backends.llvm.access import VECTOR_BYTES, Place, Slots
from rangekit.backends.llvm.convert import raw
from rangekit.backends.llvm.emit import TYPES, Lines, Names, memory_type
from rangekit.backends.llvm.lanes import Lane, Value
from rangekit.backends.llvm.loops import Loops
from rangekit.backends.llvm.scalar import HELPERS
from rangekit.ir import dtype as dt
from rangekit.ir.approx import expand
from rangekit.ir.nest import (
    Guard,
    Let,
    Loop,
    Nest,
    Prefetch,
    Print,
    Scratch,
    Stmt,
    Stop,
    Store,
    operands,
    variables,
    walk,
)
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, cast

STACK_BYTES = 1 << 16  # scratch beyond this is taken from the heap
ALIGN = 64  # of scratch: a cache line
METADATA = """!0 = !{!"branch_weights", i32 1048575, i32 1}
!1 = !{i32 1}"""  # a guard holds; a store past the caches


def render(nest: Nest) -> str:
    """The module text: ``@kernel(ptr args, ptr fault)`` unpacks the pointers and calls ``@body``."""
    names = Names()
    functions: list[str] = []
    main = _Function(names, nest, functions)
    text = main.whole()
    slots = [f"%arg{n}" for n in range(len(nest.params))] + ["%printer"] * main.shows
    unpack = "".join(
        f"  %slot{n} = getelementptr ptr, ptr %args, i64 {n}\n  %p{n} = load ptr, ptr %slot{n}\n"
        for n in range(len(slots))
    )
    passed = ", ".join([*(f"ptr %p{n}" for n in range(len(slots))), "ptr %fault"])
    declared = sorted(d for d in names.declared if not any(f"@{h}(" in d for h in names.helpers))
    parts = [
        f"; {nest.name}",
        *functions,
        text,
        f"define void @kernel(ptr %args, ptr %fault) {{\nentry:\n{unpack}  call void @body({passed})\n  ret void\n}}",
        *(HELPERS[name] for name in sorted(names.helpers)),
        "\n".join(declared),
        'attributes #0 = { nounwind "prefer-vector-width"="256" "frame-pointer"="none" }',
        METADATA,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


class _Function(Loops):
    """One LLVM function: the whole nest, or the body of a thread loop."""

    def __init__(self, names: Names, nest: Nest, functions: list[str]) -> None:
        super().__init__(names)
        self.nest, self.functions = nest, functions
        self.changing = frozenset(s.buffer for s in walk(nest.body) if isinstance(s, Store))
        self.scratch = frozenset(s.buffer for s in walk(nest.body) if isinstance(s, Scratch))
        self.shows = any(isinstance(s, Print) for s in walk(nest.body))
        self.freed: list[str] = []
        self.own: set[UOp] = set()  # the scratch arrays made by this function
        for n, p in enumerate(nest.params):
            self.slots[p] = Slots(Value(dt.index, (f"%arg{n}",)))

    def whole(self) -> str:
        """The text of ``@body``: only parameters can be ``noalias``."""
        self.body(self.nest.body)
        params = [f"ptr {'noalias ' if p in self.nest.outputs else ''}%arg{n}" for n, p in enumerate(self.nest.params)]
        return self.finished("body", [*params, *["ptr %printer"] * self.shows, "ptr %fault"])

    def finished(self, name: str, params: list[str]) -> str:
        """The function around the lines so far."""
        head = [f"  %zero = alloca [{VECTOR_BYTES} x i8], align {ALIGN}",
                f"  store [{VECTOR_BYTES} x i8] zeroinitializer, ptr %zero"]  # fmt: skip
        if self.shows:
            most = max(len(s.indices) for s in walk(self.nest.body) if isinstance(s, Print))
            head.append(f"  %shown = alloca i64, i64 {max(1, most)}")
        tail = [f"  call void @free(ptr {p})" for p in self.freed]
        lines = ["entry:", *head, *self.entry, *_flat(self.scopes[0].lines), *tail, "  ret void"]
        return f"define internal void @{name}({', '.join(params)}) #0 {{\n" + "\n".join(lines) + "\n}"

    # ---- statements --------------------------------------------------------------------------------------------------

    def body(self, stmts: tuple[Stmt, ...]) -> None:
        """Statements in order."""
        for s in stmts:
            self.fresh.clear()  # what was read may have been written since
            if isinstance(s, Loop):
                self._loop(s)
            elif isinstance(s, Let):
                self.bound[s.var] = replace(self.value(s.value), volatile=False)
            elif isinstance(s, Store):
                self.store(s)
            elif isinstance(s, Scratch):
                self._scratch(s.buffer)
            elif isinstance(s, Guard):
                self._guard(s)
            elif isinstance(s, Prefetch):
                self._prefetch(s)
            elif isinstance(s, Stop):
                self.stop(s)
            else:
                self._print(s)

    def _scratch(self, buffer: UOp) -> None:
        """Storage, all of it in the entry block: a stack slot inside a loop would be a new one each iteration."""
        self.own.add(buffer)
        size = max(1, math.prod(buffer.shape)) * buffer.dtype.itemsize
        kind = memory_type(buffer.dtype)
        vector = tuple(lane for lane in self.open if lane.width > 1)
        if not buffer.shape:  # a register for each combination of lanes
            plain = tuple(lane for lane in self.open if lane.width == 1)
            copies = math.prod(lane.count * lane.width for lane in vector)
            items = tuple(self.name(buffer.arg.name) for _ in self.positions(plain))
            self.entry += [f"  {item} = alloca [{copies} x {kind}], align {ALIGN}" for item in items]
            self.slots[buffer] = Slots(Value(dt.index, items, plain), vector)
            return
        copies = math.prod(lane.count * lane.width for lane in self.open)
        name = self.name(buffer.arg.name)
        if size * copies > STACK_BYTES:
            self.names.declared |= {"declare ptr @aligned_alloc(i64, i64)", "declare void @free(ptr)"}
            rounded = (size * copies + VECTOR_BYTES + ALIGN - 1) // ALIGN * ALIGN
            self.entry.append(f"  {name} = call ptr @aligned_alloc(i64 {ALIGN}, i64 {rounded})")
            self.freed.append(name)
        else:
            room = size // buffer.dtype.itemsize * copies + VECTOR_BYTES // buffer.dtype.itemsize
            self.entry.append(f"  {name} = alloca [{room} x {kind}], align {ALIGN}")
        self.slots[buffer] = Slots(Value(dt.index, (name,)), vector, tuple(a for a in self.open if a.width == 1))

    def store(self, s: Store) -> None:
        gate, index = self.gated(s.index)
        place = self.place(s.buffer, index)
        slots = self.slots[s.buffer]
        private = set(slots.pointers.axes) | set(slots.inner) | set(slots.outer)
        once = [lane for lane in self.open if lane not in place.axes and lane not in private and lane not in self.fixed]
        assert all(lane.width == 1 for lane in once), "lanes of a vector write to one place"
        if once and s.update is not None and s.buffer in self.own and gate is None:
            self._accumulate(s, place, once, private)
            return
        if once:  # one after another, as the loop would
            for position in self.positions(once):
                self.fixed.update(position)
                self.fresh.clear()
                self.store(s)
                for lane in once:
                    del self.fixed[lane]
            self.fresh.clear()
            return
        value = self.value(s.value)
        mask: Value | None = self.both(gate, None if self.active is None else self.projected(self.active))
        repeated = False  # lanes past the end stand at the last one's place
        for lane, inside in self.masks.items():
            if lane not in private:
                mask = self.both(mask, self.projected(inside))
                repeated = repeated or lane.width == 1
        if mask is not None and gate is None and not repeated and s.buffer in self.own:  # no branch: nobody else looks
            masks, self.masks = self.masks, {}  # what is kept is read in every lane
            old = self._load(UOp(Op.INDEX, s.buffer.dtype, (s.buffer, *index)))
            self.masks = masks
            value = self.elementwise(_WHERE(value.dtype), [mask, value, old])
            mask = None
        self.put(place, value, mask, s.stream and place.step == 1)

    def _accumulate(self, s: Store, place: Place, once: list[Lane], private: set[Lane]) -> None:
        """Lanes reduced into one place, one after another: read once, stored once."""
        read = UOp(Op.INDEX, s.buffer.dtype, (s.buffer, *s.index))
        masks, self.masks = self.masks, {}
        running = self._load(read)
        self.masks = masks
        for position in self.positions(once):
            self.fixed.update(position)
            self.fresh.clear()
            self.fresh[read, self.gate, tuple(self.fixed.values())] = running
            new = self.value(s.value)
            mask = None if self.active is None else self.projected(self.active)
            for lane, inside in self.masks.items():
                if lane not in private:
                    mask = self.both(mask, self.projected(inside))
            running = new if mask is None else self.elementwise(_WHERE(new.dtype), [mask, new, running])
            for lane in once:
                del self.fixed[lane]
        self.fresh.clear()
        self.put(place, running, None)

    def _prefetch(self, s: Prefetch) -> None:
        place = self.place(s.buffer, s.index)
        self.names.declared.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        vector = [lane for lane in place.axes if lane.width > 1]
        every = max(1, ALIGN // (s.buffer.dtype.itemsize * math.prod(lane.width for lane in vector)))
        for position in self.positions(place.axes):
            if place.step == 1 and any(position[lane] % every for lane in vector):
                continue  # on the same line as the one before
            self.line(f"call void @llvm.prefetch.p0(ptr {self._pointer(place, position)}, i32 0, i32 3, i32 1)")

    # ---- loops -------------------------------------------------------------------------------------------------------

    def _loop(self, s: Loop) -> None:
        if s.kind == "thread":
            self._thread(s)
        elif s.kind in ("upcast", "vector"):
            self.in_step(s)
        elif s.kind == "unroll":
            self.unrolled(s)
        elif s.kind == "tree":
            self.tree(s)
        else:
            self.serial(s)

    # ---- math --------------------------------------------------------------------------------------------------------

    def _checked(self, n: UOp, condition: Value, near: UOp) -> Value:
        """The short form of a function where every lane allows it, else the long one."""
        x = self.value(n.src[0])
        whole: str | None = None
        for item in condition.items:
            if condition.wide > 1:
                bits = self.make(f"bitcast <{condition.wide} x i1> {item} to i{condition.wide}", "bits")
                item = self.make(f"icmp eq i{condition.wide} {bits}, -1", "all")
            whole = item if whole is None else self.make(f"and i1 {whole}, {item}", "all")
        assert whole is not None
        shape = TYPES[n.dtype] if x.wide == 1 else f"<{x.wide} x {TYPES[n.dtype]}>"
        slots = [self.name("result") for _ in x.items]
        self.entry += [f"  {slot} = alloca {shape}" for slot in slots]

        def keep(items: tuple[str, ...]) -> None:
            for slot, item in zip(slots, items, strict=True):
                self.line(f"store {shape} {item}, ptr {slot}")

        def short() -> tuple[str, ...]:
            value = self.value(near)
            return tuple(self.item(value, p, x.wide) for p in self.positions(x.axes))

        def long() -> tuple[str, ...]:
            far = self._outlined(n, x.wide)
            items = tuple(self.make(f"call {shape} @{far}({shape} {i})") for i in x.items)
            if n.dtype is dt.float32 or (x.wide == 1 and len(items) == 1):
                return items
            flag = "i1" if x.wide == 1 else f"<{x.wide} x i1>"  # both are right, not the same: each lane has its own
            inside = [self.item(condition, p, x.wide) for p in self.positions(x.axes)]
            return tuple(self.make(f"select {flag} {c}, {shape} {a}, {shape} {b}")
                         for c, a, b in zip(inside, short(), items, strict=True))  # fmt: skip

        self.either(whole, lambda: keep(short()), lambda: keep(long()))
        items = tuple(self.make(f"load {shape}, ptr {slot}") for slot in slots)
        return Value(n.dtype, items, x.axes, x.wide, self.here, volatile=x.volatile)

    def _outlined(self, n: UOp, wide: int) -> str:
        """A function of this module that computes the node's op for every argument, once for all uses."""
        key = n.op, n.dtype, wide
        found = self.names.outlined.get(key)
        if found is None:
            found = self.names.outlined[key] = self.names.name(f"{n.op.value}.far")
            child = _Function(self.names, self.nest, self.functions)
            shape = TYPES[n.dtype] if wide == 1 else f"<{wide} x {TYPES[n.dtype]}>"
            lane = Lane(n.src[0], 1, wide)
            child.open = [lane]
            x = UOp(Op.VAR, n.dtype, (), ("let", -3, "x"))
            child.bound[x] = Value(n.dtype, ("%x",), (lane,) if wide > 1 else (), wide)
            node = n.replace(src=(x,))
            known = expand(node)
            value = child.value(known) if known is not None else child.elementwise(node, [child.bound[x]])
            lines = "\n".join(_flat(child.scopes[0].lines))
            self.functions.append(f"define internal {shape} @{found}({shape} %x) noinline #0 {{\nentry:\n{lines}\n"
                                  f"  ret {shape} {value.items[0]}\n}}")  # fmt: skip
        return found

    # ---- threads -----------------------------------------------------------------------------------------------------

    def _thread(self, s: Loop) -> None:
        """A function for the loop's body, called over chunks of its iterations by the pool."""
        assert not self.open and not self.shows
        child = _Function(self.names, self.nest, self.functions)
        name = self.names.name(f"{self.nest.name}.{s.var.arg[-1]}")
        params = [f"ptr {'noalias ' if p in self.nest.outputs else ''}%arg{n}" for n, p in enumerate(self.nest.params)]
        kinds = ["ptr"] * len(params) + ["ptr"]
        passed = [*(f"%arg{n}" for n in range(len(params))), "%fault"]
        inside = {t.buffer for t in walk((s,)) if isinstance(t, Scratch)}
        free = [v for v in _free(s) if v in self.bound and self.bound[v].constant is None]
        for v in _free(s):
            if v in self.bound and self.bound[v].constant is not None:
                child.bound[v] = self.bound[v]
        for n, v in enumerate(free):
            kinds.append(TYPES[v.dtype])
            passed.append(self.bound[v].items[0])
            child.bound[v] = Value(v.dtype, (f"%in{n}",))
        outer = [b for b in self.slots if b not in self.nest.params and b not in inside]
        for n, b in enumerate(outer):
            kinds.append("ptr")
            passed.append(self.slots[b].pointers.items[0])
            child.slots[b] = Slots(Value(dt.index, (f"%buffer{n}",)))
        whole = replace(s, kind="loop", lo=_LO, hi=_HI)
        child.bound[_LO], child.bound[_HI] = Value(dt.index, ("%lo",)), Value(dt.index, ("%hi",))
        child.body((whole,))
        names = [f"%in{n}" for n in range(len(free))] + [f"%buffer{n}" for n in range(len(outer))]
        own = [f"{k} {n}" for k, n in zip(kinds[len(params) + 1 :], names, strict=True)]
        signature = [*params, "ptr %fault", *own, "i64 %lo", "i64 %hi"]
        self.functions.append(child.finished(name, signature))
        unpack, call = [], []
        for n, kind in enumerate(kinds):
            unpack.append(f"  %at{n} = getelementptr i64, ptr %ctx, i64 {n}\n  %v{n} = load {kind}, ptr %at{n}")
            call.append(f"{kind} %v{n}")
        lo, hi = self.plain(s.lo), self.plain(s.hi)
        n = len(kinds)  # the pool counts from 0, the loop from here
        unpack.append(f"  %at{n} = getelementptr i64, ptr %ctx, i64 {n}\n  %base = load i64, ptr %at{n}")
        unpack += ["  %first = add i64 %from, %base", "  %last = add i64 %to, %base"]
        kinds.append("i64")
        passed.append(lo)
        lines = "\n".join(unpack)
        self.functions.append(
            f"define internal void @{name}.chunk(ptr %ctx, i64 %from, i64 %to) #0 {{\nentry:\n{lines}\n"
            f"  call void @{name}({', '.join(call)}, i64 %first, i64 %last)\n  ret void\n}}"
        )
        block = self.name("context")
        self.entry.append(f"  {block} = alloca [{len(kinds)} x i64], align {ALIGN}")
        for n, (kind, value) in enumerate(zip(kinds, passed, strict=True)):
            at = self.make(f"getelementptr i64, ptr {block}, i64 {n}", "p")
            self.line(f"store {kind} {value}, ptr {at}")
        self.names.declared.add("declare void @rk_parallel(ptr, ptr, i64, i64)")
        count = self.make(f"sub i64 {hi}, {lo}", "n")
        self.line(f"call void @rk_parallel(ptr @{name}.chunk, ptr {block}, i64 {count}, i64 {max(1, s.width)})")

    # ---- guards and prints -------------------------------------------------------------------------------------------

    def _guard(self, s: Guard) -> None:
        ok, value = self.value(s.ok), self.value(cast(s.value, dt.int64))
        other = Value(dt.int64, (str(s.axis),)) if s.other is None else self.value(cast(s.other, dt.int64))
        number = Value(dt.int64, ("-1",)) if s.number is None else self.value(cast(s.number, dt.int64))
        mask = self.active
        for inside in self.masks.values():
            mask = self.both(mask, self.projected(inside))
        axes = self.axes(ok, value, other, mask)
        any_lane = dict.fromkeys(number.axes, 0)  # of what one test stands for, the first
        wide = max((lane.width for lane in axes), default=1)
        for position in self.positions(axes):
            holds, at, beside = self.item(ok, position, wide), self.item(value, position, wide), other.at(position)
            flag = "i1" if wide == 1 else f"<{wide} x i1>"
            fails = self.make(f"xor {flag} {holds}, {'true' if wide == 1 else 'splat (i1 true)'}", "fails")
            if mask is not None:
                fails = self.make(f"and {flag} {fails}, {self.item(mask, position, wide)}", "fails")
            bits = ""
            if wide > 1:
                bits = self.make(f"bitcast {flag} {fails} to i{wide}", "bits")
                fails = self.make(f"icmp ne i{wide} {bits}, 0", "fails")
            which = number.at({**any_lane, **position})
            bad, first, after = self.label("bad"), self.label("first"), self.label("after")
            good = self.make(f"xor i1 {fails}, true", "good")
            self.line(f"br i1 {good}, label %{after}, label %{bad}, !prof !0")
            self.lines.append(f"{bad}:")
            if wide > 1:
                self.names.declared.add(f"declare i{wide} @llvm.cttz.i{wide}(i{wide}, i1)")
                lane = self.make(f"call i{wide} @llvm.cttz.i{wide}(i{wide} {bits}, i1 true)", "lane")
                at = self.make(f"extractelement <{wide} x i64> {at}, i{wide} {lane}", "at")
                if other.wide > 1:
                    beside = self.make(f"extractelement <{wide} x i64> {beside}, i{wide} {lane}", "other")
            if number.wide > 1:
                chosen = f"i{wide} {lane}" if number.wide == wide else "i32 0"
                which = self.make(f"extractelement <{number.wide} x i64> {which}, {chosen}", "which")
            won = self.make(f"cmpxchg ptr %fault, i64 0, i64 {s.access + 1} acq_rel monotonic", "won")
            fresh = self.make(f"extractvalue {{ i64, i1 }} {won}, 1", "fresh")
            self.line(f"br i1 {fresh}, label %{first}, label %{after}")
            self.lines.append(f"{first}:")
            for place, word in ((1, beside), (2, at), (3, which)):
                pointer = self.make(f"getelementptr i64, ptr %fault, i64 {place}", "p")
                self.line(f"store i64 {word}, ptr {pointer}")
            self.line(f"br label %{after}")
            self.lines.append(f"{after}:")

    def _print(self, s: Print) -> None:
        when, value = self.plain(s.when), self.plain(s.value)
        places = [self.plain(i) for i in s.indices]
        after = self._branch(when)
        for place, i in enumerate(places):
            pointer = self.make(f"getelementptr i64, ptr %shown, i64 {place}", "p")
            self.line(f"store i64 {i}, ptr {pointer}")
        bits = raw(self, value, s.value.dtype)
        self.line(f"call void %printer(i64 {s.number}, i64 {len(s.indices)}, ptr %shown, i64 {bits})")
        self._join(after)


def _flat(lines: Lines) -> Iterator[str]:
    stack = [iter(lines)]
    while stack:
        for line in stack[-1]:
            if isinstance(line, list):
                stack.append(iter(line))
                break
            yield line
        else:
            stack.pop()


def _free(s: Loop) -> list[UOp]:
    """The variables a loop's body uses and does not bind, in order of use."""
    used: dict[UOp, None] = {}
    own = {s.var}
    for t in walk(s.body):
        if isinstance(t, (Loop, Let)):
            own.add(t.var)
        for n in operands(t):
            used.update(dict.fromkeys(sorted(variables(n), key=lambda v: v.arg[1])))
    return [v for v in used if v not in own]


def _node(op: Op, dtype: dt.DType, *src: dt.DType) -> UOp:
    """A node that stands for an operation; only its op and dtypes are looked at."""
    return UOp(op, dtype, tuple(UOp(Op.CONST, d, (), d.numpy.type(0).item()) for d in src))


def _WHERE(dtype: dt.DType) -> UOp:
    return _node(Op.WHERE, dtype, dt.bool_, dtype, dtype)


_LO, _HI = (UOp(Op.VAR, dt.index, (), ("let", -n, name)) for n, name in ((1, "lo"), (2, "hi")))
