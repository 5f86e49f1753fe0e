"""What went wrong, where in the user's program, and what to write instead.

Every error of the package is a :class:`RangekitError`; where Python or NumPy have a name for the mistake the class
is that one too, so ``except IndexError`` catches a ``BoundsError``. ``str()`` of one is the whole report.
"""

from __future__ import annotations

from typing import Any

from rangekit.source import Position, caller


class RangekitError(Exception):
    """The base of every error here.

    ``message`` says what is wrong with the values involved, ``help`` what to write instead (or None), ``line`` is
    the user's line number (or None). ``at`` is where; left out, it is the line the user's program is at now. The
    source line is read when the error is made, so that a cell edited later still shows what ran.

    >>> err = ShapeError("(2, 3) and (4,) do not broadcast", help="add an axis: x[:, None]")
    >>> err.message, err.help
    ('(2, 3) and (4,) do not broadcast', 'add an axis: x[:, None]')
    """

    def __init__(self, message: str, *, help: str | None = None, at: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.at = caller() if at is None else at
        self.line = None if self.at is None else self.at.lineno
        self.excerpt = () if self.at is None else self.at.excerpt()

    def __str__(self) -> str:
        below = [*self.excerpt, *(self.help.splitlines() if self.help else ())]
        return "\n".join([self.message, *("  " + line for line in below)])

    def __reduce__(self) -> tuple[Any, ...]:
        # A position holds a code object, which no other process can use; the excerpt says all that it would.
        return type(self), (self.message,), {**self.__dict__, "at": None}


class RangeError(RangekitError, ValueError):
    """A Range outside its scope: left open in a result, closed twice, or where a number is needed."""


class ShapeError(RangekitError, ValueError):
    """Closed axes that do not fit."""


class DtypeError(RangekitError, TypeError):
    """A value of a type that the operation does not take."""


class BoundsError(RangekitError, IndexError):
    """An element that is not there."""


class RaceError(RangekitError, ValueError):
    """Iterations whose order would show: two that write one place, or a combine that is no monoid."""


class ScheduleError(RangekitError, ValueError):
    """An order about place or sequence that cannot be followed."""


class CompileError(RangekitError, RuntimeError):
    """A device that cannot build a kernel."""


class DeviceError(RangekitError, RuntimeError):
    """A device that is missing or failed."""


class DataError(RangekitError, ValueError):
    """Input data that is not what its declaration says."""


class ArgumentError(RangekitError, TypeError):
    """A kernel called with arguments that do not fit its signature."""
