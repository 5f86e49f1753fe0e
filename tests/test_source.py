"""Positions and names, read from real files, from code without source, and from notebook cells."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rangekit import source
from rangekit.source import Position, assigned_names, caller


def run_file(path: Path, text: str) -> dict[str, Any]:
    """The globals after running ``text`` as the file ``path``."""
    path.write_text(text, encoding="utf-8")
    scope: dict[str, Any] = {"here": here}
    exec(compile(text, str(path), "exec"), scope)
    return scope


def here(*_: Any) -> Position:
    """The position of the call of this function, as a function of the package would see it."""
    frame = sys._getframe(1)
    return Position(frame.f_code, frame.f_lasti)


# --- positions


def test_a_position_knows_its_line_and_the_columns_of_the_call(tmp_path: Path) -> None:
    at = run_file(tmp_path / "model.py", "x = 1\nif x:\n    y = (1, here(x))\n")["y"][1]
    assert (at.lineno, at.text, at.text[slice(*at.span)]) == (3, "    y = (1, here(x))", "here(x)")
    assert at.excerpt() == ("model.py, line 3", "  y = (1, here(x))", "          ^^^^^^^")


def test_columns_count_characters_not_bytes(tmp_path: Path) -> None:
    at = run_file(tmp_path / "greek.py", "σ, λ = 'αβγ', here(1)\n")["λ"]
    assert at.text[slice(*at.span)] == "here(1)"


def test_an_expression_of_several_lines_shows_its_first(tmp_path: Path) -> None:
    at = run_file(tmp_path / "long.py", "y = here(\n    1,\n)\n")["y"]
    assert at.excerpt() == ("long.py, line 1", "  y = here(", "      ^^^^^")


def test_a_file_below_the_working_directory_shows_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    at = run_file(tmp_path / "nets" / "conv.py", "y = here()\n")["y"]
    monkeypatch.chdir(tmp_path)
    assert at.where == str(Path("nets", "conv.py")) + ", line 1"


def test_an_edited_file_shows_its_new_text(tmp_path: Path) -> None:
    at = run_file(tmp_path / "model.py", "y = here()\n")["y"]
    assert at.text == "y = here()"
    (tmp_path / "model.py").write_text("y = 'something else'\n")
    assert at.text == "y = 'something else'"


def test_code_without_source_has_a_place_and_no_excerpt() -> None:
    scope: dict[str, Any] = {"here": here}
    exec("\ny = here()", scope)
    at = scope["y"]
    assert (at.text, at.span, at.excerpt()) == (None, None, ("<string>, line 2",))


def test_code_without_columns_shows_the_line_without_carets(tmp_path: Path) -> None:
    path = tmp_path / "bare.py"
    path.write_text("from rangekit.source import caller\nat = caller()\nprint(at.excerpt())\n")
    out = subprocess.run([sys.executable, "-X", "no_debug_ranges", path], capture_output=True, text=True, check=True)
    assert out.stdout == "('bare.py, line 2', '  at = caller()')\n"


def test_caller_is_the_innermost_frame_outside_the_package() -> None:
    scope: dict[str, Any] = {"caller": caller}
    inside = source._PACKAGE + "lang/some.py"
    exec(compile("def op(): return caller()\ndef sugar(): return op()", inside, "exec"), scope)
    at = scope["sugar"]()
    assert at is not None and at.filename == __file__
    assert at.text is not None and at.span is not None and at.text[slice(*at.span)] == 'scope["sugar"]()'


@pytest.mark.parametrize("name", ["__main__.py", "demo.py", "testing/cases.py"])
def test_the_packages_own_programs_count_as_the_users(name: str) -> None:
    scope: dict[str, Any] = {"caller": caller}
    exec(compile("at = caller()", source._PACKAGE + name, "exec"), scope)
    assert scope["at"].filename.endswith(name)


def test_caller_is_none_where_everything_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_INSIDE", "")
    monkeypatch.setattr(source, "_PROGRAMS", ())
    assert caller() is None
    assert assigned_names(1) is None


# --- notebook cells


@pytest.fixture
def shell() -> Iterator[Any]:
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    interactive.clear_instance()
    yield interactive.instance()
    interactive.clear_instance()


def test_a_notebook_cell_shows_its_number_and_line(shell: Any) -> None:
    f = Calls()
    shell.push({"here": here, "f": f})
    shell.run_cell("x = 1", store_history=True)
    shell.run_cell("# a comment\nif x:\n    at = here(x)\nnamed = f()", store_history=True)
    at = shell.user_ns["at"]
    assert at.excerpt() == ("notebook cell 2, line 3", "  at = here(x)", "       ^^^^^^^")
    assert f.names == [["named"]]


def test_a_file_is_not_a_cell(shell: Any, tmp_path: Path) -> None:
    at = run_file(tmp_path / "model.py", "y = here()\n")["y"]
    assert at.where == "model.py, line 1"


# --- names


class Calls:
    """Called in place of a function of the language: returns ``n`` values and keeps the names it was given."""

    def __init__(self) -> None:
        self.names: list[list[str] | None] = []

    def __call__(self, n: int = 1, *_: Any, **__: Any) -> Any:
        self.names.append(assigned_names(2))
        return 0 if n == 1 else (0,) * n


NAMES: list[tuple[str, list[list[str] | None]]] = [
    ("i = f()", [["i"]]),
    ("i: int = f()", [["i"]]),
    ("i = f(*[1], k=2)", [["i"]]),
    ("i = f(1, k=len('ab'))", [["i"]]),
    ("i, j = f(2)", [["i", "j"]]),
    ("[i, j] = f(2)", [["i", "j"]]),
    ("a, b, c, d, e = f(5)", [["a", "b", "c", "d", "e"]]),
    ("b, c = i, j = f(2)", [["b", "c"]]),
    ("i = j = f()", [["i"]]),
    ("print(end='', *[i := f()][:0])", [["i"]]),
    ("[(i := f()), (j := f())]", [["i"], ["j"]]),
    ("i, j = f(), f()", [["i"], ["j"]]),
    ("i, j, k = f(), f(len('ab') - 1), f()", [["i"], ["j"], ["k"]]),
    ("i, j, k, l = f(), f(), o.a, f()", [["i"], ["j"], ["l"]]),
    ("(i, j), k = (f(), 1), -len('ab')", [["i"]]),
    ("(i, j), k = f(2), f()", [["i", "j"], ["k"]]),
    ("global g; g = f()", [["g"]]),
    ("i = f(); h = lambda: i", [["i"]]),
    ("o.a = f()", [None]),
    ("o.a, j = f(2)", [None]),
    ("d[0] = f()", [None]),
    ("d[0], j = f(), f()", [None, ["j"]]),
    ("o.a, j = f(), f()", [None, ["j"]]),
    ("i = f() + 1", [None]),
    ("i = [f()]", [None]),
    ("i = f(), 1", [None]),
    ("i, *j = f(2)", [None]),
    ("i = len([f()])", [None]),
    ("i = f(2)[0]", [None]),
    ("i = f() or 1", [None]),
    ("h = lambda: f(); i = h()", [None]),
    ("f()", [None]),
]


@pytest.mark.parametrize("scope", ["module", "function", "class"])
@pytest.mark.parametrize(("text", "names"), NAMES)
def test_names_are_those_of_the_variables_assigned(text: str, names: list[list[str] | None], scope: str) -> None:
    head = {"module": "", "function": "def scope():\n  ", "class": "class scope:\n  "}[scope]
    f = Calls()
    variables: dict[str, Any] = {"f": f, "o": SimpleNamespace(a=0), "d": [0]}
    exec(f"{head}{text}\n" + ("scope()" if scope == "function" else ""), variables)
    assert f.names == names


def test_names_are_seen_past_wide_instructions() -> None:
    """More than 256 names need prefixed instructions."""
    f = Calls()
    exec("".join(f"v{k} = 0\n" for k in range(300)) + "first, second = f(), f()", {"f": f})
    assert f.names == [["first"], ["second"]]


def test_neighbouring_stores_of_locals_are_two_names() -> None:
    """Python 3.13 merges them into one instruction; this is its encoding, whatever Python runs the test."""

    def instruction(offset: int, opname: str, argval: Any) -> Any:
        return SimpleNamespace(offset=offset, opname=opname, opcode=0, arg=2, argval=argval)

    code = (
        instruction(0, "CALL", 0),
        instruction(2, "UNPACK_SEQUENCE", 2),
        instruction(4, "STORE_FAST_STORE_FAST", ("i", "j")),
    )
    assert source._names_after(code, 0) == ["i", "j"]
