"""The one kind of node: immutable, hash-consed, weakly interned.

Equal nodes are one object, so ``is`` is equality and a set of nodes is a set of values. A node knows its closed
axes (``shape``) and its open ones (``ranges``); both are computed once, from its sources, when it is made, so
no question about a graph ever recurses. A node has no truth value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op


@dataclass(frozen=True)
class RangeId:
    """What makes a Range itself: a number no other Range has, and the name it prints under."""

    uid: int
    name: str | None = None


@dataclass(frozen=True)
class DimId:
    """A number that a call brings: its name and bounds; the size of that name is ``multiple_of`` times it."""

    name: str
    least: int
    most: int
    multiple_of: int = 1


@dataclass(frozen=True)
class ParamId:
    """An argument: its position, name, sizes, and its strides in elements (None: C order)."""

    slot: int
    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class BufferId:
    """Storage the program owns. ``memory`` is "global", "local" or "register"."""

    uid: int
    name: str
    shape: tuple[int, ...]
    memory: str = "global"


@dataclass(frozen=True)
class Storage:
    """What a bufferize asks for: ``memory`` None is a boundary the compiler may remove; otherwise an order."""

    memory: str | None = None
    name: str | None = None


_NODES: WeakValueDictionary[tuple[Any, ...], UOp] = WeakValueDictionary()
_describe: Callable[[UOp], tuple[tuple[int, ...], frozenset[UOp]]]  # set by spec: (shape, ranges) of a new node
_uids = itertools.count(1)


class UOp:
    """One node of the graph.

    ``op`` says what it does, ``dtype`` what its elements are, ``src`` what it reads, ``arg`` the rest.
    ``shape`` are its closed axes, ``ranges`` the RANGE nodes open around it.
    """

    __slots__ = ("__weakref__", "arg", "dtype", "op", "ranges", "shape", "src")

    op: Op
    dtype: DType
    src: tuple[UOp, ...]
    arg: Any
    shape: tuple[int, ...]
    ranges: frozenset[UOp]

    def __new__(cls, op: Op, dtype: DType, src: tuple[UOp, ...] = (), arg: Any = None) -> UOp:
        # 1, 1.0 and True are equal to Python, 0.0 and -0.0 too, and NaN not even to itself: a constant is its repr.
        key = (op, dtype, src, (type(arg), repr(arg)) if op is Op.CONST else arg)
        node = _NODES.get(key)
        if node is None:
            node = object.__new__(cls)
            node.op, node.dtype, node.src, node.arg = op, dtype, src, arg
            node.shape, node.ranges = _describe(node)
            _NODES[key] = node
        return node

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("op", "dtype", "src", "arg", "shape", "ranges") and hasattr(self, "ranges"):
            raise AttributeError("a UOp is immutable: make another")
        object.__setattr__(self, name, value)

    def __bool__(self) -> NoReturn:
        raise TypeError("a node has no truth value: compare with `is`, or test the node's op")

    def __repr__(self) -> str:
        name = self.op.value if self.arg is None else f"{self.op.value}({self.arg})"
        return f"<{name} {self.dtype} {self.shape} of {len(self.src)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a UOp is not pickled: write it with rangekit.ir.text and parse it back")

    def replace(self, src: tuple[UOp, ...] | None = None, arg: Any = None, dtype: DType | None = None) -> UOp:
        """This node with other sources, arg or dtype."""
        new_src = self.src if src is None else src
        return UOp(self.op, dtype or self.dtype, new_src, self.arg if arg is None else arg)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> UOp:
        """How many iterations a RANGE has, a node: what is known only at the call has DIMs in it."""
        return self.src[-1]

    @property
    def extent(self) -> int:
        """The greatest number of iterations a RANGE may have."""
        return int(self.src[0].arg)

    @property
    def length(self) -> int:
        """The size of a RANGE as shapes hold it: a Dim where it is known only at the call."""
        return self.extent if len(self.src) == 1 else _dim.Dim._of(self.src[1])


def const(value: Any, dtype: DType) -> UOp:
    """A constant of that type; ints wrap to its width, floats round to it."""
    if dtype.kind == "f":
        value = float(value)
        if dtype.bits < 64 and value == value and abs(value) != float("inf"):
            import numpy as np

            with np.errstate(over="ignore"):
                value = float(dtype.numpy.type(value))
    elif dtype.kind == "b":
        value = bool(value)
    elif dtype.kind in "iu":
        value = int(value) & ((1 << dtype.bits) - 1)
        value -= (1 << dtype.bits) if dtype.kind == "i" and value >> (dtype.bits - 1) else 0
    else:
        value = int(value)
    return UOp(Op.CONST, dtype, (), value)


def idx(value: int) -> UOp:
    """An index constant, or the node of a Dim."""
    if isinstance(value, _dim.Dim):
        return value.node
    return UOp(Op.CONST, dt.index, (), int(value))


def new_range(size: int, name: str | None = None) -> UOp:
    """A RANGE that is not any other."""
    sizes = (idx(size.most), size.node) if isinstance(size, _dim.Dim) else (idx(size),)
    return UOp(Op.RANGE, dt.index, sizes, RangeId(next(_uids), name))


def new_fold() -> int:
    """A number for a fold that is not any other's."""
    return next(_uids)


def new_buffer(dtype: DType, shape: tuple[int, ...], name: str, memory: str = "global") -> UOp:
    """A BUFFER that is not any other."""
    return UOp(Op.BUFFER, dtype, (), BufferId(next(_uids), name, shape, memory))


def reserve_uids(top: int) -> None:
    """No node made from now on has a number up to ``top``: a graph read from text has those."""
    global _uids
    _uids = itertools.count(max(next(_uids), top + 1))


def alu(op: Op, *src: UOp) -> UOp:
    """An elementwise node over sources of one type, with the type its op gives."""
    if op in _TO_BOOL:
        return UOp(op, dt.bool_, src)
    return UOp(op, src[1].dtype if op is Op.WHERE else src[0].dtype, src)


_TO_BOOL = frozenset({Op.LT, Op.LE, Op.EQ, Op.NE, Op.ISNAN, Op.ISFINITE})


def cast(x: UOp, dtype: DType) -> UOp:
    """``x`` in another type; constants at once (index to any number type and between equal values only)."""
    if x.dtype is dtype:
        return x
    if x.op is Op.CONST and x.dtype.kind in "bx" and dtype.kind in "iufx":
        return const(x.arg, dtype)
    return UOp(Op.CAST, dtype, (x,))


def by_uid(ranges: Iterable[UOp]) -> tuple[UOp, ...]:
    """Ranges in the order they were made: the one deterministic order of a set of them."""
    return tuple(sorted(ranges, key=lambda r: r.arg.uid))


def toposort(*roots: UOp, into: Callable[[UOp], bool] | None = None) -> list[UOp]:
    """Every node below the roots once, sources before users. ``into(n)`` False keeps out of n's sources."""
    order: list[UOp] = []
    seen: set[UOp] = set()
    stack: list[tuple[UOp, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        if into is None or into(node):
            stack.extend((s, False) for s in reversed(node.src) if s not in seen)
    return order


def live_nodes() -> int:
    """How many nodes exist: a notebook cell that is run again must not make this grow."""
    return len(_NODES)


from rangekit.ir import dim as _dim  # noqa: E402  (both make nodes)
from rangekit.ir import spec as _spec  # noqa: E402  (spec reads UOp; a node cannot be made before it is loaded)

_describe = _spec.describe
