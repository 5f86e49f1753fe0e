"""Modules with faults of every kind, as LLVM IR, and a task for them: ``y[n] = 2 * x[n]``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rangekit.tuning.task import Contents, Memory, Task, in_order

SIZE = 1000


def module(factor: float = 2.0, before: str = "", count: int = SIZE, declare: str = "", repeat: int = 1) -> str:
    """``before`` are lines of its entry; ``repeat`` makes it slower."""
    return f"""{declare}
define void @kernel(ptr %args, ptr %fault) {{
entry:
  %x = load ptr, ptr %args
  %at = getelementptr ptr, ptr %args, i64 1
  %y = load ptr, ptr %at
{before}
  br label %again
again:
  %r = phi i64 [0, %entry], [%r1, %done]
  br label %loop
loop:
  %n = phi i64 [0, %again], [%n1, %loop]
  %from = getelementptr float, ptr %x, i64 %n
  %v = load volatile float, ptr %from
  %w = fmul float %v, {factor!r}
  %to = getelementptr float, ptr %y, i64 %n
  store volatile float %w, ptr %to
  %n1 = add i64 %n, 1
  %more = icmp ult i64 %n1, {count}
  br i1 %more, label %loop, label %done
done:
  %r1 = add i64 %r, 1
  %least = icmp ult i64 %r1, {repeat}
  br i1 %least, label %again, label %end
end:
  ret void
}}
"""


GOOD = module()
SLOW = module(repeat=100)
FAULTS = {
    "aborts": (module(before="  call void @abort()", declare="declare void @abort()"), "crashed"),
    "reads null": (module(before="  %null = load volatile i64, ptr null"), "crashed"),
    "exits": (module(before="  call void @exit(i32 0)", declare="declare void @exit(i32)"), "crashed"),
    "never ends": (module(before="  br label %ever\never:\n  br label %ever\ndead:"), "endless"),
    "is wrong": (module(factor=2.0000002384185791015625), "wrong"),
    "stops early": (module(count=SIZE - 1), "wrong"),
    "writes beside": (module(count=SIZE + 1), "wrong"),
    "reports a fault": (module(before="  store i64 1, ptr %fault"), "wrong"),
    "takes all memory": (
        module(
            declare="declare ptr @malloc(i64)\ndeclare ptr @memset(ptr, i32, i64)",
            before="  br label %eat\neat:\n  %m = call ptr @malloc(i64 16777216)\n"
            "  %t = call ptr @memset(ptr %m, i32 1, i64 1)\n  br label %eat\ndead:",
        ),
        "crashed",
    ),
    "is no module": ("define void @kernel(", "refused"),
    "lacks a function": (module(before="  call void @nobody()", declare="declare void @nobody()"), "refused"),
}
FAULTS = {name: (text.replace("phi i64 [0, %entry]", "phi i64 [0, %dead]"), reason) if "dead:" in text else
          (text, reason) for name, (text, reason) in FAULTS.items()}  # fmt: skip


def contents(x: Any) -> tuple[Contents, Task]:
    """The file and the task for an ``x`` of any strides."""
    made = Contents()
    size = math.prod(x.shape)
    one = Memory("float32", x.shape, in_order(x.shape), size, made.put(x))
    two = Memory("float32", x.shape, in_order(x.shape), size, None, made.room(4 * size))
    return made, Task("k0", (one, two), 1e-4, True, 2, margin=256 << 20)


def halves() -> Any:
    """Multiples of a half."""
    return np.arange(-SIZE // 2, SIZE - SIZE // 2, dtype=np.float32) / 2
