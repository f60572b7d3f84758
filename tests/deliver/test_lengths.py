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
    # Of 4 tokens as those of 4 to 6, of 7 as those of 5 to 9: a call for each even length, two for each odd one.
    assert named["base/ort"][0]["latency_ms"] == pytest.approx((5 + 5.5 + 6 + 7) / 4)
    assert named["int8/ort"][0]["latency_ms"] == pytest.approx((5 + 5.5 + 6 + 7) / 8)


def test_an_engine_that_cuts_texts_into_more_tokens_is_judged_on_the_same_texts(tmp_path: Path) -> None:
    rows = with_lengths(three(tmp_path))
    file = rows[1].evaluation / "evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "tokens": {"test": [2 * n for n in TOKENS]}}))
    timed: dict[str, Any] = rows[1].timing["settings"]["latency"]["engine"]["lengths"]  # type: ignore[index]
    timed["tokens"] = [2 * length for length in timed["tokens"]]
    found = to_json(report(rows))
    named = dict(zip((line["name"] for line in found["lines"]), found["lengths"]["engines"], strict=True))
    for mine, base in zip(named["int8/ort"], named["base/ort"], strict=True):
        assert mine["latency_ms"] == pytest.approx(base["latency_ms"] / 2, rel=0.06)  # it took half of the time


def test_one_stall_is_no_length_s_time(tmp_path: Path) -> None:
    rows = with_lengths(three(tmp_path))
    timed: dict[str, Any] = rows[2].timing["settings"]["latency"]["engine"]["lengths"]  # type: ignore[index]
    timed["median_ms"] = [500.0 if length == 13 else 1.0 for length in timed["tokens"]]
    found = to_json(report(rows))
    named = dict(zip((line["name"] for line in found["lines"]), found["lengths"]["engines"], strict=True))
    assert [cell["latency_ms"] for cell in named["base/ort"]] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("tokens", "groups"),
    [
        ([7] * 150 + [9] * 50, [(7, 7, 150), (9, 9, 50)]),
        ([7] * 199 + [90], None),
        ([128] * 170 + list(range(5, 35)), None),
        ([5] * 90 + [6] * 20 + [7] * 90, [(5, 5, 90), (6, 7, 110)]),
        ([7] * 200, None),
    ],
)
def test_no_group_is_too_small_and_one_group_is_none(tmp_path: Path, tokens: list[int], groups: Any) -> None:
    found = to_json(report(with_lengths(three(tmp_path), tokens)))["lengths"]
    assert (found and [tuple(group.values()) for group in found["groups"]]) == groups


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


def test_evaluations_of_which_one_keeps_no_lengths_have_no_groups(tmp_path: Path) -> None:
    rows = with_lengths(three(tmp_path / "some"))
    file = rows[1].evaluation / "evaluation.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "tokens": {"test": TOKENS[:-1]}}), "utf-8")
    assert to_json(report(rows))["lengths"] is None


def test_evaluations_without_lengths_have_no_groups(tmp_path: Path) -> None:
    made = report(three(tmp_path))
    assert to_json(made)["lengths"] is None
    assert "By length" not in markdown(made)
    assert not read(html(to_json(made))).all("section", id="lengths")
