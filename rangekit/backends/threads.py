"""How many threads kernels may use: a number, kept here until a pool exists that wants to hear it.

It loads nothing, so that importing rangekit stays quick.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable

from rangekit.errors import ArgumentError

MOST = 1024  # threads of a pool: more than any machine has cores, and a mistake as an argument costs no memory

_lock = threading.Lock()
_chosen: int | None = None
_hear: Callable[[int], None] | None = None


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def get_num_threads() -> int:
    """How many threads kernels may use: what ``set_num_threads`` said, or as many as this process had cores.

    >>> get_num_threads() >= 1
    True
    """
    return cores() if _chosen is None else _chosen


def set_num_threads(n: int) -> None:
    """Let kernels use ``n`` threads from their next launch on, in the whole process; more than cores is allowed.

    Errors: ``ArgumentError`` where ``n`` is not a whole number from 1 to 1024.
    """
    global _chosen
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if not 1 <= count <= MOST:
        raise ArgumentError(f"{n!r} threads", help=f"a whole number from 1 to {MOST}")
    with _lock:
        _chosen = count
        if _hear is not None:
            _hear(count)


def attend(hear: Callable[[int], None]) -> None:
    """Tell ``hear`` the number now and whenever it changes. From now on it does not follow the process's cores."""
    global _hear, _chosen
    with _lock:
        _hear, _chosen = hear, get_num_threads()
        hear(_chosen)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
