"""What a replay calls a change, and that the compiler makes the same code in every process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import replay

ROOT = Path(__file__).parents[1]
NEST = "for i in 0..4:\n    out[i] = x[i]\n"
LLVM = "define void @body() {\nentry:\n  %v.0 = load float, ptr %p.0\n  store float %v.0, ptr %p.1\n  ret void\n}\n"
COPY = {"nest": NEST, "llvm": LLVM}


def test_equal_recordings_differ_in_nothing() -> None:
    assert replay.compared({"a": COPY, "b": COPY}, {"b": dict(COPY), "a": dict(COPY)}) == []
    assert replay.report({"a": COPY}, {"a": COPY}) == ("1 kernels are the same, 0 are not", 0)


def test_each_kind_of_change_is_told_apart() -> None:
    tiled = {"nest": NEST.replace("0..4", "0..2"), "llvm": LLVM.replace("  ret", "  fence acquire\n  ret")}
    aligned = {"nest": NEST, "llvm": LLVM.replace("ptr %p.1", "ptr %p.1, align 4")}
    broken = {"error": "ScheduleError: no"}
    before = {"same": COPY, "nest": COPY, "llvm": COPY, "broken": COPY, "mended": broken, "gone": COPY}
    after = {"same": COPY, "nest": tiled, "llvm": aligned, "broken": broken, "mended": COPY, "new": COPY}
    found = replay.compared(before, after)
    assert [(c.name, c.what) for c in found] == [
        ("nest", "nest"), ("llvm", "llvm"), ("broken", "error"), ("mended", "error"), ("new", "new"), ("gone", "gone"),
    ]  # fmt: skip
    text, status = replay.report(before, after)
    assert status == 1
    assert (
        text
        == """\
nest: text of nest differs; 3 instructions, now 4
    @@ -1,2 +1,2 @@
    -for i in 0..4:
    +for i in 0..2:
         out[i] = x[i]
llvm: same nest, LLVM IR differs; 3 instructions, now 3
    @@ -3,3 +3,3 @@
       %v = load float, ptr %p
    -  store float %v, ptr %p
    +  store float %v, ptr %p, align 4
       ret void
broken: was lowered, is ScheduleError: no
mended: was ScheduleError: no, is lowered
new: only here
gone: only there
1 kernels are the same, 6 are not"""
    )


def test_a_long_difference_is_cut_short_and_new_numbers_are_none() -> None:
    long = {"nest": "".join(f"x[{n}]\n" for n in range(100)), "llvm": LLVM}
    lines = str(replay.Change("a", "nest", long, {"nest": "", "llvm": LLVM})).splitlines()
    assert len(lines) == replay.SHOWN + 2
    assert lines[-1] == f"    … {101 - replay.SHOWN} lines more"
    other = {"nest": NEST, "llvm": LLVM.replace("%v.0", "%v.1")}
    (change,) = replay.compared({"a": COPY}, {"a": other})
    assert str(change).splitlines()[1:] == ["    numbers of values only"]


def test_a_kernel_is_recorded_as_its_nests_and_its_llvm() -> None:
    import numpy as np

    found = replay.lowered(lambda x: x * 2, [np.zeros(3, np.float32)])
    assert found["nest"] == "for i in 0..3:\n    out[i] = x[i] * 2.0\n"
    assert "define void @kernel(ptr %args, ptr %fault)" in found["llvm"]
    assert replay.lowered(lambda x: x[5], [np.zeros(3, np.float32)])["error"].startswith("BoundsError: ")


def test_processes_with_other_hashes_make_the_same_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        running.append(replay.started(ROOT, tmp_path / seed, ["--generated", "100"]))
    assert [process.wait(300) for process in running] == [0, 0]
    one, two = (json.loads((tmp_path / seed).read_text(encoding="utf-8")) for seed in ("1", "2"))
    assert len(one) > 300
    kinds = {name.split()[0].split(".")[0] for name in one}
    assert kinds == {"benchmark", "test_programs", "test_default", "generated"}
    assert [str(c) for c in replay.compared(one, two)] == []
    assert [name for name, text in one.items() if "error" in text] == []
