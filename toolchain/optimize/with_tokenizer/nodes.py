"""A tokenizer as nodes of an ONNX graph: onnxruntime-extensions' operators, and what is wanted around them.

The operators take one text or pad as they please, so each text goes through by itself, in a Loop: normalize, tokenize,
cut to the model's length, put the two special tokens around. What they give is padded to the longest of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.core.errors import ModelError, require
from toolchain.optimize.with_tokenizer.sentencepiece import sentencepiece_model

DOMAIN = "ai.onnx.contrib"
PREFIX = "tokenizer."


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What a model wants around and behind its tokens.

    Attributes:
        first: Id of the token before a text.
        last: Id of the token after it.
        pad: Id that fills up shorter rows.
        max_length: The most tokens of a row, these included.
    """

    first: int
    last: int
    pad: int
    max_length: int


def text_nodes(tokenizer: Any, record: Mapping[str, Any], where: str) -> tuple[list[Any], str]:
    """Nodes that turn ``text``, one string ``[1]``, into ids without special tokens.

    Args:
        tokenizer: The ``tokenizers.Tokenizer``.
        record: Its ``tokenizer.json``.
        where: The file, for errors.

    Returns:
        The nodes, constants among them, and the name of the ids, ``[1, tokens]`` or ``[tokens]`` of any integer type.

    Raises:
        ModelError: It does something that the operators do not.
    """
    kind = record["model"]["type"]
    makers = {"WordPiece": _word_pieces, "BPE": _byte_pairs, "Unigram": _unigrams}
    if kind not in makers:
        raise ModelError(f"{where} is a {kind} tokenizer; known are {', '.join(makers)}", _APART)
    return makers[kind](tokenizer, record, where)


def tokenizer_nodes(inner: Sequence[Any], ids: str, ends: Ends, inputs: Sequence[str]) -> list[Any]:
    """Nodes that turn ``text``, ``[batch]``, into a model's inputs, each ``[batch, tokens]`` int64.

    Args:
        inner: What ``text_nodes`` gave.
        ids: The name of its ids.
        ends: Special tokens and length.
        inputs: Names of the model's inputs, which become names of the nodes' outputs.
    """
    onnx = require("onnx", "torch")
    make, kinds = onnx.helper.make_node, onnx.TensorProto
    body = onnx.helper.make_graph(
        [
            make("Identity", ["go"], ["goes_on"]),
            make("Unsqueeze", ["index", "zero"], ["indices"]),
            make("Gather", ["text", "indices"], [PREFIX + "text"]),
            *inner,
            make("Cast", [ids], ["wide"], to=kinds.INT64),
            make("Reshape", ["wide", "minus_one"], ["flat"]),
            make("Slice", ["flat", "zero", "room"], ["cut"]),
            make("Concat", ["first", "cut", "last"], ["row"], axis=0),
            make("Shape", ["row"], ["length"]),
            make("Sub", ["most", "length"], ["missing"]),
            make("Concat", ["zero", "missing"], ["pads"], axis=0),
            make("Pad", ["row", "pads", "pad"], ["padded"]),
        ],
        PREFIX + "body",
        [
            onnx.helper.make_tensor_value_info("index", kinds.INT64, []),
            onnx.helper.make_tensor_value_info("go", kinds.BOOL, []),
        ],
        [
            onnx.helper.make_tensor_value_info("goes_on", kinds.BOOL, []),
            onnx.helper.make_tensor_value_info("padded", kinds.INT64, [ends.max_length]),
            onnx.helper.make_tensor_value_info("length", kinds.INT64, [1]),
        ],
        [
            onnx.helper.make_tensor(name, kinds.INT64, shape, [value])
            for name, shape, value in (
                ("zero", [1], 0),
                ("minus_one", [1], -1),
                ("room", [1], ends.max_length - 2),
                ("first", [1], ends.first),
                ("last", [1], ends.last),
                ("most", [1], ends.max_length),
                ("pad", [], ends.pad),
            )
        ],
    )
    outer = [
        _constant("zero", [1], [0]),
        _constant("one", [1], [1]),
        _constant("no", [], 0),
        _constant("step", [], 1),
        # Not left out: what reads and writes graphs tends to lose an empty name at the end of a list.
        make("Constant", [], [PREFIX + "always"], value=onnx.helper.make_tensor("", kinds.BOOL, [], [True])),
        make("Shape", ["text"], [PREFIX + "batch"]),
        make("Squeeze", [PREFIX + "batch"], [PREFIX + "count"]),
        make("Loop", [PREFIX + "count", PREFIX + "always"], [PREFIX + "rows", PREFIX + "lengths"], body=body),
        make("ReduceMax", [PREFIX + "lengths"], [PREFIX + "longest"], keepdims=0),
        make("Unsqueeze", [PREFIX + "longest", PREFIX + "zero"], [PREFIX + "end"]),
        make("Slice", [PREFIX + part for part in ("rows", "zero", "end", "one")], ["input_ids"]),
        make("Range", [PREFIX + part for part in ("no", "longest", "step")], [PREFIX + "positions"]),
        make("Less", [PREFIX + "positions", PREFIX + "lengths"], [PREFIX + "filled"]),
        make("Cast", [PREFIX + "filled"], ["attention_mask"], to=kinds.INT64),
        make("Mul", ["input_ids", PREFIX + "no"], ["token_type_ids"]),
    ]
    ends_in = {"input_ids", "attention_mask", "token_type_ids"} - set(inputs)
    nodes = [node for node in outer if node.output[0] not in ends_in]
    for node in nodes:
        node.name = PREFIX + node.output[0].removeprefix(PREFIX)
    return nodes


