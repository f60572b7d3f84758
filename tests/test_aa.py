from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT, python

AA: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/aa.py"))


def repetition(low: float, high: float, winner: str | None) -> dict[str, Any]:
    return {
        "speedups": {"batch 1": [(low + high) / 2, low, high]}, "winner": winner, "shipped_for_speed": [],
        "others_cpus": 0.5 if winner else None,
    }  # fmt: skip


def test_every_false_claim_is_counted_with_its_interval() -> None:
    told = AA["summary"](
        [repetition(0.9, 1.1, None)] * 7 + [repetition(1.02, 1.1, "other"), repetition(0.8, 0.9, None)]
    )
    counted = told["settings"]["batch 1"]
    assert [counted[name]["count"] for name in ("excludes_1", "called_faster", "called_slower")] == [2, 1, 1]
    assert counted["largest_error"] == pytest.approx(0.15)
    assert (told["winner_named"]["count"], told["shipped_for_speed"]["count"]) == (1, 0)
    # Wilson's interval of 1 in 9 by its formula: (1/9 + 0.2134 ± 1.96 · 0.1493) / 1.4268.
    assert told["winner_named"]["low"] == pytest.approx(0.0199, abs=5e-4)
    assert told["winner_named"]["high"] == pytest.approx(0.4350, abs=5e-4)


@pytest.mark.slow
def test_an_engine_is_timed_against_itself_and_goes_on_where_it_was(tmp_path: Path, smoke_store: Path) -> None:
    out = tmp_path / "aa.json"
    code = f"import runpy; runpy.run_path({str(ROOT / 'benchmarks/aa.py')!r}, run_name='__main__')"
    given: list[str | Path] = ["recipes/smoke.yaml", "--store", smoke_store, "--out", out]
    given += ["--set", "benchmark={batch_sizes: [1], seconds: 0.05, rounds: 3, sample: 8, warmup: 1}"]
    for total in (1, 2):
        done = python(f"import sys; sys.argv[0] = 'aa.py'; {code}", *given, "--repetitions", str(total), folder=ROOT)
        assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text("utf-8"))
    assert [each["seed"] for each in found["repetitions"]] == [0, 1]
    assert "[2/2]" in done.stderr
    assert "[1/2]" not in done.stderr
    for estimate, low, high in found["repetitions"][0]["speedups"].values():
        assert 0 < low <= estimate <= high
    assert out.with_suffix(".md").read_text("utf-8") == AA["page"](found)


def test_the_published_page_says_what_the_figures_beside_it_say() -> None:
    path = ROOT / "artifacts/published/aa/aa.json"
    if not path.is_file():
        pytest.skip("not published yet: python benchmarks/aa.py recipes/quickstart.yaml")
    found = json.loads(path.read_text("utf-8"))
    assert found["summary"] == AA["summary"](found["repetitions"])
    assert path.with_suffix(".md").read_text("utf-8") == AA["page"](found)
