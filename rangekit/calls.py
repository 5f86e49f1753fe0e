"""One call's arguments, sorted into runtime slots and compile-time values, and its results.

This is the way every kind of argument takes; plain arrays and numbers take the native entry of ``direct`` instead.
Whatever memory the arguments, the captured arrays and ``out=`` share, a kernel runs as if they shared none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from rangekit import annotated, arguments
from rangekit.arguments import Slot
from rangekit.backends.device import Device
from rangekit.errors import ArgumentError, DtypeError, ShapeError
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp
from rangekit.lang.tensor import Array, Tensor, array_of, from_array
from rangekit.lower.pipeline import Options
from rangekit.program import Program, sized
from rangekit.traced import Traced, traced


class Form:
    """What a function takes: its signature, the names that are compile-time values, the annotated arrays."""

    def __init__(self, fn: Callable[..., Any], name: str, static: frozenset[str]) -> None:
        self.fn, self.name, self.static = fn, name, static
        self.signature = inspect.signature(fn)
        unknown = static - set(self.signature.parameters)
        if unknown:
            raise ArgumentError(f"static= names {', '.join(sorted(unknown))}, which {name} does not take")
        self.specs = annotated.specs(fn)
        kinds = {p.kind for p in self.signature.parameters.values()}
        positional = kinds <= {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
        self.plain = tuple(self.signature.parameters) if positional else None  # of arguments that stand in order

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        """The value of each parameter, defaults included; ``ArgumentError`` if the call does not fit."""
        if self.plain is not None and not kwargs and len(args) == len(self.plain):
            return dict(zip(self.plain, args, strict=True))
        return self.bound(args, kwargs).arguments

    def bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The same as the function takes it."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as err:
            count = len(self.signature.parameters)
            raise ArgumentError(
                f"{self.name}{self.signature} cannot be called so: {err}",
                help=f"it takes {count} argument{'s' if count != 1 else ''}: {self.name}{self.signature}",
            ) from None
        bound.apply_defaults()
        return bound


class Call:
    """The arguments of one call. ``key`` tells signatures apart; ``arrays`` has the memory of each slot."""

    def __init__(self, form: Form, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.form = form
        self.bound = form.values(args, kwargs)
        self.values: list[Any] = []
        self.slots: list[Slot] = []
        self.arrays: list[Array] = []
        self.names: list[str] = []
        fixed: list[Any] = []
        for name, value in self.bound.items():
            if name in form.static:
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
        self.sizes: dict[UOp, int] = {}
        if form.specs:
            self.sizes = annotated.held(form.specs, self.names, self.slots, self.arrays)
        try:
            self.key: Hashable = (tuple(self.slots), tuple(fixed))
            hash(self.key)
        except TypeError:
            bad = next((f for f in fixed if isinstance(f, tuple) and len(f) == 3 and not _hashable(f[2])), fixed[0])
            raise ArgumentError(
                f"the argument {bad[0]} is {bad[1].__name__}, neither an array nor a compile-time value",
                help="pass arrays and numbers; a compile-time value must be hashable, as a tuple is",
            ) from None

    def trace(self, device: Device, options: Options) -> Traced:
        """The program for these arguments."""

        def call(given: Callable[[], Tensor]) -> Any:
            bound = inspect.BoundArguments(self.form.signature, dict(self.bound))
            for name, value in self.bound.items():
                if name not in self.form.static:
                    bound.arguments[name] = arguments.rebuilt(
                        value, lambda leaf: given() if arguments.is_runtime(leaf) else leaf
                    )
            return self.form.fn(*bound.args, **bound.kwargs)

        return traced(call, self.slots, self.names, device, options)

    def run(self, made: Traced, out: Any) -> Any:
        """Launch, and hand the results back in the caller's form."""
        program = made.program
        given = self._apart(program)
        storage = program.lowered.outputs
        targets = self._targets(made, out) if out is not None else []
        for place, target in zip(made.places, targets, strict=False):
            if storage[place] in program.results and self._fits(program, target):
                given[storage[place]] = target
        results = program.run(self.arrays, given, sizes=self.sizes)
        self._write_back(program)
        if out is not None:
            for place, target in zip(made.places, targets, strict=True):
                if results[place] is not target:
                    np.copyto(target, results[place])
            return out
        form = arguments.result_form(self.values)
        handed: set[int] = set()
        leaves = iter([self._hand_back(storage[p], results[p], form, handed) for p in made.places])
        return arguments.rebuilt(made.tree, lambda _: next(leaves)) if made.places else made.tree

    def _hand_back(self, storage: UOp, array: Array, form: Callable[[Array], Any], handed: set[int]) -> Any:
        if storage.op is Op.PARAM:
            return self.values[storage.arg.slot]
        if id(array) in handed or array_of(storage) is not None:
            array = array.copy()
        handed.add(id(array))
        return form(array)

    def _apart(self, program: Program) -> dict[UOp, Array]:
        """Copy what shares memory with an array that is written; captured arrays so replaced are returned."""
        given: dict[UOp, Array] = {}
        for slot in program.written:
            if not arguments.memory(self.names[slot], self.values[slot]).flags.writeable:
                raise ArgumentError(
                    f"the argument {self.names[slot]} is written in place, but it is read-only",
                    help=f"pass an array that can be written: {self.names[slot]}.copy()",
                )
            for other, array in enumerate(self.arrays):
                if other != slot and np.may_share_memory(array, self.arrays[slot]):
                    self.arrays[other] = copied(array)
            for p, array in program.captured.items():
                if p not in program.overwritten and np.may_share_memory(array, self.arrays[slot]):
                    given[p] = array.copy()
        for p in program.overwritten:
            for slot, array in enumerate(self.arrays):
                if np.may_share_memory(array, program.captured[p]):
                    self.arrays[slot] = copied(array)
        return given

    def _write_back(self, program: Program) -> None:
        """What was written to the copy of an argument that kernels cannot address goes where it belongs."""
        for slot in program.written:
            theirs = arguments.memory(self.names[slot], self.values[slot])
            if not np.may_share_memory(theirs, self.arrays[slot]):
                np.copyto(theirs, self.arrays[slot])

    def _targets(self, made: Traced, out: Any) -> list[Array]:
        leaves = [leaf for _, leaf in arguments.leaves(out, "out")]
        if arguments.structure(out) != arguments.structure(made.tree) or len(leaves) != len(made.places):
            raise ArgumentError(
                "out= does not have the structure of the result",
                help="pass one array for each array the kernel returns, in the same tuples and dicts",
            )
        places = (made.program.lowered.outputs[p] for p in made.places)
        return [_target(leaf, p, sized(p.shape, self.sizes)) for leaf, p in zip(leaves, places, strict=True)]

    def _fits(self, program: Program, target: Array) -> bool:
        """Whether a kernel may write its result there while it still reads the arguments."""
        plain = target.flags.c_contiguous and target.flags.aligned
        return plain and not any(np.may_share_memory(target, a) for a in (*self.arrays, *program.captured.values()))


