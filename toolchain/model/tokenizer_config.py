"""``tokenizer_config.json``, typed when it is read: transformers acts on its values without looking at them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.core.errors import ModelError
from toolchain.core.failure import shorten
from toolchain.core.schema import first_problem

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

_SIDES = "padding_side truncation_side"
_COUNTS = "pad_token_type_id pad_to_multiple_of max_length stride"
_FLAGS = "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space trim_offsets split_special_tokens"
_TOKENS = "cls_token sep_token pad_token unk_token mask_token bos_token eos_token"


def _with_ids(names: list[str]) -> list[str]:
    """Return the names of a model's inputs.

    Raises:
        ValueError: ``input_ids`` is none of them.
    """
    if "input_ids" not in names:
        raise ValueError("input_ids must be one of them")
    return names


@cache
def _typed() -> Any:
    """Return the class of the settings that decide how a text becomes tokens; the rest is left to transformers."""
    from pydantic import AfterValidator, ConfigDict, Field, create_model

    token = str | dict[str, Any]
    fields: dict[str, Any] = {
        "model_max_length": Annotated[float, Field(gt=0, allow_inf_nan=False)],
        "model_input_names": Annotated[list[str], AfterValidator(_with_ids)],
        "tokenizer_class": str,
        "added_tokens_decoder": dict[str, dict[str, Any]],
        "additional_special_tokens": list[token],
        "extra_special_tokens": list[token] | dict[str, token],
        **dict.fromkeys(_SIDES.split(), Literal["left", "right"]),
        **dict.fromkeys(_COUNTS.split(), Annotated[int, Field(ge=0, le=2**31)]),
        **dict.fromkeys(_FLAGS.split(), bool),
        **dict.fromkeys(_TOKENS.split(), token),
    }
    settings = ConfigDict(strict=True, extra="ignore", protected_namespaces=())
    optional: dict[str, Any] = {name: (kind | None, None) for name, kind in fields.items()}
    return create_model("TokenizerConfig", __config__=settings, **optional)


def check(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse settings of other types than the tokenizer's class has.

    Args:
        path: Their file, for errors.
        settings: What it holds.

    Raises:
        ModelError: With the first that is wrong, and what is allowed.
    """
    from pydantic import ValidationError

    try:
        _typed().model_validate(dict(settings))
    except ValidationError as error:
        value = settings.get(str(error.errors(include_url=False)[0]["loc"][0]))
        raise ModelError(
            f"{path}: {first_problem(error)}; it is {shorten(repr(value), 1, 80)}",
            "copy it again; it is what a fast tokenizer's save_pretrained() writes",
        ) from error
