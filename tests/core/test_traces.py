from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from toolchain.core import traces
from toolchain.core.store import Store
from toolchain.core.verify import verify


def _sealed(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest() + packed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_kept_is_read_and_the_last_writing_counts(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "traces"
    assert traces.read(folder, "key") is None
    traces.write(folder, "key", b"one")
    traces.write(folder, "key", b"two")
    assert traces.read(folder, "key") == b"two"
    assert [path.name for path in folder.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "content", [b"", b"short", bytes(40), _sealed(b"not packed"), _sealed(zlib.compress(bytes(99))[:-1])]
)
def test_what_does_not_fit_its_digest_is_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert traces.read(tmp_path, "key") is None


def test_links_are_neither_read_nor_written_through(tmp_path: Path) -> None:
    traces.write(tmp_path / "there", "key", b"one")
    (tmp_path / "there" / "linked").symlink_to("key")
    (tmp_path / "link").symlink_to("there")
    assert traces.read(tmp_path / "there", "linked") is None
    traces.write(tmp_path / "link", "other", b"two")
    assert names(tmp_path / "there") == ["key", "linked"]


def test_those_that_were_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "KEPT", 2)
    for age, key in enumerate(("first", "second")):
        traces.write(tmp_path, key, b"")
        os.utime(tmp_path / key, (100 + age, 100 + age))
    assert traces.read(tmp_path, "first") == b""  # from now on the one that was used last
    traces.write(tmp_path, "third", b"")
    assert names(tmp_path) == ["first", "third"]


def test_what_is_too_large_or_cannot_be_written_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_BYTES", 50)
    traces.write(tmp_path, "large", bytes(50))
    traces.write(tmp_path, "small", bytes(49))
    assert traces.read(tmp_path, "small") == bytes(49)
    (tmp_path / "bomb").write_bytes(_sealed(zlib.compress(bytes(10_000))))
    assert traces.read(tmp_path, "bomb") is None
    traces.write(tmp_path / "small", "key", b"")  # a file, where a folder should be
    (tmp_path / "folder").mkdir()
    traces.write(tmp_path, "folder", b"")
    assert names(tmp_path) == ["bomb", "folder", "small"]


def test_a_variable_names_a_folder_for_several_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(traces.VARIABLE)
    assert traces.folder_of(tmp_path) == tmp_path / ".traces"
    monkeypatch.setenv(traces.VARIABLE, "shared")
    assert traces.folder_of(tmp_path) == Path.cwd() / "shared"


def test_verify_names_a_damaged_graph(tmp_path: Path) -> None:
    store = Store(tmp_path)
    traces.write(tmp_path / ".traces", "key", b"one")
    (tmp_path / ".traces" / ".partial-1").touch()  # what is being written
    whole = verify(store)
    assert not whole.problems
    path = tmp_path / ".traces" / "key"
    path.write_bytes(path.read_bytes()[:-1])
    damaged = verify(store)
    (message,) = damaged.problems[str(path)]
    assert "not a traced graph" in message
    assert damaged.root == whole.root
    path.parent.rename(tmp_path / "elsewhere")
    path.parent.symlink_to("elsewhere")
    assert list(verify(store).problems) == [str(path.parent)]


def test_gc_removes_graphs_where_nothing_is_to_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    traces.write(tmp_path / ".traces", "key", bytes(8))
    size = (tmp_path / ".traces" / "key").stat().st_size
    assert store.gc(["a key"]) == ([], 0)
    assert store.gc([], dry_run=True) == ([], size)
    assert traces.read(tmp_path / ".traces", "key") == bytes(8)
    assert store.gc([]) == ([], size)
    assert not (tmp_path / ".traces").exists()
