from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.mounts import mounted, read_only
from tests.core.test_store import KEY, MANIFEST, _leftovers, _publish
from toolchain.core.errors import StoreError
from toolchain.core.store import Store


def test_a_full_disk_is_a_clear_error_and_breaks_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "256k") as folder:
        store = Store(folder / "store")
        first = _publish(store, "0" * 32)
        ballast = folder / "ballast"
        with pytest.raises(OSError, match="No space left"):
            ballast.write_bytes(b"x" * 300_000)

        def work() -> None:
            with store.errors(), store.claim("onnx", KEY) as claim:
                assert claim is not None
                (claim.out / "model.onnx").write_bytes(b"w" * 50_000)
                store.publish(claim, MANIFEST)

        with pytest.raises(StoreError, match="No space left on device") as caught:
            work()
        assert "toolchain gc" in caught.value.hint
        assert store.find("onnx", KEY) is None
        assert first.problems() == []
        ballast.unlink()
        work()
        found = store.find("onnx", KEY)
        assert found is not None
        assert found.problems() == []
        assert _leftovers(store) == []


def test_the_error_of_a_library_on_a_full_disk_is_told_as_one_of_the_disk(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "64k") as folder:
        store = Store(folder / "store")
        assert store.explains(RuntimeError("cannot open model.onnx")) is None
        with pytest.raises(OSError, match="No space left"):
            (folder / "ballast").write_bytes(b"x" * 80_000)
        explained = store.explains(RuntimeError("cannot write model.onnx"))
        assert explained is not None
        assert "No space left on device" in explained.message


def test_a_read_only_store_is_read_and_says_that_it_cannot_be_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "256k") as folder:
        store = Store(folder / "store")
        _publish(store, "0" * 32)
        read_only(folder)
        assert store.find("onnx", "0" * 32) is not None
        store.sweep()
        for write in (lambda: _publish(store), lambda: store.gc([])):
            with pytest.raises(StoreError, match="Read-only file system") as caught:
                write()
            assert caught.value.hint == "the file system is read-only: choose another folder with --store FOLDER"
