"""``Tensor``: the only value type. A graph node with closed axes (``shape``) and open ranges (``ranges``).

A Tensor is lazy and immutable as a value; ``x[...] = v`` gives the *name* another value. Operators and methods are
attached by the modules that define them (``elementwise``, ``reduce``, ``movement``, ``indexing``), so that each
operation is written once, as a function.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import numpy as np

from rangekit.errors import DtypeError, RangekitError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dim import Dim, most
from rangekit.ir.dtype import DType
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp, by_uid, cast, const, new_buffer, toposort
from rangekit.lang import trace
from rangekit.source import assigned_names

F = TypeVar("F")
Weak = Literal["int", "float"] | None
Array = np.ndarray[Any, np.dtype[Any]]

_arrays: WeakKeyDictionary[UOp, Array] = WeakKeyDictionary()  # the memory behind concrete BUFFER nodes
_lazy: WeakSet[Tensor] = WeakSet()  # Tensors made outside kernels


class Runtime:
    """The one slot through which Tensors run; ``rangekit.kernel`` fills it."""

    realize: ClassVar[Callable[[Tensor], None]]


class Tensor:
    """A value of the language: elements of one dtype over closed axes, with ranges open around it.

    Made by the functions of this package, never directly. Nothing is computed before ``numpy()``, ``realize()``,
    ``item()``, ``np.asarray``, DLPack, or a kernel call.

    >>> import rangekit as rk
    >>> x = rk.asarray([[1.0, 2.0], [3.0, 4.0]])
    >>> i = rk.Range(2)
    >>> x[i].shape, x[i].ranges == (i,)
    ((2,), True)
    >>> rk.bufferize(rk.sum(x[i]), i).numpy()
    array([3., 7.], dtype=float32)
    """

    __slots__ = ("__weakref__", "_home", "_node", "_weak")
    __array_priority__ = 1000  # NumPy hands `ndarray + Tensor` to us

    if TYPE_CHECKING:  # attached by the modules that define them; here for type checkers and editors

        def __add__(self, other: Any, /) -> Tensor: ...
        def __radd__(self, other: Any, /) -> Tensor: ...
        def __sub__(self, other: Any, /) -> Tensor: ...
        def __rsub__(self, other: Any, /) -> Tensor: ...
        def __mul__(self, other: Any, /) -> Tensor: ...
        def __rmul__(self, other: Any, /) -> Tensor: ...
        def __truediv__(self, other: Any, /) -> Tensor: ...
        def __rtruediv__(self, other: Any, /) -> Tensor: ...
        def __floordiv__(self, other: Any, /) -> Tensor: ...
        def __rfloordiv__(self, other: Any, /) -> Tensor: ...
        def __mod__(self, other: Any, /) -> Tensor: ...
        def __rmod__(self, other: Any, /) -> Tensor: ...
        def __pow__(self, other: Any, /) -> Tensor: ...
        def __rpow__(self, other: Any, /) -> Tensor: ...
        def __and__(self, other: Any, /) -> Tensor: ...
        def __rand__(self, other: Any, /) -> Tensor: ...
        def __or__(self, other: Any, /) -> Tensor: ...
        def __ror__(self, other: Any, /) -> Tensor: ...
        def __xor__(self, other: Any, /) -> Tensor: ...
        def __rxor__(self, other: Any, /) -> Tensor: ...
        def __lshift__(self, other: Any, /) -> Tensor: ...
        def __rlshift__(self, other: Any, /) -> Tensor: ...
        def __rshift__(self, other: Any, /) -> Tensor: ...
        def __rrshift__(self, other: Any, /) -> Tensor: ...
        def __matmul__(self, other: Any, /) -> Tensor: ...
        def __rmatmul__(self, other: Any, /) -> Tensor: ...
        def __lt__(self, other: Any, /) -> Tensor: ...
        def __le__(self, other: Any, /) -> Tensor: ...
        def __gt__(self, other: Any, /) -> Tensor: ...
        def __ge__(self, other: Any, /) -> Tensor: ...
        def __eq__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __getitem__(self, key: Any, /) -> Tensor: ...
        def __setitem__(self, key: Any, value: Any, /) -> None: ...
        @property
        def T(self) -> Tensor: ...
        @property
        def mT(self) -> Tensor: ...
        def astype(self, dtype: Any, /) -> Tensor: ...
        def in_range(self, lo: int, hi: int, /) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def permute_dims(self, *axes: Any) -> Tensor: ...
        def sum(self, *ranges: Any, **options: Any) -> Tensor: ...
        def prod(self, *ranges: Any, **options: Any) -> Tensor: ...
        def max(self, *ranges: Any, **options: Any) -> Tensor: ...
        def min(self, *ranges: Any, **options: Any) -> Tensor: ...
        def any(self, *ranges: Any, **options: Any) -> Tensor: ...
        def all(self, *ranges: Any, **options: Any) -> Tensor: ...
        def mean(self, *ranges: Any, **options: Any) -> Tensor: ...
        def argmax(self, *ranges: Any, **options: Any) -> Tensor: ...
        def argmin(self, *ranges: Any, **options: Any) -> Tensor: ...
        def softmax(self, *ranges: Any, **options: Any) -> Tensor: ...
        def logsumexp(self, *ranges: Any, **options: Any) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def sin(self) -> Tensor: ...
        def cos(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def relu(self) -> Tensor: ...
        def sigmoid(self) -> Tensor: ...
        def flip(self, *args: Any, **options: Any) -> Tensor: ...
        def squeeze(self, *args: Any, **options: Any) -> Tensor: ...
        def expand_dims(self, *args: Any, **options: Any) -> Tensor: ...
        def pad(self, *args: Any, **options: Any) -> Tensor: ...
        def broadcast_to(self, *args: Any, **options: Any) -> Tensor: ...
        def clip(self, *args: Any, **options: Any) -> Tensor: ...

    def __init__(self, node: UOp, weak: Weak = None) -> None:
        self._node = node
        self._weak: Weak = "int" if node.dtype is dt.index else weak
        self._home: Array | None = None  # memory that a write outside a kernel goes to when this is realized
        if trace.current() is None:
            _lazy.add(self)

    @property
    def node(self) -> UOp:
        """The graph below this value."""
        return self._node

    @property
    def weak(self) -> Weak:
        """Either "int" or "float" where the dtype gives way to the other operand's, as a Python literal's does."""
        return self._weak

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the closed axes."""
        return self._node.shape

    @property
    def ndim(self) -> int:
        """How many closed axes there are."""
        return len(self._node.shape)

    @property
    def size(self) -> int:
        """Elements of the closed axes."""
        return math.prod(self._node.shape)

    @property
    def dtype(self) -> DType:
        """The element type; of an index int64, of a weak float float32: what it is stored as."""
        return stored_dtype(self)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """The open ranges, in the order they were made."""
        return tuple(Range._of(r) for r in by_uid(self._node.ranges))

    @property
    def device(self) -> str:
        """Where its elements are, or will be."""
        return "cpu"

    @property
    def nbytes(self) -> int:
        """Bytes of the closed axes when stored."""
        return self.size * self.dtype.itemsize

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The module that holds the array API functions for this type."""
        import sys

        return sys.modules[__name__.partition(".")[0]]

    def __repr__(self) -> str:
        if (array := _arrays.get(self._node)) is not None:
            shown = np.array2string(array, threshold=20, separator=", ", prefix="Tensor(")
            return f"Tensor({shown}, dtype={self.dtype})"
        opened = f", ranges=({', '.join(r.name or '_' for r in self.ranges)})" if self._node.ranges else ""
        return f"Tensor(shape={self.shape}, dtype={self.dtype}{opened})"

    __hash__ = object.__hash__  # == is elementwise, so identity is what a Tensor hashes by

    # ---- running -----------------------------------------------------------------------------------------------

    def realize(self) -> Tensor:
        """Compute the value now and keep it; returns this Tensor.

        Errors: ``RangeError`` if ranges are open; ``BoundsError`` if a guarded access was out of bounds.
        """
        if self._node not in _arrays:
            if trace.current() is not None:
                raise RangekitError(
                    "a value inside a kernel is not known while the kernel is traced",
                    help="return it from the kernel, or show it with rk.print(...); for np.exp(x) write rk.exp(x)",
                )
            Runtime.realize(self)
        return self

    def numpy(self) -> Array:
        """The elements as a NumPy array; shares memory where the Tensor has memory already."""
        return _arrays[self.realize()._node]

    def item(self) -> bool | int | float:
        """The one element, as a Python value; ``ShapeError`` if there are more or none."""
        if self.size != 1:
            raise ShapeError(f"item() needs exactly one element, shape {self.shape} has {self.size}")
        value: bool | int | float = self.numpy().reshape(()).astype(object).item()
        return value if not isinstance(value, np.generic) else value.item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.numpy().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    def __float__(self) -> float:
        return float(_concrete(self, "float()"))

    def __int__(self) -> int:
        return int(_concrete(self, "int()"))

    def __bool__(self) -> bool:
        return bool(_concrete(self, "a Python condition"))

    def __index__(self) -> int:
        if trace.current() is not None or self._node.ranges:
            what = "a Range" if isinstance(self, Range) else "a traced value"
            raise DtypeError(
                f"{what} is used where Python needs an int: it is not one number, it runs over many",
                help="index a Tensor with it, not a list or NumPy array: rk.asarray(values)[i]",
            )
        return int(_concrete(self, "an index"))

    def __iter__(self) -> Iterator[Tensor]:
        what = "a Range" if isinstance(self, Range) else "a Tensor"
        raise RangekitError(
            f"{what} is not iterated by Python: its elements are not known while it is traced",
            help=f"write no loop: what is written with i = rk.Range({self.extent}) holds for every i"
            if isinstance(self, Range)
            else "open an axis with a Range: i = rk.Range(x.shape[0]); x[i]",
        )

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError(
                "len() of a Tensor without closed axes", help="the size of a Range i is i.extent, of open ranges theirs"
            )
        return self.shape[0]


class Range(Tensor):
    """A loop index and its extent: an integer Tensor of shape (), open until it is closed or reduced.

    ``Range(n)`` runs over 0 .. n-1. It takes the name of the variable it is assigned to; ``name`` overrides. Two
    Ranges are never the same binding, whatever their sizes. Errors: ``RangeError`` if ``n`` is not an int >= 0.

    >>> import rangekit as rk
    >>> i = rk.Range(3)
    >>> rk.bufferize(i * i, i).numpy()
    array([0, 1, 4])
    """

    __slots__ = ()

    def __init__(self, n: int, name: str | None = None) -> None:
        from rangekit.lang.ranges import make_range

        found = None if name is not None else assigned_names(1)
        super().__init__(make_range(n, name if name is not None else found[0] if found else None))
        _ranges[self._node.arg.uid] = self

    @classmethod
    def _of(cls, node: UOp) -> Range:
        made = _ranges.get(node.arg.uid)
        if made is None:
            made = object.__new__(cls)
            Tensor.__init__(made, node)
            _ranges[node.arg.uid] = made
        return made

    def __new__(cls, n: int, name: str | None = None) -> Range:
        return object.__new__(cls)

    @property
    def extent(self) -> int:
        """How many values it runs over."""
        return self._node.length

    @property
    def name(self) -> str | None:
        """The name it prints under."""
        name: str | None = self._node.arg.name
        return name

    def __repr__(self) -> str:
        return f"Range({self.extent}, name={self.name!r})"


_ranges: WeakValueDictionary[int, Range] = WeakValueDictionary()  # by uid: one object a Range while it lives


def _concrete(x: Tensor, what: str) -> Any:
    if trace.current() is not None or x._node.ranges:
        raise RangekitError(
            f"{what} needs one value now, but this one is traced: it stands for every iteration at once",
            help="for `if c`: rk.where(c, a, b)\n"
            "for `0 <= i < n`: (0 <= i) & (i < n); for `and`, `or`, `not`: &, |, ~\n"
            "for min(i, j), max(i, j): rk.minimum(i, j), rk.maximum(i, j)"
            if "condition" in what
            else "leave it a Tensor: for math.exp(x) write rk.exp(x), for float(x) x.astype(rk.float32)",
        )
    return x.item()


def stored_dtype(x: Tensor) -> DType:
    """What a value is stored as: indices and weak ints int64, weak floats float32."""
    if x._weak == "float":
        return dt.float32
    return dt.int64 if x._node.dtype is dt.index else x._node.dtype


def stored(x: Tensor) -> UOp:
    """The node of ``x`` in its stored dtype."""
    return cast(x.node, stored_dtype(x))


# ---- making Tensors ------------------------------------------------------------------------------------------------


def made(node: UOp, weak: Weak = None) -> Tensor:
    """A Tensor over a node, with the user's line noted."""
    return Tensor(trace.note(node), weak)


