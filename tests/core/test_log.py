"""Progress off a terminal: how much is left, at the rate of the last half minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from toolchain.core import log


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the progress; records reach the root logger once, whatever a command has set up before."""
    monkeypatch.setattr(log.logger, "propagate", True)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_the_estimate_leaves_out_the_first_step_and_follows_the_rate(
    wait: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="toolchain")
    with log.progress("training", 100) as bar:
        wait(60)  # the first step sets up what all need
        bar.advance()
        for _ in range(59):
            wait(1)
            bar.advance()
        for _ in range(20):  # the machine gets four times slower
            wait(4)
            bar.advance()
    lines = [record.getMessage().strip() for record in caplog.records]
    assert lines[0] == "training: 1 of 100"
    assert lines[1] == "training: 16 of 100, about 84 s left"
    assert lines[-1] == "training: 77 of 100, about 92 s left"


def test_more_work_than_was_expected_leaves_nothing(
    wait: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="toolchain")
    with log.progress("time", 3) as bar:
        for _ in range(5):
            wait(5)
            bar.advance()
    assert "about 0 s left" not in caplog.records[0].getMessage()
    assert len(caplog.records) == 1


def test_work_that_turns_out_to_be_needed_is_added_to_the_whole(
    wait: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="toolchain")
    with log.progress("time", 3) as bar:
        wait(60)
        bar.advance(3)
        bar.expect(2)
        wait(60)
        bar.advance(2)
    first, second = (record.getMessage() for record in caplog.records)
    assert "time: 3 of 3" in first
    assert "time: 5 of 5" in second
