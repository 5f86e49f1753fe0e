"""``fold`` and ``scan``: a range run in order, its iterations handing a state on.

The state is one value, a tuple, a list or a dict of them. Its dtypes and open ranges are a fixpoint: the step is
traced again until they stop growing. A value that others of the state do not need keeps ranges of its own as closed
axes, so that what the others compute is done once for all of them.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rangekit.errors import DtypeError, RangeError, ShapeError
from rangekit.ir import dtype as dt
from rangekit.ir.dtype import DType
from rangekit.ir.ops import EXPENSIVE, Op
from rangekit.ir.reducers import Formula
from rangekit.ir.spec import binding
from rangekit.ir.uop import Storage, UOp, alu, by_uid, cast, const, new_fold, toposort
from rangekit.lang import trace
from rangekit.lang.elements import MOST, elements, places, shaped, whole
from rangekit.lang.joins import joined
from rangekit.lang.monoid import Monoid
from rangekit.lang.ranges import as_range_nodes
from rangekit.lang.tensor import Tensor, Weak, lift, made, stored, stored_dtype

Step = Callable[..., Any]
_active = threading.local()  # the ranges of the folds whose steps are being traced


@dataclass(frozen=True)
class _Part:
    """What is known of one value of the state: its type (``weak`` while nothing strong met it), shape, open ranges."""

    dtype: DType
    weak: Weak
    shape: tuple[int, ...]
    ranges: frozenset[UOp]


def fold(r: Tensor, init: Any, step: Step, *, combine: Monoid | None = None,
         until: Callable[..., Any] | None = None) -> Any:  # fmt: skip
    """The state after every iteration of ``r`` in order: ``state = step(r, *state)``, from ``init``.

    ``init`` is one value, passed and returned bare, or a tuple, list or dict of values (passed as arguments, by name
    those of a dict); the result has its form. ``until(*state)`` true stops: later iterations change nothing and read
    nothing. Values keep the shapes of ``init``; Python numbers in it take the dtype that the step gives them.

    ``combine`` is a Monoid that joins states: ``step(combine(a, b), x) == combine(a, step(b, x))``, which is tried on
    values. Parts of the loop may then start at its identity and run in parallel. A state of arrays is then numbers, at
    most 64 of them.

    Errors: ``RaceError`` where that law fails; ``ShapeError``, ``DtypeError`` where a value changes shape or dtype;
    ``RangeError`` where ``init`` depends on ``r``, or where the step uses ``r`` up itself.

    >>> import rangekit as rk
    >>> x, k = rk.asarray([3.0, 1.0, 2.0]), rk.Range(3)
    >>> rk.fold(k, 0.0, lambda k, s: s * 0.5 + x[k]).item()
    3.25
    """
    return _Loop(r, init, step, "fold", combine).folded(until)


def scan(r: Tensor, init: Any, step: Step, *, combine: Monoid | None = None) -> Any:
    """What ``fold`` computes, after each iteration: every value of the state, with ``r`` open.

    A step may return ``(state, out)`` where it was given ``init`` of another form: then the result is the final state
    and ``out`` of each iteration, ``r`` open. ``combine`` joins states, as in ``fold``.

    >>> import rangekit as rk
    >>> x, k = rk.asarray([3.0, 1.0, 2.0]), rk.Range(3)
    >>> rk.bufferize(rk.scan(k, 0.0, lambda k, s: s + x[k]), k).numpy()
    array([3., 4., 6.], dtype=float32)
    """
    return _Loop(r, init, step, "scan", combine).scanned()


class _Loop:
    """One fold or scan being made."""

    def __init__(self, r: Tensor, init: Any, step: Step, name: str, combine: Monoid | None) -> None:
        (self.r,) = as_range_nodes((r,), name)
        self.range, self.name, self.form, self.step = r, name, init, step
        self.number = new_fold()
        inits = [lift(v) for v in _leaves(init)]
        for v in inits:
            if self.r in v.node.ranges:
                raise RangeError(
                    f"the first state of this {name} depends on its own range {self.r.arg.name}",
                    help="a state before the loop cannot know an iteration of it; use another Range there",
                )
        if self.r in getattr(_active, "ranges", ()):
            raise RangeError(
                f"a {name} over {self.r.arg.name} inside the step of a fold over {self.r.arg.name}",
                help=f"make a second Range of its size: {self.r.arg.name}2 = rk.Range({self.r.extent})",
            )
        if not inits:
            raise ShapeError(f"the state of a {name} holds nothing", help=f"give rk.{name} a first state: 0.0")
        self.inits = inits
        self.names = _names(step, init)
        self.parts = [_Part(stored_dtype(v), v.weak, v.shape, v.node.ranges) for v in inits]
        self.out: Any = None
        self.news = self._settled()
        self.joins: str | Formula | None = None
        self.shapes = [p.shape for p in self.parts]
        if combine is not None:
            if any(self.shapes):
                self._number_by_number()
            old = [self._state(k, p).node for k, p in enumerate(self.parts)]
            self.joins = joined(combine, old, self.news, self._inits(), self.shapes)

    # ---- tracing the step ------------------------------------------------------------------------------------------

    def _settled(self) -> list[UOp]:
        """The next states, once another trace would find the same dtypes and ranges."""
        while True:
            news = self._traced()
            parts = [self._grown(n, p, v) for n, (p, v) in enumerate(zip(self.parts, news, strict=True))]
            if parts == self.parts:
                return [self._in_type(p, v) for p, v in zip(parts, news, strict=True)]
            self.parts = parts

    def _state(self, k: int, part: _Part) -> Tensor:
        around = by_uid(part.ranges)
        arg = (self.number, k, part.shape, self.names[k])
        return Tensor(trace.note(UOp(Op.STATE, part.dtype, (self.r, *around), arg)), part.weak)

    def _traced(self) -> list[Tensor]:
        states = [self._state(k, p) for k, p in enumerate(self.parts)]
        given = _rebuilt(self.form, iter(states))
        outer = getattr(_active, "ranges", ())
        _active.ranges = (*outer, self.r)
        try:
            answer = _called(self.step, given, self.range)
        finally:
            _active.ranges = outer
        if self.name == "scan" and isinstance(answer, tuple) and len(answer) == 2 and not _same(self.form, answer):
            answer, self.out = answer
        if not _same(self.form, answer):
            raise ShapeError(
                f"the step gives {_described(answer)} where the state is {_described(self.form)}",
                help="return the next state in the form of the first one",
            )
        return [lift(v) for v in _leaves(answer)]

    def _grown(self, k: int, part: _Part, new: Tensor) -> _Part:
        what = f"the state {self.names[k]}"
        if new.shape != part.shape:
            raise ShapeError(
                f"{what} has shape {part.shape} and becomes {new.shape} in the step",
                help=f"start it with that shape: rk.zeros({new.shape})" if not part.shape else
                "a state keeps its shape; reduce or index what the step adds to it",
            )  # fmt: skip
        ranges = part.ranges | (new.node.ranges - {self.r})
        if new.weak or stored_dtype(new) is part.dtype:
            if part.weak == "int" and new.weak == "float":
                return _Part(stored_dtype(new), "float", part.shape, ranges)
            return _Part(part.dtype, part.weak if new.weak else None, part.shape, ranges)
        if not part.weak:
            raise DtypeError(
                f"{what} is {part.dtype} and becomes {stored_dtype(new)} in the step",
                help=f"convert what the step gives: ….astype(rk.{part.dtype}), or start with {stored_dtype(new)}",
            )
        return _Part(stored_dtype(new), None, part.shape, ranges)

    def _in_type(self, part: _Part, v: Tensor) -> UOp:
        return cast(v.node, part.dtype) if v.node.op is not Op.CONST else const(v.node.arg, part.dtype)

    def _number_by_number(self) -> None:
        """The state as the numbers that its arrays hold."""
        parts = [(p, name, at) for p, name in zip(self.parts, self.names, strict=True) for at in places(p.shape)]
        if len(parts) > MOST:
            raise ShapeError(
                f"a state of {len(parts)} numbers is not joined: at most {MOST}", help="leave combine= out"
            )
        arrays = [self._state(k, p).node for k, p in enumerate(self.parts)]
        self.parts = [replace(p, shape=()) for p, _, _ in parts]
        self.names = ["".join(map(str, (name, *at))) for _, name, at in parts]
        numbers = [self._state(k, p).node for k, p in enumerate(self.parts)]
        row = iter(numbers)
        known = {array: shaped(row, array.shape) for array in arrays}
        self.news = [n for v in elements(self.news, known, "what the step gives") for n in v.flat]
        firsts = (elements([v.node], {}, "the first state")[0].flat if v.shape else [v.node] for v in self.inits)
        self.inits = [Tensor(n, v.weak) for v, numbers in zip(self.inits, firsts, strict=True) for n in numbers]
        if self.out is not None:
            mapping = {a: whole(known[a].flat, a.shape).node for a in arrays}
            self.out = _rebuilt(self.out, (made(_replaced(stored(lift(v)), mapping)) for v in _leaves(self.out)))

    def _formed(self, values: Iterable[Tensor]) -> Any:
        """The values of the numbers of a state, in the form that the program gave it."""
        numbers = iter(values)
        if len(self.shapes) == len(self.parts):
            return _rebuilt(self.form, numbers)
        arrays = (whole([next(numbers).node for _ in places(shape)], shape) for shape in self.shapes)
        return _rebuilt(self.form, arrays)

    # ---- the node --------------------------------------------------------------------------------------------------

    def folded(self, until: Callable[..., Any] | None) -> Any:
        """The state after the last iteration."""
        inits, news = self._inits(), list(self.news)
        if until is not None:
            self.joins = None  # where it stops depends on all that came before
            inits, news = self._stopping(inits, news, until)
        self._closed(news, [])
        return self._formed(self._last(inits, news))

    def scanned(self) -> Any:
        """Each state with the range open; or the last one, and what the step gave beside it."""
        inits, news = self._inits(), list(self.news)
        wanted = news if self.out is None else [stored(lift(v)) for v in _leaves(self.out)]
        self._closed(news, wanted)
        first, following = self._values(inits, news)
        values = []
        for v in wanted:
            source = (*first, *following, _replaced(v, self.places), self.r)
            whole = trace.note(UOp(Op.SCAN, v.dtype, source, (self.number, len(first), self.joins)))
            values.append(made(UOp(Op.INDEX, v.dtype, (whole, self.r))))
        if self.out is None:
            return self._formed(values)
        return self._formed(self._last(inits, news)), _rebuilt(self.out, iter(values))

    def _last(self, inits: list[UOp], news: list[UOp]) -> list[Tensor]:
        first, following = self._values(inits, news)
        arg = (self.number, len(first), self.joins)
        node = trace.note(UOp(Op.FOLD, first[0].dtype, (*first, *following, self.r), arg))
        values = (UOp(Op.GET, v.dtype, (node,), k) for k, v in enumerate(first))
        return [
            made(UOp(Op.INDEX, v.dtype, (v, *axes)) if axes else v) for v, axes in zip(values, self.own, strict=True)
        ]

    def _inits(self) -> list[UOp]:
        return [self._in_type(p, v) for p, v in zip(self.parts, self.inits, strict=True)]

    def _stopping(self, inits: list[UOp], news: list[UOp], until: Callable[..., Any]) -> tuple[list[UOp], list[UOp]]:
        """The states with one more: whether it has stopped. Then nothing changes, and nothing is read."""
        given = self._formed([Tensor(v) for v in news])
        answer = _called(until, given)
        stop = lift(answer).node
        if stop.dtype is not dt.bool_ or stop.shape:
            raise DtypeError(
                f"until= gives {lift(answer).dtype} of shape {stop.shape}, not one bool",
                help="return a comparison of the state: lambda s: s > 10",
            )
        around = frozenset().union(*(p.ranges for p in self.parts), stop.ranges - {self.r})
        before = [self._state(k, p).node for k, p in enumerate(self.parts)]
        self.parts = [replace(p, ranges=around) for p in self.parts]
        after = [self._state(k, p).node for k, p in enumerate(self.parts)]
        self.names.append("stopped")
        self.parts.append(_Part(dt.bool_, None, (), around))
        stopped = self._state(len(after), self.parts[-1]).node
        known = dict(zip(before, after, strict=True))
        news = [alu(Op.WHERE, stopped, s, _replaced(v, known)) for s, v in zip(after, news, strict=True)]
        return [*inits, const(False, dt.bool_)], [*news, alu(Op.OR, stopped, _replaced(stop, known))]

    def _closed(self, news: list[UOp], wanted: list[UOp]) -> None:
        """Decide which ranges become axes of single values, and where their states are then read."""
        self._check([*news, *wanted])
        states = [m for m in toposort(*news, *wanted) if m.op is Op.STATE and m.arg[0] == self.number]
        every = frozenset().union(*(p.ranges for p in self.parts))
        shared: frozenset[UOp] = frozenset()
        for k, new in enumerate(news):
            for m in toposort(new):
                if m.op is Op.STATE and m.arg[0] == self.number and m.arg[1] != k:
                    shared |= self.parts[m.arg[1]].ranges
                elif m.op in EXPENSIVE and self.r in m.ranges:
                    shared |= m.ranges
        core = every & shared if len(news) > 1 and shared else every
        self.own = [by_uid(p.ranges - core) for p in self.parts]
        self.places: dict[UOp, UOp] = {}
        for m in states:
            number, k, shape, name = m.arg
            axes = self.own[k]
            arg = (number, k, tuple(a.length for a in axes) + shape, name)
            whole = UOp(Op.STATE, m.dtype, (self.r, *by_uid(core)), arg)
            self.places[m] = UOp(Op.INDEX, m.dtype, (whole, *axes)) if axes else whole

    def _values(self, inits: list[UOp], news: list[UOp]) -> tuple[list[UOp], list[UOp]]:
        """First and next states, ranges of their own closed."""
        first, following = [], []
        for init, new, axes in zip(inits, news, self.own, strict=True):
            new = _replaced(new, self.places)
            if axes:
                init = UOp(Op.BUFFERIZE, init.dtype, (init, *axes), Storage("register"))
                new = UOp(Op.BUFFERIZE, new.dtype, (new, *axes), Storage("register"))
            first.append(init)
            following.append(new)
        return first, following

    def _check(self, values: list[UOp]) -> None:
        """Nothing inside may use ``r`` up where a state of this fold is."""
        holds: set[UOp] = set()
        for n in toposort(*values):
            if (n.op is Op.STATE and n.arg[0] == self.number) or any(s in holds for s in n.src):
                holds.add(n)
                bound = binding(n)
                if bound is not None and self.r in n.src[bound[1] :]:
                    inside = n.src[bound[0] : bound[1]]
                    if any(s in holds for s in inside):
                        raise RangeError(
                            f"the step of this {self.name} closes or reduces its own range {self.r.arg.name}",
                            help="a step sees one iteration; make a second Range for a loop inside it",
                        )


# ---- forms of a state ----------------------------------------------------------------------------------------------


def _leaves(form: Any) -> list[Any]:
    if isinstance(form, dict):
        return [leaf for key in form for leaf in _leaves(form[key])]
    if isinstance(form, (tuple, list)):
        return [leaf for part in form for leaf in _leaves(part)]
    return [form]


def _rebuilt(form: Any, values: Iterator[Tensor]) -> Any:
    if isinstance(form, dict):
        return {key: _rebuilt(form[key], values) for key in form}
    if isinstance(form, (tuple, list)):
        parts = [_rebuilt(part, values) for part in form]
        if isinstance(form, list):
            return parts
        return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
    return next(values)


def _called(fn: Step, given: Any, *before: Any) -> Any:
    """The function of a state: the values of a tuple as arguments, those of a dict by name."""
    if isinstance(given, dict):
        return fn(*before, **given)
    return fn(*before, *given) if isinstance(given, (tuple, list)) else fn(*before, given)


def _same(a: Any, b: Any) -> bool:
    """Whether two forms nest alike."""
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(_same, a, b))
    return not isinstance(b, (dict, tuple, list))


def _described(form: Any) -> str:
    if isinstance(form, dict):
        return "a dict of " + ", ".join(map(str, form))
    if isinstance(form, (tuple, list)):
        return f"a {type(form).__name__} of {len(form)}"
    return "one value"


def _names(step: Step, form: Any) -> list[str]:
    """What the step calls the values of the state."""
    if isinstance(form, dict):
        given = [str(k) for k in form]
    else:
        try:
            given = [p.name for p in inspect.signature(step).parameters.values()
                     if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]  # fmt: skip
        except (TypeError, ValueError):
            given = []
    parts = list(form.values()) if isinstance(form, dict) else list(form) if isinstance(form, (tuple, list)) else [form]
    if len(given) != len(parts):
        given = ["state"] * len(parts)
    sizes = [len(_leaves(part)) for part in parts]
    return [name if size == 1 else f"{name}{n}" for name, size in zip(given, sizes, strict=True) for n in range(size)]


def _replaced(root: UOp, mapping: dict[UOp, UOp]) -> UOp:
    """The graph with those nodes replaced."""
    memo: dict[UOp, UOp] = dict(mapping)
    for n in toposort(root):
        if n not in memo:
            src = tuple(memo[s] for s in n.src)
            memo[n] = n if src == n.src else n.replace(src=src)
    return memo[root]
