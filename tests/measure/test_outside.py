from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.builders import MAX_LENGTH, checkpoint_folder, onnx_folder, sentences
from toolchain.core.errors import GateError
from toolchain.measure import outside
from toolchain.model.checkpoint import read_json, write_json

TEXTS = sentences().dev.texts


@pytest.mark.parametrize("pair", [False, True])
def test_a_graph_agrees_with_transformers_on_raw_texts(pair: bool) -> None:
    texts = sentences(pair=pair).dev.texts
    found = outside.check(checkpoint_folder(pair=pair), onnx_folder(pair=pair), texts, 1)
    assert found["texts"] == outside.OWN + (3 if pair else 1) + len(outside.ODD)
    assert 0 < found["max_difference"] <= 1e-5


def test_the_texts_hold_longer_ones_than_the_model_reads() -> None:
    for pair in (False, True):
        texts = outside.examples(sentences(pair=pair).dev.texts, pair, MAX_LENGTH)
        assert {len(text) for text in texts} == {2 if pair else 1}
        assert max(len(part.split()) for text in texts for part in text) > MAX_LENGTH
        assert any("" in text for text in texts)


def test_a_side_that_was_lost_is_named_with_the_first_text_that_it_changes(tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint_folder(), tmp_path / "m"))
    write_json(source / "tokenizer_config.json", {"truncation_side": "left"})
    with pytest.raises(
        GateError, match=r"is read otherwise than transformers reads it: input_ids differ from"
    ) as caught:
        outside.check_tokens(source, onnx_folder(), TEXTS)
    assert caught.value.exit_code == 3
    write_json(source / "tokenizer_config.json", {"truncation_side": "right"})
    assert outside.check_tokens(source, onnx_folder(), TEXTS)["texts"] == 26


def test_another_padding_id_is_found_in_the_batch(tmp_path: Path) -> None:
    deployed = Path(shutil.copytree(onnx_folder(), tmp_path / "m"))
    write_json(deployed / "interface.json", read_json(deployed / "interface.json") | {"pad_id": 7})
    with pytest.raises(GateError, match="input_ids differ from position"):
        outside.check(checkpoint_folder(), deployed, TEXTS, 1)


def test_another_head_is_found_in_the_logits(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    source = Path(shutil.copytree(checkpoint_folder(), tmp_path / "m"))
    weights = load_file(source / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + np.array([0, 2e-2], np.float32)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GateError, match=r"is answered otherwise than by transformers, in a batch of \d: logits \["):
        outside.check(source, onnx_folder(), TEXTS, 1)
