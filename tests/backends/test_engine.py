"""Code from an object file that was kept is the code that would be made, and a kept file is never trusted blindly."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rangekit import cache
from rangekit.backends.llvm import engine
from rangekit.errors import CompileError

ROOT = Path(__file__).parents[2]
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def times(factor: int) -> str:
    """A module that multiplies, through a second function and a constant in memory."""
    return f"""\
@factor = internal constant i64 {factor}
define internal i64 @step(i64 %x) noinline {{
  %f = load volatile i64, ptr @factor
  %y = mul i64 %x, %f
  ret i64 %y
}}
define i64 @kernel(i64 %x) {{
  %y = call i64 @step(i64 %x)
  ret i64 %y
}}
define i64 @twice(i64 %x) {{
  %y = call i64 @step(i64 %x)
  %z = call i64 @step(i64 %y)
  ret i64 %z
}}
"""


def run(code: engine.Code, x: int, name: str = "kernel") -> int:
    return int(ENTRY(code.addresses[name])(x))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of object files, empty."""
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    return tmp_path / "objects"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that LLVM had to compile since."""
    seen: list[str] = []
    real = engine._module
    monkeypatch.setattr(engine, "_module", lambda text, machine: seen.append(text) or real(text, machine))
    return seen


def test_kept_code_does_the_same_and_is_not_compiled_again(folder: Path, compiled: list[str]) -> None:
    for _ in range(3):
        code = engine.Code(times(3), ("kernel", "twice"))
        assert run(code, 14) == 42 and run(code, 5, "twice") == 45
        assert code.address == code.addresses["kernel"]
    assert len(compiled) == 1
    assert [p.name for p in folder.iterdir()] == [engine.key(times(3))]


def test_two_modules_with_equal_names_stay_apart(folder: Path) -> None:
    for _ in range(2):
        codes = [engine.Code(times(n)) for n in range(2, 9)]
        assert [run(code, 10) for code in codes] == [10 * n for n in range(2, 9)]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_file_is_compiled_again(folder: Path, compiled: list[str], damage: str) -> None:
    engine.Code(times(3))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes({"empty": b"", "cut": whole[:middle], "flipped": flipped, "text": b"not an object file"}[damage])
    assert run(engine.Code(times(3)), 14) == 42
    assert len(compiled) == 2
    assert path.read_bytes() == whole


def test_code_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    for nowhere in ("", str(tmp_path / "file")):
        monkeypatch.setenv(cache.FOLDER, nowhere)
        assert run(engine.Code(times(3)), 14) == 42
    assert len(compiled) == 2


def test_the_key_is_everything_the_object_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {engine.key(times(3)), engine.key(times(4))}
    features = dict(engine._features())
    first = next(iter(features))
    for name, other in {
        "host": lambda: "another-cpu",
        "triple": lambda: "another-system",
        "_features": lambda: {**features, first: not features[first]},
        "_version": lambda: "0.0.0",
        "PASSES": engine.PASSES[:-1],
        "LEVEL": 1,
        "FORMAT": engine.FORMAT + 1,
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(engine, name, other)
            keys.add(engine.key(times(3)))
    with monkeypatch.context() as patch:
        patch.setattr(engine._llvm(), "llvm_version_info", (0, 0, 0))
        keys.add(engine.key(times(3)))
    assert len(keys) == 10
    assert engine.key(times(3)) in keys


def test_every_process_finds_the_same_key() -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.backends.test_engine import *; "
        "print(engine.key(times(3)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == engine.key(times(3)), done.stderr


def test_processes_may_compile_one_module_at_once(folder: Path) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.backends.test_engine import *; "
        "sys.exit(any(run(engine.Code(times(n)), 10) != 10 * n for n in range(2, 40)))"
    )
    both = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert len(list(folder.iterdir())) == 38


def test_code_is_freed_with_its_object(folder: Path) -> None:
    code = engine.Code(times(3))
    library = code._library
    del code
    assert library.closed
    assert run(engine.Code(times(3)), 14) == 42


def test_code_dropped_while_another_thread_compiles_is_freed_later(folder: Path) -> None:
    code = engine.Code(times(3))
    library = code._library
    held, done = threading.Event(), threading.Event()

    def holder() -> None:
        with engine._lock:
            held.set()
            done.wait(60)

    other = threading.Thread(target=holder)
    other.start()
    held.wait(60)
    del code  # would wait for the other thread, which waits for this one
    assert not library.closed
    done.set()
    other.join(60)
    engine.Code(times(4))
    assert library.closed


def test_code_kept_forever_outlives_its_object(folder: Path) -> None:
    address = engine.Code(times(3), forever=True).address
    gc.collect()
    for n in range(20):  # would take its place
        engine.Code(times(n))
    assert ENTRY(address)(14) == 42


def test_functions_of_the_c_libraries_are_found(folder: Path) -> None:
    text = """\
declare double @lgamma(double)
declare double @fmod(double, double)
declare i64 @strlen(ptr)
@word = internal constant [6 x i8] c"seven\\00"
define i64 @kernel(i64 %x) {
  %d = sitofp i64 %x to double
  %g = call double @lgamma(double %d)
  %m = call double @fmod(double %g, double 100.0)
  %l = call i64 @strlen(ptr @word)
  %i = fptosi double %m to i64
  %s = add i64 %i, %l
  ret i64 %s
}
"""
    assert run(engine.Code(text), 11) == 15 + 5  # log 10! is 15.1


def test_a_function_that_is_nowhere_is_an_error_of_the_compiler(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "declare void @rk_nowhere()\ndefine void @kernel() {\n  call void @rk_nowhere()\n  ret void\n}\n"
    for _ in range(2):
        with pytest.raises(CompileError, match="LLVM cannot link the kernel"):
            engine.Code(text)
    assert run(engine.Code(times(3)), 14) == 42


def test_assembly_is_that_of_the_code(folder: Path) -> None:
    text = engine.assembly(times(3))
    assert "kernel:" in text.replace("_kernel:", "kernel:")
    assert "twice" in text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_another_thread_compiles_can_compile() -> None:
    program = f"""
import os, sys, threading; sys.path.insert(0, {str(ROOT)!r})
from tests.backends.test_engine import *
stop = []
def compiling():
    n = 1000
    while not stop:
        n += 1
        engine.Code(times(n))
busy = threading.Thread(target=compiling); busy.start()
codes = []
for n in range(10):
    child = os.fork()
    if child == 0:
        os._exit(0 if run(engine.Code(times(n)), 10) == 10 * n else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.append(1); busy.join()
print(set(codes))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{0}\n", done.stderr
