"""Break the compiler on purpose, one place at a time, and see whether the generated programs notice.

``python scripts/mutate.py`` plants each mutation in a copy of the package, runs only ``tests/test_properties.py``
against it (``tests/lower/test_derive.py`` for the rules of single passes, ``test_limits.py`` for bounds), and writes the table to
``docs/mutations.md``. A mutation that survives is a hole in the tests. Exit status 1 if any does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# what breaks: (name, file, the text, what it becomes)
MUTATIONS = (
    ("binding: no new name where a value would be captured", "ir/binding.py", "for r in bound if r in brought}", "for r in bound if r in brought and False}"),
    ("binding: a bound range is replaced like a free one", "ir/binding.py", "inner = {r: v for r, v in env.items() if r in free}", "inner = dict(env)"),
    ("binding: a shaped reduction is read at an index that it captures", "lower/rangeify.py", "(_is_reduction(n) or (", "(False or ("),
    ("gates: a pad has no condition of its own", "lower/rangeify.py", "return alu(Op.WHERE, inside, element, const(0, n.dtype))", "return element"),
    ("gates: only the first use of a load gates it", "lower/check.py", "gate = either(ways) if uses else None", "gate = either(ways[:1]) if uses else None"),
    ("gates: a condition reaches both sides of a where", "lower/check.py", "conjuncts(simplify(alu(Op.NOT, c))))]", "conjuncts(c))]"),
    ("gates: a condition passes a reduction that captures it", "lower/check.py", "if not c.ranges & captured)", "if True)"),
    ("tails: an inclusive loop bound loses its last iteration", "lower/limits.py", "if factor > 0 else alu(Op.ADD, quotient, idx(1)))", "if factor > 0 else quotient)"),
    ("tails: a strict lower bound starts too early", "lower/limits.py", "({}, -1 if c.op is Op.LT else 0)", "({}, 0)"),
    ("canon: takes a range that is open in the body", "lower/canon.py", "taken = set(n.ranges)", "taken: set[UOp] = set()"),
    ("lanes: not given an accumulator each", "lower/linearize.py", "shape = tuple(r.extent for r in own)", "shape = tuple(1 for r in own)"),
    ("lanes: set to the identity once, not where the loop starts", "lower/linearize.py", "self.stack[-1].body.extend(Store(b, at, e) for b, e in zip(buffers, neutral, strict=True))", "self.root.body[:0] = [Store(b, at, e) for b, e in zip(buffers, neutral, strict=True)] if not own else []"),
    ("linearize: a value goes to the outermost loop it uses", "lower/linearize.py", "for depth in range(len(self.stack) - 1, 0, -1):", "for depth in range(1, len(self.stack)):"),
    ("fuse: indices of an inlined buffer in reverse order", "lower/boundaries.py", "dict(zip(b.src[1:], index, strict=True))", "dict(zip(b.src[1:], index[::-1], strict=True))"),
    ("fuse: a shrunk buffer is filled with its own axes renamed too late", "lower/boundaries.py", "kept = substitute(inside, {b.src[1 + a]: uses[0].src[1 + a] for a in axes})", "at = {b.src[1 + a]: uses[0].src[1 + a] for a in axes}; kept = inside.replace(src=(substitute(inside.src[0], at), *inside.src[1:])) if rest else substitute(inside, at)"),
    ("simplify: the quotient of a sum rounds each part", "ir/divmod.py", "left: Form = (rest, form[1] % c)", "left: Form = (rest, 0)"),
    ("simplify: a comparison drops its constant", "ir/logic.py", "def _less(terms: dict[UOp, int], n: int, known: Known) -> UOp:", "def _less(terms: dict[UOp, int], n: int, known: Known) -> UOp:\n    n = n + 1"),
    ("movement: a flip is off by one", "lower/rangeify.py", "_plus(_times(i, -1), s - 1) if a in n.arg", "_plus(_times(i, -1), s - 2) if a in n.arg and s > 1"),
    ("split: an overwritten array is read without a copy", "lower/torn.py", "if not pointwise and not apart(write.src[1], read):", "if False:"),
    ("cache key: the signature ignores strides", "calls.py", "self.key: Hashable = (tuple(self.slots), tuple(fixed))", "self.key: Hashable = (tuple((s.kind, s.dtype, s.shape) for s in self.slots), tuple(fixed))"),
    ("cache key: the signature ignores dtypes", "calls.py", "self.key: Hashable = (tuple(self.slots), tuple(fixed))", "self.key: Hashable = (tuple((s.kind, s.shape, s.strides) for s in self.slots), tuple(fixed))"),
    ("ops: floor division rounds towards zero", "backends/llvm/scalar.py", "other_sign = e.make(f\"icmp slt {kind} {e.make(f'xor {kind} {rest}, {safe}')}, {none}\")", "other_sign = e.make(f\"icmp slt {kind} {none}, {none}\")"),
)  # fmt: skip

# the same for the rules of single passes
RULES = (
    ("derive: the old maximum is made finite, too", "lower/derive.py", "cast(power(old), total)", "cast(power(alu(Op.WHERE, alu(Op.ISFINITE, old), old, zero)), total)"),
    ("derive: the new maximum is not made finite", "lower/derive.py", "safe = alu(Op.WHERE, alu(Op.ISFINITE, new), new, zero)", "safe = new"),
    ("derive: sums are not rescaled", "lower/derive.py", "alu(Op.MUL, before, cast(power(old), total))", "before"),
    ("derive: nothing is put right after the last block", "lower/derive.py", "if not w.safe:", "if False:"),
    ("derive: all is put right after the last block, what was written to be finite too", "lower/derive.py", "if not w.safe:", "if True:"),
    ("derive: a sum of nothing is put right, too", "lower/derive.py", "if some is not None:  #", "if False:  #"),
    ("derive: min keeps the signs of max", "lower/derive.py", "alu(Op.MAX if first.arg == \"max\" else Op.MIN, old, tile)", "alu(Op.MAX, old, tile)"),
    ("derive: a falling exponent of max", "lower/derive.py", "if power is None or (power[0] > 0) is not (first.arg == \"max\"):", "if power is None:"),
    ("derive: the exponent is of another value than the maximum", "lower/derive.py", "    if a is not s:\n        return None\n", ""),
    ("derive: what is added in the exponent is dropped", "lower/derive.py", "        elif n.op is Op.NEG:\n", "        elif n.op is Op.ADD:\n            n = n.src[0]\n        elif n.op is Op.NEG:\n"),
    ("derive: the weighed value may hold the maximum", "lower/derive.py", "elif _above(v, first):", "elif False:"),
    ("derive: the constant factor of the exponent is lost", "lower/derive.py", "gap if factor == 1.0 else alu(Op.MUL, gap, scale)", "gap"),
    ("derive: a condition of the sum alone is a factor", "lower/derive.py", "    above, below = _factors(body)\n", "    if condition is None and body.op is Op.WHERE:\n        body = alu(Op.MUL, cast(body.src[0], body.dtype), body.src[1])\n    above, below = _factors(body)\n"),
    ("derive: conditions of two reductions need not be one", "lower/derive.py", "body.src[0] is s.src[0] and ", ""),
    ("derive: sums with and without where= share a pass", "lower/derive.py", "if w.where is found[0].where]", "]"),
    ("derive: what where(mask, s, -inf) masks is left out", "lower/derive.py", "if found[0].where is not None:", "if s.op is Op.WHERE:"),
    ("derive: where= is forgotten in the sums", "lower/derive.py", "blocks.where(condition, term, const(0.0, total))", "blocks.where(None, term, const(0.0, total))"),
    ("derive: the last block runs past the end", "lower/derive.py", "self.ragged = j.length % size != 0", "self.ragged = False"),
    ("derive: strict=True derives, too", "lower/pipeline.py", "return sink if options.strict else derive(", "return derive("),
    ("derive: the means of blocks are not weighed by their sizes", "lower/derive.py", "alu(Op.DIV, inside, total)\n", "const(0.5, dtype)\n"),
    ("derive: the gap between two means adds no square", "lower/derive.py", "alu(Op.ADD, alu(Op.ADD, squares, spread), between)", "alu(Op.ADD, squares, spread)"),
)  # fmt: skip
BOUNDS = (
    ("linearize: reductions of different bounds share a loop", "lower/linearize.py", "level[n], bounds, held[n])", "level[n], held[n])"),
)  # fmt: skip
ASKED = (
    (MUTATIONS, "tests/test_properties.py"),
    (BOUNDS, "tests/lower/test_limits.py"),
    (RULES, "tests/lower/test_derive.py"),
)


def try_one(name: str, file: str, old: str, new: str, asked: str) -> str:
    """How the tests that are asked answered to one mutation: the first line that failed, or "survived"."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("rangekit", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "rangekit" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{name}: its text is {text.count(old)} times in {file}: bring the mutation up to date")
        path.write_text(text.replace(old, new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "--no-header", asked]
        env = {"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "HOME": folder}
        try:
            done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=200)
        except subprocess.TimeoutExpired:
            return "caught: it does not end"
        if done.returncode == 0:
            return "survived"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if not failed:
            return "caught: the run was ended by " + (done.stdout.strip().splitlines() or ["a crash"])[-1]
        reasons = [line[2:].strip() for line in done.stdout.splitlines() if line.startswith("E  ")]
        reason = next((r for r in reasons if r), "")
        kind = next((word for word in reason.replace(":", " ").split() if word.endswith("Error")), "AssertionError")
        return f"caught by `{failed[0].split('::')[-1].split(' - ')[0]}`: {kind.rpartition('.')[2]}"


def main() -> int:
    """Try them all, write the table; returns the exit status."""
    wanted = sys.argv[1:]
    rows = []
    for (name, file, old, new), asked in ((row, asked) for rows_, asked in ASKED for row in rows_):
        if wanted and not any(w in name for w in wanted):
            continue
        answer = try_one(name, file, old, new, asked)
        print(f"{name}: {answer}", flush=True)
        rows.append((name, file, answer))
    survived = sum(answer == "survived" for _, _, answer in rows)
    if not wanted:
        lines = [f"| {name} | `{file}` | {answer} |" for name, file, answer in rows]
        head = "# Planted mutations\n\nWritten by `python scripts/mutate.py`: each row breaks one line of the compiler, and only\n"
        head += "`tests/test_properties.py` is asked whether it notices, `tests/lower/test_derive.py` where a rule of derive is\n"
        head += "broken, `tests/lower/test_limits.py` where loops have wrong bounds.\n\n"
        head += "| what is broken | where | what happened |\n| --- | --- | --- |\n"
        total = f"\n{len(rows) - survived} of {len(rows)} caught.\n"
        (ROOT / "docs" / "mutations.md").write_text(head + "\n".join(lines) + "\n" + total)
    print(f"{len(rows) - survived} of {len(rows)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
