"""The native thread pool that thread loops run on: ``rk_parallel(fn, context, n, grain)``.

``fn(context, lo, hi)`` is called over all of 0..n in chunks of ``grain``, handed out through a counter; the caller takes
part and returns when every chunk is done. Workers spin for some microseconds after a job, then sleep on a futex. A job
is a gate: open while there are chunks, counting who is inside. The caller closes it and waits for those inside only, so
a worker that another process keeps from running delays nobody. A caller that finds the pool busy runs its job alone.

Workers are made at the first job, and again after a fork. Whatever the number of threads, the chunks are the same.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from typing import Any

from rangekit.errors import ArgumentError

SPINS = 1500  # pauses before a worker sleeps: about 20 microseconds
_FUTEX = {"x86_64": 202, "AMD64": 202, "aarch64": 98}  # the system call's number on Linux
_WORDS = 64  # i64 words of state: epoch, sleepers, busy and limit, gate, counter and job each on a line of their own

_TEXT = """
@state = global [{words} x i64] zeroinitializer, align 64

define internal void @pause() alwaysinline {{
  {pause}
  ret void
}}

define internal void @wait(ptr %word, i32 %seen) {{
  {wait}
  ret void
}}

define internal void @wake(ptr %word, i32 %count) {{
  {wake}
  ret void
}}

define internal void @chunks() {{
entry:
  %job = getelementptr i64, ptr @state, i64 32
  %fn = load ptr, ptr %job
  %p1 = getelementptr i64, ptr %job, i64 1
  %context = load ptr, ptr %p1
  %p2 = getelementptr i64, ptr %job, i64 2
  %n = load i64, ptr %p2
  %p3 = getelementptr i64, ptr %job, i64 3
  %grain = load i64, ptr %p3
  %counter = getelementptr i64, ptr @state, i64 24
  br label %next
next:
  %lo = atomicrmw add ptr %counter, i64 %grain acq_rel
  %more = icmp slt i64 %lo, %n
  br i1 %more, label %run, label %done
run:
  %end = add i64 %lo, %grain
  %short = icmp slt i64 %end, %n
  %hi = select i1 %short, i64 %end, i64 %n
  call void %fn(ptr %context, i64 %lo, i64 %hi)
  br label %next
done:
  ret void
}}

define internal ptr @worker(ptr %unused) {{
entry:
  %sleepers = getelementptr i64, ptr @state, i64 1
  %limit = getelementptr i64, ptr @state, i64 9
  %gate = getelementptr i64, ptr @state, i64 16
  br label %idle
idle:
  %last = phi i32 [ 0, %entry ], [ %epoch, %enter ], [ %epoch, %left ], [ %epoch, %signal ]
  br label %look
look:
  %spins = phi i32 [ 0, %idle ], [ %spins1, %spin ], [ 0, %sleep ]
  %epoch = load atomic i32, ptr @state seq_cst, align 4
  %new = icmp ne i32 %epoch, %last
  br i1 %new, label %arrive, label %tired
tired:
  %enough = icmp sge i32 %spins, {spins}
  br i1 %enough, label %sleep, label %spin
spin:
  call void @pause()
  %spins1 = add i32 %spins, 1
  br label %look
sleep:
  %s0 = atomicrmw add ptr %sleepers, i32 1 seq_cst
  call void @wait(ptr @state, i32 %last)
  %s1 = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %look
arrive:
  %g0 = load atomic i32, ptr %gate acquire, align 4
  br label %enter
enter:
  %g = phi i32 [ %g0, %arrive ], [ %seen, %try ]
  %open = icmp slt i32 %g, 0
  %inside = and i32 %g, 65535
  %most = load atomic i32, ptr %limit monotonic, align 4
  %room = icmp slt i32 %inside, %most
  %may = and i1 %open, %room
  br i1 %may, label %try, label %idle
try:
  %g1 = add i32 %g, 1
  %pair = cmpxchg ptr %gate, i32 %g, i32 %g1 acq_rel acquire
  %seen = extractvalue {{ i32, i1 }} %pair, 0
  %in = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %in, label %work, label %enter
work:
  call void @chunks()
  br label %left
left:
  %old = atomicrmw sub ptr %gate, i32 1 acq_rel
  %one = icmp eq i32 %old, 1
  br i1 %one, label %signal, label %idle
signal:
  call void @wake(ptr %gate, i32 1)
  br label %idle
}}

define internal void @spawn(i32 %wanted) {{
entry:
  %started = getelementptr i64, ptr @state, i64 10
  %all = alloca [128 x i8], align 8
  %before = alloca [128 x i8], align 8
  %id = alloca i64
  call void @llvm.memset.p0.i64(ptr %all, i8 -1, i64 128, i1 false)
  br label %look
look:
  %n = load i32, ptr %started
  %more = icmp slt i32 %n, %wanted
  br i1 %more, label %make, label %done
make:
  %m0 = call i32 @pthread_sigmask(i32 {block}, ptr %all, ptr %before)
  %bad = call i32 @pthread_create(ptr %id, ptr null, ptr @worker, ptr null)
  %m1 = call i32 @pthread_sigmask(i32 {restore}, ptr %before, ptr null)
  %failed = icmp ne i32 %bad, 0
  br i1 %failed, label %done, label %made
made:
  %who = load i64, ptr %id
  %d = call i32 @pthread_detach(i64 %who)
  %n1 = add i32 %n, 1
  store i32 %n1, ptr %started
  br label %look
done:
  ret void
}}

