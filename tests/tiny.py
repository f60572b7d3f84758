"""One tiny run of the whole path, shared by the tests that read what a run leaves; each process has a copy."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.shared import once
from toolchain.cli import main
from toolchain.core.artifact import digest
from toolchain.core.manifest import MANIFEST, sealed
from toolchain.core.store import Artifact, Store

#: 32 training sentences and one layer: 8 steps, each of them real, in a few seconds.
RECIPE = """\
name: tiny
task: {reviews: {train_size: 32, dev_size: 16, test_size: 24}}
model: scratch:bert-1x32
stages:
  - finetune: {epochs: 2, learning_rate: 1e-3, batch_size: 8}
variants:
  base: [export]
  dynamic-int8: [export, dynamic_int8]
engines: [onnxruntime]
benchmark: {batch_sizes: [1, 4], seconds: 0.02, rounds: 3, sample: 8, warmup: 1, threads: 1}
"""


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, data and messages."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True)
class Tiny:
    """A store in which RECIPE has been run; never to be written to."""

    root: Path
    result: Result

    @property
    def recipe(self) -> Path:
        return self.root / "tiny.yaml"

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def artifact(self, kind: str, technique: str = "") -> Artifact:
        """The one artifact of this kind, or the one that this technique made."""
        found = [a for a in self.store.artifacts() if a.kind == kind and technique in ("", made_by(a))]
        assert len(found) == 1, f"{len(found)} artifacts of kind {kind} by {technique or 'any'}"
        return found[0]

    def copy(self, folder: Path) -> Path:
        """A copy of the store and the recipe, to change at will; gives the store."""
        shutil.copy(self.recipe, folder / "tiny.yaml")
        return Path(shutil.copytree(self.root / "store", folder / "store"))


@functools.cache
def tiny() -> Tiny:
    """The shared run."""
    root = Path(tempfile.mkdtemp(prefix="toolchain-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    shutil.copytree(once("tiny", _run), root, dirs_exist_ok=True)
    return Tiny(root, Result(**json.loads((root / "result.json").read_text("utf-8"))))


def _run(root: Path) -> None:
    (root / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    result = call("run", "tiny.yaml", "--store", "store", "--json", cwd=root)
    assert result.code == 0, result.stderr
    (root / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")


def call(*argv: str, cwd: Path) -> Result:
    """Runs the command line in this process, in a folder."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    code: Any = 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _no_network():
        try:
            main(list(argv))
        except SystemExit as ended:
            code = ended.code
    signal.signal(signal.SIGTERM, before)
    return Result(int(code or 0), out.getvalue(), err.getvalue())


def republish(file: Path, text: str) -> None:
    """Write a file of an artifact anew, and its manifest, as if the artifact had been published so."""
    file.write_text(text, "utf-8")
    path = file.parent / MANIFEST
    record = json.loads(path.read_text("utf-8"))
    record["files"][file.name] = {"sha256": digest(file), "bytes": file.stat().st_size}
    path.write_text(json.dumps(sealed(record)), "utf-8")


def made_by(artifact: Artifact) -> str:
    """The technique that made an artifact."""
    return str(artifact.manifest["parts"]["technique"])


def made(result: Result) -> int:
    """How many steps a run says that it has run."""
    found = re.search(r"(\d+) steps run", result.stderr)
    assert found, result.stderr
    return int(found[1])


def _forget_connections() -> None:
    """The hub's library keeps one client, made with the proxies of its time."""
    hub = sys.modules.get("huggingface_hub")
    if hub is not None and hasattr(hub, "close_session"):
        hub.close_session()
    elif hub is not None:  # before 1.0, which transformers 4 needs
        hub.utils.reset_sessions()


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    """A proxy that nothing listens behind: whoever asks the hub is refused at once, on every machine alike."""
    names = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    before = {name: os.environ.get(name) for name in names}
    os.environ |= dict.fromkeys(names, "http://127.0.0.1:9")
    _forget_connections()
    try:
        yield
    finally:
        _forget_connections()
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}
