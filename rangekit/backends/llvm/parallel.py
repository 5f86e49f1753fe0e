"""The thread pool as LLVM IR. Generated code calls ``rk_parallel(fn, ctx, n, grain)``, which returns when
``fn(ctx, lo, hi)`` has run over [0, n) in chunks of ``grain``.

A job is published, opened, worked on by whoever comes, the caller first of all, and closed. Only a worker that went in
while the job was open is waited for: one that the system keeps off its core costs nothing, however busy the machine.
Everything that waits spins shortly and then sleeps. A call that finds the pool taken, by another thread or by the
chunk that it comes from, runs its work alone, so nothing here can wait for itself.

``@gate`` holds who is inside (low bits), whether the job is open, and whether its caller sleeps. The job's words change
only while it is closed and empty.
"""

from __future__ import annotations

import signal

from rangekit.backends.threads import MOST

SPINS = 600  # pauses before sleep: 10 to 30 µs, about what it takes to wake a thread
STACK = 8 << 20  # bytes for a worker: kernels keep local arrays there, and some systems would give half a MiB

OPEN, SLEEPS, INSIDE = 1 << 24, 1 << 25, (1 << 24) - 1  # bits of @gate

FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}  # the system call's number
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),  # yield
}
# Faults of a worker's own code, which Python's faulthandler reports; every other signal is for Python's threads.
_FAULTS = [int(getattr(signal, name)) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, name)]

_ALONE = """\
define void @rk_parallel(ptr %fn, ptr %ctx, i64 %n, i64 %grain) {
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %run, label %end
run:
  call void %fn(ptr %ctx, i64 0, i64 %n)
  ret void
end:
  ret void
}
define void @rk_threads(i32 %n) {
  ret void
}
define void @rk_reset() {
  ret void
}
"""

# Words that different threads write lie on lines of their own, two apart: CPUs fetch lines in pairs.
_STATE = """\
@seq = internal global i32 0, align 128
@sleepers = internal global i32 0, align 4
@gate = internal global i32 0, align 128
@next = internal global i64 0, align 128
@fn = internal global ptr null, align 128
@ctx = internal global ptr null, align 8
@n = internal global i64 0, align 8
@step = internal global i64 0, align 8
@chunks = internal global i64 0, align 8
@room = internal global i32 0, align 4
@busy = internal global i32 0, align 128
@threads = internal global i32 1, align 4
@workers = internal global i32 0, align 4
@ids = internal global [MOST x i64] zeroinitializer, align 8
@home = internal global i32 -1, align 4
""".replace("MOST", str(MOST))