_APART = "leave the tokenizer apart, as it is without with_tokenizer"


def _word_pieces(tokenizer: Any, record: Mapping[str, Any], where: str) -> tuple[list[Any], str]:
    """``BertTokenizer``; its own special tokens are cut off again."""
    normalizer, model = record["normalizer"] or {}, record["model"]
    _need(where, "normalizer", normalizer.get("type"), "BertNormalizer")
    _need(where, "pre_tokenizer", (record["pre_tokenizer"] or {}).get("type"), "BertPreTokenizer")
    _need(where, "continuing_subword_prefix", model["continuing_subword_prefix"], "##")
    vocabulary = sorted(model["vocab"], key=model["vocab"].__getitem__)
    if [model["vocab"][token] for token in vocabulary] != list(range(len(vocabulary))):
        raise ModelError(f"{where}: the ids of its vocabulary have gaps, which BertTokenizer's do not", _APART)
    onnx = require("onnx", "torch")
    lower = bool(normalizer["lowercase"])
    accents = lower if normalizer["strip_accents"] is None else bool(normalizer["strip_accents"])
    first, last = (tokenizer.id_to_token(index) for index in tokenizer.encode("").ids)
    names = [PREFIX + name for name in ("marked", "types", "mask")]
    op = onnx.helper.make_node(
        "BertTokenizer", [PREFIX + "text"], names, domain=DOMAIN,
        vocab_file="\n".join(vocabulary), do_lower_case=int(lower), strip_accents=int(accents),
        tokenize_chinese_chars=int(normalizer["handle_chinese_chars"]),
        unk_token=model["unk_token"], cls_token=first, sep_token=last,
        # It wants these in the vocabulary, and never gives them.
        mask_token=model["unk_token"], pad_token=model["unk_token"],
    )  # fmt: skip
    ends = [_constant("second", [1], [1]), _constant("before_last", [1], [-1])]
    inside = onnx.helper.make_node("Slice", [names[0], PREFIX + "second", PREFIX + "before_last"], [PREFIX + "ids"])
    return [op, *ends, inside], PREFIX + "ids"


