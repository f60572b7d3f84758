from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.builders import context, onnx_folder
from tests.engines.graphs import PASSES, STATIC, graph_folder
from tests.shared import once
from toolchain.core.errors import EngineError, ModelError, RecipeError
from toolchain.core.registry import get
from toolchain.engines import tensorrt as engine
from toolchain.engines.shared import cudart
from toolchain.engines.shared.artifact import read_engine
from toolchain.engines.shared.profiles import profiles_of
from toolchain.engines.shared.samples import Samples, encode_dev
from toolchain.engines.shared.tensorrt_errors import explained, shortened
from toolchain.engines.tensorrt import builder, session
from toolchain.model import graph

rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

FAMILIES = ("bert", "albert", "roberta")
DEVICES = [80, 86, 89, 120, 121]

without_gpu = pytest.mark.skipif(not cudart.absent(), reason="there is a GPU")


def plan_folder(family: str, precision: str) -> Path:
    """The engine folder of such a graph, with ``metrics.json`` beside; made once."""
    return once(f"plan-{family}-{precision}", lambda out: _plan(family, precision, out))


def _plan(family: str, precision: str, out: Path) -> None:
    source = graph_folder(family, precision)
    metrics = engine.build(source, out, engine.Config(batch_sizes=(4,)), context(out))
    (out / "metrics.json").write_text(json.dumps(metrics))
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, out / name)


