"""What a kernel is called with: pytrees of arrays and numbers, as slots for the launch and as a signature.

An array whose layout the kernels can address is passed without a copy. Results take the form of the arguments: with
a Tensor among them Tensors, with a torch tensor torch tensors, otherwise NumPy arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from rangekit.errors import DtypeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.lang.tensor import Array, Tensor, from_array

Leaf = tuple[str, Any]  # its path as a name, the value


class Slot(NamedTuple):
    """One runtime argument as the signature sees it. ``kind`` is "array", "int" or "float" (the weak numbers)."""

    kind: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None


def leaves(value: Any, name: str) -> Iterator[Leaf]:
    """The leaves of a pytree (tuple, list, dict, dataclass), each under a printable name."""
    children = _children(value)
    if children is None:
        yield name, value
        return
    for key, child in children:
        yield from leaves(child, f"{name}_{key}" if name else str(key))


def rebuilt(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The same pytree with every leaf replaced, in the order ``leaves`` gives them."""
    children = _children(value)
    if children is None:
        return leaf(value)
    new = [rebuilt(child, leaf) for _, child in children]
    if isinstance(value, dict):
        return dict(zip(value, new, strict=True))
    if isinstance(value, (tuple, list)):
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    return dataclasses.replace(value, **{key: v for (key, _), v in zip(children, new, strict=True)})


def _children(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, (tuple, list)):
        return [(str(n), v) for n, v in enumerate(value)]
    if isinstance(value, dict):
        return [(str(k), v) for k, v in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, DType)):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None


def structure(value: Any) -> Hashable:
    """What two pytrees of one form have in common: their containers and keys."""
    children = _children(value)
    if children is None:
        return None
    return type(value), tuple((key, structure(child)) for key, child in children)


def is_runtime(value: Any) -> bool:
    """Whether a leaf is passed at each launch; the others are compile-time and part of the signature."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return True
    if isinstance(value, (int, float)):
        return not isinstance(value, bool)
    return hasattr(value, "__dlpack__") or hasattr(value, "__array_interface__")


def as_slot(name: str, value: Any) -> tuple[Slot, Array]:
    """The signature and the memory of one runtime leaf; ``DtypeError`` if its dtype is unknown."""
    if type(value) is np.ndarray:
        return array_slot(name, value)
    if isinstance(value, int):
        if not dt.int64.min <= value <= dt.int64.max:
            raise DtypeError(f"the argument {name} = {value} does not fit in int64")
        return Slot("int", dt.int64, (), None), np.array(value, np.int64)
    if isinstance(value, float) and not isinstance(value, np.generic):
        return Slot("float", dt.float64, (), None), np.array(value, np.float64)
    return array_slot(name, memory(name, value))


def memory(name: str, value: Any) -> Array:
    """The array that a runtime leaf is, as it lies; ``DtypeError`` if there is no way to it."""
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as err:
            raise DtypeError(f"the argument {name} cannot be read through DLPack: {err}") from err
    return np.asarray(value)


_dtype_of = cache(dt.from_numpy)


def array_slot(name: str, array: Array) -> tuple[Slot, Array]:
    """An array as an argument: as it lies where kernels can address it, else copied."""
    dtype = _dtype_of(array.dtype)
    if dtype is None and (dtype := _dtype_of(array.dtype.newbyteorder("="))) is not None:
        array = array.astype(dtype.numpy)
    if dtype is None:
        raise DtypeError(
            f"the argument {name} has dtype {array.dtype}, which kernels do not take",
            help="convert it to one of " + ", ".join(d.name for d in dt.STORED),
        )
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return Slot("array", dtype, array.shape, None), array
    if not flags.aligned or any(s % dtype.itemsize for s in array.strides):
        return Slot("array", dtype, array.shape, None), array.copy()
    return Slot("array", dtype, array.shape, tuple(s // dtype.itemsize for s in array.strides)), array


def result_form(values: Sequence[Any]) -> Callable[[Array], Any]:
    """How results are handed back, from the runtime arguments."""
    kinds = {type(v) for v in values}
    if any(issubclass(kind, Tensor) for kind in kinds):
        return from_array
    if any(kind.__module__.partition(".")[0] == "torch" for kind in kinds):
        import torch  # the caller has it: an argument is one of its tensors

        return torch.from_numpy  # type: ignore[no-any-return]
    return lambda array: array
