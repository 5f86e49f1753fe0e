"""``python -m rangekit cache``: what is kept on disk for this user, shown and removed.

Looking at an entry is not using it, and no state of the disk is an error: a damaged entry is listed as one.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator

from rangekit import cache
from rangekit.cache import Item, Store
from rangekit.tuning import kept
from rangekit.tuning.kept import Entry

STORES = {"object": "objects", "tuned": kept.STORE}  # as users name them: the folder's name
SHOWN = 12  # characters of a key
NOWHERE = f"nothing is kept: {cache.FOLDER} is no absolute path, or this user has no home"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    commands = parser.add_subparsers(dest="action", required=True)
    commands.add_parser("list", help="the stores, and what searches found")
    show = commands.add_parser("show", help="the schedule that a search found")
    show.add_argument("entry", metavar="NAME-OR-KEY", help="the kernel's name, or the beginning of the entry's key")
    clear = commands.add_parser("clear", help="remove what is kept")
    clear.add_argument("what", choices=[*STORES, "all"], nargs="?", default="all", help="default: all")


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say, print it; returns the exit status."""
    if cache.folder() is None:
        print(NOWHERE)
        return 0
    if args.action == "show":
        return show(args.entry)
    if args.action == "clear":
        return clear(list(STORES) if args.what == "all" else [args.what])
    return listed()


def listed() -> int:
    """Print each store's entries, bytes and place, then a line for each tuned or damaged entry."""
    for what, store in _stores(list(STORES)):
        count, size, lines = 0, 0, []
        for item in store.items():
            count, size = count + 1, size + item.size
            entry = _entry(item) if what == "tuned" else None
            if item.data is None or (what == "tuned" and entry is None):
                lines.append(f"  {item.key[:SHOWN]}  damaged")
            elif entry is not None:
                lines.append(f"  {item.key[:SHOWN]}  {entry.name}  {sizes(entry)}  used {_date(item)}  {_gain(entry)}")
        print(f"{what}: {_count(count, 'entry', 'entries')}, {size:,} bytes, in {store.folder}")
        print(*lines, sep="\n", end="\n" if lines else "")
    return 0


def show(wanted: str) -> int:
    """Print one tuned entry: what it is for, then its schedule as Python and as JSON. 1 if there is not exactly one."""
    found = [(item, entry) for _, store in _stores(["tuned"]) for item in store.items()
             if (entry := _entry(item)) is not None and _is(entry, wanted)]  # fmt: skip
    if len(found) != 1:
        many = "; ".join(f"{item.key[:SHOWN]} ({entry.name}, {sizes(entry)})" for item, entry in found)
        print(f"more than one entry is {wanted!r}: {many}" if found else f"no tuned entry is {wanted!r}: see `list`",
              file=sys.stderr)  # fmt: skip
        return 1
    ((item, entry),) = found
    print(
        f"{entry.name}, used {_date(item)}: {_gain(entry)}, {entry.seconds * 1e3:.3f} ms and {entry.default * 1e3:.3f}"
    )
    print(f"{entry.host}, {_count(entry.threads, 'thread', 'threads')}; key {entry.key}")
    print(entry.nest)
    print(f"schedule = {entry.schedule!r}")
    print(entry.schedule.to_json())
    return 0


def clear(names: list[str]) -> int:
    """Remove the entries of stores; print how many bytes that freed."""
    for what, store in _stores(names):
        print(f"{what}: {store.clear():,} bytes freed")
    return 0


def sizes(entry: Entry) -> str:
    """The lengths of a nest's loops as written, outer to inner: ``i 512, j 64``."""
    found = re.findall(r"^ *for (\S+) in 0\.\.(.+):$", entry.nest, re.M)
    return ", ".join(dict.fromkeys(f"{name} {length}" for name, length in found)) or "no loops"


def _stores(names: list[str]) -> Iterator[tuple[str, Store]]:
    for what in names:
        store = cache.store(STORES[what])
        if store is not None:
            yield what, store


def _entry(item: Item) -> Entry | None:
    return None if item.data is None else kept.read(item.key, item.data)


def _is(entry: Entry, wanted: str) -> bool:
    """Whether it is named so, with or without its launch, or its key begins so."""
    return wanted in (entry.name, entry.name.rpartition(" ")[0]) or (len(wanted) > 3 and entry.key.startswith(wanted))


def _gain(entry: Entry) -> str:
    return f"{entry.default / entry.seconds:.2f}× as fast as the default"


def _date(item: Item) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(item.used))


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"
