"""One loop in tiles, in step, or padded: what the steps of those names do. Order and place change, never results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Guard, Let, Loop, Print, Scratch, Stmt, Store, operands, variables, walk
from rangekit.ir.ops import Op
from rangekit.ir.reducers import reducer
from rangekit.ir.uop import UOp, alu, idx
from rangekit.lower.loops import (
    Body,
    all_or_none,
    gated,
    greatest,
    least,
    local,
    mapped,
    minus,
    name_of,
    parallel,
    plus,
    reads,
    scattered,
    substitution,
    times,
    variable,
)


def perfected(body: Body) -> Body:
    """Values computed between two loops moved into the inner one, so that both can be tiled together: of parallel ones,
    where the inner one has reductions inside, against which a value costs little; and of scattered ones. Tests between
    parallel ones come before, in loops of their own.
    """
    return _perfected(_tested_first(body))


def _perfected(body: Body) -> Body:
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            inner = _perfected(s.body)
            *first, last = inner if inner else (None,)
            if (
                first
                and isinstance(last, Loop)
                and (_between_parallel(s, first, last) if parallel(s) else _between_scattered(s, first, last))
                and not (variables(last.lo) | variables(last.hi)) & {t.var for t in first if isinstance(t, Let)}
                and not _reads_written(tuple(t for t in first if t is not None), inner)
            ):
                inner = _perfected((replace(last, body=(*(t for t in first if t is not None), *last.body)),))
            s = replace(s, body=inner)
        out.append(s)
    return tuple(out)


def _tested_first(body: Body) -> Body:
    """Guards between parallel loops with reductions inside taken out, with the values that they test."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            *first, last = inner = _tested_first(s.body) or (None,)
            s = replace(s, body=tuple(t for t in inner if t is not None))
            tests = tuple(t for t in first if t is not None)
            if (
                isinstance(last, Loop)
                and not all(isinstance(t, Let) for t in tests)
                and all(isinstance(t, Let) or _only_tests(t) for t in tests)
                and parallel(s)
                and _between_parallel(s, (), last)
                and not _reads_written(tests, s.body)
            ):
                out += _renamed((replace(s, body=tests),))
                s = replace(s, body=(*(t for t in tests if isinstance(t, Let)), last))
        out.append(s)
    return tuple(out)


def _only_tests(s: Stmt) -> bool:
    return isinstance(s, Guard) or (isinstance(s, Loop) and all(isinstance(t, Let) or _only_tests(t) for t in s.body))


def _renamed(body: Body) -> Body:
    """The statements with names of their own: ``i.ok`` of the tests of ``i``, so that steps for i leave them alone."""
    fresh = {s.var: variable(name_of(s).removesuffix(".ok") + ".ok") for s in walk(body) if isinstance(s, Loop)}
    fresh |= {s.var: local(s.var.arg[-1], s.var.dtype) for s in walk(body) if isinstance(s, Let)}
    return mapped(body, substitution(fresh))


def _between_parallel(outer: Loop, first: Sequence[Stmt | None], inner: Loop) -> bool:
    below = any(not parallel(t) for t in walk(inner.body) if isinstance(t, Loop))
    return below and all(isinstance(t, Let) for t in first) and parallel(inner)


def _between_scattered(outer: Loop, first: Sequence[Stmt | None], inner: Loop) -> bool:
    return (
        all(isinstance(t, (Let, Guard)) for t in first) and scattered(outer) and (parallel(inner) or scattered(inner))
    )


def _reads_written(lets: Body, body: Body) -> bool:
    written = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return any(reads(n, b) for s in lets for n in operands(s) for b in written)


# ---- tile ------------------------------------------------------------------------------------------------------------


