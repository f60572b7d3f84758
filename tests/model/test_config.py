from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.builders import weights
from toolchain.core.errors import ModelError
from toolchain.model import config
from toolchain.model.folder import check_folder

SOUND: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 266, "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "max_position_embeddings": 512,
    "pad_token_id": 0, "eos_token_id": [1, 2], "layer_norm_eps": 1e-12, "classifier_dropout": None,
    "hidden_dropout_prob": 0, "id2label": {"0": "neg"}, "label2id": {"neg": 0}, "unknown_to_us": {"any": [1]},
}  # fmt: skip


def _write(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(SOUND | changes), "utf-8")
    return folder


def test_a_sound_config_is_given_as_it_is(tmp_path: Path) -> None:
    assert config.read_config(_write(tmp_path)) == SOUND


@pytest.mark.parametrize(
    ("name", "value", "allowed", "limit"),
    [
        ("vocab_size", "670", "whole numbers from 1 to 4,000,000", ""),
        ("vocab_size", 670.0, "whole numbers from 1 to 4,000,000", ""),
        ("vocab_size", True, "whole numbers from 1", ""), ("vocab_size", 10**12, "to 4,000,000", "VOCABULARY"),
        ("num_hidden_layers", 1_000_000, "whole numbers from 1 to 512", "LAYERS"),
        ("num_attention_heads", 0, "whole numbers from 1 to 1,024", ""), ("hidden_size", [64], "from 1 to 32,768", ""),
        ("intermediate_size", 10**9, "to 262,144", "HIDDEN_SIZE"), ("max_position_embeddings", -7, "from -1", ""),
        ("max_position_embeddings", {"a": 1}, "from -1", ""), ("pad_token_id", "0", "indices of tokens", ""),
        ("hidden_dropout_prob", 7, "numbers from 0 to 1", ""), ("layer_norm_eps", "x", "numbers from 0", ""),
        ("model_type", 7, "a text", ""), ("architectures", "BertModel", "", ""), ("id2label", ["neg"], "", ""),
        ("label2id", 3, "", ""),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_beyond_a_limit_is_refused(
    name: str, value: Any, allowed: str, limit: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        config.read_config(_write(tmp_path, **{name: value}))
    assert f"config.json: {name} is {value!r}" in caught.value.message
    assert allowed in caught.value.message
    assert (f"TOOLCHAIN_LIMIT_{limit}" if limit else "copy or download it again") in caught.value.hint


def test_a_limit_is_moved_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, num_hidden_layers=600)
    monkeypatch.setenv("TOOLCHAIN_LIMIT_LAYERS", "600")
    assert config.read_config(tmp_path)["num_hidden_layers"] == 600


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 30_000},
        {"vocab_size": 3_000_000},
        {"num_hidden_layers": 500, "intermediate_size": 30_000, "hidden_size": 2_000},
    ],
)
def test_a_model_far_larger_than_its_weights_is_refused_before_it_is_made(
    change: dict[str, int], tmp_path: Path
) -> None:
    weights(tmp_path / "model.safetensors", "w", size=100_000)
    check_folder(_write(tmp_path))
    with pytest.raises(ModelError, match=r"describes a model of at least .* and the weights beside it have 100,0"):
        check_folder(_write(tmp_path, **change))


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    for content, expected in (("[1]", "an array"), ("[" * 500, "levels deep|not valid JSON"), ("{", "not valid JSON")):
        (tmp_path / "config.json").write_text(content, "utf-8")
        with pytest.raises(ModelError, match=expected):
            config.read_config(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        config.read_config(tmp_path)
