"""How each library is called: its kind of arrays, its threads, when a call is complete. One class each."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.workload import Array, Workload, results, takes_out

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RANGEKIT_NUM_THREADS")


class GapError(Exception):
    """A peer does not take part, and why."""


@dataclass
class Calls:
    """A workload made ready: a call with a fresh result, and one into memory that exists, where there is one."""

    fresh: Callable[[], Any]
    into: Callable[[], Any] | None = None


class Peer:
    """A library. ``ready`` may compile; a call is complete when it returns."""

    name = ""
    package = ""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lib: Any = importlib.import_module(self.package)

    def version(self) -> str:
        """The library's version."""
        return str(self.lib.__version__)

    def ready(self, w: Workload, args: tuple[Array, ...], like: tuple[Array, ...]) -> Calls:
        """Calls for these arguments; ``like`` has the oracle's results. ``GapError`` if there are none."""
        fn = self.function(w)
        mine = [self.array(a) for a in args]
        calls = Calls(functools.partial(fn, self.lib, *mine))
        into = w.peers.get(self.name + " out", fn if takes_out(fn) else None)
        if into is not None:
            assert callable(into)
            calls.into = functools.partial(into, self.lib, *mine, out=calls.fresh())
        return calls

    def function(self, w: Workload) -> Callable[..., Any]:
        """The workload's function for this library."""
        fn = w.peers.get(self.name)
        if not callable(fn):
            raise GapError("not written for it")
        return fn

    def array(self, a: Array) -> Any:
        """The library's array of these elements."""
        return a

    def numpy(self, value: Any) -> tuple[Array, ...]:
        """A result, or a tuple of them, as NumPy arrays."""
        return results(value)


class Rangekit(Peer):
    name = package = "rangekit"

    def ready(self, w: Workload, args: tuple[Array, ...], like: tuple[Array, ...]) -> Calls:
        kernel = self.lib.kernel(w.rangekit)
        return Calls(functools.partial(kernel, *args), functools.partial(kernel, *args, out=kernel(*args)))


class NumPy(Peer):
    name = package = "numpy"


class Torch(Peer):
    name = package = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.lib.set_num_threads(threads)
        self.lib.set_grad_enabled(False)

    def array(self, a: Array) -> Any:
        if a.dtype.name == "bfloat16":  # torch does not know ml_dtypes
            return self.lib.from_numpy(a.view(np.int16)).view(self.lib.bfloat16)
        return self.lib.from_numpy(a)

    def numpy(self, value: Any) -> tuple[Array, ...]:
        values = value if isinstance(value, tuple) else (value,)
        return tuple((v.float() if v.dtype is self.lib.bfloat16 else v).numpy() for v in values)


class Inductor(Torch):
    """torch.compile of what torch is called with."""

    name = "inductor"

    def function(self, w: Workload) -> Callable[..., Any]:
        fn = w.peers.get("torch")
        if not callable(fn):
            raise GapError("not written for it")
        lib = self.lib
        compiled = lib.compile(lambda *args: fn(lib, *args), dynamic=False)
        return lambda _, *args: compiled(*args)


class Jax(Peer):
    name = package = "jax"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.lib.config.update("jax_enable_x64", True)  # float64 and int64 stay what they are

    def function(self, w: Workload) -> Callable[..., Any]:
        fn = super().function(w)
        compiled = self.lib.jit(lambda *args: fn(self.lib, *args))
        return lambda jax, *args: jax.block_until_ready(compiled(*args))

    def array(self, a: Array) -> Any:
        return self.lib.block_until_ready(self.lib.device_put(a))


class Numba(Peer):
    name = package = "numba"

    def ready(self, w: Workload, args: tuple[Array, ...], like: tuple[Array, ...]) -> Calls:
        name = w.peers.get(self.name)
        if not isinstance(name, str):
            raise GapError("not written for it")
        fn = getattr(importlib.import_module("benchmarks.numba_loops"), name)
        self.lib.set_num_threads(self.threads)

        def empty() -> list[Array]:
            return [np.empty(e.shape, e.dtype if e.dtype.kind in "iu" else args[0].dtype) for e in like]

        def into(*args: Any) -> Any:
            fn(*args)
            return args[-len(like) :]

        return Calls(lambda: into(*args, *empty()), functools.partial(into, *args, *empty()))


PEERS: dict[str, type[Peer]] = {p.name: p for p in (Rangekit, NumPy, Torch, Inductor, Jax, Numba)}
USUAL = ("numpy", "torch", "jax", "numba")  # beside rangekit, unless others are asked for


def environment(threads: int) -> dict[str, str]:
    """What a worker's environment says of threads; read by libraries when they are imported."""
    return dict.fromkeys(VARIABLES, str(threads))


def hold(threads: int) -> None:
    """Keep this process on as many cores as it may have threads, for libraries that ask nobody (where possible)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
