"""The steps of a schedule, one class each: values with names and numbers in them, and what they do to a nest.

Each changes order and place, never meaning; one that cannot apply raises ``ScheduleError`` with the reason and the
ranges there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Loop, Nest, Scratch, Store, variables, walk
from rangekit.ir.reducers import reducer
from rangekit.ir.target import Target
from rangekit.ir.uop import UOp
from rangekit.lower import copies, joined, parts, tiles
from rangekit.lower.loops import (
    Body,
    carried,
    chain,
    loops,
    mapped,
    name_of,
    parallel,
    regrouped,
    rewritten,
    scattered,
    shuffled,
    single,
    span,
    substitution,
    wrapped,
)


@dataclass(frozen=True, repr=False)
class Step:
    """One change of a nest's loops."""

    def __repr__(self) -> str:
        shown: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is MISSING and f.name != "at":
                shown.extend(map(repr, value) if isinstance(value, tuple) else [repr(value)])
            elif f.default is MISSING or value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"rk.{type(self).__name__.lower()}({', '.join(shown)})"

    def apply(self, nest: Nest, target: Target) -> Nest:
        """The nest after this step; ``ScheduleError`` if it cannot apply."""
        raise NotImplementedError


def _size(n: int, what: str) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ScheduleError(f"{what} is {n!r}", help="sizes are ints of at least 1")


@dataclass(frozen=True, repr=False)
class Tile(Step):
    """Blocks of ``size`` iterations: ``name`` runs over blocks, ``name.t`` inside one."""

    name: str
    size: int

    def __post_init__(self) -> None:
        _size(self.size, "the size of a tile")

    def apply(self, nest: Nest, target: Target) -> Nest:
        return _each(nest, self.name, lambda loop: (tiles.tile(loop, self.size),))


@dataclass(frozen=True, repr=False)
class Upcast(Step):
    """Blocks of ``size`` iterations in step: vector lanes, or a register tile. A reduction keeps a result a lane; where
    data says into which of its results a value goes, the iterations are written out.
    """

    name: str
    size: int

    def __post_init__(self) -> None:
        _size(self.size, "the size of an upcast")

    def apply(self, nest: Nest, target: Target) -> Nest:
        return _each(nest, self.name, lambda loop: self._one(loop, nest.strict))

    def _one(self, loop: Loop, strict: bool) -> Body:
        outer, inner = tiles.block(loop, self.size)
        inner = tiles.in_lanes(inner)
        if not parallel(loop):
            _any_order(loop, strict)
            body = replace(inner, kind="unroll") if scattered(loop) else inner
            return parts.partial(replace(outer, body=(body,)), inner)
        return (replace(outer, body=(tiles.sunk(inner),)),)


@dataclass(frozen=True, repr=False)
class Unroll(Step):
    """Blocks of ``size`` iterations written out; loops inside them are run once for all of them."""

    name: str
    size: int

    def __post_init__(self) -> None:
        _size(self.size, "the size of an unroll")

    def apply(self, nest: Nest, target: Target) -> Nest:
        return _each(nest, self.name, lambda loop: self._one(loop, nest.strict))

    def _one(self, loop: Loop, strict: bool) -> Body:
        outer, inner = tiles.block(loop, self.size)
        if any(isinstance(s, Loop) for s in inner.body):
            if not single(loop):
                raise ScheduleError(
                    f"{name_of(loop)} cannot be unrolled around loops: what it hands on is not one reduced value",
                    help=f"rk.upcast({self.name!r}, {self.size}) keeps partial results",
                )
            if not all(any(s is t for t in loop.body) for s in carried(loop)):  # an inner loop goes on with the sum
                _any_order(loop, strict)
            inner = tiles.in_lanes(inner)
        else:
            inner = replace(inner, kind="unroll")
        return (replace(outer, body=(inner,)),)


