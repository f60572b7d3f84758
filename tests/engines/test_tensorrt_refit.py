from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import context, onnx_folder
from tests.command import ROOT
from tests.engines.graphs import graph_folder
from tests.engines.test_onnxruntime_cuda import batch, logits
from tests.tiny import call
from toolchain.core.errors import EngineError
from toolchain.core.store import Store
from toolchain.engines import tensorrt as engine
from toolchain.engines.shared import cudart
from toolchain.engines.shared.artifact import read_engine, write_engine
from toolchain.engines.tensorrt import builder
from toolchain.engines.tensorrt import refit as refitting
from toolchain.model import graph
from toolchain.pipeline.refit import refit

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

without_gpu = pytest.mark.skipif(not cudart.absent(), reason="there is a GPU")
needs_gpu = pytest.mark.skipif(
    bool(cudart.absent()), reason="there is no NVIDIA GPU: refittable plans are built on one"
)


def changed(folder: Path, change: Callable[[Any], None], precision: str = "fp32") -> Path:
    """A copy of the tiny graph that a test has changed."""
    source = Path(shutil.copytree(graph_folder("bert", precision), folder / "graph"))
    model = graph.load(source / "model.onnx")
    change(model)
    graph.save(model, source / "model.onnx")
    return source


def trained(model: Any) -> None:
    """Other numbers in every weight that training changes."""
    generator = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype in (np.float32, np.float16) and values.ndim:
            other = (values + generator.normal(0, 0.02, values.shape)).astype(values.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(other, tensor.name))


def refittable(folder: Path, precision: str = "fp32") -> Path:
    """An engine folder that says its plan can be refitted; without a GPU it cannot, and no device is asked."""
    source = graph_folder("bert", precision)
    made = folder / "engine"
    made.mkdir()
    engine.build(source, made, engine.Config(batch_sizes=(1,), compute_capabilities=(89,)), context(folder))
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, made / name)
    found = read_engine(made)
    described = refitting.keep(made, graph.load(source / "model.onnx"))
    options = {**found.options, "refit": True}
    write_engine(made, "tensorrt", found.files, options, {**found.extra, "graph": described, "parameters": 7})
    return made


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return refittable(tmp_path_factory.mktemp("plan"))


@without_gpu
def test_a_refittable_plan_without_a_gpu_is_refused_before_any_work(tmp_path: Path) -> None:
    config = engine.Config(refit=True)
    with pytest.raises(
        EngineError, match=r"refit: true was asked for, and tensorrt_rtx runs kernels.*: no NVIDIA"
    ) as caught:
        engine.build(onnx_folder(), tmp_path, config, context(tmp_path))
    assert "leave refit out" in caught.value.hint
    assert not list(tmp_path.iterdir())
    assert engine.unbuilt(config) == cudart.absent()


@without_gpu
def test_a_recipe_that_asks_for_one_without_a_gpu_is_told_before_anything_is_run(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes/smoke.yaml")
    found = call("validate", recipe, "--set", "engines=[onnxruntime, {tensorrt: {refit: true}}]", cwd=tmp_path)
    assert "base/tensorrt: not applicable: tensorrt cannot be built here: no NVIDIA driver" in found.stdout
    both = "engines=[onnxruntime, {tensorrt: {refit: true, sparse_weights: true}}]"
    assert "refit and sparse_weights exclude each other" in call("validate", recipe, "--set", both, cwd=tmp_path).stderr


def test_refitting_and_sparse_kernels_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="refit and sparse_weights exclude each other"):
        engine.Config(refit=True, sparse_weights=True)


def test_the_flag_reaches_the_builder() -> None:
    trt = builder.load("tensorrt_rtx")
    maker = trt.Builder(builder.listener(trt))
    for wanted in (False, True):
        config = maker.create_builder_config()
        builder._set(trt, config, builder.Wish((), refit=wanted))
        assert config.get_flag(trt.BuilderFlag.REFIT) is wanted


def test_weights_that_were_trained_anew_fit_and_are_counted(plan: Path, tmp_path: Path) -> None:
    found = refitting.check(plan, changed(tmp_path, trained))
    floats = [name for name, (kind, shape, _) in found.graph["weights"].items() if kind == "FLOAT" and shape]
    assert found.changed == set(floats)
    assert len(floats) >= 20  # biases that were never trained are all zeros, and are one tensor of the graph


