from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deliver.pages import read
from tests.deliver.test_report import EXAMPLES, report, three
from toolchain.deliver.report import Row, markdown, to_json
from toolchain.deliver.report.page.document import html

#: Tokens of the examples: 4 to 23, ten of each.
TOKENS = [4 + place // 10 for place in range(EXAMPLES)]


def with_lengths(rows: list[Row], tokens: list[int] = TOKENS) -> list[Row]:
    """Rows whose evaluations keep tokens, and whose calls took a millisecond for each token, or half of that."""
    for found, factor in zip(rows, (1.0, 0.5, 1.0), strict=True):
        file = found.evaluation / "evaluation.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "tokens": {"test": tokens}}), "utf-8")
        known = sorted(set(tokens))
        timed: dict[str, Any] = found.timing["settings"]["latency"]["engine"]  # type: ignore[index]
        timed["lengths"] = {
            "tokens": known, "calls": [1 + length % 2 for length in known], "median_ms": [factor * n for n in known],
        }  # fmt: skip
    return rows


def test_groups_hold_the_same_examples_for_every_engine(tmp_path: Path) -> None:
    found = to_json(report(with_lengths(three(tmp_path))))
    lengths = found["lengths"]
    assert lengths["of"] == "base/ort"
    assert lengths["groups"] == [{"low": low, "high": low + 3, "examples": 40} for low in (4, 8, 12, 16, 20)]
    named = dict(zip((line["name"] for line in found["lines"]), lengths["engines"], strict=True))
    # The first 20 examples, which are the shortest, are the baseline's wrong ones; 22 and 24 are the others'.
    assert [cell["accuracy_percent"] for cell in named["base/ort"]] == [50, 100, 100, 100, 100]
    assert [cell["accuracy_percent"] for cell in named["int8/ort"]] == [40, 100, 100, 100, 100]
    assert all(
        c["accuracy_percent_low"] <= c["accuracy_percent"] <= c["accuracy_percent_high"] for c in named["int8/ort"]
    )
    # 4 and 6 tokens were timed once, 5 and 7 twice.
    assert named["base/ort"][0]["latency_ms"] == pytest.approx((4 + 2 * 5 + 6 + 2 * 7) / 6)
    assert named["int8/ort"][0]["latency_ms"] == pytest.approx((4 + 2 * 5 + 6 + 2 * 7) / 12)


def test_a_length_that_many_texts_have_makes_fewer_groups(tmp_path: Path) -> None:
    found = to_json(report(with_lengths(three(tmp_path), [7] * 150 + [9] * 50)))["lengths"]
    assert found["groups"] == [{"low": 7, "high": 7, "examples": 150}, {"low": 9, "high": 9, "examples": 50}]


def test_page_and_text_show_what_the_json_has(tmp_path: Path) -> None:
    made = report(with_lengths(three(tmp_path)))
    found = to_json(made)
    page = read(html(found))
    for figure in ("accuracy_percent", "latency_ms"):
        pictures = page.all("svg", data_picture=f"lengths-{figure.replace('_', '-')}")
        assert len(pictures) == 2
        for picture in pictures:
            marks = {int(mark.attributes["data-line"]): mark for mark in picture.all("g", kind="mark")}
            assert sorted(marks) == [0, 1, 2]
            for index, mark in marks.items():
                values = [float(value) for value in mark.attributes["data-values"].split()]
                assert values == [cell[figure] for cell in found["lengths"]["engines"][index]]
                assert len(mark.all("circle")) == 5
    text = markdown(made)
    assert "## By length of the text" in text
    assert "| int8/ort | 40.00 | 100.00 |" in text


def test_evaluations_without_lengths_have_no_groups(tmp_path: Path) -> None:
    made = report(three(tmp_path))
    assert to_json(made)["lengths"] is None
    assert "By length" not in markdown(made)
    assert not read(html(to_json(made))).all("section", id="lengths")
