from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from toolchain.core.errors import ModelError
from toolchain.model.folder import check_settings

SOUND: dict[str, Any] = {
    "model_max_length": 10**30, "model_input_names": ["input_ids", "attention_mask"], "padding_side": "right",
    "truncation_side": "left", "pad_token_type_id": 0, "stride": 0, "max_length": 128, "pad_to_multiple_of": None,
    "do_lower_case": True, "strip_accents": None, "tokenizer_class": "BertTokenizer", "cls_token": "[CLS]",
    "mask_token": {"content": "[MASK]", "lstrip": True}, "added_tokens_decoder": {"0": {"content": "[PAD]"}},
    "additional_special_tokens": [], "extra_special_tokens": {"image": "<i>"}, "unknown_to_us": [{"any": 1}],
}  # fmt: skip


def _check(folder: Path, **changes: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(SOUND | changes), "utf-8")
    check_settings(folder)


def test_what_tokenizers_save_is_taken(tmp_path: Path) -> None:
    _check(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("model_max_length", "512", "valid number"), ("model_max_length", -1, "greater than 0"),
        ("model_input_names", [["input_ids"]], "valid string"),
        ("model_input_names", ["attention_mask"], "input_ids must be one of them"),
        ("padding_side", "top", "'left' or 'right'"), ("stride", -1, "greater than or equal to 0"),
        ("pad_token_type_id", "0", "valid integer"), ("do_lower_case", "yes", "valid boolean"),
        ("cls_token", 7, "valid string"), ("added_tokens_decoder", [1], "valid dictionary"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(name: str, value: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        _check(tmp_path, **{name: value})
    assert f"tokenizer_config.json: {name}" in caught.value.message
    assert problem in caught.value.message
    assert f"it is {value!r}" in caught.value.message
