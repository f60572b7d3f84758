"""Regression: a text, or a pair of texts, has one number, its score; cross-encoders of similarity are such models.

Models are judged by Spearman's rank correlation of their scores with the gold ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.certainty.bootstrap import whole
from toolchain.certainty.correlation import spearman
from toolchain.core.errors import require
from toolchain.kinds.contract import Agreement, Metric, Output
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "SequenceClassification"
HEADS = ("regression", "regression or cross-encoder scores")
OUTPUTS = (Output("logits", ("batch", "labels")),)
METRIC = Metric("Spearman correlation")
NAMES = ("score",)
WORDS = ("score", "scores")
REFUSED = {"inc_auto": "it keeps the accuracy of labels (nncf_static with accuracy_control keeps any metric)"}

#: A score differs when it moves by more than this share of the spread (standard deviation) of the expected scores.
_TOLERANCE = 0.1


def head_config(labels: Sequence[str]) -> dict[str, Any]:
    """Return what ``config.json`` says of a new head."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return {"num_labels": 1, "problem_type": "regression", **names}


def recognizes(values: Sequence[Any]) -> bool:
    """Return whether all cells are numbers, and some are not whole."""
    try:
        scores = [read_gold(value) for value in values if value is not None]
    except ValueError:
        return False
    return any(score % 1 for score in scores)


def read_gold(value: Any) -> float:
    """Return a score as a data file has it.

    Raises:
        ValueError: It is not a finite number.
    """
    try:
        score = float(str(value).strip())
    except ValueError:
        raise ValueError(f"the score is {value!r}; a number is expected") from None
    if not math.isfinite(score):
        raise ValueError(f"the score is {value!r}; a finite number is expected")
    return score


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the score of each example."""
    return [Prediction(labels[0], 1.0, float(score)) for score in answers[:, 0]]


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Return the squared error of the scores against ``labels`` ``[batch]``."""
    functional = require("torch.nn.functional", "torch")
    return functional.mse_loss(
        outputs["logits"][:, 0], batch["labels"].to(outputs["logits"].dtype), reduction=reduction
    )


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return the squared error of the scores against the teacher's; scores have no temperature."""
    return require("torch.nn.functional", "torch").mse_loss(outputs["logits"], teacher)


def blend(teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
    """Return the mean of the teachers' scores."""
    mean: NDArray[np.float64] = np.mean(np.asarray(teachers, dtype=np.float64), axis=0)
    return mean


def losses(compared: NDArray[np.float64], gold: Any) -> NDArray[np.float64]:
    """Return the squared error of each example."""
    apart: NDArray[np.float64] = np.square(compared[:, 0] - np.asarray(gold, dtype=np.float64))
    return apart


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared difference of each example's scores."""
    return np.asarray(np.square(expected - found)[:, 0])


def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
    """Return each example's score and its gold score, ``[examples, 2]``."""
    return np.column_stack([answers[:, 0], np.asarray(gold)]).astype(np.float64)


def combine(scores: NDArray[np.float64]) -> float:
    """Return the rank correlation, -1 to 1; 0 where all scores, or all gold ones, are equal."""
    return whole(resampled, scores)


def resampled(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the rank correlation of each resample."""
    return spearman(scores, counts)


def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
    """Compare scores: examples differ where they move by more than a tenth of the spread of the expected ones."""
    distance = np.abs(expected - found)[:, 0]
    differs = distance > _tolerance(expected)
    return Agreement(differs=differs, undecided=np.zeros(len(distance), dtype=bool), distance=distance)


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return by how much each score may move before it differs, which is the same for all."""
    return np.full(len(answers), _tolerance(answers), dtype=np.float64)


def _tolerance(answers: NDArray[Any]) -> float:
    return _TOLERANCE * float(answers.std()) if len(answers) > 1 else math.inf