def tile(loop: Loop, size: int) -> Loop:
    """Blocks of ``size`` iterations: the loop over blocks keeps the name, the loop inside one gets ``.t``.

    Where the first iteration varies, blocks begin at multiples of ``size`` and the first one is cut short as the last
    is: lanes around the loop, each with a first iteration of its own, then run the same iteration at a time. Where all
    or none of the iterations run, no block is cut short but the last.
    """
    whole = all_or_none(loop)
    if whole is not None:
        outer = tile(replace(loop, hi=whole), size)
        return replace(outer, hi=alu(Op.WHERE, loop.hi.src[0], outer.hi, idx(0)))
    inner = variable(name_of(loop) + ".t")
    start = times(loop.var, size)
    if loop.lo.op is not Op.CONST:
        body = mapped(loop.body, substitution({loop.var: plus(start, inner)}))
        lo, hi = greatest(minus(loop.lo, start), idx(0)), least(idx(size), minus(loop.hi, start))
        return replace(loop, lo=_over(loop.lo, size), hi=_over(plus(loop.hi, idx(size - 1)), size), width=0,
                       body=(Loop(inner, loop.range, lo, hi, body, width=size),))  # fmt: skip
    n = minus(loop.hi, loop.lo)
    blocks = idx(-(-max(0, n.arg) // size)) if n.op is Op.CONST else _over(plus(n, idx(size - 1)), size)
    even = n.op is Op.CONST and n.arg % size == 0
    hi = idx(size) if even else least(idx(size), minus(n, start))
    if n.op is Op.CONST and n.arg <= size:
        hi, size = n, max(1, n.arg)
    body = mapped(loop.body, substitution({loop.var: plus(loop.lo, start, inner)}))
    return replace(loop, lo=idx(0), hi=blocks, width=0, body=(Loop(inner, loop.range, idx(0), hi, body, width=size),))


def _over(n: UOp, size: int) -> UOp:
    return alu(Op.IDIV, n, idx(size)) if n.op is not Op.CONST else idx(n.arg // size)


def block(loop: Loop, size: int) -> tuple[Loop, Loop]:
    """The loop over blocks and the one inside a block."""
    outer = tile(loop, size)
    inner = outer.body[0]
    assert isinstance(inner, Loop)
    return outer, inner


# ---- lanes -----------------------------------------------------------------------------------------------------------


def in_lanes(loop: Loop) -> Loop:
    """A loop over a block, its iterations in step; which of such loops become vectors is found at the end."""
    if any(isinstance(s, Loop) and s.kind == "thread" for s in walk(loop.body)):
        raise ScheduleError(f"{name_of(loop)} cannot run in step: there are threads inside it")
    return replace(loop, kind="upcast", lanes=1)


def sunk(loop: Loop) -> Loop:
    """The loop moved inside the parallel loops that are perfectly nested in it."""
    if len(loop.body) == 1:
        inner = loop.body[0]
        if (
            isinstance(inner, Loop)
            and inner.kind in ("loop", "upcast")
            and not (inner.kind == "upcast" and loop.kind == "upcast")
            and loop.var not in variables(inner.lo) | variables(inner.hi)
            and inner.var not in variables(loop.lo) | variables(loop.hi)
            and parallel(inner)
            and parallel(replace(loop, body=inner.body))
        ):
            return replace(inner, body=(sunk(replace(loop, body=inner.body)),))
    return loop


# ---- pad -------------------------------------------------------------------------------------------------------------


def padded(loop: Loop, multiple: int) -> Loop:
    """The loop with more iterations, up to a multiple, that read, write and reduce nothing."""
    if loop.lo.op is not Op.CONST or loop.hi.op is not Op.CONST:
        raise ScheduleError(f"{name_of(loop)} cannot be padded: its length is not a constant")
    for inner in walk(loop.body):
        if isinstance(inner, Loop) and loop.var in variables(inner.lo) | variables(inner.hi):
            raise ScheduleError(
                f"{name_of(loop)} cannot be padded: the length of {name_of(inner)} depends on it",
                help="pad a range before blocks are made of it",
            )
    n = max(0, loop.hi.arg - loop.lo.arg)
    if n % multiple == 0:
        return loop
    real = alu(Op.LT, loop.var, loop.hi)
    body = _gated(mapped(loop.body, lambda n: _gated_reads(n, loop.var, real)), real, set(), loop.var)
    return replace(loop, hi=idx(loop.lo.arg + -(-n // multiple) * multiple), body=body)


def _gated_reads(n: UOp, var: UOp, real: UOp) -> UOp:
    src = tuple(_gated_reads(s, var, real) for s in n.src)
    if n.op is Op.INDEX and len(src) > 1 and any(var in variables(i) for i in src[1:]):
        src = (src[0], *gated(src[1:], real))
    return n if src == n.src else n.replace(src=src)


def _gated(body: Body, real: UOp, own: set[UOp], var: UOp) -> Body:
    """Stores and reductions only where ``real`` holds; what an iteration keeps for itself may hold anything."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Scratch):
            own.add(s.buffer)
        elif isinstance(s, Loop):
            s = replace(s, body=_gated(s.body, real, own, var))
        elif isinstance(s, Guard):
            s = replace(s, ok=alu(Op.OR, alu(Op.NOT, real), s.ok))
        elif isinstance(s, Print):
            s = replace(s, when=alu(Op.AND, real, s.when))
        elif isinstance(s, Store) and s.buffer not in own:
            if s.update is None or any(var in variables(i) for i in s.index):
                if not s.index:
                    raise ScheduleError(
                        f"{s.buffer.arg.name} is handed from one iteration to the next: it cannot be padded"
                    )
                s = replace(s, index=gated(s.index, real))
            else:
                old = UOp(Op.INDEX, s.buffer.dtype, (s.buffer, *s.index))
                s = replace(s, value=alu(Op.WHERE, real, s.value, old), operand=_neutral(s, real))
        out.append(s)
    return tuple(out)


def _neutral(s: Store, real: UOp) -> UOp | None:
    if s.operand is None or s.update is None:
        return None
    how = reducer(s.update)
    if how.arity > 1:
        raise ScheduleError(f"a reduction over several values ({how.name}) cannot be padded")
    (identity,) = how.identity((s.operand.dtype,))
    return alu(Op.WHERE, real, s.operand, identity)
