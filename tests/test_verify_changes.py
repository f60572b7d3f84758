from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from tests.command import ROOT

BENCHMARK: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/verify_changes.py"))


def test_every_kind_of_change_is_seen_with_a_root_and_all_but_some_careful_ones_without(tmp_path: Path) -> None:
    kinds = BENCHMARK["changes"]()
    found = BENCHMARK["count"](len(kinds), 0, tmp_path)
    assert list(found) == list(kinds)
    assert [name for name, counts in found.items() if counts["with_root"] != counts["made"]] == []
    # By somebody who makes the seal fit: an observation, and what nothing was made from, such as an evaluation.
    missed = {name for name, counts in found.items() if counts["seen"] != counts["made"]}
    assert missed <= {"time, careful", "a file and its hash, careful", "metrics, careful"}
