"""``x[...] = rk.scatter(x, ...)``: what is written to a copy of x, and then to all of x, is written to x itself.

A chain of ASSIGNs that begins with a copy of a version, and whose last contents an ASSIGN puts in place of that whole
version, goes to the version's storage; the copy is gone unless somebody else wants it. Who still reads the old
contents is *torn*'s business.
"""

from __future__ import annotations

from rangekit.ir.ops import Op
from rangekit.ir.spec import bound_ranges
from rangekit.ir.uop import UOp, toposort
from rangekit.lower.versions import Carry, beginning, evaluated, is_storage


def in_place(sink: UOp, carry: Carry) -> UOp:
    """The program without copies that are only written to and written back."""
    order = toposort(sink)
    whole: dict[UOp, UOp] = {}  # an ASSIGN of everything -> the last of the chain it takes its contents from
    origin: dict[UOp, UOp] = {}  # an ASSIGN of such a chain -> the copy it begins with
    for n in order:
        last = _contents(n) if n.op is Op.ASSIGN else None
        if last is not None and last not in sink.src and last not in origin:
            whole[n] = last
            copy = beginning(last)
            while last is not copy:
                origin[last] = copy
                last = last.src[0]
    if not whole:
        return sink
    memo: dict[UOp, UOp] = {}
    for n in order:
        if n in whole:
            new = memo[whole[n]]
        elif n in origin:
            new = _moved(n, origin[n], memo)
        else:
            src = tuple(memo[s] for s in n.src)
            new = n if src == n.src else n.replace(src=src)
        memo[n] = new
        if new is not n:
            carry(n, new)
    return memo[sink]


def _contents(write: UOp) -> UOp | None:
    """The version, of a copy of what an ASSIGN replaces, that it puts in place of all of it."""
    base, place, value = write.src[:3]
    over = bound_ranges(write)
    if write.arg is not None or place.src[1:] != over or tuple(r.length for r in over) != base.shape:
        return None
    last = value.src[0] if value.op is Op.INDEX and value.src[1:] == over else value
    if last.op is not Op.ASSIGN:
        return None
    return last if _copied(beginning(last)) is base else None


def _copied(n: UOp) -> UOp | None:
    """What a buffer is a plain copy of."""
    body = n.src[0]
    plain = n.op is Op.BUFFERIZE and body.op is Op.INDEX and body.src[1:] == n.src[1:] and body.src[0].shape == n.shape
    return body.src[0] if plain else None


def _moved(write: UOp, copy: UOp, memo: dict[UOp, UOp]) -> UOp:
    """An ASSIGN of a chain, with what is copied in place of the copy."""
    source = memo[copy].src[0].src[0]
    local: dict[UOp, UOp] = {copy: source}
    for m in toposort(write.src[1], *evaluated(write), into=lambda m: not is_storage(m)):
        if m not in local:
            local[m] = memo[m] if is_storage(m) else m.replace(src=tuple(local[s] for s in m.src))
    rest = tuple(local[m] for m in evaluated(write)[len(write.src[1].src) - 1 :])
    base = local.get(write.src[0], memo[write.src[0]])
    return write.replace(src=(base, local[write.src[1]], *rest, *bound_ranges(write)))
