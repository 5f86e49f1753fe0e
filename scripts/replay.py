"""What a change of the compiler does to the code it makes: every kernel known here, before and after.

    python scripts/replay.py [--against COMMIT] [--generated N] [--only TEXT]
    python scripts/replay.py --record FILE

The workloads of ``benchmarks/``, the kernels that two files of tests check, and generated programs are lowered by this
tree and by a commit (HEAD, or its parent where nothing is uncommitted): the loop nests after scheduling and the LLVM IR
are held against each other. Nothing is compiled or run, so that arrays of any size cost nothing. The recorder is this
file on both sides; the kernels are those of each side. Exit status 0: nothing changed, 1: something did, 2: it could
not be said.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
GENERATED = 60  # programs of tests/generator.py
SHOWN = 30  # lines of a diff
TESTED = ("tests.test_programs", "tests.lower.test_default")  # whose ``check(fn, …)`` names kernels and arguments

Text = dict[str, str]  # "nest" and "llvm", or "error"
Recording = dict[str, Text]  # by the kernel's name
Sources = Iterator[tuple[str, Any, list[Any]]]  # a kernel's name, its function, its arguments


# ---- the kernels -----------------------------------------------------------------------------------------------------


class Zeros:
    """Stands in for ``benchmarks.workload.Draw``: arrays of zeros, whose pages nobody touches."""

    def normal(self, *shape: int, dtype: Any = np.float32) -> Any:
        """Zeros of a dtype."""
        return np.zeros(shape, dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Any:
        """Zeros, float32."""
        return np.zeros(shape, np.float32)

    def integers(self, low: int, high: int, *shape: int, dtype: Any = np.int64) -> Any:
        """Zeros of an integer dtype."""
        return np.zeros(shape, dtype)

    def permutation(self, n: int) -> Any:
        """Zeros, float32."""
        return np.zeros(n, np.float32)

    def coins(self, *shape: int) -> Any:
        """False everywhere."""
        return np.zeros(shape, bool)


def workloads() -> Sources:
    """Those of the benchmarks, at the sizes that are raced and at those of the tests."""
    for w in importlib.import_module("benchmarks.__main__").WORKLOADS:
        for kind, sizes in (("", w.sizes), (", tiny", w.tiny)):
            yield f"benchmark {w.name}{kind}", w.rangekit, list(w.inputs(Zeros(), **sizes))


def tested() -> Sources:
    """What tests hand to their ``check``, found by running them with another one."""
    for place in TESTED:
        module: Any = importlib.import_module(place)
        for name, test in list(vars(module).items()):
            if not name.startswith("test_") or "check" not in test.__code__.co_names:
                continue
            for label, given in _parameters(test):
                found: list[tuple[Any, list[Any]]] = []
                module.check = _collector(place, found)
                test(**given)
                for n, (fn, args) in enumerate(found):
                    yield f"{place.rpartition('.')[2]}.{name[5:]}{label} {n}", fn, args


def _collector(place: str, found: list[tuple[Any, list[Any]]]) -> Callable[..., None]:
    if place == "tests.test_programs":  # check(fn, want, *args)
        return lambda fn, want, *args, **options: found.append((fn, list(args)))
    return lambda fn, args, *rest: found.append((fn, list(args)))


def _parameters(test: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arguments of each case of a test with at most one parametrize mark, and how it is labelled."""
    marks = [m for m in getattr(test, "pytestmark", ()) if m.name == "parametrize"]
    if not marks:
        yield "", {}
        return
    (mark,) = marks
    names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
    for values in mark.args[1]:
        row = (values,) if len(names) == 1 else values
        yield "[" + ",".join(getattr(v, "__name__", str(v)) for v in row) + "]", dict(zip(names, row, strict=True))


def generated(count: int) -> Sources:
    """Programs drawn from the seeds below ``count``."""
    generator = importlib.import_module("tests.generator")
    for seed in range(count):
        program = generator.Program(seed)
        yield f"generated {seed}", _function(generator.Builder, program), [program.arrays, program.ids]


def _function(builder: Any, program: Any) -> Callable[[Any, Any], Any]:
    def drawn(arrays: Any, ids: Any) -> Any:
        return builder(program, arrays, ids).results()

    return drawn


# ---- recording -------------------------------------------------------------------------------------------------------


def recorded(only: str = "", programs: int = GENERATED) -> Recording:
    """The code of every kernel whose name contains ``only``; what cannot be lowered is recorded with its error."""
    out: Recording = {}
    for source in (workloads(), tested(), generated(programs)):
        for name, fn, args in source:
            if only in name:
                out[name] = lowered(fn, args)
    return out


