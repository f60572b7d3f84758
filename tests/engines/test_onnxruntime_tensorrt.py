from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import context, engine_folder, onnx_folder
from tests.engines.graphs import graph_folder
from tests.engines.test_onnxruntime_cuda import OUTPUTS, batch, has_gpu, logits
from toolchain.core.errors import EngineError, RecipeError
from toolchain.core.registry import get
from toolchain.core.store import digest
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import cuda, tensorrt
from toolchain.engines.onnxruntime.session import NO_TENSORRT, Opening, remedy
from toolchain.engines.shared.artifact import read_engine
from toolchain.engines.shared.profiles import Profile
from toolchain.engines.shared.samples import encode_dev
from toolchain.model import graph

without_tensorrt = pytest.mark.skipif(not tensorrt.missing(), reason="TensorRT 10 is here")
needs_tensorrt = pytest.mark.skipif(
    bool(tensorrt.missing()) or not has_gpu(), reason="there is no TensorRT 10, no NVIDIA GPU, or no onnxruntime-gpu"
)

FORM = tensorrt.Form(("input_ids", "attention_mask"), Profile((1, 4, 8), (1, 9, 32)))


def form_of(source: Path, *sizes: int) -> tensorrt.Form:
    path = source / "model.onnx"
    return tensorrt.form_of(graph.load(path), path, encode_dev(onnx_folder(), context(Path())), sizes)


@without_tensorrt
def test_a_tensorrt_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    import onnxruntime

    lacking = "TensorrtExecutionProvider" not in onnxruntime.get_available_providers()
    told = "this onnxruntime has" if lacking else r"it needs TensorRT 10: .*nvinfer"
    with pytest.raises(EngineError, match=f"provider tensorrt was asked for, and {told}") as caught:
        engine.build(onnx_folder(), tmp_path, engine.Config(provider="tensorrt"), context(tmp_path))
    assert "pip install" in caught.value.hint
    assert not list(tmp_path.iterdir())


@without_tensorrt
def test_the_missing_library_is_named_with_what_brings_it() -> None:
    assert tensorrt.LIBRARIES[0] in tensorrt.missing()
    assert tensorrt.version() is None
    with pytest.raises(EngineError, match="provider tensorrt was asked for, and it needs TensorRT 10: ") as caught:
        tensorrt.check_tensorrt()
    assert caught.value.hint.startswith("pip install 'tensorrt-cu13-libs>=10.13,<11' --extra-index-url")
    assert engine.lacks("tensorrt") == f"TensorRT 10 missing ({tensorrt.missing()}): {tensorrt.INSTALL}"
    assert engine.lacks("cuda") == engine.lacks("cpu") == ""


def test_another_tensorrt_and_a_damaged_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / tensorrt.WHEEL
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "libnvinfer.so.11").touch()
    (folder / "libtrt_none.so.10").write_bytes(b"no library")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tensorrt._library.__wrapped__("libnvinfer.so.99")).endswith("; tensorrt_libs has libnvinfer.so.11")
    assert "libtrt_none.so.10" in str(tensorrt._library.__wrapped__("libtrt_none.so.10"))


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("fp32", {}), ("fp16", {"fp16": True}), ("int8", {"int8": True})],
)
def test_precision_is_that_of_the_graph(precision: str, flags: dict[str, bool]) -> None:
    found = form_of(graph_folder("bert", precision), 1, 8)
    assert {name: getattr(found, name) for name in ("fp16", "bf16", "int8", "sparse")} == {
        **dict.fromkeys(("fp16", "bf16", "int8", "sparse"), False), **flags
    }  # fmt: skip
    assert found.inputs == ("input_ids", "attention_mask", "token_type_ids")


@pytest.mark.parametrize(("compute", "allowed"), [(True, True), (False, False)])
def test_weights_that_are_stored_narrow_and_computed_wide_allow_nothing(
    compute: bool, allowed: bool, tmp_path: Path
) -> None:
    module = get("optimize", "bf16").module
    module.apply(onnx_folder(), tmp_path, module.Config(compute=compute), context(tmp_path))
    assert form_of(tmp_path).bf16 is allowed


def test_sparse_weights_are_found(tmp_path: Path) -> None:
    from toolchain.model import two_four

    model = graph.load(graph_folder("bert", "fp32") / "model.onnx")
    matrix = next(two_four.matrices(model))
    values = np.where(two_four.keep(matrix.values, matrix.axis), matrix.values, 0).astype(np.float32)
    matrix.tensor.CopyFrom(onnx.numpy_helper.from_array(values, matrix.tensor.name))
    graph.save(model, tmp_path / "model.onnx")
    assert form_of(tmp_path).sparse


