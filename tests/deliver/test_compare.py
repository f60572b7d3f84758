from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.deliver.pages import read
from tests.deliver.test_report import report, three
from toolchain.core.errors import StoreError
from toolchain.deliver.report import compare, to_json
from toolchain.deliver.report.compare_text import markdown
from toolchain.deliver.report.kept import labels
from toolchain.deliver.report.kept import read as read_report
from toolchain.deliver.report.page import comparison, write_comparison

HERE = {"cpu": "a CPU", "physical_cores": 2, "host": "here"}


@pytest.fixture
def first(tmp_path: Path) -> dict[str, Any]:
    return to_json(report(three(tmp_path / "first"), name="first", machine=HERE, settings={"threads": 2}))


def another(found: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """The same report under another name; everything takes twice as long, on the machine that is given."""
    changed = {**copy.deepcopy(found), "name": name, **more}
    for line in changed["lines"]:
        line["latency_engine_p50_ms"] *= 2
        line["per_s_sorted_engine_batch_32"] /= 2
    return changed


def ratios(text: str) -> set[str]:
    return {cell for line in text.splitlines() for cell in line.split(" | ") if "[" in cell}


def test_times_stand_in_a_table_for_each_machine_and_ratios_stay_each_runs_own(first: dict[str, Any]) -> None:
    second = another(first, "second", machine={**HERE, "host": "there"})
    found = compare([first, second], ["first", "second"])
    assert [group["runs"] for group in found["machines"]] == [["first"], ["second"]]
    text = markdown(found)
    assert text.count("## Times: ") == 2
    tables = text.split("## Times: ")[1:]
    assert "| second |" not in tables[0]
    assert "| first |" not in tables[1].partition("##")[0]
    own = {line["speedup_batch_1"] for line in first["lines"]}
    assert {line["speedup_batch_1"] for line in found["lines"]} == own  # 1, 2 and about 1, and nothing twice that
    assert any("2 machines" in rule and "none of one is divided" in rule for rule in found["rules"])


def test_runs_of_one_machine_stand_side_by_side_and_other_threads_are_another(first: dict[str, Any]) -> None:
    second, third = another(first, "second"), another(first, "third", settings={"threads": 1})
    found = compare([first, second, third], ["first", "second", "third"])
    assert [group["runs"] for group in found["machines"]] == [["first", "second"], ["third"]]
    assert any("different rounds" in rule for rule in found["rules"])


def test_a_machine_that_is_not_recorded_is_shared_with_nobody(first: dict[str, Any]) -> None:
    found = compare([{**first, "machine": {}}, {**first, "machine": {}}], ["a", "b"])
    assert [group["runs"] for group in found["machines"]] == [["a"], ["b"]]


def test_accuracies_are_compared_on_one_test_set_alone(first: dict[str, Any]) -> None:
    other = another(first, "other", test_set="0123456789abcdef")
    found = compare([first, other, another(first, "again")], ["first", "other", "again"])
    assert [group["runs"] for group in found["test_sets"]] == [["first", "again"], ["other"]]
    assert any("2 test sets" in rule for rule in found["rules"])
    old = {**first, "test_set": None}
    found = compare([old, {**old, "name": "older"}], ["old", "older"])
    assert [group["runs"] for group in found["test_sets"]] == [["old", "older"]]
    assert any(rule.startswith("old, older: written before") for rule in found["rules"])


def test_the_front_is_over_all_runs_of_a_test_set(first: dict[str, Any]) -> None:
    better = another(first, "better")
    for line in better["lines"]:
        line["size_mb"] /= 2
    found = compare([first, better], ["first", "better"])
    # Of base (90 %, 100 MB), int8 (88 %, 25 MB) and zeros (89 %, 100 MB), the halved base and int8.
    assert found["test_sets"][0]["front"] == [
        {"run": "better", "name": "int8/ort"},
        {"run": "better", "name": "base/ort"},
    ]


def test_engines_of_one_name_are_set_side_by_side(first: dict[str, Any]) -> None:
    second = another(first, "second", machine={"cpu": "another"})
    second["lines"][0]["engine_key"] = "other"
    found = compare([first, second], ["first", "second"])
    assert [(each["name"], each["one_engine"]) for each in found["same"]] == [
        ("int8/ort #17", False),
        ("zeros/ort #17", True),
    ]
    assert compare([first], ["first"])["same"] == []


def test_the_page_and_the_text_say_what_the_data_say(first: dict[str, Any], tmp_path: Path) -> None:
    second = another(first, "second", machine={**HERE, "host": "there"})
    found = compare([first, second], ["first", "second"])
    write_comparison(found, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text("utf-8")) == found
    assert (tmp_path / "comparison.md").read_text("utf-8") == markdown(found)
    page = read((tmp_path / "comparison.html").read_text("utf-8"))
    assert page.text == read(comparison.html(found)).text
    rows = [row for table in page.all("table") for row in table.all("tr") if "data-line" in row.attributes]
    assert len(rows) == 2 * len(found["lines"])  # accuracy and size, and times
    cells = 0
    for row in rows:
        line = found["lines"][int(row.attributes["data-line"])]
        for cell in row.all("td"):
            name, kept = cell.attributes.get("data-name", ""), cell.attributes.get("data-value", "")
            if isinstance(line.get(name), float):
                assert float(kept) == line[name]
                cells += 1
    assert cells == len(found["lines"]) * (3 + 4)
    for picture in page.all("svg"):
        for mark in picture.all("g", kind="mark"):
            line = found["lines"][int(mark.attributes["data-line"])]
            assert (float(mark.attributes["data-x"]), float(mark.attributes["data-y"])) == (
                line["size_mb"],
                line["accuracy_percent"],
            )


def test_an_older_report_without_verdicts_is_compared_with_a_newer_one(first: dict[str, Any], tmp_path: Path) -> None:
    older = another(first, "older")
    for line in older["lines"]:
        del line["gates"]
    compared = compare([first, older], ["first", "older"])
    assert [line["gates"] for line in compared["lines"] if line["run"] == "older"] == [[]] * len(older["lines"])
    assert "older" in markdown(compared)
    write_comparison(compared, tmp_path)


def test_reports_are_named_by_their_own_name_or_by_where_they_lie() -> None:
    paths = [Path("a/one"), Path("b/one"), Path("c")]
    assert labels([{"name": "one"}, {"name": "one"}, {"name": "two"}], paths) == ["a/one", "b/one", "two"]
    with pytest.raises(StoreError, match="named twice"):
        compare([], ["a", "a"])


def test_what_is_no_report_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.json cannot be read"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"name": "x", "lines": [{"name": "y"}]}', "utf-8")
    with pytest.raises(StoreError, match=r"split: Field required \(and 14 more\)"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]", "utf-8")
    with pytest.raises(StoreError, match="report"):
        read_report(tmp_path)
