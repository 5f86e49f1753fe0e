"""What searches found, on disk: the best schedule of a nest, for one machine, core count, compiler and set of options.

An entry is data that a search starts from, never a promise: whoever uses one applies it and checks its result again. A
damaged entry counts as absent; a disk that cannot be written keeps nothing and stops nobody. Processes that search at
once share entries: the fastest schedule stays, whoever saves last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rangekit import cache
from rangekit.backends.llvm import engine
from rangekit.backends.llvm.render import render
from rangekit.errors import ScheduleError
from rangekit.ir.nest import Nest, Store, walk
from rangekit.ir.reducers import Formula
from rangekit.ir.show import nest_text
from rangekit.ir.target import Target
from rangekit.lower.schedule import Schedule
from rangekit.lower.step import Step

STORE = "tuned"
FORMAT = 1  # counts up when an entry means something else


@dataclass(frozen=True)
class Entry:
    """What is known of one nest. ``seconds`` and ``default`` are of a call, ``spent`` of searching.

    ``default`` is how long the nest takes without tuning. ``spent`` is 0 while a search goes on, then the longest time
    that one was given.
    """

    key: str
    name: str  # the kernel's and the launch's: "softmax k0"
    nest: str  # its text before any schedule
    host: str  # the CPU as LLVM names it
    threads: int
    schedule: Schedule
    seconds: float
    default: float
    spent: float = 0.0
    tried: int = 0

    @property
    def shape(self) -> str:
        """The nest's text without its numbers: equal for nests that differ in sizes only."""
        return re.sub(r"\d+", "#", self.nest)


def key(nest: Nest, target: Target, threads: int, given: Sequence[Step] | None = None) -> str:
    """The name of what is known of a nest without a schedule: its IR, the machine, versions and options.

    ``given`` are the steps that the user asked for, None where the cost model chose.
    """
    try:
        made_by = version("rangekit")
    except PackageNotFoundError:  # run from its source
        made_by = "source"
    machine_code = engine.key(render(nest))  # the module's text, the CPU and its features, LLVM and its options
    orders = sorted({(s.update.commutative, s.update.associative) for s in walk(nest.body)
                     if isinstance(s, Store) and isinstance(s.update, Formula)})  # fmt: skip
    options = repr((target, threads, nest.strict, None if given is None else tuple(given), *orders))
    return cache.key(str(FORMAT), nest_text(nest), machine_code, options, made_by)


def load(key: str) -> Entry | None:
    """The entry of a key; None if there is none, or none that can be read."""
    store = cache.store(STORE)
    data = None if store is None else store.get(key)
    return None if data is None else read(key, data)


def save(entry: Entry, refuted: Schedule | None = None) -> None:
    """Keep an entry, if the disk lets it, joined with what another search has kept under its key.

    ``refuted`` is a schedule that turned out wrong or no better: an entry of it is overwritten.
    """
    store = cache.store(STORE)
    if store is None:
        return
    with _alone(store.folder):
        there = load(entry.key)
        if there is not None and there.schedule != refuted:
            best = min(entry, there, key=lambda e: e.seconds / (e.default or 1))
            entry = replace(best, spent=max(entry.spent, there.spent), tried=max(entry.tried, there.tried))
        data = {f: v for f, v in asdict(entry).items() if f not in ("key", "schedule")}
        store.put(entry.key, json.dumps({**data, "schedule": entry.schedule.to_json()}).encode())


def entries() -> list[Entry]:
    """Everything that is kept and can be read, by name."""
    store = cache.store(STORE)
    if store is None:
        return []
    found = (read(item.key, item.data) for item in store.items() if item.data is not None)
    return sorted(filter(None, found), key=lambda e: (e.name, e.nest))


def similar(entry_key: str, nest: Nest, threads: int) -> list[Entry]:
    """Entries of nests that differ from this one in sizes only, found on this CPU; those of most gain first."""
    shape = re.sub(r"\d+", "#", nest_text(nest))
    host = engine.host()
    near = [e for e in entries() if e.shape == shape and e.host == host and e.key != entry_key]
    return sorted(near, key=lambda e: (e.threads != threads, e.seconds / (e.default or 1), e.key))


def read(key: str, data: bytes) -> Entry | None:
    """The entry that was written as these bytes; None if they are none."""
    try:
        found = json.loads(data)
        schedule = Schedule.from_json(found.pop("schedule"))
        entry = Entry(key=key, schedule=schedule, **found)
    except (ValueError, TypeError, KeyError, AttributeError, ScheduleError):
        return None
    kinds: dict[object, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    whole = all(isinstance(getattr(entry, f.name), kinds[str(f.type)]) for f in fields(entry) if f.type in kinds)
    return entry if whole and entry.seconds > 0 and entry.default > 0 else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process joins and writes meanwhile, where the system has locks; without one the last writer wins."""
    try:
        import fcntl

        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    except (ImportError, OSError):
        yield
        return
    with lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
