"""Gate 1 in a run, where ONNX Runtime cannot compare."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.builders import SENTENCES, context, onnx_folder
from tests.engines.broken import unknown_operator
from toolchain.core import registry
from toolchain.core.errors import EngineError, GateError, ModelError
from toolchain.pipeline import gate
from toolchain.pipeline.stages import optimize as stage

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


def test_a_pass_that_writes_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    """As ``dynamic_int8`` did of a graph in half precision."""
    strange, error = unknown_operator(tmp_path), EngineError("ONNX Runtime cannot load it: INVALID_GRAPH")
    with pytest.raises(GateError, match="dynamic_int8 wrote a graph that cannot be loaded, and nothing was published"):
        gate._check_valid("dynamic_int8", onnx_folder(), error, TEXTS, context(tmp_path))
    gate._check_valid("dynamic_int8", strange, error, TEXTS, context(tmp_path))  # it could not be run before either
    lacking = EngineError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel")
    gate._check_valid("bf16", onnx_folder(), lacking, TEXTS, context(tmp_path))


def test_passes_that_need_single_precision_refuse_a_graph_in_half(tmp_path: Path) -> None:
    model = onnx.load(onnx_folder() / "model.onnx")
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 2)
    narrow = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name)
    weight.CopyFrom(narrow)
    onnx.save(model, tmp_path / "model.onnx")
    refusing = {"static_int8", "dynamic_int8", "mixed", "nncf_static", "weight_only", "cls_only", "sparsity_24", "fp16"}
    refusing |= {"bf16", "inc_static", "inc_dynamic", "inc_auto", "inc_smoothquant", "inc_weight_only"}
    for name in registry.names("optimize"):
        technique = registry.get("optimize", name)
        step: Any = SimpleNamespace(technique=technique)
        stage.check_precision(step, onnx_folder())
        with pytest.raises(ModelError) if name in refusing else contextlib.nullcontext() as refusal:
            stage.check_precision(step, tmp_path)
        if refusal is not None:
            assert refusal.value.message == f"{name} takes a graph in fp32, and this one has weights in fp16"
