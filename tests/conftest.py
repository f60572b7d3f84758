"""What several test files share because it takes long to make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.command import ROOT, toolchain


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which ``recipes/smoke.yaml`` has been run, once however many processes test."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    store = shared / "smoke-store"
    with FileLock(shared / "smoke-store.lock"):
        if not (store / "reports").exists():  # the last thing that a run writes
            done = toolchain("run", ROOT / "recipes/smoke.yaml", "--store", store)
            assert done.returncode == 0, done.stderr
    return store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Recipes first, the longest before the others: at the end one process would wait for the other's."""

    def place(item: pytest.Item) -> int:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        recipe = parameters.get("path") if "tests/recipes/" in item.nodeid else None
        return -recipe.stat().st_size if isinstance(recipe, Path) else "tests/recipes/" not in item.nodeid

    items.sort(key=place)
