"""Graphs whose weights lie beside them, as those above protobuf's 2 GiB do: here the limit is lowered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import context
from tests.optimize.variants import exported, made, sentence_logits
from toolchain.core.registry import get
from toolchain.engines import onnxruntime
from toolchain.model import graph, onnx_file

#: Pass to settings, and how far its logits may be from the float ones.
PASSES: dict[str, tuple[dict[str, Any], float]] = {
    "clean": ({}, 1e-5),
    "cls_only": ({}, 1e-5),
    "fp16": ({"samples": 4}, 0.02),
    "dynamic_int8": ({}, 0.5),
    "static_int8": ({"calibration_samples": 8}, 0.5),
    "weight_only": ({}, 0.5),
    "sparsity_24": ({}, 5.0),
}


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small model as one of more than 2 GiB is written."""
    monkeypatch.setattr(graph, "MAX_BYTES", 20_000)
    folder = tmp_path / "large"
    folder.mkdir()
    for name in ("tokenizer.json", "interface.json"):
        (folder / name).write_bytes((exported("bert") / name).read_bytes())
    graph.save(graph.load(exported("bert") / "model.onnx"), folder / "model.onnx")
    assert onnx_file.inspect(folder / "model.onnx").external == ("model.onnx.data",)
    return folder


def test_a_model_is_whole_after_it_is_saved(large: Path, tmp_path: Path) -> None:
    model = graph.load(large / "model.onnx")
    for name in ("one.onnx", "other.onnx"):
        graph.save(model, tmp_path / name)
    assert (tmp_path / "one.onnx.data").read_bytes() == (tmp_path / "other.onnx.data").read_bytes()
    assert graph.size_bytes(model) > graph.MAX_BYTES


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_reads_and_writes_weights_beside_the_graph(name: str, large: Path, tmp_path: Path) -> None:
    settings, most = PASSES[name]
    out, _ = made(get("optimize", name).module, large, tmp_path / "out", **settings)
    assert onnx_file.inspect(out / "model.onnx").external
    assert np.abs(sentence_logits(out) - sentence_logits(large)).max() < most


def test_onnx_runtime_is_built_from_weights_beside_the_graph(large: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    metrics = onnxruntime.build(large, out, onnxruntime.Config(tune=False), context(tmp_path))
    assert metrics["fusion"]["attention"] == [2, 2]
    assert onnx_file.inspect(out / "model.onnx").external


def test_the_size_of_a_model_is_that_of_its_file() -> None:
    path = exported("bert") / "model.onnx"
    assert graph.size_bytes(graph.load(path)) == pytest.approx(path.stat().st_size, rel=0.5)
