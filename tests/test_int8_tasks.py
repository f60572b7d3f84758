from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT

TASKS: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/int8_tasks.py"))
PAIRS: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks/pair_tasks.py"))


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_scores_become_two_classes_and_those_between_are_left_out(tmp_path: Path) -> None:
    lines = ["genre,score,sentence1,sentence2", "g,4.0,a,b", "g,3.9,c,d", 'g,2.0,"e, f",g', "g,2.1,h,i"]
    for part in ("train", "dev", "test"):
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    PAIRS["write"]("stsb", tmp_path, tmp_path / "out")
    expected = [["first", "second", "label"], ["a", "b", "same"], ["e, f", "g", "different"]]
    assert rows(tmp_path / "out/dev.csv") == expected


def test_questions_are_paired_with_their_paragraph(tmp_path: Path) -> None:
    questions = [{"question": f"q{index} ", "is_impossible": bool(index)} for index in range(2)]
    articles = {"data": [{"paragraphs": [{"context": "some text", "qas": questions}]}]}
    for part in ("train", "dev", "test"):
        (tmp_path / f"{part}.json").write_text(json.dumps(articles), "utf-8")
    PAIRS["write"]("squad2", tmp_path, tmp_path / "out")
    pairs = [["q0", "some text", "answerable"], ["q1", "some text", "unanswerable"]]
    assert sorted(rows(tmp_path / "out/test.csv")[1:]) == pairs


def test_every_variant_is_compared_with_the_float_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [f"reviews.{part}_size={size}" for part, size in (("train", 32), ("dev", 16), ("test", 16))]
    given = [item for value in sizes for item in ("--set", value)]
    given += ["--work", str(tmp_path), "--out", str(tmp_path / "out"), "--model", "scratch:bert-1x32"]
    given += ["--variant", "static-int8", "--variant", "dynamic-int8", "--data", f"unused={tmp_path}"]
    assert TASKS["main"](given) == 0
    cells = json.loads((tmp_path / "out/int8-tasks.json").read_text("utf-8"))["cells"]
    assert [cell["variant"] for cell in cells] == ["base", "static-int8", "dynamic-int8"]
    base, static, dynamic = cells
    assert (base["dev"], base["test"], base["error"], base["change"]) == (0, 0, 0, [0, 0, 0])
    assert 0 < static["error"] < 1
    assert static["batch"] is None
    assert dynamic["batch"] is not None
    table = (tmp_path / "out/int8-tasks.md").read_text("utf-8")
    assert table.startswith("| variant | reviews: differ, of 32 | points | MB |\n")
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(("points", "missed"), [(-0.5, []), (-0.6, ["stsb"])])
def test_the_default_must_not_be_below_the_interval_of_nncf(points: float, missed: list[str]) -> None:
    def cell(variant: str, change: tuple[float, float, float]) -> Any:
        return TASKS["Cell"]("stsb", variant, 1, 10, 2, 20, 80.0, change, 0.1, None, 23.0)

    cells = [cell("static-int8", (points, -1, 1)), cell("nncf-static", (0.1, -0.5, 0.7))]
    assert TASKS["misses"](cells) == missed