def test_what_tools_note_on_nodes_plays_no_part(plan: Path, tmp_path: Path) -> None:
    def annotate(model: Any) -> None:
        for number, node in enumerate(model.graph.node):
            node.name, node.doc_string = f"other {number}", "made elsewhere"

    assert refitting.check(plan, changed(tmp_path, annotate)).changed == set()


def narrow(model: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.name.endswith("dense.bias"))
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[:-1].copy(), tensor.name))


def renamed(model: Any) -> None:
    tensor = model.graph.initializer[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == tensor.name:
                node.input[index] = "renamed"
    tensor.name = "renamed"


def other_output(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3


def other_operator(model: Any) -> None:
    next(node for node in model.graph.node if node.op_type == "Gelu").op_type = "Tanh"


def rewired(model: Any) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    next(attribute for attribute in node.attribute if attribute.name == "axis").i = 1


def other_constant(model: Any) -> None:
    tensor = next(each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT64)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + 1, tensor.name))


def older(model: Any) -> None:
    model.opset_import[0].version = 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (older, r"its operators are of opset \{'': 12\}, and the plan's of \{'': 20\}"),
        (narrow, r"dense\.bias is of shape \[127\], and the plan's of \[128\]"),
        (renamed, r"its weights are called otherwise: it has renamed and lacks "),
        (other_output, r"its outputs are logits FLOAT \[\?, 3\], and the plan's logits FLOAT \[\?, 2\]"),
        (other_operator, r"its operators are others: 1 Gelu, and the plan's 2; 2 Tanh, and the plan's 1"),
        (rewired, r"its operators are connected or set otherwise"),
        (other_constant, r"its constant \S+, which is none of the weights that training changes, has other numbers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_another_graph_is_refused_with_what_differs(
    change: Callable[[Any], None], said: str, plan: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=rf"is not the graph that \S+ was built from: .*{said}") as caught:
        refitting.check(plan, changed(tmp_path, change))
    assert caught.value.hint == "build an engine from this graph"


def test_another_precision_is_told_as_such(plan: Path) -> None:
    with pytest.raises(
        EngineError, match=r"of another precision: its weights are .*FLOAT16.*, and the plan's BOOL, FLOAT"
    ):
        refitting.check(plan, graph_folder("bert", "fp16"))


def test_longer_texts_than_the_plan_takes_are_refused(plan: Path, tmp_path: Path) -> None:
    source = changed(tmp_path, trained)
    interface = json.loads((source / "interface.json").read_text())
    (source / "interface.json").write_text(json.dumps({**interface, "max_length": 64}))
    with pytest.raises(EngineError, match="has max_length 64, and the plan takes up to 32 tokens"):
        refitting.check(plan, source)


def test_other_classes_than_the_graph_has_are_refused(plan: Path, tmp_path: Path) -> None:
    source = changed(tmp_path, trained)
    interface = json.loads((source / "interface.json").read_text())
    (source / "interface.json").write_text(json.dumps({**interface, "labels": ["a", "b", "c"]}))
    with pytest.raises(EngineError, match="names 3 labels, and the graph gives 2 logits"):
        refitting.check(plan, source)


def copied(plan: Path, folder: Path, **record: Any) -> Path:
    made = Path(shutil.copytree(plan, folder / "copy"))
    found = json.loads((made / "engine.json").read_text())
    (made / "engine.json").write_text(json.dumps({**found, **record}))
    return made


def test_an_engine_that_was_not_built_for_it_is_refused(plan: Path, tmp_path: Path) -> None:
    options = {**read_engine(plan).options, "refit": False}
    with pytest.raises(EngineError, match="was not built with refit: true") as caught:
        refitting.check(copied(plan, tmp_path, options=options), onnx_folder())
    assert "tensorrt: {refit: true}" in caught.value.hint
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(EngineError, match="is an engine of onnxruntime, whose weights cannot be replaced"):
        refit(copied(plan, tmp_path, engine="onnxruntime"), onnx_folder(), Store(tmp_path / "store"))


