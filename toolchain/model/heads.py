"""Which head a model folder has, read from its JSON files alone: neither torch nor transformers is imported.

A head that answers anything else than a task's kind is refused by its name, because what is made of its outputs, such
as a softmax, would be wrong. The evidence, in this order:

1. ``architectures`` of ``config.json``: the class that the weights were saved from.
2. ``modules.json``: a pooling module makes an embedding model (sentence-transformers).
3. ``interface.json``, of a model that this package trained.
4. ``problem_type``, the number of labels, ``function_to_apply``: what a sequence classifier's logits mean.
5. Without ``architectures``, the names of the weights.

Encoder-decoder families, and families that PyTorch cannot export, are refused by their ``model_type``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain import kinds
from toolchain.core import documents, registry
from toolchain.core.errors import ModelError
from toolchain.kinds.contract import Kind
from toolchain.model import history, weights_file
from toolchain.model.checkpoint import read_json
from toolchain.model.config import read_config

#: The head of a task of classification.
CLASSIFIER = "single-label classification"
_MULTI_LABEL = "multi-label classification"

#: What an encoder without a head, and one with a head that is left out, are for.
_EMBEDDINGS = "embeddings"
_LANGUAGE = "masked language modelling"
_PRETRAINING = "pretraining"

#: How a class name ends, and what such a model is for; the first that fits.
_ENDINGS = (
    ("ForSequenceClassification", CLASSIFIER),
    ("ForTokenClassification", "token classification"),
    ("ForQuestionAnswering", "question answering"),
    ("ForQuestionAnsweringSimple", "question answering"),
    ("ForMaskedLM", _LANGUAGE),
    ("ForPreTraining", _PRETRAINING),
    ("ForMultipleChoice", "multiple choice"),
    ("ForNextSentencePrediction", "next-sentence prediction"),
    ("ForCausalLM", "causal language modelling"),
    ("LMHeadModel", "language modelling"),
    ("DoubleHeadsModel", "language modelling"),
    ("ForConditionalGeneration", "sequence-to-sequence generation"),
    ("MTModel", "translation"),
    ("ForImageClassification", "image classification"),
    ("ForAudioClassification", "audio classification"),
    ("Model", _EMBEDDINGS),
)

#: Models whose encoder transformers loads into a classifier as it is: what lies outside of it is new, or meant.
_BARE = (_EMBEDDINGS, _LANGUAGE, _PRETRAINING)

#: Families whose sequence classifier has a decoder, whatever ``is_encoder_decoder`` says.
_DECODERS = ("bart", "bigbird_pegasus", "led", "mbart", "mt5", "mvp", "plbart", "t5", "umt5")

#: Families that were tried and cannot be served, and why.
UNSERVED = {
    "fnet": "it has no attention mask, so that an answer depends on the padding beside it",
    "funnel": "PyTorch cannot export its pooling for texts of any length",
    "longformer": "PyTorch cannot export its sliding-window attention",
    "xlnet": "PyTorch cannot export its relative positions",
}

#: Weights that a sequence classifier has and a tagger of the same family lacks.
_OF_CLASSIFIERS = re.compile(
    r"pooler\.|pre_classifier\.|classifier\.(dense|out_proj|linear)|sequence_summary\.|^score\."
)

#: Families whose taggers have those weights too.
_ALIKE = ("squeezebert",)


@dataclass(frozen=True)
class Head:
    """What a model folder answers.

    Attributes:
        kind: What it is for, such as :data:`CLASSIFIER`; a kind of task has its own in ``HEADS``.
        evidence: What says so.
        labels: Names by index, as far as ``config.json`` gives them.
    """

    kind: str
    evidence: str
    labels: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Whether its encoder can be given a new head as it is."""
        return self.kind in _BARE


def read(folder: Path) -> Head:
    """Return the head of a model folder.

    Raises:
        ModelError: ``config.json`` is missing or damaged.
    """
    config = read_config(folder)
    given = config.get("architectures") or []
    names = [str(name) for name in given] if isinstance(given, list) else [str(given)]
    if not names:
        return _of_weights(folder, config)
    evidence = f"architectures {', '.join(names)}"
    kind = next((kind for ending, kind in _ENDINGS if names[0].endswith(ending)), "an unknown purpose")
    if kind != CLASSIFIER:
        return Head(kind, evidence, label_names(config))
    if pooling := _pooling(folder):
        return Head(_EMBEDDINGS, f"modules.json: {pooling}")
    return of_config(config, trained_for=_trained_for(folder))