def metrics_of(family: str, precision: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((plan_folder(family, precision) / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("precision", sorted(PASSES))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_computes_in_the_precision_of_its_graph(family: str, precision: str) -> None:
    folder, metrics = plan_folder(family, precision), metrics_of(family, precision)
    assert (folder / "model.plan").stat().st_size == metrics["bytes"] > 100_000
    assert metrics["compute_capabilities"] == (DEVICES[2:] if precision == "fp8" else DEVICES)
    # Two layers of six products, pooler and classifier; ALBERT has a projection of its embeddings too.
    quantized = {"int8", "fp8"} & {precision}
    expected = (15 if family == "albert" else 14) if quantized else 0
    assert metrics["int8_products"] == [expected, expected]
    if precision == "int8":
        # Attention's own two products of each layer stay in fp32; in fp16 they are one kernel with softmax.
        assert metrics["products"]["fp32"] == 4
    assert set(metrics["products"]) == {precision} | ({"fp32"} if precision == "int8" else set())


def test_fp16_makes_a_plan_smaller() -> None:
    assert metrics_of("bert", "fp16")["bytes"] < metrics_of("bert", "fp32")["bytes"]


def test_an_engine_file_says_what_was_built() -> None:
    found = read_engine(plan_folder("bert", "int8"))
    assert found.files == ("model.plan",)
    assert found.options["library"] == {"name": "tensorrt_rtx", "version": rtx.__version__}
    assert found.options["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert found.extra["precision"]["int8_products"] == [14, 14]
    assert len(found.extra["plan"]["sha256"]) == 64


def test_a_plan_is_for_the_devices_that_were_named(tmp_path: Path) -> None:
    config = engine.Config(compute_capabilities=(120, 89, 89), batch_sizes=(1,))
    assert engine.build(onnx_folder(), tmp_path, config, context(tmp_path))["compute_capabilities"] == [89, 120]


def test_profiles_hold_the_lengths_of_dev_texts_and_every_batch_size() -> None:
    samples = encode_dev(onnx_folder(), context(Path()))
    middle = sorted(samples.lengths)[(len(samples.lengths) - 1) // 2]
    one, many = profiles_of(samples, (8, 1, 8))
    assert (one.rows, one.tokens) == ((1, 1, 1), (1, middle, 32))
    assert many.rows[0] == 1
    assert many.rows[2] == 8
    assert 1 <= many.rows[1] <= 8
    assert min(samples.lengths) <= many.tokens[1] <= 32


def test_profiles_need_a_text() -> None:
    assert profiles_of(Samples(onnx_folder(), encode_dev(onnx_folder(), context(Path())).encoded[:1]), (32,))


def planted(folder: Path, change: Any) -> Path:
    """A copy of the tiny graph that a test has changed."""
    source = Path(shutil.copytree(onnx_folder(), folder / "planted"))
    model = onnx.load(source / "model.onnx")
    change(model)
    onnx.save(model, source / "model.onnx")
    return source


def refused(source: Path, folder: Path, **settings: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        engine.build(source, folder, engine.Config(batch_sizes=(1,), **settings), context(folder))
    assert not (folder / "model.plan").exists()
    return caught.value


def test_zero_points_are_refused_with_the_passes_that_have_none(tmp_path: Path) -> None:
    module = get("optimize", "static_int8").module
    source = Path(shutil.copytree(onnx_folder(), tmp_path / "graph"))
    module.apply(source, tmp_path, module.Config(symmetric=False, **STATIC), context(tmp_path))
    (tmp_path / "model.onnx").replace(source / "model.onnx")
    error = refused(source, tmp_path)
    assert "int8 has zero points" in error.message
    assert "static_int8: {symmetric: true}" in error.hint


def test_an_operator_of_another_runtime_is_refused_by_name(tmp_path: Path) -> None:
    def fuse(model: Any) -> None:
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
        gelu = next(node for node in model.graph.node if node.op_type == "Gelu")
        gelu.op_type, gelu.domain, gelu.name = "FastGelu", "com.microsoft", "ours"
        del gelu.attribute[:]

    error = refused(planted(tmp_path, fuse), tmp_path)
    assert "at node ours (FastGelu): the graph has an operator that TensorRT does not know" in error.message
    assert "dialect qdq" in error.hint


def test_fp8_for_a_device_without_it_says_which_have_it(tmp_path: Path) -> None:
    error = refused(graph_folder("bert", "fp8"), tmp_path, compute_capabilities=(80, 89))
    assert "FP8 takes compute capability 89 and up" in error.message
    assert error.hint.startswith("compute_capabilities: [89, 120]")


def test_softmax_guarded_against_nan_says_whose_export_has_none(tmp_path: Path) -> None:
    source = Path(shutil.copytree(onnx_folder(), tmp_path / "graph"))
    module = get("optimize", "fp16").module
    module.apply(source, tmp_path, module.Config(), context(tmp_path))
    (tmp_path / "model.onnx").replace(source / "model.onnx")
    error = refused(source, tmp_path)
    assert "guards softmax against NaN" in error.message
    assert "toolchain export" in error.hint


def attention(folder: Path) -> Path:
    """A graph of opset 23 with ONNX's own Attention in fp32."""
    path = folder / "attention.onnx"
    kind = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(name, kind, ["rows", 4, "tokens", 32]) for name in "qkvy"]
    node = onnx.helper.make_node("Attention", ["q", "k", "v"], ["y"], name="attention")
    made = onnx.helper.make_graph([node], "graph", values[:3], values[3:])
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10), path)
    return path


def by_hand(path: Path, shapes: list[tuple[int, ...]], flag: str = "") -> EngineError:
    """The error of a build that the engine has no settings for: other inputs, other flags."""
    trt = builder.load("tensorrt_rtx")
    said = builder.listener(trt)
    made = trt.Builder(said)
    network = made.create_network(0)
    assert trt.OnnxParser(network, said).parse_from_file(str(path))
    config, profile = made.create_builder_config(), made.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    if flag:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    assert made.build_serialized_network(network, config) is None
    return explained("build", path, said.errors)


def test_attention_of_opset_23_in_fp32_says_to_export_lower(tmp_path: Path) -> None:
    error = by_hand(attention(tmp_path), [(1, 4, 1, 32), (1, 4, 8, 32), (1, 4, 16, 32)])
    assert "opset 23" in error.message
    assert "opset: 21" in error.hint


@without_gpu
@pytest.mark.parametrize(("flag", "precision"), [("REFIT", "fp16"), ("STRIP_PLAN", "fp32")])
def test_a_plan_whose_weights_are_to_be_replaced_takes_a_driver(flag: str, precision: str) -> None:
    error = by_hand(graph_folder("bert", precision) / "model.onnx", [(1, 2), (1, 8), (1, 16)], flag)
    assert "the builder had to run kernels, which takes an NVIDIA driver and a GPU" in error.message
    assert error.hint == "build on a machine with an NVIDIA GPU"


def test_an_unknown_device_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"90 is not among those of tensorrt_rtx .*: 75, 80, 86, 89, 120, 121"):
        engine.build(onnx_folder(), tmp_path, engine.Config(compute_capabilities=(90,)), context(tmp_path))


def test_turing_takes_fp16_alone(tmp_path: Path) -> None:
    error = refused(onnx_folder(), tmp_path, compute_capabilities=(75, 80))
    assert "75 was asked for, whose kernels take fp16 alone" in error.message
    assert "leave 75 out" in error.hint


@pytest.mark.parametrize(
    "settings", [{"version_compatible": True}, {"hardware_compatible": "ampere_plus"}, {"timing_cache": "a"}]
)
def test_what_tensorrt_alone_offers_is_refused_by_rtx(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"{next(iter(settings))} is TensorRT's"):
        engine.build(onnx_folder(), tmp_path, engine.Config(**settings), context(tmp_path))


def test_what_is_no_graph_is_refused_before_tensorrt_reads_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError):
        engine.build(tmp_path, tmp_path, engine.Config(), context(tmp_path))


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(plan_folder("bert", "fp16"), tmp_path / "engine"))


@without_gpu
def test_without_a_driver_a_plan_says_what_it_needs(tmp_path: Path) -> None:
    assert engine.absent(engine.Config()) == "no NVIDIA driver"
    with pytest.raises(EngineError, match="no NVIDIA driver was found, and a TensorRT plan runs on") as caught:
        engine.open_session(copied(tmp_path), 1)
    assert "a machine with an NVIDIA GPU" in caught.value.hint


