"""What searches keep: found again by what it depends on, joined by processes at once, and never an error."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit import cache
from rangekit.ir.target import CPU
from rangekit.lower.schedule import Schedule
from rangekit.tuning import kept
from rangekit.tuning.kept import Entry


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    return tmp_path / kept.STORE


def entry(key: str = "a" * 64, **changed: Any) -> Entry:
    made = Entry(key, "double k0", "for i in 0..8:\n", "zen", 2, Schedule((rk.upcast("i", 8),)), 1e-3, 2e-3, 30.0, 7)
    return replace(made, **changed)


def nest(n: int, dtype: Any = np.float32, strict: bool = False) -> Any:
    return rk.kernel(lambda x: x * 2, strict=strict).lower(np.ones(n, dtype)).kernels[0].written


def test_an_entry_comes_back_as_it_was() -> None:
    assert kept.load("a" * 64) is None
    kept.save(entry())
    assert kept.load("a" * 64) == entry()
    assert kept.entries() == [entry()]


def test_the_faster_schedule_stays_and_the_longest_search_counts() -> None:
    slower = entry(schedule=Schedule(), seconds=1.5e-3, spent=60.0, tried=3)
    for first, second in ((entry(), slower), (slower, entry())):
        kept.save(first)
        kept.save(second)
        assert kept.load("a" * 64) == entry(spent=60.0, tried=7)


def test_everything_that_a_time_depends_on_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nest(64)
    keys = [kept.key(plain, CPU, 2), kept.key(nest(65), CPU, 2), kept.key(nest(64, np.float64), CPU, 2)]
    keys += [kept.key(plain, CPU, 1), kept.key(plain, replace(CPU, registers=32), 2)]
    keys.append(kept.key(nest(64, strict=True), CPU, 2))
    monkeypatch.setattr(kept, "version", lambda name: "99")
    keys.append(kept.key(plain, CPU, 2))
    monkeypatch.setattr(kept.engine, "host", lambda: "another")
    keys.append(kept.key(plain, CPU, 2))
    assert len(set(keys)) == len(keys)


def test_shapes_that_differ_in_sizes_are_similar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept.engine, "host", lambda: "zen")
    text = kept.nest_text(nest(4096))
    kept.save(entry("b" * 64, nest=text))
    kept.save(entry("c" * 64, nest=text, seconds=5e-4))
    kept.save(entry("d" * 64, nest="for k in 0..8:\n"))
    kept.save(entry("e" * 64, nest=text, host="another"))
    found = kept.similar("f" * 64, nest(64), 2)
    assert [e.key[0] for e in found] == ["c", "b"]
    assert kept.similar("c" * 64, nest(64), 2) == found[1:]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"schedule": 1}', b'{"name": 3}', b'{"version": 9}', b"\xff\xfe"],
)
def test_what_cannot_be_read_is_absent(damage: bytes, folder: Path) -> None:
    store = cache.store(kept.STORE)
    assert store is not None
    store.put("a" * 64, damage)
    assert kept.load("a" * 64) is None
    kept.save(entry())
    (folder / ("a" * 64)).write_bytes(damage)
    assert kept.load("a" * 64) is None
    assert kept.entries() == []
    kept.save(entry())
    assert kept.load("a" * 64) == entry()


def test_an_entry_of_wrong_types_is_absent() -> None:
    for wrong in ({"seconds": "fast"}, {"seconds": 0.0}, {"default": -1.0}, {"threads": None}, {"name": 3}):
        kept.save(entry("b" * 64, **wrong))
        assert kept.load("b" * 64) is None


def test_a_disk_that_cannot_be_written_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "file"))
    kept.save(entry())
    assert kept.load("a" * 64) is None
    assert kept.entries() == []
    monkeypatch.setenv(cache.FOLDER, "")
    kept.save(entry())
    assert kept.entries() == []


def test_processes_at_once_lose_nothing() -> None:
    program = (
        "import sys; from rangekit.tuning.kept import *; n = int(sys.argv[1])\n"
        "for k in range(40):\n"
        "    save(Entry('a' * 64, 'x', 'y', 'z', 1, Schedule(), 1e-3 * (50 - n - k), 1.0, 0.0, 40 * n + k))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(n)]) for n in range(3)]
    assert [p.wait(60) for p in running] == [0, 0, 0]
    found = kept.load("a" * 64)
    assert found is not None
    assert (found.seconds, found.tried) == (pytest.approx(0.009), 119)
