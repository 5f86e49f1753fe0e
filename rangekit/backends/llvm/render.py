"""Print a loop nest as LLVM IR text: one function over a block of pointers. Pure; needs no LLVM.

Every value is in SSA form under a readable name; ``scalar`` says what each op prints as. A gated load selects the
address of a zero instead of touching memory, and so does every load inside its index.
"""

from __future__ import annotations

import math

from rangekit.backends.llvm.convert import cast, raw
from rangekit.backends.llvm.emit import Emitter, literal, memory_type
from rangekit.backends.llvm.scalar import HELPERS, scalar
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, Scratch, Stmt, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp

STACK_BYTES = 1 << 16  # scratch beyond this is taken from the heap
LIKELY = '!0 = !{!"branch_weights", i32 1048575, i32 1}'  # a guard holds


def render(nest: Nest) -> str:
    """The module text: ``@kernel(ptr args, ptr fault)`` unpacks the pointers and calls ``@body``."""
    return _Render(nest).module()


def strides(buffer: UOp) -> tuple[int, ...]:
    """Elements between neighbours along each axis."""
    given = getattr(buffer.arg, "strides", None)
    if given is not None:
        return tuple(given)
    return tuple(math.prod(buffer.shape[axis + 1 :]) for axis in range(len(buffer.shape)))


