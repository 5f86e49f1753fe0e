"""Intervals: between which integers a value lies, exactly where that is easy and never too narrow.

An open end is infinite (inside these modules: None, which no arithmetic overflows). A machine integer whose exact
interval leaves its dtype may have wrapped: it then has the whole dtype. No interval is empty: code under a
contradiction never runs, and says nothing about its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from weakref import WeakKeyDictionary

from rangekit.ir import dtype as dt
from rangekit.ir.affine import Form, affine_within, total
from rangekit.ir.dim import most
from rangekit.ir.dtype import DType
from rangekit.ir.ops import COMPARE, ELEMENTWISE, Op
from rangekit.ir.spec import arity, binding
from rangekit.ir.uop import UOp

Span = tuple[int | None, int | None]
Facts = Mapping[UOp, Span]

_ALL: Span = (None, None)
_MEMO: WeakKeyDictionary[UOp, Span] = WeakKeyDictionary()


def bounds(node: UOp, facts: Mapping[UOp, tuple[float | None, float | None]] | None = None) -> tuple[float, float]:
    """(least, greatest) value of an index, int or bool node (False is 0): exact ints, or an infinity.

    ``facts`` narrow nodes: ``{i: (0, 6)}``. A gated index has the bounds it has where its gate is open.

    >>> from rangekit.ir.uop import alu, idx, new_range
    >>> i = new_range(8); bounds(alu(Op.IDIV, i, idx(3))), bounds(i, {i: (2, math.inf)})
    ((0, 2), (2, 7))
    """
    lo, hi = interval(node, {n: (_finite(a), _finite(b)) for n, (a, b) in (facts or {}).items()})
    return -math.inf if lo is None else lo, math.inf if hi is None else hi


def _finite(end: float | None) -> int | None:
    return None if end is None or math.isinf(end) else int(end)


def interval(node: UOp, facts: Facts, memo: dict[UOp, Span] | None = None) -> Span:
    """``bounds`` with None for an open end; ``memo`` keeps what was found for other questions under these facts."""
    while node.op is Op.WHERE and node.src[2].op is Op.INVALID:
        facts, memo, node = {**facts, **facts_of(node.src[0], facts)}, None, node.src[1]
    if not facts:
        known = _MEMO.get(node)
        return known if known is not None else _walk(node, facts, _MEMO)
    return _walk(node, facts, {} if memo is None else memo)


class Known:
    """Intervals under one set of facts, each found once."""

    def __init__(self, facts: Facts | None = None) -> None:
        self.facts = facts or {}
        self._memo: dict[UOp, Span] = {}

    def __call__(self, node: UOp) -> Span:
        found = self._memo.get(node)
        if found is None:
            found = self._memo[node] = interval(node, self.facts, self._memo)
        return found

    def form(self, form: Form) -> Span:
        """The interval of a sum: of its terms one by one, and of the whole where a fact names it."""
        terms, constant = form
        found: Span = (0, 0)
        for atom, factor in terms.items():
            found = added(found, scaled(self(atom), factor))
        if len(terms) > 1 and self.facts:
            found = meet(found, self(total((terms, 0))))
        return added(found, (constant, constant))


def whole(dtype: DType) -> Span:
    """Every value of a dtype."""
    return (int(dtype.min), int(dtype.max)) if dtype.kind in "biu" else _ALL


def meet(a: Span, b: Span) -> Span:
    """What lies in both; ``a`` where nothing does."""
    lo = a[0] if b[0] is None else b[0] if a[0] is None else max(a[0], b[0])
    hi = a[1] if b[1] is None else b[1] if a[1] is None else min(a[1], b[1])
    return a if lo is not None and hi is not None and lo > hi else (lo, hi)


def hull(a: Span, b: Span) -> Span:
    """What lies in either or between them."""
    lo = None if a[0] is None or b[0] is None else min(a[0], b[0])
    hi = None if a[1] is None or b[1] is None else max(a[1], b[1])
    return lo, hi


def scaled(a: Span, m: int) -> Span:
    """A multiple of an interval."""
    lo = None if a[0] is None else a[0] * m
    hi = None if a[1] is None else a[1] * m
    return (lo, hi) if m > 0 else (hi, lo) if m < 0 else (0, 0)


def added(a: Span, b: Span) -> Span:
    """The sum of two intervals."""
    return None if a[0] is None or b[0] is None else a[0] + b[0], None if a[1] is None or b[1] is None else a[1] + b[1]


def facts_of(gate: UOp, given: Facts | None = None) -> dict[UOp, Span]:
    """What a condition that holds says of nodes: of its linear sums, and through them of each of their atoms."""
    found: dict[UOp, Span] = {}
    stack = [gate]
    while stack:
        c = stack.pop()
        if c.op is Op.AND and c.dtype is dt.bool_:
            stack.extend(c.src)
        elif c.op is Op.NOT and c.src[0].op in (Op.LT, Op.LE) and c.src[0].src[0].dtype.is_int:
            opposite = Op.LE if c.src[0].op is Op.LT else Op.LT
            stack.append(UOp(opposite, dt.bool_, c.src[0].src[::-1]))
        elif c.op in (Op.LT, Op.LE, Op.EQ) and c.src[0].dtype.is_int:
            a, b = c.src
            if a.dtype is dt.index:
                _learn_sum(c.op, a, b, found, given or {})
            elif b.op is Op.CONST or a.op is Op.CONST:
                x, k = (a, b.arg) if b.op is Op.CONST else (b, a.arg)
                strict = int(c.op is Op.LT)
                span = (k, k) if c.op is Op.EQ else (None, k - strict) if x is a else (k + strict, None)
                _learn(x, span, found, given or {})
    return found


def _learn(node: UOp, span: Span, found: dict[UOp, Span], given: Facts) -> None:
    if node.op is not Op.CONST:
        found[node] = meet(found.get(node) or given.get(node) or interval(node, {}), span)


def _learn_sum(op: Op, a: UOp, b: UOp, found: dict[UOp, Span], given: Facts) -> None:
    """From ``a - b < 0`` (or <=, ==), which is ``sum + k``: an interval of the sum, then of each atom."""
    form = affine_within(UOp(Op.SUB, dt.index, (a, b)), 64)
    if form is None or not form[0]:
        return
    terms, k = form
    top = -k - (op is Op.LT)  # sum <= top
    g = math.gcd(*terms.values())
    for sign in (1, -1) if op is Op.EQ else (1,):
        limit = (top if sign == 1 else -top) // g
        scaled_terms = {x: m * sign // g for x, m in terms.items()}
        spans = {x: found.get(x) or given.get(x) or interval(x, {}) for x in terms}
        for x, m in scaled_terms.items():
            rest: Span = (0, 0)
            for y, n in scaled_terms.items():
                rest = rest if y is x else added(rest, scaled(spans[y], n))
            if rest[0] is not None:
                room = limit - rest[0]
                _learn(x, (None, room // m) if m > 0 else (-(room // -m), None), found, given)
        if len(terms) > 1:
            _learn(total((scaled_terms, 0)), (None, limit), found, given)
            _learn(total(({x: -m for x, m in scaled_terms.items()}, 0)), (-limit, None), found, given)


def _walk(root: UOp, facts: Facts, memo: dict[UOp, Span] | WeakKeyDictionary[UOp, Span]) -> Span:
    stack = [root]
    while stack:
        node = stack[-1]
        if node in memo:
            stack.pop()
            continue
        reads = _reads(node)
        missing = [s for s in reads if s not in memo]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if facts and reads and captures(node, facts):  # inside, its ranges are others
            outside = {n: f for n, f in facts.items() if not captures(node, (n,))}
            span = _span(node, [interval(s, outside) for s in reads])
        else:
            span = _span(node, [memo[s] for s in reads])
        fact = facts.get(node) if facts else None
        memo[node] = span if fact is None else meet(span, fact)
    return memo[root]


def captures(node: UOp, facts: Iterable[UOp]) -> bool:
    """Whether a reduction binds a range that facts are about: what is inside it knows nothing of those."""
    reduce = node.src[0] if node.op is Op.GET else node
    scope = binding(reduce)
    return scope is not None and any(r in f.ranges for f in facts for r in reduce.src[scope[1] :])


def _reads(node: UOp) -> tuple[UOp, ...]:
    """The sources whose intervals say something about the node's."""
    if node.dtype.kind not in "biux":
        return ()
    if node.op in ELEMENTWISE:
        return tuple(s for s in node.src if s.dtype.kind in "biux" and s.op is not Op.INVALID)
    if node.op is Op.GET and node.src[0].arg in ("argmax", "argmin"):
        return (node.src[0].src[node.arg],) if _runs(node.src[0]) else ()
    return node.src[:1] if node.op is Op.REDUCE and _runs(node) else ()


