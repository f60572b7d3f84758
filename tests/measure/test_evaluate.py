from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.builders import LABELS, MAX_LENGTH, context, engine_folder, sentences
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.measure.evaluate import Config, evaluate
from toolchain.runtime.predictor import Predictor


def test_an_evaluation_holds_what_the_predictor_gives_on_every_example(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path / "engine")
    data = sentences()
    metrics = evaluate(engine, tmp_path, Config(batch_size=5), context(tmp_path, data))
    record = json.loads((tmp_path / "evaluation.json").read_text())
    predictor = Predictor(engine, 1)
    expected = predictor.probabilities(data.test.texts)
    found = np.load(tmp_path / "probabilities_test.npy")
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-6
    correct = int((expected.argmax(axis=1) == np.array(data.test.labels)).sum())
    assert record["splits"]["test"] == {"examples": 32, "correct": correct, "accuracy": correct / 32}
    assert record["labels"]["test"] == list(data.test.labels)
    right = expected.argmax(axis=1) == np.array(data.test.labels)
    assert record["scores"]["test"] == [[float(each)] for each in right]
    assert "kind" not in record  # it is classification
    assert metrics["accuracy_test"] == correct / 32
    tokens = [len(example) for example in predictor.encode(data.test.texts)]
    assert record["tokens"]["test"] == tokens
    assert record["mean_tokens"] == pytest.approx(sum(tokens) / len(tokens))
    assert record["size_bytes"] == (engine / "model.onnx").stat().st_size
    # Random weights hold about 7.3 bits a byte.
    assert 0.5 < record["zstd_bytes"] / record["size_bytes"] < 1
    assert list(record["placement"]) == ["CPUExecutionProvider"]
    assert record["parameters"] is record["flops_per_example"] is None


def test_parameters_and_flops_come_from_the_engine_file(tmp_path: Path) -> None:
    path = engine_folder(tmp_path / "engine") / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "parameters": 1234, "flops": 5.5e6}))
    evaluate(path.parent, tmp_path, Config(), context(tmp_path))
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert (record["parameters"], record["flops_per_example"]) == (1234, 5.5e6)


def test_labels_in_another_order_and_texts_that_are_cut_are_noted(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path / "engine")
    data = sentences()
    dev = Split([*data.dev.texts, ("the plot " * 40,)], [*data.dev.labels, 0])
    data = dataclasses.replace(data, dev=dev)
    turned = dataclasses.replace(data, labels=tuple(reversed(LABELS)))
    metrics = evaluate(engine, tmp_path, Config(), context(tmp_path, turned))
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["labels"]["dev"] == [1 - label for label in data.dev.labels]
    assert record["label_names"] == list(LABELS)
    assert "matched by name" in record["notes"][0]
    assert record["notes"][1] == f"1 of {len(dev)} dev texts are longer than {MAX_LENGTH} tokens and are cut"
    assert metrics["notes"] == record["notes"]


@pytest.mark.parametrize("task", [("negative", "neutral", "positive"), ("bad", "good")])
def test_labels_of_another_task_are_refused_with_both_lists(task: tuple[str, ...], tmp_path: Path) -> None:
    data = dataclasses.replace(sentences(), labels=task)
    with pytest.raises(ModelError, match=f"negative, positive; the task has {', '.join(task)}"):
        evaluate(engine_folder(tmp_path / "engine"), tmp_path, Config(), context(tmp_path, data))


def test_a_gold_label_that_the_task_does_not_name_is_refused(tmp_path: Path) -> None:
    split = Split([("dull",)], [7])
    with pytest.raises(ModelError, match=r"dev: the data has the labels \[7\]"):
        evaluate(
            engine_folder(tmp_path / "engine"),
            tmp_path,
            Config(),
            context(tmp_path, Dataset(split, split, split, LABELS)),
        )


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    data = dataclasses.replace(sentences(), test=Split([], []))
    with pytest.raises(DataError, match="test split is empty"):
        evaluate(engine_folder(tmp_path / "engine"), tmp_path, Config(), context(tmp_path, data))


def test_pairs_for_a_model_of_single_texts_are_refused_by_the_worker_with_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 2 texts"):
        evaluate(engine_folder(tmp_path / "engine"), tmp_path, Config(), context(tmp_path, sentences(pair=True)))


def test_an_engine_that_gives_no_numbers_is_an_error(tmp_path: Path) -> None:
    import onnx

    engine = engine_folder(tmp_path / "engine")
    model = onnx.load(engine / "model.onnx")
    # The classifier: 64 wide, 2 labels; which way round is up to the exporter.
    head = next(weight for weight in model.graph.initializer if sorted(weight.dims) == [2, 64])
    head.CopyFrom(onnx.numpy_helper.from_array(np.full(list(head.dims), np.nan, dtype=np.float32), head.name))
    onnx.save(model, engine / "model.onnx")
    with pytest.raises(EngineError, match="32 of 32 examples"):
        evaluate(engine, tmp_path, Config(), context(tmp_path))


def test_the_caller_loads_no_runtime(tmp_path: Path) -> None:
    engine = engine_folder(tmp_path / "engine")
    program = (
        "import sys; from pathlib import Path\n"
        "from toolchain.core.data import Dataset, Split; from toolchain.core.stage import Context\n"
        "from toolchain.measure.evaluate import Config, evaluate\n"
        "split = Split([('dull',)], [0]); data = Dataset(split, split, split, ('negative', 'positive'))\n"
        "here = Path(sys.argv[2]); context = Context(work=here, seed=1, threads=1, dataset=lambda: data)\n"
        "evaluate(Path(sys.argv[1]), here, Config(), context)\n"
        "print(*{'torch', 'onnx', 'onnxruntime', 'tokenizers', 'transformers'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, str(engine), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []
