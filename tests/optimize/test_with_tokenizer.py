from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.builders import LABELS, SENTENCES
from tests.optimize.variants import exported, made, save
from toolchain.core.errors import ModelError
from toolchain.measure import parity
from toolchain.model import graph
from toolchain.optimize import clean, cls_only, dynamic_int8, with_tokenizer
from toolchain.optimize.with_tokenizer.comparison import PLAIN

extensions = pytest.importorskip("onnxruntime_extensions")

#: Longer than the model's 32 tokens, nothing at all, and what the tokenizers have to normalize.
TEXTS = (*SENTENCES, "", " very " * 40, "A  Warm\tAND\nfunny film", "na\xefve caf\xe9")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def word_pieces() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(tokenizer, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))


def byte_pairs() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=350, special_tokens=SPECIAL, initial_alphabet=alphabet)
    return trained(tokenizer, trainer)


def unigrams() -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return trained(tokenizer, trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]"))


def trained(tokenizer: Any, trainer: Any) -> Any:
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
@pytest.mark.parametrize("tokenizer", [word_pieces, byte_pairs, unigrams])
def test_text_goes_in_and_the_label_comes_out(tokenizer: Callable[[], Any], architecture: str, tmp_path: Path) -> None:
    source = with_its_tokenizer(architecture, tokenizer(), tmp_path)
    out, metrics = made(with_tokenizer, source, tmp_path / "out")
    logits, probabilities, labels = opened(out).run(None, {"text": np.array(TEXTS, dtype=object)})
    expected = np.concatenate([tokenized(source, text) for text in TEXTS])
    # One by one there, in a padded batch here.
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert list(labels) == [LABELS[index] for index in expected.argmax(axis=1)]
    exponents = np.exp(expected - expected.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, exponents / exponents.sum(axis=1, keepdims=True), atol=1e-5)
    assert metrics["compared"] == 32 + len(PLAIN)
    assert graph.dialect(graph.load(out / "model.onnx")) == with_tokenizer.GIVES == "ort"
    interface = json.loads((out / "interface.json").read_text())
    assert interface["inputs"] == ["text"]


def test_ids_are_those_of_the_tokenizer_cut_and_padded(tmp_path: Path) -> None:
    source = with_its_tokenizer("bert", word_pieces(), tmp_path)
    out, _ = made(with_tokenizer, source, tmp_path / "out")
    model = graph.load(out / "model.onnx")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    ids, mask, types = opened(save(out, model)).run(
        ["input_ids", "attention_mask", "token_type_ids"], {"text": np.array(["dull", " very " * 40], dtype=object)}
    )
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    dull = tokenizer.encode("dull").ids
    assert ids.shape == (2, 32)  # the model's length
    assert ids[0].tolist() == [*dull, *[0] * (32 - len(dull))]
    assert mask.sum(axis=1).tolist() == [len(dull), 32]
    assert ids[1, -1] == tokenizer.token_to_id("[SEP]")
    assert not types.any()


def test_it_comes_last_behind_int8(tmp_path: Path) -> None:
    source = with_its_tokenizer("bert", word_pieces(), tmp_path)
    narrow, _ = made(cls_only, source, tmp_path / "narrow")
    int8, _ = made(dynamic_int8, narrow, tmp_path / "int8")
    out, _ = made(with_tokenizer, int8, tmp_path / "out", answers=False)
    session = opened(out)
    assert [output.name for output in session.get_outputs()] == ["logits"]
    (logits,) = session.run(None, {"text": np.array([SENTENCES[0]], dtype=object)})
    np.testing.assert_allclose(logits, tokenized(int8, SENTENCES[0]), atol=1e-5)
    # Int8 ranges are taken from each batch: the two agree where they pad alike, and it pads by itself.
    found = parity.compare(int8, out, 1.0, [(text,) for text in SENTENCES], 1)
    assert (found["passed"], found["flips"]) == (True, 0)
    assert with_tokenizer.requires(["export", "with_tokenizer"]) == "it stands there already"
    assert with_tokenizer.requires(["export", "dynamic_int8"]) is None
    with pytest.raises(ModelError, match="needed is input_ids"):
        made(with_tokenizer, out, tmp_path / "again")
    cleaned, _ = made(clean, out, tmp_path / "cleaned")
    (same,) = opened(cleaned).run(None, {"text": np.array([SENTENCES[0]], dtype=object)})
    np.testing.assert_array_equal(same, logits)


def test_other_ids_are_refused_and_shown(tmp_path: Path) -> None:
    """Planted: a word of more than 6 letters is unknown to the tokenizer, and the operator has no such limit."""
    source = with_its_tokenizer("bert", word_pieces(), tmp_path)
    record = json.loads((source / "tokenizer.json").read_text())
    record["model"]["max_input_chars_per_word"] = 6
    (source / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match="'one of the finest films of the year") as caught:
        made(with_tokenizer, source, tmp_path / "out")
    # Of the eight sentences, "shortest" stands in one, which stands four times in dev.
    assert "give other ids than" in caught.value.message
    assert "for 4 of 38 texts" in caught.value.message
    assert "leave the tokenizer apart" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"normalizer": {"type": "NFC"}}, "its normalizer is 'NFC'"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is 'Whitespace'"),
        ({"post_processor": None}, "0 special tokens around a text"),
    ],
)
def test_a_tokenizer_that_the_operators_do_not_know_is_named(change: Any, says: str, tmp_path: Path) -> None:
    source = with_its_tokenizer("bert", word_pieces(), tmp_path)
    record = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps(record | change))
    with pytest.raises(ModelError, match=says):
        made(with_tokenizer, source, tmp_path / "out")


def test_a_word_level_tokenizer_is_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trained(tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    with pytest.raises(ModelError, match="is a WordLevel tokenizer; known are WordPiece, BPE, Unigram"):
        made(with_tokenizer, with_its_tokenizer("bert", tokenizer, tmp_path), tmp_path / "out")


def test_models_of_pairs_are_refused(tmp_path: Path) -> None:
    source = with_its_tokenizer("bert", word_pieces(), tmp_path)
    interface = json.loads((source / "interface.json").read_text())
    (source / "interface.json").write_text(json.dumps(interface | {"pair": True}))
    with pytest.raises(ModelError, match="takes single ones"):
        made(with_tokenizer, source, tmp_path / "out")


def with_its_tokenizer(architecture: str, tokenizer: Any, folder: Path) -> Path:
    """The small model with a tokenizer of its own, and a row for each of its tokens."""
    source = Path(shutil.copytree(exported(architecture), folder / "source"))
    tokenizer.save(str(source / "tokenizer.json"))
    model = graph.load(source / "model.onnx")
    gathers = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    words = next(t for t in model.graph.initializer if t.name in gathers and "word" in t.name)
    table = onnx.numpy_helper.to_array(words)
    rows = np.random.default_rng(0).normal(size=(400, table.shape[1])).astype(np.float32)
    rows[: len(table)] = table
    words.CopyFrom(onnx.numpy_helper.from_array(rows, words.name))
    return save(source, model)


def opened(folder: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(extensions.get_library_path())
    return ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def tokenized(folder: Path, text: str) -> Any:
    """Logits ``[1, 2]`` of a text through the tokenizer, outside the graph."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    ids = np.array([tokenizer.encode(text).ids])
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session = opened(folder)
    return session.run(None, {item.name: feed[item.name] for item in session.get_inputs()})[0]