def _runs(reduce: UOp) -> bool:
    """Whether a reduction sees any value, so that what it gives is made of values it saw."""
    return all(r.extent > 0 and len(r.src) == 1 for r in reduce.src[arity(reduce) :])


def _span(node: UOp, of: list[Span]) -> Span:
    op, dtype = node.op, node.dtype
    if op is Op.CONST and dtype.kind in "biux":
        return int(node.arg), int(node.arg)
    if op is Op.RANGE:
        return 0, node.extent - 1 if node.extent else 1  # of no value at all anything holds, but it is not known
    if op is Op.DIM:
        return node.arg.least, node.arg.most
    if op is Op.GUARD and len(node.src) == 1:
        return 0, max(1, most(node.arg[2]) - 1)
    if _is_carried(node):
        from rangekit.ir.carried import carried  # which asks for the intervals inside the loop

        return _fit(carried(node), dtype)
    if op is Op.INDEX and dtype.kind in "biu":
        return _fit(_contents(node.src[0]), dtype)
    if op in (Op.REDUCE, Op.GET) and of:
        span = _reduced(node, of[0])
    elif op in COMPARE:
        span = _compared(op, node.src, of)
    elif op in _SPANS and len(of) == len([s for s in node.src if s.op is not Op.INVALID]):
        span = _SPANS[op](of, node)
    else:
        span = _ALL
    return _fit(span, dtype)