def from_array(array: Array, name: str = "data") -> Tensor:
    """A concrete Tensor over an array's memory; ``DtypeError`` if its dtype has no counterpart."""
    dtype = dt.from_numpy(array.dtype)
    if dtype is None:
        raise DtypeError(
            f"arrays of {array.dtype} are not supported",
            help="use one of " + ", ".join(d.name for d in dt.STORED) + ", in native byte order",
        )
    node = new_buffer(dtype, array.shape, name)
    _arrays[node] = array
    return Tensor(node)


def array_of(node: UOp) -> Array | None:
    """The memory behind a BUFFER node made from an array, or None."""
    return _arrays.get(node)


def settle(x: Tensor, array: Array) -> None:
    """Make ``x`` concrete: from now on it is the value in ``array``."""
    x._node = from_array(array)._node
    x._weak = x._home = None


def rebind(x: Tensor, node: UOp, home: Array | None = None) -> None:
    """Give the Python object ``x`` another value (``x[...] = v``), which belongs in ``home`` once it is known."""
    x._node, x._home = node, home


def home_of(x: Tensor) -> Array | None:
    """The memory that ``x`` is, or is to be written to."""
    return x._home if x._home is not None else _arrays.get(x._node)


def readers(memory: Array) -> list[Tensor]:
    """Tensors not yet computed that read an array: they want its contents as they are now."""
    found = []
    for t in list(_lazy):
        if t._node in _arrays or t._node.ranges:
            continue
        sources = (_arrays.get(n) for n in toposort(t._node) if n.op is Op.BUFFER)
        if any(a is not None and np.may_share_memory(a, memory) for a in sources):
            found.append(t)
    return found


