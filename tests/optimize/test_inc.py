from __future__ import annotations

import json
import logging
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.builders import LABELS, SENTENCES, context, onnx_folder
from tests.command import toolchain
from tests.optimize.inc import DATA, made
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import RecipeError
from toolchain.model import graph
from toolchain.optimize import inc_auto, inc_dynamic, inc_smoothquant, inc_static, inc_weight_only
from toolchain.optimize.shared.calibration import calibration_batches
from toolchain.optimize.shared.inc import graph_edits, quantize, quantize_child


def shared() -> Any:
    """The small ALBERT in float, each weight once: torch's exporter writes a shared one for each reader."""
    return quantize.load(onnx_folder("albert"))


def weight_bytes(model: Any) -> int:
    """Bytes of all matrices but those of indices."""
    matrices = [tensor for tensor in model.graph.initializer if len(tensor.dims) >= 2 and tensor.data_type != 7]
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in matrices)


def difference(architecture: str, folder: Path) -> float:
    """The largest |Δlogit| on sentences like those that it was calibrated on; the range is 1.5."""
    batches, _ = quantize._dev_batches(onnx_folder(architecture), DATA.dev.texts)
    one, other = (
        ort.InferenceSession(str(source / "model.onnx")) for source in (onnx_folder(architecture), folder / "out")
    )
    return max(float(np.abs(one.run(None, batch)[0] - other.run(None, batch)[0]).max()) for batch in batches)


def test_static_symmetric_gives_int8_for_every_engine_and_one_copy_of_a_shared_weight(tmp_path: Path) -> None:
    model, metrics = made(inc_static, "albert", tmp_path, symmetric=True, calibration="entropy", calibration_samples=8)
    assert graph.dialect(model) == inc_static.gives(inc_static.Config(symmetric=True), "standard") == "qdq"
    before = shared()
    # Both layers read the same six matrices: a copy for each reader would nearly double the bytes.
    assert weight_bytes(model) < 0.27 * weight_bytes(before)
    assert metrics["parameters"] == graph.parameters(before)
    assert metrics["inc"]["neural-compressor"] == "3.7.1"
    assert difference("albert", tmp_path) < 0.3  # a graph that lost its weights is off by about 1
    parts = [scale / (extreme / 127) for scale, extreme in scales_and_extremes(model, tmp_path)]
    assert len(parts) >= 10
    # By least divergence ranges are cut; the package left to itself takes the extremes whatever it is told.
    assert min(parts) < 0.97
    assert max(parts) < 1.01


