from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import checkpoint_folder, classifier_folder, context, engine_folder, onnx_folder
from tests.tiny import tiny
from toolchain.core.data import Split
from toolchain.core.errors import ModelError
from toolchain.core.stage import Context
from toolchain.model import adopt, checkpoint, labels, scratch, vocabulary
from toolchain.model.encoded import encode
from toolchain.model.train import TrainConfig, train


def _adopt(source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    work = out.parent / "work"
    work.mkdir(exist_ok=True)
    return adopt.apply(adopt.Config(path=str(source), **settings), out, context(work))


def _interface(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "interface.json").read_text())
    return found


def _foreign(source: Path, target: Path) -> Path:
    """The folder as another tool would have written it: without our records."""
    shutil.copytree(source, target)
    for name in ("interface.json", "history.json", "manifest.json"):
        (target / name).unlink(missing_ok=True)
    return target


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_checkpoint_of_another_tool_gets_labels_and_length(tmp_path: Path, architecture: str) -> None:
    source = _foreign(checkpoint_folder(architecture), tmp_path / "theirs")
    metrics = _adopt(source, tmp_path / "out")
    found = _interface(tmp_path / "out")
    # LABEL_0 and LABEL_1 in config.json: the task's names are meant. 64 positions, of which RoBERTa loses pad_id + 1.
    assert found["labels"] == ["negative", "positive"]
    assert metrics["notes"] == [
        "nobody named the model's labels (LABEL_0, LABEL_1): taken in the task's order as negative, positive"
    ]
    assert found["max_length"] == {"bert": 64, "roberta": 63}[architecture]
    assert metrics["parameters"] > 10_000
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix == ".bin"]


def test_a_checkpoint_of_ours_keeps_its_records(tmp_path: Path) -> None:
    _adopt(checkpoint_folder(), tmp_path / "out")
    assert _interface(tmp_path / "out") == _interface(checkpoint_folder())
    assert (tmp_path / "out" / "history.json").is_file()


def _named(source: Path, *names: str) -> Path:
    """A checkpoint with these label names in its ``config.json``."""
    ids = {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}
    checkpoint.write_json(source / "config.json", checkpoint.read_json(source / "config.json") | ids)
    return source


def test_other_labels_are_refused_unless_they_are_mapped(tmp_path: Path) -> None:
    source = _named(_foreign(checkpoint_folder(), tmp_path / "theirs"), "yes", "no")
    with pytest.raises(
        ModelError, match="was trained for the labels yes, no; the task has negative, positive"
    ) as error:
        _adopt(source, tmp_path / "other")
    assert error.value.hint == "map them: --set adopt.labels='{yes: negative, no: positive}'"
    _adopt(source, tmp_path / "out", labels={"yes": "positive", "no": "negative"})
    assert _interface(tmp_path / "out")["labels"] == ["positive", "negative"]


def test_label_names_that_contradict_each_other_are_refused() -> None:
    names = {"id2label": {"0": "no", "1": "yes"}}
    assert labels.label_names(names | {"label2id": {"LABEL_0": 0, "LABEL_1": 1}}, Path("m")) == ["no", "yes"]
    with pytest.raises(ModelError, match=r"m: config\.json calls label 0 'no' in id2label, and 'no' is 1 in label2id"):
        labels.label_names(names | {"label2id": {"no": 1, "yes": 0}}, Path("m"))


def test_labels_in_another_case_are_taken_and_noted(tmp_path: Path) -> None:
    source = _named(_foreign(checkpoint_folder(), tmp_path / "theirs"), "POSITIVE", "NEGATIVE")
    metrics = _adopt(source, tmp_path / "out")
    assert _interface(tmp_path / "out")["labels"] == ["positive", "negative"]
    assert "POSITIVE, NEGATIVE; matched ignoring case" in metrics["notes"][0]


def test_the_length_is_what_positions_and_tokenizer_allow_or_the_setting(tmp_path: Path) -> None:
    source = _foreign(classifier_folder(), tmp_path / "theirs")  # 512 positions
    tokenizer = checkpoint.read_json(source / "tokenizer_config.json")
    for limit, longest in ((512, 512), (200, 200), (10**30, 512)):
        checkpoint.write_json(source / "tokenizer_config.json", tokenizer | {"model_max_length": limit})
        _adopt(source, tmp_path / f"out{limit}")
        assert _interface(tmp_path / f"out{limit}")["max_length"] == longest
    _adopt(source, tmp_path / "shorter", max_length=96)
    assert _interface(tmp_path / "shorter")["max_length"] == 96
    with pytest.raises(ModelError, match="max_length 600 is more than the 512 tokens"):
        _adopt(source, tmp_path / "longer", max_length=600)


def test_the_side_that_is_cut_is_carried_on(tmp_path: Path) -> None:
    source = _foreign(classifier_folder(), tmp_path / "theirs")
    sides = {"truncation_side": "left", "padding_side": "left"}
    tokenizer = checkpoint.read_json(source / "tokenizer_config.json")
    checkpoint.write_json(source / "tokenizer_config.json", tokenizer | sides)
    _adopt(source, tmp_path / "out")
    assert {name: _interface(tmp_path / "out")[name] for name in sides} == sides


def test_a_model_of_pairs_is_not_taken_for_single_texts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pair is true, a model of pairs of texts; the task has single texts"):
        _adopt(checkpoint_folder(pair=True), tmp_path / "out")


