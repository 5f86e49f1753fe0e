"""What a function's annotations say of its arrays: dtypes, sizes, names of sizes, and Dims, which calls make known."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rangekit.arguments import Slot
from rangekit.errors import DtypeError, ShapeError
from rangekit.ir.affine import affine
from rangekit.ir.dim import Dim
from rangekit.ir.dtype import ArraySpec
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp
from rangekit.lang.tensor import Array
from rangekit.program import sized


def specs(fn: Callable[..., Any]) -> dict[str, ArraySpec]:
    """The annotations of a function that are about arrays."""
    try:
        found = inspect.get_annotations(fn, eval_str=True)
    except Exception:  # an annotation that means nothing outside a type checker
        found = getattr(fn, "__annotations__", {})
    return {name: spec for name, spec in found.items() if isinstance(spec, ArraySpec)}


def held(found: Mapping[str, ArraySpec], names: list[str], slots: list[Slot], arrays: list[Array]) -> dict[UOp, int]:
    """What each Dim is, once the arguments have the dtypes and sizes annotated.

    Slots with Dims are changed to have those in their shapes: they are one signature, whose arrays lie in C order.
    Errors: ``DtypeError``, ``ShapeError`` naming the argument.
    """
    named: dict[str, tuple[int, str]] = {}
    dims: dict[UOp, int] = {}
    later: list[tuple[str, int, Dim]] = []  # axes whose sizes follow from others
    for name, spec in found.items():
        if name not in names:
            continue
        place = names.index(name)
        slot = slots[place]
        if slot.dtype is not spec.dtype:
            raise DtypeError(
                f"the argument {name} is {slot.dtype}, annotated {spec}",
                help=f"pass {name}.astype({spec.dtype.name!r})",
            )
        if len(slot.shape) != len(spec.dims):
            raise ShapeError(f"the argument {name} has shape {slot.shape}, annotated {spec}")
        shape: list[int] = []
        for size, dim in zip(slot.shape, spec.dims, strict=True):
            if isinstance(dim, Dim):
                shape.append(dim)
                if not _bound(name, dim, size, dims):
                    later.append((name, size, dim))
                continue
            shape.append(size)
            want, who = (dim, name) if isinstance(dim, int) else named.setdefault(dim, (size, name))
            if size != want:
                raise ShapeError(f"the argument {name} has shape {slot.shape}: {dim} is {want} in {who}, {size} here")
        if any(isinstance(size, Dim) for size in shape):
            slots[place] = slot._replace(shape=tuple(shape), strides=None)
            arrays[place] = arrays[place] if slot.strides is None else np.ascontiguousarray(arrays[place])
    for name, size, dim in later:
        (want,) = sized((dim,), dims)
        if size != want:
            raise ShapeError(f"the argument {name} has an axis of size {size}, annotated {dim}, which is {want} here")
    return dims


def _bound(name: str, dim: Dim, size: int, dims: dict[UOp, int]) -> bool:
    """Note what a Dim is, if this axis tells."""
    terms, constant = affine(dim.node)
    ((leaf, factor),) = terms.items() if len(terms) == 1 else ((dim.node, 0),)
    if leaf.op is not Op.DIM or not factor:
        return False
    value, rest = divmod(size - constant, factor)
    unit = leaf.arg.multiple_of
    axis = f"the argument {name} has an axis of size {size}, annotated {dim}: {leaf.arg.name} is"
    if rest or not leaf.arg.least <= value <= leaf.arg.most:
        many = f", a multiple of {unit}" if unit > 1 else ""
        raise ShapeError(f"{axis} from {leaf.arg.least * unit} to {leaf.arg.most * unit}{many}")
    if dims.setdefault(leaf, value) != value:
        raise ShapeError(f"{axis} {dims[leaf] * unit}")
    return True
