"""How a search goes, while it goes: one line that changes, in a terminal or a notebook; elsewhere nothing."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import Any


def notebook() -> bool:
    """Whether this is a cell of a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and getattr(shell, "kernel", None) is not None


class Progress:
    """A bar over ``seconds``. A context manager: leaving it closes the line."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.monotonic()
        self._bar: Any = None
        cell = notebook()
        if not cell and not sys.stderr.isatty():
            return
        if cell and importlib.util.find_spec("ipywidgets") is not None:
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
        form = "{desc} |{bar:20}| {n:.0f}/{total:.0f} s"
        self._bar = tqdm(total=seconds, bar_format=form, file=sys.stdout if cell else sys.stderr, leave=False)

    def show(self, text: str) -> None:
        """What is known now."""
        if self._bar is not None:
            self._bar.n = min(time.monotonic() - self._begin, self._bar.total)
            self._bar.set_description_str(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
