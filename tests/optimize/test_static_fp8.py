from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builders import SENTENCES
from tests.optimize.variants import FAMILIES, exported, made, operators, save
from toolchain.core.errors import ModelError, RecipeError
from toolchain.measure import parity
from toolchain.model import graph
from toolchain.optimize import clean, fp16, static_fp8

TEXTS = [(text,) for text in SENTENCES]


def logits(folder: Path) -> Any:
    return parity.Graph(folder, 1).logits(TEXTS)


def weights(folder: Path, kind: int) -> list[str]:
    tensors = graph.load(folder / "model.onnx").graph.initializer
    return [tensor.name for tensor in tensors if tensor.data_type == kind and len(tensor.dims) == 2]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_products_with_a_weight_are_fp8_and_logits_stay_near(architecture: str, tmp_path: Path) -> None:
    source = exported(architecture)
    out, metrics = made(static_fp8, source, tmp_path / "out")
    model = graph.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert graph.dialect(model) == static_fp8.GIVES
    # Two layers of six weights, which ALBERT's share, pooler and classifier; ALBERT has a projection of embeddings too.
    expected = 9 if architecture == "albert" else 14
    assert metrics["fp8_weights"] == expected == len(weights(out, onnx.TensorProto.FLOAT8E4M3FN))
    # One pair for each input: query, key and value read the same; so 4 of each of two layers, 2 heads.
    assert operators(out).count("QuantizeLinear") == (11 if architecture == "albert" else 10)
    assert metrics["parameters"] == graph.parameters(graph.load(source / "model.onnx"))
    # Three bits of mantissa round by a 16th at most; tiny models have logits of about 1.
    assert 0 < np.abs(logits(out) - logits(source)).max() < 0.4


def test_behind_fp16_scales_are_half_and_what_is_between_products_too(tmp_path: Path) -> None:
    narrow, _ = made(fp16, exported("bert"), tmp_path / "fp16")
    out, metrics = made(static_fp8, narrow, tmp_path / "out")
    scales = [t for t in graph.load(out / "model.onnx").graph.initializer if t.name.endswith(".fp8_scale")]
    assert {tensor.data_type for tensor in scales} == {onnx.TensorProto.FLOAT16}
    assert len(scales) == 10 + 14
    assert metrics["fp8_weights"] == 14
    assert np.abs(logits(out) - logits(narrow)).max() < 0.4


def test_the_largest_number_is_the_largest_of_the_type(tmp_path: Path) -> None:
    out, _ = made(static_fp8, exported("bert"), tmp_path / "out")
    tensors = {tensor.name: tensor for tensor in graph.load(out / "model.onnx").graph.initializer}
    name = weights(out, onnx.TensorProto.FLOAT8E4M3FN)[0]
    narrow = onnx.numpy_helper.to_array(tensors[name]).astype(np.float32)
    assert np.abs(narrow).max() == static_fp8._LARGEST
    before = {t.name: t for t in graph.load(exported("bert") / "model.onnx").graph.initializer}
    wide = onnx.numpy_helper.to_array(before[name.removesuffix(".fp8")])
    scale = onnx.numpy_helper.to_array(tensors[f"{name}_scale"])
    assert scale == pytest.approx(np.abs(wide).max() / static_fp8._LARGEST)
    normal = np.abs(wide) >= scale / 64  # below 2⁻⁶ steps are no longer relative
    assert np.abs(narrow * scale / wide - 1)[normal].max() <= 1 / 16


def test_cleaning_leaves_the_pairs(tmp_path: Path) -> None:
    out, _ = made(static_fp8, exported("bert"), tmp_path / "out")
    cleaned, _ = made(clean, out, tmp_path / "clean")
    assert graph.dialect(graph.load(cleaned / "model.onnx")) == static_fp8.GIVES
    assert len(weights(cleaned, onnx.TensorProto.FLOAT8E4M3FN)) == 14
    np.testing.assert_allclose(logits(cleaned), logits(out), atol=1e-5)


def test_an_exclusion_stays_as_it_is_and_has_to_match(tmp_path: Path) -> None:
    out, metrics = made(static_fp8, exported("bert"), tmp_path / "out", exclude=("*classifier*",))
    assert metrics["fp8_weights"] == 13
    assert any("classifier" in name for name in weights(out, onnx.TensorProto.FLOAT))
    with pytest.raises(RecipeError, match="nothing in the graph matches nowhere"):
        made(static_fp8, exported("bert"), tmp_path / "other", exclude=("nowhere",))


def test_what_it_cannot_take_is_refused(tmp_path: Path) -> None:
    out, _ = made(static_fp8, exported("bert"), tmp_path / "out")
    with pytest.raises(ModelError, match="is quantized or fused already"):
        made(static_fp8, out, tmp_path / "again")
    model = graph.load(exported("bert") / "model.onnx")
    model.opset_import[0].version = 18
    with pytest.raises(ModelError, match="operator set 18, whose Q/DQ pairs take no FP8") as caught:
        made(static_fp8, save(copied(tmp_path), model), tmp_path / "old")
    assert caught.value.hint == "export: {opset: 19} or more"
    assert static_fp8.requires(["finetune", "export", "fp16"]) is None
    assert "bf16 is neither" in str(static_fp8.requires(["export", "bf16"]))


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("bert"), tmp_path / "copy"))
