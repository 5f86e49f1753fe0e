"""LLVM itself, loaded at first use: the host's target machine, the passes, code that lives as long as its owner."""

from __future__ import annotations

import ctypes.util
import threading
from functools import cache
from typing import Any

from rangekit.errors import CompileError

_lock = threading.RLock()  # llvmlite's contexts are shared by the process


@cache
def _llvm() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    libm = ctypes.util.find_library("m")
    if libm:
        llvm.load_library_permanently(libm)
    return llvm


def _machine(jit: bool) -> Any:
    llvm = _llvm()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=jit)


@cache
def _printing_machine() -> Any:
    return _machine(jit=False)


def host() -> str:
    """The host CPU's name."""
    with _lock:
        return str(_llvm().get_host_cpu_name())


def _module(text: str, machine: Any) -> Any:
    llvm = _llvm()
    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as err:
        raise CompileError(f"LLVM refuses the kernel: {err}", help="this is a bug of rangekit") from err
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    options = llvm.create_pipeline_tuning_options(2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False  # it costs time
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def assembly(text: str) -> str:
    """The host's assembly of a module."""
    with _lock:
        machine = _printing_machine()
        return str(machine.emit_assembly(_module(text, machine)))


class Code:
    """Machine code of one module, loaded; freed with this object."""

    def __init__(self, text: str) -> None:
        with _lock:
            llvm = _llvm()
            machine = _machine(jit=True)
            self._engine = llvm.create_mcjit_compiler(_module(text, machine), machine)
            self._engine.finalize_object()
            self.address: int = self._engine.get_function_address("kernel")
