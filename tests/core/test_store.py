from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from toolchain.core.errors import StoreError
from toolchain.core.store import Artifact, Store, key_of

KEY = key_of({"stage": "export", "config": {"opset": 20}})
MANIFEST: dict[str, Any] = {"parts": {"stage": "export"}, "parents": [], "metrics": {"nodes": 3}}
FORK = multiprocessing.get_context("fork")


def _publish(store: Store, key: str = KEY, text: str = "weights", kind: str = "onnx") -> Artifact:
    with store.claim(kind, key) as claim:
        assert claim is not None
        (claim.out / "model.onnx").write_text(text)
        (claim.out / "deep").mkdir()
        (claim.out / "deep" / "part.bin").write_bytes(b"\0" * 10)
        return store.publish(claim, MANIFEST)


def _leftovers(store: Store) -> list[str]:
    return sorted(str(p.relative_to(store.root / ".partial")) for p in (store.root / ".partial").rglob("*"))


def test_the_error_of_a_library_in_a_store_that_was_removed_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    error = RuntimeError(f'I/O error: No such file or directory (os error 2) at path "{store.root}/.partial/k/w"')
    store.root.mkdir()
    assert store.explains(error) is None
    store.root.rmdir()
    explained = store.explains(error)
    assert explained is not None
    assert explained.message == f"the store {store.root} is gone: it was removed while the command ran"
    assert store.explains(RuntimeError("No such file or directory: model.onnx")) is None


def test_a_key_depends_on_content_and_not_on_the_order_of_keys() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
    assert len(key_of({})) == 32