@dataclass(frozen=True, repr=False)
class Thread(Step):
    """Iterations over threads, handed out in chunks of ``grain``."""

    name: str
    grain: int = 1

    def __post_init__(self) -> None:
        _size(self.grain, "the grain of a thread range")

    def apply(self, nest: Nest, target: Target) -> Nest:
        inside = {s.var for loop in loops(nest.body) if loop.kind != "loop" for s in loops(loop.body)}
        if nest.prints:
            raise ScheduleError(f"{self.name} cannot run on threads: the kernel prints")

        def one(loop: Loop) -> Body:
            if loop.var in inside or any(inner.kind == "thread" for inner in loops(loop.body)):
                raise ScheduleError(
                    f"{self.name} cannot run on threads: it is inside lanes or threads, or around threads"
                )
            if not parallel(loop):
                raise ScheduleError(
                    f"{self.name} cannot run on threads: it is a reduction",
                    help=f"rk.group({self.name!r}, n) first: parts of it that may run on threads",
                )
            return (replace(loop, kind="thread", width=self.grain),)

        return _each(nest, self.name, one)


@dataclass(frozen=True, repr=False)
class Group(Step):
    """A reduction in ``parts`` contiguous parts (``name``), each a whole one (``name.t``), combined in order."""

    name: str
    parts: int

    def __post_init__(self) -> None:
        _size(self.parts, "the number of parts")

    def apply(self, nest: Nest, target: Target) -> Nest:
        def one(loop: Loop) -> Body:
            if joined.joinable(loop):
                if nest.strict and not joined.exact(loop):
                    raise ScheduleError(f"{self.name} cannot be grouped: strict=True keeps its order")
                return joined.grouped(loop, self.parts)
            _in_blocks(loop, nest.strict)
            return parts.grouped(loop, self.parts)

        return _each(nest, self.name, one)


@dataclass(frozen=True, repr=False)
class Reorder(Step):
    """The named ranges in this order, outer to inner; a reduction's blocks may go outside the loops around it."""

    names: tuple[str, ...]

    def apply(self, nest: Nest, target: Target) -> Nest:
        known: dict[UOp, UOp] = {}  # while it works, a loop that is called j#2 has that as its name
        count: dict[str, int] = {}
        for loop in loops(nest.body):
            name = name_of(loop)
            count[name] = count.get(name, 0) + 1
            if f"{name}#{count[name]}" in self.names:
                known[loop.var] = loop.var.replace(arg=(*loop.var.arg[:-1], f"{name}#{count[name]}"))
        if not known:
            return self._applied(nest)
        body = self._applied(replace(nest, body=mapped(nest.body, substitution(known)))).body
        back = {
            s.var: s.var.replace(arg=(*s.var.arg[:-1], name_of(s).partition("#")[0]))
            for s in loops(body) if "#" in name_of(s)
        }  # fmt: skip
        return replace(nest, body=mapped(body, substitution(back)))

    def _applied(self, nest: Nest) -> Nest:
        first = next((loop for loop in loops(nest.body) if name_of(loop) in self.names), None)
        if first is None:
            raise _unknown(nest, self.names[0] if self.names else "")
        strict = nest.strict
        body = rewritten(nest.body, lambda loop: self._moved(loop, strict) if loop.var is first.var else None)
        return replace(nest, body=body)

    def _moved(self, loop: Loop, strict: bool) -> Body:
        nested = chain(loop)
        names = [name_of(a) for a in nested]
        inside = nested[-1].body
        for name in self.names:
            if name not in names:
                place = next((n for n, s in enumerate(inside) if isinstance(s, Loop) and name_of(s) == name), None)
                if place is None:
                    raise ScheduleError(f"{name} is not nested with {names[0]}", help=f"nested are {', '.join(names)}")
                moving = inside[place]
                assert isinstance(moving, Loop)
                if span(moving) == 0:
                    continue  # nothing runs
                at = self.names.index(name)
                above = next((n for n in self.names[at + 1 :] if n in names), None)
                if above is None:
                    continue  # it stays inside them all
                nested = self._ordered(nested, strict)
                names = [name_of(a) for a in nested]
                around = nested[names.index(above) :]
                body = parts.hoisted(around, moving, inside[:place], inside[place + 1 :])
                whole = wrapped(nested[: names.index(above)], body)
                outer = whole[0]
                return self._moved(outer, strict) if len(body) == 1 and isinstance(outer, Loop) else whole
        return wrapped(self._ordered(nested, strict), inside)

    def _ordered(self, nested: list[Loop], strict: bool) -> list[Loop]:
        """Nested loops in the order of the names."""
        names = [name_of(a) for a in nested]
        order = [n for n in self.names if n in names]
        if len(set(order)) != len(order):
            raise ScheduleError("a range is named twice", help=f"nested are {', '.join(names)}")
        slots = sorted(names.index(n) for n in order)
        new = list(nested)
        for slot, name in zip(slots, order, strict=True):
            new[slot] = nested[names.index(name)]
        if all(a is b for a, b in zip(new, nested, strict=True)):
            return nested
        for place, a in enumerate(new):
            if a.kind == "thread" and any(b.kind != "loop" for b in new[:place]):
                raise ScheduleError(f"{name_of(a)} runs on threads: it cannot go inside lanes")
            below = {b.var for b in new[place:]}
            bad = (variables(a.lo) | variables(a.hi)) & below
            if bad:
                raise ScheduleError(
                    f"{name_of(a)} cannot go outside {next(iter(bad)).arg[-1]}: its length depends on it"
                )
        before, after = (
            [s for a in order if not parallel(s := replace(a, body=nested[-1].body))] for order in (nested, new)
        )
        for a, b in zip(before, after, strict=True):
            if a.var is not b.var:
                if any(s.update is None for s in carried(a)):
                    raise ScheduleError(f"{name_of(a)} cannot be reordered: it carries a value")
                _any_order(a, strict)
        return new


