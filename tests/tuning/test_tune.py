"""``kernel.tune``: what it returns is right and no slower, whatever candidates, disks and people do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit import cache
from rangekit.__main__ import main
from rangekit.lower import search
from rangekit.lower.schedule import Schedule
from rangekit.tuning import kept, session
from rangekit.tuning.session import Shapes
from tests.tuning.programs import product, square

PROGRAM = Path(__file__).parent / "programs.py"
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    monkeypatch.setattr(session, "LEAST", 0.0)  # small arrays serve tests
    return tmp_path / kept.STORE


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that ends by itself: one schedule beside the default."""
    monkeypatch.setattr(search, "proposals", lambda nest, target: [GOOD])
    monkeypatch.setattr(search, "neighbours", lambda nest, schedule, target: [])


GOOD = Schedule((rk.upcast("i", 4), rk.upcast("j", 16)))
X = square()


def closes(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


# ---- what is found ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
def test_the_best_is_found_kept_and_right() -> None:
    tuned = product.tune(X, X, seconds=20)
    assert tuned.tuned is not None
    (nest,) = tuned.tuned.nests
    assert nest.schedule == GOOD == tuned.lower(X, X).kernels[0].schedule
    assert nest.best < nest.default
    assert (nest.tried, nest.rejected) == (1, {})
    closes(tuned(X, X), X.astype(float) @ X)
    (entry,) = kept.entries()
    assert (entry.schedule, entry.name, entry.spent) == (GOOD, "product k0", 20)
    lines = str(tuned.tuned).splitlines()
    assert re.fullmatch(r"tuned product in \S+ s: nothing is left to try", lines[0])
    assert re.fullmatch(r"  k0: .* -> .*x\); 1 tried", lines[1])
    assert lines[2:] == ["    rk.upcast('i', 4)", "    rk.upcast('j', 16)"]
    assert product.tuned is None
    assert product.lower(X, X).kernels[0].schedule == Schedule()


@pytest.mark.usefixtures("few")
def test_what_was_measured_is_what_runs() -> None:
    tuned = product.tune(X, X, seconds=20)
    plain = product.lower(X, X)._program
    shapes = Shapes(plain.lowered.plain[0], plain.options.target, [])
    assert tuned.lower(X, X).as_text("llvm") == shapes.text(GOOD)


def test_a_search_of_its_own_finds_something_right() -> None:
    tuned = product.tune(X, X, seconds=4)
    assert tuned.tuned is not None
    (nest,) = tuned.tuned.nests
    assert nest.best < nest.default
    assert nest.tried > 1
    assert nest.history[0][1] == nest.default
    closes(tuned(X, X), X.astype(float) @ X)


@pytest.mark.usefixtures("few")
def test_other_shapes_are_as_before_and_each_has_its_own() -> None:
    small = square(16)
    tuned = product.tune(X, X, seconds=20)
    assert tuned.lower(small, small).kernels[0].schedule == Schedule()
    both = tuned.tune(small, small, seconds=20)
    assert [both.lower(a, a).kernels[0].schedule for a in (X, small)] == [GOOD, GOOD]
    np.testing.assert_array_equal(both(small, small), tuned(small, small))


@pytest.mark.usefixtures("few")
def test_what_is_kept_is_returned_at_once_when_it_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    product.tune(X, X, seconds=20)
    monkeypatch.setattr(search, "proposals", lambda nest, target: pytest.fail("it searches again"))
    again = product.tune(X, X, seconds=19)
    assert again.tuned is not None
    assert again.tuned.ended == "kept"
    assert again.lower(X, X).kernels[0].schedule == GOOD


@pytest.mark.usefixtures("few")
def test_what_is_kept_is_where_a_longer_search_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    product.tune(X, X, seconds=15)
    monkeypatch.setattr(search, "proposals", lambda nest, target: [])
    again = product.tune(X, X, seconds=20)
    assert again.lower(X, X).kernels[0].schedule == GOOD
    assert kept.entries()[0].spent == 20


@pytest.mark.usefixtures("few")
def test_what_is_kept_for_another_size_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    product.tune(X, X, seconds=20)
    monkeypatch.setattr(search, "proposals", lambda nest, target: [])
    larger = square(104)
    assert product.tune(larger, larger, seconds=20).lower(larger, larger).kernels[0].schedule == GOOD


@pytest.mark.usefixtures("few")
def test_a_kept_schedule_that_is_wrong_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain,) = product.lower(X, X)._program.lowered.plain
    name = kept.key(plain, product.lower(X, X)._program.options.target, rk.get_num_threads(), ())
    false = Schedule((rk.upcast("k", 8),))
    kept.save(kept.Entry(name, "product k0", "", "", 2, false, 1e-9, 1.0, 1e6))
    kept.save(kept.Entry(name, "product k0", "", "", 2, Schedule((rk.tile("nobody", 4),)), 1e-9, 1.0, 1e6), false)
    again = product.tune(X, X, seconds=20)
    assert again.lower(X, X).kernels[0].schedule == GOOD


