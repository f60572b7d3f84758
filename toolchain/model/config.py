"""``config.json``, typed when it is read: numbers are numbers, and no model is larger than the limits allow."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from toolchain.core import documents, limits
from toolchain.core.errors import ModelError
from toolchain.core.failure import shorten
from toolchain.core.schema import message

CONFIG_FILE = "config.json"

_AGAIN = "copy or download it again; it is what save_pretrained() writes"

#: Whole numbers: what families call them, the least, and the limit that holds them.
_NUMBERS = (
    ("num_hidden_layers n_layers num_layers n_layer encoder_layers num_hidden_groups inner_group_num", 1, "layers"),
    ("decoder_layers num_decoder_layers", 0, "layers"),
    ("num_attention_heads n_heads n_head num_heads encoder_attention_heads", 1, "heads"),
    ("hidden_size dim d_model n_embd embedding_size d_kv head_dim pooler_hidden_size", 1, "hidden_size"),
    ("vocab_size", 1, "vocabulary"),
    ("max_position_embeddings n_positions", -1, "positions"),
    ("type_vocab_size", 0, "labels"),
    ("num_labels", 1, "labels"),
)  # fmt: skip

#: Widths of feed-forward blocks, which are several times that of the model.
_WIDE = "intermediate_size hidden_dim encoder_ffn_dim d_ff"

#: Indices of tokens; some families have a list, some none.
_TOKENS = "pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id unk_token_id mask_token_id"

#: Numbers between 0 and 1, and numbers from 0.
_PARTS = (
    "hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout attention_dropout seq_classif_dropout "
    "embedding_dropout mlp_dropout pooler_dropout summary_last_dropout classifier_dropout_prob"
)
_POSITIVE = "layer_norm_eps norm_eps initializer_range rope_theta"

_TEXTS = "model_type problem_type position_embedding_type finetuning_task"

#: What a loaded model may need beyond four times its files, in bytes.
_SLACK = 256 << 20


def read_config(folder: Path) -> dict[str, Any]:
    """Return what a folder's ``config.json`` holds.

    Raises:
        ModelError: It is missing or damaged, a value is of another type, or the model is beyond a limit.
    """
    path = folder / CONFIG_FILE
    config = documents.read_object(path, ModelError, _AGAIN)
    check(path, config)
    return config


def check(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config whose values are of other types, or beyond the limits.

    Args:
        path: Its file, for errors.
        config: What it holds.

    Raises:
        ModelError: With the first of its values that are wrong, and what is allowed.
    """
    from pydantic import ValidationError

    try:
        _typed().model_validate(dict(config))
    except ValidationError as error:
        named = {str(item["loc"][0]): item for item in reversed(error.errors())}
        wrong = [f"{name} is {shorten(repr(config.get(name)), 1, 80)}; {_allowed(name, item)}"
                 for name, item in list(reversed(named.items()))[:3]]  # fmt: skip
        beyond = [name for name, item in named.items() if item["type"] == "less_than_equal"]
        limited = next(filter(None, map(_limit_of, beyond)), "")
        raise ModelError(f"{path}: {'. '.join(wrong)}", limits.way_out(limited) if limited else _AGAIN) from error


def check_weights(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a config of a model that is far larger than the weights beside it.

    Such a model would fill the memory with weights that no file holds.

    Raises:
        ModelError: It is.
    """
    hidden = _number(config, "hidden_size dim d_model")
    width = _number(config, "embedding_size") or hidden
    layers = _number(config, "num_hidden_groups") or _number(config, "num_hidden_layers n_layers num_layers")
    described = _number(config, "vocab_size") * width + max(_number(config, "max_position_embeddings"), 0) * width
    described += layers * (2 * hidden * hidden + 2 * hidden * _number(config, _WIDE))
    held = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
    if described * 4 > 4 * held + _SLACK:
        raise ModelError(
            f"{folder / CONFIG_FILE} describes a model of at least {described:,} parameters, and the weights beside it "
            f"have {held:,} bytes",
            "config.json and the weights are of two models: copy both from one",
        )


def _number(config: Mapping[str, Any], names: str) -> int:
    return next((value for name in names.split() if isinstance(value := config.get(name), int)), 0)


def _limit_of(name: str) -> str:
    """Return the name of the limit that holds a value, or '' if none does."""
    known = (*((names, limit) for names, _, limit in _NUMBERS), (_WIDE, "hidden_size"), (_TOKENS, "vocabulary"))
    return next((limit for names, limit in known if name in names.split()), "")


def _allowed(name: str, item: Any) -> str:
    """Return what is allowed in place of a value, in words."""
    for names, least, limit in _NUMBERS:
        if name in names.split():
            return f"allowed are whole numbers from {least} to {limits.limit(limit):,}"
    if name in _WIDE.split():
        return f"allowed are whole numbers from 1 to {8 * limits.limit('hidden_size'):,}"
    if name in _TOKENS.split():
        return f"allowed are indices of tokens from -1 to {limits.limit('vocabulary'):,}"
    if name in _PARTS.split():
        return "allowed are numbers from 0 to 1"
    if name in _POSITIVE.split():
        return "allowed are numbers from 0"
    if name in _TEXTS.split():
        return "a text is allowed"
    return message(item)


def _typed() -> Any:
    """Return the class that validates a config under the limits of now."""
    return _adapter(tuple((name, limits.limit(name)) for name in limits.LIMITS))


@cache
def _adapter(now: tuple[tuple[str, int], ...]) -> Any:
    from pydantic import ConfigDict, Field, create_model

    most = dict(now)
    fields: dict[str, Any] = {}
    for names, least, limit in _NUMBERS:
        fields |= dict.fromkeys(names.split(), Annotated[int, Field(ge=least, le=most[limit])] | None)
    fields |= dict.fromkeys(_WIDE.split(), Annotated[int, Field(ge=1, le=8 * most["hidden_size"])] | None)
    token = Annotated[int, Field(ge=-1, le=most["vocabulary"])]
    fields |= dict.fromkeys(_TOKENS.split(), token | list[token] | None)
    fields |= dict.fromkeys(_PARTS.split(), Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None)
    fields |= dict.fromkeys(_POSITIVE.split(), Annotated[float, Field(ge=0, allow_inf_nan=False)] | None)
    fields |= dict.fromkeys(_TEXTS.split(), str | None)
    labels = Annotated[dict[str, Any], Field(max_length=most["labels"])]
    fields |= {"architectures": list[str] | None, "id2label": labels | None, "label2id": labels | None}
    settings = ConfigDict(strict=True, protected_namespaces=())
    optional: dict[str, Any] = {name: (kind, None) for name, kind in fields.items()}
    return create_model("Config", __config__=settings, **optional)
