from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import context, sentences
from tests.compress.test_low_rank import MATRICES, factorized, made, save
from toolchain.compress import low_rank
from toolchain.compress.shared import stopwatch as timing
from toolchain.compress.shared.speedup_search import find_share
from toolchain.core.errors import ModelError
from toolchain.model import checkpoint, surgery


def linear(share: float) -> float:
    """A model of which a fifth of the time is no matrix."""
    return 1 / (0.2 + 0.8 * share)


def jumping(share: float) -> float:
    """Kernels that are fast up to a part, and slow from there."""
    return 3.0 if share < 0.4 else 1.2


@pytest.mark.parametrize(("speedup", "wanted"), [(linear, 2.0), (linear, 1.1), (linear, 3.9), (jumping, 3.0)])
def test_the_search_ends_within_a_twentieth_of_the_wanted_speedup(
    speedup: Callable[[float], float], wanted: float
) -> None:
    tried: list[float] = []

    def measure(share: float) -> float:
        tried.append(share)
        return speedup(share)

    share = find_share(measure, 0.05, wanted)
    assert speedup(share) == pytest.approx(wanted, rel=0.05)
    assert len(tried) <= 3


def test_where_speed_jumps_the_largest_model_that_is_fast_enough_is_taken() -> None:
    share = find_share(jumping, 0.05, 2.0)
    assert 0.3 < share < 0.4


def test_a_speedup_out_of_reach_says_what_was_reached() -> None:
    with pytest.raises(ModelError, match=r"× 6 is out of reach; the most is × 4.17, with 0.05 of the parameters"):
        find_share(linear, 0.05, 6.0)


def test_ranks_for_a_speedup_are_searched_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, timed = checkpoint.count_parameters(checkpoint.load_model(made())), []

    @contextmanager
    def stopwatch(source: Path, texts: Any, **settings: Any) -> Iterator[Callable[[Sequence[Path]], list[float]]]:
        assert source == made()
        assert settings["batch_size"] == 4

        def measure(folders: Sequence[Path]) -> list[float]:
            left = [checkpoint.count_parameters(checkpoint.load_model(folder)) for folder in folders]
            timed.extend(left)
            return [linear(1 - (dense - count) / MATRICES) for count in left]

        yield measure

    monkeypatch.setattr(low_rank, "stopwatch", stopwatch)
    out, metrics = factorized(tmp_path, speedup=1.5, batch_size=4)
    assert metrics["speedup"] == pytest.approx(1.5, rel=0.05)
    assert linear(1 - (dense - metrics["parameters"]) / MATRICES) == pytest.approx(metrics["speedup"], abs=1e-3)
    assert len(metrics["trials"]) == len(timed) >= 2
    count = len(timed)
    again = tmp_path / "again"
    again.mkdir()
    config = low_rank.Config(multiple_of=8, speedup=1.5, batch_size=4)
    low_rank.apply(made(), again, config, context(tmp_path / "work"))  # as after a kill
    assert len(timed) == count
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


class Sleeper:
    """An engine that takes so long, and notes that it was asked."""

    inputs: tuple[str, ...] = ("input_ids",)

    def __init__(self, seconds: float, log: list[float]) -> None:
        self.seconds, self.log = seconds, log

    def run(self, batch: Any) -> Any:
        assert set(batch) == {"input_ids"}
        time.sleep(self.seconds)
        if self.log[-1:] != [self.seconds]:
            self.log.append(self.seconds)

    def placement(self) -> dict[str, int]:
        return {}


def test_engines_take_turns_and_each_is_first_in_some_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SETTLE_S", 0.0)
    log: list[float] = []
    sessions = [Sleeper(seconds, log) for seconds in (0.006, 0.012, 0.003)]
    inputs = [{"input_ids": np.ones((1, 3)), "attention_mask": np.ones((1, 3))}] * 4
    found = timing._speedups(sessions, inputs, batch_size=1, rounds=3)
    assert found == pytest.approx([0.5, 2.0], rel=0.2)
    warm = [0.006, 0.012, 0.003]
    assert log == [*warm, *warm, 0.012, 0.003, 0.006, 0.003, 0.006, 0.012]


def test_fewer_layers_are_faster_on_the_engine(tmp_path: Path) -> None:
    dense = made("bert", "4x64")
    model = checkpoint.load_model(dense)
    surgery.keep_layers(model, [0])
    small = save(model, dense, tmp_path / "small")
    texts = sentences().dev.texts
    with timing.stopwatch(dense, texts, batch_size=1, rounds=5, context=context(tmp_path)) as measure:
        (faster,) = measure([small])
    assert 1.5 < faster < 8
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_key_holds_the_machine_where_time_decides() -> None:
    plain, timed = low_rank.Config(), low_rank.Config(speedup=2.0)
    assert not low_rank.tunes(plain)
    assert low_rank.fingerprint(plain) == {}
    assert low_rank.tunes(timed)
    assert {"host", "logical_cpus", "version"} <= set(low_rank.fingerprint(timed))