def test_a_plan_that_was_changed_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "load", lambda library: pytest.fail("it must not get so far"))
    folder = copied(tmp_path)
    plan = bytearray((folder / "model.plan").read_bytes())
    plan[len(plan) // 2] ^= 1
    (folder / "model.plan").write_bytes(plan)
    with pytest.raises(EngineError, match=r"is not the plan that was built.*it is not loaded") as caught:
        engine.open_session(folder, 1)
    assert caught.value.hint


def test_a_plan_that_the_store_does_not_know_is_not_loaded(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "manifest.json").write_text(json.dumps({"files": {"model.plan": {"sha256": "0" * 64}}}))
    with pytest.raises(EngineError, match="is not the plan that was built"):
        engine.open_session(folder, 1)
    (folder / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(EngineError, match=r"names no digest of model\.plan"):
        engine.open_session(folder, 1)


def test_a_plan_without_a_digest_is_not_loaded(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    record = json.loads((folder / "engine.json").read_text())
    del record["plan"]
    (folder / "engine.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match="a plan is code"):
        engine.open_session(folder, 1)


class Device:
    """A device of some compute capability, which no plan gets to."""

    def __init__(self, device: int) -> None:
        self.compute_capability = 75


def test_a_plan_of_another_version_or_device_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "Cuda", Device)
    folder = copied(tmp_path)
    with pytest.raises(EngineError, match=r"was built for compute capability 80, 86, .* GPU 0 has 75") as caught:
        engine.open_session(folder, 1)
    assert "add 75 to compute_capabilities" in caught.value.hint
    record = json.loads((folder / "engine.json").read_text())
    record["options"]["library"]["version"] = "1.0.0"
    (folder / "engine.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match=rf"built by tensorrt_rtx 1\.0\.0, and {rtx.__version__} is installed"):
        engine.open_session(folder, 1)


def unloaded(plan: bytes) -> EngineError:
    """What TensorRT says of a plan that it does not load."""
    trt = builder.load("tensorrt_rtx")
    said = builder.listener(trt)
    runtime = trt.Runtime(said)
    assert runtime.deserialize_cuda_engine(plan) is None
    return explained("load", Path("model.plan"), said.errors)


def test_what_is_no_plan_of_this_version_is_told_from_what_tensorrt_says() -> None:
    plan = (plan_folder("bert", "fp16") / "model.plan").read_bytes()
    # The first four bytes are the tag of the format, bytes 16 to 24 its length.
    for damaged in (b"no plan" * 100, b"trt1" + plan[4:], plan + b"more"):
        error = unloaded(damaged)
        assert "of another version of TensorRT, or damaged" in error.message
        assert error.hint == "build the engine again with the TensorRT that runs it"


@without_gpu
def test_a_plan_that_tensorrt_loads_without_a_driver_says_so() -> None:
    error = unloaded((plan_folder("bert", "fp16") / "model.plan").read_bytes())
    assert "this needs an NVIDIA driver and a GPU, and there is none" in error.message
    assert "compute_capabilities" in error.hint


def test_vendor_messages_lose_the_places_in_its_source() -> None:
    said = "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (No output. In validate at /_src/a.cpp:38)"
    assert shortened(said) == "Error Code 4: API Usage Error (No output."
    assert len(shortened("x" * 1000)) == 300


def test_a_quantized_product_that_runs_in_float_is_told(tmp_path: Path) -> None:
    from toolchain.engines.tensorrt import layers

    quantized = layers.quantized_products(graph.load(graph_folder("bert", "int8") / "model.onnx"))
    assert len(quantized) == 14
    assert set(quantized.values()) == {"int8"}
    lost = next(iter(quantized))
    line = (
        f"Name: a, LayerType: gemm, Inputs: [ {{ Name: x, Datatype: Float, Format: F }}], Constants: [ {{ Name: w, "
        f"Datatype: Int8, Format: F }}], Outputs: [], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: {lost}]"
    )
    (layer,) = layers.read(f"Layers:\n{line}\n\nI/O Tensors:\n Name: x, IOMode: Input\n")
    assert (layer.precision, layer.constants, layer.nodes) == ("fp32", ("int8",), (lost,))
    assert layers.describe([layer], {lost: "int8"})["float_products"] == [lost]


def test_layers_of_tensorrt_are_read_by_their_formats() -> None:
    from toolchain.engines.tensorrt import layers

    line = (
        "Name: fc, LayerType: gemm, Inputs: [ { Name: x, Location: Device, Dimensions: [8,64], Format/Datatype: Row "
        "major linear FP16 format }], Outputs: [ { Name: y, Format/Datatype: Row major linear FP32 }], TacticName: t"
    )
    (layer,) = layers.read(line)
    assert (layer.inputs, layer.outputs, layer.precision) == (("fp16",), ("fp32",), "fp16")
