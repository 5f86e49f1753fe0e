"""Print a loop nest as LLVM IR text: one function over a block of pointers. Pure; needs no LLVM.

Every value is in SSA form under a readable name; ``scalar`` says what each op prints as. A gated load selects the
address of a zero instead of touching memory.
"""

from __future__ import annotations

import math

from rangekit.backends.llvm.scalar import HELPERS, TYPES, Emitter, memory_type
from rangekit.ir import dtype as dt
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, Scratch, Stmt, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp

STACK_BYTES = 1 << 16  # scratch beyond this is taken from the heap


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
        self.pointers: dict[UOp, str] = {p: f"%arg{n}" for n, p in enumerate(nest.params)}
        self.scratch = list(dict.fromkeys(s.buffer for s in walk(nest.body) if isinstance(s, Scratch)))
        self.heap: list[str] = []

    def module(self) -> str:
        """The whole text."""
        head = self._scratch()
        self._body(self.nest.body)
        for pointer in self.heap:
            self.line(f"call void @free(ptr {pointer})")
        params = [f"ptr {'noalias ' if p in self.nest.outputs else ''}%arg{n}" for n, p in enumerate(self.nest.params)]
        params += ["ptr %fault", "ptr %printer"]
        body = "\n".join(("entry:", *head, *self.lines, "  ret void"))
        calls = []
        names = []
        for n in range(len(params) - 2 + bool(self.nest.prints)):
            calls.append(f"  %slot{n} = getelementptr ptr, ptr %args, i64 {n}\n  %p{n} = load ptr, ptr %slot{n}")
            names.append(f"ptr %p{n}")
        count = len(self.nest.params)
        passed = [*names[:count], "ptr %fault", names[count] if self.nest.prints else "ptr null"]
        entry = "\n".join(("entry:", *calls, f"  call void @body({', '.join(passed)})", "  ret void"))
        texts = [f"define internal void @body({', '.join(params)}) alwaysinline {{\n{body}\n}}",
                 f"define void @kernel(ptr %args, ptr %fault) {{\n{entry}\n}}"]  # fmt: skip
        texts += [HELPERS[name] for name in sorted(self.helpers)]
        return "\n\n".join([f"; {self.nest.name}", *texts, "\n".join(sorted(self.declared))]) + "\n"

    # ---- memory ----------------------------------------------------------------------------------------------------

    def _scratch(self) -> list[str]:
        out = ["  %zero = alloca i64", "  store i64 0, ptr %zero"]
        sizes = {b: max(1, math.prod(b.shape)) * b.dtype.itemsize for b in self.scratch}
        arrays = sum(size for b, size in sizes.items() if b.shape)
        for b in self.scratch:
            name = self.name(b.arg.name)
            self.pointers[b] = name
            if b.shape and arrays > STACK_BYTES:
                self.declare("declare ptr @malloc(i64)", "declare void @free(ptr)")
                out.append(f"  {name} = call ptr @malloc(i64 {sizes[b]})")
                self.heap.append(name)
            else:
                out.append(f"  {name} = alloca {memory_type(b.dtype)}, i64 {max(1, math.prod(b.shape))}, align 8")
        if any(p for p in self.nest.prints):
            most = max(len(s.indices) for s in walk(self.nest.body) if isinstance(s, Print))
            out.append(f"  %shown = alloca i64, i64 {max(1, most)}")
        return out

    def _address(self, buffer: UOp, index: tuple[str, ...]) -> str:
        linear = "0"
        for i, stride in zip(index, strides(buffer), strict=True):
            if i == "0" or stride == 0:
                continue
            step = i if stride == 1 else self.make(f"mul nsw i64 {i}, {stride}", "at")
            linear = step if linear == "0" else self.make(f"add nsw i64 {linear}, {step}", "at")
        return self.make(f"getelementptr {memory_type(buffer.dtype)}, ptr {self.pointers[buffer]}, i64 {linear}", "p")

    def _load(self, n: UOp) -> str:
        buffer, index = n.src[0], n.src[1:]
        gate = None
        if index and index[0].op is Op.WHERE and index[0].src[2].op is Op.INVALID:
            gate = self.value(index[0].src[0])
            index = (index[0].src[1], *index[1:])
        pointer = self._address(buffer, tuple(self.value(i) for i in index))
        kind = memory_type(buffer.dtype)
        if gate is not None:
            pointer = self.make(f"select i1 {gate}, ptr {pointer}, ptr %zero", "p")
        loaded = self.make(f"load {kind}, ptr {pointer}, align {buffer.dtype.itemsize}", buffer.arg.name)
        if buffer.dtype is dt.bool_:
            return self.make(f"icmp ne i8 {loaded}, 0", buffer.arg.name)
        return loaded

    def _store(self, s: Store) -> None:
        value = self.value(s.value)
        index, gate = s.index, None
        if index and index[0].op is Op.WHERE and index[0].src[2].op is Op.INVALID:
            gate = self.value(index[0].src[0])
            index = (index[0].src[1], *index[1:])
        if gate is not None:
            yes, after = self.label("store"), self.label("after")
            self.line(f"br i1 {gate}, label %{yes}, label %{after}")
            self.block(yes)
        pointer = self._address(s.buffer, tuple(self.value(i) for i in index))
        if s.buffer.dtype is dt.bool_:
            value = self.make(f"zext i1 {value} to i8", "b")
        self.line(f"store {memory_type(s.buffer.dtype)} {value}, ptr {pointer}, align {s.buffer.dtype.itemsize}")
        if gate is not None:
            self.line(f"br label %{after}")
            self.block(after)

    # ---- expressions -----------------------------------------------------------------------------------------------

    def value(self, n: UOp) -> str:
        """The operand that holds an expression; expressions are shallow."""
        if n.op is Op.VAR:
            return self.values[n]
        if n.op is Op.CONST:
            return self.constant(n.arg, n.dtype)
        if n.op is Op.INDEX:
            return self._load(n)
        return self.scalar(n, [self.value(s) for s in n.src])

    # ---- statements ------------------------------------------------------------------------------------------------

    def _body(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
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

    def _guard(self, s: Guard) -> None:
        ok, value = self.value(s.ok), self.value(s.value)
        bad, first, after = self.label("bad"), self.label("first"), self.label("after")
        self.line(f"br i1 {ok}, label %{after}, label %{bad}")
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
        bits = self.bits(value, s.value.dtype)
        self.line(f"call void %printer(i64 {s.number}, i64 {len(s.indices)}, ptr %shown, i64 {bits})")
        self.line(f"br label %{after}")
        self.block(after)


assert set(TYPES) >= set(dt.STORED)
