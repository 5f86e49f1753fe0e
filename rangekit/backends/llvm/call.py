"""The native entry of kernels: a function of CPython's vectorcall convention that launches without running Python.

One function serves every kernel. The object called points to a chain of records, one a signature; a record says in
plain words what each argument must be, which arrays to make, and what to launch. The entry reads the arguments' headers
itself, and calls ``__call__`` if no record fits exactly: whatever is unusual has one implementation, in Python.

A launch is never repeated: its fault goes to the record's ``raiser``. ``Record`` and the text in ``entry`` are two
sides of one format; the names of its places are in ``_NAMES``.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from rangekit.backends import native
from rangekit.backends.llvm import engine
from rangekit.backends.llvm.entry import text as entry_text

MOST = 32  # arguments and made arrays together; also pointers of a launch
ARRAY, INT, FLOAT, SAME = range(4)  # what an argument is; SAME: this very object


@dataclass(frozen=True)
class Value:
    """An argument or an array to make. ``strides`` in bytes, None for C order; ``constant`` the object of SAME.

    ``make`` is asked for a new array; without it NumPy is.
    """

    kind: int
    dtype: np.dtype[Any] | None = None
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] | None = None
    written: bool = False
    constant: Any = None
    make: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Start:
    """One launch: the function's address and its pointers, each a place among arguments and made arrays or an array."""

    code: int
    pointers: tuple[int | np.ndarray[Any, np.dtype[Any]], ...]


@dataclass(frozen=True)
class Plan:
    """What a call of one signature does. ``results`` are places; a lone one is returned bare if ``bare``.

    ``raiser(launch, word, word, word, word)`` raises what a fault means. ``long``: let other threads run meanwhile.
    """

    arguments: tuple[Value, ...]
    made: tuple[Value, ...]
    starts: tuple[Start, ...]
    results: tuple[int, ...]
    bare: bool
    raiser: Callable[[int, int, int, int, int], None]
    long: bool = False
    keep: tuple[Any, ...] = field(default=(), repr=False)  # what owns the code

    @property
    def fits(self) -> bool:
        """Whether the entry's tables have room for it."""
        return len(self.arguments) + len(self.made) <= MOST and all(len(s.pointers) <= MOST for s in self.starts)


# Places in a record, in the description of a value (``V``), in the functions and objects the entry uses (``A``).
_NAMES = {
    name: place
    for names in (
        "NEXT HITS NARGS LONG RAISER NMADE NRESULTS BARE NSTARTS ARGS MADE RESULTS STARTS NFIXED FIXED OUTABLE",
        "VKIND VTYPE VNDIM VDIMS VSTRIDES VFLAGS VLOW VHIGH VWRITTEN VDESCR VMAKE",
        "ABUSY AARRAY AINT AFLOAT AOUT ACALL ALONG AEMPTY ANEW ADOUBLE ASAVE ARESTORE AVECTOR AMETHOD ATUPLE ASET "
        "ABOX AINC ADEC",
    )
    for place, name in enumerate(names.split())
}
_VALUE_WORDS = 11
_SYMBOLS = 19
_forever: list[Any] = []  # what the entry's table points to


