from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny
from toolchain.core.errors import StoreError
from toolchain.measure import records


def _record(kind: str) -> dict[str, Any]:
    artifact = next(a for a in tiny().store.artifacts() if a.kind == kind)
    record: dict[str, Any] = json.loads((artifact.path / f"{kind}.json").read_text("utf-8"))
    return record


@pytest.mark.parametrize("kind", ["evaluation", "timing"])
def test_what_a_run_measured_is_read_as_it_is(tmp_path: Path, kind: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(_record(kind)), "utf-8")
    assert getattr(records, kind)(tmp_path / "r.json") == _record(kind)


@pytest.mark.parametrize(
    ("kind", "change", "place"),
    [
        ("evaluation", {"splits": "all"}, "splits"),
        ("evaluation", {"splits": {"test": 5}}, "splits.test"),
        ("evaluation", {"labels": {"test": [0.5]}}, "labels.test.0"),
        ("evaluation", {"kind": "tagging"}, "kind: 'tagging'"),
        ("evaluation", {"scores": {"test": [[1.0], [1.0, 2.0]]}}, "scores.test"),
        ("evaluation", {"parity": {"passed": False, "flips": "<b>3</b>"}}, "parity.flips"),
        ("evaluation", {"notes": [1]}, "notes.0"),
        ("evaluation", {"invariance": {"batch": {"ties": 0}}}, "invariance.batch.flips"),
        (
            "evaluation",
            {"parity": {"passed": True, "examples": 8, "flips": 0}},
            "parity: ties, non_finite, max_difference are missing",
        ),
        ("evaluation", {"parity": {"passed": None}}, "parity: reason is missing"),
        ("evaluation", {"parity": {"flips": 3}}, "parity.passed"),
        ("evaluation", {"placement": {"CPUExecutionProvider": "all"}}, "placement.CPUExecutionProvider"),
        ("evaluation", {"int8_products": [4]}, "int8_products"),
        ("evaluation", {"isa": {"measured_on": [], "wide": True, "int8": True, "run": {"passed": False}}}, "isa.run"),
        ("timing", {"engines": []}, "engines"),
        ("timing", {"engines": {"a": {"energy_j": {"latency": 2.5}}}}, "energy_j.latency"),
        ("timing", {"engines": {"a": {"energy_j": {"latency": {"engine": {"package-0": "x"}}}}}}, "package-0"),
        ("timing", {"engines": {"a": {"settings": {"latency": {"engine": {"rounds_ms": [-1.0]}}}}}}, "rounds_ms.0"),
    ],
)
def test_other_types_are_refused_by_place(tmp_path: Path, kind: str, change: dict[str, Any], place: str) -> None:
    (tmp_path / "r.json").write_text(json.dumps(_record(kind) | change), "utf-8")
    with pytest.raises(StoreError, match=f"is not what a measurement writes: .*{place}"):
        getattr(records, kind)(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "levels deep"), ('{"a": ' + "[" * 70 + "]" * 70 + "}", "more than 64 levels deep"),
        ("", "is not valid JSON"), ("[]", "holds an array"),
        ("\ud800".encode("utf-16", "surrogatepass"), "is not UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_in_a_sentence(tmp_path: Path, text: str | bytes, problem: str) -> None:
    (tmp_path / "r.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError, match=problem):
        records.evaluation(tmp_path / "r.json")
