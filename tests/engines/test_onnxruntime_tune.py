"""Session options chosen on dev texts, and several batches at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.builders import context, onnx_folder, sentences
from toolchain.core.errors import ModelError
from toolchain.core.stage import Context
from toolchain.engines import onnxruntime as engine
from toolchain.engines.onnxruntime import tuning
from toolchain.engines.onnxruntime.session import OnnxRuntimeSession, Opening
from toolchain.engines.onnxruntime.tuning import Options, tune
from toolchain.engines.shared.batching import Batching, plan_batches
from toolchain.engines.shared.samples import encode_dev


class Clock:
    """Time that passes by sleeping alone: how busy the machine is changes nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(tuning, "time", found)
    monkeypatch.setattr(Paced, "clock", found, raising=False)
    return found


class Paced:
    """A session whose pace is known: what tuning must find out."""

    clock: ClassVar[Clock]
    inputs: tuple[str, ...] = ("input_ids",)
    concurrency = 1

    def __init__(self, options: Options) -> None:
        self.single = 0.001 if options.single_threads == 1 else 0.002
        self.each = 0.004 if options.streams == 0 and not options.arena else 0.005

    def run(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.clock.sleep(self.single)
        return {"logits": np.zeros((1, 2), dtype=np.float32)}

    def run_many(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[np.float32]]]:
        self.clock.sleep(self.each * len(batches))
        return []

    def placement(self) -> dict[str, int]:
        return {}


def requests(concurrency: int) -> list[list[dict[str, NDArray[Any]]]]:
    """One request, cut in two."""
    assert concurrency == Paced.concurrency
    return [batches(8, 2)]


def batches(rows: int, count: int) -> list[dict[str, NDArray[Any]]]:
    return [{"input_ids": np.ones((rows, 4), dtype=np.int64)}] * count


def test_the_quicker_setting_is_chosen_and_every_trial_recorded(clock: Clock) -> None:
    options, trials = tune({}, Paced, batches(1, 4), requests, threads=2, seconds=1.0)
    assert options == Options(spinning=True, single_threads=1, streams=0, arena=False)
    tried = [(trial["option"], trial["value"]) for trial in trials]
    assert tried == [
        ("spinning", True), ("spinning", False), ("single_threads", 0), ("single_threads", 1),
        ("streams", 0), ("streams", 1), ("arena", True), ("arena", False),
    ]  # fmt: skip
    took = {(trial["option"], trial["value"]): trial["ms"] for trial in trials}
    assert [took["single_threads", value] for value in (1, 0)] == pytest.approx([1, 2])


def test_what_is_given_is_not_tried(clock: Clock) -> None:
    options, trials = tune({"single_threads": 0}, Paced, batches(1, 2), requests, threads=2, seconds=0.4)
    assert options.single_threads == 0
    assert {trial["option"] for trial in trials} == {"spinning", "streams", "arena"}


def test_with_one_thread_there_is_nothing_to_share_out(clock: Clock) -> None:
    _, trials = tune({}, Paced, batches(1, 2), requests, threads=1, seconds=0.2)
    assert {trial["option"] for trial in trials} == {"arena"}


def test_a_build_records_what_it_chose_and_the_session_uses_it(tmp_path: Path) -> None:
    data = sentences()
    two = Context(work=tmp_path, seed=17, threads=2, dataset=lambda: data)
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune_seconds=0.1), two)
    record = json.loads((tmp_path / "engine.json").read_text())
    assert "tuning" not in record, "what a second build does not reproduce is no part of the engine"
    assert metrics["tuning"]["threads"] == 2
    assert len(metrics["tuning"]["trials"]) == 8
    chosen = {name: record["options"][name] for name in ("spinning", "arena", "single_threads", "streams")}
    assert None not in chosen.values()
    session = engine.open_session(tmp_path, 2)
    assert isinstance(session, OnnxRuntimeSession)
    assert session._options == Options(**chosen)


def test_requests_are_cut_for_as_many_batches_as_are_computed_at_a_time(tmp_path: Path) -> None:
    samples = encode_dev(onnx_folder(), context(tmp_path, sentences()))
    for concurrency in (1, 2):
        (request, *_) = samples.requests(8, 2, concurrency)
        lengths = samples.lengths[:8]
        planned = plan_batches(lengths, 8, Batching(), concurrency)
        assert [batch["input_ids"].shape for batch in request] == [(len(p), lengths[p[0]]) for p in planned]


def test_a_session_that_spins_does_not_slow_the_next_one_down(clock: Clock) -> None:
    busy_until = 0.0

    class Spinning(Paced):
        """Takes the processor from whoever runs within 20 ms after it."""

        def run_many(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, NDArray[np.float32]]]:
            nonlocal busy_until
            clock.sleep(0.005 if clock.now > busy_until else 0.02)
            busy_until = clock.now + 0.02 if self.spins else 0.0
            return []

        def __init__(self, options: Options) -> None:
            super().__init__(options)
            self.spins = options.streams == 1

    _, trials = tune({}, Spinning, batches(1, 1), requests, threads=2, seconds=0.8)
    took = {(trial["option"], trial["value"]): trial["ms"] for trial in trials}
    assert took["streams", 0] == pytest.approx(5)  # without waiting it would take 20


def test_without_tuning_the_defaults_stand(tmp_path: Path) -> None:
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune=False), context(tmp_path))
    assert metrics["tuning"] == {}
    options = json.loads((tmp_path / "engine.json").read_text())["options"]
    assert (options["spinning"], options["single_threads"], options["streams"]) == (True, 0, 0)


def test_tuning_needs_the_tokenizer_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no interface\.json and tokenizer\.json"):
        encode_dev(tmp_path, context(tmp_path))


@pytest.mark.parametrize("streams", [0, 1])
def test_many_batches_give_the_logits_of_each(streams: int) -> None:
    path, generator = onnx_folder() / "model.onnx", np.random.default_rng(5)
    session = OnnxRuntimeSession(path, 2, Opening(), Options(streams=streams, single_threads=1))
    many = []
    for rows, tokens in ((7, 20), (3, 12), (5, 5), (1, 9)):
        ids = generator.integers(4, 60, (rows, tokens))
        many.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    found = session.run_many(many)
    alone = OnnxRuntimeSession(path, 1, Opening(), Options())
    for batch, outputs in zip(many, found, strict=True):
        logits = outputs["logits"]
        assert logits.shape == (len(batch["input_ids"]), 2)
        assert np.abs(logits - alone.run(batch)["logits"]).max() < 2e-6
    assert session.run_many([]) == []
