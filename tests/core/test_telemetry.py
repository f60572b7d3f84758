from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import engine_folder
from tests.command import ROOT
from tests.shared import once

#: Stands before libc: notes every name that is looked up and every address that is connected to, native code's too.
NETWORK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static void note(const char *what, const char *name) {
  int file = open(getenv("NETWORK_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0666);
  dprintf(file, "%s %s\n", what, name);
  close(file);
}
int connect(int fd, const struct sockaddr *address, socklen_t size) {
  __typeof__(connect) *real = dlsym(RTLD_NEXT, "connect");
  if (address->sa_family != AF_UNIX) note("connect", "");
  return real(fd, address, size);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
  __typeof__(getaddrinfo) *real = dlsym(RTLD_NEXT, "getaddrinfo");
  note("getaddrinfo", node ? node : "");
  return real(node, service, hints, result);
}
"""

ASK = """
import sys
from pathlib import Path
from toolchain.runtime.predictor import Predictor
for folder in sys.argv[1:]:
    Predictor(Path(folder)).logits(["a warm and funny film"])
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc, which notes connections"
)


def network() -> Path:
    """Return the library that notes connections."""

    def compile_library(folder: Path) -> None:
        (folder / "network.c").write_text(NETWORK, "utf-8")
        command = ["gcc", "-shared", "-fPIC", "-o", str(folder / "network.so"), str(folder / "network.c"), "-ldl"]
        subprocess.run(command, check=True)

    return once("network-log", compile_library) / "network.so"


def traces(folder: Path, code: str, *arguments: str | Path) -> tuple[str, list[str]]:
    """Run a program in a fresh interpreter and an empty home; return its connections and the files it left there."""
    home, log = folder / "home", folder / "log"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and name not in SWITCHES}
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "NETWORK_LOG": str(log)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment["LD_PRELOAD"] = str(network())
    subprocess.run(command, env=environment, check=True, cwd=folder)
    return log.read_text("utf-8") if log.exists() else "", [str(path) for path in home.rglob("*") if path.is_file()]


#: Set by the process that tests, or by CI: a user's has none of them.
SWITCHES = ("DO_NOT_TRACK", "CI", "XDG_CACHE_HOME")


def test_connections_and_files_in_the_home_folder_are_noticed(tmp_path: Path) -> None:
    code = "import pathlib, socket\n(pathlib.Path.home() / 'id').touch()\nsocket.socket().connect_ex(('127.0.0.1', 9))"
    assert traces(tmp_path, code) == ("connect \n", [str(tmp_path / "home/id")])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_opening_an_engine_connects_to_nobody_and_leaves_no_id(engine: str, tmp_path: Path) -> None:
    pytest.importorskip(engine)
    folder = engine_folder(tmp_path / "engine", engine)
    assert traces(tmp_path, ASK, folder) == ("", [])


@pytest.mark.parametrize("module", ["nncf", "neural_compressor"])
def test_importing_a_quantizer_connects_to_nobody_and_leaves_no_id(module: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    code = "import sys\nfrom toolchain.core.errors import require\nrequire(sys.argv[1], '')"
    assert traces(tmp_path, code, module) == ("", [])
