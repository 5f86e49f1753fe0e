"""LLVM itself, loaded at first use: the host's target machine, the passes, code that lives as long as its owner.

A fatal error inside LLVM aborts the process, so what the host lacks is found before LLVM sees the text.
"""

from __future__ import annotations

import ctypes.util
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rangekit.errors import CompileError

# What scalar nests need of LLVM's pipeline: inlining brings ``noalias`` into force, and the combiner turns gates,
# floor divisions and their remainders into few instructions (a guarded gather is 2.5 times slower without it).
PASSES = ("always_inliner", "sroa", "instruction_combine", "simplify_cfg")

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


@cache
def _features() -> Mapping[str, bool]:
    return dict(_llvm().get_host_cpu_features())


def _machine(jit: bool) -> Any:
    llvm = _llvm()
    target = llvm.Target.from_default_triple()
    features = ",".join(("+" if on else "-") + name for name, on in sorted(_features().items()))
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=jit)


@cache
def _printing_machine() -> Any:
    return _machine(jit=False)


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
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(2))
    passes = llvm.create_new_module_pass_manager()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    passes.run(module, builder)
    return module


def assembly(text: str) -> str:
    """The host's assembly of a module."""
    with _lock:
        machine = _printing_machine()
        return str(machine.emit_assembly(_module(text, machine)))


class Code:
    """Machine code of a module, loaded: the addresses of its functions. Freed with this object unless ``forever``."""

    def __init__(self, text: str, functions: Sequence[str] = ("kernel",), forever: bool = False) -> None:
        with _lock:
            llvm = _llvm()
            if "@rk_parallel(" in text and "rk_parallel" not in functions:
                _link_pool()
            machine = _machine(jit=True)  # the engine owns it; making one takes less than a millisecond
            self._engine = llvm.create_mcjit_compiler(_module(text, machine), machine)
            self._engine.finalize_object()
            self.addresses = {name: int(self._engine.get_function_address(name)) for name in functions}
            self.address = self.addresses[functions[0]]
            if forever:
                self._engine.detach()


@cache
def _link_pool() -> None:
    """The thread pool, as a symbol that modules can call."""
    from rangekit.backends.llvm import pool

    _llvm().add_symbol("rk_parallel", pool.address())