def _byte_pairs(tokenizer: Any, record: Mapping[str, Any], where: str) -> tuple[list[Any], str]:
    """``GPT2Tokenizer``, which adds no special tokens; lower case and the space before the text come before it."""
    import json

    onnx = require("onnx", "torch")
    split, model = record["pre_tokenizer"] or {}, record["model"]
    _need(where, "pre_tokenizer", split.get("type"), "ByteLevel")
    chain = _chain(record["normalizer"])
    if [step["type"] for step in chain] not in ([], ["Lowercase"]):
        raise ModelError(f"{where} normalizes by {[step['type'] for step in chain]}; known is Lowercase", _APART)
    nodes, text = [], PREFIX + "text"
    if chain:
        nodes.append(onnx.helper.make_node("StringLower", [text], [PREFIX + "lower"], domain=DOMAIN))
        text = PREFIX + "lower"
    if split.get("add_prefix_space"):
        for name, value in (("pattern", rb"^([^ ])"), ("rewrite", rb" $1")):
            tensor = onnx.helper.make_tensor(PREFIX + name, onnx.TensorProto.STRING, [1], [value])
            nodes.append(onnx.helper.make_node("Constant", [], [PREFIX + name], value=tensor))
        inputs = [text, PREFIX + "pattern", PREFIX + "rewrite"]
        nodes.append(
            onnx.helper.make_node(
                "StringECMARegexReplace", inputs, [PREFIX + "spaced"], domain=DOMAIN, global_replace=0
            )
        )
        text = PREFIX + "spaced"
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    vocabulary = json.dumps(model["vocab"], separators=(",", ":"))
    outputs = [PREFIX + "ids", PREFIX + "mask"]
    nodes.append(
        onnx.helper.make_node(
            "GPT2Tokenizer", [text], outputs, domain=DOMAIN, vocab=vocabulary, merges="\n".join(merges)
        )
    )
    return nodes, PREFIX + "ids"


def _unigrams(tokenizer: Any, record: Mapping[str, Any], where: str) -> tuple[list[Any], str]:
    """``SentencepieceTokenizer`` with a model made of the vocabulary and the normalizer."""
    onnx = require("onnx", "torch")
    split, model = _chain(record["pre_tokenizer"], "pretokenizers"), record["model"]
    steps = [step["type"] for step in split]
    if steps not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ModelError(f"{where} splits by {steps}; known are Metaspace, and WhitespaceSplit before it", _APART)
    sequences = [
        step["pattern"]["String"]
        for step in _chain(record["normalizer"])
        if step["type"] == "Replace" and "String" in step["pattern"]
    ]
    normalizer = tokenizer.normalizer
    blob = sentencepiece_model(
        [(piece, score) for piece, score in model["vocab"]],
        model["unk_id"],
        [token["id"] for token in record["added_tokens"] if token["special"]],
        normalizer.normalize_str if normalizer is not None else str,
        sequences,
        squeeze=steps[0] == "WhitespaceSplit",
    )
    kinds = onnx.TensorProto
    nodes = [
        _constant("best", [1], [0]),
        onnx.helper.make_node(
            "Constant", [], [PREFIX + "alpha"], value=onnx.helper.make_tensor("", kinds.FLOAT, [1], [0.0])
        ),
        onnx.helper.make_node(
            "Constant", [], [PREFIX + "false"], value=onnx.helper.make_tensor("", kinds.BOOL, [1], [False])
        ),
    ]
    inputs = [PREFIX + name for name in ("text", "best", "alpha", "false", "false", "false", "false")]
    outputs = [PREFIX + "ids", PREFIX + "rows_of_ids"]
    nodes.append(onnx.helper.make_node("SentencepieceTokenizer", inputs, outputs, domain=DOMAIN, model=blob))
    return nodes, PREFIX + "ids"


def _chain(step: Mapping[str, Any] | None, key: str = "normalizers") -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, one or several."""
    if step is None:
        return []
    return list(step[key]) if step["type"] == "Sequence" else [step]


def _need(where: str, what: str, found: object, known: str) -> None:
    if found != known:
        raise ModelError(f"{where}: its {what} is {found!r}; the operator does {known!r}", _APART)


def _constant(name: str, shape: list[int], values: Any) -> Any:
    onnx = require("onnx", "torch")
    kind = onnx.TensorProto.INT64
    tensor = onnx.helper.make_tensor(PREFIX + name, kind, shape, values if shape else [values])
    return onnx.helper.make_node("Constant", [], [PREFIX + name], value=tensor)
