"""What several test files share because it takes long to make."""

from __future__ import annotations

import functools
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.command import ROOT
from tests.shared import TRACES, VARIABLE
from tests.tiny import call
from toolchain.core import traces
from toolchain.core.log import logger


def pytest_configure(config: pytest.Config) -> None:
    """Names the folder that this process shares with those that it starts; Ctrl-C is answered in the background too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["COLUMNS"] = "120"  # what a command prints to a pipe is as wide
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = folder = tempfile.mkdtemp(prefix="toolchain-tests-")

        def clean() -> None:
            del os.environ[VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)

        config.add_cleanup(clean)
    os.environ[traces.VARIABLE] = str(Path(os.environ[VARIABLE]) / TRACES)


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which ``recipes/smoke.yaml`` has been run, once however many processes test."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    store = shared / "smoke-store"
    with FileLock(shared / "smoke-store.lock"):
        if not (store / "reports").exists():  # the last thing that a run writes
            done = call("run", "recipes/smoke.yaml", "--store", str(store), cwd=ROOT)
            assert done.code == 0, done.stderr
    return store


@pytest.fixture(autouse=True)
def log_as_imported() -> Iterator[None]:
    """A command sets up the log of its process, here of all tests after it, which would see each message twice."""
    yield
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture(autouse=True)
def exporters_table() -> None:
    """PyTorch's exporter makes its table of operators anew for every export: a fifth of a small model's; here, once.

    What has exported nothing yet does not import PyTorch for this.
    """
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is not None and not hasattr(registration.ONNXRegistry.from_torchlib, "cache_info"):
        registration.ONNXRegistry.from_torchlib = staticmethod(functools.cache(registration.ONNXRegistry.from_torchlib))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Recipes first, the longest before the others: at the end one process would wait for the other's.

    Before them all the one whose store others need: while it is made they would wait for it.
    """

    def place(item: pytest.Item) -> float:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        recipe = parameters.get("path") if "tests/recipes/" in item.nodeid else None
        if not isinstance(recipe, Path):
            return "tests/recipes/" not in item.nodeid
        return -math.inf if recipe.name == "smoke.yaml" else -recipe.stat().st_size

    items.sort(key=place)
