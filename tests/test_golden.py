"""The comparison of two commits sees changed bytes, other keys and added fields, each for what it is."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

from tests.command import ROOT
from toolchain.core.store import Store, key_of

GOLDEN: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/golden.py"))


def _store(root: Path, artifacts: dict[tuple[str, str], dict[str, bytes]]) -> Store:
    store = Store(root)
    for (kind, label), files in artifacts.items():
        parts = {"stage": kind, "label": label, "inputs": []}
        with store.claim(kind, key_of(parts)) as claim:
            assert claim is not None
            for name, content in files.items():
                (claim.out / name).write_bytes(content)
            store.publish(claim, {
                "parts": parts, "parents": [], "metrics": {}, "parent_digests": {}, "started": "2026-01-01T00:00:00Z",
                "label": label,
            })  # fmt: skip
    return store


def test_what_differs_between_two_stores_is_named(tmp_path: Path) -> None:
    interface = {"labels": ["a", "b"]}
    before = _store(tmp_path / "before", {
        ("onnx", "same"): {"model.onnx": b"1"},
        ("onnx", "bytes"): {"model.onnx": b"1"},
        ("engine", "field"): {"interface.json": json.dumps(interface).encode(), "model.plan": b"1"},
        ("engine", "value"): {"interface.json": json.dumps(interface).encode()},
        ("onnx", "gone"): {"model.onnx": b"1"},
        ("timing", "times"): {"timing.json": b"1"},
    })  # fmt: skip
    after = _store(tmp_path / "after", {
        ("onnx", "same"): {"model.onnx": b"1"},
        ("onnx", "bytes"): {"model.onnx": b"2"},
        ("engine", "field"): {"interface.json": json.dumps({**interface, "kind": "x"}).encode(), "model.plan": b"2"},
        ("engine", "value"): {"interface.json": json.dumps({"labels": ["b", "a"], "kind": "x"}).encode()},
        ("onnx", "fresh"): {"model.onnx": b"1"},
        ("timing", "times"): {"timing.json": b"2"},
    })  # fmt: skip
    result = GOLDEN["compare"](before, after)
    named = (("onnx", "bytes"), ("engine", "value"), ("onnx", "gone"), ("onnx", "fresh"))
    keys = {label: key_of({"stage": kind, "label": label, "inputs": []}) for kind, label in named}
    assert result["equal"] == {"onnx": 1, "engine": 1}
    assert result["added"] == {"interface.json: kind": 1}
    assert sorted(result["differ"]) == sorted(
        [f"onnx/{keys['bytes']}/model.onnx", f"engine/{keys['value']}/interface.json"]
    )
    assert result["missing"] == [f"onnx/{keys['gone']}"]
    assert result["new"] == [f"onnx/{keys['fresh']}"]
    assert "differs: onnx/" in GOLDEN["summary"](result)