@pytest.mark.parametrize(
    ("name", "said"), [("model.plan", "is not the plan that was built"), ("graph.json", "differs")]
)
def test_a_changed_file_is_refused(name: str, said: str, plan: Path, tmp_path: Path) -> None:
    folder = copied(plan, tmp_path)
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(EngineError, match=said):
        refitting.check(folder, onnx_folder())


def test_damaged_records_are_an_error_that_says_so(plan: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in read_engine(plan).options.items() if name != "profiles"}
    folder, source = copied(plan, tmp_path, options=options), changed(tmp_path, trained)
    for engine_folder, said in (
        (folder, "has records that are not valid: KeyError"),
        (tmp_path / "none", "is no folder"),
    ):
        found = call("refit", str(engine_folder), str(source), "--store", "store", cwd=tmp_path)
        assert found.code == 1
        assert said in found.stderr


def test_an_engine_that_was_changed_since_it_was_published_is_refused(plan: Path, tmp_path: Path) -> None:
    folder = copied(plan, tmp_path)
    files = {"engine.json": {"sha256": "0" * 64, "bytes": 1}}
    manifest = {"key": "0" * 32, "kind": "engine", "files": files, "parts": {}, "parents": [], "metrics": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = call("refit", str(folder), str(onnx_folder()), "--store", "store", cwd=tmp_path)
    assert found.code == 1
    assert "engine.json: " in found.stderr


@without_gpu
def test_the_command_says_what_is_missing_and_writes_nothing(plan: Path, tmp_path: Path) -> None:
    source = changed(tmp_path, trained)
    result = call("refit", str(plan), str(source), "-o", "new", "--store", "store", cwd=tmp_path)
    assert result.code == 1
    assert "no NVIDIA driver was found" in result.stderr
    (source / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in call("refit", str(plan), str(source), "--store", "store", cwd=tmp_path).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_calls_weights_as_the_graph_does(precision: str) -> None:
    trt = builder.load("tensorrt_rtx")
    said = builder.listener(trt)
    maker = trt.Builder(said)
    network = maker.create_network(0)
    parser = trt.OnnxParser(network, said)
    path = graph_folder("bert", precision) / "model.onnx"
    assert parser.parse_from_file(str(path))
    weights = [tensor for tensor in graph.load(path).graph.initializer if tensor.data_type in (1, 10) and tensor.dims]
    assert len(weights) >= 20
    assert [tensor.name for tensor in weights if not network.mark_weights_refittable(tensor.name)] == []
    assert not network.mark_weights_refittable("no such weight")


def test_the_library_has_what_refitting_calls() -> None:
    trt = builder.load("tensorrt_rtx")
    for owner, names in {
        trt.Refitter: ("get_all_weights", "get_missing_weights", "refit_cuda_engine"),
        trt.OnnxParserRefitter: ("refit_from_file", "get_error", "num_errors"),
        trt.ICudaEngine: ("refittable", "create_serialization_config", "serialize_with_config"),
        trt.ISerializationConfig: ("set_flag",),
        trt.SerializationFlag: ("INCLUDE_REFIT",),
    }.items():
        assert [name for name in names if not hasattr(owner, name)] == []


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_refitted_plan_gives_the_logits_of_the_new_graph(precision: str, tmp_path: Path) -> None:
    before, new = tmp_path / "before", tmp_path / "new"
    before.mkdir()
    new.mkdir()
    first = graph_folder("bert", precision)
    engine.build(first, before, engine.Config(refit=True, batch_sizes=(4,)), context(tmp_path))
    source = changed(tmp_path, trained, precision)
    told = refitting.apply(refitting.check(before, source), new)
    assert told["weights"][0] >= 20
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, new / name)
        shutil.copyfile(source / name, before / name)
    given = batch(3, 20)
    for folder, from_ in ((before, first), (new, source)):
        difference = np.abs(
            engine.open_session(folder, 1).run(given)["logits"] - logits(from_ / "model.onnx", given)
        ).max()
        assert difference < (2e-3 if precision == "fp32" else 3e-2)
    assert refitting.check(new, first).changed  # it can be refitted again