@dataclass(frozen=True, repr=False)
class Stage(Step):
    """What an iteration of ``at`` reads of an array, copied into a packed scratch array first."""

    array: str
    at: str
    layout: tuple[str, ...] | None = None

    def apply(self, nest: Nest, target: Target) -> Nest:
        buffer = _array(nest, self.array)
        inside = {s.var for loop in loops(nest.body) if loop.kind != "loop" for s in (loop, *loops(loop.body))}

        def one(loop: Loop) -> Body:
            inner = any(a.kind == "thread" for a in loops(loop.body))
            return (copies.staged(loop, buffer, self.layout, inner and loop.var not in inside),)

        return _each(nest, self.at, one, ("loop", "thread"))


@dataclass(frozen=True, repr=False)
class Prefetch(Step):
    """Lines of an array asked for before they are needed: those of a result that the innermost tile stores to, or,
    with ``at``, those read ``ahead`` iterations of that range later.
    """

    array: str
    at: str = ""
    ahead: int = 1

    def __post_init__(self) -> None:
        _size(self.ahead, "the distance of a prefetch")
        if not isinstance(self.at, str):
            raise ScheduleError(f"at={self.at!r} is not the name of a range")

    def apply(self, nest: Nest, target: Target) -> Nest:
        buffer = _array(nest, self.array)
        found = False
        if self.at:
            kinds = ("loop", "thread", "unroll", "vector", "upcast")
            return _each(nest, self.at, lambda loop: (copies.asked(loop, buffer, self.ahead),), kinds)

        def one(loop: Loop) -> Body | None:
            nonlocal found
            stores = any(isinstance(s, Store) and s.buffer is buffer for s in loop.body)
            innermost = not any(isinstance(s, Loop) and s.kind in ("upcast", "vector") for s in loop.body)
            if loop.kind == "loop" or not (stores and innermost):
                return None
            found = True
            return (copies.prefetched(loop, buffer),)

        body = rewritten(nest.body, one)
        if not found:
            raise ScheduleError(f"no tile stores to {self.array}", help="upcast a range around its store first")
        return replace(nest, body=body)


@dataclass(frozen=True, repr=False)
class Pad(Step):
    """A range's length rounded up to a multiple, the iterations past its end masked: no tail of another form."""

    name: str
    multiple: int

    def __post_init__(self) -> None:
        _size(self.multiple, "the multiple of a padding")

    def apply(self, nest: Nest, target: Target) -> Nest:
        return _each(nest, self.name, lambda loop: (tiles.padded(loop, self.multiple),))


