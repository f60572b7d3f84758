"""``tokenizer_config.json``, typed when it is read: transformers acts on its values without looking at them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from toolchain.core.errors import ModelError
from toolchain.core.failure import shorten
from toolchain.core.schema import first_problem

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def _with_ids(names: list[str]) -> list[str]:
    """Return the names of a model's inputs.

    Raises:
        ValueError: ``input_ids`` is none of them.
    """
    if "input_ids" not in names:
        raise ValueError("input_ids must be one of them")
    return names


Side = Literal["left", "right"]
Count = Annotated[int, Field(ge=0, le=2**31)]
Token = str | dict[str, Any]


class _Settings(BaseModel):
    """Settings that decide how a text becomes tokens; what else the file holds is left to transformers."""

    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=())

    model_max_length: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    model_input_names: Annotated[list[str], AfterValidator(_with_ids)] | None = None
    padding_side: Side | None = None
    truncation_side: Side | None = None
    pad_token_type_id: Count | None = None
    pad_to_multiple_of: Count | None = None
    max_length: Count | None = None
    stride: Count | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None
    add_prefix_space: bool | None = None
    trim_offsets: bool | None = None
    split_special_tokens: bool | None = None
    tokenizer_class: str | None = None
    cls_token: Token | None = None
    sep_token: Token | None = None
    pad_token: Token | None = None
    unk_token: Token | None = None
    mask_token: Token | None = None
    bos_token: Token | None = None
    eos_token: Token | None = None
    added_tokens_decoder: dict[str, dict[str, Any]] | None = None
    additional_special_tokens: list[Token] | None = None
    extra_special_tokens: list[Token] | dict[str, Token] | None = None


def check(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings of other types than the tokenizer's class has.

    Args:
        path: Their file, for errors.
        settings: What it holds.

    Raises:
        ModelError: With the first that is wrong, and what is allowed.
    """
    try:
        _Settings.model_validate(dict(settings))
    except ValidationError as error:
        value = settings.get(str(error.errors(include_url=False)[0]["loc"][0]))
        raise ModelError(
            f"{path}: {first_problem(error)}; it is {shorten(repr(value), 1, 80)}",
            "copy it again; it is what a fast tokenizer's save_pretrained() writes",
        ) from error