def test_labels_stay_the_model_s_own_where_nobody_named_a_task(tmp_path: Path) -> None:
    source = _named(_foreign(checkpoint_folder(), tmp_path / "theirs"), "yes", "no")
    nobody = dataclasses.replace(context(tmp_path).dataset(), stand_in=True)
    (tmp_path / "out").mkdir()
    adopt.apply(
        adopt.Config(path=str(source)), tmp_path / "out", dataclasses.replace(context(tmp_path), dataset=lambda: nobody)
    )
    assert _interface(tmp_path / "out")["labels"] == ["yes", "no"]


def test_labels_of_a_checkpoint_are_those_that_its_interface_names(tmp_path: Path) -> None:
    source = _foreign(checkpoint_folder(), tmp_path / "theirs")
    interface = _interface(checkpoint_folder())
    for names, said in (
        (["positive", "negative"], None),
        (["one", "two", "three"], "was trained for the labels one, two, three; .* \\(3 against 2\\)"),
        (None, "labels are None; allowed is a list of names"),
    ):
        (source / "interface.json").write_text(json.dumps(interface | {"labels": names}))
        if said:
            with pytest.raises(ModelError, match=said):
                _adopt(source, tmp_path / "out")
            shutil.rmtree(tmp_path / "out")
        else:
            _adopt(source, tmp_path / "out")
            assert _interface(tmp_path / "out")["labels"] == names
            shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_graph_is_taken_in_as_a_folder_or_a_file(tmp_path: Path, form: str) -> None:
    source = _foreign(onnx_folder(), tmp_path / "theirs")
    metrics = _adopt(source if form == "folder" else source / "model.onnx", tmp_path / "out")
    found = _interface(tmp_path / "out")
    assert found["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert (found["dialect"], metrics["dialect"], found["pair"]) == ("standard", "standard", False)
    assert found["max_length"] == 64  # its positions
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_tokenizer_may_lie_elsewhere(tmp_path: Path) -> None:
    source = _foreign(tiny().artifact("onnx", "export").path, tmp_path / "theirs")
    (tmp_path / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).rename(tmp_path / "tokenizer" / name)
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        _adopt(source, tmp_path / "without")
    _adopt(source, tmp_path / "out", tokenizer=str(tmp_path / "tokenizer"))
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_another_tokenizer_is_another_identity_wherever_it_lies(tmp_path: Path) -> None:
    source = _foreign(onnx_folder(), tmp_path / "m")
    for name in ("a", "z"):  # before and after the model's folder
        (tmp_path / name).mkdir()
        text = (source / "tokenizer.json").read_text()
        (tmp_path / name / "tokenizer.json").write_text(text.replace('"version": "1.0"', '"version":  "1.0"'))
    plain = adopt.identity(adopt.Config(path=str(source)))
    before, after = (adopt.identity(adopt.Config(path=str(source), tokenizer=str(tmp_path / n))) for n in ("a", "z"))
    assert before == after != plain
    moved = Path(shutil.copytree(source, tmp_path / "elsewhere"))
    assert adopt.identity(adopt.Config(path=str(moved))) == plain


def test_an_engine_folder_is_copied_as_it_is(tmp_path: Path) -> None:
    source = engine_folder(tmp_path / "engine")
    with pytest.raises(ModelError, match="is an engine, which is taken as it is"):
        _adopt(source, tmp_path / "changed", max_length=16)
    assert _adopt(source, tmp_path / "out") == {}
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {
        p.name: p.read_bytes() for p in source.iterdir() if p.is_file()
    }


@pytest.mark.parametrize("name", ["interface.json", "tokenizer.json"])
def test_an_engine_folder_without_a_part_is_refused(tmp_path: Path, name: str) -> None:
    source = engine_folder(tmp_path / "engine")
    (source / name).unlink()
    with pytest.raises(ModelError, match=name):
        _adopt(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "kind"), [("nowhere", "checkpoint"), ("org/name", "checkpoint"), ("model.onnx", "onnx")]
)
def test_kinds_are_told_without_reading_anything(path: str, kind: str) -> None:
    assert adopt.kind_of(path) == kind


def test_weights_stored_in_fp16_are_trained_in_fp32(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    texts = [("a warm film",), ("a cold film",)] * 8
    scratch.create("scratch:bert-1x32", texts, 17, tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float16", "torch_dtype": "float16"}))
    tokenizer = checkpoint.load_tokenizer(tmp_path)
    model = checkpoint.load_for_training(tmp_path, ("no", "yes"), 17)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    split = Split(texts, [i % 2 for i in range(len(texts))])
    data = encode(tokenizer, split, 16, checkpoint.model_inputs(model, tokenizer))
    (tmp_path / "work").mkdir()
    held = Context(work=tmp_path / "work", seed=17, threads=1, dataset=context(tmp_path).dataset)
    train(model, data, data, TrainConfig(epochs=1, learning_rate=1e-3, batch_size=8, max_length=16), held)
    checkpoint.save(model, tokenizer, tmp_path / "out", max_length=16, labels=("no", "yes"), pair=False)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert all(value.isfinite().all() for value in saved.values())


def test_a_token_that_only_the_tokenizers_class_knows_is_not_added(tmp_path: Path) -> None:
    source = checkpoint_folder()  # BertTokenizer adds [MASK], which neither the file nor the embeddings have
    rows = checkpoint.read_json(source / "config.json")["vocab_size"]
    tokenizer = checkpoint.load_tokenizer(source)
    assert (len(tokenizer), tokenizer.mask_token) == (rows, None)
    tokenizer.save_pretrained(tmp_path)
    assert vocabulary.largest_token(tmp_path / "tokenizer.json") == rows - 1