define void @rk_parallel(ptr %fn, ptr %context, i64 %n, i64 %grain) {{
entry:
  %sleepers = getelementptr i64, ptr @state, i64 1
  %busy = getelementptr i64, ptr @state, i64 8
  %limit = getelementptr i64, ptr @state, i64 9
  %gate = getelementptr i64, ptr @state, i64 16
  %counter = getelementptr i64, ptr @state, i64 24
  %most = load atomic i32, ptr %limit monotonic, align 4
  %none = icmp sle i64 %n, 0
  br i1 %none, label %out, label %some
some:
  %few = icmp sle i64 %n, %grain
  %single = icmp slt i32 %most, 1
  %alone = or i1 %few, %single
  br i1 %alone, label %serial, label %lock
serial:
  call void %fn(ptr %context, i64 0, i64 %n)
  br label %out
lock:
  %pair = cmpxchg ptr %busy, i32 0, i32 1 acq_rel monotonic
  %mine = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %mine, label %begin, label %serial
begin:
  call void @spawn(i32 %most)
  %job = getelementptr i64, ptr @state, i64 32
  store ptr %fn, ptr %job
  %p1 = getelementptr i64, ptr %job, i64 1
  store ptr %context, ptr %p1
  %p2 = getelementptr i64, ptr %job, i64 2
  store i64 %n, ptr %p2
  %p3 = getelementptr i64, ptr %job, i64 3
  store i64 %grain, ptr %p3
  store atomic i64 0, ptr %counter release, align 8
  store atomic i32 -2147483648, ptr %gate release, align 4
  %e = atomicrmw add ptr @state, i32 1 seq_cst
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %rouse, label %work
rouse:
  call void @wake(ptr @state, i32 %most)
  br label %work
work:
  call void @chunks()
  %g = atomicrmw and ptr %gate, i32 2147483647 acq_rel
  br label %look
look:
  %spins = phi i32 [ 0, %work ], [ %spins1, %spin ], [ 0, %sleep ]
  %inside = load atomic i32, ptr %gate acquire, align 4
  %empty = icmp eq i32 %inside, 0
  br i1 %empty, label %end, label %tired
tired:
  %enough = icmp sge i32 %spins, {spins}
  br i1 %enough, label %sleep, label %spin
spin:
  call void @pause()
  %spins1 = add i32 %spins, 1
  br label %look
sleep:
  call void @wait(ptr %gate, i32 %inside)
  br label %look
end:
  store atomic i32 0, ptr %busy release, align 4
  br label %out
out:
  ret void
}}

define ptr @rk_state() {{
  ret ptr @state
}}

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
{declare}
"""


def text() -> str:
    """The pool's module, for this platform."""
    number = _FUTEX.get(platform.machine()) if sys.platform == "linux" else None
    if number is not None:
        wait = f"%r = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 128, i32 %seen, ptr null)"
        wake = f"%r = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 129, i32 %count)"
        declare = "declare i64 @syscall(i64, ...)"
    else:  # asleep for a moment, then looking again
        wait, wake, declare = "%r = call i32 @usleep(i32 50)", "", "declare i32 @usleep(i32)"
    pause = ""
    if platform.machine() in ("x86_64", "AMD64"):
        pause, declare = "call void @llvm.x86.sse2.pause()", declare + "\ndeclare void @llvm.x86.sse2.pause()"
    block, restore = (0, 2) if sys.platform == "linux" else (1, 3)
    return _TEXT.format(words=_WORDS, spins=SPINS, wait=wait, wake=wake, pause=pause, declare=declare,
                        block=block, restore=restore)  # fmt: skip


_lock = threading.RLock()
_count = 0  # threads; 0: one a core
_pool: tuple[Any, int, int] | None = None  # the code, rk_parallel, the state


def get_num_threads() -> int:
    """How many threads a kernel runs on at most, the caller included.

    >>> get_num_threads() >= 1
    True
    """
    if _count:
        return _count
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_num_threads(n: int) -> None:
    """Run kernels on at most ``n`` threads, the caller included. Results do not depend on it.

    Errors: ``ArgumentError`` for less than 1.

    >>> before = get_num_threads()
    >>> set_num_threads(1); get_num_threads()
    1
    >>> set_num_threads(before)
    """
    global _count
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 1024:
        raise ArgumentError(f"{n!r} threads", help="pass an int from 1 to 1024")
    with _lock:
        _count = n
        _tell()


def _tell() -> None:
    if _pool is not None:
        ctypes.c_int32.from_address(_pool[2] + 72).value = get_num_threads() - 1


def address() -> int:
    """Where ``rk_parallel`` is; compiled at the first call."""
    global _pool
    with _lock:
        if _pool is None:
            from rangekit.backends.llvm import engine

            code = engine.Code(text(), ("rk_parallel", "rk_state"), forever=True)
            state = ctypes.CFUNCTYPE(ctypes.c_void_p)(code.addresses["rk_state"])()
            assert state is not None
            _pool = code, code.addresses["rk_parallel"], state
            _tell()
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forked)
        return _pool[1]


def _forked() -> None:
    """A forked child has none of the workers, and maybe another thread's job half begun."""
    if _pool is not None:
        ctypes.memset(_pool[2], 0, _WORDS * 8)
        _tell()
