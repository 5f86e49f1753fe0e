"""What is put comes back whole or not at all, and no disk can make a program fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rangekit import cache
from rangekit.cache import Store, key

ROOT = Path(__file__).parents[1]
KEY = key("a thing")
DATA = bytes(range(256)) * 20


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


def age(store: Store, key: str, seconds: float) -> None:
    os.utime(store.folder / key, (1e9 - seconds, 1e9 - seconds))


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_the_parts_and_where_they_end() -> None:
    assert key("a", "b") == key("a", "b") == key(b"a", "b")
    assert len({key(), key(""), key("", ""), key("ab"), key("a", "b"), key("b", "a"), key("", "ab")}) == 7
    assert len(KEY) == 64 and KEY.isalnum()


# ---- the store -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, b"", b"x"])
def test_what_is_put_comes_back(store: Store, data: bytes) -> None:
    assert store.get(KEY) is None
    store.put(KEY, data)
    assert store.get(KEY) == data
    assert Store(store.folder).get(KEY) == data
    assert store.get(key("another thing")) is None
    assert [p.name for p in store.folder.iterdir()] == [KEY]


def test_the_last_put_counts(store: Store) -> None:
    store.put(KEY, b"one")
    store.put(KEY, DATA)
    assert store.get(KEY) == DATA


@pytest.mark.parametrize("damage", ["empty", "short", "cut", "longer", "first", "last"])
def test_a_damaged_entry_is_absent_and_removed(store: Store, damage: str) -> None:
    store.put(KEY, DATA)
    path = store.folder / KEY
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "short": whole[:7],
            "cut": whole[:-1],
            "longer": whole + b"\0",
            "first": bytes([whole[0] ^ 1]) + whole[1:],
            "last": whole[:-1] + bytes([whole[-1] ^ 1]),
        }[damage]
    )
    assert store.get(KEY) is None
    assert not path.exists()
    store.put(KEY, DATA)
    assert store.get(KEY) == DATA


def test_an_entry_under_another_key_is_damaged(store: Store) -> None:
    store.put(KEY, DATA)
    other = key("another thing")
    (store.folder / KEY).rename(store.folder / other)
    assert store.get(other) is None


def test_a_folder_that_cannot_be_made_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file" / "store")
    store.put(KEY, DATA)
    assert store.get(KEY) is None
    store.trim()


def test_a_folder_that_cannot_be_written_is_only_read(store: Store) -> None:
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere")
    store.put(KEY, DATA)
    store.folder.chmod(0o500)
    store.put(key("another thing"), DATA)
    assert store.get(KEY) == DATA
    assert store.get(key("another thing")) is None


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_full_disk_keeps_nothing_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store.put(KEY, b"before")
    real = Path.write_bytes

    def full(self: Path, *args: Any) -> None:
        if step == "write_bytes":
            real(self, DATA[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, full)
    store.put(KEY, DATA)
    monkeypatch.undo()
    assert store.get(KEY) == b"before"
    assert [p.name for p in store.folder.iterdir()] == [KEY]


def test_an_interrupted_put_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, *args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put(KEY, DATA)
    assert list(store.folder.iterdir()) == []


def test_a_folder_in_place_of_an_entry_is_an_absent_entry(store: Store) -> None:
    (store.folder / KEY).mkdir(parents=True)
    assert store.get(KEY) is None
    store.put(KEY, DATA)
    assert store.get(KEY) is None


def test_processes_may_put_and_get_one_key_at_once(store: Store) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from rangekit.cache import Store
store, mine = Store(Path({str(store.folder)!r})), sys.argv[1].encode()
for n in range(300):
    store.put({KEY!r}, mine * (1 + n % 50 * 500))
    found = store.get({KEY!r})
    assert found and set(found) <= {{97, 98, 99}} and len(set(found)) == 1, found
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, letter]) for letter in "abc"]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert [p.name for p in store.folder.iterdir()] == [KEY]


# ---- size ------------------------------------------------------------------------------------------------------------


def filled(folder: Path, count: int) -> list[str]:
    """Keys of entries of 100 bytes, oldest first."""
    keys = [key(str(n)) for n in range(count)]
    for n, k in enumerate(keys):
        Store(folder).put(k, bytes(100))
        age(Store(folder), k, 1000 - n)
    return keys


def test_the_oldest_go_until_a_quarter_is_free(tmp_path: Path) -> None:
    keys = filled(tmp_path, 30)
    store = Store(tmp_path, limit=20 * (100 + 32))
    store.trim()
    assert [store.get(k) is not None for k in keys] == [False] * 15 + [True] * 15


def test_reading_an_entry_makes_it_new(tmp_path: Path) -> None:
    keys = filled(tmp_path, 4)
    store = Store(tmp_path, limit=3 * (100 + 32))
    assert store.get(keys[0]) is not None
    store.trim()
    assert [store.get(k) is not None for k in keys] == [True, False, False, True]


def test_a_store_that_fits_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    Store(tmp_path, limit=4 * (100 + 32)).trim()
    assert len(list(tmp_path.iterdir())) == 4


def test_what_a_killed_writer_left_goes_with_the_oldest(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=200)
    (tmp_path / ".partial").write_bytes(bytes(150))
    age(store, ".partial", 5000)
    store.put(KEY, bytes(100))
    store.trim()
    assert [p.name for p in tmp_path.iterdir()] == [KEY]


def test_puts_keep_a_store_near_its_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=50 * (100 + 32))
    for n in range(1000):
        store.put(key(str(n)), bytes(100))
    assert len(list(tmp_path.iterdir())) < 150  # a thousand without trimming; 16 between two trims on average


# ---- where -----------------------------------------------------------------------------------------------------------


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "mine"))
    found = cache.store("things")
    assert found is not None and found.folder == tmp_path / "mine" / "things"
    monkeypatch.setenv(cache.FOLDER, "")
    assert cache.folder() is None
    assert cache.store("things") is None


@pytest.mark.skipif(sys.platform != "linux", reason="the folders of the XDG standard")
def test_otherwise_it_is_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "rangekit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "rangekit"


@pytest.mark.skipif(sys.platform != "linux", reason="homes as POSIX has them")
def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(uid: int) -> Any:
        raise KeyError(uid)

    for name in (cache.FOLDER, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache.folder() is None