_POOL = f"""\
define void @rk_parallel(ptr %fn, ptr %ctx, i64 %n, i64 %grain) {{
entry:
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %some, label %end
some:
  %positive = icmp sgt i64 %grain, 0
  %step = select i1 %positive, i64 %grain, i64 1
  %threads = load atomic i32, ptr @threads monotonic, align 4
  %single = icmp slt i32 %threads, 2
  %short = icmp sle i64 %n, %step
  %inline = or i1 %single, %short
  br i1 %inline, label %alone, label %try
try:
  %taking = cmpxchg ptr @busy, i32 0, i32 1 acquire monotonic
  %taken = extractvalue {{ i32, i1 }} %taking, 1
  br i1 %taken, label %share, label %alone
alone:
  call void %fn(ptr %ctx, i64 0, i64 %n)
  ret void
share:
  %last = sub i64 %n, 1
  %others = udiv i64 %last, %step                        ; chunks but for the caller's first
  %chunks = add i64 %others, 1
  %rest = sub i32 %threads, 1
  %most = zext i32 %rest to i64
  %few = icmp ult i64 %others, %most
  %helpers = select i1 %few, i64 %others, i64 %most
  %room = trunc i64 %helpers to i32
  %have = load i32, ptr @workers
  %enough = icmp sge i32 %have, %room
  br i1 %enough, label %publish, label %more
more:
  call void @hire(i32 %room)
  br label %publish
publish:
  store ptr %fn, ptr @fn
  store ptr %ctx, ptr @ctx
  store i64 %n, ptr @n
  store i64 %step, ptr @step
  store i64 %chunks, ptr @chunks
  store atomic i32 %room, ptr @room monotonic, align 4
  store atomic i64 0, ptr @next monotonic, align 8
  store atomic i32 {OPEN}, ptr @gate release, align 4
  call void @spread()
  %seq = atomicrmw add ptr @seq, i32 1 seq_cst           ; before the sleepers are counted: see @worker
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %none = icmp eq i32 %asleep, 0
  br i1 %none, label %own, label %rouse
rouse:
  call void @wake(ptr @seq, i32 %room)
  br label %own
own:
  call void @work()
  %closing = atomicrmw and ptr @gate, i32 {~OPEN} acq_rel
  %inside = and i32 %closing, {INSIDE}
  %done = icmp eq i32 %inside, 0
  br i1 %done, label %free, label %wait
wait:
  %spin = phi i32 [ 0, %own ], [ %spun, %pause ]
  %now = load atomic i32, ptr @gate acquire, align 4
  %out = icmp eq i32 %now, 0
  br i1 %out, label %free, label %again
again:
  %spun = add i32 %spin, 1
  %patient = icmp ult i32 %spun, {SPINS}
  br i1 %patient, label %pause, label %sleep
pause:
  PAUSE
  br label %wait
sleep:
  %told = atomicrmw or ptr @gate, i32 {SLEEPS} acq_rel
  %value = or i32 %told, {SLEEPS}
  %still = and i32 %value, {INSIDE}
  %gone = icmp eq i32 %still, 0
  br i1 %gone, label %free, label %doze
doze:
  call void @stay(ptr @gate, i32 %value)
  br label %sleep
free:
  store atomic i32 0, ptr @busy release, align 4
  ret void
end:
  ret void
}}

define internal void @work() {{
entry:
  %fn = load ptr, ptr @fn
  %ctx = load ptr, ptr @ctx
  %n = load i64, ptr @n
  %step = load i64, ptr @step
  %chunks = load i64, ptr @chunks
  br label %take
take:
  %chunk = atomicrmw add ptr @next, i64 1 monotonic      ; counts chunks, not elements: no sum here can overflow
  %some = icmp ult i64 %chunk, %chunks
  br i1 %some, label %run, label %end
run:
  %lo = mul i64 %chunk, %step
  %left = sub i64 %n, %lo
  %tail = icmp slt i64 %left, %step
  %length = select i1 %tail, i64 %left, i64 %step
  %hi = add i64 %lo, %length
  call void %fn(ptr %ctx, i64 %lo, i64 %hi)
  br label %take
end:
  ret void
}}

define internal ptr @worker(ptr %nothing) {{
entry:
  br label %listen
listen:
  %seen = phi i32 [ 0, %entry ], [ %seen, %woken ], [ %heard, %enter ], [ %heard, %leave ], [ %heard, %last ]
  br label %spin
spin:
  %spins = phi i32 [ 0, %listen ], [ %spun, %pause ]
  %heard = load atomic i32, ptr @seq acquire, align 4
  %new = icmp ne i32 %heard, %seen
  br i1 %new, label %enter, label %again
again:
  %spun = add i32 %spins, 1
  %patient = icmp ult i32 %spun, {SPINS}
  br i1 %patient, label %pause, label %sleep
pause:
  PAUSE
  br label %spin
sleep:
  ; Counted before the word is compared, and a caller changes the word before it counts: one of the two sees the other.
  %up = atomicrmw add ptr @sleepers, i32 1 seq_cst
  fence seq_cst
  call void @wait(ptr @seq, i32 %seen)
  %down = atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %woken
woken:
  br label %listen
enter:
  %gate = load atomic i32, ptr @gate monotonic, align 4
  %room = load atomic i32, ptr @room monotonic, align 4  ; of another job at worst: one more or fewer takes part
  %bit = and i32 %gate, {OPEN}
  %open = icmp ne i32 %bit, 0
  %inside = and i32 %gate, {INSIDE}
  %place = icmp slt i32 %inside, %room
  %may = and i1 %open, %place
  br i1 %may, label %step, label %listen
step:
  %entered = add i32 %gate, 1
  %going = cmpxchg ptr @gate, i32 %gate, i32 %entered acq_rel monotonic
  %in = extractvalue {{ i32, i1 }} %going, 1
  br i1 %in, label %help, label %enter
help:
  call void @work()
  br label %leave
leave:
  %left = atomicrmw sub ptr @gate, i32 1 acq_rel
  %wanted = icmp eq i32 %left, {SLEEPS | 1}
  br i1 %wanted, label %last, label %listen
last:
  call void @wake(ptr @gate, i32 1)
  br label %listen
}}

; Workers up to a number. Where the system gives no more threads, the pool makes do with those it has.
define internal void @hire(i32 %wanted) {{
entry:
  %attributes = alloca [256 x i8], align 16
  %thread = alloca i64, align 8
  %blocked = alloca [256 x i8], align 16
  %before = alloca [256 x i8], align 16
  %set = call i32 @sigfillset(ptr %blocked)
FAULTS
  %masked = call i32 @pthread_sigmask(i32 {int(getattr(signal, "SIG_SETMASK", 0))}, ptr %blocked, ptr %before)
  %made = call i32 @pthread_attr_init(ptr %attributes)
  %sized = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 {STACK})
  br label %count
count:
  %have = load i32, ptr @workers
  %enough = icmp sge i32 %have, %wanted
  br i1 %enough, label %end, label %make
make:
  %failed = call i32 @pthread_create(ptr %thread, ptr %attributes, ptr @worker, ptr null)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %made.one, label %refused
made.one:
  %id = load i64, ptr %thread
  %free = call i32 @pthread_detach(i64 %id)
  %place = sext i32 %have to i64
  %slot = getelementptr i64, ptr @ids, i64 %place
  store i64 %id, ptr %slot
  store i32 -1, ptr @home                                ; of a worker not yet sent anywhere
  %grown = add i32 %have, 1
  store i32 %grown, ptr @workers
  br label %count
refused:
  %all = add i32 %have, 1
  store atomic i32 %all, ptr @threads monotonic, align 4
  br label %end
end:
  %dropped = call i32 @pthread_attr_destroy(ptr %attributes)
  %restored = call i32 @pthread_sigmask(i32 {int(getattr(signal, "SIG_SETMASK", 0))}, ptr %before, ptr null)
  ret void
}}

define void @rk_threads(i32 %n) {{
  store atomic i32 %n, ptr @threads monotonic, align 4
  ret void
}}

; In a forked child: no worker came along, and whatever its parent's other threads were doing never ends here.
define void @rk_reset() {{
  store i32 0, ptr @workers
  store i32 0, ptr @sleepers
  store i32 0, ptr @gate
  store i32 0, ptr @busy
  store i32 -1, ptr @home
  call void @prepare()
  ret void
}}

declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
"""

