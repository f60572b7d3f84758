"""What latency-aware pruning chooses within a time; that an engine is then as fast is the contract's."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from tests.builders import classifier_folder, context, sentences
from toolchain.compress import latency_prune
from toolchain.compress.shared.budget import Option, cheapest
from toolchain.compress.shared.time_table import TimeTable
from toolchain.core.errors import ModelError
from toolchain.model import checkpoint
from toolchain.model.anatomy import anatomy, heads, layers_of, neurons

#: A layer is 0.4 of the time; half of its heads save 0.1, half of its neurons 0.15; 0.2 are not of layers.
TABLE = TimeTable(layer=0.4, heads={1: 0.15, 2: 0.1, 4: 0.0}, neurons={16: 0.29, 256: 0.15, 512: 0.0}, depth=2)


def test_the_time_of_a_model_is_that_of_its_parts() -> None:
    assert TABLE.of([(4, 512), (4, 512)]) == pytest.approx(1)
    assert TABLE.of([(4, 512)]) == pytest.approx(0.6)
    assert TABLE.of([(2, 256), (4, 512)]) == pytest.approx(0.75)
    assert TABLE.of([(3, 384), (4, 512)]) == pytest.approx(1 - 0.05 - 0.075)  # half way between what was timed


@pytest.mark.parametrize("seed", range(8))
def test_the_dynamic_program_finds_what_trying_everything_finds(seed: int) -> None:
    draw = random.Random(seed)
    groups = [[Option(draw.random(), -draw.random(), value) for value in range(4)] for _ in range(4)]
    budget = -1.5
    fitting = [chosen for chosen in itertools.product(*groups) if sum(option.weight for option in chosen) <= budget]
    found = cheapest(groups, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    chosen = [group[value] for group, value in zip(groups, found, strict=True)]
    assert sum(option.weight for option in chosen) <= budget + 1e-9
    best = min(sum(option.cost for option in c) for c in fitting)
    assert sum(option.cost for option in chosen) <= best + 0.02  # weights are rounded up to a two-thousandth


def test_a_budget_that_nothing_keeps_to_has_no_choice() -> None:
    assert cheapest([[Option(1.0, 0.5, 0)], [Option(1.0, 0.5, 1)]], 0.9) is None


def search(folder: Path, **settings: object) -> latency_prune._Search:
    source = classifier_folder()
    config = latency_prune.Config(calibration_samples=16, **settings)  # type: ignore[arg-type]
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    return latency_prune._Search(source, model, tokenizer, config, context(folder, sentences()))


def test_sizes_keep_to_the_time_and_the_model_is_cut_to_them(tmp_path: Path) -> None:
    plan = search(tmp_path, speedup=1.5)._best(TABLE, 1 / 1.5)
    cost = TABLE.of(list(zip(plan.heads, plan.neurons, strict=True)))
    assert cost <= 1 / 1.5 + 1e-9
    model = search(tmp_path)._cut(plan)
    assert anatomy(model).depth == len(plan.kept)
    assert [(heads(model, layer), neurons(model, layer)) for layer in layers_of(model)] == list(
        zip(plan.heads, plan.neurons, strict=True)
    )
    assert all(count % 16 == 0 for count in plan.neurons)


def test_a_plan_says_whether_nothing_but_whole_layers_left(tmp_path: Path) -> None:
    found = search(tmp_path)
    one_layer = found._within(TABLE, 0.7, [1])  # it takes 0.6 of the time as it is
    assert one_layer == latency_prune._Plan((1,), (4,), (512,), whole=True)
    less = found._within(TABLE, 0.5, [1])
    assert less is not None
    assert not less.whole
    assert (less.heads, less.neurons) != ((4,), (512,))


def test_a_speed_that_no_size_reaches_is_refused_with_the_most_that_there_is(tmp_path: Path) -> None:
    # One layer with one head and 16 neurons takes 1 − 2·0.4 + 0.4 − 0.15 − 0.29 = 0.16 of the time.
    with pytest.raises(ModelError, match=r"speedup 50 cannot be had: .* in one layer this model is 6\.25 times"):
        search(tmp_path, speedup=50.0)._check(TABLE)
    # Two such layers take 0.2 + 2·(0.4 − 0.44), which the table rounds up to nothing less than 0.
    with pytest.raises(ModelError, match="let layers leave"):
        search(tmp_path, speedup=50.0, layers=False)._check(
            TimeTable(layer=0.4, heads=TABLE.heads, neurons={16: 0.2, 512: 0.0}, depth=2)
        )
