from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import context, onnx_folder, sentences, tiny_onnx_folder
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import EngineError, ModelError, RecipeError

pytest.importorskip("openvino")

from toolchain.engines import openvino as engine
from toolchain.engines.openvino import session as sessions
from toolchain.engines.openvino import tuning as tune
from toolchain.engines.shared.samples import Samples
from toolchain.model import tokens


def waste(lengths: list[int], chosen: tuple[int, ...]) -> int:
    return sum(min(length for length in chosen if length >= each) - each for each in lengths)


def test_the_lengths_chosen_pad_least_of_all_choices() -> None:
    lengths = [3, 3, 4, 7, 7, 7, 12, 13, 13, 20, 31]
    for count in (1, 2, 3, 4):
        chosen = tune.best_lengths(lengths, count)
        others = itertools.combinations(sorted(set(lengths) - {31}), count - 1)
        assert len(chosen) == count
        assert chosen[-1] == 31
        assert waste(lengths, chosen) == min(waste(lengths, (*other, 31)) for other in others)
    assert tune.best_lengths(lengths, 99) == tuple(sorted(set(lengths)))
    assert tune.best_lengths([], 3) == tune.best_lengths(lengths, 0) == ()


def test_every_setting_tried_is_recorded_and_the_best_one_is_what_a_session_opens_with(tmp_path: Path) -> None:
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune_seconds=0.2), context(tmp_path))
    tuning = metrics["tuning"]
    assert [trial["attention"] for trial in tuning["single"]] == ["fused", "plain"]
    assert [trial["attention"] for trial in tuning["batch"]] == ["fused", "plain"]
    record = json.loads((tmp_path / "engine.json").read_text())
    options = record["options"]
    assert "tuning" not in record, "what a second build does not reproduce is no part of the engine"
    best = max(tuning["batch"], key=lambda trial: trial["texts_per_s"])
    assert options["attention"] == best["attention"]
    assert options["single_attention"] == min(tuning["single"], key=lambda trial: trial["ms"])["attention"]
    assert options["call_tokens"] == tuning["call_tokens"][best["attention"]]
    assert options["lengths"] == tuning["lengths"] != []
    session = engine.open_session(tmp_path, 1)
    assert isinstance(session, sessions.OpenvinoSession)
    assert session._plan == sessions.Plan(**{**options, "lengths": tuple(options["lengths"])})


def test_tuning_reads_dev_and_never_test(tmp_path: Path) -> None:
    data = sentences()
    unreadable: Any = None
    only_dev = Dataset(unreadable, data.dev, unreadable, data.labels)
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune_seconds=0.1), context(tmp_path, only_dev))
    assert len(metrics["tuning"]["batch"]) == 2


def test_a_setting_that_is_given_is_not_tried(tmp_path: Path) -> None:
    config = engine.Config(tune_seconds=0.1, attention="plain", call_tokens=77, static_lengths=0)
    metrics = engine.build(onnx_folder(), tmp_path, config, context(tmp_path))
    options = json.loads((tmp_path / "engine.json").read_text())["options"]
    assert {trial["attention"] for trial in metrics["tuning"]["batch"]} == {"plain"}
    assert (options["attention"], options["call_tokens"], options["lengths"]) == ("plain", 77, [])


@pytest.mark.parametrize(("performance", "streams"), [("latency", 1), ("throughput", 2)])
def test_latency_takes_one_stream_and_throughput_no_graphs_of_fixed_length(
    performance: Any, streams: int, tmp_path: Path
) -> None:
    config = engine.Config(tune=False, performance=performance)
    engine.build(onnx_folder(), tmp_path, config, context(tmp_path))
    session = engine.open_session(tmp_path, 2)
    assert isinstance(session, sessions.OpenvinoSession)
    assert session.concurrency == streams
    assert bool(session._fixed) is (performance == "latency")


def test_several_streams_with_performance_latency_are_refused_before_any_work(tmp_path: Path) -> None:
    config = engine.Config(performance="latency", streams=4)
    with pytest.raises(RecipeError, match="streams is 4, and performance latency computes one batch") as caught:
        engine.build(tmp_path / "no folder", tmp_path / "out", config, context(tmp_path))
    assert "throughput" in caught.value.hint
    engine._check(engine.Config(performance="latency", streams=1))


