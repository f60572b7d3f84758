from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import (
    ARCHITECTURES,
    checkpoint_folder,
    context,
    dynamic_int8,
    engine_folder,
    onnx_folder,
    tiny_onnx_folder,
)
from tests.engines.broken import unknown_input, unknown_operator
from toolchain.core.errors import EngineError, ModelError, RecipeError
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime.session import stray_nodes
from toolchain.measure import gates
from toolchain.optimize import bf16


def batch(names: tuple[str, ...], rows: int, tokens: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(4, 60, (rows, tokens))
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: values[name] for name in names}


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_built_engine_gives_the_logits_of_pytorch(architecture: str, tmp_path: Path) -> None:
    import torch
    import transformers

    engine.build(onnx_folder(architecture), tmp_path, engine.Config(), context(tmp_path))
    session = engine.open_session(tmp_path, threads=1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint_folder(architecture)).eval()
    for rows, tokens in ((1, 3), (5, 17)):
        inputs = batch(session.inputs, rows, tokens)
        with torch.inference_mode():
            expected = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits.numpy()
        assert np.abs(session.run(inputs)["logits"] - expected).max() < 1e-5


@pytest.mark.parametrize("optimization", ["all", "extended", "basic"])
def test_lowering_happens_in_the_file_and_does_not_make_it_larger(optimization: Any, tmp_path: Path) -> None:
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(optimization=optimization), context(tmp_path))
    assert metrics["kept_source"] is False
    assert metrics["bytes"] == (tmp_path / "model.onnx").stat().st_size <= metrics["source_bytes"] * 1.02


@pytest.mark.parametrize("settings", [{"optimization": "disabled"}, {"offline": False}])
def test_a_file_that_is_not_to_be_lowered_stays_as_it_came(settings: Any, tmp_path: Path) -> None:
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(**settings), context(tmp_path))
    assert metrics["kept_source"] is True
    assert (tmp_path / "model.onnx").read_bytes() == (onnx_folder() / "model.onnx").read_bytes()


@pytest.mark.parametrize("settings", [{"attention": "plain"}, {"offline": False}, {"optimization": "basic"}])
def test_lengths_that_no_attention_would_read_are_refused(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        engine.build(onnx_folder(), tmp_path, engine.Config(mask="lengths", **settings), context(tmp_path))


def test_fusion_that_a_session_does_or_does_not_do_by_itself_is_counted(tmp_path: Path) -> None:
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(offline=False), context(tmp_path))
    # ONNX Runtime's own rules find no attention in the exporter's graph; GELUs are whole as they come.
    assert metrics["fusion"]["attention"] == [0, 2]
    assert metrics["fusion"]["gelu"] == [2, 2]
    assert gates.fusion(metrics["fusion"]).failed


def test_an_operator_without_a_kernel_says_which_pass_to_leave_out(tmp_path: Path) -> None:
    source, out = tiny_onnx_folder(tmp_path / "source"), tmp_path / "engine"
    out.mkdir()
    bf16.apply(onnx_folder(), source, bf16.Config(compute=True), context(tmp_path))
    with pytest.raises(EngineError, match="NOT_IMPLEMENTED") as caught:
        engine.build(source, out, engine.Config(), context(tmp_path))
    assert "bf16: {compute: false}" in caught.value.hint


def test_settings_that_are_tuned_are_those_of_a_processor() -> None:
    assert engine.tunes(engine.Config())
    assert not engine.tunes(engine.Config(tune=False))
    assert {"processor", "logical_cpus"} <= set(engine.fingerprint(engine.Config()))
    assert "processor" not in engine.fingerprint(engine.Config(tune=False))


def test_int8_weights_stay_int8_in_the_lowered_file(tmp_path: Path) -> None:
    import onnx

    source = tiny_onnx_folder(tmp_path)
    dynamic_int8(source)
    out = tmp_path / "engine"
    out.mkdir()
    metrics = engine.build(source, out, engine.Config(), context(tmp_path))
    assert metrics["bytes"] <= metrics["source_bytes"] * 1.02
    weights = [w for w in onnx.load(out / "model.onnx").graph.initializer if list(w.dims) == [64, 64]]
    # In each of 2 layers: query, key, value and output. The position table, unsigned, has the same shape.
    assert len(weights) >= 2 * 4
    assert {weight.data_type for weight in weights} <= {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        engine.build(onnx_folder(), tmp_path / name, engine.Config(), context(tmp_path))
        files.append((tmp_path / name / "model.onnx").read_bytes())
    assert files[0] == files[1]


def test_a_lowered_file_that_grew_is_replaced_by_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Below -1 no size is small enough, which makes every lowered file one that grew too much.
    monkeypatch.setattr(engine, "_MAX_GROWTH", -1.0)
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(), context(tmp_path))
    assert metrics["kept_source"] is True
    assert (tmp_path / "model.onnx").read_bytes() == (onnx_folder() / "model.onnx").read_bytes()


def test_external_data_is_carried_into_the_engine(tmp_path: Path) -> None:
    source = external(tmp_path, "weights.bin")
    out = tmp_path / "engine"
    out.mkdir()
    engine.build(source, out, engine.Config(), context(tmp_path))
    files = json.loads((out / "engine.json").read_text())["files"]
    assert files == ["model.onnx", "model.onnx.data"]
    shutil.rmtree(source)
    expected = engine_folder(tmp_path / "one-file")
    inputs = batch(("input_ids", "attention_mask", "token_type_ids"), 2, 9)
    found = engine.open_session(out, 1).run(inputs)["logits"]
    assert np.abs(found - engine.open_session(expected, 1).run(inputs)["logits"]).max() < 1e-6


