"""Multi-label classification: a text, or a pair, has any number of labels; the model gives a logit for each.

Each label is answered on its own: where its sigmoid is above 0.5. Models are judged by the micro-averaged F1 (Yang,
"An evaluation of statistical approaches to text categorization", Information Retrieval 1, 1999): with the labels of
all texts counted together, ``2·tp / (2·tp + fp + fn)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.certainty.bootstrap import whole
from toolchain.certainty.f1 import micro_f1
from toolchain.core.errors import ModelError, require
from toolchain.kinds.contract import Agreement, Metric, Output
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "SequenceClassification"
HEADS = ("multi-label classification",)
OUTPUTS = (Output("logits", ("batch", "labels")),)
METRIC = Metric("micro F1")
ACTIVATION = "Sigmoid"
WORDS = ("label set", "label sets")
REFUSED = {"inc_auto": "it keeps the accuracy of single labels (nncf_static with accuracy_control keeps any metric)"}

#: Probability above which a label is answered.
_THRESHOLD = 0.5

#: What stands between the labels of a text in one cell.
_SEPARATOR = ","


def head_config(labels: Sequence[str]) -> dict[str, Any]:
    """Return what ``config.json`` says of a new head for these labels."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return {"num_labels": len(labels), "problem_type": "multi_label_classification", **names}


def recognizes(values: Sequence[Any]) -> bool:
    """Return whether cells are lists, or names between commas that stand alone or, most of them, in other cells too."""
    if any(isinstance(value, (list, tuple)) for value in values):
        return True
    cells = {tuple(cell_labels(value)) for value in values if isinstance(value, str)}
    occurs = Counter(name for cell in cells for name in set(cell))
    joined = {name for cell in cells if len(cell) > 1 for name in cell}
    alone = {cell[0] for cell in cells if len(cell) == 1}
    return bool(joined & alone) or 2 * sum(occurs[name] > 1 for name in joined) > len(joined)


def cell_labels(value: Any) -> list[Any]:
    """Return the labels that a cell names: a list's, or those between commas; an empty cell names none."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if value is None or value != value:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(_SEPARATOR)] if value.strip() else []
    return [value]


def gold_of(indices: Sequence[int], labels: int) -> tuple[int, ...]:
    """Return 1 for each label that an example has, and 0 for the others, ``[labels]``."""
    return tuple(int(index in indices) for index in range(labels))


def classes(gold: Sequence[int]) -> list[int]:
    """Return the indices of the labels that an example has."""
    return [index for index, has in enumerate(gold) if has]


def reordered(gold: Sequence[Any], index: Sequence[int]) -> list[Any]:
    """Return gold answers as a model counts its labels.

    Raises:
        ModelError: Examples have another number of labels than the model.
    """
    if wrong := sorted({len(row) for row in gold if len(row) != len(index)}):
        raise ModelError(f"the data has {wrong[0]} labels; the model has {len(index)}")
    places = sorted(range(len(index)), key=index.__getitem__)
    return [tuple(row[place] for place in places) for row in gold]


def activate(answers: NDArray[Any]) -> NDArray[Any]:
    """Return the sigmoids of logits ``[examples, labels]``; none overflows."""
    small = np.exp(-np.abs(answers))
    probabilities: NDArray[Any] = np.where(answers >= 0, 1, small) / (1 + small)
    return probabilities.astype(answers.dtype, copy=False)


def deactivate(answers: NDArray[Any]) -> NDArray[Any]:
    """Return the logits of probabilities; they are finite, as those of the probabilities next to 0 and 1 are."""
    inside = np.clip(answers, np.finfo(answers.dtype).tiny, 1 - np.finfo(answers.dtype).epsneg)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the labels above the threshold of each example, and the likeliest one of all."""
    return [_prediction(row, labels) for row in answers]


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Return the binary cross-entropy of the logits against ``labels`` ``[batch, labels]``, a mean over labels."""
    logits = outputs["logits"]
    return _cross_entropy(logits, batch["labels"].to(logits.dtype), reduction)


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return ``T² · BCE(sigmoid(teacher / T), sigmoid(student / T))``: Hinton et al., arXiv 1503.02531, by label."""
    return _cross_entropy(outputs["logits"] / temperature, (teacher / temperature).sigmoid(), "mean") * temperature**2


def blend(teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
    """Return logits whose softened sigmoids are the mean of the teachers'."""
    softened = [activate(answers.astype(np.float64) / temperature) for answers in teachers]
    return np.asarray(temperature * deactivate(np.mean(softened, axis=0)), dtype=np.float64)


def losses(compared: NDArray[np.float64], gold: Any) -> NDArray[np.float64]:
    """Return the binary cross-entropy of each example, a mean over labels."""
    own: NDArray[np.float64] = (np.logaddexp(0, compared) - np.asarray(gold) * compared).mean(axis=1)
    return own


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``KL(expected ‖ found)`` of each example, a mean over labels."""
    apart = activate(expected) * (expected - found) + np.logaddexp(0, found) - np.logaddexp(0, expected)
    return np.asarray(apart.mean(axis=1))


def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
    """Return true positives, false positives and false negatives of each example, ``[examples, 3]``, of logits."""
    answered, has = answers > 0, np.asarray(gold, dtype=bool)
    if has.shape != answered.shape:
        raise ValueError(f"answers have the shape {answered.shape}, and gold labels {has.shape}")
    counted = [(answered & has).sum(axis=1), (answered & ~has).sum(axis=1), (~answered & has).sum(axis=1)]
    return np.column_stack(counted).astype(np.float64)


def combine(scores: NDArray[np.float64]) -> float:
    """Return the micro F1, 0 to 1; 0 where no example has a label and none is answered."""
    return whole(resampled, scores)


def doubt(scores: NDArray[np.float64]) -> str:
    """Return a warning where a model answers no label at all, as one that has learned little does."""
    if scores[:, :2].any():
        return ""
    return "no label of any dev example has a probability above 0.5: train for more epochs, or at another learning rate"


def resampled(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the micro F1 of each resample."""
    return micro_f1(scores, counts)


def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
    """Compare logits: examples differ where a label crosses its threshold; a toss-up where all that do lie near it."""
    crosses = (expected > 0) != (found > 0)
    near = (np.abs(expected) < decided) & (np.abs(found) < decided)
    return Agreement(
        differs=crosses.any(axis=1),
        undecided=(near | ~crosses).all(axis=1),
        distance=np.abs(expected - found).max(axis=1, initial=0),
    )


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return the smallest distance of a label of each example to its threshold, in logits."""
    return np.asarray(np.abs(deactivate(answers)).min(axis=1, initial=np.inf))


def _prediction(row: NDArray[Any], labels: Sequence[str]) -> Prediction:
    order = np.argsort(-row, kind="stable")
    above = tuple((labels[k], float(row[k])) for k in order if row[k] > _THRESHOLD)
    return Prediction(labels[order[0]], float(row[order[0]]), labels=above)


def _cross_entropy(logits: Any, wanted: Any, reduction: str) -> Any:
    functional = require("torch.nn.functional", "torch")
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
    return each.sum() if reduction == "sum" else each.mean()