class _Render(Emitter):
    def __init__(self, nest: Nest) -> None:
        super().__init__()
        self.nest = nest
        self.values: dict[UOp, str] = {}
        self.known: dict[tuple[UOp, str | None], str] = {}  # what the statement has computed, under which gate
        self.gate: str | None = None  # of the index being computed
        self.pointers: dict[UOp, str] = {p: f"%arg{n}" for n, p in enumerate(nest.params)}
        statements = list(walk(nest.body))
        self.scratch = list(dict.fromkeys(s.buffer for s in statements if isinstance(s, Scratch)))
        self.shown = [len(s.indices) for s in statements if isinstance(s, Print)]
        self.guarded = any(isinstance(s, Guard) for s in statements)
        self.heap: list[str] = []

    def module(self) -> str:
        """The whole text. Only parameters can be ``noalias``, so the pointers are those of a second function."""
        head = self._scratch()
        self._body(self.nest.body)
        for pointer in self.heap:
            self.line(f"call void @free(ptr {pointer})")
        body = "\n".join(("entry:", *head, *self.lines, "  ret void"))
        params = [f"ptr {'noalias ' if p in self.nest.outputs else ''}%arg{n}" for n, p in enumerate(self.nest.params)]
        params += ["ptr %printer"] * bool(self.shown) + ["ptr %fault"]
        slots = range(len(params) - 1)
        unpack = [
            f"  %slot{n} = getelementptr ptr, ptr %args, i64 {n}\n  %p{n} = load ptr, ptr %slot{n}" for n in slots
        ]
        passed = ", ".join([*(f"ptr %p{n}" for n in slots), "ptr %fault"])
        entry = "\n".join(("entry:", *unpack, f"  call void @body({passed})", "  ret void"))
        parts = [
            f"; {self.nest.name}",
            f"define internal void @body({', '.join(params)}) alwaysinline {{\n{body}\n}}",
            f"define void @kernel(ptr %args, ptr %fault) {{\n{entry}\n}}",
            *(HELPERS[name] for name in sorted(self.helpers)),
            "\n".join(sorted(self.declared)),
            LIKELY if self.guarded else "",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _scratch(self) -> list[str]:
        """Storage, all of it in the entry block: a stack slot inside a loop would be a new one each iteration."""
        out = ["  %zero = alloca i64", "  store i64 0, ptr %zero"]
        sizes = {b: max(1, math.prod(b.shape)) * b.dtype.itemsize for b in self.scratch}
        arrays = sum(size for b, size in sizes.items() if b.shape)
        for b in self.scratch:
            name = self.pointers[b] = self.name(b.arg.name)
            if b.shape and arrays > STACK_BYTES:
                self.declare("declare ptr @malloc(i64)", "declare void @free(ptr)")
                out.append(f"  {name} = call ptr @malloc(i64 {sizes[b]})")
                self.heap.append(name)
            else:
                out.append(f"  {name} = alloca {memory_type(b.dtype)}, i64 {max(1, math.prod(b.shape))}, align 8")
        if self.shown:
            out.append(f"  %shown = alloca i64, i64 {max(1, *self.shown)}")
        return out

    def _place(self, index: tuple[UOp, ...]) -> tuple[str | None, tuple[UOp, ...]]:
        """The gate under which an index names an element (None: always), and the index without gates."""
        outer, plain = self.gate, []
        for i in index:
            condition = None
            if i.op is Op.INVALID:
                condition, i = "false", UOp(Op.CONST, dt.index, (), 0)
            elif i.op is Op.WHERE and i.src[2].op is Op.INVALID:
                condition, i = self.value(i.src[0]), i.src[1]
            if condition is not None:  # a gate is computed under those before it
                self.gate = condition if self.gate is None else self.make(f"and i1 {self.gate}, {condition}", "gate")
            plain.append(i)
        gate, self.gate = self.gate, outer
        return gate, tuple(plain)

    def _address(self, buffer: UOp, index: tuple[UOp, ...]) -> str:
        linear = "0"
        for i, stride in zip(index, strides(buffer), strict=True):
            at = cast(self, self.value(i), i.dtype, dt.index)
            if at == "0" or stride == 0:
                continue
            step = at if stride == 1 else self.make(f"mul nsw i64 {at}, {stride}", "at")
            linear = step if linear == "0" else self.make(f"add nsw i64 {linear}, {step}", "at")
        return self.make(f"getelementptr {memory_type(buffer.dtype)}, ptr {self.pointers[buffer]}, i64 {linear}", "p")

    def _load(self, n: UOp) -> str:
        buffer, outer = n.src[0], self.gate
        self.gate, index = self._place(n.src[1:])
        pointer = self._address(buffer, index)
        if self.gate is not None:
            pointer = self.make(f"select i1 {self.gate}, ptr {pointer}, ptr %zero", "p")
        self.gate = outer
        kind = memory_type(buffer.dtype)
        loaded = self.make(f"load {kind}, ptr {pointer}, align {buffer.dtype.itemsize}", buffer.arg.name)
        return self.make(f"icmp ne i8 {loaded}, 0", buffer.arg.name) if buffer.dtype is dt.bool_ else loaded

    # ---- expressions -----------------------------------------------------------------------------------------------

    def value(self, n: UOp) -> str:
        """The operand that holds an expression; expressions are shallow."""
        if n.op is Op.VAR:
            return self.values[n]
        if n.op is Op.CONST:
            return literal(n.arg, n.dtype)
        found = self.known.get((n, self.gate))
        if found is None:
            found = self._load(n) if n.op is Op.INDEX else scalar(self, n, [self.value(s) for s in n.src])
            self.known[n, self.gate] = found
        return found

    # ---- statements ------------------------------------------------------------------------------------------------

    def _body(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            self.known.clear()  # what was read may have been written since
            if isinstance(s, Loop):
                self._loop(s)
            elif isinstance(s, Let):
                self.values[s.var] = self.value(s.value)
            elif isinstance(s, Store):
                self._store(s)
            elif isinstance(s, Guard):
                self._guard(s)
            elif isinstance(s, Print):
                self._print(s)

    def _loop(self, s: Loop) -> None:
        lo, hi, name = self.value(s.lo), self.value(s.hi), s.var.arg[-1]
        head, inside, after = (self.label(f"{name}.{part}") for part in ("head", "body", "end"))
        before, var, following = self.current, self.name(name), self.name(f"{name}.next")
        self.line(f"br label %{head}")
        self.block(head)
        at = len(self.lines)
        more = self.make(f"icmp slt i64 {var}, {hi}", f"{name}.more")
        self.line(f"br i1 {more}, label %{inside}, label %{after}")
        self.block(inside)
        self.values[s.var] = var
        self._body(s.body)
        self.line(f"{following} = add nsw i64 {var}, 1")
        self.line(f"br label %{head}")
        self.lines.insert(at, f"  {var} = phi i64 [ {lo}, %{before} ], [ {following}, %{self.current} ]")
        self.block(after)

    def _store(self, s: Store) -> None:
        value, (gate, index), dtype = self.value(s.value), self._place(s.index), s.buffer.dtype
        if gate is not None:
            yes, after = self.label("store"), self.label("after")
            self.line(f"br i1 {gate}, label %{yes}, label %{after}")
            self.block(yes)
        pointer = self._address(s.buffer, index)
        if dtype is dt.bool_:
            value = self.make(f"zext i1 {value} to i8", "b")
        self.line(f"store {memory_type(dtype)} {value}, ptr {pointer}, align {dtype.itemsize}")
        if gate is not None:
            self.line(f"br label %{after}")
            self.block(after)

    def _guard(self, s: Guard) -> None:
        ok, value = self.value(s.ok), cast(self, self.value(s.value), s.value.dtype, dt.int64)
        bad, first, after = self.label("bad"), self.label("first"), self.label("after")
        self.line(f"br i1 {ok}, label %{after}, label %{bad}, !prof !0")
        self.block(bad)
        seen = self.make("load i64, ptr %fault", "seen")
        fresh = self.make(f"icmp eq i64 {seen}, 0", "fresh")
        self.line(f"br i1 {fresh}, label %{first}, label %{after}")
        self.block(first)
        self.line(f"store i64 {s.access + 1}, ptr %fault")
        for place, word in ((1, str(s.axis)), (2, value)):
            pointer = self.make(f"getelementptr i64, ptr %fault, i64 {place}", "p")
            self.line(f"store i64 {word}, ptr {pointer}")
        self.line(f"br label %{after}")
        self.block(after)

    def _print(self, s: Print) -> None:
        when, value = self.value(s.when), self.value(s.value)
        yes, after = self.label("show"), self.label("after")
        self.line(f"br i1 {when}, label %{yes}, label %{after}")
        self.block(yes)
        for place, i in enumerate(s.indices):
            pointer = self.make(f"getelementptr i64, ptr %shown, i64 {place}", "p")
            self.line(f"store i64 {self.value(i)}, ptr {pointer}")
        bits = raw(self, value, s.value.dtype)
        self.line(f"call void %printer(i64 {s.number}, i64 {len(s.indices)}, ptr %shown, i64 {bits})")
        self.line(f"br label %{after}")
        self.block(after)
