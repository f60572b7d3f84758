from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from toolchain.core import disk
from toolchain.core.errors import ToolchainError


def test_a_pipe_a_device_and_a_socket_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b.csv"))
        for path, kind in (
            (tmp_path / "a.csv", "a pipe"),
            (Path("/dev/zero"), "a device"),
            (tmp_path / "b.csv", "a so"),
        ):
            with pytest.raises(ToolchainError, match=f"is {kind}.*, not a file"):
                disk.read_bounded(path)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"x" * 10)
    assert disk.read_bounded(path, 10) == b"x" * 10
    with pytest.raises(ToolchainError, match="has 10 bytes; at most 9 are read") as caught:
        disk.read_bounded(path, 9)
    assert "TOOLCHAIN_LIMIT_JSON_BYTES" in caught.value.hint


def test_what_is_no_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        disk.read_bounded(tmp_path)
    for name in ("absent", "a\0b"):
        with pytest.raises(FileNotFoundError):
            disk.read_bounded(tmp_path / name)