class Record:
    """A plan as the entry reads it. Lives as long as anything may call with it."""

    def __init__(self, plan: Plan) -> None:
        self._keep: list[Any] = [plan]
        self._words = self._block([0] * 16)
        fixed = [p for s in plan.starts for p in s.pointers if not isinstance(p, int)]
        words = {
            "NARGS": len(plan.arguments),
            "LONG": plan.long,
            "RAISER": id(plan.raiser),
            "NMADE": len(plan.made),
            "NRESULTS": len(plan.results),
            "BARE": plan.bare,
            "NSTARTS": len(plan.starts),
            "ARGS": self._values(plan.arguments),
            "MADE": self._values(plan.made),
            "RESULTS": self._address(plan.results),
            "STARTS": self._address([w for s in plan.starts for w in _start(s)]),
            "NFIXED": len(fixed),
            "FIXED": self._address([w for a in fixed for w in np.lib.array_utils.byte_bounds(a)]),
            "OUTABLE": plan.bare and plan.results[0] == len(plan.arguments),
        }
        for name, word in words.items():
            self._words[_NAMES[name]] = int(word)

    @property
    def address(self) -> int:
        """Where it is."""
        return ctypes.addressof(self._words)

    @property
    def hits(self) -> int:
        """How many calls it has served."""
        return int(self._words[_NAMES["HITS"]])

    def follow(self, next: Record | None) -> None:
        """Let the entry try ``next`` after this one."""
        self._words[_NAMES["NEXT"]] = next.address if next else 0

    def _block(self, words: Sequence[int]) -> Any:
        block = (ctypes.c_int64 * max(1, len(words)))(*words)
        self._keep.append(block)
        return block

    def _address(self, words: Sequence[int]) -> int:
        return ctypes.addressof(self._block(words))

    def _values(self, values: Sequence[Value]) -> int:
        return self._address([w for v in values for w in self._value(v)])

    def _value(self, v: Value) -> list[int]:
        if v.dtype is None:
            return [v.kind, id(v.constant), *[0] * (_VALUE_WORDS - 2)]
        size = v.dtype.itemsize
        steps = v.strides
        if steps is None:
            steps = tuple(size * int(np.prod(v.shape[a + 1 :])) for a in range(len(v.shape)))
        empty = 0 in v.shape
        reach = [0 if empty else (n - 1) * s for n, s in zip(v.shape, steps, strict=True)]
        flags = native.ALIGNED | (native.C_CONTIGUOUS if v.strides is None else 0)
        flags |= native.WRITEABLE if v.written else 0
        return [
            v.kind,
            v.dtype.num,
            len(v.shape),
            self._address(v.shape),
            0 if v.strides is None else self._address(v.strides),
            flags,
            sum(min(0, r) for r in reach),
            0 if empty else sum(max(0, r) for r in reach) + size,
            v.written,
            id(v.dtype),
            id(v.make) if v.make is not None else 0,
        ]


def _start(s: Start) -> list[int]:
    return [s.code, len(s.pointers), *(p if isinstance(p, int) else native.pointer(p) for p in s.pointers)]


@cache
def entry(busy: int) -> int:
    """The address of the entry. While the word at ``busy`` is not 0, it leaves every call to ``__call__``."""
    code = engine.Code(entry_text(_NAMES, _SYMBOLS, _VALUE_WORDS, MOST), ("rk_call", "rk_table"), forever=True)
    table = ctypes.CFUNCTYPE(ctypes.c_void_p)(code.addresses["rk_table"])()
    assert table is not None
    words = (ctypes.c_int64 * _SYMBOLS).from_address(table)
    out, call = sys.intern("out"), sys.intern("__call__")
    _forever.extend((code, out, call))
    python = ctypes.pythonapi
    found: dict[str, int] = {
        "ABUSY": busy, "AARRAY": id(np.ndarray), "AINT": id(int), "AFLOAT": id(float), "AOUT": id(out),
        "ACALL": id(call), "AEMPTY": native.numpy_function(native.ARRAY_EMPTY),
    }  # fmt: skip
    for name, symbol in (
        ("ALONG", "PyLong_AsLongLongAndOverflow"), ("ANEW", "PyObject_CallNoArgs"), ("ADOUBLE", "PyFloat_AsDouble"),
        ("ASAVE", "PyEval_SaveThread"), ("ARESTORE", "PyEval_RestoreThread"), ("AVECTOR", "PyObject_Vectorcall"),
        ("AMETHOD", "PyObject_VectorcallMethod"), ("ATUPLE", "PyTuple_New"), ("ASET", "PyTuple_SetItem"),
        ("ABOX", "PyLong_FromLongLong"), ("AINC", "Py_IncRef"), ("ADEC", "Py_DecRef"),
    ):  # fmt: skip
        found[name] = ctypes.cast(getattr(python, symbol), ctypes.c_void_p).value or 0
    for name, word in found.items():
        words[_NAMES[name]] = word
    return code.addresses["rk_call"]
