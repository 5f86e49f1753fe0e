"""The report of an error, whole; what else an error is; and errors that travel."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from rangekit import errors
from rangekit.errors import RangekitError, ShapeError

KINDS = [
    c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, RangekitError) and c is not RangekitError
]


def raised(path: Path, text: str) -> RangekitError:
    """What running ``text`` as the file ``path`` raises."""
    path.write_text(text)
    with pytest.raises(RangekitError) as info:
        exec(compile(text, str(path), "exec"), vars(errors).copy())
    return info.value


def test_the_report_is_message_place_line_carets_and_help(tmp_path: Path) -> None:
    err = raised(
        tmp_path / "shift.py",
        "def f(message, help):\n"
        "    raise BoundsError(message, help=help)\n"
        "f('x[i + 1] reads element 8', 'write Range(7), or guard it:\\nrk.where(i < 7, 0)')\n",
    )
    report = """\
x[i + 1] reads element 8
  shift.py, line 2
    raise BoundsError(message, help=help)
          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  write Range(7), or guard it:
  rk.where(i < 7, 0)"""
    assert str(err) == report
    assert err.line == 2


def test_a_given_place_wins_over_the_current_one() -> None:
    at = ShapeError("earlier").at
    err = ShapeError("no", at=at)
    assert at is not None
    assert (err.at, err.line) == (at, at.lineno)
    assert '  at = ShapeError("earlier").at\n' in str(err)


def test_an_error_without_source_still_says_what_and_where() -> None:
    with pytest.raises(ShapeError) as info:
        exec("\n\nraise ShapeError('no', help='yes')", {"ShapeError": ShapeError})
    assert str(info.value) == "no\n  <string>, line 3\n  yes"


def test_a_later_edit_does_not_change_a_report(tmp_path: Path) -> None:
    err = raised(tmp_path / "a.py", "raise ShapeError('no')\n")
    (tmp_path / "a.py").write_text("print()\n")
    assert "raise ShapeError('no')" in str(err)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_pickled_and_copied_whole(kind: type[RangekitError]) -> None:
    err = kind("no", help="yes")
    err.add_note("seen by a worker")
    for again in (pickle.loads(pickle.dumps(err)), copy.copy(err), copy.deepcopy(err)):
        assert type(again) is kind
        assert (str(again), again.message, again.help, again.line) == (str(err), "no", "yes", err.line)
        assert again.__notes__ == ["seen by a worker"]


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("RangeError", ValueError),
        ("ShapeError", ValueError),
        ("DtypeError", TypeError),
        ("BoundsError", IndexError),
        ("RaceError", ValueError),
        ("ScheduleError", ValueError),
        ("CompileError", RuntimeError),
        ("DeviceError", RuntimeError),
        ("DataError", ValueError),
        ("ArgumentError", TypeError),
    ],
)
def test_python_names_for_a_mistake_catch_it(name: str, builtin: type[Exception]) -> None:
    kind: Any = getattr(errors, name)
    assert issubclass(kind, RangekitError)
    with pytest.raises(builtin):
        raise kind("no")
