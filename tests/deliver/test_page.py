from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.command import ROOT
from tests.deliver.pages import Element, read
from tests.deliver.test_report import report, row, three
from toolchain.core import registry
from toolchain.core.errors import MissingPackageError
from toolchain.deliver.report import to_json, write
from toolchain.deliver.report.page import html, pictures, raster
from toolchain.deliver.report.page.lines import METHODS, method
from toolchain.deliver.report.page.style import COLOURS
from toolchain.deliver.report.page.svg import LETTER

#: Reports of 6, 10 and 22 engines: of an older version, of one model, and of two.
PUBLISHED = ("quickstart", "extreme", "smaller-families")


@cache
def published(name: str) -> tuple[dict[str, Any], str, Element]:
    found = json.loads((ROOT / "artifacts/published" / name / "report.json").read_text("utf-8"))
    text = html(found)
    return found, text, read(text)


def rounds_to(shown: str, value: Any) -> bool:
    """Whether a text is a number rounded to the digits that it shows."""
    decimals = len(shown.partition(".")[2])
    return bool(abs(float(shown.replace(",", "")) - value) <= 0.5 * 10**-decimals + 1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_cell_of_the_ranked_table_is_the_reports(name: str) -> None:
    found, _, page = published(name)
    (table,) = page.all("table", id="ranking")
    rows = table.all("tbody")[0].all("tr")
    assert [row.attributes["data-line"] for row in rows] == [str(index) for index in range(len(found["lines"]))]
    numbers = 0
    for each, line in zip(rows, found["lines"], strict=True):
        assert each.all(data_name="name")[0].text == line["name"]
        assert [tag.text for tag in each.all("span", kind="tag")] == line["marks"]
        for cell in each.all("td"):
            figure, kept = cell.attributes["data-name"], cell.attributes["data-value"]
            if figure in ("marks", "name"):
                continue
            if line[figure] is None:
                assert (kept, cell.own()) == ("", "-")
                continue
            if isinstance(line[figure], str):
                assert kept == line[figure]
                continue
            assert float(kept) == line[figure]
            shown = cell.own().removeprefix("≈ ")
            assert (
                shown == "< 0.001" if figure == "mcnemar_p" and line[figure] < 0.001 else rounds_to(shown, line[figure])
            )
            numbers += 1
            for end in cell.all("small"):
                low, high = end.text.split("–" if figure == "rank" else " to ")
                assert rounds_to(low, line[f"{figure}_low"])
                assert rounds_to(high, line[f"{figure}_high"])
                if figure == "rank":  # whole numbers, by which nothing is sorted
                    continue
                assert float(cell.attributes["data-low"]) == line[f"{figure}_low"]
                assert float(cell.attributes["data-high"]) == line[f"{figure}_high"]
    assert numbers >= 10 * len(rows)
    heads = [head.text for head in table.all("thead")[0].all("th")]
    assert len(heads) == len(rows[0].all("td")) + len(rows[0].all("th"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_figures_of_all_engines_are_in_the_page(name: str) -> None:
    found, _, page = published(name)
    rows = page.all("table", id="figures")[0].all("tr")[1:]
    for each in rows:
        figure = each.attributes["data-figure"]
        kept = [cell.attributes.get("data-value", cell.text) for cell in each.all("td")]
        assert kept == ["–" if line[figure] is None else str(line[figure]) for line in found["lines"]]
    plain = {key for key, value in found["lines"][0].items() if not isinstance(value, (list, dict))} - {"name"}
    assert {each.attributes["data-figure"] for each in rows} == plain


def drawn(page: Element, name: str) -> list[Element]:
    both = page.all("svg", data_picture=name)
    assert [picture.attributes["class"] for picture in both] == ["picture wide", "picture narrow"]
    return both


def marks(picture: Element) -> dict[int, Element]:
    return {int(mark.attributes["data-line"]): mark for mark in picture.all("g", kind="mark")}


def on_one_scale(values: Sequence[float], places: Sequence[float], *, logarithmic: bool) -> bool:
    """Whether places lie on a line over values, or over their logarithms."""
    at = [math.log(value) if logarithmic else value for value in values]
    first, last = min(range(len(at)), key=at.__getitem__), max(range(len(at)), key=at.__getitem__)
    slope = (places[last] - places[first]) / (at[last] - at[first])
    return all(abs(places[first] + slope * (x - at[first]) - y) < 0.2 for x, y in zip(at, places, strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_bars_of_accuracy_are_the_reports_and_drawn_to_scale(name: str) -> None:
    found, _, page = published(name)
    lines = found["lines"]
    for picture in drawn(page, "accuracy"):
        groups = marks(picture)
        assert sorted(groups) == list(range(len(lines)))
        bars: dict[int, float] = {}
        for index, mark in groups.items():
            ends = [float(mark.attributes[f"data-{end}"]) for end in ("accuracy", "low", "high")]
            assert ends == [lines[index][f"accuracy_percent{end}"] for end in ("", "_low", "_high")]
            told = mark.all("text", kind="value")[0].text.split(" ±")
            assert rounds_to(told[0], ends[0])
            assert rounds_to(told[1], (ends[2] - ends[1]) / 2)
            assert lines[index]["name"] in mark.all("title")[0].text
            for bar in mark.all("rect", kind="bar"):
                bars[index] = float(bar.attributes["width"])
        assert len(bars) >= len(lines) - 1  # an engine at chance is told below the scale
        accuracies = [lines[index]["accuracy_percent"] for index in bars]
        assert on_one_scale(accuracies, list(bars.values()), logarithmic=False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_marks_of_the_scatters_are_the_reports_and_drawn_to_scale(name: str) -> None:
    found, _, page = published(name)
    lines = found["lines"]
    figures = ("size_mb", "latency_engine_p50_ms", "per_s_sorted_engine_batch_32")
    for figure in figures:
        for picture in drawn(page, f"scatter-{figure.replace('_', '-')}"):
            groups = marks(picture)
            assert sorted(groups) == list(range(len(lines)))
            for index, mark in groups.items():
                assert float(mark.attributes["data-x"]) == lines[index][figure]
                assert float(mark.attributes["data-y"]) == lines[index]["accuracy_percent"]
            round_ones = {index: mark.all("circle") for index, mark in groups.items() if mark.all("circle")}
            places = [float(circle[0].attributes["cx"]) for circle in round_ones.values()]
            assert on_one_scale([lines[index][figure] for index in round_ones], places, logarithmic=True)
            front = sorted(
                (lines[index] for index, mark in groups.items() if mark.attributes["data-front"] == "yes"),
                key=lambda line: line["accuracy_percent"],
            )
            sign = 1 if figure == "per_s_sorted_engine_batch_32" else -1
            assert front
            assert all(sign * one[figure] > sign * other[figure] for one, other in pairwise(front))


@pytest.mark.parametrize("name", PUBLISHED)
def test_threads_of_the_parallel_coordinates_are_the_reports_and_drawn_to_scale(name: str) -> None:
    found, _, page = published(name)
    lines = found["lines"]
    figures = ("size_mb", "accuracy_percent", "speedup_batch_1", "speedup_batch_32")
    for picture in drawn(page, "parallel"):
        groups = marks(picture)
        assert sorted(groups) == list(range(len(lines)))
        assert [axis.attributes["data-name"] for axis in picture.all("g", kind="dimension")] == list(figures)
        places: dict[int, list[float]] = {}
        for index, mark in groups.items():
            kept = [float(mark.attributes[f"data-{figure.replace('_', '-')}"]) for figure in figures]
            assert kept == [lines[index][figure] for figure in figures]
            places[index] = [float(dot.attributes["cy"]) for dot in mark.all("circle")]
        for at, figure in enumerate(figures):
            if figure != "accuracy_percent":  # where an engine at chance stands at the lower end
                heights = [places[index][at] for index in groups]
                assert on_one_scale([lines[index][figure] for index in groups], heights, logarithmic=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_quantiles_and_rounds_of_times_are_the_reports(name: str) -> None:
    found, _, page = published(name)
    for way in ("engine", "end_to_end", "batch_32"):
        for picture in drawn(page, f"times-{way}"):
            for index, mark in marks(picture).items():
                timed = found["lines"][index]["timing"]["settings"]
                if way == "batch_32":
                    rounds = timed["throughput"]["32"]["sorted"]["engine"]["rounds_per_s"]
                    quantiles = [timed["throughput"]["32"]["sorted"]["engine"]["median_per_s"]]
                else:
                    rounds = timed["latency"][way]["rounds_ms"]
                    quantiles = [timed["latency"][way][f"{p}_ms"] for p in ("p50", "p90", "p99")]
                assert [float(value) for value in mark.attributes["data-rounds"].split()] == rounds
                assert [float(value) for value in mark.attributes["data-quantiles"].split()] == quantiles
                assert len(mark.all("circle", kind="round")) == len(rounds)


@pytest.mark.parametrize("name", [*PUBLISHED, "smaller"])
def test_a_page_is_one_file_that_asks_nothing_of_a_network(name: str) -> None:
    found, text, page = published(name)
    assert len(text.encode()) < 2_000_000
    assert [url for url in re.findall(r"https?://[^\s\"'<]*", text) if url != "http://www.w3.org/2000/svg"] == []
    for element in page.below():
        for attribute in ("src", "href"):
            assert element.attributes.get(attribute, "#").startswith(("#", "data:"))
    ids = [element.attributes["id"] for element in page.below() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [link.attributes["href"][1:] for link in page.all("a")]
    assert set(targets) <= set(ids)
    assert page.all("html", lang="en")
    assert all(picture.attributes.get("aria-label") for picture in page.all("svg"))
    assert all(head.attributes.get("scope") in ("col", "row") for head in page.all("th"))
    engines = json.loads(page.all("script", id="engines")[0].text)
    assert [engine["name"] for engine in engines] == [line["name"] for line in found["lines"]]


@pytest.mark.parametrize("name", [*PUBLISHED, "smaller"])
def test_no_text_of_a_picture_leaves_it(name: str) -> None:
    for picture in published(name)[2].all("svg"):
        width = float(picture.attributes["viewbox"].split()[2])
        for text in picture.all("text"):
            x, long = float(text.attributes["x"]), LETTER * len(text.text)
            shift = {"middle": 0.5, "end": 1.0}.get(text.attributes.get("text-anchor", ""), 0.0)
            assert x - shift * long > -8, text.text
            assert x + (1 - shift) * long < width + 12, text.text


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    odd = '</script><b>"a"&\'</b>'
    found = to_json(report(three(tmp_path), notes=[odd]))
    found["lines"][0]["name"] = odd
    page = read(html(found))
    assert odd in [cell.text for cell in page.all("th", data_name="name")]
    assert json.loads(page.all("script", id="engines")[0].text)[0]["name"] == odd
    assert all(bold.text != '"a"&\'' for bold in page.all("b"))


def test_a_report_of_nothing_and_one_without_times_have_pages(tmp_path: Path) -> None:
    write(report([], failed=[("base/ort", "no data")]), tmp_path / "empty")
    assert "No engine was evaluated" in (tmp_path / "empty/report.html").read_text("utf-8")
    untimed = row(tmp_path, "alone", range(4), 10, {"error": "crashed"})
    write(report([untimed]), tmp_path / "untimed")
    page = read((tmp_path / "untimed/report.html").read_text("utf-8"))
    assert not page.all("svg", data_picture="parallel")
    assert len(page.all("svg", data_picture="accuracy")) == 2
    assert not (tmp_path / "untimed/parallel.svg").exists()
    assert "crashed" in page.text


def test_a_sensitivity_that_lies_beside_a_report_is_in_its_page(tmp_path: Path) -> None:
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="5" height="5"/>'
    (tmp_path / "sensitivity.svg").write_text(drawing, "utf-8")
    write(report(three(tmp_path)), tmp_path)
    (image,) = read((tmp_path / "report.html").read_text("utf-8")).all("img")
    assert image.attributes["alt"] == "What each layer costs when it alone is compressed"


def test_what_a_report_says_of_its_certainty_is_in_its_page(tmp_path: Path) -> None:
    found = to_json(report(three(tmp_path)))
    sure = {"rank_low": 1, "rank_high": 3, "mcnemar_p_holm": 0.25, "not_worse": "cannot say"}
    found["lines"] = [{**line, **sure} for line in found["lines"]]
    found |= {"margin": 0.5, "winner": {"name": "int8/ort", "tied": ["base/ort"], "share": 0.73, "ranges": {}}}
    found["fronts"] = [{"model": "bert", "seed": 17, "engines": ["int8/ort", "base/ort"], "hypervolume": 1.125}]
    means = {"name": "over all", "seeds": [17, 42], "baseline": False, "accuracy_percent": 88.1, "size_mb": 25.0}
    never = {"name": "never", "barred": ["misplaced (seed 17)"]}
    found["pooled"] = [{**means, "not_worse": "yes", "speedup_batch_1": 2.04}, {**means, **never}]
    page = read(html(found))
    ranking, pooled = page.all("table", id="ranking")[0], page.all("table", id="pooled")[0]
    heads = [head.text for head in ranking.all("thead")[0].all("th")]
    assert "p corrected" in heads
    assert "p" not in heads  # the corrected one stands for it
    assert [cell.all("small")[0].text for cell in ranking.all("td", data_name="rank")] == ["1–3"] * 3
    assert [cell.text for cell in ranking.all("td", data_name="not_worse")] == ["cannot say"] * 3
    assert [cell.text for cell in pooled.all("tr")[1].all("td")] == ["2", "88.10", "yes", "25.0", "2.04"]
    assert pooled.all("tr")[2].all("th")[0].text == "never do not shipmisplaced (seed 17)"
    for said in ("is tied with base/ort", "under 73 % of all weights", "at most 0.5 points worse"):
        assert said in page.text


def test_how_it_was_made_is_told(tmp_path: Path) -> None:
    made = {"command": "toolchain run a.yaml", "versions": {"onnxruntime": "1.31.1"}, "instruction_sets": ["avx2"]}
    text = read(html(to_json(report(three(tmp_path), made=made)))).text
    for said in ("toolchain run a.yaml", "onnxruntime 1.31.1", "avx2"):
        assert said in text


def test_the_figures_are_files_whose_colours_are_in_them() -> None:
    found, _, _ = published("smaller-families")
    files = pictures(found)
    assert list(files) == ["accuracy.svg", "size.svg", "parallel.svg"]
    for text in files.values():
        assert "var(" not in text
        assert len(read(text).all("g", kind="mark")) == len(found["lines"])
        assert found["name"] in text


def test_a_picture_becomes_a_png_or_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_alone = pictures(published("extreme")[0])["size.svg"]
    if raster.available():
        made = raster.png(drawn_alone)
        width = int(re.findall(r'<svg [^>]*width="(\d+)"', drawn_alone)[0])
        assert made[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(made[16:20], "big") == raster.ZOOM * width
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(MissingPackageError, match=r"toolchain\[plots\]"):
        raster.png(drawn_alone)


def test_colours_have_the_contrast_that_texts_and_marks_need() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    texts = ("ink", "quiet", "accent", "good", "bad")
    for time in (0, 1):
        for name, both in COLOURS.items():
            if name not in ("paper", "panel", "rule", "axis"):
                for paper in ("paper", "panel"):
                    least = 4.5 if name in texts else 3.0
                    assert contrast(both[time], COLOURS[paper][time]) >= least, (name, paper, time)


def test_the_method_is_what_was_done_to_the_layers() -> None:
    for techniques, expected in (
        ([], "base"),
        (["cls_only"], "other"),
        (["vocabulary_prune", "cls_only"], "pruned"),
        (["distill", "vocabulary_prune", "cls_only"], "distilled"),
        (["vocabulary_prune", "static_int8"], "quantized"),
        (["gradient_prune", "vocabulary_prune"], "pruned"),
        (["distill", "vocabulary_prune", "static_int8"], "combined"),
    ):
        line = {"baseline": False, "techniques": ["finetune", *techniques, "export"]}
        assert method(line) == expected
        assert method({**line, "baseline": True}) == "base"


def test_every_technique_has_a_method() -> None:
    techniques = [*registry.names("compress"), *registry.names("optimize")]
    methods = {name: method({"baseline": False, "techniques": [name]}) for name in techniques}
    assert len(methods) >= 20
    assert set(methods.values()) == {"pruned", "distilled", "factorized", "quantized", "other"} < set(METHODS)
    assert {name for name, found in methods.items() if found == "other"} == {"clean", "cls_only", "with_tokenizer"}
    assert method({"baseline": False, "techniques": ["of_another_version"]}) == "other"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "artifacts/published").glob("*/report.json")), ids=lambda p: p.parent.name
)
def test_published_pictures_show_the_figures_beside_them(path: Path) -> None:
    lines = json.loads(path.read_text("utf-8"))["lines"]
    for name, kept, figure in (
        ("accuracy", "data-accuracy", "accuracy_percent"),
        ("size", "data-x", "size_mb"),
        ("parallel", "data-size-mb", "size_mb"),
    ):
        groups = marks(read((path.parent / f"{name}.svg").read_text("utf-8")))
        shown = {index: float(mark.attributes[kept]) for index, mark in groups.items()}
        assert shown == {index: line[figure] for index, line in enumerate(lines)}


def test_a_card_names_the_folder_and_the_command_that_takes_its_engine(tmp_path: Path) -> None:
    made = {"command": "toolchain run recipes/r.yaml --set a=1"}
    cards = read(html(to_json(report(three(tmp_path), made=made)))).all("article", kind="card")
    assert len(cards) == 2
    for card in cards:
        (choice,) = card.all("p", kind="choice")
        variant, engine = choice.text.split("/")
        (command,) = card.all("code")
        assert command.text == (
            f"toolchain build recipes/r.yaml --set a=1 --variant {variant} --engine {engine} -o engine"
        )
        assert f"engine/bert-{variant}-17"[:19] in card.text
