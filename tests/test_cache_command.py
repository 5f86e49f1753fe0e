"""``rangekit cache``: what is kept is shown as it is, and removing it removes nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import rangekit as rk
from rangekit import cache
from rangekit.__main__ import main
from rangekit.lower.schedule import Schedule
from rangekit.tuning import kept
from rangekit.tuning.kept import Entry

ROOT = Path(__file__).parents[1]
NEST = "for i in 0..512:\n    acc = 0.0\n    for k in 0..64:\n        acc += a[i, k]\n    out[i] = acc\n"
STEPS = Schedule((rk.upcast("i", 8), rk.thread("i")))
SUM = Entry("ab" * 32, "row_sum k0", NEST, "zen", 2, STEPS, 1e-3, 2.5e-3, 30.0, 7)
PARTIAL = ".0123456789abcdef-0123456789abcdef"  # what a writer that was killed leaves


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *args: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["cache", *args]) == status
    out = capsys.readouterr()
    return out.err if status else out.out


def fill(folder: Path) -> None:
    """Two objects of 100 bytes, a tuned entry; all last used on one day in 2001."""
    for name in ("one", "two"):
        cache.Store(folder / "objects").put(cache.key(name), bytes(100))
    kept.save(SUM)
    for path in folder.glob("*/*"):
        os.utime(path, (1e9, 1e9))


def test_the_list_has_every_store_and_a_line_for_each_tuned_entry(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder)
    size = (folder / "tuned" / SUM.key).stat().st_size
    assert said(capsys, "list").splitlines() == [
        f"object: 2 entries, 264 bytes, in {folder / 'objects'}",
        f"tuned: 1 entry, {size:,} bytes, in {folder / 'tuned'}",
        "  abababababab  row_sum k0  i 512, k 64  used 2001-09-09  2.50× as fast as the default",
    ]


def test_looking_is_not_using(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder)
    said(capsys, "list")
    said(capsys, "show", "row_sum")
    assert {p.stat().st_mtime for p in folder.glob("*/*") if p.name != ".lock"} == {1e9}


def test_nothing_kept_is_no_error(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "object: 0 entries, 0 bytes" in said(capsys, "list")
    assert said(capsys, "clear") == "object: 0 bytes freed\ntuned: 0 bytes freed\n"
    assert list(folder.iterdir()) == []
    monkeypatch.setenv(cache.FOLDER, "")
    for action in (["list"], ["clear"], ["show", "row_sum"]):
        assert said(capsys, *action).startswith("nothing is kept: RANGEKIT_CACHE_DIR")


@pytest.mark.parametrize("wanted", ["row_sum", "row_sum k0", "abab", SUM.key])
def test_show_prints_the_schedule_as_python_and_as_json(wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept.save(SUM)
    text = said(capsys, "show", wanted)
    assert NEST in text and "2.50× as fast as the default, 1.000 ms and 2.500" in text
    (python,) = re.findall(r"^schedule = (.*)$", text, re.M)
    assert Schedule(eval(python, {"rk": rk})) == STEPS
    assert Schedule.from_json(text.splitlines()[-1]) == STEPS


def test_show_wants_one_entry(capsys: pytest.CaptureFixture[str]) -> None:
    kept.save(SUM)
    other = "cd" * 32
    kept.save(replace(SUM, key=other, nest=NEST.replace("512", "8")))
    assert said(capsys, "show", "softmax", status=1) == "no tuned entry is 'softmax': see `list`\n"
    assert said(capsys, "show", "aba", status=1) == "no tuned entry is 'aba': see `list`\n"  # too short for a key
    error = said(capsys, "show", "row_sum", status=1)
    assert "abababababab (row_sum k0, i 512, k 64); cdcdcdcdcdcd (row_sum k0, i 8, k 64)" in error
    assert "0..8:" in said(capsys, "show", "cdcd")


def test_damaged_entries_are_listed_as_such(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder)
    first = min((folder / "objects").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    no_json, no_entry = "ee" * 32, "ff" * 32
    cache.Store(folder / "tuned").put(no_json, b"{")
    cache.Store(folder / "tuned").put(no_entry, b'{"name": 3}')
    (folder / "tuned" / ("0" * 64)).write_bytes(b"")
    lines = said(capsys, "list").splitlines()
    assert [x.split()[0] for x in lines if x.endswith("  damaged")] == [first.name[:12], "0" * 12, "e" * 12, "f" * 12]
    assert any("row_sum" in x for x in lines)
    assert said(capsys, "show", "eeee", status=1).startswith("no tuned entry")
    assert first.exists()


def test_clear_says_what_it_freed_and_leaves_the_other_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folder)
    (folder / "objects" / PARTIAL).write_bytes(bytes(1000))
    assert said(capsys, "clear", "object") == "object: 1,264 bytes freed\n"
    assert list((folder / "objects").iterdir()) == []
    assert kept.load(SUM.key) == SUM
    size = (folder / "tuned" / SUM.key).stat().st_size
    assert said(capsys, "clear", "all") == f"object: 0 bytes freed\ntuned: {size:,} bytes freed\n"
    assert kept.entries() == []


def test_clear_removes_nothing_that_is_no_entry(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "letter"
    elsewhere.write_text("dear")
    theirs = ["limits-1.json", "objects/notes.txt", "objects/" + "A" * 64, "tuned/" + "a" * 63, "tuned/.lock", "b" * 64]
    for name in theirs:
        (folder / name).write_text("mine")
    (folder / "objects" / ("c" * 64)).mkdir()
    (folder / "objects" / ("d" * 64)).symlink_to(elsewhere)
    said(capsys, "clear")
    left = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.name == "c" * 64}
    assert left == {*theirs, "objects/" + "c" * 64, "objects/" + "d" * 64}
    assert elsewhere.read_text() == "dear"


def test_processes_may_write_while_another_clears(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from dataclasses import replace
from rangekit import cache
from rangekit.tuning import kept
from tests.test_cache_command import SUM
objects = cache.store("objects")
for n in range(150):
    key = cache.key(str(n))
    objects.put(key, key.encode() * 100)
    found = objects.get(key)
    assert found in (None, key.encode() * 100)
    kept.save(replace(SUM, key=key))
    assert kept.load(key) in (None, replace(SUM, key=key))
print("done")
"""
    writers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    freed = 0
    while any(w.poll() is None for w in writers):
        freed += sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes freed", said(capsys, "clear")))
        said(capsys, "list")
    assert [w.communicate()[0] for w in writers] == [b"done\n"] * 2
    assert freed > 10_000
    said(capsys, "clear")
    assert [p.name for p in folder.rglob("*") if p.is_file()] in ([], [".lock"])
