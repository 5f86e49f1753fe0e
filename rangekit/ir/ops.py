"""The ops: every kind of node there is, and the groups the passes talk about.

What each op *means* is ``evaluate``; what a well-formed node of it looks like is its row in ``spec``.
"""

from __future__ import annotations

from enum import Enum


class Op(Enum):
    """A kind of node. The text form spells it in lower case."""

    # index world
    CONST = "const"  # arg: the value
    RANGE = "range"  # arg: RangeId; src: the greatest size, the size if that is known only at the call
    DIM = "dim"  # arg: DimId; a number known at the call
    INVALID = "invalid"  # the index of no element: loads 0, stores nothing
    GUARD = "guard"  # src: an index, or a value and one; arg: (access or None, axis, size); to be proved, or guarded
    CLAIM = "claim"  # src: two integers; arg: access or None; that they are equal, to be tested at run time
    VAR = "var"  # a name bound by a statement of a loop nest

    # memory
    PARAM = "param"  # arg: ParamId; an argument of the kernel
    BUFFER = "buffer"  # arg: BufferId; storage the program owns
    INDEX = "index"  # src: value, one index per leading axis
    BUFFERIZE = "bufferize"  # src: value, the ranges it closes; arg: Storage
    ASSIGN = "assign"  # src: base, place, value, the ranges it closes; arg: how; the base with new contents
    STORE = "store"  # src: place, value, the ranges it closes; arg: how

    # reduction
    REDUCE = "reduce"  # src: values, the ranges it consumes; arg: the reducer's name, or its Formula
    GET = "get"  # arg: k; one value of a reduction over tuples, or of a fold
    FOLD = "fold"  # src: first states, next states, the range it consumes; arg: (number, how many states, reducer)
    SCAN = "scan"  # src: as a fold, a value before the range; that value of each iteration, along a closed axis
    STATE = "state"  # src: the range, the ranges around; arg: (fold's number, k, shape, name); one state as it comes in

    # structure
    PRINT = "print"  # src: value, condition, the ranges it closes; arg: label
    KERNEL = "kernel"  # src: stores and prints, or kernels one after another; arg: name
    SINK = "sink"  # src: everything a program does

    # closed-axis movement: gone after rangeify
    RESHAPE = "reshape"  # arg: shape
    PERMUTE = "permute"  # arg: order
    EXPAND = "expand"  # arg: shape
    PAD = "pad"  # arg: ((before, after), ...); pads with 0
    SHRINK = "shrink"  # arg: ((start, size, step), ...), steps are positive
    FLIP = "flip"  # arg: the flipped axes

    # one value from others, element by element
    CAST = "cast"
    BITCAST = "bitcast"
    WHERE = "where"
    FMA = "fma"  # src: a, b, c; a * b + c, rounded once
    IN_RANGE = "in_range"  # src: x, lo, hi; x, with the promise lo <= x < hi; arg how that is known, if it is

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"  # of floats
    IDIV = "idiv"  # floor division; by zero: 0 for ints
    MOD = "mod"  # of floor division; by zero: 0 for ints
    MAX = "max"  # propagates NaN
    MIN = "min"
    POW = "pow"
    ATAN2 = "atan2"
    AND = "and"
    OR = "or"
    XOR = "xor"
    SHL = "shl"
    SHR = "shr"
    LT = "lt"
    LE = "le"
    EQ = "eq"
    NE = "ne"

    NEG = "neg"
    NOT = "not"
    ABS = "abs"
    ISNAN = "isnan"
    ISFINITE = "isfinite"
    FLOOR = "floor"
    CEIL = "ceil"
    TRUNC = "trunc"
    ROUND = "round"  # half to even
    SQRT = "sqrt"
    EXP = "exp"
    EXPM1 = "expm1"
    LOG = "log"
    LOG1P = "log1p"
    LOG2 = "log2"
    LOG10 = "log10"
    SIN = "sin"
    COS = "cos"
    TAN = "tan"
    ASIN = "asin"
    ACOS = "acos"
    ATAN = "atan"
    SINH = "sinh"
    COSH = "cosh"
    TANH = "tanh"
    ASINH = "asinh"
    ACOSH = "acosh"
    ATANH = "atanh"
    ERF = "erf"

    def __repr__(self) -> str:
        return self.name


# Identity hashing: members are singletons, and Enum's own hash is a slow Python call in every interned key.
Op.__hash__ = object.__hash__  # type: ignore[method-assign]

ARITH = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.MAX, Op.MIN})  # numbers of one type, to that type
INT_ARITH = frozenset({Op.IDIV, Op.MOD})  # also floats
FLOAT_BINARY = frozenset({Op.DIV, Op.ATAN2})
BITS = frozenset({Op.AND, Op.OR, Op.XOR})  # ints and bool
SHIFTS = frozenset({Op.SHL, Op.SHR})
COMPARE = frozenset({Op.LT, Op.LE, Op.EQ, Op.NE})  # to bool
TESTS = frozenset({Op.ISNAN, Op.ISFINITE})  # float to bool
ROUNDING = frozenset({Op.FLOOR, Op.CEIL, Op.TRUNC, Op.ROUND})
MATH = frozenset(
    {
        Op.SQRT, Op.EXP, Op.EXPM1, Op.LOG, Op.LOG1P, Op.LOG2, Op.LOG10, Op.SIN, Op.COS, Op.TAN, Op.ASIN, Op.ACOS,
        Op.ATAN, Op.SINH, Op.COSH, Op.TANH, Op.ASINH, Op.ACOSH, Op.ATANH, Op.ERF,
    }
)  # fmt: skip
UNARY = frozenset({Op.NEG, Op.NOT, Op.ABS}) | TESTS | ROUNDING | MATH
BINARY = ARITH | INT_ARITH | FLOAT_BINARY | {Op.POW} | BITS | SHIFTS | COMPARE
TERNARY = frozenset({Op.FMA})  # floats of one type, to that type
ELEMENTWISE = UNARY | BINARY | TERNARY | {Op.CAST, Op.BITCAST, Op.WHERE, Op.IN_RANGE}
MOVEMENT = frozenset({Op.RESHAPE, Op.PERMUTE, Op.EXPAND, Op.PAD, Op.SHRINK, Op.FLIP})
STORAGE = frozenset({Op.PARAM, Op.BUFFER, Op.BUFFERIZE, Op.ASSIGN})
LOOPS = frozenset({Op.REDUCE, Op.FOLD, Op.SCAN})  # what becomes a loop of its own
EXPENSIVE = (MATH - {Op.SQRT}) | {Op.POW, Op.ATAN2} | LOOPS
COMMUTATIVE = frozenset({Op.ADD, Op.MUL, Op.MAX, Op.MIN, Op.AND, Op.OR, Op.XOR, Op.EQ, Op.NE})