def scales_and_extremes(model: Any, folder: Path) -> list[tuple[float, float]]:
    """Of each activation that is quantized: its scale, and its largest magnitude on the calibration sentences."""
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    floating = shared()
    values = {output for node in floating.graph.node for output in node.output}
    found = {
        node.input[0]: float(scales[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in values
    }
    del floating.graph.output[:]
    floating.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in found)
    session = ort.InferenceSession(floating.SerializeToString())
    batches = calibration_batches(onnx_folder("albert"), 8, context(folder, DATA))
    runs = [session.run(list(found), batch) for batch in batches]
    extremes = [max(float(np.abs(run[index]).max()) for run in runs) for index in range(len(found))]
    return list(zip(found.values(), extremes, strict=True))


def test_smoothquant_scales_a_shared_weight_once_for_all_of_its_readers(tmp_path: Path) -> None:
    model, _ = made(inc_smoothquant, "albert", tmp_path, calibration_samples=8)
    assert graph.dialect(model) == inc_smoothquant.gives(inc_smoothquant.Config(), "standard") == "qdq-asymmetric"
    assert weight_bytes(model) < 0.27 * weight_bytes(shared())
    assert difference("albert", tmp_path) < 0.5  # by the tokenizer, which is trained anew, 0.05 to 0.3


def test_weight_only_packs_two_weights_a_byte_and_a_shared_one_once(tmp_path: Path) -> None:
    model, metrics = made(inc_weight_only, "albert", tmp_path)
    assert graph.dialect(model) == inc_weight_only.GIVES == "ort"
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    sizes = {a.name: a.i for a in nodes[0].attribute}
    assert (sizes["bits"], sizes["block_size"]) == (4, 32)
    readers = Counter(node.input[1] for node in nodes)
    assert max(readers.values()) == 2
    packed = {t.name: onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer if t.name in readers}
    # In the order of the nodes; K rows of N columns take K·N/2 bytes.
    numbers = {node.input[1]: {a.name: a.i for a in node.attribute} for node in nodes}
    assert packed == {name: size["K"] * size["N"] // 2 for name, size in numbers.items()}
    assert metrics["parameters"] == graph.parameters(shared())
    assert difference("albert", tmp_path) < 1


def test_dynamic_from_the_command_line_leaves_nothing_but_its_result(tmp_path: Path) -> None:
    done = toolchain(
        "optimize", onnx_folder("roberta"), "--technique", "inc_dynamic", "--task",
        "{reviews: {train_size: 64, dev_size: 16, test_size: 24}}", "--threads", "1", "--json",
        "--set", "inc_dynamic.reduce_range=true",  # without VNNI sums of 8-bit weights saturate
        "--store", tmp_path / "store", "-o", tmp_path / "out", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)  # data and nothing else
    assert "[INFO]" not in done.stderr  # how the package begins its lines
    assert "WARNING" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]
    model = graph.load(tmp_path / "out/model.onnx")
    assert graph.dialect(model) == inc_dynamic.GIVES == "ort"
    assert json.loads((tmp_path / "out/interface.json").read_text())["dialect"] == "ort"
    assert Counter(node.op_type for node in model.graph.node)["MatMulInteger"] == 14
    assert weight_bytes(model) < 0.75 * weight_bytes(graph.load(onnx_folder("roberta") / "model.onnx"))
    assert difference("roberta", tmp_path) < 0.2


def torn(count: int) -> Dataset:
    """Sentences labelled as the small BERT labels them, half of them so narrowly that rounding turns some over."""
    generator = random.Random(0)
    words = " ".join(SENTENCES).split()
    texts = [(" ".join(generator.choices(words, k=generator.randint(3, 12))),) for _ in range(count)]
    batches, order = quantize._dev_batches(onnx_folder(), texts)
    session = ort.InferenceSession(str(onnx_folder() / "model.onnx"))
    logits = np.concatenate([session.run(None, batch)[0] for batch in batches])
    margins = np.empty(count)
    margins[order] = logits[:, 1] - logits[:, 0]
    narrow = sorted(range(count), key=lambda index: abs(margins[index] - np.median(margins)))[: count // 2]
    split = Split([texts[i] for i in narrow], [int(margins[i] > np.median(margins)) for i in narrow])
    return Dataset(split, split, split, LABELS)


def leaning(folder: Path, data: Dataset) -> None:
    """Shifts the logits to the median of the margins, where ``torn`` has its labels from."""
    model = onnx.load(onnx_folder() / "model.onnx")
    session = ort.InferenceSession(model.SerializeToString())
    batches, _ = quantize._dev_batches(onnx_folder(), data.dev.texts)
    logits = np.concatenate([session.run(None, batch)[0] for batch in batches])
    shift = -np.median(logits[:, 1] - logits[:, 0])
    model.graph.output[0].name, before = "leaning", model.graph.output[0].name
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, shift], dtype=np.float32), "shift"))
    model.graph.node.append(onnx.helper.make_node("Add", [before, "shift"], ["leaning"]))
    onnx.save(model, folder / "model.onnx")
    for name in ("interface.json", "tokenizer.json"):
        (folder / name).write_bytes((onnx_folder() / name).read_bytes())


def test_a_search_that_misses_its_goal_keeps_its_best_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torn(240)
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    leaning(source, data)
    monkeypatch.setattr(logging.getLogger("toolchain"), "propagate", True)
    settings = inc_auto.Config(max_drop=0, trials=4, calibration_samples=8)
    metrics = inc_auto.apply(source, out, settings, context(tmp_path, data))
    assert metrics["target_reached"] is False
    assert 2 <= metrics["trials"] <= 4  # those that come out as one before are not judged again
    assert metrics["accuracy_dev_float"] > 0.95
    assert 0 < metrics["accuracy_drop_dev"] == metrics["accuracy_dev_float"] - metrics["accuracy_dev"]
    assert f"none of {metrics['trials']} graphs kept within 0 of the float graph's" in caplog.text
    assert "ended in an error" not in caplog.text
    given = graph.dialect(graph.load(out / "model.onnx"))
    assert given in ("qdq-asymmetric", "ort")
    # The manifest's number is that of the graph that was written.
    batches, order = quantize._dev_batches(source, data.dev.texts)
    session = ort.InferenceSession(str(out / "model.onnx"))
    found = np.concatenate([session.run(None, batch)[0].argmax(-1) for batch in batches])
    accuracy = float((found == np.array([data.dev.labels[i] for i in order])).mean())
    assert accuracy == pytest.approx(metrics["accuracy_dev"], abs=2 / len(order))