def test_one_profile_takes_every_batch_and_is_best_for_dev_texts() -> None:
    samples = encode_dev(onnx_folder(), context(Path()))
    profile = form_of(onnx_folder(), 1, 16).profile
    assert (profile.rows[0], profile.rows[2]) == (1, 16)
    assert (profile.tokens[0], profile.tokens[2]) == (1, 32)
    assert min(samples.lengths) <= profile.tokens[1] <= max(samples.lengths)
    assert 1 <= profile.rows[1] <= 16
    # Placement is read from a batch of three rows, whatever the recipe's batch sizes.
    assert form_of(onnx_folder(), 1).profile.rows[2] == 3
    assert form_of(onnx_folder()).profile.rows[2] == 32


@pytest.mark.parametrize("pass_", ["dynamic_int8", "static_int8"])
def test_what_tensorrt_does_not_take_is_refused_with_what_it_takes(pass_: str, tmp_path: Path) -> None:
    module = get("optimize", pass_).module
    settings = (
        {"symmetric": False, "calibration": "min_max", "calibration_samples": 8} if pass_ == "static_int8" else {}
    )
    module.apply(onnx_folder(), tmp_path, module.Config(**settings), context(tmp_path))
    with pytest.raises(EngineError, match=r"is of dialect \S+, and provider: tensorrt takes standard, qdq") as caught:
        form_of(tmp_path)
    assert ("static_int8: {symmetric: true}" in caught.value.hint) == (pass_ == "static_int8")


def test_options_of_the_provider_are_those_of_the_graph(tmp_path: Path) -> None:
    config = engine.Config(provider="tensorrt", device_id=1, strict_norms=True, cuda_graph=True)
    form = dataclasses.replace(FORM, fp16=True)
    opening = engine._opening(config, onnx_folder(), form)
    assert tensorrt.provider_options(opening, form, tmp_path) == {
        "device_id": "1",
        "trt_fp16_enable": "1",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
        "trt_sparsity_enable": "0",
        "trt_layer_norm_fp32_fallback": "1",
        "trt_cuda_graph_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
        "trt_profile_opt_shapes": "input_ids:4x9,attention_mask:4x9",
        "trt_profile_max_shapes": "input_ids:8x32,attention_mask:8x32",
    }
    assert opening.most_tokens == 32


def test_a_form_outlives_json() -> None:
    assert tensorrt.Form.of(json.loads(json.dumps(dataclasses.asdict(FORM)))) == FORM


def test_fp32_is_not_rounded_to_tf32_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tensorrt.TF32_VARIABLE, raising=False)
    with pytest.raises(EngineError, match="NVIDIA_TF32_OVERRIDE is not set") as caught:
        tensorrt.check_tf32(FORM, use_tf32=False)
    assert caught.value.hint.startswith("start with NVIDIA_TF32_OVERRIDE=0 in the environment")
    tensorrt.check_tf32(FORM, use_tf32=True)
    tensorrt.check_tf32(dataclasses.replace(FORM, fp16=True), use_tf32=False)
    monkeypatch.setenv(tensorrt.TF32_VARIABLE, "0")
    tensorrt.check_tf32(FORM, use_tf32=False)


@pytest.mark.parametrize("settings", [{"mask": "lengths"}, {"residuals": "fused"}])
def test_what_onnx_runtime_fuses_is_no_setting_of_tensorrt(settings: Any) -> None:
    with pytest.raises(RecipeError, match=f"{next(iter(settings))}: {next(iter(settings.values()))} is about"):
        engine._check_settings(engine.Config(provider="tensorrt", **settings))


def kept_folder(folder: Path) -> Path:
    """An engine folder with plans, as far as it comes without TensorRT: their bytes are none."""
    made = engine_folder(folder, tune=False)
    for name in ("TRTKernel_sm80.engine", "TRTKernel.profile", "cache_sm80.timing"):
        (made / name).write_text(name)
    record = json.loads((made / "engine.json").read_text())
    record["options"] |= {"provider": "tensorrt"}
    record["files"] += [path.name for path in tensorrt.kept(made)]
    record["plans"] = {name: digest(made / name) for name in record["files"]}
    record |= {"form": dataclasses.asdict(FORM), "built_for": {"tensorrt": "10.99.0", "compute_capability": 80}}
    (made / "engine.json").write_text(json.dumps(record))
    return made


def test_plans_that_were_changed_or_added_are_not_loaded(tmp_path: Path) -> None:
    folder = kept_folder(tmp_path)
    tensorrt.check_plans(folder, read_engine(folder))
    (folder / "TRTKernel_sm80.engine").write_text("another")
    with pytest.raises(EngineError, match=r"TRTKernel_sm80\.engine is not what was built.* it is another"):
        tensorrt.check_plans(folder, read_engine(folder))
    (folder / "TRTKernel_sm80.engine").write_text("TRTKernel_sm80.engine")
    (folder / "TRTKernel_sm90.engine").write_text("planted")
    with pytest.raises(EngineError, match=r"TRTKernel_sm90\.engine is not what was built.* it is added"):
        tensorrt.check_plans(folder, read_engine(folder))


