"""What a nest costs on a target, in cycles of one core: the one model that schedules are chosen by.

``rows`` lists what a body does: each operation, load and store with the loops around it, the variables it depends on
and how far each of them moves its address. ``cycles`` prices the rows under a choice of lanes, without building the
nest: what does not depend on a lane is done once for all of it; a load is cheap where the vector's lane is contiguous
or does not matter, dear where it is strided; a reduction with few accumulators waits for itself.

Prices are throughputs of current x86 and Arm cores (A. Fog, instruction tables, 2024), rounded: a nominal machine, the
same everywhere, and no measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from rangekit.ir import dtype as dt
from rangekit.ir.affine import affine
from rangekit.ir.nest import Guard, Let, Loop, Prefetch, Scratch, Stmt, Store, operands, variables
from rangekit.ir.ops import MATH, Op
from rangekit.ir.reducers import reducer
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp, cast
from rangekit.lower.loops import carried, few, span

PRICES: Mapping[Op, float] = {  # cycles of a vector instruction, or of the sequence an op becomes
    Op.DIV: 5.0, Op.SQRT: 6.0, Op.MAX: 2.0, Op.MIN: 2.0, Op.IDIV: 20.0, Op.MOD: 20.0, Op.POW: 30.0, Op.ATAN2: 60.0,
    Op.ISNAN: 0.5, Op.CAST: 1.0,
}  # fmt: skip
MATH_PRICE = 7.0  # a polynomial
OTHER = 0.5  # any other op
LOAD, STORE = 0.5, 1.0  # of a vector
SPLIT = 1.5  # times as much for a vector that may lie on two lines: half of those that start anywhere do
SHUFFLE = 0.5  # each of the log2(width) steps that transpose what is loaded across vectors
PART = 4.0  # a line that such a load reads in part
GATHER, SCATTER = 0.75, 1.5  # each element of a strided load, of a strided store
LOOP = 0.5  # an iteration's own counting
SPILL = 2.0  # a vector put on the stack and read again
LATENCY = 4.0  # from one addition to the next of the same accumulator
LINE = 64  # bytes of a cache line: read in parts, it is read more than once
UNKNOWN = 64  # iterations of a loop whose length depends on data


@dataclass(frozen=True, eq=False)
class Row:
    """One operation, load or store of a statement. ``strides``: elements its address moves per iteration of a variable;
    a variable in ``deps`` but not in ``strides`` moves it anywhere.
    """

    kind: str  # "op", "load", "store" or "update"
    price: float
    deps: frozenset[UOp]
    path: tuple[Loop, ...]
    buffer: UOp | None = None
    strides: Mapping[UOp, int] | None = None
    carries: bool = False  # whether the innermost loop around it hands values on
    wait: float = 0.0  # cycles from one update of an accumulator to the next
    apart: Mapping[UOp, frozenset[UOp]] = field(default_factory=dict)  # loops whose both ends are loaded, by what index


def rows(body: Sequence[Stmt], around: tuple[Loop, ...] = ()) -> list[Row]:
    """What statements do, those of loops inside included."""
    out: list[Row] = []
    _rows(body, around, {}, set(), out)
    apart = _apart(body, {})
    if apart:
        out = [replace(row, apart={a.var: apart[a.var] for a in row.path if a.var in apart}) for row in out]
    merged: dict[object, Row] = {}
    for row in out:  # operations alike in everything but their price are one row
        key = (row.deps, row.path[-1].var if row.path else None) if row.kind == "op" else row
        found = merged.get(key)
        merged[key] = row if found is None else replace(found, price=found.price + row.price)
    return list(merged.values())


def _apart(body: Sequence[Stmt], known: dict[UOp, frozenset[UOp]]) -> dict[UOp, frozenset[UOp]]:
    """Loops whose both ends are loaded, and the variables at which: their iterations for two values of such a variable
    are taken to be different ones, as the rows of two segments are, or a few of all if their number is fixed.
    """
    found: dict[UOp, frozenset[UOp]] = {}
    for s in body:
        if isinstance(s, Let):
            known[s.var] = _indices(s.value, known)
        elif isinstance(s, Loop):
            both = _indices(s.lo, known) & _indices(s.hi, known)
            if both:
                found[s.var] = both
            found.update(_apart(s.body, known))
    return found


def _indices(n: UOp, known: Mapping[UOp, frozenset[UOp]]) -> frozenset[UOp]:
    """The variables that indices of loads in an expression depend on."""
    if n.op is Op.VAR:
        return known.get(n, frozenset())
    if n.op is Op.INDEX:
        return frozenset().union(*map(variables, n.src[1:]))
    return frozenset().union(*(_indices(s, known) for s in n.src)) if n.src else frozenset()


def _rows(body: Sequence[Stmt], path: tuple[Loop, ...], known: dict[UOp, frozenset[UOp]], own: set[UOp],
          out: list[Row]) -> None:  # fmt: skip
    for s in body:
        if isinstance(s, Scratch):
            if not s.buffer.shape:
                own.add(s.buffer)
                known[s.buffer] = frozenset(loop.var for loop in path)  # a register for each lane around it
            continue
        seen: set[UOp] = set()
        for n in operands(s) if not isinstance(s, (Loop, Prefetch)) else ():
            _expression(n, path, known, own, out, seen)
        if isinstance(s, Let):
            known[s.var] = _deps(s.value, known)
        elif isinstance(s, Loop):
            known[s.var] = frozenset((s.var,))
            first = len(out)
            _rows(s.body, (*path, s), known, own, out)
            if carried(s):
                out[first:] = [replace(r, carries=True) if r.path[-1] is s else r for r in out[first:]]
        elif isinstance(s, Store):
            strides, deps = _strides(s.buffer, s.index, known)
            if s.update is None or s.buffer in own:  # what is reduced into one place is stored there once
                deps |= _deps(s.value, known)
            kind = "update" if s.buffer in own else "store"
            several = s.update is not None and reducer(s.update).arity > 1
            wait = (LATENCY * 3 if several else LATENCY) if kind == "update" else 0.0
            out.append(Row(kind, 0.0 if kind == "update" else STORE, deps, path, s.buffer, strides, wait=wait))
        elif isinstance(s, Guard):
            out.append(Row("op", 2.0, _deps(s.ok, known), path))


def _deps(n: UOp, known: Mapping[UOp, frozenset[UOp]]) -> frozenset[UOp]:
    return frozenset().union(*(known.get(v, frozenset()) for v in _leaves(n)))


def _leaves(n: UOp) -> frozenset[UOp]:
    """The variables of an expression and the arrays it reads."""
    found = _LEAVES.get(n)
    if found is None:
        if n.op in (Op.VAR, Op.BUFFER):
            found = frozenset((n,))
        else:
            found = frozenset().union(*map(_leaves, n.src)) if n.src else frozenset()
        _LEAVES[n] = found
    return found


_LEAVES: WeakKeyDictionary[UOp, frozenset[UOp]] = WeakKeyDictionary()


def _expression(n: UOp, path: tuple[Loop, ...], known: dict[UOp, frozenset[UOp]], own: set[UOp], out: list[Row],
                seen: set[UOp]) -> None:  # fmt: skip
    if n in seen or n.op in (Op.VAR, Op.CONST, Op.PARAM, Op.BUFFER, Op.INVALID):
        return
    seen.add(n)
    for s in n.src:
        _expression(s, path, known, own, out, seen)
    if n.op is Op.INDEX:
        if n.src[0] in own:
            return
        strides, deps = _strides(n.src[0], n.src[1:], known)
        out.append(Row("load", LOAD, deps, path, n.src[0], strides))
    elif n.dtype is not dt.index:
        price = MATH_PRICE if n.op in MATH and n.op is not Op.SQRT else PRICES.get(n.op, OTHER)
        out.append(Row("op", price * max(1, n.dtype.itemsize // 4), _deps(n, known), path))


def _strides(buffer: UOp, index: Sequence[UOp], known: Mapping[UOp, frozenset[UOp]],
             ) -> tuple[dict[UOp, int], frozenset[UOp]]:  # fmt: skip
    """Elements the address moves per iteration of each variable, and every variable it depends on."""
    steps = getattr(buffer.arg, "strides", None) or [math.prod(buffer.shape[a + 1 :]) for a in range(len(buffer.shape))]
    moved: dict[UOp, int] = {}
    wild: set[UOp] = set()
    deps: frozenset[UOp] = frozenset()
    for i, step in zip(index, steps, strict=True):
        while i.op is Op.WHERE and i.src[2].op is Op.INVALID:
            deps |= _deps(i.src[0], known)
            i = i.src[1]
        terms, _ = affine(i if i.dtype is dt.index else cast(i, dt.index))
        for atom, factor in terms.items():
            if atom.op is Op.VAR and known.get(atom) == frozenset((atom,)):
                moved[atom] = moved.get(atom, 0) + factor * step
            else:
                wild |= _deps(atom, known)
    return {v: f for v, f in moved.items() if v not in wild}, deps | frozenset(moved) | wild


@dataclass(frozen=True)
class Lanes:
    """A choice of what runs in step: the variable of the vectors and its block, and blocks of further variables."""

    vector: UOp | None = None
    block: int = 1
    others: tuple[tuple[UOp, int], ...] = ()
    width: int = 8  # elements of one vector

    def count(self, v: UOp) -> int:
        """Iterations of a variable that run in step."""
        if v is self.vector:
            return self.block
        return next((n for u, n in self.others if u is v), 1)


def cycles(listed: Sequence[Row], lanes: Lanes, target: Target) -> float:
    """The price of rows under a choice of lanes."""
    width = lanes.width
    total = 0.0
    leaves: dict[UOp | None, _Leaf] = {}  # by the innermost loop: hashing a loop would walk its body
    for row in listed:
        inner = row.path[-1].var if row.path else None
        leaf = leaves.get(inner)
        if leaf is None:
            leaf = leaves[inner] = _Leaf(row.path, row.carries, _times(row, lanes))
        many = 1.0
        for loop in row.path:
            v = loop.var
            if v in row.deps:
                many *= max(1.0, lanes.block / width) if v is lanes.vector else lanes.count(v)
        price = _access(row, lanes, width) if row.kind in ("load", "store") else row.price
        leaf.price += many * price
        if row.kind == "update":
            leaf.accumulators += many
            leaf.wait = max(leaf.wait, row.wait)
        elif row.kind == "load" and lanes.vector in row.deps:
            leaf.held += many
        elif row.kind == "op":
            leaf.computed = max(leaf.computed, many)
    for leaf in leaves.values():
        total += leaf.times * leaf.price
        if not leaf.path:
            continue
        extra = LOOP
        if leaf.accumulators and leaf.carries:
            extra = max(extra, leaf.wait - leaf.price)
            extra += SPILL * max(0.0, leaf.accumulators + leaf.held + 1 - target.registers)  # spilled
        elif not leaf.accumulators:
            extra += SPILL * max(0.0, 2 * leaf.computed - target.registers)  # each op's results wait for the next op
        total += leaf.times * extra
    return total


@dataclass
class _Leaf:
    """What the iterations of one loop cost: an iteration's price, its accumulators, the vectors it loads."""

    path: tuple[Loop, ...]
    carries: bool
    times: float
    price: float = 0.0
    accumulators: float = 0.0
    held: float = 0.0
    computed: float = 0.0
    wait: float = 0.0


