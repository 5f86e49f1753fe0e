"""The pool runs every index exactly once, whoever else calls, forks, interrupts or takes the cores."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rangekit as rk
from rangekit.backends.llvm import engine, parallel, pool
from rangekit.errors import ArgumentError

ROOT = Path(__file__).parents[2]
SIZES = [0, 1, 2, 7, 64, 1000, 100_003]

# kernel: adds 1 to every int32 of [0, n), and to the count of calls in front of them. outer: the same, each element
# through a call of its own that is nested in a chunk.
TEXT = """
declare void @rk_parallel(ptr, ptr, i64, i64)
define internal void @each(ptr %a, i64 %lo, i64 %hi) {
entry:
  %calls = atomicrmw add ptr %a, i32 1 monotonic
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %j, %loop ]
  %j = add i64 %i, 1
  %p = getelementptr i32, ptr %a, i64 %j
  %old = atomicrmw add ptr %p, i32 1 monotonic
  %more = icmp slt i64 %j, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}
define internal void @nested(ptr %a, i64 %lo, i64 %hi) {
entry:
  br label %loop
loop:
  %i = phi i64 [ %lo, %entry ], [ %j, %loop ]
  %row = mul i64 %i, 10
  %p = getelementptr i32, ptr %a, i64 %row
  call void @rk_parallel(ptr @each, ptr %p, i64 9, i64 2)
  %j = add i64 %i, 1
  %more = icmp slt i64 %j, %hi
  br i1 %more, label %loop, label %end
end:
  ret void
}
define void @kernel(ptr %a, i64 %n, i64 %grain) {
  call void @rk_parallel(ptr @each, ptr %a, i64 %n, i64 %grain)
  ret void
}
define void @outer(ptr %a, i64 %n, i64 %grain) {
  call void @rk_parallel(ptr @nested, ptr %a, i64 %n, i64 %grain)
  ret void
}
"""
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
CODE = engine.Code(TEXT, ("kernel", "outer"))


def visits(n: int, grain: int, address: int = CODE.address, times: int = 1) -> tuple[int, Any]:
    """How many chunks were run, and how often each index was visited."""
    a = np.zeros(n + 2, np.int32)  # the last one is nobody's
    for _ in range(times):
        _ENTRY(address)(a.ctypes.data, n, grain)
    assert a[-1] == 0
    return int(a[0]), a[1:-1]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = pool.get_num_threads()
    yield
    pool.set_num_threads(before)


def script(body: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """A program of its own that has this file's functions, and so a pool without workers yet."""
    text = (
        f"{before}\nimport os, sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.backends.test_pool import *\n{body}"
    )
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", SIZES)
def test_every_index_is_visited_exactly_once(n: int, threads: int) -> None:
    pool.set_num_threads(threads)
    for grain in (1, 3, 64, 1000, 1 << 62):
        chunks, seen = visits(n, grain)
        assert (seen == 1).all(), (n, grain)
        alone = threads == 1 or n <= grain
        assert chunks == (n > 0 if alone else -(-n // grain))


def test_a_grain_below_one_is_one_and_less_than_nothing_is_nothing() -> None:
    pool.set_num_threads(2)
    assert visits(7, 0)[0] == visits(7, -3)[0] == 7
    a = np.zeros(2, np.int32)
    _ENTRY(CODE.address)(a.ctypes.data, -5, 1)
    assert not a.any()


def test_calls_in_a_row_reuse_the_pool() -> None:
    pool.set_num_threads(3)
    for n, grain in ((2, 1), (5, 2), (640, 64)):
        assert (visits(n, grain, times=3000)[1] == 3000).all()


def test_the_number_may_change_between_calls() -> None:
    for threads in (1, 4, 2, 5, 1, 3):
        pool.set_num_threads(threads)
        assert pool.get_num_threads() == rk.get_num_threads() == threads
        assert (visits(1000, 7, times=50)[1] == 50).all()


def test_a_call_from_inside_a_chunk_runs_alone() -> None:
    pool.set_num_threads(3)
    a = np.zeros(200 * 10, np.int32)
    for _ in range(20):
        _ENTRY(CODE.addresses["outer"])(a.ctypes.data, 200, 1)
    assert (a == 20).all()  # one call with nine elements a row, each time


def test_python_threads_may_call_at_once() -> None:
    pool.set_num_threads(3)
    wrong: list[int] = []

    def caller() -> None:
        for grain in range(1, 200):
            if not (visits(1000, grain)[1] == 1).all():
                wrong.append(grain)

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(60)
    assert not any(each.is_alive() for each in callers)
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory hold on Linux")
def test_a_system_that_gives_no_more_threads_is_no_error() -> None:
    body = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + 3 * parallel.STACK
resource.setrlimit(resource.RLIMIT_AS, (most, most))  # stacks for one or two workers
pool.set_num_threads(64)
chunks, seen = visits(1000, 1, times=20)
print((seen == 20).all(), 1 < len(os.listdir("/proc/self/task")) < 5, rk.get_num_threads())
"""
    done = script(body)
    assert done.stdout == "True True 64\n", done.stderr


def test_another_process_may_take_a_core() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        pool.set_num_threads(max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
        assert (visits(640, 16, times=3000)[1] == 3000).all()
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_makes_a_pool_of_its_own() -> None:
    body = """
pool.set_num_threads(3)
visits(1000, 7, times=100)
child = os.fork()
visits(1000, 7, times=100)
fine = all((visits(n, 7)[1] == 1).all() for n in SIZES)
started = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 3
if child == 0:
    os._exit(0 if fine and started == 3 else 1)
print(fine, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = script(body)
    assert done.stdout == "True 0\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_calls_leaves_the_child_a_free_pool() -> None:
    body = """
pool.set_num_threads(3)
stop = []
def caller():
    while not stop: visits(100_003, 50)
busy = threading.Thread(target=caller); busy.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        chunks, seen = visits(1000, 7)
        os._exit(0 if chunks == 143 and (seen == 1).all() else 1)  # alone it would be one chunk
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.append(1); busy.join()
print(set(codes))
"""
    done = script(body)
    assert done.stdout == "{0}\n", done.stderr


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT to send on this system")
def test_an_interrupt_leaves_the_pool_usable() -> None:
    body = """
pool.set_num_threads(3)
caught = 0
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may have been told to ignore it
def shoot():
    for _ in range(5):
        os.kill(os.getpid(), signal.SIGINT)
        gone.wait(0.02)
gone = threading.Event()
shooter = threading.Thread(target=shoot)
while caught < 1 or shooter.is_alive():
    try:
        if not shooter.ident: shooter.start()
        while shooter.is_alive(): visits(1000, 7, times=100)
    except KeyboardInterrupt:
        caught += 1
print(caught > 0, (visits(1000, 7, times=100)[1] == 100).all())
"""
    done = script(body)
    assert done.stdout == "True True\n", done.stderr


def test_a_process_that_used_the_pool_ends() -> None:
    for _ in range(5):
        done = script("pool.set_num_threads(4); visits(100_003, 64, times=3)")
        assert done.returncode == 0, done.stderr


def test_a_number_of_threads_is_a_whole_one_from_one_up() -> None:
    for wrong in (0, -1, 1.5, "2", 100_000, None):
        with pytest.raises(ArgumentError, match="threads"):
            rk.set_num_threads(wrong)  # type: ignore[arg-type]
    rk.set_num_threads(np.int64(2))  # type: ignore[arg-type]
    assert rk.get_num_threads() == 2


def test_the_number_waits_for_the_pool_and_loads_nothing() -> None:
    body = "rk.set_num_threads(3); print(rk.get_num_threads(), 'llvmlite' in sys.modules)"
    text = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rangekit as rk; {body}"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.stdout == "3 False\n", done.stderr


def test_left_alone_there_is_a_thread_for_each_core_of_this_process() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("a process cannot choose its cores on this system")
    before = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    after = "os.sched_setaffinity(0, range(1024)); print(rk.get_num_threads(), visits(10, 1)[0])"
    done = script(after, before)
    assert done.stdout == "1 1\n", done.stderr  # as it was when the pool began


@pytest.mark.parametrize("cpu", ["x86_64", "elsewhere"])
@pytest.mark.parametrize("futex", [True, False])
def test_the_pool_of_another_system_does_the_same(cpu: str, futex: bool) -> None:
    """A pool that sleeps on a condition, and one without a pause, on this machine."""
    if cpu != "elsewhere" and cpu not in engine.triple():
        pytest.skip(f"not {cpu}")
    if futex and sys.platform != "linux":
        pytest.skip("futexes are Linux's")
    number = next(iter(n for c, n in parallel.FUTEX.items() if engine.triple().startswith(c)), None)
    other = pool.Pool(parallel.source(True, cpu, number if futex else None))
    other.use(3)
    run_with(other)


def test_without_threads_the_caller_does_it_all() -> None:
    other = pool.Pool(parallel.source(False, "x86_64", None))
    other.use(3)
    assert run_with(other) == 1


def run_with(other: pool.Pool) -> int:
    """Calls ``other`` through a chunk function of this file; the chunks of the last call."""
    each = engine.Code(TEXT.replace("define internal void @each", "define void @each"), ("each",))
    parallel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2)(other.address)
    a = np.zeros(1002, np.int32)
    for _ in range(300):
        a[0] = 0
        parallel(each.address, a.ctypes.data, 1000, 7)
    assert (a[1:-1] == 300).all() and a[-1] == 0
    return int(a[0])
