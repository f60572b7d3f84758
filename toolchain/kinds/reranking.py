"""Reranking: how relevant a passage is to a query, one number for each pair; the pairs of a query are its group.

Models are judged by nDCG@10 (Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20,
2002), with the relevance itself as gain, as BEIR and trec_eval have it: the mean over queries that have a relevant
passage. Of passages with equal scores the less relevant one is ranked first, so that a constant gains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.certainty.bootstrap import whole
from toolchain.core.errors import require
from toolchain.kinds import regression
from toolchain.kinds.contract import Agreement, Metric, Output
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "SequenceClassification"
HEADS = ("regression or cross-encoder scores", "regression")
OUTPUTS = (Output("logits", ("batch", "labels")),)
METRIC = Metric("nDCG@10")
NAMES = ("score",)
WORDS = ("score", "scores")
REFUSED = regression.REFUSED
GROUPED = True

#: Passages of a query that count.
_DEPTH = 10


def head_config(labels: Sequence[str]) -> dict[str, Any]:
    """Return what ``config.json`` says of a new head."""
    return regression.head_config(labels)


def read_gold(value: Any) -> float:
    """Return a relevance as a data file has it.

    Raises:
        ValueError: It is not a finite number, or below 0.
    """
    relevance = regression.read_gold(value)
    if relevance < 0:
        raise ValueError(f"the relevance is {value!r}; 0 or more is expected")
    return relevance


def grouped(gold: float, group: int) -> tuple[float, float]:
    """Return a gold answer: the relevance of a passage, and the number of its query."""
    return gold, float(group)


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the score of each pair."""
    return regression.decode(answers, labels, texts)


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Return the squared error of the scores against the relevances, the first of ``labels`` ``[batch, 2]``."""
    return regression.loss(outputs, {"labels": batch["labels"][:, 0]}, reduction)


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return the squared error of differences of scores against the teacher's, of all pairs of a batch: MarginMSE.

    Hofstätter et al., "Improving efficient neural ranking models with cross-architecture knowledge distillation",
    arXiv 2010.02666. What all scores of a batch have in common changes no order, and is not learned.
    """
    apart = outputs["logits"][:, 0] - teacher[:, 0]
    return require("torch", "torch").square(apart[:, None] - apart[None, :]).mean()


def blend(teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
    """Return the mean of the teachers' scores."""
    return regression.blend(teachers, temperature)


def losses(compared: NDArray[np.float64], gold: Any) -> NDArray[np.float64]:
    """Return the squared error of each pair."""
    return regression.losses(compared, np.asarray(gold)[:, 0])


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the squared difference of each pair's scores."""
    return regression.divergence(expected, found)


def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
    """Return each pair's score, its relevance and the number of its query, ``[examples, 3]``."""
    return np.column_stack([answers[:, 0], np.asarray(gold)]).astype(np.float64)


def combine(scores: NDArray[np.float64]) -> float:
    """Return the mean nDCG@10 of queries, 0 to 1; 0 where none has a relevant passage."""
    return whole(resampled, scores)


def resampled(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the nDCG@10 of each resample; a query counts as often as its passages are drawn, which is together."""
    _, queries = np.unique(scores[:, 2], return_inverse=True)
    count = int(queries.max(initial=-1)) + 1
    reached = np.bincount(queries, _gains(queries, -scores[:, 0], scores[:, 1]), count)
    ideal = np.bincount(queries, _gains(queries, -scores[:, 1], scores[:, 1]), count)
    answered = ideal > 0
    membership = (queries[:, None] == np.flatnonzero(answered)[None, :]) / np.bincount(queries)[answered]
    weights = counts @ membership
    summed, total = weights @ (reached[answered] / ideal[answered]), weights.sum(axis=1)
    return np.divide(summed, total, out=np.zeros(len(counts)), where=total > 0)


def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
    """Compare scores: examples differ where they move by more than a tenth of the spread of the expected ones."""
    return regression.agree(expected, found, decided)


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return by how much each score may move before it differs, which is the same for all."""
    return regression.margin(answers)


def _gains(queries: NDArray[np.intp], keys: NDArray[np.float64], relevances: NDArray[np.float64]) -> NDArray[Any]:
    """Return the discounted gain of each passage among the first ten of its query, in the order of keys."""
    order = np.lexsort((relevances, keys, queries))
    starts = np.flatnonzero(np.diff(queries[order], prepend=-1))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.where(places < _DEPTH, relevances / np.log2(places + 2), 0.0)
