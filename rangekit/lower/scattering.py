"""The default schedule of loops that reduce into places that data names.

Such a loop runs in no other order, on no other thread. A small target gets copies: one for each part of the loop, so
that parts run on threads, and a few inside each, so that values for one place need not wait for one another. A large
one is written as it is, along loops whose iterations have places of their own: a row in vectors, bands of columns on
threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rangekit.ir.nest import Loop, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp
from rangekit.lower import parts
from rangekit.lower.blocking import THREADS
from rangekit.lower.loops import chain, loops, parallel, regrouped, scattered, span
from rangekit.lower.step import Group, Reorder, Step, Thread, Tile, Upcast

SMALL = 1 << 16  # bytes of a target that is worth copies
AGAIN = 16  # values for each element of a copy, from which it pays
COPIES = 4  # beside each other
PARTS = 256
CHUNK = 40_000.0  # cycles of work handed to a thread at once
BANDS = 8  # of columns
LEAST = 16  # columns of a band


def scattering(loop: Loop, cost: float, strict: bool, target: Target, handle: Mapping[UOp, str]) -> list[Step] | None:
    """The steps for a loop at the top of a nest, None if nothing in it is scattered. ``cost`` is that of all of it."""
    nested = chain(loop)
    serial = [a for a in nested if not parallel(a)]
    if not any(scattered(a) for a in loops((loop,)) if not parallel(a)):
        return None
    threads = target.threads and cost > THREADS
    first = next((n for n, a in enumerate(nested) if a in serial), len(nested))
    outer, inner = nested[:first], [a for a in nested[first:] if a not in serial]
    last = nested[-1]
    steps: list[Step] = []
    names = {a.var: handle[a.var] for a in nested}
    lead = max(serial, key=lambda a: span(a) or 0) if serial else None
    alone = next((a for a in outer if (span(a) or 1) >= 2), None)
    copied = lead is not None and regrouped(lead, strict)
    size = parts.copied(lead) if lead is not None and copied else 0
    copied = copied and size <= SMALL
    if threads and alone is not None:
        n = span(alone) or 1
        steps.append(Thread(names[alone.var], max(1, min(n // 8, round(CHUNK * n / cost)))))
    elif threads and copied and lead is not None and lead.hi.op is Op.CONST:
        count = _parts(nested[nested.index(lead) :], size, cost)
        if count > 1:
            steps += [Group(names[lead.var], count), Thread(names[lead.var])]
            names[lead.var] = _inside(names[lead.var])
    elif threads and inner and (span(inner[-1]) or 0) >= 2 * LEAST:
        band, n = inner[-1], span(inner[-1]) or 1
        width = -(-max(LEAST, -(-n // BANDS)) // LEAST) * LEAST
        name = names[band.var]
        rest = [names[a.var] for a in nested[first:] if a is not band]
        steps += [Tile(name, width), Reorder((name, *rest)), Thread(name)]
        names[band.var] = _inside(name)
    leaves = [last] if last in inner else [a for a in loops(last.body) if not any(isinstance(s, Loop) for s in a.body)]
    for a in leaves:
        if parallel(a) or (regrouped(a, strict) and not scattered(a)):
            steps.append(Upcast(names.get(a.var) or handle[a.var], 32 if (span(a) or 64) >= 64 else 8))
    if not leaves and copied and _again(last, size) and regrouped(last, strict):
        steps.append(Upcast(names[last.var], COPIES))
    return steps


def _inside(name: str) -> str:
    """The loop inside blocks of the n-th loop of a name."""
    base, mark, which = name.partition("#")
    return f"{base}.t{mark}{which}"


def _again(loop: Loop, size: int) -> bool:
    """Whether a loop stores often enough into an array of that many bytes to be worth copies of it."""
    items = min((s.buffer.dtype.itemsize for s in walk(loop.body) if isinstance(s, Store)), default=1)
    return (span(loop) or 0) >= AGAIN * COPIES * size // items


def _parts(nested: list[Loop], size: int, cost: float) -> int:
    """Parts of the outermost of these loops that are worth a copy of the target each."""
    lead = nested[0]
    values = math.prod(span(a) or 64 for a in nested)
    items = min((s.buffer.dtype.itemsize for s in walk(lead.body) if isinstance(s, Store)), default=1)
    return max(1, min(PARTS, span(lead) or 1, int(cost / CHUNK), values * items // (AGAIN * size)))