def test_external_data_below_the_folder_is_kept_with_an_unlowered_file(tmp_path: Path) -> None:
    source = external(tmp_path, "data/weights.bin")
    out = tmp_path / "engine"
    out.mkdir()
    engine.build(source, out, engine.Config(offline=False), context(tmp_path))
    assert json.loads((out / "engine.json").read_text())["files"] == ["model.onnx", "data/weights.bin"]


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "C:\\weights.bin", ""])
def test_external_data_outside_of_the_folder_is_refused(location: str, tmp_path: Path) -> None:
    source = external(tmp_path, "weights.bin", renamed=location)
    shutil.copyfile(source / "weights.bin", tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="allowed are files in its own folder"):
        engine.build(source, tmp_path, engine.Config(), context(tmp_path))


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    source = external(tmp_path, "weights.bin")
    (source / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (source / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ModelError, match="symbolic link"):
        engine.build(source, tmp_path, engine.Config(), context(tmp_path))


@pytest.mark.parametrize("kept", [0, 100])
def test_missing_or_cut_external_data_is_named(kept: int, tmp_path: Path) -> None:
    source = external(tmp_path, "weights.bin")
    data = (source / "weights.bin").read_bytes()
    (source / "weights.bin").write_bytes(data[:kept]) if kept else (source / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin', which (is missing|ends before)"):
        engine.build(source, tmp_path, engine.Config(), context(tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 64])
def test_a_damaged_file_is_an_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "onnx"
    source.mkdir()
    (source / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        engine.build(source, tmp_path, engine.Config(), context(tmp_path))


def test_a_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx is missing"):
        engine.build(tmp_path, tmp_path, engine.Config(), context(tmp_path))


def test_an_operator_that_the_runtime_lacks_is_an_engine_error_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="NoSuchOperator") as caught:
        engine.build(unknown_operator(tmp_path), tmp_path, engine.Config(), context(tmp_path))
    assert caught.value.__cause__ is not None


def test_an_unknown_input_name_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="words: tensor"):
        engine.build(unknown_input(tmp_path), tmp_path, engine.Config(), context(tmp_path))


def test_cuda_without_its_provider_is_refused_before_any_work(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has the CUDA provider")
    with pytest.raises(EngineError, match="cuda was asked for") as caught:
        engine.build(onnx_folder(), tmp_path, engine.Config(provider="cuda"), context(tmp_path))
    assert "gpu" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_placement_counts_every_node_on_the_provider(tmp_path: Path) -> None:
    import onnx

    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(), context(tmp_path))
    assert list(metrics["placement"]) == ["CPUExecutionProvider"]
    # A session optimizes the file once more, so that some of its nodes may be gone, and none is new.
    nodes = len(onnx.load(tmp_path / "model.onnx").graph.node)
    assert nodes // 2 < metrics["placement"]["CPUExecutionProvider"] <= nodes


def event(op: str, provider: str, *outputs: dict[str, list[int]]) -> dict[str, Any]:
    arguments = {"op_name": op, "provider": provider, "output_type_shape": list(outputs)}
    return {"cat": "Node", "name": f"{op}_1_kernel_time", "args": arguments}


def test_compute_on_another_provider_is_a_stray_and_shape_arithmetic_is_not() -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    events = [
        event("MatMul", cuda, {"float": [3, 7, 64]}),
        event("Shape", cpu, {"int64": [2]}),
        event("Gather", cpu, {"int64": []}),
        event("Slice", cpu, {"int64": [1, 7]}),
        event("MemcpyToHost", cpu, {"float": [3, 7, 64]}),
        event("Gather", cpu, {"float": [3, 7, 64]}),
        event("DynamicQuantizeLinear", cpu, {"uint8": [3, 7, 64]}, {"float": []}),
        event("Cast", cpu, {"bool": [3, 7]}),
    ]
    expected = ["Gather_1 (Gather)", "DynamicQuantizeLinear_1 (DynamicQuantizeLinear)", "Cast_1 (Cast)"]
    assert stray_nodes(events, cuda) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": ["../model.onnx"]}, "allowed are files inside"),
        ({"files": ["/etc/passwd"]}, "allowed are files inside"),
        ({"files": ["other.onnx"]}, "is missing"),
        ({"files": []}, "needs 'engine'"),
        ({"options": {"provider": "abacus"}}, "options that this version does not know"),
        ({"options": {"provider": "cpu", "optimization": "all", "arena": "much"}}, "options that are not valid"),
    ],
)
def test_a_changed_engine_file_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "engine")
    record = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(EngineError, match=message):
        engine.open_session(folder, 1)


def test_a_user_file_is_copied_and_an_artifact_is_linked(tmp_path: Path) -> None:
    source = tiny_onnx_folder(tmp_path)
    for name, linked in (("copied", False), ("linked", True)):
        out = tmp_path / name
        out.mkdir()
        if linked:
            (source / "manifest.json").write_text("{}")
        engine.build(source, out, engine.Config(offline=False), context(tmp_path))
        assert (out / "model.onnx").samefile(source / "model.onnx") is linked


def external(path: Path, name: str, renamed: str | None = None) -> Path:
    """The tiny model with its weights in a file of that name; ``renamed`` is where it then says that they are."""
    import onnx

    source = path / "external"
    shutil.copytree(onnx_folder(), source)
    (source / name).parent.mkdir(exist_ok=True)
    model = onnx.load(source / "model.onnx")
    onnx.save(model, source / "model.onnx", save_as_external_data=True, location=name, size_threshold=1024)
    if renamed is not None:
        model = onnx.load(source / "model.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = renamed
        (source / "model.onnx").write_bytes(model.SerializeToString())
    return source
