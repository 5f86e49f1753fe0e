"""``Monoid``: a reduction that a program writes itself, its laws looked at when it is made.

``combine`` is run once for each tuple of dtypes, over variables; what it builds is the reduction (``Formula``). Python
numbers in the identity are weak: they take the dtypes of the values, and may grow to what ``combine`` makes of them. An
array in a state is as many numbers (``elements``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from rangekit.errors import DtypeError, RaceError, RangeError, RangekitError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.laws import TRIES, Broken, Verdict, examine
from rangekit.ir.ops import ELEMENTWISE, Op
from rangekit.ir.reducers import Formula, states
from rangekit.ir.uop import UOp, by_uid, const, new_buffer, toposort
from rangekit.lang import trace
from rangekit.lang.elements import MOST, Elements, elements, shaped
from rangekit.lang.tensor import Tensor, broadcast_node, converted, lift, result_dtype, stored, stored_dtype

DTypes = tuple[DType, ...]


class Monoid:
    """States, a neutral one, and how two of them combine: ``rk.reduce(v, k, op=monoid)``.

    ``identity`` is a number, a small array, or a tuple of them, ``combine(a, b)`` takes two states of that form, ``a``
    the earlier one, and returns one. Values to be reduced have the same form. Python numbers in ``identity`` take the
    dtypes of the values; half types are combined in float32. ``commutative=True`` allows any order; else they keep
    theirs. What ``combine`` does with arrays is written out, number by number.

    The laws are looked at here, and again for other dtypes: ``proof`` says whether they were proved, over unbounded
    integers and real numbers, or tested on random values.

    Errors: ``RaceError`` with a counterexample where a law fails, ``DtypeError`` where ``combine`` changes the number
    of values or their dtypes, ``ShapeError`` and ``RangeError`` where it gives values of other shapes, or more than
    its states.

    >>> import rangekit as rk
    >>> after = rk.Monoid((1.0, 0.0), lambda a, b: (b[0] * a[0], b[0] * a[1] + b[1]))  # x -> s * x + t, one by one
    >>> after.proof
    'proved over the reals'
    >>> s, t, k = rk.asarray([2.0, 3.0]), rk.asarray([1.0, 5.0]), rk.Range(2)
    >>> [v.item() for v in rk.reduce((s[k], t[k]), k, op=after)]
    [6.0, 8.0]
    """

    def __init__(self, identity: Any, combine: Callable[[Any, Any], Any], *, commutative: bool = False) -> None:
        self.identity, self.commutative = identity, commutative
        self._combine, self._bare = combine, not isinstance(identity, tuple)
        self._start = [_number(v) for v in ((identity,) if self._bare else identity)]
        if not self._start:
            raise DtypeError("the identity of a monoid is a number or a tuple of numbers, not an empty tuple")
        if sum(v.size for v in self._start) > MOST:
            raise ShapeError(f"a state has at most {MOST} numbers, not {sum(v.size for v in self._start)}")
        self._known: dict[DTypes, Formula] = {}
        self._begin()

    def _begin(self) -> None:
        own = self._first()[0]
        self._known[own.dtypes] = self._usable(own)

    def __call__(self, a: Any, b: Any) -> Any:
        """Two states as one."""
        return self._combine(a, b)

    def __repr__(self) -> str:
        return f"<monoid {self._name} of {self._shown(self._neutral())}: {self.proof}>"

    @cached_property
    def proof(self) -> str:
        """What is known of the laws, for the dtypes that the identity says: whether they were proved or tested."""
        return self._told([(f, examine(f)) for f in self._first()])

    @property
    def arity(self) -> int:
        """How many values a state has."""
        return len(self._start)

    @property
    def bare(self) -> bool:
        """Whether a state is a value, not a tuple."""
        return self._bare

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each value of a state."""
        return tuple(v.shape for v in self._start)

    @property
    def shaped(self) -> bool:
        """Whether there are arrays in a state."""
        return any(self.shapes)

    def elements(self, values: Sequence[Tensor]) -> list[Tensor]:
        """What is reduced, as states: values of their shapes. ``ShapeError`` for others."""
        out = []
        for v, shape in zip(values, self.shapes, strict=True):
            if v.shape not in ((), shape):
                raise ShapeError(f"a value of shape {v.shape} where the state has shape {shape}")
            out.append(Tensor(broadcast_node(v.node, shape), v.weak) if v.shape != shape else v)
        return out

    @property
    def _name(self) -> str:
        return re.sub(r"\W+", "", getattr(self._combine, "__name__", "").replace("<lambda>", "")) or "monoid"

    def over(self, values: Sequence[Tensor]) -> tuple[str | Formula, DTypes, DTypes]:
        """The reducer of values of these dtypes, the dtypes of the numbers it takes, and of those it gives.

        Errors: ``RaceError`` where a law fails for these dtypes, though it holds for others.
        """
        types = tuple(self._type(e, v) for e, v in zip(self._start, values, strict=True))
        key = tuple(d for d, _ in types)
        if key not in self._known:
            self._known[key] = self._usable(self._traced(types))
        found = self._known[key]
        halves = [result_dtype((e, v))[0] for e, v in zip(self._start, values, strict=True) for _ in range(e.size)]
        return found, found.dtypes, tuple(h if h.is_half else d for h, d in zip(halves, found.dtypes, strict=True))

    # ---- dtypes ------------------------------------------------------------------------------------------------------

    def _type(self, start: Tensor, value: Tensor) -> tuple[DType, bool]:
        """The dtype of one value of the state, and whether it may grow."""
        dtype, weak = result_dtype((start, value))
        if weak:
            return (dt.float32 if weak == "float" else dt.int64), True
        return (dt.float32 if dtype.is_half else dtype), False

    def _first(self) -> list[Formula]:
        """The formulas for the dtypes that the identity alone says: those of its numbers, then floats for weak ones.

        The first one has to be a monoid; the other need not mean anything.
        """
        own = tuple((_widest(e) if e.weak == "int" else stored_dtype(e), bool(e.weak)) for e in self._start)
        floats = tuple((dt.float32, True) if e.weak else t for e, t in zip(self._start, own, strict=True))
        found: list[Formula] = []
        failed: DtypeError | None = None
        for types in dict.fromkeys((own, floats)):
            try:
                f = self._traced(types)
            except DtypeError as err:  # such as bits of floats
                failed = failed or err
                continue
            if f not in found:
                found.append(f)
        if not found and failed is not None:
            raise failed
        return found

    # ---- tracing -----------------------------------------------------------------------------------------------------

    def _traced(self, types: tuple[tuple[DType, bool], ...]) -> Formula:
        """What ``combine`` builds over variables of these dtypes, those that may grow as far as it needs."""
        dtypes, grows = [d for d, _ in types], [g for _, g in types]
        while True:
            given = states(tuple(d for d, e in zip(dtypes, self._start, strict=True) for _ in range(e.size)))
            known: dict[UOp, Elements] = {}
            with trace.tracing() as running:
                sides = [self._held(side, dtypes, known) for side in given]
                answer = self._combine(*(side[0] if self._bare else tuple(side) for side in sides))
                results = self._results(answer)
                if running.effects:
                    raise RangekitError(
                        "combine prints or writes: it may only compute", help="print what the reduction gives"
                    )
                before = list(dtypes)
                for k, new in enumerate(results):
                    dtypes[k] = self._grown(k, dtypes[k], new, grows[k])
                if dtypes == before:
                    news = [self._like(k, n, d) for k, (n, d) in enumerate(zip(results, dtypes, strict=True))]
                    combined = self._numbers(news, known)
                    neutral = tuple(n for e, d in zip(self._start, dtypes, strict=True) for n in _constants(e, d))
                    return Formula(self._name, neutral, tuple(map(self._computed, combined)), self.commutative)

    def _held(self, side: Sequence[UOp], dtypes: Sequence[DType], known: dict[UOp, Elements]) -> list[Tensor]:
        """One state over variables; ``known`` says which numbers an array of it has."""
        numbers, out = iter(side), []
        for d, e in zip(dtypes, self._start, strict=True):
            if not e.shape:
                out.append(Tensor(next(numbers)))
                continue
            whole = new_buffer(d, e.shape, "state")
            known[whole] = shaped(numbers, e.shape)
            out.append(Tensor(whole))
        return out

    def _numbers(self, values: Sequence[UOp], known: dict[UOp, Elements]) -> tuple[UOp, ...]:
        """All elements of the values, row-major."""
        if not self.shaped:
            return tuple(values)
        return tuple(n for v in elements(values, known, "what combine gives") for n in v.flat)

    def _results(self, answer: Any) -> list[Tensor]:
        many = 1 if not isinstance(answer, (tuple, list)) else len(answer)
        if self._bare is not isinstance(answer, (tuple, list)) and many == self.arity:
            return [lift(v) for v in ((answer,) if self._bare else answer)]
        raise DtypeError(
            f"combine gives {_form(not isinstance(answer, (tuple, list)), many)}, the identity is "
            f"{_form(self._bare, self.arity)}",
            help="return a state of the form of the identity",
        )

    def _grown(self, k: int, dtype: DType, new: Tensor, grows: bool) -> DType:
        meant, _ = result_dtype((Tensor(states((dtype,))[0][0]), new))
        if meant is dtype and (new.weak or stored_dtype(new) is dtype):
            return dtype
        if grows and meant is not dtype and not meant.is_half:
            return meant
        got = meant if new.weak else stored_dtype(new)
        raise DtypeError(
            f"combine gives {got} where {'the state' if self._bare else f'value {k} of the state'} is {dtype}",
            help=f"convert what it gives with .astype(rk.{dtype}), or what is reduced to {got}",
        )

    def _like(self, k: int, new: Tensor, dtype: DType) -> UOp:
        """One value of the state that combine gives."""
        node = converted(new, dtype) if new.weak else stored(new)
        if node.ranges:
            names = ", ".join(r.arg.name or "_" for r in by_uid(node.ranges))
            raise RangeError(
                f"combine gives a value in which {names} is open", help="make what depends on it part of the values"
            )
        if node.shape != self.shapes[k]:
            wanted = f"{self.shapes[k]}" if self.shapes[k] else "a single one"
            raise ShapeError(
                f"combine gives a value of shape {node.shape}, not {wanted}",
                help="start with an identity of the shape that combine gives: np.zeros(…)",
            )
        return node

    def _computed(self, node: UOp) -> UOp:
        for n in toposort(node):
            if n.op not in ELEMENTWISE and n.op not in (Op.CONST, Op.VAR):
                what = f"reads {n.arg.name}" if n.op in (Op.PARAM, Op.BUFFER) else f"uses {n.op.value}"
                raise RangekitError(
                    f"combine {what}: it may compute with the numbers of its two states only",
                    help="make what it needs part of the values that are reduced",
                )
        return node

    # ---- laws --------------------------------------------------------------------------------------------------------

    def _usable(self, f: Formula) -> Formula:
        """The formula as it may be used; ``RaceError`` if it is no monoid."""
        verdict = examine(f)
        if verdict.broken is not None:
            self._refuse(verdict.broken)
        special = verdict.special
        if special is None:
            return f
        return replace(f, commutative=False, associative=special.law == "commutative")

    def _refuse(self, broken: Broken) -> None:
        a, b, c, e = *(self._shown(s) for s in (broken.states * 3)[:3]), self._shown(self._neutral())
        left, right = self._shown(broken.left), self._shown(broken.right)
        if broken.law == "associative":
            raise RaceError(
                f"combine is not associative: combine(combine({a}, {b}), {c}) is {left}, "
                f"combine({a}, combine({b}, {c})) is {right}",
                help="a step that depends on the order is a fold: rk.fold(k, init, lambda k, s: …)",
            )
        if broken.law == "commutative":
            raise RaceError(
                f"combine is not commutative: combine({a}, {b}) is {left}, combine({b}, {a}) is {right}",
                help="leave commutative=True out: values are then combined in their order",
            )
        call = f"combine({e}, {a})" if broken.law == "left identity" else f"combine({a}, {e})"
        raise RaceError(
            f"{e} is not the identity: {call} is {left}, not {right}",
            help="it has to leave every state as it is: -rk.inf does so for rk.maximum, 1 for a product",
        )

    def _told(self, found: list[tuple[Formula, Verdict]]) -> str:
        """What is known of the laws, in words."""
        (own, verdict), *others = found
        clean = [f for f, v in others if v.broken is None and v.special is None and v.proved]
        kinds = {d.kind for f in (own, *clean) for d in f.dtypes}
        numbers = [word for kind, word in (("iu", "the integers"), ("f", "the reals")) if kinds & set(kind)]
        text = f"tested on {TRIES} random states"
        if verdict.proved:
            text = f"proved over {' and '.join(numbers) or 'both truth values'}"
        if verdict.proved == "bits" and numbers:
            text += f" of {' and '.join(dict.fromkeys(str(d.bits) for d in own.dtypes if d.is_int))} bits"
        if verdict.counts:
            conditions = (f"value {k} is {'true' if own.dtypes[k] is dt.bool_ else 'positive'}" for k in verdict.counts)
            text += f", for states whose {' and '.join(conditions)}"
        if verdict.special is not None:
            shown = ", ".join(map(self._shown, verdict.special.states))
            text += f"; not {verdict.special.law} for {shown}, so kept in order"
        return text

    def _neutral(self) -> tuple[Any, ...]:
        given = (self.identity,) if self._bare else self.identity
        return tuple(n for v in given for n in (np.asarray(v).reshape(-1).tolist() if np.ndim(v) else (v,)))

    def _shown(self, state: Sequence[Any]) -> str:
        numbers, shown = (v.item() if isinstance(v, np.generic) else v for v in state), []
        for shape in self.shapes:
            own = [next(numbers) for _ in range(math.prod(shape))]
            shown.append(repr(np.array(own, object).reshape(shape).tolist() if shape else own[0]))
        return shown[0] if self._bare else f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"


def _number(value: Any) -> Tensor:
    if isinstance(value, (bool, int, float, np.generic)) or (isinstance(value, np.ndarray) and value.ndim):
        return lift(value)
    raise DtypeError(
        f"the identity of a monoid is a number, a NumPy array or a tuple of these, not {type(value).__name__}",
        help="a state is made of numbers; their dtypes follow the values",
    )


def _constants(e: Tensor, dtype: DType) -> list[UOp]:
    """The numbers of one value of the identity."""
    return [const(v, dtype) for v in e.numpy().reshape(-1).tolist()] if e.shape else [converted(e, dtype)]


def _widest(e: Tensor) -> DType:
    """The integers that a weak identity is looked at over: the least of a type is neutral for that type only."""
    return next((d for d in dt.INTS[1:] if e.node.arg in (d.min, d.max)), dt.int64)


def _form(bare: bool, many: int) -> str:
    return "one value" if bare else f"a tuple of {many}"
