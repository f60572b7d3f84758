from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders import SENTENCES
from tests.command import ROOT
from toolchain.model import scratch

STEPS: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/steps.py"))


def test_both_precisions_take_the_same_steps_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [(text,) for text in SENTENCES]
    scratch.create("scratch:bert-1x32", texts, 17, tmp_path / "encoder")
    for name in ("train", "dev"):
        rows = [f"{name} {text[0]}\t{index % 2}\n" for index, text in enumerate(texts)]
        (tmp_path / f"{name}.tsv").write_text("".join(rows), "utf-8")
    out = tmp_path / "steps.json"
    given = ["--model", str(tmp_path / "encoder"), "--data", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["steps.py", *given, "--batch", "2", "--steps", "3", "--rounds", "2"])
    STEPS["main"]()
    found = json.loads(out.read_text("utf-8"))
    assert found["settings"]["steps"] == 6
    assert list(found["lines"]) == ["fp32", "bf16", "fp32 / bf16"]
    for line in found["lines"].values():
        assert 0 < line["low"] <= line["median"] <= line["high"]
    assert f"fp32         median {found['lines']['fp32']['median']:.3f}" in capsys.readouterr().out
