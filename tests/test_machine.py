"""The loops that find the limits do what they say, and what is kept is what was measured."""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

from rangekit import machine
from rangekit.backends.llvm import engine, probes
from rangekit.machine import Limits

LANES = engine.vector_floats()
ENTRY = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 2)
RATES = [f.name for f in fields(Limits) if f.name.endswith(("_1", "_all"))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "folder", lambda: tmp_path)
    return tmp_path


def sample() -> Limits:
    return Limits(cpu="a CPU", cores=2, **{name: float(n) for n, name in enumerate(RATES, 1)})


def aligned(elements: int) -> np.ndarray:
    whole = np.zeros(elements + 16, np.float32)
    skip = -whole.ctypes.data % 64 // 4
    return whole[skip : skip + elements]


def run(text: str, repetitions: int, elements: int = 4 * probes.STEP) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out, a, b = (aligned(elements) for _ in range(3))
    rng = np.random.default_rng(0)
    a[:], b[:] = rng.integers(-8, 8, elements), rng.integers(-8, 8, elements)
    code = engine.Code(text)
    ENTRY(code.address)(out.ctypes.data, a.ctypes.data, b.ctypes.data, elements, repetitions)
    return out, a, b


@pytest.mark.parametrize("streaming", [False, True])
def test_the_triad_is_a_triad(streaming: bool) -> None:
    out, a, b = run(probes.triad(LANES, streaming), 2)
    assert np.array_equal(out, 3 * a + b)
    assert "!nontemporal" in probes.triad(LANES, True)


def test_the_reading_loop_reads_every_element_each_time() -> None:
    out, a, _ = run(probes.read(LANES), 3)
    assert out[:LANES].sum() == 3 * a.sum()
    assert not out[LANES:].any()


def test_the_multiply_adds_are_all_done() -> None:
    out, _, _ = run(probes.fma(LANES), 3)
    sums = np.arange(probes.CHAINS) + 0.5
    for _ in range(3):
        sums = sums * 0.5 + 0.25
    assert np.array_equal(out[:LANES], np.full(LANES, sums.sum()))


def test_the_loops_keep_their_instructions() -> None:
    text = engine.assembly(probes.fma(LANES))
    if "x86" not in engine.triple():
        pytest.skip("names of instructions are known for x86-64 only")
    assert text.count("vfmadd") == probes.CHAINS or engine.vector_floats() == 4
    assert "movntps" in engine.assembly(probes.triad(LANES, True))


def test_measuring_gives_every_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RUN_SECONDS", 1e-4)
    calls = []
    found = machine.measure(fork_join=lambda: calls.append(1))
    assert all(getattr(found, name) > 0 for name in RATES)
    assert found.cores == machine.cores()
    assert found.fork_join is not None and found.fork_join >= 0 and calls


def test_limits_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr(machine, "measure", lambda: times.append(1) or sample())
    assert machine.limits() == sample()
    assert machine.limits() == sample()
    assert len(times) == 1
    assert [p.suffix for p in folder.iterdir()] == [".json"]


@pytest.mark.parametrize("kept", ["", "[]", "{}", "3", json.dumps({**asdict(sample()), "more": 1})])
def test_a_spoilt_file_is_measured_again(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine._file().write_text(kept, encoding="utf-8")
    monkeypatch.setattr(machine, "measure", sample)
    assert machine.limits() == sample()
    assert json.loads(machine._file().read_text(encoding="utf-8")) == asdict(sample())


def test_another_core_count_is_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine._file()
    monkeypatch.setattr(machine, "cores", lambda: 999)
    assert machine._file() != here


def test_a_folder_that_cannot_be_written_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = folder / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setattr(machine, "folder", lambda: blocked / "inside")
    assert machine.keep(sample()) == sample()


def test_limits_show_themselves() -> None:
    shown = str(replace(sample(), fork_join=5.5))
    assert "a CPU, 2 cores" in shown
    assert shown.count("GB/s") == 6 and shown.count("GFLOP/s") == 1
    assert shown.splitlines()[-1].split() == ["fork", "and", "join", "of", "all", "threads", "5.5", "µs"]