def test_graphs_of_fixed_length_keep_to_their_memory(tmp_path: Path) -> None:
    engine.build(onnx_folder(), tmp_path, engine.Config(tune=False, static_memory_mib=0), context(tmp_path))
    assert json.loads((tmp_path / "engine.json").read_text())["options"]["lengths"] == []


def test_a_slow_model_is_timed_on_fewer_batches() -> None:
    class Slow:
        def run(self, batch: Any) -> None:
            time.sleep(0.02)

    assert tune.affordable(Slow(), [None] * 6, 0.001) == 1  # type: ignore[arg-type]
    assert 2 <= tune.affordable(Slow(), [None] * 6, 0.2) <= 3  # type: ignore[arg-type]
    assert tune.affordable(Slow(), [None] * 6, 60) == 6  # type: ignore[arg-type]


def test_a_call_that_seems_to_cost_nothing_still_counts(tmp_path: Path) -> None:
    class Growing:
        """Four times as slow for twice the tokens: the line through two of them starts below 0."""

        def run(self, batch: Any) -> None:
            time.sleep(2e-7 * batch["input_ids"].size ** 2)

    assert tune._call_tokens(Growing(), 0.05) == 1  # type: ignore[arg-type]


def test_a_kernel_that_cannot_take_fixed_lengths_is_recorded_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Any, core: Any, model: Any, length: int, threads: int) -> Any:
        if self._plan.single_attention == "plain":
            raise EngineError("OpenVINO cannot compile this")
        return original(self, core, model, length, threads)

    original = sessions.OpenvinoSession._fixed_length
    monkeypatch.setattr(sessions.OpenvinoSession, "_fixed_length", refused)
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune_seconds=0.1), context(tmp_path))
    assert metrics["tuning"]["single"][1] == {"attention": "plain", "failed": "OpenVINO cannot compile this"}
    options = json.loads((tmp_path / "engine.json").read_text())["options"]
    assert options["single_attention"] == "fused"
    assert options["lengths"]
    for attention, single, lengths in (("auto", "fused", True), ("plain", "plain", False)):
        config = engine.Config(tune=False, attention=attention)  # type: ignore[arg-type]
        engine.build(onnx_folder(), tmp_path, config, context(tmp_path))
        options = json.loads((tmp_path / "engine.json").read_text())["options"]
        assert (options["single_attention"], bool(options["lengths"])) == (single, lengths)


def test_an_onnx_folder_without_a_tokenizer_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((onnx_folder() / "model.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"interface\.json"):
        engine.build(tmp_path, tmp_path, engine.Config(), context(tmp_path))


def test_a_batch_is_padded_with_the_padding_token(tmp_path: Path) -> None:
    folder = tiny_onnx_folder(tmp_path, pair=True)
    interface = json.loads((folder / "interface.json").read_text())
    (folder / "interface.json").write_text(json.dumps({**interface, "pad_id": 7}))
    (batch,) = Samples(folder, tokens.encode(folder, [("dull", "an old story"), ("dull", "old")])).batches(2, 1)
    longest = batch["input_ids"].shape[1]
    lengths = batch["attention_mask"].sum(axis=1).tolist()
    assert lengths[0] == longest > lengths[1]
    assert batch["input_ids"][1, lengths[1] :].tolist() == [7] * (longest - lengths[1])
    assert 7 not in batch["input_ids"][0]
    assert batch["token_type_ids"][:, lengths[1] - 2].tolist() == [1, 1]
    assert not batch["token_type_ids"][1, lengths[1] :].any()


def test_one_length_of_dev_texts_is_enough(tmp_path: Path) -> None:
    data = sentences()
    one = Split([("dull",)] * 3, [0, 1, 0])
    only = Dataset(data.train, one, one, data.labels)
    metrics = engine.build(onnx_folder(), tmp_path, engine.Config(tune_seconds=0.1), context(tmp_path, only))
    assert metrics["tuning"]["lengths"] == [int(np.asarray(metrics["tuning"]["lengths"]).max())]
