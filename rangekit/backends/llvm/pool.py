"""The pool of threads that kernels share: made when the first module that calls ``rk_parallel`` is loaded.

Its workers come with the first call that has work for them, and end with the process. A forked child has none and makes
its own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from typing import Any

from rangekit.backends import threads
from rangekit.backends.llvm import engine
from rangekit.backends.llvm.parallel import FUTEX, source
from rangekit.backends.threads import get_num_threads, set_num_threads


def _host() -> str:
    cpu = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return source(os.name == "posix", cpu, FUTEX.get(cpu) if sys.platform == "linux" else None)


class Pool:
    """One pool, made and running until the process ends. ``address`` is that of its ``rk_parallel``."""

    def __init__(self, text: str) -> None:
        # Workers run and sleep in the code, at the interpreter's exit too: it is never freed.
        self.addresses = engine.Code(text, ("rk_parallel", "rk_threads", "rk_reset"), forever=True).addresses
        self.address = self.addresses["rk_parallel"]
        self._threads: Any = ctypes.CFUNCTYPE(None, ctypes.c_int32)(self.addresses["rk_threads"])
        reset: Any = ctypes.CFUNCTYPE(None)(self.addresses["rk_reset"])
        reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=reset)

    def use(self, count: int) -> None:
        """Let calls use ``count`` threads, the caller's among them."""
        self._threads(count)


@cache
def address() -> int:
    """Where ``rk_parallel`` is. The engine asks first, under its lock; workers come with the first call of it."""
    pool = Pool(_host())
    threads.attend(pool.use)
    return pool.address


__all__ = ["Pool", "address", "get_num_threads", "set_num_threads"]
