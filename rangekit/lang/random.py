"""Random numbers as pure functions of a key and a place: element n depends on the key and on n, on nothing else.

There is no state to keep and no order to get wrong, so they fuse, run on threads and are the same everywhere. The
generator is Threefry-2x32 with 20 rounds: J. Salmon, M. Moraes, R. Dror, D. Shaw, Parallel Random Numbers: As Easy as
1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rangekit.errors import DtypeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.uop import const
from rangekit.lang.creation import arange
from rangekit.lang.elementwise import TABLE, astype
from rangekit.lang.movement import Shape, as_shape, reshape
from rangekit.lang.tensor import Tensor, as_dtype, lift, made

_maximum, _minimum, _log, _sqrt, _cos, _less = map(
    TABLE.__getitem__, ("maximum", "minimum", "log", "sqrt", "cos", "less")
)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA  # of the key schedule
KEYS = 1 << 31  # bit of the counter that sets keys apart from numbers
_WORD = (1 << 32) - 1


def bits(key: Any, shape: Shape = ()) -> Tensor:
    """Random bits, uint32 of a shape. ``key`` is an int (modulo 2**64) or an element of what ``split`` gives.

    Errors: ``DtypeError`` for a key that is no integer, ``ShapeError`` for one with axes.

    >>> import rangekit as rk
    >>> bool(rk.random.bits(7, (4,))[2].item() == rk.random.bits(7, (2, 2))[1, 0].item())
    True
    """
    return _words(key, as_shape(shape))[0]


def uniform(key: Any, shape: Shape = (), *, dtype: Any = None, minval: float = 0.0, maxval: float = 1.0) -> Tensor:
    """Floats from ``minval`` up to, not including, ``maxval``; float32 by default.

    float32 has 24 random bits, float64 53, float16 11, bfloat16 8.
    """
    kind = dt.float32 if dtype is None else as_dtype(dtype)
    if not kind.is_float:
        raise DtypeError(f"uniform numbers are floats, not {kind.name}", help="rk.random.randint gives integers")
    first, second = _words(key, as_shape(shape))
    if kind is dt.float64:
        unit = (astype(first >> 5, kind) * 2.0**26 + astype(second >> 6, kind)) * 2.0**-53
    else:
        kept = {dt.float32: 24, dt.float16: 11, dt.bfloat16: 8}[kind]
        unit = astype(first >> (32 - kept), kind) * _number(2.0**-kept, kind)
    if (minval, maxval) == (0.0, 1.0):
        return unit
    low, high = _number(minval, kind), _number(maxval, kind)
    last = float(np.nextafter(kind.numpy.type(maxval), kind.numpy.type(minval)))
    return _maximum(low, _minimum(low + unit * (high - low), _number(last, kind)))


def normal(key: Any, shape: Shape = (), *, dtype: Any = None) -> Tensor:
    """Normal floats of mean 0 and variance 1; float32 by default.

    G. Box, M. Muller, A Note on the Generation of Random Normal Deviates, Ann. Math. Statist. 29(2), 1958.
    """
    kind = dt.float32 if dtype is None else as_dtype(dtype)
    if not kind.is_float:
        raise DtypeError(f"normal numbers are floats, not {kind.name}")
    wide = dt.float64 if kind is dt.float64 else dt.float32
    first, second = _words(key, as_shape(shape))
    radius = (astype(first, wide) + _number(0.5, wide)) * _number(2.0**-32, wide)  # never 0
    angle = astype(second >> 8, wide) * _number(2.0**-24 * 2 * math.pi, wide)
    return astype(_sqrt(_number(-2.0, wide) * _log(_minimum(radius, _number(1.0, wide)))) * _cos(angle), kind)


def randint(key: Any, shape: Shape, lo: int, hi: int) -> Tensor:
    """Integers from ``lo`` to ``hi - 1``, int64, each as likely as any other to within 2**-32.

    Errors: ``ShapeError`` if there is none.
    """
    if not lo < hi:
        raise ShapeError(f"there is no integer from {lo} to {hi - 1}")
    first, second = (astype(w, dt.uint64) for w in _words(key, as_shape(shape)))
    span = hi - lo
    if span > 1 << 32:
        place = (first << 32 | second) % _number(span, dt.uint64)
    else:  # the high word of a 64-bit fraction times the span
        size = _number(span, dt.uint64)
        place = (first * size + (second * size >> 32)) >> 32
    return astype(place, dt.int64) + lo


def bernoulli(key: Any, p: Any, shape: Shape = ()) -> Tensor:
    """True with probability ``p``, a number or an array that broadcasts with the shape."""
    return _less(uniform(key, shape), p)


def split(key: Any, n: int) -> Tensor:
    """``n`` keys from one, uint64 of shape (n,): their numbers have nothing to do with each other's or with its."""
    first, second = _words(key, as_shape((n,)), KEYS)
    return astype(first, dt.uint64) << 32 | astype(second, dt.uint64)


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The two words that a block's two words of key and counter become, all uint32: Threefry-2x32 with 20 rounds."""
    a, b = key
    words = (a, b, a ^ b ^ _number(PARITY, dt.uint32))
    x, y = counter[0] + words[0], counter[1] + words[1]
    for n in range(5):
        for turn in ROTATIONS[n % 2]:
            x = x + y
            y = (y << turn | y >> (32 - turn)) ^ x
        x = x + words[(n + 1) % 3]
        y = y + words[(n + 2) % 3] + _number(n + 1, dt.uint32)
    return x, y


def _words(key: Any, shape: tuple[int, ...], high: int = 0) -> tuple[Tensor, Tensor]:
    """Both words of each element's block; the element's flat index is the counter."""
    flat = arange(math.prod(shape))
    far = astype(flat >> 32, dt.uint32) if math.prod(shape) > 1 << 32 else _number(0, dt.uint32)
    x, y = threefry(_key(key), (astype(flat, dt.uint32), far + _number(high, dt.uint32)))
    return reshape(x, shape), reshape(y, shape)


def _key(key: Any) -> tuple[Tensor, Tensor]:
    """The two words of a key."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
        whole = int(key)
        return _number(whole & _WORD, dt.uint32), _number(whole >> 32 & _WORD, dt.uint32)
    value = lift(key)
    if value.dtype not in (*dt.INTS, *dt.UINTS, dt.index):
        raise DtypeError(f"a key is an integer, not {value.dtype.name}", help="rk.random.split makes keys of a key")
    if value.shape:
        raise ShapeError(f"one key is wanted, not an array of shape {value.shape}", help="index it: keys[0], keys[i]")
    wide = astype(value, dt.uint64)
    return astype(wide, dt.uint32), astype(wide >> 32, dt.uint32)


def _number(value: float, kind: dt.DType) -> Tensor:
    return made(const(value, kind))


__all__ = ["bernoulli", "bits", "normal", "randint", "split", "uniform"]
