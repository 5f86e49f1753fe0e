"""Blocks for the caches: what the default schedule does with one reduction that reads much, and its operands again.

Only the ways in which loads move are looked at: a minimum of sums is blocked as a product of matrices is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rangekit.ir.nest import Loop, Nest, Scratch, Stmt, Store, walk
from rangekit.ir.ops import Op
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp
from rangekit.lower.copies import stageable
from rangekit.lower.loops import all_or_none, carried, loops, needed, parallel, single, span
from rangekit.lower.model import Lanes, Row
from rangekit.lower.step import Prefetch, Reorder, Stage, Step, Thread, Tile, Unroll, Upcast

THREADS = 60_000.0  # cycles from which threads pay
PAGE = 4096  # bytes
BAND = 8  # rows read together of what is read down its columns
PARTS = 16  # blocks of rows that threads share, so that one late start costs little


class Blocks:
    """A chain of parallel loops around one reduction, or around something else: then nothing here applies."""

    def __init__(
        self,
        around: Sequence[Loop],
        body: Sequence[Stmt],
        listed: Sequence[Row],
        nest: Nest,
        target: Target,
        handle: Mapping[UOp, str],
    ) -> None:
        self.chain, self.body, self.listed = tuple(around), tuple(body), listed
        self.nest, self.target, self.handle = nest, target, handle
        self.spans = {a.var: span(a) for a in self.chain}
        self.k: Loop | None = None
        self.loads: list[Row] = []
        top = [s for s in body if isinstance(s, Loop)]
        inside = list(loops(self.body))
        if len(top) != 1 or len(inside) != 1 or parallel(inside[0]):
            return
        (k,) = inside
        whole = all_or_none(k)
        end = k.hi if whole is None else whole
        if k.lo.op is not Op.CONST or end.op is not Op.CONST or any(s.update is None for s in carried(k)):
            return
        self.k, self.length, self.needs = k, int(end.arg) - int(k.lo.arg), needed(self.body, k.hi)
        self.single = single(k)
        self.loads = [r for r in listed if r.kind == "load" and k.var in r.deps and r.buffer in nest.params]
        self.known = all(r.strides is not None and k.var in r.strides for r in self.loads)
        kept = [s.buffer.dtype.itemsize for s in walk(self.body) if isinstance(s, Scratch) and not s.buffer.shape]
        self.item = max([r.buffer.dtype.itemsize for r in self.loads if r.buffer is not None] + kept, default=4)

    def operands(self, lanes: Lanes) -> tuple[list[Row], list[Row]] | None:
        """What moves with the loop beside the vectors and what with theirs, where blocks of both pay; else None."""
        if self.k is None or lanes.vector is None or len(lanes.others) != 1 or not self.single or not self.known:
            return None
        (u, m), v = lanes.others[0], lanes.vector
        if u not in self.spans or v not in self.spans or any(n is None for n in self.spans.values()):
            return None
        if self.needs & {u, v} or any(r.strides is None or (v in r.deps and v not in r.strides) for r in self.loads):
            return None
        by_u = [r for r in self.loads if u in r.deps and v not in r.deps]
        by_v = [r for r in self.loads if v in r.deps and u not in r.deps]
        rows_u = math.prod(self.spans[a] or 0 for a in (u, *self._beside(u, v, by_v)))
        if self.length * (self.spans[v] or 0) * self.item <= self.target.l1_bytes or rows_u < 4 * m or self.length < 32:
            return None
        return (by_u, by_v) if by_u and by_v else None

    def _beside(self, u: UOp, v: UOp, by_v: Sequence[Row]) -> list[UOp]:
        """Further loops that what moves with ``v`` does not move with: with ``u``, they are the rows that read it."""
        return [a.var for a in self.chain if a.var not in (u, v) and not any(a.var in r.deps for r in by_v)]

    def blocked(self, lanes: Lanes, cost: float) -> list[Step]:
        """Blocks of both operands, packed.

        K. Goto, R. van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008: the blocks of
        one operand stay in the second cache, a panel of the other in the first. Half a panel more than fits the first
        cache is better still: it comes once for each block, and the result is read and written less often.
        """
        found = self.operands(lanes)
        if found is None or self.k is None or lanes.vector is None:
            return []
        (u, m), v, target = lanes.others[0], lanes.vector, self.target
        rows_u, rows_v = self.spans[u] or 0, self.spans[v] or 0
        depth = even(self.length, target.l1_bytes * 3 // 2 // (lanes.block * self.item), 4)
        others = self._beside(u, v, found[1])
        rows = math.prod((self.spans[a] or 0 for a in others), start=rows_u)
        tall = even(rows, max(m, target.l2_bytes // 2 // (depth * self.item)), m)
        many = self._batch((u, v, *others))
        if target.threads and many is None:
            tall = min(tall, even(rows, max(8 * m, -(-rows // PARTS)), m))
        name_u, name_v, name_k = self.handle[u], self.handle[v], self.handle[self.k.var]
        steps: list[Step] = []
        outer, inner = [*(self.handle[a] for a in others), name_u], [f"{name_v}.t"]
        counts = [self.spans[a] or 1 for a in others]  # blocks that threads may share
        if others:  # a few rows of u for each of several iterations of the last one
            several = even(counts[-1], max(1, tall // rows_u), 1)
            steps.append(Tile(outer[-2], several))
            inner.append(f"{outer[-2]}.t")
            counts[-1] = -(-counts[-1] // several)
            tall = even(rows_u, tall, m)
        inner.append(f"{name_u}.t")
        counts.append(-(-rows_u // tall))
        once = all(n == 1 for n in counts)  # then nothing reads a panel again: it need not outlive the second cache
        panels = target.l2_bytes // 2 if once else target.l3_bytes // 4
        wide = even(rows_v, max(lanes.block, panels // (depth * self.item)), lanes.block)
        steps += [Tile(name_u, tall), Tile(name_v, wide), Upcast(f"{name_u}.t", m), Upcast(inner[0], lanes.block)]
        batch = [self.handle[a.var] for a in self.chain if a.var not in (u, v, *others)]
        split = self.length > depth
        if split:
            steps += [Tile(name_k, depth), Unroll(f"{name_k}.t", 4)]
            steps.append(Reorder((*batch, name_v, name_k, *outer, *inner)))
        else:
            steps.append(Unroll(name_k, 4))
            steps.append(Reorder((*batch, *outer, name_v, *inner) if once else (*batch, name_v, *outer, *inner)))
        stores = [s for s in walk(self.body) if isinstance(s, Store) and s.buffer in self.nest.outputs]
        if split and len(stores) == 1:
            steps.append(Prefetch(stores[0].buffer.arg.name))
        if cost > THREADS and target.threads:
            alone = name_v if rows_v > wide else inner[0]
            steps.append(Thread(many or (alone if once else outer[counts.index(max(counts))])))
        copied: set[UOp] = set()
        for listed, at in zip(found, (name_u, name_k if split else name_v), strict=True):
            for buffer in dict.fromkeys(r.buffer for r in listed if r.buffer is not None):
                whole = set(stageable((self.k,), buffer))
                if not whole <= copied:  # a mask is copied with what it masks
                    steps.append(Stage(buffer.arg.name, at))
                copied |= whole
        return steps

    def banded(self, lanes: Lanes, cost: float) -> list[Step]:
        """Bands for what is read once, down its columns: each row of it is on another page, and pages are found slowly.
        A few rows of a band as wide as a page, then the next few, with the sums waiting in the results.
        """
        k, v = self.k, lanes.vector
        if k is None or v is None or lanes.count(k.var) > 1 or cost < THREADS or self.length < 4 * BAND:
            return []
        rows_v = self.spans.get(v)
        if rows_v is None or rows_v < 4 * lanes.block:
            return []
        items = [
            r.buffer.dtype.itemsize
            for r in self.listed
            if r.kind == "load" and r.buffer is not None and r.strides is not None and r.strides.get(v) == 1
            and r.strides.get(k.var, 0) * r.buffer.dtype.itemsize >= PAGE // 2
            and self.length * rows_v * r.buffer.dtype.itemsize > self.target.l2_bytes
        ]  # fmt: skip
        if not items:
            return []
        wide = even(rows_v, min(PAGE // max(items), rows_v // 4), lanes.block)
        name_v, name_k = self.handle[v], self.handle[k.var]
        beside = [self.handle[u] for u, _ in lanes.others]
        batch = [n for a in self.chain if a.var is not v and (n := self.handle[a.var]) not in beside]
        steps: list[Step] = [Tile(name_v, wide), Upcast(f"{name_v}.t", lanes.block)]
        steps += [Upcast(self.handle[u], n) for u, n in lanes.others]
        steps += [Tile(name_k, BAND), Unroll(f"{name_k}.t", 4 if beside else BAND)]
        steps.append(Reorder((*batch, name_v, name_k, f"{name_v}.t", *beside)))
        if self.target.threads:
            steps.append(Thread(self._batch((v, *(u for u, _ in lanes.others))) or name_v))
        return steps

    def _batch(self, others: Sequence[UOp]) -> str | None:
        """The name of a further loop with iterations for all threads."""
        rest = (a for a in self.chain if a.var not in others)
        return next((self.handle[a.var] for a in rest if (self.spans[a.var] or 1) >= PARTS // 2), None)


def even(total: int, most: int, unit: int) -> int:
    """A block size near ``most``, a multiple of ``unit``, that splits ``total`` evenly."""
    most = max(unit, most)
    count = max(1, -(-total // most))
    return max(unit, -(-total // (count * unit)) * unit)
