"""Schedules: the order and the place of a nest's loops, as data.

A ``Schedule`` is a tuple of steps, applied from left to right to named ranges. It prints as Python, compares by value,
and saves as JSON. Steps change order and place, never meaning: a step that cannot apply
raises ``ScheduleError`` with the reason and the ranges there are.

A name stands for every loop of that name; ``"j#2"`` for the second one printed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rangekit.errors import ScheduleError
from rangekit.ir.nest import Nest
from rangekit.ir.target import Target
from rangekit.lower.loops import fresh_after
from rangekit.lower.step import (
    STEPS,
    Group,
    Pad,
    Prefetch,
    Reorder,
    Stage,
    Step,
    Stream,
    Thread,
    Tile,
    Unroll,
    Upcast,
)
from rangekit.lower.tidy import named, without_idle
from rangekit.lower.tiles import perfected
from rangekit.lower.vectors import vectorised

VERSION = 1


class Schedule(tuple[Step, ...]):
    """Steps in order. ``repr`` is the Python that makes them; equal steps are equal schedules.

    >>> s = Schedule((tile("i", 64), upcast("j", 8)))
    >>> s
    (rk.tile('i', 64), rk.upcast('j', 8))
    >>> Schedule.from_json(s.to_json()) == s
    True
    """

    def to_json(self) -> str:
        """The schedule as JSON, with the version of its form."""
        listed = [[type(s).__name__.lower(), {f.name: getattr(s, f.name) for f in fields(s)}] for s in self]
        return json.dumps({"version": VERSION, "steps": listed})

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """A schedule from its JSON: data only, no code. ``ScheduleError`` if it is not one of this version."""
        try:
            data: Any = json.loads(text)
            version, listed = data["version"], data["steps"]
            if version != VERSION:
                raise ScheduleError(f"a schedule of version {version!r}", help=f"this rangekit reads version {VERSION}")
            made = []
            for name, values in listed:
                made.append(STEPS[name](**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}))
        except (KeyError, TypeError, ValueError) as err:
            if isinstance(err, ScheduleError):
                raise
            raise ScheduleError(f"not a schedule: {err!r}", help="load what Schedule.to_json gave") from None
        return cls(made)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the JSON to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Schedule:
        """Read what ``save`` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def scheduled(nest: Nest, schedule: Sequence[Step], target: Target) -> Nest:
    """The nest after every step, and its lanes made vectors where that pays. Without steps, the nest itself."""
    return _applied(nest, schedule, target, skip=False)[1]


def applicable(nest: Nest, proposed: Sequence[Step], target: Target) -> tuple[Schedule, Nest]:
    """The steps of a proposal that can apply, and the nest after them."""
    return _applied(nest, proposed, target, skip=True)


def _applied(nest: Nest, steps: Sequence[Step], target: Target, *, skip: bool) -> tuple[Schedule, Nest]:
    if not steps:
        return Schedule(), nest
    fresh_after(nest)
    nest = replace(nest, body=perfected(nest.body))
    kept = []
    for step in steps:
        if not isinstance(step, Step):
            raise ScheduleError(f"{step!r} is not a schedule step", help="steps are rk.tile(...), rk.upcast(...), ...")
        try:
            nest = step.apply(nest, target)
        except ScheduleError:
            if not skip:
                raise
            continue
        kept.append(step)
    return Schedule(kept), named(replace(nest, body=without_idle(vectorised(nest.body, target))))


def tile(name: str, size: int) -> Tile:
    """Blocks of ``size`` iterations: ``name`` runs over blocks, ``name.t`` inside one.

    >>> tile("i", 64)
    rk.tile('i', 64)
    """
    return Tile(name, size)


def reorder(*names: str) -> Reorder:
    """The named ranges in this order, outer to inner. Blocks of a reduction may go outside.

    >>> reorder("j", "i")
    rk.reorder('j', 'i')
    """
    return Reorder(names)


def upcast(name: str, size: int) -> Upcast:
    """Blocks of ``size`` iterations in step, in vector lanes or registers. A reduction keeps one result a lane."""
    return Upcast(name, size)


def unroll(name: str, size: int) -> Unroll:
    """Blocks of ``size`` iterations written out; loops inside them run once for the whole block."""
    return Unroll(name, size)


def thread(name: str, grain: int = 1) -> Thread:
    """Iterations over threads, handed out in chunks of ``grain``."""
    return Thread(name, grain)


def group(name: str, parts: int) -> Group:
    """A reduction in at most ``parts`` parts, ``name.t`` inside one, combined in a fixed order."""
    return Group(name, parts)


def stage(array: str, at: str, layout: Sequence[str] | None = None) -> Stage:
    """What one iteration of the range ``at`` reads of an array, packed into local memory first.

    ``layout`` names the ranges that the packed array has axes for, outermost first.
    """
    return Stage(array, at, None if layout is None else tuple(layout))


def prefetch(array: str, *, at: str = "", ahead: int = 1) -> Prefetch:
    """Ask for lines of an array early: those of a result that a tile stores to, before the tile is computed; with
    ``at``, those of an argument that are read ``ahead`` iterations of the range ``at`` later.

    >>> prefetch("x", at="i", ahead=2)
    rk.prefetch('x', at='i', ahead=2)
    """
    return Prefetch(array, at, ahead)


def pad(name: str, multiple: int) -> Pad:
    """Round a range's length up to a multiple; what its last iterations would read, store and reduce is masked.

    >>> pad("i", 8)
    rk.pad('i', 8)
    """
    return Pad(name, multiple)


def stream(array: str) -> Stream:
    """Store a result past the caches."""
    return Stream(array)
