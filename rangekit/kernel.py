"""``@rk.kernel``: trace once per signature, lower, compile, cache, run. Introduces the language to the backends."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, overload

import numpy as np

from rangekit import arguments
from rangekit.arguments import Slot
from rangekit.errors import ArgumentError, DeviceError, DtypeError, RangeError, RangekitError, ShapeError
from rangekit.ir.dtype import ArraySpec
from rangekit.ir.ops import Op
from rangekit.ir.text import dump
from rangekit.ir.uop import ParamId, UOp, by_uid, toposort
from rangekit.lang import trace
from rangekit.lang.storage import materialized
from rangekit.lang.tensor import Array, Runtime, Tensor, array_of, home_of, lift, readers, settle, stored
from rangekit.lower.pipeline import wanted
from rangekit.lowered import Lowering
from rangekit.program import Program, device_named
from rangekit.source import Position


class Traced:
    """A compiled signature: the program, and how its results go back to the caller."""

    def __init__(self, program: Program, tree: Any, places: list[int], trace_seconds: float) -> None:
        self.program, self.tree, self.places, self.trace_seconds = program, tree, places, trace_seconds


class Kernel:
    """A function over arrays that runs as compiled loop nests. Made by ``rk.kernel``.

    Call it with NumPy arrays, anything with DLPack or ``__array_interface__``, Tensors, pytrees of these, ints and
    floats; ``out=`` receives the result. Errors: ``ArgumentError`` for arguments that do not fit the function, any
    ``RangekitError`` while it is traced, ``BoundsError`` after a launch.
    """

    def __init__(self, fn: Callable[..., Any], static: tuple[str, ...], device: str | None) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.static = frozenset((static,) if isinstance(static, str) else static)
        self.device = device_named_lazily(device)
        self.signature = inspect.signature(fn)
        unknown = self.static - set(self.signature.parameters)
        if unknown:
            raise ArgumentError(f"static= names {', '.join(sorted(unknown))}, which {self.name} does not take")
        self._specs = _specs(fn)
        self._compiled: dict[Hashable, Traced] = {}
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.fn, "__name__", "kernel")

    def __repr__(self) -> str:
        return f"<kernel {self.name}{self.signature}>"

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if trace.current() is not None:
            return self.fn(*args, **kwargs)  # inside another kernel: part of it
        call = _Call(self, args, kwargs)
        traced = self._traced(call)
        return call.run(traced, out)

    def lower(self, *args: Any, **kwargs: Any) -> Lowering:
        """The program for these arguments, compiled and not run: its nests, stages, kernels and proofs."""
        traced = self._traced(_Call(self, args, kwargs))
        return Lowering(self.name, traced.program, traced.trace_seconds)

    def _traced(self, call: _Call) -> Traced:
        with self._lock:
            traced = self._compiled.get(call.key)
            if traced is None:
                traced = self._compiled[call.key] = call.trace(device_named(self.device))
            return traced


def device_named_lazily(device: str | None) -> str:
    """The device's name, checked; the device itself is loaded at the first call."""
    name = device or "cpu"
    if name not in ("cpu", "llvm", "python"):
        raise DeviceError(f"there is no device {name!r}", help='device= "cpu" or "python"')
    return name


def _specs(fn: Callable[..., Any]) -> dict[str, ArraySpec]:
    try:
        found = inspect.get_annotations(fn, eval_str=True)
    except Exception:  # an annotation that means nothing outside a type checker
        found = getattr(fn, "__annotations__", {})
    return {name: spec for name, spec in found.items() if isinstance(spec, ArraySpec)}