def of_config(config: Mapping[str, Any], *, trained_for: str = "") -> Head:
    """Return what the logits of a sequence classifier mean.

    Args:
        config: Its ``config.json``.
        trained_for: What this package trained it for, whatever ``problem_type`` says; '' where it did not.
    """
    labels = label_names(config)
    count = len(labels)
    problem = config.get("problem_type")
    logits = f"{count} logit{'s' if count != 1 else ''}"
    evidence = f"problem_type {problem}, {logits}" if problem else logits
    if problem == "regression":
        return Head("regression", evidence, labels)
    if count == 1:
        return Head("regression or cross-encoder scores", evidence, labels)
    if trained_for:
        return Head(trained_for, evidence, labels)
    if problem not in (None, "single_label_classification"):
        return Head(_MULTI_LABEL if problem == "multi_label_classification" else str(problem), evidence, labels)
    activation = str(config.get("function_to_apply") or _activation(config)).rpartition(".")[2].lower()
    if activation == "sigmoid":
        return Head(_MULTI_LABEL, f"activation {activation}, {logits}", labels)
    return Head(CLASSIFIER, evidence, labels)


def label_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the label names of a ``config.json`` by index; transformers leaves out its own two."""
    names = config.get("id2label")
    if isinstance(names, Mapping) and names:
        given = {str(index): str(name) for index, name in names.items()}
        return tuple(given.get(str(index), f"LABEL_{index}") for index in range(len(given)))
    count = config.get("num_labels")
    return tuple(f"LABEL_{index}" for index in range(count if isinstance(count, int) and count > 0 else 2))


def served(kind: Kind) -> tuple[str, ...]:
    """Return what heads a kind of task takes in, the one that messages name first."""
    return kind.HEADS or (str(kind),)


def refusal(folder: Path, name: str = "", kind: str = "") -> tuple[str, str] | None:
    """Return why a model folder cannot be taken in for a kind of task, and what to do; None if it can.

    Args:
        folder: Model folder.
        name: What the user calls it; its path by default.
        kind: The kind of task; where none is named, the one of its ``interface.json``, or else classification.

    Raises:
        ModelError: ``config.json`` is missing or damaged.
    """
    head, unserved, name = read(folder), start_refusal(folder, name), name or str(folder)
    answers = served(kinds.get(kind) if kind else kinds.of_folder(folder))
    if head.kind in answers or unserved:
        return unserved
    if not head.kind:
        hint = 'name it in config.json, for example "architectures": ["BertForSequenceClassification"]'
        return f"{name}: what its head is for is not said ({head.evidence})", hint
    return f"{name} is a model for {head.kind} ({head.evidence}); only {answers[0]} is served", (
        f"{_of_other_task(head)}fine-tune its encoder: toolchain finetune {name} --task TASK"
    )


def task_kind(head: Head) -> str:
    """Return the kind of task that takes a head in; '' where there is none."""
    return next((name for name in registry.names("kinds") if head.kind in served(kinds.get(name))), "")


def _of_other_task(head: Head) -> str:
    """Return the advice to name a task of the kind that a head is for; '' where there is no such kind."""
    other = task_kind(head)
    return f"name a task of the kind {other}, or " if other else ""


def check(folder: Path, kind: str = "") -> None:
    """Refuse a model folder that is not for a kind of task; where none is named, the one of its ``interface.json``.

    Raises:
        ModelError: Its head or its family is not served; or ``config.json`` is missing or damaged.
    """
    if found := refusal(folder, kind=kind):
        raise ModelError(*found)


def check_deployed(folder: Path, labels: Sequence[str], kind: str) -> None:
    """Refuse an engine or a graph whose answers would be wrong for its kind of task, such as behind a softmax.

    Args:
        folder: Its folder; ``config.json`` is looked at where there is one.
        labels: Its labels.
        kind: The kind of task.

    Raises:
        ModelError: It has one logit, or its ``config.json`` is that of another kind of model.
    """
    if len(labels) == 1 and not kinds.get(kind).NAMES:
        raise ModelError(
            f"{folder} has one label, {labels[0]!r}: a model for regression or cross-encoder scores; "
            f"only {CLASSIFIER} is served",
            "a softmax over one logit is 1.0 for every text",
        )
    if (folder / "config.json").is_file():
        check(folder, kind)


def start_refusal(folder: Path, name: str = "") -> tuple[str, str] | None:
    """Return why the encoder of a model folder cannot be fine-tuned, and what to do; None if it can.

    Args:
        folder: Model folder.
        name: What the user calls it; its path by default.

    Raises:
        ModelError: ``config.json`` is missing or damaged.
    """
    config, name = read_config(folder), name or str(folder)
    family = str(config.get("model_type", ""))
    if family in _DECODERS or config.get("is_encoder_decoder") is True:
        return (
            f"{name} is of an encoder-decoder family ({family}); served are encoders, such as bert, roberta, "
            f"deberta-v2, modernbert",
            "take an encoder; a decoder's answer depends on what it has written before",
        )
    if family in UNSERVED:
        return f"{name} is of the family {family}, which is not served: {UNSERVED[family]}", "take another encoder"
    return None


def new_head_reason(folder: Path, labels: Sequence[str], kind: str) -> str:
    """Return why the head of a starting point must be made new for these labels, or '' if it may stay as it is.

    Args:
        folder: Model folder.
        labels: Label names of the task, in its order.
        kind: The kind of task.
    """
    head = read(folder)
    if head.bare:
        return ""
    if head.kind not in served(kinds.get(kind)):
        return f"its head is for {head.kind or 'something that config.json does not name'}"
    if kinds.get(kind).NAMES:
        return ""
    own = _interface_labels(folder) or head.labels
    return "" if own == tuple(labels) else f"it has other labels ({', '.join(own[:8])})"


def _of_weights(folder: Path, config: Mapping[str, Any]) -> Head:
    """Return the head of a folder whose ``config.json`` names no class."""
    names = [name for path in sorted(folder.glob("*.safetensors")) for name in weights_file.tensors(path)]
    if not names:  # a graph or an engine, which is looked at itself
        return of_config(config, trained_for=_trained_for(folder))
    unnamed = "no architectures in config.json"
    for part, kind in (("qa_outputs.", "question answering"), ("lm_head.", "language modelling"),
                       ("cls.predictions.", _LANGUAGE)):  # fmt: skip
        if any(part in name for name in names):
            return Head(kind, f"{unnamed}; weights {part}*")
    if not any("classifier" in name or name.startswith(("score.", "logits_proj.")) for name in names):
        return Head(_EMBEDDINGS, f"{unnamed}; no classifier among the weights")
    if config.get("model_type") in _ALIKE or not any(_OF_CLASSIFIERS.search(name) for name in names):
        return Head("", f"{unnamed}, and a tagger has the same weights")
    return of_config(config, trained_for=_trained_for(folder))


def _activation(config: Mapping[str, Any]) -> str:
    """Return the activation that sentence-transformers recorded for a cross-encoder, or ''."""
    record = config.get("sentence_transformers")
    return str(record.get("activation_fn", "")) if isinstance(record, Mapping) else ""


def _pooling(folder: Path) -> str:
    """Return the type of a sentence-transformers folder's pooling module, or ''."""
    try:
        modules = documents.read_json(folder / "modules.json", ModelError)
    except ModelError:
        return ""
    types = [str(m.get("type", "")) for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    return next((name for name in types if "pooling" in name.lower()), "")


def _trained_for(folder: Path) -> str:
    """Return what this package fine-tuned a model for, as the folder's history and interface say; '' if it did not."""
    try:
        stages = [registry.stage_in(each) for each in history.applied(folder)]
        trained = any(stage is not None and stage.finetunes for stage in stages)
        return served(kinds.of_folder(folder))[0] if trained else ""
    except ModelError:
        return ""


def _interface_labels(folder: Path) -> tuple[str, ...]:
    try:
        labels = read_json(folder / "interface.json").get("labels")
    except ModelError:
        return ()
    return tuple(str(label) for label in labels) if isinstance(labels, list) else ()