def _times(row: Row, lanes: Lanes) -> float:
    """How often a row is done, lanes together."""
    times = 1.0
    for loop in row.path:
        n = _blocks(loop, lanes)
        if loop.var in row.apart and few(loop) is not None:  # lanes go through what lies between theirs
            if any(lanes.count(v) > 1 for v in row.apart[loop.var]):
                n = float(loop.range.extent)
        elif loop.var in row.apart:
            around = [a for a in row.path if a.var in row.apart[loop.var]]
            n = max(1.0, n / math.prod(span(a) or UNKNOWN for a in around))
            n *= math.prod(lanes.count(a.var) for a in around)  # lanes wait for each other's
        times *= n
    return times


def _blocks(loop: Loop, lanes: Lanes) -> float:
    n = span(loop)
    return math.ceil((UNKNOWN if n is None else n) / lanes.count(loop.var))


def _access(row: Row, lanes: Lanes, width: int) -> float:
    v = lanes.vector
    if v is None or v not in row.deps:
        return row.price
    assert row.strides is not None
    if row.strides.get(v) in (0, 1):
        return row.price * (SPLIT if any(f % width for u, f in row.strides.items() if u is not v) else 1)
    crossed = next((n for u, n in lanes.others if row.strides.get(u) == 1 and n % width == 0), None)
    if row.kind == "load" and crossed is not None and row.buffer is not None:
        part = crossed * row.buffer.dtype.itemsize < LINE
        return row.price + SHUFFLE * math.log2(width) + (PART if part else 0.0)
    if row.kind == "load":
        return row.price + width * GATHER / reuse(row, lanes)
    return width * SCATTER


def packed(row: Row, v: UOp, block: int) -> Row:
    """A load as it is of a copy whose last axis is the block of ``v``."""
    if row.kind != "load" or row.strides is None or v not in row.strides:
        return row
    return replace(row, strides={**dict.fromkeys(row.strides, block), v: 1})


def reuse(row: Row, lanes: Lanes, limit: int = 1 << 19) -> float:
    """How often a load reads the same elements: the iterations of loops around it that do not move it, those inside the
    vector's loop. Packed once for all of them, it is contiguous; if that takes no more than ``limit`` bytes.
    """
    if row.strides is None or row.buffer is None or lanes.vector not in row.strides:
        return 1.0
    inner, times, size = False, 1.0, float(lanes.block * row.buffer.dtype.itemsize)
    for loop in row.path:
        if inner and loop.var not in row.deps:
            times *= _blocks(loop, lanes)
        elif inner:
            size *= span(loop) or UNKNOWN
        inner = inner or loop.var is lanes.vector
    return times if size <= limit else 1.0
