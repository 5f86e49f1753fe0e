"""One kernel in every way it can run: what each gives has to be the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import rangekit as rk
from rangekit.backends.llvm import CpuDevice
from rangekit.ir.evaluate import evaluate
from rangekit.ir.ops import Op
from rangekit.ir.target import CPU
from rangekit.ir.uop import toposort
from rangekit.lower.schedule import scheduled
from tests.lower.test_schedule import random_schedule

Array = np.ndarray[Any, Any]
Results = tuple[Any, ...]


def ways(fn: Callable[..., Any], *args: Array, schedules: int = 4, seed: int = 0) -> Iterator[tuple[str, Results]]:
    """What runs, and its results: the meaning of each stage of the graph, the interpreter, LLVM under the default
    schedule, strict, and under random schedules.
    """
    low: Any = rk.kernel(fn, device="python").lower(*args)
    program = low._program
    for stage in ("trace", "rangeify", "canon", "fuse"):
        sink = program.lowered.stages[stage]
        env = {p: args[p.arg.slot] for p in toposort(sink) if p.op is Op.PARAM}
        yield stage, tuple(evaluate(root, env) for root in sink.src)
    yield "python", _tuple(rk.kernel(fn, device="python")(*args))
    yield "cpu", _tuple(rk.kernel(fn)(*args))
    yield "strict", _tuple(rk.kernel(fn, strict=True)(*args))
    for number in range(schedules):
        rng = random.Random(1000 * seed + number)
        memory = {p: np.empty(p.shape, p.dtype.numpy) for p in (*program.scratch, *program.results)}
        memory.update(program.captured)
        steps = []
        for nest in program.lowered.plain:
            steps.append(random_schedule(rng, nest))
            new = scheduled(nest, steps[-1], CPU)
            held = [args[p.arg.slot] if p.op is Op.PARAM else memory[p] for p in new.params]
            CpuDevice().compile(new)(held, np.zeros(4, np.int64))
        yield f"{steps}", tuple(memory[p] for p in program.lowered.outputs)


def _tuple(answer: Any) -> Results:
    return answer if isinstance(answer, tuple) else (answer,)