def lift(value: Any) -> Tensor:
    """A Tensor of anything that may stand beside one in an expression.

    Python ints and floats are weak; NumPy scalars and arrays are strong. Errors: ``DtypeError`` for the rest.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Dim):
        return Tensor(value.node, "int")
    if isinstance(value, (bool, np.bool_)):
        return Tensor(const(bool(value), dt.bool_))
    if isinstance(value, int):
        if not dt.int64.min <= value <= dt.uint64.max:
            raise DtypeError(f"the integer {value} does not fit in 64 bits")
        return Tensor(UOp(Op.CONST, dt.index, (), value), "int")
    if isinstance(value, float) and not isinstance(value, np.generic):
        return Tensor(const(value, dt.float64), "float")
    if isinstance(value, np.generic):
        scalar = dt.from_numpy(value.dtype)
        if scalar is not None:
            return Tensor(const(value.item(), scalar))
    if isinstance(value, np.ndarray):
        return from_array(value)
    if hasattr(value, "__dlpack__"):
        return from_array(np.from_dlpack(value))
    if hasattr(value, "__array_interface__"):
        return from_array(np.asarray(value))
    kind = type(value).__name__
    raise DtypeError(
        f"a {kind} stands where an array belongs: {reprlib.repr(value)}",
        help="make it an array first: rk.asarray([...])" if isinstance(value, (list, tuple)) else
        "use a Tensor, a NumPy array or a number",
    )  # fmt: skip


def as_dtype(dtype: Any) -> DType:
    """The DType of a DType, its name, a NumPy dtype or a Python number type; ``DtypeError`` if there is none."""
    if isinstance(dtype, DType):
        return dtype
    if dtype in (float, int, bool):
        return {float: dt.float32, int: dt.int64, bool: dt.bool_}[dtype]
    try:
        known = dt.dtype_named(dtype) if isinstance(dtype, str) else dt.from_numpy(np.dtype(dtype))
    except (KeyError, TypeError):
        known = None
    if known is None or known not in dt.STORED:
        raise DtypeError(f"unknown dtype {dtype!r}", help="one of " + ", ".join(d.name for d in dt.STORED))
    return known


# ---- types and shapes of operands ----------------------------------------------------------------------------------


def result_dtype(values: Iterable[Tensor]) -> tuple[DType, Weak]:
    """The dtype in which these values meet, and whether it stays weak.

    Errors: ``DtypeError`` where the promotion table has no answer.
    """
    strong: DType | None = None
    weak: set[Weak] = set()
    weak_dtype: DType = dt.index
    for x in values:
        if x.weak:
            weak.add(x.weak)
            if x.node.dtype is not dt.index and (weak_dtype is dt.index or x.node.dtype.bits > weak_dtype.bits
                                                 or x.node.dtype.is_float > weak_dtype.is_float):  # fmt: skip
                weak_dtype = x.node.dtype
            continue
        both = x.node.dtype if strong is None else dt.promote(strong, x.node.dtype)
        if both is None:
            raise DtypeError(f"no common dtype of {strong} and {x.node.dtype}", help="convert one with x.astype(...)")
        strong = both
    if strong is None:
        if "float" in weak:
            indices = any(x.weak == "int" and x.node.op is not Op.CONST for x in values)
            return (dt.float32 if indices or weak_dtype is dt.float32 else dt.float64), "float"
        return weak_dtype if all(x.node.dtype is not dt.index for x in values) else dt.index, "int"
    if "float" in weak and not strong.is_float:
        return dt.float32, None
    if weak and strong is dt.bool_:
        return dt.int64, "int"
    return strong, None


def converted(x: Tensor, dtype: DType) -> UOp:
    """The node of ``x`` in ``dtype``; a literal that does not fit is a ``DtypeError``."""
    node = x.node
    if node.op is Op.CONST and x.weak and node.dtype is not dtype:
        if x.weak == "int" and dtype.kind in "iu" and not dtype.min <= node.arg <= dtype.max:
            raise DtypeError(
                f"the integer {node.arg} does not fit in {dtype}, which holds {dtype.min} to {dtype.max}",
                help=f"convert the other operand to a wider type, or write rk.asarray({node.arg})",
            )
        return const(node.arg, dtype)
    return cast(node, dtype)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape all of these broadcast to (NumPy's rule); ``ShapeError`` if there is none.

    >>> broadcast_shapes((3, 1), (4,))
    (3, 4)
    """
    out: list[int] = []
    for back in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {s[-back] for s in shapes if len(s) >= back} - {1}
        if len(sizes) > 1:
            listed = " and ".join(map(str, dict.fromkeys(s for s in shapes if s)))
            raise ShapeError(
                f"shapes {listed} do not broadcast: axis -{back} is {' and '.join(map(str, sorted(sizes, key=most)))}",
                help="axes must be equal or 1, counted from the last; x[:, None] adds an axis",
            )
        out.append(sizes.pop() if sizes else 1)
    return tuple(reversed(out))


def broadcast_node(node: UOp, shape: tuple[int, ...]) -> UOp:
    """``node`` with its closed axes expanded to ``shape``, which they must broadcast to."""
    if node.shape == shape:
        return node
    aligned = (1,) * (len(shape) - node.ndim) + node.shape
    if aligned != node.shape:
        node = UOp(Op.RESHAPE, node.dtype, (node,), aligned)
    return node if aligned == shape else UOp(Op.EXPAND, node.dtype, (node,), shape)


def together(*values: Tensor, dtype: DType | None = None) -> tuple[list[UOp], Weak]:
    """Nodes of one dtype and one shape (a value without closed axes may stay so), ready for an elementwise op."""
    weak: Weak = None
    if dtype is None:
        dtype, weak = result_dtype(values)
    shape = broadcast_shapes(*(v.shape for v in values))
    nodes = (converted(v, dtype) for v in values)
    return [n if not n.shape else broadcast_node(n, shape) for n in nodes], weak


def method(name: str) -> Callable[[F], F]:
    """Attach a function (or property) to Tensor under that name, as a method or operator."""

    def attach(fn: F) -> F:
        setattr(Tensor, name, fn)
        return fn

    return attach
