from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from toolchain import kinds
from toolchain.kinds.shared.prediction import Prediction

KIND = kinds.get("classification")
LOGITS = np.array([[2.0, 1.0], [0.0, 0.0], [-1.0, 3.0]], np.float32)


def test_an_example_scores_one_where_its_likeliest_label_is_right_and_the_metric_is_their_mean() -> None:
    scores = KIND.score(LOGITS, [0, 1, 1])  # of equal logits the first is taken
    assert scores.tolist() == [[1.0], [0.0], [1.0]]
    assert KIND.combine(scores) == 2 / 3


def test_activated_answers_are_probabilities_of_the_precision_that_came() -> None:
    found = KIND.activate(LOGITS)
    assert found.dtype == np.float32
    assert found[0, 0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert KIND.activate(np.array([[1000.0, 0.0]])).tolist() == [[1.0, 0.0]]
    assert KIND.activate(np.empty((0, 2), np.float32)).shape == (0, 2)


def test_a_prediction_is_the_likeliest_label_with_its_probability() -> None:
    found = KIND.decode(np.array([[0.25, 0.75]]), ["no", "yes"])
    assert found == [Prediction("yes", 0.75)]
    assert KIND.decode(np.empty((0, 2)), ["no", "yes"]) == []


def test_examples_differ_by_their_label_and_are_undecided_where_both_leads_are_small() -> None:
    expected = np.array([[0.0, 1.0], [0.0, 0.001], [0.0, 0.001]], np.float32)
    found = np.array([[0.5, 0.0], [0.002, 0.0], [0.5, 0.0]], np.float32)
    agreement = KIND.agree(expected, found, decided=0.01)
    assert agreement.differs.tolist() == [True, True, True]
    assert agreement.undecided.tolist() == [False, True, False]
    assert agreement.distance.tolist() == pytest.approx([1.0, 0.002, 0.5])


def test_the_margin_is_the_lead_of_the_likeliest_label() -> None:
    assert KIND.margin(KIND.activate(LOGITS)).tolist() == pytest.approx([1.0, 0.0, 4.0], abs=1e-6)
    assert KIND.margin(np.ones((2, 1))).tolist() == [math.inf, math.inf]
    assert KIND.margin(np.array([[1.0, 0.0]])).tolist() == [math.inf]


def test_losses_are_cross_entropy_and_divergence_softened_by_the_temperature() -> None:
    outputs = {"logits": torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])}
    batch = {"labels": torch.tensor([0, 1])}
    assert float(KIND.loss(outputs, batch)) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert float(KIND.loss(outputs, batch, reduction="sum")) == pytest.approx(math.log(2) + math.log(4 / 3))
    assert float(KIND.soft_loss(outputs, outputs["logits"], batch, 2.0)) == pytest.approx(0.0, abs=1e-7)
    # KL((1/2, 1/2) ‖ (1/4, 3/4)) = ln 2 − ln 3 / 2, at T = 2 of logits twice as large, times T²
    student, teacher = {"logits": torch.tensor([[0.0, 2 * math.log(3)]])}, torch.zeros(1, 2)
    assert float(KIND.soft_loss(student, teacher, batch, 2.0)) == pytest.approx(4 * (math.log(2) - math.log(3) / 2))


def test_several_teachers_are_blended_by_the_mean_of_their_softened_probabilities() -> None:
    one, other = np.array([[math.log(3), 0.0]]), np.array([[0.0, math.log(3)]])
    blended = KIND.blend([one, other], 1.0)
    assert KIND.activate(blended)[0].tolist() == pytest.approx([0.5, 0.5])


def test_gold_labels_are_counted_as_the_model_counts_them() -> None:
    assert KIND.reordered([0, 1, 1], [1, 0]) == [1, 0, 0]