class _Call:
    """One call's arguments, sorted into runtime slots and compile-time values."""

    def __init__(self, kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.kernel = kernel
        try:
            self.bound = kernel.signature.bind(*args, **kwargs)
        except TypeError as err:
            count = len(kernel.signature.parameters)
            raise ArgumentError(
                f"{kernel.name}{kernel.signature} cannot be called so: {err}",
                help=f"it takes {count} argument{'s' if count != 1 else ''}: {kernel.name}{kernel.signature}",
            ) from None
        self.bound.apply_defaults()
        self.values: list[Any] = []
        self.slots: list[Slot] = []
        self.arrays: list[Array] = []
        self.names: list[str] = []
        fixed: list[Any] = []
        for name, value in self.bound.arguments.items():
            if name in kernel.static:
                fixed.append((name, type(value), value))
                continue
            for path, leaf in arguments.leaves(value, name):
                if arguments.is_runtime(leaf):
                    slot, array = arguments.as_slot(path, leaf)
                    self.values.append(leaf)
                    self.slots.append(slot)
                    self.arrays.append(array)
                    self.names.append(path)
                else:
                    fixed.append((path, type(leaf), leaf))
            fixed.append(arguments.structure(value))
        try:
            self.key: Hashable = (tuple(self.slots), tuple(fixed))
            hash(self.key)
        except TypeError:
            bad = next((f for f in fixed if isinstance(f, tuple) and len(f) == 3 and not _hashable(f[2])), fixed[0])
            raise ArgumentError(
                f"the argument {bad[0]} is {bad[1].__name__}, neither an array nor a compile-time value",
                help="pass arrays and numbers; a compile-time value must be hashable, as a tuple is",
            ) from None
        self._check_specs()

    def _check_specs(self) -> None:
        sizes: dict[str, tuple[int, str]] = {}
        for name, spec in self.kernel._specs.items():
            if name not in self.names:
                continue
            slot = self.slots[self.names.index(name)]
            if slot.dtype is not spec.dtype:
                raise DtypeError(
                    f"the argument {name} is {slot.dtype}, annotated {spec}",
                    help=f"pass {name}.astype({spec.dtype.name!r})",
                )
            if len(slot.shape) != len(spec.dims):
                raise ShapeError(f"the argument {name} has shape {slot.shape}, annotated {spec}")
            for size, dim in zip(slot.shape, spec.dims, strict=True):
                want, who = (dim, name) if isinstance(dim, int) else sizes.setdefault(dim, (size, name))
                if size != want:
                    raise ShapeError(
                        f"the argument {name} has shape {slot.shape}: {dim} is {want} in {who}, {size} here"
                    )

    def trace(self, device: Any) -> Traced:
        """Run the function over Tensors and compile what it built."""
        start = time.perf_counter()
        params = [
            UOp(Op.PARAM, s.dtype, (), ParamId(n, name, s.shape, s.strides))
            for n, (s, name) in enumerate(zip(self.slots, _unique(self.names), strict=True))
        ]
        given = iter(
            Tensor(p, None if s.kind == "array" else s.kind)  # type: ignore[arg-type]
            for p, s in zip(params, self.slots, strict=True)
        )
        for name, value in self.bound.arguments.items():
            if name not in self.kernel.static:
                self.bound.arguments[name] = arguments.rebuilt(
                    value, lambda leaf: next(given) if arguments.is_runtime(leaf) else leaf
                )
        with trace.tracing() as running:
            answer = self.kernel.fn(*self.bound.args, **self.bound.kwargs)
            found = [(path, leaf) for path, leaf in arguments.leaves(answer, "")]
            results: list[UOp] = []
            places = [_result(leaf, path, running.positions, results) for path, leaf in found]
        sink = wanted(tuple(results), _effects(running.effects, results))
        seconds = time.perf_counter() - start
        program = Program(sink, device, {**trace.positions_outside(), **running.positions})
        tree = arguments.rebuilt(answer, lambda leaf: None)
        return Traced(program, tree, places, seconds)

    def run(self, traced: Traced, out: Any) -> Any:
        """Launch, and hand the results back in the caller's form."""
        program = traced.program
        self._protect(program)
        storage = program.lowered.outputs
        targets = self._targets(traced, out) if out is not None else []
        inside = {
            storage[place]: target
            for place, target in zip(traced.places, targets, strict=True)
            if storage[place] in program.results and self._fits(target, storage[place])
        } if out is not None else None  # fmt: skip
        made = program.run(self.arrays, inside)
        if out is not None:
            for place, target in zip(traced.places, targets, strict=True):
                if made[place] is not target:
                    np.copyto(target, made[place])
            return out
        form = arguments.result_form(self.values)
        handed: set[int] = set()
        results = iter([self._hand_back(storage[p], made[p], form, handed) for p in traced.places])
        return arguments.rebuilt(traced.tree, lambda _: next(results)) if traced.places else traced.tree

    def _hand_back(self, storage: UOp, array: Array, form: Callable[[Array], Any], handed: set[int]) -> Any:
        if storage.op is Op.PARAM:
            return self.values[storage.arg.slot]
        if id(array) in handed or array_of(storage) is not None:
            array = array.copy()
        handed.add(id(array))
        return form(array)

    def _protect(self, program: Program) -> None:
        for slot in program.written:
            if not self.arrays[slot].flags.writeable:
                raise ArgumentError(
                    f"the argument {self.names[slot]} is written in place, but it is read-only",
                    help=f"pass an array that can be written: {self.names[slot]}.copy()",
                )
            for other, array in enumerate(self.arrays):
                if other != slot and np.may_share_memory(array, self.arrays[slot]):
                    self.arrays[other] = array.copy()

    def _targets(self, traced: Traced, out: Any) -> list[Array]:
        leaves = [leaf for _, leaf in arguments.leaves(out, "out")]
        if arguments.structure(out) != arguments.structure(traced.tree) or len(leaves) != len(traced.places):
            raise ArgumentError(
                "out= does not have the structure of the result",
                help="pass one array for each array the kernel returns, in the same tuples and dicts",
            )
        targets = []
        for leaf, place in zip(leaves, traced.places, strict=True):
            storage = traced.program.lowered.outputs[place]
            array = (
                leaf.numpy()
                if isinstance(leaf, Tensor)
                else leaf
                if isinstance(leaf, np.ndarray)
                else np.from_dlpack(leaf)
            )
            if array.shape != storage.shape:
                raise ShapeError(
                    f"out= has shape {array.shape}, the result {storage.shape}",
                    help=f"pass np.empty({storage.shape}, {storage.dtype.name!r})",
                )
            if array.dtype != storage.dtype.numpy:
                raise DtypeError(
                    f"out= has dtype {array.dtype}, the result {storage.dtype}",
                    help=f"pass np.empty({storage.shape}, {storage.dtype.name!r})",
                )
            if not array.flags.writeable:
                raise ArgumentError("out= is read-only", help="pass an array that can be written, such as a copy()")
            targets.append(array)
        return targets

    def _fits(self, target: Array, storage: UOp) -> bool:
        """Whether a kernel may write its result there while it still reads the arguments."""
        plain = target.flags.c_contiguous and target.flags.aligned
        return plain and not any(np.may_share_memory(target, a) for a in self.arrays)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _unique(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for name in names:
        name = "".join(c if c.isalnum() else "_" for c in name)
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out


def _result(leaf: Any, path: str, positions: Mapping[UOp, Position], results: list[UOp]) -> int:
    """The place among ``results`` of one leaf of what the function returned; its storage is added there."""
    if not isinstance(leaf, Tensor):
        try:
            leaf = lift(leaf)
        except DtypeError:
            raise RangekitError(
                f"a kernel returns Tensors, not {type(leaf).__name__}", help="return the arrays it computes"
            ) from None
    if leaf.node.ranges:
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


@overload
def kernel(fn: Callable[..., Any], /) -> Kernel: ...
@overload
def kernel(
    *, static: str | tuple[str, ...] = (), device: str | None = None
) -> Callable[[Callable[..., Any]], Kernel]: ...
@overload
def kernel(fn: Callable[..., Any], /, *, static: str | tuple[str, ...] = (), device: str | None = None) -> Kernel: ...
def kernel(fn: Callable[..., Any] | None = None, /, *, static: str | tuple[str, ...] = (),
           device: str | None = None) -> Any:  # fmt: skip
    """Compile a function over Tensors into kernels: a decorator, with or without arguments, or a call.

    ``static`` names arguments that are compile-time values, part of the signature. ``device`` is "cpu" (LLVM, the
    default) or "python" (the interpreter).

    >>> import rangekit as rk, numpy as np
    >>> @rk.kernel
    ... def row_sum(x):
    ...     i, j = rk.ranges(*x.shape)
    ...     return rk.bufferize(rk.sum(x[i, j], j), i)
    >>> row_sum(np.ones((2, 3), np.float32))
    array([3., 3.], dtype=float32)
    >>> print(row_sum.lower(np.ones((2, 3), np.float32)))
    for i in 0..2:
        acc = 0.0
        for j in 0..3:
            acc += x[i, j]
        out[i] = acc
    <BLANKLINE>
    """
    names = (static,) if isinstance(static, str) else tuple(static)
    if fn is None:
        return lambda f: Kernel(f, names, device)
    return Kernel(fn, names, device)


# ---- Tensors outside kernels ---------------------------------------------------------------------------------------

_programs: OrderedDict[str, Program] = OrderedDict()
_programs_lock = threading.Lock()
MAX_PROGRAMS = 256


def _realize(x: Tensor) -> None:
    """Compute a lazy Tensor: its concrete arrays become arguments, so equal graphs share one program."""
    if x.node.ranges:
        names = ", ".join(r.arg.name or "_" for r in by_uid(x.node.ranges))
        raise RangeError(f"{names} is open in this value", help=f"close it: rk.bufferize(v, {names})")
    results: list[UOp] = []
    _result(x, "", trace.positions_outside(), results)
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
    key = dump(memo[sink], canonical=True)
    with _programs_lock:
        program = _programs.get(key)
        if program is not None:
            _programs.move_to_end(key)
    if program is None:
        program = Program(memo[sink], device_named("cpu"), positions)
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


Runtime.realize = staticmethod(_realize)