def _contents(storage: UOp) -> Span:
    """An interval of what is read from storage: of all that was put there, and of 0, for an index that is gated."""
    span: Span = (0, 0)
    while storage.op is Op.ASSIGN and storage.arg not in ("add", "mul", "and", "or"):
        span, storage = hull(span, interval(storage.src[2], {})), storage.src[0]
    return hull(span, interval(storage.src[0], {})) if storage.op is Op.BUFFERIZE else _ALL


def _is_carried(node: UOp) -> bool:
    if node.dtype.kind not in "biux" or node.shape:
        return False
    of = node.src[0].op if node.src else None
    return (
        (node.op is Op.FOLD and node.src[0].shape == ())
        or (node.op is Op.GET and of is Op.FOLD)
        or (node.op is Op.INDEX and of is Op.SCAN and len(node.src) == 2)
    )


def _fit(span: Span, dtype: DType) -> Span:
    if dtype.kind not in "biu":
        return span
    lo, hi = whole(dtype)
    assert lo is not None and hi is not None
    return span if span[0] is not None and span[1] is not None and lo <= span[0] and span[1] <= hi else (lo, hi)


def _reduced(node: UOp, value: Span) -> Span:
    if node.op is Op.GET or node.arg in ("max", "min", "argmax", "argmin"):
        return value
    if node.arg != "add":
        return _ALL
    lo, hi = scaled(value, math.prod(r.extent for r in node.src[1:]))
    if all(len(r.src) == 1 for r in node.src[1:]):
        return lo, hi
    return None if lo is None else min(0, lo), None if hi is None else max(0, hi)  # there may be fewer iterations


def _compared(op: Op, src: tuple[UOp, ...], of: list[Span]) -> Span:
    """Of a comparison: decided where the intervals do not overlap, or where both sides are one integer."""
    if len(of) < 2:
        return 0, 1
    (a, b), (c, d) = of
    if src[0] is src[1]:
        truth: bool | None = op in (Op.LE, Op.EQ)
    else:
        below = b is not None and c is not None and b < c
        above = a is not None and d is not None and d < a
        if op is Op.LT:
            truth = True if below else False if a is not None and d is not None and d <= a else None
        elif op is Op.LE:
            truth = False if above else True if b is not None and c is not None and b <= c else None
        else:
            same = a is not None and a == b == c == d
            truth = (op is Op.EQ) == same if below or above or same else None
    return (0, 1) if truth is None else (int(truth), int(truth))


def _mul(of: list[Span], node: UOp) -> Span:
    (a, b), (c, d) = of
    if c is not None and c == d:
        return scaled((a, b), c)
    if a is not None and a == b:
        return scaled((c, d), a)
    if a is None or b is None or c is None or d is None:
        return (a * c, None) if a is not None and c is not None and a >= 0 and c >= 0 else _ALL
    corners = (a * c, a * d, b * c, b * d)
    return min(corners), max(corners)


