from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import SENTENCES
from tests.shared import once
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import ModelError
from toolchain.core.stage import Context
from toolchain.model import checkpoint, scratch, train
from toolchain.model.encoded import Encoded, batches, encode
from toolchain.model.train import Hooks, TrainConfig

TEXTS = [(text,) for text in SENTENCES] * 3
LABELS = [index % 2 for index in range(len(TEXTS))]
SPLIT = Split(TEXTS, LABELS)
CONFIG = TrainConfig(epochs=3, learning_rate=2e-3, batch_size=4, max_length=16)
STEPS_PER_EPOCH = 6  # 24 examples, 4 a step


@dataclass
class Setup:
    """A model to train, from the same start each time."""

    model: Any
    data: Encoded

    def weights(self) -> dict[str, Any]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def _source() -> Path:
    made = once("scratch-for-training", lambda out: scratch.create("scratch:bert-1x32", TEXTS, 17, out / "encoder"))
    return made / "encoder"


def _setup() -> Setup:
    tokenizer = checkpoint.load_tokenizer(_source())
    model = checkpoint.load_for_training(_source(), ("no", "yes"), 17)
    return Setup(model, encode(tokenizer, SPLIT, 16, checkpoint.model_inputs(model, tokenizer)))


def _context(work: Path) -> Context:
    work.mkdir(exist_ok=True)
    return Context(work=work, seed=17, threads=1, dataset=lambda: Dataset(SPLIT, SPLIT, SPLIT, ("no", "yes")))


def _trained(work: Path, config: TrainConfig = CONFIG, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    setup = _setup()
    metrics = train.train(setup.model, setup.data, setup.data, config, _context(work), **changes)
    return setup.weights(), metrics


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return _trained(tmp_path_factory.mktemp("uninterrupted"))


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


def test_batches_cover_every_example_once_and_depend_on_seed_and_epoch_alone() -> None:
    lengths = [(7 * i) % 23 + 3 for i in range(1001)]
    made = batches(lengths, 16, seed=17, epoch=2)
    assert sorted(index for batch in made for index in batch) == list(range(1001))
    assert {len(batch) for batch in made} == {16, 1001 % 16}
    assert made == batches(lengths, 16, seed=17, epoch=2)
    assert made != batches(lengths, 16, seed=17, epoch=3)
    assert made != batches(lengths, 16, seed=18, epoch=2)


def test_batches_hold_examples_of_like_length() -> None:
    lengths = [(7 * i) % 23 + 3 for i in range(800)]  # all in one window of 50 batches
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches(lengths, 16, 17, 0))
    assert padded < 1.05 * sum(lengths)


def test_training_learns_what_it_is_shown(tmp_path: Path) -> None:
    _, metrics = _trained(tmp_path, TrainConfig(epochs=12, learning_rate=5e-3, batch_size=8, max_length=16))
    # Each sentence has one label throughout: all of them can be learnt by heart.
    assert metrics["dev_accuracy"] == 1.0
    assert metrics["epochs"][-1]["loss"] < 0.5 * metrics["epochs"][0]["loss"]


def test_equal_seeds_give_equal_weights(tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]]) -> None:
    weights, metrics = _trained(tmp_path)
    assert _same(weights, uninterrupted[0])
    assert metrics == uninterrupted[1]
    assert metrics["steps"] == 3 * STEPS_PER_EPOCH


def _stop_at(step: int) -> Callable[[int, int], None]:
    def hook(now: int, total: int) -> None:
        if now == step:
            raise KeyboardInterrupt

    return hook


@pytest.mark.parametrize("step", [0, 4, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 5])
def test_ctrl_c_keeps_the_state_and_the_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]], step: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path, hooks=Hooks(before_step=_stop_at(step)))
    weights, metrics = _trained(tmp_path)
    assert metrics["resumed_at"] == step
    assert _same(weights, uninterrupted[0])
    assert metrics == {**uninterrupted[1], "resumed_at": step}


@pytest.mark.parametrize("step", [4, STEPS_PER_EPOCH, 3 * STEPS_PER_EPOCH])
def test_ctrl_c_within_the_optimizers_step_waits_for_its_end(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]], step: int
) -> None:
    done = []

    def press(now: int, total: int) -> None:
        if now == step:
            signal.raise_signal(signal.SIGINT)
        done.append(now)

    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path, hooks=Hooks(after_step=press))
    assert done[-1] == step
    weights, metrics = _trained(tmp_path)
    assert metrics == {**uninterrupted[1], "resumed_at": step}
    assert _same(weights, uninterrupted[0])


