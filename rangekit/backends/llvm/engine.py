"""LLVM itself, loaded at first use: the host's target machine, the passes, code that lives as long as its owner.

A module becomes an object file, which is kept on disk, and the object file becomes code in memory. Whether it was kept
or made now, the same bytes are loaded. A fatal error inside LLVM aborts the process, so what the host lacks is found
before LLVM sees the text.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from rangekit import cache as disk
from rangekit.errors import CompileError

# What scalar nests need of LLVM's pipeline: inlining brings ``noalias`` into force, and the combiner turns gates,
# floor divisions and their remainders into few instructions (a guarded gather is 2.5 times slower without it).
PASSES = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")
LEVEL = 2  # of the passes and of code generation
FORMAT = 1  # counts up when the same text and the facts below make another object file

_lock = threading.RLock()  # llvmlite's contexts are shared by the process
_numbers = itertools.count()
_unloaded: list[Any] = []  # libraries whose owners are gone

if hasattr(os, "register_at_fork"):  # no child begins in the middle of another thread's compilation
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    libm = ctypes.util.find_library("m")
    if libm:
        ctypes.CDLL(libm, mode=ctypes.RTLD_GLOBAL)  # so that code finds its functions
    return llvm


@cache
def _features() -> Mapping[str, bool]:
    return dict(_llvm().get_host_cpu_features())


def _feature_string() -> str:
    return ",".join(("+" if on else "-") + name for name, on in sorted(_features().items()))


def _made(jit: bool) -> Any:
    # Position-independent code of the small model reaches constants and its own functions directly. That needs them
    # close together in memory, which the linker below sees to.
    llvm = _llvm()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=host(), features=_feature_string(), opt=LEVEL, reloc="pic", codemodel="small", jit=jit
    )


@cache
def _machine() -> Any:
    return _made(jit=False)


@cache
def _linker() -> Any:
    # One for all: it takes 0.2 ms to load an object and reports what is missing as an error, where an engine for each
    # (MCJIT) takes 0.8 ms, needs the large code model, and aborts.
    return _llvm().create_lljit_compiler(_made(jit=True), use_jit_link=True, suppress_errors=True)


def triple() -> str:
    """What code is made for: CPU family, vendor, system."""
    with _lock:
        return str(_machine().triple)


def host() -> str:
    """The host CPU's name."""
    with _lock:
        return str(_llvm().get_host_cpu_name())


def vector_floats() -> int:
    """float32 elements in the widest vector register of the host."""
    with _lock:
        features = _features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


def lacking(text: str, triple: str, features: Mapping[str, bool]) -> str | None:
    """What a module needs and the machine has not, in words; None if nothing."""
    if triple.startswith(("x86_64", "i386", "i686")) and " half " in text and not features.get("f16c"):
        return "conversions of float16 (F16C)"
    return None


def _module(text: str, machine: Any) -> Any:
    llvm = _llvm()
    missing = lacking(text, machine.triple, _features())
    if missing is not None:
        raise CompileError(f"this CPU has no {missing}", help="compute in float32, or use the device 'python'")
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as err:
        raise CompileError(f"LLVM refuses the kernel: {err}", help="this is a bug of rangekit") from err
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(LEVEL))
    passes = llvm.create_new_module_pass_manager()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)
    return module


def assembly(text: str) -> str:
    """The host's assembly of a module."""
    with _lock:
        machine = _machine()
        return str(machine.emit_assembly(_module(text, machine)))


def _version() -> str:
    import llvmlite

    return str(llvmlite.__version__)


def key(text: str) -> str:
    """What the object file of a module depends on, as one name."""
    with _lock:
        made_by = (_version(), *map(str, _llvm().llvm_version_info))
        return disk.key(text, triple(), host(), _feature_string(), *made_by, ",".join(PASSES), str(LEVEL), str(FORMAT))


def _object(text: str) -> bytes:
    """The object file of a module: kept, or made now and kept."""
    store = disk.store("objects")
    name = key(text)
    found = None if store is None else store.get(name)
    if found is None:
        machine = _machine()
        found = bytes(machine.emit_object(_module(text, machine)))
        if store is not None:
            store.put(name, found)
    return found


class Code:
    """Machine code of a module, loaded: the addresses of its functions. Freed with this object unless ``forever``."""

    def __init__(self, text: str, functions: Sequence[str] = ("kernel",), forever: bool = False) -> None:
        with _lock:
            library = _llvm().JITLibraryBuilder().add_object_img(_object(text)).add_current_process()
            if "@rk_parallel(" in text and "rk_parallel" not in functions:
                library.import_symbol("rk_parallel", _pool())
            for name in functions:
                library.export_symbol(name)
            _unload()
            try:
                self._library = library.link(_linker(), f"code{next(_numbers)}")
            except RuntimeError as err:
                raise CompileError(f"LLVM cannot link the kernel: {err}", help="this is a bug of rangekit") from err
            self.addresses = {name: int(self._library[name]) for name in functions}
            self.address = self.addresses[functions[0]]
            if forever:
                self._library.detach()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Never outside the lock, which a fork must find free, and never waiting for it: this may run anywhere.
        library = getattr(self, "_library", None)
        if library is None or finalizing():
            return
        _unloaded.append(library)
        if _lock.acquire(blocking=False):
            try:
                _unload()
            finally:
                _lock.release()


def _unload() -> None:
    while _unloaded:
        try:
            library = _unloaded.pop()
        except IndexError:  # a collection of garbage in between did it
            return
        library.close()


@cache
def _pool() -> int:
    """Where the thread pool's ``rk_parallel`` is; only code that calls it needs one."""
    from rangekit.backends.llvm import pool

    return pool.address()
