"""A search shows itself where somebody looks, and nowhere else."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from rangekit.tuning import progress
from rangekit.tuning.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: Any) -> str:
    with Progress(30) as bar:
        bar.show("tune softmax k0: 2 ms -> 1 ms, 7 tried, 0 out")
    return stream.getvalue()  # type: ignore[no-any-return]


def test_a_terminal_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    said = shown(stream)
    assert "tune softmax k0: 2 ms -> 1 ms, 7 tried, 0 out |" in said
    assert "\n" not in said
    assert said.endswith("\r")  # the line is empty when it is over


def test_a_pipe_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert shown(stream) == ""


def test_a_cell_without_widgets_shows_text(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(progress, "notebook", lambda: True)
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    assert "7 tried" in shown(stream)


def test_outside_of_notebooks_there_is_none() -> None:
    assert not progress.notebook()
