"""The command line where a machine lacks what is taken for granted: UTF-8, docstrings, a home, a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.tiny import RECIPE, tiny

#: In a mount namespace of its own: everything is read-only but one folder, and the user is one that nobody knows. It
#: may read all, because the interpreter may lie in another user's home.
BARE = """
set -e
for folder in / /tmp /var/tmp; do mount --bind "$folder" "$folder"; mount -o remount,bind,ro "$folder"; done
mount -t tmpfs -o mode=777 tmpfs "$1"
cd /
shift
exec setpriv --reuid 12345 --regid 12345 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search "$@"
"""


def run(*arguments: str | Path, options: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *options, "-m", "toolchain", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_replaced(encoding: str) -> None:
    command = ("run", tiny().recipe, "--store", tiny().store.root)
    expected, replaced = (run(*command, PYTHONIOENCODING=name) for name in ("utf-8", encoding))
    assert (expected.returncode, replaced.returncode) == (0, 0), replaced.stderr
    text = expected.stdout.decode("utf-8")
    words = [word for word in text.split() if not word.isascii() and any(map(str.isalnum, word))]
    assert words
    assert all(word.encode(encoding, "replace") in replaced.stdout for word in words)
    assert b"\nTraceback" not in replaced.stderr


@pytest.mark.parametrize("command", ["--help", "run --help", "list", "show static_int8"])
def test_without_docstrings_everything_is_explained_all_the_same(command: str) -> None:
    expected, found = run(*command.split()), run(*command.split(), options=("-OO",))
    assert (found.returncode, found.stdout) == (0, expected.stdout), found.stderr
    assert len(found.stdout.splitlines()) > 5


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0 or not (shutil.which("setpriv") and shutil.which("unshare")),
    reason="needs root, unshare and setpriv",
)
def test_an_unknown_user_without_a_home_runs_a_recipe_where_only_the_store_can_be_written() -> None:
    if subprocess.run(
        ["unshare", "-m", "mount", "--bind", "/tmp", "/tmp"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "store").mkdir()
        (folder / "tiny.yaml").write_text(RECIPE, "utf-8")
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = ["unshare", "-m", "bash", "-c", BARE, "bash", folder / "store", sys.executable, "-m", "toolchain"]
        command += ["run", folder / "tiny.yaml", "--store", folder / "store/artifacts"]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 steps run" in done.stderr