def lowered(fn: Any, args: list[Any]) -> Text:
    """The nests and the LLVM IR of one kernel."""
    import rangekit as rk

    with _nothing_compiled():
        try:
            low = rk.kernel(fn).lower(*args)
            return {"nest": low.as_text("nest"), "llvm": low.as_text("llvm")}
        except Exception as err:  # an error that a change brings is what this looks for
            return {"error": f"{type(err).__name__}: {err}"}


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    from rangekit.backends.llvm import CpuDevice

    compiles = CpuDevice.compile
    CpuDevice.compile = lambda self, nest: None  # type: ignore[method-assign,assignment,return-value]
    try:
        yield
    finally:
        CpuDevice.compile = compiles  # type: ignore[method-assign]


def started(tree: Path, file: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """A process that records what the package in ``tree`` makes."""
    env = {**os.environ, "PYTHONPATH": str(tree), "RANGEKIT_CACHE_DIR": ""}
    command = [sys.executable, str(Path(__file__).resolve()), "--record", str(file), *options]
    return subprocess.Popen(command, cwd=tree, env=env)


# ---- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What became of one kernel. ``what``: "nest" or "llvm" for the first text that differs, "new", "gone", "error"."""

    name: str
    what: str
    before: Text
    after: Text

    def __str__(self) -> str:
        if self.what in ("new", "gone"):
            return f"{self.name}: only {'here' if self.what == 'new' else 'there'}"
        if self.what == "error":
            return f"{self.name}: was {_outcome(self.before)}, is {_outcome(self.after)}"
        old, new = (unnumbered(t[self.what]).splitlines() for t in (self.before, self.after))
        counts = [instructions(t["llvm"]) for t in (self.before, self.after)]
        head = f"{self.name}: {TITLES[self.what]}; {counts[0]} instructions, now {counts[1]}"
        diff = list(difflib.unified_diff(old, new, lineterm="", n=1))[2:] or ["numbers of values only"]
        more = [f"    … {len(diff) - SHOWN} lines more"] if len(diff) > SHOWN else []
        return "\n".join([head, *(f"    {line}" for line in diff[:SHOWN]), *more])


TITLES = {"nest": "text of nest differs", "llvm": "same nest, LLVM IR differs"}


def _outcome(text: Text) -> str:
    return text.get("error", "lowered")


def compared(before: Recording, after: Recording) -> list[Change]:
    """What changed, in the order of what is recorded now, then what is gone."""
    out = []
    for name, new in after.items():
        old = before.get(name)
        if old is None:
            out.append(Change(name, "new", {}, new))
        elif old != new:
            failed = "error" in old or "error" in new
            what = "error" if failed else "nest" if old["nest"] != new["nest"] else "llvm"
            out.append(Change(name, what, old, new))
    return out + [Change(name, "gone", old, {}) for name, old in before.items() if name not in after]


def instructions(llvm: str) -> int:
    """Instructions of LLVM IR: the lines inside functions that are no labels."""
    return len(re.findall(r"^ +(?:%\S+ = )?[a-z]", llvm, re.M))


def unnumbered(llvm: str) -> str:
    """LLVM IR without the numbers of its values: one instruction more renames all that follow."""
    return re.sub(r"(%[a-zA-Z_][\w.]*?)\.\d+\b", r"\1", llvm)


def report(before: Recording, after: Recording) -> tuple[str, int]:
    """What to print, and the exit status."""
    changes = compared(before, after)
    changed = {c.name for c in changes}
    same = [name for name in after if name not in changed]
    lines = [*map(str, changes), f"{len(same)} kernels are the same, {len(changes)} are not"]
    return "\n".join(lines), 1 if changes else 0


# ---- the command -----------------------------------------------------------------------------------------------------


def git(*args: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def against(commit: str, options: list[str]) -> int:
    """Record both sides at once, print what changed; returns the exit status."""
    with tempfile.TemporaryDirectory() as folder, checked_out(commit) as tree:
        files = [Path(folder) / name for name in ("before.json", "after.json")]
        running = [started(t, f, options) for t, f in zip((tree, ROOT), files, strict=True)]
        try:
            if any(process.wait() for process in running):
                return 2
        finally:
            for process in running:
                process.kill()
        before, after = (json.loads(f.read_text(encoding="utf-8")) for f in files)
    text, status = report(before, after)
    print(f"against {git('log', '-1', '--format=%h %s', commit)}")
    print(text)
    return status


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="The code of known kernels, before and after a change.")
    parser.add_argument("--against", metavar="COMMIT", help="default: HEAD, or its parent if nothing is uncommitted")
    parser.add_argument("--record", metavar="FILE", type=Path, help="only write what this tree makes into FILE")
    parser.add_argument("--generated", metavar="N", type=int, default=GENERATED, help="programs (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="", help="kernels whose names contain this")
    args = parser.parse_args(argv)
    if args.record is not None:
        found = recorded(args.only, args.generated)
        args.record.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return 0
    try:
        commit = args.against or ("HEAD" if git("status", "--porcelain") else "HEAD~1")
        return against(commit, ["--generated", str(args.generated), "--only", args.only])
    except subprocess.CalledProcessError as err:
        print(err.stderr.strip(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
