"""One training for several sizes, and the sub-network that is taken of it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import classifier_folder, context, elastic_folder, sentences, stopping_at
from tests.contracts.compressed import check_claims, digest
from tests.tiny import call
from toolchain.compress import dynabert, gradient_prune, low_rank, subnetwork, vocabulary_prune
from toolchain.compress.shared import criteria, elastic, gradients
from toolchain.compress.shared.elastic import Size
from toolchain.compress.shared.pruning import Remove
from toolchain.compress.shared.targets import unit_targets
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import checkpoint, surgery
from toolchain.model.anatomy import layers_of
from toolchain.model.encoded import encode, logits
from toolchain.model.source import Shape
from toolchain.model.train import TrainConfig

FAMILIES = ("bert", "roberta", "albert")
SIZES = (Size(1.0, 2), Size(0.5, 2), Size(0.25, 1), Size(1.0, 1))
TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
CONFIG = dynabert.Config(widths=(1.0, 0.5), depths=(1.0, 0.5), calibration_samples=8, finetune=TRAINING)


def answered(model: Any, family: str) -> Any:
    tokenizer = checkpoint.load_tokenizer(classifier_folder(family))
    return torch.tensor(
        logits(model, encode(tokenizer, sentences().dev, 32, checkpoint.model_inputs(model, tokenizer)), 1)
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_within_a_size_a_model_computes_what_it_computes_when_it_is_cut(family: str, size: Size) -> None:
    model, smaller = (checkpoint.load_model(classifier_folder(family)) for _ in range(2))
    whole, names = answered(model, family), [name for name, _ in model.named_parameters()]
    with elastic.within(model, size):
        inside = answered(model, family)
    elastic.cut(smaller, size)
    assert torch.allclose(inside, answered(smaller, family), atol=1e-5)
    if size != Size(1.0, 2):
        assert not torch.allclose(inside, whole, atol=1e-3)
    assert torch.equal(answered(model, family), whole)  # and is whole again
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("family", FAMILIES)
def test_the_most_important_stand_first_and_the_whole_computes_what_it_did(family: str, tmp_path: Path) -> None:
    source = classifier_folder(family)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before, first = answered(model, family), layers_of(model)[0]
    rows = model.get_submodule(first.ffn_in).weight.detach().clone()
    elastic.order_by_importance(model, tokenizer, 16, context(tmp_path))
    assert torch.allclose(answered(model, family), before, atol=1e-4)
    assert not torch.equal(model.get_submodule(first.ffn_in).weight, rows)
    targets = unit_targets(model, "ffn")
    scores = gradients.gather(model, tokenizer, targets, criteria.taylor, context(tmp_path), 16)
    for score in scores.values():
        assert float((score.flatten().diff() > 1e-6).float().mean()) < 0.02


def test_sizes_are_every_width_with_every_depth_and_steps_draw_between_the_ends() -> None:
    found = elastic.sizes((1.0, 0.5), (1.0, 0.67, 0.5), 6)
    assert found[0] == Size(1.0, 6)
    assert found[-1] == Size(0.5, 3)
    assert {(size.width, size.layers) for size in found} == {(w, d) for w in (1.0, 0.5) for d in (6, 4, 3)}
    assert surgery.evenly(3, 6) == (0, 2, 4)
    drawn = [elastic.sandwich(found, 2, 17, step) for step in range(50)]
    assert all(each[0] == found[0] and each[-1] == found[-1] and len(set(each)) == 4 for each in drawn)
    assert {size for each in drawn for size in each} == set(found)
    assert drawn == [elastic.sandwich(found, 2, 17, step) for step in range(50)]
    assert len(elastic.sandwich(found[:2], 5, 17, 0)) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_small_sizes_learn(family: str, tmp_path: Path) -> None:
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    training = dataclasses.replace(TRAINING, epochs=6, learning_rate=3e-3)
    config = dataclasses.replace(CONFIG, finetune=training, teacher=None)
    told = dynabert.apply(classifier_folder(family), tmp_path / "out", config, context(tmp_path / "work"))
    assert {(row["width"], row["layers"]) for row in told["dev_by_size"]} == {
        (w, d) for w in (1.0, 0.5) for d in (2, 1)
    }
    reached = min(row["dev_accuracy"] for row in told["dev_by_size"])
    untrained = checkpoint.load_model(classifier_folder(family))
    elastic.cut(untrained, Size(0.5, 1))
    labels = torch.tensor(sentences().dev.labels)
    assert reached > float((answered(untrained, family).argmax(1) == labels).float().mean())
    assert reached > 0.7
    assert told["heads"] == [4] * len(told["heads"])  # nothing has left yet


def test_stopped_and_resumed_it_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "resumed", "a", "b"):
        (tmp_path / name).mkdir()
    dynabert.apply(classifier_folder(), tmp_path / "whole", CONFIG, context(tmp_path / "a"))
    with monkeypatch.context() as patched:
        patched.setattr("toolchain.compress.shared.recovery.train", stopping_at(5))
        with pytest.raises(KeyboardInterrupt):
            dynabert.apply(classifier_folder(), tmp_path / "resumed", CONFIG, context(tmp_path / "b"))
    told = dynabert.apply(classifier_folder(), tmp_path / "resumed", CONFIG, context(tmp_path / "b"))
    assert told["resumed_at"] == 5
    assert digest(tmp_path / "whole") == digest(tmp_path / "resumed")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sub_network_is_what_was_judged(family: str, tmp_path: Path) -> None:
    source, out = elastic_folder(family), tmp_path / "out"
    out.mkdir()
    told = subnetwork.apply(source, out, subnetwork.Config(), context(tmp_path))
    check_claims(source, out, told)
    assert (told["layers"], told["width"], told["heads"][0]) == (1, 0.5, 2)  # the smallest
    model = checkpoint.load_model(source)
    with elastic.within(model, Size(0.5, 1)):
        inside = answered(model, family)
    assert torch.allclose(answered(checkpoint.load_model(out), family), inside, atol=1e-5)
    assert elastic.KEY not in checkpoint.read_json(out / "config.json")
    with pytest.raises(ModelError, match="was not trained for several sizes"):
        subnetwork.apply(out, tmp_path / "again", subnetwork.Config(), context(tmp_path))


def test_width_and_layers_choose_and_what_was_not_trained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    told = subnetwork.apply(elastic_folder(), tmp_path / "out", subnetwork.Config(width=1.0), context(tmp_path))
    assert (told["layers"], told["heads"]) == (1, [4])
    with pytest.raises(RecipeError, match=r"not trained for width 0.3") as caught:
        subnetwork.apply(elastic_folder(), tmp_path / "x", subnetwork.Config(width=0.3), context(tmp_path))
    assert "2 layers, width 1; 2 layers, width 0.5" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("after", "settings", "says"),
    [
        (None, {"width": 0.3}, "the model was not trained for width 0.3"),
        (None, {"layers": 99}, "the model was not trained for layers 99"),
        (None, {"width": 0.5, "layers": 2, "speedup": 1.5}, None),
        ((gradient_prune, {"remove": Remove(heads=0.5)}), {}, "heads, neurons or layers left after dynabert"),
        ((gradient_prune, {"sparsity": 0.5}), {}, None),
        ((subnetwork, {}), {}, "heads, neurons or layers left after dynabert"),
    ],
)
def test_a_sub_network_that_cannot_be_is_refused_by_the_config_alone(
    after: tuple[Any, dict[str, Any]] | None, settings: dict[str, Any], says: str | None
) -> None:
    shape = dynabert.leaves(CONFIG, Shape(2, 2))
    if after:
        shape = after[0].leaves(after[0].Config(**after[1]), shape)
    refusal = subnetwork.fits(subnetwork.Config(**settings), shape)
    assert (refusal and refusal[0]) == says
    assert subnetwork.fits(subnetwork.Config(**settings), Shape(2, 2)) is None  # trained elsewhere, for all we know


def test_the_smallest_has_the_layers_that_it_has() -> None:
    shape = dynabert.leaves(CONFIG, Shape(2, 2))
    least = min(layers for _, layers in shape.trained or ())
    assert subnetwork.leaves(subnetwork.Config(), shape).layers == least
    refusal = subnetwork.fits(subnetwork.Config(), low_rank.leaves(low_rank.Config(rank=8), shape))
    assert refusal is not None
    assert refusal[1] == "let low_rank stand after subnetwork"
    assert subnetwork.leaves(subnetwork.Config(layers=2), shape).layers == 2
    assert subnetwork.leaves(subnetwork.Config(speedup=2), shape).layers == 2  # which one is not known yet


@pytest.mark.parametrize(
    ("shape", "settings", "says"),
    [
        (low_rank.leaves(low_rank.Config(rank=8), Shape(2, 2)), {}, "the layers of a low rank have no order"),
        (low_rank.leaves(low_rank.Config(layers=(), embedding=8), Shape(2, 2)), {}, None),
        (Shape(6, 2), {}, "2 different layers are shared"),
        (Shape(6, 1), {}, None),
        (Shape(2, 2), {"widths": (1,), "depths": (1, 0.9)}, "are one number of layers, the whole"),
    ],
)
def test_what_cannot_be_trained_for_several_sizes_is_refused_by_its_shape(
    shape: Shape, settings: dict[str, Any], says: str | None
) -> None:
    refusal = dynabert.fits(dynabert.Config(**settings), shape)
    assert (says is None) == (refusal is None)
    assert refusal is None or str(says) in refusal[0]


def test_the_most_accurate_that_is_fast_enough_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {(2, 4): 1.0, (2, 2): 1.6, (1, 4): 2.1, (1, 2): 3.5}

    @contextlib.contextmanager
    def fake(dense: Path, texts: Any, **options: Any) -> Iterator[Any]:
        def timed(folders: Sequence[Path]) -> list[float]:
            models = [checkpoint.load_model(folder) for folder in folders]
            shapes = [
                (m.config.num_hidden_layers, m.bert.encoder.layer[0].attention.self.num_attention_heads) for m in models
            ]
            return [speeds[shape] for shape in shapes]

        yield timed

    accuracies = {Size(1.0, 2): 0.9, Size(0.5, 2): 0.8, Size(1.0, 1): 0.85, Size(0.5, 1): 0.7}
    monkeypatch.setattr(subnetwork, "stopwatch", fake)
    monkeypatch.setattr(
        subnetwork, "_judged", lambda *_: sorted(accuracies.items(), key=lambda item: -item[1])
    )  # fmt: skip
    for asked, size, tries in ((1.5, (1, [4]), 2), (2.5, (1, [2]), 4)):
        out = tmp_path / str(asked)
        out.mkdir()
        told = subnetwork.apply(elastic_folder(), out, subnetwork.Config(speedup=asked), context(tmp_path / "work"))
        assert ((told["layers"], told["heads"]), len(told["tries"])) == (size, tries)
    with pytest.raises(ModelError, match=r"none of 4 sub-networks is 4 times as fast; the fastest is 3.50: 1 layers"):
        subnetwork.apply(elastic_folder(), out, subnetwork.Config(speedup=4), context(tmp_path / "work"))


def test_a_sub_network_is_timed_on_its_engine(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    config = subnetwork.Config(speedup=1.01, tolerance=0.99, rounds=3)
    told = subnetwork.apply(elastic_folder(), tmp_path / "out", config, context(tmp_path / "work"))
    assert told["tries"]
    assert all(one["speedup"] > 0 for one in told["tries"])


def test_a_vocabulary_may_leave_in_between_and_heads_may_not(tmp_path: Path) -> None:
    for name in ("words", "heads", "out"):
        (tmp_path / name).mkdir()
    vocabulary_prune.apply(elastic_folder(), tmp_path / "words", vocabulary_prune.Config(), context(tmp_path / "w"))
    told = subnetwork.apply(tmp_path / "words", tmp_path / "out", subnetwork.Config(), context(tmp_path / "w"))
    assert told["layers"] == 1
    pruned = gradient_prune.Config(remove=Remove(heads=0.5), calibration_samples=8)
    gradient_prune.apply(elastic_folder(), tmp_path / "heads", pruned, context(tmp_path / "h"))
    with pytest.raises(ModelError, match="was cut after it was trained for several sizes"):
        subnetwork.apply(tmp_path / "heads", tmp_path / "out", subnetwork.Config(), context(tmp_path / "h"))


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"widths: \[0.5\] has no 1"):
        dynabert.Config(widths=(0.5,))
    with pytest.raises(ValueError, match="name one size alone"):
        dynabert.Config(widths=(1.0,), depths=(1.0,))


def test_one_training_serves_several_bounds(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        """\
task: {reviews: {train_size: 16, dev_size: 16, test_size: 16}}
model: scratch:bert-2x64
stages: [{finetune: {epochs: 1}}]
variants:
  small: [{dynabert: SETTINGS}, subnetwork, export]
  wide: [{dynabert: SETTINGS}, {subnetwork: {width: 1}}, export]
""".replace("SETTINGS", "{widths: [1, 0.5], depths: [1, 0.5], finetune: {epochs: 1}, calibration_samples: 8}"),
        "utf-8",
    )
    done = call("compress", "r.yaml", "--store", "store", "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.stderr.count("· dynabert") == 1
    history = checkpoint.read_json(tmp_path / "out/small/subnetwork/history.json")["techniques"]
    assert [entry["technique"] for entry in history] == ["finetune", "dynabert", "subnetwork"]
    (tmp_path / "bad.yaml").write_text(
        "model: scratch:bert-2x64\nstages: [finetune]\nvariants: {a: [subnetwork, export]}\n", "utf-8"
    )
    bad = call("validate", "bad.yaml", cwd=tmp_path)
    assert "subnetwork: nothing before it trains a model for several sizes: put dynabert before it" in bad.stderr