def test_what_is_published_is_found_with_its_digests(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.find("onnx", KEY) is None
    made = _publish(store)
    found = store.find("onnx", KEY)
    assert found is not None
    assert (found.path, found.key, found.kind, found.metrics) == (made.path, KEY, "onnx", {"nodes": 3})
    # echo -n weights | sha256sum
    sha256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert found.manifest["files"]["model.onnx"] == {"bytes": 7, "sha256": sha256}
    assert found.size_bytes == 17
    assert found.problems() == []
    assert _leftovers(store) == []


def test_equal_content_has_equal_digests_under_different_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second, third = (_publish(store, key_of({"n": n}), text) for n, text in enumerate(["a", "a", "b"]))
    assert first.digest == second.digest != third.digest


def test_an_error_in_a_claim_leaves_nothing_published_and_keeps_what_is_to_be_resumed(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def work() -> None:
        with store.claim("onnx", KEY) as claim:
            assert claim is not None
            (claim.out / "model.onnx").write_text("half")
            (claim.work / "state").write_text("step 7")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        work()
    assert store.find("onnx", KEY) is None
    assert [name for name in _leftovers(store) if not name.endswith(".lock")] == [
        KEY,
        f"{KEY}/work",
        f"{KEY}/work/state",
    ]
    with store.claim("onnx", KEY) as claim:
        assert claim is not None
        assert (claim.work / "state").read_text() == "step 7"
        assert list(claim.out.iterdir()) == []
        store.publish(claim, MANIFEST)
    assert _leftovers(store) == []


def _work_and_wait(root: Path, started: Any) -> None:
    with Store(root).claim("onnx", KEY) as claim:
        assert claim is not None
        (claim.out / "model.onnx").write_text("half")
        started.set()
        time.sleep(60)


def test_a_killed_process_leaves_nothing_published_and_its_key_free(tmp_path: Path) -> None:
    started = FORK.Event()
    process = FORK.Process(target=_work_and_wait, args=(tmp_path, started))
    process.start()
    assert started.wait(20)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    store = Store(tmp_path)
    assert store.find("onnx", KEY) is None
    assert _publish(store).problems() == []
    assert (store.root / "onnx" / KEY / "model.onnx").read_text() == "weights"
    assert _leftovers(store) == []


def _make_once(root: Path, barrier: Any, done: Any) -> None:
    barrier.wait(20)
    with Store(root).claim("onnx", KEY) as claim:
        if claim is not None:
            time.sleep(0.3)
            (claim.out / "model.onnx").write_text(str(os.getpid()))
            Store(root).publish(claim, MANIFEST)
        done.put((os.getpid(), claim is not None))


def test_of_several_processes_on_one_key_one_works_and_the_others_get_its_result(tmp_path: Path) -> None:
    barrier, done = FORK.Barrier(3), FORK.Queue()
    processes = [FORK.Process(target=_make_once, args=(tmp_path, barrier, done)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = dict(done.get(timeout=20) for _ in processes)
    for process in processes:
        process.join(20)
    assert sorted(answers.values()) == [False, False, True]
    found = Store(tmp_path).find("onnx", KEY)
    assert found is not None
    assert answers[int((found.path / "model.onnx").read_text())] is True
    assert _leftovers(Store(tmp_path)) == []


def test_sweep_removes_what_was_left_of_published_artifacts_and_nothing_else(tmp_path: Path) -> None:
    store, other = Store(tmp_path), key_of({"n": 1})
    _publish(store)
    partial = store.root / ".partial"
    for name in (f"{KEY}/work", f"{other}/work", f"{other}.removed"):
        (partial / name).mkdir(parents=True)
    (partial / f"{KEY}.lock").touch()
    store.sweep()
    assert _leftovers(store) == [other, f"{other}/work"]


def test_verify_tells_a_flipped_byte_a_missing_file_and_a_file_too_many_apart(tmp_path: Path) -> None:
    artifact = _publish(Store(tmp_path))
    (artifact.path / "deep" / "part.bin").write_bytes(b"\0" * 9 + b"\1")
    (artifact.path / "extra").write_text("x")
    assert artifact.problems() == [
        f"{artifact.path}/deep/part.bin: its content has changed (SHA-256 differs from the manifest)",
        f"{artifact.path}/extra: not in the manifest",
    ]
    (artifact.path / "model.onnx").write_text("longer than it was")
    (artifact.path / "deep" / "part.bin").unlink()
    assert artifact.changes() == [
        f"{artifact.path}/deep/part.bin: missing",
        f"{artifact.path}/model.onnx: 18 bytes, the manifest says 7",
    ]


def test_nothing_is_built_on_a_damaged_artifact(tmp_path: Path) -> None:
    artifact = _publish(Store(tmp_path))
    Store(tmp_path).check(artifact)
    (artifact.path / "model.onnx").write_text("Weights")
    with pytest.raises(StoreError, match="its content has changed") as caught:
        Store(tmp_path).check(artifact)
    assert caught.value.hint == f"remove it and run again: rm -r {artifact.path}"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"key": "a"', '{"files": {}}', '{"files": [], "key": "a"}', "\udcff"]
)
def test_a_damaged_manifest_is_an_error_that_names_the_folder(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    artifact = _publish(store)
    (artifact.path / "manifest.json").write_text(text, "utf-8", "surrogateescape")
    looks: list[Callable[[], object]] = [
        lambda: store.find("onnx", KEY),
        lambda: store.resolve(str(artifact.path)),
        lambda: store.resolve(KEY),
    ]
    for look in looks:
        with pytest.raises(StoreError, match=r"manifest\.json is damaged") as caught:
            look()
        assert f"rm -r {artifact.path}" in caught.value.hint


def test_an_artifact_without_its_manifest_is_not_there(tmp_path: Path) -> None:
    artifact = _publish(Store(tmp_path))
    (artifact.path / "manifest.json").unlink()
    assert Store(tmp_path).find("onnx", KEY) is None
    assert list(Store(tmp_path).artifacts()) == []


def test_a_reference_is_a_folder_a_key_or_the_start_of_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [f"{start}{'0' * (32 - len(start))}" for start in ("ab1", "ab2", "c")]
    for key in keys:
        _publish(store, key)
    assert store.resolve("c").key == keys[2]
    assert store.resolve("ab2").key == keys[1]
    assert store.resolve(str(store.root / "onnx" / keys[0])).key == keys[0]
    with pytest.raises(StoreError, match=r"'ab' names 2 artifacts: onnx ab1000000000, onnx ab2000000000"):
        store.resolve("ab")
    for reference in ("d", "", "/no/such/folder"):
        with pytest.raises(StoreError, match="no artifact"):
            store.resolve(reference)


def test_gc_keeps_what_is_named_and_removes_the_rest_with_its_leftovers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept, gone = _publish(store, key_of({"n": 1})), _publish(store, key_of({"n": 2}), kind="engine")
    (store.root / ".partial" / key_of({"n": 3}) / "work").mkdir(parents=True)
    (store.root / ".partial" / key_of({"n": 3}) / "work" / "state").write_bytes(b"12345")
    before = _leftovers(store)
    removed, freed = store.gc([kept.key], dry_run=True)
    assert ([a.key for a in removed], freed) == ([gone.key], 17 + 5)
    assert gone.path.exists()
    assert _leftovers(store) == before
    removed, freed = store.gc([kept.key])
    assert ([a.key for a in removed], freed) == ([gone.key], 17 + 5)
    assert [a.key for a in store.artifacts()] == [kept.key]
    assert not gone.path.exists()
    assert _leftovers(store) == []


def test_gc_leaves_alone_what_a_process_works_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    state = store.root / ".partial" / KEY / "work" / "state"
    state.parent.mkdir(parents=True)
    state.write_text("step 7")
    with FileLock(store.root / ".partial" / f"{KEY}.lock"):
        assert store.gc([]) == ([], 0)
        assert state.read_text() == "step 7"
    store.gc([])
    assert not state.exists()


def test_a_store_in_a_repository_keeps_itself_out_of_its_history(tmp_path: Path) -> None:
    _publish(Store(tmp_path / "store"))
    assert (tmp_path / "store" / ".gitignore").read_text() == "*\n"


def test_a_store_that_is_a_file_is_an_error_that_names_another_folder(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    store = Store(tmp_path / "store")
    assert store.find("onnx", KEY) is None
    with pytest.raises(StoreError, match="cannot be used") as caught:
        _publish(store)
    assert "--store FOLDER" in caught.value.hint


def test_the_manifest_is_json_that_a_person_can_read(tmp_path: Path) -> None:
    artifact = _publish(Store(tmp_path))
    text = (artifact.path / "manifest.json").read_text()
    assert json.loads(text) == artifact.manifest
    assert text.startswith('{\n  "files": {\n')


def test_a_sweep_leaves_what_another_process_works_on(tmp_path: Path) -> None:
    """A forced run makes an artifact again that is published: the end of another run must not clear it away."""
    store = Store(tmp_path / "store")
    for again in (False, True):
        with store.claim("onnx", KEY, again=again) as claim:
            assert claim is not None
            (claim.out / "model.onnx").write_bytes(b"graph")
            if again:
                child = [sys.executable, "-c", _SWEEP, str(tmp_path / "store")]
                subprocess.run(child, check=True)
            store.publish(claim, {"parts": {}, "parents": [], "metrics": {}})
    assert (tmp_path / "store/onnx" / KEY / "model.onnx").read_bytes() == b"graph"
    store.sweep()
    assert not (tmp_path / "store/.partial").exists()


_SWEEP = "import sys, pathlib; from toolchain.core.store import Store; Store(pathlib.Path(sys.argv[1])).sweep()"


def test_an_interrupted_removal_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.claim("onnx", KEY) as claim:
        assert claim is not None
        (claim.out / "model.onnx").write_bytes(b"graph")
        artifact = store.publish(claim, {"parts": {}, "parents": [], "metrics": {}})
    (tmp_path / f"store/.partial/{KEY}.removed").mkdir(parents=True)
    (tmp_path / f"store/.partial/{KEY}.removed/left").write_bytes(b"")
    store.remove(artifact)
    assert store.find("onnx", KEY) is None