def _idiv(of: list[Span], node: UOp) -> Span:
    (a, b), (c, d) = of
    if c is not None and c == d:
        if c == 0:
            return 0, 0
        ends = (None if a is None else a // c), (None if b is None else b // c)
        return ends if c > 0 else ends[::-1]
    if a is None or b is None:
        return (0, b) if a is not None and a >= 0 and c is not None and c >= 0 else _ALL
    if c is None or d is None:  # |x // y| <= |x|, and the signs may make it -1
        reach = max(abs(a), abs(b))
        return -max(reach, 1), reach
    divisors = [y for y in (c, d, min(-1, d), max(1, c)) if y != 0 and c <= y <= d]
    values = [x // y for x in (a, b) for y in divisors] + ([0] if c <= 0 <= d else [])
    return min(values), max(values)


def _mod(of: list[Span], node: UOp) -> Span:
    (a, b), (c, d) = of
    if c is not None and c == d and c != 0 and a is not None and b is not None and a // c == b // c:
        return a % c, b % c
    lo = None if c is None else min(c + 1, 0)
    hi = None if d is None else max(d - 1, 0)
    if a is not None and a >= 0 and c is not None and c >= 0 and b is not None:
        hi = b if hi is None else min(hi, b)
    return lo, hi


def _shift(of: list[Span], node: UOp) -> Span:
    (a, b), (by, other) = of
    top = 4096 if node.dtype is dt.index else node.dtype.bits - 1
    if by is None or by != other or not 0 <= by <= top:
        return _ALL
    if node.op is Op.SHL:
        return scaled((a, b), 1 << by)
    return None if a is None else a >> by, None if b is None else b >> by


def _bits(of: list[Span], node: UOp) -> Span:
    (a, b), (c, d) = of
    positive = a is not None and a >= 0, c is not None and c >= 0
    if node.op is Op.AND:
        tops = [t for t, p in ((b, positive[0]), (d, positive[1])) if p and t is not None]
        if node.dtype is dt.bool_ and None not in (a, b, c, d):
            return min(of[0][0] or 0, of[1][0] or 0), min(tops)
        return (0, min(tops)) if tops else (0, None) if any(positive) else _ALL
    if not all(positive) or a is None or b is None or c is None or d is None:
        return _ALL
    return max(a, c) if node.op is Op.OR else 0, (1 << max(b, d).bit_length()) - 1


def _not(of: list[Span], node: UOp) -> Span:
    lo, hi = scaled(of[0], -1)
    shift = 1 if node.dtype is dt.bool_ else -1
    if node.dtype.kind == "u":
        return _ALL
    return added((lo, hi), (shift, shift))


def _max(of: list[Span], node: UOp) -> Span:
    (a, b), (c, d) = of
    lo = a if c is None else c if a is None else max(a, c)
    return lo, None if b is None or d is None else max(b, d)


def _negated(span: Span) -> Span:
    return scaled(span, -1)


def _cast(of: list[Span], node: UOp) -> Span:
    lo, hi = of[0]
    if node.dtype is dt.bool_:
        if (lo, hi) == (0, 0):
            return 0, 0
        return (1, 1) if (lo is not None and lo > 0) or (hi is not None and hi < 0) else (0, 1)
    return of[0]


_SPANS: dict[Op, Callable[[list[Span], UOp], Span]] = {
    Op.ADD: lambda of, n: added(of[0], of[1]),
    Op.SUB: lambda of, n: added(of[0], _negated(of[1])),
    Op.NEG: lambda of, n: _negated(of[0]),
    Op.MUL: _mul,
    Op.IDIV: _idiv,
    Op.MOD: _mod,
    Op.MAX: _max,
    Op.MIN: lambda of, n: _negated(_max([_negated(of[0]), _negated(of[1])], n)),
    Op.ABS: lambda of, n: meet(_max([of[0], _negated(of[0])], n), (0, None)),
    Op.WHERE: lambda of, n: of[1] if len(of) == 2 or of[0][0] == 1 else of[2] if of[0][1] == 0 else hull(of[1], of[2]),
    Op.CAST: _cast,
    Op.IN_RANGE: lambda of, n: meet(of[0], (of[1][0], None if of[2][1] is None else of[2][1] - 1)),
    Op.AND: _bits,
    Op.OR: _bits,
    Op.XOR: _bits,
    Op.SHL: _shift,
    Op.SHR: _shift,
    Op.NOT: _not,
}
