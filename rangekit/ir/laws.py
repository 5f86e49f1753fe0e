"""Whether a formula is a monoid: its identity neutral, its combine associative and, where that is claimed, commutative.

Each law is first tried on values, small ones among them, so that a wrong one is refuted by something to look at; then
proved over the integers and the reals, or over machine integers, where its ops have a counterpart there. Floats are
compared up to rounding, which is told from a wrong law by working in float64.

A state need not mean anything for every tuple of numbers: a mean beside a count of 0 is no mean of anything, nor a
value beside a flag that says there is none. So where a law fails, it is tried once more for states in which a count is
positive, or a flag true: a value that the combine only adds up from 0, or collects with ``|`` from False. And where a
law fails with infinities or NaN only, the formula is a monoid on finite numbers, to be combined in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rangekit.ir import dtype as dt
from rangekit.ir.bits import Bits
from rangekit.ir.dtype import DType
from rangekit.ir.exact import Number, Untranslatable, World
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula, states
from rangekit.ir.scalar import apply
from rangekit.ir.uop import UOp, toposort

Array = np.ndarray[Any, np.dtype[Any]]
State = tuple[Array, ...]
Numbers = tuple[Number, ...]
TRIES = 2048  # of each law, and as many with infinities and NaN
CLOSE = 1e-5  # of the greatest number on the way: constants of a formula are rounded to its dtypes
REACH = {8: 3, 16: 30, 32: 1000, 64: 1000}  # of integers, so that products of three fit
LAWS = ("associative", "left identity", "right identity", "commutative")


@dataclass(frozen=True)
class Broken:
    """A law that does not hold for these states (as many as it speaks of): one side and the other."""

    law: str
    states: tuple[Numbers, ...]
    left: Numbers
    right: Numbers


@dataclass(frozen=True)
class Verdict:
    """``broken`` is None for a monoid. ``counts`` are values assumed positive or true (a state is the identity else),
    and ``special`` a law that fails with infinities or NaN.
    """

    broken: Broken | None
    proved: str = ""  # over "numbers", which have no width, or over "bits"; "" where it is only tested
    counts: tuple[int, ...] = ()
    special: Broken | None = None


@lru_cache(maxsize=256)
def examine(f: Formula, arising: Callable[[State], State] | None = None) -> Verdict:
    """What is known of the laws of a formula; of commutativity only if it claims that.

    ``arising`` makes states that arise of any: the laws are then tried on those, and not proved.
    """
    work = _Laws(f, arising)
    first = work.refuted(())
    if first is None:
        return Verdict(None, work.proved, (), work.special())
    for counts in work.counts():
        if work.refuted(counts) is None:
            return Verdict(None, work.proved, counts, work.special(counts))
    return Verdict(first)


class _Laws:
    def __init__(self, f: Formula, arising: Callable[[State], State] | None) -> None:
        self.f, self.wide, self.arising = f, _widened(f), arising
        self.laws = LAWS if f.commutative else LAWS[:3]
        self.world: type[World] = World
        self.proved = ""

    # ---- one law, on arrays of states ------------------------------------------------------------------------------

    def combined(self, f: Formula, a: State, b: State, most: Array | None = None) -> State:
        """The states combined, row by row; ``most`` takes up the greatest number on the way, inf for what is none."""
        left, right = states(f.dtypes)
        known: dict[UOp, Array] = dict(zip((*left, *right), (*a, *b), strict=True))
        for n in f.order:
            if n.op is Op.CONST:
                known[n] = np.asarray(n.arg, n.dtype.numpy)
            elif n not in known:
                known[n] = apply(n.op, n.dtype, [known[m] for m in n.src], src_dtypes=[m.dtype for m in n.src])
            if most is not None and n.dtype.is_float:
                size = np.abs(known[n].astype(np.float64))
                np.maximum(most, np.where(np.isnan(size), math.inf, size), out=most)
        return tuple(np.broadcast_to(known[n], a[0].shape) for n in f.combined)

    def sides(self, f: Formula, law: str, s: Sequence[State]) -> tuple[State, State, Array]:
        """Both sides of a law for states, one a row, and the greatest number on the way."""
        most = np.zeros(s[0][0].shape)

        def combine(a: State, b: State) -> State:
            return self.combined(f, a, b, most)

        e = tuple(np.full(most.shape, n.arg, n.dtype.numpy) for n in f.neutral)
        return (*_sides(law, combine, e, s), most)

    def failing(self, law: str, s: Sequence[State]) -> Array:
        """The rows for which a law fails. What is undefined on the way, though all states are finite, fails no law
        but an identity's.
        """
        left, right, most = self.sides(self.wide, law, s)
        bad = np.zeros(most.shape, bool)
        for x, y in zip(left, right, strict=True):
            bad |= ~_close(x, y, most)
        return bad if "identity" in law else bad & np.isfinite(most)

    # ---- finite states -----------------------------------------------------------------------------------------------

    def refuted(self, counts: tuple[int, ...]) -> Broken | None:
        """A law that fails for finite states; sets ``proved`` if there is none."""
        e = tuple(np.full(1, n.arg, n.dtype.numpy) for n in self.wide.neutral)
        if self.failing("left identity", (e,)).any():
            return self.broken("left identity", (e,))
        drawn = self.drawn(counts)
        for law in self.laws:
            s = drawn[: _speaks_of(law)]
            bad = self.failing(law, s)
            if bad.any():
                return self.broken(law, self.simplest(law, s, bad, counts))
        if self.arising is not None:
            return None
        answers = []
        for law in self.laws:
            answer = self.asked(law, counts)
            answers.append(answer)
            if isinstance(answer, list):
                s = self.numbered(answer)
                if self.failing(law, s).any():
                    return self.broken(law, s)
        by = "numbers" if self.world is World else "bits"
        self.proved = by if all(answer is True for answer in answers) else ""
        return None

    def counts(self) -> Iterator[tuple[int, ...]]:
        """Values that are added up from 0 or collected from False, each for itself and all together."""
        a, b = states(self.f.dtypes)
        found = [
            k for k, (e, v) in enumerate(zip(self.f.neutral, self.f.combined, strict=True))
            if e.arg == 0 and v.op is (Op.OR if e.dtype.kind == "b" else Op.ADD) and set(v.src) == {a[k], b[k]}
        ]  # fmt: skip
        if len(self.f.neutral) > 1:
            yield from ((k,) for k in found)
            yield from [tuple(found)] * (len(found) > 1)

    def drawn(self, counts: tuple[int, ...]) -> list[State]:
        """Three states a row: small numbers in half of the rows, ties and the identity among them."""
        rng = np.random.default_rng(1)
        out: list[list[Array]] = [[], [], []]
        for k, d in enumerate(self.wide.dtypes):
            for state in out:
                state.append(_drawn(rng, d, k in counts))
        again = rng.random((2, TRIES)) < 0.1
        empty = rng.random((3, TRIES)) < 0.1
        if any(not math.isfinite(n.arg) for n in self.f.neutral):
            empty[:] = False
        for k, n in enumerate(self.wide.neutral):
            out[1][k] = np.where(again[0], out[0][k], out[1][k])
            out[2][k] = np.where(again[1], out[1][k], out[2][k])
            for state, at in zip(out, empty, strict=True):
                state[k] = np.where(at, n.arg, state[k]).astype(n.dtype.numpy)
        return [self.arisen(tuple(state)) for state in out]

    def arisen(self, state: State) -> State:
        """A state that arises, made of any."""
        return state if self.arising is None else self.arising(state)

    def simplest(self, law: str, s: Sequence[State], bad: Array, counts: tuple[int, ...]) -> list[State]:
        """One failing row, with numbers as small as still fail."""
        rows = np.flatnonzero(bad)
        size = sum(np.abs(v[rows].astype(np.float64)) + (v[rows] != np.trunc(v[rows].astype(np.float64)))
                   for state in s for v in state)  # fmt: skip
        row = rows[int(np.argmin(size))]
        now = [[v[row : row + 1].copy() for v in state] for state in s]
        for state in now if self.arising is None else []:
            for k, v in enumerate(state):
                for smaller in _small(self.wide.dtypes[k], k in counts):
                    state[k] = np.full(1, smaller, v.dtype)
                    if self.failing(law, [tuple(t) for t in now]).any():
                        break
                    state[k] = v
        return [tuple(state) for state in now]

    def broken(self, law: str, s: Sequence[State]) -> Broken:
        """A law and the first row of states for which it fails, as numbers of the formula's own dtypes."""
        left, right, _ = self.sides(self.wide, law, s)
        if law == "left identity" or law == "right identity":
            s = s[:1]
        return Broken(law, tuple(map(_numbers, s)), _numbers(left), _numbers(right))

    # ---- proofs ------------------------------------------------------------------------------------------------------

    def asked(self, law: str, counts: tuple[int, ...]) -> list[Number] | bool:
        """What Z3 says of a law: True, or numbers that refute it, or False."""
        try:
            return self.question(law, counts)
        except Untranslatable:
            if self.world is Bits:
                return False
        self.world = Bits  # for this law and the others
        return self.asked(law, counts)

    def question(self, law: str, counts: tuple[int, ...]) -> list[Number] | bool:
        """The same, in the terms of one kind of numbers. ``Untranslatable`` where it has none."""
        world = self.world()
        s = [
            [world.variable(f"{side}{k}", d) for k, d in enumerate(self.f.dtypes)] for side in "abc"[: _speaks_of(law)]
        ]
        e = [world.constant(n.arg, n.dtype) for n in self.f.neutral]
        variables = sum(states(self.f.dtypes), ())

        def combine(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
            return world.values(self.f.combined, dict(zip(variables, (*a, *b), strict=True)))

        for state in s if counts else ():
            positive = world.z3.And(*(world.positive(state[k]) for k in counts))
            if all(math.isfinite(n.arg) for n in self.f.neutral):
                positive = world.z3.Or(positive, world.same(state, e))
            world.assumed.append(positive)
        left, right = _sides(law, combine, e, s)
        return world.refute(left, right, defined="identity" in law)

    def numbered(self, values: list[Number]) -> list[State]:
        """States of one row from the numbers of a model."""
        n = len(self.f.neutral)
        typed = [np.asarray([v], d.numpy) for v, d in zip(values, self.wide.dtypes * (len(values) // n), strict=True)]
        return [tuple(typed[k : k + n]) for k in range(0, len(typed), n)]

    # ---- infinities and NaN ------------------------------------------------------------------------------------------

    def special(self, counts: tuple[int, ...] = ()) -> Broken | None:
        """A law of regrouping that fails for states with infinities or NaN in them.

        An accumulator holds the identity combined with something, so such states are tried; what comes last may be
        an element itself. Where infinities are in the states, a NaN on one side only is what arithmetic makes of them.
        """
        if not any(d.is_float for d in self.wide.dtypes):
            return None
        rng = np.random.default_rng(2)
        raw = [tuple(_special(rng, d, k in counts) for k, d in enumerate(self.wide.dtypes)) for _ in range(5)]
        raw = [self.arisen(state) for state in raw]
        held = [self.sides(self.wide, "left identity", [state])[0] for state in raw[:2]]
        held = [self.combined(self.wide, state, more) for state, more in zip(held, raw[2:4], strict=True)]
        tried = (*held, raw[4])
        for law in self.laws[::3]:
            left, right, most = self.sides(self.wide, law, tried)
            bad = np.zeros(TRIES, bool)
            for x, y in zip(left, right, strict=True):
                arithmetic = _INFINITE & (np.isnan(x) | np.isnan(y)) if x.dtype.kind == "f" else False
                bad |= ~(_close(x, y, most) | arithmetic)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                return self.broken(law, [tuple(v[row : row + 1] for v in s) for s in tried[: _speaks_of(law)]])
        return None


def _sides(law: str, combine: Callable[[Any, Any], Any], e: Any, s: Sequence[Any]) -> tuple[Any, Any]:
    """What a law says is equal."""
    if law == "left identity":
        return combine(e, s[0]), s[0]
    if law == "right identity":
        return combine(s[0], e), s[0]
    if law == "commutative":
        return combine(s[0], s[1]), combine(s[1], s[0])
    return combine(combine(s[0], s[1]), s[2]), combine(s[0], combine(s[1], s[2]))


def _speaks_of(law: str) -> int:
    return {"associative": 3, "commutative": 2}.get(law, 1)


def _widened(f: Formula) -> Formula:
    """The formula with its floats in float64; as it is where it looks at their bits."""
    if any(n.op is Op.BITCAST for n in f.order):
        return f

    def wide(d: DType) -> DType:
        return dt.float64 if d.is_float else d

    left, right = states(f.dtypes)
    new_left, new_right = states(tuple(map(wide, f.dtypes)))
    memo = dict(zip((*left, *right), (*new_left, *new_right), strict=True))
    for n in toposort(*f.neutral, *f.combined):
        if n not in memo:
            memo[n] = UOp(n.op, wide(n.dtype), tuple(memo[s] for s in n.src), n.arg)
    return Formula(f.name, tuple(memo[n] for n in f.neutral), tuple(memo[n] for n in f.combined), f.commutative)


def _close(x: Array, y: Array, most: Array) -> Array:
    if x.dtype.kind != "f":
        return np.asarray(x == y)
    with np.errstate(all="ignore"):
        near = np.abs(x - y) <= CLOSE * np.where(np.isfinite(most), np.maximum(most, 1.0), 1.0)
    return np.asarray((x == y) | (np.isnan(x) & np.isnan(y)) | near)


def _drawn(rng: np.random.Generator, d: DType, positive: bool) -> Array:
    """Finite numbers, small ones in the first half."""
    half = TRIES // 2
    small = rng.choice(np.array(_small(d, positive), np.float64), half)
    if d.is_float:
        large = rng.standard_normal(half)
        large[::2] *= 10.0 ** rng.uniform(-2, 2, len(large[::2]))
    else:
        large = np.floor(rng.uniform(-REACH[d.bits], REACH[d.bits] + 1, half))
    if positive or d.kind in "ub":
        large = np.abs(large) + positive
    return np.asarray(np.concatenate([small, large]).astype(d.numpy))


def _small(d: DType, positive: bool) -> list[float]:
    """Numbers that are easy to look at, the simplest first."""
    most = (0, 1) if d.kind == "b" else (0, 1, 2, 3) if d.kind == "u" else (0, 1, 2, -1, 3, -2)
    return [n for n in (*most, *(0.5, -3.0) * d.is_float) if n > 0 or not positive]


def _special(rng: np.random.Generator, d: DType, positive: bool) -> Array:
    """Infinities, or NaN, and a few numbers."""
    if not d.is_float or positive:
        return _drawn(rng, d, positive)
    numbers = (0.0, 1.0, -1.0, 2.0)
    infinite, other = rng.choice((math.inf, -math.inf, *numbers), TRIES), rng.choice((math.nan, *numbers), TRIES)
    return np.where(_INFINITE, infinite, other)


_INFINITE = np.arange(TRIES) % 2 == 0  # the rows with infinities; those with NaN are the others


def _numbers(state: State) -> Numbers:
    return tuple(v[0].item() for v in state)
