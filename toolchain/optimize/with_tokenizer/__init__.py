"""Puts the tokenizer into the graph: text in, label and probabilities out, one file (onnxruntime-extensions).

WordPiece (BERT), byte-level BPE (RoBERTa) and SentencePiece unigram (ALBERT) become operators of the domain
``ai.onnx.contrib``, which ONNX Runtime runs with onnxruntime-extensions' library; no other engine takes the graph. The
ids are compared with the model's own tokenizer on every sentence of dev, and must be the same; where they differ on
strings that are made to be hard, the metrics say so. Two things differ for all: special tokens that are written out in
a text (``[SEP]``) are text to these operators, and a text ends at a zero character.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import documents
from toolchain.core.errors import ModelError, require
from toolchain.core.stage import Context, Metrics, StageConfig
from toolchain.model import checkpoint, graph
from toolchain.optimize.with_tokenizer.comparison import HARD, PLAIN, differing
from toolchain.optimize.with_tokenizer.nodes import DOMAIN, PREFIX, Ends, text_nodes, tokenizer_nodes

VERSION = 1
LIBRARIES = ("onnxruntime-extensions", "onnxruntime", "onnx", "tokenizers")
TAKES = ("standard", "qdq", "qdq-asymmetric", "ort")
GIVES = "ort"
AGREEMENT = 1.0


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the tokenizer in the graph."""

    #: Give the probabilities and the label's name too, after the logits.
    answers: bool = True


