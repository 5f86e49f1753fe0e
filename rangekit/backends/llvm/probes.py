"""Loops that do one thing as fast as a CPU can, as LLVM IR: multiply-adds, reads, a triad.

All have the signature ``(out, a, b, elements, repetitions)`` with float32 arrays on cache lines, and run
``repetitions`` times over ``elements``, a multiple of ``STEP``. What they compute is stored, so that nothing is dead.
"""

from __future__ import annotations

CHAINS = 12  # independent sums: more than latency times width of any CPU, fewer than 16 registers
STREAMS = 8  # loads in one iteration
STEP = STREAMS * 16  # elements: a multiple of what one iteration of any loop takes

_HEAD = "define void @kernel(ptr noalias %out, ptr noalias %a, ptr noalias %b, i64 %n, i64 %reps) {"


def fma(lanes: int) -> str:
    """``CHAINS`` independent multiply-adds on registers an iteration; only the repetitions count."""
    v = f"<{lanes} x float>"
    phis = [f"  %s{i} = phi {v} [ %from{i}, %entry ], [ %t{i}, %loop ]" for i in range(CHAINS)]
    starts = [f"  %from{i} = fadd {v} %x, {_splat(lanes, float(i))}" for i in range(CHAINS)]
    steps = [f"  %t{i} = call {v} @llvm.fma.v{lanes}f32({v} %s{i}, {v} %x, {v} %y)" for i in range(CHAINS)]
    sums = [f"  %r{i} = fadd {v} {f'%r{i - 1}' if i > 1 else '%t0'}, %t{i}" for i in range(1, CHAINS)]
    lines = [
        f"declare {v} @llvm.fma.v{lanes}f32({v}, {v}, {v})",
        _HEAD,
        "entry:",
        f"  %x = fmul {v} {_splat(lanes, 0.5)}, {_splat(lanes, 1.0)}",
        f"  %y = fmul {v} {_splat(lanes, 0.25)}, {_splat(lanes, 1.0)}",
        *starts,
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]",
        *phis,
        *steps,
        "  %i.next = add nuw i64 %i, 1",
        "  %more = icmp ult i64 %i.next, %reps",
        "  br i1 %more, label %loop, label %end",
        "end:",
        *sums,
        f"  store {v} %r{CHAINS - 1}, ptr %out, align 4",
        "  ret void",
        "}",
    ]
    return "\n".join(lines) + "\n"


def read(lanes: int) -> str:
    """Sums of ``a``, one in each of ``STREAMS`` registers."""
    v = f"<{lanes} x float>"
    outer = [f"  %o{j} = phi {v} [ zeroinitializer, %entry ], [ %t{j}, %again ]" for j in range(STREAMS)]
    inner = [f"  %s{j} = phi {v} [ %o{j}, %pass ], [ %t{j}, %loop ]" for j in range(STREAMS)]
    loads = []
    for j in range(STREAMS):
        loads += [f"  %k{j} = add nuw i64 %i, {j * lanes}", *_load(f"a{j}", "%a", f"%k{j}", lanes)]
        loads += [f"  %t{j} = fadd {v} %s{j}, %a{j}"]
    sums = [f"  %u{j} = fadd {v} {f'%u{j - 1}' if j > 1 else '%t0'}, %t{j}" for j in range(1, STREAMS)]
    end = [*sums, f"  store {v} %u{STREAMS - 1}, ptr %out, align 4"]
    return "\n".join([_HEAD, *_passes(outer, inner, loads, STREAMS * lanes), *end, "  ret void", "}"]) + "\n"


def triad(lanes: int, streaming: bool) -> str:
    """``out = 3 a + b``; streaming stores bypass the caches."""
    v, unroll = f"<{lanes} x float>", 4
    body = []
    for j in range(unroll):
        body += [f"  %k{j} = add nuw i64 %i, {j * lanes}"]
        body += [*_load(f"a{j}", "%a", f"%k{j}", lanes), *_load(f"b{j}", "%b", f"%k{j}", lanes)]
        body += [
            f"  %m{j} = fmul contract {v} %a{j}, {_splat(lanes, 3.0)}",
            f"  %v{j} = fadd contract {v} %m{j}, %b{j}",
        ]
        body += [f"  %p{j} = getelementptr inbounds float, ptr %out, i64 %k{j}"]
        hint = ", !nontemporal !0" if streaming else ""
        body += [f"  store {v} %v{j}, ptr %p{j}, align {4 * lanes}{hint}"]
    lines = [_HEAD, *_passes([], [], body, unroll * lanes), "  ret void", "}", "!0 = !{i32 1}"]
    return "\n".join(lines) + "\n"


def _passes(outer: list[str], inner: list[str], body: list[str], step: int) -> list[str]:
    """Repeated passes over the arrays: ``outer`` begins a pass, ``inner`` and ``body`` are one iteration of it."""
    return [
        "entry:",
        "  br label %pass",
        "pass:",
        "  %r = phi i64 [ 0, %entry ], [ %r.next, %again ]",
        *outer,
        "  br label %loop",
        "loop:",
        "  %i = phi i64 [ 0, %pass ], [ %i.next, %loop ]",
        *inner,
        *body,
        f"  %i.next = add nuw i64 %i, {step}",
        "  %more = icmp ult i64 %i.next, %n",
        "  br i1 %more, label %loop, label %again",
        "again:",
        "  %r.next = add nuw i64 %r, 1",
        "  %once.more = icmp ult i64 %r.next, %reps",
        "  br i1 %once.more, label %pass, label %end",
        "end:",
    ]


def _load(name: str, base: str, index: str, lanes: int) -> list[str]:
    return [
        f"  %{name}.at = getelementptr inbounds float, ptr {base}, i64 {index}",
        f"  %{name} = load <{lanes} x float>, ptr %{name}.at, align {4 * lanes}",
    ]


def _splat(lanes: int, value: float) -> str:
    """A vector constant; ``value`` exact in few digits."""
    return f"<{', '.join([f'float {value:.6e}'] * lanes)}>"
