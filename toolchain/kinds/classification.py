"""Classification: a text, or a pair of texts, has one label of several; the model gives a logit for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import ModelError, require
from toolchain.kinds.contract import Agreement, Metric, Output
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "SequenceClassification"
HEADS = ("single-label classification",)
OUTPUTS = (Output("logits", ("batch", "labels")),)
METRIC = Metric("accuracy", unit="%", binary=True)
ACTIVATION = "Softmax"
LABELS = "text"
WORDS = ("label", "labels")


def head_config(labels: Sequence[str]) -> dict[str, Any]:
    """Return what ``config.json`` says of a new head for these labels."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return {"num_labels": len(labels), "problem_type": "single_label_classification", **names}


def classes(gold: int) -> tuple[int, ...]:
    """Return the index of the label that an example has."""
    return (gold,)


def reordered(gold: Sequence[int], index: Sequence[int]) -> list[int]:
    """Return label indices as a model counts its labels.

    Raises:
        ModelError: The model does not have one of the labels.
    """
    if unknown := sorted({label for label in gold if not 0 <= label < len(index)}):
        raise ModelError(f"the data has the labels {unknown}; the model knows 0 to {len(index) - 1}")
    return [index[label] for label in gold]


def activate(answers: NDArray[Any]) -> NDArray[Any]:
    """Return probabilities of logits ``[examples, labels]``; each row is shifted by its largest: none overflows."""
    powers = np.exp(answers - answers.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the likeliest label of each example and its probability."""
    best = answers.argmax(axis=1) if len(answers) else []
    return [Prediction(labels[k], float(row[k])) for k, row in zip(best, answers, strict=True)]


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Return the cross-entropy of the logits against ``labels`` ``[batch]``."""
    functional = require("torch.nn.functional", "torch")
    return functional.cross_entropy(outputs["logits"], batch["labels"], reduction=reduction)


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``: Hinton et al., arXiv 1503.02531."""
    functional = require("torch.nn.functional", "torch")
    known = functional.log_softmax(teacher / temperature, dim=-1)
    learned = functional.log_softmax(outputs["logits"] / temperature, dim=-1)
    return functional.kl_div(learned, known, reduction="batchmean", log_target=True) * temperature**2


def blend(teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
    """Return logits whose softened probabilities are the mean of the teachers'."""
    softened = [activate(answers.astype(np.float64) / temperature) for answers in teachers]
    mean: NDArray[np.float64] = temperature * np.log(np.maximum(np.mean(softened, axis=0), 1e-30))
    return mean


def compared(outputs: Mapping[str, Any]) -> Any:
    """Return the logarithms of the probabilities of each example, ``[examples, labels]``."""
    return outputs["logits"].double().log_softmax(-1)


def losses(compared: NDArray[np.float64], gold: Any) -> NDArray[np.float64]:
    """Return the cross-entropy of each example."""
    right: NDArray[np.float64] = -compared[np.arange(len(gold)), gold]
    return right


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``KL(expected ‖ found)`` of each example's probabilities."""
    far: NDArray[np.float64] = (np.exp(expected) * (expected - found)).sum(axis=1)
    return far


def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
    """Return 1 for each example whose likeliest label is right, and 0 for the others, ``[examples, 1]``."""
    right: NDArray[np.float64] = (answers.argmax(axis=1) == np.asarray(gold))[:, None].astype(np.float64)
    return right


def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
    """Compare logits: examples differ by their likeliest label, and are undecided where both leads are small."""
    return Agreement(
        differs=expected.argmax(axis=1) != found.argmax(axis=1),
        undecided=(_lead(expected) < decided) & (_lead(found) < decided),
        distance=np.abs(expected - found).max(axis=1, initial=0),
    )


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the likeliest label leads the next one, in logits."""
    with np.errstate(divide="ignore"):  # a probability of 0 is decided by an infinite lead
        return _lead(np.log(answers))


def _lead(answers: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the likeliest label's logit leads the next one's; infinite with a single label."""
    if answers.shape[1] < 2:
        return np.full(len(answers), np.inf, np.float32)
    ordered = np.sort(answers, axis=1)
    lead: NDArray[Any] = ordered[:, -1] - ordered[:, -2]
    return lead