@dataclass(frozen=True, repr=False)
class Stream(Step):
    """Stores to an array past the caches: for results larger than those, that nothing reads soon."""

    array: str

    def apply(self, nest: Nest, target: Target) -> Nest:
        buffer = _array(nest, self.array)

        def marked(stmts: Body) -> Body:
            out = []
            for s in stmts:
                if isinstance(s, Loop):
                    s = replace(s, body=marked(s.body))
                elif isinstance(s, Store) and s.buffer is buffer:
                    s = replace(s, stream=True)
                out.append(s)
            return tuple(out)

        if buffer not in nest.outputs:
            raise ScheduleError(f"{self.array} is not a result: nothing is stored to it")
        return replace(nest, body=marked(nest.body))


def _in_blocks(loop: Loop, strict: bool) -> None:
    """``ScheduleError`` unless blocks of a reduction may be reduced each for itself, then combined in order."""
    if any(s.update is None for s in carried(loop)) or regrouped(loop, strict):
        return
    if regrouped(loop, False):
        raise ScheduleError(
            f"{name_of(loop)} reduces floats, and strict=True keeps their order",
            help="split another range, or leave strict out",
        )
    raise ScheduleError(
        f"{name_of(loop)} is reduced in order: {_reducers(loop)} is associative for finite numbers only",
        help="split another range; the monoid's proof tells where it is not",
    )


def _any_order(loop: Loop, strict: bool) -> None:
    """``ScheduleError`` unless what a reduction combines may be combined in any order."""
    _in_blocks(loop, strict)
    if not shuffled(loop, strict) and not any(s.update is None for s in carried(loop)):
        raise ScheduleError(
            f"{name_of(loop)} is reduced in order: {_reducers(loop)} is not commutative",
            help=f"rk.group({name_of(loop)!r}, n) makes blocks that are combined in order; or split another range",
        )


def _reducers(loop: Loop) -> str:
    return " and ".join(dict.fromkeys(reducer(s.update).name for s in carried(loop) if s.update is not None))


def _array(nest: Nest, name: str) -> UOp:
    made = [s.buffer for s in walk(nest.body) if isinstance(s, Scratch)]
    for b in (*nest.params, *made):
        if b.arg.name == name:
            return b
    known = ", ".join(dict.fromkeys(b.arg.name for b in (*nest.params, *made)))
    raise ScheduleError(f"there is no array {name!r}", help=f"the arrays are {known}")


def _unknown(nest: Nest, name: str) -> ScheduleError:
    known = ", ".join(dict.fromkeys(name_of(a) for a in loops(nest.body))) or "none"
    return ScheduleError(f"there is no range {name!r}", help=f"the ranges are {known}")


def _each(nest: Nest, name: str, fn: Callable[[Loop], Body], kinds: tuple[str, ...] = ("loop",)) -> Nest:
    """Every loop of that name replaced; of ``name#n`` the n-th printed. Only loops of these kinds may be."""
    base, _, which = name.partition("#")
    seen = 0
    hit = False

    def one(loop: Loop) -> Body | None:
        nonlocal seen, hit
        if name_of(loop) != base or loop.kind == "tree":
            return None
        seen += 1
        if which and seen != int(which):
            return None
        if loop.kind not in kinds:
            raise ScheduleError(f"{base} is {_KINDS[loop.kind]} already", help="tile it first, or name another range")
        hit = True
        return fn(loop)

    if which and not which.isdigit():
        raise ScheduleError(f"{name!r} names no range", help='write "j#2" for the second loop printed as j')
    body = rewritten(nest.body, one)
    if not hit:
        raise _unknown(nest, name)
    return replace(nest, body=body)


_KINDS = {"thread": "on threads", "upcast": "in step", "vector": "a vector", "unroll": "unrolled"}


STEPS: dict[str, type[Step]] = {
    t.__name__.lower(): t for t in (Tile, Upcast, Unroll, Thread, Group, Reorder, Stage, Prefetch, Pad, Stream)
}
