"""Bytes on disk that cost time to make: one key builder, one store.

An entry is only ever a shortcut. What cannot be read, is damaged or belongs to another key counts as absent and is
removed; what cannot be written is not kept. No error of a disk leaves this file. Any number of processes may share a
folder: a file appears whole, under its final name, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = "RANGEKIT_CACHE_DIR"  # the variable that says where; set to nothing, nothing is kept
LIMIT = 256 << 20  # bytes of a store
_DIGEST = hashlib.sha256().digest_size
_ENTRY = re.compile(r"[0-9a-f]{64}")  # what ``key`` gives
_PARTIAL = re.compile(r"\.[0-9a-f]{16}-[0-9a-f]{16}")  # what ``put`` writes first


def folder() -> Path | None:
    """The folder of everything that rangekit keeps for this user; None where there is none.

    It is the user's cache folder of this system, unless the environment names another.
    """
    chosen = os.environ.get(FOLDER)
    if chosen is None:
        import platformdirs  # costs a millisecond or two, and only here

        try:
            chosen = platformdirs.user_cache_dir("rangekit", appauthor=False)
        except RuntimeError:  # this user has no home
            return None
    return Path(chosen) if os.path.isabs(chosen) else None


def key(*parts: str | bytes) -> str:
    """One name for all parts together: SHA-256 in hexadecimal. Where one part ends and the next begins counts.

    >>> key("ab", "c") == key("a", "bc")
    False
    """
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little"))
        whole.update(data)
    return whole.hexdigest()


@dataclass(frozen=True)
class Item:
    """One entry as it lies in a store. ``size`` in bytes on disk, ``used`` in seconds of the epoch; ``data`` is None if
    the entry is damaged.
    """

    key: str
    size: int
    used: float
    data: bytes | None


class Store:
    """Entries in one folder, at most about ``limit`` bytes together; those used longest ago go first."""

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self.folder = folder
        self.limit = limit

    def get(self, key: str) -> bytes | None:
        """What was put under this key; None if nothing, or nothing whole."""
        path = self.folder / key
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        data = entry[_DIGEST:]
        if entry[:_DIGEST] != _digest(key, data):
            _remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # used now
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep data under a key of ``key()``, if the disk lets it."""
        partial = self.folder / f".{key[:16]}-{os.urandom(8).hex()}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                partial.write_bytes(_digest(key, data) + data)
                partial.replace(self.folder / key)
            except BaseException:  # an interrupt, too, leaves nothing behind
                _remove(partial)
                raise
        except OSError:
            return
        if key.startswith("0"):  # keys are as good as random: counting every file at one put in 16 is enough
            self.trim()

    def items(self) -> Iterable[Item]:
        """Every entry, by key, damaged ones too. Looking at them is not using them."""
        for used, size, path in sorted(self._files(), key=lambda f: f[2]):
            name = os.path.basename(path)
            if _ENTRY.fullmatch(name):
                with suppress(OSError), open(path, "rb") as file:
                    entry = file.read()
                    whole = entry[:_DIGEST] == _digest(name, entry[_DIGEST:])
                    yield Item(name, size, used, entry[_DIGEST:] if whole else None)

    def clear(self) -> int:
        """Remove every entry, and what writers that were stopped left, but nothing else; returns the bytes freed."""
        freed = 0
        for _, size, path in list(self._files()):
            name = os.path.basename(path)
            if _ENTRY.fullmatch(name) or _PARTIAL.fullmatch(name):
                with suppress(OSError):  # another process was first
                    os.unlink(path)
                    freed += size
        return freed

    def trim(self) -> None:
        """Remove the oldest entries, and what writers that were stopped left, until a quarter of the room is free."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= self.limit:
            return
        for _, size, path in files:
            if total <= self.limit * 3 // 4:
                return
            _remove(path)
            total -= size

    def _files(self) -> Iterable[tuple[float, int, str]]:
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process removed it
                    if entry.is_file(follow_symlinks=False):
                        found = entry.stat(follow_symlinks=False)
                        yield found.st_mtime, found.st_size, entry.path


def store(name: str) -> Store | None:
    """The store of one kind of thing; None where nothing is kept."""
    root = folder()
    return None if root is None else Store(root / name)


def _digest(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + data).digest()


def _remove(path: Path | str) -> None:
    with suppress(OSError):
        os.unlink(path)
