"""These tests need Optimum, which needs an environment of its own: ``make test-optimum`` makes one and runs them.

They run twice there: in that environment, our exporter and transformers 4.57 beside Optimum; and in the usual one, with
``TOOLCHAIN_TEST_OPTIMUM`` naming the other's interpreter, so that the two meet in files alone.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest


@pytest.fixture(scope="session")
def optimum_python() -> str:
    """An interpreter that has Optimum."""
    named = os.environ.get("TOOLCHAIN_TEST_OPTIMUM", "")
    if named:
        return os.path.abspath(named)  # noqa: PTH100 - not resolved: an environment is known by where its link lies
    if importlib.util.find_spec("optimum") is None:
        pytest.skip("Optimum has an environment of its own: make test-optimum")
    return sys.executable
