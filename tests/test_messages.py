"""What users see when they are wrong: each report whole, and each remedy followed to the right answer.

``tests/golden/messages.txt`` holds the wrong programs. A section is a program, what it says, and the replacements that
the remedy asks for with the answer that NumPy gives for the program so mended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk

GOLDEN = Path(__file__).parent / "golden" / "messages.txt"


@dataclass(frozen=True)
class Wrong:
    """A wrong program, its report, and how the report says to mend it."""

    name: str
    program: str
    report: str
    remedy: tuple[tuple[str, str], ...]
    answer: str


def wrong_programs() -> list[Wrong]:
    found = []
    for section in GOLDEN.read_text(encoding="utf-8").split("=== ")[1:]:
        head, program, report, mend = re.fullmatch(r"(.*?)\n(.*)\n--- says\n(.*)\n--- (.*)\n", section, re.S).groups()
        changes, answer = re.fullmatch(r"write (.*): `([^`]*)`", mend).groups()
        pairs = re.findall(r"`([^`]*)` for `([^`]*)`", changes)
        found.append(Wrong(head, program, report, tuple((old, new) for new, old in pairs), answer))
    return found


def names() -> dict[str, Any]:
    x, m = np.arange(8, dtype=np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
    return {"np": np, "rk": rk, "x": x, "m": m}


def run(text: str, folder: Path) -> Any:
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    scope = names()
    exec(compile(text, str(path), "exec"), scope)
    return scope["answer"]


WRONG = wrong_programs()


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.name)
def test_the_report_is_whole(wrong: Wrong, tmp_path: Path) -> None:
    with pytest.raises(rk.RangekitError) as caught:
        run(wrong.program, tmp_path)
    err = caught.value
    assert f"{type(err).__name__}: {err}" == wrong.report
    lines = wrong.report.splitlines()
    assert lines[0] == f"{type(err).__name__}: {err.message}"
    assert lines[1] == f"  program.py, line {err.line}"
    assert lines[2].strip() == wrong.program.splitlines()[err.line - 1].strip()
    assert lines[4:] == ["  " + line for line in err.help.splitlines()]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.name)
def test_the_remedy_works(wrong: Wrong, tmp_path: Path) -> None:
    text = wrong.program
    for old, new in wrong.remedy:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    answer, expected = run(text, tmp_path), eval(wrong.answer, names())
    for got, want in zip(*((v if isinstance(v, tuple) else (v,)) for v in (answer, expected)), strict=True):
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_caret_marks_what_is_wrong() -> None:
    """Each caret line underlines a whole expression: what it marks parses by itself."""
    for wrong in WRONG:
        line, carets = wrong.report.splitlines()[2:4]
        marked = line[carets.index("^") : len(carets)]
        compile(marked, wrong.name, "eval")


def test_the_wrong_classes_are_pythons_too() -> None:
    kinds = {wrong.report.partition(":")[0] for wrong in WRONG}
    assert kinds >= {"RangeError", "ShapeError", "DtypeError", "BoundsError", "RaceError", "ArgumentError"}
    assert issubclass(rk.BoundsError, IndexError)
    assert issubclass(rk.ShapeError, ValueError)
    assert issubclass(rk.ArgumentError, TypeError)


def test_a_notebook_cell_is_named_by_its_number() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shell.run_cell("import numpy as np\nimport rangekit as rk", store_history=True)
        cell = "def f(x):\n    i = rk.Range(8)\n    y = rk.bufferize(x[i + 1] - x[i], i)\n    return y\n"
        shell.run_cell(cell, store_history=True)
        failed = shell.run_cell("rk.kernel(f)(np.ones(8))", store_history=True, silent=False)
        err = failed.error_in_exec
    finally:
        InteractiveShell.clear_instance()
    assert isinstance(err, rk.BoundsError)
    assert err.line == 3
    assert (
        str(err)
        == """\
x[i + 1] reads element 8 of axis 0, which has 8 elements, when i = 7
  notebook cell 2, line 3
    y = rk.bufferize(x[i + 1] - x[i], i)
                     ^^^^^^^^
  write Range(7), or guard it: rk.where(i < 7, x[i + 1], 0.0)"""
    )


def test_the_line_of_a_fault_found_after_the_launch_is_kept() -> None:
    k = rk.kernel(lambda x, ids: x[ids])
    for bad in (-1, 3):
        with pytest.raises(rk.BoundsError, match=f"index {bad} of axis 0 of x, which has 3 elements") as caught:
            k(np.ones(3, np.float32), np.array([bad]))
        assert caught.value.line is not None
        assert "x[ids]" in str(caught.value)