def copied(array: Array) -> Array:
    """A copy of the same strides, which are part of the signature."""
    low, high = np.lib.array_utils.byte_bounds(array)
    start = array.__array_interface__["data"][0] - low
    copy = np.ndarray(array.shape, array.dtype, np.empty(high - low, np.uint8), start, array.strides)
    copy[...] = array
    return copy


def inlined(form: Form, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
    """A call inside another kernel is part of that kernel: what the function returns, arrays among its arguments read
    as Tensors.
    """
    if out is not None:
        raise ArgumentError(
            f"out= of {form.name} is given inside another kernel, where results are values and have no memory",
            help=f"write x[...] = {form.name}(...), or pass out= to the outer kernel",
        )
    bound = form.bound(args, kwargs)
    for name, value in bound.arguments.items():
        if name not in form.static:
            bound.arguments[name] = arguments.rebuilt(value, _lifted)
    return form.fn(*bound.args, **bound.kwargs)


def _lifted(leaf: Any) -> Any:
    known = not arguments.is_runtime(leaf) or isinstance(leaf, (Tensor, int, float, np.generic))
    return leaf if known else from_array(arguments.memory("of a kernel inside another", leaf))


def _target(leaf: Any, storage: UOp, shape: tuple[int, ...]) -> Array:
    """The array that a leaf of ``out=`` is, if a result can be put there."""
    array = leaf.numpy() if isinstance(leaf, Tensor) else leaf if isinstance(leaf, np.ndarray) else np.from_dlpack(leaf)
    like = f"pass np.empty({shape}, {storage.dtype.name!r})"
    if array.shape != shape:
        raise ShapeError(f"out= has shape {array.shape}, the result {shape}", help=like)
    if array.dtype != storage.dtype.numpy:
        raise DtypeError(f"out= has dtype {array.dtype}, the result {storage.dtype}", help=like)
    if not array.flags.writeable:
        raise ArgumentError("out= is read-only", help="pass an array that can be written, such as a copy()")
    return array


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
