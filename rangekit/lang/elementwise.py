"""Elementwise functions: a table of the primitive ones, and the composed ones written over it.

Names, promotion and results follow the Python array API standard. ``//`` and ``%`` round down; every function is
total, so nothing in a kernel can trap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rangekit.errors import DtypeError
from rangekit.ir import dtype as dt
from rangekit.ir.bounds import bounds
from rangekit.ir.dtype import DType
from rangekit.ir.ops import MATH, Op
from rangekit.ir.uop import UOp, alu, cast, const, idx
from rangekit.lang.tensor import Tensor, as_dtype, lift, made, method, result_dtype, together

Value = Any  # a Tensor, an array, a NumPy scalar or a Python number


def _need(ok: bool, name: str, dtype: DType, wanted: str) -> None:
    if not ok:
        remedy = "compare first: x != 0" if "condition" in wanted else "convert first: x.astype(rk.int64)"
        raise DtypeError(f"{name} takes {wanted}, not {dtype}", help=remedy)


def _binary(op: Op, a: Value, b: Value) -> Tensor:
    """``op`` over two values brought to one dtype and shape."""
    x, y = lift(a), lift(b)
    nodes, weak = together(x, y)
    dtype = nodes[0].dtype
    if dtype is dt.bool_ and op in (Op.ADD, Op.MUL, Op.MAX, Op.MIN):  # NumPy: sums of bools saturate
        op = Op.OR if op in (Op.ADD, Op.MAX) else Op.AND
    _need(dtype is not dt.bool_ or op not in (Op.SUB, Op.IDIV, Op.MOD, Op.POW), op.value, dtype, "numbers")
    if op is Op.SUB and dtype is dt.index:
        return made(alu(Op.ADD, nodes[0], alu(Op.MUL, nodes[1], idx(-1))), weak)  # one form for index sums
    return made(alu(op, *nodes), weak)


def _compare(op: Op, a: Value, b: Value) -> Tensor:
    values = [lift(a), lift(b)]
    for x, other in (values, values[::-1]):
        if _too_wide(x, other.dtype):
            if other.dtype is dt.uint64:  # what no int64 holds is greater than every index
                other = made(alu(Op.MIN, other.node, const(dt.int64.max, dt.uint64)))
            wide = [v if v is x else other for v in values]
            return made(alu(op, *together(*wide, dtype=dt.index)[0]))
    return made(alu(op, *together(*values)[0]))


def _too_wide(x: Tensor, dtype: DType) -> bool:
    """Whether an index expression has values that an integer type has not: it is compared as a number, not cut."""
    if x.node.dtype is not dt.index or x.node.op is Op.CONST or dtype.kind not in "iu" or dtype is dt.int64:
        return False
    lo, hi = bounds(x.node)
    return not (dtype.min <= lo and hi <= dtype.max)


def _unary(op: Op, a: Value) -> Tensor:
    x = lift(a)
    return made(alu(op, x.node), x.weak)


def _floating(a: Value, *others: Value) -> tuple[list[UOp], bool]:
    """Nodes in a float type (float32 for ints), and whether the result is weak."""
    values = [lift(v) for v in (a, *others)]
    dtype, weak = result_dtype(values)
    if not dtype.is_float:
        dtype, weak = dt.float32, None
    return together(*values, dtype=dtype)[0], weak == "float"


def _float_binary(op: Op, a: Value, b: Value) -> Tensor:
    nodes, weak = _floating(a, b)
    return made(alu(op, *nodes), "float" if weak else None)


def _math(op: Op) -> Callable[[Value], Tensor]:
    def fn(x: Value, /) -> Tensor:
        nodes, weak = _floating(x)
        return made(alu(op, nodes[0]), "float" if weak else None)

    return fn


def _define(name: str, fn: Callable[..., Tensor], doc: str) -> Callable[..., Tensor]:
    fn.__name__ = fn.__qualname__ = name
    fn.__module__ = __name__
    fn.__doc__ = doc
    return fn


# name -> op, what it computes; the argument becomes a float
_MATH_NAMES = {
    "exp": Op.EXP, "expm1": Op.EXPM1, "log": Op.LOG, "log1p": Op.LOG1P, "log2": Op.LOG2, "log10": Op.LOG10,
    "sin": Op.SIN, "cos": Op.COS, "tan": Op.TAN, "asin": Op.ASIN, "acos": Op.ACOS, "atan": Op.ATAN,
    "sinh": Op.SINH, "cosh": Op.COSH, "tanh": Op.TANH, "asinh": Op.ASINH, "acosh": Op.ACOSH, "atanh": Op.ATANH,
    "erf": Op.ERF, "sqrt": Op.SQRT,
}  # fmt: skip
assert set(_MATH_NAMES.values()) == MATH

TABLE: dict[str, Callable[..., Tensor]] = {
    name: _define(name, _math(op), f"{name} of each element, in its float type (float32 for integers).")
    for name, op in _MATH_NAMES.items()
}

_BINARY_NAMES = {
    "add": (Op.ADD, "x + y"), "subtract": (Op.SUB, "x - y"), "multiply": (Op.MUL, "x * y"),
    "maximum": (Op.MAX, "The larger; NaN if either is"), "minimum": (Op.MIN, "The smaller; NaN if either is"),
    "floor_divide": (Op.IDIV, "x / y rounded down; an integer divided by 0 is 0"),
    "remainder": (Op.MOD, "What floor division leaves, with the sign of y; an integer modulo 0 is 0"),
}  # fmt: skip
for _name, (_op, _doc) in _BINARY_NAMES.items():
    TABLE[_name] = _define(_name, lambda x, y, /, _op=_op: _binary(_op, x, y), f"{_doc}, element by element.")


def _pow(x: Value, y: Value, /) -> Tensor:
    """x to the power y; integers wrap, and to a negative power round to zero. A literal 2 is x * x."""
    return square(x) if isinstance(y, (int, float)) and not isinstance(y, bool) and y == 2 else _binary(Op.POW, x, y)


TABLE["pow"] = _define("pow", _pow, _pow.__doc__ or "")

_COMPARE_NAMES = {
    "less": (Op.LT, False), "less_equal": (Op.LE, False), "greater": (Op.LT, True), "greater_equal": (Op.LE, True),
    "equal": (Op.EQ, False), "not_equal": (Op.NE, False),
}  # fmt: skip
for _name, (_op, _swap) in _COMPARE_NAMES.items():
    TABLE[_name] = _define(
        _name,
        lambda x, y, /, _op=_op, _swap=_swap: _compare(_op, y, x) if _swap else _compare(_op, x, y),
        f"Whether x {_name.replace('_', ' ')} y, element by element; bool.",
    )


def divide(x: Value, y: Value, /) -> Tensor:
    """x / y in floating point: of integers in float32."""
    return _float_binary(Op.DIV, x, y)


def atan2(y: Value, x: Value, /) -> Tensor:
    """The angle of the point (x, y), in radians."""
    return _float_binary(Op.ATAN2, y, x)


def negative(x: Value, /) -> Tensor:
    """-x; unsigned integers wrap."""
    value = lift(x)
    _need(value.node.dtype is not dt.bool_, "negative", value.dtype, "numbers")
    if value.node.dtype is dt.index:
        return _binary(Op.MUL, value, -1)
    return _unary(Op.NEG, value)


def positive(x: Value, /) -> Tensor:
    """x."""
    return lift(x)


def abs(x: Value, /) -> Tensor:  # noqa: A001  (the array API name)
    """The absolute value; the least integer wraps to itself."""
    value = lift(x)
    return value if value.node.dtype.kind in "ub" else _unary(Op.ABS, value)


def _bits(op: Op, name: str, logical: bool) -> Callable[[Value, Value], Tensor]:
    def fn(x: Value, y: Value, /) -> Tensor:
        a, b = lift(x), lift(y)
        if logical:
            nodes, _ = together(astype(a, dt.bool_), astype(b, dt.bool_))
            return made(alu(op, *nodes))
        nodes, weak = together(a, b)
        _need(not nodes[0].dtype.is_float, name, nodes[0].dtype, "integers or bools")
        return made(alu(op, *nodes), weak)

    return fn


for _name, _op in {"and": Op.AND, "or": Op.OR, "xor": Op.XOR}.items():
    TABLE[f"bitwise_{_name}"] = _define(
        f"bitwise_{_name}", _bits(_op, f"bitwise_{_name}", False), f"Bitwise {_name} of integers, logical of bools."
    )
    TABLE[f"logical_{_name}"] = _define(f"logical_{_name}", _bits(_op, _name, True), f"Logical {_name}; bool.")


def bitwise_invert(x: Value, /) -> Tensor:
    """Every bit inverted; of a bool, not x."""
    value = lift(x)
    _need(not value.node.dtype.is_float, "bitwise_invert", value.dtype, "integers or bools")
    return _unary(Op.NOT, value)


def logical_not(x: Value, /) -> Tensor:
    """Whether x is zero; bool."""
    return _unary(Op.NOT, astype(lift(x), dt.bool_))


def _shift(op: Op, name: str, x: Value, y: Value) -> Tensor:
    nodes, weak = together(lift(x), lift(y))
    _need(nodes[0].dtype.is_int, name, nodes[0].dtype, "integers")
    return made(alu(op, *nodes), weak)


def bitwise_left_shift(x: Value, y: Value, /) -> Tensor:
    """x << y; past the width 0."""
    return _shift(Op.SHL, "bitwise_left_shift", x, y)


def bitwise_right_shift(x: Value, y: Value, /) -> Tensor:
    """x >> y, keeping the sign; past the width 0 or -1."""
    return _shift(Op.SHR, "bitwise_right_shift", x, y)


def _rounding(op: Op) -> Callable[[Value], Tensor]:
    def fn(x: Value, /) -> Tensor:
        value = lift(x)
        return _unary(op, value) if value.node.dtype.is_float else value

    return fn


for _name, _op in {"floor": Op.FLOOR, "ceil": Op.CEIL, "trunc": Op.TRUNC, "round": Op.ROUND}.items():
    TABLE[_name] = _define(
        _name, _rounding(_op), f"{_name} to an integral value of the same dtype (round: half to even)."
    )


def _constant_for(x: Tensor, value: bool) -> Tensor:
    return made(alu(Op.OR, alu(Op.NE, x.node, x.node), const(True, dt.bool_))) if value else made(
        alu(Op.NE, x.node, x.node)
    )  # fmt: skip


def isnan(x: Value, /) -> Tensor:
    """Whether x is NaN; bool."""
    value = lift(x)
    return _unary_test(Op.ISNAN, value) if value.node.dtype.is_float else _constant_for(value, False)


def isfinite(x: Value, /) -> Tensor:
    """Whether x is neither infinite nor NaN; bool."""
    value = lift(x)
    return _unary_test(Op.ISFINITE, value) if value.node.dtype.is_float else _constant_for(value, True)


def isinf(x: Value, /) -> Tensor:
    """Whether x is infinite; bool."""
    value = lift(x)
    if not value.node.dtype.is_float:
        return _constant_for(value, False)
    inf = const(math.inf, value.node.dtype)
    return made(alu(Op.EQ, alu(Op.ABS, value.node), inf))


def _unary_test(op: Op, x: Tensor) -> Tensor:
    return made(alu(op, x.node))


def where(condition: Value, x: Value, y: Value, /) -> Tensor:
    """x where the condition holds, else y. A load used only under a ``where`` is not made where it does not hold.

    >>> import rangekit as rk
    >>> x, j = rk.asarray([1.0, 2.0, 3.0]), rk.Range(3)
    >>> rk.bufferize(rk.where(j > 0, x[j - 1], 0), j).numpy()
    array([0., 1., 2.], dtype=float32)
    """
    c, a, b = lift(condition), lift(x), lift(y)
    _need(c.node.dtype is dt.bool_, "where", c.dtype, "a bool condition")
    dtype, weak = result_dtype((a, b))
    from rangekit.lang.tensor import broadcast_node, broadcast_shapes, converted

    shape = broadcast_shapes(c.shape, a.shape, b.shape)
    nodes = (c.node, converted(a, dtype), converted(b, dtype))
    return made(alu(Op.WHERE, *(broadcast_node(n, shape) if n.shape else n for n in nodes)), weak)


def astype(x: Value, dtype: Any, /, *, copy: bool = True) -> Tensor:
    """x in another dtype. Floats to integers truncate and saturate, NaN to 0; narrowing integers wrap.

    Errors: ``DtypeError`` if the dtype is unknown.
    """
    return made(cast(lift(x).node, as_dtype(dtype)))


def bitcast(x: Value, dtype: Any, /) -> Tensor:
    """The bits of x read as another dtype of the same width; ``DtypeError`` if the widths differ."""
    value, wanted = lift(x), as_dtype(dtype)
    _need(value.dtype.bits == wanted.bits, "bitcast", value.dtype, f"{wanted.bits}-bit elements")
    from rangekit.lang.tensor import stored

    return made(UOp(Op.BITCAST, wanted, (stored(value),)))


def in_range(x: Value, lo: int, hi: int, /) -> Tensor:
    """x, with the contract lo <= x < hi: assumed by the bounds prover, checked once when the kernel runs.

    Errors: ``BoundsError`` after the launch, with the offending value.
    """
    value = lift(x)
    _need(value.node.dtype.is_int, "in_range", value.dtype, "integers")
    from rangekit.lang.tensor import converted

    bounds = [converted(lift(v), value.node.dtype) for v in (lo, hi)]
    return made(UOp(Op.IN_RANGE, value.node.dtype, (value.node, *bounds)), value.weak)


# ---- composed ------------------------------------------------------------------------------------------------------


def square(x: Value, /) -> Tensor:
    """x * x."""
    value = lift(x)
    return _binary(Op.MUL, value, value)


def reciprocal(x: Value, /) -> Tensor:
    """1 / x."""
    return divide(1, x)


def rsqrt(x: Value, /) -> Tensor:
    """1 / sqrt(x)."""
    return divide(1, TABLE["sqrt"](x))


def sign(x: Value, /) -> Tensor:
    """-1, 0 or 1 with the sign of x; NaN of NaN."""
    v = lift(x)
    one, zero = const(1, v.node.dtype), const(0, v.node.dtype)
    below = (
        alu(Op.WHERE, alu(Op.LT, v.node, zero), const(-1, v.node.dtype), v.node) if v.node.dtype.kind != "u" else v.node
    )
    return made(alu(Op.WHERE, alu(Op.LT, zero, v.node), one, below), v.weak)


def signbit(x: Value, /) -> Tensor:
    """Whether the sign is set (of -0.0 and -NaN too); bool."""
    v = lift(x)
    if not v.node.dtype.is_float:
        return TABLE["less"](v, 0)
    from rangekit.lang.tensor import stored

    node = stored(v)
    bits = dt.dtype_named(f"int{node.dtype.bits}")
    return made(alu(Op.LT, UOp(Op.BITCAST, bits, (node,)), const(0, bits)))


def copysign(x: Value, y: Value, /) -> Tensor:
    """The magnitude of x with the sign of y."""
    (a, b), weak = _floating(x, y)
    flip = alu(Op.NE, signbit(Tensor(a)).node, signbit(Tensor(b)).node)
    return made(alu(Op.WHERE, flip, alu(Op.NEG, a), a), "float" if weak else None)


def hypot(x: Value, y: Value, /) -> Tensor:
    """sqrt(x*x + y*y) without overflow on the way; inf if either is infinite."""
    (a, b), _ = _floating(x, y)
    ax, ay = alu(Op.ABS, a), alu(Op.ABS, b)
    big, small = alu(Op.MAX, ax, ay), alu(Op.MIN, ax, ay)
    one, zero, inf = (const(v, a.dtype) for v in (1, 0, math.inf))
    ratio = alu(Op.DIV, small, alu(Op.WHERE, alu(Op.EQ, big, zero), one, big))
    root = alu(Op.MUL, big, alu(Op.SQRT, alu(Op.ADD, one, alu(Op.MUL, ratio, ratio))))
    infinite = alu(Op.OR, alu(Op.EQ, ax, inf), alu(Op.EQ, ay, inf))
    return made(alu(Op.WHERE, infinite, inf, root))


def logaddexp(x: Value, y: Value, /) -> Tensor:
    """log(exp(x) + exp(y)) without overflow on the way."""
    (a, b), _ = _floating(x, y)
    big, small = alu(Op.MAX, a, b), alu(Op.MIN, a, b)
    gap = alu(Op.SUB, small, big)
    value = alu(Op.ADD, big, alu(Op.LOG1P, alu(Op.EXP, gap)))
    return made(alu(Op.WHERE, alu(Op.EQ, a, b), alu(Op.ADD, a, const(math.log(2), a.dtype)), value))


def clip(x: Value, /, min: Value | None = None, max: Value | None = None) -> Tensor:
    """x held between min and max (either may be None), in the dtype of x."""
    out = lift(x)
    if min is not None:
        out = TABLE["maximum"](out, min)
    return out if max is None else TABLE["minimum"](out, max)


def relu(x: Value, /) -> Tensor:
    """max(x, 0)."""
    return TABLE["maximum"](x, 0)


def sigmoid(x: Value, /) -> Tensor:
    """1 / (1 + exp(-x))."""
    return divide(1, TABLE["add"](1, TABLE["exp"](negative(x))))


def _operator(fn: Callable[..., Tensor], swapped: bool = False) -> Callable[..., Any]:
    def op(self: Tensor, other: Any) -> Tensor:
        return fn(other, self) if swapped else fn(self, other)

    return op


_OPERATORS = {
    "add": TABLE["add"], "sub": TABLE["subtract"], "mul": TABLE["multiply"], "truediv": divide,
    "floordiv": TABLE["floor_divide"], "mod": TABLE["remainder"], "pow": TABLE["pow"],
    "and": TABLE["bitwise_and"], "or": TABLE["bitwise_or"], "xor": TABLE["bitwise_xor"],
    "lshift": bitwise_left_shift, "rshift": bitwise_right_shift,
}  # fmt: skip
for _name, _fn in _OPERATORS.items():
    method(f"__{_name}__")(_operator(_fn))
    method(f"__r{_name}__")(_operator(_fn, swapped=True))
for _name, _other in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
                      "ne": "not_equal"}.items():  # fmt: skip
    method(f"__{_name}__")(_operator(TABLE[_other]))
_SIGNS: dict[str, Callable[[Value], Tensor]] = {
    "neg": negative, "pos": positive, "abs": abs, "invert": bitwise_invert,
}  # fmt: skip
for _name, _sign in _SIGNS.items():
    method(f"__{_name}__")(lambda self, _sign=_sign: _sign(self))
_METHODS: tuple[Callable[..., Tensor], ...] = (astype, in_range, clip, sigmoid, relu)
for _function in _METHODS:
    method(_function.__name__)(_function)
for _name in ("exp", "log", "sqrt", "sin", "cos", "tanh"):
    method(_name)(TABLE[_name])
