"""Sizes that are known when a kernel is called: expressions over named unknowns, each between two ints.

A ``Dim`` stands where an int does in a shape. It is equal to nothing but the same expression (never to 1, so it does
not broadcast), it compares where its bounds decide, and where Python needs a number it says that there is none yet.
Passes that only estimate, or reserve, take ``most``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rangekit.errors import ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.ops import Op
from rangekit.ir.uop import DimId, UOp, alu, idx

LARGEST = 1 << 31  # of a size, where no other bound is given: offsets of any array that fits in memory stay in 64 bits
if TYPE_CHECKING:
    _Number = int  # to a type checker it is one of the ints that a shape holds
else:
    _Number = object


class Dim(_Number):
    """A size known at call time: between ``min`` and ``max``, a multiple of ``multiple_of``.

    Written in annotations (``rk.f32[N, 64]``), as the size of a Range, and in arithmetic with ints and other Dims. A
    kernel whose arguments have Dims in their annotations is compiled once, for every size within the bounds.
    Errors: ``ShapeError`` for bounds that hold no multiple, and where a number is needed or a comparison that the
    bounds do not decide.

    >>> import rangekit as rk, numpy as np
    >>> N = rk.Dim("N", max=1000)
    >>> @rk.kernel
    ... def total(x: rk.f32[N]):
    ...     return rk.sum(x)
    >>> float(total(np.ones(3, "f4"))), float(total(np.ones(999, "f4")))
    (3.0, 999.0)
    >>> N + 1, 2 * N > N
    (N + 1, True)
    """

    __slots__ = ("node",)
    node: UOp

    def __new__(cls, name: str, min: int = 1, max: int = LARGEST, multiple_of: int = 1) -> Dim:
        if not (isinstance(name, str) and name.isidentifier()):
            raise ShapeError(f"a Dim is named by an identifier, not {name!r}", help='rk.Dim("N", max=4096)')
        if multiple_of < 1 or min < 0:
            raise ShapeError(f"Dim({name!r}, min={min}, multiple_of={multiple_of}): sizes are 0 or more")
        least, most = -(-min // multiple_of), max // multiple_of
        if least > most:
            raise ShapeError(f"no multiple of {multiple_of} lies in {min}..{max}, the bounds of the Dim {name!r}")
        leaf = UOp(Op.DIM, dt.index, (), DimId(name, least, most, multiple_of))
        return cls._of(leaf if multiple_of == 1 else alu(Op.MUL, leaf, idx(multiple_of)))  # type: ignore[return-value]

    @classmethod
    def _of(cls, node: UOp) -> int:
        """The size that an index expression over Dims is: an int where it is one."""
        from rangekit.ir.symbolic import simplify

        node = simplify(node)
        if node.op is Op.CONST:
            return int(node.arg)
        made = object.__new__(cls)
        made.node = node
        return made

    @property
    def least(self) -> int:
        """The smallest value it may have."""
        return self._span()[0]

    @property
    def most(self) -> int:
        """The greatest value it may have."""
        return self._span()[1]

    def _span(self) -> tuple[int, int]:
        from rangekit.ir.bounds import bounds

        lo, hi = bounds(self.node)
        return int(lo), int(hi)

    def __repr__(self) -> str:
        from rangekit.ir.show import expression

        return expression(self.node)

    def __hash__(self) -> int:
        return hash(self.node)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and other.node is self.node

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __reduce__(self) -> Any:
        raise TypeError("a Dim is not pickled: it belongs to the program that names it")

    # ---- arithmetic ------------------------------------------------------------------------------------------------

    def _with(self, op: Op, other: Any, swapped: bool = False) -> Any:
        if isinstance(other, bool) or not hasattr(other, "__index__") or hasattr(other, "ranges"):
            return NotImplemented
        mine, theirs = self.node, idx(other)
        return Dim._of(alu(op, theirs, mine) if swapped else alu(op, mine, theirs))

    def __add__(self, other: int) -> int:
        return self._with(Op.ADD, other)  # type: ignore[no-any-return]

    def __radd__(self, other: int) -> int:
        return self._with(Op.ADD, other)  # type: ignore[no-any-return]

    def __sub__(self, other: int) -> int:
        return self._with(Op.ADD, other if other is NotImplemented else -other)  # type: ignore[no-any-return]

    def __rsub__(self, other: int) -> int:
        return (-self).__add__(other)

    def __mul__(self, other: int) -> int:
        return self._with(Op.MUL, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: int) -> int:
        return self._with(Op.MUL, other)  # type: ignore[no-any-return]

    def __floordiv__(self, other: int) -> int:
        return self._with(Op.IDIV, other)  # type: ignore[no-any-return]

    def __rfloordiv__(self, other: int) -> int:
        return self._with(Op.IDIV, other, swapped=True)  # type: ignore[no-any-return]

    def __mod__(self, other: int) -> int:
        return self._with(Op.MOD, other)  # type: ignore[no-any-return]

    def __rmod__(self, other: int) -> int:
        return self._with(Op.MOD, other, swapped=True)  # type: ignore[no-any-return]

    def __neg__(self) -> int:
        return Dim._of(alu(Op.MUL, self.node, idx(-1)))

    # ---- what is decided by bounds ---------------------------------------------------------------------------------

    def _before(self, other: Any, strict: bool) -> bool:
        """Whether it is less than (or equal to, unless ``strict``) another size, whatever it is."""
        gap = other - self
        least, greatest = (gap.least, gap.most) if isinstance(gap, Dim) else (gap, gap)
        if least >= int(strict):
            return True
        if greatest < int(strict):
            return False
        sign = "<" if strict else "<="
        raise ShapeError(
            f"whether {self} {sign} {other} is not known before the call: {self} is {self.least} to {self.most}",
            help="give the Dim narrower bounds, or leave the question to the kernel: rk.where(i < n, ...)",
        )

    def __lt__(self, other: Any) -> bool:
        return self._before(other, True)

    def __le__(self, other: Any) -> bool:
        return self._before(other, False)

    def __gt__(self, other: Any) -> bool:
        return not self._before(other, False)

    def __ge__(self, other: Any) -> bool:
        return not self._before(other, True)

    def __bool__(self) -> bool:
        return self > 0

    def __index__(self) -> int:
        raise ShapeError(
            f"a number is needed here, but {self} is known only at the call ({self.least} to {self.most})",
            help="pass a size that is an int, or leave the Dim out of the annotation: then every size is compiled anew",
        )


def most(size: int) -> int:
    """The greatest that a size may be."""
    return size.most if isinstance(size, Dim) else size


def least(size: int) -> int:
    """The smallest that a size may be."""
    return size.least if isinstance(size, Dim) else size


def capacity(shape: Iterable[int]) -> int:
    """The greatest number of elements that a shape may have."""
    return math.prod(most(s) for s in shape)


def symbolic(shape: Iterable[int]) -> bool:
    """Whether a shape has a size that is not known before the call."""
    return any(isinstance(s, Dim) for s in shape)
