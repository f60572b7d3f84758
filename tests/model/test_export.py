from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import context, sentences
from tests.shared import once
from toolchain.core.errors import GateError, ModelError
from toolchain.model import checkpoint, export, graph, scratch, tidy

ARCHITECTURES = ("bert", "roberta", "albert", "distilbert", "electra", "deberta-v2")


def made(folder: Path, architecture: str = "bert") -> Path:
    """A classifier of two layers, 64 wide as those whose fusion is tested, with random weights."""
    data = sentences()
    scratch.create(f"scratch:{architecture}-2x64", data.train.texts, 17, folder / "encoder")
    model = checkpoint.load_for_training(folder / "encoder", data.labels, 17)
    tokenizer = checkpoint.load_tokenizer(folder / "encoder")
    (folder / "checkpoint").mkdir()
    checkpoint.save(model, tokenizer, folder / "checkpoint", max_length=64, labels=data.labels, pair=False)
    return folder / "checkpoint"


def exported(folder: Path, architecture: str = "bert") -> tuple[Path, dict[str, Any]]:
    out = folder / "onnx"
    out.mkdir()
    metrics = export.apply(made(folder, architecture), out, export.Config(), context(folder, sentences()))
    return out, metrics


def shared(architecture: str = "bert") -> tuple[Path, dict[str, Any]]:
    """The same, made once; never to be written to."""

    def make(folder: Path) -> None:
        (folder / "metrics.json").write_text(json.dumps(exported(folder, architecture)[1]), "utf-8")

    folder = once(f"export-{architecture}", make)
    return folder / "onnx", json.loads((folder / "metrics.json").read_text("utf-8"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_graph_agrees_with_pytorch_at_shapes_that_were_not_traced(architecture: str) -> None:
    out, metrics = shared(architecture)
    shapes = metrics["differences"]
    assert len(shapes) >= 4
    assert {"1x3", "1x64"} <= set(shapes)  # the shortest input, one word between two special tokens, and the longest
    assert any(int(shape.split("x")[0]) > 1 for shape in shapes)
    assert 0 < metrics["max_difference"] <= 1e-5
    assert checkpoint.read_json(out / "interface.json")["dialect"] == "standard"
    assert graph.dialect(graph.load(out / "model.onnx")) == "standard"


def test_shared_layers_stand_in_the_file_once() -> None:
    out, metrics = shared("albert")
    model = graph.load(out / "model.onnx")
    # Biases that are all zero before training are equal, so they stand there once as well.
    assert graph.parameters(model) == pytest.approx(metrics["parameters"], rel=0.02)
    # Position ids and the graph itself come on top of four bytes for each parameter.
    assert (out / "model.onnx").stat().st_size < 4 * metrics["parameters"] + 60_000


def test_weights_are_constants_that_products_read() -> None:
    model = graph.load(shared()[0] / "model.onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    transposed = [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in constants]
    products = [n for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
    assert transposed == []
    assert len(products) == 2 * 6  # query, key, value, output and two of the FFN, in two layers


def test_other_tools_can_quantize_the_graph(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = shared()[0] / "model.onnx"
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    assert not weights & {value.name for value in model.graph.value_info}  # stale once a tool transposes a weight
    quantization.quantize_dynamic(path, tmp_path / "int8.onnx")
    quantization.shape_inference.quant_pre_process(path, tmp_path / "prepared.onnx", auto_merge=True)
    quantization.quantize_dynamic(tmp_path / "prepared.onnx", tmp_path / "prepared-int8.onnx")
    for name in ("int8.onnx", "prepared-int8.onnx"):
        assert graph.dialect(graph.load(tmp_path / name)) == "ort"


def test_two_exports_are_equal_bytes(tmp_path: Path) -> None:
    first, _ = shared()
    (tmp_path / "again").mkdir()
    export.apply(first.parent / "checkpoint", tmp_path / "again", export.Config(), context(tmp_path, sentences()))
    assert (tmp_path / "again/model.onnx").read_bytes() == (first / "model.onnx").read_bytes()


def test_a_graph_that_differs_is_refused_and_the_first_node_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strip = tidy.strip

    def plant(model: Any) -> None:
        """Changes a weight of the second layer's FFN behind the exporter's back."""
        import onnx_ir

        strip(model)
        products = [n for n in model.graph if n.op_type == "MatMul" and n.inputs[1].const_value is not None]
        weight = products[10].inputs[1]
        weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * np.float32(-20), name=weight.name)

    monkeypatch.setattr(tidy, "strip", plant)
    with pytest.raises(
        GateError, match=r"differs from PyTorch by .* first diverging node: (linear_10|val_\d+) "
    ) as caught:
        exported(tmp_path)
    assert caught.value.exit_code == 3


def test_flops_are_those_of_the_matrix_products() -> None:
    _, metrics = shared()
    tokens, hidden = round(metrics["mean_tokens"]), 64
    layer = 2 * tokens * (4 * hidden * hidden + 2 * hidden * 4 * hidden) + 2 * 2 * tokens * tokens * hidden
    assert metrics["flops"] == 2 * layer + 2 * hidden * hidden + 2 * hidden * 2  # two layers, pooler, classifier


def test_external_data_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    out = Path(shutil.copytree(shared()[0], tmp_path / "onnx"))
    model = onnx.load(str(out / "model.onnx"))
    (tmp_path / "outside").mkdir()
    onnx.save(model, str(out / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(str(out / "model.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (out / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"weights\.bin"):
        graph.load(out / "model.onnx")
