from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.builders import engine_folder
from tests.command import ROOT
from toolchain.core.errors import EngineError
from toolchain.engines.onnxruntime import open_session
from toolchain.engines.shared.batching import Batching

COST: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/batch_cost.py"))
SHAPES, fit, measure = COST["SHAPES"], COST["fit"], COST["measure"]


def test_costs_that_follow_the_formula_are_found_again() -> None:
    # 0.5 ms a call, 10 µs a token, and attention as dear as that at 400 tokens.
    times = {(rows, n): 500e-6 + 10e-6 * rows * n * (1 + n / 400) for rows, n in SHAPES}
    found = fit(times)
    assert found.call == pytest.approx(50)
    assert found.attention == pytest.approx(400)


def test_a_cost_that_would_be_negative_is_left_out() -> None:
    times = {(rows, n): 10e-6 * rows * n - 5e-6 * (rows * n) ** 0.5 for rows, n in SHAPES}
    found = fit(times)
    assert found.call == 1
    assert 0 < found.attention <= COST["NO_ATTENTION"]


def test_the_budget_is_the_largest_batch_whose_cells_are_nearly_the_cheapest() -> None:
    per_cell = {8: 1.3, 16: 1.1, 32: 1.0, 64: 1.04, 128: 1.2, 256: 1.5}
    assert fit({(rows, 32): cost * rows * 32 for rows, cost in per_cell.items()}).token_budget == 64 * 32


def test_an_engine_is_measured_at_every_shape_that_it_takes(tmp_path: Path) -> None:
    times = measure(open_session(engine_folder(tmp_path), 1), max_length=32, rounds=2)
    assert {shape for shape in SHAPES if shape[1] <= 32} <= set(times)
    assert all(tokens <= 32 for _, tokens in times)
    assert times[32, 32] > times[1, 8] > 0
    assert isinstance(fit(times), Batching)


def test_an_engine_that_tokenizes_has_no_shapes_to_time() -> None:
    class Reader:
        inputs = ("text",)

    with pytest.raises(EngineError, match="reads text"):
        measure(Reader(), 32)
