"""Gate 1 in a run, where ONNX Runtime cannot compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import SENTENCES, context, onnx_folder
from tests.engines.broken import unknown_operator
from toolchain.core.errors import GateError
from toolchain.pipeline import gate

TEXTS = [(text,) for text in SENTENCES]


def test_an_exact_pass_behind_a_graph_that_cannot_be_run_is_not_judged(tmp_path: Path) -> None:
    strange = unknown_operator(tmp_path)
    found = gate._check_exact("clean", strange, strange, TEXTS, context(tmp_path))
    assert found["passed"] is None
    assert "NoSuchOperator" in found["reason"]


def test_an_exact_pass_that_makes_a_graph_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    strange = unknown_operator(tmp_path)
    with pytest.raises(GateError, match="clean wrote a graph that cannot be compared"):
        gate._check_exact("clean", onnx_folder(), strange, TEXTS, context(tmp_path))
