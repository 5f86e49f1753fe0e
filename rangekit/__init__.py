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
from rangekit.lang.movement import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    roll,
    squeeze,
    stack,
    tile,
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
from rangekit.lang.storage import bufferize, print  # noqa: A004
from rangekit.lang.tensor import Range, Tensor

__version__ = "0.1.0"

globals().update(_TABLE)
bool = bool_  # noqa: A001  (the array API name)
f16, bf16, f32, f64 = float16, bfloat16, float32, float64
i8, i16, i32, i64 = int8, int16, int32, int64
u8, u16, u32, u64 = uint8, uint16, uint32, uint64
pi, e, inf, nan, newaxis = _math.pi, _math.e, _math.inf, _math.nan, None
