"""Asks whether labels are swapped, where a model is worse than guessing by more than chance explains."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.certainty.statistics import wilson
from toolchain.kinds.contract import Kind
from toolchain.model.labels import mapping_option


def note(kind: Kind, correct: int, examples: int, labels: Sequence[str]) -> str:
    """Return the question, if the interval of an accuracy lies below that of guessing; else an empty text.

    Args:
        kind: The kind of task; of one that is not judged by right answers, nothing is asked.
        correct: Right answers on dev.
        examples: Examples of dev.
        labels: The task's label names.
    """
    if not kind.METRIC.binary or wilson(correct, examples).high >= 1 / len(labels):
        return ""
    question = (
        f"accuracy on dev is below the {100 / len(labels):.3g} % of guessing among {len(labels)} labels, by more than "
        "chance explains: are the labels swapped?"
    )
    if len(labels) == 2:
        return f"{question} For an adopted model, {mapping_option(labels, labels[::-1])} swaps them"
    return f"{question} For an adopted model, adopt.labels maps its names to the task's"