# Workers may run on every core of the caller's but its own, and a caller that sleeps wakes where it fell asleep. A
# scheduler that takes an idle virtual core for one that its host has taken away wakes threads on their waker's core, to
# take turns there: up to 20 ms were seen (Linux 6.18 as a guest, vcpu_is_preempted). Workers are sent again only where
# the caller has moved.
_SPREAD = """\
define internal void @spread() {
entry:
  %mask = alloca [128 x i8], align 8
  %cpu = call i32 @sched_getcpu()
  %old = load i32, ptr @home
  %stayed = icmp eq i32 %cpu, %old
  %unknown = icmp ugt i32 %cpu, 1023
  %nothing = or i1 %stayed, %unknown
  br i1 %nothing, label %end, label %look
look:
  store i32 %cpu, ptr @home
  %bytes = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %failed = icmp slt i32 %bytes, 0
  br i1 %failed, label %end, label %clear
clear:
  %byte = lshr i32 %cpu, 3
  %offset = zext i32 %byte to i64
  %p = getelementptr i8, ptr %mask, i64 %offset
  %bit = and i32 %cpu, 7
  %shifted = shl i32 1, %bit
  %one = trunc i32 %shifted to i8
  %others = xor i8 %one, -1
  %had = load i8, ptr %p
  %left = and i8 %had, %others
  store i8 %left, ptr %p
  %count = load i32, ptr @workers
  br label %next
next:
  %i = phi i32 [ 0, %clear ], [ %j, %send ]
  %more = icmp slt i32 %i, %count
  br i1 %more, label %send, label %end
send:
  %place = sext i32 %i to i64
  %slot = getelementptr i64, ptr @ids, i64 %place
  %id = load i64, ptr %slot
  %sent = call i32 @pthread_setaffinity_np(i64 %id, i64 128, ptr %mask)  ; refused where that leaves no core
  %j = add i32 %i, 1
  br label %next
end:
  ret void
}
define internal void @stay(ptr %word, i32 %value) {
entry:
  %old = alloca [128 x i8], align 8
  %here = alloca [128 x i8], align 8
  %cpu = call i32 @sched_getcpu()
  %unknown = icmp ugt i32 %cpu, 1023
  br i1 %unknown, label %plain, label %look
look:
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %old)
  %bad = icmp ne i32 %failed, 0
  br i1 %bad, label %plain, label %hold
plain:
  call void @wait(ptr %word, i32 %value)
  ret void
hold:
  store [128 x i8] zeroinitializer, ptr %here
  %byte = lshr i32 %cpu, 3
  %offset = zext i32 %byte to i64
  %p = getelementptr i8, ptr %here, i64 %offset
  %bit = and i32 %cpu, 7
  %shifted = shl i32 1, %bit
  %one = trunc i32 %shifted to i8
  store i8 %one, ptr %p
  %held = call i32 @sched_setaffinity(i32 0, i64 128, ptr %here)
  call void @wait(ptr %word, i32 %value)
  %freed = call i32 @sched_setaffinity(i32 0, i64 128, ptr %old)
  ret void
}
declare i32 @sched_getcpu()
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @pthread_setaffinity_np(i64, i64, ptr)
"""
_STAY = """\
define internal void @spread() {
  ret void
}
define internal void @stay(ptr %word, i32 %value) {
  call void @wait(ptr %word, i32 %value)
  ret void
}
"""