def test_a_changed_graph_is_not_loaded_either_and_a_manifest_must_agree(tmp_path: Path) -> None:
    folder = kept_folder(tmp_path)
    files = {name: {"sha256": digest(folder / name)} for name in read_engine(folder).files}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    tensorrt.check_plans(folder, read_engine(folder))
    with (folder / "model.onnx").open("ab") as file:
        file.write(b" ")  # a graph may carry a plan of its own
    record = json.loads((folder / "engine.json").read_text())
    with pytest.raises(EngineError, match=r"model\.onnx is not what was built"):
        tensorrt.check_plans(folder, read_engine(folder))
    record["plans"]["model.onnx"] = digest(folder / "model.onnx")
    (folder / "engine.json").write_text(json.dumps(record))
    with pytest.raises(EngineError, match=r"model\.onnx is not what was built"):
        tensorrt.check_plans(folder, read_engine(folder))


def test_plans_without_digests_are_not_loaded(tmp_path: Path) -> None:
    folder = kept_folder(tmp_path)
    manifest = read_engine(folder)
    with pytest.raises(EngineError, match="holds no digests of plans: a plan is code"):
        tensorrt.check_plans(folder, dataclasses.replace(manifest, extra={}))


@without_tensorrt
def test_plans_for_another_tensorrt_or_gpu_are_not_opened(tmp_path: Path) -> None:
    folder = kept_folder(tmp_path)
    with pytest.raises(EngineError, match=r"was built for tensorrt 10\.99\.0, and here is None, compute_capability 80"):
        tensorrt.check_built_for(folder, read_engine(folder))
    with pytest.raises(EngineError, match="provider tensorrt was asked for"):
        engine.open_session(folder, 1)


def test_each_captured_shape_has_a_session_of_its_own(tmp_path: Path) -> None:
    session: Any = engine.open_session(engine_folder(tmp_path, tune=False), 1)
    opened: list[Any] = []

    def recorder() -> Any:
        opened.append(engine.open_session(tmp_path, 1))
        return opened[-1]._session

    opening = Opening(cuda_graph=True, graph_rows=2, graph_tokens=16, most_tokens=32)
    bindings = cuda.Bindings(session._session, opening, OUTPUTS, device="cpu", recorder=recorder)
    for rows, tokens in ((1, 9), (1, 12), (2, 20), (3, 9), (1, 7)):
        given = batch(rows, tokens, rows + tokens)
        assert np.abs(bindings.run(session.feed(given))["logits"] - session.run(given)["logits"]).max() < 1e-5
    assert bindings.shapes == (((1, 16), (2, 32)), ((3, 9),))
    assert len(opened) == 2


def test_a_batch_is_cut_where_the_profile_ends() -> None:
    given = batch(7, 5)
    cut = list(tensorrt.parts(given, 3))
    assert [len(part["input_ids"]) for part in cut] == [3, 3, 1]
    assert (np.concatenate([part["attention_mask"] for part in cut]) == given["attention_mask"]).all()


def test_an_error_of_the_provider_says_what_to_do() -> None:
    # As onnxruntime-gpu 1.31.1 says it where libnvinfer.so.10 is missing.
    said = "Please install TensorRT libraries as mentioned in the GPU requirements page, make sure they're in the PATH"
    assert remedy(RuntimeError(said)) == NO_TENSORRT


@needs_tensorrt
@pytest.mark.parametrize("settings", [{}, {"cuda_graph": True}])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_of_tensorrt_gives_the_logits_of_the_processor(precision: str, settings: Any, tmp_path: Path) -> None:
    source, out = graph_folder("bert", precision), tmp_path / "engine"
    out.mkdir()
    config = engine.Config(provider="tensorrt", use_tf32=True, batch_sizes=(4,), **settings)
    metrics = engine.build(source, out, config, context(tmp_path))
    assert list(metrics["placement"]) == ["TensorrtExecutionProvider"]
    assert metrics["kept_source"]
    for name in ("interface.json", "tokenizer.json"):
        shutil.copyfile(source / name, out / name)
    session = engine.open_session(out, 1)
    for rows, tokens in ((1, 9), (1, 12), (3, 20), (9, 20), (1, 9), (1, 9)):
        given = batch(rows, tokens, rows + tokens)
        difference = np.abs(session.run(given)["logits"] - logits(source / "model.onnx", given)).max()
        assert difference < (5e-3 if precision == "fp32" else 5e-2)
