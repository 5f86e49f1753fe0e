"""rangekit: a declarative kernel language. Explicit ranges, one graph, kernels that show themselves.

>>> import rangekit as rk, numpy as np
>>> @rk.kernel
... def double(x):
...     i = rk.Range(x.shape[0])
...     return rk.bufferize(2 * x[i], i)
>>> double(np.arange(3, dtype=np.float32))
array([0., 2., 4.], dtype=float32)
"""

import math as _math

from rangekit.backends.memory import memory_stats
from rangekit.backends.threads import get_num_threads, set_num_threads
from rangekit.errors import (
    ArgumentError,
    BoundsError,
    CompileError,
    DataError,
    DeviceError,
    DtypeError,
    RaceError,
    RangeError,
    RangekitError,
    ScheduleError,
    ShapeError,
)
from rangekit.homonyms import pad, tile
from rangekit.ir.dim import Dim
from rangekit.ir.dtype import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from rangekit.kernel import Kernel, kernel
from rangekit.lang import monoids, random
from rangekit.lang.creation import (
    arange,
    asarray,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from rangekit.lang.cumulative import cumulative_max, cumulative_min, cumulative_prod, cumulative_sum
from rangekit.lang.elementwise import (
    TABLE as _TABLE,
)
from rangekit.lang.elementwise import (
    abs,  # noqa: A004  (array API names)
    astype,
    atan2,
    bitcast,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_right_shift,
    clip,
    copysign,
    divide,
    hypot,
    isfinite,
    isinf,
    isnan,
    logaddexp,
    logical_not,
    negative,
    positive,
    reciprocal,
    relu,
    rsqrt,
    sigmoid,
    sign,
    signbit,
    square,
    where,
)
from rangekit.lang.indexing import assign
from rangekit.lang.loops import fold, scan
from rangekit.lang.monoid import Monoid
from rangekit.lang.movement import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tril,
    triu,
    unstack,
)
from rangekit.lang.ranges import ranges
from rangekit.lang.reduce import (
    all,  # noqa: A004
    any,  # noqa: A004
    argmax,
    argmin,
    logsumexp,
    matmul,
    max,  # noqa: A004
    mean,
    min,  # noqa: A004
    outer,
    prod,
    reduce,
    softmax,
    std,
    sum,  # noqa: A004
    tensordot,
    var,
    vecdot,
)
from rangekit.lang.scatter import scatter
from rangekit.lang.select import masked_select, nonzero, unique_counts
from rangekit.lang.sort import argsort, sort
from rangekit.lang.storage import bufferize, print  # noqa: A004
from rangekit.lang.tensor import Range, Tensor
from rangekit.lang.topk import topk
from rangekit.lower.schedule import (
    Schedule,
    group,
    prefetch,
    reorder,
    stage,
    stream,
    thread,
    unroll,
    upcast,
)

__version__ = "0.1.0"

# fmt: off
exp = _TABLE["exp"]
expm1 = _TABLE["expm1"]
log = _TABLE["log"]
log1p = _TABLE["log1p"]
log2 = _TABLE["log2"]
log10 = _TABLE["log10"]
sin = _TABLE["sin"]
cos = _TABLE["cos"]
tan = _TABLE["tan"]
asin = _TABLE["asin"]
acos = _TABLE["acos"]
atan = _TABLE["atan"]
sinh = _TABLE["sinh"]
cosh = _TABLE["cosh"]
tanh = _TABLE["tanh"]
asinh = _TABLE["asinh"]
acosh = _TABLE["acosh"]
atanh = _TABLE["atanh"]
erf = _TABLE["erf"]
sqrt = _TABLE["sqrt"]
add = _TABLE["add"]
subtract = _TABLE["subtract"]
multiply = _TABLE["multiply"]
maximum = _TABLE["maximum"]
minimum = _TABLE["minimum"]
floor_divide = _TABLE["floor_divide"]
remainder = _TABLE["remainder"]
pow = _TABLE["pow"]
less = _TABLE["less"]
less_equal = _TABLE["less_equal"]
greater = _TABLE["greater"]
greater_equal = _TABLE["greater_equal"]
equal = _TABLE["equal"]
not_equal = _TABLE["not_equal"]
bitwise_and = _TABLE["bitwise_and"]
bitwise_or = _TABLE["bitwise_or"]
bitwise_xor = _TABLE["bitwise_xor"]
logical_and = _TABLE["logical_and"]
logical_or = _TABLE["logical_or"]
logical_xor = _TABLE["logical_xor"]
floor = _TABLE["floor"]
ceil = _TABLE["ceil"]
trunc = _TABLE["trunc"]
round = _TABLE["round"]
# fmt: on
bool = bool_
f16, bf16, f32, f64 = float16, bfloat16, float32, float64
i8, i16, i32, i64 = int8, int16, int32, int64
u8, u16, u32, u64 = uint8, uint16, uint32, uint64
pi, e, inf, nan, newaxis = _math.pi, _math.e, _math.inf, _math.nan, None

__all__ = [
    "ArgumentError",
    "BoundsError",
    "CompileError",
    "DType",
    "DataError",
    "DeviceError",
    "Dim",
    "DtypeError",
    "Kernel",
    "Monoid",
    "RaceError",
    "Range",
    "RangeError",
    "RangekitError",
    "Schedule",
    "ScheduleError",
    "ShapeError",
    "Tensor",
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "assign",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bf16",
    "bfloat16",
    "bitcast",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "bool_",
    "broadcast_arrays",
    "broadcast_to",
    "bufferize",
    "ceil",
    "clip",
    "concat",
    "copysign",
    "cos",
    "cosh",
    "cumulative_max",
    "cumulative_min",
    "cumulative_prod",
    "cumulative_sum",
    "divide",
    "e",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "f16",
    "f32",
    "f64",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "fold",
    "from_dlpack",
    "full",
    "full_like",
    "get_num_threads",
    "greater",
    "greater_equal",
    "group",
    "hypot",
    "i8",
    "i16",
    "i32",
    "i64",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isfinite",
    "isinf",
    "isnan",
    "kernel",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "masked_select",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "memory_stats",
    "meshgrid",
    "min",
    "minimum",
    "monoids",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "nonzero",
    "not_equal",
    "ones",
    "ones_like",
    "outer",
    "pad",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prefetch",
    "print",
    "prod",
    "random",
    "ranges",
    "reciprocal",
    "reduce",
    "relu",
    "remainder",
    "reorder",
    "repeat",
    "reshape",
    "roll",
    "round",
    "rsqrt",
    "scan",
    "scatter",
    "set_num_threads",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "softmax",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "stage",
    "std",
    "stream",
    "subtract",
    "sum",
    "tan",
    "tanh",
    "tensordot",
    "thread",
    "tile",
    "topk",
    "tril",
    "triu",
    "trunc",
    "u8",
    "u16",
    "u32",
    "u64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique_counts",
    "unroll",
    "unstack",
    "upcast",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
]