def test_ctrl_c_while_an_epoch_is_judged_skips_no_judgement(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> tuple[float, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "accuracy", stop)
        with pytest.raises(KeyboardInterrupt):
            _trained(tmp_path)
    weights, metrics = _trained(tmp_path)
    assert metrics == {**uninterrupted[1], "resumed_at": STEPS_PER_EPOCH}
    assert _same(weights, uninterrupted[0])


def test_a_kill_at_any_step_resumes_from_the_last_state_written(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends the loop without its clean-up."""

    def kill(now: int, total: int) -> None:
        if now == 9:
            raise Killed

    monkeypatch.setattr(train._State, "save_if_due", train._State.save)  # a state after every step
    with pytest.raises(Killed):
        _trained(tmp_path, hooks=Hooks(before_step=kill))
    weights, metrics = _trained(tmp_path)
    assert metrics["resumed_at"] == 9
    assert _same(weights, uninterrupted[0])


def test_a_damaged_state_is_left_aside(
    tmp_path: Path, uninterrupted: tuple[dict[str, Any], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path, hooks=Hooks(before_step=_stop_at(7)))
    state = tmp_path / "training.safetensors"
    state.write_bytes(state.read_bytes()[:5000])
    weights, metrics = _trained(tmp_path)
    assert metrics["resumed_at"] == 0
    assert _same(weights, uninterrupted[0])


def test_parameters_of_a_technique_are_trained_and_resumed_too(tmp_path: Path) -> None:
    import torch

    def run(work: Path, stop: int | None = None) -> Any:
        scale = torch.nn.Parameter(torch.ones(()))

        def loss(model: Any, batch: dict[str, Any]) -> Any:
            return train.loss_of("classification")(model, batch) * scale

        hooks = Hooks(extra_parameters={"scale": scale}, before_step=None if stop is None else _stop_at(stop))
        _trained(work, loss=loss, hooks=hooks)
        return scale

    expected = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=5)
    found = run(tmp_path / "parts")
    assert found.item() == expected.item() != 1.0


def _judged(found: list[float]) -> Callable[..., tuple[float, float]]:
    answers: Iterator[float] = iter(found)
    return lambda *_: (next(answers), 0.5)


def test_the_best_epoch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after: dict[int, dict[str, Any]] = {}
    setup = _setup()

    def note(step: int, total: int) -> None:
        after[step] = setup.weights()

    monkeypatch.setattr(train, "accuracy", _judged([0.5, 0.9, 0.7]))
    hooks = Hooks(after_step=note)
    metrics = train.train(setup.model, setup.data, setup.data, CONFIG, _context(tmp_path), hooks=hooks)
    assert (metrics["best_epoch"], metrics["dev_accuracy"]) == (2, 0.9)
    assert _same(setup.weights(), after[2 * STEPS_PER_EPOCH])
    assert not _same(setup.weights(), after[3 * STEPS_PER_EPOCH])


def test_early_stopping_waits_for_so_many_epochs_without_a_better_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "accuracy", _judged([0.5, 0.6, 0.6, 0.55, 0.9]))
    config = TrainConfig(epochs=9, learning_rate=1e-3, batch_size=4, max_length=16, early_stopping=2)
    _, metrics = _trained(tmp_path, config)
    assert (len(metrics["epochs"]), metrics["best_epoch"], metrics["steps"]) == (4, 2, 4 * STEPS_PER_EPOCH)


def test_a_loss_that_is_no_number_stops_the_training_with_what_to_do(tmp_path: Path) -> None:
    def loss(model: Any, batch: dict[str, Any]) -> Any:
        return train.loss_of("classification")(model, batch) * float("nan")

    with pytest.raises(ModelError, match=r"the loss became nan at step 1 of 18") as caught:
        _trained(tmp_path, loss=loss)
    assert caught.value.hint == "lower learning_rate (now 0.002), or use precision: fp32"


def test_two_trainings_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    short = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "max_length": 16}
    results = [_trained(tmp_path / p, TrainConfig(precision=p, **short))[1] for p in ("fp32", "bf16")]  # type: ignore[arg-type]
    assert results[0]["epochs"] != results[1]["epochs"]
    assert [result["precision"] for result in results] == ["fp32", "bf16"]


def test_epochs_are_judged_in_the_precision_that_is_delivered(tmp_path: Path) -> None:
    import torch

    setup = _setup()
    seen = set()

    def note(module: Any, _: Any) -> None:
        seen.add((module.training, torch.is_autocast_enabled("cpu")))

    setup.model.classifier.register_forward_pre_hook(note)
    short = dataclasses.replace(CONFIG, epochs=1, precision="bf16")
    metrics = train.train(setup.model, setup.data, setup.data, short, _context(tmp_path / "work"))
    assert seen == {(True, True), (False, False)}
    assert "forward" not in vars(setup.model)
    assert metrics["epochs"][0]["dev_loss"] == pytest.approx(train.accuracy(setup.model, setup.data)[1], abs=1e-6)
    assert seen == {(True, True), (False, False)}


def test_a_state_of_another_precision_is_not_gone_on_with(tmp_path: Path) -> None:
    fp32, bf16 = (dataclasses.replace(CONFIG, precision=name) for name in ("fp32", "bf16"))
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path / "stopped", fp32, hooks=Hooks(before_step=_stop_at(4)))
    weights, metrics = _trained(tmp_path / "stopped", bf16)
    assert metrics["resumed_at"] == 0
    assert _same(weights, _trained(tmp_path / "whole", bf16)[0])


@pytest.mark.parametrize(("has", "chosen"), [("amx_bf16", "bf16"), ("avx512_bf16", "bf16"), ("avx512_f", "fp32")])
def test_a_cpu_that_multiplies_bf16_trains_in_it(has: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {has: True})
    assert train._precision("auto", "bert") == chosen


def test_fp16_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="precision fp16 needs a GPU"):
        _trained(tmp_path, TrainConfig(precision="fp16", max_length=16))