# ---- what programs there are -----------------------------------------------------------------------------------------


def gathered(table: Any, at: Any) -> Any:
    return rk.sum(table[at] * 2, axis=1)


def twice(x: Any) -> Any:
    i, j = rk.ranges(*x.shape)
    y = rk.bufferize(rk.exp(x[i, j] / 64), i, j, memory="global")
    return rk.bufferize(rk.sum(y[j, i], j), i)


def in_place(x: Any) -> Any:
    x[1:] = x[1:] * 0.5
    return x


def shaded(x: Any) -> Any:
    return rk.log(x + 1) * rk.astype(x > 3, rk.float64)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (gathered, (X, np.arange(95, -1, -1))),
        (twice, (X,)),
        (twice, (X[::-1, ::2][:40, :40],)),
        (in_place, (X.copy(),)),
        (shaded, (X,)),
        (lambda x: rk.argmax(x, axis=1), (X,)),
        (lambda x: rk.sum(rk.asarray(X) @ x, axis=0), (rk.asarray(X).numpy().astype("float16"),)),
        (lambda x, s: x * s + 1, (X, 3.5)),
        (lambda x: x * 2, (np.ones((0, 4), np.float32),)),
    ],
)
def test_programs_of_every_kind_stay_right(fn: Any, args: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "neighbours", lambda nest, schedule, target: [])
    plain = rk.kernel(fn, schedule=())
    before = [np.array(a) for a in args]
    tuned = plain.tune(*args, seconds=20)
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(np.asarray(a), b)
    assert tuned.tuned is not None
    assert [n.note for n in tuned.tuned.nests if "default is" in n.note] == []
    want = np.array(plain(*[np.array(a) for a in args]), np.float64)
    np.testing.assert_allclose(np.array(tuned(*[np.array(a) for a in args]), np.float64), want, rtol=2e-2)


@pytest.mark.usefixtures("few")
def test_a_launch_that_prints_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(x: Any) -> Any:
        i = rk.Range(x.shape[0])
        rk.print(x[i], when=i < 1)
        return rk.bufferize(x[i] * 2, i)

    tuned = rk.kernel(shown).tune(np.ones(8, np.float32), seconds=20)
    assert tuned.tuned is not None
    assert len(tuned.tuned.nests) < len(tuned.lower(np.ones(8, np.float32)).kernels)
    assert capsys.readouterr().out == ""


def test_a_short_launch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LEAST", 1.0)
    tuned = product.tune(X, X, seconds=20)
    assert tuned.tuned is not None
    assert str(tuned.tuned.nests[0]).endswith("left alone: too short")


def test_a_call_that_would_fail_fails_here() -> None:
    take = rk.kernel(lambda x, at: x[at])
    with pytest.raises(rk.BoundsError, match="index 9"):
        take.tune(X[0, :4], np.array([1, 9]), seconds=5)


def test_what_cannot_be_tuned_is_said() -> None:
    with pytest.raises(rk.DeviceError, match="nothing to tune"):
        rk.kernel(lambda x: x * 2, device="python").tune(X)
    for wrong in ({"seconds": 0}, {"beam": 0}, {"beam": 1.5}):
        with pytest.raises(rk.ArgumentError):
            product.tune(X, X, **wrong)


# ---- faults ----------------------------------------------------------------------------------------------------------


def broken(text: str, how: str) -> str:
    """A nest's module, with a fault at its beginning."""
    lines = {
        "crashed": "  call void @abort()",
        "endless": "  br label %ever\never:\n  br label %ever\ndead:",
        "wrong": "  ret void\ndead:",
    }
    declare = "declare void @abort()\n" if how == "crashed" else ""
    return declare + text.replace("@kernel(ptr %args, ptr %fault) {\nentry:\n",
                                  "@kernel(ptr %args, ptr %fault) {\nentry:\n" + lines[how] + "\n")  # fmt: skip


