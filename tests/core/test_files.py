from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from toolchain.core.errors import DataError, ModelError
from toolchain.core.files import check_file, is_plain, safe_folder


def hub_cache(root: Path) -> Path:
    """A snapshot folder as the hub's cache lays it out."""
    snapshot = root / "models--org--name" / "snapshots" / "abc"
    (root / "models--org--name" / "blobs").mkdir(parents=True)
    (root / "models--org--name" / "blobs" / "0f").write_text("{}")
    (snapshot / "onnx").mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0f")
    (snapshot / "onnx" / "config.json").symlink_to("../../../blobs/0f")
    return snapshot


@pytest.mark.parametrize(
    "name", ["", ".", "/a", "../a", "a/../../b", "a\\b", "C:a", "C:/a", "a\0b", None, 5, ["a"]]
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_not_plain(name: object) -> None:
    assert not is_plain(name)


@pytest.mark.parametrize("name", ["a", "a b.json", "sub/a.bin", "..a", "a..b"])
def test_a_name_inside_is_plain(name: str) -> None:
    assert is_plain(name)


def test_only_files_whose_names_fit_are_given(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "evil.py", "weights.bin"):
        (tmp_path / name).touch()
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    assert safe_folder(tmp_path, ("*.json",)) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert safe_folder(tmp_path / "missing", ("*.json",)) == []


def test_links_are_followed_in_the_hub_s_cache_alone(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub")
    assert [path.read_text() for path in safe_folder(snapshot, ("*.json",))] == ["{}"]
    assert check_file(snapshot, "onnx/config.json").read_text() == "{}"
    (tmp_path / "current").symlink_to(snapshot)  # the folder itself is what the user names
    assert check_file(tmp_path / "current", "config.json").read_text() == "{}"
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (snapshot.parent.parent / "blobs" / "1f").symlink_to(secret)
    for target in ("../../blobs/1f", "../../blobs/../../../secret", str(secret), "config.json"):
        (snapshot / "vocab.txt").unlink(missing_ok=True)
        (snapshot / "vocab.txt").symlink_to(target)
        if target == "config.json":  # leads on to a blob of the same model
            assert check_file(snapshot, "vocab.txt")
            continue
        with pytest.raises(ModelError, match=r"vocab\.txt is a symbolic link to .*; allowed are regular files"):
            safe_folder(snapshot, ("*.txt",))


def test_blobs_that_are_a_link_themselves_lead_nowhere(tmp_path: Path) -> None:
    snapshot = tmp_path / "x" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    (tmp_path / "x" / "blobs").symlink_to(tmp_path / "outside")
    (snapshot / "vocab.txt").symlink_to("../../blobs/secret")
    with pytest.raises(ModelError, match="is a symbolic link"):
        check_file(snapshot, "vocab.txt")


def test_a_folder_inside_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.bin").touch()
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ModelError, match="sub is a symbolic link"):
        check_file(tmp_path / "model", "sub/a.bin")


def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match=r"pipe\.json is a named pipe; allowed are regular files"):
        safe_folder(tmp_path, ("*.json",), DataError)
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(tmp_path)  # its name may have 108 characters
        try:
            end.bind("socket.txt")
        finally:
            os.chdir(here)
        with pytest.raises(ModelError, match=r"socket\.txt is a socket"):
            safe_folder(tmp_path, ("*.txt",))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match="folder is a folder"):
        check_file(tmp_path, "folder")
    with pytest.raises(ModelError, match="missing cannot be read: No such file"):
        check_file(tmp_path, "missing")
    with pytest.raises(ModelError, match=r"names the file '\.\./a'; allowed are files inside"):
        check_file(tmp_path, "../a")


def test_sizes_and_numbers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setenv("TOOLCHAIN_LIMIT_FILE_BYTES", "1")
    with pytest.raises(ModelError, match=r"a\.bin has 2 bytes; allowed are at most 1"):
        safe_folder(tmp_path, ("*.bin",))
    monkeypatch.setenv("TOOLCHAIN_LIMIT_FOLDER_FILES", "1")
    with pytest.raises(ModelError, match="holds 2 files; allowed are at most 1"):
        safe_folder(tmp_path, ("*.bin",))


@pytest.mark.parametrize(("name", "limited"), [("tokenizer.json", "TOKENIZER_BYTES"), ("config.json", "JSON_BYTES")])
def test_a_json_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path, name: str, limited: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(3 << 30)
    for look in (lambda: check_file(tmp_path, name), lambda: safe_folder(tmp_path, ("*.json",))):
        with pytest.raises(ModelError, match=f"{name} has 3,221,225,472 bytes") as caught:
            look()
        assert f"TOOLCHAIN_LIMIT_{limited}" in caught.value.hint
