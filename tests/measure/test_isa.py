"""The gate ISA: int8 products that overflow 16 bits where the processor has no VNNI."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.builders import SENTENCES, context, onnx_folder
from tests.measure.faults import edited
from tests.optimize.variants import made
from toolchain.core import registry
from toolchain.measure import evaluate, gates, isa, saturation
from toolchain.measure.engine_parity import Reference
from toolchain.measure.machine import instruction_sets
from toolchain.optimize import dynamic_int8, static_int8

TEXTS = [(text,) for text in SENTENCES]

WIDE = bool(set(isa.WIDE) & set(instruction_sets()))


def saturate(model: Any) -> None:
    """Every int8 weight of the first product is 127: any two activations above 129 overflow."""
    name = next(
        tensor.name for tensor in model.graph.initializer if tensor.data_type == 3 and sorted(tensor.dims) == [64, 64]
    )
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.CopyFrom(numpy_helper.from_array(np.full((64, 64), 127, np.int8), name))


def only_signs(model: Any) -> None:
    """Each int8 weight keeps its sign alone, at 127: what VNNI adds up well overflows without it."""
    for weight in model.graph.initializer:
        if weight.data_type == 3 and sorted(weight.dims) in ([64, 64], [64, 128]):
            signs = np.where(numpy_helper.to_array(weight) < 0, -127, 127).astype(np.int8)
            weight.CopyFrom(numpy_helper.from_array(signs, weight.name))


@pytest.mark.parametrize(
    ("activations", "weights", "saturated"),
    [
        ([255, 255], [127, 127], 1),  # 64,770
        ([255, 255], [64, 64], 0),  # 32,640: the most that two weights of 7 bits give
        ([129, 129], [127, 127], 0),  # 32,766
        ([129, 130], [127, 127], 1),  # 32,893
        ([255, 255], [-128, -1], 1),  # −32,895
        ([255, 255], [127, -127], 0),  # they cancel
        ([255, 0, 0, 255], [127, 127, 127, 127], 0),  # neighbours only
    ],
)
def test_two_neighbours_are_added_in_16_bits(activations: list[int], weights: list[int], saturated: int) -> None:
    rows, column = np.array([activations], np.int32), np.array(weights, np.int8)[:, None]
    assert saturation.saturating(rows, column, saturation.risky_pairs(column)) == saturated


def test_counting_agrees_with_the_instruction_spelled_out() -> None:
    generator = np.random.default_rng(0)
    activations = generator.integers(0, 256, (9, 31), dtype=np.int32)
    weights = generator.integers(-127, 128, (31, 7)).astype(np.int8)
    expected = 0
    for row in activations:
        for column in weights.T.astype(int):
            sums = [sum(int(row[k]) * column[k] for k in (j, j + 1) if k < 31) for j in range(0, 31, 2)]
            expected += any(total > 32767 or total < -32768 for total in sums)
    assert 0 < expected < 63
    assert saturation.saturating(activations, weights, saturation.risky_pairs(weights)) == expected


def test_a_saturating_product_is_counted_and_named(tmp_path: Path) -> None:
    quantized, _ = made(dynamic_int8, onnx_folder(), tmp_path / "int8")
    faulty = edited(quantized, tmp_path / "faulty", saturate)
    before, after = (saturation.count(folder, TEXTS, 1, tmp_path) for folder in (quantized, faulty))
    # 2 layers with 6 matrices each, the pooler and the classifier.
    assert before["products"] == after["products"] == 14
    assert after["saturated"] > before["saturated"] + 0.01 * after["results"]
    model = onnx.load(faulty / "model.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    worst = next(node for node in model.graph.node if node.name == after["worst"])
    assert (numpy_helper.to_array(weights[worst.input[1]]) == 127).all()


def test_reduced_range_cannot_saturate(tmp_path: Path) -> None:
    quantized, _ = made(dynamic_int8, onnx_folder(), tmp_path / "int8", reduce_range=True)
    found = saturation.count(quantized, TEXTS, 1, tmp_path)
    assert (found["products"], found["risky"], found["saturated"], found["worst"]) == (14, 0, 0, None)
    verdict = gates.isa({"measured_on": ["avx2", "avx512_vnni"], "wide": True, "int8": True, "saturation": found})
    assert verdict.passed
    assert "no pair of its" in verdict.evidence


def evaluated(engine: str, source: Path, folder: Path, **settings: Any) -> gates.Verdict:
    """The verdict on a graph as an engine runs it."""
    module = registry.get("engines", engine).module
    folder.mkdir()
    module.build(source, folder, module.Config(**settings), context(folder))
    for name in ("tokenizer.json", "interface.json"):
        shutil.copyfile(source / name, folder / name)
    reference = Reference(source, 0.9, source)
    evaluate.evaluate(folder, folder, evaluate.Config(invariance="off"), context(folder), reference)
    return gates.isa(evaluate.read(folder)["isa"])


@pytest.mark.skipif(not WIDE, reason="this processor adds in 16 bits itself")
def test_without_switch_or_emulator_the_engine_is_stamped_and_advised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isa, "EMULATORS", {})
    quantized, _ = made(dynamic_int8, onnx_folder(), tmp_path / "int8")
    faulty = edited(quantized, tmp_path / "faulty", saturate)
    verdict = evaluated("onnxruntime", faulty, tmp_path / "engine")
    assert (verdict.passed, verdict.reason) == (None, gates.NO_EMULATOR)
    assert verdict.evidence.startswith("measured on avx2, ")
    assert "of its int8 results hold a product that overflows 16 bits, most in " in verdict.evidence
    assert verdict.evidence.endswith("reduce_range: true in the quantizer avoids it")


@pytest.mark.skipif(not WIDE, reason="this processor adds in 16 bits itself")
def test_an_engine_that_saturates_changes_labels_without_vnni_and_is_advised(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    settings: dict[str, Any] = {"calibration": "min_max", "calibration_samples": 8}
    quantized, _ = made(static_int8, onnx_folder(), tmp_path / "int8", **settings)
    faulty = edited(quantized, tmp_path / "faulty", only_signs)
    verdict = evaluated("openvino", faulty, tmp_path / "engine", tune=False)
    assert verdict.failed, verdict.evidence
    assert "again under ONEDNN_MAX_CPU_ISA=AVX2: " in verdict.evidence
    assert verdict.evidence.endswith("reduce_range: true in the quantizer avoids it")


def test_a_float_engine_has_nothing_to_judge(tmp_path: Path) -> None:
    verdict = evaluated("onnxruntime", onnx_folder(), tmp_path / "engine")
    assert (verdict.passed, verdict.reason) == (None, "no int8 products")
