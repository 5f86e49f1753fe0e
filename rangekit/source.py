"""The user's own lines: where an operation was written, and what its result was called.

A position is captured at every traced operation and read almost never, so capturing keeps two words of a frame and
everything else is worked out on demand. Source text is read for carets only, names come from bytecode; neither
changes what a program means, and where either cannot be had the answer is None.
"""

from __future__ import annotations

import dis
import linecache
import os
import re
import sys
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType
from typing import Any


class Position:
    """One place in a program: a code object and an instruction in it.

    Everything shown is read when asked for, so a file that is edited meanwhile shows its new text.
    """

    __slots__ = ("_code", "_lasti")

    def __init__(self, code: CodeType, lasti: int) -> None:
        self._code = code
        self._lasti = lasti

    def __repr__(self) -> str:
        return f"<Position {self.where}>"

    @property
    def filename(self) -> str:
        """The file as the interpreter knows it; notebook cells have invented ones."""
        return self._code.co_filename

    @property
    def lineno(self) -> int | None:
        """The line, counted from 1."""
        return self._location()[0]

    @property
    def text(self) -> str | None:
        """The source line without its newline, or None where the source is gone (``exec``, ``python -c``)."""
        line = self.lineno
        if line is None:
            return None
        linecache.checkcache(self.filename)
        return linecache.getline(self.filename, line).rstrip() or None

    @property
    def span(self) -> tuple[int, int] | None:
        """The columns of the expression in ``text``, end excluded; only its first line if there are several."""
        line, end_line, start, end = self._location()
        text = self.text
        if text is None or start is None or end is None:
            return None
        raw = text.encode()  # the interpreter counts bytes of UTF-8
        begin = len(raw[:start].decode(errors="ignore"))
        stop = len(raw[:end].decode(errors="ignore")) if line == end_line else len(text)
        return (begin, stop) if begin < stop else None

    @property
    def where(self) -> str:
        """``notebook cell 3, line 4``, or ``model.py, line 4`` with the path from here if the file is below here."""
        cell = _cell_number(self.filename)
        place = _short(self.filename) if cell is None else f"notebook cell {cell}"
        return place if self.lineno is None else f"{place}, line {self.lineno}"

    def excerpt(self) -> tuple[str, ...]:
        """``where``, then the dedented source line and its carets, both indented by two, as far as there are any."""
        text, span = self.text, self.span
        if text is None:
            return (self.where,)
        dedented = text.lstrip()
        lines = (self.where, "  " + dedented)
        if span is None:
            return lines
        return (*lines, " " * (2 + span[0] - (len(text) - len(dedented))) + "^" * (span[1] - span[0]))

    def _location(self) -> tuple[int | None, int | None, int | None, int | None]:
        found = next(islice(self._code.co_positions(), self._lasti // 2, None), None)
        return found or (None, None, None, None)


# The directory as code objects spell it, which need not be how the file system does. Programs in the package that
# are written in the language count as the user's: their lines and names are what a reader wants to see.
_PACKAGE = os.path.dirname(Position.__init__.__code__.co_filename) + os.sep
_INSIDE = (_PACKAGE, "<frozen ")
_PROGRAMS = tuple(_PACKAGE + name for name in ("__main__.py", "demo.py", "testing"))


def _user_frame(frame: FrameType | None) -> FrameType | None:
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_INSIDE) or name.startswith(_PROGRAMS):
            return frame
        frame = frame.f_back
    return None


def caller() -> Position | None:
    """Where the user's program is now: the innermost frame outside the package, or None if there is none."""
    frame = _user_frame(sys._getframe(1))
    return None if frame is None else Position(frame.f_code, frame.f_lasti)


def assigned_names(depth: int = 1) -> list[str] | None:
    """The variables that the result of the call the user's program is in will be assigned to.

    ``i = f()`` and ``(i := f())`` give ``["i"]``, ``i, j = f()`` gives ``["i", "j"]``, the first call of
    ``i, j = f(), g()`` gives ``["i"]``. None where the result goes anywhere else than to variables: an attribute,
    an element, a starred target, an argument, a larger expression. ``depth`` frames are not looked at.
    """
    frame = _user_frame(sys._getframe(depth))
    return None if frame is None else _names_after(_instructions(frame.f_code), frame.f_lasti)


@lru_cache(maxsize=64)  # code objects compare by content, which is all that is read here
def _instructions(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(dis.get_instructions(code))


_IGNORED = frozenset({"CACHE", "NOP", "EXTENDED_ARG", "RESUME"})
_STORES = frozenset({"STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF"})
# What an instruction takes off the stack; what it puts there follows from its net effect.
_POPS = {
    "LOAD_ATTR": 1, "LOAD_METHOD": 1, "UNARY_NEGATIVE": 1, "BINARY_OP": 2, "BINARY_SUBSCR": 2, "STORE_ATTR": 2,
    "STORE_SUBSCR": 3,
}  # fmt: skip
_CALLS = {"PRECALL": 0, "CALL": 1, "CALL_KW": 1}  # and how many values they leave
_PUSHES = frozenset({
    "KW_NAMES", "PUSH_NULL", "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_LOAD_FAST",
    "LOAD_FAST_BORROW", "LOAD_FAST_BORROW_LOAD_FAST_BORROW", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_DEREF",
})  # fmt: skip
_WHOLE = -1  # on the simulated stack: the result itself; k >= 0 is its element k, a tuple holds such, None is others


def _names_after(code: tuple[dis.Instruction, ...], lasti: int) -> list[str] | None:
    """Run the instructions after ``lasti`` on a stack of marks until each part of the result has its name."""
    stack: list[Any] = [_WHOLE]
    names: dict[int, str] = {}
    parts = 0  # of the result, once it is unpacked
    for ins in code:
        if ins.offset <= lasti or ins.opname in _IGNORED:
            continue
        op, arg = ins.opname, ins.arg or 0
        pops = _pops(ins)
        if pops is None:
            return None
        stack[:0] = [None] * (pops - len(stack))  # what lies below the result is none of ours
        taken = stack[len(stack) - pops :]
        del stack[len(stack) - pops :]
        if op in _STORES or op == "STORE_FAST_STORE_FAST":
            targets = ins.argval if isinstance(ins.argval, tuple) else (ins.argval,)
            for target, value in zip(targets, reversed(taken), strict=True):
                if value == _WHOLE:
                    return [target]
                if isinstance(value, tuple):
                    return None
                if value is not None:
                    names[value] = target
            if parts and len(names) == parts:
                return [names[k] for k in range(parts)]
        elif op == "COPY":
            stack += [*taken, taken[0]]
        elif op == "SWAP":
            stack += [taken[-1], *taken[1:-1], taken[0]]
        elif op == "BUILD_TUPLE":
            stack.append(tuple(taken) if any(v is not None for v in taken) else None)
        elif op == "UNPACK_SEQUENCE" and taken == [_WHOLE]:
            parts = arg
            stack.extend(reversed(range(parts)))
        elif op == "UNPACK_SEQUENCE" and isinstance(taken[0], tuple):
            stack.extend(reversed(taken[0]))
        elif any(v is not None for v in taken):
            return None
        else:
            stack.extend([None] * (dis.stack_effect(ins.opcode, ins.arg, jump=False) + pops))
    return None


def _pops(ins: dis.Instruction) -> int | None:
    """How many values an instruction takes off the stack; None for one that is not followed."""
    op, arg = ins.opname, ins.arg or 0
    if op in ("COPY", "SWAP", "BUILD_TUPLE"):
        return arg
    if op in _STORES or op == "UNPACK_SEQUENCE":
        return 1
    if op == "STORE_FAST_STORE_FAST":
        return 2
    if op in _CALLS:
        return _CALLS[op] - dis.stack_effect(ins.opcode, ins.arg, jump=False)
    return 0 if op in _PUSHES else _POPS.get(op)


def _cell_number(filename: str) -> int | None:
    """The execution count of the notebook or IPython cell that has this invented file name."""
    ipython: Any = sys.modules.get("IPython")  # never imported here: without it there are no cells
    shell = ipython.get_ipython() if hasattr(ipython, "get_ipython") else None
    label = shell.compile.format_code_name(filename) if shell is not None else None  # ("Cell", "In[3]") or None
    found = re.fullmatch(r"In\[(\d+)\]", label[1]) if label else re.match(r"<ipython-input-(\d+)-", filename)
    return int(found[1]) if found else None


def _short(filename: str) -> str:
    if filename.startswith("<"):
        return filename
    try:
        path = os.path.relpath(filename)
    except (OSError, ValueError):  # no working directory any more; another drive
        path = os.pardir
    return os.path.basename(filename) if path.startswith(os.pardir) else path