# Both sleep only where the word still holds the value, and may return early; @wake wakes at least ``count`` of them.
_SLEEP_FUTEX = """\
define internal void @wait(ptr %word, i32 %value) {
  %done = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 128, i32 %value, ptr null)
  ret void
}
define internal void @wake(ptr %word, i32 %count) {
  %done = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 129, i32 %count)
  ret void
}
define internal void @prepare() {
  ret void
}
declare i64 @syscall(i64, ...)
"""

_SLEEP_CONDITION = """\
@mutex = internal global [16 x i64] zeroinitializer, align 16
@condition = internal global [16 x i64] zeroinitializer, align 16
define internal void @wait(ptr %word, i32 %value) {
  %locked = call i32 @pthread_mutex_lock(ptr @mutex)
  %now = load atomic i32, ptr %word seq_cst, align 4
  %same = icmp eq i32 %now, %value
  br i1 %same, label %sleep, label %end
sleep:
  %woken = call i32 @pthread_cond_wait(ptr @condition, ptr @mutex)
  br label %end
end:
  %free = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}
define internal void @wake(ptr %word, i32 %count) {
  %locked = call i32 @pthread_mutex_lock(ptr @mutex)
  %all = call i32 @pthread_cond_broadcast(ptr @condition)
  %free = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}
define internal void @prepare() {
  %a = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %b = call i32 @pthread_cond_init(ptr @condition, ptr null)
  ret void
}
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
"""


def source(posix: bool, cpu: str, futex: int | None) -> str:
    """The pool as LLVM IR: for a system with or without POSIX threads, a CPU by name, a futex system call or none."""
    if not posix:
        return _ALONE
    declared, pause = _PAUSE.get(cpu, ("", ""))
    sleep = _SLEEP_CONDITION if futex is None else _SLEEP_FUTEX.replace("FUTEX", str(futex))
    faults = "\n".join(f"  %fault{n} = call i32 @sigdelset(ptr %blocked, i32 {n})" for n in _FAULTS)
    pool = _POOL.replace("PAUSE", pause).replace("FAULTS", faults)
    spread = _STAY if futex is None else _SPREAD  # Linux has both or neither
    return "\n".join([_STATE, pool, sleep, spread, declared, ""])
