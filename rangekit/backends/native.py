"""What compiled code may know of Python objects: where an array keeps its pointer, how an object is called natively.

CPython and NumPy do not promise these layouts to everyone, so they are used only for versions they were tested with,
and only after looking: a sample array must show its parts at the places named here, a class its flags. Anywhere else
``SUPPORTED`` is false, pointers are read the slow way, and calls go through ``__call__``.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
from typing import Any

import numpy as np

from rangekit.backends.device import Array

PYTHONS = frozenset({(3, 11)})
NUMPY_ABI = 0x02000000  # every NumPy 2

# Of a PyArrayObject, after its reference count and type: 8 bytes each, but for two ints of 4.
DATA, NDIM, DIMS, STRIDES, DESCR, FLAGS = 16, 24, 32, 40, 56, 64
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
# Of a PyArray_Descr: one character, and an int of 4 bytes.
BYTE_ORDER, TYPE_NUM = 26, 28
# Of a type: where its flags are, and the one that says that its instances hold a vectorcall function.
_TYPE_FLAGS, _HAVE_VECTORCALL, _BASE_TYPE = 168, 1 << 11, 1 << 10
# Of an instance of ``Callable``.
ENTRY, CONTEXT = 16, 24
# Places in NumPy's table of functions.
_ABI_VERSION, ARRAY_EMPTY = 0, 184


def numpy_function(place: int) -> int:
    """The address of a function of NumPy's C interface."""
    capsule = np._core.multiarray._ARRAY_API  # type: ignore[attr-defined]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = pointer(capsule, None)
    return int(ctypes.c_size_t.from_address(table + 8 * place).value)


def _i64(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _layouts_hold() -> bool:
    plain = (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in PYTHONS
        and sys.byteorder == "little"
        and struct.calcsize("P") == 8
        and object.__basicsize__ == 16
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
    )
    if not plain or ctypes.CFUNCTYPE(ctypes.c_uint)(numpy_function(_ABI_VERSION))() != NUMPY_ABI:
        return False
    x = np.zeros((3, 5), np.dtype("<f4"))[:, 1:3]
    at, kind = id(x), id(x.dtype)
    flags = ctypes.c_int.from_address(at + FLAGS).value
    return (
        _i64(at + 8) == id(np.ndarray)
        and _i64(at + DATA) == x.ctypes.data
        and ctypes.c_int.from_address(at + NDIM).value == 2
        and [_i64(_i64(at + DIMS)), _i64(_i64(at + DIMS) + 8)] == [3, 2]
        and [_i64(_i64(at + STRIDES)), _i64(_i64(at + STRIDES) + 8)] == [20, 4]
        and _i64(at + DESCR) == kind
        and flags & (C_CONTIGUOUS | ALIGNED | WRITEABLE) == ALIGNED | WRITEABLE
        and ctypes.c_char.from_address(kind + BYTE_ORDER).value == b"="
        and ctypes.c_int.from_address(kind + TYPE_NUM).value == x.dtype.num
    )


SUPPORTED = _layouts_hold()


def pointer(array: Array) -> int:
    """The address of an array's first element."""
    if SUPPORTED:
        return ctypes.c_size_t.from_address(id(array) + DATA).value
    return int(array.__array_interface__["data"][0])


class _Member(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class _Slot(ctypes.Structure):
    _fields_ = (("slot", ctypes.c_int), ("pointer", ctypes.c_void_p))


class _Spec(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.c_void_p),
    )


def _callable_type() -> type:
    """A class whose instances have room for a function's address and for what that function looks at."""
    members = (_Member * 2)(_Member(b"__vectorcalloffset__", 19, ENTRY, 1, None))  # a Py_ssize_t, read-only
    slots = (_Slot * 2)(_Slot(72, ctypes.addressof(members)))  # Py_tp_members
    spec = _Spec(b"rangekit.Callable", 32, 0, _BASE_TYPE, ctypes.addressof(slots))
    make = ctypes.pythonapi.PyType_FromSpec
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p]
    made: type = make(ctypes.addressof(spec))
    _kept.append((members, slots, spec))
    return made


_kept: list[Any] = []  # what a type made from a spec may go on pointing to
Callable: type = _callable_type() if SUPPORTED else object


def calls_natively(cls: type) -> bool:
    """Let instances of a subclass of ``Callable`` be called through their entry; whether that is so now.

    A class written in Python does not inherit this. An instance without an entry is called through ``__call__``.
    """
    flags = ctypes.pythonapi.PyType_GetFlags
    flags.restype, flags.argtypes = ctypes.c_ulong, [ctypes.py_object]
    if not SUPPORTED or _i64(id(cls) + _TYPE_FLAGS) != flags(cls):
        return False
    ctypes.c_int64.from_address(id(cls) + _TYPE_FLAGS).value |= _HAVE_VECTORCALL
    return bool(flags(cls) & _HAVE_VECTORCALL)


def set_entry(instance: Any, entry: int, context: int) -> None:
    """Call ``instance``, of a class that ``calls_natively``, through the function at ``entry`` from now on (0: not)."""
    ctypes.c_size_t.from_address(id(instance) + CONTEXT).value = context
    ctypes.c_size_t.from_address(id(instance) + ENTRY).value = entry