def requires(history: Sequence[str]) -> str | None:
    """Once: then the graph reads text already."""
    return "it stands there already" if "with_tokenizer" in history else None


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Joins the tokenizer and ``model.onnx``.

    Args:
        source: Folder with a graph of any dialect and its tokenizer.
        out: Folder to write; gets ``interface.json`` too, whose one input is ``text``.
        config: Settings.
        context: Gives the dev sentences.

    Returns:
        nodes, tokenizer (its kind), compared (sentences with the same ids), hard (strings tried) and hard_differ.

    Raises:
        ModelError: The model takes pairs, or its tokenizer does what the operators do not, or gives other ids.
    """
    onnx = require("onnx", "torch")
    interface = checkpoint.read_json(source / "interface.json")
    model = graph.load(source / "model.onnx")
    inputs = [item.name for item in model.graph.input]
    kind = kinds.named(interface)
    if config.answers and kind.ACTIVATION != "Softmax":
        raise ModelError(
            f"{source} answers {kind.WORDS[1]}; with_tokenizer gives the probabilities and the name of one label",
            "set with_tokenizer.answers: false",
        )
    if kind.READS_WORDS:
        raise ModelError(
            f"{source} answers {kind.WORDS[1]}; with_tokenizer does not say where words begin",
            "leave with_tokenizer out",
        )
    if interface.get("pair"):
        raise ModelError(f"{source} is a model of pairs of texts; with_tokenizer takes single ones")
    for name in ("truncation_side", "padding_side"):
        if interface.get(name, "right") != "right":
            raise ModelError(
                f"{source / 'interface.json'}: {name} is {interface[name]}; with_tokenizer cuts and pads on the right",
                "leave the tokenizer apart, as it is without with_tokenizer",
            )
    if "input_ids" not in inputs or any(item.type.tensor_type.elem_type != 7 for item in model.graph.input):
        raise ModelError(f"{source / 'model.onnx'} reads {', '.join(inputs)}; needed is input_ids, all of them int64")
    nodes, record, tokenizer = _tokenizer(source / "tokenizer.json", interface, inputs)
    opsets = [*model.opset_import]
    alone = _model(nodes, ["input_ids", "attention_mask"] if "attention_mask" in inputs else ["input_ids"], opsets)
    texts = [text for (text,) in context.dataset().dev.texts]
    wrong = differing(alone, tokenizer, [*texts, *PLAIN])
    if wrong:
        text, ours, theirs = wrong[0]
        raise ModelError(
            f"the operators give other ids than {source / 'tokenizer.json'} for {len(wrong)} of "
            f"{len(texts) + len(PLAIN)} texts, the first {text[:60]!r}: {ours[:12]} instead of {theirs[:12]}",
            "leave the tokenizer apart, as it is without with_tokenizer",
        )
    hard = [ascii(text) for text, _, _ in differing(alone, tokenizer, HARD)]
    del model.graph.input[:]
    model.graph.input.append(_text_input())
    encoder = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *encoder])
    if config.answers:
        _answers(model, interface["labels"])
    if DOMAIN not in {item.domain for item in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    graph.save(model, out / "model.onnx")
    checkpoint.write_json(out / "interface.json", interface | {"inputs": ["text"], "dialect": GIVES})
    return {
        "nodes": len(model.graph.node),
        "parameters": graph.parameters(model),
        "tokenizer": record["model"]["type"],
        "compared": len(texts) + len(PLAIN),
        "hard": len(HARD),
        "hard_differ": hard,
    }


def _tokenizer(path: Path, interface: dict[str, Any], inputs: Sequence[str]) -> tuple[list[Any], dict[str, Any], Any]:
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
        tokenizer, record = Tokenizer.from_str(text), documents.parse_json(text, str(path), ModelError)
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} cannot be used as a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(int(interface["max_length"]))
    empty = tokenizer.encode("").ids
    if len(empty) != 2:
        raise ModelError(f"{path} puts {len(empty)} special tokens around a text; with_tokenizer knows two")
    ends = Ends(first=empty[0], last=empty[1], pad=int(interface["pad_id"]), max_length=int(interface["max_length"]))
    inner, ids = text_nodes(tokenizer, record, str(path))
    return tokenizer_nodes(inner, ids, ends, inputs), record, tokenizer


def _text_input() -> Any:
    onnx = require("onnx", "torch")
    return onnx.helper.make_tensor_value_info("text", onnx.TensorProto.STRING, ["batch"])


def _model(nodes: Sequence[Any], outputs: Sequence[str], opsets: Sequence[Any]) -> Any:
    onnx = require("onnx", "torch")
    kind = onnx.TensorProto.INT64
    infos = [onnx.helper.make_tensor_value_info(name, kind, ["batch", "tokens"]) for name in outputs]
    made = onnx.helper.make_graph(list(nodes), "tokenizer", [_text_input()], infos)
    own = [item for item in opsets if item.domain in ("", "ai.onnx")]
    return onnx.helper.make_model(made, opset_imports=[*own, onnx.helper.make_opsetid(DOMAIN, 1)], ir_version=9)


def _answers(model: Any, labels: Sequence[str]) -> None:
    """Adds the outputs ``probabilities``, ``[batch, labels]``, and ``label``, ``[batch]`` names."""
    onnx = require("onnx", "torch")
    make, types = onnx.helper.make_node, onnx.TensorProto
    logits = model.graph.output[0].name
    names = onnx.helper.make_tensor(f"{PREFIX}labels", types.STRING, [len(labels)], [name.encode() for name in labels])
    model.graph.node.extend([
        make("Constant", [], [f"{PREFIX}labels"], name=f"{PREFIX}labels", value=names),
        make("Softmax", [logits], ["probabilities"], name=f"{PREFIX}probabilities", axis=-1),
        make("ArgMax", [logits], [f"{PREFIX}best"], name=f"{PREFIX}best", axis=-1, keepdims=0),
        make("Gather", [f"{PREFIX}labels", f"{PREFIX}best"], ["label"], name=f"{PREFIX}label"),
    ])  # fmt: skip
    model.graph.output.extend([
        onnx.helper.make_tensor_value_info("probabilities", types.FLOAT, ["batch", len(labels)]),
        onnx.helper.make_tensor_value_info("label", types.STRING, ["batch"]),
    ])  # fmt: skip