def test_candidates_with_faults_are_counted_and_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {rk.upcast("i", n): how for n, how in ((2, "crashed"), (3, "endless"), (5, "wrong"), (6, "refused"))}
    monkeypatch.setattr(search, "proposals", lambda nest, target: [*(Schedule((s,)) for s in faults), GOOD])
    monkeypatch.setattr(search, "neighbours", lambda nest, schedule, target: 1 / 0)
    made = Shapes.text

    def text(self: Shapes, schedule: Sequence[Any]) -> str | None:
        how = faults.get(schedule[0]) if len(schedule) == 1 else None
        sound = made(self, Schedule(schedule))
        assert sound is not None
        return "define" + sound if how == "refused" else sound if how is None else broken(sound, how)

    monkeypatch.setattr(Shapes, "text", text)
    tuned = product.tune(X, X, seconds=30)
    assert tuned.tuned is not None
    (nest,) = tuned.tuned.nests
    assert nest.rejected == {"crashed": 1, "endless": 1, "wrong": 1, "refused": 1}
    assert nest.schedule == GOOD
    assert "5 tried (1 crashed, 1 endless, 1 refused, 1 wrong)" in str(nest)
    closes(tuned(X, X), X.astype(float) @ X)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", ["file", "nothing", "full"])
def test_a_disk_that_keeps_nothing_stops_nobody(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "full":

        def full(self: Any, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(cache.FOLDER, str(tmp_path / "file") if kind == "file" else "")
    tuned = product.tune(X, X, seconds=20)
    assert tuned.lower(X, X).kernels[0].schedule == GOOD
    assert kept.entries() == []


@pytest.mark.usefixtures("few")
def test_a_damaged_result_is_found_again(folder: Path) -> None:
    product.tune(X, X, seconds=20)
    (entry,) = kept.entries()
    (folder / entry.key).write_bytes(b"damaged")
    again = product.tune(X, X, seconds=20)
    assert again.tuned is not None
    assert again.tuned.ended == "exhausted"
    assert kept.load(entry.key) is not None


# ---- people ----------------------------------------------------------------------------------------------------------


def searching(folder: Path, mark: str) -> tuple[subprocess.Popen[str], kept.Entry]:
    """A process in the middle of a search, and what it has kept so far."""
    environment = {**os.environ, cache.FOLDER: str(folder), "PYTHONPATH": str(ROOT), "RANGEKIT_TEST": mark}
    process = subprocess.Popen([sys.executable, str(PROGRAM), "60"], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    for _ in range(600):
        if found := kept.entries():
            return process, found[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    raise AssertionError("it finds nothing")


def marked(mark: str) -> list[str]:
    """Processes that have the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"RANGEKIT_TEST={mark}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path) -> None:
    process, entry = searching(tmp_path, uuid.uuid4().hex)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert errors == ""
    assert re.search(r"tuned product in .* s: interrupted\n  k0: .* -> ", said)
    assert kept.entries()[0].seconds <= entry.seconds < entry.default


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc, to see processes that are left")
def test_a_killed_search_leaves_its_best_and_no_process(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    process, entry = searching(tmp_path, mark)
    assert len(marked(mark)) >= 1
    process.kill()
    process.communicate()
    for _ in range(100):
        if not marked(mark):
            break
        time.sleep(0.05)
    assert marked(mark) == []
    found = kept.load(entry.key)
    assert found is not None
    assert found.seconds < found.default


@pytest.mark.usefixtures("few")
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "schedule.json"
    shapes = ["--shapes", "96x96,96x96", "--seconds", "20"]
    assert main(["tune", f"{PROGRAM}:product", *shapes, "--save", str(saved)]) == 0
    said = capsys.readouterr().out
    assert "tuned product in" in said
    assert f"saved {saved}" in said
    assert Schedule.load(saved) == GOOD


@pytest.mark.parametrize(
    ("kernel", "shapes", "says"),
    [
        ("nowhere.py:product", "8", "there is no file nowhere.py"),
        (f"{PROGRAM}:square", "8", "its kernels: product"),
        (f"{PROGRAM}:product", "8xx8", "is no size or dtype"),
        (f"{PROGRAM}:product", "8,=x", "'x' is no number"),
    ],
)
def test_what_the_command_line_does_not_understand(
    kernel: str, shapes: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", kernel, "--shapes", shapes]) == 2
    assert says in capsys.readouterr().out
