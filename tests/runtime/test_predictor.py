from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import LABELS, MAX_LENGTH, SENTENCES, checkpoint_folder, engine_folder
from toolchain.core.errors import DataError, EngineError, ModelError, ToolchainError
from toolchain.core.session import ConcurrentSession
from toolchain.runtime.predictor import Predictor


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_folder(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def pair_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_folder(tmp_path_factory.mktemp("pair"), pair=True)


def reference(texts: list[Any], *, pair: bool = False) -> Any:
    """Logits as transformers gives them, one text at a time."""
    import torch
    import transformers

    folder = checkpoint_folder(pair=pair)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_input_names=["input_ids", "attention_mask", "token_type_ids"],
    )
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        # As lists: alone, an empty second text is taken for none.
        inputs = tokenizer(*([part] for part in text), truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**inputs).logits[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("sort", [True, False])
def test_logits_keep_the_order_of_the_texts_and_equal_transformers(engine: Path, batch_size: int, sort: bool) -> None:
    texts = [(text,) for text in (*SENTENCES, "", "the plot " * 40)]
    found = Predictor(engine, 1).logits(texts, batch_size, sort)
    assert found.shape == (len(texts), 2)
    assert np.abs(found - reference(texts)).max() < 1e-5
    assert len({tuple(np.round(row, 4)) for row in found}) == len(texts)


def test_pairs_are_cut_and_typed_as_transformers_does_it(pair_engine: Path) -> None:
    texts = [(SENTENCES[0], SENTENCES[1]), ("the plot " * 30, "dull"), ("dull", "the plot " * 30), ("a", "")]
    predictor = Predictor(pair_engine, 1)
    assert np.abs(predictor.logits(texts) - reference(texts, pair=True)).max() < 1e-5
    assert {len(example) for example in predictor.encode(texts[1:3])} == {MAX_LENGTH}


def test_a_batch_is_padded_to_its_longest_example_with_the_interfaces_padding(engine: Path) -> None:
    predictor = Predictor(engine, 1)
    batch = predictor.collate(predictor.encode(["dull", "the plot is thin"]))
    short = len(predictor.encode(["dull"])[0])
    assert {value.shape for value in batch.values()} == {(2, len(predictor.encode(["the plot is thin"])[0]))}
    assert batch["attention_mask"].sum(axis=1).tolist() == [short, batch["input_ids"].shape[1]]
    assert (batch["input_ids"][0, short:] == 0).all()
    assert {value.dtype for value in batch.values()} == {np.dtype(np.int64)}


def test_sorted_batches_pad_less_than_batches_in_data_order(engine: Path) -> None:
    predictor = Predictor(engine, 1)
    encoded = predictor.encode([SENTENCES[6], "dull"] * 4)
    cells = {s: sum(b["input_ids"].size for _, b in predictor.batches(encoded, 2, sort=s)) for s in (True, False)}
    long, short = len(encoded[0]), len(encoded[1])
    assert cells == {True: 4 * long + 4 * short, False: 8 * long}


def test_predictions_carry_the_labels_name_and_probability(engine: Path) -> None:
    predictor = Predictor(engine, 1)
    rows = predictor.probabilities([(text,) for text in SENTENCES])
    found = predictor.predict(list(SENTENCES))
    assert [p.label for p in found] == [LABELS[k] for k in rows.argmax(axis=1)]
    assert np.allclose([p.probability for p in found], rows.max(axis=1))
    assert np.allclose(rows.sum(axis=1), 1)


def test_no_texts_give_no_answers(engine: Path) -> None:
    predictor = Predictor(engine, 1)
    assert predictor.predict([]) == []
    assert predictor.probabilities([]).shape == (0, 2)


def test_a_generator_is_read_once_and_texts_that_come_twice_get_the_same_answer(engine: Path) -> None:
    predictor = Predictor(engine, 1)
    texts = [*SENTENCES, SENTENCES[0], *reversed(SENTENCES)]
    found = predictor.logits(text for text in texts)
    assert found.shape == (17, 2)
    # Batched with others, a text's logits move by rounding alone.
    assert np.abs(found - np.concatenate([predictor.logits([text]) for text in texts])).max() < 1e-5
    assert predictor.predict(iter(())) == []


def test_an_engine_that_takes_several_batches_is_handed_all_of_them_and_the_order_stays(engine: Path) -> None:
    predictor = Predictor(engine, 2)
    assert isinstance(predictor.session, ConcurrentSession)
    handed: list[list[int]] = []
    run_many = predictor.session.run_many

    def noted(batches: Any) -> Any:
        handed.append([batch["input_ids"].size for batch in batches])
        return run_many(batches)

    predictor.session.run_many = noted  # type: ignore[method-assign]
    texts = [*SENTENCES] * 4
    found = predictor.logits(texts, batch_size=4)
    assert len(handed) == 1
    assert handed[0][0] == max(handed[0])
    assert len(handed[0]) >= 8
    assert np.abs(found - np.concatenate([Predictor(engine, 1).logits([text]) for text in SENTENCES] * 4)).max() < 1e-5


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("dull", "allowed is a list"),
        ([("dull",), 7], "example 1 is '7' .int."),
        ([None], "example 0 is 'None'"),
        ([(b"dull",)], "allowed is text"),
        ([("a", "b")], "has 2 texts, and .* single texts"),
        ([()], "has 0 texts"),
        ([("\ud800",)], "example 0"),
    ],
)
def test_what_is_no_text_is_refused(engine: Path, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Predictor(engine, 1).logits(texts)


def test_a_model_of_pairs_refuses_single_texts(pair_engine: Path) -> None:
    with pytest.raises(DataError, match=r"has 1 texts, and .* pairs of texts"):
        Predictor(pair_engine, 1).logits([("dull",)])


def test_a_batch_size_of_none_is_refused(engine: Path) -> None:
    with pytest.raises(DataError, match="batch_size is 0"):
        Predictor(engine, 1).logits([("dull",)], batch_size=0)


def test_a_folder_may_be_named_by_a_string_and_one_that_is_not_there_is_said_to_be_missing(
    engine: Path, tmp_path: Path
) -> None:
    assert Predictor(str(engine), 1).labels == LABELS
    for name in (tmp_path / "nope", str(tmp_path / "nope")):
        with pytest.raises(ModelError, match="nope: no such folder"):
            Predictor(name)
    with pytest.raises(ModelError, match=r"engine\.json: is a file; an engine is a folder"):
        Predictor(engine / "engine.json")


@pytest.mark.parametrize("name", ["engine.json", "interface.json", "tokenizer.json", "model.onnx"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_damaged_folder_is_an_error_that_names_the_file(name: str, damage: str, tmp_path: Path) -> None:
    path = engine_folder(tmp_path) / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises((ModelError, EngineError), match=name):
        Predictor(tmp_path, 1)


def test_an_unknown_engine_is_named_with_what_is_known(tmp_path: Path) -> None:
    path = engine_folder(tmp_path) / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "engine": "onnxruntimes"}))
    with pytest.raises(EngineError, match="onnxruntimes") as caught:
        Predictor(tmp_path, 1)
    assert "'onnxruntime'" in caught.value.hint


def test_labels_that_do_not_fit_the_logits_are_an_error(tmp_path: Path) -> None:
    path = engine_folder(tmp_path) / "interface.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": ["a", "b", "c"]}))
    with pytest.raises(ToolchainError, match="has 3 labels"):
        Predictor(tmp_path, 1).logits([("dull",)])


def test_an_onnxruntime_engine_runs_without_torch_transformers_and_onnx(engine: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from toolchain.runtime.predictor import Predictor\n"
        "predictor = Predictor(Path(sys.argv[1]), 1); assert len(predictor.predict(['dull'])) == 1\n"
        "predictor.session.placement()\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(engine)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"onnxruntime", "tokenizers", "numpy"} <= loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnxscript", "pydantic", "datasets"}
