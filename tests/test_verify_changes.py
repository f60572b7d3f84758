from __future__ import annotations

from pathlib import Path

from benchmarks import verify_changes


def test_every_kind_of_change_is_seen_with_a_root_and_all_but_two_without(tmp_path: Path) -> None:
    found = verify_changes.count(len(verify_changes.changes()), 0, tmp_path)
    assert len(found) == len(verify_changes.changes())
    assert [name for name, counts in found.items() if counts["with_root"] != counts["made"]] == []
    # By somebody who makes the seal fit: an observation, and what nothing was made from, such as an evaluation.
    missed = {name for name, counts in found.items() if counts["seen"] != counts["made"]}
    assert missed <= {"time, careful", "a file and its hash, careful", "metrics, careful"}
