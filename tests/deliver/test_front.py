from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.deliver.test_report import report, row, three, timing
from toolchain.deliver.report import front, write
from toolchain.deliver.report.figures import figures

SVG = "{http://www.w3.org/2000/svg}"


def engine(name: str, accuracy: float, size: float, speed: float | None, **more: Any) -> dict[str, Any]:
    plain = {"rank": 1, "model": "bert", "seed": 17, "baseline": False, "error": "", "gate_parity": "passed"}
    return {**plain, "name": name, "accuracy_percent": accuracy, "size_mb": size, "speedup_batch_32": speed, **more}


def test_the_front_is_what_no_other_engine_of_the_model_beats_in_all_three() -> None:
    rows = [
        engine("base", 90, 100, 1, baseline=True, rank=None),
        engine("small", 88, 10, 4),
        engine("worse", 87, 10, 4),  # as small and fast as small, and less accurate
        engine("fast", 80, 20, 9),
        engine("twin", 88, 10, 4),  # neither of two equals beats the other
        engine("other", 70, 200, 0.5, model="roberta"),
        engine("lucky", 99, 9, 10, seed=42),
        engine("loose", 99, 9, 10, gate_invariance="failed"),
        engine("slow", 60, 300, 0.9, gate_never_slower="failed"),
        engine("broken", 95, 1, 20, error="crashed"),
        engine("not timed", 95, 1, None),
    ]
    points = {point.name: point for point in front.found(rows, "batch 32")}
    assert set(points) == {"base", "small", "worse", "fast", "twin", "other", "lucky", "loose", "slow"}
    # Another seed's and one that must not be shipped beat nobody.
    assert {name for name, point in points.items() if point.beaten} == {"worse", "slow"}
    assert {name for name, point in points.items() if not point.sound} == {"loose"}
    assert points["base"].label == "b"
    assert points["fast"].values == (20, 9)


def test_an_engine_that_failed_a_gate_is_hollow_and_names_are_escaped() -> None:
    rows = [engine("a<b>&c", 90, 100, 1), engine("loose", 80, 10, 2, gate_invariance="failed")]
    drawn = front.draw("x < y", rows, "batch 32")
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    marks = [mark for mark in root.iter(f"{SVG}circle")]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "1  a<b>&c" in texts
    assert "x < y" in texts
    assert [mark.get("fill") == "white" for mark in marks[:4]] == [
        False,
        True,
        False,
        True,
    ]  # two charts of two engines


def test_marks_stand_where_the_figures_say_and_inside_their_charts() -> None:
    rows = [engine("one", 90, 100, 1), engine("two", 80, 10, 10), engine("three", 85, math.sqrt(1000), 2)]
    drawn = front.draw("x", rows, "batch 32")
    assert drawn is not None
    marks = [
        (float(m.get("cx", "nan")), float(m.get("cy", "nan")))
        for m in ElementTree.fromstring(drawn).iter(f"{SVG}circle")
    ]
    sizes, speeds = marks[:3], marks[3:6]
    assert sizes[1][0] < sizes[2][0] < sizes[0][0]
    assert sizes[2][0] == pytest.approx((sizes[0][0] + sizes[1][0]) / 2, abs=0.2)  # the scale is logarithmic
    assert speeds[0][0] < speeds[2][0] < speeds[1][0]
    assert sizes[0][1] < sizes[2][1] < sizes[1][1]  # the more accurate, the higher
    edges = front.LEFT, front.LEFT + 2 * front.WIDTH + front.GAP
    assert all(edges[0] <= x <= edges[1] for x, _ in sizes + speeds)
    assert all(front.HEAD + front.TOP <= y <= front.HEAD + front.TOP + front.HEIGHT for _, y in sizes + speeds)


def test_what_is_far_below_stands_at_the_lower_edge_with_its_accuracy() -> None:
    rows = [engine("one", 90, 100, 1), engine("chance", 50.25, 10, 10, rank=2)]
    drawn = front.draw("x", rows, "batch 32")
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    heights = [float(mark.get("cy", "nan")) for mark in root.iter(f"{SVG}circle")]
    assert heights[1] == front.HEAD + front.TOP + front.HEIGHT
    assert "2: 50.2" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_report_brings_its_front_and_one_without_times_brings_none(tmp_path: Path) -> None:
    found = report(three(tmp_path))
    write(found, tmp_path / "out")
    rows = [figures(line, found.batches) for line in found.lines]
    marks = list(ElementTree.parse(tmp_path / "out/front.svg").iter(f"{SVG}circle"))
    assert len(marks) == 2 * 2 + 3  # two engines beside the baseline in two charts, and the legend's
    assert len(front.found(rows, "batch 1")) == 3
    write(report([]), tmp_path / "empty")
    assert not (tmp_path / "empty/front.svg").exists()
    alone = row(tmp_path, "alone", range(4), 10, timing([1, 1, 1], [10, 10, 10]))
    write(report([alone]), tmp_path / "alone-out")  # nothing to be faster than
    assert not (tmp_path / "alone-out/front.svg").exists()
