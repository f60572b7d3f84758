"""What the pruning techniques choose, cut and keep; that their claims are on disk is the contract's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from tests.builders import classifier_folder, context, sentences
from toolchain.compress import gradient_prune, magnitude_prune, movement_prune
from toolchain.compress.shared import obs
from toolchain.compress.shared.criteria import fisher, magnitude, movement, taylor
from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.pruning import Remove, cubic
from toolchain.compress.shared.recovery import Teacher
from toolchain.compress.shared.targets import Target, choose, two_of_four, unit_targets, weight_targets
from toolchain.core.errors import ModelError, RecipeError
from toolchain.model import checkpoint, surgery
from toolchain.model.anatomy import heads, hidden, layers_of, neurons
from toolchain.model.train import TrainConfig, accuracy, train

TRAINING = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3, max_length=32)
FAMILIES = ("bert", "roberta", "albert")


def pruned(module: Any, folder: Path, family: str = "bert", **settings: Any) -> tuple[Path, dict[str, Any]]:
    """A pruned copy of the tiny classifier of a family."""
    out = folder / "out"
    out.mkdir(parents=True)
    source = settings.pop("source", None) or classifier_folder(family)
    (folder / "work").mkdir()
    metrics = module.apply(source, out, module.Config(**settings), context(folder / "work", sentences()))
    return out, metrics


def planted(folder: Path, change: Any) -> Path:
    """The tiny BERT with a change that a test has made to it."""
    model, source = checkpoint.load_model(classifier_folder()), classifier_folder()
    with torch.no_grad():
        change(model)
    checkpoint.save(
        model, checkpoint.load_tokenizer(source), folder, max_length=32, labels=sentences().labels, pair=False
    )
    return folder


def logits(folder: Path) -> torch.Tensor:
    return model_logits(checkpoint.load_model(folder), folder)


def model_logits(model: Any, folder: Path) -> torch.Tensor:
    tokenizer = checkpoint.load_tokenizer(folder)
    names = checkpoint.model_inputs(model, tokenizer)
    batch = tokenizer([text for (text,) in sentences().dev.texts[:8]], padding=True, return_tensors="pt")
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(**{name: batch[name] for name in names}).logits)


def test_criteria_say_what_their_formulas_say() -> None:
    weight, gradient = torch.tensor([[3.0, -1.0], [0.5, 2.0]]), torch.tensor([[0.1, 2.0], [-4.0, 0.0]])
    assert torch.equal(magnitude(weight, None, lambda v: v), weight.abs())
    assert torch.allclose(taylor(weight, gradient, lambda v: v), torch.tensor([[0.3, 2.0], [2.0, 0.0]]))
    assert torch.allclose(movement(weight, gradient, lambda v: v), torch.tensor([[-0.3, 2.0], [2.0, 0.0]]))
    columns = Target("m", "ffn", 0, 0, 1)  # units are columns: 0.3 − 2.0 and −2.0 + 0
    assert torch.allclose(taylor(weight, gradient, columns.pool), torch.tensor([[1.7, 2.0]]))
    assert torch.allclose(fisher(weight, gradient, columns.pool), torch.tensor([[1.7**2 / 2, 2.0]]))
    assert torch.allclose(magnitude(weight, None, columns.pool), torch.tensor([[9.25, 5.0]]).div(2).sqrt())


def test_blocks_are_summed_and_spread_back() -> None:
    target, values = Target("m", "weights", 0, 2, 2), torch.arange(16.0).view(4, 4)
    assert target.pool(values).tolist() == [[0 + 1 + 4 + 5, 2 + 3 + 6 + 7], [8 + 9 + 12 + 13, 10 + 11 + 14 + 15]]
    spread = target.expand(torch.tensor([[True, False], [False, True]]), (4, 4))
    assert spread.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_two_of_every_four_are_kept() -> None:
    target = Target("m", "weights", 0, 1, 1)
    kept = two_of_four({target: torch.tensor([[1.0, 4.0, 3.0, 2.0, 0.0, 0.1, 9.0, 8.0]])})[target]
    assert kept.int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]


def test_globally_the_lowest_of_all_go_and_one_head_stays_in_every_layer() -> None:
    one, two = Target("a", "heads", 0, 0, 1), Target("b", "heads", 1, 0, 1)
    scores = {one: torch.tensor([[1.0, 2.0, 3.0, 4.0]]), two: torch.tensor([[5.0, 6.0, 7.0, 8.0]])}
    kept = choose(scores, 0.5, "global", taylor)
    assert [int(k.sum()) for k in kept.values()] == [1, 4]  # four were to go, and the best of them may not
    assert kept[one].tolist() == [[False, False, False, True]]
    assert [int(k.sum()) for k in choose(scores, 0.5, "local", taylor).values()] == [2, 2]
    assert [int(k.sum()) for k in choose(scores, (0.75, 0.0), "local", taylor).values()] == [1, 4]
    # Magnitudes of layers do not compare: each is divided by its mean first, 2.5 and 6.5.
    assert [int(k.sum()) for k in choose(scores, 0.5, "global", magnitude).values()] == [2, 2]


def test_neurons_are_kept_in_multiples() -> None:
    target = Target("m", "ffn", 0, 0, 1)
    kept = choose({target: torch.arange(64.0).view(1, 64)}, 0.6, "local", taylor, 16)[target]
    assert int(kept.sum()) == 32  # 25.6 of them, to the nearest multiple
    assert kept[0, 32:].all()


def test_the_cubic_schedule() -> None:
    assert [round(cubic(step, 100), 4) for step in (0, 50, 100, 150)] == [0, 0.875, 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_model_and_a_cut_one_are_the_same_function(family: str) -> None:
    source = classifier_folder(family)
    masked, cut = checkpoint.load_model(source), checkpoint.load_model(source)
    with torch.no_grad():
        for layer, smaller in zip(layers_of(masked), layers_of(cut), strict=True):
            masked.get_submodule(layer.output).weight[:, 32:96] = 0  # heads 1 and 2 of 4
            masked.get_submodule(layer.ffn_out).weight[:, 100:] = 0
            surgery.keep_heads(cut, smaller, [0, 3])
            surgery.keep_neurons(cut, smaller, range(100))
    assert [(heads(cut, layer), neurons(cut, layer)) for layer in layers_of(cut)] == [(2, 100)] * len(layers_of(cut))
    assert torch.allclose(model_logits(masked, source), model_logits(cut, source), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_shapes_that_differ_by_layer_come_back_from_the_files(family: str, tmp_path: Path) -> None:
    parts = (0.25, 0.75)[: 1 if family == "albert" else 2]
    out, metrics = pruned(magnitude_prune, tmp_path, family, remove=Remove(heads=parts, ffn=parts, hidden=0.0))
    assert metrics["heads"] == [3, 1][: len(parts)]
    assert metrics["ffn"] == [384, 128][: len(parts)]
    model = checkpoint.load_model(out)
    weights = load_file(out / "model.safetensors")
    assert sum(value.size for value in weights.values()) == metrics["parameters"] == checkpoint.count_parameters(model)
    for name, value in model.state_dict().items():
        assert (value.numpy() == weights[name]).all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_width_leaves_everywhere(family: str, tmp_path: Path) -> None:
    out, metrics = pruned(magnitude_prune, tmp_path, family, remove=Remove(hidden=0.5))
    model = checkpoint.load_model(out)
    assert metrics["hidden"] == hidden(model) == 64
    assert logits(out).isfinite().all()


def test_layers_leave_by_number_or_by_name(tmp_path: Path) -> None:
    out, metrics = pruned(magnitude_prune, tmp_path, remove=Remove(layers=(0,)))
    assert metrics["layers"] == 1
    before, after = (load_file(folder / "model.safetensors") for folder in (classifier_folder(), out))
    name = "bert.encoder.layer.{}.intermediate.dense.weight"
    assert (after[name.format(0)] == before[name.format(1)]).all()
    assert "toolchain_shapes" not in (out / "config.json").read_text("utf-8")  # transformers alone can read it


def test_a_head_without_effect_goes_by_gradients_and_the_smallest_by_magnitude(tmp_path: Path) -> None:
    """Head 1 has large weights and gives zeros; head 2 has small ones: what a criterion is, told by its choice."""

    def change(model: Any) -> None:
        for layer in layers_of(model):
            value, output = model.get_submodule(layer.value), model.get_submodule(layer.output)
            value.weight[32:64] = 0
            value.bias[32:64] = 0
            output.weight[:, 32:64] *= 10
            output.weight[:, 64:96] *= 0.1

    source = planted(tmp_path / "source", change)
    remove = Remove(heads=0.25)
    for name, module, settings, gone in (
        ("magnitude", magnitude_prune, {}, 2),
        ("taylor", gradient_prune, {"criterion": "taylor"}, 1),
        ("fisher", gradient_prune, {"criterion": "fisher"}, 1),
        ("obs", gradient_prune, {"criterion": "obs"}, 1),
    ):
        out, _ = pruned(module, tmp_path / name, source=source, remove=remove, scope="local", **settings)
        query = "bert.encoder.layer.0.attention.self.query.weight"
        left, whole = load_file(out / "model.safetensors")[query], load_file(source / "model.safetensors")[query]
        expected = [head for head in range(4) if head != gone]
        assert (left.reshape(3, 32, 128) == whole.reshape(4, 32, 128)[expected]).all(), name


def test_the_surgeon_beats_setting_the_same_columns_to_zero(tmp_path: Path) -> None:
    source = classifier_folder()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = sample(model, tokenizer, context(tmp_path, sentences()), 32)
    target = unit_targets(model, "ffn")[0]
    weight = target.weight(model).detach().double()
    hessian = obs.inputs(model, [target.name], data)[target.name]
    order, fitted = obs.eliminate(weight, hessian, 1, 256)
    masked = weight.clone()
    masked[:, order.order] = 0
    assert (fitted[:, order.order] == 0).all()

    def error(other: torch.Tensor) -> float:
        return float((((other - weight) @ hessian) * (other - weight)).sum() / ((weight @ hessian) * weight).sum())

    assert error(fitted) < 0.5 * error(masked)
    assert order.costs == sorted(order.costs)
    assert error(fitted) < order.costs[-1] < 0.05  # costs are of the damped matrix, which has more to lose


def test_sparse_weights_fitted_to_what_left_err_less_than_the_smallest_set_to_zero(tmp_path: Path) -> None:
    source = classifier_folder()
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    data = sample(model, tokenizer, context(tmp_path, sentences()), 32)
    target = next(t for t in weight_targets(model) if t.name.endswith("layer.1.output.dense"))
    weight = target.weight(model)
    dense, hessian = weight.detach().clone(), obs.inputs(model, [target.name], data)[target.name].float()
    smallest = choose({target: dense.abs()}, 0.5, "local", magnitude)[target]
    kept = obs.sparsify(weight, hessian.double(), 0.5, two_of_four=False)
    assert int((weight == 0).sum()) == int((~kept).sum()) == dense.numel() // 2

    def error(other: torch.Tensor) -> float:
        return float((((other - dense) @ hessian) * (other - dense)).sum())

    assert error(weight.detach()) < 0.7 * error(dense * smallest)


@pytest.mark.parametrize("module", [magnitude_prune, gradient_prune, movement_prune])
def test_pruning_while_training_ends_at_the_asked_sparsity(module: Any, tmp_path: Path) -> None:
    out, metrics = pruned(module, tmp_path, sparsity=0.8, finetune=TRAINING)
    assert metrics["sparsity"] == pytest.approx(0.8, abs=1e-3)
    assert metrics["best_epoch"] == 2  # in the first, the sparsity was still rising
    weights = load_file(out / "model.safetensors")
    assert sum(int((v == 0).sum()) for n, v in weights.items() if "encoder" in n) >= 0.99 * metrics["zeros"] * 0.9


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (magnitude_prune, {"sparsity": 0.8}),
        (gradient_prune, {"sparsity": 0.8}),
        (gradient_prune, {"remove": Remove(heads=0.5, ffn=0.5)}),
        (movement_prune, {"sparsity": 0.8}),
        (movement_prune, {"remove": Remove(heads=0.5, ffn=0.5), "mode": "soft"}),
    ],
)
@pytest.mark.parametrize("stop", [3, 6])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    module: Any, settings: dict[str, Any], stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.compress.shared.pruning.CHOOSE_EVERY", 2)  # 8 steps in all: 3 is between two choices
    whole, _ = pruned(module, tmp_path / "whole", finetune=TRAINING, **settings)
    out = tmp_path / "stopped" / "out"

    def stopped(*arguments: Any, **named: Any) -> Any:
        before = named["hooks"].before_step

        def press(step: int, total: int) -> None:
            if step == stop:
                raise KeyboardInterrupt
            if before:
                before(step, total)

        named["hooks"].before_step = press
        return train(*arguments, **named)

    monkeypatch.setattr("toolchain.compress.shared.recovery.train", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruned(module, tmp_path / "stopped", finetune=TRAINING, **settings)
    monkeypatch.setattr("toolchain.compress.shared.recovery.train", train)
    config = module.Config(finetune=TRAINING, **settings)
    shutil.rmtree(out)
    out.mkdir()
    metrics = module.apply(classifier_folder(), out, config, context(tmp_path / "stopped" / "work", sentences()))
    assert metrics["resumed_at"] == stop
    assert (whole / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("module", [magnitude_prune, gradient_prune, movement_prune])
def test_a_run_that_was_stopped_after_its_last_step_is_cut_all_the_same(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Remove(heads=0.5, ffn=0.5)
    whole, expected = pruned(module, tmp_path / "whole", finetune=TRAINING, remove=remove)
    judged: list[None] = []

    def stopped(*arguments: Any) -> Any:
        judged.append(None)
        if len(judged) == TRAINING.epochs:
            raise KeyboardInterrupt
        return accuracy(*arguments)

    monkeypatch.setattr("toolchain.model.train.accuracy", stopped)
    with pytest.raises(KeyboardInterrupt):
        pruned(module, tmp_path / "stopped", finetune=TRAINING, remove=remove)
    out, config = tmp_path / "out", module.Config(finetune=TRAINING, remove=remove)
    out.mkdir()
    metrics = module.apply(classifier_folder(), out, config, context(tmp_path / "stopped" / "work", sentences()))
    assert metrics["resumed_at"] == metrics["steps"] == 8
    assert metrics["heads"] == expected["heads"]
    assert sum(metrics["ffn"]) < 1024
    assert (whole / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_zeros_of_one_technique_outlive_the_training_of_the_next(tmp_path: Path) -> None:
    first, _ = pruned(magnitude_prune, tmp_path / "first", sparsity=0.6)
    out, _ = pruned(
        magnitude_prune, tmp_path / "next", source=first, remove=Remove(heads=0.5), ramp=0, finetune=TRAINING
    )
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (first, out))
    assert ((before == 0) == (after == 0)).all()
    assert (before != after).any()


def test_movement_takes_zeros_that_are_there_for_a_part_of_what_is_asked(tmp_path: Path) -> None:
    first, _ = pruned(magnitude_prune, tmp_path / "first", sparsity=0.6)
    for asked, reached in ((0.5, 0.6), (0.8, 0.8)):
        _, metrics = pruned(
            movement_prune, tmp_path / str(asked), source=first, sparsity=asked, finetune=TRAINING, ramp=0.5
        )
        assert metrics["sparsity"] == pytest.approx(reached, abs=0.02)


@pytest.mark.parametrize("remove", [Remove(ffn=0.5), Remove(heads=0.5)])
def test_what_fills_zeros_says_so(tmp_path: Path, remove: Remove, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = pruned(magnitude_prune, tmp_path / "first", sparsity=0.6)
    assert not caplog.records
    pruned(gradient_prune, tmp_path / "next", source=first, criterion="obs", remove=remove)
    assert "obs computes weights anew: zeros of an earlier pruning are filled" in caplog.text


def test_an_architecture_that_cannot_be_cut_can_have_zeros(tmp_path: Path) -> None:
    source = classifier_folder("distilbert")
    _, metrics = pruned(magnitude_prune, tmp_path / "zeros", source=source, sparsity=0.5)
    assert metrics["sparsity"] == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ModelError, match="no layers that can be cut"):
        pruned(magnitude_prune, tmp_path / "cut", source=source, remove=Remove(heads=0.5))


def test_longer_inputs_than_the_model_reads_are_refused_before_training(tmp_path: Path) -> None:
    training = TrainConfig(epochs=1, max_length=4096)
    with pytest.raises(ModelError, match="max_length 4096 is more than the"):
        pruned(magnitude_prune, tmp_path, sparsity=0.5, finetune=training)


def test_a_teacher_changes_what_is_learned(tmp_path: Path) -> None:
    remove, files = Remove(ffn=0.5), []
    for name, teacher in (("alone", None), ("taught", Teacher(weight=1.0))):
        out, _ = pruned(magnitude_prune, tmp_path / name, remove=remove, ramp=0, finetune=TRAINING, teacher=teacher)
        files.append(out)
    dense = logits(classifier_folder())
    apart = [float((logits(out) - dense).abs().mean()) for out in files]
    assert apart[1] < apart[0]  # labels are given in turn, and the teacher's answers are its own


@pytest.mark.parametrize(
    ("module", "settings", "said"),
    [
        (magnitude_prune, {"remove": Remove(layers=2)}, "2 of 2 layers cannot leave"),
        (magnitude_prune, {"remove": Remove(layers=(7,))}, "there is no layer 7"),
        (magnitude_prune, {"remove": Remove(heads=(0.5, 0.5, 0.5))}, "3 parts, and the model has 2 layers"),
        (gradient_prune, {"sparsity": (0.5,)}, "1 parts, and the model has 2 layers"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    module: Any, settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=said):
        pruned(module, tmp_path, **settings)


def test_blocks_that_do_not_fill_a_matrix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="blocks of 3 × 5 do not fill it"):
        pruned(magnitude_prune, tmp_path, structure="block", block=(3, 5))


@pytest.mark.parametrize(
    ("module", "settings", "said"),
    [
        (magnitude_prune, {"remove": Remove(ffn=0.5), "sparsity": 0.5}, "choose one"),
        (magnitude_prune, {"structure": "2:4", "sparsity": 0.7}, "leave sparsity out"),
        (magnitude_prune, {"structure": "block", "block": (4,)}, "rows and columns"),
        (magnitude_prune, {"block": (8, 8)}, "goes with structure: block"),
        (magnitude_prune, {"teacher": Teacher()}, "without finetune"),
        (gradient_prune, {"criterion": "obs", "finetune": TRAINING}, "set ramp: 0"),
        (gradient_prune, {"criterion": "obs", "structure": "block"}, "single weights"),
        (gradient_prune, {"criterion": "obs", "remove": Remove(hidden=0.5)}, "hidden width"),
        (movement_prune, {"finetune": None}, "cannot be null"),
        (movement_prune, {"ramp": 0}, "above 0"),
        (movement_prune, {"remove": Remove(layers=1)}, "gradient_prune before"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(module: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module.Config(**settings)


def test_nothing_to_remove_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is to be removed"):
        Remove()