def test_a_search_judges_by_the_order_of_the_models_own_labels(tmp_path: Path) -> None:
    turned = replace(DATA, labels=tuple(reversed(LABELS)))
    tuning = quantize.Tuning(max_drop=0, trials=1, minutes=1, dev_samples=len(DATA.dev))
    _, order = quantize._dev_batches(onnx_folder(), DATA.dev.texts)
    found = quantize._tuning(tuning, tmp_path, onnx_folder(), context(tmp_path, turned))
    assert found["labels"] == [1 - DATA.dev.labels[i] for i in order]


def judge(folder: Path, max_drop: float, seconds: float) -> Any:
    folder.mkdir()
    batches, order = quantize._dev_batches(onnx_folder(), DATA.dev.texts)
    tuning = {
        "dev": str(quantize._write(folder / "dev.npz", batches)), "labels": [DATA.dev.labels[i] for i in order],
        "max_drop": max_drop, "seconds": seconds, "best": str(folder),
    }  # fmt: skip
    return quantize_child.Judge(tuning, quantize_child.Progress(str(folder / "progress")))


def kept(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "best.json").read_text()))


def test_the_best_is_the_most_accurate_until_one_is_good_enough_and_then_the_latest_that_is(tmp_path: Path) -> None:
    found, model = judge(tmp_path / "best", 0.01, 60), onnx.load(onnx_folder() / "model.onnx")
    found.baseline = 0.9
    for number, (accuracy, best) in enumerate(
        [(0.7, 1), (0.8, 2), (0.75, 2), (0.895, 4), (0.91, 5), (0.89, 6), (0.88, 6)]
    ):
        found.trials = number + 1
        found.keep(model, accuracy)
        assert kept(tmp_path / "best")["file"] == f"trial-{best}.onnx"
        assert (tmp_path / "best" / f"trial-{best}.onnx").stat().st_size > 100_000
    assert kept(tmp_path / "best") == {
        "file": "trial-6.onnx", "accuracy": 0.89, "reached": True, "baseline": 0.9, "trials": 7
    }  # fmt: skip


def test_a_search_stops_at_its_deadline(tmp_path: Path) -> None:
    found = judge(tmp_path / "best", 0.01, -1)
    with pytest.raises(KeyboardInterrupt):  # what the package ends its search by
        found(onnx.load(onnx_folder() / "model.onnx"))
    assert found.late


#: What stands in for the package's script: reads the request, and fails in a way that the package has.


def test_groups_that_the_package_would_pack_wrongly_are_refused() -> None:
    model = onnx.load(onnx_folder() / "model.onnx")
    graph_edits.check_groups(model, 32)  # 64 and 128 rows: two and four groups
    with pytest.raises(RecipeError, match=r"group_size: 64 makes an odd number of groups of the 64 rows"):
        graph_edits.check_groups(model, 64)


def test_a_weight_that_layers_share_is_not_rounded_for_one_of_them(tmp_path: Path) -> None:
    settings = inc_weight_only.Config(algorithm="gptq")
    with pytest.raises(RecipeError, match="gptq rounds a weight for the one layer that reads it") as caught:
        inc_weight_only.apply(onnx_folder("albert"), tmp_path, settings, context(tmp_path, DATA))
    assert "algorithm: rtn" in caught.value.hint


@pytest.mark.parametrize("technique", [inc_static, inc_dynamic, inc_smoothquant, inc_auto, inc_weight_only])
def test_none_of_them_follows_a_cast_to_half_precision(technique: Any) -> None:
    assert "put it before fp16" in technique.requires(["export", "fp16"])
    assert technique.requires(["export", "clean"]) is None
