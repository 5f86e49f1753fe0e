"""The command line, the README's programs, and what importing the package costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rangekit import machine
from rangekit.__main__ import main

ROOT = Path(__file__).parent.parent
LAZY = ("llvmlite", "z3", "sklearn", "torch", "IPython")


def python(*args: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "folder", lambda: tmp_path)
    monkeypatch.setattr(machine, "RUN_SECONDS", 1e-4)


def test_the_doctor_runs_a_kernel_on_each_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "device cpu: a row sum is right" in said
    assert "device python: a row sum is right" in said
    assert re.search(r"llvmlite \d+\.\d+", said)
    assert re.search(r"float32 multiply-adds +\d+\.\d +\d+\.\d GFLOP/s", said)


def test_the_doctor_reports_a_wrong_device(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rangekit.kernel import Kernel

    monkeypatch.setattr(Kernel, "__call__", lambda self, x: x[:, 0])
    assert main(["doctor"]) == 1
    assert "device cpu: a row sum is WRONG" in capsys.readouterr().out


def test_the_demo_prints_its_nests_and_writes_a_page(tmp_path: Path) -> None:
    done = python("-m", "rangekit", "demo", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "all 597 labels equal those of float64 NumPy" in done.stdout
    assert re.search(r"accuracy 9\d\.\d\d%", done.stdout)
    assert "] = labels[" in done.stdout
    assert "floating-point operations" in done.stdout
    assert "causal attention (1, 4, 256, 64): largest error" in done.stdout
    html = (tmp_path / "rangekit-demo.html").read_text(encoding="utf-8")
    assert html.count("<pre") == 2
    assert "<script" not in html


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fly"])
    assert left.value.code == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def test_importing_loads_neither_llvm_nor_z3() -> None:
    done = python("-c", f"import sys, rangekit; print([m for m in {LAZY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_llvm_is_loaded_by_the_first_call() -> None:
    program = (
        "import sys, numpy as np, rangekit as rk; k = rk.kernel(lambda x: x + 1); before = 'llvmlite' in sys.modules; "
        "k(np.ones(2)); print(before, 'llvmlite' in sys.modules)"
    )
    assert python("-c", program).stdout.split() == ["False", "True"]


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


def test_the_readmes_programs_run_and_print_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = readme_blocks("python")
    assert blocks
    scope: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks):
        path = tmp_path / f"readme{number}.py"  # a file, so that errors can show their line
        path.write_text(block, encoding="utf-8")
        exec(compile(block, str(path), "exec"), scope)
    assert capsys.readouterr().out == "".join(readme_blocks("text"))


def test_the_readmes_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [line for block in readme_blocks("sh") for line in block.splitlines()]
    targets = [line.split()[1] for line in commands if line.startswith("make ")]
    assert targets[:2] == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_the_map_names_every_room() -> None:
    shown = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = [p for p in (ROOT / "rangekit").rglob("*.py") if p.name != "__init__.py"]
    assert len(rooms) > 40
    assert [p.name for p in rooms if p.name not in shown] == []
    named = set(re.findall(r"^ +(?:view/)?(\w+\.py) ", shown, re.M))
    assert named <= {p.name for p in (ROOT / "rangekit").rglob("*.py")}
